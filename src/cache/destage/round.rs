//! The destager's thread and its rounds: what comes when. How each thing is done stands in
//! `transfer` (data), `apply` (ops), `supply` (slots) and `background` (what can wait).

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::super::CacheError;
use super::super::state::Cache;
use super::super::stock::WARM_FOR;
use super::allocate::Allocator;
use super::holes::Holes;
use super::pace::Pace;
use super::reap::Reap;
use super::reclaim::Reclaim;
use super::signals::Wake;
use crate::base::sync::thread;
use crate::base::{DeviceNo, DiskId};

/// Batches by priority, after which the oldest record has its turn.
const BY_PRIORITY: u32 = 8;
/// Pause between two attempts while the host has no space, at the most.
const RETRY: Duration = Duration::from_secs(1);
/// Pause between two pieces of background work.
const BACKGROUND_PAUSE: Duration = Duration::from_millis(1);

/// The one that changes the catalog.
pub(in crate::cache) struct Destager {
    pub(super) cache: Arc<Cache>,
    pub(super) slots: Allocator,
    pub(super) reclaim: Reclaim,
    pub(super) reaps: VecDeque<Reap>,
    pub(super) holes: Holes,
    pub(super) pace: Pace,
    /// Slots that writers took and that a commit adopted, until the promises know of it.
    pub(super) ended: u64,
    /// Background work found no space on the host; not again before this.
    put_off: Option<Instant>,
}

impl Destager {
    /// Starts the thread. It ends by `Signals::stop`, or when the store halts.
    pub fn start(cache: &Arc<Cache>) -> Result<(), CacheError> {
        let reaps = cache
            .catalog
            .view()
            .maps()?
            .into_iter()
            .filter(|map| map.reap);
        let reaps: VecDeque<_> = reaps.map(|map| Reap::new(map.id)).collect();
        cache.queue.lock().reaping = !reaps.is_empty();
        let weak = Arc::downgrade(cache);
        let run = move || Self::run(&weak, reaps);
        let worker = thread::Builder::new().name("destage".to_owned()).spawn(run);
        match worker {
            Ok(worker) => cache.set_worker(worker),
            Err(error) => {
                return Err(CacheError::Halted(format!(
                    "can't start the destage thread: {error}"
                )));
            }
        }
        Ok(())
    }

