//! After a crash: puts what the journal has, from the oldest record still needed to its end, back
//! into the queue.
//!
//! Replaying twice gives the same: what the catalog has applied is skipped by its number.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use smallvec::SmallVec;

use super::part::{claim_keys, enter_part};
use super::queue::{PendingOp, Record};
use super::scan::{Applied, Missing, Replayed, Scan, write_header};
use super::state::Cache;
use super::{CacheError, Content, Lent, Lines, MapState, Part};
use crate::base::{BLOCK, Checksum, DiskId, Epoch, Place, Seq, checksum};
use crate::device::{AlignedBuf, Step};
use crate::ondisk::Marks;
use crate::ondisk::journal::{Body, Op, RecordHeader, Reference};
use crate::store::PoolError;

/// A journal being replayed.
pub struct Recovery {
    /// None in volatile mode.
    scan: Option<Scan>,
    marks: Marks,
}

impl Recovery {
    pub(super) fn nothing(marks: Marks) -> Self {
        Self { scan: None, marks }
    }

    pub(super) fn of(scan: Scan, marks: Marks) -> Self {
        let scan = Some(scan);
        Self { scan, marks }
    }

    /// Replays the next record. An op that the catalog has not applied is handed to `apply`,
    /// which changes names and lines and says which disks it stands over. Returns false at the
    /// end; then the journal is ready for this session's records.
    ///
    /// # Errors
    /// Where the journal can't be read or written, a record of it that was durable is damaged, or
    /// `apply` fails.
    pub fn next<E: From<CacheError>>(
        &mut self,
        cache: &Cache,
        apply: impl FnOnce(Seq, &Op, &mut Lines<'_>) -> Result<SmallVec<[DiskId; 2]>, E>,
    ) -> Result<bool, E> {
        let Some(scan) = &mut self.scan else {
            cache.frames.fill()?;
            cache.queue.lock().recovering = false;
            return Ok(false);
        };
        let Some(found) = scan.find(cache)? else {
            cache.frames.fill()?;
            finish(cache, scan, &self.marks)?;
            return Ok(false);
        };
        scan.pass(&found);
        let seq = found.header.seq;
        match &found.body {
            Body::Op(op) if seq > self.marks.applied => {
                let mut queue = cache.queue.lock();
                let disks = apply(seq, op, &mut Lines::over(&mut queue, found.header.time))?;
                queue.push_op(PendingOp {
                    seq,
                    op: op.clone(),
                    time: found.header.time,
                    disks,
                });
                enter(&mut queue, &found, true);
            }
            Body::Op(_) | Body::Skip(_) => enter(&mut cache.queue.lock(), &found, false),
            Body::Write(_) | Body::Zero | Body::Reference(_) => replay_data(cache, &found)?,
        }
        if let Some(journal) = &cache.journal {
            let last = Seq(scan.next().0 - 1);
            journal.window.complete(seq, last, &cache.halt)?;
        }
        Ok(true)
    }
}

/// Begins the session, durably, before any record of it is written. What was found is made
/// durable before: the header says that it was.
fn finish(cache: &Cache, scan: &Scan, marks: &Marks) -> Result<(), CacheError> {
    let header = scan.new_header();
    let found = Seq(header.first.0 - 1);
    cache.queue.lock().next = header.first;
    if header.first > marks.journal_seq {
        cache.sync(found)?;
    }
    Step::JournalRead.fails().map_err(CacheError::Journal)?;
    write_header(scan.device(), &header)?;
    Step::SessionBegun.passes();
    if let Some(journal) = &cache.journal {
        journal.begin(header.session, found, (scan.ring(), scan.place()));
    }
    let mut queue = cache.queue.lock();
    queue.unsettle();
    let tail = cache.catalog.view().marks().journal_seq;
    if let Some(ring) = &mut queue.ring {
        ring.release(tail);
        ring.seal();
    }
    queue.recovering = false;
    Ok(())
}

/// Accounts for a found record in ring and numbering.
fn enter(queue: &mut super::queue::Queue, found: &Replayed, needed: bool) {
    let seq = found.header.seq;
    queue.next = match found.body {
        Body::Skip(next) => next,
        _ => seq.next(),
    };
    if let Some(ring) = &mut queue.ring {
        ring.found(seq, found.offset, found.len);
        if !needed {
            ring.done(seq);
        }
    }
}

/// The slots of a write by reference, each with its checksums.
fn lent_sums(reference: &Reference) -> impl Iterator<Item = (Place, &[Checksum])> {
    let first = reference.head as usize;
    let lent = &reference.sums[first..first + reference.lent() as usize];
    let each = lent.chunks_exact(reference.segment as usize);
    reference.places.iter().copied().zip(each)
}

impl Applied for Cache {
    fn is_wanted(&self, header: &RecordHeader) -> Result<bool, CacheError> {
        let applied = match self.catalog.view().disk(header.disk)? {
            Some(record) => record.applied,
            None => Seq(0),
        };
        let known = self.queue.lock().disks.contains_key(&header.disk);
        Ok(known && header.seq > applied)
    }

