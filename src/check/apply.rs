//! What a commit changes, laid over the catalog: those of the log, and a repair's before it is
//! written.

use std::collections::BTreeMap;

use super::catalog::{Catalog, MAX_SLOTS};
use super::slots::Use;
use super::tree::Met;
use crate::base::{DeviceNo, Place, Slot};
use crate::ondisk::{
    Change, Descriptor, DeviceEntry, TreeKind, decode_pack, encode_pack, place_key,
};

impl Catalog<'_> {
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
