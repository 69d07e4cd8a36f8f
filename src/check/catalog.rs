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
    Change, Descriptor, DeviceEntry, DiskRecord, MapRecord, Marks, Record, Root, SnapshotRecord,
    Space, TreeKind, decode_pack, decode_run, encode_pack, key_place, place_key, snapshot_key,
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

    /// Makes the changes of a commit; an error says why they can't be made. Not to be called once
    /// the versions have marked their slots.
    pub fn apply(&mut self, changes: &[Change]) -> Result<(), String> {
        let mut packed = BTreeMap::new();
        for change in changes {
            self.change(change, &mut packed)?;
        }
        self.settle_packs(&packed)
    }

    /// Makes a change. `packed`: how many blocks more are needed of each pack.
    fn change(&mut self, change: &Change, packed: &mut Packed) -> Result<(), String> {
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
                let key = key.to_key().map_err(words)?;
                self.unpack(key, packed)?;
                count(self.in_pack(&value)?, 1, packed);
                self.versions.put(key, value);
            }
            Change::RemoveVersion(version) => {
                let key = version.to_key().map_err(words)?;
                self.unpack(key, packed)?;
                if !self.versions.remove(key) {
                    return Err(format!("there is no {version:?}"));
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
            Change::Retire(place) => self.retire(*place)?,
            Change::Adopt {
                device,
                first,
                count,
            } => {
                self.turn((*device, first.0, *count), Use::Pending, Use::Taken)?;
                self.space.pending = self.space.pending.saturating_sub(*count);
            }
            Change::Free(place) => {
                self.turn((place.device, place.slot.0, 1), Use::Pending, Use::Free)?;
                self.space.pending = self.space.pending.saturating_sub(1);
                self.count_free(place.device, 1, 0);
                self.sums.forget(*place, self.root.geometry);
            }
            Change::SetMarks(marks) => self.marks = *marks,
            Change::CountFree(device, free) => {
                let entry = self.devices.get_mut(device);
                let entry = entry.ok_or_else(|| format!("there is no device {device}"))?;
                entry.free = *free;
            }
            Change::CountSpace(space) => self.space = *space,
            Change::CountPack(place, blocks) => {
                let key = place_key(*place).map_err(words)?;
                if self.value(TreeKind::Packs, key).is_none() {
                    return Err(format!("{place} is no pack"));
                }
                if *blocks > 0 {
                    self.packs.put(key, encode_pack(*blocks).to_vec());
                } else {
                    self.packs.remove(key);
                    self.retire(*place)?;
                }
            }
        }
        Ok(())
    }

    fn retire(&mut self, place: Place) -> Result<(), String> {
        self.turn((place.device, place.slot.0, 1), Use::Taken, Use::Pending)?;
        self.space.pending = self.space.pending.saturating_add(1);
        Ok(())
    }

    /// Counts the blocks that the version under a key no longer needs of a pack.
    fn unpack(&mut self, key: u128, packed: &mut Packed) -> Result<(), String> {
        let any = self.tree(TreeKind::Packs).root.top.is_some() || !self.packs.is_empty();
        // Without packs, it need not be looked for.
        if any || !packed.is_empty() {
            let old = self.value(TreeKind::Versions, key);
            let old = old.map_or(Ok(None), |old| self.in_pack(&old))?;
            count(old, -1, packed);
        }
        Ok(())
    }

    /// The pack that a version has blocks in, and how many.
    fn in_pack(&self, version: &[u8]) -> Result<Option<(Place, u64)>, String> {
        Descriptor::packed_blocks(version, self.root.geometry).map_err(|error| error.to_string())
    }

    /// Sets the counts of packs as the catalog does at the end of a commit; those that no version
    /// needs any more are given up.
    fn settle_packs(&mut self, packed: &Packed) -> Result<(), String> {
        let words = |error: crate::ondisk::FormatError| error.to_string();
        for (place, more) in packed {
            let key = place_key(*place).map_err(words)?;
            let before = match self.value(TreeKind::Packs, key) {
                Some(value) => decode_pack(&value).map_err(words)?,
                None => 0,
            };
            match before.checked_add_signed(*more) {
                None => return Err(format!("{place} has fewer blocks than are taken from it")),
                Some(0) => {
                    if before > 0 {
                        self.packs.remove(key);
                    }
                    self.retire(*place)?;
                }
                Some(blocks) => self.packs.put(key, encode_pack(blocks).to_vec()),
            }
        }
        Ok(())
    }

    /// What stands under a key of the versions or the packs now.
    fn value(&mut self, kind: TreeKind, key: u128) -> Option<Vec<u8>> {
        let entries = match kind {
            TreeKind::Packs => &self.packs,
            _ => &self.versions,
        };
        if let Some(value) = entries.get(key) {
            return value.map(<[u8]>::to_vec);
        }
        let (mut found, mut whole) = (None, true);
        self.tree(kind).walk((key, key), &mut |met| {
            match met {
                Met::Entry(_, value) => found = Some(value.to_vec()),
                Met::Damaged { .. } => whole = false,
                Met::Page(_) => {}
            }
            true
        });
        self.whole &= whole;
        found
    }

    fn turn(&mut self, run: (DeviceNo, u64, u64), from: Use, to: Use) -> Result<(), String> {
        self.slots.turn(run, from, to).map_err(|at| {
            let is = match self.slots.get(at) {
                None => "does not exist",
                Some(Use::Free) => "is free",
                Some(Use::Pending) => "waits for its hole punch",
                Some(Use::Taken | Use::Version | Use::Pack) => "is in use",
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

/// How many blocks more are needed of each pack.
type Packed = BTreeMap<Place, i64>;

fn count(of: Option<(Place, u64)>, sign: i64, packed: &mut Packed) {
    if let Some((place, blocks)) = of {
        // A segment has a thousand blocks at the most.
        *packed.entry(place).or_default() += sign * blocks as i64;
    }
}

fn there<T>(found: Option<T>, what: impl Fn() -> String) -> Result<(), String> {
    found
        .map(drop)
        .ok_or_else(|| format!("there is no {}", what()))
}
