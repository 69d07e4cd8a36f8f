//! The changes that mend a slot on a list where it should not be.

use super::catalog::Catalog;
use crate::base::{Checksum, DeviceNo, Place};
use crate::ondisk::{Change, SumGroup, TreeKind};

/// The change that takes a slot off the free list.
pub(super) fn take(place: Place) -> Change {
    Change::Take {
        device: place.device,
        first: place.slot,
        count: 1,
    }
}

/// The changes that set the checksums of a slot as they are.
pub(super) fn sums_of(catalog: &Catalog<'_>, place: Place) -> Vec<Change> {
    let geometry = catalog.root.geometry;
    let first = geometry.slot_block(place.slot);
    let end = first + geometry.blocks() as u64;
    let (from, _) = SumGroup::locate(place.device, first);
    let (to, _) = SumGroup::locate(place.device, end - 1);
    let mut changes = Vec::new();
    let tree = catalog.tree(TreeKind::Checksums);
    catalog
        .sums
        .walk(&tree, (from, to), &mut |_| true, &mut |key, group| {
            let start = key as u64 * SumGroup::BLOCKS;
            let present = (start..)
                .zip(group)
                .filter_map(|(block, sum)| Some((block, (*sum)?)));
            present
                .filter(|(block, _)| (first..end).contains(block))
                .for_each(|(block, sum)| add_sum(&mut changes, place.device, block, sum));
        });
    changes
}

/// Adds the checksum of a block, to those of its neighbours where it has some: a commit with many
/// changes may not find room in the log.
fn add_sum(changes: &mut Vec<Change>, device: DeviceNo, block: u64, sum: Checksum) {
    match changes.last_mut() {
        Some(Change::PutChecksums { first, sums, .. }) if *first + sums.len() as u64 == block => {
            sums.push(sum);
        }
        _ => changes.push(Change::PutChecksums {
            device,
            first: block,
            sums: vec![sum],
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_of_neighbours_are_one_change() {
        let mut changes = Vec::new();
        for block in [3, 4, 5, 9, 10] {
            add_sum(&mut changes, DeviceNo(2), block, Checksum(block as u32));
        }
        let run = |first: u64, count: u64| Change::PutChecksums {
            device: DeviceNo(2),
            first,
            sums: (first..first + count)
                .map(|block| Checksum(block as u32))
                .collect(),
        };
        assert_eq!(changes, [run(3, 3), run(9, 2)]);
    }
}
