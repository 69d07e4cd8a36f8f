//! The way of a record into the queue: promise space, take a number and a place in the journal,
//! enter it under one short lock; then write the journal and wait for one's turn.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use smallvec::SmallVec;

use super::open::Cache;
use super::queue::{DiskQueue, PendingOp, Queue, Record, WriteRecord, ZeroRecord};
use super::space::ClaimKey;
use super::{CacheError, Frame, MapState};
use crate::base::{Block, DiskId, Epoch, Geometry, MapId, SegmentNo, Seq, Timestamp, now};
use crate::ondisk::journal::{Body, Op, encode_record_head};

/// One record's worth of change to a disk.
pub enum Part {
    /// Data from a block on.
    Write {
        /// The first block.
        block: Block,
        /// The data.
        frames: Vec<Arc<Frame>>,
    },
    /// So many blocks read as zeros.
    Zero {
        /// The first block.
        block: Block,
        /// How many.
        count: u64,
    },
}

/// What was looked at to make an append.
pub struct ReliesOn {
    /// The map that the disk had.
    pub map: MapId,
    /// Blocks, with the stamps that they had before they were read.
    pub stamps: SmallVec<[(Block, Seq); 2]>,
    /// The size that the disk had, where that matters.
    pub size: Option<u64>,
}

/// Changes to a disk that enter the queue next to each other.
pub struct Append {
    /// The disk.
    pub disk: DiskId,
    /// At least one.
    pub parts: SmallVec<[Part; 3]>,
    /// Where the last byte written ends, if the disk may have to grow.
    pub end: Option<u64>,
    /// What the content rests on. If it has changed, nothing is appended.
    pub relies_on: Option<ReliesOn>,
    /// An op to enter right behind.
    pub then: Option<Op>,
}

/// A record that has its place in the queue and must still be written to the journal there.
#[must_use]
pub struct Ticket {
    pub(super) first: Seq,
    pub(super) last: Seq,
    writes: SmallVec<[JournalWrite; 1]>,
}

/// A record at its place in the ring.
struct JournalWrite {
    offset: u64,
    head: Vec<u8>,
    frames: Vec<Arc<Frame>>,
}

impl Ticket {
    /// The number of the (last) record.
    #[must_use]
    pub fn seq(&self) -> Seq {
        self.last
    }
}

/// Segments that have a slot already and need no promise.
#[derive(Default)]
struct Exempt {
    keys: SmallVec<[ClaimKey; 4]>,
    /// The commit that this was seen in. A later one may have taken a slot away.
    commit: u64,
}

/// Why an attempt to enter the queue ended.
enum Attempt {
    Entered(Ticket),
    /// The journal is full; wait and try again.
    Room,
    /// The pool has too few slots; look closer.
    Space {
        needed: u64,
        available: u64,
    },
}

impl Cache {
    /// Appends changes to a disk. When it returns they are acknowledged: they survive the
    /// daemon's death, and power loss after the next sync.
    ///
    /// # Errors
    /// Where the pool is full, what it relies on has changed, the disk is gone, or the store has
    /// halted. Then nothing was appended.
    pub fn append(&self, append: &Append) -> Result<Seq, CacheError> {
        let mut exempt = Exempt::default();
        loop {
            let mut queue = self.queue.lock();
            match self.try_append(&mut queue, append, &exempt)? {
                Attempt::Entered(ticket) => {
                    self.nudge_if_filling(&queue);
                    drop(queue);
                    return self.persist(ticket);
                }
                Attempt::Room => {
                    drop(queue);
                    self.wait_for_room();
                }
                Attempt::Space { needed, available } => {
                    drop(queue);
                    self.find_space(append, &mut exempt, needed, available)?;
                }
            }
        }
    }

