//! What lies in the journal's ring behind a record that is missing.

use std::collections::BTreeSet;

use crate::base::{DiskId, Seq};
use crate::device::{Device, ForwardReader};
use crate::ondisk::journal::{
    MAX_HEAD, Past, RECORD_ALIGN, RECORD_HEADER, RING_START, RecordHeader,
};

/// How much is read at a time: more than a record's head.
const PART: u64 = 4 << 20;
const _: () = assert!(PART as usize >= 2 * MAX_HEAD);

/// The whole records that come after a gap, wherever they lie.
#[derive(Debug, Default)]
pub(super) struct Behind {
    /// How many.
    pub records: u64,
    /// The number of the first of them, and its place in the file.
    pub first: Option<(Seq, u64)>,
    /// The last number.
    pub last: Seq,
    /// Disks that they write to.
    pub disks: BTreeSet<DiskId>,
    /// The first part that the device does not give, and why.
    pub unread: Option<(u64, String)>,
}

impl Behind {
    /// Searches the whole ring, and lets `past` learn from what it finds.
    pub fn search(device: &dyn Device, ring: u64, gap: Seq, past: &mut Past) -> Self {
        let mut behind = Self::default();
        let mut reader = ForwardReader::default();
        let mut room = vec![0; PART as usize];
        let mut at = 0;
        while at < ring {
            let part = &mut room[..(ring - at).min(PART) as usize];
            if let Err(error) = reader.read(device, part, RING_START + at) {
                behind.unread.get_or_insert((at, error.to_string()));
                at += part.len() as u64;
                continue;
            }
            at += behind.look_into(part, at, ring, gap, past);
        }
        behind
    }

    /// Looks at the records that begin in a part of the ring; how far it got.
    fn look_into(&mut self, part: &[u8], start: u64, ring: u64, gap: Seq, past: &mut Past) -> u64 {
        let mut at = 0;
        while at + RECORD_HEADER <= part.len() {
            let header = RecordHeader::decode(&part[at..]).ok();
            let Some(header) = header.filter(|header| past.comes_after(header, gap)) else {
                at += RECORD_ALIGN;
                continue;
            };
            let goes_on = start + (part.len() as u64) < ring;
            if at + header.head_len() > part.len() && goes_on && at > 0 {
                return at as u64;
            }
            let Ok(body) = header.body(&part[at..]) else {
                at += RECORD_ALIGN;
                continue;
            };
            past.learn(&header);
            self.records += 1;
            self.last = self.last.max(header.seq);
            if self.first.is_none_or(|(first, _)| header.seq < first) {
                self.first = Some((header.seq, RING_START + start + at as u64));
            }
            if header.disk != DiskId(0) {
                self.disks.insert(header.disk);
            }
            at += header.head_len() + body.data_len();
        }
        match start + (part.len() as u64) < ring {
            true => at as u64,
            false => ring - start,
        }
    }
}
