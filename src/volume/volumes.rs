//! (in the making)

use super::{
    Attributes, Extent, Metrics, NewDisk, Node, PoolUsage, SetAttributes, Status, VolumeError,
    Whence,
};
use crate::base::DiskId;

/// The open store as a set of disks and snapshots. All calls may come from many threads.
pub struct Volumes {
    metrics: Metrics,
}

type Result<T> = std::result::Result<T, VolumeError>;

#[allow(unused_variables, clippy::todo)]
impl Volumes {
    /// What has this name: a disk, or a snapshot as `DISK@SNAPSHOT`.
    pub fn lookup(&self, name: &str) -> Option<Node> {
        todo!()
    }
    /// All disks and snapshots with their file names, in name order.
    pub fn list(&self) -> Vec<(String, Node)> {
        todo!()
    }
    /// What `stat` shows.
    pub fn attributes(&self, node: Node) -> Result<Attributes> {
        todo!()
    }
    /// Changes attributes; resizes where a size is given.
    pub fn set_attributes(&self, node: Node, set: &SetAttributes) -> Result<Attributes> {
        todo!()
    }
    /// Makes a disk.
    pub fn create(&self, disk: NewDisk) -> Result<DiskId> {
        todo!()
    }
    /// Deletes a disk or a snapshot by its file name. One that is open lives on without a name until closed.
    pub fn remove(&self, name: &str) -> Result<()> {
        todo!()
    }
    /// Renames a disk (its snapshots go with it), or the part of a snapshot's name after the `@`.
    pub fn rename(&self, from: &str, to: &str, replace: bool) -> Result<()> {
        todo!()
    }
    /// Counts a handle. Until as many `close` calls, the node's content stays.
    pub fn open(&self, node: Node) -> Result<()> {
        todo!()
    }
    /// Ends a handle.
    pub fn close(&self, node: Node) {
        todo!()
    }
    /// Reads up to `buf.len()` bytes; fewer only at the end of the node. Returns how many.
    pub fn read(&self, node: Node, offset: u64, buf: &mut [u8]) -> Result<usize> {
        todo!()
    }
    /// Writes all of `data`, growing the disk where it ends past its size. Atomic with respect to markers.
    pub fn write(&self, disk: DiskId, offset: u64, data: &[u8]) -> Result<()> {
        todo!()
    }
    /// Makes a range read as zeros and gives its space back; never grows the disk.
    pub fn discard(&self, disk: DiskId, range: Extent) -> Result<()> {
        todo!()
    }
    /// `fallocate` without punching: grows the disk if `grow` and the range ends past it; fails with NoSpace where
    /// the pool could not take it.
    pub fn allocate(&self, disk: DiskId, range: Extent, grow: bool) -> Result<()> {
        todo!()
    }
    /// The next data or hole at or after `offset`; `None` where `offset` or all that follows is past the data.
    pub fn seek(&self, node: Node, offset: u64, whence: Whence) -> Result<Option<u64>> {
        todo!()
    }
    /// Returns when everything acknowledged before the call survives power loss.
    pub fn sync(&self) -> Result<()> {
        todo!()
    }
    /// Moves all that is in the cache to the devices.
    pub fn flush(&self) -> Result<()> {
        todo!()
    }
    /// Space of the pool.
    pub fn usage(&self) -> PoolUsage {
        todo!()
    }
    /// The whole state.
    pub fn status(&self) -> Status {
        todo!()
    }
    /// The counters.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }
    /// Sets one marker over all these disks. Returns the file names of the snapshots. `durable`: wait until the
    /// marker would survive power loss.
    pub fn snapshot(
        &self,
        disks: &[&str],
        name: Option<&str>,
        durable: bool,
    ) -> Result<Vec<String>> {
        todo!()
    }
    /// Makes the disk's content that of its snapshot (a file name). Refused while open unless `force`.
    pub fn rollback(&self, disk: &str, snapshot: &str, force: bool) -> Result<()> {
        todo!()
    }
    /// Makes a writable disk over a snapshot (a file name).
    pub fn clone_snapshot(&self, snapshot: &str, disk: NewDisk) -> Result<DiskId> {
        todo!()
    }
    /// Sets a disk's destage priority.
    pub fn set_priority(&self, disk: &str, priority: u8) -> Result<()> {
        todo!()
    }
    /// Gives the pool another device: a path, absolute or relative to the store; made with this size if it does not exist.
    pub fn add_device(&self, path: &str, size: Option<u64>) -> Result<u16> {
        todo!()
    }
    /// Drains the cache, stops the workers, and writes a checkpoint. Later calls fail.
    pub fn close_store(&self) -> Result<()> {
        todo!()
    }
}
