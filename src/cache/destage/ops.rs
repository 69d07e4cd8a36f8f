//! Applies ops to the catalog's records: names, sizes, markers, removals.

use rustc_hash::FxHashMap;

use super::super::CacheError;
use super::super::queue::PendingOp;
use crate::base::{DiskId, Epoch, MapId, Seq, Timestamp};
use crate::ondisk::journal::{NewDiskOp, Op, Target};
use crate::ondisk::{Change, DiskRecord, MapRecord, Marks, Origin, SnapshotRecord};
use crate::store::View;

/// The records as they will be after the ops applied so far.
pub(super) struct Draft<'a> {
    view: &'a View,
    disks: FxHashMap<DiskId, Option<DiskRecord>>,
    maps: FxHashMap<MapId, Option<MapRecord>>,
    snapshots: FxHashMap<(MapId, Epoch), Option<SnapshotRecord>>,
    pub marks: Marks,
    /// Maps that lost a snapshot or their disk.
    pub reap: Vec<MapId>,
    /// Disks that went away.
    pub removed: Vec<DiskId>,
}

impl<'a> Draft<'a> {
    pub fn new(view: &'a View) -> Self {
        Self {
            view,
            disks: FxHashMap::default(),
            maps: FxHashMap::default(),
            snapshots: FxHashMap::default(),
            marks: view.marks(),
            reap: Vec::new(),
            removed: Vec::new(),
        }
    }

    /// The changes that turn the view's records into the draft's. What came and went within the
    /// draft is not in them: the catalog refuses to remove what it never had.
    pub fn changes(self) -> Result<Vec<Change>, CacheError> {
        let mut changes = Vec::new();
        for (id, disk) in self.disks {
            match disk {
                Some(disk) => changes.push(Change::PutDisk(disk)),
                None if self.view.disk(id)?.is_some() => changes.push(Change::RemoveDisk(id)),
                None => {}
            }
        }
        for (id, map) in self.maps {
            match map {
                Some(map) => changes.push(Change::PutMap(map)),
                None if self.view.map(id)?.is_some() => changes.push(Change::RemoveMap(id)),
                None => {}
            }
        }
        for ((map, epoch), snapshot) in self.snapshots {
            match snapshot {
                Some(snapshot) => changes.push(Change::PutSnapshot(snapshot)),
                None if self.view.snapshot(map, epoch)?.is_some() => {
                    changes.push(Change::RemoveSnapshot(map, epoch));
                }
                None => {}
            }
        }
        changes.push(Change::SetMarks(self.marks));
        Ok(changes)
    }

    pub fn apply(&mut self, pending: &PendingOp) -> Result<(), CacheError> {
        let (seq, time) = (pending.seq, pending.time);
        match &pending.op {
            Op::Create(new) => self.create(new, seq, time),
            Op::Unlink(disk) => self.disk(*disk, seq)?.unlinked = true,
            Op::Remove(disk) => self.remove(*disk, seq)?,
            Op::Rename { from, to, over } => {
                match over {
                    Some(over) if over.open => self.disk(over.disk, seq)?.unlinked = true,
                    Some(over) => self.remove(over.disk, seq)?,
                    None => {}
                }
                self.rename(from, to, time)?;
            }
            Op::Attributes {
                disk,
                mode,
                uid,
                gid,
                accessed,
                modified,
            } => {
                let disk = self.disk(*disk, seq)?;
                (disk.mode, disk.uid, disk.gid) = (*mode, *uid, *gid);
                (disk.accessed, disk.modified, disk.changed) = (*accessed, *modified, time);
            }
            Op::Resize { disk, size } => {
                let disk = self.disk(*disk, seq)?;
                (disk.size, disk.modified, disk.changed) = (*size, time, time);
            }
            Op::Marker { name, targets } => {
                for target in targets {
                    self.mark(name, target, seq, time)?;
                }
            }
            Op::RemoveSnapshot { map, epoch, open } => self.remove_snapshot(*map, *epoch, *open)?,
            Op::RenameSnapshot { map, epoch, to } => {
                if let Some(snapshot) = self.snapshot(*map, *epoch)? {
                    snapshot.name.clone_from(to);
                }
            }
            Op::Rollback {
                disk,
                map,
                origin,
                size,
            } => self.roll_back(*disk, *map, *origin, *size, seq, time)?,
            Op::Priority { disk, priority } => self.disk(*disk, seq)?.priority = *priority,
        }
        self.marks.applied = seq;
        Ok(())
    }

