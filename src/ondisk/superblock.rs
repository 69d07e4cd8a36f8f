//! The first block of a pool device: whose device it is, and how it is divided.

use crate::base::{BLOCK, Checksum, DeviceNo, Geometry, GeometryError, Slot, checksum};

use super::DeviceRecord;

/// Where slot 0 begins, in bytes. A multiple of every segment size, so that slots are aligned to
/// their size and a hole punch of one gives whole blocks of the host back.
pub const DATA_START: u64 = 4 << 20;

/// The newest format that this program knows, and the one that it writes.
pub const SUPERBLOCK_VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"snapmkDV";

// Little-endian; what is not named is zero. Magic and version come first and stay there in every
// format to come, so that an older program can tell a newer device from a damaged one.
//
// | bytes      | field                                     |
// |------------|-------------------------------------------|
// | 0..8       | magic                                     |
// | 8..12      | version                                   |
// | 12..16     | zero                                      |
// | 16..32     | UUID of the store                         |
// | 32..48     | UUID of the device                        |
// | 48..50     | number of the device in the store         |
// | 50..56     | zero                                      |
// | 56..64     | bytes in a segment                        |
// | 64..72     | first byte of slot 0                      |
// | 72..80     | number of slots                           |
// | 80..252    | zero                                      |
// | 252..256   | CRC-32C of all bytes before it            |
// | 256..4096  | zero                                      |
//
// All that is checked lies in one sector, which a disk writes whole or not at all: power loss
// while a device is made leaves no half of a superblock.
const AT_VERSION: usize = MAGIC.len();
const AT_STORE: usize = AT_VERSION + 8;
const AT_UUID: usize = AT_STORE + 16;
const AT_NUMBER: usize = AT_UUID + 16;
const AT_SEGMENT: usize = AT_NUMBER + 8;
const AT_START: usize = AT_SEGMENT + 8;
const AT_SLOTS: usize = AT_START + 8;
const AT_CRC: usize = 252;
const AT_END: usize = AT_CRC + 4;

const _: () = assert!(AT_SLOTS + 8 <= AT_CRC && AT_END <= 512);
const _: () = assert!(DATA_START.is_multiple_of(Geometry::MAX_SEGMENT));

/// Why a device can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SuperError {
    /// It does not begin as one of ours.
    #[error("it is not a snapmark device: its first bytes are something else's")]
    NotSnapmark,
    /// It begins as one of ours and does not check.
    #[error("its superblock is damaged: checksum {stored} is stored, {computed} was computed")]
    Damaged {
        /// What the superblock says.
        stored: Checksum,
        /// What its bytes give.
        computed: Checksum,
    },
    /// It was made by a later program.
    #[error(
        "it has format {found}, and this program knows formats up to {SUPERBLOCK_VERSION}: \
         use a newer snapmark"
    )]
    Newer {
        /// Its format.
        found: u32,
    },
    /// It checks, but holds what no program wrote.
    #[error("its superblock is not valid: {0}")]
    Geometry(#[from] GeometryError),
    /// It checks, but its slots begin elsewhere.
    #[error("its superblock is not valid: data begins at byte {0}, not at {DATA_START}")]
    Start(u64),
    /// Slots lie past the end.
    #[error(
        "it was made with {needed} bytes and now has {len}: bring it back to its size before \
         using it; nothing was changed"
    )]
    TooShort {
        /// Bytes that its slots need.
        needed: u64,
        /// Bytes that it has.
        len: u64,
    },
    /// It belongs to another store.
    #[error("it belongs to store {found}, not to this one, {expected}")]
    OtherStore {
        /// The store that it names.
        found: Uuid,
        /// This store.
        expected: Uuid,
    },
    /// It belongs to this store, at another place of its device table.
    #[error(
        "it is device {found} ({found_uuid}) of this store and was given as device {expected} \
         ({expected_uuid}): are two paths swapped?"
    )]
    OtherDevice {
        /// The number that it names.
        found: DeviceNo,
        /// The UUID that it names.
        found_uuid: Uuid,
        /// The number asked for.
        expected: DeviceNo,
        /// The UUID asked for.
        expected_uuid: Uuid,
    },
    /// Superblock and catalog divide it differently.
    #[error(
        "its superblock says {found} segments of {found_bytes} bytes, the catalog {expected} of \
         {expected_bytes}: run `snapmark check`"
    )]
    Division {
        /// Slots that the superblock names.
        found: u64,
        /// Segment size that the superblock names.
        found_bytes: u64,
        /// Slots in the catalog.
        expected: u64,
        /// Segment size of the store.
        expected_bytes: u64,
    },
}

/// A UUID as stored: sixteen bytes; prints in the usual groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uuid(pub [u8; 16]);

impl std::fmt::Display for Uuid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// A superblock whose bytes check, and whose content nobody has looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawSuper {
    store: Uuid,
    uuid: Uuid,
    number: DeviceNo,
    segment_bytes: u64,
    start: u64,
    slots: u64,
}

/// What a device says of itself, found to be possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// The store that it belongs to.
    pub store: Uuid,
    /// Its own identity.
    pub uuid: Uuid,
    /// Its number in the store.
    pub number: DeviceNo,
    /// The store's segment size.
    pub geometry: Geometry,
    /// Its slots. They end within the device; kept by [`RawSuper::validate`].
    pub slots: u64,
}

