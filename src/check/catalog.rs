//! The catalog as the root and the log give it: small records in memory, the big trees as trees
//! with what the log changes over them.

use std::collections::BTreeMap;

use super::findings::Findings;
use super::log::{self, Log};
use super::overlay::{Entries, Sums};
use super::problem::{Kind, Problem};
use super::slots::{Slots, Use};
use super::tree::{Met, Tree};
use crate::base::{DeviceNo, DiskId, Epoch, MapId, Place};
use crate::device::Device;
use crate::ondisk::{
    Change, DeviceEntry, DiskRecord, MapRecord, Marks, Record, Root, SnapshotRecord, Space,
    TreeKind, decode_run, key_place, snapshot_key,
};

/// More slots than any device has: 2^36 of 64 KiB are 4 PiB.
pub(super) const MAX_SLOTS: u64 = 1 << 36;

/// Everything but the devices' content.
pub(super) struct Catalog<'a> {
    pub pages: &'a dyn Device,
    pub root: Root,
    pub disks: BTreeMap<DiskId, DiskRecord>,
    pub maps: BTreeMap<MapId, MapRecord>,
    pub snapshots: BTreeMap<(MapId, Epoch), SnapshotRecord>,
    pub devices: BTreeMap<DeviceNo, DeviceEntry>,
    pub marks: Marks,
    pub space: Space,
    pub slots: Slots,
    /// Slots on both the free and the pending list; `slots` has them as free.
    pub on_both_lists: u64,
    pub versions: Entries,
    pub sums: Sums,
    pub packs: Entries,
    pub log: Log,
    /// Whether the records above are all that there are; else what refers to them can't be judged.
    pub whole: bool,
}

impl<'a> Catalog<'a> {
    /// Reads the small trees, and lays the log over them.
    pub fn read(
        pages: &'a dyn Device,
        log_device: Result<&dyn Device, &str>,
        root: Root,
        findings: &mut Findings,
    ) -> Self {
        let log = match log_device {
            Ok(device) => log::read(device, &root, findings),
            Err(why) => log::missing(why, &root, findings),
        };
        let mut catalog = Self {
            pages,
            disks: BTreeMap::new(),
            maps: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            devices: BTreeMap::new(),
            marks: root.marks,
            space: root.space,
            slots: Slots::default(),
            on_both_lists: 0,
            versions: Entries::default(),
            sums: Sums::default(),
            packs: Entries::default(),
            whole: log.whole,
            log,
            root,
        };
        catalog.read_records(findings);
        catalog.read_space(findings);
        if let Ok(device) = log_device {
            catalog.replay(device, findings);
        }
        catalog
    }

