//! Blocks, segments, and the arithmetic between them and bytes.

use super::{Block, SegmentNo, Slot};

/// Bytes in a block, the unit of checksums and of the cache.
pub const BLOCK: usize = 4096;
/// [`BLOCK`] for arithmetic on offsets.
pub const BLOCK_SIZE: u64 = BLOCK as u64;

/// The segment size of a store, fixed at `init`: a power of two from 64 KiB to 4 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// 4..=10: 16 to 1,024 blocks a segment; kept by [`Geometry::from_segment_bytes`].
    block_bits: u32,
}

/// A segment size that no store can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("segment size {0} is not a power of two from 64 KiB to 4 MiB")]
pub struct GeometryError(pub u64);

impl Geometry {
    /// The smallest segment, in bytes.
    pub const MIN_SEGMENT: u64 = 64 << 10;
    /// The largest segment, in bytes.
    pub const MAX_SEGMENT: u64 = 4 << 20;
    /// The segment unless chosen otherwise, in bytes.
    pub const DEFAULT_SEGMENT: u64 = 256 << 10;
    /// Blocks in the largest segment.
    pub const MAX_BLOCKS: usize = (Self::MAX_SEGMENT / BLOCK_SIZE) as usize;

    /// The geometry of segments of so many bytes.
    ///
    /// # Errors
    /// Where that is no power of two from 64 KiB to 4 MiB.
    pub fn from_segment_bytes(bytes: u64) -> Result<Self, GeometryError> {
        if !bytes.is_power_of_two() || !(Self::MIN_SEGMENT..=Self::MAX_SEGMENT).contains(&bytes) {
            return Err(GeometryError(bytes));
        }
        Ok(Self {
            block_bits: (bytes / BLOCK_SIZE).trailing_zeros(),
        })
    }

    /// Bytes in a segment.
    #[must_use]
    pub fn segment_bytes(self) -> u64 {
        BLOCK_SIZE << self.block_bits
    }

    /// Blocks in a segment.
    #[must_use]
    pub fn blocks(self) -> usize {
        1 << self.block_bits
    }

    /// The segment that holds a block, and the block's index in it.
    #[must_use]
    pub fn locate(self, block: Block) -> (SegmentNo, usize) {
        let index = block.0 & ((1 << self.block_bits) - 1);
        (SegmentNo(block.0 >> self.block_bits), index as usize)
    }

    /// The first block of a segment.
    #[must_use]
    pub fn first_block(self, segment: SegmentNo) -> Block {
        Block(segment.0 << self.block_bits)
    }

    /// The first block of a slot, counted from the first slot of the device.
    #[must_use]
    pub fn slot_block(self, slot: Slot) -> u64 {
        slot.0 << self.block_bits
    }
}

impl Default for Geometry {
    fn default() -> Self {
        Self {
            block_bits: (Self::DEFAULT_SEGMENT / BLOCK_SIZE).trailing_zeros(),
        }
    }
}

impl Block {
    /// The block that holds a byte of the disk.
    #[must_use]
    pub fn holding(byte: u64) -> Self {
        Self(byte / BLOCK_SIZE)
    }

    /// The disk offset of the block's first byte.
    #[must_use]
    pub fn byte(self) -> u64 {
        self.0 * BLOCK_SIZE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_outside_the_range_are_refused() {
        for bytes in [0, 4096, 32 << 10, 96 << 10, 8 << 20] {
            assert_eq!(
                Geometry::from_segment_bytes(bytes),
                Err(GeometryError(bytes))
            );
        }
        assert_eq!(
            Geometry::from_segment_bytes(256 << 10),
            Ok(Geometry::default())
        );
    }

    #[test]
    fn a_block_is_located_in_its_segment() {
        let geometry = Geometry::from_segment_bytes(64 << 10).unwrap();
        assert_eq!(geometry.blocks(), 16);
        assert_eq!(geometry.locate(Block(35)), (SegmentNo(2), 3));
        assert_eq!(geometry.first_block(SegmentNo(2)), Block(32));
    }
}
