//! Making a change in the catalog's content: the same code for a commit and for its replay.
//!
//! How many blocks of a pack are needed is counted here, as versions come and go; a pack that is
//! not needed any more at the end of a commit is given up with it.

use std::collections::BTreeMap;

use super::state::Content;
use super::tree::{Edit, Tree};
use super::{CatalogError, Refusal};
use crate::base::{Checksum, DeviceNo, Geometry, Place, Slot};
use crate::ondisk::{
    Change, Descriptor, DeviceEntry, DeviceRecord, FormatError, Record, SumGroup, VersionKey,
    decode_pack, decode_run, encode_pack, encode_run, key_place, place_key, snapshot_key,
};

/// Why a change was not made.
pub(crate) enum Failure {
    /// The change is to blame.
    Refused(Refusal),
    /// The catalog is.
    Catalog(CatalogError),
}

impl From<CatalogError> for Failure {
    fn from(error: CatalogError) -> Self {
        Self::Catalog(error)
    }
}
impl From<Refusal> for Failure {
    fn from(reason: Refusal) -> Self {
        Self::Refused(reason)
    }
}
impl From<FormatError> for Failure {
    fn from(error: FormatError) -> Self {
        Self::Refused(Refusal::Format(error))
    }
}

/// Makes a commit's changes, in order. Where one fails, `content` and `edit` are of no more use.
pub(crate) fn apply_all(
    content: &mut Content,
    edit: &mut Edit<'_>,
    geometry: Geometry,
    changes: &[Change],
) -> Result<(), CatalogError> {
    let mut applier = Applier {
        content,
        edit,
        geometry,
        value: Vec::new(),
        packs: BTreeMap::new(),
    };
    let refused = |index| {
        move |failure| match failure {
            Failure::Refused(reason) => CatalogError::Refused { index, reason },
            Failure::Catalog(error) => error,
        }
    };
    for (index, change) in changes.iter().enumerate() {
        applier.apply(change).map_err(refused(index))?;
    }
    applier.settle_packs().map_err(refused(changes.len()))
}

struct Applier<'a, 'p> {
    content: &'a mut Content,
    edit: &'a mut Edit<'p>,
    geometry: Geometry,
    /// Where values are put together.
    value: Vec<u8>,
    /// Packs that versions were added to or taken from: how many blocks more are needed of each.
    packs: BTreeMap<Place, i64>,
}

impl Applier<'_, '_> {
    fn apply(&mut self, change: &Change) -> Result<(), Failure> {
        let Self { content, edit, .. } = self;
        match change {
            Change::PutDisk(disk) => {
                let value = disk.to_value()?;
                content.disks.put(edit, u128::from(disk.id.0), &value)?;
            }
            Change::RemoveDisk(id) => {
                remove(
                    &mut content.disks,
                    edit,
                    u128::from(id.0),
                    Refusal::NoDisk(*id),
                )?;
            }
            Change::PutMap(map) => {
                let value = map.to_value()?;
                content.maps.put(edit, u128::from(map.id.0), &value)?;
            }
            Change::RemoveMap(id) => {
                remove(
                    &mut content.maps,
                    edit,
                    u128::from(id.0),
                    Refusal::NoMap(*id),
                )?;
            }
            Change::PutSnapshot(snapshot) => {
                let key = snapshot_key(snapshot.map, snapshot.epoch)?;
                content.snapshots.put(edit, key, &snapshot.to_value()?)?;
            }
            Change::RemoveSnapshot(map, epoch) => {
                let key = snapshot_key(*map, *epoch)?;
                let missing = Refusal::NoSnapshot(*map, *epoch);
                remove(&mut content.snapshots, edit, key, missing)?;
            }
            Change::AddDevice(device) => self.add_device(device)?,
            Change::PutVersion(key, descriptor) => self.put_version(*key, descriptor)?,
            Change::RemoveVersion(key) => {
                let tree_key = key.to_key()?;
                let old = content.versions.get(edit.pages, tree_key)?;
                let packed = match &old {
                    Some(old) => Descriptor::packed_blocks(old.value(), self.geometry)?,
                    None => None,
                };
                drop(old);
                let missing = Refusal::NoVersion(*key);
                remove(&mut content.versions, edit, tree_key, missing)?;
                self.count_packed(packed, -1);
            }
            Change::PutChecksums {
                device,
                first,
                sums,
            } => {
                self.put_checksums(*device, *first, sums)?;
            }
            Change::Take {
                device,
                first,
                count,
            } => self.take(*device, *first, *count)?,
            Change::Retire(place) => self.retire(*place)?,
            Change::Free(place) => self.free(*place)?,
            Change::SetMarks(marks) => content.marks = *marks,
            Change::Adopt {
                device,
                first,
                count,
            } => self.adopt(*device, *first, *count)?,
            Change::CountFree(device, free) => {
                self.device_counts(*device)?;
                self.set_device_free(*device, *free)?;
            }
            Change::CountSpace(space) => content.space = *space,
            Change::CountPack(place, blocks) => self.count_pack(*place, *blocks)?,
        }
        Ok(())
    }

