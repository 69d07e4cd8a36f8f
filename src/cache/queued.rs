//! The slots that queued writes have their data in, for those who look at all the data there is.

use std::sync::{Arc, Weak};

use super::queue::Record;
use super::{Cache, Lent, MapState};
use crate::base::{DiskId, SegmentNo, Seq};

/// Records looked at under one lock.
const AT_ONCE: usize = 256;

/// Lent slots of a part of a disk's line.
pub struct QueuedLent {
    /// The last record that was looked at.
    pub last: Seq,
    /// Whose segment each is, and the slot. Not held: it may come back at any time.
    pub slots: Vec<(Arc<MapState>, SegmentNo, Weak<Lent>)>,
}

impl Cache {
    /// The lent slots of the next records of a disk's line after this one; nothing where none is
    /// left.
    #[must_use]
    pub fn queued_lent(&self, disk: DiskId, after: Seq) -> Option<QueuedLent> {
        let queue = self.queue.lock();
        let records = &queue.disks.get(&disk)?.records;
        let first = records.partition_point(|record| record.seq() <= after);
        let part = || records.range(first..).take(AT_ONCE);
        let last = part().last()?.seq();
        let mut slots = Vec::new();
        for record in part() {
            if let Record::Write(write) = record {
                let lent = write.content.lent_segments(write.block, self.geometry);
                let weak = |(segment, lent)| (write.map.clone(), segment, Arc::downgrade(lent));
                slots.extend(lent.map(weak));
            }
        }
        Some(QueuedLent { last, slots })
    }
}
