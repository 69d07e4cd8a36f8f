//! Names, and what they stand for, as of the newest op.
//!
//! An op is applied here in one way, whether a user has just asked for it or recovery found it in
//! the journal.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64};
use std::sync::{Arc, Weak};

use rustc_hash::FxHashMap;
use smallvec::{SmallVec, smallvec};

use super::read::Image;
use super::volumes::Result;
use super::{Node, SnapshotId, VolumeError};
use crate::base::sync::{Mutex, RwLock};
use crate::base::{DiskId, Epoch, MapId, Timestamp, snapshot_file_name};
use crate::cache::{Cache, Lines, MapState, OriginState};
use crate::ondisk::journal::{NewDiskOp, Op, Target};
use crate::ondisk::{DiskRecord, MapRecord, Origin, SnapshotRecord};
use crate::store::View;

/// A disk in memory.
pub struct Disk {
    pub(crate) id: DiskId,
    /// What its writes go to; a rollback changes it.
    pub(crate) map: RwLock<Arc<MapState>>,
    /// Bytes; moved under the queue's lock.
    pub(crate) size: Arc<AtomicU64>,
    /// Open handles.
    pub(crate) opens: AtomicU32,
    /// Last change of content, nanoseconds since 1970.
    pub(crate) modified: AtomicI64,
    /// Locked last: who holds it takes no other lock.
    pub(crate) meta: Mutex<DiskMeta>,
}

/// What changes rarely of a disk.
#[derive(Clone)]
pub(crate) struct DiskMeta {
    pub name: String,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub created: Timestamp,
    pub changed: Timestamp,
    pub accessed: Timestamp,
    /// As set by command; 0 leaves it to the settings.
    pub priority: u8,
    /// Deleted while open.
    pub unlinked: bool,
    /// The clone's snapshot.
    pub origin: Option<(MapId, Epoch)>,
}

/// A snapshot in memory.
pub struct Snapshot {
    pub(crate) id: SnapshotId,
    pub(crate) map: Arc<MapState>,
    pub(crate) epoch: Epoch,
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) created: Timestamp,
    pub(crate) opens: AtomicU32,
    /// Locked last: who holds it takes no other lock.
    pub(crate) meta: Mutex<SnapshotMeta>,
}

#[derive(Clone)]
pub(crate) struct SnapshotMeta {
    pub disk_name: String,
    pub name: String,
    /// Deleted, but still open or under a clone.
    pub hidden: bool,
}

impl Snapshot {
    pub(crate) fn file_name(&self) -> String {
        let meta = self.meta.lock();
        snapshot_file_name(&meta.disk_name, &meta.name)
    }
}

/// All disks and snapshots.
#[derive(Default)]
pub struct Namespace {
    names: BTreeMap<String, Node>,
    disks: FxHashMap<DiskId, Arc<Disk>>,
    snapshots: FxHashMap<SnapshotId, Arc<Snapshot>>,
    by_epoch: FxHashMap<(MapId, Epoch), SnapshotId>,
    /// Held by disks and snapshots.
    maps: FxHashMap<MapId, Weak<MapState>>,
    next_disk: DiskId,
    next_map: MapId,
    next_snapshot: u64,
    /// Epochs of the maps as loaded, for the lines.
    epochs: FxHashMap<MapId, Epoch>,
}

impl Namespace {
    /// What the catalog knows.
    pub(super) fn load(view: &View) -> Result<Self> {
        let marks = view.marks();
        let mut names = Self {
            next_disk: DiskId(marks.next_disk.0.max(1)),
            next_map: MapId(marks.next_map.0.max(1)),
            ..Self::default()
        };
        let records: FxHashMap<MapId, MapRecord> =
            view.maps()?.into_iter().map(|map| (map.id, map)).collect();
        let mut maps = FxHashMap::default();
        for id in records.keys() {
            load_map(*id, &records, &mut maps)?;
        }
        names.epochs = records
            .values()
            .map(|record| (record.id, record.epoch))
            .collect();
        names.maps = maps
            .iter()
            .map(|(id, map)| (*id, Arc::downgrade(map)))
            .collect();
        for record in view.snapshots()? {
            let map = maps
                .get(&record.map)
                .ok_or_else(|| missing_map(record.map))?;
            names.add_snapshot(map.clone(), &record);
        }
        for record in view.disks()? {
            let map = maps
                .get(&record.map)
                .ok_or_else(|| missing_map(record.map))?;
            names.add_disk(map.clone(), &record);
        }
        Ok(names)
    }

    /// Gives the cache a line for each disk.
    pub(super) fn add_lines(&mut self, cache: &Cache, priority: &dyn Fn(&str) -> u8) {
        for disk in self.disks.values() {
            let map = disk.map.read().clone();
            let epoch = self.epochs.get(&map.id).copied().unwrap_or(Epoch::FIRST);
            let meta = disk.meta.lock();
            let priority = match meta.priority {
                0 => priority(&meta.name),
                set => set,
            };
            cache.add_disk(disk.id, map, epoch, disk.size.clone(), priority);
        }
        self.epochs.clear();
    }

