//! Lent slots for writers that fill whole segments themselves.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Lent;
use super::pause::is_in_a_hurry;
use super::state::{Cache, FEW_SLOTS};
use crate::base::Place;

/// How long a writer waits for slots that destaging is about to bring back.
const PATIENCE: Duration = Duration::from_millis(100);

/// What a writer who asks for slots is told.
enum Loan {
    Slots(Vec<Place>),
    /// There will be some when what others filled is destaged.
    Soon,
    None,
}

impl Cache {
    /// Slots for so many whole segments, or nothing where the write is to go the ordinary way:
    /// without a journal, with nothing in stock just now, while the host has no space, or when the pool is
    /// nearly full (what is written in place then needs no slot). Where so much is under way by reference
    /// already that the next opening would take too long to check it (P12), or all slots are, it waits a
    /// while for destaging: through memory the same bytes would be written twice, and what is to be
    /// waited for would take longer.
    #[must_use]
    pub fn borrow(&self, segments: u64) -> Option<Vec<Lent>> {
        self.journal.as_ref()?;
        let until = Instant::now() + PATIENCE;
        loop {
            match self.ask_for_slots(segments) {
                Loan::Slots(places) => {
                    let lent = |place| Lent::new(place, Vec::new(), Arc::clone(&self.stock));
                    return Some(places.into_iter().map(lent).collect());
                }
                Loan::Soon if Instant::now() < until && !is_in_a_hurry() => {
                    self.wait_for_room().ok()?;
                }
                Loan::Soon | Loan::None => return None,
            }
        }
    }

    fn ask_for_slots(&self, segments: u64) -> Loan {
        if self.halt.check().is_err() || self.pause.is_paused() {
            return Loan::None;
        }
        let mut queue = self.queue.lock();
        let borrowed = queue.promises.borrowed();
        let enough = queue.promises.available() >= segments + FEW_SLOTS;
        if queue.closed || !enough {
            return Loan::None;
        }
        if (borrowed + segments) * self.geometry.segment_bytes() > self.config.size {
            // A single write may be more than is allowed.
            return if borrowed > 0 { Loan::Soon } else { Loan::None };
        }
        // What is taken from the stock is taken from what can be promised, under one lock.
        let (places, low) = self.stock.borrow(segments);
        queue.promises.borrow(places.len() as u64);
        drop(queue);
        if low {
            self.signals.refill();
        }
        match places.is_empty() {
            false => Loan::Slots(places),
            true if borrowed > 0 && self.stock.full().is_empty() => Loan::Soon,
            true => Loan::None,
        }
    }
}
