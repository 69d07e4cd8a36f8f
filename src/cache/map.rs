//! A segment map as the cache holds it: the index over it and the origin under it.

use std::sync::Arc;

use super::index::Index;
use crate::base::sync::RwLock;
use crate::base::sync::atomic::{AtomicU64, Ordering};
use crate::base::{Block, Epoch, MapId, Seq};

/// How many stamps a map has; a write to one block moves one of them.
const STAMPS: usize = 512;

/// The snapshot under a clone.
#[derive(Clone)]
pub struct OriginState {
    /// The map that it is of.
    pub map: Arc<MapState>,
    /// The epoch that it ended.
    pub epoch: Epoch,
    /// Blocks from here on do not show through.
    pub limit: Block,
}

/// A map in memory, shared by its disk, its snapshots and the clones over it.
pub struct MapState {
    /// Its identity.
    pub id: MapId,
    /// What shows through where it has nothing.
    pub origin: Option<OriginState>,
    /// Locked after the queue where both are held; never across I/O.
    pub(super) index: RwLock<Index>,
    /// The newest record that touched a block with this hash; only rises, moved under the
    /// queue's lock. Lets a read-modify-write notice that what it read has changed.
    stamps: Box<[AtomicU64]>,
}

impl MapState {
    /// A map with nothing cached.
    #[must_use]
    pub fn new(id: MapId, origin: Option<OriginState>) -> Arc<Self> {
        let stamps = (0..STAMPS).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self {
            id,
            origin,
            index: RwLock::default(),
            stamps,
        })
    }

    /// What the cache knows of `count` blocks from `first`, as of `epoch`.
    pub fn find(
        &self,
        first: Block,
        count: u64,
        epoch: Epoch,
        mut each: impl FnMut(u64, super::Found),
    ) {
        let index = self.index.read();
        if index.is_empty() {
            return;
        }
        for block in first.0..first.0 + count {
            match index.find(Block(block), epoch) {
                super::Found::Nothing => {}
                found => each(block - first.0, found),
            }
        }
    }

    /// The first block in `from..to` that the cache knows of as of `epoch`.
    #[must_use]
    pub fn next_known(&self, from: u64, to: u64, epoch: Epoch) -> Option<u64> {
        self.index.read().next_known(from, to, epoch)
    }

    /// The newest record that may have touched the block.
    #[must_use]
    pub fn stamp(&self, block: Block) -> Seq {
        Seq(self.stamps[block.0 as usize % STAMPS].load(Ordering::Acquire))
    }

    /// Notes that a record touches these blocks.
    pub(super) fn touch(&self, first: u64, count: u64, seq: Seq) {
        for at in first..first + count.min(STAMPS as u64) {
            self.stamps[at as usize % STAMPS].store(seq.0, Ordering::Release);
        }
    }
}
