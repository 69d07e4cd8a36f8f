//! The queue: records in one global order, kept a line for each disk.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::ring::Ring;
use super::space::Promises;
use super::{Content, MapState};
use crate::base::{Block, DeviceNo, DiskId, Epoch, Seq, Timestamp};
use crate::ondisk::journal::Op;

/// A queued write.
pub(super) struct WriteRecord {
    pub seq: Seq,
    pub map: Arc<MapState>,
    pub epoch: Epoch,
    pub block: Block,
    pub content: Content,
    pub size_after: Option<u64>,
    pub time: Timestamp,
}

/// A queued discard.
pub(super) struct ZeroRecord {
    pub seq: Seq,
    pub map: Arc<MapState>,
    pub epoch: Epoch,
    pub block: Block,
    pub count: u64,
    pub time: Timestamp,
}

/// What stands in a disk's line.
#[derive(Clone)]
pub(super) enum Record {
    Write(Arc<WriteRecord>),
    Zero(Arc<ZeroRecord>),
    /// An op over this disk: what follows it here waits until the op has been applied.
    Barrier(Seq),
}

impl Record {
    pub fn seq(&self) -> Seq {
        match self {
            Self::Write(write) => write.seq,
            Self::Zero(zero) => zero.seq,
            Self::Barrier(seq) => *seq,
        }
    }

    /// Bytes of data that wait with it, in the cache or in lent slots.
    pub fn data(&self) -> u64 {
        match self {
            Self::Write(write) => write.content.len() * crate::base::BLOCK_SIZE,
            Self::Zero(_) | Self::Barrier(_) => 0,
        }
    }

    /// Bytes of cache that it holds.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Write(write) => write.content.frames().len() as u64 * crate::base::BLOCK_SIZE,
            Self::Zero(_) | Self::Barrier(_) => 0,
        }
    }
}

/// A disk's line, and what the next record of the disk needs to know.
pub(super) struct DiskQueue {
    /// The map that writes go to.
    pub map: Arc<MapState>,
    /// The epoch that writes belong to; a marker ends it.
    pub epoch: Epoch,
    /// The disk's size in bytes, queued changes included. Stored only under the queue's lock;
    /// shared with those who only look.
    pub size: Arc<AtomicU64>,
    pub priority: u8,
    /// Oldest first.
    pub records: VecDeque<Record>,
    /// Bytes of data that wait with `records`.
    pub bytes: u64,
    /// The disk's removal has been entered: nothing may follow it.
    pub removed: bool,
}

/// An op that waits for the lines of its disks to reach it.
pub(super) struct PendingOp {
    pub seq: Seq,
    pub op: Op,
    pub time: Timestamp,
    /// The disks with a barrier for it.
    pub disks: SmallVec<[DiskId; 2]>,
}

/// All that is queued. One lock guards it, held for a few hundred nanoseconds and never across
/// I/O. Lock order: the namespace, then this, then a map's index.
pub(super) struct Queue {
    /// The number that the next record gets.
    pub next: Seq,
    /// Absent in volatile mode.
    pub ring: Option<Ring>,
    pub disks: FxHashMap<DiskId, DiskQueue>,
    /// Oldest first; applied in this order.
    pub ops: VecDeque<PendingOp>,
    pub promises: Promises,
    /// Something was deleted, and the destager is at freeing its space.
    pub reaping: bool,
    /// Devices with data of writes by reference that no sync has made durable yet.
    pub unsynced: BTreeSet<DeviceNo>,
    /// Bytes of cache that all records hold.
    pub bytes: u64,
    /// Records queued, ops among them.
    pub records: u64,
    /// The oldest of the ops that were taken out to be applied and are not durable yet.
    pub applying: Option<Seq>,
    /// Markers among the ops.
    pub markers: u64,
    /// Ops that wait for room. While there are any, appends leave to them what becomes free: an
    /// op wants room for the biggest that there can be, which small records would never leave.
    pub waiting_ops: u32,
    /// No more appends: the store is being closed.
    pub closed: bool,
    /// Blocks of records up to this one may be on a device without a commit that has their
    /// checksums: a batch that was cut short wrote some of them in place. Until all of them are
    /// destaged nobody but their readers, who find them in the index, may look at such blocks.
    pub unsettled: Seq,
    /// The journal is still being replayed: its end is not known yet.
    pub recovering: bool,
}

