//! After a crash: reads the journal from the oldest record still needed to the first that does
//! not check, and puts what it finds back into the queue.
//!
//! Replaying twice gives the same: what the catalog has applied is skipped by its number.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use smallvec::SmallVec;

use super::part::{claim_keys, enter_part};
use super::queue::{PendingOp, Record};
use super::state::Cache;
use super::{CacheError, Content, Lent, Lines, MapState, Part};
use crate::base::{BLOCK, Checksum, DiskId, Epoch, Place, Seq, checksum};
use crate::device::{Device, Step};
use crate::ondisk::Marks;
use crate::ondisk::journal::{
    Body, JournalFormatError, JournalHeader, Op, RECORD_HEADER, RING_START, RecordHeader, Reference,
};

/// A journal being read.
pub struct Recovery {
    device: Option<Arc<dyn Device>>,
    store: [u8; 16],
    /// The last session's header; none in a new journal.
    last: Option<JournalHeader>,
    ring: u64,
    /// Where the next record would be.
    at: u64,
    next: Seq,
    /// The session of the last record read; sessions never go back.
    session_seen: u32,
    marks: Marks,
}

/// A record that was found.
struct Replayed {
    offset: u64,
    len: u64,
    header: RecordHeader,
    body: Body,
    data: Vec<u8>,
}

/// Makes a new journal: a header in the first slot, and a ring in which nothing checks.
///
/// # Errors
/// Where the device fails.
pub fn create_journal(device: &dyn Device, store: [u8; 16]) -> Result<(), CacheError> {
    let header = JournalHeader {
        store,
        session: 0,
        first: Seq(1),
        ring: ring_of(device),
    };
    write_header(device, &header)
}

fn ring_of(device: &dyn Device) -> u64 {
    (device.len().saturating_sub(RING_START)) & !4095
}

fn write_header(device: &dyn Device, header: &JournalHeader) -> Result<(), CacheError> {
    let mut slot = vec![0; 4096];
    slot[..JournalHeader::LEN].copy_from_slice(&header.encode());
    device
        .write_at(&[std::io::IoSlice::new(&slot)], header.slot())
        .map_err(CacheError::Journal)?;
    device.sync().map_err(CacheError::Journal)
}

fn read_header(device: &dyn Device) -> Result<JournalHeader, CacheError> {
    let read = |slot: u64| -> Result<_, CacheError> {
        let mut bytes = vec![0; JournalHeader::LEN];
        device
            .read_at(&mut bytes, slot * 4096)
            .map_err(CacheError::Journal)?;
        Ok(JournalHeader::decode(&bytes))
    };
    let journal = || device.name().to_owned();
    match (read(0)?, read(1)?) {
        (Ok(a), Ok(b)) => Ok(if a.session > b.session { a } else { b }),
        (Ok(header), _) | (_, Ok(header)) => Ok(header),
        (Err(reason @ JournalFormatError::Version(_)), _)
        | (_, Err(reason @ JournalFormatError::Version(_)))
        | (Err(reason), _) => Err(CacheError::BadJournal {
            journal: journal(),
            reason,
        }),
    }
}

impl Recovery {
    pub(super) fn nothing(marks: Marks) -> Self {
        let next = Seq(marks.journal_seq.0.max(1));
        Self {
            device: None,
            store: [0; 16],
            last: None,
            ring: 1,
            at: 0,
            next,
            session_seen: 0,
            marks,
        }
    }

    pub(super) fn begin(
        device: &Arc<dyn Device>,
        store: [u8; 16],
        marks: Marks,
    ) -> Result<Self, CacheError> {
        let last = read_header(device.as_ref())?;
        if last.store != store {
            return Err(CacheError::ForeignJournal {
                journal: device.name().to_owned(),
            });
        }
        let ring = last.ring.min(ring_of(device.as_ref()));
        let (at, next) = (
            marks.journal_offset % ring.max(1),
            Seq(marks.journal_seq.0.max(1)),
        );
        Ok(Self {
            device: Some(device.clone()),
            store,
            last: Some(last),
            ring,
            at,
            next,
            session_seen: 0,
            marks,
        })
    }

