//! The way of a record into the queue: promise space, take a number and a place in the journal,
//! enter it under one short lock; then write the journal and wait for one's turn.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use smallvec::SmallVec;

use super::part::enter_part;
use super::queue::{PendingOp, Queue};
use super::ring::Ring;
use super::room::Exempt;
use super::state::Cache;
use super::ticket::JournalWrite;
use super::{Append, CacheError, MapState, Part, Ticket};
use crate::base::{Block, Epoch, Seq, now};
use crate::ondisk::journal::Op;

/// Why an attempt to enter the queue ended.
enum Attempt {
    Entered(Ticket),
    /// The journal is full, or an op is first in line for its room; wait and try again.
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
                    if self.pause.is_paused() && !append.brings_data() {
                        self.signals.help();
                    }
                    drop(queue);
                    return self.persist(ticket);
                }
                Attempt::Room => {
                    drop(queue);
                    self.wait_for_room()?;
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
        let disk = queue.disks.get(&append.disk).filter(|disk| !disk.removed);
        let disk = disk.ok_or(CacheError::Gone)?;
        let (map, epoch) = (disk.map.clone(), disk.epoch);
        if let Some(relied) = &append.relies_on {
            let size = disk.size.load(Relaxed);
            let changed = |(block, stamp): &(Block, Seq)| map.stamp(*block) != *stamp;
            if map.id != relied.map
                || relied.size.is_some_and(|relied| relied != size)
                || relied.stamps.iter().any(changed)
            {
                return Err(CacheError::Stale);
            }
        }
        let exempt = match exempt.keys.is_empty() {
            false if exempt.generation == self.catalog.view().generation() => &exempt.keys[..],
            _ => &[],
        };
        if self.is_overfull(queue) || queue.waiting_ops > 0 {
            return Ok(Attempt::Room);
        }
        let keys = append.claim_keys(self.geometry, map.id, epoch);
        let mut segments = keys.clone();
        segments.dedup();
        let unpromised = segments.iter().copied();
        let needed = queue
            .promises
            .needed(unpromised.filter(|key| !exempt.contains(key)));
        let available = queue.promises.available();
        if needed > available {
            return Ok(Attempt::Space { needed, available });
        }
        let size = disk.size.load(Relaxed);
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
        let op_seq = Seq(first.0 + append.parts.len() as u64);
        debug_assert!(append.parts.len() <= 3);
        let last = op_seq.0 - u64::from(append.then.is_none());
        let mut heads = SmallVec::<[(Vec<u8>, usize); 3]>::new();
        for (part, seq) in append.parts.iter().zip(first.0..) {
            let mut header = self.record_header(Seq(seq), time);
            if let Some(header) = &mut header {
                (header.disk, header.size_after) = (append.disk, size_after);
                // A crash leaves all of them or none.
                header.more = (last - seq) as u8;
            }
            heads.push(Self::part_head(header, part));
        }
        if let Some(op) = &append.then {
            heads.push((self.op_head(op, op_seq, time), 0));
        }
        let reserve = queue.ring.as_ref().map_or(0, Ring::reserve);
        let leave = if append.brings_data() {
            reserve
        } else {
            reserve / 2
        };
        let Some(offsets) = self.place(queue, first, &heads, leave)? else {
            return Ok(None);
        };

        let mut writes = SmallVec::new();
        let mut heads = heads.into_iter().zip(offsets);
        let mut index = map.index.write();
        for part in &append.parts {
            if let Part::Write { content, .. } = part {
                queue.note_lent(content);
            }
            let seq = queue.next;
            queue.next = seq.next();
            let (record, frames) =
                enter_part(&mut index, part, (map, epoch, seq), size_after, time);
            let bytes = record.bytes();
            queue.bytes += bytes;
            queue.records += 1;
            if let Some(disk) = queue.disks.get_mut(&append.disk) {
                disk.bytes += record.data();
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
}
