//! The disks' lines as those see them who make ops.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use super::MapState;
use super::queue::{DiskQueue, Queue};
use crate::base::{DiskId, Epoch, Timestamp};

/// The disks' lines, for the one who builds an op.
pub struct Lines<'a> {
    queue: &'a mut Queue,
    time: Timestamp,
}

impl<'a> Lines<'a> {
    pub(super) fn over(queue: &'a mut Queue, time: Timestamp) -> Self {
        Self { queue, time }
    }

    /// When the op was entered, at first: recovery gives the same.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// Adds a disk's line.
    pub fn add(
        &mut self,
        disk: DiskId,
        map: Arc<MapState>,
        epoch: Epoch,
        size: Arc<AtomicU64>,
        priority: u8,
    ) {
        let records = std::collections::VecDeque::new();
        self.queue.disks.insert(
            disk,
            DiskQueue {
                map,
                epoch,
                size,
                priority,
                records,
                bytes: 0,
                removed: false,
            },
        );
    }

    /// A disk's map, the epoch that its next write belongs to, and its size in bytes.
    #[must_use]
    pub fn line(&self, disk: DiskId) -> Option<(Arc<MapState>, Epoch, u64)> {
        let line = self.queue.disks.get(&disk)?;
        Some((line.map.clone(), line.epoch, line.size.load(Relaxed)))
    }

    /// Ends the disk's epoch: what is appended from now on is behind the marker.
    pub fn end_epoch(&mut self, disk: DiskId) {
        if let Some(line) = self.queue.disks.get_mut(&disk) {
            line.epoch = line.epoch.after_marker();
        }
    }

    /// The disk goes away: nothing more is appended to it.
    pub fn remove(&mut self, disk: DiskId) {
        if let Some(line) = self.queue.disks.get_mut(&disk) {
            line.removed = true;
        }
    }

    /// Gives the disk another map, in its first epoch.
    pub fn switch(&mut self, disk: DiskId, map: Arc<MapState>, size: u64) {
        if let Some(line) = self.queue.disks.get_mut(&disk) {
            line.map = map;
            line.epoch = Epoch::FIRST;
            line.size.store(size, Relaxed);
        }
    }

    /// Sets the disk's size.
    pub fn resize(&mut self, disk: DiskId, size: u64) {
        if let Some(line) = self.queue.disks.get_mut(&disk) {
            line.size.store(size, Relaxed);
        }
    }

    /// Sets the disk's destage priority.
    pub fn set_priority(&mut self, disk: DiskId, priority: u8) {
        if let Some(line) = self.queue.disks.get_mut(&disk) {
            line.priority = priority;
        }
    }
}
