//! Slows writers down to what destaging keeps up with, while there still is memory: each waits a
//! little, instead of some for a whole batch (compare `balance_dirty_pages` in Linux).

use std::time::{Duration, Instant};

/// How far writers may run ahead before one has to wait.
const SLACK: Duration = Duration::from_millis(1);
/// A part of the memory below which writers are slowed down.
const RESERVE: usize = 3;

/// When the next block may be handed out.
pub(super) struct Throttle {
    next: Instant,
    /// How long destaging takes for a block, going by the last batches; zero until one is known.
    block_time: Duration,
}

impl Throttle {
    pub fn new(now: Instant) -> Self {
        Self {
            next: now,
            block_time: Duration::ZERO,
        }
    }

    /// Blocks that should stay free, of so many.
    pub fn reserve(size: usize) -> usize {
        size / RESERVE
    }

    /// So many blocks were destaged in this time.
    pub fn destaged(&mut self, blocks: u32, time: Duration) {
        let now = time / blocks.max(1);
        self.block_time = if self.block_time.is_zero() {
            now
        } else {
            (self.block_time * 3 + now) / 4
        };
    }

    /// How long whoever wants a block has to wait, where so many are free of so many.
    pub fn wait(&self, now: Instant, free: usize, size: usize) -> Duration {
        if free >= Self::reserve(size) {
            return Duration::ZERO;
        }
        let ahead = self.next.saturating_duration_since(now);
        if ahead > SLACK { ahead } else { Duration::ZERO }
    }

    /// Blocks are handed out, of which so many were free. With half of the reserve left they go
    /// out as fast as they come in; with more of it faster, with less slower.
    pub fn handed_out(&mut self, now: Instant, count: usize, free: usize, size: usize) {
        let reserve = Self::reserve(size);
        if free >= reserve {
            self.next = now;
            return;
        }
        let scarcity = (reserve as f64 / 2.0 / free.max(1) as f64).clamp(0.25, 8.0);
        let time = self.block_time.mul_f64(scarcity) * u32::try_from(count).unwrap_or(u32::MAX);
        self.next = self.next.max(now) + time.min(Duration::from_secs(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 8000;
    const BLOCK_TIME: Duration = Duration::from_micros(20);

    /// Writers that want all they can get, against batches of two thirds of the reserve.
    fn run(batches: usize) -> (usize, Duration, usize) {
        let batch = Throttle::reserve(SIZE) * 2 / 3;
        let mut now = Instant::now();
        let mut throttle = Throttle::new(now);
        throttle.destaged(1000, BLOCK_TIME * 1000);
        let (mut free, mut taken, mut longest, mut least) = (SIZE, 0, Duration::ZERO, SIZE);
        for _ in 0..batches {
            let end = now + BLOCK_TIME * batch as u32;
            let mut since = now;
            while now < end {
                let wait = throttle.wait(now, free, SIZE);
                if free > 0 && wait.is_zero() {
                    throttle.handed_out(now, 1, free, SIZE);
                    (free, taken, longest) = (free - 1, taken + 1, longest.max(now - since));
                    now += Duration::from_micros(2);
                    since = now;
                } else {
                    now = end.min(now + wait.max(Duration::from_micros(100)));
                }
            }
            least = least.min(free);
            free = (free + batch).min(SIZE);
        }
        (taken, longest, least)
    }

    #[test]
    fn writers_get_what_destaging_gives_back_and_none_waits_for_a_batch() {
        let batches = 100;
        let (taken, longest, least) = run(batches);
        let destaged = batches * Throttle::reserve(SIZE) * 2 / 3;
        assert!(taken >= destaged, "{taken} of {destaged}");
        assert!(longest <= 3 * SLACK, "{longest:?}");
        assert!(least > 0, "memory never runs out");
    }

    #[test]
    fn nobody_waits_while_there_is_plenty_or_nothing_is_known() {
        let now = Instant::now();
        let mut throttle = Throttle::new(now);
        throttle.handed_out(now, 1000, 10, SIZE);
        assert_eq!(throttle.wait(now, 10, SIZE), Duration::ZERO);
        throttle.destaged(1, BLOCK_TIME);
        throttle.handed_out(now, 1000, Throttle::reserve(SIZE), SIZE);
        assert_eq!(throttle.wait(now, 10, SIZE), Duration::ZERO);
        throttle.handed_out(now, 1000, 10, SIZE);
        assert!(throttle.wait(now, 10, SIZE) > SLACK);
        assert_eq!(throttle.wait(now, SIZE / 2, SIZE), Duration::ZERO);
    }
}
