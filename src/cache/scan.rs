//! Reads the journal: its headers, the next record wherever it may lie, and, where there is none,
//! whether that is the end.

use std::sync::Arc;

use super::CacheError;
use crate::base::{BLOCK, Checksum, Place, Seq, checksum};
use crate::device::{Device, ForwardReader};
use crate::ondisk::Marks;
use crate::ondisk::journal::{
    Body, JournalFormatError, JournalHeader, MAX_HEAD, Past, RECORD_ALIGN, RECORD_HEADER,
    RING_START, RecordHeader, Reference,
};
use crate::store::PoolError;

const PAGE: u64 = 4096;
/// How much is read at a time when records are looked for behind a gap: more than a record's head.
const PART: usize = 2 << 20;
/// How much is read at the most. What was synced before the last commit is known to the catalog;
/// this is for what was synced since, so it need not reach far, and opening stays fast (P12).
const BEHIND: u64 = 64 << 20;
const _: () = assert!(PART >= MAX_HEAD + RECORD_ALIGN);

/// A journal being read. Nobody writes to it meanwhile.
pub(super) struct Scan {
    device: Arc<dyn Device>,
    reader: ForwardReader,
    header: JournalHeader,
    /// Nothing was written after the last record that is needed.
    closed: bool,
    now: Position,
}

/// How far the records are known, and what they said.
#[derive(Clone, Copy)]
struct Position {
    past: Past,
    /// Where the next record would be.
    at: u64,
    next: Seq,
    /// The session of the last record read; sessions never go back.
    seen: u32,
}

impl Position {
    /// Goes on behind a record.
    fn pass(&mut self, found: &Replayed) {
        self.at = found.offset + found.len;
        self.seen = found.header.stamp.session;
        self.next = match found.body {
            Body::Skip(next) => next,
            _ => found.header.seq.next(),
        };
        self.past.learn(&found.header);
    }
}

/// A record that was found.
pub(super) struct Replayed {
    pub offset: u64,
    pub len: u64,
    pub header: RecordHeader,
    pub body: Body,
    /// The blocks of a write that is wanted.
    pub data: Vec<u8>,
    /// A slot that has not the data that the record says.
    pub without: Option<Missing>,
}

/// A slot without the data that a record says it has.
pub(super) struct Missing {
    pub place: Place,
    /// Why that can't be told; none where it has something else.
    pub error: Option<PoolError>,
}

/// What the catalog knows of writes.
pub(super) trait Applied {
    /// Whether a write still has to be replayed.
    fn is_wanted(&self, header: &RecordHeader) -> Result<bool, CacheError>;

    /// The first slot that has not the data that the record says.
    fn missing(&self, reference: &Reference) -> Result<Option<Missing>, CacheError>;
}

/// Bytes of the ring that a device has room for.
pub(super) fn ring_of(device: &dyn Device) -> u64 {
    device.len().saturating_sub(RING_START) & !(PAGE - 1)
}

/// Makes a new journal: a header in the first slot, and a ring in which nothing checks.
///
/// # Errors
/// Where the device fails.
pub fn create_journal(device: &dyn Device, store: [u8; 16]) -> Result<(), CacheError> {
    let mut key = [0; 8];
    getrandom::fill(&mut key)
        .map_err(|error| CacheError::Halted(format!("no random numbers: {error}")))?;
    let header = JournalHeader {
        store,
        session: 0,
        first: Seq(1),
        ring: ring_of(device),
        key: u64::from_le_bytes(key),
    };
    write_header(device, &header)
}

pub(super) fn write_header(device: &dyn Device, header: &JournalHeader) -> Result<(), CacheError> {
    let mut slot = vec![0; PAGE as usize];
    slot[..JournalHeader::LEN].copy_from_slice(&header.encode());
    device
        .write_at(&[std::io::IoSlice::new(&slot)], header.slot())
        .map_err(CacheError::Journal)?;
    device.sync().map_err(CacheError::Journal)
}

