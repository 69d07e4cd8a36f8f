//! One batch of data on its way from the queue to the segments.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::super::CacheError;
use super::super::space::{ClaimKey, PLENTY};
use super::super::state::Cache;
use super::super::throttle::Throttle;
use super::allocate::lend_changes;
use super::batch::{Run, Settled, collect, mark_done, mark_undone, segments, settle};
use super::fetched::Fetched;
use super::round::Destager;
use super::segment::{Context, Outcome, Update};
use super::work::Work;
use crate::base::{BLOCK_SIZE, DeviceNo, DiskId, Place, SegmentNo, Seq};
use crate::device::Step;
use crate::ondisk::Change;
use crate::store::{At, PoolError, View};

/// Segments of a wide discard dealt with in one commit.
const WIDE_CHUNK: usize = 2048;
/// How long a batch waits for slots that readers may still look at, before it finds out whether
/// it needs them.
const RECLAIM_PATIENCE: Duration = Duration::from_millis(100);
/// How long it waits for slots that it does need. They are promised, so they come as soon as the
/// last reader has left.
const READERS_PATIENCE: Duration = Duration::from_secs(1);
/// Thin versions that go into a pack, at least, before the next is begun.
const IN_A_PACK: u64 = 3;
/// Bytes that a batch takes while the host has no space for larger ones.
const SMALL_BATCH: u64 = 1 << 20;
/// Blocks in a batch that says how fast destaging is.
const MEASURED: u32 = 64;

impl Destager {
    /// Destages one batch of data, the oldest first or by priority.
    ///
    /// Where the host has no space for it, all of it is queued as before.
    pub(super) fn destage_batch(&mut self, by_age: bool) -> Result<(), CacheError> {
        let limit = self.pace.limit(self.largest_batch());
        let runs = collect(
            &self.cache.queue.lock(),
            self.cache.geometry,
            limit,
            by_age,
            None,
        );
        self.destage_collected(runs, limit)
    }

    /// Destages one small batch of a disk.
    pub(super) fn destage_some_of(&mut self, disk: DiskId) -> Result<(), CacheError> {
        let limit = self.pace.limit(self.largest_batch()).min(SMALL_BATCH);
        let runs = collect(
            &self.cache.queue.lock(),
            self.cache.geometry,
            limit,
            true,
            Some(disk),
        );
        self.destage_collected(runs, limit)
    }

    /// Lets go of a disk's data that nobody will see, since the removal of the disk is queued
    /// behind it. That has to be durable first: it must not be lost without the data (P6).
    pub(super) fn drop_data_of(&mut self, disk: DiskId, removal: Seq) -> Result<(), CacheError> {
        self.cache.sync_for_destage(removal)?;
        let geometry = self.cache.geometry;
        let runs = collect(
            &self.cache.queue.lock(),
            geometry,
            u64::MAX,
            true,
            Some(disk),
        );
        let unseen = |run: Run| {
            // No promise hangs on a discard, and one may span more segments than memory holds.
            let mut updates = match run.wide_zero(geometry) {
                Some(_) => BTreeMap::new(),
                None => run.updates(geometry),
            };
            updates.values_mut().for_each(Update::forget);
            (run, updates)
        };
        self.destage_runs(runs.into_iter().map(unseen).collect())
    }