    fn missing(&self, reference: &Reference) -> Result<Option<Missing>, CacheError> {
        let mut data = AlignedBuf::new(reference.segment as usize * BLOCK);
        for (place, sums) in lent_sums(reference) {
            let missing = |error| Missing { place, error };
            // From the disk: the host's memory may have what the disk has lost.
            let first = self.geometry.slot_block(place.slot);
            match self.pool.read_uncached(place.device, first, &mut data) {
                Ok(()) => {}
                Err(error @ PoolError::Device(_)) => return Ok(Some(missing(Some(error)))),
                Err(error) => return Err(error.into()),
            }
            let mut blocks = data.chunks_exact(BLOCK).zip(sums);
            if blocks.any(|(block, sum)| checksum(block) != *sum) {
                return Ok(Some(missing(None)));
            }
        }
        Ok(None)
    }
}

/// Puts a found write or discard back into its disk's line, unless the disk is gone or has it.
fn replay_data(cache: &Cache, found: &Replayed) -> Result<(), CacheError> {
    let header = &found.header;
    if !cache.is_wanted(header)? {
        enter(&mut cache.queue.lock(), found, false);
        return Ok(());
    }
    // Taken before the lock: it may have to wait for the destager to make room.
    let frames = cache.hold_for_replay(&found.data)?;
    let part = match &found.body {
        Body::Reference(reference) => {
            let lent: Vec<Arc<Lent>> = lent_sums(reference)
                .map(|(place, sums)| {
                    cache.stock.lend(&[place]);
                    Arc::new(Lent::new(place, sums.to_vec(), cache.stock.clone()))
                })
                .collect();
            Part::Write {
                block: header.block,
                content: Content::around(frames, reference.head as usize, lent),
            }
        }
        Body::Write(_) => Part::Write {
            block: header.block,
            content: Content::of(frames),
        },
        Body::Zero | Body::Op(_) | Body::Skip(_) => Part::Zero {
            block: header.block,
            count: header.count,
        },
    };
    let mut queue = cache.queue.lock();
    enter(&mut queue, found, true);
    if let Part::Write { content, .. } = &part {
        // After the daemon's death the data may be in the host's memory only.
        queue.note_lent(content);
        queue.promises.borrow(content.lent().len() as u64);
    }
    let Some(disk) = queue.disks.get_mut(&header.disk) else {
        return Ok(());
    };
    let (map, epoch) = (disk.map.clone(), disk.epoch);
    let record = restore(&map, epoch, &part, header);
    let bytes = record.bytes();
    disk.bytes += record.data();
    if let Some(size) = header.size_after {
        disk.size.store(size, Relaxed);
    }
    disk.records.push_back(record);
    queue.bytes += bytes;
    queue.records += 1;
    for key in claim_keys(cache.geometry, &part, map.id, epoch) {
        queue.promises.claim(key, true);
    }
    Ok(())
}

fn restore(map: &Arc<MapState>, epoch: Epoch, part: &Part, header: &RecordHeader) -> Record {
    let mut index = map.index.write();
    let at = (map, epoch, header.seq);
    enter_part(&mut index, part, at, header.size_after, header.time).0
}
