//! Memory for data on its way through a socket, used again and again: fresh pages cost more than the
//! copy into them.

use std::ops::{Deref, DerefMut};

use parking_lot::Mutex;

/// The smallest buffer, as a power of two.
const SMALLEST: u32 = 9;
/// The largest that is kept, as a power of two.
const LARGEST: u32 = 21;
/// Bytes that are kept for later, all sizes together.
const KEPT: usize = 16 << 20;

/// Buffers that nobody uses just now, by size.
struct Idle {
    by_size: [Vec<Vec<u8>>; (LARGEST - SMALLEST + 1) as usize],
    bytes: usize,
}

static IDLE: Mutex<Idle> = Mutex::new(Idle {
    by_size: [const { Vec::new() }; (LARGEST - SMALLEST + 1) as usize],
    bytes: 0,
});

/// Some bytes. What is in them at first is anything.
pub struct Buffer {
    bytes: Vec<u8>,
    len: usize,
}

impl Buffer {
    /// So many bytes.
    #[must_use]
    pub fn new(len: usize) -> Self {
        let bits = len.next_power_of_two().ilog2().max(SMALLEST);
        let idle = (bits <= LARGEST).then(|| {
            let mut idle = IDLE.lock();
            let found = idle.by_size[(bits - SMALLEST) as usize].pop();
            idle.bytes -= found.as_ref().map_or(0, Vec::len);
            found
        });
        let bytes = idle.flatten().unwrap_or_else(|| vec![0; 1 << bits]);
        Self { bytes, len }
    }

    /// A copy.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut buffer = Self::new(bytes.len());
        buffer.copy_from_slice(bytes);
        buffer
    }

    /// Lends its memory: until it has that back, it is empty.
    pub fn lend(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// Takes back what was lent.
    pub fn take_back(&mut self, bytes: Vec<u8>) {
        self.bytes = bytes;
    }

    /// Keeps the first so many.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        // What was lent and not given back is another's.
        let Some(bits) = bytes.len().checked_ilog2() else {
            return;
        };
        let mut idle = IDLE.lock();
        if bits <= LARGEST && idle.bytes + bytes.len() <= KEPT {
            idle.bytes += bytes.len();
            idle.by_size[(bits - SMALLEST) as usize].push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_size_can_be_had() {
        for len in [0, 1, 512, 513, 4096, 100_000, 5 << 20] {
            let mut buffer = Buffer::new(len);
            assert_eq!(buffer.len(), len);
            buffer.fill(7);
            buffer.truncate(len / 2);
            assert_eq!(buffer.len(), len / 2);
        }
        assert_eq!(*Buffer::of(&[1, 2, 3]), [1, 2, 3]);
        assert!(IDLE.lock().bytes <= KEPT);
    }
}
