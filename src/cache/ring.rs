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
        let wraps = self.head + len > self.size;
        let (offset, waste) = if wraps {
            (0, self.size - self.head)
        } else {
            (self.head, 0)
        };
        if self.used + waste + len > self.size {
            return None;
        }
        self.place(seq, offset, waste + len, len);
        Some(offset)
    }

    /// Whether records of these lengths can all be taken, in this order.
    pub fn has_room(&self, lens: &[u64]) -> bool {
        let (mut head, mut used) = (self.head, self.used);
        for len in lens {
            let waste = if head + len > self.size {
                self.size - head
            } else {
                0
            };
            head = if waste > 0 || head == self.size {
                *len
            } else {
                head + len
            };
            used += waste + len;
        }
        used <= self.size
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

    /// Moves the head to the next page, for what follows a sync.
    pub fn seal(&mut self) {
        let to = self.head.next_multiple_of(PAGE).min(self.size);
        let waste = to - self.head;
        if self.used + waste > self.size {
            return;
        }
        self.used += waste;
        self.head = to;
        // The waste goes with the record before it; with none, the ring is empty and free.
        match self.records.back_mut() {
            Some(last) => last.consumed += waste,
            None => self.used = 0,
        }
    }

    /// A record is no longer needed; its space is free once all before it are.
    pub fn done(&mut self, seq: Seq) {
        if let Ok(at) = self.records.binary_search_by_key(&seq, |record| record.seq) {
            self.records[at].done = true;
        }
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
        let mut ring = Ring::new(1000, 0);
        assert_eq!(ring.take(Seq(1), 400), Some(0));
        assert_eq!(ring.take(Seq(2), 400), Some(400));
        assert_eq!(ring.take(Seq(3), 400), None);
        ring.done(Seq(2));
        ring.release(Seq(1));
        assert_eq!((ring.used(), ring.tail(Seq(3))), (800, (0, Seq(1))));
        ring.done(Seq(1));
        assert_eq!(ring.tail(Seq(3)), (800, Seq(3)));
        ring.release(Seq(1));
        assert_eq!(ring.used(), 800, "no commit has said so yet");
        ring.release(Seq(3));
        assert_eq!(ring.used(), 0);
        assert_eq!(ring.take(Seq(3), 400), Some(0));
        assert_eq!(
            ring.used(),
            600,
            "the waste before the wrap counts until record 3 goes"
        );
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
