//! Blocks read from devices, each checked against its checksum (P8).

use super::{CatalogError, Pool, PoolError, View};
use crate::base::{BLOCK, Checksum, Place, checksum};

/// Why blocks can't be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BlockError {
    /// The device failed.
    #[error("can't read {place} block {block}: {source}")]
    Device {
        /// Which segment.
        place: Place,
        /// Which block of it.
        block: usize,
        /// The host's word.
        source: PoolError,
    },
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// What was read is not what was written.
    #[error(
        "damaged: {place} block {block} has checksum {computed}, {stored} was recorded when it was written"
    )]
    Checksum {
        /// Which segment.
        place: Place,
        /// Which block of it.
        block: usize,
        /// What was recorded.
        stored: Checksum,
        /// What was read.
        computed: Checksum,
    },
}

impl BlockError {
    /// The device failed to give blocks from `block` on.
    #[must_use]
    pub fn of_device(place: Place, block: usize, source: PoolError) -> Self {
        Self::Device {
            place,
            block,
            source,
        }
    }

    /// Where the block lies, if that is known: the segment, and which block of it.
    #[must_use]
    pub fn at(&self) -> Option<(Place, usize)> {
        match self {
            Self::Device { place, block, .. } | Self::Checksum { place, block, .. } => {
                Some((*place, *block))
            }
            Self::Catalog(_) => None,
        }
    }
}

/// Fills `buf`, whole blocks, from block `first` of a slot, and checks each against what `view`
/// has recorded. Returns the checksums.
///
/// # Errors
/// Where the device or the catalog can't be read, or a block does not match. A mismatch may only
/// mean that the block was destaged over while being read: look again with a fresh view before
/// calling it damage.
pub fn read_blocks(
    pool: &Pool,
    view: &View,
    place: Place,
    first: usize,
    buf: &mut [u8],
) -> Result<Vec<Checksum>, BlockError> {
    let count = buf.len() / BLOCK;
    let mut sums = vec![Checksum(0); count];
    let at = view.geometry().slot_block(place.slot) + first as u64;
    view.checksums(place.device, at, &mut sums)?;
    pool.read(place, first, buf)
        .map_err(|source| BlockError::of_device(place, first, source))?;
    let is_right = |(data, stored): (&[u8], &Checksum)| checksum(data) == *stored;
    if !buf.chunks_exact(BLOCK).zip(&sums).all(is_right) {
        // The host may hold what is on the medium no more: a write past its cache came while another
        // read it in. Whoever lost the race with a destage looks again anyway.
        let _ = pool.read_uncached(place.device, at, buf);
    }
    for (block, (data, stored)) in buf.chunks_exact(BLOCK).zip(&sums).enumerate() {
        let computed = checksum(data);
        if computed != *stored {
            return Err(BlockError::Checksum {
                place,
                block: first + block,
                stored: *stored,
                computed,
            });
        }
    }
    Ok(sums)
}
