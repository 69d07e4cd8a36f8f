//! What a write brings: blocks in the cache's memory, and segments that lie in lent slots.

use std::sync::Arc;

use super::{Frame, Lent};
use crate::base::{Block, Geometry, SegmentNo};

/// All blocks of a write, one after the other.
#[derive(Clone, Default)]
pub struct Content {
    /// Those in memory.
    frames: Vec<Arc<Frame>>,
    /// How many of `frames` come before `lent`. The others come after.
    head: usize,
    /// Whole segments, at the places of segments; kept by those who make a content.
    lent: Vec<Arc<Lent>>,
}

impl Content {
    /// Blocks in memory alone.
    #[must_use]
    pub fn of(frames: Vec<Arc<Frame>>) -> Self {
        Self {
            head: frames.len(),
            frames,
            lent: Vec::new(),
        }
    }

    /// The first `head` of `frames`, then segments in slots, then the other frames.
    #[must_use]
    pub fn around(frames: Vec<Arc<Frame>>, head: usize, lent: Vec<Arc<Lent>>) -> Self {
        Self { frames, head, lent }
    }

    /// The blocks in memory, in order.
    pub(super) fn frames(&self) -> &[Arc<Frame>] {
        &self.frames
    }

    /// The segments in slots, in order.
    pub(super) fn lent(&self) -> &[Arc<Lent>] {
        &self.lent
    }

    /// Blocks before the first segment in a slot.
    pub(super) fn head(&self) -> usize {
        self.head
    }

    fn lent_blocks(&self) -> usize {
        self.lent.iter().map(|lent| lent.sums().len()).sum()
    }

    /// How many blocks there are.
    pub(super) fn len(&self) -> u64 {
        (self.frames.len() + self.lent_blocks()) as u64
    }

    /// The blocks in memory of a write that begins at `block`.
    pub(super) fn framed(&self, block: Block) -> impl Iterator<Item = (Block, &Arc<Frame>)> {
        let (head, tail) = self.frames.split_at(self.head);
        let after = block.0 + (self.head + self.lent_blocks()) as u64;
        let numbered = (block.0..).zip(head).chain((after..).zip(tail));
        numbered.map(|(at, frame)| (Block(at), frame))
    }

    /// The segments in slots of such a write, by their first blocks.
    pub(super) fn lent_from(&self, block: Block) -> impl Iterator<Item = (Block, &Arc<Lent>)> {
        let mut next = block.0 + self.head as u64;
        self.lent.iter().map(move |lent| {
            let first = next;
            next += lent.sums().len() as u64;
            (Block(first), lent)
        })
    }

    /// The segments that such a write changes through memory, rising.
    pub(super) fn framed_segments(
        &self,
        block: Block,
        geometry: Geometry,
    ) -> impl Iterator<Item = SegmentNo> + use<> {
        let spans = |first: u64, count: usize| match count as u64 {
            0 => 0..0,
            count => {
                let last = Block(first + count - 1);
                geometry.locate(Block(first)).0.0..geometry.locate(last).0.0 + 1
            }
        };
        let after = block.0 + (self.head + self.lent_blocks()) as u64;
        let (head, tail) = (self.head, self.frames.len() - self.head);
        spans(block.0, head)
            .chain(spans(after, tail))
            .map(SegmentNo)
    }

    /// The segments of such a write that lie in slots, with them.
    pub(super) fn lent_segments(
        &self,
        block: Block,
        geometry: Geometry,
    ) -> impl Iterator<Item = (SegmentNo, &Arc<Lent>)> {
        let located = move |(first, lent)| (geometry.locate(first).0, lent);
        self.lent_from(block).map(located)
    }
}
