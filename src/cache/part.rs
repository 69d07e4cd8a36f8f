//! What a change to a disk consists of, and how a piece of it enters line and index.

use std::sync::Arc;

use smallvec::SmallVec;

use super::index::Index;
use super::queue::{Record, WriteRecord, ZeroRecord};
use super::space::ClaimKey;
use super::{Content, Frame, MapState};
use crate::base::{Block, DiskId, Epoch, Geometry, MapId, Seq, Timestamp};
use crate::ondisk::journal::Op;

/// One record's worth of change to a disk.
pub enum Part {
    /// Data from a block on.
    Write {
        /// The first block.
        block: Block,
        /// The data.
        content: Content,
    },
    /// So many blocks read as zeros.
    Zero {
        /// The first block.
        block: Block,
        /// How many.
        count: u64,
    },
}

/// What was looked at to make an append.
pub struct ReliesOn {
    /// The map that the disk had.
    pub map: MapId,
    /// Blocks, with the stamps that they had before they were read.
    pub stamps: SmallVec<[(Block, Seq); 2]>,
    /// The disk's size, where it matters.
    pub size: Option<u64>,
}

/// Changes to a disk that enter the queue next to each other, and that a crash leaves all or none of.
pub struct Append {
    /// The disk.
    pub disk: DiskId,
    /// At least one.
    pub parts: SmallVec<[Part; 3]>,
    /// Where the last byte written ends, if the disk may have to grow.
    pub end: Option<u64>,
    /// What the content rests on. If it has changed, nothing is appended.
    pub relies_on: Option<ReliesOn>,
    /// An op to enter right behind.
    pub then: Option<Op>,
}

impl Append {
    /// These parts, and nothing else.
    #[must_use]
    pub fn of(disk: DiskId, parts: SmallVec<[Part; 3]>) -> Self {
        Self {
            disk,
            parts,
            end: None,
            relies_on: None,
            then: None,
        }
    }

    /// Whether it has more to it than discards.
    pub(super) fn brings_data(&self) -> bool {
        let is_write = |part: &Part| matches!(part, Part::Write { .. });
        self.parts.iter().any(is_write)
    }

    /// The segments that its writes touch.
    pub(super) fn claim_keys(
        &self,
        geometry: Geometry,
        map: MapId,
        epoch: Epoch,
    ) -> SmallVec<[ClaimKey; 4]> {
        self.parts
            .iter()
            .flat_map(|part| claim_keys(geometry, part, map, epoch))
            .collect()
    }
}

/// The segments that a part needs a slot for: those that it writes to by reference have one.
pub(super) fn claim_keys(
    geometry: Geometry,
    part: &Part,
    map: MapId,
    epoch: Epoch,
) -> impl Iterator<Item = ClaimKey> + use<> {
    let segments = match part {
        Part::Write { block, content } => Some(content.framed_segments(*block, geometry)),
        Part::Zero { .. } => None,
    };
    let key = move |segment| ClaimKey {
        map,
        epoch,
        segment,
    };
    segments.into_iter().flatten().map(key)
}

/// Puts a part into the index, and makes its record.
pub(super) fn enter_part(
    index: &mut Index,
    part: &Part,
    (map, epoch, seq): (&Arc<MapState>, Epoch, Seq),
    size_after: Option<u64>,
    time: Timestamp,
) -> (Record, Vec<Arc<Frame>>) {
    match part {
        Part::Write { block, content } => {
            for (at, frame) in content.framed(*block) {
                index.insert(at, frame.clone(), epoch, seq);
            }
            for (first, lent) in content.lent_from(*block) {
                index.insert_lent(first, lent.clone(), epoch, seq);
            }
            map.touch(block.0, content.len(), seq);
            let frames = content.frames().to_vec();
            let write = WriteRecord {
                seq,
                map: map.clone(),
                epoch,
                block: *block,
                content: content.clone(),
                size_after,
                time,
            };
            (Record::Write(Arc::new(write)), frames)
        }
        Part::Zero { block, count } => {
            index.zero(block.0..block.0 + count, epoch, seq);
            map.touch(block.0, *count, seq);
            let zero = ZeroRecord {
                seq,
                map: map.clone(),
                epoch,
                block: *block,
                count: *count,
                time,
            };
            (Record::Zero(Arc::new(zero)), Vec::new())
        }
    }
}
