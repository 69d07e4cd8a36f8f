//! The bytes of [`Marks`] and [`Space`].

use super::field::{Field, Record, grow, split};
use super::{FormatError, Marks, Space};
use crate::base::{DiskId, MapId, Seq};

const APPLIED: Field<u64> = Field::FIRST;
const JOURNAL_OFFSET: Field<u64> = APPLIED.then();
const JOURNAL_SEQ: Field<u64> = JOURNAL_OFFSET.then();
const NEXT_DISK: Field<u32> = JOURNAL_SEQ.then();
const NEXT_MAP: Field<u32> = NEXT_DISK.then();
const DURABLE: Field<u64> = NEXT_MAP.then();
const SESSION: Field<u32> = DURABLE.then();
/// 1 where the session ended in order.
const CLOSED: Field<u32> = SESSION.then();
pub(super) const MARKS_LEN: usize = CLOSED.end();

impl Record for Marks {
    const WHAT: &'static str = "marks";
    const MAX: usize = MARKS_LEN;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), FormatError> {
        let record = grow(out, MARKS_LEN);
        APPLIED.put(record, self.applied.0);
        JOURNAL_OFFSET.put(record, self.journal_offset);
        JOURNAL_SEQ.put(record, self.journal_seq.0);
        NEXT_DISK.put(record, self.next_disk.0);
        NEXT_MAP.put(record, self.next_map.0);
        DURABLE.put(record, self.durable.0);
        SESSION.put(record, self.session);
        CLOSED.put(record, self.closed.into());
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<(Self, &[u8]), FormatError> {
        let (fixed, rest) = split(Self::WHAT, bytes, MARKS_LEN)?;
        let closed = match CLOSED.get(fixed) {
            0 => false,
            1 => true,
            value => {
                return Err(FormatError::Unknown {
                    what: Self::WHAT,
                    field: "closed flag",
                    value: value.into(),
                });
            }
        };
        let marks = Self {
            applied: Seq(APPLIED.get(fixed)),
            journal_offset: JOURNAL_OFFSET.get(fixed),
            journal_seq: Seq(JOURNAL_SEQ.get(fixed)),
            next_disk: DiskId(NEXT_DISK.get(fixed)),
            next_map: MapId(NEXT_MAP.get(fixed)),
            durable: Seq(DURABLE.get(fixed)),
            session: SESSION.get(fixed),
            closed,
        };
        Ok((marks, rest))
    }
}

const TOTAL: Field<u64> = Field::FIRST;
const FREE: Field<u64> = TOTAL.then();
const PENDING: Field<u64> = FREE.then();
pub(super) const SPACE_LEN: usize = PENDING.end();

impl Record for Space {
    const WHAT: &'static str = "space counters";
    const MAX: usize = SPACE_LEN;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), FormatError> {
        let record = grow(out, SPACE_LEN);
        TOTAL.put(record, self.total);
        FREE.put(record, self.free);
        PENDING.put(record, self.pending);
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<(Self, &[u8]), FormatError> {
        let (fixed, rest) = split(Self::WHAT, bytes, SPACE_LEN)?;
        let space = Self {
            total: TOTAL.get(fixed),
            free: FREE.get(fixed),
            pending: PENDING.get(fixed),
        };
        Ok((space, rest))
    }
}
