//! Finds the newest cached data of a block, as of now or as of a marker.
//!
//! One index a map serves the live disk and all markers that still wait in the queue: a block's
//! entries are chained newest first, at most one an epoch, so that a look-up on the live disk
//! costs the same however many markers wait (P11).

use std::collections::{BTreeMap, hash_map};
use std::ops::Range;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::{Frame, Lent};
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

struct Entry<T> {
    what: T,
    epoch: Epoch,
    seq: Seq,
}

/// What there is at one place, newest first: epochs and sequence numbers strictly falling.
type Chain<T> = SmallVec<[Entry<T>; 1]>;

/// Zeroed ranges of one epoch: start to end and the record that zeroed it; never overlapping.
#[derive(Default)]
struct Zeros {
    ranges: BTreeMap<u64, (u64, Seq)>,
}

/// The index of a map.
#[derive(Default)]
pub struct Index {
    /// Blocks in memory.
    blocks: FxHashMap<u64, Chain<Arc<Frame>>>,
    /// Segments in lent slots, by their first blocks. One entry each, and not one for each block: a big
    /// write would spend more on those than on all else that is done under the queue's lock.
    segments: FxHashMap<u64, Chain<Arc<Lent>>>,
    /// Blocks of a segment, once there was one.
    segment_blocks: u64,
    /// Oldest epoch first; only epochs that have any.
    zeros: Vec<(Epoch, Zeros)>,
}

impl Index {
    /// Whether nothing is cached.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.segments.is_empty() && self.zeros.is_empty()
    }

    /// Enters a block's data. Sequence numbers only rise.
    pub fn insert(&mut self, block: Block, frame: Arc<Frame>, epoch: Epoch, seq: Seq) {
        enter(self.blocks.entry(block.0).or_default(), frame, epoch, seq);
    }

    /// Enters a segment's data, which are in a lent slot. `first` is its first block.
    pub fn insert_lent(&mut self, first: Block, lent: Arc<Lent>, epoch: Epoch, seq: Seq) {
        self.segment_blocks = lent.sums().len() as u64;
        debug_assert!(first.0.is_multiple_of(self.segment_blocks));
        enter(self.segments.entry(first.0).or_default(), lent, epoch, seq);
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
        let zero = self
            .zeros
            .iter()
            .rev()
            .filter(|(of, _)| *of <= epoch)
            .find_map(|(_, zeros)| zeros.at(block.0));
        let frame = newest(self.blocks.get(&block.0), epoch);
        let lent = self.find_lent(block, epoch);
        let seqs = [
            frame.map(|entry| entry.seq),
            lent.map(|(entry, _)| entry.seq),
            zero,
        ];
        match (frame, lent, seqs.iter().max().copied().flatten()) {
            (_, _, None) => Found::Nothing,
            (Some(frame), _, Some(seq)) if frame.seq == seq => Found::Data(frame.what.clone()),
            (_, Some((lent, at)), Some(seq)) if lent.seq == seq => {
                Found::Lent(lent.what.clone(), at)
            }
            _ => Found::Zero,
        }
    }

    fn find_lent(&self, block: Block, epoch: Epoch) -> Option<(&Entry<Arc<Lent>>, usize)> {
        if self.segments.is_empty() {
            return None;
        }
        let at = block.0 % self.segment_blocks;
        let entry = newest(self.segments.get(&(block.0 - at)), epoch)?;
        Some((entry, at as usize))
    }

    /// Takes out a destaged write of a block, where nothing newer took its place.
    pub fn remove(&mut self, block: Block, seq: Seq) {
        remove(&mut self.blocks, block.0, seq);
    }

    /// The same of a segment.
    pub fn remove_lent(&mut self, first: Block, seq: Seq) {
        remove(&mut self.segments, first.0, seq);
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
        let is_known = |chain: &Chain<_>| newest(Some(chain), epoch).is_some();
        let data = if to - from < self.blocks.len() as u64 {
            (from..to).find(|block| self.blocks.get(block).is_some_and(is_known))
        } else {
            let inside = |(block, chain): (&u64, _)| {
                ((from..to).contains(block) && is_known(chain)).then_some(*block)
            };
            self.blocks.iter().filter_map(inside).min()
        };
        let inside = |(first, chain): (&u64, &Chain<_>)| {
            let at = from.max(*first);
            let is_inside = at < to.min(first + self.segment_blocks);
            (is_inside && newest(Some(chain), epoch).is_some()).then_some(at)
        };
        let lent = self.segments.iter().filter_map(inside).min();
        let zero = self
            .zeros
            .iter()
            .filter(|(of, _)| *of <= epoch)
            .filter_map(|(_, zeros)| zeros.next(from, to))
            .min();
        data.into_iter().chain(lent).chain(zero).min()
    }
}

