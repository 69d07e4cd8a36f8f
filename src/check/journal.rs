//! The journal: the records that the next mount would replay, and whether what comes
//! after the last of them is its end.

use serde::Serialize;

use super::behind::Behind;
use super::cut::Cut;
use super::findings::Findings;
use super::lent::{Created, Lent, Missing, framed_sums};
use super::problem::{Kind, Problem};
use crate::base::{BLOCK, Checksum, Seq, checksum};
use crate::device::{Device, ForwardReader};
use crate::ondisk::Marks;
use crate::ondisk::journal::{
    Body, JournalFormatError, JournalHeader, Past, RECORD_HEADER, RING_START, RecordHeader,
};

const PAGE: u64 = 4096;

/// What ends the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// Nothing of the session follows.
    Clean,
    /// The next record has begun to be written.
    Torn,
    /// Whole records of the session follow after one that is missing.
    Gap,
}

/// What the journal holds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Journal {
    /// The last session that wrote it.
    pub session: u32,
    /// Bytes of its ring.
    pub ring: u64,
    /// Records from the catalog's mark on.
    pub records: u64,
    /// Those of them that hold data.
    pub writes: u64,
    /// Those of the writes that have data in segments, not in the journal.
    pub references: u64,
    /// Those of them that are discards.
    pub zeros: u64,
    /// Those of them that change names, sizes or snapshots.
    pub ops: u64,
    /// The number that the next record gets.
    pub next: u64,
    /// How it ends.
    pub end: Option<End>,
    /// Whole records that are there and can't be replayed, since one before them is damaged.
    pub lost: u64,
}

/// A record from the mark on.
pub(super) struct Found {
    pub header: RecordHeader,
    pub body: Body,
    offset: u64,
    len: u64,
}

/// A journal whose header could be read.
pub(super) struct Reader<'a> {
    device: &'a dyn Device,
    reader: ForwardReader,
    last: JournalHeader,
    ring: u64,
    marks: Marks,
    past: Past,
    lent: Lent<'a>,
}

/// Where a scan stands: what the next record must be.
struct Next {
    at: u64,
    seq: Seq,
    /// Of the last record; sessions never go back.
    session: u32,
}

/// What of the rest of a change is there.
enum Rest {
    There,
    Missing,
    /// Nobody can tell, because of this record.
    Unknown(Seq, String),
}

impl Next {
    fn after(found: &Found) -> Self {
        Self {
            at: found.offset + found.len,
            seq: match found.body {
                Body::Skip(next) => next,
                _ => found.header.seq.next(),
            },
            session: found.header.stamp.session,
        }
    }
}

/// What stands where a record may be.
enum Spot {
    Record(Box<Found>),
    /// A record without its data in this slot.
    Without(Box<Found>, Missing),
    /// The record's header, and not all of the rest.
    Torn,
    /// Nobody can tell: a whole record of a kind that this program does not know, or the device
    /// does not give it.
    Unknown(String),
    Nothing,
}

impl Spot {
    fn found(&self) -> Option<&Found> {
        match self {
            Self::Record(found) | Self::Without(found, _) => Some(found),
            Self::Torn | Self::Unknown(_) | Self::Nothing => None,
        }
    }
}

impl<'a> Reader<'a> {
    /// A journal whose newest header is this one.
    pub fn new(device: &'a dyn Device, last: JournalHeader, past: Past, lent: Lent<'a>) -> Self {
        Self {
            device,
            reader: ForwardReader::default(),
            ring: last.ring,
            past,
            last,
            marks: lent.catalog.marks,
            lent,
        }
    }

