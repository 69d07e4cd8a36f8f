//! Whose blocks are bad: finds the versions that have them and those who would read them.
//!
//! Not every block that differs from its checksum is damage:
//!
//! - The destager writes blocks in place before the commit that has their checksums. When it dies
//!   in between, the journal still has what it wrote, and the next mount writes it again. So a
//!   block of a live version that no snapshot sees is as it should be where a write that waits in
//!   the journal covers it, one that no marker or rollback stands before. The same goes for the
//!   versions below it that no snapshot sees. And where the disk's removal waits instead, that write
//!   may have been given up.
//! - A reap moves blocks into a slot whose own are hidden by those; nobody reads what it had.

use std::collections::{BTreeMap, BTreeSet};

use super::catalog::Catalog;
use super::findings::Findings;
use super::journal::Reader;
use super::names;
use super::problem::{Kind, Problem};
use super::segments::{Version, each_segment, has_readers, name};
use crate::base::{Block, BlockMask, DiskId, Place};
use crate::ondisk::journal::{Body, Op};
use crate::ondisk::{Descriptor, Extent, slot_start};

/// Slots whose blocks are looked into, so that memory stays bounded.
pub(super) const MAX_SLOTS: usize = 1 << 16;

/// The bad blocks of a slot.
pub(super) struct OfSlot {
    /// Without a checksum.
    pub unknown: BlockMask,
    /// Other than their checksum says.
    pub wrong: BlockMask,
    /// That can't be read.
    pub unreadable: BlockMask,
    /// The host's word on one of these.
    pub error: String,
}

/// All bad blocks, by slot.
#[derive(Default)]
pub(super) struct Bad {
    slots: BTreeMap<Place, OfSlot>,
    /// Slots that there was no room for.
    left_out: u64,
}

impl Bad {
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The entry of a slot, where there is room for it.
    pub fn at(&mut self, place: Place) -> Option<&mut OfSlot> {
        if self.slots.len() >= MAX_SLOTS && !self.slots.contains_key(&place) {
            self.left_out += 1;
            return None;
        }
        let empty = || OfSlot {
            unknown: BlockMask::EMPTY,
            wrong: BlockMask::EMPTY,
            unreadable: BlockMask::EMPTY,
            error: String::new(),
        };
        Some(self.slots.entry(place).or_insert_with(empty))
    }
}

/// Reports the blocks that are bad for someone.
pub(super) fn report(
    catalog: &Catalog<'_>,
    bad: &Bad,
    journal: Option<&mut Reader<'_>>,
    findings: &mut Findings,
) {
    let waiting = waiting(catalog, bad, journal);
    let mut segment = |versions: &[Version]| {
        for at in 0..versions.len() {
            let (key, version) = &versions[at];
            let extent = version.extent();
            let Some((extent, of)) = extent.and_then(|it| Some((it, bad.slots.get(&it.place)?)))
            else {
                continue;
            };
            let mut excused = BlockMask::EMPTY;
            if let Some(disk) = written_in_place(catalog, &versions[at]) {
                let first = catalog.root.geometry.first_block(key.segment).0;
                let covers =
                    |block: &usize| waiting.contains(&(disk, Block(first + *block as u64)));
                let wrong = in_segment(version, &of.wrong);
                let blocks = wrong.iter().filter(covers);
                blocks.for_each(|block| excused.insert(block));
            }
            let kinds = [
                (Kind::Checksum, &of.unknown, "has no recorded checksum"),
                (Kind::Block, &of.wrong, "is not what its checksum says"),
                (Kind::Block, &of.unreadable, of.error.as_str()),
            ];
            for (kind, blocks, what) in kinds {
                let blocks = in_segment(version, blocks).minus(&excused);
                for run in blocks.runs() {
                    let problem = problem(catalog, versions, at, (extent, run), kind, what);
                    problem
                        .into_iter()
                        .for_each(|problem| findings.add(problem));
                }
            }
        }
    };
    each_segment(catalog, &mut segment, &mut Vec::new());
    if bad.left_out > 0 {
        let message = format!("{} more segments have bad blocks", bad.left_out);
        findings.add(Problem::damage(Kind::Block, message));
    }
}

/// The problem that bad blocks of a version are, if anyone reads them.
fn problem(
    catalog: &Catalog<'_>,
    versions: &[Version],
    at: usize,
    (extent, run): (Extent, std::ops::Range<usize>),
    kind: Kind,
    what: &str,
) -> Option<Problem> {
    let geometry = catalog.root.geometry;
    let (key, _) = versions[at];
    let offset = (geometry.first_block(key.segment).0 + run.start as u64) * crate::base::BLOCK_SIZE;
    // Neighbours in the segment are neighbours in the slot.
    let (place, first) = (extent.place, extent.index(run.start));
    let blocks = match run.len() {
        1 => format!("block {first}"),
        len => format!("each of blocks {first} to {}", first + len - 1),
    };
    let message =
        format!("{blocks} of {place} {what}; it is at byte {offset} of those whose it is");
    let mut problem = Problem::damage(kind, message).at_slot(place);
    let path = catalog.devices.get(&place.device);
    problem.at.file = path.map(|entry| entry.record.path.clone());
    let start = slot_start(place.slot, geometry);
    problem.at.offset = Some(start + first as u64 * crate::base::BLOCK_SIZE);
    problem.at.block = Some(first as u64);
    problem.at.count = Some(run.len() as u64).filter(|count| *count > 1);
    problem.at.disk_offset = Some(offset);
    let blocks = BlockMask::range(run.start, run.end);
    let readers = has_readers(catalog, versions, (at, blocks));
    let problem = name(catalog, versions, (at, blocks), problem);
    readers.then_some(problem)
}