impl RawSuper {
    /// Reads the first [`BLOCK`] bytes of a device.
    ///
    /// # Errors
    /// Where they are no superblock, a newer one, or a damaged one.
    pub fn decode(bytes: &[u8; BLOCK]) -> Result<Self, SuperError> {
        if !Self::is_ours(bytes) {
            return Err(SuperError::NotSnapmark);
        }
        let found = u32::from_le_bytes(array(bytes, AT_VERSION));
        if found > SUPERBLOCK_VERSION {
            return Err(SuperError::Newer { found });
        }
        let stored = Checksum(u32::from_le_bytes(array(bytes, AT_CRC)));
        let computed = checksum(&bytes[..AT_CRC]);
        if stored != computed {
            return Err(SuperError::Damaged { stored, computed });
        }
        Ok(Self {
            store: Uuid(array(bytes, AT_STORE)),
            uuid: Uuid(array(bytes, AT_UUID)),
            number: DeviceNo(u16::from_le_bytes(array(bytes, AT_NUMBER))),
            segment_bytes: u64::from_le_bytes(array(bytes, AT_SEGMENT)),
            start: u64::from_le_bytes(array(bytes, AT_START)),
            slots: u64::from_le_bytes(array(bytes, AT_SLOTS)),
        })
    }

    /// Whether a device that begins so is some store's, of any format, intact or not.
    #[must_use]
    pub fn is_ours(bytes: &[u8]) -> bool {
        bytes.starts_with(&MAGIC)
    }

    /// Checks that a device of `device_len` bytes can be what the superblock says.
    ///
    /// # Errors
    /// Where it can't, saying why.
    pub fn validate(self, device_len: u64) -> Result<Superblock, SuperError> {
        let geometry = Geometry::from_segment_bytes(self.segment_bytes)?;
        if self.start != DATA_START {
            return Err(SuperError::Start(self.start));
        }
        let needed = self
            .slots
            .checked_mul(geometry.segment_bytes())
            .and_then(|bytes| bytes.checked_add(DATA_START))
            .unwrap_or(u64::MAX);
        if needed > device_len {
            return Err(SuperError::TooShort {
                needed,
                len: device_len,
            });
        }
        Ok(Superblock {
            store: self.store,
            uuid: self.uuid,
            number: self.number,
            geometry,
            slots: self.slots,
        })
    }
}

impl Superblock {
    /// The superblock of a device that is being made.
    #[must_use]
    pub fn of(store: Uuid, record: &DeviceRecord, geometry: Geometry) -> Self {
        Self {
            store,
            uuid: Uuid(record.uuid),
            number: record.device,
            geometry,
            slots: record.slots,
        }
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; BLOCK] {
        let mut bytes = [0; BLOCK];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &MAGIC);
        put(AT_VERSION, &SUPERBLOCK_VERSION.to_le_bytes());
        put(AT_STORE, &self.store.0);
        put(AT_UUID, &self.uuid.0);
        put(AT_NUMBER, &self.number.0.to_le_bytes());
        put(AT_SEGMENT, &self.geometry.segment_bytes().to_le_bytes());
        put(AT_START, &DATA_START.to_le_bytes());
        put(AT_SLOTS, &self.slots.to_le_bytes());
        let crc = checksum(&bytes[..AT_CRC]);
        bytes[AT_CRC..AT_END].copy_from_slice(&crc.0.to_le_bytes());
        bytes
    }

    /// Checks that it is the device that the catalog of this store knows under this record.
    ///
    /// # Errors
    /// Where it is another store's, another device's, or divided otherwise.
    pub fn expect(
        &self,
        store: Uuid,
        record: &DeviceRecord,
        geometry: Geometry,
    ) -> Result<(), SuperError> {
        let expected_uuid = Uuid(record.uuid);
        if self.store != store {
            return Err(SuperError::OtherStore {
                found: self.store,
                expected: store,
            });
        }
        if self.number != record.device || self.uuid != expected_uuid {
            return Err(SuperError::OtherDevice {
                found: self.number,
                found_uuid: self.uuid,
                expected: record.device,
                expected_uuid,
            });
        }
        if self.slots != record.slots || self.geometry != geometry {
            return Err(SuperError::Division {
                found: self.slots,
                found_bytes: self.geometry.segment_bytes(),
                expected: record.slots,
                expected_bytes: geometry.segment_bytes(),
            });
        }
        Ok(())
    }
}

/// How many slots a device of `len` bytes has room for.
#[must_use]
pub fn slots_for(len: u64, geometry: Geometry) -> u64 {
    len.saturating_sub(DATA_START) / geometry.segment_bytes()
}

/// The device's byte at which a slot begins. The slot is one of the device's, whose end fits into
/// 64 bits.
#[must_use]
pub fn slot_start(slot: Slot, geometry: Geometry) -> u64 {
    DATA_START + slot.0 * geometry.segment_bytes()
}

/// The `N` bytes from `at`; within the block by the layout's constants.
fn array<const N: usize>(bytes: &[u8; BLOCK], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

#[cfg(test)]
mod tests;
