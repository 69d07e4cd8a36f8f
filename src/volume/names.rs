//! Making, naming, describing and removing disks, and the handles on them.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

use super::namespace::{Disk, Namespace, Snapshot};
use super::volumes::{MAX_DISK_SIZE, Result, Volumes};
use super::{Attributes, NewDisk, Node, SetAttributes, VolumeError};
use crate::base::{
    BLOCK_SIZE, DiskId, Timestamp, check_disk_name, check_snapshot_name, snapshot_file_name,
    split_snapshot_file_name,
};
use crate::cache::MapState;
use crate::ondisk::journal::{NewDiskOp, Op, Replaced};
use crate::store::View;

/// The write bits of a mode.
const WRITE_BITS: u32 = 0o222;

impl Volumes {
    /// What has this name: a disk, or a snapshot as `DISK@SNAPSHOT`.
    #[must_use]
    pub fn lookup(&self, name: &str) -> Option<Node> {
        self.names.read().lookup(name)
    }

    /// All disks and snapshots with their file names, in name order.
    #[must_use]
    pub fn list(&self) -> Vec<(String, Node)> {
        self.names
            .read()
            .names()
            .map(|(name, node)| (name.clone(), *node))
            .collect()
    }

    /// The file name that a node has; nothing where it was deleted.
    #[must_use]
    pub fn name(&self, node: Node) -> Option<String> {
        match node {
            Node::Disk(id) => {
                let disk = self.disk(id).ok()?;
                let meta = disk.meta.lock();
                (!meta.unlinked).then(|| meta.name.clone())
            }
            Node::Snapshot(_) => {
                let snapshot = self.snapshot_of(node).ok()?;
                let is_hidden = snapshot.meta.lock().hidden;
                (!is_hidden).then(|| snapshot.file_name())
            }
        }
    }

