//! `snapmark scrub`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use crate::base::ByteSize;
use crate::cli::client::{Mount, Target};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{note, print, print_json};
use crate::cli::progress;
use crate::control::parse_rate;
use crate::volume::{ScrubState, ScrubStatus};

/// How often is looked how far it is.
const LOOK: Duration = Duration::from_millis(500);

const EXAMPLES: &str = "\
Examples:
  snapmark scrub /mnt/disks                     read all data and compare it with its checksums
  snapmark scrub /mnt/disks --rate 50MiB/s      slowly
  snapmark scrub /mnt/disks --background        begin, and return at once
  snapmark scrub /mnt/disks --pause             wait where it is, until: --resume
  snapmark scrub /mnt/disks --status --json | jq .problems

The store stays in use meanwhile, and is read past the host's page cache. All data is looked at that
was there when the scrub came by: of disks and snapshots, and of writes still in the cache that have
gone to a device already. While others use the store it leaves most of the devices' time to them.

Ctrl-C ends the waiting and not the scrub: that goes on, also after the store was unmounted and
mounted again, until it is done or --stop. Where a scrub runs already, this one waits for it.

Exit codes of scrub, as those of check:
  0  clean; with --background, --pause, --resume, --stop, or --status while it runs: nothing is
     damaged so far
  2  damaged: the output says what, where, and which disks and snapshots read it
  3  could not check, or was stopped before the end";

/// Check all data of a mounted store while it is in use
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Scrub {
    /// Where the store is mounted, or a disk in it; may be left out where there is only one
    #[arg(value_hint = clap::ValueHint::AnyPath)]
    path: Option<PathBuf>,
    /// Bytes a second at the most, instead of the rate of the settings; 0 is no limit
    #[arg(long, value_name = "RATE", value_parser = rate, conflicts_with = "asks")]
    rate: Option<ByteSize>,
    /// Do not wait for its end
    #[arg(long, conflicts_with = "asks")]
    background: bool,
    #[command(flatten)]
    ask: Ask,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[group(id = "asks", multiple = false)]
struct Ask {
    /// Let it wait where it is
    #[arg(long)]
    pause: bool,
    /// Let it go on
    #[arg(long)]
    resume: bool,
    /// End it
    #[arg(long)]
    stop: bool,
    /// Show how far it is
    #[arg(long)]
    status: bool,
}

fn rate(text: &str) -> Result<ByteSize, String> {
    parse_rate(text).map_err(|error| error.to_string())
}

impl Scrub {
    /// Does it.
    pub fn run(self) -> Result<(), Failure> {
        let done = self.ask_and_wait();
        done.map_err(|failure| match failure.exit {
            Exit::DAMAGED if failure.message.starts_with(DAMAGED) => failure,
            _ => Failure::new(Exit::UNCHECKED, failure.message),
        })
    }

    fn ask_and_wait(&self) -> Result<(), Failure> {
        let mount = mount(self.path.as_deref())?;
        let verb = [
            (self.ask.pause, "pause"),
            (self.ask.resume, "resume"),
            (self.ask.stop, "stop"),
        ];
        let verb = verb
            .into_iter()
            .find_map(|(asked, verb)| asked.then_some(verb));
        if let Some(verb) = verb {
            mount.command(&format!("scrub {verb}"))?;
        } else if !self.ask.status {
            self.start(&mount)?;
        }
        let waits = verb.is_none() && !self.ask.status && !self.background;
        let status = if waits {
            wait(&mount)?
        } else {
            mount.status()?.scrub
        };
        if self.json {
            print_json(&status)?;
        } else {
            print(&words(&status))?;
        }
        match status.state {
            _ if status.damaged > 0 => Err(Failure::new(Exit::DAMAGED, DAMAGED)),
            ScrubState::Failed => Err(Failure::new(
                Exit::UNCHECKED,
                "the scrub could not check everything",
            )),
            ScrubState::Stopped if waits => Err(Failure::new(
                Exit::UNCHECKED,
                "the scrub was stopped before its end",
            )),
            _ => Ok(()),
        }
    }

    /// Begins one, or takes the one that runs.
    fn start(&self, mount: &Mount) -> Result<(), Failure> {
        if mount.status()?.scrub.state == ScrubState::Running {
            note("a scrub is running already");
            if let Some(rate) = self.rate {
                mount.command(&format!("scrub rate {}", rate.0))?;
            }
            return Ok(());
        }
        let rate = self.rate.map(|rate| format!(" {}", rate.0));
        let line = format!("scrub start{}", rate.unwrap_or_default());
        mount.command(&line).map(drop)
    }
}

const DAMAGED: &str = "data is damaged: copy what can be read, and restore the rest";

/// The mount at a path, or that of a disk.
fn mount(path: Option<&Path>) -> Result<Mount, Failure> {
    match path {
        Some(path) if !path.is_dir() => Ok(Target::of(path)?.mount),
        path => Mount::at_or_only(path),
    }
}

/// Shows a bar until the scrub ends.
fn wait(mount: &Mount) -> Result<ScrubStatus, Failure> {
    let mut bar = progress::bytes("data");
    loop {
        let status = mount.status()?.scrub;
        match status.state {
            ScrubState::Running | ScrubState::Paused => {
                // A bar that is full is gone.
                bar(status.checked, status.total.max(status.checked + 1));
            }
            _ => {
                bar(1, 1);
                return Ok(status);
            }
        }
        std::thread::sleep(LOOK);
    }
}

fn words(status: &ScrubStatus) -> String {
    let mut lines = Vec::new();
    for problem in &status.problems {
        lines.push(format!("DAMAGE: {problem}"));
    }
    let shown: u64 = status.problems.iter().map(|problem| problem.count).sum();
    if status.damaged > shown {
        let more = status.damaged - shown;
        lines.push(format!(
            "and {more} more blocks, which the daemon's log names"
        ));
    }
    if status.suspects > 0 {
        lines.push(format!(
            "and {} more blocks differ: so much is damaged that who reads them was not looked up",
            status.suspects
        ));
    }
    if !lines.is_empty() {
        lines.push(String::new());
    }
    lines.push(format!("scrub    {status}"));
    if let Some(started) = &status.started {
        let finished = status.finished.as_ref();
        let finished = finished.map(|at| format!(", ended {at}"));
        lines.push(format!(
            "         begun {started}{}",
            finished.unwrap_or_default()
        ));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::ScrubProblem;

    #[test]
    fn damage_is_named_and_what_is_left_out_is_counted() {
        let problem = ScrubProblem {
            count: 2,
            block: 6,
            path: "/srv/pool.img".to_owned(),
            what: "is not what its checksum says".to_owned(),
            offset: 24576,
            touches: vec!["vm1.img".to_owned()],
            more: 3,
            ..ScrubProblem::default()
        };
        let status = ScrubStatus {
            state: ScrubState::Done,
            damaged: 5,
            suspects: 7,
            problems: vec![problem],
            ..ScrubStatus::default()
        };
        let text = words(&status);
        assert_eq!(
            text,
            "DAMAGE: each of blocks 6 to 7 of segment 0 of device 0 (/srv/pool.img) is not what \
             its checksum says; at byte 24576 of vm1.img and 3 more\n\
             and 3 more blocks, which the daemon's log names\n\
             and 7 more blocks differ: so much is damaged that who reads them was not looked up\n\n\
             scrub    done, 0 B of 0 B checked, 5 damaged blocks and 7 suspect\n"
        );
    }
}
