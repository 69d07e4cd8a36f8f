//! Going through the versions a segment at a time, and who reads which of their blocks.

use super::catalog::Catalog;
use super::names;
use super::problem::Problem;
use crate::base::{BlockMask, Epoch};
use crate::ondisk::{Descriptor, TreeKind, VersionKey};

/// Entries that are none which are kept to be reported.
const MAX_ODD: usize = 1000;

/// A version with its key.
pub(super) type Version = (VersionKey, Descriptor);

/// Goes through the versions, all of a segment at a time, oldest first. What is no version goes to
/// `odd` with the reason, as far as there is room.
pub(super) fn each_segment(
    catalog: &Catalog<'_>,
    segment: &mut dyn FnMut(&[Version]),
    odd: &mut Vec<(VersionKey, String)>,
) {
    let geometry = catalog.root.geometry;
    let mut versions: Vec<Version> = Vec::new();
    let mut gone = Vec::new();
    let same = |a: &VersionKey, b: &VersionKey| (a.map, a.segment) == (b.map, b.segment);
    catalog.versions.walk(
        &catalog.tree(TreeKind::Versions),
        (0, u128::MAX),
        &mut |_| true,
        &mut |key, value| {
            let key = VersionKey::from_key(key);
            if versions.last().is_some_and(|(last, _)| !same(last, &key)) {
                segment(&versions);
                versions.clear();
            }
            match Descriptor::from_value(value, geometry) {
                Ok(descriptor) => versions.push((key, descriptor)),
                Err(error) if odd.len() < MAX_ODD => odd.push((key, error.to_string())),
                Err(_) => {}
            }
            true
        },
        &mut |key| gone.push(VersionKey::from_key(key)),
    );
    if !versions.is_empty() {
        segment(&versions);
    }
    let gone = gone.into_iter().take(MAX_ODD);
    odd.extend(gone.map(|key| {
        (
            key,
            "the log removes a version that was not there".to_owned(),
        )
    }));
}

/// Adds those who find these blocks of a version to those whom a problem touches: who looks at
/// the version itself, or at a later one through whose gaps they show.
pub(super) fn name(
    catalog: &Catalog<'_>,
    versions: &[Version],
    (at, mut blocks): (usize, BlockMask),
    mut problem: Problem,
) -> Problem {
    for (above, (key, version)) in versions.iter().enumerate().skip(at) {
        if above > at {
            blocks = blocks.minus(&version.covered());
        }
        if blocks.is_empty() {
            break;
        }
        if key.death == Epoch::LIVE {
            names::add_disk(catalog, key.map, &mut problem);
        }
        let lived = version.birth..key.death;
        let of = names::snapshots_of(catalog, key.map);
        for snapshot in of.filter(|snapshot| lived.contains(&snapshot.epoch)) {
            names::add_snapshot(catalog, snapshot, &mut problem);
        }
    }
    problem
}

/// Whether a disk or a snapshot, hidden ones among them, finds any of these blocks of a version.
pub(super) fn has_readers(
    catalog: &Catalog<'_>,
    versions: &[Version],
    (at, mut blocks): (usize, BlockMask),
) -> bool {
    for (above, (key, version)) in versions.iter().enumerate().skip(at) {
        if above > at {
            blocks = blocks.minus(&version.covered());
        }
        if blocks.is_empty() {
            return false;
        }
        let map = catalog.maps.get(&key.map);
        let lived = version.birth..key.death;
        let seen = |epoch: &Epoch| lived.contains(epoch);
        if key.death == Epoch::LIVE && map.is_none_or(|map| map.live)
            || names::snapshots_of(catalog, key.map).any(|it| seen(&it.epoch))
        {
            return true;
        }
    }
    false
}
