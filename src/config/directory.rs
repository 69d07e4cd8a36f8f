//! Whose a store's directory is. Who can put files into it decides what the daemon opens, so the
//! directory belongs to the one who serves the store, and nobody else may write to it.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// The write bits of others than the owner.
const OTHERS_WRITE: u32 = 0o022;
/// What a store's directory has: nobody but its owner looks in.
const OWN: u32 = 0o700;

/// Why a directory can't be trusted with a store.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It belongs to someone else.
    #[error(
        "{} belongs to user {owner}, who could put other files in the place of the store's; \
         serve the store as that user, or give it to yours: chown -R {user} {0}", dir.display()
    )]
    Foreign {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who wants to use it.
        user: u32,
    },
    /// Others may write to it.
    #[error(
        "others may write to {} (mode {mode:04o}), and put other files in the place of the \
         store's; take that from them: chmod go-w {0}", dir.display()
    )]
    Writable {
        /// The directory.
        dir: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It can't be looked at, or is none.
    #[error("{}: {error}", dir.display())]
    Host {
        /// The directory.
        dir: PathBuf,
        /// The host's word.
        error: io::Error,
    },
}

/// Checks that nobody but this process's user, or root, decides what is in the directory.
///
/// # Errors
/// Where that is not so, or there is no such directory.
pub fn check_directory(dir: &Path) -> Result<(), DirectoryError> {
    let file = open(dir)?;
    check_owner(dir, &file)?;
    let mode = metadata(dir, &file)?.mode() & 0o7777;
    if mode & OTHERS_WRITE == 0 {
        Ok(())
    } else {
        Err(DirectoryError::Writable {
            dir: dir.to_owned(),
            mode,
        })
    }
}

/// Takes an empty directory for a store: from now on it is this user's alone, whatever its mode
/// was and whatever the umask is.
///
/// # Errors
/// Where it is someone else's.
pub fn claim_directory(dir: &Path) -> Result<(), DirectoryError> {
    let file = open(dir)?;
    check_owner(dir, &file)?;
    if metadata(dir, &file)?.mode() & 0o777 == OWN {
        return Ok(());
    }
    let own = std::fs::Permissions::from_mode(OWN);
    file.set_permissions(own).map_err(|error| host(dir, error))
}

fn check_owner(dir: &Path, file: &File) -> Result<(), DirectoryError> {
    let (owner, user) = (
        metadata(dir, file)?.uid(),
        rustix::process::geteuid().as_raw(),
    );
    if owner == user || owner == 0 {
        Ok(())
    } else {
        Err(DirectoryError::Foreign {
            dir: dir.to_owned(),
            owner,
            user,
        })
    }
}

fn open(dir: &Path) -> Result<File, DirectoryError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::open(dir, flags, Mode::empty()) {
        Ok(file) => Ok(file.into()),
        Err(errno) => Err(host(dir, errno.into())),
    }
}

fn metadata(dir: &Path, file: &File) -> Result<std::fs::Metadata, DirectoryError> {
    file.metadata().map_err(|error| host(dir, error))
}

fn host(dir: &Path, error: io::Error) -> DirectoryError {
    DirectoryError::Host {
        dir: dir.to_owned(),
        error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_mode(mode: u32) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        dir
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_refused_with_what_to_do() {
        for mode in [0o700, 0o755, 0o750] {
            assert!(check_directory(with_mode(mode).path()).is_ok(), "{mode:o}");
        }
        for mode in [0o770, 0o777, 0o1777, 0o702] {
            let dir = with_mode(mode);
            let error = check_directory(dir.path()).unwrap_err().to_string();
            assert!(error.contains("chmod go-w"), "{error}");
            claim_directory(dir.path()).unwrap();
            check_directory(dir.path()).unwrap();
            let mode = std::fs::metadata(dir.path()).unwrap().mode();
            assert_eq!(mode & 0o777, 0o700);
        }
    }

    #[test]
    fn files_are_no_directories() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(check_directory(file.path()).is_err());
        assert!(check_directory(Path::new("/nowhere/at/all")).is_err());
    }
}
