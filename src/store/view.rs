//! Reading the catalog as of one commit.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::CatalogError;
use super::state::State;
use super::tree::{Entry, Tree};
use crate::base::{Checksum, DeviceNo, DiskId, Epoch, Geometry, MapId, Place, SegmentNo, Slot};
use crate::ondisk::{
    Descriptor, DeviceEntry, DeviceRecord, DiskRecord, MapRecord, Marks, Record, SnapshotRecord,
    Space, SumGroup, VersionKey, decode_pack, decode_run, key_place, place_key, snapshot_key,
};

/// The catalog as of one commit. It never changes. Reading it takes no lock but those of the page
/// cache, and fails only where a page can't be read or is damaged.
#[derive(Clone)]
pub struct View(pub(super) Arc<State>);

type Result<T> = std::result::Result<T, CatalogError>;

/// A version and its key.
type Version = (VersionKey, Descriptor);

impl View {
    pub(super) fn new(state: Arc<State>) -> Self {
        Self(state)
    }

    /// The store's segment size.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.0.geometry
    }

    /// The number of the commit that it shows.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.0.commit
    }

    /// The marks.
    #[must_use]
    pub fn marks(&self) -> Marks {
        self.0.content.marks
    }

    /// The space counters.
    #[must_use]
    pub fn space(&self) -> Space {
        self.0.content.space
    }

    /// All disks, by number.
    ///
    /// # Errors
    /// Where a page can't be read.
    pub fn disks(&self) -> Result<Vec<DiskRecord>> {
        self.all(&self.0.content.disks, 0, u128::MAX, disk_of)
    }

    /// A disk.
    ///
    /// # Errors
    /// Where a page can't be read.
    pub fn disk(&self, id: DiskId) -> Result<Option<DiskRecord>> {
        self.one(&self.0.content.disks, u128::from(id.0), disk_of)
    }

    /// All maps, by number.
    ///
    /// # Errors
    /// Where a page can't be read.
    pub fn maps(&self) -> Result<Vec<MapRecord>> {
        self.all(&self.0.content.maps, 0, u128::MAX, map_of)
    }

    /// A map.
    ///
    /// # Errors
    /// Where a page can't be read.
    pub fn map(&self, id: MapId) -> Result<Option<MapRecord>> {
        self.one(&self.0.content.maps, u128::from(id.0), map_of)
    }

    /// All snapshots, by map and epoch.
    ///
    /// # Errors
    /// Where a page can't be read.
    pub fn snapshots(&self) -> Result<Vec<SnapshotRecord>> {
        self.all(&self.0.content.snapshots, 0, u128::MAX, snapshot_of)
    }

    /// The snapshots of a map, by epoch.
    ///
    /// # Errors
    /// Where a page can't be read.
    pub fn snapshots_of(&self, map: MapId) -> Result<Vec<SnapshotRecord>> {
        let first = snapshot_key(map, Epoch(0))?;
        let last = snapshot_key(map, Epoch::LIVE)?;
        self.all(&self.0.content.snapshots, first, last, snapshot_of)
    }

    /// The epoch of the newest snapshot of a map, hidden ones among them. Costs one look-up,
    /// however many there are.
    ///
    /// # Errors
    /// Where a page can't be read.
    pub fn newest_snapshot(&self, map: MapId) -> Result<Option<Epoch>> {
        let (first, last) = (
            snapshot_key(map, Epoch(0))?,
            snapshot_key(map, Epoch::LIVE)?,
        );
        let snapshots = &self.0.content.snapshots;
        let found = snapshots.at_or_before(&self.0.pages, last)?;
        let newest = found.filter(|entry| entry.key() >= first);
        newest
            .map(|entry| Ok(snapshot_of(entry.key(), entry.value())?.epoch))
            .transpose()
    }

    /// A snapshot.
    ///
    /// # Errors
    /// Where a page can't be read, or the epoch has more than 48 bits.
    pub fn snapshot(&self, map: MapId, epoch: Epoch) -> Result<Option<SnapshotRecord>> {
        self.one(
            &self.0.content.snapshots,
            snapshot_key(map, epoch)?,
            snapshot_of,
        )
    }

    /// All devices, by number.
    ///
    /// # Errors
    /// Where a page can't be read.
    pub fn devices(&self) -> Result<Vec<DeviceRecord>> {
        let entries = self.all(&self.0.content.devices, 0, u128::MAX, device_of)?;
        Ok(entries.into_iter().map(|entry| entry.record).collect())
    }

    /// How many slots of a device are free; 0 where there is no such device.
    ///
    /// # Errors
    /// Where a page can't be read.
    pub fn free_slots_of(&self, device: DeviceNo) -> Result<u64> {
        let entry = self.one(&self.0.content.devices, u128::from(device.0), device_of)?;
        Ok(entry.map_or(0, |entry| entry.free))
    }

    /// The version that a snapshot of `epoch` sees: the first that died after it, where that was
    /// born in it or before. `epoch` is not [`Epoch::LIVE`]; for the newest see [`View::live`].
    ///
    /// # Errors
    /// Where a page can't be read, or a number has more than 48 bits.
    pub fn version_at(
        &self,
        map: MapId,
        segment: SegmentNo,
        epoch: Epoch,
    ) -> Result<Option<Version>> {
        let death = Epoch(epoch.0.saturating_add(1));
        let key = VersionKey {
            map,
            segment,
            death,
        };
        let found = self
            .0
            .content
            .versions
            .at_or_after(&self.0.pages, key.to_key()?)?;
        let version = self.version_of(found, map, segment)?;
        Ok(version.filter(|(_, descriptor)| descriptor.birth <= epoch))
    }

    /// The newest version of a segment, where it has one that is live.
    ///
    /// # Errors
    /// Where a page can't be read, or the segment has more than 48 bits.
    pub fn live(&self, map: MapId, segment: SegmentNo) -> Result<Option<Version>> {
        let death = Epoch::LIVE;
        let key = VersionKey {
            map,
            segment,
            death,
        };
        let found = self.0.content.versions.get(&self.0.pages, key.to_key()?)?;
        self.version_of(found, map, segment)
    }

    /// Visits the versions of a segment from a key on down, the newest first, until told to stop.
    /// They are neighbours in the tree, so that each one more costs little.
    ///
    /// # Errors
    /// Where a page can't be read, or a number has more than 48 bits.
    pub fn versions_down(
        &self,
        from: VersionKey,
        visit: &mut dyn FnMut(VersionKey, &Descriptor) -> ControlFlow<()>,
    ) -> Result<()> {
        let tree = &self.0.content.versions;
        tree.scan_down(&self.0.pages, from.to_key()?, &mut |key, value| {
            let key = VersionKey::from_key(key);
            if key.map != from.map || key.segment != from.segment {
                return Ok(ControlFlow::Break(()));
            }
            Ok(visit(key, &self.descriptor(key, value)?))
        })
    }

    /// Up to `limit` versions of `from.map`, in the order of their keys, from `from` on.
    ///
    /// # Errors
    /// Where a page can't be read, or a number has more than 48 bits.
    pub fn versions_from(&self, from: VersionKey, limit: usize) -> Result<Vec<Version>> {
        let mut versions = Vec::new();
        if limit == 0 {
            return Ok(versions);
        }
        let tree = &self.0.content.versions;
        tree.scan(&self.0.pages, from.to_key()?, &mut |key, value| {
            let key = VersionKey::from_key(key);
            if key.map != from.map {
                return Ok(ControlFlow::Break(()));
            }
            versions.push((key, self.descriptor(key, value)?));
            Ok(go_on_until(versions.len() == limit))
        })?;
        Ok(versions)
    }

    /// Up to `limit` versions of all maps, in the order of their keys, from `from` on.
    ///
    /// # Errors
    /// Where a page can't be read, or a number has more than 48 bits.
    pub fn all_versions_from(&self, from: VersionKey, limit: usize) -> Result<Vec<Version>> {
        let mut versions = Vec::new();
        let tree = &self.0.content.versions;
        tree.scan(&self.0.pages, from.to_key()?, &mut |key, value| {
            let key = VersionKey::from_key(key);
            versions.push((key, self.descriptor(key, value)?));
            Ok(go_on_until(versions.len() >= limit))
        })?;
        Ok(versions)
    }

    /// Fills `sums` with the checksums of neighbouring blocks of a device, counted from its first
    /// slot.
    ///
    /// # Errors
    /// [`CatalogError::NoChecksum`] for the first block that has none recorded: it was never
    /// written, or its slot has been freed since. Otherwise where a page can't be read.
    pub fn checksums(&self, device: DeviceNo, first: u64, sums: &mut [Checksum]) -> Result<()> {
        let mut block = first;
        let mut rest = sums;
        while !rest.is_empty() {
            let (key, index) = SumGroup::locate(device, block);
            let run = rest.len().min(SumGroup::BLOCKS as usize - index);
            let (now, later) = rest.split_at_mut(run);
            let group = self.0.content.checksums.get(&self.0.pages, key)?;
            let group = group.ok_or(CatalogError::NoChecksum { device, block })?;
            for (at, sum) in now.iter_mut().enumerate() {
                *sum = SumGroup::get(group.value(), index + at)?.ok_or({
                    let block = block + at as u64;
                    CatalogError::NoChecksum { device, block }
                })?;
            }
            block += run as u64;
            rest = later;
        }
        Ok(())
    }

    /// Up to `limit` runs of free slots of a device, first slot and length, from `from` on; of a
    /// run that starts before it, what lies after it.
    ///
    /// # Errors
    /// Where a page can't be read, or the slot has more than 48 bits.
    pub fn free_runs(
        &self,
        device: DeviceNo,
        from: Slot,
        limit: usize,
    ) -> Result<Vec<(Slot, u64)>> {
        let mut runs = Vec::new();
        if limit == 0 {
            return Ok(runs);
        }
        let (tree, pages) = (&self.0.content.free, &self.0.pages);
        let key = place_key(Place { device, slot: from })?;
        let before = tree.at_or_before(pages, key)?;
        // Start where a run may reach over `from`.
        let start = before.map_or(key, |run| run.key());
        tree.scan(pages, start, &mut |key, value| {
            let at = key_place(key);
            if at.device > device {
                return Ok(ControlFlow::Break(()));
            }
            let end = at.slot.0.saturating_add(decode_run(value)?);
            if at.device == device && end > from.0 {
                let first = at.slot.max(from);
                runs.push((first, end - first.0));
            }
            Ok(go_on_until(runs.len() == limit))
        })?;
        Ok(runs)
    }

    /// Up to `limit` slots that have been given up or lent out but not freed, by place, from
    /// `from` on.
    ///
    /// # Errors
    /// Where a page can't be read, or the slot has more than 48 bits.
    pub fn pending_from(&self, from: Place, limit: usize) -> Result<Vec<Place>> {
        let mut places = Vec::new();
        if limit == 0 {
            return Ok(places);
        }
        let pending = &self.0.content.pending;
        pending.scan(&self.0.pages, place_key(from)?, &mut |key, _| {
            places.push(key_place(key));
            Ok(go_on_until(places.len() == limit))
        })?;
        Ok(places)
    }

    /// Whether a slot was given up and not yet freed.
    ///
    /// # Errors
    /// Where a page can't be read, or the slot has more than 48 bits.
    pub fn is_pending(&self, place: Place) -> Result<bool> {
        let tree = &self.0.content.pending;
        Ok(tree.get(&self.0.pages, place_key(place)?)?.is_some())
    }

    /// How many blocks of a pack versions need; none where the slot is no pack.
    ///
    /// # Errors
    /// Where a page can't be read, or the slot has more than 48 bits.
    pub fn pack(&self, place: Place) -> Result<Option<u64>> {
        let tree = &self.0.content.packs;
        self.one(tree, place_key(place)?, |_, value| Ok(decode_pack(value)?))
    }

    /// Up to `limit` packs, each with how many of its blocks versions need, by place from `from`
    /// on.
    ///
    /// # Errors
    /// Where a page can't be read, or the slot has more than 48 bits.
    pub fn packs(&self, from: Place, limit: usize) -> Result<Vec<(Place, u64)>> {
        let mut packs = Vec::new();
        if limit == 0 {
            return Ok(packs);
        }
        let (tree, pages) = (&self.0.content.packs, &self.0.pages);
        tree.scan(pages, place_key(from)?, &mut |key, value| {
            packs.push((key_place(key), decode_pack(value)?));
            Ok(go_on_until(packs.len() == limit))
        })?;
        Ok(packs)
    }

    /// As [`pending_from`](Self::pending_from), from the first on.
    ///
    /// # Errors
    /// Where a page can't be read.
    pub fn pending(&self, limit: usize) -> Result<Vec<Place>> {
        let first = Place {
            device: DeviceNo(0),
            slot: Slot(0),
        };
        self.pending_from(first, limit)
    }

    /// The version that an entry is, where it is one of this segment.
    fn version_of(
        &self,
        found: Option<Entry>,
        map: MapId,
        segment: SegmentNo,
    ) -> Result<Option<Version>> {
        let Some(entry) = found else {
            return Ok(None);
        };
        let key = VersionKey::from_key(entry.key());
        if key.map != map || key.segment != segment {
            return Ok(None);
        }
        Ok(Some((key, self.descriptor(key, entry.value())?)))
    }

    fn descriptor(&self, key: VersionKey, value: &[u8]) -> Result<Descriptor> {
        let descriptor = Descriptor::from_value(value, self.0.geometry)?;
        descriptor.check_key(key)?;
        Ok(descriptor)
    }

    fn one<T>(
        &self,
        tree: &Tree,
        key: u128,
        of: fn(u128, &[u8]) -> Result<T>,
    ) -> Result<Option<T>> {
        let entry = tree.get(&self.0.pages, key)?;
        entry.map(|entry| of(key, entry.value())).transpose()
    }

    fn all<T>(
        &self,
        tree: &Tree,
        first: u128,
        last: u128,
        of: fn(u128, &[u8]) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut records = Vec::new();
        tree.scan(&self.0.pages, first, &mut |key, value| {
            if key > last {
                return Ok(ControlFlow::Break(()));
            }
            records.push(of(key, value)?);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(records)
    }
}

fn go_on_until(done: bool) -> ControlFlow<()> {
    if done {
        ControlFlow::Break(())
    } else {
        ControlFlow::Continue(())
    }
}

/// A record, which says itself which key is its own.
fn under_its_key<T: Record>(key: u128, value: &[u8], own: impl Fn(&T) -> u128) -> Result<T> {
    let record = T::from_value(value)?;
    if own(&record) != key {
        return Err(CatalogError::Misplaced { what: T::WHAT, key });
    }
    Ok(record)
}

fn disk_of(key: u128, value: &[u8]) -> Result<DiskRecord> {
    under_its_key(key, value, |disk: &DiskRecord| u128::from(disk.id.0))
}

fn map_of(key: u128, value: &[u8]) -> Result<MapRecord> {
    under_its_key(key, value, |map: &MapRecord| u128::from(map.id.0))
}

fn snapshot_of(key: u128, value: &[u8]) -> Result<SnapshotRecord> {
    under_its_key(key, value, |snapshot: &SnapshotRecord| {
        // A decoded epoch has 48 bits.
        snapshot_key(snapshot.map, snapshot.epoch).unwrap_or(u128::MAX)
    })
}

fn device_of(key: u128, value: &[u8]) -> Result<DeviceEntry> {
    under_its_key(key, value, |entry: &DeviceEntry| {
        u128::from(entry.record.device.0)
    })
}
