//! Finds the newest cached data of a block, as of now or as of a marker.
//!
//! One index a map serves the live disk and all markers that still wait in the queue: a block's
//! entries are chained newest first, at most one an epoch, so that a look-up on the live disk
//! costs the same however many markers wait (P11).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::{Cell, Frame, Lent};
use crate::base::{Block, Epoch, Seq};

/// What the cache knows of a block.
#[derive(Clone)]
pub enum Found {
    /// Its data.
    Data(Arc<Frame>),
    /// That its data is this block of a lent slot.
    Lent(Arc<Lent>, usize),
    /// That it reads as zeros.
    Zero,
    /// Nothing: look in the segment map.
    Nothing,
}

struct Entry {
    cell: Cell,
    epoch: Epoch,
    seq: Seq,
}

impl From<Cell> for Found {
    fn from(cell: Cell) -> Self {
        match cell {
            Cell::Frame(frame) => Self::Data(frame),
            Cell::Lent(lent, at) => Self::Lent(lent, at),
        }
    }
}

/// Zeroed ranges of one epoch: start to end and the record that zeroed it; never overlapping.
#[derive(Default)]
struct Zeros {
    ranges: BTreeMap<u64, (u64, Seq)>,
}

/// The index of a map.
#[derive(Default)]
pub struct Index {
    /// Newest first; epochs and sequence numbers strictly falling.
    blocks: FxHashMap<u64, SmallVec<[Entry; 1]>>,
    /// Oldest epoch first; only epochs that have any.
    zeros: Vec<(Epoch, Zeros)>,
}

impl Index {
    /// Whether nothing is cached.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.zeros.is_empty()
    }

    /// Blocks with cached data.
    #[must_use]
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Enters a block's data. Sequence numbers only rise.
    pub fn insert(&mut self, block: Block, cell: Cell, epoch: Epoch, seq: Seq) {
        let chain = self.blocks.entry(block.0).or_default();
        let entry = Entry { cell, epoch, seq };
        match chain.first_mut() {
            Some(newest) if newest.epoch == epoch => *newest = entry,
            _ => chain.insert(0, entry),
        }
    }

    /// Enters a zeroed range.
    pub fn zero(&mut self, blocks: Range<u64>, epoch: Epoch, seq: Seq) {
        if self.zeros.last().is_none_or(|(last, _)| *last != epoch) {
            self.zeros.push((epoch, Zeros::default()));
        }
        if let Some((_, zeros)) = self.zeros.last_mut() {
            zeros.insert(blocks, seq);
        }
    }

    /// The newest of a block in `epoch` or before.
    #[must_use]
    pub fn find(&self, block: Block, epoch: Epoch) -> Found {
        let data = self
            .blocks
            .get(&block.0)
            .and_then(|chain| chain.iter().find(|entry| entry.epoch <= epoch));
        let zero = self
            .zeros
            .iter()
            .rev()
            .filter(|(of, _)| *of <= epoch)
            .find_map(|(_, zeros)| zeros.at(block.0));
        match (data, zero) {
            (Some(entry), Some(seq)) if seq > entry.seq => Found::Zero,
            (Some(entry), _) => entry.cell.clone().into(),
            (None, Some(_)) => Found::Zero,
            (None, None) => Found::Nothing,
        }
    }

    /// Takes out a destaged write, where nothing newer took its place.
    pub fn remove(&mut self, block: Block, seq: Seq) {
        let Some(chain) = self.blocks.get_mut(&block.0) else {
            return;
        };
        chain.retain(|entry| entry.seq != seq);
        if chain.is_empty() {
            self.blocks.remove(&block.0);
        }
    }

    /// Takes out what is left of a destaged zeroed range.
    pub fn remove_zero(&mut self, blocks: Range<u64>, epoch: Epoch, seq: Seq) {
        self.zeros.retain_mut(|(of, zeros)| {
            if *of == epoch {
                zeros.remove(blocks.clone(), seq);
            }
            !zeros.ranges.is_empty()
        });
    }

    /// Blocks at or after `from` and before `to` that the cache knows of in `epoch` or before:
    /// the first such block, if any. For finding data and holes; costs a walk over the index.
    #[must_use]
    pub fn next_known(&self, from: u64, to: u64, epoch: Epoch) -> Option<u64> {
        let known = |chain: &SmallVec<[Entry; 1]>| chain.iter().any(|entry| entry.epoch <= epoch);
        let data = if to - from < self.blocks.len() as u64 {
            (from..to).find(|block| self.blocks.get(block).is_some_and(known))
        } else {
            let inside = |(block, chain): (&u64, _)| {
                ((from..to).contains(block) && known(chain)).then_some(*block)
            };
            self.blocks.iter().filter_map(inside).min()
        };
        let zero = self
            .zeros
            .iter()
            .filter(|(of, _)| *of <= epoch)
            .filter_map(|(_, zeros)| zeros.next(from, to))
            .min();
        data.into_iter().chain(zero).min()
    }
}

