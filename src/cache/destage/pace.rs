//! How much one batch takes: as much as the throttle bridges, and less where that takes very long, since
//! what wants to be done between two batches waits for it.

use std::time::Duration;

/// How long a batch should take at the most. Its syncs are a small part of that on a solid-state drive.
const TARGET: Duration = Duration::from_millis(500);
/// A batch is never made smaller: below this the syncs alone take the time.
const LEAST: u64 = 1 << 20;

/// The size of a batch, in bytes of data, as the ones before it took their time.
#[derive(Default)]
pub(super) struct Pace {
    /// Nothing yet, or at least [`LEAST`].
    limit: Option<u64>,
}

impl Pace {
    /// Bytes that the next batch may take, `most` at the most.
    pub fn limit(&self, most: u64) -> u64 {
        self.limit.unwrap_or(most).min(most)
    }

    /// A batch of `bytes` took so long, where it could have had `limit` bytes.
    pub fn took(&mut self, bytes: u64, limit: u64, time: Duration) {
        let ratio = TARGET.as_secs_f64() / time.as_secs_f64().max(1e-6);
        let next = limit as f64 * ratio.clamp(0.5, 1.25);
        // A batch that was not full says nothing of larger ones.
        if ratio < 1.0 || bytes >= limit {
            self.limit = Some((next as u64).max(LEAST));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: u64 = 32 << 20;

    #[test]
    fn a_batch_shrinks_where_it_takes_long_and_grows_again() {
        let mut pace = Pace::default();
        assert_eq!(pace.limit(MOST), MOST);
        for _ in 0..20 {
            pace.took(pace.limit(MOST), pace.limit(MOST), 10 * TARGET);
        }
        assert_eq!(pace.limit(MOST), LEAST);
        pace.took(0, LEAST, TARGET / 10);
        assert_eq!(pace.limit(MOST), LEAST, "an empty batch is no measure");
        for _ in 0..20 {
            pace.took(pace.limit(MOST), pace.limit(MOST), TARGET / 10);
        }
        assert_eq!(pace.limit(MOST), MOST);
        assert_eq!(pace.limit(LEAST / 4), LEAST / 4);
    }
}
