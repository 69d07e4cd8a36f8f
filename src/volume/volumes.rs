//! The open store.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock, Weak};

use super::low_space::Told;
use super::namespace::{Disk, Namespace, Snapshot};
use super::{Metrics, Node, Reports, Scrub, ScrubConfig, VolumeError};
use crate::base::sync::{Mutex, RwLock};
use crate::base::{DiskId, Geometry};
use crate::cache::{Cache, CacheConfig, CacheError, CacheParts, Lines, Recovery, Ticket};
use crate::device::Step;
use crate::ondisk::journal::Op;
use crate::store::CatalogError;

/// The largest disk, in bytes: 1 PiB.
pub const MAX_DISK_SIZE: u64 = 1 << 50;

pub(crate) type Result<T> = std::result::Result<T, VolumeError>;

/// How a store is opened.
pub struct VolumeConfig {
    /// The cache.
    pub cache: CacheConfig,
    /// The destage priority of a disk that has none of its own, by its name.
    pub priority: Box<dyn Fn(&str) -> u8 + Send + Sync>,
    /// Percentages in use at which low space is warned of.
    pub warn: Vec<u8>,
    /// Where device paths that do not start with `/` begin.
    pub store_dir: std::path::PathBuf,
    /// The online data check.
    pub scrub: ScrubConfig,
}

/// The open store as a set of disks and snapshots. All calls may come from many threads.
///
/// Lock order: `names`, then the cache's queue, then a map's index. None is held across I/O.
pub struct Volumes {
    pub(crate) cache: Arc<Cache>,
    pub(crate) names: RwLock<Namespace>,
    pub(crate) metrics: Metrics,
    pub(crate) config: VolumeConfig,
    pub(crate) geometry: Geometry,
    /// The largest record that a write makes, in bytes.
    pub(super) largest_write: u64,
    /// Held while a device is added, so that no two get one number. Nothing else waits for it.
    pub(super) adding_device: Mutex<()>,
    /// The `st_dev` of the mount that serves this store.
    pub(super) own_mount: OnceLock<u64>,
    /// What the log was told of low space.
    pub(super) told: Told,
    pub(super) scrub: Scrub,
    /// Asked for its part of the status.
    pub(super) reports: Mutex<Vec<Weak<dyn Reports>>>,
}

impl Volumes {
    /// Opens a store: builds the names from the catalog, replays the journal over them, and
    /// starts destaging.
    ///
    /// # Errors
    /// Where catalog or journal can't be read, or the journal is another store's.
    pub fn start(parts: CacheParts, config: VolumeConfig) -> Result<Arc<Self>> {
        let mut names = Namespace::load(&parts.catalog.view())?;
        let (cache, mut recovery) = Cache::start(parts, config.cache)?;
        names.add_lines(&cache, &config.priority);
        if let Err(error) = replay(&cache, &mut recovery, &mut names, &config) {
            cache.stop();
            return Err(error);
        }
        if let Err(error) = Step::NamesReplayed.fails() {
            cache.stop();
            return Err(VolumeError::Io(error.to_string()));
        }
        let (geometry, largest_write) = (cache.geometry(), cache.largest_write() & !4095);
        let metrics = Metrics::default();
        let names = RwLock::new(names);
        let volumes = Arc::new_cyclic(|volumes| Self {
            cache,
            names,
            metrics,
            scrub: Scrub::new(config.scrub.clone(), volumes.clone()),
            config,
            geometry,
            largest_write,
            adding_device: Mutex::default(),
            own_mount: OnceLock::new(),
            told: Told::default(),
            reports: Mutex::default(),
        });
        match volumes.finish_removals() {
            // The next opening sees to it.
            Err(error @ VolumeError::HostFull(_)) => log::warn!("not all is removed: {error}"),
            Err(error) => {
                volumes.cache.stop();
                return Err(error);
            }
            Ok(()) => {}
        }
        volumes.scrub.take_up();
        Ok(volumes)
    }

    /// What was deleted while open goes away now: nobody has it open any more.
    fn finish_removals(&self) -> Result<()> {
        let (disks, snapshots) = self.names.read().removed();
        for disk in disks {
            let _entered = self.commit_op(|_, _| Ok(Op::Remove(disk)))?;
        }
        for (map, epoch) in snapshots {
            let _entered = self.commit_op(|_, _| {
                Ok(Op::RemoveSnapshot {
                    map,
                    epoch,
                    open: false,
                })
            })?;
        }
        Ok(())
    }

