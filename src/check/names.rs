//! Who stands on a map: the disk that writes to it, its snapshots, and the clones over those.

use super::catalog::Catalog;
use super::problem::Problem;
use crate::base::{DiskId, Epoch, MapId, snapshot_file_name};
use crate::ondisk::SnapshotRecord;

/// Names that a problem lists, of each kind.
const MAX_NAMES: usize = 50;

/// The disk that writes to a map.
pub(super) fn disk_of<'c>(catalog: &'c Catalog<'_>, map: MapId) -> Option<(DiskId, &'c str)> {
    let mut disks = catalog.disks.values();
    let disk = disks.find(|disk| disk.map == map)?;
    Some((disk.id, &disk.name))
}

/// The snapshots of a map, oldest first.
pub(super) fn snapshots_of<'c>(
    catalog: &'c Catalog<'_>,
    map: MapId,
) -> impl DoubleEndedIterator<Item = &'c SnapshotRecord> {
    let of = catalog
        .snapshots
        .range((map, Epoch(0))..=(map, Epoch(u64::MAX)));
    of.map(|(_, snapshot)| snapshot)
}

/// A snapshot's file name.
pub(super) fn file_name(snapshot: &SnapshotRecord) -> String {
    snapshot_file_name(&snapshot.disk_name, &snapshot.name)
}

/// Adds all who stand on a map to those whom a problem touches.
pub(super) fn add_map(catalog: &Catalog<'_>, map: MapId, problem: &mut Problem) {
    add_disk(catalog, map, problem);
    for snapshot in snapshots_of(catalog, map) {
        add_snapshot(catalog, snapshot, problem);
    }
}

/// Adds the disk that writes to a map.
pub(super) fn add_disk(catalog: &Catalog<'_>, map: MapId, problem: &mut Problem) {
    if let Some((_, name)) = disk_of(catalog, map) {
        add(&mut problem.disks, name.to_owned());
    }
}

/// Adds a snapshot, and the disks and snapshots that are clones of it.
pub(super) fn add_snapshot(
    catalog: &Catalog<'_>,
    snapshot: &SnapshotRecord,
    problem: &mut Problem,
) {
    if !snapshot.hidden && !add(&mut problem.snapshots, file_name(snapshot)) {
        return;
    }
    let on_it = |origin: crate::ondisk::Origin| {
        (origin.map, origin.epoch) == (snapshot.map, snapshot.epoch)
    };
    // A clone's map is younger than its origin's: this comes to an end.
    let clones = catalog.maps.range(snapshot.map.next()..);
    for (clone, _) in clones.filter(|(_, map)| map.origin.is_some_and(on_it)) {
        add_map(catalog, *clone, problem);
    }
}

/// Returns whether there is room for more.
fn add(names: &mut Vec<String>, name: String) -> bool {
    if !names.contains(&name) && names.len() < MAX_NAMES {
        names.push(name);
    }
    names.len() < MAX_NAMES
}
