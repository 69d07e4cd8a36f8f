//! Rolling back: the disk gets a new, empty map over the snapshot; the old map goes, but for what
//! its snapshots see. O(1), like taking one.

use std::sync::atomic::Ordering::Acquire;

use crate::base::{BLOCK_SIZE, Block};
use crate::ondisk::Origin;
use crate::ondisk::journal::Op;
use crate::volume::{Result, VolumeError, Volumes};

impl Volumes {
    /// Makes the disk's content and size those of its snapshot (a file name). What was written
    /// since is gone unless another snapshot has it; later snapshots stay.
    ///
    /// # Errors
    /// Where either is none, the snapshot is of another disk, or the disk is open and not `force`.
    pub fn rollback(&self, disk: &str, snapshot: &str, force: bool) -> Result<()> {
        let entered = self.commit_op(|names, _| {
            let target = names.disk_named(disk)?;
            let source = names.snapshot_named(snapshot)?;
            if source.meta.lock().disk_name != disk {
                return Err(VolumeError::Invalid(format!(
                    "{snapshot:?} is no snapshot of {disk:?}; to have it under another name, clone it"
                )));
            }
            if target.opens.load(Acquire) > 0 && !force {
                return Err(VolumeError::Busy(disk.to_owned()));
            }
            let limit = Block(source.size.div_ceil(BLOCK_SIZE));
            let origin = Origin { map: source.map.id, epoch: source.epoch, limit };
            Ok(Op::Rollback { disk: target.id, map: names.next_ids().1, origin, size: source.size })
        })?;
        Ok(self.cache.sync(entered.0)?)
    }
}