    fn create(&mut self, new: &NewDiskOp, seq: Seq, time: Timestamp) {
        self.add_map(new.map, new.origin);
        self.marks.next_disk = self.marks.next_disk.max(new.disk.next());
        let disk = DiskRecord {
            id: new.disk,
            name: new.name.clone(),
            map: new.map,
            size: new.size,
            mode: new.mode,
            uid: new.uid,
            gid: new.gid,
            created: time,
            modified: time,
            changed: time,
            accessed: time,
            applied: seq,
            allocated: 0,
            priority: 0,
            unlinked: false,
        };
        self.disks.insert(new.disk, Some(disk));
    }

    fn add_map(&mut self, id: MapId, origin: Option<Origin>) {
        self.marks.next_map = self.marks.next_map.max(id.next());
        let map = MapRecord {
            id,
            epoch: Epoch::FIRST,
            origin,
            live: true,
            reap: false,
        };
        self.maps.insert(id, Some(map));
    }

    fn remove(&mut self, id: DiskId, seq: Seq) -> Result<(), CacheError> {
        let map = self.disk(id, seq)?.map;
        self.disks.insert(id, None);
        self.removed.push(id);
        self.abandon(map, seq)
    }

    /// The map has no disk any more.
    fn abandon(&mut self, id: MapId, seq: Seq) -> Result<(), CacheError> {
        let map = self.map(id, seq)?;
        map.live = false;
        map.reap = true;
        self.reap.push(id);
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str, time: Timestamp) -> Result<(), CacheError> {
        for disk in self
            .view
            .disks()?
            .into_iter()
            .filter(|disk| disk.name == from)
        {
            self.disks.entry(disk.id).or_insert(Some(disk));
        }
        let named = |disk: &&mut DiskRecord| disk.name == from && !disk.unlinked;
        for disk in self.disks.values_mut().flatten().filter(named) {
            disk.name = to.to_owned();
            disk.changed = time;
        }
        let snapshots = self.view.snapshots()?.into_iter();
        for snapshot in snapshots.filter(|snapshot| snapshot.disk_name == from) {
            let key = (snapshot.map, snapshot.epoch);
            self.snapshots.entry(key).or_insert(Some(snapshot));
        }
        let drafted = self.snapshots.values_mut().flatten();
        for snapshot in drafted.filter(|snapshot| snapshot.disk_name == from) {
            snapshot.disk_name = to.to_owned();
        }
        Ok(())
    }

    fn mark(
        &mut self,
        name: &str,
        target: &Target,
        seq: Seq,
        time: Timestamp,
    ) -> Result<(), CacheError> {
        let disk = self.disk(target.disk, seq)?.clone();
        let map = self.map(target.map, seq)?;
        if map.epoch != target.epoch {
            return Err(CacheError::EpochOrder {
                record: target.epoch,
                map: map.epoch,
            });
        }
        map.epoch = target.epoch.after_marker();
        let snapshot = SnapshotRecord {
            map: target.map,
            epoch: target.epoch,
            disk_name: target.disk_name.clone(),
            name: name.to_owned(),
            size: target.size,
            mode: disk.mode,
            uid: disk.uid,
            gid: disk.gid,
            created: time,
            allocated: disk.allocated,
            hidden: false,
        };
        self.snapshots
            .insert((target.map, target.epoch), Some(snapshot));
        Ok(())
    }