    fn try_append(
        &self,
        queue: &mut Queue,
        append: &Append,
        exempt: &Exempt,
    ) -> Result<Attempt, CacheError> {
        self.halt.check()?;
        if queue.closed {
            return Err(CacheError::Closed);
        }
        let disk = queue.disks.get(&append.disk).ok_or(CacheError::Gone)?;
        let (map, epoch) = (disk.map.clone(), disk.epoch);
        let size = disk.size.load(Relaxed);
        if let Some(relies_on) = &append.relies_on {
            let changed = |(block, stamp): &(Block, Seq)| map.stamp(*block) != *stamp;
            let resized = relies_on.size.is_some_and(|known| known != size);
            if map.id != relies_on.map || resized || relies_on.stamps.iter().any(changed) {
                return Err(CacheError::Stale);
            }
        }
        let keys = append.claim_keys(self.geometry, map.id, epoch);
        // Looked at under the lock: from here on the claims tell the destager of these writes.
        let exempt = match exempt.keys.is_empty() {
            false if self.catalog.view().generation() == exempt.commit => &exempt.keys[..],
            _ => &[],
        };
        let needed = queue
            .promises
            .needed(keys.iter().copied().filter(|key| !exempt.contains(key)));
        let available = queue.promises.available();
        if needed > available {
            return Ok(Attempt::Space { needed, available });
        }
        let size_after = append.end.filter(|end| *end > size);
        let Some(ticket) = self.enter(queue, append, &map, epoch, size_after)? else {
            return Ok(Attempt::Room);
        };
        for key in keys {
            queue.promises.claim(key, !exempt.contains(&key));
        }
        Ok(Attempt::Entered(ticket))
    }

    /// Gives each part its number and places, and puts it into line and index. Nothing where the
    /// journal has no room for all of them.
    fn enter(
        &self,
        queue: &mut Queue,
        append: &Append,
        map: &Arc<MapState>,
        epoch: Epoch,
        size_after: Option<u64>,
    ) -> Result<Option<Ticket>, CacheError> {
        let time = now();
        let first = queue.next;
        let mut heads = SmallVec::<[(Vec<u8>, usize); 3]>::new();
        for (part, seq) in append.parts.iter().zip(first.0..) {
            heads.push(self.part_head(append.disk, part, Seq(seq), time, size_after));
        }
        let op_seq = Seq(first.0 + append.parts.len() as u64);
        if let Some(op) = &append.then {
            heads.push((self.op_head(op, op_seq, time), 0));
        }
        let Some(offsets) = self.place(queue, first, &heads)? else {
            return Ok(None);
        };

        let mut writes = SmallVec::new();
        let mut heads = heads.into_iter().zip(offsets);
        let mut index = map.index.write();
        for part in &append.parts {
            let seq = queue.next;
            queue.next = seq.next();
            let (record, frames) =
                enter_part(&mut index, part, (map, epoch, seq), size_after, time);
            let bytes = record.bytes();
            queue.bytes += bytes;
            queue.records += 1;
            if let Some(disk) = queue.disks.get_mut(&append.disk) {
                disk.bytes += bytes;
                if let Some(size) = size_after {
                    disk.size.store(size, Relaxed);
                }
                disk.records.push_back(record);
            }
            writes.extend(heads.next().map(|((head, _), offset)| JournalWrite {
                offset,
                head,
                frames,
            }));
        }
        drop(index);
        if let Some(op) = &append.then {
            queue.next = op_seq.next();
            if let (Op::Resize { size, .. }, Some(disk)) = (op, queue.disks.get_mut(&append.disk)) {
                disk.size.store(*size, Relaxed);
            }
            queue.push_op(PendingOp {
                seq: op_seq,
                op: op.clone(),
                time,
                disks: SmallVec::from_slice(&[append.disk]),
            });
            writes.extend(heads.next().map(|((head, _), offset)| JournalWrite {
                offset,
                head,
                frames: Vec::new(),
            }));
        }
        Ok(Some(Ticket {
            first,
            last: Seq(queue.next.0 - 1),
            writes,
        }))
    }

    /// The encoded head of a part's record, and how many bytes of blocks follow it.
    fn part_head(
        &self,
        disk: DiskId,
        part: &Part,
        seq: Seq,
        time: Timestamp,
        size: Option<u64>,
    ) -> (Vec<u8>, usize) {
        let Some(journal) = &self.journal else {
            return (Vec::new(), 0);
        };
        let (extent, body, data) = match part {
            Part::Write { block, frames } => {
                let sums = frames.iter().map(|frame| frame.checksum()).collect();
                (
                    (*block, frames.len() as u64),
                    Body::Write(sums),
                    frames.len() * crate::base::BLOCK,
                )
            }
            Part::Zero { block, count } => ((*block, *count), Body::Zero, 0),
        };
        (
            encode_record_head(journal.session(), seq, disk, extent, time, size, &body),
            data,
        )
    }

    fn op_head(&self, op: &Op, seq: Seq, time: Timestamp) -> Vec<u8> {
        let Some(journal) = &self.journal else {
            return Vec::new();
        };
        let body = Body::Op(op.clone());
        encode_record_head(
            journal.session(),
            seq,
            DiskId(0),
            (Block(0), 0),
            time,
            None,
            &body,
        )
    }