/// Which blocks of a segment these blocks of a version's slot are.
fn in_segment(version: &Descriptor, of_slot: &BlockMask) -> BlockMask {
    let mut blocks = BlockMask::EMPTY;
    if let Some(extent) = version.extent() {
        let there = |block: &usize| of_slot.has(extent.index(*block));
        let found = version.data.iter().filter(there);
        found.for_each(|block| blocks.insert(block));
    }
    blocks
}

/// The disk that writes to a version in place, if one does: any that no snapshot sees may be
/// written to.
fn written_in_place(catalog: &Catalog<'_>, (key, version): &Version) -> Option<DiskId> {
    let newest = names::snapshots_of(catalog, key.map).next_back();
    let seen = newest.is_some_and(|newest| version.birth <= newest.epoch);
    let (disk, _) = names::disk_of(catalog, key.map)?;
    (!seen).then_some(disk)
}

/// Which of the bad blocks writes of the journal are about to overwrite in place.
fn waiting(
    catalog: &Catalog<'_>,
    bad: &Bad,
    journal: Option<&mut Reader<'_>>,
) -> BTreeSet<(DiskId, Block)> {
    let mut asked = BTreeSet::new();
    let geometry = catalog.root.geometry;
    let mut segment = |versions: &[Version]| {
        for version in versions {
            let of = version.1.place.and_then(|place| bad.slots.get(&place));
            if let Some((of, disk)) = of.zip(written_in_place(catalog, version)) {
                let first = geometry.first_block(version.0.segment).0;
                let wrong = in_segment(&version.1, &of.wrong);
                let blocks = wrong.iter();
                asked.extend(blocks.map(|block| (disk, Block(first + block as u64))));
            }
        }
    };
    each_segment(catalog, &mut segment, &mut Vec::new());
    let mut waiting = BTreeSet::new();
    let Some(journal) = journal.filter(|_| !asked.is_empty()) else {
        return waiting;
    };
    // Disks with a marker, or a rollback, in their line: what comes behind it was not written yet.
    let (mut marked, mut stopped) = (BTreeSet::new(), BTreeSet::new());
    journal.scan(&mut Findings::default(), &mut |found| {
        let header = &found.header;
        match &found.body {
            Body::Op(op) if header.seq > catalog.marks.applied => match op {
                Op::Marker { targets, .. } => {
                    marked.extend(targets.iter().map(|it| it.disk));
                    stopped.extend(targets.iter().map(|it| it.disk));
                }
                Op::Rollback { disk, .. } => drop(stopped.insert(*disk)),
                op => {
                    // What nobody will see any more may be gone from the journal already.
                    if let Some(disk) = removed(op).filter(|disk| !marked.contains(disk)) {
                        let all = (disk, Block(0))..=(disk, Block(u64::MAX));
                        waiting.extend(asked.range(all).copied());
                    }
                }
            },
            Body::Write(_) | Body::Reference(_) if !stopped.contains(&header.disk) => {
                let applied = catalog.disks.get(&header.disk).map(|disk| disk.applied);
                if applied.is_some_and(|applied| header.seq > applied) {
                    let at = |block: u64| (header.disk, Block(header.block.0 + block));
                    for blocks in in_journal(&found.body, header.count) {
                        let range = at(blocks.start)..at(blocks.end);
                        waiting.extend(asked.range(range).copied());
                    }
                }
            }
            Body::Op(_) | Body::Write(_) | Body::Reference(_) | Body::Zero | Body::Skip(_) => {}
        }
    });
    waiting
}

/// The disk that goes away with an op.
fn removed(op: &Op) -> Option<DiskId> {
    match op {
        Op::Remove(disk) => Some(*disk),
        Op::Rename { over, .. } => over.filter(|over| !over.open).map(|over| over.disk),
        _ => None,
    }
}

/// The blocks of a write of so many whose data is in the journal. The others have slots already
/// and are not written again.
fn in_journal(body: &Body, count: u64) -> [std::ops::Range<u64>; 2] {
    match body {
        Body::Reference(reference) => {
            let head = u64::from(reference.head);
            [0..head, head + reference.lent()..count]
        }
        _ => [0..count, count..count],
    }
}
