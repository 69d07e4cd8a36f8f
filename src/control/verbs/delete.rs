//! `delete`: a disk or a snapshot.

use super::Answer;
use crate::base::split_snapshot_file_name;
use crate::volume::Volumes;

/// Deletes what has this file name.
pub fn run(volumes: &Volumes, name: &str) -> Answer {
    volumes.remove(name)?;
    Ok(match split_snapshot_file_name(name) {
        Some(_) => format!("snapshot {name} deleted; its space returns to the pool\n"),
        None => format!("disk {name} deleted; its snapshots stay\n"),
    })
}
