//! The journal: its headers, the records that the next mount would replay, and what comes after
//! the last of them.

use serde::Serialize;

use super::findings::Findings;
use super::lent::{Created, Lent, framed_sums};
use super::problem::{Kind, Problem, Severity};
use crate::base::{BLOCK, Checksum, Seq, checksum};
use crate::device::Device;
use crate::ondisk::Marks;
use crate::ondisk::journal::{
    Body, JournalFormatError, JournalHeader, RECORD_ALIGN, RECORD_HEADER, RING_START, RecordHeader,
};

const PAGE: u64 = 4096;
/// How much is read at a time when the ring is searched for records.
const SEARCH: u64 = 4 << 20;

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
    last: JournalHeader,
    ring: u64,
    marks: Marks,
    lent: Lent<'a>,
}

/// Reads the header.
pub(super) fn open<'a>(
    device: &'a dyn Device,
    lent: Lent<'a>,
    findings: &mut Findings,
) -> Result<Option<Reader<'a>>, String> {
    let wrong = |message: String| Problem::damage(Kind::Journal, message).in_file(device.name(), 0);
    let (store, marks) = (lent.catalog.root.uuid, lent.catalog.marks);
    let (even, odd) = (header(device, 0), header(device, 1));
    for slot in [&even, &odd] {
        if let Err(BadHeader::Format(error @ JournalFormatError::Version(_))) = slot {
            return Err(format!("{}: {error}", device.name()));
        }
    }
    let last = match (even, odd) {
        (Ok(a), Ok(b)) => {
            if a.session > b.session {
                a
            } else {
                b
            }
        }
        (Ok(header), Err(other)) | (Err(other), Ok(header)) => {
            // A torn one is what a crash leaves. One that can't be read may be the newer one.
            if let BadHeader::Device(error) = other {
                findings.add(wrong(format!(
                    "one of its two headers can't be read: {error}"
                )));
            }
            header
        }
        (Err(even), Err(odd)) => {
            findings.add(wrong(format!(
                "it has no header ({even}; {odd}): what was acknowledged and not yet in the \
                 segments is lost"
            )));
            return Ok(None);
        }
    };
    if last.store != store {
        findings.add(wrong("it belongs to another store".to_owned()));
        return Ok(None);
    }
    let room = device.len().saturating_sub(RING_START) & !(PAGE - 1);
    if last.ring > room {
        findings.add(wrong(format!(
            "its ring had {} bytes, and now it has room for {room}",
            last.ring
        )));
    }
    let ring = last.ring.min(room);
    if marks.journal_offset > ring {
        findings.add(wrong(format!(
            "the catalog needs its byte {}, past the end of the ring",
            marks.journal_offset
        )));
    }
    Ok(Some(Reader {
        device,
        last,
        ring,
        marks,
        lent,
    }))
}

