//! Giving up the rest of a journal that is damaged, when told to.
//!
//! A new session is begun whose first record stands where the damaged one was: a skip, which leads
//! to a number that no record has had, so that nothing new is taken for what some disk has got
//! already. What came before is replayed by the next mount.

use std::io::IoSlice;

use crate::base::{Seq, Timestamp};
use crate::device::{Device, DeviceError};
use crate::ondisk::Marks;
use crate::ondisk::journal::{Body, JournalHeader, Past, RING_START, RecordHeader, Stamp};

const PAGE: u64 = 4096;

/// What is to be written.
#[derive(Clone, Debug)]
pub(super) struct Cut {
    header: JournalHeader,
    /// Where in the ring the first record that is given up would have been.
    at: u64,
    /// The number of the next record after it.
    next: Seq,
}

impl Cut {
    /// From one record on. `last` is the last one that is there.
    pub fn at(header: &JournalHeader, past: &Past, at: u64, gap: Seq, last: Seq) -> Self {
        // Not over the one header that is left.
        let session = past.session().saturating_add(1);
        let same_slot = u32::from(session % 2 == header.session % 2);
        let session = session.saturating_add(same_slot);
        let header = JournalHeader {
            session,
            first: gap,
            ..*header
        };
        Self {
            header,
            at,
            next: past.durable().max(last).max(gap).next(),
        }
    }

    /// All that the catalog needs of it.
    pub fn all(
        store: [u8; 16],
        last: Option<&JournalHeader>,
        room: u64,
        marks: &Marks,
        durable: Seq,
    ) -> Result<Self, String> {
        let mut key = [0; 8];
        getrandom::fill(&mut key).map_err(|error| error.to_string())?;
        let gap = Seq(marks.journal_seq.0.max(1));
        let known = last.map_or(0, |last| last.session).max(marks.session);
        let header = JournalHeader {
            store,
            session: known.saturating_add(1),
            first: gap,
            ring: room,
            // Another than before, so that no record of before counts.
            key: u64::from_le_bytes(key),
        };
        Ok(Self {
            header,
            at: marks.journal_offset % room.max(1),
            next: durable.max(gap).next(),
        })
    }

    /// Writes it, durably. Until all of it is there, a mount refuses as before.
    pub fn make(&self, journal: &dyn Device) -> Result<(), DeviceError> {
        let header = &self.header;
        let first = header.first;
        let stamp = Stamp {
            key: header.key,
            session: header.session,
            durable: Seq(first.0 - 1),
        };
        let record = RecordHeader::new(stamp, first, Timestamp(0));
        let mut record = record.encode(&Body::Skip(self.next));
        record.resize(PAGE as usize, 0);
        let at = match self.at.next_multiple_of(PAGE) {
            at if at + PAGE <= header.ring => at,
            _ => 0,
        };
        let mut slot = header.encode().to_vec();
        slot.resize(PAGE as usize, 0);
        journal.write_at(&[IoSlice::new(&record)], RING_START + at)?;
        journal.sync()?;
        journal.write_at(&[IoSlice::new(&slot)], header.slot())?;
        journal.sync()
    }
}