    /// Places in the ring for all records, or nothing while it has no room for all of them.
    fn place(
        &self,
        queue: &mut Queue,
        first: Seq,
        heads: &[(Vec<u8>, usize)],
    ) -> Result<Option<SmallVec<[u64; 3]>>, CacheError> {
        let Some(ring) = &mut queue.ring else {
            return Ok(Some(heads.iter().map(|_| 0).collect()));
        };
        let lens: SmallVec<[u64; 3]> = heads
            .iter()
            .map(|(head, data)| (head.len() + data) as u64)
            .collect();
        if let Some(len) = lens.iter().find(|len| **len > ring.size() / 2) {
            return Err(CacheError::RecordTooBig {
                len: *len,
                ring: ring.size(),
            });
        }
        if !ring.has_room(&lens) {
            return Ok(None);
        }
        Ok(lens
            .iter()
            .zip(first.0..)
            .map(|(len, seq)| ring.take(Seq(seq), *len))
            .collect())
    }

    /// Enters an op. `build` makes it under the queue's lock and changes the lines to what holds
    /// after it. Returns nothing while the journal has no room: let go of all locks, call
    /// [`wait_for_room`](Self::wait_for_room), and begin again.
    ///
    /// # Errors
    /// What `build` says, or that the store has halted or is closing.
    pub fn enter_op<E: From<CacheError>>(
        &self,
        build: impl FnOnce(&mut Lines<'_>) -> Result<(Op, SmallVec<[DiskId; 2]>), E>,
    ) -> Result<Option<Ticket>, E> {
        let mut queue = self.queue.lock();
        self.halt.check()?;
        if queue.closed {
            return Err(CacheError::Closed.into());
        }
        // The biggest op that there can be, so that nothing has to be undone after `build`.
        const BIGGEST: u64 = (1 << 20) + 128;
        if let Some(ring) = &queue.ring
            && !ring.has_room(&[BIGGEST.min(ring.size() / 4)])
        {
            return Ok(None);
        }
        let (op, disks) = build(&mut Lines { queue: &mut queue })?;
        let (seq, time) = (queue.next, now());
        let head = self.op_head(&op, seq, time);
        let Some(offsets) = self.place(&mut queue, seq, &[(head.clone(), 0)])? else {
            return Ok(None);
        };
        queue.next = seq.next();
        queue.push_op(PendingOp {
            seq,
            op,
            time,
            disks,
        });
        Ok(Some(Ticket {
            first: seq,
            last: seq,
            writes: offsets
                .iter()
                .map(|at| JournalWrite {
                    offset: *at,
                    head: head.clone(),
                    frames: Vec::new(),
                })
                .collect(),
        }))
    }

    /// Writes a ticket's records to the journal, and returns when they and all before them are
    /// there: the acknowledgement.
    ///
    /// # Errors
    /// Where the journal can't be written; the store has halted then.
    pub fn persist(&self, ticket: Ticket) -> Result<Seq, CacheError> {
        let Some(journal) = &self.journal else {
            return Ok(ticket.last);
        };
        for JournalWrite {
            offset,
            head,
            frames,
        } in &ticket.writes
        {
            if let Err(error) = journal.write(*offset, head, frames) {
                self.halt.set(&error);
                return Err(error);
            }
        }
        journal
            .window
            .complete(ticket.first, ticket.last, &self.halt)?;
        Ok(ticket.last)
    }

    /// Waits a moment for destaging to free journal space.
    pub fn wait_for_room(&self) {
        self.signals.hurry();
        let mut queue = self.queue.lock();
        self.room.wait_for(&mut queue, Duration::from_millis(50));
    }

    /// The pool is short of slots: exempts segments that need none, or lets destaging settle
    /// promises that were made to be safe; fails when neither helps.
    fn find_space(
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
            (disk.map.clone(), disk.epoch, queue.promises.promised() == 0)
        };
        let view = self.catalog.view();
        let newest = view
            .snapshots_of(map.id)?
            .last()
            .map(|snapshot| snapshot.epoch);
        if exempt.commit != view.generation() {
            exempt.keys.clear();
            exempt.commit = view.generation();
        }
        let before = exempt.keys.len();
        for key in append.claim_keys(self.geometry, map.id, epoch) {
            let has_slot = match view.live(map.id, key.segment)? {
                Some((_, live)) => {
                    live.place.is_some() && newest.is_none_or(|newest| live.birth > newest)
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
        let enough = self.queue.lock().promises.available() >= needed;
        if enough { Ok(()) } else { Err(full) }
    }
}

impl Append {
    /// These parts, and nothing else.
    #[must_use]
    pub fn of(disk: DiskId, parts: SmallVec<[Part; 3]>) -> Self {
        Self {
            disk,
            parts,
            end: None,
            relies_on: None,
            then: None,
        }
    }

    /// The segments that its writes touch.
    fn claim_keys(&self, geometry: Geometry, map: MapId, epoch: Epoch) -> SmallVec<[ClaimKey; 4]> {
        self.parts
            .iter()
            .flat_map(|part| claim_keys(geometry, part, map, epoch))
            .collect()
    }
}

/// The segments that a part writes to.
pub(super) fn claim_keys(
    geometry: Geometry,
    part: &Part,
    map: MapId,
    epoch: Epoch,
) -> impl Iterator<Item = ClaimKey> + use<> {
    let segments = match part {
        Part::Write { block, frames } => {
            let last = Block(block.0 + frames.len() as u64 - 1);
            geometry.locate(*block).0.0..geometry.locate(last).0.0 + 1
        }
        Part::Zero { .. } => 0..0,
    };
    segments.map(move |segment| ClaimKey {
        map,
        epoch,
        segment: SegmentNo(segment),
    })
}

/// Puts a part into the index, and makes its record.
pub(super) fn enter_part(
    index: &mut super::index::Index,
    part: &Part,
    (map, epoch, seq): (&Arc<MapState>, Epoch, Seq),
    size_after: Option<u64>,
    time: Timestamp,
) -> (Record, Vec<Arc<Frame>>) {
    match part {
        Part::Write { block, frames } => {
            for (at, frame) in (block.0..).zip(frames) {
                index.insert(Block(at), frame.clone(), epoch, seq);
            }
            map.touch(block.0, frames.len() as u64, seq);
            let (map, frames, block) = (map.clone(), frames.clone(), *block);
            let write = WriteRecord {
                seq,
                map,
                epoch,
                block,
                frames: frames.clone(),
                size_after,
                time,
            };
            (Record::Write(Arc::new(write)), frames)
        }
        Part::Zero { block, count } => {
            index.zero(block.0..block.0 + count, epoch, seq);
            map.touch(block.0, *count, seq);
            let zero = ZeroRecord {
                seq,
                map: map.clone(),
                epoch,
                block: *block,
                count: *count,
                time,
            };
            (Record::Zero(Arc::new(zero)), Vec::new())
        }
    }
}

/// The disks' lines, for the one who builds an op.
pub struct Lines<'a> {
    queue: &'a mut Queue,
}

impl<'a> Lines<'a> {
    pub(super) fn over(queue: &'a mut Queue) -> Self {
        Self { queue }
    }

    /// Adds a disk's line.
    pub fn add(
        &mut self,
        disk: DiskId,
        map: Arc<MapState>,
        epoch: Epoch,
        size: Arc<AtomicU64>,
        priority: u8,
    ) {
        let records = std::collections::VecDeque::new();
        self.queue.disks.insert(
            disk,
            DiskQueue {
                map,
                epoch,
                size,
                priority,
                records,
                bytes: 0,
            },
        );
    }

    /// A disk's map, the epoch that its next write belongs to, and its size in bytes.
    #[must_use]
    pub fn line(&self, disk: DiskId) -> Option<(Arc<MapState>, Epoch, u64)> {
        let line = self.queue.disks.get(&disk)?;
        Some((line.map.clone(), line.epoch, line.size.load(Relaxed)))
    }

    /// Ends the disk's epoch: what is appended from now on is behind the marker.
    pub fn end_epoch(&mut self, disk: DiskId) {
        if let Some(line) = self.queue.disks.get_mut(&disk) {
            line.epoch = line.epoch.next();
        }
    }

    /// Gives the disk another map, in its first epoch.
    pub fn switch(&mut self, disk: DiskId, map: Arc<MapState>, size: u64) {
        if let Some(line) = self.queue.disks.get_mut(&disk) {
            line.map = map;
            line.epoch = Epoch::FIRST;
            line.size.store(size, Relaxed);
        }
    }

    /// Sets the disk's size.
    pub fn resize(&mut self, disk: DiskId, size: u64) {
        if let Some(line) = self.queue.disks.get_mut(&disk) {
            line.size.store(size, Relaxed);
        }
    }

    /// Sets the disk's destage priority.
    pub fn set_priority(&mut self, disk: DiskId, priority: u8) {
        if let Some(line) = self.queue.disks.get_mut(&disk) {
            line.priority = priority;
        }
    }
}
