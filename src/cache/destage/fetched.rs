//! What a batch is about to move from one place in the pool to another, read ahead for many segments
//! at once: one by one the batch would wait for each block. What the segments have in a pack often lies
//! side by side there, since it was written by one batch.

use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::super::CacheError;
use super::in_place::{MANY_OWN, Together};
use super::segment::{Context, Layer, MAX_LAYERS, Update};
use super::work::Data;
use crate::base::{BLOCK, BlockMask, Checksum, Place, SegmentNo, checksum};
use crate::device::AlignedBuf;
use crate::ondisk::Extent;
use crate::store::{Pool, View};

/// Segments looked at before they are planned, and blocks read for them, at the most: enough to keep
/// a disk busy.
const SEGMENTS_AHEAD: usize = 64;
const BLOCKS_AHEAD: usize = (4 << 20) / BLOCK;

/// Blocks between two that are wanted that are read with them, at the most: that costs less than
/// another read, if it is not more than is wanted.
const GAP: usize = 4;

/// Blocks that were read ahead of need. Nobody has checked them.
#[derive(Default)]
pub(super) struct Fetched(FxHashMap<(Place, usize), (Arc<AlignedBuf>, usize)>);

impl Fetched {
    /// Reads these blocks. What can't be read is not among them, nor what lies close to that.
    fn read(pool: &Pool, wanted: &[(Extent, BlockMask)]) -> Result<Self, CacheError> {
        let total = |runs: &[(Place, Range<usize>)]| -> usize {
            runs.iter().map(|(_, blocks)| blocks.len()).sum()
        };
        let mut runs = runs(wanted, GAP);
        if total(&runs) > 2 * total(&self::runs(wanted, 0)) {
            runs = self::runs(wanted, 0);
        }
        if runs.is_empty() {
            return Ok(Self::default());
        }
        let count = total(&runs);
        let mut buf = AlignedBuf::new(count * BLOCK);
        let mut rest = &mut buf[..];
        let mut reads = Vec::with_capacity(runs.len());
        for (place, blocks) in &runs {
            let (part, others) = rest.split_at_mut(blocks.len() * BLOCK);
            reads.push((*place, blocks.start, part));
            rest = others;
        }
        let made = pool.read_each(reads)?;
        let (buf, mut at) = (Arc::new(buf), 0);
        let mut fetched = Self::default();
        for ((place, blocks), made) in runs.into_iter().zip(made) {
            let next = at + blocks.len();
            if made {
                let found = blocks
                    .zip(at..)
                    .map(|(block, at)| ((place, block), (buf.clone(), at)));
                fetched.0.extend(found);
            }
            at = next;
        }
        Ok(fetched)
    }

    /// A run of blocks, if all of them are here and are what their checksums say.
    pub fn run(
        &self,
        view: &View,
        (place, first): (Place, usize),
        blocks: Range<usize>,
    ) -> Result<Option<Vec<(usize, Data)>>, CacheError> {
        let found = (first..first + blocks.len()).map(|block| self.0.get(&(place, block)));
        let Some(found) = found.collect::<Option<Vec<_>>>() else {
            return Ok(None);
        };
        let mut sums = vec![Checksum(0); blocks.len()];
        let at = view.geometry().slot_block(place.slot) + first as u64;
        view.checksums(place.device, at, &mut sums)?;
        let copies = blocks.zip(found.into_iter().zip(sums));
        let copies = copies.map(|(block, ((buf, at), sum))| {
            let is_right = checksum(&buf[at * BLOCK..][..BLOCK]) == sum;
            is_right.then(|| (block, Data::Copy(buf.clone(), *at, sum)))
        });
        Ok(copies.collect())
    }
}

/// The wanted blocks as runs in slots, in order of place; gaps up to that size are part of a run.
fn runs(wanted: &[(Extent, BlockMask)], gap: usize) -> Vec<(Place, Range<usize>)> {
    let mut blocks: Vec<(Place, usize)> = Vec::new();
    for (from, of) in wanted {
        blocks.extend(from.indexes(of).iter().map(|index| (from.place, index)));
    }
    blocks.sort_unstable();
    let mut runs: Vec<(Place, Range<usize>)> = Vec::new();
    for (place, index) in blocks {
        match runs.last_mut() {
            Some((of, run)) if *of == place && index <= run.end + gap => run.end = index + 1,
            _ => runs.push((place, index..index + 1)),
        }
    }
    runs
}

