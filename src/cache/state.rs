//! The cache as a whole: what it is made of, and how it is looked at, synced and drained.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::destage::Signals;
use super::journal::Journal;
use super::queue::Queue;
use super::stock::Stock;
use super::{CacheError, Frame, FramePool, Halt, Pause};
use crate::base::sync::{Condvar, Mutex, thread};
use crate::base::{BLOCK, DeviceNo, DiskId, Epoch, Geometry, MapId, Seq};
use crate::ondisk::{Change, Marks};
use crate::store::{Catalog, CatalogError, Pool};

/// Settings of the cache.
#[derive(Clone, Copy, Debug)]
pub struct CacheConfig {
    /// Bytes of memory for data and what is kept of it.
    pub size: u64,
    /// Whether it works without a journal: what is in it is lost when the daemon dies, and a
    /// sync moves it to the devices.
    pub volatile: bool,
    /// How long a record waits at the most before destaging begins.
    pub interval: Duration,
    /// Bytes destaged in one commit.
    pub batch: u64,
    /// How long a write waits, at the most, for the host to have space again.
    pub patience: Duration,
}

/// Slots left at which a write may have to look closer, and wait for a destage.
pub(super) const FEW_SLOTS: u64 = 64;
/// Records queued at which destaging is hurried.
const MANY_RECORDS: u64 = 8 << 10;
/// Records without data (discards, ops) that may be queued beside as many as there are blocks.
const MOST_RECORDS: u64 = 64 << 10;

/// The write cache of a store.
pub struct Cache {
    pub(super) config: CacheConfig,
    pub(super) geometry: Geometry,
    pub(super) catalog: Arc<Catalog>,
    pub(super) pool: Arc<Pool>,
    pub(super) journal: Option<Journal>,
    pub(super) frames: Arc<FramePool>,
    pub(super) queue: Mutex<Queue>,
    /// Slots lent out. Locked after all others, for a moment.
    pub(super) stock: Arc<Stock>,
    /// Signalled when journal space was freed; goes with `queue`.
    pub(super) room: Condvar,
    pub(super) halt: Halt,
    /// Destaging waits for space on the host.
    pub(super) pause: Pause,
    /// The journal does. Preallocated, it may all the same, on a file system that never
    /// overwrites.
    pub(super) journal_pause: Pause,
    pub(super) signals: Signals,
    /// Bytes that destaging has written to devices.
    pub(super) destaged: AtomicU64,
    /// Whether the next write may have to wait for journal, queue or pool; only a hint.
    pub(super) crowded: AtomicBool,
    /// Snapshots without a name that are still open; a reap spares them.
    pub(super) open_hidden: Mutex<FxHashMap<(MapId, Epoch), u32>>,
    pub(super) worker: Mutex<Option<thread::JoinHandle<()>>>,
}

/// How full the cache is.
#[derive(Clone, Copy, Debug, Default)]
pub struct CacheUse {
    /// Bytes of data queued.
    pub bytes: u64,
    /// Records queued.
    pub records: u64,
    /// Markers queued.
    pub markers: u64,
    /// Bytes of the journal in use, and its size; absent in volatile mode.
    pub journal: Option<(u64, u64)>,
    /// Slots promised to queued writes.
    pub promised: u64,
    /// Slots that new writes can still be promised.
    pub available: u64,
    /// The pool's slots; those lent out to be written to count as free.
    pub space: crate::ondisk::Space,
}

impl Cache {
    pub(super) fn set_worker(&self, worker: thread::JoinHandle<()>) {
        *self.worker.lock() = Some(worker);
    }

    /// Copies `data`, whole blocks, into the cache's memory, waiting in line for room.
    ///
    /// # Errors
    /// Where the store halts meanwhile, or the host has had no space for long.
    pub fn hold(&self, data: &[u8]) -> Result<Vec<Arc<Frame>>, CacheError> {
        self.hold_both(data, &[])
    }

    /// As [`hold`](Self::hold), of one piece and then another. In one go: who waited for the
    /// second while holding the first would hold up those that wait before.
    ///
    /// # Errors
    /// As [`hold`](Self::hold).
    pub fn hold_both(&self, first: &[u8], then: &[u8]) -> Result<Vec<Arc<Frame>>, CacheError> {
        self.halt.check()?;
        let count = (first.len() + then.len()) / BLOCK;
        if count == 0 {
            return Ok(Vec::new());
        }
        let hurry = || self.signals.hurry_for_me();
        let check = || self.halt.check().and_then(|()| self.pause.check());
        let taken = self.frames.take(count, check, hurry)?;
        Ok(taken.fill_with(first.chunks_exact(BLOCK).chain(then.chunks_exact(BLOCK))))
    }