    fn add_device(&mut self, device: &DeviceRecord) -> Result<(), Failure> {
        let Self { content, edit, .. } = self;
        let key = u128::from(device.device.0);
        if content.devices.get(edit.pages, key)?.is_some() {
            return Err(Refusal::DeviceExists(device.device).into());
        }
        let entry = DeviceEntry {
            free: device.slots,
            record: device.clone(),
        };
        content.devices.put(edit, key, &entry.to_value()?)?;
        if device.slots > 0 {
            let slot = Slot(0);
            let key = place_key(Place {
                device: device.device,
                slot,
            })?;
            content.free.put(edit, key, &encode_run(device.slots))?;
        }
        content.space.total += device.slots;
        content.space.free += device.slots;
        Ok(())
    }

    fn put_version(&mut self, key: VersionKey, descriptor: &Descriptor) -> Result<(), Failure> {
        descriptor.check_key(key)?;
        if let Some(place) = descriptor.place {
            self.check_slots(place.device, place.slot, 1)?;
        }
        self.value.clear();
        descriptor.encode(self.geometry, &mut self.value)?;
        let (value, geometry, mut before) = (&self.value, self.geometry, Ok(None));
        let put = &mut |to: &mut [u8]| {
            before = Descriptor::packed_blocks(to, geometry);
            to.copy_from_slice(value);
        };
        self.content
            .versions
            .change(self.edit, key.to_key()?, put)?;
        let before = before?;
        self.count_packed(before, -1);
        self.count_packed(Descriptor::packed_blocks(&self.value, geometry)?, 1);
        Ok(())
    }

    /// Counts the blocks that a version needs of a pack, or no longer needs.
    fn count_packed(&mut self, packed: Option<(Place, u64)>, sign: i64) {
        if let Some((place, blocks)) = packed {
            // A segment has a thousand blocks at the most.
            *self.packs.entry(place).or_default() += sign * blocks as i64;
        }
    }

    /// Enters how many blocks of each pack are needed now; gives up those that none needs.
    fn settle_packs(&mut self) -> Result<(), Failure> {
        for (place, more) in std::mem::take(&mut self.packs) {
            let key = place_key(place)?;
            let Self { content, edit, .. } = self;
            let before = match content.packs.get(edit.pages, key)? {
                Some(entry) => decode_pack(entry.value())?,
                None => 0,
            };
            match before.checked_add_signed(more) {
                None => return Err(Refusal::NotInPack(place).into()),
                Some(0) => {
                    content.packs.remove(edit, key)?;
                    self.retire(place)?;
                }
                Some(blocks) => {
                    content.packs.put(edit, key, &encode_pack(blocks))?;
                }
            }
        }
        Ok(())
    }

