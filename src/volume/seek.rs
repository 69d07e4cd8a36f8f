//! Finding data and holes.

use super::read::Image;
use super::volumes::{Result, Volumes};
use super::{Node, Whence};
use crate::base::{Block, SegmentNo};

impl Volumes {
    /// The next data or hole at or after `offset`; `None` where `offset` is at or past the end,
    /// or data is sought and none follows.
    ///
    /// # Errors
    /// Where the node is gone or the catalog can't be read.
    pub fn seek(&self, node: Node, offset: u64, whence: Whence) -> Result<Option<u64>> {
        let (image, size) = self.image(node)?;
        if offset >= size {
            return Ok(None);
        }
        let found = match whence {
            Whence::Data => self.next_data(&image, offset, size)?,
            Whence::Hole => Some(self.next_hole(&image, offset, size)?),
        };
        Ok(found.filter(|at| *at < size || whence == Whence::Hole))
    }

    fn next_data(&self, image: &Image, offset: u64, size: u64) -> Result<Option<u64>> {
        let end = size.div_ceil(self.geometry.segment_bytes());
        let mut segment = SegmentNo(offset / self.geometry.segment_bytes());
        while let Some(next) = self.next_candidate(image, segment, SegmentNo(end))? {
            let from = self.index_in(next, offset);
            let data = self.data_mask(image, next)?;
            if let Some(block) = data.iter().find(|block| *block >= from) {
                return Ok(Some(offset.max(self.byte_of(next, block))));
            }
            segment = next.next();
        }
        Ok(None)
    }

    /// The first segment in `from..to` that may hold data.
    fn next_candidate(
        &self,
        image: &Image,
        from: SegmentNo,
        to: SegmentNo,
    ) -> Result<Option<SegmentNo>> {
        if from >= to {
            return Ok(None);
        }
        let blocks = |segment: SegmentNo| self.geometry.first_block(segment).0;
        let mut found: Option<SegmentNo> = None;
        // Each map down to the last origin, in the cache and then in the catalog. Not left to the
        // catalog alone: while the making of a clone is queued, that does not know its origin.
        let mut below = Some(image.clone());
        while let Some(image) = below {
            let known = image
                .map
                .next_known(blocks(from), blocks(to), image.epoch)
                .map(|at| self.geometry.locate(Block(at)).0);
            let view = self.cache.catalog().view();
            let mapped = view.own_segments(image.map.id, image.at(), from, to, 1)?;
            found = found.into_iter().chain(known).chain(mapped).min();
            below = image.map.origin.as_ref().map(|o| Image {
                map: o.map.clone(),
                epoch: o.epoch,
            });
        }
        Ok(found)
    }

    fn next_hole(&self, image: &Image, offset: u64, size: u64) -> Result<u64> {
        let end = size.div_ceil(self.geometry.segment_bytes());
        for segment in offset / self.geometry.segment_bytes()..end {
            let segment = SegmentNo(segment);
            let data = self.data_mask(image, segment)?;
            let from = self.index_in(segment, offset);
            if let Some(block) = (from..self.geometry.blocks()).find(|block| !data.has(*block)) {
                return Ok(offset.max(self.byte_of(segment, block)).min(size));
            }
        }
        Ok(size)
    }

    /// The block of the segment to begin at, for an offset in it or before it.
    fn index_in(&self, segment: SegmentNo, offset: u64) -> usize {
        let (of, index) = self.geometry.locate(Block::holding(offset));
        if of == segment { index } else { 0 }
    }

    fn byte_of(&self, segment: SegmentNo, block: usize) -> u64 {
        Block(self.geometry.first_block(segment).0 + block as u64).byte()
    }
}
