//! Blocks that were not what they should be when they were looked at once.

use std::collections::BTreeMap;

use super::mapped::Run;
use crate::base::{Block, BlockMask, DeviceNo, Place, Slot};
use crate::volume::read::Image;

/// Blocks that are gathered before they are judged.
const MANY: u64 = 16 << 10;

/// A block, and one who has it.
pub(super) struct Owned {
    /// Whose it is: a map, live.
    pub image: Image,
    /// The block of the map.
    pub block: Block,
    pub place: Place,
    /// Which block of the slot.
    pub at: usize,
}

/// Suspects, as many as are judged at a time.
#[derive(Default)]
pub(super) struct Suspects {
    slots: BTreeMap<Place, BlockMask>,
    /// Those of which it is known whose they are.
    owned: Vec<Owned>,
    count: u64,
}

impl Suspects {
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn is_full(&self) -> bool {
        self.count >= MANY
    }

    /// Adds a block, counted from its device's first.
    pub fn add(&mut self, device: DeviceNo, block: u64, per_slot: u64) {
        let slot = Slot(block / per_slot);
        let mask = self
            .slots
            .entry(Place { device, slot })
            .or_insert(BlockMask::EMPTY);
        let at = (block % per_slot) as usize;
        self.count += u64::from(!mask.has(at));
        mask.insert(at);
    }

    /// Adds a block of which it is known whose it is.
    pub fn own(&mut self, image: Image, block: Block, place: Place, at: usize) {
        self.owned.push(Owned {
            image,
            block,
            place,
            at,
        });
        self.count += 1;
    }

    /// Takes out those that are owned.
    pub fn take_owned(&mut self) -> Vec<Owned> {
        self.count -= self.owned.len() as u64;
        std::mem::take(&mut self.owned)
    }

    /// Takes out the others.
    pub fn take(&mut self) -> BTreeMap<Place, BlockMask> {
        let count: usize = self.slots.values().map(BlockMask::count).sum();
        self.count -= count as u64;
        std::mem::take(&mut self.slots)
    }
}

/// These blocks, each to be read again by itself: a device that does not give one may give its
/// neighbours.
pub(super) fn each_alone(
    slots: &BTreeMap<Place, BlockMask>,
    per_slot: u64,
) -> impl Iterator<Item = Run> {
    slots.iter().flat_map(move |(place, mask)| {
        let (device, first) = (place.device, place.slot.0 * per_slot);
        let run = move |at| Run::new(device, first + at as u64);
        mask.iter().map(run)
    })
}
