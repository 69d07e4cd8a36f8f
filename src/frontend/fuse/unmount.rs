//! Unmounting one mount and no other.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::mounts::mounted_at;
use crate::base::Mounted;

/// The program that mounts and unmounts for users.
pub(super) const HELPER: &str = "fusermount3";

/// How an unmount went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmount {
    /// The mount is gone from the tree.
    Done,
    /// It is not there; someone else unmounted it.
    Gone,
    /// Files of it are open, or someone's working directory is in it.
    Busy,
}

/// Unmounts one mount, and only that one.
#[derive(Clone, Debug)]
pub struct Unmounter {
    mountpoint: PathBuf,
    /// What the kernel listed when it was mounted.
    mounted: Option<Mounted>,
    /// What breaks its connection, or why that is not to be had. Opened while the connection is
    /// there: the number in its path is another mount's once this one is gone, and a write to what
    /// was opened then does nothing (`fuse_ctl_remove_conn` in the kernel's `fs/fuse/control.c`).
    abort: Arc<io::Result<File>>,
}

impl Unmounter {
    /// For what is mounted there now.
    ///
    /// # Errors
    /// Where `/proc` is not there.
    pub fn at(mountpoint: &Path) -> io::Result<Self> {
        let mounted = mounted_at(mountpoint)?;
        Ok(Self {
            mountpoint: mountpoint.to_owned(),
            abort: Arc::new(open_abort(mounted.as_ref())),
            mounted,
        })
    }

    /// What was mounted there.
    pub(super) fn mounted(&self) -> Option<&Mounted> {
        self.mounted.as_ref()
    }

    /// Whether the mount is still in the tree.
    #[must_use]
    pub fn is_mounted(&self) -> bool {
        // Where the list says nothing, an unmount too many does less harm than a daemon that
        // can't stop.
        match (&self.mounted, mounted_at(&self.mountpoint)) {
            (Some(mounted), Ok(now)) => now.as_ref() == Some(mounted),
            _ => true,
        }
    }

    /// Unmounts, unless it is in use. Must not be called from a thread that serves the mount:
    /// the kernel writes dirty pages of mappings back first.
    ///
    /// # Errors
    /// Where the system refuses for another reason than use.
    pub fn unmount(&self) -> io::Result<Unmount> {
        self.run(UnmountFlags::NOFOLLOW, "-u")
    }

    /// Takes the mount out of the tree. Those who have files open keep them and are served until
    /// they close the last.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn detach(&self) -> io::Result<Unmount> {
        self.run(UnmountFlags::DETACH | UnmountFlags::NOFOLLOW, "-uz")
    }

    /// Cuts off those who still have files open: their requests fail from now on. Works after
    /// [`Unmounter::detach`] too, and does nothing once the last of them is gone.
    ///
    /// # Errors
    /// Where the kernel's list of connections was not there or not ours to write to.
    pub fn abort(&self) -> io::Result<()> {
        match &*self.abort {
            Ok(abort) => (&mut &*abort).write_all(b"1"),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        }
    }

    fn run(&self, flags: UnmountFlags, helper: &str) -> io::Result<Unmount> {
        if !self.is_mounted() {
            return Ok(Unmount::Gone);
        }
        match rustix::mount::unmount(&self.mountpoint, flags) {
            Ok(()) => Ok(Unmount::Done),
            Err(Errno::BUSY) => Ok(Unmount::Busy),
            Err(Errno::INVAL) if !self.is_mounted() => Ok(Unmount::Gone),
            Err(Errno::PERM) => self.run_helper(helper),
            Err(error) => Err(error.into()),
        }
    }

    fn run_helper(&self, flag: &str) -> io::Result<Unmount> {
        match run_helper(flag, &self.mountpoint)? {
            Ok(()) => Ok(Unmount::Done),
            Err(_) if !self.is_mounted() => Ok(Unmount::Gone),
            Err(said) if said.contains("busy") => Ok(Unmount::Busy),
            Err(said) => Err(io::Error::other(said)),
        }
    }
}

fn open_abort(mounted: Option<&Mounted>) -> io::Result<File> {
    let minor = mounted.and_then(|mounted| mounted.device.split(':').nth(1));
    let minor = minor.ok_or_else(|| io::Error::other("the device number is not known"))?;
    let path = format!("/sys/fs/fuse/connections/{minor}/abort");
    File::options().write(true).open(path)
}

/// Has the helper unmount; what it said where it refused.
pub(super) fn run_helper(flag: &str, mountpoint: &Path) -> io::Result<Result<(), String>> {
    let mut helper = Command::new(HELPER);
    let output = helper.arg(flag).arg("--").arg(mountpoint).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    Ok(if output.status.success() {
        Ok(())
    } else {
        Err(format!("{HELPER}: {}", said.trim()))
    })
}
