//! Whether something can be mounted at a path, decided before a store is opened for it.

use std::io;
use std::path::{Path, PathBuf};

use crate::base::Mounted;
use crate::frontend::fuse::{DeadMount, absolute, mounted_at};

/// Dead mounts that are cleared from one path.
const MOST_LEFT: usize = 16;

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
    /// The mount would hide a device or the journal from the next one.
    #[error(
        "{} lies in {}, and the mount would hide it; choose another directory",
        file.display(), mountpoint.display()
    )]
    HidesFile {
        /// The path.
        mountpoint: PathBuf,
        /// What would be hidden.
        file: PathBuf,
    },
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

/// A place where a store can be mounted.
#[derive(Debug)]
pub struct Mountpoint {
    /// Absolute, without symbolic links.
    path: PathBuf,
    store: PathBuf,
    dead: Option<DeadMount>,
}

impl Mountpoint {
    /// Looks at a mountpoint. What a killed daemon left there is no obstacle, and stays for now.
    ///
    /// # Errors
    /// Where no store can be mounted there.
    pub fn find(mountpoint: &Path, store: &Path) -> Result<Self, MountpointError> {
        let unusable = |error| unusable(mountpoint, error);
        let path = absolute(mountpoint).map_err(unusable)?;
        let dead = DeadMount::at(&path).map_err(unusable)?;
        let found = Self {
            path,
            store: store.to_owned(),
            dead,
        };
        if found.dead.is_none() {
            found.check()?;
        }
        Ok(found)
    }

    /// Sees that the mount will hide none of these, on which the store stands.
    ///
    /// # Errors
    /// Where it would.
    pub fn hiding_none(self, files: &[PathBuf]) -> Result<Self, MountpointError> {
        let hidden = |file: &&PathBuf| {
            let file = file.canonicalize();
            file.is_ok_and(|file| file.starts_with(&self.path))
        };
        match files.iter().find(hidden) {
            None => Ok(self),
            Some(file) => Err(MountpointError::HidesFile {
                mountpoint: self.path.clone(),
                file: file.clone(),
            }),
        }
    }

    /// Detaches what killed daemons left, and returns the path to mount at. Meant for the moment
    /// before the mount: until then, who uses the path gets `ENOTCONN` and does not write into
    /// the directory below.
    ///
    /// # Errors
    /// Where it can't be detached, or what comes to light below it can't be mounted on.
    pub fn clear(mut self) -> Result<PathBuf, MountpointError> {
        if self.dead.is_none() {
            return Ok(self.path);
        }
        // Killed daemons may have left several mounts on top of each other.
        for _ in 0..MOST_LEFT {
            let Some(dead) = self.dead.take() else {
                break;
            };
            detach(&dead)?;
            let next = DeadMount::at(&self.path);
            self.dead = next.map_err(|error| unusable(&self.path, error))?;
        }
        self.check()?;
        Ok(self.path)
    }

    fn check(&self) -> Result<(), MountpointError> {
        let path = &self.path;
        let at = |error| unusable(path, error);
        if let Some(mounted) = mounted_at(path).map_err(at)?.filter(Mounted::is_snapmark) {
            return Err(MountpointError::Mounted {
                mountpoint: path.clone(),
                store: mounted.source.into(),
            });
        }
        if !std::fs::metadata(path).map_err(at)?.is_dir() {
            return Err(MountpointError::NotADirectory(path.clone()));
        }
        match self.store.canonicalize() {
            Ok(store) if store.starts_with(path) => Err(MountpointError::HidesStore(path.clone())),
            _ => Ok(()),
        }
    }
}

/// Detaches a dead mount, unless others were quicker, and says so.
fn detach(dead: &DeadMount) -> Result<(), MountpointError> {
    let mountpoint = &dead.mounted().mountpoint;
    let detached = dead.detach().map_err(|error| MountpointError::Stale {
        mountpoint: mountpoint.clone(),
        error,
    })?;
    if detached {
        log::info!(
            "detached from {} what a dead daemon left",
            mountpoint.display()
        );
    }
    Ok(())
}

fn unusable(mountpoint: &Path, error: io::Error) -> MountpointError {
    let mountpoint = mountpoint.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound => MountpointError::Missing(mountpoint),
        io::ErrorKind::NotADirectory => MountpointError::NotADirectory(mountpoint),
        _ => MountpointError::Unreadable { mountpoint, error },
    }
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
        let missing = Mountpoint::find(&dir.path().join("none"), &store).unwrap_err();
        assert!(missing.to_string().contains("make it with mkdir"));
        let no_dir = Mountpoint::find(&file, &store).unwrap_err();
        assert!(no_dir.to_string().contains("is no directory"));
        let hides = Mountpoint::find(dir.path(), &store).unwrap_err();
        assert!(matches!(hides, MountpointError::HidesStore(_)));
        let itself = Mountpoint::find(&store, &store).unwrap_err();
        assert!(matches!(itself, MountpointError::HidesStore(_)));
    }

    #[test]
    fn an_empty_directory_will_do_also_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (at, link) = (dir.path().join("mnt"), dir.path().join("link"));
        std::fs::create_dir(&at).unwrap();
        std::os::unix::fs::symlink(&at, &link).unwrap();
        let found = Mountpoint::find(&link, &dir.path().join("store")).unwrap();
        assert_eq!(found.clear().unwrap(), at.canonicalize().unwrap());
    }
}
