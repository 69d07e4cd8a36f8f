//! The way of an op into the queue.

use smallvec::SmallVec;

use super::queue::PendingOp;
use super::state::Cache;
use super::ticket::JournalWrite;
use super::{CacheError, Lines, Ticket};
use crate::base::{DiskId, now};
use crate::ondisk::journal::Op;

/// More bytes than the record of an op with two names has.
const ANY_OP: u64 = 4096;
/// More bytes than a disk takes in the record of a marker.
const EACH_DISK: u64 = 512;

impl Cache {
    /// Enters an op that names so many disks at the most. `build` makes it under the queue's lock
    /// and changes the lines to what holds after it. Returns nothing while the journal has no room: let go of all locks, say so by
    /// [`op_waits`](Self::op_waits), call [`wait_for_room`](Self::wait_for_room), and begin again.
    ///
    /// # Errors
    /// What `build` says, or that the store has halted or is closing.
    pub fn enter_op<E: From<CacheError>>(
        &self,
        disks: usize,
        build: impl FnOnce(&mut Lines<'_>) -> Result<(Op, SmallVec<[DiskId; 2]>), E>,
    ) -> Result<Option<Ticket>, E> {
        let mut queue = self.queue.lock();
        self.halt.check()?;
        if queue.closed {
            return Err(CacheError::Closed.into());
        }
        if self.is_overfull(&queue) {
            return Ok(None);
        }
        // The biggest that it can be, so that nothing has to be undone after `build`.
        let biggest = ANY_OP + disks as u64 * EACH_DISK;
        if let Some(ring) = &queue.ring
            && !ring.has_room(&[biggest.min(ring.size() / 4)], 0)
        {
            return Ok(None);
        }
        let time = now();
        let (op, disks) = build(&mut Lines::over(&mut queue, time))?;
        let seq = queue.next;
        let head = self.op_head(&op, seq, time);
        let Some(offsets) = self.place(&mut queue, seq, &[(head.clone(), 0)], 0)? else {
            return Ok(None);
        };
        queue.next = seq.next();
        if self.pause.is_paused() {
            // It may be a deletion.
            self.signals.help();
        }
        queue.push_op(PendingOp {
            seq,
            op,
            time,
            disks,
        });
        Ok(Some(Ticket {
            first: seq,
            last: seq,
            writes: offsets
                .iter()
                .map(|at| JournalWrite {
                    offset: *at,
                    head: head.clone(),
                    frames: Vec::new(),
                })
                .collect(),
        }))
    }
}
