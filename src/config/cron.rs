//! Times of day and year as cron(8) has them: `minute hour day month weekday`.

use std::fmt;
use std::str::FromStr;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

/// Days that are looked at for the next time: a leap day comes within eight years.
const DAYS: i64 = 366 * 9;

/// When something is due, to the minute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cron {
    text: String,
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether days of the month, and weekdays, are any. Where neither is, one of both is enough.
    any_day: bool,
    any_weekday: bool,
}

/// Text that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?}: {why}; write minute, hour, day of the month, month and weekday, as in \"0 3 * * mon-fri\" or \
     \"*/15 * * * *\", or @hourly, @daily, @weekly or @monthly"
)]
pub struct ParseCronError {
    text: String,
    why: String,
}

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl FromStr for Cron {
    type Err = ParseCronError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = |why: String| ParseCronError {
            text: text.to_owned(),
            why,
        };
        let full = match text.trim() {
            "@hourly" => "0 * * * *",
            "@daily" => "0 0 * * *",
            "@weekly" => "0 0 * * 0",
            "@monthly" => "0 0 1 * *",
            other => other,
        };
        let fields: Vec<&str> = full.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields[..] else {
            return Err(bad(format!(
                "there are {} fields and not five",
                fields.len()
            )));
        };
        let weekdays = set(weekday, 0, 7, &WEEKDAYS, 0).map_err(bad)?;
        let cron = Self {
            text: text.trim().to_owned(),
            minutes: set(minute, 0, 59, &[], 0).map_err(bad)?,
            hours: set(hour, 0, 23, &[], 0).map_err(bad)?,
            days: set(day, 1, 31, &[], 1).map_err(bad)?,
            months: set(month, 1, 12, &MONTHS, 1).map_err(bad)?,
            // Sunday is 0, and 7 too.
            weekdays: (weekdays | weekdays >> 7) & 0x7f,
            any_day: day.starts_with('*'),
            any_weekday: weekday.starts_with('*'),
        };
        if cron
            .next_after(Timestamp::UNIX_EPOCH, &TimeZone::UTC)
            .is_none()
        {
            return Err(bad("there is no such day".to_owned()));
        }
        Ok(cron)
    }
}

/// A field as a set of numbers. `names` are those of the numbers from `first` on.
fn set(field: &str, low: u32, high: u32, names: &[&str], first: u32) -> Result<u64, String> {
    let number = |text: &str| {
        let name = names
            .iter()
            .position(|name| text.eq_ignore_ascii_case(name));
        let number = match name {
            Some(at) => Some(at as u32 + first),
            None => text.parse().ok(),
        };
        let number = number.filter(|number| (low..=high).contains(number));
        number.ok_or_else(|| format!("{text:?} is not from {low} to {high}"))
    };
    let mut set = 0;
    for part in field.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => {
                let step = step.parse().ok().filter(|step| (1..=high).contains(step));
                (range, step.ok_or_else(|| format!("{part:?} has no step"))?)
            }
            None => (part, 1),
        };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (low, high),
            Some((from, to)) => (number(from)?, number(to)?),
            None if part.contains('/') => (number(range)?, high),
            None => (number(range)?, number(range)?),
        };
        if from > to {
            return Err(format!("{range:?} goes backwards"));
        }
        (from..=to)
            .step_by(step as usize)
            .for_each(|number| set |= 1 << number);
    }
    Ok(set)
}

fn has(set: u64, number: i8) -> bool {
    set >> number & 1 != 0
}

impl Cron {
    fn is_day(&self, date: Date) -> bool {
        let day = has(self.days, date.day());
        let weekday = has(self.weekdays, date.weekday().to_sunday_zero_offset());
        let is_right = match (self.any_day, self.any_weekday) {
            (false, false) => day || weekday,
            _ => day && weekday,
        };
        is_right && has(self.months, date.month())
    }

    /// The next time that is due after another, in a time zone. A time that a change of the clocks
    /// leaves out is due as the clock goes on.
    #[must_use]
    pub fn next_after(&self, time: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let start = zone.to_datetime(time).date();
        for day in 0..DAYS {
            let date = start.checked_add(day.days()).ok()?;
            if !self.is_day(date) {
                continue;
            }
            for hour in (0..24).filter(|hour| has(self.hours, *hour)) {
                for minute in (0..60).filter(|minute| has(self.minutes, *minute)) {
                    let at = date.at(hour, minute, 0, 0);
                    let due = zone.to_ambiguous_timestamp(at).compatible().ok()?;
                    if due > time {
                        return Some(due);
                    }
                }
            }
        }
        None
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(cron: &str, time: &str) -> String {
        let cron: Cron = cron.parse().unwrap();
        cron.next_after(time.parse().unwrap(), &TimeZone::UTC)
            .unwrap()
            .to_string()
    }

    #[test]
    fn the_next_time_is_found() {
        let saturday = "2026-11-28T03:15:00Z";
        for (cron, next) in [
            ("* * * * *", "2026-11-28T03:16:00Z"),
            ("*/15 * * * *", "2026-11-28T03:30:00Z"),
            ("5/20 * * * *", "2026-11-28T03:25:00Z"),
            ("0 3 * * *", "2026-11-29T03:00:00Z"),
            ("30 2,4 * * *", "2026-11-28T04:30:00Z"),
            ("0 3 * * mon-fri", "2026-11-30T03:00:00Z"),
            ("0 0 * * 7", "2026-11-29T00:00:00Z"),
            ("0 0 1 * *", "2026-12-01T00:00:00Z"),
            ("0 0 13 * FRI", "2026-12-04T00:00:00Z"),
            ("0 0 29 feb *", "2028-02-29T00:00:00Z"),
            ("@hourly", "2026-11-28T04:00:00Z"),
            ("@weekly", "2026-11-29T00:00:00Z"),
        ] {
            assert_eq!(after(cron, saturday), next, "{cron}");
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        for bad in [
            "",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 8",
            "5-1 * * * *",
            "*/0 * * * *",
            "a * * * *",
            "0 0 31 feb *",
            "@yearly",
            "-1 * * * *",
        ] {
            let error = bad.parse::<Cron>().unwrap_err().to_string();
            assert!(error.contains("0 3 * * mon-fri"), "{error}");
        }
    }
}
