//! `rollback`: a disk back to its snapshot.

use std::time::{Duration, Instant};

use super::Answer;
use crate::volume::{VolumeError, Volumes};

/// Makes the disk's content that of the snapshot.
pub fn run(volumes: &Volumes, disk: &str, snapshot: &str, force: bool) -> Answer {
    roll_back(volumes, disk, snapshot, force)?;
    Ok(format!(
        "{disk} rolled back to {snapshot}; its other snapshots stay\n"
    ))
}

/// A close reaches the store a moment after close(2) has returned: who rolls back right behind it
/// is not told that the disk is open.
fn roll_back(
    volumes: &Volumes,
    disk: &str,
    snapshot: &str,
    force: bool,
) -> Result<(), VolumeError> {
    let patience = Instant::now() + Duration::from_millis(200);
    loop {
        match volumes.rollback(disk, snapshot, force) {
            Err(VolumeError::Busy(_)) if Instant::now() < patience => {
                std::thread::sleep(Duration::from_millis(10));
            }
            result => return result,
        }
    }
}
