//! The way of a big write: whole segments go straight to slots that are lent for it, and only the
//! blocks before and after them to the cache. Streaming costs one write then, not two.

use std::ops::Range;
use std::sync::Arc;

use smallvec::smallvec;

use super::Extent;
use super::namespace::Disk;
use super::volumes::{Result, Volumes};
use super::write::Stamps;
use crate::base::{BLOCK, Block};
use crate::cache::{Append, Content, Lent, Part};
use crate::device::Step;
use crate::store::PoolError;

/// The segments of a write that lie in slots now.
pub(super) struct Filled {
    /// Their bytes in the write's data.
    bytes: Range<usize>,
    lent: Vec<Arc<Lent>>,
}

impl Volumes {
    /// Writes the segments that a write covers whole to slots, if there are any and slots for
    /// them. No lock is held, and nothing refers to the slots before the write is appended: where
    /// this fails, or the append does, they are given back. Where the host has no space for them
    /// the write goes the ordinary way: the cache may have room until there is some.
    pub(super) fn fill_lent(&self, offset: u64, data: &[u8]) -> Result<Option<Filled>> {
        let segment = self.geometry.segment_bytes();
        let end = offset + data.len() as u64;
        let (first, last) = (offset.div_ceil(segment), end / segment);
        if first >= last {
            return Ok(None);
        }
        let Some(slots) = self.cache.borrow(last - first) else {
            return Ok(None);
        };
        let bytes = (first * segment - offset) as usize..(last * segment - offset) as usize;
        let pieces = data[bytes.clone()].chunks_exact(segment as usize);
        let fill = |(slot, piece): (Lent, &[u8])| slot.fill(self.cache.pool(), piece);
        let lent: std::result::Result<Vec<_>, _> =
            slots.into_iter().zip(pieces).map(fill).collect();
        let lent = lent.and_then(|lent| {
            Step::LentFilled.fails().map_err(PoolError::from)?;
            Ok(lent)
        });
        match lent {
            Ok(lent) => Ok(Some(Filled { bytes, lent })),
            Err(error) if error.is_no_room() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Appends a write whose whole segments lie in slots: one record, so that a marker falls
    /// before or after all of it.
    pub(super) fn write_around(
        &self,
        disk: &Disk,
        offset: u64,
        data: &[u8],
        filled: Filled,
    ) -> Result<()> {
        let Filled { bytes, lent } = filled;
        let (head, tail) = (&data[..bytes.start], &data[bytes.end..]);
        let after = offset + bytes.end as u64;
        let len = data.len() as u64;
        self.until_unchanged(|| {
            let ends = Stamps::of_ends(disk, Extent { offset, len });
            let first = self.whole_blocks(&ends.image(), offset, head)?;
            let then = self.whole_blocks(&ends.image(), after, tail)?;
            let frames = self.cache.hold_both(&first, &then)?;
            let content = Content::around(frames, first.len() / BLOCK, lent.clone());
            let part = Part::Write {
                block: Block::holding(offset),
                content,
            };
            Ok(Append {
                end: Some(offset + len),
                relies_on: Some(ends.relies_on()),
                ..Append::of(disk.id, smallvec![part])
            })
        })
    }
}
