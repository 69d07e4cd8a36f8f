//! One page-aligned buffer a thread, reused from read to read.

use std::cell::RefCell;

use crate::base::BLOCK;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Calls `work` with this thread's buffer, `len` bytes of it, aligned to a block. What is in them
/// is left from an earlier read: `work` says how many it filled and shows no others.
///
/// Must not be nested; a nested call gets a buffer of its own.
pub(super) fn with_buffer<T>(len: usize, work: impl FnOnce(&mut [u8]) -> T) -> T {
    BUFFER.with(|cell| match cell.try_borrow_mut() {
        Ok(mut buffer) => work(aligned(&mut buffer, len)),
        Err(_) => work(aligned(&mut Vec::new(), len)),
    })
}

fn aligned(buffer: &mut Vec<u8>, len: usize) -> &mut [u8] {
    if buffer.len() < len + BLOCK {
        *buffer = vec![0; len + BLOCK];
    }
    let skip = buffer.as_ptr().align_offset(BLOCK);
    // `align_offset` may give up by contract; then alignment is lost and nothing else.
    let skip = if skip < BLOCK { skip } else { 0 };
    &mut buffer[skip..skip + len]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_grow_and_nest() {
        for len in [1, 4096, 100, 1 << 20] {
            with_buffer(len, |outer| {
                assert_eq!((outer.len(), outer.as_ptr().align_offset(BLOCK)), (len, 0));
                with_buffer(10, |inner| assert_ne!(inner.as_ptr(), outer.as_ptr()));
            });
        }
    }
}
