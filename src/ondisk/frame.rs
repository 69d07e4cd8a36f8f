//! A frame of the catalog's log: one commit. A header, the commit's changes one after the other,
//! then zeros up to the next multiple of [`PAGE`], so that no frame shares a page with another and
//! a durable one is never written again.

use super::field::{Field, only_zeros, split};
use super::{Change, FormatError, PAGE};
use crate::base::{Checksum, Geometry, checksum};

const MAGIC: Field<u64> = Field::FIRST;
/// The store's; frames that another store left in the log's space are not ours.
const UUID: Field<[u8; 16]> = MAGIC.then();
/// Of the root that the commit adds to.
const GENERATION: Field<u64> = UUID.then();
const COMMIT: Field<u64> = GENERATION.then();
/// Bytes of the changes.
const LENGTH: Field<u32> = COMMIT.then();
/// Of the changes.
const BODY_CRC: Field<u32> = LENGTH.then();
/// Of the header up to here.
const HEADER_CRC: Field<u32> = BODY_CRC.then();
const HEADER: usize = HEADER_CRC.end();

const FRAME_MAGIC: u64 = u64::from_le_bytes(*b"SNAPLOG\x01");
const WHAT: &str = "log frame";

/// The header of a log frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// The store's identity.
    pub uuid: [u8; 16],
    /// The generation of the root that the commit adds to.
    pub generation: u64,
    /// The commit's number. The frame that opens a generation carries the root's own.
    pub commit: u64,
    /// Bytes of the changes.
    pub length: u32,
    /// Checksum of the changes.
    pub body: Checksum,
}

impl FrameHeader {
    /// Bytes of a header.
    pub const LEN: usize = HEADER;

    /// Reads the header at the start of these bytes.
    ///
    /// # Errors
    /// Where there is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let (header, _) = split(WHAT, bytes, HEADER)?;
        let found = MAGIC.get(header);
        if found != FRAME_MAGIC {
            return Err(FormatError::Magic { what: WHAT, found });
        }
        let stored = Checksum(HEADER_CRC.get(header));
        let computed = checksum(&header[..HEADER_CRC.start()]);
        if stored != computed {
            let what = WHAT;
            return Err(FormatError::BadChecksum {
                what,
                stored,
                computed,
            });
        }
        Ok(Self {
            uuid: UUID.get(header),
            generation: GENERATION.get(header),
            commit: COMMIT.get(header),
            length: LENGTH.get(header),
            body: Checksum(BODY_CRC.get(header)),
        })
    }

    /// Bytes of the whole frame.
    #[must_use]
    pub fn frame_len(&self) -> u64 {
        (HEADER as u64 + u64::from(self.length)).next_multiple_of(PAGE as u64)
    }

    /// Whether the bytes are those of the whole frame.
    ///
    /// # Errors
    /// Where they are not those that the header tells of.
    pub fn verify(&self, frame: &[u8]) -> Result<(), FormatError> {
        let (body, padding) = self.parts(frame)?;
        let computed = checksum(body);
        if computed != self.body {
            let (what, stored) = (WHAT, self.body);
            return Err(FormatError::BadChecksum {
                what,
                stored,
                computed,
            });
        }
        only_zeros(WHAT, padding)
    }

    /// The changes of the frame that these bytes are, header and padding included.
    ///
    /// # Errors
    /// Where the bytes are not changes.
    pub fn changes(&self, frame: &[u8], geometry: Geometry) -> Result<Vec<Change>, FormatError> {
        let (mut body, _) = self.parts(frame)?;
        let mut changes = Vec::new();
        while !body.is_empty() {
            let (change, rest) = Change::decode(body, geometry)?;
            changes.push(change);
            body = rest;
        }
        Ok(changes)
    }

    fn parts<'a>(&self, frame: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), FormatError> {
        let (_, body) = split(WHAT, frame, HEADER)?;
        split(WHAT, body, self.length as usize)
    }
}

/// The bytes of the frame of a commit.
///
/// # Errors
/// Where a change breaks a rule of its fields, or the changes together exceed 4 GiB.
pub fn encode_frame(
    uuid: [u8; 16],
    generation: u64,
    commit: u64,
    changes: &[Change],
    geometry: Geometry,
) -> Result<Vec<u8>, FormatError> {
    let mut frame = vec![0; HEADER];
    for change in changes {
        change.encode(geometry, &mut frame)?;
    }
    let length = u32::try_from(frame.len() - HEADER).map_err(|_| FormatError::OutOfRange {
        what: WHAT,
        field: "length",
        value: (frame.len() - HEADER) as u64,
        limit: u64::from(u32::MAX),
    })?;
    let body = checksum(&frame[HEADER..]);
    MAGIC.put(&mut frame, FRAME_MAGIC);
    UUID.put(&mut frame, uuid);
    GENERATION.put(&mut frame, generation);
    COMMIT.put(&mut frame, commit);
    LENGTH.put(&mut frame, length);
    BODY_CRC.put(&mut frame, body.0);
    let header = checksum(&frame[..HEADER_CRC.start()]);
    HEADER_CRC.put(&mut frame, header.0);
    frame.resize(frame.len().next_multiple_of(PAGE), 0);
    Ok(frame)
}
