//! The destager's thread and its rounds: what comes when. How each thing is done stands in
//! `transfer` (data), `apply` (ops), `supply` (slots) and `background` (what can wait).

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::super::CacheError;
use super::super::state::Cache;
use super::allocate::Allocator;
use super::holes::Holes;
use super::pace::Pace;
use super::reap::Reap;
use super::reclaim::Reclaim;
use super::signals::Wake;
use crate::base::sync::thread;

/// Batches by priority, after which the oldest record has its turn.
const BY_PRIORITY: u32 = 8;
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
        let reaps = reaps.map(|map| Reap::new(map.id)).collect();
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
        let mut destager = Self {
            slots: Allocator::new(cache.stock.clone()),
            cache,
            reclaim: Reclaim::default(),
            reaps,
            holes: Holes::default(),
            pace: Pace::default(),
            ended: 0,
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
        cache.room.notify_all();
    }

    fn rounds(&mut self) -> Result<(), CacheError> {
        let mut last = Instant::now();
        let interval = self.cache.config.interval;
        loop {
            let idle = !self.reaps.iter().any(Reap::is_due)
                && self.reclaim.is_empty()
                && self.holes.is_empty();
            let pause = if idle { interval } else { BACKGROUND_PAUSE };
            let left = interval.saturating_sub(last.elapsed());
            match self.cache.signals.wait(pause.min(left)) {
                Wake::Stop => {
                    self.holes.finish(&self.cache.pool);
                    return Ok(());
                }
                Wake::Idle if last.elapsed() < interval => {}
                Wake::Refill => self.refill()?,
                Wake::Idle | Wake::Asked => {
                    self.drain()?;
                    last = Instant::now();
                }
            }
            self.background()?;
        }
    }

    /// Destages all that is queued now.
    fn drain(&mut self) -> Result<(), CacheError> {
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
            } else {
                let awaited = oldest.is_some_and(|oldest| self.cache.signals.awaits(oldest));
                let done = self.destage_batch(awaited || batch % (BY_PRIORITY + 1) == BY_PRIORITY);
                self.unless_short(done)?;
            }
        }
        Ok(())
    }

    /// A batch that found too few slots is tried again as long as some wait only for their last
    /// reader. What it may have written in place till then no commit knows, so nobody may look
    /// at that before all that is queued is through.
    fn unless_short(&mut self, done: Result<(), CacheError>) -> Result<(), CacheError> {
        match done {
            Err(CacheError::NoSpace { .. }) if self.cache.catalog.view().space().pending > 0 => {
                self.slots.forget();
                let mut queue = self.cache.queue.lock();
                queue.promises.let_go();
                queue.unsettle();
                Ok(())
            }
            done => done,
        }
    }
}
