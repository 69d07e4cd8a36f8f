//! Mounting and serving.
//!
//! The FUSE library mounts; it never unmounts here. Its own unmount gives up when the mount is in
//! use and reports success the second time, and after an unmount from outside it may unmount what
//! lies below. So its mount guard is put away and [`Unmounter`] asks the kernel itself.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::thread::JoinHandle;

use fuser::{BackgroundSession, Config, MountOption, SessionACL};

use super::attr::Root;
use super::filesystem::Adapter;
use super::handles::Handles;
use super::mounts::escape_option;
use super::parking::Parking;
use super::unmount::{HELPER, Unmounter};
use super::{FuseOptions, Mount};
use crate::base::Mounted;
use crate::base::Workers;
use crate::control::Commands;
use crate::volume::Volumes;

/// Threads for slow requests at most; they start on demand.
const WORKERS: usize = 16;
/// Slow requests that may wait for one.
const QUEUED: usize = 256;

const DEVICE: &str = "/dev/fuse";

/// Why a mount failed, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The kernel's side is missing.
    #[error(
        "{DEVICE} can't be opened ({0}); load the kernel module (modprobe fuse), in a container hand the device in, and see that this user may read and write it"
    )]
    NoDevice(io::Error),
    /// The helper that lets users mount is missing.
    #[error(
        "mounting as a user other than root needs fusermount3, which was not found; install the package fuse3"
    )]
    NoHelper,
    /// Others may use the mount only where root allows that.
    #[error(
        "letting other users in needs the line user_allow_other in /etc/fuse.conf when not run as root"
    )]
    OtherUsers,
    /// Anything else.
    #[error("can't mount at {}: {error}", mountpoint.display())]
    Failed {
        /// Where.
        mountpoint: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// A mount that is being served.
pub struct Session {
    mount: Arc<Mount>,
    workers: Arc<Workers>,
    parking: Arc<Parking>,
    requests: JoinHandle<io::Result<()>>,
    unmounter: Unmounter,
}

impl Session {
    /// Mounts, and serves from threads of its own. `mountpoint` is a directory, absolute and
    /// without symbolic links.
    ///
    /// # Errors
    /// Where the system refuses, saying what to do about it.
    pub fn mount(
        volumes: Arc<Volumes>,
        commands: Arc<dyn Commands>,
        mountpoint: &Path,
        options: &FuseOptions,
    ) -> Result<Self, MountError> {
        let failed = |error| MountError::Failed {
            mountpoint: mountpoint.to_owned(),
            error,
        };
        open_device().map_err(MountError::NoDevice)?;
        let directory = std::fs::metadata(mountpoint).map_err(failed)?;
        let mount = Arc::new(Mount {
            volumes,
            commands,
            root: Root::over(&directory),
            handles: Handles::default(),
            control_lookups: AtomicU64::new(0),
        });
        let workers = Arc::new(Workers::new("fuse-worker", WORKERS, QUEUED));
        let parking = Arc::new(Parking::new());
        let adapter = Adapter {
            mount: Arc::clone(&mount),
            workers: Arc::clone(&workers),
            parking: Arc::clone(&parking),
            options: options.clone(),
            syncing: AtomicUsize::new(0),
        };
        let session = fuser::Session::new(adapter, mountpoint, &config(options))
            .map_err(|error| explain(error, mountpoint, options))?;
        let unmounter = Unmounter::at(mountpoint).map_err(failed)?;
        if let Some(number) = unmounter.mounted().and_then(Mounted::number) {
            mount.volumes.is_mounted_as(number);
        }
        let requests = session.spawn().and_then(take_requests).map_err(failed)?;
        Ok(Self {
            mount,
            workers,
            parking,
            requests,
            unmounter,
        })
    }

    /// What unmounts this, from any thread.
    #[must_use]
    pub fn unmounter(&self) -> Unmounter {
        self.unmounter.clone()
    }

    /// Returns when the mount is gone and every request is answered. Handles that the kernel did
    /// not get round to releasing are closed.
    ///
    /// # Errors
    /// Where a thread could not go on taking requests; the mount may still be there.
    pub fn wait(self) -> io::Result<()> {
        let result = match self.requests.join() {
            Ok(result) => result,
            Err(_) => Err(io::Error::other("a thread that takes requests panicked")),
        };
        self.parking.finish();
        self.workers.finish();
        for (node, count) in self.mount.handles.take_open() {
            (0..count).for_each(|_| self.mount.volumes.close(node));
        }
        result
    }
}

/// The thread that serves, without the guard that would unmount.
fn take_requests(mut session: BackgroundSession) -> io::Result<JoinHandle<io::Result<()>>> {
    let in_its_place = std::thread::Builder::new().spawn(|| Ok(()))?;
    let requests = std::mem::replace(&mut session.guard, in_its_place);
    // It holds one descriptor, which the end of the process closes.
    std::mem::forget(session);
    Ok(requests)
}

fn config(options: &FuseOptions) -> Config {
    let root = rustix::process::geteuid().is_root();
    let fsname = if root {
        options.fsname.clone()
    } else {
        escape_option(&options.fsname)
    };
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(fsname),
        // The library's own subtype option does not reach the kernel when root mounts.
        MountOption::CUSTOM("subtype=snapmark".to_owned()),
        MountOption::DefaultPermissions,
        MountOption::NoDev,
        MountOption::NoSuid,
    ];
    if options.allow_other {
        config.acl = SessionACL::All;
    }
    config.n_threads = Some(options.threads.max(1));
    config.clone_fd = options.threads > 1;
    config
}

/// Whether this user may open the device, which is needed also where a helper mounts.
fn open_device() -> io::Result<()> {
    let mut both = std::fs::File::options();
    both.read(true).write(true).open(DEVICE).map(drop)
}

fn explain(error: io::Error, mountpoint: &Path, options: &FuseOptions) -> MountError {
    let root = rustix::process::geteuid().is_root();
    match error.kind() {
        io::ErrorKind::NotFound if !root && !helper_works() => MountError::NoHelper,
        io::ErrorKind::PermissionDenied if options.allow_other && !root => MountError::OtherUsers,
        _ => MountError::Failed {
            mountpoint: mountpoint.to_owned(),
            error,
        },
    }
}

fn helper_works() -> bool {
    Command::new(HELPER).arg("--version").output().is_ok()
}
