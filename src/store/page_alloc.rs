//! Which pages of the catalog are in use.

use std::collections::{BTreeSet, VecDeque};

use super::CatalogError;
use crate::ondisk::{PAGE_MAP_BYTES, PAGE_MAP_PAGES};

const WORD: u64 = u64::BITS as u64;
const WORDS: usize = PAGE_MAP_BYTES / size_of::<u64>();

/// The page allocator: a bit a page, 1/32768 of the catalog, and only as far as it has grown.
///
/// A page that is given up does not come back at once. The root that no longer needs it must be
/// durable first, else a crash would open a root whose pages hold something else; and every view
/// that may still read it must be gone. Until then it is *held*: free on disk, as an opening finds
/// neither of the two, but not handed out.
#[derive(Clone)]
pub(crate) struct PageAlloc {
    /// Pages of the device.
    capacity: u64,
    /// What the next root says: pages that its trees use. Pages 0 and 1 are the roots'.
    used: Vec<u64>,
    /// Given up, not to be handed out yet. Disjoint from `used`.
    held: Vec<u64>,
    /// No word before this one has a page to hand out.
    low: usize,
    /// Held pages, with the publication that all living views must have reached.
    waiting: VecDeque<(u64, Vec<u64>)>,
    /// Stretches of the page map in which `used` differs from the tree.
    changed: BTreeSet<u64>,
}

impl PageAlloc {
    /// An allocator in which only the roots' pages are in use.
    pub(crate) fn new(capacity: u64) -> Self {
        Self {
            capacity,
            used: vec![0b11],
            held: vec![0],
            low: 0,
            waiting: VecDeque::new(),
            changed: BTreeSet::new(),
        }
    }

    /// Takes over a stretch of the page map from its tree.
    pub(crate) fn restore(&mut self, stretch: u64, value: &[u8]) -> Result<(), CatalogError> {
        if stretch > self.capacity / PAGE_MAP_PAGES {
            let outside = "its page map goes beyond its pages";
            return Err(CatalogError::Inconsistent(outside));
        }
        let start = stretch as usize * WORDS;
        self.grow(start + WORDS);
        let words = value
            .chunks_exact(size_of::<u64>())
            .zip(&mut self.used[start..]);
        for (bytes, word) in words {
            let mut le = [0; size_of::<u64>()];
            le.copy_from_slice(bytes);
            *word |= u64::from_le_bytes(le);
        }
        Ok(())
    }

    /// Hands out the lowest page that there is, so that the file stays short.
    pub(crate) fn take(&mut self) -> Option<u64> {
        loop {
            if self.low == self.used.len() {
                if self.low as u64 * WORD >= self.capacity {
                    return None;
                }
                self.grow(self.low + 1);
            }
            let busy = self.used[self.low] | self.held[self.low];
            if busy == u64::MAX {
                self.low += 1;
                continue;
            }
            let bit = u64::from(busy.trailing_ones());
            let page = self.low as u64 * WORD + bit;
            if page >= self.capacity {
                return None;
            }
            self.used[self.low] |= 1 << bit;
            self.changed.insert(page / PAGE_MAP_PAGES);
            return Some(page);
        }
    }

    /// Marks a page as not used by the next root. It is held until [`PageAlloc::release`].
    pub(crate) fn give_up(&mut self, page: u64) {
        let (word, bit) = ((page / WORD) as usize, 1 << (page % WORD));
        self.grow(word + 1);
        debug_assert!(self.used[word] & bit != 0, "page {page} was not in use");
        self.used[word] &= !bit;
        self.held[word] |= bit;
        self.changed.insert(page / PAGE_MAP_PAGES);
    }

    /// Says that given-up pages may be handed out once all views show this publication or a later
    /// one. To be called after the root is durable.
    pub(crate) fn hold_until(&mut self, publication: u64, pages: Vec<u64>) {
        self.waiting.push_back((publication, pages));
    }

    /// Lets go of the pages that only views older than this publication could read.
    pub(crate) fn release(&mut self, oldest: u64) {
        while self
            .waiting
            .front()
            .is_some_and(|(until, _)| *until <= oldest)
        {
            let pages = self.waiting.pop_front().map(|(_, pages)| pages);
            for page in pages.into_iter().flatten() {
                let word = (page / WORD) as usize;
                self.held[word] &= !(1 << (page % WORD));
                self.low = self.low.min(word);
            }
        }
    }

    /// The stretches that the tree must be told of, with their new values. Afterwards it counts as
    /// told.
    pub(crate) fn drain_changed(&mut self) -> Vec<(u64, Vec<u8>)> {
        let changed = std::mem::take(&mut self.changed);
        let value = |stretch: u64| {
            let start = stretch as usize * WORDS;
            let words = (start..start + WORDS).map(|at| self.used.get(at).copied().unwrap_or(0));
            (stretch, words.flat_map(u64::to_le_bytes).collect())
        };
        changed.into_iter().map(value).collect()
    }

    /// Pages in use by the trees and the roots.
    #[cfg(test)]
    pub(crate) fn in_use(&self) -> u64 {
        self.used
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum()
    }

    fn grow(&mut self, words: usize) {
        if self.used.len() < words {
            self.used.resize(words, 0);
            self.held.resize(words, 0);
        }
    }
}