impl Queue {
    /// The oldest record that has not been destaged.
    pub fn oldest(&self) -> Option<Seq> {
        let fronts = self
            .disks
            .values()
            .filter_map(|disk| disk.records.front().map(Record::seq));
        fronts
            .chain(self.ops.front().map(|op| op.seq))
            .chain(self.applying)
            .min()
    }

    /// Whether the journal is more than half full.
    pub fn ring_is_filling(&self) -> bool {
        self.ring
            .as_ref()
            .is_some_and(|ring| ring.used() > ring.size() / 2)
    }

    /// Notes that a write lies in lent slots whose devices have to be synced with the journal.
    pub fn note_lent(&mut self, content: &Content) {
        let devices = content.lent().iter().map(|lent| lent.place().device);
        self.unsynced.extend(devices);
    }

    /// Lets the next record begin on a page of its own, since a sync is about to make the ones
    /// before it durable. Not while recovery still looks for the end.
    pub fn seal(&mut self) {
        if !self.recovering
            && let Some(ring) = &mut self.ring
        {
            ring.seal();
        }
    }

    /// Whether blocks on devices may differ from their checksums; see `unsettled`.
    pub fn is_unsettled(&self) -> bool {
        self.recovering || self.oldest().is_some_and(|oldest| oldest <= self.unsettled)
    }

    /// Blocks of any of the records queued now may be on a device, unknown to the catalog.
    pub fn unsettle(&mut self) {
        self.unsettled = Seq(self.next.0 - 1);
    }

    /// The number of the record that a disk's line begins with, where that is data.
    pub fn next_data(&self, disk: DiskId) -> Option<Seq> {
        match self.disks.get(&disk)?.records.front()? {
            Record::Barrier(_) => None,
            record => Some(record.seq()),
        }
    }

    /// The op that removes a disk, where no marker stands before it in the disk's line: then nobody
    /// will ever see the data that does.
    pub fn removal_of(&self, disk: DiskId) -> Option<Seq> {
        let line = self.disks.get(&disk).filter(|line| line.removed)?;
        let mut last = None;
        for record in &line.records {
            let Record::Barrier(seq) = record else {
                continue;
            };
            let at = self.ops.binary_search_by_key(seq, |op| op.seq).ok()?;
            if matches!(self.ops[at].op, Op::Marker { .. }) {
                return None;
            }
            last = Some(*seq);
        }
        last
    }

    /// Enters an op and its barriers.
    pub fn push_op(&mut self, op: PendingOp) {
        for disk in &op.disks {
            if let Some(queue) = self.disks.get_mut(disk) {
                queue.records.push_back(Record::Barrier(op.seq));
            }
        }
        self.records += 1;
        self.markers += u64::from(matches!(op.op, Op::Marker { .. }));
        self.ops.push_back(op);
    }

    /// Whether the oldest op's disks have all reached it.
    pub fn op_ready(&self) -> bool {
        let Some(op) = self.ops.front() else {
            return false;
        };
        op.disks
            .iter()
            .filter_map(|disk| self.disks.get(disk))
            .all(|queue| {
                let front = queue.records.front();
                front.is_some_and(|record| matches!(record, Record::Barrier(seq) if *seq == op.seq))
            })
    }

    /// Takes out up to `most` of the oldest ops with their barriers, as far as their disks have
    /// reached them. They count as queued until `applying` is cleared.
    pub fn take_ready_ops(&mut self, most: usize) -> Vec<PendingOp> {
        self.applying = self.ops.front().map(|op| op.seq);
        let mut taken = Vec::new();
        while taken.len() < most && self.op_ready() {
            taken.extend(self.pop_op());
        }
        taken
    }

    /// Undoes [`take_ready_ops`](Self::take_ready_ops): the ops were not applied.
    pub fn put_back(&mut self, ops: Vec<PendingOp>) {
        for op in ops.into_iter().rev() {
            for disk in &op.disks {
                if let Some(queue) = self.disks.get_mut(disk) {
                    queue.records.push_front(Record::Barrier(op.seq));
                }
            }
            if let Some(ring) = &mut self.ring {
                ring.undone(op.seq);
            }
            self.records += 1;
            self.markers += u64::from(matches!(op.op, Op::Marker { .. }));
            self.ops.push_front(op);
        }
        self.applying = None;
    }

    fn pop_op(&mut self) -> Option<PendingOp> {
        let op = self.ops.pop_front()?;
        for disk in &op.disks {
            if let Some(queue) = self.disks.get_mut(disk) {
                queue.records.pop_front();
            }
        }
        self.records -= 1;
        self.markers -= u64::from(matches!(op.op, Op::Marker { .. }));
        Some(op)
    }
}
