//! The destager's thread and its rounds.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::super::ring::Ring;
use super::super::space::{ClaimKey, PLENTY};
use super::super::state::Cache;
use super::super::throttle::Throttle;
use super::super::{CacheError, queue};
use super::allocate::{Allocator, lend_changes};
use super::batch::{Run, Settled, collect, mark_done, segments, settle};
use super::holes::Holes;
use super::merge::Tools;
use super::ops::Draft;
use super::pace::Pace;
use super::reap::{Reap, Step};
use super::reclaim::Reclaim;
use super::segment::{Context, Update};
use super::signals::Wake;
use super::work::Work;
use crate::base::{BLOCK_SIZE, Epoch, MapId, SegmentNo};
use crate::ondisk::Change;
use crate::store::{At, View};

/// Segments of a wide discard dealt with in one commit.
const WIDE_CHUNK: usize = 2048;
/// How long a batch waits for slots that readers may still look at, before it finds out whether
/// it needs them.
const RECLAIM_PATIENCE: Duration = Duration::from_millis(100);
/// How long it waits for slots that it does need. They are promised, so they come as soon as the
/// last reader has left.
const READERS_PATIENCE: Duration = Duration::from_secs(1);
/// Batches by priority, after which the oldest record has its turn.
const BY_PRIORITY: u32 = 8;
/// Pause between two pieces of background work.
const BACKGROUND_PAUSE: Duration = Duration::from_millis(1);
/// Slots that a step of a reap may take.
const REAP_SLOTS: u64 = 64;
/// Thin versions that go into a pack, at least, before the next is begun.
const IN_A_PACK: u64 = 3;
/// Blocks in a batch that says how fast destaging is.
const MEASURED: u32 = 64;
/// Ops applied in one commit.
const MAX_OPS: usize = 512;

/// The one that changes the catalog.
pub(in crate::cache) struct Destager {
    cache: Arc<Cache>,
    slots: Allocator,
    reclaim: Reclaim,
    reaps: VecDeque<Reap>,
    holes: Holes,
    pace: Pace,
    /// Slots that writers took and that a commit adopted, until the promises know of it.
    ended: u64,
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
        let worker = std::thread::Builder::new()
            .name("destage".to_owned())
            .spawn(run);
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

    /// What can wait: reaping and reclaiming, a piece at a time.
    fn background(&mut self) -> Result<(), CacheError> {
        self.move_tail()?;
        self.reclaim_some()?;
        self.holes.step(&self.cache.pool);
        // A reap copies blocks of live versions, which must be what their checksums say.
        if self.cache.queue.lock().is_unsettled() {
            return Ok(());
        }
        let due = self.reaps.iter().position(Reap::is_due);
        if let Some(mut reap) = due.and_then(|at| self.reaps.remove(at)) {
            match self.reap_some(&mut reap)? {
                Step::More => self.reaps.push_front(reap),
                Step::Done => self.finish_reap(reap.map)?,
            }
        }
        Ok(())
    }

    /// A step of a reap, with slots that nobody was promised, if there are any.
    fn reap_some(&mut self, reap: &mut Reap) -> Result<Step, CacheError> {
        let cache = self.cache.clone();
        let held = cache.queue.lock().promises.hold(REAP_SLOTS, 0);
        let view = cache.catalog.view();
        let found = self.slots.prepare(&view, held)?;
        self.slots.allow(found.min(held));
        self.slots.check_pack(&view)?;
        let mut work = Work::new(&cache);
        let step = reap.step(&mut Tools {
            view: &view,
            pool: &cache.pool,
            slots: &mut self.slots,
            work: &mut work,
        })?;
        drop(view);
        self.commit(work)?;
        let mut queue = cache.queue.lock();
        queue.promises.let_go();
        self.take_stock(&mut queue);
        Ok(step)
    }

    /// Frees journal space that is no longer needed but that no commit has said so of: records
    /// that recovery found applied. Without this a full journal would stay full, for want of
    /// anything to destage.
    fn move_tail(&mut self) -> Result<(), CacheError> {
        let durable = self.cache.catalog.view().marks();
        let marks = {
            let queue = self.cache.queue.lock();
            let stale = queue.ring.as_ref().is_some_and(Ring::has_done_front);
            if queue.recovering || !stale {
                return Ok(());
            }
            self.cache.marks(&queue, durable)
        };
        self.cache.catalog.commit(&[Change::SetMarks(marks)])?;
        self.take_stock(&mut self.cache.queue.lock());
        self.cache.room.notify_all();
        Ok(())
    }

