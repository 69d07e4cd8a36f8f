//! Command lines in, answers in words out: what stands behind `.control`, `.stats` and `.status`.
//!
//! A line is parsed completely before anything is done ([`parse`]), then one verb runs it over
//! [`crate::volume::Volumes`]. Nothing here knows how the line arrived.

mod error;
mod exposition;
mod grammar;
mod history;
mod parse;
mod stats;
mod table;
mod verbs;

use std::sync::Arc;

pub use error::{CommandError, ErrorKind};
pub use exposition::{Sample, parse_exposition};
pub use grammar::{FORMS, Form, help};
pub use parse::{Command, DeviceSpec, MAX_LINE, ScrubCommand, parse, parse_rate};
pub use table::{Align, Table};
pub use verbs::{MOUNT_HINTS, SnapshotAnswer, render_devices, render_list};

use crate::volume::Volumes;
use history::History;

/// What a frontend offers to those who manage the store.
pub trait Commands: Send + Sync {
    /// Runs one line. The answer, or the words of the error, end with a line feed.
    ///
    /// # Errors
    /// Where the line is none, or what it asks for can't be done.
    fn execute(&self, line: &str) -> Result<String, CommandError>;
    /// Takes a snapshot of disks, as the line of that name does. For those who have no line: here any
    /// name will do that a snapshot can have.
    ///
    /// # Errors
    /// Where it can't be taken; there is no snapshot of any of the disks then.
    fn snapshot(
        &self,
        disks: &[String],
        name: Option<&str>,
        durable: bool,
    ) -> Result<String, CommandError>;
    /// Told of a line that never came to [`Commands::execute`], so that the history can show it.
    fn refused(&self, line: &str, why: &CommandError);
    /// The last commands with their results, oldest first.
    fn history(&self) -> String;
    /// Prometheus text, exposition format 0.0.4.
    fn stats(&self) -> String;
    /// The state as YAML.
    fn status(&self) -> String;
}

/// The commands of one open store.
pub struct Control {
    volumes: Arc<Volumes>,
    history: History,
}

impl Control {
    /// Commands over these volumes.
    #[must_use]
    pub fn new(volumes: Arc<Volumes>) -> Self {
        Self {
            volumes,
            history: History::default(),
        }
    }
}

impl Commands for Control {
    fn execute(&self, line: &str) -> Result<String, CommandError> {
        let result = parse(line).and_then(|command| verbs::run(&self.volumes, &command));
        self.history.push(line, &result);
        result
    }

    fn snapshot(
        &self,
        disks: &[String],
        name: Option<&str>,
        durable: bool,
    ) -> Result<String, CommandError> {
        let command = Command::Snapshot {
            disks: disks.to_vec(),
            name: name.map(str::to_owned),
            durable,
        };
        let result = verbs::run(&self.volumes, &command);
        let nosync = if durable { "" } else { "nosync" };
        let line = format!(
            "snapshot {} {} {nosync}",
            disks.join(","),
            name.unwrap_or("")
        );
        self.history.push(&line, &result);
        result
    }

    fn refused(&self, line: &str, why: &CommandError) {
        self.history.push(line, &Err(why.clone()));
    }

    fn history(&self) -> String {
        self.history.render()
    }

    fn stats(&self) -> String {
        stats::render(&self.volumes.status(), self.volumes.metrics())
    }

    fn status(&self) -> String {
        serde_yaml::to_string(&self.volumes.status())
            .unwrap_or_else(|error| format!("state: no status: {error}\n"))
    }
}
