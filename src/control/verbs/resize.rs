//! `resize`: a disk's virtual size.

use super::Answer;
use crate::base::ByteSize;
use crate::control::{CommandError, ErrorKind};
use crate::volume::{Node, SetAttributes, Volumes};

/// Grows or shrinks the disk.
pub fn run(volumes: &Volumes, disk: &str, size: ByteSize) -> Answer {
    let Some(node @ Node::Disk(_)) = volumes.lookup(disk) else {
        return Err(CommandError::new(
            ErrorKind::NotFound,
            format!("there is no disk {disk:?}; 'list' shows those there are"),
        ));
    };
    let before = ByteSize(volumes.attributes(node)?.size);
    let set = SetAttributes {
        size: Some(size.0),
        ..SetAttributes::default()
    };
    volumes.set_attributes(node, &set)?;
    Ok(format!(
        "{disk} resized from {before} to {size}{}\n",
        note(before, size)
    ))
}

fn note(before: ByteSize, after: ByteSize) -> &'static str {
    if after > before {
        "; a loop device on it learns that by 'losetup --set-capacity'"
    } else {
        ""
    }
}
