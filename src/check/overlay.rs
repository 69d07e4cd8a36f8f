//! What the log changes in the big trees: a layer over them, as big as the log.

use std::collections::BTreeMap;

use crate::base::{Checksum, DeviceNo, Geometry, Place};
use crate::ondisk::{FormatError, SumGroup};

use super::tree::{Met, Tree};

/// What the log says of one key.
struct Patch {
    /// It was removed before it was put: so the root must have it.
    in_root: bool,
    /// Its value now; none where it is gone.
    value: Option<Box<[u8]>>,
}

/// Changes of a tree's entries.
#[derive(Default)]
pub(super) struct Entries {
    patches: BTreeMap<u128, Patch>,
}

impl Entries {
    pub fn put(&mut self, key: u128, value: Vec<u8>) {
        let patch = self.patches.entry(key).or_insert(Patch {
            in_root: false,
            value: None,
        });
        patch.value = Some(value.into());
    }

    /// What the log says of a key, if it says anything: its value, or that it is gone.
    pub fn get(&self, key: u128) -> Option<Option<&[u8]>> {
        let patch = self.patches.get(&key)?;
        Some(patch.value.as_deref())
    }

    pub fn is_empty(&self) -> bool {
        self.patches.is_empty()
    }

    /// Returns false where the log itself says that there is none.
    pub fn remove(&mut self, key: u128) -> bool {
        match self.patches.get_mut(&key) {
            Some(patch) => patch.value.take().is_some(),
            None => {
                let (in_root, value) = (true, None);
                self.patches.insert(key, Patch { in_root, value });
                true
            }
        }
    }

    /// Goes through a tree as the log has changed it, in order. `missing` hears of keys that the
    /// log removes and the tree does not have. To answer `false` ends the walk.
    pub fn walk(
        &self,
        tree: &Tree<'_>,
        range: (u128, u128),
        page: &mut dyn FnMut(&Met<'_>) -> bool,
        entry: &mut dyn FnMut(u128, &[u8]) -> bool,
        missing: &mut dyn FnMut(u128),
    ) {
        let mut patches = self.patches.range(range.0..=range.1).peekable();
        let mut going = true;
        tree.walk(range, &mut |met| {
            let Met::Entry(key, value) = met else {
                return page(&met);
            };
            while let Some((at, patch)) = patches.next_if(|(at, _)| **at < key) {
                if patch.in_root {
                    missing(*at);
                }
                if let Some(value) = &patch.value
                    && !entry(*at, value)
                {
                    going = false;
                    return false;
                }
            }
            going = match patches.next_if(|(at, _)| **at == key) {
                Some((_, patch)) => patch.value.as_ref().is_none_or(|value| entry(key, value)),
                None => entry(key, value),
            };
            going
        });
        for (at, patch) in patches {
            if !going {
                return;
            }
            if patch.in_root {
                missing(*at);
            }
            if let Some(value) = &patch.value {
                going = entry(*at, value);
            }
        }
    }
}

/// A part of a group of checksums, set or forgotten.
#[derive(Clone, Copy)]
struct SumPatch {
    index: u8,
    len: u8,
    /// Where in [`Sums::values`] they are; none where they are forgotten.
    values: Option<u32>,
}

/// Changes of checksums.
#[derive(Default)]
pub(super) struct Sums {
    groups: BTreeMap<u128, Vec<SumPatch>>,
    values: Vec<Checksum>,
}

/// The checksums of 64 neighbouring blocks.
pub(super) type Group = [Option<Checksum>; SumGroup::BLOCKS as usize];

impl Sums {
    pub fn put(&mut self, device: DeviceNo, first: u64, sums: &[Checksum]) {
        let start = self.values.len() as u32;
        self.values.extend(sums);
        self.patch(device, first, sums.len() as u64, Some(start));
    }

    /// Forgets those of a slot, as the catalog does when it becomes free.
    pub fn forget(&mut self, place: Place, geometry: Geometry) {
        let first = geometry.slot_block(place.slot);
        self.patch(place.device, first, geometry.blocks() as u64, None);
    }

