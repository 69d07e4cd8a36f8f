//! One daemon, or one offline command, has a store open at a time.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;

use super::Layout;
use super::own_file::open_own;

/// A store that this process has for itself, until this is dropped or the process ends.
///
/// The host lets go of the lock itself when the process dies, so a stale one can't remain. A child
/// made by `fork` shares it; the store is free once the last of them has ended.
#[derive(Debug)]
pub struct StoreLock {
    file: File,
}

/// Why a store can't be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error(
        "{store} is in use by process {pid}: unmount it first, or give this command the mount \
         instead of the store"
    )]
    Held {
        /// The store's directory.
        store: String,
        /// Who has it, as far as is known.
        pid: String,
    },
    /// The lock's file can't be used.
    #[error("can't lock {file}: {source}")]
    Host {
        /// The file.
        file: String,
        /// The host's word.
        source: io::Error,
    },
}

impl StoreLock {
    /// Takes the store, or fails at once.
    ///
    /// # Errors
    /// Where another process has it, or the lock's file can't be made or opened.
    pub fn acquire(store_dir: &Path) -> Result<Self, LockError> {
        let path = Layout::new(store_dir).lock();
        let host = |source| LockError::Host {
            file: path.display().to_string(),
            source,
        };
        let file = open(&path).map_err(host)?;
        let lock = Self::lock(file, store_dir)?;
        lock.write_pid().map_err(host)?;
        Ok(lock)
    }

    /// Takes the store for looking at it alone: the file is neither made nor written, so those who
    /// find the store taken are not told by whom. A store without the file was never open, and
    /// nobody has it; then there is nothing to hold.
    ///
    /// # Errors
    /// Where another process has it, or the lock's file can't be opened.
    pub fn acquire_unwritten(store_dir: &Path) -> Result<Option<Self>, LockError> {
        let path = Layout::new(store_dir).lock();
        match open_own(&path, OFlags::RDONLY) {
            Ok(file) => Self::lock(file, store_dir).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(LockError::Host {
                file: path.display().to_string(),
                source,
            }),
        }
    }

    fn lock(file: File, store_dir: &Path) -> Result<Self, LockError> {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { file }),
            Err(Errno::WOULDBLOCK) => Err(LockError::Held {
                store: store_dir.display().to_string(),
                pid: holder(&file).unwrap_or_else(|| "(unknown)".to_owned()),
            }),
            Err(errno) => Err(LockError::Host {
                file: Layout::new(store_dir).lock().display().to_string(),
                source: errno.into(),
            }),
        }
    }

    /// Writes this process's number into the lock's file: again after a `fork`, by the child.
    ///
    /// # Errors
    /// Where the host fails. The lock is held all the same.
    pub fn write_pid(&self) -> io::Result<()> {
        let text = format!("{}\n", std::process::id());
        self.file.set_len(0)?;
        self.file.write_all_at(text.as_bytes(), 0)
    }
}

/// Opens the lock's file, or makes it. It is never removed: two processes could then each hold a
/// lock on a file of that name.
fn open(path: &Path) -> io::Result<File> {
    open_own(path, OFlags::RDWR | OFlags::CREATE)
}

/// The process number in the lock's file, where one stands there.
fn holder(file: &File) -> Option<String> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    let pid: u32 = text.trim().parse().ok()?;
    Some(pid.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_had_once_and_the_error_names_the_holder() {
        let dir = tempfile::tempdir().unwrap();
        let lock = StoreLock::acquire(dir.path()).unwrap();
        let error = StoreLock::acquire(dir.path()).unwrap_err().to_string();
        let pid = format!("process {}:", std::process::id());
        assert!(error.contains(&pid), "{error}");
        drop(lock);
        StoreLock::acquire(dir.path()).unwrap();
    }

    #[test]
    fn looking_leaves_no_trace() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(Layout::LOCK);
        assert!(StoreLock::acquire_unwritten(dir.path()).unwrap().is_none());
        assert!(!path.exists());
        std::fs::write(&path, "7\n").unwrap();
        let lock = StoreLock::acquire_unwritten(dir.path()).unwrap();
        assert!(StoreLock::acquire(dir.path()).is_err());
        assert!(StoreLock::acquire_unwritten(dir.path()).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "7\n");
        drop(lock);
        let lock = StoreLock::acquire(dir.path()).unwrap();
        assert!(StoreLock::acquire_unwritten(dir.path()).is_err());
        drop(lock);
    }

    #[test]
    fn rubbish_in_the_file_does_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(Layout::LOCK);
        std::fs::write(&path, "not a number, and longer than one \n").unwrap();
        let lock = StoreLock::acquire(dir.path()).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
        std::fs::write(&path, "\u{1b}[31m").unwrap();
        let error = StoreLock::acquire(dir.path()).unwrap_err().to_string();
        assert!(error.contains("process (unknown)"), "{error}");
        drop(lock);
    }

    #[test]
    fn a_link_is_not_followed_and_a_missing_store_is_said() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("victim"), "precious").unwrap();
        std::os::unix::fs::symlink("victim", dir.path().join(Layout::LOCK)).unwrap();
        assert!(StoreLock::acquire(dir.path()).is_err());
        let victim = std::fs::read_to_string(dir.path().join("victim")).unwrap();
        assert_eq!(victim, "precious");
        let lock = dir.path().join(Layout::LOCK);
        std::fs::remove_file(&lock).unwrap();
        std::fs::hard_link(dir.path().join("victim"), &lock).unwrap();
        assert!(StoreLock::acquire(dir.path()).is_err());
        let victim = std::fs::read_to_string(dir.path().join("victim")).unwrap();
        assert_eq!(victim, "precious");
        let missing = StoreLock::acquire(&dir.path().join("nowhere")).unwrap_err();
        assert!(matches!(missing, LockError::Host { .. }));
    }
}
