//! Cloning: a new disk whose empty map stands on the snapshot.

use crate::base::{BLOCK_SIZE, Block, DiskId, check_disk_name};
use crate::ondisk::Origin;
use crate::volume::{NewDisk, Result, Volumes};

impl Volumes {
    /// Makes a writable disk over a snapshot (a file name). The size of `disk` is that of the
    /// snapshot, whatever it says.
    ///
    /// # Errors
    /// Where the snapshot is none, or the disk's name is taken or no name.
    pub fn clone_snapshot(&self, snapshot: &str, disk: NewDisk) -> Result<DiskId> {
        check_disk_name(&disk.name)?;
        let size = {
            let source = self.names.read().snapshot_named(snapshot)?;
            source.size
        };
        let id = self.create_over(NewDisk { size, ..disk }, |names| {
            let source = names.snapshot_named(snapshot)?;
            let limit = Block(source.size.div_ceil(BLOCK_SIZE));
            Ok(Some(Origin {
                map: source.map.id,
                epoch: source.epoch,
                limit,
            }))
        })?;
        self.cache.sync(self.cache.newest())?;
        Ok(id)
    }
}
