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

/// The runs of blocks of these slots, to be read again.
pub(super) fn runs(slots: &BTreeMap<Place, BlockMask>, per_slot: u64) -> Vec<Run> {
    let of_slot = |(place, mask): (&Place, &BlockMask)| {
        let (device, first) = (place.device, place.slot.0 * per_slot);
        let run = move |run: std::ops::Range<usize>| Run {
            device,
            first: first + run.start as u64,
            wanted: vec![true; run.len()],
        };
        mask.runs().map(run).collect::<Vec<_>>()
    };
    slots.iter().flat_map(of_slot).collect()
}
