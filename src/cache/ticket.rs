//! A place in the journal that was taken under the queue's lock, and the writing that follows.

use std::sync::Arc;

use smallvec::SmallVec;

use super::queue::Queue;
use super::state::Cache;
use super::{CacheError, Content, Frame, Part};
use crate::base::{Block, DiskId, Seq, Timestamp};
use crate::ondisk::journal::{Body, Op, Reference, encode_record_head};

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
    /// The encoded head of a part's record, and how many bytes of blocks follow it.
    pub(super) fn part_head(
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
            Part::Write { block, content } => {
                let body = body_of(content);
                let data = body.data_len();
                ((*block, content.len()), body, data)
            }
            Part::Zero { block, count } => ((*block, *count), Body::Zero, 0),
        };
        (
            encode_record_head(journal.stamp(), seq, disk, extent, time, size, &body),
            data,
        )
    }

    pub(super) fn op_head(&self, op: &Op, seq: Seq, time: Timestamp) -> Vec<u8> {
        let Some(journal) = &self.journal else {
            return Vec::new();
        };
        let body = Body::Op(op.clone());
        encode_record_head(
            journal.stamp(),
            seq,
            DiskId(0),
            (Block(0), 0),
            time,
            None,
            &body,
        )
    }

    /// Places in the ring for all records, or nothing while it has no room for all of them.
    pub(super) fn place(
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
}
