//! A mount whose daemon is gone: telling it from every other, and taking it away.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::mounts::{mounted_at, mounts};
use super::unmount::run_helper;
use crate::base::Mounted;

/// A Snapmark mount whose daemon is gone, so that the kernel answers `ENOTCONN` there.
///
/// A descriptor holds the mount that was looked at, so that its number stays its own. It is
/// detached while it is the one on top at its path, and not under something that was mounted
/// since, which would go with it.
#[derive(Debug)]
pub struct DeadMount {
    held: OwnedFd,
    mounted: Mounted,
}

impl DeadMount {
    /// The one on top at this path, which is absolute and without symbolic links. A live mount,
    /// anyone else's mount, or none at all gives nothing.
    ///
    /// # Errors
    /// Where the kernel does not say what is mounted there.
    pub fn at(path: &Path) -> io::Result<Option<Self>> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let held = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(held) => held,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        if rustix::fs::fstat(&held).err() != Some(Errno::NOTCONN) {
            return Ok(None);
        }
        // What the kernel knows by itself, without asking who is not there any more.
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let id = rustix::fs::statx(&held, "", flags, StatxFlags::MNT_ID)?.stx_mnt_id;
        let this = |mounted: &Mounted| mounted.id == id && mounted.mountpoint == path;
        let mounted = mounts()?.into_iter().find(this);
        let ours = mounted.filter(Mounted::is_snapmark);
        Ok(ours.map(|mounted| Self { held, mounted }))
    }

    /// What the kernel lists it as.
    #[must_use]
    pub fn mounted(&self) -> &Mounted {
        &self.mounted
    }

    /// Takes it out of the tree. Files that are still open in it go on failing. Says whether it was
    /// still the one on top at its path; else nothing was done.
    ///
    /// Between that look and the call, some microseconds or, with the helper, milliseconds,
    /// somebody may still mount here, and what they mount is detached: the kernel has no call that
    /// compares.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn detach(&self) -> io::Result<bool> {
        if !self.is_on_top()? {
            return Ok(false);
        }
        let exactly = PathBuf::from(format!("/proc/self/fd/{}", self.held.as_raw_fd()));
        match rustix::mount::unmount(&exactly, UnmountFlags::DETACH) {
            Ok(()) => Ok(true),
            // The helper takes paths alone.
            Err(Errno::PERM) => match run_helper("-uz", &self.mounted.mountpoint)? {
                Ok(()) => Ok(true),
                Err(_) if !self.is_on_top()? => Ok(false),
                Err(said) => Err(io::Error::other(said)),
            },
            // Someone else has detached it.
            Err(Errno::INVAL) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    fn is_on_top(&self) -> io::Result<bool> {
        let now = mounted_at(&self.mounted.mountpoint)?;
        Ok(now.is_some_and(|now| now.id == self.mounted.id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_alive_or_no_mount_is_none() {
        let dir = tempfile::tempdir().unwrap();
        for path in [dir.path(), &dir.path().join("none"), Path::new("/proc")] {
            assert!(DeadMount::at(path).unwrap().is_none(), "{}", path.display());
        }
    }
}
