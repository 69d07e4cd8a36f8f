//! Memory for reads that pass by the host's page cache: these want it aligned.

use std::ops::{Deref, DerefMut};

use crate::base::BLOCK;

/// Bytes whose first is at a multiple of [`BLOCK`] in memory.
pub struct AlignedBuf {
    bytes: Vec<u8>,
    /// Where the first aligned byte is; `bytes` never grows, so it stays there.
    start: usize,
    len: usize,
}

impl AlignedBuf {
    /// So many zeros.
    #[must_use]
    pub fn new(len: usize) -> Self {
        let bytes = vec![0; len + BLOCK];
        let start = bytes.as_ptr().align_offset(BLOCK);
        // For bytes it can always be told; without an answer nothing is aligned, and no harm done.
        let start = if start < BLOCK { start } else { 0 };
        Self { bytes, start, len }
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..][..self.len]
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..][..self.len]
    }
}
