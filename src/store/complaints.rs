//! What the log says of blocks that can't be read: each once, and after that how many more. The log
//! lies in the store, and a guest may try again for ever; a host that is full by it takes no writes.

use std::collections::HashSet;
use std::fmt::Display;
use std::time::{Duration, Instant};

use crate::base::Place;
use crate::base::sync::Mutex;

/// Blocks that are named, and remembered for it.
const NAMED: usize = 1024;
/// The others are counted, and that is said so often at the most.
const PERIOD: Duration = Duration::from_secs(60);

/// Says what can't be read, and not too often. Its lock is held for moments, and with no other one.
#[derive(Default)]
pub(super) struct Complaints(Mutex<Told>);

#[derive(Default)]
struct Told {
    named: HashSet<String>,
    /// Since the last count.
    more: u64,
    /// When that was, or when there was first something to be counted.
    counted: Option<Instant>,
}

#[derive(Debug, PartialEq, Eq)]
enum Say {
    All,
    Count(u64),
    Nothing,
}

impl Complaints {
    /// Logs `what` failed, and how, where that is new or enough time has passed.
    pub fn log(&self, at: Option<(Place, usize)>, what: &str, error: &dyn Display) {
        let key = match at {
            Some((place, block)) => format!("{what}: {place} block {block}"),
            None => format!("{what}: {error}"),
        };
        let say = self.0.lock().hear(key, Instant::now());
        match say {
            Say::All => log::error!("{what}: {error}"),
            Say::Count(more) => log::error!(
                "{more} more failed reads, of blocks that this log names above or that are too \
                 many to be named; 'snapmark scrub' lists what is damaged"
            ),
            Say::Nothing => {}
        }
    }
}

impl Told {
    fn hear(&mut self, key: String, now: Instant) -> Say {
        if self.named.len() < NAMED && self.named.insert(key) {
            return Say::All;
        }
        self.more += 1;
        let since = *self.counted.get_or_insert(now);
        if now.duration_since(since) < PERIOD {
            return Say::Nothing;
        }
        self.counted = Some(now);
        Say::Count(std::mem::take(&mut self.more))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_named_once_and_then_they_are_counted() {
        let (mut told, start) = (Told::default(), Instant::now());
        let second = Duration::from_secs(1);
        let mut at =
            |block: usize, after: u32| told.hear(block.to_string(), start + second * after);
        assert_eq!(at(1, 0), Say::All);
        assert_eq!(at(2, 0), Say::All);
        assert_eq!(at(1, 10), Say::Nothing);
        assert_eq!(at(2, 69), Say::Nothing);
        assert_eq!(at(1, 70), Say::Count(3));
        assert_eq!(at(1, 71), Say::Nothing);
        assert_eq!(at(3, 71), Say::All);
        assert_eq!(at(1, 200), Say::Count(2));
    }

    #[test]
    fn lines_and_memory_are_bounded_whatever_fails() {
        let (mut told, start) = (Told::default(), Instant::now());
        let mut lines = 0;
        for turn in 0..600_000u32 {
            let now = start + Duration::from_millis(1) * turn;
            let key = (turn % 100_000).to_string();
            lines += usize::from(told.hear(key, now) != Say::Nothing);
        }
        assert_eq!(lines, NAMED + 9);
        assert_eq!(told.named.len(), NAMED);
    }
}