    fn destage_collected(&mut self, mut runs: Vec<Run>, limit: u64) -> Result<(), CacheError> {
        let (geometry, started) = (self.cache.geometry, Instant::now());
        let Some(last) = runs.iter().map(Run::last).max() else {
            return Ok(());
        };
        self.cache.sync_for_destage(last)?;
        Step::BatchSynced.fails().map_err(PoolError::from)?;
        let synced = started.elapsed();
        if let Some(at) = runs
            .iter()
            .position(|run| run.wide_zero(geometry).is_some())
        {
            let wide = runs.swap_remove(at);
            self.discard_wide(&wide)?;
            return self.destage_runs(vec![(wide, BTreeMap::new())]);
        }
        let runs: Vec<_> = runs
            .into_iter()
            .map(|run| (run.updates(geometry), run))
            .map(|(u, r)| (r, u))
            .collect();
        let writes = runs.iter().flat_map(|(_, updates)| updates.values());
        let writes = writes.filter(|update| !update.frames.is_empty()).count();
        let bytes = runs.iter().map(|(run, _)| run.bytes()).sum();
        if !self.prepare_slots(writes as u64, RECLAIM_PATIENCE)? {
            let needed = self.slots_needed(&runs)?;
            self.prepare_slots(needed, READERS_PATIENCE)?;
        }
        let packs = writes as u64 / IN_A_PACK + 1;
        // Each write may have to go elsewhere.
        let full = self.full_beside_others()?;
        let packs = if full.is_empty() {
            packs
        } else {
            packs + writes as u64
        };
        self.slots
            .allow(self.cache.queue.lock().promises.hold(packs, PLENTY));
        // Waiting for slots says nothing of how fast destaging is.
        let started = Instant::now();
        self.destage_runs(runs)?;
        let time = started.elapsed() + synced;
        if bytes > 0 {
            self.pace.took(bytes, limit, time);
        }
        let blocks = u32::try_from(bytes / BLOCK_SIZE).unwrap_or(u32::MAX);
        if blocks >= MEASURED {
            self.cache.frames.destaged(blocks, time);
        }
        Ok(())
    }

    /// Bytes that a batch may take. The larger, the less it costs a block: more blocks of a segment
    /// come together, in one version after a snapshot. But those who wait for memory are slowed down
    /// so that a part of it stays free, and that has to last until the batch gives its own back.
    pub(super) fn largest_batch(&self) -> u64 {
        let reserve = Throttle::reserve(self.cache.frames.size()) as u64 * BLOCK_SIZE;
        self.cache.config.batch.min(reserve * 2 / 3).max(BLOCK_SIZE)
    }

    /// How many of the segments have no slot that their update can go to.
    pub(super) fn slots_needed(
        &self,
        runs: &[(Run, BTreeMap<SegmentNo, Update>)],
    ) -> Result<u64, CacheError> {
        let view = self.cache.catalog.view();
        let budget = Cell::new(0);
        let mut needed = 0;
        for (run, updates) in runs {
            let context = context(&self.cache, &view, run, &budget, &[])?;
            for (segment, update) in updates {
                needed += u64::from(context.needs_slot(*segment, update)?);
            }
        }
        Ok(needed)
    }

    pub(super) fn destage_runs(
        &mut self,
        runs: Vec<(Run, BTreeMap<SegmentNo, Update>)>,
    ) -> Result<(), CacheError> {
        let cache = self.cache.clone();
        let budget = Cell::new(self.pace.limit(self.largest_batch()));
        let view = cache.catalog.view();
        self.slots.check_pack(&view)?;
        let mut work = Work::new(&self.cache);
        let planned = self.plan(runs, &view, &mut work, &budget);
        let (done, settled) = match planned.and_then(|planned| {
            Step::BatchPlanned.fails().map_err(PoolError::from)?;
            Ok(planned)
        }) {
            Ok(planned) => planned,
            Err(error) => {
                self.drop_work(work);
                return Err(error);
            }
        };
        let marks = {
            let mut queue = cache.queue.lock();
            mark_done(&mut queue, &done);
            self.cache.marks(&queue, view.marks())
        };
        work.changes.push(Change::SetMarks(marks));
        drop(view);
        if let Err(error) = self.commit(work) {
            mark_undone(&mut cache.queue.lock(), &done);
            return Err(error);
        }
        self.let_go(done, settled);
        Ok(())
    }

