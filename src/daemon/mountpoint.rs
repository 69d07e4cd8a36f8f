//! Whether something can be mounted at a path, decided before a store is opened for it.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::frontend::fuse::{Mounted, Unmount, Unmounter, absolute, mounted_at};

/// Why nothing can be mounted there, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum MountpointError {
    /// Nothing is there.
    #[error("{} does not exist; make it with mkdir", .0.display())]
    Missing(PathBuf),
    /// A file or something else is there.
    #[error("{} is no directory; a store is mounted on one", .0.display())]
    NotADirectory(PathBuf),
    /// A store is served there already.
    #[error(
        "{} has {} mounted already; use it, or unmount it with `snapmark unmount {}`",
        mountpoint.display(), store.display(), mountpoint.display()
    )]
    Mounted {
        /// The path.
        mountpoint: PathBuf,
        /// The store that is mounted there.
        store: PathBuf,
    },
    /// The mount would hide the store from the daemon's own eyes.
    #[error(
        "{} is the store or holds it, and the mount would hide it; choose another directory",
        .0.display()
    )]
    HidesStore(PathBuf),
    /// A mount whose daemon died does not go away.
    #[error(
        "{} has a mount whose daemon is gone, which can't be detached: {error}; try `umount -l {}`",
        mountpoint.display(), mountpoint.display()
    )]
    Stale {
        /// The path.
        mountpoint: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Anything else.
    #[error("can't look at {}: {error}", mountpoint.display())]
    Unreadable {
        /// The path.
        mountpoint: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// Checks a mountpoint and returns its absolute path without symbolic links. A mount that a
/// killed daemon left behind is detached.
///
/// # Errors
/// Where no store can be mounted there.
pub fn prepare(mountpoint: &Path, store: &Path) -> Result<PathBuf, MountpointError> {
    detach_stale(mountpoint)?;
    let path = mountpoint
        .canonicalize()
        .map_err(|error| unusable(mountpoint, error))?;
    let at = |error| unusable(&path, error);
    if let Some(mounted) = mounted_at(&path).map_err(at)?.filter(Mounted::is_snapmark) {
        return Err(MountpointError::Mounted {
            mountpoint: path,
            store: mounted.source.into(),
        });
    }
    if !std::fs::metadata(&path).map_err(at)?.is_dir() {
        return Err(MountpointError::NotADirectory(path));
    }
    match store.canonicalize() {
        Ok(store) if store.starts_with(&path) => Err(MountpointError::HidesStore(path)),
        _ => Ok(path),
    }
}

fn unusable(mountpoint: &Path, error: io::Error) -> MountpointError {
    let mountpoint = mountpoint.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound => MountpointError::Missing(mountpoint),
        io::ErrorKind::NotADirectory => MountpointError::NotADirectory(mountpoint),
        _ => MountpointError::Unreadable { mountpoint, error },
    }
}

/// Detaches what a killed daemon left: the kernel answers `ENOTCONN` there. Anything but a
/// Snapmark mount is left alone.
fn detach_stale(mountpoint: &Path) -> Result<(), MountpointError> {
    let dead = |error: &io::Error| error.raw_os_error() == Some(Errno::NOTCONN.raw_os_error());
    // Killed daemons may have left several mounts on top of each other.
    for _ in 0..16 {
        match std::fs::metadata(mountpoint) {
            Err(error) if dead(&error) => {}
            _ => break,
        }
        let path = absolute(mountpoint).map_err(|error| unusable(mountpoint, error))?;
        let stale = |error| MountpointError::Stale {
            mountpoint: path.clone(),
            error,
        };
        let mounted = mounted_at(&path).map_err(stale)?;
        if !mounted.is_some_and(|mounted| mounted.is_snapmark()) {
            break;
        }
        let detached = Unmounter::at(&path).and_then(|unmounter| unmounter.detach());
        match detached.map_err(stale)? {
            Unmount::Done | Unmount::Gone => {
                log::info!("detached from {} what a dead daemon left", path.display());
            }
            Unmount::Busy => return Err(stale(Errno::BUSY.into())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        std::fs::create_dir(&store).unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let missing = prepare(&dir.path().join("none"), &store).unwrap_err();
        assert!(missing.to_string().contains("make it with mkdir"));
        let no_dir = prepare(&file, &store).unwrap_err();
        assert!(no_dir.to_string().contains("is no directory"));
        let hides = prepare(dir.path(), &store).unwrap_err();
        assert!(matches!(hides, MountpointError::HidesStore(_)));
        let itself = prepare(&store, &store).unwrap_err();
        assert!(matches!(itself, MountpointError::HidesStore(_)));
    }

    #[test]
    fn an_empty_directory_will_do_also_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (at, link) = (dir.path().join("mnt"), dir.path().join("link"));
        std::fs::create_dir(&at).unwrap();
        std::os::unix::fs::symlink(&at, &link).unwrap();
        let path = prepare(&link, &dir.path().join("store")).unwrap();
        assert_eq!(path, at.canonicalize().unwrap());
    }
}