    pub(super) fn ring(&self) -> u64 {
        self.ring
    }

    /// The session that begins with this opening.
    pub(super) fn session(&self) -> u32 {
        self.last.as_ref().map_or(0, |last| last.session) + 1
    }

    /// Replays the next record. An op that the catalog has not applied is handed to `apply`,
    /// which changes names and lines and says which disks it stands over. Returns false at the
    /// end; then the journal is ready for this session's records.
    ///
    /// # Errors
    /// Where the journal can't be read or written, or `apply` fails.
    pub fn next<E: From<CacheError>>(
        &mut self,
        cache: &Cache,
        apply: impl FnOnce(Seq, &Op, &mut Lines<'_>) -> Result<SmallVec<[DiskId; 2]>, E>,
    ) -> Result<bool, E> {
        let Some(device) = self.device.clone() else {
            cache.queue.lock().recovering = false;
            return Ok(false);
        };
        let Some(found) = self.find(cache, device.as_ref())? else {
            self.finish(cache, device.as_ref())?;
            return Ok(false);
        };
        self.at = found.offset + found.len;
        self.next = found.header.seq.next();
        self.session_seen = found.header.session;
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
            Body::Op(_) => enter(&mut cache.queue.lock(), &found, false),
            Body::Write(_) | Body::Zero | Body::Reference(_) => replay_data(cache, &found)?,
        }
        if let Some(journal) = &cache.journal {
            journal.window.complete(seq, seq, &cache.halt)?;
        }
        Ok(true)
    }

    /// The record expected next, wherever it may lie.
    fn find(&self, cache: &Cache, device: &dyn Device) -> Result<Option<Replayed>, CacheError> {
        let page = self.at.next_multiple_of(4096);
        let mut best: Option<Replayed> = None;
        for offset in [self.at, page, 0] {
            if offset + RECORD_HEADER as u64 > self.ring {
                continue;
            }
            let Some(found) = self.read(cache, device, offset)? else {
                continue;
            };
            // A record that an earlier recovery decided against may lie where the true one would
            // have been but for a sync; the true one is of the later session.
            if best
                .as_ref()
                .is_none_or(|best| found.header.session > best.header.session)
            {
                best = Some(found);
            }
        }
        Ok(best)
    }

    fn read(
        &self,
        cache: &Cache,
        device: &dyn Device,
        offset: u64,
    ) -> Result<Option<Replayed>, CacheError> {
        let read = |buf: &mut [u8], at: u64| {
            device
                .read_at(buf, RING_START + at)
                .map_err(CacheError::Journal)
        };
        let mut head = vec![0; RECORD_HEADER];
        read(&mut head, offset)?;
        let Ok(header) = RecordHeader::decode(&head) else {
            return Ok(None);
        };
        if !self.expects(&header) || offset + header.head_len() as u64 > self.ring {
            return Ok(None);
        }
        head.resize(header.head_len(), 0);
        read(&mut head[RECORD_HEADER..], offset + RECORD_HEADER as u64)?;
        let body = match header.body(&head) {
            Ok(body) => body,
            Err(JournalFormatError::Checksum { .. }) => return Ok(None),
            // Whole, but not of a kind that this program knows: it must not be taken for the end.
            Err(reason) => {
                let journal = device.name().to_owned();
                return Err(CacheError::BadJournal { journal, reason });
            }
        };
        let len = (header.head_len() + body.data_len()) as u64;
        if offset + len > self.ring {
            return Ok(None);
        }
        let mut data = vec![0; body.data_len()];
        read(&mut data, offset + header.head_len() as u64)?;
        let differs = |(block, sum): (&[u8], &Checksum)| checksum(block) != *sum;
        let blocks = data.chunks_exact(BLOCK);
        let torn = match &body {
            Body::Write(sums) => blocks.zip(sums).any(differs),
            Body::Reference(reference) => {
                blocks.zip(framed_sums(reference)).any(differs)
                    || !data_is_there(cache, &header, reference)?
            }
            Body::Zero | Body::Op(_) => false,
        };
        if torn {
            return Ok(None);
        }
        Ok(Some(Replayed {
            offset,
            len,
            header,
            body,
            data,
        }))
    }