    /// Hands out the records that the next mount would look at, in order, and tells how the
    /// journal ends, and what giving up the rest takes where that is damaged.
    pub fn scan(
        &mut self,
        findings: &mut Findings,
        see: &mut dyn FnMut(&Found),
    ) -> (Journal, Option<Cut>) {
        let mut journal = Journal {
            session: self.last.session,
            ring: self.ring,
            ..Journal::default()
        };
        let mut past = self.past;
        let mut next = Next {
            at: self.marks.journal_offset % self.ring,
            seq: Seq(self.marks.journal_seq.0.max(1)),
            // After a clean stop only a later session can have written where it ended.
            session: match self.marks.closed && self.last.session <= self.marks.session {
                true => self.marks.session.saturating_add(1),
                false => 0,
            },
        };
        let mut created = Created::new();
        let torn = loop {
            let found = match self.find(&next, &past, &created) {
                Spot::Record(found) => match self.has_rest_of(&found, &past, &created) {
                    Rest::There => found,
                    Rest::Missing => break true,
                    Rest::Unknown(seq, error) => {
                        let message = format!("record {seq} can't be read: {error}");
                        findings.add(self.damage(message, next.at));
                        break false;
                    }
                },
                Spot::Without(found, missing) => {
                    if !past.was_durable(next.seq) {
                        Behind::search(self.device, self.ring, next.seq, &mut past);
                    }
                    let durable = past.was_durable(next.seq);
                    let Missing { place, error } = missing;
                    if durable || error.is_some() {
                        let message = match &error {
                            None => "which is not what its checksums say".to_owned(),
                            Some(error) => format!("which can't be read: {error}"),
                        };
                        let message = format!("record {} has data in {place}, {message}", next.seq);
                        let disk = self.lent.disk_name(found.header.disk);
                        findings.add(self.damage(message, next.at).at_slot(place).of_disks(disk));
                    }
                    if !durable {
                        break error.is_none();
                    }
                    found
                }
                Spot::Unknown(error) => {
                    let message = format!("record {} can't be read: {error}", next.seq);
                    findings.add(self.damage(message, next.at));
                    break false;
                }
                Spot::Torn => break true,
                Spot::Nothing => break false,
            };
            self.count(&found, &mut journal);
            self.look_at_slots(&found, &created, next.at, findings);
            self.lent.note(&found.header, &found.body, &mut created);
            past.learn(&found.header);
            see(&found);
            next = Next::after(&found);
        };
        let behind = Behind::search(self.device, self.ring, next.seq, &mut past);
        if let Some((at, error)) = &behind.unread {
            let message = format!("whether more records follow can't be told: {error}");
            findings.add(self.damage(message, *at));
        }
        if past.header_is_lost() {
            let message = "its newest header is lost, and the records show what it said";
            let slot = u64::from(past.session() % 2) * PAGE;
            let problem = Problem::note(Kind::Journal, message);
            findings.add(problem.in_file(self.device.name(), slot));
        }
        journal.next = next.seq.0;
        if past.was_durable(next.seq) {
            journal.end = Some(End::Gap);
            journal.lost = behind.records;
            let mut problem = self.lost(&next, &past, &behind);
            if !findings.in_doubt() {
                problem.message += "; --repair --drop-journal-tail gives them up";
            }
            findings.add(problem);
            let cut = Cut::at(&self.last, &past, next.at, next.seq, behind.last);
            return (journal, Some(cut));
        }
        journal.end = Some(self.end(&next, &behind, torn, findings));
        (journal, None)
    }

    /// Whether the records behind this one that are of the same change are there too.
    fn has_rest_of(&mut self, found: &Found, past: &Past, created: &Created) -> Rest {
        let (mut next, mut past) = (Next::after(found), *past);
        past.learn(&found.header);
        for _ in 0..found.header.more {
            match self.find(&next, &past, created) {
                // In place of a member that was given up: then all of them were to be.
                Spot::Record(found) if matches!(found.body, Body::Skip(_)) => return Rest::Missing,
                Spot::Record(found) | Spot::Without(found, _) => {
                    past.learn(&found.header);
                    next = Next::after(&found);
                }
                Spot::Unknown(error) => return Rest::Unknown(next.seq, error),
                Spot::Torn | Spot::Nothing => return Rest::Missing,
            }
        }
        Rest::There
    }

    fn count(&self, found: &Found, journal: &mut Journal) {
        journal.records += 1;
        match &found.body {
            Body::Write(_) => journal.writes += 1,
            Body::Zero => journal.zeros += 1,
            Body::Op(_) => journal.ops += 1,
            Body::Reference(_) => {
                journal.writes += 1;
                journal.references += 1;
            }
            Body::Skip(_) => {}
        }
    }

    /// The slots of a write by reference have to be lent out, else no commit can adopt them.
    fn look_at_slots(&self, found: &Found, created: &Created, at: u64, findings: &mut Findings) {
        let Body::Reference(reference) = &found.body else {
            return;
        };
        if let Some(place) = self.lent.not_lent(&found.header, reference, created) {
            let seq = found.header.seq;
            let message = format!("record {seq} has data in {place}, which is not lent out to it");
            findings.add(self.damage(message, at).at_slot(place));
        }
    }