    /// What this file name stands for.
    pub(crate) fn lookup(&self, name: &str) -> Option<Node> {
        self.names.get(name).copied()
    }

    pub(crate) fn disk(&self, id: DiskId) -> Option<Arc<Disk>> {
        self.disks.get(&id).cloned()
    }

    pub(crate) fn snapshot(&self, id: SnapshotId) -> Option<Arc<Snapshot>> {
        self.snapshots.get(&id).cloned()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = (&String, &Node)> {
        self.names.iter()
    }

    /// The disk that writes to this map.
    pub(crate) fn disk_over(&self, map: MapId) -> Option<Arc<Disk>> {
        let over = |disk: &&Arc<Disk>| disk.map.read().id == map;
        self.disks.values().find(over).cloned()
    }

    /// All disks, those among them that were deleted while open.
    pub(super) fn disk_ids(&self) -> Vec<DiskId> {
        self.disks.keys().copied().collect()
    }

    /// A map that a disk, a snapshot or a clone stands on.
    pub(super) fn map(&self, id: MapId) -> Option<Arc<MapState>> {
        self.maps.get(&id).and_then(Weak::upgrade)
    }

    /// All that can be read, each with its file name, the deleted that are still open among them.
    pub(super) fn images(&self) -> impl Iterator<Item = (String, Image)> + '_ {
        let deleted = |name: String, deleted: bool| match deleted {
            true => format!("{name} (deleted)"),
            false => name,
        };
        let disks = self.disks.values().map(move |disk| {
            let (map, epoch) = (disk.map.read().clone(), Epoch::LIVE);
            let meta = disk.meta.lock();
            let name = deleted(meta.name.clone(), meta.unlinked);
            (name, Image { map, epoch })
        });
        let snapshots = self.snapshots.values().map(move |snapshot| {
            let name = deleted(snapshot.file_name(), snapshot.meta.lock().hidden);
            let (map, epoch) = (snapshot.map.clone(), snapshot.epoch);
            (name, Image { map, epoch })
        });
        disks.chain(snapshots)
    }

    pub(crate) fn disk_named(&self, name: &str) -> Result<Arc<Disk>> {
        match self.lookup(name) {
            Some(Node::Disk(id)) => self.disk(id),
            _ => None,
        }
        .ok_or_else(|| VolumeError::NotFound(name.to_owned()))
    }

    pub(crate) fn snapshot_named(&self, name: &str) -> Result<Arc<Snapshot>> {
        match self.lookup(name) {
            Some(Node::Snapshot(id)) => self.snapshot(id),
            _ => None,
        }
        .ok_or_else(|| VolumeError::NotFound(name.to_owned()))
    }

    /// The file name of a snapshot by what it is of, where it has one.
    pub(crate) fn snapshot_at(&self, map: MapId, epoch: Epoch) -> Option<Arc<Snapshot>> {
        self.snapshot(*self.by_epoch.get(&(map, epoch))?)
    }

    pub(crate) fn next_ids(&self) -> (DiskId, MapId) {
        (self.next_disk, self.next_map)
    }

    /// Disks and snapshots that were deleted while they were open.
    pub(super) fn removed(&self) -> (Vec<DiskId>, Vec<(MapId, Epoch)>) {
        let unlinked = |disk: &&Arc<Disk>| disk.meta.lock().unlinked;
        let hidden = |snapshot: &&Arc<Snapshot>| snapshot.meta.lock().hidden;
        let disks = self
            .disks
            .values()
            .filter(unlinked)
            .map(|disk| disk.id)
            .collect();
        let snapshots = self
            .snapshots
            .values()
            .filter(hidden)
            .map(|s| (s.map.id, s.epoch))
            .collect();
        (disks, snapshots)
    }

    /// Snapshots whose disk has (or had) this name, with the part after the `@`.
    pub(crate) fn snapshots_of(&self, disk: &str) -> Vec<(String, SnapshotId)> {
        let prefix = snapshot_file_name(disk, "");
        let after = self
            .names
            .range(prefix.clone()..)
            .take_while(|(name, _)| name.starts_with(&prefix));
        let snapshot = |(name, node): (&String, &Node)| match node {
            Node::Snapshot(id) => Some((name[prefix.len()..].to_owned(), *id)),
            Node::Disk(_) => None,
        };
        after.filter_map(snapshot).collect()
    }

