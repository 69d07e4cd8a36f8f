//! `rollback`: a disk back to its snapshot.

use super::Answer;
use crate::volume::Volumes;

/// Makes the disk's content that of the snapshot.
pub fn run(volumes: &Volumes, disk: &str, snapshot: &str, force: bool) -> Answer {
    volumes.rollback(disk, snapshot, force)?;
    Ok(format!(
        "{disk} rolled back to {snapshot}; its other snapshots stay\n"
    ))
}
