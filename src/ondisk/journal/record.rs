//! A journal record: a header of 80 bytes, a body, and for a write its blocks.
//!
//! ```text
//! 0   magic "SMJR"
//! 4   checksum of bytes 8..80 and the body
//! 8   key of the journal
//! 16  session
//! 20  kind: 1 write, 2 zero, 3 op, 4 write by reference, 5 skip
//! 21  records after this one that are of the same change
//! 22  (zero)
//! 24  sequence number
//! 32  all records up to this one were durable when this one was appended
//! 40  disk
//! 44  body length in bytes
//! 48  first block
//! 56  blocks
//! 64  time, nanoseconds since 1970
//! 72  size of the disk after this record in bytes, 0 where it does not change
//! 80  body: for a write the CRC-32C of each block, for an op its fields
//!     padding with zeros to a multiple of 64
//!     for a write its blocks
//! ```
//!
//! Records of one change, such as the two cut blocks and the whole ones between that a discard zeros,
//! stand one behind the other and count only together: where one of them is missing, so is the first.
//!
//! A skip stands where records were damaged and have been given up: its body is the number that
//! the next record has, 8 bytes.
//!
//! A write by reference has whole segments in the middle whose data was written to slots of the
//! pool before the record was; only the blocks before and after them follow the record. Its body:
//!
//! ```text
//! 0   blocks before the first of those segments
//! 4   blocks in a segment
//! 8   how many segments
//! 12  for each, the device (2 bytes) and the slot (8 bytes) that has it
//!     the CRC-32C of each block of the write, those in slots among them
//! ```
//!
//! A power loss may leave such a record without the data in the slots. So a record that may have
//! to be replayed counts only if that data checks too; if not, it is the journal's end.
//!
//! The record's checksum covers the blocks through their own, so a block's CRC is computed once,
//! when it is written, and serves the journal, the cache and the device.

use super::super::wire::{Put, Reader, WireError};
use super::JournalFormatError;
use super::op::Op;
use crate::base::{
    BLOCK, BLOCK_SIZE, Block, Checksum, DeviceNo, DiskId, Place, Seq, Slot, Timestamp, checksum,
};

const MAGIC: &[u8; 4] = b"SMJR";
/// Bytes in a record's header.
pub const RECORD_HEADER: usize = 80;
/// Records start and end at multiples of this.
pub const RECORD_ALIGN: usize = 64;
/// No body is longer: enough for a marker over thousands of disks.
const MAX_BODY: u32 = 1 << 20;
/// Bytes of the longest header and body.
pub const MAX_HEAD: usize = (RECORD_HEADER + MAX_BODY as usize).next_multiple_of(RECORD_ALIGN);
/// No record has a greater number: at a million a second it would take 146,000 years.
const MAX_SEQ: Seq = Seq(1 << 62);
/// No change has more records after its first.
const MAX_MORE: u8 = 3;
/// No write has more blocks.
const MAX_BLOCKS: u64 = 16 << 10;

/// What every record says of its journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The journal's key.
    pub key: u64,
    /// Which opening of the store wrote it.
    pub session: u32,
    /// Every record up to this one was durable when this one was appended; less than its own
    /// number.
    pub durable: Seq,
}

/// The fixed part of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// Who wrote it, and what was durable then.
    pub stamp: Stamp,
    /// Its place in the global order.
    pub seq: Seq,
    /// How many records after it are of the same change.
    pub more: u8,
    /// The disk; 0 for an op.
    pub disk: DiskId,
    /// The first block of a write or zero; 0 for an op.
    pub block: Block,
    /// Its blocks.
    pub count: u64,
    /// When it was appended.
    pub time: Timestamp,
    /// The disk's size after it, where it grew.
    pub size_after: Option<u64>,
    kind: u8,
    body: u32,
    checksum: u32,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Data for the header's blocks, with a checksum for each; the blocks follow.
    Write(Vec<Checksum>),
    /// The header's blocks read as zeros.
    Zero,
    /// A change of names, sizes or snapshots.
    Op(Op),
    /// Data for the header's blocks, some of which lies in slots; the others follow.
    Reference(Reference),
    /// No record has a number from this one's up to, and without, this.
    Skip(Seq),
}

