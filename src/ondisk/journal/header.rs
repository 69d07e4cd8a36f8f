//! The journal's header: which store it belongs to, and which session writes it.
//!
//! ```text
//! 0   magic "SNAPMKJ1"
//! 8   checksum of bytes 12..64
//! 12  format version
//! 16  store UUID
//! 32  session
//! 36  (zero)
//! 40  first sequence number of the session
//! 48  ring length in bytes
//! 56  key of the journal
//! ```
//!
//! Torn: both slots are written in turn, so the older one stays; it leads to the same next
//! session number and, since nothing was appended before the header was durable, to the same end
//! of the ring.
//!
//! Rotten: what the catalog and later records say of the session shows that it was there
//! ([`Past`](super::Past)). The key is in every record, so that one slot leads to all of them.

use super::super::wire::{Put, Reader};
use super::JournalFormatError;
use crate::base::{Seq, checksum};

const MAGIC: &[u8; 8] = b"SNAPMKJ1";
pub(super) const VERSION: u32 = 1;

/// The journal's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalHeader {
    /// The store.
    pub store: [u8; 16],
    /// Counts the openings. A record with this session's number was written by it.
    pub session: u32,
    /// The first record that this session could write. Records from here on with an older
    /// session are leavings that an earlier recovery decided against.
    pub first: Seq,
    /// Bytes in the ring.
    pub ring: u64,
    /// A random number that all records of the journal carry: what a guest writes to its disk lies
    /// in the ring as it is, and must never be taken for a record.
    pub key: u64,
}

impl JournalHeader {
    /// Bytes of a header that mean something; a slot has 4,096.
    pub const LEN: usize = 64;

    /// The file offset of the slot that this session writes.
    #[must_use]
    pub fn slot(&self) -> u64 {
        u64::from(self.session % 2) * 4096
    }

    /// The header, if this is the file offset of its slot.
    ///
    /// # Errors
    /// Where it is not: what lies there was written elsewhere.
    pub fn in_slot(self, offset: u64) -> Result<Self, JournalFormatError> {
        match self.slot() {
            slot if slot == offset => Ok(self),
            slot => Err(JournalFormatError::Slot { slot, offset }),
        }
    }

    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut tail = Vec::with_capacity(Self::LEN);
        tail.u32(VERSION);
        tail.extend(self.store);
        tail.u32(self.session);
        tail.u32(0);
        tail.u64(self.first.0);
        tail.u64(self.ring);
        tail.u64(self.key);
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&checksum(&tail).0.to_le_bytes());
        bytes[12..].copy_from_slice(&tail);
        bytes
    }

    /// Reads a header slot.
    ///
    /// # Errors
    /// Where it is none, is damaged, or was written by a newer program.
    pub fn decode(bytes: &[u8]) -> Result<Self, JournalFormatError> {
        let mut reader = Reader(bytes);
        if reader.bytes("magic", 8)? != MAGIC {
            return Err(JournalFormatError::Magic);
        }
        let stored = reader.u32("checksum")?;
        let mut fields = Reader(reader.bytes("header", Self::LEN - 12)?);
        let computed = checksum(fields.0).0;
        if stored != computed {
            return Err(JournalFormatError::Checksum { stored, computed });
        }
        let version = fields.u32("version")?;
        if version != VERSION {
            return Err(JournalFormatError::Version(version));
        }
        let store = fields.uuid("store")?;
        let session = fields.u32("session")?;
        fields.u32("reserved")?;
        let first = Seq(fields.u64("first")?);
        let ring = fields.u64("ring")?;
        let key = fields.u64("key")?;
        Ok(Self {
            store,
            session,
            first,
            ring,
            key,
        })
    }
}