    /// Plans what becomes of the runs' segments.
    fn plan(
        &mut self,
        runs: Vec<(Run, BTreeMap<SegmentNo, Update>)>,
        view: &View,
        work: &mut Work,
        budget: &Cell<u64>,
    ) -> Result<(Vec<Run>, Vec<Settled>), CacheError> {
        let cache = self.cache.clone();
        let full = self.full_beside_others()?;
        let mut settled = Vec::new();
        let mut done = Vec::with_capacity(runs.len());
        for (run, updates) in runs {
            let Some(mut disk) = view.disk(run.disk)? else {
                return Err(CacheError::Missing {
                    seq: run.last(),
                    what: format!("disk {}", run.disk),
                });
            };
            let mut context = context(&cache, view, &run, budget, &full)?;
            let mut updates = updates.into_iter().peekable();
            while updates.peek().is_some() {
                for (segment, update, layers) in context.look_ahead(&mut updates)? {
                    let writes = update.writes;
                    let outcome = if update.is_nothing() {
                        Outcome::NOTHING
                    } else {
                        context.plan(segment, (update, layers), &mut self.slots, work)?
                    };
                    disk.allocated = disk.allocated.saturating_add_signed(outcome.allocated);
                    let key = ClaimKey {
                        map: run.map.id,
                        epoch: run.epoch,
                        segment,
                    };
                    settled.push(Settled {
                        key,
                        writes,
                        has_slot: outcome.has_slot && !context.copy_on_write,
                    });
                }
            }
            disk.applied = run.last();
            disk.size = run
                .size_after()
                .map_or(disk.size, |size| size.max(disk.size));
            (disk.modified, disk.changed) = (run.time(), run.time().max(disk.changed));
            work.changes.push(Change::PutDisk(disk));
            done.push(run);
        }
        Ok((done, settled))
    }

    /// There will be no commit: as if the work had never been begun.
    pub(super) fn drop_work(&mut self, work: Work) {
        let unsettles = work.give_back();
        self.slots.close_pack();
        self.slots.forget();
        let mut queue = self.cache.queue.lock();
        queue.promises.let_go();
        if unsettles {
            queue.unsettle();
        }
    }

    /// Data to devices, devices synced, catalog committed; then slots given up wait for reclaim.
    /// The same commit lends out slots for the batches to come. Where it fails the work is dropped.
    pub(super) fn commit(&mut self, mut work: Work) -> Result<(), CacheError> {
        if work.is_empty() {
            return Ok(());
        }
        let lent = match self.store(&mut work) {
            Ok(lent) => lent,
            Err(error) => {
                self.drop_work(work);
                return Err(error);
            }
        };
        self.cache.destaged.fetch_add(work.bytes(), Relaxed);
        work.lent().iter().for_each(|lent| lent.adopt());
        self.ended += work.lent().len() as u64;
        self.cache.stock.adopted(&work.adopted());
        self.cache.stock.add(&lent);
        Step::SlotsAdopted.passes();
        let view = self.cache.catalog.view();
        let given_up = work.punch_blocks(&self.cache.pool, &view, &mut self.holes)?;
        Step::BlocksPunched.passes();
        self.reclaim.add(view.generation(), &given_up);
        self.holes.keep_few(&self.cache.pool);
        Ok(())
    }

    /// What may fail of a commit, and the commit itself. Returns the slots that it lent out.
    fn store(&mut self, work: &mut Work) -> Result<Vec<Place>, CacheError> {
        work.store(&self.cache.pool)?;
        Step::DataStored.fails().map_err(PoolError::from)?;
        let view = self.cache.catalog.view();
        let lent = self.slots.refill(&view, work.taken().len() as u64)?;
        drop(view);
        work.changes.append(&mut lend_changes(&lent));
        self.cache.catalog.commit(&work.changes)?;
        Step::DataCommitted.passes();
        Ok(lent)
    }

