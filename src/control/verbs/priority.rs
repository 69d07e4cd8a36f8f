//! `priority`: which disk is destaged first.

use super::Answer;
use crate::volume::Volumes;

/// Sets the priority.
pub fn run(volumes: &Volumes, disk: &str, priority: u8) -> Answer {
    volumes.set_priority(disk, priority)?;
    Ok(format!("{disk} has priority {priority}\n"))
}
