//! The journal as it runs: records are written at the places that the ring gave them, and synced
//! for many waiters at once.

use std::io::IoSlice;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::ahead::Ahead;
use super::window::Window;
use super::{CacheError, Frame, Halt};
use crate::base::sync::{Condvar, Mutex};
use crate::base::{DeviceNo, Seq};
use crate::device::{Device, Step};
use crate::ondisk::Marks;
use crate::ondisk::journal::{RING_START, Stamp};
use crate::store::Pool;

/// The journal of one session.
///
/// Order: a record's `write` returns before the write that it stands for is acknowledged (P5);
/// a `sync` that covers it returns before an fsync, a snapshot command or a destage relies on it
/// (P3, P4, P6).
pub struct Journal {
    device: Arc<dyn Device>,
    key: u64,
    session: AtomicU32,
    /// Every record up to this one survives power loss: as in `syncing`, to be read at any time.
    durable: AtomicU64,
    pub(super) window: Window,
    syncing: Mutex<Syncing>,
    synced: Condvar,
    /// Once a session has begun.
    ahead: OnceLock<Ahead>,
}

struct Syncing {
    /// Every record up to this one survives power loss.
    durable: Seq,
    /// Whether someone is syncing; the others wait for it.
    busy: bool,
}

impl Journal {
    /// A journal in which every record up to `written` has been found or written. None of them
    /// is taken to be durable: after a crash of the daemon alone they may be in the page cache.
    /// Nothing is written before [`begin`](Self::begin).
    pub(super) fn new(device: Arc<dyn Device>, key: u64, written: Seq) -> Self {
        let syncing = Mutex::new(Syncing {
            durable: Seq(0),
            busy: false,
        });
        Self {
            device,
            key,
            session: AtomicU32::new(0),
            durable: AtomicU64::new(0),
            window: Window::new(written),
            syncing,
            synced: Condvar::new(),
            ahead: OnceLock::new(),
        }
    }

    /// A session begins: its header is durable, and so is all that was found. Its records go from
    /// `head` on into a ring of so many bytes.
    pub(super) fn begin(&self, session: u32, found: Seq, (ring, head): (u64, u64)) {
        self.ahead
            .get_or_init(|| Ahead::start(self.device.clone(), ring, head));
        self.session.store(session, Ordering::Relaxed);
        let mut syncing = self.syncing.lock();
        syncing.durable = syncing.durable.max(found);
        self.durable.fetch_max(found.0, Ordering::Relaxed);
    }

    /// This opening's number; 0 before it has begun.
    pub(super) fn session(&self) -> u32 {
        self.session.load(Ordering::Relaxed)
    }

    /// What a commit says of the journal beside where it is needed from.
    pub(super) fn mark(&self, marks: &mut Marks) {
        marks.durable = marks.durable.max(self.durable());
        // While an opening replays, the last session is still the last.
        let session = self.session();
        if session > 0 {
            (marks.session, marks.closed) = (session, false);
        }
    }

    /// What the records that are appended now say of the journal.
    pub(super) fn stamp(&self) -> Stamp {
        Stamp {
            key: self.key,
            session: self.session(),
            durable: self.durable(),
        }
    }

    /// Every record up to this one survives power loss.
    pub(super) fn durable(&self) -> Seq {
        Seq(self.durable.load(Ordering::Relaxed))
    }

    /// Where the journal is.
    #[must_use]
    pub fn name(&self) -> &str {
        self.device.name()
    }

    /// Writes a record at its place in the ring.
    pub(super) fn write(
        &self,
        offset: u64,
        head: &[u8],
        frames: &[Arc<Frame>],
    ) -> Result<(), CacheError> {
        let mut bufs = Vec::with_capacity(frames.len() + 1);
        bufs.push(IoSlice::new(head));
        bufs.extend(frames.iter().map(|frame| IoSlice::new(frame)));
        if let Some(ahead) = self.ahead.get() {
            ahead.reached(offset);
        }
        Step::RecordEntered.fails().map_err(CacheError::Journal)?;
        self.device
            .write_at(&bufs, RING_START + offset)
            .map_err(CacheError::Journal)
    }

    /// Returns when every record up to `target` survives power loss. `seal` is called once by
    /// the one that syncs for all: it ends the page that the next record would share with them,
    /// and says up to which record the sync may reach, and on which devices of the pool data of
    /// them lies that is not durable yet.
    pub(super) fn sync(
        &self,
        target: Seq,
        halt: &Halt,
        pool: &Pool,
        seal: impl Fn() -> (Seq, Vec<DeviceNo>),
    ) -> Result<(), CacheError> {
        let mut syncing = self.syncing.lock();
        loop {
            halt.check()?;
            if syncing.durable >= target {
                return Ok(());
            }
            if !syncing.busy {
                break;
            }
            self.synced
                .wait_for(&mut syncing, Duration::from_millis(100));
        }
        syncing.busy = true;
        drop(syncing);
        let reached = self.sync_now(halt, pool, seal);
        let mut syncing = self.syncing.lock();
        syncing.busy = false;
        if let Ok(reached) = &reached {
            syncing.durable = syncing.durable.max(*reached);
            self.durable.fetch_max(reached.0, Ordering::Relaxed);
        }
        self.synced.notify_all();
        reached.map(|_| ())
    }

    fn sync_now(
        &self,
        halt: &Halt,
        pool: &Pool,
        seal: impl Fn() -> (Seq, Vec<DeviceNo>),
    ) -> Result<Seq, CacheError> {
        let (reach, devices) = seal();
        self.window.wait_for(reach, halt)?;
        // The data before the records that speak of it. Were it the other way round, recovery
        // would still notice, but this way a whole record seldom lacks its data.
        let sync = || {
            Step::JournalSealed.fails().map_err(CacheError::Journal)?;
            pool.sync(&devices)?;
            Step::LentSynced.fails().map_err(CacheError::Journal)?;
            self.device.sync().map_err(CacheError::Journal)
        };
        sync().inspect_err(|error| halt.set(error))?;
        Step::JournalSynced.passes();
        Ok(reach)
    }
}
