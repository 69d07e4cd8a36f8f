//! Memory for blocks of data, had from the kernel at once and kept for good.

use std::thread::JoinHandle;

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

/// From so many bytes on memory is had by a thread of its own: where the kernel has to get it from
/// somewhere first, that takes as long as a journal's replay (P12).
const MUCH: usize = 32 << 20;
/// How much is had at a time.
const STEP: usize = 8 << 20;

/// Memory that is still being had.
#[derive(Debug, Default)]
#[must_use]
pub(super) struct Filling(Option<JoinHandle<Result<(), Errno>>>);

impl Filling {
    /// Returns when all of it is there.
    ///
    /// # Errors
    /// What the kernel says where there is not so much.
    pub fn wait(self) -> Result<(), Errno> {
        match self.0.map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(filled)) => filled,
            Some(Err(_)) => Err(Errno::NOMEM),
        }
    }
}

/// So many pages, each of them backed by memory once the filling has ended: a write finds no page
/// missing later, when memory is short because of dirty pages above this very store. Until then they
/// can be used, and are had as they are written to; those at the end come first.
///
/// # Errors
/// What the kernel says where there is not so much.
pub(super) fn take(count: usize) -> Result<(Vec<&'static mut Page>, Filling), Errno> {
    let mut pages = {
        let mut spare = SPARE.lock();
        let keep = spare.len().saturating_sub(count);
        spare.split_off(keep)
    };
    let missing = count - pages.len();
    if missing == 0 {
        return Ok((pages, Filling::default()));
    }
    match map(missing) {
        Ok((fresh, filling)) => {
            pages.extend(fresh);
            Ok((pages, filling))
        }
        Err(error) => {
            give_back(pages);
            Err(error)
        }
    }
}

/// Keeps pages for the next one who takes some.
pub(super) fn give_back(mut pages: Vec<&'static mut Page>) {
    SPARE.lock().append(&mut pages);
}

/// New memory. Huge pages where there are any: faulting in 4 KiB at a time takes several times as
/// long, and a store is to open at once (P12).
#[expect(unsafe_code, reason = "mappings have no safe wrapper")]
fn map(count: usize) -> Result<(&'static mut [Page], Filling), Errno> {
    let bytes = count.checked_mul(BLOCK).ok_or(Errno::NOMEM)?;
    let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    // SAFETY: a new private mapping at a place that the kernel chooses touches nobody's memory.
    let start = unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, protection, flags)? };
    // SAFETY: `start` and `bytes` are those of the mapping; this advice changes no content. That a
    // kernel has no huge pages costs time alone.
    let _ = unsafe { madvise(start, bytes, Advice::LinuxHugepage) };
    let address = start.expose_provenance();
    let by_thread = || {
        let thread = std::thread::Builder::new().name("memory".to_owned());
        thread.spawn(move || populate(address, bytes)).ok()
    };
    let filling = Filling(
        Some(bytes)
            .filter(|bytes| *bytes >= MUCH)
            .and_then(|_| by_thread()),
    );
    if filling.0.is_none()
        && let Err(error) = populate(address, bytes)
    {
        // SAFETY: the mapping is this function's own, and nothing refers to it.
        let _ = unsafe { rustix::mm::munmap(start, bytes) };
        return Err(error);
    }
    // SAFETY: the mapping has `count` pages of zeros, which are valid as bytes, is aligned to them,
    // is never unmapped from here on, and is handed out here alone.
    let pages = unsafe { std::slice::from_raw_parts_mut(start.cast::<Page>(), count) };
    Ok((pages, filling))
}

/// Has all pages of a mapping backed by memory, from its end on.
#[expect(unsafe_code, reason = "mappings have no safe wrapper")]
fn populate(address: usize, bytes: usize) -> Result<(), Errno> {
    let mut left = bytes;
    while left > 0 {
        let step = STEP.min(left);
        left -= step;
        let start = std::ptr::with_exposed_provenance_mut(address + left);
        // SAFETY: the range lies in a mapping of `map`'s, which stays; populating changes no content,
        // whoever uses the pages meanwhile.
        match unsafe { madvise(start, step, Advice::LinuxPopulateWrite) } {
            Ok(()) => {}
            // Before Linux 5.14: each page is had when it is first written to.
            Err(Errno::INVAL) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_aligned_zero_and_used_again() {
        let (mut pages, filling) = take(600).unwrap();
        filling.wait().unwrap();
        assert!(pages.iter().all(|page| page.0.as_ptr().addr() % 4096 == 0));
        pages.iter_mut().for_each(|page| page.0.fill(1));
        give_back(pages);
        assert_eq!(take(601).unwrap().0.len(), 601);
    }

    #[test]
    fn much_memory_is_there_when_the_filling_has_ended() {
        let count = 2 * MUCH / BLOCK;
        let (mut pages, filling) = take(count).unwrap();
        // It can be used before.
        pages[count - 1].0.fill(1);
        pages[0].0.fill(2);
        filling.wait().unwrap();
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/statm").unwrap();
            let pages = status.split(' ').nth(1).unwrap();
            pages.parse::<usize>().unwrap()
        };
        assert!(resident() >= count);
        assert!(pages[count - 1].0.iter().all(|byte| *byte == 1));
        assert!(pages[count / 2].0.iter().all(|byte| *byte == 0));
        assert!(pages[0].0.iter().all(|byte| *byte == 2));
    }

    #[test]
    fn what_there_is_not_is_an_error() {
        assert!(take(usize::MAX / 2).is_err());
        assert!(take(1 << 45).is_err());
    }
}
