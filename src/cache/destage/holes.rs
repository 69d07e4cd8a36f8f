//! Blocks of packs that nobody needs any more, to be given back to the host when there is time:
//! each is a system call, and many packs go as a whole before their turn comes.
//!
//! Nothing is written to such a block until its pack has been given up, and with that its holes are
//! forgotten (`Holes::forget`): the slot may be in use again at once. Until then a hole may be made
//! whenever it suits; one that a crash prevents is made with the pack's.

use std::collections::BTreeMap;

use crate::base::{BlockMask, Place};
use crate::store::Pool;

/// Packs with holes to be made, at the most. Beyond that they are made at once.
const MOST: usize = 8 << 10;
/// Packs dealt with in one go.
const AT_ONCE: usize = 32;

/// Holes that are to be made.
#[derive(Default)]
pub(super) struct Holes(BTreeMap<Place, BlockMask>);

impl Holes {
    /// Blocks of a pack are no longer needed.
    pub fn add(&mut self, place: Place, blocks: &BlockMask) {
        let all = self.0.entry(place).or_insert(BlockMask::EMPTY);
        *all = all.or(blocks);
    }

    /// The pack was given up: it is punched as a whole.
    pub fn forget(&mut self, place: Place) {
        self.0.remove(&place);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Makes some of the holes.
    pub fn step(&mut self, pool: &Pool) {
        for _ in 0..AT_ONCE {
            let Some((place, blocks)) = self.0.pop_first() else {
                return;
            };
            make_holes(pool, place, &blocks);
        }
    }

    /// Makes so many that the rest is bounded.
    pub fn keep_few(&mut self, pool: &Pool) {
        while self.0.len() > MOST {
            self.step(pool);
        }
    }

    /// Makes all of them.
    pub fn finish(&mut self, pool: &Pool) {
        while !self.is_empty() {
            self.step(pool);
        }
    }
}

/// Gives blocks back to the host. Where it refuses, they stay allocated there, and no harm is done.
pub(super) fn make_holes(pool: &Pool, place: Place, blocks: &BlockMask) {
    for run in blocks.runs() {
        if let Err(error) = pool.punch(place, run) {
            log::warn!("space of {place} stays with the host's file: {error}");
        }
    }
}
