//! Counters and latency histograms that cost a few nanoseconds each.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of the buckets: 2^0 to 2^26 microseconds (67 s), and one for the rest.
const BUCKETS: usize = 28;

/// A histogram of durations in buckets that double.
#[derive(Debug, Default)]
pub struct Histogram {
    counts: [AtomicU64; BUCKETS],
    nanoseconds: AtomicU64,
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket =
            (64 - micros.saturating_sub(1).leading_zeros() as usize) * usize::from(micros > 1);
        self.counts[bucket.min(BUCKETS - 1)].fetch_add(1, Relaxed);
        self.nanoseconds
            .fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// The buckets: upper bound in seconds (infinite for the last), and how many fell into it.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        self.counts.iter().enumerate().map(|(at, count)| {
            let bound = if at == BUCKETS - 1 {
                f64::INFINITY
            } else {
                (1u64 << at) as f64 / 1e6
            };
            (bound, count.load(Relaxed))
        })
    }

    /// All durations added up, in seconds.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.nanoseconds.load(Relaxed) as f64 / 1e9
    }
}

/// One kind of operation.
#[derive(Debug, Default)]
pub struct OperationMetrics {
    /// How many succeeded.
    pub done: AtomicU64,
    /// How many failed.
    pub failed: AtomicU64,
    /// Bytes of those that succeeded.
    pub bytes: AtomicU64,
    /// How long each took.
    pub latency: Histogram,
}

impl OperationMetrics {
    /// Counts one that ended.
    pub fn record(&self, ok: bool, bytes: u64, took: Duration) {
        if ok {
            self.done.fetch_add(1, Relaxed);
            self.bytes.fetch_add(bytes, Relaxed);
        } else {
            self.failed.fetch_add(1, Relaxed);
        }
        self.latency.record(took);
    }
}

/// All counters of a store.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Reads.
    pub read: OperationMetrics,
    /// Writes.
    pub write: OperationMetrics,
    /// Discards and zeroing.
    pub discard: OperationMetrics,
    /// Syncs.
    pub sync: OperationMetrics,
    /// Snapshots taken.
    pub snapshot: OperationMetrics,
    /// Blocks read that were found in the cache.
    pub cache_hits: AtomicU64,
    /// Blocks read that were not.
    pub cache_misses: AtomicU64,
    /// Bytes that destaging wrote to devices.
    pub destaged_bytes: AtomicU64,
    /// Blocks whose checksum did not match.
    pub checksum_errors: AtomicU64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_bucket_that_bounds_it() {
        let histogram = Histogram::default();
        for micros in [0, 1, 2, 3, 4, 5, 1000, 1_000_000_000] {
            histogram.record(Duration::from_micros(micros));
        }
        let filled: Vec<_> = histogram.buckets().filter(|(_, n)| *n > 0).collect();
        let expected = [
            (1e-6, 2),
            (2e-6, 1),
            (4e-6, 2),
            (8e-6, 1),
            (1024e-6, 1),
            (f64::INFINITY, 1),
        ];
        assert_eq!(filled, expected);
    }
}
