//! Takes the oldest data records of each disk, and turns them into updates of segments.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::super::MapState;
use super::super::queue::{Queue, Record, WriteRecord, ZeroRecord};
use super::super::space::ClaimKey;
use super::segment::Update;
use crate::base::{BlockMask, DiskId, Epoch, Geometry, SegmentNo, Seq, Timestamp};

/// Records taken in one go at the most.
const MAX_RECORDS: usize = 16 << 10;
/// Segments that one go touches, about, so that one commit stays small: each has versions to change, in
/// a page of its own where it has many.
const MAX_SEGMENTS: u64 = 6 << 10;
/// A discard over more segments than this goes alone, since it may touch very many.
const WIDE: u64 = 64;

/// The oldest data records of a disk up to its next op: all of one map and epoch.
pub(super) struct Run {
    pub disk: DiskId,
    pub map: Arc<MapState>,
    pub epoch: Epoch,
    /// At least one; still in the disk's line too, until the commit.
    pub records: Vec<Record>,
}

/// What a finished run lets go of.
pub(super) struct Settled {
    pub key: ClaimKey,
    pub writes: u32,
    pub has_slot: bool,
}

/// Takes runs of up to `limit` bytes together, of one disk alone if it is named. Where the journal is filling, the disk with the
/// oldest record goes first; else the one with the highest priority.
pub(super) fn collect(
    queue: &Queue,
    geometry: Geometry,
    limit: u64,
    by_age: bool,
    only: Option<DiskId>,
) -> Vec<Run> {
    let by_age = by_age || queue.ring_is_filling();
    let mut order: Vec<_> = queue
        .disks
        .iter()
        .filter(|(id, _)| only.is_none_or(|only| **id == only))
        .filter_map(|(id, disk)| Some((id, disk, disk.records.front()?.seq())))
        .collect();
    order.sort_by_key(|(_, disk, seq)| (if by_age { 0 } else { u8::MAX - disk.priority }, *seq));
    let (mut runs, mut left) = (Vec::new(), Left::of(limit));
    for (id, disk, _) in order {
        if left.is_nothing() {
            break;
        }
        let run = take(&disk.records, geometry, &mut left);
        if let Some((map, epoch)) = run.first().and_then(place_of) {
            runs.push(Run {
                disk: *id,
                map,
                epoch,
                records: run,
            });
        }
    }
    runs
}

fn place_of(record: &Record) -> Option<(Arc<MapState>, Epoch)> {
    match record {
        Record::Write(write) => Some((write.map.clone(), write.epoch)),
        Record::Zero(zero) => Some((zero.map.clone(), zero.epoch)),
        Record::Barrier(_) => None,
    }
}

/// What a go may still take.
struct Left {
    bytes: u64,
    records: usize,
    segments: u64,
}

impl Left {
    fn of(bytes: u64) -> Self {
        Self {
            bytes,
            records: MAX_RECORDS,
            segments: MAX_SEGMENTS,
        }
    }

    fn is_nothing(&self) -> bool {
        self.bytes == 0 || self.records == 0 || self.segments == 0
    }

    /// A record is taken that touches so many segments that none before it did.
    fn spend(&mut self, record: &Record, segments: u64) {
        self.bytes = self.bytes.saturating_sub(record.bytes());
        self.records -= 1;
        self.segments = self.segments.saturating_sub(segments);
    }
}

fn take(line: &VecDeque<Record>, geometry: Geometry, left: &mut Left) -> Vec<Record> {
    let mut run = Vec::new();
    let (mut touched, mut adopted) = (FxHashSet::default(), FxHashSet::default());
    for record in line {
        match record {
            Record::Barrier(_) => break,
            Record::Zero(zero) if is_wide(zero, geometry) => {
                if run.is_empty() {
                    run.push(record.clone());
                }
                break;
            }
            Record::Write(write) if overlays(write, &adopted, geometry) => break,
            _ => {}
        }
        if left.is_nothing() {
            break;
        }
        let before = touched.len();
        touched.extend(touches(record, geometry));
        left.spend(record, (touched.len() - before) as u64);
        if let Record::Write(write) = record {
            let lent = write.content.lent_segments(write.block, geometry);
            adopted.extend(lent.map(|(segment, _)| segment));
        }
        run.push(record.clone());
    }
    run
}

/// The segments that a record is about.
fn touches(record: &Record, geometry: Geometry) -> impl Iterator<Item = u64> + use<> {
    let (first, count) = match record {
        Record::Write(write) => (write.block.0, write.content.len()),
        Record::Zero(zero) => (zero.block.0, zero.count),
        Record::Barrier(_) => (0, 0),
    };
    let blocks = geometry.blocks() as u64;
    first / blocks..(first + count).div_ceil(blocks)
}

/// Whether a write goes over a segment that the same run adopts. It must wait for the commit: until
/// that says that the earlier record is applied, recovery takes the slot's data for the record's.
fn overlays(write: &WriteRecord, adopted: &FxHashSet<SegmentNo>, geometry: Geometry) -> bool {
    let mut segments = write.content.framed_segments(write.block, geometry);
    !adopted.is_empty() && segments.any(|segment| adopted.contains(&segment))
}

fn is_wide(zero: &ZeroRecord, geometry: Geometry) -> bool {
    zero.count > WIDE * geometry.blocks() as u64
}

impl Run {
    /// The wide discard that the run consists of, if it does.
    pub fn wide_zero(&self, geometry: Geometry) -> Option<&ZeroRecord> {
        match self.records.first() {
            Some(Record::Zero(zero)) if is_wide(zero, geometry) => Some(zero),
            _ => None,
        }
    }

    /// The number of its last record.
    pub fn last(&self) -> Seq {
        self.records.last().map_or(Seq(0), Record::seq)
    }

