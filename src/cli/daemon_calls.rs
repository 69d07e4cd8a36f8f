//! The calls into the daemon's side: everything that a command line says about making, mounting
//! and unmounting a store, parsed and typed. The one place where the CLI meets the daemon.

use std::path::PathBuf;
use std::time::Duration;

use super::exit::{Exit, Failure};
use super::progress;
use crate::base::ByteSize;
use crate::config::{DirectoryError, LockError, Portal, SecretsError};
use crate::control::DeviceSpec;
use crate::daemon::background::{BackgroundError, Readiness};
use crate::daemon::init::NewStore;
use crate::daemon::mount::{MountError, Mounting};
use crate::daemon::mountpoint::MountpointError;
use crate::daemon::serve::ServeError;
use crate::daemon::store::StoreError;
use crate::daemon::unmount::UnmountError;
use crate::frontend::iscsi::IscsiError;

/// What acknowledged writes stand on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum CacheMode {
    /// Every write is journaled before it is acknowledged: none is lost when the daemon dies.
    #[default]
    Journal,
    /// Writes are acknowledged from memory: faster, and lost up to the last fsync when it dies.
    Volatile,
}

/// A store to be made. `None` leaves the default of the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitOptions {
    /// The directory; made where it does not exist.
    pub store: PathBuf,
    /// Size of the default backing file, where no device is given, or of devices that are to be
    /// made and have no size of their own.
    pub size: Option<ByteSize>,
    /// Segment size.
    pub segment: Option<ByteSize>,
    /// Devices instead of the default backing file; paths are absolute.
    pub devices: Vec<DeviceSpec>,
    /// Where the journal is; absolute.
    pub journal: Option<PathBuf>,
    /// Bytes that the journal can hold.
    pub journal_size: Option<ByteSize>,
    /// Bytes of the cache.
    pub cache_size: Option<ByteSize>,
    /// What acknowledged writes stand on.
    pub mode: Option<CacheMode>,
}

/// Which process serves a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// One of its own, started by this one.
    Background,
    /// This one, at the terminal.
    Foreground,
    /// This one, started by another that waits to hear how it went.
    Child,
}

/// A store to be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// The store's directory.
    pub store: PathBuf,
    /// Where its disks are to appear.
    pub mountpoint: PathBuf,
    /// Which process serves it.
    pub place: Place,
    /// Let users other than the one who mounts see it.
    pub allow_other: bool,
    /// The name shown as the mount's source, instead of the store's path.
    pub fs_name: Option<String>,
    /// Where to serve them over iSCSI too.
    pub iscsi: Vec<Portal>,
}

/// A mount to be ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnmountOptions {
    /// Where it is.
    pub mountpoint: PathBuf,
    /// Detach it even while files in it are open; it ends when they are closed.
    pub lazy: bool,
}

/// Makes a store.
///
/// # Errors
/// Where it can't be made; nothing is left of it then.
pub fn init(options: &InitOptions) -> Result<(), Failure> {
    let new = NewStore {
        dir: options.store.clone(),
        size: options.size.map(|size| size.0),
        segment: options.segment.map(|size| size.0),
        devices: options
            .devices
            .iter()
            .map(|spec| (spec.path.clone(), spec.size.map(|size| size.0)))
            .collect(),
        settings: chosen(options),
    };
    let mut bar = progress::bytes("journal");
    crate::daemon::init::init(&new, &mut bar).map_err(|error| store_failure(&error))
}

/// The settings that the command line gave: section, key, value.
fn chosen(options: &InitOptions) -> Vec<(&'static str, &'static str, String)> {
    // In words where they say it exactly.
    let words = |size: ByteSize| match size.to_string() {
        words if words.parse() == Ok(size) => words,
        _ => size.0.to_string(),
    };
    let size = |size: Option<ByteSize>| size.map(words);
    let mode = options.mode.map(|mode| match mode {
        CacheMode::Journal => "journal".to_owned(),
        CacheMode::Volatile => "volatile".to_owned(),
    });
    // A quoted YAML string is a JSON string.
    let path = options.journal.as_ref();
    let path = path.map(|path| serde_json::json!(path.to_string_lossy()).to_string());
    let all = [
        ("cache", "size", size(options.cache_size)),
        ("cache", "mode", mode),
        ("journal", "size", size(options.journal_size)),
        ("journal", "path", path),
    ];
    let given = all.into_iter();
    given
        .filter_map(|(section, key, value)| Some((section, key, value?)))
        .collect()
}

