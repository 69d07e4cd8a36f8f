//! The bytes of a group of checksums: those of 64 neighbouring blocks of a device, as far as
//! they are recorded.

use super::FormatError;
use super::field::{Field, Fixed, split};
use crate::base::{Checksum, DeviceNo};

/// One bit for each block that has a checksum, the first block's lowest.
const PRESENT: Field<u64> = Field::FIRST;
const SUMS: usize = PRESENT.end();

const WHAT: &str = "checksum group";

/// A group of checksums as a tree's value.
pub struct SumGroup;

impl SumGroup {
    /// Blocks in a group.
    pub const BLOCKS: u64 = 64;
    /// Bytes of a group.
    pub const LEN: usize = SUMS + Self::BLOCKS as usize * size_of::<u32>();

    /// The key of the group that holds a block's checksum, and the block's index in it.
    #[must_use]
    pub fn locate(device: DeviceNo, block: u64) -> (u128, usize) {
        let group = block / Self::BLOCKS;
        let key = u128::from(device.0) << 64 | u128::from(group);
        (key, (block % Self::BLOCKS) as usize)
    }

    /// Which blocks have a checksum; `None` where the bytes are no group.
    ///
    /// # Errors
    /// Where the bytes are no group.
    pub fn present(value: &[u8]) -> Result<u64, FormatError> {
        let (group, _) = split(WHAT, value, Self::LEN)?;
        Ok(PRESENT.get(group))
    }

    /// A block's checksum, where it has one.
    ///
    /// # Errors
    /// Where the bytes are no group.
    pub fn get(value: &[u8], index: usize) -> Result<Option<Checksum>, FormatError> {
        let present = Self::present(value)? >> index & 1 == 1;
        let sum = || Checksum(u32::get(&value[SUMS + index * size_of::<u32>()..]));
        Ok(present.then(sum))
    }

    /// Sets the checksums of neighbouring blocks of the group.
    pub(crate) fn set(value: &mut [u8], index: usize, sums: &[Checksum]) {
        let run = u64::MAX >> (Self::BLOCKS as usize - sums.len().clamp(1, 64)) << index;
        let present = PRESENT.get(value) | run;
        PRESENT.put(value, present);
        let places = value[SUMS + index * size_of::<u32>()..].chunks_exact_mut(size_of::<u32>());
        for (sum, to) in sums.iter().zip(places) {
            sum.0.put(to);
        }
    }

    /// Forgets the checksums of these blocks.
    pub(crate) fn clear(value: &mut [u8], blocks: u64) {
        let present = PRESENT.get(value) & !blocks;
        PRESENT.put(value, present);
        let places = value[SUMS..].chunks_exact_mut(size_of::<u32>());
        for (index, to) in places.enumerate() {
            if blocks >> index & 1 == 1 {
                to.fill(0);
            }
        }
    }
}
