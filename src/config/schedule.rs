//! Snapshots that are taken by themselves: when, of what, and how long they are kept.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::value;
use super::{Cron, Glob, Interval};
use crate::base::check_snapshot_name;

/// The longest name of a schedule, in bytes.
const LONGEST: usize = 64;

/// A schedule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleRule {
    /// What its snapshots' names begin with.
    #[serde(deserialize_with = "name")]
    pub name: String,
    /// Which disks, all at one point.
    #[serde(deserialize_with = "value::text")]
    pub disks: Glob,
    /// Again and again, at multiples of this since 1970 began; or else `at`.
    #[serde(default, deserialize_with = "period")]
    pub every: Option<Interval>,
    /// At times of cron, in UTC; or else `every`.
    #[serde(default, deserialize_with = "cron", serialize_with = "as_text")]
    pub at: Option<Cron>,
    /// How many are kept; all where it is not said.
    #[serde(default)]
    pub keep: Option<Keep>,
    /// A shell command that is run before. Where it fails no snapshot is taken.
    #[serde(default)]
    pub before: Option<String>,
    /// A shell command that is run after, also where there is no snapshot.
    #[serde(default)]
    pub after: Option<String>,
}

impl ScheduleRule {
    /// The next time that is due after another; nothing where the rule says none.
    #[must_use]
    pub fn next_after(&self, time: Timestamp) -> Option<Timestamp> {
        match (&self.every, &self.at) {
            (Some(Interval(period)), _) => {
                let period = i64::try_from(period.as_secs())
                    .ok()
                    .filter(|period| *period > 0)?;
                let next = (time.as_second().div_euclid(period) + 1) * period;
                Timestamp::from_second(next).ok()
            }
            (None, Some(cron)) => cron.next_after(time, &TimeZone::UTC),
            (None, None) => None,
        }
    }

    /// What is wrong with it, if anything is.
    pub(super) fn fault(&self) -> Option<String> {
        let name = &self.name;
        if self.every.is_some() == self.at.is_some() {
            return Some(format!(
                "the schedule {name:?} wants 'every' or 'at', and not both"
            ));
        }
        let nothing = self.keep.is_some_and(|keep| keep == Keep::default());
        nothing.then(|| {
            format!(
                "the schedule {name:?} keeps nothing; say how many, or leave 'keep' out to keep all"
            )
        })
    }
}

fn period<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Interval>, D::Error> {
    value::period(from).map(Some)
}

fn as_text<S: Serializer>(cron: &Option<Cron>, to: S) -> Result<S::Ok, S::Error> {
    match cron {
        Some(cron) => to.collect_str(cron),
        None => to.serialize_none(),
    }
}

fn cron<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Cron>, D::Error> {
    struct Visitor;
    impl de::Visitor<'_> for Visitor {
        type Value = Cron;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a time such as \"0 3 * * *\"")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Cron, E> {
            text.parse().map_err(E::custom)
        }
    }
    from.deserialize_str(Visitor).map(Some)
}

/// How many snapshots of a schedule are kept of each disk. One that any of these keeps, stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Keep {
    /// The newest so many.
    pub last: u32,
    /// The newest of each hour, of so many hours that have any; and so on.
    pub hourly: u32,
    /// Of each day.
    pub daily: u32,
    /// Of each week.
    pub weekly: u32,
    /// Of each month.
    pub monthly: u32,
}

