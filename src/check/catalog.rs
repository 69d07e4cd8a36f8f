//! The catalog as the root and the log give it: small records in memory, the big trees as trees
//! with what the log changes over them.

use std::collections::BTreeMap;

use super::findings::Findings;
use super::log::{self, Log};
use super::overlay::{Entries, Sums};
use super::problem::{Kind, Problem};
use super::slots::{Slots, Use};
use super::tree::{Met, Tree};
use crate::base::{DeviceNo, DiskId, Epoch, MapId, Place, Slot};
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
    pub versions: Entries,
    pub sums: Sums,
    pub log: Log,
    /// Whether the records above are all that there are; else what refers to them can't be judged.
    pub whole: bool,
}

impl<'a> Catalog<'a> {
    /// Reads the small trees, and lays the log over them.
    pub fn read(
        pages: &'a dyn Device,
        log_device: &dyn Device,
        root: Root,
        findings: &mut Findings,
    ) -> Self {
        let log = log::read(log_device, &root, findings);
        let mut catalog = Self {
            pages,
            disks: BTreeMap::new(),
            maps: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            devices: BTreeMap::new(),
            marks: root.marks,
            space: root.space,
            slots: Slots::default(),
            versions: Entries::default(),
            sums: Sums::default(),
            whole: log.whole,
            log,
            root,
        };
        catalog.read_records(findings);
        catalog.read_space(findings);
        catalog.replay(log_device, findings);
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

    fn add_device(&mut self, entry: DeviceEntry, all: Use) {
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
            for change in &changes {
                if let Err(error) = self.apply(change) {
                    self.refuse(device, &frame.0, &error, findings);
                    return;
                }
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

    /// Makes a change; an error says why it can't be made. Not to be called once the versions have
    /// marked their slots.
    pub fn apply(&mut self, change: &Change) -> Result<(), String> {
        let words = |error: crate::ondisk::FormatError| error.to_string();
        match change {
            Change::PutDisk(disk) => drop(self.disks.insert(disk.id, disk.clone())),
            Change::RemoveDisk(id) => there(self.disks.remove(id), || format!("disk {id}"))?,
            Change::PutMap(map) => drop(self.maps.insert(map.id, map.clone())),
            Change::RemoveMap(id) => there(self.maps.remove(id), || format!("map {id}"))?,
            Change::PutSnapshot(it) => {
                self.snapshots.insert((it.map, it.epoch), it.clone());
            }
            Change::RemoveSnapshot(map, epoch) => {
                there(self.snapshots.remove(&(*map, *epoch)), || {
                    format!("snapshot {epoch} of map {map}")
                })?;
            }
            Change::AddDevice(record) => {
                let number = record.device;
                if self.devices.contains_key(&number) {
                    return Err(format!("there is a device {number} already"));
                }
                self.space.total = self.space.total.saturating_add(record.slots);
                self.space.free = self.space.free.saturating_add(record.slots);
                let (free, record) = (record.slots, record.clone());
                self.add_device(DeviceEntry { free, record }, Use::Free);
            }
            Change::PutVersion(key, descriptor) => {
                let mut value = Vec::new();
                descriptor
                    .encode(self.root.geometry, &mut value)
                    .map_err(words)?;
                self.versions.put(key.to_key().map_err(words)?, value);
            }
            Change::RemoveVersion(key) => {
                if !self.versions.remove(key.to_key().map_err(words)?) {
                    return Err(format!("there is no {key:?}"));
                }
            }
            Change::PutChecksums {
                device,
                first,
                sums,
            } => {
                let slots = self.devices.get(device).map_or(0, |it| it.record.slots);
                let limit = self.root.geometry.slot_block(Slot(slots.min(MAX_SLOTS)));
                if first.saturating_add(sums.len() as u64) > limit {
                    return Err(format!("device {device} has no block {first}"));
                }
                self.sums.put(*device, *first, sums);
            }
            Change::Take {
                device,
                first,
                count,
            } => {
                self.turn((*device, first.0, *count), Use::Free, Use::Taken)?;
                self.count_free(*device, 0, *count);
            }
            Change::Retire(place) => {
                self.turn((place.device, place.slot.0, 1), Use::Taken, Use::Pending)?;
                self.space.pending = self.space.pending.saturating_add(1);
            }
            Change::Free(place) => {
                self.turn((place.device, place.slot.0, 1), Use::Pending, Use::Free)?;
                self.space.pending = self.space.pending.saturating_sub(1);
                self.count_free(place.device, 1, 0);
                self.sums.forget(*place, self.root.geometry);
            }
            Change::SetMarks(marks) => self.marks = *marks,
        }
        Ok(())
    }

    fn turn(&mut self, run: (DeviceNo, u64, u64), from: Use, to: Use) -> Result<(), String> {
        self.slots.turn(run, from, to).map_err(|at| {
            let is = match self.slots.get(at) {
                None => "does not exist",
                Some(Use::Free) => "is free",
                Some(Use::Pending) => "waits for its hole punch",
                Some(Use::Taken | Use::Version) => "is in use",
            };
            format!("{at} {is}")
        })
    }

    fn count_free(&mut self, device: DeviceNo, more: u64, less: u64) {
        let count = |free: u64| free.saturating_add(more).saturating_sub(less);
        self.space.free = count(self.space.free);
        if let Some(entry) = self.devices.get_mut(&device) {
            entry.free = count(entry.free);
        }
    }
}

fn there<T>(found: Option<T>, what: impl Fn() -> String) -> Result<(), String> {
    found
        .map(drop)
        .ok_or_else(|| format!("there is no {}", what()))
}