/// The newest header that is whole.
fn read_header(device: &dyn Device) -> Result<JournalHeader, CacheError> {
    let read = |slot: u64| -> Result<_, CacheError> {
        let mut bytes = vec![0; JournalHeader::LEN];
        device
            .read_at(&mut bytes, slot * PAGE)
            .map_err(CacheError::Journal)?;
        let header = JournalHeader::decode(&bytes);
        Ok(header.and_then(|header| header.in_slot(slot * PAGE)))
    };
    match (read(0)?, read(1)?) {
        (Err(reason @ JournalFormatError::Version(_)), _)
        | (_, Err(reason @ JournalFormatError::Version(_)))
        | (Err(reason), Err(_)) => Err(CacheError::BadJournal {
            journal: device.name().to_owned(),
            reason,
        }),
        (Ok(a), Ok(b)) => Ok(if a.session > b.session { a } else { b }),
        (Ok(header), _) | (_, Ok(header)) => Ok(header),
    }
}

impl Scan {
    /// Reads the headers. `applied` is the newest record that any disk has got.
    pub fn begin(
        device: &Arc<dyn Device>,
        store: [u8; 16],
        marks: &Marks,
        applied: Seq,
    ) -> Result<Self, CacheError> {
        let header = read_header(device.as_ref())?;
        let journal = || device.name().to_owned();
        if header.store != store {
            return Err(CacheError::ForeignJournal { journal: journal() });
        }
        let (ring, room) = (header.ring, ring_of(device.as_ref()));
        if ring > room || ring == 0 {
            return Err(CacheError::ShortJournal {
                journal: journal(),
                ring,
                room,
            });
        }
        let closed = marks.closed && header.session <= marks.session;
        // Of two slots one at the most can be lost to a crash or a bad sector.
        if !closed && marks.session > header.session.saturating_add(1) {
            return Err(CacheError::OldJournal {
                journal: journal(),
                session: header.session,
                known: marks.session,
            });
        }
        let now = Position {
            past: Past::new(&header, marks, applied),
            at: marks.journal_offset % ring,
            next: Seq(marks.journal_seq.0.max(1)),
            // After a clean stop only a later session can have written where it ended.
            seen: if closed {
                marks.session.saturating_add(1)
            } else {
                0
            },
        };
        Ok(Self {
            device: device.clone(),
            reader: ForwardReader::default(),
            header,
            closed,
            now,
        })
    }

    pub fn device(&self) -> &dyn Device {
        self.device.as_ref()
    }

    pub fn ring(&self) -> u64 {
        self.header.ring
    }

    pub fn key(&self) -> u64 {
        self.header.key
    }

    /// Where in the ring the next record would be.
    pub fn place(&self) -> u64 {
        self.now.at
    }

    /// The number that the next record gets.
    pub fn next(&self) -> Seq {
        self.now.next
    }

    /// The header of a session that begins after what has been read so far. Where the newest one
    /// is lost, a number is left out, so that this goes to its slot and not over the one that is
    /// left.
    pub fn new_header(&self) -> JournalHeader {
        let last = self.header;
        let mut session = self.now.past.session().saturating_add(1);
        if session % 2 == last.session % 2 {
            session = session.saturating_add(1);
        }
        JournalHeader {
            session,
            first: self.now.next,
            ..last
        }
    }

    /// Goes on behind a record.
    pub fn pass(&mut self, found: &Replayed) {
        self.now.pass(found);
    }

    /// The next record, or nothing where the journal ends.
    ///
    /// # Errors
    /// Where it can't be read, or where the next record was durable and is damaged.
    pub fn find(&mut self, catalog: &impl Applied) -> Result<Option<Replayed>, CacheError> {
        match self.best(catalog, self.now)? {
            Some(found) if found.without.is_some() => self.without_data(found),
            Some(found) if self.has_rest_of(&found, catalog)? => Ok(Some(found)),
            _ => self.end().map(|()| None),
        }
    }

