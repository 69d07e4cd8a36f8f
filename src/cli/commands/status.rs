//! `snapmark status`.

use std::fmt::Write;
use std::path::PathBuf;

use clap::Args;

use crate::base::ByteSize;
use crate::cli::client::Mount;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{count, print, print_json};
use crate::control::render_devices;
use crate::volume;

const EXAMPLES: &str = "\
Examples:
  snapmark status                     of the only mount
  snapmark status /mnt/disks --json   everything, for programs
  cat /mnt/disks/.status              the same as YAML
  cat /mnt/disks/.stats               the counters, for Prometheus

Ends with 0 where the store is well, 6 where it waits for space on the host, 1 where it has
stopped writing.";

/// Show the state of a mounted store
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Status {
    /// Where the store is mounted; may be left out where there is only one
    #[arg(value_hint = clap::ValueHint::DirPath)]
    mountpoint: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Status {
    /// Shows it.
    pub fn run(self) -> Result<(), Failure> {
        let mount = Mount::at_or_only(self.mountpoint.as_deref())?;
        let status = mount.status()?;
        if self.json {
            print_json(&status)?;
        } else {
            print(&format!(
                "{}mount    {}\n{}",
                trouble(&status),
                mount.path().display(),
                words(&status)
            ))?;
        }
        verdict(&status)
    }
}

/// What comes before all else where the store is not well.
fn trouble(status: &volume::Status) -> String {
    match &status.advice {
        Some(advice) => {
            let (what, why) = status.state.split_once(':').unwrap_or((&status.state, ""));
            format!("{}:{why}\n         {advice}\n\n", what.to_uppercase())
        }
        None => String::new(),
    }
}

/// A store that has stopped writing, or waits for space, is a failure for scripts.
fn verdict(status: &volume::Status) -> Result<(), Failure> {
    let exit = match status.state.split(':').next() {
        Some("halted") => Exit::Failed,
        Some("paused") => Exit::NoSpace,
        _ => return Ok(()),
    };
    let words = status.advice.as_deref().unwrap_or_default();
    Err(Failure::new(
        exit,
        format!("the store is {}; {words}", status.state),
    ))
}

fn words(status: &volume::Status) -> String {
    let mut text = String::new();
    let (pool, cache) = (&status.pool, &status.cache);
    let _ = write!(
        text,
        "store    {}, version {}, segments of {}\nstate    {}\n",
        status.store,
        status.version,
        ByteSize(status.segment),
        status.state
    );
    let _ = writeln!(
        text,
        "pool     {} used of {} ({} %), {} available, {} reserved, {} being given back",
        ByteSize(pool.used),
        ByteSize(pool.total),
        percent(pool.used, pool.total),
        ByteSize(pool.available),
        ByteSize(pool.reserved),
        ByteSize(pool.pending)
    );
    let _ = writeln!(
        text,
        "cache    {} of {} waiting in {}, {} waiting, {} % of blocks read hit",
        ByteSize(cache.used),
        ByteSize(cache.size),
        count(cache.records, "record"),
        count(cache.markers, "marker"),
        percent(cache.hits, cache.hits.saturating_add(cache.misses))
    );
    let _ = match &status.journal {
        Some(journal) => writeln!(
            text,
            "journal  {} of {} used, {}",
            ByteSize(journal.used),
            ByteSize(journal.size),
            journal.path
        ),
        None => writeln!(text, "journal  none (volatile mode)"),
    };
    for warning in &status.warnings {
        let _ = writeln!(text, "warning  {warning}");
    }
    for device in &status.devices {
        if let Some(last) = &device.errors.last {
            let _ = writeln!(text, "error    {last}");
        }
    }
    let _ = writeln!(text, "scrub    {}", status.scrub);
    if let Some(target) = &status.iscsi {
        let _ = writeln!(
            text,
            "iscsi    at {}, {}",
            target.portals.join(", "),
            count(target.sessions.len() as u64, "session")
        );
        for session in &target.sessions {
            let _ = writeln!(
                text,
                "         {} at {} uses {}: {} read, {} written",
                session.initiator,
                session.address,
                session.target.as_deref().unwrap_or("discovery"),
                ByteSize(session.read),
                ByteSize(session.written)
            );
        }
    }
    for schedule in &status.schedules {
        let _ = writeln!(
            text,
            "schedule {}: {}, last at work {}, next {}{}",
            schedule.name,
            count(schedule.snapshots, "snapshot"),
            schedule.last.as_deref().unwrap_or("never"),
            schedule.next.as_deref().unwrap_or("never"),
            match &schedule.error {
                Some(error) => format!("\n         failed: {error}"),
                None => String::new(),
            }
        );
    }
    let _ = write!(
        text,
        "disks    {}, with {}\n\n{}",
        status.disks.len(),
        count(status.snapshots.len() as u64, "snapshot"),
        render_devices(status)
    );
    text
}

/// Rounded down; 0 where there is nothing.
fn percent(part: u64, whole: u64) -> u64 {
    (u128::from(part) * 100)
        .checked_div(u128::from(whole))
        .map_or(0, |percent| u64::try_from(percent).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_status_has_words() {
        let text = words(&volume::Status::default());
        assert!(text.contains("0 B used of 0 B (0 %)") && text.contains("volatile"));
        assert_eq!(percent(u64::MAX, u64::MAX), 100);
    }

    #[test]
    fn a_store_that_is_not_well_says_so_first_and_in_its_exit_code() {
        let state = |state: &str| volume::Status {
            state: state.to_owned(),
            advice: (state != "ok").then(|| "do this".to_owned()),
            ..volume::Status::default()
        };
        assert_eq!(trouble(&state("ok")), "");
        assert!(verdict(&state("ok")).is_ok());
        let halted = state("halted: the disk burns");
        assert!(trouble(&halted).starts_with("HALTED: the disk burns\n         do this\n"));
        assert_eq!(verdict(&halted).unwrap_err().exit, Exit::Failed);
        let paused = verdict(&state("paused: no space")).unwrap_err();
        assert_eq!(paused.exit, Exit::NoSpace);
        assert!(paused.message.contains("do this"));
    }
}