    /// A node's size in bytes.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn size(&self, node: Node) -> Result<u64> {
        match node {
            Node::Disk(id) => Ok(self.disk(id)?.size.load(Relaxed)),
            Node::Snapshot(_) => Ok(self.snapshot_of(node)?.size),
        }
    }

    /// Two numbers that no other disk, or no other snapshot, of this store has or will have, whenever
    /// it is opened.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn identity(&self, node: Node) -> Result<(u64, u64)> {
        match node {
            Node::Disk(id) => Ok((self.disk(id)?.id.0.into(), 0)),
            Node::Snapshot(_) => {
                let snapshot = self.snapshot_of(node)?;
                Ok((snapshot.map.id.0.into(), snapshot.epoch.0))
            }
        }
    }

    /// What `stat` shows.
    ///
    /// # Errors
    /// Where the node is gone or the catalog can't be read.
    pub fn attributes(&self, node: Node) -> Result<Attributes> {
        match node {
            Node::Disk(id) => self.disk_attributes(id),
            Node::Snapshot(_) => self.snapshot_attributes(node),
        }
    }

    fn disk_attributes(&self, id: DiskId) -> Result<Attributes> {
        let disk = self.disk(id)?;
        let size = disk.size.load(Relaxed);
        let allocated = self.disk_allocated(&disk)?;
        let meta = disk.meta.lock();
        let modified = Timestamp(disk.modified.load(Relaxed));
        Ok(Attributes {
            node: Node::Disk(id),
            size,
            allocated,
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            accessed: meta.accessed,
            modified,
            changed: meta.changed.max(modified),
            created: meta.created,
            linked: !meta.unlinked,
        })
    }

    fn snapshot_attributes(&self, node: Node) -> Result<Attributes> {
        let snapshot = self.snapshot_of(node)?;
        let allocated = self.snapshot_allocated(&snapshot)?;
        Ok(Attributes {
            node,
            size: snapshot.size,
            allocated,
            mode: snapshot.mode & !WRITE_BITS,
            uid: snapshot.uid,
            gid: snapshot.gid,
            accessed: snapshot.created,
            modified: snapshot.created,
            changed: snapshot.created,
            created: snapshot.created,
            linked: !snapshot.meta.lock().hidden,
        })
    }

    /// Allocated bytes of a disk, those that wait in the cache among them, and for a clone those
    /// of what it stands on. Overwritten blocks may count twice. Never 0 for a disk that has
    /// data: archivers take such a file for one hole.
    pub(super) fn disk_allocated(&self, disk: &Disk) -> Result<u64> {
        // The queue first: what leaves it afterwards is in the catalog already.
        let queued = self.cache.queued_bytes(disk.id);
        let view = self.cache.catalog().view();
        let own = view.disk(disk.id)?.map_or(0, |record| record.allocated);
        let below = below(&view, &disk.map.read().clone())?;
        let size = disk.size.load(Relaxed).next_multiple_of(BLOCK_SIZE);
        Ok(((own + below) * BLOCK_SIZE + queued).min(size))
    }

    /// Allocated bytes of the disk at the marker; while the marker is queued, about as many as
    /// the disk has now.
    pub(super) fn snapshot_allocated(&self, snapshot: &Snapshot) -> Result<u64> {
        let view = self.cache.catalog().view();
        let size = snapshot.size.next_multiple_of(BLOCK_SIZE);
        if let Some(record) = view.snapshot(snapshot.map.id, snapshot.epoch)? {
            let blocks = record.allocated + below(&view, &snapshot.map)?;
            return Ok((blocks * BLOCK_SIZE).min(size));
        }
        let disk = self.names.read().disk_over(snapshot.map.id);
        let now = disk.map_or(Ok(0), |disk| self.disk_allocated(&disk))?;
        Ok(now.max(BLOCK_SIZE).min(size))
    }

    /// Changes attributes; resizes where a size is given.
    ///
    /// # Errors
    /// Where the node is a snapshot or gone, or the size can't be.
    pub fn set_attributes(&self, node: Node, set: &SetAttributes) -> Result<Attributes> {
        let Node::Disk(id) = node else {
            return Err(VolumeError::ReadOnly(self.snapshot_of(node)?.file_name()));
        };
        let disk = self.disk(id)?;
        if let Some(size) = set.size {
            self.set_size(&disk, size)?;
        }
        let others = SetAttributes {
            size: None,
            ..set.clone()
        };
        if others != SetAttributes::default() {
            let _entered = self.commit_op(|_, _| {
                let meta = disk.meta.lock();
                Ok(Op::Attributes {
                    disk: id,
                    mode: set.mode.map_or(meta.mode, |mode| mode & 0o7777),
                    uid: set.uid.unwrap_or(meta.uid),
                    gid: set.gid.unwrap_or(meta.gid),
                    accessed: set.accessed.unwrap_or(meta.accessed),
                    modified: set
                        .modified
                        .unwrap_or(Timestamp(disk.modified.load(Relaxed))),
                })
            })?;
        }
        self.attributes(node)
    }

    /// Makes a disk.
    ///
    /// # Errors
    /// Where the name is taken or none, or the size can't be.
    pub fn create(&self, disk: NewDisk) -> Result<DiskId> {
        check_disk_name(&disk.name)?;
        if disk.size > MAX_DISK_SIZE {
            return Err(VolumeError::TooBig {
                size: disk.size,
                max: MAX_DISK_SIZE,
            });
        }
        self.create_over(disk, |_| Ok(None))
    }

    /// Makes a disk over what `origin` gives, if anything.
    pub(crate) fn create_over(
        &self,
        disk: NewDisk,
        origin: impl Fn(&Namespace) -> Result<Option<crate::ondisk::Origin>>,
    ) -> Result<DiskId> {
        let made = std::cell::Cell::new(DiskId(0));
        let _entered = self.commit_op(|names, _| {
            if names.lookup(&disk.name).is_some() {
                return Err(VolumeError::Exists(disk.name.clone()));
            }
            let origin = origin(names)?;
            let (id, map) = names.next_ids();
            made.set(id);
            let NewDisk {
                name,
                size,
                mode,
                uid,
                gid,
            } = disk.clone();
            Ok(Op::Create(NewDiskOp {
                disk: id,
                map,
                name,
                size,
                mode: mode & 0o7777,
                uid,
                gid,
                origin,
            }))
        })?;
        Ok(made.get())
    }

    /// Deletes a disk or a snapshot by its file name. One that is open lives on without a name
    /// until it is closed; a snapshot under a clone, until the clone is deleted.
    ///
    /// # Errors
    /// Where nothing has that name.
    pub fn remove(&self, name: &str) -> Result<()> {
        let _entered = self.commit_op(|names, _| match names.lookup(name) {
            Some(Node::Disk(_)) => removal(names, name),
            Some(Node::Snapshot(_)) => {
                let snapshot = names.snapshot_named(name)?;
                let open = snapshot.opens.load(Acquire) > 0;
                if open {
                    self.cache.pin_hidden(snapshot.map.id, snapshot.epoch, true);
                }
                Ok(Op::RemoveSnapshot {
                    map: snapshot.map.id,
                    epoch: snapshot.epoch,
                    open,
                })
            }
            None => Err(VolumeError::NotFound(name.to_owned())),
        })?;
        Ok(())
    }

    /// Renames a disk (its snapshots go with it), or the part of a snapshot's name after the `@`.
    /// With `replace`, a disk of the new name is deleted first.
    ///
    /// # Errors
    /// Where the old name is none, the new one taken or no name, or a snapshot would change disks.
    pub fn rename(&self, from: &str, to: &str, replace: bool) -> Result<()> {
        if from == to {
            let known = self.lookup(from).is_some();
            return if known {
                Ok(())
            } else {
                Err(VolumeError::NotFound(from.to_owned()))
            };
        }
        match self.lookup(from) {
            None => Err(VolumeError::NotFound(from.to_owned())),
            Some(Node::Disk(_)) => self.rename_disk(from, to, replace),
            Some(Node::Snapshot(_)) => self.rename_snapshot(from, to),
        }
    }

    fn rename_disk(&self, from: &str, to: &str, replace: bool) -> Result<()> {
        check_disk_name(to)?;
        let _entered = self.commit_op(|names, _| {
            let over = match names.lookup(to) {
                None => None,
                Some(Node::Disk(_)) if replace => {
                    let disk = names.disk_named(to)?;
                    let open = disk.opens.load(Acquire) > 0;
                    Some(Replaced {
                        disk: disk.id,
                        open,
                    })
                }
                Some(_) => return Err(VolumeError::Exists(to.to_owned())),
            };
            may_rename(names, from, to)?;
            let (from, to) = (from.to_owned(), to.to_owned());
            Ok(Op::Rename { from, to, over })
        })?;
        Ok(())
    }

    fn rename_snapshot(&self, from: &str, to: &str) -> Result<()> {
        let other = || {
            VolumeError::Invalid(format!(
                "{to:?} is no name for a snapshot of the same disk; write DISK@NAME"
            ))
        };
        let (old_disk, _) = split_snapshot_file_name(from).ok_or_else(other)?;
        let (disk, name) = split_snapshot_file_name(to).ok_or_else(other)?;
        if disk != old_disk {
            return Err(other());
        }
        check_snapshot_name(disk, name)?;
        let _entered = self.commit_op(|names, _| {
            let snapshot = names.snapshot_named(from)?;
            if names.lookup(to).is_some() {
                return Err(VolumeError::Exists(to.to_owned()));
            }
            Ok(Op::RenameSnapshot {
                map: snapshot.map.id,
                epoch: snapshot.epoch,
                to: name.to_owned(),
            })
        })?;
        Ok(())
    }

    /// Sets a disk's destage priority: higher goes first, 0 by default.
    ///
    /// # Errors
    /// Where no disk has that name.
    pub fn set_priority(&self, disk: &str, priority: u8) -> Result<()> {
        let _entered = self.commit_op(|names, _| {
            Ok(Op::Priority {
                disk: names.disk_named(disk)?.id,
                priority,
            })
        })?;
        Ok(())
    }

    /// Counts a handle. Until as many `close` calls, the node's content stays.
    ///
    /// # Errors
    /// Where the node is gone.
    pub fn open(&self, node: Node) -> Result<()> {
        // Under the lock, so that a removal sees either the handle or no node.
        let names = self.names.read();
        let gone = || VolumeError::NotFound("it".to_owned());
        match node {
            Node::Disk(id) => names.disk(id).ok_or_else(gone)?.opens.fetch_add(1, AcqRel),
            Node::Snapshot(id) => names
                .snapshot(id)
                .ok_or_else(gone)?
                .opens
                .fetch_add(1, AcqRel),
        };
        Ok(())
    }

    /// Ends a handle. With the last one goes what was deleted while it was open.
    pub fn close(&self, node: Node) {
        if let Err(error) = self.try_close(node) {
            log::warn!("what was deleted while it was open stays until the next mount: {error}");
        }
    }

    fn try_close(&self, node: Node) -> Result<()> {
        if !self.forget_handle(node) {
            return Ok(());
        }
        // Decided again under the names' lock: it may have been opened anew by its handle.
        let entered = self.commit_op(|names, _| match node {
            Node::Disk(id) => {
                let idle = names.disk(id).filter(|disk| disk.opens.load(Acquire) == 0);
                let idle = idle.ok_or_else(|| VolumeError::Busy("it".to_owned()))?;
                Ok(Op::Remove(idle.id))
            }
            Node::Snapshot(id) => {
                let idle = names.snapshot(id).filter(|it| it.opens.load(Acquire) == 0);
                let idle = idle.ok_or_else(|| VolumeError::Busy("it".to_owned()))?;
                let (map, epoch) = (idle.map.id, idle.epoch);
                self.cache.pin_hidden(map, epoch, false);
                Ok(Op::RemoveSnapshot {
                    map,
                    epoch,
                    open: false,
                })
            }
        });
        match entered {
            Ok(_) | Err(VolumeError::Busy(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Takes a handle off the count; whether it was the last of what has been deleted.
    fn forget_handle(&self, node: Node) -> bool {
        let names = self.names.read();
        match node {
            Node::Disk(id) => names.disk(id).is_some_and(|disk| {
                disk.opens.fetch_sub(1, AcqRel) == 1 && disk.meta.lock().unlinked
            }),
            Node::Snapshot(id) => names.snapshot(id).is_some_and(|snapshot| {
                snapshot.opens.fetch_sub(1, AcqRel) == 1 && snapshot.meta.lock().hidden
            }),
        }
    }
}

/// Blocks of data of the snapshots that a map stands on.
fn below(view: &View, map: &MapState) -> Result<u64> {
    let mut blocks = 0;
    let mut origin = map.origin.as_ref();
    while let Some(under) = origin {
        let record = view.snapshot(under.map.id, under.epoch)?;
        // Its marker may still be queued; then it has some.
        blocks += record.map_or(1, |record| record.allocated);
        origin = under.map.origin.as_ref();
    }
    Ok(blocks)
}

/// Whether the disk can have the name as far as its snapshots go: they will be named after it.
fn may_rename(names: &Namespace, from: &str, to: &str) -> Result<()> {
    names.disk_named(from)?;
    let theirs = names.snapshots_of(to);
    for (name, _) in names.snapshots_of(from) {
        check_snapshot_name(to, &name)?;
        if theirs.iter().any(|(taken, _)| *taken == name) {
            return Err(VolumeError::Exists(snapshot_file_name(to, &name)));
        }
    }
    Ok(())
}

/// The op that deletes a disk: at once, or when its last handle closes.
fn removal(names: &Namespace, name: &str) -> Result<Op> {
    let disk = names.disk_named(name)?;
    let open = disk.opens.load(Acquire) > 0;
    Ok(if open {
        Op::Unlink(disk.id)
    } else {
        Op::Remove(disk.id)
    })
}