impl Context<'_> {
    /// The next segments of a run, with their layers; what of these is about to be moved is read, for
    /// all of them at once.
    pub fn look_ahead(
        &mut self,
        updates: &mut impl Iterator<Item = (SegmentNo, Update)>,
    ) -> Result<Vec<(SegmentNo, Update, Vec<Layer>)>, CacheError> {
        let (mut next, mut moves, mut blocks) = (Vec::new(), Vec::new(), 0);
        let budget = Cell::new(self.merge_budget.get());
        while next.len() < SEGMENTS_AHEAD && blocks < BLOCKS_AHEAD {
            let Some((segment, update)) = updates.next() else {
                break;
            };
            let layers = match update.is_nothing() {
                true => Vec::new(),
                false => self.layers(segment)?,
            };
            for (from, shows) in self.about_to_move(segment, &layers, &update, &budget) {
                blocks += shows.count();
                moves.push((from, shows));
            }
            next.push((segment, update, layers));
        }
        // What was read before goes first: memory for both is not accounted for.
        self.fetched = Fetched::default();
        self.fetched = Fetched::read(self.pool, &moves)?;
        Ok(next)
    }

    /// What [`plan`](Self::plan) is going to move, with so much left of the batch's budget; it may be
    /// wrong.
    fn about_to_move(
        &self,
        segment: SegmentNo,
        layers: &[Layer],
        update: &Update,
        budget: &Cell<u64>,
    ) -> Vec<(Extent, BlockMask)> {
        let own = &layers[..self.own(layers)];
        let in_place = own
            .iter()
            .fold(BlockMask::EMPTY, |all, (_, layer)| all.or(&layer.data));
        let stays = |(_, top): &Layer| top.has_own_slot() || top.place.is_none();
        let is_placed = update.data().minus(&in_place).is_empty();
        if is_placed || self.copy_on_write || own.first().is_some_and(stays) {
            return Vec::new();
        }
        let thin = !self.has_outgrown(own, &update.data());
        if thin && own.len() >= MANY_OWN && layers.len() < MAX_LAYERS {
            return Together::of(own, update).kept;
        }
        if !self.is_due_within(segment, layers.len(), budget) {
            return Vec::new();
        }
        let mut shown = BlockMask::full(self.geometry).minus(&update.data().or(&update.zero));
        let mut moves = Vec::with_capacity(layers.len());
        for (_, layer) in layers {
            let shows = layer.data.and(&shown);
            moves.extend(layer.extent().map(|from| (from, shows)));
            shown = shown.minus(&layer.covered());
        }
        moves
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{DeviceNo, Slot};

    #[test]
    fn neighbours_are_read_at_once_and_slots_one_by_one() {
        let place = |slot| Place {
            device: DeviceNo(0),
            slot: Slot(slot),
        };
        let mask = |blocks: &[usize]| {
            let mut mask = BlockMask::EMPTY;
            blocks.iter().for_each(|block| mask.insert(*block));
            mask
        };
        let packed = |slot, first, blocks: BlockMask| Extent {
            place: place(slot),
            packed: Some((first, blocks)),
        };
        let (three, two) = (mask(&[3, 9, 40]), mask(&[1, 2]));
        let wanted = [
            // The last three of a pack, and before them, with a gap, two of another segment.
            (packed(7, 20, three), three),
            (packed(7, 14, two), two),
            // Beyond a larger gap, and alone in the next slot.
            (packed(7, 20 + 3 + GAP as u16 + 1, two), mask(&[1])),
            (Extent::own(place(8)), mask(&[0])),
        ];
        let far = 23 + GAP + 1;
        assert_eq!(
            runs(&wanted, GAP),
            [
                (place(7), 14..23),
                (place(7), far..far + 1),
                (place(8), 0..1)
            ]
        );
        assert_eq!(runs(&wanted, 0).len(), 4);
        assert!(runs(&[], GAP).is_empty());
    }
}