    /// A pack is needed for so many blocks, whatever was counted.
    fn count_pack(&mut self, place: Place, blocks: u64) -> Result<(), Failure> {
        let key = place_key(place)?;
        let Self { content, edit, .. } = self;
        if content.packs.get(edit.pages, key)?.is_none() {
            return Err(Refusal::NotInPack(place).into());
        }
        if blocks > 0 {
            content.packs.put(edit, key, &encode_pack(blocks))?;
            return Ok(());
        }
        content.packs.remove(edit, key)?;
        self.retire(place)
    }

    fn put_checksums(
        &mut self,
        device: DeviceNo,
        first: u64,
        sums: &[Checksum],
    ) -> Result<(), Failure> {
        let (_, slots) = self.device_counts(device)?;
        let (count, limit) = (sums.len() as u64, self.geometry.slot_block(Slot(slots)));
        if first.checked_add(count).is_none_or(|end| end > limit) {
            let what = "blocks";
            return Err(Refusal::OutsideDevice {
                what,
                device,
                first,
                count,
                limit,
            }
            .into());
        }
        let (mut block, mut rest) = (first, sums);
        while !rest.is_empty() {
            let (key, index) = SumGroup::locate(device, block);
            let run = rest.len().min(SumGroup::BLOCKS as usize - index);
            let (now, later) = rest.split_at(run);
            let set = &mut |value: &mut [u8]| SumGroup::set(value, index, now);
            self.content.checksums.change(self.edit, key, set)?;
            block += run as u64;
            rest = later;
        }
        Ok(())
    }

    fn take(&mut self, device: DeviceNo, first: Slot, count: u64) -> Result<(), Failure> {
        let (free, _) = self.check_slots(device, first, count)?;
        if count == 0 {
            return Ok(());
        }
        let not_free = Refusal::NotFree {
            device,
            first,
            count,
        };
        let Some((start, len)) = self.run_at_or_before(Place {
            device,
            slot: first,
        })?
        else {
            return Err(not_free.into());
        };
        // Nothing below overflows: all are slots of the device.
        let (end, run_end) = (first.0 + count, start.0 + len);
        if end > run_end {
            return Err(not_free.into());
        }
        let Self { content, edit, .. } = self;
        if start == first {
            content.free.remove(
                edit,
                place_key(Place {
                    device,
                    slot: start,
                })?,
            )?;
        } else {
            let key = place_key(Place {
                device,
                slot: start,
            })?;
            content
                .free
                .put(edit, key, &encode_run(first.0 - start.0))?;
        }
        if end < run_end {
            let key = place_key(Place {
                device,
                slot: Slot(end),
            })?;
            content.free.put(edit, key, &encode_run(run_end - end))?;
        }
        content.space.free = less("free", content.space.free, count)?;
        self.set_device_free(device, less("free", free, count)?)
    }

    fn retire(&mut self, place: Place) -> Result<(), Failure> {
        self.check_slots(place.device, place.slot, 1)?;
        let run = self.run_at_or_before(place)?;
        if run.is_some_and(|(start, len)| place.slot.0 < start.0 + len) {
            return Err(Refusal::IsFree(place).into());
        }
        if !self
            .content
            .pending
            .put(self.edit, place_key(place)?, &[])?
        {
            return Err(Refusal::IsPending(place).into());
        }
        self.content.space.pending += 1;
        Ok(())
    }

    fn free(&mut self, place: Place) -> Result<(), Failure> {
        let Place { device, slot } = place;
        let (free, _) = self.check_slots(device, slot, 1)?;
        if !self.content.pending.remove(self.edit, place_key(place)?)? {
            return Err(Refusal::NotPending(place).into());
        }
        let (mut start, mut len) = (slot, 1);
        if let Some((before, run)) = self.run_at_or_before(place)?
            && before.0 + run == slot.0
        {
            (start, len) = (before, run + 1);
        }
        let next = place_key(Place {
            device,
            slot: slot.next(),
        })?;
        let Self { content, edit, .. } = self;
        if let Some(after) = content.free.get(edit.pages, next)? {
            len += decode_run(after.value()).map_err(CatalogError::from)?;
            content.free.remove(edit, next)?;
        }
        let key = place_key(Place {
            device,
            slot: start,
        })?;
        content.free.put(edit, key, &encode_run(len))?;
        content.space.pending = less("pending", content.space.pending, 1)?;
        content.space.free += 1;
        self.set_device_free(device, free + 1)?;
        self.drop_checksums(place)
    }