    /// A tree as the root has it.
    pub fn tree(&self, kind: TreeKind) -> Tree<'a> {
        let at = TreeKind::ALL.iter().position(|known| *known == kind);
        Tree {
            pages: self.pages,
            kind,
            geometry: self.root.geometry,
            root: at.map_or_else(Default::default, |at| self.root.trees[at]),
        }
    }

    /// Reads all entries of a small tree. Damaged pages are for [`super::pages`] to report.
    fn entries(&mut self, kind: TreeKind, mut entry: impl FnMut(&mut Self, u128, &[u8])) {
        let tree = self.tree(kind);
        let mut whole = true;
        tree.walk((0, u128::MAX), &mut |met| {
            match met {
                Met::Entry(key, value) => entry(self, key, value),
                Met::Damaged { .. } => whole = false,
                Met::Page(_) => {}
            }
            true
        });
        self.whole &= whole;
    }

    fn read_records(&mut self, findings: &mut Findings) {
        self.entries(TreeKind::Disks, |catalog, key, value| {
            let of = |disk: &DiskRecord| u128::from(disk.id.0);
            if let Some(disk) = catalog.record(key, value, of, findings) {
                catalog.disks.insert(disk.id, disk);
            }
        });
        self.entries(TreeKind::Maps, |catalog, key, value| {
            let of = |map: &MapRecord| u128::from(map.id.0);
            if let Some(map) = catalog.record(key, value, of, findings) {
                catalog.maps.insert(map.id, map);
            }
        });
        self.entries(TreeKind::Snapshots, |catalog, key, value| {
            let of = |it: &SnapshotRecord| snapshot_key(it.map, it.epoch).unwrap_or(u128::MAX);
            if let Some(it) = catalog.record(key, value, of, findings) {
                catalog.snapshots.insert((it.map, it.epoch), it);
            }
        });
        self.entries(TreeKind::Devices, |catalog, key, value| {
            let of = |entry: &DeviceEntry| u128::from(entry.record.device.0);
            if let Some(entry) = catalog.record(key, value, of, findings) {
                catalog.add_device(entry, Use::Taken);
            }
        });
    }

    pub(super) fn add_device(&mut self, entry: DeviceEntry, all: Use) {
        let number = entry.record.device;
        self.slots
            .add(number, entry.record.slots.min(MAX_SLOTS), all);
        self.devices.insert(number, entry);
    }

    /// Decodes a record that must stand under its own key.
    fn record<T: Record>(
        &mut self,
        key: u128,
        value: &[u8],
        own: impl Fn(&T) -> u128,
        findings: &mut Findings,
    ) -> Option<T> {
        let message = match T::from_value(value) {
            Ok(record) if own(&record) == key => return Some(record),
            Ok(_) => format!("the {} under key {key:#x} is another one's", T::WHAT),
            Err(error) => format!("under key {key:#x}: {error}"),
        };
        findings.add(Problem::damage(Kind::Record, message));
        self.whole = false;
        None
    }

    fn read_space(&mut self, findings: &mut Findings) {
        let mut last: Option<(Place, u64)> = None;
        self.entries(TreeKind::Free, |catalog, key, value| {
            let place = key_place(key);
            let wrong = |message: String| Problem::damage(Kind::Space, message).at_slot(place);
            let count = match decode_run(value) {
                Ok(count) => count,
                Err(error) => return findings.add(wrong(error.to_string())),
            };
            let touches = last.is_some_and(|(before, count)| {
                before.device == place.device && before.slot.0 + count >= place.slot.0
            });
            if touches {
                findings.add(wrong("the free list has runs that touch".to_owned()));
            }
            last = Some((place, count));
            let run = (place.device, place.slot.0, count);
            if let Err(at) = catalog.slots.turn(run, Use::Taken, Use::Free) {
                let slots = format!("{count} segments from {place} can't all be free: {at} ");
                let why = match catalog.slots.get(at) {
                    Some(_) => "is free already",
                    None => "does not exist",
                };
                findings.add(wrong(slots + why));
            }
        });
        self.entries(TreeKind::Pending, |catalog, key, _| {
            let place = key_place(key);
            let run = (place.device, place.slot.0, 1);
            if catalog.slots.turn(run, Use::Taken, Use::Pending).is_ok() {
                return;
            }
            let is_free = catalog.slots.get(place) == Some(Use::Free);
            catalog.on_both_lists += u64::from(is_free);
            findings.add(match catalog.slots.get(place) {
                // Off the free list, it waits for its punch like any other that was given up.
                Some(Use::Free) => Problem::mended_by(
                    Kind::Space,
                    format!("{place} is free, and waits for its hole punch too"),
                    vec![Change::Take {
                        device: place.device,
                        first: place.slot,
                        count: 1,
                    }],
                )
                .at_slot(place),
                _ => Problem::damage(
                    Kind::Space,
                    format!("{place} waits for its hole punch and does not exist"),
                ),
            });
        });
    }

    /// Lays the log's commits over what the root has.
    fn replay(&mut self, device: &dyn Device, findings: &mut Findings) {
        for frame in std::mem::take(&mut self.log.frames) {
            let changes = match log::changes(device, &frame, &self.root) {
                Ok(changes) => changes,
                Err(error) => {
                    self.refuse(device, &frame.0, &error, findings);
                    return;
                }
            };
            if let Err(error) = self.apply(&changes) {
                self.refuse(device, &frame.0, &error, findings);
                return;
            }
            self.log.frames.push(frame);
        }
    }

    fn refuse(&mut self, device: &dyn Device, at: &u64, error: &str, findings: &mut Findings) {
        // Where the root's records are not all there, it is no wonder.
        if self.whole {
            let message = format!("a commit of the log can't be repeated: {error}");
            findings.add(Problem::damage(Kind::Log, message).in_file(device.name(), *at));
        }
        (self.whole, self.log.whole) = (false, false);
    }
}
