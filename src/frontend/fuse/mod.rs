//! The FUSE mount: a thin adapter that turns requests of the kernel into calls of `volume` and
//! `control`. It keeps open handles and nothing else; what a request means is decided below.

mod attr;
mod buffer;
mod capabilities;
mod control_file;
mod dead;
mod directory;
mod errno;
mod file;
mod filesystem;
mod handles;
mod inode;
mod mounts;
mod parking;
mod session;
mod special;
mod unmount;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::control::Commands;
use crate::volume::Volumes;

pub use dead::DeadMount;
pub use mounts::{absolute, mounted_at, mounts};
pub use session::{MountError, Session};
pub use unmount::{Unmount, Unmounter};

/// How to mount and how to talk to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FuseOptions {
    /// Threads that take requests, at least one.
    pub threads: usize,
    /// Requests that the kernel keeps in flight without a caller that waits (asynchronous I/O,
    /// readahead). The kernel calls the mount congested at three quarters of it.
    pub max_background: u16,
    /// Whether users other than the one who mounted may use the mount.
    pub allow_other: bool,
    /// What `mount` and `df` show as the source: the store's path.
    pub fsname: String,
}

impl Default for FuseOptions {
    fn default() -> Self {
        Self {
            threads: 8,
            max_background: 256,
            allow_other: false,
            fsname: "snapmark".to_owned(),
        }
    }
}

/// What every request needs. Shared by the threads that take requests and the workers.
struct Mount {
    volumes: Arc<Volumes>,
    commands: Arc<dyn Commands>,
    /// Attributes of the root directory and owner of the mount's own files.
    root: attr::Root,
    handles: handles::Handles,
    /// Look-ups of `.control` so far.
    control_lookups: AtomicU64,
}

/// What a request answers with.
type Answer<T> = Result<T, fuser::Errno>;