    /// The record expected next, wherever it may lie. Where two fit, that of the later session is
    /// the true one: an earlier recovery decided against the other.
    fn find(&mut self, next: &Next, past: &Past, created: &Created) -> Spot {
        let session = |found: &Found| found.header.stamp.session;
        let mut best = Spot::Nothing;
        let page = next.at.next_multiple_of(PAGE);
        for (offset, again) in [(next.at, false), (page, page == next.at), (0, next.at == 0)] {
            if again {
                continue;
            }
            let expected = |header: &RecordHeader| past.expects(header, next.seq, next.session);
            let spot = match self.read(offset, created, expected) {
                Spot::Record(found) => self.with_data(found, created),
                spot => spot,
            };
            best = match (best, spot) {
                (Spot::Nothing, spot) => spot,
                (Spot::Torn, spot) if !matches!(spot, Spot::Nothing) => spot,
                // Where it does not stand, nothing needs to be read.
                (Spot::Unknown(_), spot @ (Spot::Record(_) | Spot::Without(_, _))) => spot,
                (
                    Spot::Record(a) | Spot::Without(a, _),
                    spot @ (Spot::Record(_) | Spot::Without(_, _)),
                ) if spot.found().is_some_and(|b| session(b) > session(&a)) => spot,
                (best, _) => best,
            };
        }
        best
    }

    /// A record, unless its data is to be in slots and is not there.
    fn with_data(&self, found: Box<Found>, created: &Created) -> Spot {
        let Body::Reference(reference) = &found.body else {
            return Spot::Record(found);
        };
        match self.lent.missing(&found.header, reference, created) {
            None => Spot::Record(found),
            Some(missing) => Spot::Without(found, missing),
        }
    }

    fn read(
        &mut self,
        offset: u64,
        created: &Created,
        expected: impl Fn(&RecordHeader) -> bool,
    ) -> Spot {
        if offset.saturating_add(RECORD_HEADER as u64) > self.ring {
            return Spot::Nothing;
        }
        let mut read = |buf: &mut [u8], at: u64| {
            let read = self.reader.read(self.device, buf, RING_START + at);
            read.map_err(|error| Spot::Unknown(error.to_string()))
        };
        let mut head = vec![0; RECORD_HEADER];
        if let Err(unknown) = read(&mut head, offset) {
            return unknown;
        }
        let header = match RecordHeader::decode(&head) {
            Ok(header) if expected(&header) => header,
            _ => return Spot::Nothing,
        };
        if offset + header.head_len() as u64 > self.ring {
            return Spot::Nothing;
        }
        head.resize(header.head_len(), 0);
        if let Err(unknown) = read(&mut head[RECORD_HEADER..], offset + RECORD_HEADER as u64) {
            return unknown;
        }
        let body = match header.body(&head) {
            Ok(body) => body,
            Err(JournalFormatError::Checksum { .. }) => return Spot::Torn,
            Err(error) => return Spot::Unknown(error.to_string()),
        };
        let len = (header.head_len() + body.data_len()) as u64;
        if offset + len > self.ring {
            return Spot::Nothing;
        }
        // What the catalog has applied was whole once.
        let wanted = self.lent.is_wanted(&header, created);
        let mut data = vec![0; if wanted { body.data_len() } else { 0 }];
        if let Err(unknown) = read(&mut data, offset + header.head_len() as u64) {
            return unknown;
        }
        let differs = |(block, sum): (&[u8], &Checksum)| checksum(block) != *sum;
        let blocks = data.chunks_exact(BLOCK);
        let torn = match &body {
            Body::Write(sums) => blocks.zip(sums).any(differs),
            Body::Reference(reference) => blocks.zip(framed_sums(reference)).any(differs),
            Body::Zero | Body::Op(_) | Body::Skip(_) => false,
        };
        if torn {
            return Spot::Torn;
        }
        Spot::Record(Box::new(Found {
            header,
            body,
            offset,
            len,
        }))
    }

    /// What follows the last record: nothing, the half of one, or, after a gap, more of them.
    fn end(&self, next: &Next, behind: &Behind, torn: bool, findings: &mut Findings) -> End {
        let (end, message) = match (behind.first, torn) {
            (Some((seq, at)), _) => {
                let message = format!(
                    "record {} is missing or not whole, and record {seq} follows at byte {at}: \
                     writes that were not synced, cut short by a crash",
                    next.seq
                );
                (End::Gap, message)
            }
            (None, true) => {
                let message = format!("record {} is not whole: a crash cut it short", next.seq);
                (End::Torn, message)
            }
            (None, false) => return End::Clean,
        };
        let place = RING_START + next.at.min(self.ring);
        findings.add(Problem::note(Kind::Journal, message).in_file(self.device.name(), place));
        end
    }

    /// A record that was durable is not whole.
    fn lost(&self, next: &Next, past: &Past, behind: &Behind) -> Problem {
        let message = format!(
            "record {} is missing or not whole, and all up to record {} were durable: it is lost \
             with {} whole records after it",
            next.seq,
            past.durable(),
            behind.records
        );
        let disks = behind.disks.iter();
        let names = disks.filter_map(|disk| self.lent.disk_name(*disk));
        self.damage(message, next.at).of_disks(names)
    }

    fn damage(&self, message: String, at: u64) -> Problem {
        Problem::damage(Kind::Journal, message).in_file(self.device.name(), at)
    }
}
