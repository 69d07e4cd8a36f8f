//! The ops that are due become one commit, which also says from where on the journal is needed.

use super::super::CacheError;
use super::super::ring::Ring;
use super::ops::Draft;
use super::round::Destager;
use crate::device::Step;
use crate::ondisk::Change;
use crate::store::PoolError;

/// Ops applied in one commit.
const MAX_OPS: usize = 512;

impl Destager {
    /// Applies all ops that are due, as one commit. Where the host has no space for it, they are
    /// queued as before.
    pub(super) fn apply_ops(&mut self) -> Result<(), CacheError> {
        let ops = self.cache.queue.lock().take_ready_ops(MAX_OPS);
        let Some(last) = ops.last().map(|op| op.seq) else {
            return Ok(());
        };
        self.cache.sync_for_destage(last)?;
        Step::OpsSynced.fails().map_err(PoolError::from)?;
        let view = self.cache.catalog.view();
        let mut draft = Draft::new(&view);
        ops.iter().try_for_each(|op| draft.apply(op))?;
        {
            let mut queue = self.cache.queue.lock();
            if let Some(ring) = &mut queue.ring {
                ops.iter().for_each(|op| ring.done(op.seq));
            }
            draft.marks = self.cache.marks(&queue, draft.marks);
        }
        let (reap, removed) = (
            std::mem::take(&mut draft.reap),
            std::mem::take(&mut draft.removed),
        );
        let changes = draft.changes()?;
        drop(view);
        let done = self.commit_ops(&changes);
        if let Err(error) = done {
            self.cache.queue.lock().put_back(ops);
            return Err(error);
        }
        self.reap(reap);
        let mut queue = self.cache.queue.lock();
        queue.applying = None;
        // Who sees that the queue has come past the ops sees this too.
        self.note_reaps(&mut queue);
        for disk in removed {
            queue.disks.remove(&disk);
        }
        self.take_stock(&mut queue);
        self.cache.note_crowd(&queue);
        drop(queue);
        self.cache.room.notify_all();
        Ok(())
    }

    fn commit_ops(&self, changes: &[Change]) -> Result<(), CacheError> {
        Step::OpsDrafted.fails().map_err(PoolError::from)?;
        self.cache.catalog.commit(changes)?;
        Step::OpsCommitted.passes();
        Ok(())
    }

    /// Frees journal space that is no longer needed but that no commit has said so of: records
    /// that recovery found applied. Without this a full journal would stay full, for want of
    /// anything to destage.
    pub(super) fn move_tail(&mut self) -> Result<(), CacheError> {
        let durable = self.cache.catalog.view().marks();
        let marks = {
            let queue = self.cache.queue.lock();
            let stale = queue.ring.as_ref().is_some_and(Ring::has_done_front);
            if queue.recovering || !stale {
                return Ok(());
            }
            self.cache.marks(&queue, durable)
        };
        self.cache.catalog.commit(&[Change::SetMarks(marks)])?;
        self.take_stock(&mut self.cache.queue.lock());
        self.cache.room.notify_all();
        Ok(())
    }
}