    /// Applies an op to names and lines, and says which disks it stands over. The op has been
    /// checked against these names before.
    pub(super) fn apply(
        &mut self,
        op: &Op,
        lines: &mut Lines<'_>,
        priority: &dyn Fn(&str) -> u8,
    ) -> Result<SmallVec<[DiskId; 2]>> {
        let time = lines.time();
        match op {
            Op::Create(new) => self.create(new, time, lines, priority(&new.name)),
            Op::Unlink(id) => self.remove(*id, true, lines),
            Op::Remove(id) => self.remove(*id, false, lines),
            Op::Rename { from, to, over } => {
                let disks = match over {
                    Some(over) => self.remove(over.disk, over.open, lines)?,
                    None => smallvec![],
                };
                self.rename(from, to, time);
                Ok(disks)
            }
            Op::Attributes {
                disk,
                mode,
                uid,
                gid,
                accessed,
                modified,
            } => {
                let state = self.need(*disk)?;
                let mut meta = state.meta.lock();
                (meta.mode, meta.uid, meta.gid) = (*mode, *uid, *gid);
                (meta.accessed, meta.changed) = (*accessed, time);
                state.modified.store(modified.0, Relaxed);
                Ok(smallvec![*disk])
            }
            Op::Resize { disk, size } => {
                lines.resize(*disk, *size);
                self.need(*disk)?.modified.store(time.0, Relaxed);
                Ok(smallvec![*disk])
            }
            Op::Marker { name, targets } => {
                targets
                    .iter()
                    .try_for_each(|target| self.mark(name, target, time, lines))?;
                Ok(targets.iter().map(|target| target.disk).collect())
            }
            Op::RemoveSnapshot { map, epoch, open } => {
                self.remove_snapshot(*map, *epoch, *open);
                Ok(smallvec![])
            }
            Op::RenameSnapshot { map, epoch, to } => {
                if let Some(snapshot) = self.snapshot_at(*map, *epoch) {
                    self.names.remove(&snapshot.file_name());
                    snapshot.meta.lock().name.clone_from(to);
                    self.names
                        .insert(snapshot.file_name(), Node::Snapshot(snapshot.id));
                }
                Ok(smallvec![])
            }
            Op::Rollback {
                disk,
                map,
                origin,
                size,
            } => {
                let state = self.need(*disk)?;
                let map = self.new_map(*map, Some(*origin))?;
                lines.switch(*disk, map.clone(), *size);
                *state.map.write() = map;
                state.meta.lock().origin = Some((origin.map, origin.epoch));
                state.modified.store(time.0, Relaxed);
                Ok(smallvec![*disk])
            }
            Op::Priority { disk, priority } => {
                self.need(*disk)?.meta.lock().priority = *priority;
                lines.set_priority(*disk, *priority);
                Ok(smallvec![*disk])
            }
        }
    }

    fn create(
        &mut self,
        new: &NewDiskOp,
        time: Timestamp,
        lines: &mut Lines<'_>,
        priority: u8,
    ) -> Result<SmallVec<[DiskId; 2]>> {
        let map = self.new_map(new.map, new.origin)?;
        self.next_disk = self.next_disk.max(new.disk.next());
        let record = DiskRecord {
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
            applied: crate::base::Seq(0),
            allocated: 0,
            priority: 0,
            unlinked: false,
        };
        self.add_disk(map.clone(), &record);
        let disk = self.need(new.disk)?;
        lines.add(new.disk, map, Epoch::FIRST, disk.size.clone(), priority);
        Ok(smallvec![new.disk])
    }

    fn new_map(&mut self, id: MapId, origin: Option<Origin>) -> Result<Arc<MapState>> {
        self.next_map = self.next_map.max(id.next());
        let origin = match origin {
            None => None,
            Some(origin) => {
                let map = self.maps.get(&origin.map).and_then(Weak::upgrade);
                let map = map.ok_or_else(|| missing_map(origin.map))?;
                Some(OriginState {
                    map,
                    epoch: origin.epoch,
                    limit: origin.limit,
                })
            }
        };
        let map = MapState::new(id, origin);
        self.maps.insert(id, Arc::downgrade(&map));
        Ok(map)
    }

    fn mark(
        &mut self,
        name: &str,
        target: &Target,
        time: Timestamp,
        lines: &mut Lines<'_>,
    ) -> Result<()> {
        let disk = self.need(target.disk)?;
        lines.end_epoch(target.disk);
        let meta = disk.meta.lock().clone();
        let record = SnapshotRecord {
            map: target.map,
            epoch: target.epoch,
            disk_name: target.disk_name.clone(),
            name: name.to_owned(),
            size: target.size,
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            created: time,
            allocated: 0,
            hidden: false,
        };
        let map = disk.map.read().clone();
        self.add_snapshot(map, &record);
        Ok(())
    }

