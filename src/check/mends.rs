//! The changes that mend a slot on a list where it should not be.

use super::catalog::Catalog;
use crate::base::Place;
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
            changes.extend(
                present
                    .filter(|(block, _)| (first..end).contains(block))
                    .map(|(block, sum)| Change::PutChecksums {
                        device: place.device,
                        first: block,
                        sums: vec![sum],
                    }),
            );
        });
    changes
}