    fn patch(&mut self, device: DeviceNo, first: u64, count: u64, values: Option<u32>) {
        let (mut block, end) = (first, first + count);
        while block < end {
            let (key, index) = SumGroup::locate(device, block);
            let len = (end - block).min(SumGroup::BLOCKS - index as u64);
            let values = values.map(|at| at + (block - first) as u32);
            let (index, len) = (index as u8, len as u8);
            self.groups
                .entry(key)
                .or_default()
                .push(SumPatch { index, len, values });
            block += u64::from(len);
        }
    }

    fn apply(&self, key: u128, group: &mut Group) {
        for patch in self.groups.get(&key).into_iter().flatten() {
            let run = &mut group[usize::from(patch.index)..][..usize::from(patch.len)];
            match patch.values {
                None => run.fill(None),
                Some(at) => {
                    let values = &self.values[at as usize..][..run.len()];
                    run.iter_mut()
                        .zip(values)
                        .for_each(|(to, sum)| *to = Some(*sum));
                }
            }
        }
    }

    /// Goes through the groups as the log has changed them, in order; those that the log has
    /// emptied may come, too.
    pub fn walk(
        &self,
        tree: &Tree<'_>,
        range: (u128, u128),
        page: &mut dyn FnMut(&Met<'_>) -> bool,
        group: &mut dyn FnMut(u128, &Group),
    ) {
        let mut added = self.groups.range(range.0..=range.1).peekable();
        let mut give = |key: u128, value: Option<&[u8]>| {
            let mut found = value.map_or([None; 64], decode);
            self.apply(key, &mut found);
            group(key, &found);
        };
        tree.walk(range, &mut |met| {
            let Met::Entry(key, value) = met else {
                return page(&met);
            };
            while let Some((at, _)) = added.next_if(|(at, _)| **at < key) {
                give(*at, None);
            }
            added.next_if(|(at, _)| **at == key);
            give(key, Some(value));
            true
        });
        added.for_each(|(at, _)| give(*at, None));
    }
}

fn decode(value: &[u8]) -> Group {
    let mut group = [None; 64];
    for (index, to) in group.iter_mut().enumerate() {
        let sum: Result<_, FormatError> = SumGroup::get(value, index);
        *to = sum.ok().flatten();
    }
    group
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Slot;
    use crate::device::MemoryDevice;
    use crate::ondisk::{TreeKind, TreeRoot};

    fn nothing(pages: &MemoryDevice, kind: TreeKind) -> Tree<'_> {
        let (geometry, root) = (Geometry::default(), TreeRoot::default());
        Tree {
            pages,
            kind,
            geometry,
            root,
        }
    }

    #[test]
    fn what_was_put_comes_in_order_and_what_was_removed_is_missed() {
        let mut entries = Entries::default();
        entries.put(7, vec![7]);
        entries.put(3, vec![3]);
        assert!(entries.remove(3) && !entries.remove(3));
        assert!(entries.remove(5));
        let pages = MemoryDevice::new("pages", 0);
        let (mut found, mut missed) = (Vec::new(), Vec::new());
        entries.walk(
            &nothing(&pages, TreeKind::Versions),
            (0, u128::MAX),
            &mut |_| true,
            &mut |key, value| {
                found.push((key, value.to_vec()));
                true
            },
            &mut |key| missed.push(key),
        );
        assert_eq!((found, missed), (vec![(7, vec![7])], vec![5]));
    }

    #[test]
    fn later_checksums_lie_over_earlier_ones() {
        let mut sums = Sums::default();
        let device = DeviceNo(1);
        let some: Vec<_> = (0..70).map(Checksum).collect();
        sums.put(device, 60, &some);
        let place = Place {
            device,
            slot: Slot(1),
        };
        sums.forget(place, Geometry::default());
        sums.put(device, 65, &[Checksum(99)]);
        let pages = MemoryDevice::new("pages", 0);
        let mut found = Vec::new();
        let tree = nothing(&pages, TreeKind::Checksums);
        sums.walk(&tree, (0, u128::MAX), &mut |_| true, &mut |_, group| {
            found.extend(group.iter().flatten().map(|sum| sum.0));
        });
        assert_eq!(found, [0, 1, 2, 3, 99, 68, 69]);
    }
}
