//! Slots for the batches and writers to come, and what becomes of those that come back.

use std::time::{Duration, Instant};

use super::super::CacheError;
use super::super::queue::Queue;
use super::allocate::lend_changes;
use super::round::Destager;
use crate::base::DeviceNo;
use crate::base::sync::thread;
use crate::device::Step;
use crate::store::PoolError;

impl Destager {
    /// Sees to it that there are slots for so many segments, waiting for reclaim if need be.
    /// Whether there are.
    pub(super) fn prepare_slots(
        &mut self,
        count: u64,
        patience: Duration,
    ) -> Result<bool, CacheError> {
        let deadline = Instant::now() + patience;
        loop {
            let view = self.cache.catalog.view();
            let found = self.slots.prepare(&view, count)?;
            if found < count {
                self.cache.stock.stay_cold();
                self.take_cold();
            }
            let given_up = view.space().pending > self.cache.stock.lent();
            drop(view);
            if found >= count || !given_up || Instant::now() > deadline {
                return Ok(found >= count);
            }
            self.cache.halt.check()?;
            if self.reclaim_some()? == 0 {
                thread::sleep(Duration::from_millis(1));
            }
            self.slots.forget();
        }
    }

    /// Lends out slots for the writers that are to come.
    pub(super) fn refill(&mut self) -> Result<(), CacheError> {
        let view = self.cache.catalog.view();
        let lent = self.slots.refill(&view, 0)?;
        drop(view);
        if !lent.is_empty() {
            Step::Lending.fails().map_err(PoolError::from)?;
            let done = self.cache.catalog.commit(&lend_changes(&lent));
            done.inspect_err(|_| self.slots.forget())?;
            Step::LentOut.passes();
            self.cache.stock.add(&lent);
            self.refresh_space();
        }
        Ok(())
    }

    /// Takes up the slots that came back.
    pub(super) fn take_returned(&mut self) {
        let (returned, unused) = self.cache.stock.take_returned();
        if returned.is_empty() && unused.is_empty() {
            return;
        }
        let generation = self.cache.catalog.view().generation();
        self.reclaim.add(generation, &returned);
        self.reclaim.add(generation, &unused);
        let count = returned.len() as u64;
        self.cache.queue.lock().promises.end_borrowing(count);
        self.cache.room.notify_all();
    }

    /// Takes up slots that are kept warm no longer.
    fn take_cold(&mut self) {
        let cold = self.cache.stock.take_cold();
        let generation = self.cache.catalog.view().generation();
        self.reclaim.add(generation, &cold);
    }

    pub(super) fn reclaim_some(&mut self) -> Result<usize, CacheError> {
        self.take_returned();
        self.take_cold();
        // What the journal refers to is not known before all of it has been read.
        if self.cache.queue.lock().recovering {
            return Ok(0);
        }
        self.reclaim.load(&self.cache.catalog, &self.cache.stock)?;
        let blocks = self.cache.geometry.blocks();
        let freed = self.reclaim.step(
            &self.cache.catalog,
            &self.cache.pool,
            &self.cache.stock,
            blocks,
        )?;
        if freed > 0 {
            self.refresh_space();
        }
        Ok(freed)
    }

    pub(super) fn refresh_space(&self) {
        self.take_stock(&mut self.cache.queue.lock());
        self.cache.room.notify_all();
    }

    /// Tells the queue what space and what journal the last commit left. Looked up under the
    /// queue's lock, so that what is older never replaces what is newer.
    pub(super) fn take_stock(&self, queue: &mut Queue) {
        let view = self.cache.catalog.view();
        queue.promises.set_space(view.space());
        if let Some(ring) = &mut queue.ring {
            ring.release(view.marks().journal_seq);
        }
    }

    /// The devices that the host has no space for, where another one has slots; else nothing.
    pub(super) fn full_beside_others(&self) -> Result<Vec<DeviceNo>, CacheError> {
        let full = self.cache.stock.full();
        if full.is_empty() {
            return Ok(full);
        }
        let view = self.cache.catalog.view();
        for record in view.devices()? {
            let device = record.device;
            if !full.contains(&device)
                && view.free_slots_of(device)? + self.cache.stock.lent_of(device) > 0
            {
                return Ok(full);
            }
        }
        Ok(Vec::new())
    }
}