    fn run(cache: &Weak<Cache>, reaps: VecDeque<Reap>) {
        let Some(cache) = cache.upgrade() else { return };
        cache.signals.niceness.manage_this_thread();
        let mut destager = Self {
            slots: Allocator::new(cache.stock.clone()),
            cache,
            reclaim: Reclaim::default(),
            reaps,
            holes: Holes::default(),
            pace: Pace::default(),
            ended: 0,
            put_off: None,
        };
        let cache = destager.cache.clone();
        // A panic must not leave those who wait for destaging waiting. What it may have left half
        // done is in the destager alone, which ends here.
        match catch_unwind(AssertUnwindSafe(move || destager.rounds())) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => cache.halt.set(&error),
            Err(_) => cache
                .halt
                .set(&"the destager panicked; this is a bug, please report it"),
        }
        cache.signals.niceness.end();
        cache.room.notify_all();
    }

    fn rounds(&mut self) -> Result<(), CacheError> {
        let mut last = Instant::now();
        loop {
            if !self.is_waited_for() {
                self.cache.signals.niceness.give_way();
            }
            let (wake, mut drained) = (self.wait(last), false);
            let done = match wake {
                Wake::Stop => {
                    self.holes.finish(&self.cache.pool);
                    return Ok(());
                }
                Wake::Idle if last.elapsed() < self.interval() => Ok(()),
                Wake::Refill => self.refill(),
                Wake::Idle | Wake::Asked => {
                    let done = self.drain();
                    (last, drained) = (Instant::now(), true);
                    self.put_off = None;
                    done
                }
            };
            let mut fits = self.fits(done)?;
            if self.put_off.is_none_or(|time| Instant::now() > time) {
                let done = self.background();
                let tidied = self.fits(done)?;
                self.put_off = (!tidied).then(|| Instant::now() + RETRY);
            }
            fits &= self.put_off.is_none();
            if drained && fits {
                self.cache.pause.clear();
            }
        }
    }

    /// Whether a write, an op or a flush waits for what destaging does.
    fn is_waited_for(&self) -> bool {
        let (oldest, ops) = {
            let queue = self.cache.queue.lock();
            (queue.oldest(), queue.waiting_ops)
        };
        let flush = oldest.is_some_and(|oldest| self.cache.signals.awaits(oldest));
        flush || ops > 0 || self.cache.frames.is_waited_for()
    }

    /// Waits until there is something to do.
    fn wait(&self, last: Instant) -> Wake {
        let idle = !self.reaps.iter().any(Reap::is_due)
            && self.reclaim.is_empty()
            && self.holes.is_empty();
        let interval = self.interval();
        let pause = if idle || self.put_off.is_some() {
            interval
        } else {
            BACKGROUND_PAUSE
        };
        let time = pause.min(interval.saturating_sub(last.elapsed()));
        let time = match self.cache.stock.is_warm() {
            true => time.min(WARM_FOR),
            false => time,
        };
        if self.cache.pause.is_paused() {
            self.cache.signals.wait_paused(time)
        } else {
            self.cache.signals.wait(time)
        }
    }

    /// How long a record rests at the most before the next attempt to move it.
    fn interval(&self) -> Duration {
        let interval = self.cache.config.interval;
        if self.cache.pause.is_paused() {
            interval.min(RETRY)
        } else {
            interval
        }
    }

    /// Whether there was space on the host for it. If not, it is tried again by and by; any other
    /// failure is final.
    fn fits(&self, done: Result<(), CacheError>) -> Result<bool, CacheError> {
        match done {
            Err(error) if error.is_no_room() => {
                self.cache.pause.set(&error);
                self.cache.room.notify_all();
                Ok(false)
            }
            done => done.map(|()| true),
        }
    }

    /// Destages all that is queued now.
    fn drain(&mut self) -> Result<(), CacheError> {
        if self.cache.pause.is_paused() {
            return self.drain_what_fits();
        }
        let target = self.cache.newest();
        for batch in 0u32.. {
            self.cache.halt.check()?;
            if self.cache.signals.stopping() && self.cache.queue.lock().oldest().is_none() {
                return Ok(());
            }
            let (ready, oldest) = {
                let queue = self.cache.queue.lock();
                (queue.op_ready(), queue.oldest())
            };
            if oldest.is_none_or(|oldest| oldest > target) {
                return Ok(());
            }
            if ready {
                self.apply_ops()?;
                continue;
            }
            let awaited = oldest.is_some_and(|oldest| self.cache.signals.awaits(oldest));
            let full = self.cache.stock.full();
            let done = self.destage_batch(awaited || batch % (BY_PRIORITY + 1) == BY_PRIORITY);
            match self.unless_short(done) {
                Err(error) if error.is_no_room() => {
                    if !self.is_room_beside(&full)? {
                        return self.drain_what_fits();
                    }
                }
                done => done?,
            }
        }
        Ok(())
    }

    /// While the host has no space: the ops that are due, and of each disk what comes before a
    /// write that needs space. Fails as such a write did, if there was one.
    fn drain_what_fits(&mut self) -> Result<(), CacheError> {
        let target = self.cache.newest();
        let disks: Vec<DiskId> = self.cache.queue.lock().disks.keys().copied().collect();
        let mut no_room = None;
        for disk in disks {
            loop {
                self.cache.halt.check()?;
                if self.cache.signals.stopping() {
                    return Ok(());
                }
                while self.cache.queue.lock().op_ready() {
                    self.apply_ops()?;
                }
                let (next, removal) = {
                    let queue = self.cache.queue.lock();
                    (queue.next_data(disk), queue.removal_of(disk))
                };
                if next.is_none_or(|next| next > target) {
                    break;
                }
                let full = self.cache.stock.full();
                let done = match removal {
                    Some(removal) => self.drop_data_of(disk, removal),
                    None => self.destage_some_of(disk),
                };
                match self.unless_short(done) {
                    Err(error) if error.is_no_room() => {
                        if !self.is_room_beside(&full)? {
                            no_room = Some(error);
                            break;
                        }
                    }
                    done => done?,
                }
            }
        }
        no_room.map_or(Ok(()), Err)
    }

    /// Whether a device turned out to be full that was not among these, and another one has slots.
    fn is_room_beside(&self, known: &[DeviceNo]) -> Result<bool, CacheError> {
        let full = self.full_beside_others()?;
        Ok(full.iter().any(|device| !known.contains(device)))
    }

    /// A batch that found too few slots is tried again as long as some wait only for their last
    /// reader.
    fn unless_short(&mut self, done: Result<(), CacheError>) -> Result<(), CacheError> {
        match done {
            Err(CacheError::NoSpace { .. }) if self.cache.catalog.view().space().pending > 0 => {
                Ok(())
            }
            done => done,
        }
    }
}
