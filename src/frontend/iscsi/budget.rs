//! Memory for data that have to be kept until their command is done: all sessions share so much, and
//! no more.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bytes, all sessions together.
const BYTES: usize = 32 << 20;

/// What is left.
#[derive(Clone, Debug)]
pub struct Budget(Arc<AtomicUsize>);

/// A part of it, until it is dropped.
#[derive(Debug)]
pub struct Grant {
    from: Arc<AtomicUsize>,
    bytes: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self(Arc::new(AtomicUsize::new(BYTES)))
    }
}

impl Budget {
    /// So many bytes, if there are.
    #[must_use]
    pub fn take(&self, bytes: usize) -> Option<Grant> {
        let less = |left: usize| left.checked_sub(bytes);
        self.0.fetch_update(Relaxed, Relaxed, less).ok()?;
        let from = Arc::clone(&self.0);
        Some(Grant { from, bytes })
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.from.fetch_add(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_so_much_and_no_more() {
        let budget = Budget::default();
        let most = budget.take(BYTES).unwrap();
        assert!(budget.take(1).is_none() && budget.take(0).is_some());
        drop(most);
        assert!(budget.take(BYTES).is_some());
    }
}
