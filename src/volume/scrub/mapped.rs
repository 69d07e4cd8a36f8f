//! Which blocks of the pool some version has: a bit each, for a part of the pool at a time.

use std::collections::BTreeMap;

use crate::base::{DeviceNo, Geometry, Slot};
use crate::ondisk::{Descriptor, Extent};

/// Blocks in a word.
const BITS: u64 = 64;
/// Words of a stretch.
const WORDS: u64 = 4096;
/// Blocks of a stretch: 1 GiB of a device, whose bits take 32 KiB.
const BLOCKS: u64 = WORDS * BITS;
/// Stretches looked at together: 8 MiB of bits for 256 GiB.
const WINDOW: usize = 256;

/// A stretch of a device: number `1` is its second GiB.
pub(super) type Stretch = (DeviceNo, u64);

/// How many blocks with data each stretch has; those with none are left out.
#[derive(Default)]
pub(super) struct Counts(BTreeMap<Stretch, u64>);

impl Counts {
    /// Counts what a version has.
    pub fn add(&mut self, version: &Descriptor, geometry: Geometry) {
        if let Some(extent) = version.extent() {
            let first = geometry.slot_block(extent.place.slot);
            // A segment has 4 MiB at the most and lies within a stretch.
            let stretch = (extent.place.device, first / BLOCKS);
            *self.0.entry(stretch).or_default() += version.data.count() as u64;
        }
    }

    /// Leaves out what comes before a stretch.
    pub fn start_at(&mut self, from: Stretch) {
        self.0 = self.0.split_off(&from);
    }

    /// All blocks.
    pub fn blocks(&self) -> u64 {
        self.0.values().sum()
    }

    /// The stretches that are looked at together, in order.
    pub fn windows(&self) -> Vec<Vec<Stretch>> {
        let all: Vec<_> = self.0.keys().copied().collect();
        all.chunks(WINDOW).map(<[_]>::to_vec).collect()
    }
}

/// A bit for each block of some stretches.
pub(super) struct Mapped {
    stretches: BTreeMap<Stretch, Box<[u64]>>,
    geometry: Geometry,
}

impl Mapped {
    /// Nothing yet, of these stretches.
    pub fn new(window: &[Stretch], geometry: Geometry) -> Self {
        let empty = |stretch: &Stretch| (*stretch, vec![0; WORDS as usize].into());
        let stretches = window.iter().map(empty).collect();
        Self {
            stretches,
            geometry,
        }
    }

    /// Notes what a version has.
    pub fn add(&mut self, version: &Descriptor) {
        let Some(extent) = version.extent() else {
            return;
        };
        let Extent { place, .. } = extent;
        let first = self.geometry.slot_block(Slot(place.slot.0));
        let Some(words) = self.stretches.get_mut(&(place.device, first / BLOCKS)) else {
            return;
        };
        let blocks = extent.indexes(&version.data);
        // A segment has a word or more, or is a part of one.
        let at = (first % BLOCKS / BITS) as usize;
        for (to, word) in words[at..].iter_mut().zip(blocks.words(self.geometry)) {
            *to |= word << (first % BITS);
        }
    }

    /// The runs of blocks of a stretch, counted from the device's first: of at most `most` blocks,
    /// and over gaps of at most `gap`.
    pub fn runs(&self, stretch: Stretch, most: u64, gap: u64) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        let words = self.stretches.get(&stretch).into_iter().flatten();
        for (word, at) in words.zip((stretch.1 * BLOCKS..).step_by(BITS as usize)) {
            let mut rest = *word;
            while rest != 0 {
                let block = at + u64::from(rest.trailing_zeros());
                rest &= rest - 1;
                match runs.last_mut() {
                    Some(run) if run.takes(block, most, gap) => run.push(block),
                    _ => runs.push(Run::new(stretch.0, block)),
                }
            }
        }
        runs
    }
}

/// Blocks that are read in one go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub device: DeviceNo,
    /// Counted from the device's first.
    pub first: u64,
    /// Which of them count, from the first on; the last one does.
    pub wanted: Vec<bool>,
}

impl Run {
    pub fn new(device: DeviceNo, first: u64) -> Self {
        let wanted = vec![true];
        Self {
            device,
            first,
            wanted,
        }
    }

    fn end(&self) -> u64 {
        self.first + self.wanted.len() as u64
    }

    fn takes(&self, block: u64, most: u64, gap: u64) -> bool {
        block <= self.end() + gap && block - self.first < most
    }

    fn push(&mut self, block: u64) {
        self.wanted.resize((block - self.first) as usize, false);
        self.wanted.push(true);
    }

    /// How many blocks count.
    pub fn count(&self) -> u64 {
        self.wanted.iter().filter(|wanted| **wanted).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{BlockMask, Epoch, Place};

    fn version(segment: u64, slot: u64, data: BlockMask) -> (Geometry, Descriptor) {
        let geometry = Geometry::from_segment_bytes(segment).unwrap();
        let place = Place {
            device: DeviceNo(3),
            slot: Slot(slot),
        };
        let extent = Some(Extent::own(place));
        let version = Descriptor::new(Epoch::FIRST, extent, data, BlockMask::EMPTY);
        (geometry, version)
    }

    #[test]
    fn blocks_are_found_where_they_are() {
        // Three slots of 16 blocks share a word with a fourth; the last one is the second GiB's first.
        let mut counts = Counts::default();
        let mask = |from, to| BlockMask::range(from, to);
        let versions = [
            version(64 << 10, 1, mask(3, 5)),
            version(64 << 10, 2, mask(0, 16)),
            version(64 << 10, 16384, mask(15, 16)),
        ];
        let geometry = versions[0].0;
        versions.iter().for_each(|(_, it)| counts.add(it, geometry));
        assert_eq!(counts.blocks(), 19);
        let window = &counts.windows()[0];
        assert_eq!(window[..], [(DeviceNo(3), 0), (DeviceNo(3), 1)]);
        let mut mapped = Mapped::new(window, geometry);
        versions.iter().for_each(|(_, it)| mapped.add(it));
        let starts = |runs: Vec<Run>| {
            let of = |run: &Run| (run.first, run.wanted.len(), run.count());
            runs.iter().map(of).collect::<Vec<_>>()
        };
        let first = (DeviceNo(3), 0);
        assert_eq!(
            starts(mapped.runs(first, 256, 0)),
            [(19, 2, 2), (32, 16, 16)]
        );
        assert_eq!(starts(mapped.runs(first, 256, 16)), [(19, 29, 18)]);
        assert_eq!(
            starts(mapped.runs(first, 10, 0)),
            [(19, 2, 2), (32, 10, 10), (42, 6, 6)]
        );
        let second = (DeviceNo(3), 1);
        assert_eq!(starts(mapped.runs(second, 256, 16)), [(262_159, 1, 1)]);
        counts.start_at(second);
        assert_eq!(counts.blocks(), 1);
    }
}
