//! Ops: the records that change names, sizes and snapshots. They stand in the same order as the
//! writes, so that replaying the journal gives the namespace too.
//!
//! Each is one byte for which it is, then its fields in the order of the variants below; numbers
//! little-endian, texts with their length in two bytes before them, `Option` as one byte 0 or 1.

use super::super::wire::{Put, Reader, WireError};
use crate::base::{Block, DiskId, Epoch, MapId, Timestamp};
use crate::ondisk::Origin;

/// A disk as it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDiskOp {
    /// Its identity.
    pub disk: DiskId,
    /// Its map.
    pub map: MapId,
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owning user.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// The snapshot that it is a clone of.
    pub origin: Option<Origin>,
}

/// A disk that a marker is set for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The disk.
    pub disk: DiskId,
    /// The map that it has at the marker.
    pub map: MapId,
    /// The epoch that the marker ends.
    pub epoch: Epoch,
    /// The disk's name.
    pub disk_name: String,
    /// The disk's size in bytes.
    pub size: u64,
}

/// A disk that another takes the name of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// The disk.
    pub disk: DiskId,
    /// Whether it is open: then it only loses its name.
    pub open: bool,
}

/// A change that is no write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A disk is made.
    Create(NewDiskOp),
    /// A disk loses its name, but lives on until its last handle closes.
    Unlink(DiskId),
    /// A disk goes away.
    Remove(DiskId),
    /// A disk gets another name; its snapshots, and those left by others of its old name, follow.
    Rename {
        /// The disk's name.
        from: String,
        /// Its new name.
        to: String,
        /// The disk that had the new name, and goes away with this.
        over: Option<Replaced>,
    },
    /// Attributes are set, all of them.
    Attributes {
        /// The disk.
        disk: DiskId,
        /// Permission bits.
        mode: u32,
        /// Owning user.
        uid: u32,
        /// Owning group.
        gid: u32,
        /// Last read.
        accessed: Timestamp,
        /// Last change of content.
        modified: Timestamp,
    },
    /// The size is set. Where it shrinks, a zero record for the rest stands before it.
    Resize {
        /// The disk.
        disk: DiskId,
        /// In bytes.
        size: u64,
    },
    /// The marker: these disks have a snapshot here.
    Marker {
        /// The part of the name after the `@`.
        name: String,
        /// The disks.
        targets: Vec<Target>,
    },
    /// A snapshot goes out of sight; it stays while a clone stands on it or it is open.
    RemoveSnapshot {
        /// Its map.
        map: MapId,
        /// Its epoch.
        epoch: Epoch,
        /// Whether it is open: then it stays until a second removal says that it is not.
        open: bool,
    },
    /// A snapshot gets another name.
    RenameSnapshot {
        /// Its map.
        map: MapId,
        /// Its epoch.
        epoch: Epoch,
        /// The new part after the `@`.
        to: String,
    },
    /// A disk's content becomes that of a snapshot: it gets a new map over it.
    Rollback {
        /// The disk.
        disk: DiskId,
        /// Its new map.
        map: MapId,
        /// The snapshot.
        origin: Origin,
        /// The disk's size afterwards in bytes.
        size: u64,
    },
    /// A disk's destage priority is set.
    Priority {
        /// The disk.
        disk: DiskId,
        /// Higher is destaged first.
        priority: u8,
    },
}