impl Keep {
    /// Which of these are kept, given in any order; the same order comes back.
    #[must_use]
    pub fn keeps(&self, times: &[Timestamp]) -> Vec<bool> {
        let mut newest_first: Vec<usize> = (0..times.len()).collect();
        newest_first.sort_by_key(|at| std::cmp::Reverse(times[*at]));
        let mut kept = vec![false; times.len()];
        let mut keep = |most: u32, period: &dyn Fn(Timestamp) -> i64| {
            let (mut last, mut count) = (None, 0);
            for at in &newest_first {
                let of = period(times[*at]);
                if last != Some(of) && count < most {
                    (last, count) = (Some(of), count + 1);
                    kept[*at] = true;
                }
            }
        };
        let seconds = |period: i64| move |time: Timestamp| time.as_second().div_euclid(period);
        keep(self.hourly, &seconds(3600));
        keep(self.daily, &seconds(86400));
        // 1970 began on a Thursday; weeks begin on Mondays.
        keep(self.weekly, &|time| {
            (time.as_second() + 3 * 86400).div_euclid(7 * 86400)
        });
        keep(self.monthly, &|time| {
            let date = TimeZone::UTC.to_datetime(time).date();
            i64::from(date.year()) * 12 + i64::from(date.month())
        });
        for at in newest_first.iter().take(self.last as usize) {
            kept[*at] = true;
        }
        kept
    }
}

fn name<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let name = String::deserialize(from)?;
    if name.len() > LONGEST {
        return Err(de::Error::custom(format!(
            "a name of {} bytes; {LONGEST} are allowed",
            name.len()
        )));
    }
    check_snapshot_name("", &name).map_err(de::Error::custom)?;
    Ok(name)
}

/// The shortest period, and the longest.
pub(super) const PERIODS: (Duration, Duration) =
    (Duration::from_secs(1), Duration::from_secs(366 * 86400));

#[cfg(test)]
mod tests {
    use super::*;

    fn times(of: &[&str]) -> Vec<Timestamp> {
        of.iter().map(|time| time.parse().unwrap()).collect()
    }

    #[test]
    fn the_newest_of_each_period_is_kept() {
        let all = times(&[
            "2026-11-28T03:00:00Z",
            "2026-11-28T02:30:00Z",
            "2026-11-28T02:00:00Z",
            "2026-11-27T23:30:00Z",
            "2026-11-22T10:00:00Z",
            "2026-11-16T10:00:00Z",
            "2026-10-31T10:00:00Z",
            "2026-08-01T10:00:00Z",
        ]);
        let kept = |keep: Keep| {
            let kept = keep.keeps(&all).into_iter().enumerate();
            kept.filter_map(|(at, kept)| kept.then_some(at))
                .collect::<Vec<_>>()
        };
        let none = Keep::default();
        assert_eq!(kept(Keep { last: 2, ..none }), [0, 1]);
        assert_eq!(kept(Keep { hourly: 2, ..none }), [0, 1]);
        assert_eq!(kept(Keep { hourly: 3, ..none }), [0, 1, 3]);
        assert_eq!(kept(Keep { daily: 3, ..none }), [0, 3, 4]);
        assert_eq!(
            kept(Keep { weekly: 3, ..none }),
            [0, 4, 6],
            "22 and 16 are of one week"
        );
        assert_eq!(kept(Keep { monthly: 9, ..none }), [0, 6, 7]);
        assert_eq!(
            kept(Keep {
                last: 1,
                monthly: 2,
                ..none
            }),
            [0, 6]
        );
        assert_eq!(kept(none), [0usize; 0]);
    }

    #[test]
    fn periods_are_counted_from_the_same_moment() {
        let rule = ScheduleRule {
            name: "n".to_owned(),
            disks: Glob::new("*"),
            every: Some(Interval(Duration::from_secs(1800))),
            at: None,
            keep: None,
            before: None,
            after: None,
        };
        let next = rule
            .next_after("2026-11-28T03:15:01Z".parse().unwrap())
            .unwrap();
        assert_eq!(next.to_string(), "2026-11-28T03:30:00Z");
        let next = rule.next_after(next).unwrap();
        assert_eq!(next.to_string(), "2026-11-28T04:00:00Z");
        assert_eq!(rule.fault(), None);
        let neither = ScheduleRule {
            every: None,
            ..rule
        };
        assert!(neither.fault().unwrap().contains("'every' or 'at'"));
    }
}