    /// As [`hold`](Self::hold), for the replay of the journal.
    pub(super) fn hold_for_replay(&self, data: &[u8]) -> Result<Vec<Arc<Frame>>, CacheError> {
        let blocks = data.len() / crate::base::BLOCK;
        let hurry = || self.signals.hurry_for_me();
        let taken = self.frames.take_for_replay(blocks, &self.halt, hurry)?;
        Ok(taken.fill(data))
    }

    /// Whether so many bytes may have to wait for room in the memory or the journal.
    #[must_use]
    pub fn is_crowded(&self, len: usize) -> bool {
        let blocks = len / crate::base::BLOCK + 2;
        self.frames.is_crowded(blocks)
            || self.crowded.load(Ordering::Relaxed)
            || self.journal_pause.is_paused()
    }

    /// Whether what has to be moved to devices waits for the host to have space.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.pause.is_paused()
    }

    /// The largest write that is taken as one record, in bytes.
    #[must_use]
    pub fn largest_write(&self) -> u64 {
        let cache = self.frames.size() as u64 * crate::base::BLOCK_SIZE / 2;
        let ring = self
            .queue
            .lock()
            .ring
            .as_ref()
            .map_or(u64::MAX, |ring| ring.size() / 4);
        cache.min(ring).min(4 << 20)
    }

    /// Returns when every record up to `seq` survives power loss.
    ///
    /// # Errors
    /// Where the sync fails; the store has halted then.
    pub fn sync(&self, seq: Seq) -> Result<(), CacheError> {
        match &self.journal {
            Some(journal) => journal.sync(seq, &self.halt, &self.pool, || {
                let mut queue = self.queue.lock();
                queue.seal();
                let devices = std::mem::take(&mut queue.unsynced);
                (Seq(queue.next.0 - 1), devices.into_iter().collect())
            }),
            None => self.flush_to(seq),
        }
    }

    /// The number of the newest record.
    #[must_use]
    pub fn newest(&self) -> Seq {
        Seq(self.queue.lock().next.0 - 1)
    }

    /// Returns when all that is queued now has been destaged.
    ///
    /// # Errors
    /// Where destaging fails and the store has halted; [`CacheError::HostFull`] where the host has
    /// had no space for long, and still has none.
    pub fn flush(&self) -> Result<(), CacheError> {
        self.stock.cool_down();
        self.flush_to(self.newest())
    }

    /// Before records reach a device: they must not be lost from the journal by a power loss
    /// that the device's copy survives (P6).
    pub(super) fn sync_for_destage(&self, seq: Seq) -> Result<(), CacheError> {
        if self.journal.is_some() {
            self.sync(seq)
        } else {
            Ok(())
        }
    }

    /// Whether the destager has done all it was asked for. A [`flush`](Self::flush) returns as soon
    /// as the records are moved, a little earlier.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.signals.is_idle()
    }

    fn flush_to(&self, seq: Seq) -> Result<(), CacheError> {
        // The attempt that is under way does not count.
        let tries = self.pause.tries() + 1;
        self.signals.flush(seq);
        let mut queue = self.queue.lock();
        while queue.oldest().is_some_and(|oldest| oldest <= seq) {
            self.halt.check()?;
            self.pause.check_since(tries)?;
            self.room.wait_for(&mut queue, Duration::from_millis(100));
        }
        self.halt.check()
    }

    /// Refuses further appends, drains, reclaims and ends the destager.
    ///
    /// # Errors
    /// Where draining fails; what is in the journal is replayed at the next opening.
    pub fn close(&self) -> Result<(), CacheError> {
        self.queue.lock().closed = true;
        let drained = self.flush();
        self.stop();
        drained?;
        // Nobody has written to these, so there is nothing to punch.
        let ready = self.stock.close();
        let mut changes: Vec<Change> = ready.into_iter().map(Change::Free).collect();
        let mut marks = {
            let queue = self.queue.lock();
            self.marks(&queue, self.catalog.view().marks())
        };
        // In volatile mode it stays as the last session with a journal left it.
        marks.closed |= self.journal.is_some();
        changes.push(Change::SetMarks(marks));
        match self.catalog.commit(&changes) {
            // The next opening frees them.
            Err(CatalogError::NoRoom(_)) => Ok(()),
            done => Ok(done?),
        }
    }

    /// The marks for a commit, as the queue stands.
    pub(super) fn marks(&self, queue: &Queue, mut marks: Marks) -> Marks {
        match &queue.ring {
            Some(ring) => (marks.journal_offset, marks.journal_seq) = ring.tail(queue.next),
            None => marks.journal_seq = queue.next,
        }
        if let Some(journal) = &self.journal {
            journal.mark(&mut marks);
        }
        marks
    }

    /// Ends the destager where it stands, as a crash would, but without leaving threads.
    pub fn stop(&self) {
        self.signals.stop();
        let worker = self.worker.lock().take();
        if let Some(worker) = worker
            && worker.join().is_err()
        {
            log::error!("the destager panicked");
        }
    }

    /// Whether so many records are queued that the next must wait (P10).
    pub(super) fn is_overfull(&self, queue: &Queue) -> bool {
        queue.records > self.frames.size() as u64 + MOST_RECORDS
    }

    /// Destages soon where the cache or the journal is filling.
    pub(super) fn nudge_if_filling(&self, queue: &Queue) {
        let cache_filling = queue.bytes > self.config.batch.min(self.config.size / 4)
            || queue.records > MANY_RECORDS;
        let borrowed = queue.promises.borrowed() * self.geometry.segment_bytes();
        if cache_filling
            || queue.ring_is_filling()
            || borrowed > self.config.batch.min(self.config.size / 4)
        {
            self.signals.hurry();
        }
        self.note_crowd(queue);
    }

    /// Notes whether the next write may have to wait for something else than memory.
    pub(super) fn note_crowd(&self, queue: &Queue) {
        let ring = queue.ring.as_ref();
        let crowded = ring.is_some_and(|ring| ring.used() > ring.size() / 4 * 3)
            || queue.promises.available() < FEW_SLOTS
            || queue.waiting_ops > 0
            || self.is_overfull(queue);
        if crowded != self.crowded.load(Ordering::Relaxed) {
            self.crowded.store(crowded, Ordering::Relaxed);
        }
    }

    /// How full it is.
    #[must_use]
    pub fn usage(&self) -> CacheUse {
        let queue = self.queue.lock();
        CacheUse {
            bytes: queue.bytes,
            records: queue.records,
            markers: queue.markers,
            journal: queue.ring.as_ref().map(|ring| (ring.used(), ring.size())),
            promised: queue.promises.promised() + queue.promises.borrowed(),
            available: queue.promises.available(),
            space: self.stock.shown(self.catalog.view().space()),
        }
    }

    /// Slots of a device that are lent out to be written to; to people they are free.
    #[must_use]
    pub fn lent_of(&self, device: DeviceNo) -> u64 {
        self.stock.lent_of(device)
    }

    /// Bytes of a disk's data that wait.
    #[must_use]
    pub fn queued_bytes(&self, disk: DiskId) -> u64 {
        self.queue
            .lock()
            .disks
            .get(&disk)
            .map_or(0, |line| line.bytes)
    }

    /// The priority that a disk is destaged with.
    #[must_use]
    pub fn priority(&self, disk: DiskId) -> u8 {
        self.queue
            .lock()
            .disks
            .get(&disk)
            .map_or(0, |line| line.priority)
    }

    /// Bytes that destaging has written to devices since the start.
    #[must_use]
    pub fn destaged(&self) -> u64 {
        self.destaged.load(Ordering::Relaxed)
    }

    /// The segment size.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The catalog.
    #[must_use]
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// The devices.
    #[must_use]
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// What waits for space on the host, if something does.
    #[must_use]
    pub fn paused(&self) -> Option<String> {
        let reason = self.journal_pause.reason();
        reason.or_else(|| self.pause.reason())
    }

    /// How long something has waited for space on the host, in all.
    #[must_use]
    pub fn paused_for(&self) -> Duration {
        self.pause.total() + self.journal_pause.total()
    }

    /// The halt switch.
    #[must_use]
    pub fn halt(&self) -> &Halt {
        &self.halt
    }

    /// Where the journal is, unless in volatile mode.
    #[must_use]
    pub fn journal_name(&self) -> Option<&str> {
        self.journal.as_ref().map(Journal::name)
    }

    /// A hidden snapshot is open (or one handle less): a reap leaves it.
    pub fn pin_hidden(&self, map: MapId, epoch: Epoch, open: bool) {
        let mut hidden = self.open_hidden.lock();
        if open {
            *hidden.entry((map, epoch)).or_default() += 1;
        } else {
            hidden.remove(&(map, epoch));
        }
    }

    /// Tells the destager that there is work besides the queue, such as new free space.
    pub fn space_added(&self) {
        {
            // The view is taken under the lock, so that an older one never comes after a newer.
            let mut queue = self.queue.lock();
            queue.promises.set_space(self.catalog.view().space());
        }
        self.signals.help();
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.signals.stop();
    }
}
