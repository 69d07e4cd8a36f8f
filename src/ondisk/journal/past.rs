//! What is known of a journal's past: which records count, and which must have been there.
//!
//! A record that is not whole, or not there, may be one that power loss tore, and then the journal
//! ends before it. Or it was durable once, and the medium has lost it: then taking it for the end
//! would lose what was acknowledged, with all that comes after, and nobody would notice. What tells
//! them apart is that somebody knew it to be durable:
//!
//! - a header: before a session writes its header, all that recovery has found is synced;
//! - the catalog: every commit says how far the journal was durable;
//! - a later record of the same session, which says the same.
//!
//! What was synced and never spoken of again, as the last fsync before a power loss, is known to
//! nobody, and taken for torn. So is what was never synced. That the host was up all the time would
//! prove more, but a snapshot that the host's storage took of a store looks the same.
//!
//! A header can be lost, too: then the one before it is left. The catalog and the records of a later
//! session show that.

use super::{JournalHeader, RecordHeader};
use crate::base::Seq;
use crate::ondisk::Marks;

/// What header, catalog and records say of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past {
    key: u64,
    /// The last session that anything tells of.
    session: u32,
    /// The first record that it could write; none where its header is lost.
    first: Option<Seq>,
    /// Every record up to this one was durable.
    durable: Seq,
}

impl Past {
    /// What the newest header that is left and the catalog say. `applied` is the newest record
    /// that any disk has got.
    #[must_use]
    pub fn new(header: &JournalHeader, marks: &Marks, applied: Seq) -> Self {
        let found = Seq(header.first.0.saturating_sub(1));
        let durable = found.max(marks.durable).max(marks.applied).max(applied);
        Self {
            key: header.key,
            session: header.session.max(marks.session),
            first: Some(header.first).filter(|_| header.session >= marks.session),
            durable,
        }
    }

    /// The last session.
    #[must_use]
    pub fn session(&self) -> u32 {
        self.session
    }

    /// Every record up to this one was durable, as far as is known.
    #[must_use]
    pub fn durable(&self) -> Seq {
        self.durable
    }

    /// Whether the header of the last session is lost.
    #[must_use]
    pub fn header_is_lost(&self) -> bool {
        self.first.is_none()
    }

    /// Whether a header, which may still turn out not to be whole, is that of the record `next`
    /// after one of the session `seen`: not one left from an earlier round of the ring, nor one
    /// that an earlier recovery stopped before. Where two fit, that of the later session counts.
    #[must_use]
    pub fn expects(&self, header: &RecordHeader, next: Seq, seen: u32) -> bool {
        let session = header.stamp.session;
        let known = match self.first {
            Some(first) if next >= first => session >= self.session,
            Some(_) => session < self.session,
            None => true,
        };
        header.stamp.key == self.key && header.seq == next && session >= seen && known
    }

    /// Whether a record that lies somewhere behind `gap` belongs to what was written after it.
    #[must_use]
    pub fn comes_after(&self, header: &RecordHeader, gap: Seq) -> bool {
        let stamp = header.stamp;
        stamp.key == self.key && header.seq > gap && stamp.session >= self.session
    }

    /// Learns from a record whose checksum holds. A session later than that of the header shows
    /// that the header of that session is lost, since it was durable before any record.
    pub fn learn(&mut self, header: &RecordHeader) {
        let stamp = header.stamp;
        if stamp.session > self.session {
            (self.session, self.first) = (stamp.session, None);
        }
        if stamp.session == self.session {
            self.durable = self.durable.max(stamp.durable);
        }
    }

    /// Whether this record was durable: if it is not whole now, it is damaged.
    #[must_use]
    pub fn was_durable(&self, seq: Seq) -> bool {
        seq <= self.durable
    }
}
