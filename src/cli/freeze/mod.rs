//! `--freeze`: the file systems that are loop-mounted from a disk write all they have and hold
//! still for the moment of a snapshot.
//!
//! A file system that stays frozen hangs everyone who writes to it, so the thaw must come whatever
//! happens. Freezing and thawing are therefore done by a process of their own ([`FreezeGuard`]),
//! which thaws when it is told to, when its parent dies, and after [`LIMIT`] at the latest; if it
//! dies itself, its parent thaws ([`Frozen`]).

mod frozen;
mod guard;
mod ioctl;
mod loops;

use std::time::Duration;

pub use frozen::{Frozen, Thawed};
pub use guard::FreezeGuard;
pub use loops::{FileSystem, file_systems};

/// The longest that a file system stays frozen.
pub const LIMIT: Duration = Duration::from_secs(10);
