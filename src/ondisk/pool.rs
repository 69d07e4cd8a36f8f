//! The bytes of a [`DeviceRecord`], and of what the catalog keeps with it: [`DeviceEntry`].

use super::field::{Field, MAX_48, Record, bounded, grow, split, text, text_len};
use super::{DeviceRecord, FormatError};
use crate::base::DeviceNo;

const DEVICE: Field<u16> = Field::FIRST;
const UUID: Field<[u8; 16]> = DEVICE.then();
const SLOTS: Field<u64> = UUID.then();
const PATH_LEN: Field<u16> = SLOTS.then();
const PATH: usize = PATH_LEN.end();
const PATH_MAX: usize = 1024;

impl Record for DeviceRecord {
    const WHAT: &'static str = "device record";
    const MAX: usize = PATH + PATH_MAX;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), FormatError> {
        let len = Self::check_path(&self.path)?;
        bounded(Self::WHAT, "slots", self.slots, MAX_48)?;
        let record = grow(out, PATH + len);
        DEVICE.put(record, self.device.0);
        UUID.put(record, self.uuid);
        SLOTS.put(record, self.slots);
        PATH_LEN.put(record, len as u16);
        record[PATH..].copy_from_slice(self.path.as_bytes());
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<(Self, &[u8]), FormatError> {
        let (fixed, rest) = split(Self::WHAT, bytes, PATH)?;
        let len = u64::from(PATH_LEN.get(fixed));
        let len = bounded(Self::WHAT, "path length", len, PATH_MAX as u64)?;
        let (path, rest) = split(Self::WHAT, rest, len as usize)?;
        let record = Self {
            device: DeviceNo(DEVICE.get(fixed)),
            uuid: UUID.get(fixed),
            path: text(Self::WHAT, "path", path)?,
            slots: bounded(Self::WHAT, "slots", SLOTS.get(fixed), MAX_48)?,
        };
        Ok((record, rest))
    }
}

impl DeviceRecord {
    /// Checks that a device of this path can have a record, before anything is made of it. Returns
    /// its length.
    ///
    /// # Errors
    /// Where it is too long.
    pub fn check_path(path: &str) -> Result<usize, FormatError> {
        text_len(Self::WHAT, "path", path.len(), PATH_MAX)
    }
}

/// A device as the catalog's tree holds it: its record after the number of its free slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceEntry {
    /// Slots on the free list; at most the record's `slots`.
    pub free: u64,
    /// The record.
    pub record: DeviceRecord,
}

const FREE: Field<u64> = Field::FIRST;

impl Record for DeviceEntry {
    const WHAT: &'static str = "device entry";
    const MAX: usize = FREE.end() + DeviceRecord::MAX;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), FormatError> {
        bounded(Self::WHAT, "free slots", self.free, self.record.slots)?;
        FREE.put(grow(out, FREE.end()), self.free);
        self.record.encode(out)
    }

    fn decode(bytes: &[u8]) -> Result<(Self, &[u8]), FormatError> {
        let (fixed, rest) = split(Self::WHAT, bytes, FREE.end())?;
        let (record, rest) = DeviceRecord::decode(rest)?;
        let free = bounded(Self::WHAT, "free slots", FREE.get(fixed), record.slots)?;
        Ok((Self { free, record }, rest))
    }
}

impl DeviceEntry {
    /// The free slots and all slots of the device that a tree's value describes, without the rest.
    ///
    /// # Errors
    /// Where the value is too short.
    pub fn counts(value: &[u8]) -> Result<(u64, u64), FormatError> {
        let (free, record) = split(Self::WHAT, value, FREE.end())?;
        let (record, _) = split(DeviceRecord::WHAT, record, PATH)?;
        Ok((FREE.get(free), SLOTS.get(record)))
    }

    /// Sets the number of free slots in a tree's value.
    pub(crate) fn set_free(value: &mut [u8], free: u64) {
        FREE.put(value, free);
    }
}