    /// Whether the records behind this one that are of the same change are there too.
    fn has_rest_of(
        &mut self,
        found: &Replayed,
        catalog: &impl Applied,
    ) -> Result<bool, CacheError> {
        let mut ahead = self.now;
        ahead.pass(found);
        for _ in 0..found.header.more {
            match self.best(catalog, ahead)? {
                // In place of a member that was given up: then all of them were to be.
                Some(found) if matches!(found.body, Body::Skip(_)) => return Ok(false),
                Some(found) => ahead.pass(&found),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// The record expected next, wherever it may lie.
    fn best(
        &mut self,
        catalog: &impl Applied,
        expected: Position,
    ) -> Result<Option<Replayed>, CacheError> {
        let mut best: Option<Replayed> = None;
        let at = expected.at;
        let page = at.next_multiple_of(PAGE);
        for (offset, again) in [(at, false), (page, page == at), (0, at == 0)] {
            if again || offset + RECORD_HEADER as u64 > self.ring() {
                continue;
            }
            let Some(found) = self.read(catalog, expected, offset)? else {
                continue;
            };
            // A record that an earlier recovery decided against may lie where the true one would
            // have been but for a sync; the true one is of the later session.
            let session = |found: &Replayed| found.header.stamp.session;
            if best
                .as_ref()
                .is_none_or(|best| session(&found) > session(best))
            {
                best = Some(found);
            }
        }
        Ok(best)
    }

    /// A record whose data in slots is not what it says. If power loss took that, the journal ends
    /// before it; if it was durable, those blocks are damaged like any others, and reading them
    /// will say so. Where the slot can't be read and nobody knows, nothing may be decided.
    fn without_data(&mut self, found: Replayed) -> Result<Option<Replayed>, CacheError> {
        let seq = found.header.seq;
        if !self.now.past.was_durable(seq) {
            self.look_behind(seq)?;
        }
        let durable = self.now.past.was_durable(seq);
        match &found.without {
            Some(Missing { place, error: None }) if durable => {
                log::error!("the journal's record {seq} has data in {place}, and that is damaged");
            }
            Some(Missing {
                error: Some(error), ..
            }) if durable => {
                log::error!("the journal's record {seq} has data that can't be read: {error}");
            }
            Some(Missing {
                error: Some(error), ..
            }) => return Err(error.clone().into()),
            _ if !durable => return Ok(None),
            _ => {}
        }
        Ok(Some(found))
    }

    /// Whether this is the end: a record that is missing although it was durable is damage.
    fn end(&mut self) -> Result<(), CacheError> {
        let gap = self.now.next;
        let behind = match self.closed || self.now.past.was_durable(gap) {
            true => None,
            false => self.look_behind(gap)?,
        };
        if self.now.past.was_durable(gap) {
            return Err(CacheError::DamagedJournal {
                journal: self.device.name().to_owned(),
                offset: RING_START + self.now.at,
                seq: gap,
                durable: self.now.past.durable(),
            });
        }
        if let Some(later) = behind {
            log::warn!(
                "the journal ends before record {gap}, and record {later} is there: writes that \
                 were not synced, cut short by a crash"
            );
        }
        Ok(())
    }

    fn read(
        &mut self,
        catalog: &impl Applied,
        expected: Position,
        offset: u64,
    ) -> Result<Option<Replayed>, CacheError> {
        let ring = self.ring();
        let mut read = |buf: &mut [u8], at: u64| {
            self.reader
                .read(&*self.device, buf, RING_START + at)
                .map_err(CacheError::Journal)
        };
        let mut head = vec![0; RECORD_HEADER];
        read(&mut head, offset)?;
        let Ok(header) = RecordHeader::decode(&head) else {
            return Ok(None);
        };
        if !expected.past.expects(&header, expected.next, expected.seen)
            || offset + header.head_len() as u64 > ring
        {
            return Ok(None);
        }
        head.resize(header.head_len(), 0);
        read(&mut head[RECORD_HEADER..], offset + RECORD_HEADER as u64)?;
        let body = match header.body(&head) {
            Ok(body) => body,
            Err(JournalFormatError::Checksum { .. }) => return Ok(None),
            // Whole, but not of a kind that this program knows: it must not be taken for the end.
            Err(reason) => {
                let journal = self.device.name().to_owned();
                return Err(CacheError::BadJournal { journal, reason });
            }
        };
        let len = (header.head_len() + body.data_len()) as u64;
        if offset + len > ring {
            return Ok(None);
        }
        // What the catalog has applied was whole once, and is not read again.
        let wanted = match &body {
            Body::Write(_) | Body::Reference(_) => catalog.is_wanted(&header)?,
            Body::Zero | Body::Op(_) | Body::Skip(_) => false,
        };
        let mut data = vec![0; if wanted { body.data_len() } else { 0 }];
        read(&mut data, offset + header.head_len() as u64)?;
        let differs = |(block, sum): (&[u8], &Checksum)| checksum(block) != *sum;
        let blocks = data.chunks_exact(BLOCK);
        let torn = match &body {
            Body::Write(sums) => blocks.zip(sums).any(differs),
            Body::Reference(reference) => blocks.zip(framed_sums(reference)).any(differs),
            Body::Zero | Body::Op(_) | Body::Skip(_) => false,
        };
        if torn {
            return Ok(None);
        }
        let without = match &body {
            Body::Reference(reference) if wanted => catalog.missing(reference)?,
            _ => None,
        };
        Ok(Some(Replayed {
            offset,
            len,
            header,
            body,
            data,
            without,
        }))
    }

    /// Looks for records behind a gap, until one shows that what is missing was durable. Returns
    /// the first that there is.
    fn look_behind(&mut self, gap: Seq) -> Result<Option<Seq>, CacheError> {
        let mut first = None;
        let mut left = BEHIND;
        let start = self.now.at.min(self.ring()) & !(RECORD_ALIGN as u64 - 1);
        let mut part = vec![0; PART];
        for (from, to) in [(start, self.ring()), (0, start)] {
            let mut at = from;
            while at + RECORD_HEADER as u64 <= to && left > 0 && !self.now.past.was_durable(gap) {
                let len = (self.ring() - at).min(PART as u64) as usize;
                left = left.saturating_sub(len as u64);
                let part = &mut part[..len];
                let read = self.reader.read(&*self.device, part, RING_START + at);
                if read.is_err() {
                    at += len as u64;
                    continue;
                }
                at = self.look_into(part, at, gap, &mut first);
            }
        }
        Ok(first)
    }

    /// Learns from the records that begin in a part of the ring. Returns where to go on.
    fn look_into(&mut self, part: &[u8], at: u64, gap: Seq, first: &mut Option<Seq>) -> u64 {
        let mut place = 0;
        while let Some(bytes) = part.get(place..place + RECORD_HEADER) {
            let header = RecordHeader::decode(bytes).ok();
            let Some(header) = header.filter(|header| self.now.past.comes_after(header, gap))
            else {
                place += RECORD_ALIGN;
                continue;
            };
            let Some(head) = part.get(place..place + header.head_len()) else {
                // It goes on in the next part, unless it can't be.
                let cut = place > 0 && at + (part.len() as u64) < self.ring();
                if cut {
                    return at + place as u64;
                }
                place += RECORD_ALIGN;
                continue;
            };
            let Ok(body) = header.body(head) else {
                place += RECORD_ALIGN;
                continue;
            };
            self.now.past.learn(&header);
            first.get_or_insert(header.seq);
            if self.now.past.was_durable(gap) {
                break;
            }
            // What lies in its blocks is no record.
            place += header.head_len() + body.data_len();
        }
        at + place as u64
    }
}

/// The checksums of the blocks of a write by reference that follow its record.
fn framed_sums(reference: &Reference) -> impl Iterator<Item = &Checksum> {
    let (head, rest) = reference.sums.split_at(reference.head as usize);
    head.iter().chain(&rest[reference.lent() as usize..])
}
