//! What an append does that finds too little room: in the journal, or in the pool.

use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::pause::{is_in_a_hurry, is_late};
use super::queue::Queue;
use super::space::ClaimKey;
use super::state::Cache;
use super::{Append, CacheError};

/// How long a write waits for reaps to free the space of what was deleted.
const REAP_PATIENCE: Duration = Duration::from_secs(30);

/// Segments that were seen to need no promise, since they have a slot to write to.
#[derive(Default)]
pub(super) struct Exempt {
    /// The commit as of which that holds. After another, a discard may have taken the slot.
    pub generation: u64,
    pub keys: SmallVec<[ClaimKey; 4]>,
    /// Since when it has waited for reaps.
    reaping_since: Option<Instant>,
}

/// An op that waits for room; see [`Cache::op_waits`].
pub struct OpWaits<'a>(&'a Cache);

impl Drop for OpWaits<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.queue.lock();
        queue.waiting_ops -= 1;
        self.0.note_crowd(&queue);
        drop(queue);
        self.0.room.notify_all();
    }
}

impl Cache {
    /// Waits a moment for destaging to free journal space.
    ///
    /// # Errors
    /// [`CacheError::HostFull`] where it has not gone on for long, for want of space on the host.
    pub fn wait_for_room(&self) -> Result<(), CacheError> {
        self.pause.check()?;
        self.signals.hurry_for_me();
        let mut queue = self.queue.lock();
        self.room.wait_for(&mut queue, Duration::from_millis(50));
        Ok(())
    }

    /// An op found no room: until the returned value is dropped, appends wait too.
    #[must_use]
    pub fn op_waits(&self) -> OpWaits<'_> {
        let mut queue = self.queue.lock();
        queue.waiting_ops += 1;
        self.note_crowd(&queue);
        OpWaits(self)
    }

    /// The pool is short of slots: exempts segments that need none, or lets destaging settle
    /// promises that were made to be safe, and free what was discarded or deleted; fails when
    /// none of that helps.
    pub(super) fn find_space(
        &self,
        append: &Append,
        exempt: &mut Exempt,
        needed: u64,
        available: u64,
    ) -> Result<(), CacheError> {
        let full = CacheError::NoSpace { needed, available };
        let (map, epoch, idle) = {
            let queue = self.queue.lock();
            let disk = queue.disks.get(&append.disk).ok_or(CacheError::Gone)?;
            // Nothing queued, promised or being freed: no round can make a slot available.
            let idle = queue.promises.is_idle() && queue.oldest().is_none() && !queue.reaping;
            (disk.map.clone(), disk.epoch, idle)
        };
        let view = self.catalog.view();
        let newest = view.newest_snapshot(map.id)?;
        if exempt.generation != view.generation() {
            exempt.generation = view.generation();
            exempt.keys.clear();
        }
        let before = exempt.keys.len();
        for key in append.claim_keys(self.geometry, map.id, epoch) {
            let has_slot = match view.live(map.id, key.segment)? {
                Some((_, live)) => {
                    live.has_own_slot() && newest.is_none_or(|newest| live.birth > newest)
                }
                None => false,
            };
            let same_epoch = view
                .map(map.id)?
                .is_some_and(|record| record.epoch == epoch);
            if has_slot && same_epoch && self.journal.is_some() && !exempt.keys.contains(&key) {
                exempt.keys.push(key);
            }
        }
        if exempt.keys.len() > before {
            return Ok(());
        }
        if idle {
            return Err(full);
        }
        // Promises that turn out not to be needed come back with a destage. Which may wait for
        // slots that wait for old views to go: this one too.
        drop(view);
        self.flush()?;
        let mut queue = self.queue.lock();
        if queue.promises.available() >= needed {
            return Ok(());
        }
        let since = *exempt.reaping_since.get_or_insert_with(Instant::now);
        if self.space_moves(&queue, since) {
            if is_late() {
                let why = "what was deleted is being freed".to_owned();
                return Err(CacheError::NoSpaceYet(why));
            }
            self.room.wait_for(&mut queue, Duration::from_millis(5));
            return Ok(());
        }
        Err(full)
    }

    /// Whether slots may yet come back, for one who waits since then.
    fn space_moves(&self, queue: &Queue, since: Instant) -> bool {
        let may_wait = !is_in_a_hurry() && !self.pause.is_paused();
        let reaping = queue.reaping && may_wait && since.elapsed() < REAP_PATIENCE;
        reaping || queue.promises.holds()
    }

    /// Returns when what is queued has the slots that it needs, and what was deleted has given its
    /// own back: a count of slots then is not short by promises that were made to be safe.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub fn settle_space(&self) -> Result<(), CacheError> {
        self.flush()?;
        let since = Instant::now();
        let mut queue = self.queue.lock();
        while self.space_moves(&queue, since) && since.elapsed() < REAP_PATIENCE {
            self.halt.check()?;
            self.room.wait_for(&mut queue, Duration::from_millis(5));
        }
        Ok(())
    }
}