/// The body of a write by reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Blocks before the first segment that lies in a slot.
    pub head: u32,
    /// Blocks in a segment.
    pub segment: u32,
    /// The slots, one for each segment; at least one.
    pub places: Vec<Place>,
    /// A checksum for each block of the write.
    pub sums: Vec<Checksum>,
}

impl Reference {
    /// Blocks that lie in slots.
    #[must_use]
    pub fn lent(&self) -> u64 {
        u64::from(self.segment) * self.places.len() as u64
    }

    fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.u32(self.head);
        bytes.u32(self.segment);
        bytes.u32(self.places.len() as u32);
        for place in &self.places {
            bytes.u16(place.device.0);
            bytes.u64(place.slot.0);
        }
        self.sums.iter().for_each(|sum| bytes.u32(sum.0));
    }

    fn decode(reader: &mut Reader<'_>, count: u64) -> Result<Self, WireError> {
        let (head, segment) = (reader.u32("head")?, reader.u32("segment")?);
        let places = reader.u32("places")?;
        let lent = u64::from(segment) * u64::from(places);
        if lent == 0 || u64::from(head) + lent > count {
            return Err(WireError::Value {
                field: "places",
                value: u64::from(places),
            });
        }
        let place = |_| {
            let device = DeviceNo(reader.u16("device")?);
            let slot = Slot(reader.u64("slot")?);
            Ok(Place { device, slot })
        };
        let places = (0..places).map(place).collect::<Result<_, WireError>>()?;
        let sum = |_| reader.u32("sum").map(Checksum);
        let sums = (0..count).map(sum).collect::<Result<_, _>>()?;
        Ok(Self {
            head,
            segment,
            places,
            sums,
        })
    }
}

impl Body {
    fn kind(&self) -> u8 {
        match self {
            Self::Write(_) => 1,
            Self::Zero => 2,
            Self::Op(_) => 3,
            Self::Reference(_) => 4,
            Self::Skip(_) => 5,
        }
    }

    /// Bytes of the blocks that follow the record.
    #[must_use]
    pub fn data_len(&self) -> usize {
        let blocks = match self {
            Self::Write(sums) => sums.len(),
            Self::Reference(reference) => reference.sums.len() - reference.lent() as usize,
            Self::Zero | Self::Op(_) | Self::Skip(_) => 0,
        };
        blocks * BLOCK
    }
}

impl RecordHeader {
    /// The header of an op; that of data says more.
    #[must_use]
    pub fn new(stamp: Stamp, seq: Seq, time: Timestamp) -> Self {
        Self {
            stamp,
            seq,
            more: 0,
            disk: DiskId(0),
            block: Block(0),
            count: 0,
            time,
            size_after: None,
            kind: 0,
            body: 0,
            checksum: 0,
        }
    }

