//! The journal's headers: whose it is, and which session wrote it last.

use super::cut::Cut;
use super::findings::Findings;
use super::journal::Reader;
use super::lent::Lent;
use super::problem::{Kind, Problem};
use crate::device::Device;
use crate::ondisk::journal::{JournalFormatError, JournalHeader, Past, RING_START};

const PAGE: u64 = 4096;

/// What the headers lead to.
pub(super) enum Opened<'a> {
    Journal(Box<Reader<'a>>),
    /// None of it can be replayed; another can begin in its place.
    Lost(Cut),
    Foreign,
}

/// Reads the header.
pub(super) fn open<'a>(
    device: &'a dyn Device,
    lent: Lent<'a>,
    findings: &mut Findings,
) -> Result<Opened<'a>, String> {
    let wrong = |message: String| Problem::damage(Kind::Journal, message).in_file(device.name(), 0);
    let catalog = lent.catalog;
    let (store, marks) = (catalog.root.uuid, catalog.marks);
    let (even, odd) = (header(device, 0), header(device, 1));
    for slot in [&even, &odd] {
        if let Err(BadHeader::Format(error @ JournalFormatError::Version(_))) = slot {
            return Err(format!("{}: {error}", device.name()));
        }
    }
    let room = device.len().saturating_sub(RING_START) & !(PAGE - 1);
    let applied = catalog.disks.values().map(|disk| disk.applied).max();
    let applied = applied.unwrap_or_default();
    let lost = |last: Option<&JournalHeader>| {
        let durable = marks.durable.max(marks.applied).max(applied);
        Cut::all(store, last, room, &marks, durable).map(Opened::Lost)
    };
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
                let message = format!("one of its two headers can't be read: {error}");
                findings.add(wrong(message));
            }
            header
        }
        (Err(even), Err(odd)) => {
            let what = match marks.closed {
                true => "it was closed in order, so nothing is lost",
                false => "what was acknowledged and not yet in the segments is lost",
            };
            findings.add(wrong(format!("it has no header ({even}; {odd}): {what}")));
            return lost(None);
        }
    };
    if last.store != store {
        findings.add(wrong("it belongs to another store".to_owned()));
        return Ok(Opened::Foreign);
    }
    if last.ring > room || last.ring == 0 {
        findings.add(wrong(format!(
            "its ring had {} bytes, and now it has room for {room}",
            last.ring
        )));
        return lost(Some(&last));
    }
    let closed = marks.closed && last.session <= marks.session;
    if !closed && marks.session > last.session.saturating_add(1) {
        findings.add(wrong(format!(
            "it is an old copy: its last session is {}, and the catalog knows of session {}",
            last.session, marks.session
        )));
        return lost(Some(&last));
    }
    if marks.journal_offset > last.ring {
        findings.add(wrong(format!(
            "the catalog needs its byte {}, past the end of the ring",
            marks.journal_offset
        )));
    }
    let past = Past::new(&last, &marks, applied);
    let reader = Reader::new(device, last, past, lent);
    Ok(Opened::Journal(Box::new(reader)))
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
    Ok(JournalHeader::decode(&bytes)?.in_slot(slot * PAGE)?)
}