/// Serves a store: returns once it is mounted, or, in the foreground, once it has ended.
///
/// # Errors
/// Where it can't be opened or mounted.
pub fn mount(options: &MountOptions) -> Result<(), Failure> {
    let absolute = |path: &PathBuf| {
        std::path::absolute(path).map_err(|error| Failure::io(path.display(), &error))
    };
    let mounting = Mounting {
        store: absolute(&options.store)?,
        mountpoint: absolute(&options.mountpoint)?,
        allow_other: options.allow_other,
        fs_name: options.fs_name.clone(),
        iscsi: options.iscsi.clone(),
    };
    let served = match options.place {
        Place::Background => mounting.start().map(|_| ()),
        Place::Foreground => mounting.serve(&mut Readiness::foreground()),
        Place::Child => {
            let mut readiness =
                Readiness::background().map_err(|error| Failure::io("setsid", &error))?;
            let served = mounting.serve(&mut readiness);
            if let Err(error) = &served {
                readiness.failed(&error.to_string());
            }
            served
        }
    };
    served.map_err(|error| mount_failure(&error))
}

fn mount_failure(error: &MountError) -> Failure {
    let exit = match error {
        MountError::Store(store) => return store_failure(store),
        MountError::Secrets(SecretsError::Exposed(_)) => Exit::Denied,
        MountError::Secrets(_) | MountError::Serve(ServeError::Iscsi(IscsiError::Open(_))) => {
            Exit::Usage
        }
        MountError::Mountpoint(MountpointError::Missing(_)) => Exit::NotFound,
        MountError::Mountpoint(MountpointError::Mounted { .. }) => Exit::Busy,
        MountError::Mountpoint(
            MountpointError::NotADirectory(_)
            | MountpointError::HidesStore(_)
            | MountpointError::HidesFile { .. },
        ) => Exit::Usage,
        // The other process went through this function already.
        MountError::Background(BackgroundError::Refused {
            code: Some(code), ..
        }) => Exit::from_code(*code),
        _ => Exit::Failed,
    };
    Failure::new(exit, error.to_string())
}

fn store_failure(error: &StoreError) -> Failure {
    let exit = match error {
        StoreError::NotAStore(_) | StoreError::PoolDevice { .. } => Exit::NotFound,
        StoreError::Lock(LockError::Held { .. }) => Exit::Busy,
        StoreError::Untrusted(DirectoryError::Foreign { .. } | DirectoryError::Writable { .. }) => {
            Exit::Denied
        }
        StoreError::Invalid(_) | StoreError::Settings(_) => Exit::Usage,
        _ => Exit::Failed,
    };
    Failure::new(exit, error.to_string())
}

/// How long an unmount waits for the daemon to drain its cache.
const PATIENCE: Duration = Duration::from_secs(600);

/// Ends a mount and returns when its daemon has drained the cache and gone.
///
/// # Errors
/// Where it is in use, or no store is mounted there.
pub fn unmount(options: &UnmountOptions) -> Result<(), Failure> {
    if options.lazy {
        return crate::daemon::unmount::detach(&options.mountpoint)
            .map_err(|error| Failure::failed(error.to_string()));
    }
    let unmount = || crate::daemon::unmount::unmount(&options.mountpoint, PATIENCE);
    progress::spinner("moving the cache to the devices", unmount).map_err(|error| {
        let exit = match &error {
            UnmountError::NotMounted(_) => Exit::NotFound,
            UnmountError::Busy { .. } => Exit::Busy,
            _ => Exit::Failed,
        };
        Failure::new(exit, error.to_string())
    })
}