    /// Whether a header is that of the record that must come next: not one left over from an
    /// earlier round of the ring, nor one that an earlier recovery stopped before.
    fn expects(&self, header: &RecordHeader) -> bool {
        let Some(last) = &self.last else { return false };
        let session = header.session;
        let of_last = header.seq >= last.first;
        header.seq == self.next
            && session >= self.session_seen
            && (if of_last {
                session == last.session
            } else {
                session < last.session
            })
    }

    /// Begins the session, durably, before any record of it is written.
    fn finish(&self, cache: &Cache, device: &dyn Device) -> Result<(), CacheError> {
        let header = JournalHeader {
            store: self.store,
            session: self.session(),
            first: self.next,
            ring: self.ring,
        };
        Step::JournalRead.fails().map_err(CacheError::Journal)?;
        write_header(device, &header)?;
        Step::SessionBegun.passes();
        let mut queue = cache.queue.lock();
        queue.next = self.next;
        queue.unsettle();
        let tail = cache.catalog.view().marks().journal_seq;
        if let Some(ring) = &mut queue.ring {
            ring.release(tail);
            ring.seal();
        }
        queue.recovering = false;
        Ok(())
    }
}

/// Accounts for a found record in ring and numbering.
fn enter(queue: &mut super::queue::Queue, found: &Replayed, needed: bool) {
    let seq = found.header.seq;
    queue.next = seq.next();
    if let Some(ring) = &mut queue.ring {
        ring.found(seq, found.offset, found.len);
        if !needed {
            ring.done(seq);
        }
    }
}

/// The checksums of the blocks of a write by reference that follow its record.
fn framed_sums(reference: &Reference) -> impl Iterator<Item = &Checksum> {
    let (head, rest) = reference.sums.split_at(reference.head as usize);
    head.iter().chain(&rest[reference.lent() as usize..])
}

/// The slots of a write by reference, each with its checksums.
fn lent_sums(reference: &Reference) -> impl Iterator<Item = (Place, &[Checksum])> {
    let first = reference.head as usize;
    let lent = &reference.sums[first..first + reference.lent() as usize];
    let each = lent.chunks_exact(reference.segment as usize);
    reference.places.iter().copied().zip(each)
}

/// Whether the slots of a write by reference hold what its record says: power loss may have left
/// the record without the data, and then the journal ends before it. Of a record that the catalog
/// has applied they may hold something else by now, and it does not matter.
fn data_is_there(
    cache: &Cache,
    header: &RecordHeader,
    reference: &Reference,
) -> Result<bool, CacheError> {
    if !is_wanted(cache, header)? {
        return Ok(true);
    }
    let mut data = vec![0; reference.segment as usize * BLOCK];
    for (place, sums) in lent_sums(reference) {
        cache.pool.read(place, 0, &mut data)?;
        let mut blocks = data.chunks_exact(BLOCK).zip(sums);
        if blocks.any(|(block, sum)| checksum(block) != *sum) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether the disk of a write or discard is there, and has not got it yet.
fn is_wanted(cache: &Cache, header: &RecordHeader) -> Result<bool, CacheError> {
    let applied = match cache.catalog.view().disk(header.disk)? {
        Some(record) => record.applied,
        None => Seq(0),
    };
    let known = cache.queue.lock().disks.contains_key(&header.disk);
    Ok(known && header.seq > applied)
}

/// Puts a found write or discard back into its disk's line, unless the disk is gone or has it.
fn replay_data(cache: &Cache, found: &Replayed) -> Result<(), CacheError> {
    let header = &found.header;
    if !is_wanted(cache, header)? {
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
        Body::Zero | Body::Op(_) => Part::Zero {
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
