//! How fast a scrub may go: a token bucket, kept as the time at which the next bytes may go (the
//! virtual scheduling of ITU-T I.371).

use std::time::Duration;

/// How much of a pause may be made up for.
const BURST: Duration = Duration::from_millis(100);

/// Bytes a second, at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    /// 0: no limit.
    rate: u64,
    /// When all that went so far is paid for.
    paid: Duration,
}

impl Bucket {
    pub fn new(rate: u64) -> Self {
        let paid = Duration::ZERO;
        Self { rate, paid }
    }

    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// Another rate, from now on.
    pub fn set(&mut self, rate: u64, now: Duration) {
        (self.rate, self.paid) = (rate, self.paid.min(now));
    }

    /// How long to wait before more may go.
    pub fn wait(&self, now: Duration) -> Duration {
        match self.rate {
            0 => Duration::ZERO,
            _ => self.paid.saturating_sub(now),
        }
    }

    /// So many bytes go now.
    pub fn spend(&mut self, bytes: u64, now: Duration) {
        if self.rate > 0 {
            let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate);
            let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            self.paid = self.paid.max(now.saturating_sub(BURST)) + takes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets slices go as soon as they may, and returns how many bytes went in each second.
    fn per_second(bucket: &mut Bucket, slice: u64, from: u64, seconds: u64) -> Vec<u64> {
        let mut now = Duration::from_secs(from);
        let mut went = vec![0; seconds as usize];
        loop {
            now += bucket.wait(now);
            let Some(second) = went.get_mut((now.as_secs() - from) as usize) else {
                return went;
            };
            bucket.spend(slice, now);
            *second += slice;
            // Something takes time, too.
            now += Duration::from_micros(10);
        }
    }

    #[test]
    fn no_more_goes_than_the_rate_and_a_burst() {
        for (rate, slice) in [(1 << 20, 64 << 10), (200 << 20, 1 << 20), (3, 4096)] {
            let mut bucket = Bucket::new(rate);
            let went = per_second(&mut bucket, slice, 5, 20);
            let mut all = 0;
            for (second, bytes) in (1..).zip(went) {
                all += bytes;
                let most = rate * second + rate / 10 + slice;
                assert!(all <= most, "{all} of {most} in {second} s at {rate}");
            }
            assert!(all + rate + slice >= rate * 20, "{all} at {rate}");
        }
    }

    #[test]
    fn a_pause_is_not_made_up_for_and_a_new_rate_holds_at_once() {
        let mut bucket = Bucket::new(1 << 20);
        per_second(&mut bucket, 64 << 10, 0, 2);
        let went = per_second(&mut bucket, 64 << 10, 1000, 1)[0];
        assert!(went <= (1 << 20) + (2 << 20) / 10 + (64 << 10), "{went}");
        // A slow rate's debt is forgotten.
        bucket.set(1, Duration::from_secs(2000));
        bucket.spend(1 << 20, Duration::from_secs(2000));
        bucket.set(2 << 20, Duration::from_secs(2001));
        assert_eq!(bucket.wait(Duration::from_secs(2001)), Duration::ZERO);
        bucket.set(0, Duration::from_secs(2001));
        bucket.spend(u64::MAX, Duration::from_secs(2001));
        assert_eq!(bucket.wait(Duration::from_secs(2001)), Duration::ZERO);
    }
}
