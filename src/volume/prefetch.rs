//! Having the host read what somebody will want.

use std::ops::Range;

use super::read::{Image, find};
use super::volumes::{Result, Volumes};
use super::{Extent, Node};
use crate::base::{BLOCK, BLOCK_SIZE, Block, BlockMask};
use crate::cache::CacheError;
use crate::store::Source;

impl Volumes {
    /// Has the host bring what a node has on devices in this range into its memory, and does not wait until
    /// it is there. It is a hint: where a device can't, nothing happens.
    ///
    /// # Errors
    /// Where the node is gone or the catalog can't be read.
    pub fn prefetch(&self, node: Node, range: Extent) -> Result<()> {
        let (image, size) = self.image(node)?;
        let end = range.offset.saturating_add(range.len).min(size);
        self.prefetch_image(&image, range.offset / BLOCK_SIZE..end.div_ceil(BLOCK_SIZE))
    }

    fn prefetch_image(&self, image: &Image, blocks: Range<u64>) -> Result<()> {
        let mut at = blocks.start;
        while at < blocks.end {
            let (_, index) = self.geometry.locate(Block(at));
            let in_segment = (self.geometry.blocks() - index) as u64;
            let end = blocks.end.min(at + in_segment);
            self.prefetch_in_segment(image, at..end)?;
            at = end;
        }
        Ok(())
    }

    fn prefetch_in_segment(&self, image: &Image, blocks: Range<u64>) -> Result<()> {
        let first = Block(blocks.start);
        let (segment, start) = self.geometry.locate(first);
        let count = blocks.end - blocks.start;
        let mut wanted = BlockMask::range(start, start + count as usize);
        // What the cache has is in memory, or was written to a device a moment ago.
        for (at, _) in find(image, first, count) {
            wanted.remove(start + at);
        }
        let view = self.cache.catalog().view();
        for (blocks, source) in view.resolve(image.map.id, segment, image.at(), wanted)? {
            for run in blocks.runs() {
                let from = first.0 + (run.start - start) as u64;
                let to = from + run.len() as u64;
                match (source, &image.map.origin) {
                    (Source::Data(extent), _) => {
                        let at = extent.index(run.start);
                        let pool = self.cache.pool();
                        let found = pool.device_of(extent.place, at..at + run.len());
                        let (device, offset) = found.map_err(CacheError::from)?;
                        device.prefetch(offset, (run.len() * BLOCK) as u64);
                    }
                    (Source::Below, Some(origin)) => {
                        let below = Image {
                            map: origin.map.clone(),
                            epoch: origin.epoch,
                        };
                        self.prefetch_image(&below, from..to.min(origin.limit.0))?;
                    }
                    (Source::Below | Source::Zero, _) => {}
                }
            }
        }
        Ok(())
    }
}
