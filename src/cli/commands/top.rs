//! `snapmark top`.

use std::fmt::Write;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;

use crate::base::ByteSize;
use crate::cli::client::Mount;
use crate::cli::exit::Failure;
use crate::cli::output::print;
use crate::control::{Align, Sample, Table, parse_exposition};
use crate::volume::Status;

const EXAMPLES: &str = "\
Examples:
  snapmark top                        refreshed every second; ends with Ctrl-C
  snapmark top /mnt/disks -i 5 -n 12  for a minute, every five seconds";

/// Watch rates and latencies
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Top {
    /// Where the store is mounted; may be left out where there is only one
    #[arg(value_hint = clap::ValueHint::DirPath)]
    mountpoint: Option<PathBuf>,
    /// Seconds between two looks
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
    /// How many times; for ever unless given
    #[arg(short = 'n', long)]
    iterations: Option<u64>,
}

impl Top {
    /// Watches.
    pub fn run(self) -> Result<(), Failure> {
        let mount = Mount::at_or_only(self.mountpoint.as_deref())?;
        let mut before = Look::take(&mount)?;
        let clear = if std::io::stdout().is_terminal() {
            "\x1b[H\x1b[2J"
        } else {
            ""
        };
        let mut left = self.iterations;
        while left != Some(0) {
            std::thread::sleep(Duration::from_secs(self.interval));
            let after = Look::take(&mount)?;
            print(&format!(
                "{clear}{}",
                render(&before, &after, &mount.status()?)
            ))?;
            before = after;
            left = left.map(|n| n - 1);
        }
        Ok(())
    }
}

/// The counters at a moment.
struct Look {
    at: Instant,
    samples: Vec<Sample>,
}

impl Look {
    fn take(mount: &Mount) -> Result<Self, Failure> {
        let samples = parse_exposition(&mount.stats()?).map_err(Failure::failed)?;
        Ok(Self {
            at: Instant::now(),
            samples,
        })
    }

    fn of(&self, name: &str, operation: &str) -> f64 {
        self.samples
            .iter()
            .filter(|s| s.name.strip_prefix("snapmark_") == Some(name))
            .find(|s| operation.is_empty() || s.label("operation") == Some(operation))
            .map_or(0.0, |s| s.value)
    }

    /// Bounds in seconds and how many operations ended within, in rising order.
    fn buckets(&self, operation: &str) -> Vec<(f64, f64)> {
        self.samples
            .iter()
            .filter(|s| s.name == "snapmark_operation_duration_seconds_bucket")
            .filter(|s| s.label("operation") == Some(operation))
            .filter_map(|s| {
                let bound = match s.label("le")? {
                    "+Inf" => f64::INFINITY,
                    bound => bound.parse().ok()?,
                };
                Some((bound, s.value))
            })
            .collect()
    }
}

fn render(before: &Look, after: &Look, status: &Status) -> String {
    let seconds = (after.at - before.at).as_secs_f64().max(1e-3);
    let mut table = Table::new(&[
        ("", Align::Left),
        ("PER SECOND", Align::Right),
        ("BYTES/S", Align::Right),
        ("MEAN", Align::Right),
        ("99 % WITHIN", Align::Right),
        ("FAILED", Align::Right),
    ]);
    for operation in ["read", "write", "discard", "sync", "snapshot"] {
        let grown = |name: &str| after.of(name, operation) - before.of(name, operation);
        let ended = grown("operation_duration_seconds_count");
        let mean = grown("operation_duration_seconds_sum") / ended;
        table.row([
            operation.to_owned(),
            format!("{:.0}", grown("operations_total") / seconds),
            ByteSize((grown("operation_bytes_total") / seconds) as u64).to_string(),
            duration((ended > 0.0).then_some(mean)),
            duration(within(
                &before.buckets(operation),
                &after.buckets(operation),
                0.99,
            )),
            format!("{:.0}", after.of("operation_errors_total", operation)),
        ]);
    }
    let hits = after.of("cache_hits_total", "") - before.of("cache_hits_total", "");
    let misses = after.of("cache_misses_total", "") - before.of("cache_misses_total", "");
    let destaged = after.of("destaged_bytes_total", "") - before.of("destaged_bytes_total", "");
    let mut text = format!("{table}\n");
    let cache = &status.cache;
    let _ = write!(
        text,
        "state {}   pool {} of {} used   cache {} of {}, {} records, {} markers\n\
         destaged {}/s   reads hit the cache: {:.0} %   {} disks, {} snapshots\n",
        status.state,
        ByteSize(status.pool.used),
        ByteSize(status.pool.total),
        ByteSize(cache.used),
        ByteSize(cache.size),
        cache.records,
        cache.markers,
        ByteSize((destaged / seconds) as u64),
        100.0 * hits / (hits + misses).max(1.0),
        status.disks.len(),
        status.snapshots.len()
    );
    text
}

/// The bound below which this part of the operations between two looks ended.
fn within(before: &[(f64, f64)], after: &[(f64, f64)], part: f64) -> Option<f64> {
    let grown: Vec<(f64, f64)> = after
        .iter()
        .zip(before)
        .map(|((bound, now), (_, then))| (*bound, now - then))
        .collect();
    let all = grown.last().filter(|(_, all)| *all > 0.0)?.1;
    grown
        .into_iter()
        .find(|(_, count)| *count >= all * part)
        .map(|(bound, _)| bound)
}

fn duration(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(s) if s.is_infinite() => "over 67 s".to_owned(),
        Some(s) if s < 1e-3 => format!("{:.0} us", s * 1e6),
        Some(s) if s < 1.0 => format!("{:.1} ms", s * 1e3),
        Some(s) => format!("{s:.1} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_comes_from_what_grew() {
        let before = [(1.0, 10.0), (2.0, 10.0), (f64::INFINITY, 10.0)];
        let after = [(1.0, 10.0), (2.0, 109.0), (f64::INFINITY, 110.0)];
        assert_eq!(within(&before, &after, 0.99), Some(2.0));
        assert_eq!(within(&before, &after, 1.0), Some(f64::INFINITY));
        assert_eq!(within(&before, &before, 0.99), None);
        assert_eq!(duration(None), "-");
        assert_eq!(duration(Some(0.0025)), "2.5 ms");
    }

    #[test]
    fn an_idle_store_renders() {
        let look = || Look {
            at: Instant::now(),
            samples: Vec::new(),
        };
        let text = render(&look(), &look(), &Status::default());
        assert!(text.contains("write") && !text.contains("NaN"), "{text}");
    }
}
