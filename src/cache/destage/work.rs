//! What a round is going to do: blocks to write, slots to take and give up, changes to commit.

use std::io::IoSlice;
use std::sync::Arc;

use super::super::{CacheError, Frame};
use super::allocate::take_changes;
use crate::base::{BLOCK, BlockMask, Checksum, DeviceNo, Geometry, Place};
use crate::ondisk::Change;
use crate::store::{Pool, View, read_blocks};

/// A block's new content.
pub(super) enum Data {
    /// From the cache.
    Frame(Arc<Frame>),
    /// Read from another slot, and checked.
    Copy(Box<[u8]>, Checksum),
}

impl Data {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Frame(frame) => frame,
            Self::Copy(bytes, _) => bytes,
        }
    }

    fn checksum(&self) -> Checksum {
        match self {
            Self::Frame(frame) => frame.checksum(),
            Self::Copy(_, sum) => *sum,
        }
    }
}

/// The work of one commit.
#[derive(Default)]
pub(super) struct Work {
    writes: Vec<(Place, usize, Data)>,
    taken: Vec<Place>,
    /// Slots given up; they go to the pending list with the commit.
    retired: Vec<Place>,
    /// Blocks of slots still in use whose data is no longer needed.
    punches: Vec<(Place, BlockMask)>,
    /// Changes of records and versions, in order.
    pub changes: Vec<Change>,
}

impl Work {
    pub fn write(&mut self, place: Place, block: usize, data: Data) {
        self.writes.push((place, block, data));
    }

    pub fn took(&mut self, place: Place) {
        self.taken.push(place);
    }

    pub fn retire(&mut self, place: Place) {
        self.retired.push(place);
    }

    pub fn punch(&mut self, place: Place, blocks: BlockMask) {
        if !blocks.is_empty() {
            self.punches.push((place, blocks));
        }
    }

    /// Bytes that it writes.
    pub fn bytes(&self) -> u64 {
        self.writes.len() as u64 * BLOCK as u64
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.writes.is_empty() && self.retired.is_empty()
    }

    /// Slots that the commit gives up.
    pub fn retired(&self) -> &[Place] {
        &self.retired
    }

    /// Reads blocks of a slot, checks them, and writes them to the same blocks of another.
    pub fn copy(
        &mut self,
        pool: &Pool,
        view: &View,
        from: Place,
        to: Place,
        blocks: &BlockMask,
    ) -> Result<(), CacheError> {
        for run in blocks.runs() {
            let mut buf = vec![0; run.len() * BLOCK];
            let sums = read_blocks(pool, view, from, run.start, &mut buf)?;
            for ((block, data), sum) in run.zip(buf.chunks_exact(BLOCK)).zip(sums) {
                self.write(to, block, Data::Copy(data.into(), sum));
            }
        }
        Ok(())
    }

    /// Writes all data, makes it durable, and adds what the commit must say of it. Returns the
    /// bytes written.
    pub fn store(&mut self, pool: &Pool, geometry: Geometry) -> Result<u64, CacheError> {
        self.writes
            .sort_by_key(|(place, block, _)| (*place, *block));
        let mut sums: Vec<Change> = Vec::new();
        let mut devices: Vec<DeviceNo> = Vec::new();
        let runs = self.writes.chunk_by(|a, b| a.0 == b.0 && a.1 + 1 == b.1);
        for run in runs {
            let Some((place, first, _)) = run.first() else {
                continue;
            };
            let bufs: Vec<IoSlice<'_>> = run
                .iter()
                .map(|(_, _, data)| IoSlice::new(data.bytes()))
                .collect();
            pool.write(*place, *first, &bufs)?;
            let at = geometry.slot_block(place.slot) + *first as u64;
            push_sums(
                &mut sums,
                place.device,
                at,
                run.iter().map(|(_, _, data)| data.checksum()),
            );
            if devices.last() != Some(&place.device) {
                devices.push(place.device);
            }
        }
        pool.sync(&devices)?;
        let bytes = self.bytes();
        self.writes.clear();
        let mut changes = take_changes(std::mem::take(&mut self.taken));
        changes.append(&mut self.changes);
        changes.append(&mut sums);
        changes.extend(self.retired.iter().map(|place| Change::Retire(*place)));
        self.changes = changes;
        Ok(bytes)
    }

    /// After the commit: gives the host the blocks that are no longer needed. A reader that still
    /// looks at one finds that its checksum does not match, and looks again.
    pub fn punch_blocks(&mut self, pool: &Pool) -> Result<(), CacheError> {
        for (place, blocks) in self.punches.drain(..) {
            for run in blocks.runs() {
                pool.punch(place, run)?;
            }
        }
        Ok(())
    }
}

fn push_sums(
    changes: &mut Vec<Change>,
    device: DeviceNo,
    first: u64,
    sums: impl Iterator<Item = Checksum>,
) {
    match changes.last_mut() {
        Some(Change::PutChecksums {
            device: of,
            first: start,
            sums: before,
        }) if *of == device && *start + before.len() as u64 == first => {
            before.extend(sums);
        }
        _ => changes.push(Change::PutChecksums {
            device,
            first,
            sums: sums.collect(),
        }),
    }
}
