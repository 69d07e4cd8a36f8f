//! The bytes of a [`DiskRecord`]: the fields below, then the name.

use super::field::{Field, Record, bounded, flags, grow, split, text, text_len};
use super::{DiskRecord, FormatError};
use crate::base::{DiskId, MapId, Seq, Timestamp};

const ID: Field<u32> = Field::FIRST;
const MAP: Field<u32> = ID.then();
const SIZE: Field<u64> = MAP.then();
const MODE: Field<u32> = SIZE.then();
const UID: Field<u32> = MODE.then();
const GID: Field<u32> = UID.then();
const CREATED: Field<i64> = GID.then();
const MODIFIED: Field<i64> = CREATED.then();
const CHANGED: Field<i64> = MODIFIED.then();
const ACCESSED: Field<i64> = CHANGED.then();
const APPLIED: Field<u64> = ACCESSED.then();
const ALLOCATED: Field<u64> = APPLIED.then();
const PRIORITY: Field<u8> = ALLOCATED.then();
const FLAGS: Field<u8> = PRIORITY.then();
const NAME_LEN: Field<u16> = FLAGS.then();
const NAME: usize = NAME_LEN.end();
const NAME_MAX: usize = 255;

const UNLINKED: u8 = 1;

impl Record for DiskRecord {
    const WHAT: &'static str = "disk record";
    const MAX: usize = NAME + NAME_MAX;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), FormatError> {
        let len = text_len(Self::WHAT, "name", self.name.len(), NAME_MAX)?;
        let record = grow(out, NAME + len);
        ID.put(record, self.id.0);
        MAP.put(record, self.map.0);
        SIZE.put(record, self.size);
        MODE.put(record, self.mode);
        UID.put(record, self.uid);
        GID.put(record, self.gid);
        CREATED.put(record, self.created.0);
        MODIFIED.put(record, self.modified.0);
        CHANGED.put(record, self.changed.0);
        ACCESSED.put(record, self.accessed.0);
        APPLIED.put(record, self.applied.0);
        ALLOCATED.put(record, self.allocated);
        PRIORITY.put(record, self.priority);
        FLAGS.put(record, if self.unlinked { UNLINKED } else { 0 });
        NAME_LEN.put(record, len as u16);
        record[NAME..].copy_from_slice(self.name.as_bytes());
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<(Self, &[u8]), FormatError> {
        let (fixed, rest) = split(Self::WHAT, bytes, NAME)?;
        let len = u64::from(NAME_LEN.get(fixed));
        let len = bounded(Self::WHAT, "name length", len, NAME_MAX as u64)?;
        let (name, rest) = split(Self::WHAT, rest, len as usize)?;
        let record = Self {
            id: DiskId(ID.get(fixed)),
            name: text(Self::WHAT, "name", name)?,
            map: MapId(MAP.get(fixed)),
            size: SIZE.get(fixed),
            mode: MODE.get(fixed),
            uid: UID.get(fixed),
            gid: GID.get(fixed),
            created: Timestamp(CREATED.get(fixed)),
            modified: Timestamp(MODIFIED.get(fixed)),
            changed: Timestamp(CHANGED.get(fixed)),
            accessed: Timestamp(ACCESSED.get(fixed)),
            applied: Seq(APPLIED.get(fixed)),
            allocated: ALLOCATED.get(fixed),
            priority: PRIORITY.get(fixed),
            unlinked: flags(Self::WHAT, FLAGS.get(fixed), UNLINKED)? & UNLINKED != 0,
        };
        Ok((record, rest))
    }
}
