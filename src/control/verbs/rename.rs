//! `rename`: a disk with its snapshots, or a snapshot.

use super::Answer;
use crate::volume::Volumes;

/// Renames; a name that is taken is left alone.
pub fn run(volumes: &Volumes, from: &str, to: &str) -> Answer {
    volumes.rename(from, to, false)?;
    Ok(format!("{from} renamed to {to}\n"))
}
