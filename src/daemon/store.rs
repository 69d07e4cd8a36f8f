//! Opening a store's directory: its lock, settings, devices, catalog and journal become running
//! volumes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cache::{CacheConfig, CacheError, CacheParts};
use crate::config::{
    CacheMode, DirectoryError, Layout, LockError, Settings, SettingsError, StoreLock,
    check_directory,
};
use crate::device::{Device, DeviceError, FileDevice, OpenMode};
use crate::ondisk::{ROOTS_END, Uuid};
use crate::store::{Catalog, CatalogConfig, CatalogError, Pool, PoolError};
use crate::volume::{ScrubConfig, VolumeConfig, VolumeError, Volumes};

/// Why a store can't be opened or made.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No store is in the directory.
    #[error("{} is no snapmark store: it has no {}; make one with 'snapmark init'", .0.display(), Layout::CATALOG_PAGES)]
    NotAStore(PathBuf),
    /// Others could tamper with it.
    #[error(transparent)]
    Untrusted(#[from] DirectoryError),
    /// Someone has it open, or it can't be locked.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// `store.yaml` is wrong.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A file of the store can't be opened or made.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A device of the pool is not to be had.
    #[error("device {number} of the pool can't be opened: {source}; bring it back to where it was")]
    PoolDevice {
        /// Its number.
        number: u16,
        /// Why.
        source: DeviceError,
    },
    /// A device of the pool is not what it should be.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The catalog can't be read.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The journal can't be used.
    #[error(transparent)]
    Journal(#[from] CacheError),
    /// What stands on them can't be started.
    #[error(transparent)]
    Volumes(#[from] VolumeError),
    /// The directory can't be used.
    #[error("{}: {error}", path.display())]
    Directory {
        /// The directory or file.
        path: PathBuf,
        /// The host's word.
        error: std::io::Error,
    },
    /// What was asked for makes no sense.
    #[error("{0}")]
    Invalid(String),
}

/// A store that this process has open.
pub struct OpenStore {
    /// Its disks and snapshots.
    pub volumes: Arc<Volumes>,
    /// Its settings.
    pub settings: Settings,
    dir: PathBuf,
    /// Held until the store is closed.
    _lock: StoreLock,
}

impl OpenStore {
    /// Opens the store in this directory. After an unclean end this replays the journal.
    ///
    /// # Errors
    /// Where there is none, it is in use, or a part of it is missing, foreign or damaged. Nothing
    /// has changed then.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let layout = Layout::new(dir);
        if !layout.catalog_pages().exists() {
            return Err(StoreError::NotAStore(dir.to_owned()));
        }
        check_directory(dir)?;
        let lock = StoreLock::acquire(dir)?;
        let settings = Settings::load(dir)?;
        if settings.cache.mode == CacheMode::Volatile {
            // What an earlier session left in the journal goes to the devices first.
            open_volumes(&layout, &settings, false)?.close_store()?;
        }
        let volatile = settings.cache.mode == CacheMode::Volatile;
        let volumes = open_volumes(&layout, &settings, volatile)?;
        Ok(Self {
            volumes,
            settings,
            dir: dir.to_owned(),
            _lock: lock,
        })
    }

    /// The journal and the pool's devices.
    #[must_use]
    pub fn stands_on(&self) -> Vec<PathBuf> {
        let devices = self.volumes.status().devices.into_iter();
        let mut files: Vec<PathBuf> = devices.map(|device| device.path.into()).collect();
        files.push(self.settings.journal_path(&self.dir));
        files
    }
}

fn open_volumes(
    layout: &Layout,
    settings: &Settings,
    volatile: bool,
) -> Result<Arc<Volumes>, StoreError> {
    let open = |path: &Path| FileDevice::open(path, OpenMode::READ_WRITE);
    let (pages, log) = (open(&layout.catalog_pages())?, open(&layout.catalog_log())?);
    // What says what counts is read from the disk. A root does only once the pages that it leads
    // to are synced, so these may stay in the host's memory.
    pages.sync_and_forget(ROOTS_END)?;
    log.sync_and_forget(log.len())?;
    let (pages, log): (Arc<dyn Device>, Arc<dyn Device>) = (Arc::new(pages), Arc::new(log));
    let catalog = Arc::new(Catalog::open(pages, log, CatalogConfig::default())?);
    let pool = open_pool(layout, &catalog)?;
    let journal_path = settings.journal_path(layout.dir());
    let journal = FileDevice::open(
        &journal_path,
        OpenMode::READ_WRITE.named_by(&settings.journal.path),
    )?;
    journal.sync_and_forget(journal.len())?;
    let cache = CacheConfig {
        size: settings.cache.size.0,
        volatile,
        interval: settings.destage.interval.0,
        batch: settings.destage.batch.0,
        patience: settings.space.patience.0,
    };
    let rules = settings.clone();
    let config = VolumeConfig {
        cache,
        priority: Box::new(move |disk| rules.priority(disk)),
        warn: settings.space.warn.clone(),
        store_dir: layout.dir().to_owned(),
        scrub: ScrubConfig {
            rate: settings.scrub.rate.0,
            file: Some(layout.scrub()),
        },
    };
    Ok(Volumes::start(
        CacheParts {
            catalog,
            pool,
            journal: Arc::new(journal),
        },
        config,
    )?)
}

fn open_pool(layout: &Layout, catalog: &Catalog) -> Result<Arc<Pool>, StoreError> {
    let pool = Pool::new(catalog.geometry(), Uuid(catalog.uuid()));
    for record in catalog.view().devices()? {
        let path = layout.device(&record.path);
        let device = FileDevice::open(
            &path,
            OpenMode::READ_WRITE.named_by(Path::new(&record.path)),
        );
        let device = device.map_err(|source| StoreError::PoolDevice {
            number: record.device.0,
            source,
        })?;
        pool.attach(&record, Arc::new(device))?;
    }
    Ok(Arc::new(pool))
}