/// Puts in what is newer than all there is: at most one entry an epoch stays.
fn enter<T>(chain: &mut Chain<T>, what: T, epoch: Epoch, seq: Seq) {
    let entry = Entry { what, epoch, seq };
    match chain.first_mut() {
        Some(newest) if newest.epoch == epoch => *newest = entry,
        _ => chain.insert(0, entry),
    }
}

fn newest<T>(chain: Option<&Chain<T>>, epoch: Epoch) -> Option<&Entry<T>> {
    chain?.iter().find(|entry| entry.epoch <= epoch)
}

fn remove<T>(chains: &mut FxHashMap<u64, Chain<T>>, at: u64, seq: Seq) {
    if let hash_map::Entry::Occupied(mut chain) = chains.entry(at) {
        chain.get_mut().retain(|entry| entry.seq != seq);
        if chain.get().is_empty() {
            chain.remove();
        }
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
    use super::super::stock::Stock;
    use super::*;
    use crate::base::{BLOCK, Checksum, DeviceNo, Place, Slot};

    fn frame(pool: &Arc<FramePool>, byte: u8) -> Arc<Frame> {
        let frames = pool.take(1, || Ok(()), || {}).unwrap().fill(&[byte; BLOCK]);
        frames[0].clone()
    }

    fn shows(index: &Index, block: u64, epoch: u64) -> i32 {
        match index.find(Block(block), Epoch(epoch)) {
            Found::Data(frame) => i32::from(frame[0]),
            Found::Lent(lent, at) => -1000 * lent.place().slot.0 as i32 - at as i32,
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

    #[test]
    fn a_segment_in_a_slot_and_blocks_in_memory_hide_each_other() {
        let (pool, stock) = (FramePool::new(256).unwrap(), Arc::new(Stock::default()));
        let lent = |slot| {
            let place = Place {
                device: DeviceNo(0),
                slot: Slot(slot),
            };
            Arc::new(Lent::new(place, vec![Checksum(0); 16], Arc::clone(&stock)))
        };
        let mut index = Index::default();
        index.insert(Block(33), frame(&pool, 1), Epoch(1), Seq(1));
        index.insert_lent(Block(32), lent(7), Epoch(1), Seq(2));
        index.insert(Block(34), frame(&pool, 3), Epoch(1), Seq(3));
        index.insert(Block(35), frame(&pool, 4), Epoch(2), Seq(4));
        index.insert_lent(Block(32), lent(8), Epoch(2), Seq(5));
        index.zero(40..44, Epoch(2), Seq(6));
        let at = |epoch| [31, 32, 33, 34, 35, 40, 47, 48].map(|block| shows(&index, block, epoch));
        assert_eq!(at(0), [-1; 8]);
        assert_eq!(at(1), [-1, -7000, -7001, 3, -7003, -7008, -7015, -1]);
        assert_eq!(at(2), [-1, -8000, -8001, -8002, -8003, 0, -8015, -1]);
        assert_eq!(index.next_known(0, 100, Epoch(1)), Some(32));
        assert_eq!(index.next_known(36, 100, Epoch(1)), Some(36));
        assert_eq!(index.next_known(48, 100, Epoch(1)), None);
        assert_eq!(index.next_known(0, 32, Epoch(1)), None);
        assert_eq!(index.next_known(0, 100, Epoch(0)), None);
        // As they are destaged; what was hidden does not come back.
        index.remove(Block(33), Seq(1));
        index.remove_lent(Block(32), Seq(2));
        assert_eq!([33, 34].map(|block| shows(&index, block, 1)), [-1, 3]);
        index.remove(Block(34), Seq(3));
        index.remove(Block(35), Seq(4));
        assert_eq!(
            [34, 35].map(|block| shows(&index, block, 2)),
            [-8002, -8003]
        );
        index.remove_lent(Block(32), Seq(5));
        assert_eq!([34, 40].map(|block| shows(&index, block, 2)), [-1, 0]);
        index.remove_zero(40..44, Epoch(2), Seq(6));
        assert!(index.is_empty());
    }
}
