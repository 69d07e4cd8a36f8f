//! The rules of the small records: disks, maps, snapshots, devices, and how they hang together.

use std::collections::{BTreeMap, BTreeSet};

use super::catalog::Catalog;
use super::findings::Findings;
use super::names::{self, file_name};
use super::problem::{Kind, Problem};
use crate::base::{MapId, check_disk_name, check_snapshot_name};
use crate::ondisk::{Change, DiskRecord, MapRecord, SnapshotRecord};

/// The largest disk: 1 PiB.
const MAX_DISK_SIZE: u64 = 1 << 50;

/// Looks at all of them.
pub(super) fn check(catalog: &Catalog<'_>, findings: &mut Findings) {
    disks(catalog, findings);
    maps(catalog, findings);
    snapshots(catalog, findings);
    devices(catalog, findings);
}

fn disks(catalog: &Catalog<'_>, findings: &mut Findings) {
    let mut writers = BTreeMap::<MapId, &DiskRecord>::new();
    let mut taken = BTreeSet::new();
    for disk in catalog.disks.values() {
        let wrong = |kind, message: String| Problem::damage(kind, message).of_disk(&disk.name);
        match catalog.maps.get(&disk.map) {
            Some(map) if map.live => {}
            Some(map) => {
                let message = format!(
                    "disk {} writes to map {}, which has ended",
                    disk.name, map.id
                );
                findings.add(wrong(Kind::Record, message));
            }
            None => {
                let message = format!(
                    "disk {} has map {}, which there is not",
                    disk.name, disk.map
                );
                findings.add(wrong(Kind::Record, message));
            }
        }
        if let Some(other) = writers.insert(disk.map, disk) {
            let message = format!("disks {} and {} write to one map", other.name, disk.name);
            findings.add(wrong(Kind::Record, message).of_disk(&other.name));
        }
        if disk.size > MAX_DISK_SIZE {
            let message = format!(
                "disk {} has {} bytes, more than any can have",
                disk.name, disk.size
            );
            findings.add(wrong(Kind::Record, message));
        }
        if disk.id >= catalog.marks.next_disk {
            let message = format!(
                "disk {} has number {}, and the next disk would get {}",
                disk.name, disk.id, catalog.marks.next_disk
            );
            findings.add(wrong(Kind::Record, message));
        }
        if let Err(error) = check_disk_name(&disk.name) {
            findings.add(wrong(Kind::Name, format!("a disk's name: {error}")));
        }
        if !disk.unlinked && !taken.insert(&disk.name) {
            findings.add(wrong(
                Kind::Name,
                format!("two disks are named {}", disk.name),
            ));
        }
    }
    for map in catalog.maps.values().filter(|map| map.live) {
        if catalog.whole && !writers.contains_key(&map.id) {
            let message = format!("map {} is live, and no disk writes to it", map.id);
            let mut problem = Problem::damage(Kind::Record, message);
            names::add_map(catalog, map.id, &mut problem);
            findings.add(problem);
        }
    }
}

fn maps(catalog: &Catalog<'_>, findings: &mut Findings) {
    for map in catalog.maps.values() {
        let mut wrong = |message: String| {
            let mut problem = Problem::damage(Kind::Record, message);
            names::add_map(catalog, map.id, &mut problem);
            findings.add(problem);
        };
        if map.id >= catalog.marks.next_map {
            wrong(format!(
                "map {} is there, and the next map would get number {}",
                map.id, catalog.marks.next_map
            ));
        }
        if let Some(origin) = map.origin {
            let known = catalog.snapshots.get(&(origin.map, origin.epoch));
            if known.is_none() && catalog.whole {
                wrong(format!(
                    "map {} stands on snapshot {} of map {}, which there is not",
                    map.id, origin.epoch, origin.map
                ));
            } else if origin.map >= map.id {
                wrong(format!(
                    "map {} stands on map {}, a later one",
                    map.id, origin.map
                ));
            }
        }
        for snapshot in names::snapshots_of(catalog, map.id) {
            if snapshot.epoch >= map.epoch {
                wrong(format!(
                    "{} ended epoch {} of map {}, which is in epoch {}",
                    file_name(snapshot),
                    snapshot.epoch,
                    map.id,
                    map.epoch
                ));
            }
        }
        let nobodys = !map.live && names::snapshots_of(catalog, map.id).next().is_none();
        if nobodys && !map.reap && catalog.whole {
            let message = format!("map {} has neither a disk nor a snapshot", map.id);
            findings.add(Problem::mended_by(Kind::Stale, message, vec![reap(map)]));
        }
    }
}

/// The change that makes the next mount look through a map and free what nobody sees.
pub(super) fn reap(map: &MapRecord) -> Change {
    Change::PutMap(MapRecord {
        reap: true,
        ..map.clone()
    })
}

fn snapshots(catalog: &Catalog<'_>, findings: &mut Findings) {
    let mut taken = BTreeSet::new();
    for snapshot in catalog.snapshots.values() {
        let name = file_name(snapshot);
        let wrong = |kind, message: String| Problem::damage(kind, message).of_snapshot(&name);
        if !catalog.maps.contains_key(&snapshot.map) && catalog.whole {
            let message = format!("{name} is of map {}, which there is not", snapshot.map);
            findings.add(wrong(Kind::Record, message));
        }
        if snapshot.size > MAX_DISK_SIZE {
            let message = format!("{name} has {} bytes, more than any can have", snapshot.size);
            findings.add(wrong(Kind::Record, message));
        }
        if snapshot.hidden {
            continue;
        }
        if let Err(error) = check_snapshot_name(&snapshot.disk_name, &snapshot.name) {
            findings.add(wrong(Kind::Name, format!("a snapshot's name: {error}")));
        }
        if !taken.insert(key(snapshot)) {
            findings.add(wrong(Kind::Name, format!("two snapshots are named {name}")));
        }
    }
}

fn key(snapshot: &SnapshotRecord) -> (&str, &str) {
    (&snapshot.disk_name, &snapshot.name)
}

fn devices(catalog: &Catalog<'_>, findings: &mut Findings) {
    let mut paths = BTreeSet::new();
    for entry in catalog.devices.values() {
        let record = &entry.record;
        if !paths.insert(&record.path) {
            let message = format!("two devices of the pool are {}", record.path);
            findings.add(Problem::damage(Kind::Device, message));
        }
    }
}
