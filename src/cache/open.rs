//! How a cache starts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::destage::{Destager, Signals};
use super::journal::Journal;
use super::queue::Queue;
use super::recover::Recovery;
use super::ring::Ring;
use super::scan::Scan;
use super::space::Promises;
use super::state::{Cache, CacheConfig};
use super::stock::Stock;
use super::{CacheError, FramePool, Halt, Lines, MapState, Pause};
use crate::base::sync::{Condvar, Mutex};
use crate::base::{DiskId, Epoch, Seq, Timestamp};
use crate::device::Device;
use crate::store::{Catalog, Pool};

/// How long a device for which the host had no space is left alone, at the most.
const FULL_FOR: Duration = Duration::from_secs(5);

/// Blocks of data in a cache of so many bytes: an eighth of it is for the queue, the index and
/// what else is kept of each block, so that all of it together stays within the size (P10).
fn data_blocks(size: u64) -> usize {
    usize::try_from(size / 8 * 7).unwrap_or(usize::MAX) / crate::base::BLOCK
}

/// What the cache stands on.
pub struct CacheParts {
    /// The catalog.
    pub catalog: Arc<Catalog>,
    /// The open devices.
    pub pool: Arc<Pool>,
    /// The journal's storage.
    pub journal: Arc<dyn Device>,
}

impl Cache {
    /// Starts a cache and its destager, and hands out what recovery is to replay: call
    /// [`Recovery::next`] until it ends before serving anyone.
    ///
    /// # Errors
    /// Where the journal is not this store's, is damaged, or can't be read or written.
    pub fn start(
        parts: CacheParts,
        config: CacheConfig,
    ) -> Result<(Arc<Self>, Recovery), CacheError> {
        let CacheParts {
            catalog,
            pool,
            journal: device,
        } = parts;
        let view = catalog.view();
        let marks = view.marks();
        let before = Seq(marks.journal_seq.0.saturating_sub(1));
        let (journal, ring, recovery) = if config.volatile {
            (None, None, Recovery::nothing(marks))
        } else {
            let disks = view.disks()?;
            let applied = disks.iter().map(|disk| disk.applied).max();
            let applied = applied.unwrap_or_default();
            let scan = Scan::begin(&device, catalog.uuid(), &marks, applied)?;
            let ring = Ring::new(scan.ring(), marks.journal_offset % scan.ring());
            (
                Some(Journal::new(device, scan.key(), before)),
                Some(ring),
                Recovery::of(scan, marks),
            )
        };
        let queue = Queue {
            next: before.next(),
            ring,
            disks: FxHashMap::default(),
            ops: std::collections::VecDeque::new(),
            promises: Promises::new(view.space()),
            reaping: false,
            unsynced: std::collections::BTreeSet::new(),
            bytes: 0,
            records: 0,
            markers: 0,
            applying: None,
            waiting_ops: 0,
            closed: false,
            unsettled: Seq(0),
            recovering: true,
        };
        let segment_bytes = catalog.geometry().segment_bytes();
        let cache = Arc::new(Self {
            config,
            geometry: catalog.geometry(),
            catalog,
            pool,
            journal,
            frames: FramePool::new(data_blocks(config.size))?,
            queue: Mutex::new(queue),
            stock: Arc::new(Stock::new(
                FULL_FOR.min(config.interval * 5),
                (config.size / segment_bytes) as usize,
            )),
            room: Condvar::new(),
            halt: Halt::default(),
            pause: Pause::new(config.patience),
            journal_pause: Pause::new(config.patience),
            signals: Signals::default(),
            destaged: AtomicU64::new(0),
            crowded: AtomicBool::new(false),
            open_hidden: Mutex::default(),
            worker: Mutex::new(None),
        });
        Destager::start(&cache)?;
        Ok((cache, recovery))
    }

    /// Adds the line of a disk that the catalog knows.
    pub fn add_disk(
        &self,
        disk: DiskId,
        map: Arc<MapState>,
        epoch: Epoch,
        size: Arc<AtomicU64>,
        priority: u8,
    ) {
        Lines::over(&mut self.queue.lock(), Timestamp(0)).add(disk, map, epoch, size, priority);
    }
}
