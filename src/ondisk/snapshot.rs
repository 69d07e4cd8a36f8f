//! The bytes of a [`SnapshotRecord`]: the fields below, then the disk's name and its own.

use super::field::{Field, MAX_48, Record, bounded, flags, grow, split, text, text_len};
use super::{FormatError, SnapshotRecord};
use crate::base::{Epoch, MapId, Timestamp};

const MAP: Field<u32> = Field::FIRST;
const EPOCH: Field<u64> = MAP.then();
const SIZE: Field<u64> = EPOCH.then();
const MODE: Field<u32> = SIZE.then();
const UID: Field<u32> = MODE.then();
const GID: Field<u32> = UID.then();
const CREATED: Field<i64> = GID.then();
const ALLOCATED: Field<u64> = CREATED.then();
const FLAGS: Field<u8> = ALLOCATED.then();
const DISK_NAME_LEN: Field<u8> = FLAGS.then();
const NAME_LEN: Field<u8> = DISK_NAME_LEN.then();
const NAMES: usize = NAME_LEN.end();
/// Both names together.
const NAMES_MAX: usize = 255;

const HIDDEN: u8 = 1;

impl Record for SnapshotRecord {
    const WHAT: &'static str = "snapshot record";
    const MAX: usize = NAMES + NAMES_MAX;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), FormatError> {
        let both = self.disk_name.len() + self.name.len();
        text_len(Self::WHAT, "disk name and name", both, NAMES_MAX)?;
        bounded(Self::WHAT, "epoch", self.epoch.0, MAX_48)?;
        let record = grow(out, NAMES + both);
        MAP.put(record, self.map.0);
        EPOCH.put(record, self.epoch.0);
        SIZE.put(record, self.size);
        MODE.put(record, self.mode);
        UID.put(record, self.uid);
        GID.put(record, self.gid);
        CREATED.put(record, self.created.0);
        ALLOCATED.put(record, self.allocated);
        FLAGS.put(record, if self.hidden { HIDDEN } else { 0 });
        DISK_NAME_LEN.put(record, self.disk_name.len() as u8);
        NAME_LEN.put(record, self.name.len() as u8);
        let (disk_name, name) = record[NAMES..].split_at_mut(self.disk_name.len());
        disk_name.copy_from_slice(self.disk_name.as_bytes());
        name.copy_from_slice(self.name.as_bytes());
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<(Self, &[u8]), FormatError> {
        let (fixed, rest) = split(Self::WHAT, bytes, NAMES)?;
        let disk_len = usize::from(DISK_NAME_LEN.get(fixed));
        let len = usize::from(NAME_LEN.get(fixed));
        text_len(Self::WHAT, "disk name and name", disk_len + len, NAMES_MAX)?;
        let (disk_name, rest) = split(Self::WHAT, rest, disk_len)?;
        let (name, rest) = split(Self::WHAT, rest, len)?;
        let record = Self {
            map: MapId(MAP.get(fixed)),
            epoch: Epoch(bounded(Self::WHAT, "epoch", EPOCH.get(fixed), MAX_48)?),
            disk_name: text(Self::WHAT, "disk name", disk_name)?,
            name: text(Self::WHAT, "name", name)?,
            size: SIZE.get(fixed),
            mode: MODE.get(fixed),
            uid: UID.get(fixed),
            gid: GID.get(fixed),
            created: Timestamp(CREATED.get(fixed)),
            allocated: ALLOCATED.get(fixed),
            hidden: flags(Self::WHAT, FLAGS.get(fixed), HIDDEN)? & HIDDEN != 0,
        };
        Ok((record, rest))
    }
}