    fn adopt(&mut self, device: DeviceNo, first: Slot, count: u64) -> Result<(), Failure> {
        self.check_slots(device, first, count)?;
        let Self { content, edit, .. } = self;
        for slot in (first.0..first.0 + count).map(Slot) {
            let place = Place { device, slot };
            if !content.pending.remove(edit, place_key(place)?)? {
                return Err(Refusal::NotPending(place).into());
            }
        }
        content.space.pending = less("pending", content.space.pending, count)?;
        Ok(())
    }

    /// Forgets the checksums of a slot, so that the tree shrinks as space returns.
    fn drop_checksums(&mut self, place: Place) -> Result<(), Failure> {
        let Self { content, edit, .. } = self;
        let mut block = self.geometry.slot_block(place.slot);
        let end = block + self.geometry.blocks() as u64;
        while block < end {
            let (key, index) = SumGroup::locate(place.device, block);
            let run = (end - block).min(SumGroup::BLOCKS - index as u64);
            let blocks = u64::MAX >> (SumGroup::BLOCKS - run) << index;
            if let Some(group) = content.checksums.get(edit.pages, key)? {
                let present = SumGroup::present(group.value()).map_err(CatalogError::from)?;
                drop(group);
                if present & !blocks == 0 {
                    content.checksums.remove(edit, key)?;
                } else if present & blocks != 0 {
                    let clear = &mut |value: &mut [u8]| SumGroup::clear(value, blocks);
                    content.checksums.change(edit, key, clear)?;
                }
            }
            block += run;
        }
        Ok(())
    }

    /// The last free run of the device that starts at or before a slot.
    fn run_at_or_before(&self, place: Place) -> Result<Option<(Slot, u64)>, Failure> {
        let key = place_key(place)?;
        let Some(run) = self.content.free.at_or_before(self.edit.pages, key)? else {
            return Ok(None);
        };
        let start = key_place(run.key());
        if start.device != place.device {
            return Ok(None);
        }
        let len = decode_run(run.value()).map_err(CatalogError::from)?;
        Ok(Some((start.slot, len)))
    }

    /// The counts of a device that has these slots.
    fn check_slots(
        &self,
        device: DeviceNo,
        first: Slot,
        count: u64,
    ) -> Result<(u64, u64), Failure> {
        let (free, limit) = self.device_counts(device)?;
        if first.0.checked_add(count).is_none_or(|end| end > limit) {
            let (what, first) = ("segments", first.0);
            return Err(Refusal::OutsideDevice {
                what,
                device,
                first,
                count,
                limit,
            }
            .into());
        }
        Ok((free, limit))
    }

    /// A device's free slots and all its slots.
    fn device_counts(&self, device: DeviceNo) -> Result<(u64, u64), Failure> {
        let entry = self
            .content
            .devices
            .get(self.edit.pages, u128::from(device.0))?;
        let entry = entry.ok_or(Refusal::NoDevice(device))?;
        Ok(DeviceEntry::counts(entry.value()).map_err(CatalogError::from)?)
    }

    fn set_device_free(&mut self, device: DeviceNo, free: u64) -> Result<(), Failure> {
        let set = &mut |value: &mut [u8]| DeviceEntry::set_free(value, free);
        self.content
            .devices
            .change(self.edit, u128::from(device.0), set)?;
        Ok(())
    }
}

fn remove(
    tree: &mut Tree,
    edit: &mut Edit<'_>,
    key: u128,
    missing: Refusal,
) -> Result<(), Failure> {
    if tree.remove(edit, key)? {
        Ok(())
    } else {
        Err(missing.into())
    }
}

/// A count of segments without so many of them.
fn less(what: &'static str, count: u64, by: u64) -> Result<u64, Refusal> {
    count.checked_sub(by).ok_or(Refusal::Miscounted(what))
}
