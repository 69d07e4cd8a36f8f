//! Every data block has a checksum: the blocks that versions have, in the order of their places,
//! against the checksums in the same order.
//!
//! The versions come in another order, so their blocks are gathered first, a bit each: as many as
//! fit in [`CHUNKS`] at a time. A pool with more of them in use is gone through in several passes.

use super::catalog::Catalog;
use super::overlay::Group;
use super::segments::{Version, each_segment};
use crate::base::{BlockMask, DeviceNo, Place, Slot};
use crate::ondisk::{SumGroup, TreeKind};

/// Words of 64 blocks in a chunk: 256 MiB of a device in 8 KiB.
const WORDS: u64 = 1024;
/// Chunks at a time: 64 MiB of memory for up to 2 TiB of data.
const CHUNKS: usize = 8192;

/// What is done with blocks that have data and a checksum: the device, the number of the group,
/// which of its blocks, and their checksums. The groups come in the order of their places.
pub(super) type HaveSums<'a> = dyn FnMut(DeviceNo, u64, u64, &Group) + 'a;

/// Goes through all data blocks. `missing` hears of those without a checksum.
pub(super) fn each(
    catalog: &Catalog<'_>,
    have: &mut HaveSums<'_>,
    missing: &mut dyn FnMut(Place, BlockMask),
) {
    let chunks = occupied(catalog);
    for window in chunks.chunks(CHUNKS) {
        let mut bits = Bits::of(catalog, window);
        bits.meet_sums(catalog, have);
        bits.left(catalog, missing);
    }
}

/// The chunks that have slots in use, in order.
fn occupied(catalog: &Catalog<'_>) -> Vec<(DeviceNo, u64)> {
    let geometry = catalog.root.geometry;
    let blocks = WORDS * SumGroup::BLOCKS;
    let mut chunks = Vec::new();
    for (device, slots) in catalog.slots.devices() {
        let mut next = 0;
        for (first, count) in slots.in_use() {
            let from = geometry.slot_block(Slot(first)) / blocks;
            let to = (geometry.slot_block(Slot(first + count)) - 1) / blocks;
            chunks.extend((from.max(next)..=to).map(|chunk| (device, chunk)));
            next = to + 1;
        }
    }
    chunks
}

/// A bit for each data block of some chunks.
struct Bits<'w> {
    window: &'w [(DeviceNo, u64)],
    chunks: Vec<Box<[u64]>>,
}

impl<'w> Bits<'w> {
    fn of(catalog: &Catalog<'_>, window: &'w [(DeviceNo, u64)]) -> Self {
        let chunk = || vec![0; WORDS as usize].into();
        let chunks = window.iter().map(|_| chunk()).collect();
        let mut bits = Self { window, chunks };
        let geometry = catalog.root.geometry;
        let mut all = |versions: &[Version]| {
            for (_, version) in versions {
                let Some(extent) = version.extent() else {
                    continue;
                };
                // A segment has one word or more, or is a part of one.
                let first = geometry.slot_block(extent.place.slot);
                let shift = first % SumGroup::BLOCKS;
                let blocks = extent.indexes(&version.data);
                for (group, word) in (first / SumGroup::BLOCKS..).zip(blocks.words(geometry)) {
                    if let Some(to) = bits.word(extent.place.device, group) {
                        *to |= word << shift;
                    }
                }
            }
        };
        // What is no version was reported before.
        each_segment(catalog, &mut all, &mut Vec::new());
        bits
    }

    fn word(&mut self, device: DeviceNo, group: u64) -> Option<&mut u64> {
        let at = self.window.binary_search(&(device, group / WORDS)).ok()?;
        self.chunks[at].get_mut((group % WORDS) as usize)
    }

    /// Takes out the blocks that have a checksum.
    fn meet_sums(&mut self, catalog: &Catalog<'_>, have: &mut HaveSums<'_>) {
        let tree = catalog.tree(TreeKind::Checksums);
        let key = |(device, chunk): (DeviceNo, u64), group: u64| {
            u128::from(device.0) << 64 | u128::from(chunk * WORDS + group)
        };
        for of_device in self.window.chunk_by(|a, b| a.0 == b.0) {
            let (Some(first), Some(last)) = (of_device.first(), of_device.last()) else {
                continue;
            };
            let range = (key(*first, 0), key(*last, WORDS - 1));
            catalog
                .sums
                .walk(&tree, range, &mut |_| true, &mut |key, sums| {
                    let (device, group) = (first.0, key as u64);
                    let Some(word) = self.word(device, group) else {
                        return;
                    };
                    let present = (0..)
                        .zip(sums)
                        .fold(0, |bits, (at, sum)| bits | u64::from(sum.is_some()) << at);
                    let found = *word & present;
                    *word &= !present;
                    if found != 0 {
                        have(device, group, found, sums);
                    }
                });
        }
    }

    /// Tells of the blocks that are left, by slot.
    fn left(&self, catalog: &Catalog<'_>, missing: &mut dyn FnMut(Place, BlockMask)) {
        let per_slot = catalog.root.geometry.blocks() as u64;
        let mut of: Option<(Place, BlockMask)> = None;
        for ((device, chunk), words) in self.window.iter().zip(&self.chunks) {
            for (group, word) in (chunk * WORDS..).zip(words).filter(|(_, word)| **word != 0) {
                for bit in (0..SumGroup::BLOCKS).filter(|bit| word >> bit & 1 == 1) {
                    let block = group * SumGroup::BLOCKS + bit;
                    let place = Place {
                        device: *device,
                        slot: Slot(block / per_slot),
                    };
                    if of.is_some_and(|(last, _)| last != place) {
                        of.take()
                            .into_iter()
                            .for_each(|(at, mask)| missing(at, mask));
                    }
                    let (_, mask) = of.get_or_insert((place, BlockMask::EMPTY));
                    mask.insert((block % per_slot) as usize);
                }
            }
        }
        of.into_iter().for_each(|(at, mask)| missing(at, mask));
    }
}
