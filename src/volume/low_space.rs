//! Warnings where space runs low: in the pool, and on the host's file systems that sparse devices
//! take it from, since those may be smaller than the pool says.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use super::volumes::Volumes;
use crate::base::ByteSize;

/// Percent that use has to fall below a mark before it counts as fallen, so that a little to and
/// fro does not fill the log.
const SLACK: u64 = 1;

/// What the log has been told, so that it is told each thing once.
#[derive(Default)]
pub(super) struct Told(Mutex<BTreeMap<String, u8>>);

/// How full something is.
struct Fullness {
    what: String,
    percent: u64,
    words: String,
}

impl Fullness {
    fn new(what: String, used: u64, total: u64, words: String) -> Self {
        let percent = (u128::from(used) * 100)
            .checked_div(u128::from(total))
            .unwrap_or(0);
        Self {
            what,
            percent: u64::try_from(percent).unwrap_or(u64::MAX),
            words,
        }
    }

    /// The highest mark that it has reached.
    fn mark(&self, marks: &[u8]) -> u8 {
        let reached = |mark: &&u8| u64::from(**mark) <= self.percent;
        marks.iter().filter(reached).max().copied().unwrap_or(0)
    }
}

/// A line for the log.
#[derive(Debug, PartialEq)]
enum News {
    Fuller(String),
    Emptier(String),
}

impl Told {
    /// What is new since the last look: each mark that was reached, and each fallen below.
    fn news(&self, found: &[Fullness], marks: &[u8]) -> Vec<News> {
        let mut told = self.0.lock();
        let mut news = Vec::new();
        for one in found {
            let before = told.get(&one.what).copied().unwrap_or(0);
            let now = one.mark(marks);
            let Fullness {
                what,
                percent,
                words,
            } = one;
            if now > before {
                news.push(News::Fuller(format!("{what} is {percent} % full: {words}")));
            } else if now < before && percent + SLACK < u64::from(before) {
                news.push(News::Emptier(format!("{what} is {percent} % full again")));
            } else {
                continue;
            }
            told.insert(what.clone(), now);
        }
        news
    }
}

impl Volumes {
    /// Looks at the space that is left, and logs each mark that was passed since the last look.
    pub fn watch_space(&self) {
        for news in self.told.news(&self.fullness(), &self.config.warn) {
            match news {
                News::Fuller(line) => log::warn!("{line}"),
                News::Emptier(line) => log::info!("{line}"),
            }
        }
    }

    /// What is fuller than the lowest mark, in words.
    pub(super) fn space_warnings(&self) -> Vec<String> {
        let found = self.fullness().into_iter();
        found
            .filter(|one| one.mark(&self.config.warn) > 0)
            .map(|one| format!("{} is {} % full: {}", one.what, one.percent, one.words))
            .collect()
    }

    fn fullness(&self) -> Vec<Fullness> {
        let usage = self.usage();
        let left = ByteSize(usage.available);
        let used = usage.total.saturating_sub(usage.available);
        let words = format!(
            "{left} left of {}; delete snapshots, discard, or add a device",
            ByteSize(usage.total)
        );
        let mut found = vec![Fullness::new(
            "the pool".to_owned(),
            used,
            usage.total,
            words,
        )];
        for device in self.cache.pool().devices() {
            // What the host has given already it does not take back.
            let given = device.allocated.unwrap_or(0);
            let wanted = device.len.saturating_sub(given);
            let Some(host) = device.host.filter(|_| wanted > 0) else {
                continue;
            };
            let words = format!(
                "{} left, of which the device may take {}; free some, or add a device elsewhere, \
                 else writes will have to wait",
                ByteSize(host.available),
                ByteSize(wanted)
            );
            found.push(Fullness::new(
                format!("the file system of {}", device.name),
                host.total.saturating_sub(host.available),
                host.total,
                words,
            ));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mark_is_told_once_and_again_after_it_was_left() {
        let told = Told::default();
        let marks = [80, 95];
        let look = |used: u64| {
            let one = Fullness::new("it".to_owned(), used, 100, "words".to_owned());
            told.news(&[one], &marks)
        };
        let fuller = |n: u8| vec![News::Fuller(format!("it is {n} % full: words"))];
        assert_eq!(look(79), []);
        assert_eq!(look(80), fuller(80));
        assert_eq!(look(90), []);
        assert_eq!(look(96), fuller(96));
        assert_eq!(look(94), [], "not far below the mark yet");
        assert_eq!(look(97), []);
        assert_eq!(
            look(90),
            [News::Emptier("it is 90 % full again".to_owned())]
        );
        assert_eq!(look(95), fuller(95));
        assert_eq!(
            look(10),
            [News::Emptier("it is 10 % full again".to_owned())]
        );
        assert_eq!(look(99), fuller(99), "both marks at once");
        assert_eq!(Fullness::new(String::new(), 0, 0, String::new()).percent, 0);
    }
}
