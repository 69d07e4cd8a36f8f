//! What was measured, before it is written down anywhere.

use std::time::Duration;

use super::machine::Machine;
use super::plan::{Load, Plan, Row};

/// All of one run.
pub struct Figures {
    /// How much was run.
    pub plan: Plan,
    /// Where.
    pub machine: Machine,
    /// Whether Snapmark gave back what was written, or how not; one for each time it was set up.
    pub our_verdict: Verdict,
    /// Snapshots of ours under load.
    pub our_snapshots: Vec<UnderLoad>,
    /// What many snapshots do to us.
    pub many: Vec<Many>,
    /// How long we take to open a store.
    pub openings: Vec<Opening>,
    /// The most memory that a daemon of ours had resident, in bytes.
    pub memory: u64,
    /// Those that were measured.
    pub peers: Vec<PeerFigures>,
    /// Those that were not, and why.
    pub missing: Vec<(&'static str, String)>,
}

/// What became of one peer.
pub struct PeerFigures {
    /// For the file of the last run.
    pub id: &'static str,
    /// For the report.
    pub name: &'static str,
    /// Whether it gave back what was written.
    pub verdict: Verdict,
    /// Its rows; those that do not apply to it are left out.
    pub rows: Vec<RowFigures>,
    /// Snapshots of it under load, where it has any.
    pub snapshots: Vec<UnderLoad>,
    /// What went wrong elsewhere.
    pub errors: Vec<String>,
}

impl PeerFigures {
    /// The pairs of a row, if it was measured.
    pub fn row(&self, row: &Row) -> Option<&RowFigures> {
        self.rows.iter().find(|found| found.row.name == row.name)
    }
}

/// A row of one peer and of ours beside it.
pub struct RowFigures {
    /// Which.
    pub row: &'static Row,
    /// In the order in which they were run.
    pub pairs: Vec<Pair>,
    /// Why there are fewer than planned.
    pub error: Option<String>,
}

impl RowFigures {
    /// The ratios of the pairs, if there is one.
    pub fn ratio(&self) -> Option<Spread> {
        spread(
            self.pairs
                .iter()
                .map(|pair| pair.us.value / pair.peer.value),
        )
    }

    /// The peer's figures, if there is one.
    pub fn peer(&self) -> Option<Spread> {
        spread(self.pairs.iter().map(|pair| pair.peer.value))
    }

    /// What the peer and we took of the processors, in seconds a GiB.
    pub fn cpu(&self) -> Option<(Spread, Spread)> {
        let of = |which: fn(&Pair) -> f64| spread(self.pairs.iter().map(which));
        Some((of(|pair| pair.peer.cpu)?, of(|pair| pair.us.cpu)?))
    }

    /// Our figures, if there is one.
    pub fn us(&self) -> Option<Spread> {
        spread(self.pairs.iter().map(|pair| pair.us.value))
    }
}

/// A snapshot, or several, under load.
#[derive(Clone, Copy, Debug)]
pub struct UnderLoad {
    /// What was done.
    pub load: Load,
    /// Writes a second before it.
    pub rate_before: f64,
    /// Writes a second from the moment when the command returned.
    pub rate_after: f64,
    /// How long writes took before it.
    pub before: Waits,
    /// How long those took which ended after the command had begun.
    pub after: Waits,
    /// How long the command took, the longest of several.
    pub command: Duration,
}

/// How long writes took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    /// 999 of 1,000 took no longer.
    pub p999: Duration,
    /// None took longer.
    pub longest: Duration,
}

impl Waits {
    /// Of these writes.
    pub fn of(writes: impl Iterator<Item = Duration>) -> Self {
        let mut all: Vec<Duration> = writes.collect();
        all.sort_unstable();
        // The smallest that is no less than so many of them (nearest rank).
        let rank = (all.len() * 999).div_ceil(1000);
        Self {
            p999: all.get(rank.saturating_sub(1)).copied().unwrap_or_default(),
            longest: all.last().copied().unwrap_or_default(),
        }
    }
}

/// A disk with so many snapshots.
#[derive(Clone, Copy, Debug)]
pub struct Many {
    /// How many, before the one under load.
    pub snapshots: u32,
    /// One more, under load.
    pub load: UnderLoad,
    /// Random reads of the disk a second.
    pub live: f64,
    /// And of its oldest snapshot.
    pub oldest: f64,
}

/// A store opened after a clean stop.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// Bytes of data in it.
    pub mapped: u64,
    /// Until its disk was there in the mount.
    pub took: Duration,
    /// Bytes resident then.
    pub memory: u64,
}

/// What came of one run.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// In the row's unit.
    pub value: f64,
    /// Seconds that all processors were busy, for each GiB moved.
    pub cpu: f64,
}

/// A run of a peer and one of ours, one right after the other.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// The peer's.
    pub peer: Figure,
    /// Ours.
    pub us: Figure,
}

/// Whether a comparison of written data with read data passed.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// All was as written.
    Passed,
    /// It was not, or could not be told.
    Failed(String),
    /// There is nothing to compare.
    NotApplicable,
}

/// The middle of several figures, and how far they lie apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Of an even number of figures the mean of the middle two.
    pub median: f64,
    /// The lowest.
    pub low: f64,
    /// The highest.
    pub high: f64,
}

/// The spread of these; `None` for nothing, or for what no number came of.
pub fn spread(figures: impl Iterator<Item = f64>) -> Option<Spread> {
    let mut sorted: Vec<f64> = figures.collect();
    if sorted.is_empty() || !sorted.iter().all(|figure| figure.is_finite()) {
        return None;
    }
    sorted.sort_by(f64::total_cmp);
    let (half, last) = (sorted.len() / 2, sorted.len() - 1);
    Some(Spread {
        median: f64::midpoint(sorted[last - half], sorted[half]),
        low: sorted[0],
        high: sorted[last],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_a_thousand_may_take_longer_than_the_percentile() {
        let of = |count| Waits::of((1..=count).map(Duration::from_millis));
        let ms = Duration::from_millis;
        let waits = |p999, longest| Waits {
            p999: ms(p999),
            longest: ms(longest),
        };
        assert_eq!(of(0), waits(0, 0));
        assert_eq!(of(10), waits(10, 10));
        assert_eq!(of(1000), waits(999, 1000));
        assert_eq!(of(2000), waits(1998, 2000));
    }

    #[test]
    fn the_median_is_in_the_middle() {
        let of = |figures: &[f64]| spread(figures.iter().copied()).map(|found| found.median);
        assert_eq!(of(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(of(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(of(&[7.0]), Some(7.0));
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[1.0, f64::INFINITY]), None);
    }
}