    /// Encodes a record up to, not including, its blocks.
    #[must_use]
    pub fn encode(&self, body: &Body) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(RECORD_HEADER + RECORD_ALIGN);
        bytes.extend(MAGIC);
        bytes.u32(0);
        bytes.u64(self.stamp.key);
        bytes.u32(self.stamp.session);
        bytes.u8(body.kind());
        bytes.u8(self.more);
        bytes.extend([0; 2]);
        bytes.u64(self.seq.0);
        bytes.u64(self.stamp.durable.0);
        bytes.u32(self.disk.0);
        bytes.u32(0);
        bytes.u64(self.block.0);
        bytes.u64(self.count);
        bytes.i64(self.time.0);
        bytes.u64(self.size_after.unwrap_or(0));
        match body {
            Body::Write(sums) => sums.iter().for_each(|sum| bytes.u32(sum.0)),
            Body::Zero => {}
            Body::Op(op) => op.encode(&mut bytes),
            Body::Reference(reference) => reference.encode(&mut bytes),
            Body::Skip(next) => bytes.u64(next.0),
        }
        let body_len = (bytes.len() - RECORD_HEADER) as u32;
        bytes[44..48].copy_from_slice(&body_len.to_le_bytes());
        let sum = checksum(&bytes[8..]).0;
        bytes[4..8].copy_from_slice(&sum.to_le_bytes());
        bytes.resize(bytes.len().next_multiple_of(RECORD_ALIGN), 0);
        bytes
    }

    /// Reads the header of a record. The checksum is not checked before the body is there.
    ///
    /// # Errors
    /// Where it is no header, or a length in it can't be.
    pub fn decode(bytes: &[u8]) -> Result<Self, JournalFormatError> {
        let mut reader = Reader(bytes);
        if reader.bytes("magic", 4)? != MAGIC {
            return Err(JournalFormatError::Magic);
        }
        let checksum = reader.u32("checksum")?;
        let key = reader.u64("key")?;
        let session = reader.u32("session")?;
        let kind = reader.u8("kind")?;
        let more = reader.u8("more")?;
        reader.bytes("reserved", 2)?;
        let seq = Seq(reader.u64("seq")?);
        let durable = Seq(reader.u64("durable")?);
        let disk = DiskId(reader.u32("disk")?);
        let body = reader.u32("body")?;
        let block = Block(reader.u64("block")?);
        let count = reader.u64("count")?;
        let time = Timestamp(reader.i64("time")?);
        let size_after = Some(reader.u64("size")?).filter(|size| *size != 0);
        if more > MAX_MORE {
            let (field, value) = ("more", more.into());
            return Err(WireError::Value { field, value }.into());
        }
        if seq > MAX_SEQ {
            let (field, value) = ("seq", seq.0);
            return Err(WireError::Value { field, value }.into());
        }
        if durable >= seq {
            let (field, value) = ("durable", durable.0);
            return Err(WireError::Value { field, value }.into());
        }
        if body > MAX_BODY
            || (kind == 1 && (count > MAX_BLOCKS || u64::from(body) != count * 4))
            || (kind == 4 && count > MAX_BLOCKS)
        {
            return Err(WireError::Value {
                field: "body",
                value: u64::from(body),
            }
            .into());
        }
        if block
            .0
            .checked_add(count)
            .is_none_or(|end| end > u64::MAX / BLOCK_SIZE)
        {
            return Err(WireError::Value {
                field: "block",
                value: block.0,
            }
            .into());
        }
        Ok(Self {
            stamp: Stamp {
                key,
                session,
                durable,
            },
            seq,
            more,
            disk,
            block,
            count,
            time,
            size_after,
            kind,
            body,
            checksum,
        })
    }

    /// Bytes of header, body and padding.
    #[must_use]
    pub fn head_len(&self) -> usize {
        (RECORD_HEADER + self.body as usize).next_multiple_of(RECORD_ALIGN)
    }

    /// Checks the checksum over header and body, and reads the body. `head` starts at the header.
    ///
    /// # Errors
    /// Where the checksum does not match or the body is no body.
    pub fn body(&self, head: &[u8]) -> Result<Body, JournalFormatError> {
        let mut reader = Reader(head);
        let covered = reader.bytes("record", RECORD_HEADER + self.body as usize)?;
        let computed = checksum(&covered[8..]).0;
        if computed != self.checksum {
            return Err(JournalFormatError::Checksum {
                stored: self.checksum,
                computed,
            });
        }
        let mut body = Reader(&covered[RECORD_HEADER..]);
        let decoded = match self.kind {
            1 => Body::Write(
                (0..self.count)
                    .map(|_| body.u32("sum").map(Checksum))
                    .collect::<Result<_, _>>()?,
            ),
            2 => Body::Zero,
            3 => Body::Op(Op::decode(&mut body)?),
            4 => Body::Reference(Reference::decode(&mut body, self.count)?),
            5 => match Seq(body.u64("next")?) {
                next if next > self.seq && next <= MAX_SEQ => Body::Skip(next),
                Seq(value) => {
                    let field = "next";
                    return Err(WireError::Value { field, value }.into());
                }
            },
            kind => {
                return Err(WireError::Value {
                    field: "kind",
                    value: u64::from(kind),
                }
                .into());
            }
        };
        body.end()?;
        Ok(decoded)
    }
}
