//! Lent slots for writers that fill whole segments themselves.

use std::sync::Arc;

use super::Lent;
use super::state::{Cache, FEW_SLOTS};

impl Cache {
    /// Slots for so many whole segments, or nothing where the write is to go the ordinary way:
    /// without a journal, with nothing in stock just now, while the host has no space, when the pool is nearly full (what is
    /// written in place then needs no slot), or when so much is under way by reference already
    /// that the next opening would take too long to check it (P12).
    #[must_use]
    pub fn borrow(&self, segments: u64) -> Option<Vec<Lent>> {
        self.journal.as_ref()?;
        self.halt.check().ok()?;
        if self.pause.is_paused() {
            return None;
        }
        let (places, low) = {
            let mut queue = self.queue.lock();
            let after = (queue.promises.borrowed() + segments) * self.geometry.segment_bytes();
            let enough = queue.promises.available() >= segments + FEW_SLOTS;
            if queue.closed || !enough || after > self.config.size {
                return None;
            }
            // What is taken from the stock is taken from what can be promised, under one lock.
            let (places, low) = self.stock.borrow(segments);
            queue.promises.borrow(places.len() as u64);
            (places, low)
        };
        if low {
            self.signals.refill();
        }
        if places.is_empty() {
            return None;
        }
        let lent = |place| Lent::new(place, Vec::new(), Arc::clone(&self.stock));
        Some(places.into_iter().map(lent).collect())
    }
}
