//! Values of settings that check themselves while they are read, so that an error still knows
//! its line and column.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::schedule::PERIODS;
use super::{Glob, ScheduleRule};
use crate::base::ByteSize;

/// A time as people write it: `500ms`, `2s`, `1m`, `1h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interval(pub Duration);

/// Text that is no time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no time: write a whole number and a unit, as in 500ms, 2s, 1m or 1h")]
pub struct ParseIntervalError(String);

const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

impl FromStr for Interval {
    type Err = ParseIntervalError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ParseIntervalError(text.to_owned());
        let trimmed = text.trim();
        let split = trimmed
            .find(|c: char| !c.is_ascii_digit())
            .ok_or_else(bad)?;
        let (number, unit) = trimmed.split_at(split);
        let number: u64 = number.parse().map_err(|_| bad())?;
        let known = UNITS.iter().find(|(name, _)| *name == unit.trim());
        let (_, millis) = known.ok_or_else(bad)?;
        let millis = number.checked_mul(*millis).ok_or_else(bad)?;
        Ok(Self(Duration::from_millis(millis)))
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let unit = UNITS
            .iter()
            .find(|(_, size)| millis != 0 && millis.is_multiple_of(u128::from(*size)));
        match unit {
            Some((name, size)) => f.pad(&format!("{}{name}", millis / u128::from(*size))),
            None => f.pad(&format!("{millis}ms")),
        }
    }
}

impl Serialize for Interval {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// Reads a plain value from its text. What is wrong with it must be said while it is visited:
/// later the reader no longer knows where it stood.
struct Scalar<F> {
    expecting: &'static str,
    read: F,
}

impl<T, F: FnOnce(&str) -> Result<T, String>> de::Visitor<'_> for Scalar<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expecting)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.read)(text).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }
}

/// A value that has `low..=high` as its bounds.
fn ranged<'de, D, T>(from: D, expecting: &'static str, low: T, high: T) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display> + PartialOrd + fmt::Display,
{
    let read = |text: &str| {
        let value: T = text.parse().map_err(|error: T::Err| error.to_string())?;
        if (&low..=&high).contains(&&value) {
            Ok(value)
        } else {
            Err(format!("{value} is not from {low} to {high}"))
        }
    };
    from.deserialize_any(Scalar { expecting, read })
}

/// Text that is not empty.
pub(super) fn text<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: From<String>,
{
    from.deserialize_str(Scalar {
        expecting: "text",
        read: |text: &str| match text {
            "" => Err("it is empty".to_owned()),
            _ => Ok(T::from(text.to_owned())),
        },
    })
}

/// A section that may stand there without content, as all settings in it may be comments.
pub(super) fn section<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::deserialize(from).map(Option::unwrap_or_default)
}

/// From 4 MiB to 1 TiB.
pub(super) fn cache_size<'de, D: Deserializer<'de>>(from: D) -> Result<ByteSize, D::Error> {
    size(from, 4 << 20, 1 << 40)
}

/// From 8 MiB to 1 TiB.
pub(super) fn journal_size<'de, D: Deserializer<'de>>(from: D) -> Result<ByteSize, D::Error> {
    size(from, 8 << 20, 1 << 40)
}

/// From 1 MiB to 1 GiB.
pub(super) fn batch<'de, D: Deserializer<'de>>(from: D) -> Result<ByteSize, D::Error> {
    size(from, 1 << 20, 1 << 30)
}

/// Bytes a second, up to 1 TiB; 0 is no limit.
pub(super) fn rate<'de, D: Deserializer<'de>>(from: D) -> Result<ByteSize, D::Error> {
    size(from, 0, 1 << 40)
}

fn size<'de, D: Deserializer<'de>>(from: D, low: u64, high: u64) -> Result<ByteSize, D::Error> {
    let expecting = "a size such as 512MiB or 100GiB";
    ranged(from, expecting, ByteSize(low), ByteSize(high))
}

/// From 10 ms to an hour.
pub(super) fn interval<'de, D: Deserializer<'de>>(from: D) -> Result<Interval, D::Error> {
    let low = Interval(Duration::from_millis(10));
    let high = Interval(Duration::from_secs(3600));
    ranged(from, "a time such as 500ms or 2s", low, high)
}

/// From a second to a year.
pub(super) fn period<'de, D: Deserializer<'de>>(from: D) -> Result<Interval, D::Error> {
    let (low, high) = PERIODS;
    ranged(
        from,
        "a time such as 30m or 6h",
        Interval(low),
        Interval(high),
    )
}

/// Schedules, each with a name of its own and something to keep.
pub(super) fn schedules<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<ScheduleRule>, D::Error> {
    let schedules: Vec<ScheduleRule> = section(from)?;
    let mut names: Vec<&str> = schedules.iter().map(|rule| rule.name.as_str()).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(de::Error::custom(format!(
            "two schedules are called {:?}",
            pair[0]
        )));
    }
    if let Some(fault) = schedules.iter().find_map(ScheduleRule::fault) {
        return Err(de::Error::custom(fault));
    }
    Ok(schedules)
}

/// From 1 to 64.
pub(super) fn threads<'de, D: Deserializer<'de>>(from: D) -> Result<u16, D::Error> {
    ranged(from, "a number from 1 to 64", 1, 64)
}

/// From 1 to 4,096.
pub(super) fn sessions<'de, D: Deserializer<'de>>(from: D) -> Result<u16, D::Error> {
    ranged(from, "a number from 1 to 4096", 1, 4096)
}

/// Patterns, at least one.
pub(super) fn globs<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Glob>, D::Error> {
    let patterns = Vec::<String>::deserialize(from)?;
    if patterns.is_empty() {
        return Err(de::Error::custom(
            "name at least one pattern; '*' is anybody",
        ));
    }
    Ok(patterns.into_iter().map(Glob::new).collect())
}

/// From 1 to 4,096.
pub(super) fn max_background<'de, D: Deserializer<'de>>(from: D) -> Result<u16, D::Error> {
    ranged(from, "a number from 1 to 4096", 1, 4096)
}

/// Percentages from 1 to 100, each greater than the one before.
pub(super) fn marks<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    struct Marks;
    impl<'de> de::Visitor<'de> for Marks {
        type Value = Vec<u8>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("percentages from 1 to 100 in rising order, as in [80, 95]")
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Vec<u8>, A::Error> {
            let mut marks = Vec::new();
            while let Some(mark) = list.next_element::<u8>()? {
                if !(1..=100).contains(&mark) || marks.last().is_some_and(|last| *last >= mark) {
                    let given = de::Unexpected::Unsigned(mark.into());
                    return Err(de::Error::invalid_value(given, &self));
                }
                marks.push(mark);
            }
            Ok(marks)
        }
    }
    from.deserialize_seq(Marks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_and_print() {
        for (text, millis, printed) in [
            ("500ms", 500, "500ms"),
            ("2s", 2000, "2s"),
            (" 90 s ", 90_000, "90s"),
            ("120s", 120_000, "2m"),
            ("1h", 3_600_000, "1h"),
            ("0ms", 0, "0ms"),
        ] {
            let interval: Interval = text.parse().unwrap();
            assert_eq!(interval.0, Duration::from_millis(millis), "{text}");
            assert_eq!(interval.to_string(), printed);
        }
        for bad in [
            "",
            "5",
            "s",
            "1.5s",
            "-1s",
            "1 day",
            "99999999999999999999s",
            "9999999999999999h",
        ] {
            assert!(bad.parse::<Interval>().is_err(), "{bad}");
        }
    }
}