    fn remove_snapshot(&mut self, map: MapId, epoch: Epoch, open: bool) {
        let Some(snapshot) = self.snapshot_at(map, epoch) else {
            return;
        };
        let mut meta = snapshot.meta.lock();
        if !meta.hidden {
            self.names
                .remove(&snapshot_file_name(&meta.disk_name, &meta.name));
            meta.hidden = true;
        }
        drop(meta);
        if !open {
            self.snapshots.remove(&snapshot.id);
            self.by_epoch.remove(&(map, epoch));
        }
    }

    /// A disk loses its name, and where it is not open goes away.
    fn remove(
        &mut self,
        id: DiskId,
        open: bool,
        lines: &mut Lines<'_>,
    ) -> Result<SmallVec<[DiskId; 2]>> {
        let disk = self.need(id)?;
        let mut meta = disk.meta.lock();
        if !meta.unlinked {
            self.names.remove(&meta.name);
            meta.unlinked = true;
        }
        if !open {
            self.disks.remove(&id);
            lines.remove(id);
        }
        Ok(smallvec![id])
    }

    fn rename(&mut self, from: &str, to: &str, time: Timestamp) {
        if let Some(node) = self.names.remove(from) {
            self.names.insert(to.to_owned(), node);
            if let Node::Disk(id) = node
                && let Some(disk) = self.disks.get(&id)
            {
                let mut meta = disk.meta.lock();
                meta.name = to.to_owned();
                meta.changed = time;
            }
        }
        for (_, id) in self.snapshots_of(from) {
            if let Some(snapshot) = self.snapshot(id) {
                self.names.remove(&snapshot.file_name());
                snapshot.meta.lock().disk_name = to.to_owned();
                self.names.insert(snapshot.file_name(), Node::Snapshot(id));
            }
        }
    }

    fn add_disk(&mut self, map: Arc<MapState>, record: &DiskRecord) {
        let origin = map
            .origin
            .as_ref()
            .map(|origin| (origin.map.id, origin.epoch));
        let meta = DiskMeta {
            name: record.name.clone(),
            mode: record.mode,
            uid: record.uid,
            gid: record.gid,
            created: record.created,
            changed: record.changed,
            accessed: record.accessed,
            priority: record.priority,
            unlinked: record.unlinked,
            origin,
        };
        if !record.unlinked {
            self.names
                .insert(record.name.clone(), Node::Disk(record.id));
        }
        let disk = Disk {
            id: record.id,
            map: RwLock::new(map),
            size: Arc::new(AtomicU64::new(record.size)),
            opens: AtomicU32::new(0),
            modified: AtomicI64::new(record.modified.0),
            meta: Mutex::new(meta),
        };
        self.disks.insert(record.id, Arc::new(disk));
    }

    fn add_snapshot(&mut self, map: Arc<MapState>, record: &SnapshotRecord) {
        self.next_snapshot += 1;
        let id = SnapshotId(self.next_snapshot);
        let meta = SnapshotMeta {
            disk_name: record.disk_name.clone(),
            name: record.name.clone(),
            hidden: record.hidden,
        };
        if !record.hidden {
            self.names.insert(
                snapshot_file_name(&meta.disk_name, &meta.name),
                Node::Snapshot(id),
            );
        }
        self.by_epoch.insert((record.map, record.epoch), id);
        let snapshot = Snapshot {
            id,
            map,
            epoch: record.epoch,
            size: record.size,
            mode: record.mode,
            uid: record.uid,
            gid: record.gid,
            created: record.created,
            opens: AtomicU32::new(0),
            meta: Mutex::new(meta),
        };
        self.snapshots.insert(id, Arc::new(snapshot));
    }

    fn need(&self, id: DiskId) -> Result<Arc<Disk>> {
        self.disk(id)
            .ok_or_else(|| VolumeError::NotFound(format!("disk {id}")))
    }
}

fn missing_map(id: MapId) -> VolumeError {
    VolumeError::Io(format!(
        "the catalog has no map {id}, which something stands on"
    ))
}

/// A map and those under it. Origins form no cycle: a map's origin is older than the map.
fn load_map(
    id: MapId,
    records: &FxHashMap<MapId, MapRecord>,
    maps: &mut FxHashMap<MapId, Arc<MapState>>,
) -> Result<Arc<MapState>> {
    if let Some(map) = maps.get(&id) {
        return Ok(map.clone());
    }
    let record = records.get(&id).ok_or_else(|| missing_map(id))?;
    let origin = match record.origin {
        Some(origin) if origin.map < id => {
            let map = load_map(origin.map, records, maps)?;
            Some(OriginState {
                map,
                epoch: origin.epoch,
                limit: origin.limit,
            })
        }
        Some(origin) => {
            return Err(VolumeError::Io(format!(
                "map {id} stands on map {}, which is newer",
                origin.map
            )));
        }
        None => None,
    };
    let map = MapState::new(id, origin);
    maps.insert(id, map.clone());
    Ok(map)
}