impl Zeros {
    fn insert(&mut self, blocks: Range<u64>, seq: Seq) {
        self.cut(&blocks, |_| true);
        self.ranges.insert(blocks.start, (blocks.end, seq));
    }

    fn remove(&mut self, blocks: Range<u64>, seq: Seq) {
        self.cut(&blocks, |of| of == seq);
    }

    /// Takes `blocks` out of every range whose record is `chosen`.
    fn cut(&mut self, blocks: &Range<u64>, chosen: impl Fn(Seq) -> bool) {
        let before = self
            .ranges
            .range(..blocks.start)
            .next_back()
            .map(|(start, _)| *start);
        let first = before.unwrap_or(blocks.start);
        let touched: Vec<(u64, u64, Seq)> = self
            .ranges
            .range(first..blocks.end)
            .filter(|(_, (end, seq))| *end > blocks.start && chosen(*seq))
            .map(|(start, (end, seq))| (*start, *end, *seq))
            .collect();
        for (start, end, seq) in touched {
            self.ranges.remove(&start);
            if start < blocks.start {
                self.ranges.insert(start, (blocks.start, seq));
            }
            if end > blocks.end {
                self.ranges.insert(blocks.end, (end, seq));
            }
        }
    }

    fn at(&self, block: u64) -> Option<Seq> {
        let (_, (end, seq)) = self.ranges.range(..=block).next_back()?;
        (*end > block).then_some(*seq)
    }

    fn next(&self, from: u64, to: u64) -> Option<u64> {
        if self.at(from).is_some() && from < to {
            return Some(from);
        }
        self.ranges.range(from..to).next().map(|(start, _)| *start)
    }
}

#[cfg(test)]
mod tests {
    use super::super::FramePool;
    use super::*;
    use crate::base::BLOCK;

    fn frame(pool: &Arc<FramePool>, byte: u8) -> Cell {
        let frames = pool.take(1, || Ok(()), || {}).unwrap().fill(&[byte; BLOCK]);
        Cell::Frame(frames[0].clone())
    }

    fn shows(index: &Index, block: u64, epoch: u64) -> i32 {
        match index.find(Block(block), Epoch(epoch)) {
            Found::Data(frame) => i32::from(frame[0]),
            Found::Lent(..) => -2,
            Found::Zero => 0,
            Found::Nothing => -1,
        }
    }

    #[test]
    fn each_epoch_sees_its_own_newest() {
        let pool = FramePool::new(256).unwrap();
        let mut index = Index::default();
        index.insert(Block(5), frame(&pool, 1), Epoch(1), Seq(1));
        index.insert(Block(5), frame(&pool, 2), Epoch(1), Seq(2));
        index.insert(Block(5), frame(&pool, 3), Epoch(2), Seq(3));
        assert_eq!(
            [0, 1, 2, 9].map(|epoch| shows(&index, 5, epoch)),
            [-1, 2, 3, 3]
        );
        index.remove(Block(5), Seq(1));
        assert_eq!(shows(&index, 5, 1), 2);
        index.remove(Block(5), Seq(2));
        assert_eq!([1, 2].map(|epoch| shows(&index, 5, epoch)), [-1, 3]);
        index.remove(Block(5), Seq(3));
        assert!(index.is_empty());
        assert_eq!(pool.free(), pool.size());
    }

    #[test]
    fn zeros_hide_what_is_older_and_only_that() {
        let pool = FramePool::new(256).unwrap();
        let mut index = Index::default();
        index.insert(Block(5), frame(&pool, 1), Epoch(1), Seq(1));
        index.zero(0..100, Epoch(2), Seq(2));
        index.insert(Block(6), frame(&pool, 2), Epoch(2), Seq(3));
        assert_eq!(
            [4, 5, 6, 100].map(|block| shows(&index, block, 2)),
            [0, 0, 2, -1]
        );
        assert_eq!([4, 5, 6].map(|block| shows(&index, block, 1)), [-1, 1, -1]);
        index.zero(50..60, Epoch(2), Seq(4));
        index.remove_zero(0..100, Epoch(2), Seq(2));
        assert_eq!(
            [4, 49, 50, 59, 60].map(|block| shows(&index, block, 2)),
            [-1, -1, 0, 0, -1]
        );
        assert_eq!(index.next_known(10, 100, Epoch(9)), Some(50));
        index.remove_zero(50..60, Epoch(2), Seq(4));
        assert_eq!(index.next_known(7, 100, Epoch(9)), None);
    }
}
