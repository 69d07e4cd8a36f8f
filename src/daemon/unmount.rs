//! `snapmark unmount`: unmounts, and waits until the daemon has closed the store and is gone.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::processes::{daemon_of, users_of};
use crate::base::Mounted;
use crate::frontend::fuse::{DeadMount, Unmount, Unmounter, absolute, mounted_at, mounts};

/// Why a mount is still there, or its daemon.
#[derive(Debug, thiserror::Error)]
pub enum UnmountError {
    /// No store is mounted there.
    #[error("no store is mounted at {}", .0.display())]
    NotMounted(PathBuf),
    /// Someone uses it.
    #[error(
        "{} is in use{}; close what is open (umount, losetup -d, stop the VM, leave the directory), then try again",
        mountpoint.display(), open_list(open)
    )]
    Busy {
        /// The path.
        mountpoint: PathBuf,
        /// Commands that have files of it open, as far as this user can see.
        open: Vec<String>,
    },
    /// It is unmounted, and the daemon still moves the cache to the devices.
    #[error(
        "{} is unmounted, but its daemon (process {daemon}) has not ended after {} s; it goes on closing the store",
        mountpoint.display(), waited.as_secs()
    )]
    StillClosing {
        /// The path.
        mountpoint: PathBuf,
        /// The daemon's process.
        daemon: u32,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The system refused.
    #[error("can't unmount {}: {error}", mountpoint.display())]
    Failed {
        /// The path.
        mountpoint: PathBuf,
        /// What it said.
        error: io::Error,
    },
}

fn open_list(open: &[String]) -> String {
    if open.is_empty() {
        String::new()
    } else {
        format!(" by {}", open.join(", "))
    }
}

/// Takes a mount out of the tree: no new users come, and its daemon ends when those who have files
/// open have closed them.
///
/// # Errors
/// Where no store is mounted there, or the system refuses.
pub fn detach(mountpoint: &Path) -> Result<(), UnmountError> {
    let failed = |error| UnmountError::Failed {
        mountpoint: mountpoint.to_owned(),
        error,
    };
    let path = absolute(mountpoint).map_err(failed)?;
    let mounted = mounted_at(&path).map_err(failed)?;
    if !mounted.is_some_and(|mounted| mounted.is_snapmark()) {
        return Err(UnmountError::NotMounted(path));
    }
    Unmounter::at(&path)
        .and_then(|it| it.detach())
        .map(|_| ())
        .map_err(failed)
}

/// Unmounts what is at `mountpoint` and waits up to `patience` for its daemon to end. What a
/// killed daemon left there goes at once, also while files in it are open.
///
/// # Errors
/// Where it is in use or the system refuses; nothing has changed then. Or where the daemon takes
/// longer.
pub fn unmount(mountpoint: &Path, patience: Duration) -> Result<(), UnmountError> {
    let failed = |error| UnmountError::Failed {
        mountpoint: mountpoint.to_owned(),
        error,
    };
    let path = absolute(mountpoint).map_err(failed)?;
    let mounted = mounted_at(&path).map_err(failed)?;
    let Some(mounted) = mounted.filter(Mounted::is_snapmark) else {
        return Err(UnmountError::NotMounted(path));
    };
    let daemon = daemon_of(&mounted);
    // A mount that somebody serves is not asked whether it is dead: one that is stuck would not
    // answer. But where the store is mounted elsewhere too, the daemon may be that mount's.
    let same = |other: &&Mounted| other.source == mounted.source;
    let elsewhere = mounts().map_err(failed)?.iter().filter(same).count() > 1;
    // Who still has files open in a dead one gets errors either way: nothing has to be waited for.
    if (daemon.is_none() || elsewhere)
        && let Some(dead) = DeadMount::at(&path).map_err(failed)?
    {
        return dead.detach().map(|_| ()).map_err(failed);
    }
    match Unmounter::at(&path)
        .and_then(|it| it.unmount())
        .map_err(failed)?
    {
        Unmount::Done | Unmount::Gone => {}
        Unmount::Busy => {
            let open = users_of(&path);
            return Err(UnmountError::Busy {
                mountpoint: path,
                open,
            });
        }
    }
    match daemon {
        Some(daemon) => wait_for(daemon, path, patience),
        None => Ok(()),
    }
}

fn wait_for(daemon: u32, mountpoint: PathBuf, patience: Duration) -> Result<(), UnmountError> {
    let process = PathBuf::from(format!("/proc/{daemon}"));
    let start = Instant::now();
    while process.exists() && !is_zombie(&process) {
        if start.elapsed() > patience {
            return Err(UnmountError::StillClosing {
                mountpoint,
                daemon,
                waited: patience,
            });
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Whether the process has ended and only its parent has not taken notice.
fn is_zombie(process: &Path) -> bool {
    let stat = std::fs::read_to_string(process.join("stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes());
    matches!(state, Some([b'Z' | b'X', ..]))
}