    fn finish_reap(&mut self, map: MapId) -> Result<(), CacheError> {
        let view = self.cache.catalog.view();
        let mut draft = Draft::new(&view);
        let first = crate::ondisk::VersionKey {
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
        self.cache.catalog.commit(&changes)?;
        self.reap(more);
        Ok(())
    }

    fn reap(&mut self, maps: Vec<MapId>) {
        for map in maps {
            match self.reaps.iter_mut().find(|reap| reap.map == map) {
                Some(reap) => reap.restart(),
                None => self.reaps.push_back(Reap::new(map)),
            }
        }
    }

    /// Lends out slots for the writers that are to come.
    fn refill(&mut self) -> Result<(), CacheError> {
        let view = self.cache.catalog.view();
        let lent = self.slots.refill(&view, 0)?;
        drop(view);
        if !lent.is_empty() {
            self.cache.catalog.commit(&lend_changes(&lent))?;
            self.cache.stock.add(&lent);
            self.refresh_space();
        }
        Ok(())
    }

    /// Takes up the slots that came back.
    fn take_returned(&mut self) {
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

    fn reclaim_some(&mut self) -> Result<usize, CacheError> {
        self.take_returned();
        // What the journal refers to is not known before all of it has been read.
        if self.cache.queue.lock().recovering {
            return Ok(0);
        }
        self.reclaim.load(&self.cache.catalog, &self.cache.stock)?;
        let blocks = self.cache.geometry.blocks();
        let freed = self
            .reclaim
            .step(&self.cache.catalog, &self.cache.pool, blocks)?;
        if freed > 0 {
            self.refresh_space();
        }
        Ok(freed)
    }

    fn refresh_space(&self) {
        self.take_stock(&mut self.cache.queue.lock());
        self.cache.room.notify_all();
    }

    /// Tells the queue what space and what journal the last commit left. Looked up under the
    /// queue's lock, so that what is older never replaces what is newer.
    fn take_stock(&self, queue: &mut queue::Queue) {
        let view = self.cache.catalog.view();
        queue.promises.set_space(view.space());
        if let Some(ring) = &mut queue.ring {
            ring.release(view.marks().journal_seq);
        }
    }

    /// Applies all ops that are due, as one commit.
    fn apply_ops(&mut self) -> Result<(), CacheError> {
        let ops = self.cache.queue.lock().take_ready_ops(MAX_OPS);
        let Some(last) = ops.last().map(|op| op.seq) else {
            return Ok(());
        };
        self.cache.sync_for_destage(last)?;
        let view = self.cache.catalog.view();
        let mut draft = Draft::new(&view);
        ops.iter().try_for_each(|op| draft.apply(op))?;
        {
            let mut queue = self.cache.queue.lock();
            if let Some(ring) = &mut queue.ring {
                ops.iter().for_each(|op| ring.done(op.seq));
            }
            draft.marks = self.cache.marks(&queue, draft.marks);
        }
        let (reap, removed) = (
            std::mem::take(&mut draft.reap),
            std::mem::take(&mut draft.removed),
        );
        let changes = draft.changes()?;
        drop(view);
        self.cache.catalog.commit(&changes)?;
        let mut queue = self.cache.queue.lock();
        queue.applying = None;
        for disk in removed {
            queue.disks.remove(&disk);
        }
        self.take_stock(&mut queue);
        self.cache.note_crowd(&queue);
        drop(queue);
        self.cache.room.notify_all();
        self.reap(reap);
        Ok(())
    }

    /// Destages one batch of data, the oldest first or by priority.
    fn destage_batch(&mut self, by_age: bool) -> Result<(), CacheError> {
        let (geometry, started) = (self.cache.geometry, Instant::now());
        let limit = self.pace.limit(self.largest_batch());
        let mut runs = collect(&self.cache.queue.lock(), geometry, limit, by_age);
        let Some(last) = runs.iter().map(Run::last).max() else {
            return Ok(());
        };
        self.cache.sync_for_destage(last)?;
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

    /// Bytes that a batch may take: those who wait for memory are slowed down so that a part of
    /// it stays free, and that lasts for several batches.
    fn largest_batch(&self) -> u64 {
        let reserve = Throttle::reserve(self.cache.frames.size()) as u64 * BLOCK_SIZE;
        self.cache.config.batch.min(reserve / 3).max(BLOCK_SIZE)
    }

    /// How many of the segments have no slot that their update can go to.
    fn slots_needed(&self, runs: &[(Run, BTreeMap<SegmentNo, Update>)]) -> Result<u64, CacheError> {
        let view = self.cache.catalog.view();
        let budget = Cell::new(0);
        let mut needed = 0;
        for (run, updates) in runs {
            let context = context(&self.cache, &view, run, &budget)?;
            for (segment, update) in updates {
                needed += u64::from(context.needs_slot(*segment, update)?);
            }
        }
        Ok(needed)
    }

    fn destage_runs(
        &mut self,
        runs: Vec<(Run, BTreeMap<SegmentNo, Update>)>,
    ) -> Result<(), CacheError> {
        let cache = self.cache.clone();
        let budget = Cell::new(self.pace.limit(self.largest_batch()));
        let view = cache.catalog.view();
        self.slots.check_pack(&view)?;
        let mut work = Work::new(&self.cache);
        let mut settled = Vec::new();
        let mut done = Vec::with_capacity(runs.len());
        for (run, updates) in runs {
            let Some(mut disk) = view.disk(run.disk)? else {
                return Err(CacheError::Missing {
                    seq: run.last(),
                    what: format!("disk {}", run.disk),
                });
            };
            let context = context(&cache, &view, &run, &budget)?;
            for (segment, update) in updates {
                let writes = update.writes;
                let outcome = match context.plan(segment, update, &mut self.slots, &mut work) {
                    Ok(outcome) => outcome,
                    Err(error) => {
                        work.give_back();
                        self.slots.close_pack();
                        return Err(error);
                    }
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
            disk.applied = run.last();
            disk.size = run
                .size_after()
                .map_or(disk.size, |size| size.max(disk.size));
            (disk.modified, disk.changed) = (run.time(), run.time().max(disk.changed));
            work.changes.push(Change::PutDisk(disk));
            done.push(run);
        }
        let marks = {
            let mut queue = self.cache.queue.lock();
            mark_done(&mut queue, &done);
            self.cache.marks(&queue, view.marks())
        };
        work.changes.push(Change::SetMarks(marks));
        drop(view);
        self.commit(work)?;
        self.let_go(done, settled);
        Ok(())
    }

    /// Data to devices, devices synced, catalog committed; then slots given up wait for reclaim.
    /// The same commit lends out slots for the batches to come.
    fn commit(&mut self, mut work: Work) -> Result<(), CacheError> {
        if work.is_empty() {
            return Ok(());
        }
        work.store(&self.cache.pool)?;
        self.cache.destaged.fetch_add(work.bytes(), Relaxed);
        let view = self.cache.catalog.view();
        let lent = self.slots.refill(&view, work.taken().len() as u64)?;
        drop(view);
        work.changes.append(&mut lend_changes(&lent));
        self.cache.catalog.commit(&work.changes)?;
        work.lent().iter().for_each(|lent| lent.adopt());
        self.ended += work.lent().len() as u64;
        self.cache.stock.adopted(&work.adopted());
        self.cache.stock.add(&lent);
        let view = self.cache.catalog.view();
        let given_up = work.punch_blocks(&self.cache.pool, &view, &mut self.holes)?;
        self.reclaim.add(view.generation(), &given_up);
        self.holes.keep_few(&self.cache.pool);
        Ok(())
    }

    /// The runs are in the segment map: out of the line, the index and the journal with them.
    fn let_go(&mut self, runs: Vec<Run>, settled: Vec<Settled>) {
        runs.iter().for_each(Run::leave_index);
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
        self.cache.room.notify_all();
    }

    /// A discard over very many segments: those that are mapped, a chunk at a time. Each chunk is
    /// a commit; the journal keeps the record until the last.
    fn discard_wide(&mut self, run: &Run) -> Result<(), CacheError> {
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
            let context = context(&cache, &view, run, &budget)?;
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

    /// Sees to it that there are slots for so many segments, waiting for reclaim if need be.
    /// Whether there are.
    fn prepare_slots(&mut self, count: u64, patience: Duration) -> Result<bool, CacheError> {
        let deadline = Instant::now() + patience;
        loop {
            let view = self.cache.catalog.view();
            let found = self.slots.prepare(&view, count)?;
            let given_up = view.space().pending > self.cache.stock.lent();
            drop(view);
            if found >= count || !given_up || Instant::now() > deadline {
                return Ok(found >= count);
            }
            self.cache.halt.check()?;
            if self.reclaim_some()? == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            self.slots.forget();
        }
    }
}

/// What holds for all segments of a run.
fn context<'a>(
    cache: &'a Cache,
    view: &'a View,
    run: &'a Run,
    merge_budget: &'a Cell<u64>,
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
    })
}