impl Op {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Create(new) => {
                out.u8(1);
                out.u32(new.disk.0);
                out.u32(new.map.0);
                out.text(&new.name);
                out.u64(new.size);
                out.u32(new.mode);
                out.u32(new.uid);
                out.u32(new.gid);
                out.u8(new.origin.is_some().into());
                if let Some(origin) = &new.origin {
                    put_origin(out, origin);
                }
            }
            Self::Unlink(disk) => {
                out.u8(2);
                out.u32(disk.0);
            }
            Self::Remove(disk) => {
                out.u8(3);
                out.u32(disk.0);
            }
            Self::Rename { from, to, over } => {
                out.u8(4);
                out.text(from);
                out.text(to);
                out.u8(over.is_some().into());
                if let Some(over) = over {
                    out.u32(over.disk.0);
                    out.u8(over.open.into());
                }
            }
            Self::Attributes {
                disk,
                mode,
                uid,
                gid,
                accessed,
                modified,
            } => {
                out.u8(5);
                [disk.0, *mode, *uid, *gid]
                    .into_iter()
                    .for_each(|n| out.u32(n));
                out.i64(accessed.0);
                out.i64(modified.0);
            }
            Self::Resize { disk, size } => {
                out.u8(6);
                out.u32(disk.0);
                out.u64(*size);
            }
            Self::Marker { name, targets } => {
                out.u8(7);
                out.text(name);
                out.u32(targets.len() as u32);
                for target in targets {
                    out.u32(target.disk.0);
                    out.u32(target.map.0);
                    out.u64(target.epoch.0);
                    out.text(&target.disk_name);
                    out.u64(target.size);
                }
            }
            Self::RemoveSnapshot { map, epoch, open } => {
                out.u8(8);
                out.u32(map.0);
                out.u64(epoch.0);
                out.u8((*open).into());
            }
            Self::RenameSnapshot { map, epoch, to } => {
                out.u8(9);
                out.u32(map.0);
                out.u64(epoch.0);
                out.text(to);
            }
            Self::Rollback {
                disk,
                map,
                origin,
                size,
            } => {
                out.u8(10);
                out.u32(disk.0);
                out.u32(map.0);
                put_origin(out, origin);
                out.u64(*size);
            }
            Self::Priority { disk, priority } => {
                out.u8(11);
                out.u32(disk.0);
                out.u8(*priority);
            }
        }
    }

    pub(super) fn decode(from: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(match from.u8("op")? {
            1 => Self::Create(NewDiskOp {
                disk: DiskId(from.u32("disk")?),
                map: MapId(from.u32("map")?),
                name: from.text("name")?,
                size: from.u64("size")?,
                mode: from.u32("mode")?,
                uid: from.u32("uid")?,
                gid: from.u32("gid")?,
                origin: if from.flag("has origin")? {
                    Some(origin(from)?)
                } else {
                    None
                },
            }),
            2 => Self::Unlink(DiskId(from.u32("disk")?)),
            3 => Self::Remove(DiskId(from.u32("disk")?)),
            4 => Self::Rename {
                from: from.text("from")?,
                to: from.text("to")?,
                over: if from.flag("has replaced")? {
                    Some(replaced(from)?)
                } else {
                    None
                },
            },
            5 => Self::Attributes {
                disk: DiskId(from.u32("disk")?),
                mode: from.u32("mode")?,
                uid: from.u32("uid")?,
                gid: from.u32("gid")?,
                accessed: Timestamp(from.i64("accessed")?),
                modified: Timestamp(from.i64("modified")?),
            },
            6 => Self::Resize {
                disk: DiskId(from.u32("disk")?),
                size: from.u64("size")?,
            },
            7 => {
                let name = from.text("name")?;
                let count = from.u32("targets")?;
                Self::Marker {
                    name,
                    targets: (0..count).map(|_| target(from)).collect::<Result<_, _>>()?,
                }
            }
            8 => Self::RemoveSnapshot {
                map: MapId(from.u32("map")?),
                epoch: Epoch(from.u64("epoch")?),
                open: from.flag("open")?,
            },
            9 => Self::RenameSnapshot {
                map: MapId(from.u32("map")?),
                epoch: Epoch(from.u64("epoch")?),
                to: from.text("to")?,
            },
            10 => Self::Rollback {
                disk: DiskId(from.u32("disk")?),
                map: MapId(from.u32("map")?),
                origin: origin(from)?,
                size: from.u64("size")?,
            },
            11 => Self::Priority {
                disk: DiskId(from.u32("disk")?),
                priority: from.u8("priority")?,
            },
            op => {
                return Err(WireError::Value {
                    field: "op",
                    value: u64::from(op),
                });
            }
        })
    }
}

fn put_origin(out: &mut Vec<u8>, origin: &Origin) {
    out.u32(origin.map.0);
    out.u64(origin.epoch.0);
    out.u64(origin.limit.0);
}

fn origin(from: &mut Reader<'_>) -> Result<Origin, WireError> {
    Ok(Origin {
        map: MapId(from.u32("origin map")?),
        epoch: Epoch(from.u64("origin epoch")?),
        limit: Block(from.u64("origin limit")?),
    })
}

fn replaced(from: &mut Reader<'_>) -> Result<Replaced, WireError> {
    Ok(Replaced {
        disk: DiskId(from.u32("replaced disk")?),
        open: from.flag("replaced is open")?,
    })
}

fn target(from: &mut Reader<'_>) -> Result<Target, WireError> {
    Ok(Target {
        disk: DiskId(from.u32("disk")?),
        map: MapId(from.u32("map")?),
        epoch: Epoch(from.u64("epoch")?),
        disk_name: from.text("disk name")?,
        size: from.u64("size")?,
    })
}
