//! The bytes of a [`MapRecord`]. The origin's fields are zero where there is none.

use super::field::{Field, MAX_48, Record, bounded, flags, grow, split};
use super::{FormatError, MapRecord, Origin};
use crate::base::{Block, Epoch, MapId};

const ID: Field<u32> = Field::FIRST;
const FLAGS: Field<u8> = ID.then();
const EPOCH: Field<u64> = FLAGS.then();
const ORIGIN_MAP: Field<u32> = EPOCH.then();
const ORIGIN_EPOCH: Field<u64> = ORIGIN_MAP.then();
const ORIGIN_LIMIT: Field<u64> = ORIGIN_EPOCH.then();
const LEN: usize = ORIGIN_LIMIT.end();

const LIVE: u8 = 1;
const REAP: u8 = 2;
const HAS_ORIGIN: u8 = 4;

impl Record for MapRecord {
    const WHAT: &'static str = "map record";
    const MAX: usize = LEN;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), FormatError> {
        bounded(Self::WHAT, "epoch", self.epoch.0, MAX_48)?;
        let record = grow(out, LEN);
        ID.put(record, self.id.0);
        EPOCH.put(record, self.epoch.0);
        let mut flags = if self.live { LIVE } else { 0 } | if self.reap { REAP } else { 0 };
        if let Some(origin) = self.origin {
            bounded(Self::WHAT, "origin epoch", origin.epoch.0, MAX_48)?;
            flags |= HAS_ORIGIN;
            ORIGIN_MAP.put(record, origin.map.0);
            ORIGIN_EPOCH.put(record, origin.epoch.0);
            ORIGIN_LIMIT.put(record, origin.limit.0);
        }
        FLAGS.put(record, flags);
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<(Self, &[u8]), FormatError> {
        let (fixed, rest) = split(Self::WHAT, bytes, LEN)?;
        let flags = flags(Self::WHAT, FLAGS.get(fixed), LIVE | REAP | HAS_ORIGIN)?;
        let origin_epoch = ORIGIN_EPOCH.get(fixed);
        let origin = Origin {
            map: MapId(ORIGIN_MAP.get(fixed)),
            epoch: Epoch(bounded(Self::WHAT, "origin epoch", origin_epoch, MAX_48)?),
            limit: Block(ORIGIN_LIMIT.get(fixed)),
        };
        let record = Self {
            id: MapId(ID.get(fixed)),
            epoch: Epoch(bounded(Self::WHAT, "epoch", EPOCH.get(fixed), MAX_48)?),
            origin: (flags & HAS_ORIGIN != 0).then_some(origin),
            live: flags & LIVE != 0,
            reap: flags & REAP != 0,
        };
        Ok((record, rest))
    }
}