    /// Makes an op under the locks, applies it to names and lines, and puts it into the journal.
    /// `build` may be called again when the journal was full; it must only look.
    pub(crate) fn commit_op(
        &self,
        build: impl Fn(&Namespace, &Lines<'_>) -> Result<Op>,
    ) -> Result<Entered> {
        self.commit_op_over(1, build)
    }

    /// As [`commit_op`](Self::commit_op), for an op over so many disks.
    pub(crate) fn commit_op_over(
        &self,
        disks: usize,
        build: impl Fn(&Namespace, &Lines<'_>) -> Result<Op>,
    ) -> Result<Entered> {
        let mut waits = None;
        loop {
            let mut names = self.names.write();
            let entered = self.cache.enter_op(disks, |lines| {
                let op = build(&names, lines)?;
                let disks = names.apply(&op, lines, &self.config.priority)?;
                Ok::<_, VolumeError>((op, disks))
            })?;
            drop(names);
            match entered {
                Some(ticket) => {
                    drop(waits);
                    Step::OpEntered.passes();
                    return self.persist(ticket);
                }
                None => {
                    waits.get_or_insert_with(|| self.cache.op_waits());
                    self.cache.wait_for_room()?;
                }
            }
        }
    }

    fn persist(&self, ticket: Ticket) -> Result<Entered> {
        Ok(Entered(self.cache.persist(ticket)?))
    }

    /// The disk, where it still is.
    pub(crate) fn disk(&self, id: DiskId) -> Result<Arc<Disk>> {
        self.names
            .read()
            .disk(id)
            .ok_or_else(|| VolumeError::NotFound(format!("disk {id}")))
    }

    pub(crate) fn snapshot_of(&self, node: Node) -> Result<Arc<Snapshot>> {
        match node {
            Node::Snapshot(id) => self.names.read().snapshot(id),
            Node::Disk(_) => None,
        }
        .ok_or_else(|| VolumeError::NotFound("that snapshot".to_owned()))
    }

    /// Returns when everything acknowledged before the call survives power loss.
    ///
    /// # Errors
    /// Where the sync fails; the store has halted then.
    pub fn sync(&self) -> Result<()> {
        let started = std::time::Instant::now();
        let synced = self.cache.sync(self.cache.newest());
        self.metrics
            .sync
            .record(synced.is_ok(), 0, started.elapsed());
        Ok(synced?)
    }

    /// Moves all that is in the cache to the devices.
    ///
    /// # Errors
    /// Where that fails; the store has halted then.
    pub fn flush(&self) -> Result<()> {
        Ok(self.cache.flush()?)
    }

    /// The number that the store has, and no other.
    #[must_use]
    pub fn uuid(&self) -> [u8; 16] {
        self.cache.catalog().uuid()
    }

    /// Whether the destager has done all it was asked for; that is a moment after
    /// [`flush`](Self::flush) returns.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.cache.is_idle()
    }

    /// The counters.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        let destaged = self.cache.destaged();
        self.metrics.destaged_bytes.store(destaged, Relaxed);
        &self.metrics
    }

    /// Drains the cache, stops the workers, and writes a checkpoint. Later calls fail.
    ///
    /// # Errors
    /// Where draining or the checkpoint fails; what was acknowledged is in the journal then.
    pub fn close_store(&self) -> Result<()> {
        self.scrub.close();
        self.cache.close()?;
        match self.cache.catalog().checkpoint() {
            Err(error @ CatalogError::NoRoom(_)) => {
                // The log has it all.
                log::warn!("no checkpoint, the next opening takes longer: {error}");
                Ok(())
            }
            done => Ok(done?),
        }
    }

    /// Stops the workers where they stand: for tests of what a crash leaves.
    pub fn abandon(&self) {
        self.scrub.close();
        self.cache.halt().set(&"abandoned");
        self.cache.stop();
    }
}

/// Puts what the journal has into names and queue.
fn replay(
    cache: &Cache,
    recovery: &mut Recovery,
    names: &mut Namespace,
    config: &VolumeConfig,
) -> Result<()> {
    let mut replayed = 0u64;
    while recovery.next(cache, |seq, op, lines| {
        names.apply(op, lines, &config.priority).map_err(|error| {
            VolumeError::Io(format!(
                "the journal's record {seq} can't be applied: {error}"
            ))
        })
    })? {
        replayed += 1;
    }
    if replayed > 0 {
        log::info!("replayed {replayed} records from the journal");
    }
    Ok(())
}

/// The number of an op that is in the journal; its power-loss safety still wants a sync.
#[must_use]
pub(crate) struct Entered(pub crate::base::Seq);

impl From<CacheError> for VolumeError {
    fn from(error: CacheError) -> Self {
        match error {
            CacheError::Halted(reason) => Self::Halted(reason),
            CacheError::NoSpace { needed, available } => Self::NoSpace { needed, available },
            CacheError::HostFull(reason) => Self::HostFull(reason),
            CacheError::NoSpaceYet(reason) => Self::NoSpaceYet(reason),
            CacheError::Gone => Self::NotFound("the disk".to_owned()),
            other => Self::Io(other.to_string()),
        }
    }
}

impl From<CatalogError> for VolumeError {
    fn from(error: CatalogError) -> Self {
        match error {
            CatalogError::NoRoom(error) => Self::HostFull(error.to_string()),
            other => Self::Io(other.to_string()),
        }
    }
}
