//! What can wait: reaps and reclaims, a piece at a time, between the rounds.

use super::super::CacheError;
use super::super::queue::Queue;
use super::merge::Tools;
use super::ops::Draft;
use super::reap::{Reap, Step};
use super::round::Destager;
use super::work::Work;
use crate::base::{Epoch, MapId, SegmentNo};
use crate::device;
use crate::ondisk::VersionKey;
use crate::store::PoolError;

/// Slots that a step of a reap may take.
const REAP_SLOTS: u64 = 64;

impl Destager {
    /// What can wait: reaping and reclaiming, a piece at a time.
    pub(super) fn background(&mut self) -> Result<(), CacheError> {
        self.move_tail()?;
        self.reclaim_some()?;
        self.holes.step(&self.cache.pool);
        // A reap copies blocks of live versions, which must be what their checksums say. In a pause
        // it copies nothing, and what it frees may be what ends the pause.
        if !self.cache.pause.is_paused() && self.cache.queue.lock().is_unsettled() {
            return Ok(());
        }
        let due = self.reaps.iter().position(Reap::is_due);
        if let Some(mut reap) = due.and_then(|at| self.reaps.remove(at)) {
            let step = self.reap_some(&mut reap);
            let step = step.and_then(|step| match step {
                Step::More => Ok(Step::More),
                Step::Done => self.finish_reap(reap.map).map(|()| Step::Done),
            });
            match step {
                Ok(Step::More) => self.reaps.push_front(reap),
                Ok(Step::Done) => {}
                Err(error) => {
                    reap.put_off();
                    self.reaps.push_back(reap);
                    self.note_reaps(&mut self.cache.queue.lock());
                    // What it was to copy has no place on the host; the next step copies nothing.
                    let copies = matches!(error, CacheError::Pool(_)) && error.is_no_room();
                    return if copies { Ok(()) } else { Err(error) };
                }
            }
            self.note_reaps(&mut self.cache.queue.lock());
            self.cache.room.notify_all();
        }
        Ok(())
    }

    /// Lets writers that find no space know whether reaps may free some.
    pub(super) fn note_reaps(&self, queue: &mut Queue) {
        queue.reaping = self.reaps.iter().any(Reap::is_due);
    }

    /// A step of a reap, with slots that nobody was promised, if there are any.
    pub(super) fn reap_some(&mut self, reap: &mut Reap) -> Result<Step, CacheError> {
        let cache = self.cache.clone();
        let held = cache.queue.lock().promises.hold(REAP_SLOTS, 0);
        let view = cache.catalog.view();
        let found = self.slots.prepare(&view, held)?;
        if found < held {
            cache.stock.stay_cold();
        }
        self.slots.allow(found.min(held));
        self.slots.check_pack(&view)?;
        let mut work = Work::new(&cache);
        let step = reap.step(&mut Tools {
            view: &view,
            pool: &cache.pool,
            slots: &mut self.slots,
            work: &mut work,
            frugal: cache.pause.is_paused() || !cache.stock.full().is_empty(),
            unreadable: false,
        });
        let step = match step {
            Ok(step) => step,
            Err(error) => {
                self.drop_work(work);
                return Err(error);
            }
        };
        drop(view);
        device::Step::ReapPlanned.fails().map_err(PoolError::from)?;
        self.commit(work)?;
        device::Step::ReapCommitted.passes();
        let mut queue = cache.queue.lock();
        queue.promises.let_go();
        self.take_stock(&mut queue);
        Ok(step)
    }

    pub(super) fn finish_reap(&mut self, map: MapId) -> Result<(), CacheError> {
        let view = self.cache.catalog.view();
        let mut draft = Draft::new(&view);
        let first = VersionKey {
            map,
            segment: SegmentNo(0),
            death: Epoch(0),
        };
        let Some(record) = draft.map_if_any(map)? else {
            return Ok(());
        };
        record.reap = false;
        let gone = !record.live
            && view.snapshots_of(map)?.is_empty()
            && view.versions_from(first, 1)?.is_empty();
        if gone {
            let hidden = self.cache.open_hidden.lock().clone();
            draft.forget_map(map, |map, epoch| hidden.contains_key(&(map, epoch)))?;
        }
        let more = std::mem::take(&mut draft.reap);
        draft.marks = self.cache.marks(&self.cache.queue.lock(), draft.marks);
        let changes = draft.changes()?;
        drop(view);
        device::Step::ReapFinished
            .fails()
            .map_err(PoolError::from)?;
        self.cache.catalog.commit(&changes)?;
        device::Step::MapForgotten.passes();
        self.reap(more);
        Ok(())
    }

    pub(super) fn reap(&mut self, maps: Vec<MapId>) {
        for map in maps {
            match self.reaps.iter_mut().find(|reap| reap.map == map) {
                Some(reap) => reap.restart(),
                None => self.reaps.push_back(Reap::new(map)),
            }
        }
    }
}
