//! Space in the journal's ring: where records go, and from where on they are still needed.

use std::collections::VecDeque;

use crate::base::Seq;

/// Records start here after a sync, so that a synced page is never written again.
const PAGE: u64 = 4096;

/// The ring as the append path sees it. Records are taken in order, and given back in any.
pub(super) struct Ring {
    size: u64,
    /// Where the next record goes unless it must wrap. `< size`, or `== size` just before a wrap.
    head: u64,
    /// Bytes from the oldest record still needed to `head`, waste at the wrap included.
    used: u64,
    /// Oldest first; the front is still needed, or its end is not durable.
    records: VecDeque<Slotted>,
    /// The next record must not share a page with those before it.
    sealed: bool,
}

struct Slotted {
    seq: Seq,
    offset: u64,
    /// Its bytes and the waste before it.
    consumed: u64,
    done: bool,
}

impl Ring {
    /// A ring whose next record goes to `head`, with nothing in use.
    pub fn new(size: u64, head: u64) -> Self {
        Self {
            size,
            head,
            used: 0,
            records: VecDeque::new(),
            sealed: false,
        }
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn used(&self) -> u64 {
        self.used
    }

    /// Room for a record of `len` bytes, or nothing while the ring is too full.
    pub fn take(&mut self, seq: Seq, len: u64) -> Option<u64> {
        let (offset, waste) = self.next(self.head, self.sealed, len);
        if !self.fits(self.used + waste + len) {
            return None;
        }
        self.sealed = false;
        self.place(seq, offset, waste + len, len);
        Some(offset)
    }

    /// Whether records of these lengths can all be taken, in this order.
    pub fn has_room(&self, lens: &[u64]) -> bool {
        let (mut head, mut used, mut sealed) = (self.head, self.used, self.sealed);
        for len in lens {
            let (offset, waste) = self.next(head, sealed, *len);
            (head, sealed) = (offset + len, false);
            used += waste + len;
        }
        self.fits(used)
    }

    /// Whether so many bytes may be in use. The page that the oldest record begins in is kept out
    /// of reach of the newest: it holds a synced record.
    fn fits(&self, used: u64) -> bool {
        let kept = if self.records.is_empty() { 0 } else { PAGE };
        used + kept <= self.size
    }

    /// Where a record of `len` bytes goes when all before it end at `head`, and what is wasted.
    fn next(&self, head: u64, sealed: bool, len: u64) -> (u64, u64) {
        let start = if sealed {
            head.next_multiple_of(PAGE).min(self.size)
        } else {
            head
        };
        if start + len > self.size {
            (0, self.size - head)
        } else {
            (start, start - head)
        }
    }

    /// Enters a record that recovery found.
    pub fn found(&mut self, seq: Seq, offset: u64, len: u64) {
        let waste = (offset + self.size - self.head) % self.size;
        self.place(seq, offset, waste + len, len);
    }

    fn place(&mut self, seq: Seq, offset: u64, consumed: u64, len: u64) {
        self.used += consumed;
        self.head = offset + len;
        self.records.push_back(Slotted {
            seq,
            offset,
            consumed,
            done: false,
        });
    }

    /// The next record begins on a page of its own: a sync is about to make the ones before it
    /// durable.
    pub fn seal(&mut self) {
        self.sealed = true;
    }

    /// A record is no longer needed; its space is free once all before it are.
    pub fn done(&mut self, seq: Seq) {
        // Numbers ascend, but where damaged records were given up some are left out.
        let at = self.records.binary_search_by_key(&seq, |record| record.seq);
        if let Some(record) = at.ok().and_then(|at| self.records.get_mut(at)) {
            record.done = true;
        }
    }

    /// Whether the oldest record is no longer needed, but its space not free yet.
    pub fn has_done_front(&self) -> bool {
        self.records.front().is_some_and(|record| record.done)
    }

    /// What is the oldest record still needed: its place and number. With none, where the next
    /// one goes.
    pub fn tail(&self, next: Seq) -> (u64, Seq) {
        match self.records.iter().find(|record| !record.done) {
            Some(record) => (record.offset, record.seq),
            None => (self.head % self.size, next),
        }
    }

    /// Frees the space of the oldest records, those before `tail`: the oldest that recovery asks
    /// for, as a durable commit says. That a record is done is not enough, since the commit that
    /// says so may be on its way.
    pub fn release(&mut self, tail: Seq) {
        let freed = |record: &&Slotted| record.done && record.seq < tail;
        while let Some(front) = self.records.front().filter(freed) {
            self.used -= front.consumed;
            self.records.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_comes_back_in_order_and_wraps() {
        let mut ring = Ring::new(21_000, 0);
        assert_eq!(ring.take(Seq(1), 8000), Some(0));
        assert_eq!(ring.take(Seq(2), 8000), Some(8000));
        assert_eq!(ring.take(Seq(3), 8000), None);
        ring.done(Seq(2));
        ring.release(Seq(1));
        assert_eq!((ring.used(), ring.tail(Seq(3))), (16_000, (0, Seq(1))));
        ring.done(Seq(1));
        assert_eq!(ring.tail(Seq(3)), (16_000, Seq(3)));
        ring.release(Seq(1));
        assert_eq!(ring.used(), 16_000, "no commit has said so yet");
        ring.release(Seq(3));
        assert_eq!(ring.used(), 0);
        assert_eq!(ring.take(Seq(3), 8000), Some(0));
        assert_eq!(
            ring.used(),
            13_000,
            "the waste before the wrap counts until record 3 goes"
        );
    }

    #[test]
    fn the_newest_record_keeps_off_the_page_of_the_oldest() {
        let mut ring = Ring::new(16_384, 0);
        assert_eq!(ring.take(Seq(1), 64), Some(0));
        assert_eq!(ring.take(Seq(2), 8192), Some(64));
        ring.done(Seq(1));
        ring.release(Seq(2));
        assert!(
            !ring.has_room(&[8192]),
            "it would end in the page of record 2"
        );
        assert!(ring.has_room(&[4096]));
    }

    #[test]
    fn a_seal_moves_to_the_next_page() {
        let mut ring = Ring::new(16384, 0);
        assert_eq!(ring.take(Seq(1), 64), Some(0));
        ring.seal();
        assert_eq!(ring.take(Seq(2), 64), Some(4096));
        ring.done(Seq(1));
        ring.done(Seq(2));
        ring.release(Seq(3));
        assert_eq!(ring.used(), 0);
    }
}