    /// The runs are in the segment map: out of the line, the index and the journal with them.
    pub(super) fn let_go(&mut self, runs: Vec<Run>, settled: Vec<Settled>) {
        runs.iter().for_each(Run::leave_index);
        Step::IndexLeft.passes();
        let mut queue = self.cache.queue.lock();
        runs.iter().for_each(|run| run.leave_line(&mut queue));
        settle(&mut queue, settled);
        queue.promises.let_go();
        queue
            .promises
            .end_borrowing(std::mem::take(&mut self.ended));
        self.take_stock(&mut queue);
        self.cache.note_crowd(&queue);
        drop(queue);
        Step::BatchLeft.passes();
        self.cache.room.notify_all();
    }

    /// A discard over very many segments: those that are mapped, a chunk at a time. Each chunk is
    /// a commit; the journal keeps the record until the last.
    pub(super) fn discard_wide(&mut self, run: &Run) -> Result<(), CacheError> {
        let geometry = self.cache.geometry;
        let cache = self.cache.clone();
        let budget = Cell::new(self.pace.limit(self.largest_batch()));
        let Some(zero) = run.wide_zero(geometry) else {
            return Ok(());
        };
        let end = zero.block.0 + zero.count;
        let mut from = geometry.locate(zero.block).0;
        let to = SegmentNo(end.div_ceil(geometry.blocks() as u64));
        loop {
            let view = self.cache.catalog.view();
            let mapped = view.mapped_segments(run.map.id, At::Live, from, to, WIDE_CHUNK)?;
            let Some(last) = mapped.last().copied() else {
                return Ok(());
            };
            let context = context(&cache, &view, run, &budget, &[])?;
            let mut work = Work::new(&self.cache);
            let mut allocated = 0;
            let mut settled = Vec::new();
            for segment in mapped {
                let first = geometry.first_block(segment).0;
                let inside = segments(
                    zero.block.0.max(first),
                    end.min(first + geometry.blocks() as u64),
                    geometry,
                );
                for (segment, blocks) in inside {
                    let update = Update {
                        zero: blocks,
                        ..Update::default()
                    };
                    let layers = context.layers(segment)?;
                    let update = (update, layers);
                    let outcome = context.plan(segment, update, &mut self.slots, &mut work)?;
                    allocated += outcome.allocated;
                    settled.push(Settled {
                        key: ClaimKey {
                            map: run.map.id,
                            epoch: run.epoch,
                            segment,
                        },
                        writes: 0,
                        has_slot: outcome.has_slot && !context.copy_on_write,
                    });
                }
            }
            if let Some(mut disk) = view.disk(run.disk)? {
                disk.allocated = disk.allocated.saturating_add_signed(allocated);
                work.changes.push(Change::PutDisk(disk));
            }
            drop(view);
            self.commit(work)?;
            // Queued writes to a segment that lost its slot need a promise again, before anyone
            // else is promised the slot that became free.
            self.let_go(Vec::new(), settled);
            from = last.next();
        }
    }
}

/// What holds for all segments of a run.
fn context<'a>(
    cache: &'a Cache,
    view: &'a View,
    run: &'a Run,
    merge_budget: &'a Cell<u64>,
    full: &'a [DeviceNo],
) -> Result<Context<'a>, CacheError> {
    let map = view.map(run.map.id)?;
    let map = map.ok_or_else(|| CacheError::Missing {
        seq: run.last(),
        what: format!("map {}", run.map.id),
    })?;
    let unsettled = cache.queue.lock().is_unsettled();
    if map.epoch != run.epoch {
        return Err(CacheError::EpochOrder {
            record: run.epoch,
            map: map.epoch,
        });
    }
    Ok(Context {
        view,
        pool: &cache.pool,
        geometry: cache.geometry,
        map: map.id,
        epoch: run.epoch,
        newest_snapshot: view.newest_snapshot(map.id)?,
        origin: map.origin,
        copy_on_write: cache.journal.is_none(),
        merge_budget,
        unsettled: unsettled.then_some(&*run.map),
        full,
        fetched: Fetched::default(),
    })
}