#[derive(Debug, thiserror::Error)]
enum BadHeader {
    #[error(transparent)]
    Format(#[from] JournalFormatError),
    #[error("{0}")]
    Device(String),
}

fn header(device: &dyn Device, slot: u64) -> Result<JournalHeader, BadHeader> {
    let mut bytes = [0; JournalHeader::LEN];
    device
        .read_at(&mut bytes, slot * PAGE)
        .map_err(|error| BadHeader::Device(error.to_string()))?;
    Ok(JournalHeader::decode(&bytes)?)
}

/// Where a scan stands: what the next record must be.
struct Next {
    at: u64,
    seq: Seq,
    /// Of the last record; sessions never go back.
    session: u32,
}

/// What stands where a record may be.
enum Spot {
    Record(Box<Found>),
    /// The record's header, and not all of the rest.
    Torn,
    /// Nobody can tell: a whole record of a kind that this program does not know, or the device
    /// does not give it.
    Unknown(String),
    Nothing,
}

impl Reader<'_> {
    /// Hands out the records that the next mount would look at, in order, and tells how the
    /// journal ends.
    pub fn scan(&self, findings: &mut Findings, see: &mut dyn FnMut(&Found)) -> Journal {
        let mut journal = Journal {
            session: self.last.session,
            ring: self.ring,
            ..Journal::default()
        };
        let mut next = Next {
            at: self.marks.journal_offset % self.ring.max(1),
            seq: Seq(self.marks.journal_seq.0.max(1)),
            session: 0,
        };
        let mut created = Created::new();
        let torn = loop {
            match self.find(&next, Some(&created)) {
                Spot::Record(found) => {
                    journal.records += 1;
                    match &found.body {
                        Body::Write(_) => journal.writes += 1,
                        Body::Zero => journal.zeros += 1,
                        Body::Op(_) => journal.ops += 1,
                        Body::Reference(reference) => {
                            journal.writes += 1;
                            journal.references += 1;
                            let lent = &self.lent;
                            if let Some(place) = lent.not_lent(&found.header, reference, &created) {
                                let seq = found.header.seq;
                                let message = format!(
                                    "record {seq} has data in {place}, which is not lent out to it"
                                );
                                findings.add(self.damage(message, next.at).at_slot(place));
                            }
                        }
                    }
                    self.lent.note(&found.header, &found.body, &mut created);
                    see(&found);
                    next = Next {
                        at: found.offset + found.len,
                        seq: found.header.seq.next(),
                        session: found.header.session,
                    };
                }
                Spot::Unknown(error) => {
                    let message = format!("record {} can't be read: {error}", next.seq);
                    findings.add(self.damage(message, next.at));
                    break false;
                }
                Spot::Torn => break true,
                Spot::Nothing => break false,
            }
        };
        journal.next = next.seq.0;
        journal.end = Some(self.end(&next, torn, findings));
        journal
    }

    /// The record expected next, wherever it may lie. Where two fit, that of the later session is
    /// the true one: an earlier recovery decided against the other.
    ///
    /// `created` is given where a record by reference counts only with its data.
    fn find(&self, next: &Next, created: Option<&Created>) -> Spot {
        let mut best = Spot::Nothing;
        for offset in [next.at, next.at.next_multiple_of(PAGE), 0] {
            let expected = |header: &RecordHeader| {
                header.seq == next.seq
                    && header.session >= next.session
                    && self.is_of_its_session(header)
            };
            let spot = match (self.read(offset, expected), created) {
                (Spot::Record(found), Some(created)) => self.with_data(found, created),
                (spot, _) => spot,
            };
            best = match (best, spot) {
                (Spot::Record(a), Spot::Record(b)) if b.header.session > a.header.session => {
                    Spot::Record(b)
                }
                (best @ Spot::Record(_), _) => best,
                (_, found @ Spot::Record(_)) => found,
                (best @ Spot::Unknown(_), _) => best,
                (_, found @ Spot::Unknown(_)) => found,
                (Spot::Torn, _) | (_, Spot::Torn) => Spot::Torn,
                _ => Spot::Nothing,
            };
        }
        best
    }

    /// Whether a record with this number can be of this session.
    fn is_of_its_session(&self, header: &RecordHeader) -> bool {
        if header.seq >= self.last.first {
            header.session == self.last.session
        } else {
            header.session < self.last.session
        }
    }

    /// A record, unless its data is to be in slots and is not there.
    fn with_data(&self, found: Box<Found>, created: &Created) -> Spot {
        let Body::Reference(reference) = &found.body else {
            return Spot::Record(found);
        };
        match self.lent.is_there(&found.header, reference, created) {
            Ok(true) => Spot::Record(found),
            Ok(false) => Spot::Torn,
            Err(why) => Spot::Unknown(why),
        }
    }