    /// Bytes of cache that its records hold.
    pub fn bytes(&self) -> u64 {
        self.records.iter().map(Record::bytes).sum()
    }

    /// The last time at which one of its records was appended.
    pub fn time(&self) -> Timestamp {
        let time = |record: &Record| match record {
            Record::Write(write) => write.time,
            Record::Zero(zero) => zero.time,
            Record::Barrier(_) => Timestamp(0),
        };
        self.records.iter().map(time).max().unwrap_or_default()
    }

    /// The disk's size after it, where it grew.
    pub fn size_after(&self) -> Option<u64> {
        let grown = self.records.iter().filter_map(|record| match record {
            Record::Write(write) => write.size_after,
            _ => None,
        });
        grown.max()
    }

    /// What it brings to each segment, later records over earlier ones.
    pub fn updates(&self, geometry: Geometry) -> BTreeMap<SegmentNo, Update> {
        let mut updates = BTreeMap::<SegmentNo, Update>::new();
        for record in &self.records {
            match record {
                Record::Write(write) => {
                    let mut counted = None;
                    for (segment, lent) in write.content.lent_segments(write.block, geometry) {
                        updates.entry(segment).or_default().adopt(lent.clone());
                    }
                    for (at, frame) in write.content.framed(write.block) {
                        let (segment, index) = geometry.locate(at);
                        let update = updates.entry(segment).or_default();
                        update.set(index, frame.clone());
                        if counted.replace(segment) != Some(segment) {
                            update.writes += 1;
                        }
                    }
                }
                Record::Zero(zero) => {
                    for (segment, blocks) in
                        segments(zero.block.0, zero.block.0 + zero.count, geometry)
                    {
                        updates.entry(segment).or_default().clear(&blocks, geometry);
                    }
                }
                Record::Barrier(_) => {}
            }
        }
        updates
    }

    /// Takes its records out of the index; the segment map has them now.
    pub fn leave_index(&self) {
        let mut index = self.map.index.write();
        for record in &self.records {
            match record {
                Record::Write(write) => {
                    for (at, _) in write.content.framed(write.block) {
                        index.remove(at, write.seq);
                    }
                    for (first, _) in write.content.lent_from(write.block) {
                        index.remove_lent(first, write.seq);
                    }
                }
                Record::Zero(zero) => {
                    index.remove_zero(
                        zero.block.0..zero.block.0 + zero.count,
                        zero.epoch,
                        zero.seq,
                    );
                }
                Record::Barrier(_) => {}
            }
        }
    }

    /// Takes its records out of the disk's line.
    pub fn leave_line(&self, queue: &mut Queue) {
        let bytes = self.bytes();
        queue.bytes -= bytes;
        queue.records -= self.records.len() as u64;
        if let Some(disk) = queue.disks.get_mut(&self.disk) {
            disk.records.drain(..self.records.len());
            disk.bytes -= self.records.iter().map(Record::data).sum::<u64>();
        }
    }
}

/// The segments of the blocks `from..to`, each with its blocks among them.
pub(super) fn segments(
    from: u64,
    to: u64,
    geometry: Geometry,
) -> impl Iterator<Item = (SegmentNo, BlockMask)> {
    let blocks = geometry.blocks() as u64;
    (from / blocks..to.div_ceil(blocks)).map(move |segment| {
        let first = segment * blocks;
        let (low, high) = (from.max(first) - first, to.min(first + blocks) - first);
        (
            SegmentNo(segment),
            BlockMask::range(low as usize, high as usize),
        )
    })
}

/// Notes in the ring that the runs' records are no longer needed, once the commit that says so
/// is durable.
pub(super) fn mark_done(queue: &mut Queue, runs: &[Run]) {
    if let Some(ring) = &mut queue.ring {
        runs.iter()
            .flat_map(|run| &run.records)
            .for_each(|record| ring.done(record.seq()));
    }
}

/// There was no such commit.
pub(super) fn mark_undone(queue: &mut Queue, runs: &[Run]) {
    if let Some(ring) = &mut queue.ring {
        runs.iter()
            .flat_map(|run| &run.records)
            .for_each(|record| ring.undone(record.seq()));
    }
}

/// Claims by segment, merged, of what the runs settled.
pub(super) fn settle(queue: &mut Queue, settled: Vec<Settled>) {
    let mut merged = FxHashMap::<ClaimKey, (u32, bool)>::default();
    for one in settled {
        let entry = merged.entry(one.key).or_default();
        *entry = (entry.0 + one.writes, one.has_slot);
    }
    for (key, (writes, has_slot)) in merged {
        queue.promises.settle(key, writes, has_slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Block;
    use crate::base::MapId;

    #[test]
    fn many_narrow_discards_are_bounded_by_their_segments() {
        let geometry = Geometry::from_segment_bytes(64 << 10).unwrap();
        let map = MapState::new(MapId(1), None);
        let count = WIDE * geometry.blocks() as u64;
        let zero = |seq: u64| {
            Record::Zero(Arc::new(ZeroRecord {
                seq: Seq(seq),
                map: map.clone(),
                epoch: Epoch::FIRST,
                block: Block(seq * count),
                count,
                time: Timestamp(0),
            }))
        };
        let line: VecDeque<Record> = (0..MAX_RECORDS as u64).map(zero).collect();
        let mut left = Left::of(1 << 20);
        let run = take(&line, geometry, &mut left);
        assert_eq!(run.len() as u64, MAX_SEGMENTS / WIDE);
        assert!(left.is_nothing(), "another disk's would come on top");
        // One that touches more than all that is left goes too: nothing may wait for ever.
        left.segments = 1;
        assert_eq!(take(&line, geometry, &mut left).len(), 1);
    }
}
