//! What can go wrong with a disk or a snapshot.

use crate::base::NameError;

/// Why an operation on a disk or snapshot failed. The frontends turn it into an errno or a sense
/// code, each in one file.
#[derive(Clone, Debug, thiserror::Error)]
pub enum VolumeError {
    /// No disk or snapshot has that name.
    #[error("there is no {0:?}")]
    NotFound(String),
    /// The name is taken.
    #[error("{0:?} exists already")]
    Exists(String),
    /// A name that nothing can have.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The disk is open, and the operation would pull its content from under its users.
    #[error("{0:?} is open; close it (unmount, losetup -d, stop the VM), or force it")]
    Busy(String),
    /// A write, truncation or change of mode on a snapshot.
    #[error("{0:?} is a snapshot, and snapshots do not change; clone it to write")]
    ReadOnly(String),
    /// The pool has no space for it. Nothing was written.
    #[error(
        "the pool is full: {needed} segments needed, {available} available; delete snapshots, discard, or add a device"
    )]
    NoSpace {
        /// Segments that the write may need.
        needed: u64,
        /// Segments that there are.
        available: u64,
    },
    /// The host has had no space for a while. Nothing was written; what was acknowledged is safe.
    #[error(
        "no space on the host: {0}; free some there or add a device, it then goes on by itself"
    )]
    HostFull(String),
    /// As it looks, there will be space soon, and this may be asked for again. A part may be written. Only who
    /// [does not wait for long](crate::volume::Volumes::with_space_deadline) is told so.
    #[error("no space for the moment: {0}")]
    NoSpaceYet(String),
    /// A size that no disk can have.
    #[error("a disk can't have {size} bytes; the largest has {max}")]
    TooBig {
        /// Asked for.
        size: u64,
        /// Possible.
        max: u64,
    },
    /// The request makes no sense as it stands.
    #[error("{0}")]
    Invalid(String),
    /// The store has halted after a failed sync or write; reads may go on.
    #[error("the store has stopped writing: {0}; find the cause, then unmount and mount again")]
    Halted(String),
    /// A device or the catalog failed, or what it gave does not match its checksum.
    #[error("{0}")]
    Io(String),
}