    fn read(&self, offset: u64, expected: impl Fn(&RecordHeader) -> bool) -> Spot {
        if offset.saturating_add(RECORD_HEADER as u64) > self.ring {
            return Spot::Nothing;
        }
        let read = |buf: &mut [u8], at: u64| {
            let read = self.device.read_at(buf, RING_START + at);
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
        let mut data = vec![0; body.data_len()];
        if let Err(unknown) = read(&mut data, offset + header.head_len() as u64) {
            return unknown;
        }
        let differs = |(block, sum): (&[u8], &Checksum)| checksum(block) != *sum;
        let blocks = data.chunks_exact(BLOCK);
        let torn = match &body {
            Body::Write(sums) => blocks.zip(sums).any(differs),
            Body::Reference(reference) => blocks.zip(framed_sums(reference)).any(differs),
            Body::Zero | Body::Op(_) => false,
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
    fn end(&self, next: &Next, torn: bool, findings: &mut Findings) -> End {
        let place = RING_START + next.at.min(self.ring);
        if let Some(later) = self.search(next.seq, findings) {
            let (seq, at) = (later.header.seq, RING_START + later.offset);
            let missing = format!(
                "record {} is missing or not whole, and record {seq} follows at byte {at}",
                next.seq
            );
            // Each sync begins a page, and waits for the one before it: two beginnings after the
            // gap say that the first of these syncs has returned.
            let (severity, why) = if self.syncs_from(*later) >= 2 {
                (
                    Severity::Damage,
                    "it was synced, and is lost with all after it",
                )
            } else {
                (Severity::Note, "writes that a crash cut short")
            };
            let problem = Problem::new(severity, Kind::Journal, format!("{missing}: {why}"));
            findings.add(problem.in_file(self.device.name(), place));
            return End::Gap;
        }
        if torn {
            let message = format!("record {} is not whole: a crash cut it short", next.seq);
            findings.add(Problem::note(Kind::Journal, message).in_file(self.device.name(), place));
            return End::Torn;
        }
        End::Clean
    }

    /// Searches the ring for a whole record of the last session that comes after this one.
    fn search(&self, after: Seq, findings: &mut Findings) -> Option<Box<Found>> {
        let later = |header: &RecordHeader| {
            header.seq > after
                && header.session == self.last.session
                && header.seq >= self.last.first
        };
        let mut bytes = vec![0; SEARCH as usize];
        let mut first: Option<Box<Found>> = None;
        for start in (0..self.ring).step_by(SEARCH as usize) {
            let part = &mut bytes[..(self.ring - start).min(SEARCH) as usize];
            if let Err(error) = self.device.read_at(part, RING_START + start) {
                let message = format!("whether more records follow can't be told: {error}");
                findings.add(self.damage(message, RING_START + start));
                continue;
            }
            let spots = part.chunks_exact(RECORD_ALIGN);
            for (at, bytes) in (start..).step_by(RECORD_ALIGN).zip(spots) {
                let before = |header: &RecordHeader| {
                    let first = first.as_ref();
                    later(header) && first.is_none_or(|first| header.seq < first.header.seq)
                };
                let fits = RecordHeader::decode(bytes).is_ok_and(|header| before(&header));
                if fits && let Spot::Record(found) = self.read(at, before) {
                    first = Some(found);
                }
            }
        }
        first
    }

    /// How many syncs have begun in the unbroken row of records from this one on.
    fn syncs_from(&self, first: Found) -> u32 {
        let (mut syncs, mut last) = (0, first);
        loop {
            let next = Next {
                at: last.offset + last.len,
                seq: last.header.seq.next(),
                session: last.header.session,
            };
            let Spot::Record(found) = self.find(&next, None) else {
                return syncs;
            };
            // At byte 0 it may have begun for want of room.
            syncs += u32::from(found.offset > next.at);
            last = *found;
        }
    }

    /// The catalog has applied this record, so it was durable, and the journal must have had it.
    pub fn applied_past(&self, applied: Seq, next: Seq, findings: &mut Findings) {
        if applied >= next {
            let message = format!(
                "it ends before record {next}, and the catalog has applied record {applied}: \
                 records in between are lost, and new ones would be taken for applied"
            );
            let at = RING_START + self.marks.journal_offset.min(self.ring);
            findings.add(self.damage(message, at));
        }
    }

    fn damage(&self, message: String, at: u64) -> Problem {
        Problem::damage(Kind::Journal, message).in_file(self.device.name(), at)
    }
}
