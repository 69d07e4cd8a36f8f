//! A place in the journal that was taken under the queue's lock, and the writing that follows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::journal::Journal;
use super::queue::Queue;
use super::state::Cache;
use super::{CacheError, Content, Frame, Part};
use crate::base::sync::thread;
use crate::base::{Seq, Timestamp};
use crate::ondisk::journal::{Body, Op, RecordHeader, Reference};

/// Pause between two attempts while the host has no space for the journal.
const RETRY: Duration = Duration::from_millis(20);

/// A record that has its place in the queue and must still be written to the journal there.
#[must_use]
pub struct Ticket {
    pub(super) first: Seq,
    pub(super) last: Seq,
    pub(super) writes: SmallVec<[JournalWrite; 1]>,
}

/// A record at its place in the ring.
pub(super) struct JournalWrite {
    pub offset: u64,
    pub head: Vec<u8>,
    pub frames: Vec<Arc<Frame>>,
}

impl Ticket {
    /// The number of the (last) record.
    #[must_use]
    pub fn seq(&self) -> Seq {
        self.last
    }
}

/// The body of a write's record.
fn body_of(content: &Content) -> Body {
    let mut sums = Vec::with_capacity(content.len() as usize);
    let (head, tail) = content.frames().split_at(content.head());
    sums.extend(head.iter().map(|frame| frame.checksum()));
    content
        .lent()
        .iter()
        .for_each(|lent| sums.extend(lent.sums()));
    sums.extend(tail.iter().map(|frame| frame.checksum()));
    let Some(first) = content.lent().first() else {
        return Body::Write(sums);
    };
    Body::Reference(Reference {
        head: content.head() as u32,
        segment: first.sums().len() as u32,
        places: content.lent().iter().map(|lent| lent.place()).collect(),
        sums,
    })
}

impl Cache {
    /// The encoded head of a part's record, and how many bytes of blocks follow it. `header` says
    /// nothing of the part yet; none in volatile mode.
    pub(super) fn part_head(header: Option<RecordHeader>, part: &Part) -> (Vec<u8>, usize) {
        let Some(mut header) = header else {
            return (Vec::new(), 0);
        };
        let (block, count, body) = match part {
            Part::Write { block, content } => (*block, content.len(), body_of(content)),
            Part::Zero { block, count } => (*block, *count, Body::Zero),
        };
        (header.block, header.count) = (block, count);
        (header.encode(&body), body.data_len())
    }

    pub(super) fn op_head(&self, op: &Op, seq: Seq, time: Timestamp) -> Vec<u8> {
        let header = self.record_header(seq, time);
        header.map_or_else(Vec::new, |header| header.encode(&Body::Op(op.clone())))
    }

    /// The header of a record to be; none in volatile mode.
    pub(super) fn record_header(&self, seq: Seq, time: Timestamp) -> Option<RecordHeader> {
        let journal = self.journal.as_ref()?;
        Some(RecordHeader::new(journal.stamp(), seq, time))
    }

    /// Places in the ring for all records, or nothing while it has no room for all of them beside
    /// what they have to leave.
    pub(super) fn place(
        &self,
        queue: &mut Queue,
        first: Seq,
        heads: &[(Vec<u8>, usize)],
        leave: u64,
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
        if !ring.has_room(&lens, leave) {
            return Ok(None);
        }
        Ok(lens
            .iter()
            .zip(first.0..)
            .map(|(len, seq)| ring.take(Seq(seq), *len))
            .collect())
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
        for write in &ticket.writes {
            if let Err(error) = self.write_record(journal, write) {
                self.halt.set(&error);
                return Err(error);
            }
        }
        journal
            .window
            .complete(ticket.first, ticket.last, &self.halt)?;
        Ok(ticket.last)
    }

    /// Writes a record to its place. It is in the queue and can't be taken back, and nothing that
    /// came after it may be acknowledged without it: where the host has no space, which can only
    /// be if its file system never overwrites, it is tried again for a while.
    fn write_record(&self, journal: &Journal, write: &JournalWrite) -> Result<(), CacheError> {
        let started = Instant::now();
        let mut waited = false;
        loop {
            match journal.write(write.offset, &write.head, &write.frames) {
                Err(error)
                    if error.is_no_room() && started.elapsed() < self.journal_pause.patience() =>
                {
                    self.halt.check()?;
                    self.journal_pause.set(&error);
                    waited = true;
                    thread::sleep(RETRY);
                }
                done => {
                    if waited {
                        self.journal_pause.clear();
                    }
                    return done;
                }
            }
        }
    }
}
