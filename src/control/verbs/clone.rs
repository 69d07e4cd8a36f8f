//! `clone`: a writable disk over a snapshot.

use super::Answer;
use crate::control::{CommandError, ErrorKind};
use crate::volume::{NewDisk, Volumes};

/// The snapshot has no write bits; its clone is there to be written by the owner.
const OWNER_WRITES: u32 = 0o200;

/// Makes the clone, with the snapshot's size and owner.
pub fn run(volumes: &Volumes, snapshot: &str, disk: &str) -> Answer {
    let node = volumes.lookup(snapshot).ok_or_else(|| {
        CommandError::new(
            ErrorKind::NotFound,
            format!("there is no snapshot {snapshot:?}; 'list' shows those there are"),
        )
    })?;
    let of = volumes.attributes(node)?;
    let new = NewDisk {
        name: disk.to_owned(),
        size: of.size,
        mode: of.mode | OWNER_WRITES,
        uid: of.uid,
        gid: of.gid,
    };
    volumes.clone_snapshot(snapshot, new)?;
    Ok(format!("{disk} is a writable clone of {snapshot}\n"))
}