    fn remove_snapshot(&mut self, map: MapId, epoch: Epoch, open: bool) -> Result<(), CacheError> {
        let held = open || self.is_origin(map, epoch)?;
        let Some(snapshot) = self.snapshot(map, epoch)? else {
            return Ok(());
        };
        if held {
            snapshot.hidden = true;
            return Ok(());
        }
        self.snapshots.insert((map, epoch), None);
        if let Some(map) = self.map_if_any(map)? {
            map.reap = true;
        }
        self.reap.push(map);
        Ok(())
    }

    /// Whether a clone stands on the snapshot.
    fn is_origin(&self, map: MapId, epoch: Epoch) -> Result<bool, CacheError> {
        let stands_on = |record: &MapRecord| {
            record
                .origin
                .is_some_and(|o| o.map == map && o.epoch == epoch)
        };
        let drafted = self.maps.values().flatten().any(stands_on);
        let rest = self.view.maps()?;
        Ok(drafted
            || rest
                .iter()
                .any(|record| !self.maps.contains_key(&record.id) && stands_on(record)))
    }

    /// A map has no versions and no snapshots left: forgets it, and the snapshot under it where
    /// that stayed only for it.
    pub fn forget_map(
        &mut self,
        id: MapId,
        is_open: impl Fn(MapId, Epoch) -> bool,
    ) -> Result<(), CacheError> {
        let origin = self.map_if_any(id)?.and_then(|map| map.origin);
        self.maps.insert(id, None);
        let Some(origin) = origin else { return Ok(()) };
        let hidden = self
            .snapshot(origin.map, origin.epoch)?
            .is_some_and(|snapshot| snapshot.hidden);
        if hidden && !is_open(origin.map, origin.epoch) {
            self.remove_snapshot(origin.map, origin.epoch, false)?;
        }
        Ok(())
    }

    fn roll_back(
        &mut self,
        id: DiskId,
        map: MapId,
        origin: Origin,
        size: u64,
        seq: Seq,
        time: Timestamp,
    ) -> Result<(), CacheError> {
        self.add_map(map, Some(origin));
        let disk = self.disk(id, seq)?;
        let old = disk.map;
        (disk.map, disk.size, disk.allocated, disk.applied) = (map, size, 0, seq);
        (disk.modified, disk.changed) = (time, time);
        self.abandon(old, seq)
    }

    fn disk(&mut self, id: DiskId, seq: Seq) -> Result<&mut DiskRecord, CacheError> {
        if !self.disks.contains_key(&id) {
            self.disks.insert(id, self.view.disk(id)?);
        }
        let disk = self.disks.get_mut(&id).and_then(Option::as_mut);
        disk.ok_or_else(|| CacheError::Missing {
            seq,
            what: format!("disk {id}"),
        })
    }

    fn map(&mut self, id: MapId, seq: Seq) -> Result<&mut MapRecord, CacheError> {
        self.map_if_any(id)?.ok_or_else(|| CacheError::Missing {
            seq,
            what: format!("map {id}"),
        })
    }

    pub fn map_if_any(&mut self, id: MapId) -> Result<Option<&mut MapRecord>, CacheError> {
        if !self.maps.contains_key(&id) {
            self.maps.insert(id, self.view.map(id)?);
        }
        Ok(self.maps.get_mut(&id).and_then(Option::as_mut))
    }

    fn snapshot(
        &mut self,
        map: MapId,
        epoch: Epoch,
    ) -> Result<Option<&mut SnapshotRecord>, CacheError> {
        if !self.snapshots.contains_key(&(map, epoch)) {
            self.snapshots
                .insert((map, epoch), self.view.snapshot(map, epoch)?);
        }
        Ok(self
            .snapshots
            .get_mut(&(map, epoch))
            .and_then(Option::as_mut))
    }
}
