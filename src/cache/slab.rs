//! Memory for blocks of data, had from the kernel at once and kept for good.

use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};

use crate::base::BLOCK;

/// Memory for one block, aligned as direct I/O wants it.
#[repr(align(4096))]
pub(super) struct Page(pub(super) [u8; BLOCK]);

const _: () = assert!(size_of::<Page>() == BLOCK);

/// Pages of pools that are gone, for the next one.
static SPARE: Mutex<Vec<&'static mut Page>> = Mutex::new(Vec::new());

/// So many pages, each of them backed by memory: a write finds no page missing later, when memory
/// is short because of dirty pages above this very store.
///
/// # Errors
/// What the kernel says where there is not so much.
pub(super) fn take(count: usize) -> Result<Vec<&'static mut Page>, Errno> {
    let mut pages = {
        let mut spare = SPARE.lock();
        let keep = spare.len().saturating_sub(count);
        spare.split_off(keep)
    };
    let missing = count - pages.len();
    if missing > 0 {
        match map(missing) {
            Ok(fresh) => pages.extend(fresh),
            Err(error) => {
                give_back(pages);
                return Err(error);
            }
        }
    }
    Ok(pages)
}

/// Keeps pages for the next one who takes some.
pub(super) fn give_back(mut pages: Vec<&'static mut Page>) {
    SPARE.lock().append(&mut pages);
}

/// New memory. Huge pages where there are any: faulting in 4 KiB at a time takes several times as
/// long, and a store is to open at once (P12).
#[expect(unsafe_code, reason = "mappings have no safe wrapper")]
fn map(count: usize) -> Result<&'static mut [Page], Errno> {
    let bytes = count.checked_mul(BLOCK).ok_or(Errno::NOMEM)?;
    let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    // SAFETY: a new private mapping at a place that the kernel chooses touches nobody's memory.
    let start = unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, protection, flags)? };
    // SAFETY: `start` and `bytes` are those of the mapping; this advice changes no content. That a
    // kernel has no huge pages costs time alone.
    let _ = unsafe { madvise(start, bytes, Advice::LinuxHugepage) };
    // SAFETY: as above; populating leaves the zeros that the mapping consists of.
    match unsafe { madvise(start, bytes, Advice::LinuxPopulateWrite) } {
        // Before Linux 5.14: each page is had when it is first written to.
        Ok(()) | Err(Errno::INVAL) => {}
        Err(error) => {
            // SAFETY: the mapping is this function's own, and nothing refers to it.
            let _ = unsafe { rustix::mm::munmap(start, bytes) };
            return Err(error);
        }
    }
    // SAFETY: the mapping has `count` pages of zeros, which are valid as bytes, is aligned to them,
    // is never unmapped, and is handed out here alone.
    Ok(unsafe { std::slice::from_raw_parts_mut(start.cast::<Page>(), count) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_aligned_zero_and_used_again() {
        let mut pages = take(600).unwrap();
        assert!(pages.iter().all(|page| page.0.as_ptr().addr() % 4096 == 0));
        pages.iter_mut().for_each(|page| page.0.fill(1));
        give_back(pages);
        assert_eq!(take(601).unwrap().len(), 601);
    }

    #[test]
    fn what_there_is_not_is_an_error() {
        assert!(take(usize::MAX / 2).is_err());
        assert!(take(1 << 45).is_err());
    }
}
