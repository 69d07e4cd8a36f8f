//! Gives slots back: waits until no reader can still look at them, punches them, and puts them on
//! the free list (P9).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::super::CacheError;
use super::super::stock::Stock;
use crate::base::{DeviceNo, Place, Slot};
use crate::device::Step;
use crate::ondisk::Change;
use crate::store::{Catalog, Pool, PoolError};

/// Slots punched in one commit.
const CHUNK: usize = 1024;
/// How long one go may take: a host that discards at once blocks in it, and destaging waits.
const AT_ONCE: Duration = Duration::from_millis(20);

/// Slots that were given up, oldest first, each with the commit that gave it up.
#[derive(Default)]
pub(super) struct Reclaim {
    waiting: VecDeque<(u64, Place)>,
}

impl Reclaim {
    /// Takes up what earlier sessions left pending, a chunk at a time: slots given up, and slots
    /// lent out that nothing came to adopt. Not those that are lent out now.
    pub fn load(&mut self, catalog: &Catalog, stock: &Stock) -> Result<(), CacheError> {
        let view = catalog.view();
        if !self.waiting.is_empty() || view.space().pending <= stock.lent() {
            return Ok(());
        }
        let generation = view.generation();
        let mut from = Place {
            device: DeviceNo(0),
            slot: Slot(0),
        };
        loop {
            let pending = view.pending_from(from, CHUNK * 4)?;
            let left = pending.iter().filter(|place| !stock.is_lent(**place));
            self.waiting = left.map(|place| (generation, *place)).collect();
            match pending.last() {
                Some(last) if self.waiting.is_empty() => {
                    from = Place {
                        slot: last.slot.next(),
                        ..*last
                    }
                }
                _ => return Ok(()),
            }
        }
    }

    /// Adds slots that the commit of this number gave up.
    pub fn add(&mut self, generation: u64, places: &[Place]) {
        self.waiting
            .extend(places.iter().map(|place| (generation, *place)));
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Frees a chunk of those that nobody can look at any more, or has the stock keep them warm.
    /// Returns how many it freed.
    pub fn step(
        &mut self,
        catalog: &Catalog,
        pool: &Pool,
        stock: &Stock,
        blocks: usize,
    ) -> Result<usize, CacheError> {
        let quiesced = |(generation, _): &&(u64, Place)| catalog.quiesced(*generation);
        let ready = self.waiting.iter().take(CHUNK).take_while(quiesced);
        let ready = ready.count();
        if ready == 0 {
            return Ok(0);
        }
        // A commit that failed must not come back with a crash and lead to what is punched now, or
        // written over.
        catalog.withdraw()?;
        let mut cold: Vec<_> = self.waiting.drain(..ready).collect();
        cold.retain(|(_, place)| !stock.keep_warm(*place));
        let ready = cold.len();
        cold.into_iter()
            .rev()
            .for_each(|one| self.waiting.push_front(one));
        let deadline = Instant::now() + AT_ONCE;
        let mut changes = Vec::new();
        for (_, place) in self.waiting.iter().take(ready) {
            if let Err(error) = pool.punch(*place, 0..blocks) {
                log::warn!("space of {place} stays with the host's file: {error}");
            }
            changes.push(Change::Free(*place));
            if Instant::now() > deadline {
                break;
            }
        }
        if changes.is_empty() {
            return Ok(0);
        }
        let count = changes.len();
        Step::SlotsPunched.fails().map_err(PoolError::from)?;
        catalog.commit(&changes)?;
        Step::SlotsFreed.passes();
        self.waiting.drain(..count);
        Ok(count)
    }
}
