//! Memory for data that have to be kept until their command is done: all sessions share so much, and
//! no more, but that a session which has none is always given what one command wants.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bytes, all sessions together.
const BYTES: usize = 32 << 20;
/// Bytes that one session may have of it.
const SHARE: usize = BYTES / 2;

/// What is given out.
#[derive(Clone, Debug, Default)]
pub struct Budget(Arc<AtomicUsize>);

/// What of it a session has.
#[derive(Clone, Debug, Default)]
pub struct Share(Arc<AtomicUsize>);

/// A part of it, until it is dropped.
#[derive(Debug)]
pub struct Grant {
    budget: Budget,
    share: Share,
    bytes: usize,
}

impl Budget {
    /// So many bytes, if there are. Calls for one share come from one thread.
    #[must_use]
    pub fn take(&self, share: &Share, bytes: usize) -> Option<Grant> {
        let (all, own) = (self.0.load(Relaxed), share.0.load(Relaxed));
        // Whatever others do, each session gets on.
        let is_first = own == 0;
        if !is_first && (own + bytes > SHARE || all + bytes > BYTES) {
            return None;
        }
        self.0.fetch_add(bytes, Relaxed);
        share.0.fetch_add(bytes, Relaxed);
        Some(Grant {
            budget: self.clone(),
            share: share.clone(),
            bytes,
        })
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(self.bytes, Relaxed);
        self.share.0.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_so_much_and_no_more_but_something_for_each() {
        let budget = Budget::default();
        let (a, b, c) = (Share::default(), Share::default(), Share::default());
        let first = budget.take(&a, SHARE).unwrap();
        assert!(budget.take(&a, 1).is_none() && budget.take(&a, 0).is_some());
        let second = budget.take(&b, SHARE).unwrap();
        // Nothing is left, and the third gets on all the same, one at a time.
        let third = budget.take(&c, 1 << 20).unwrap();
        assert!(budget.take(&c, 1).is_none());
        drop(third);
        assert!(budget.take(&c, 1 << 20).is_some());
        drop((first, second));
        assert!(budget.take(&a, SHARE).is_some());
        assert_eq!(budget.0.load(Relaxed), 0);
    }
}
