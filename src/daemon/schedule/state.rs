//! What schedules have done, in a file of the store. It is replaced as a whole: what stands there is
//! what was so before or after.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::config::{ScheduleRule, open_own};

/// The longest file that is read, in bytes.
const MAX_FILE: u64 = 16 << 20;
/// How far the clock may have gone back before a schedule begins anew, in seconds.
const BACK: i64 = 60;

/// A snapshot that a schedule took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Taken {
    /// The disk's name then.
    pub disk: String,
    /// The name that it was given.
    pub name: String,
    /// What it is, whatever it is called.
    pub identity: (u64, u64),
}

impl Taken {
    /// When it was taken, as its name says.
    pub fn time(&self, schedule: &str) -> Option<Timestamp> {
        time_of(schedule, &self.name)
    }
}

/// The time in the name of a schedule's snapshot.
pub(super) fn time_of(schedule: &str, name: &str) -> Option<Timestamp> {
    let text = name.strip_prefix(schedule)?.strip_prefix('-')?;
    let time = DateTime::strptime("%Y-%m-%dT%H-%M-%SZ", text).ok()?;
    TimeZone::UTC.to_timestamp(time).ok()
}

/// What the command after a snapshot is to be told, should it be run by the next daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Owed {
    /// The snapshot's name.
    pub name: String,
    /// The disks' names, with commas.
    pub disks: String,
}

/// How it went when a schedule was last at work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Outcome {
    /// When, in seconds since 1970.
    pub at: i64,
    /// What went wrong.
    pub error: Option<String>,
}

/// What a schedule has done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Done {
    /// When it was last due, in seconds since 1970.
    last: i64,
    /// The name of the snapshots that it was about to take, and the disks.
    #[serde(default)]
    announced: Option<String>,
    #[serde(default)]
    disks: Vec<String>,
    /// `before` was begun, and `after` has not been run yet.
    #[serde(default)]
    owed: Option<Owed>,
    #[serde(default)]
    outcome: Option<Outcome>,
    /// Those that it took, and that are not deleted.
    #[serde(default)]
    taken: Vec<Taken>,
}

/// All that is known.
#[derive(Debug)]
pub(super) struct State {
    file: PathBuf,
    schedules: BTreeMap<String, Done>,
}

impl State {
    /// What the file says; nothing where it can't be read.
    pub fn load(file: PathBuf) -> Self {
        let schedules = match read(&file) {
            Ok(text) => serde_yaml::from_slice(&text).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(error),
        };
        let schedules = schedules.unwrap_or_else(|error| {
            let file = file.display();
            log::warn!("{file}: {error}; schedules begin anew, and snapshots of before stay");
            BTreeMap::new()
        });
        Self { file, schedules }
    }

    /// Those that are new are not due until their time comes. Those that are gone are remembered: they may
    /// come back, and their snapshots with them.
    pub fn begin(&mut self, rules: &[ScheduleRule], now: Timestamp) {
        for rule in rules {
            let done = self
                .schedules
                .entry(rule.name.clone())
                .or_insert_with(|| Done {
                    last: now.as_second(),
                    ..Done::default()
                });
            if done.last > now.as_second() + BACK {
                done.last = now.as_second();
            }
        }
        self.save();
    }

    /// When a schedule was last due.
    pub fn last(&mut self, schedule: &str, now: Timestamp) -> Timestamp {
        let done = self.schedules.entry(schedule.to_owned()).or_default();
        if done.last > now.as_second() + BACK {
            log::warn!("schedule {schedule}: the clock has gone back");
            done.last = now.as_second();
        }
        Timestamp::from_second(done.last).unwrap_or(now)
    }

    /// It is about to take snapshots of this name, of these disks. It is due as before, until it is known
    /// what came of it.
    pub fn announce(&mut self, schedule: &str, name: &str, disks: &[String]) {
        let done = self.schedules.entry(schedule.to_owned()).or_default();
        done.announced = Some(name.to_owned());
        done.disks = disks.to_vec();
        self.save();
    }

    /// From now on a daemon that dies leaves something to be undone by `after`.
    pub fn owe(&mut self, schedule: &str, owed: Owed) {
        self.schedules.entry(schedule.to_owned()).or_default().owed = Some(owed);
        self.save();
    }

    /// What is to be undone by `after`.
    pub fn owed(&self, schedule: &str) -> Option<Owed> {
        self.schedules.get(schedule)?.owed.clone()
    }

    /// `after` was run, of what was begun then, and may have gone wrong.
    pub fn undone(&mut self, schedule: &str, begun: Timestamp, error: Option<String>) {
        let Some(done) = self.schedules.get_mut(schedule) else {
            return;
        };
        let failed = error.is_some();
        if failed {
            let at = begun.as_second();
            let known = done.outcome.take().filter(|outcome| outcome.at == at);
            // What went wrong first is the more interesting.
            let error = known.and_then(|known| known.error).or(error);
            done.outcome = Some(Outcome { at, error });
        }
        if done.owed.take().is_some() || failed {
            self.save();
        }
    }

    /// How it went when it was last at work.
    pub fn outcome(&self, schedule: &str) -> Option<Outcome> {
        self.schedules.get(schedule)?.outcome.clone()
    }

    /// The name and the disks that were announced, where it is not known what came of it.
    pub fn announced(&self, schedule: &str) -> Option<(String, Vec<String>)> {
        let done = self.schedules.get(schedule)?;
        Some((done.announced.clone()?, done.disks.clone()))
    }

    /// These came of it. `last` is when it was due, if it is done with that.
    pub fn settle(
        &mut self,
        schedule: &str,
        last: Option<Timestamp>,
        taken: Vec<Taken>,
        error: Option<String>,
    ) {
        let done = self.schedules.entry(schedule.to_owned()).or_default();
        done.announced = None;
        done.disks.clear();
        if let Some(last) = last {
            done.last = last.as_second();
            let at = done.last;
            done.outcome = Some(Outcome { at, error });
        }
        done.taken.extend(taken);
        self.save();
    }

    /// Those that it took.
    pub fn taken(&self, schedule: &str) -> Vec<Taken> {
        self.schedules
            .get(schedule)
            .map_or(Vec::new(), |done| done.taken.clone())
    }

    /// Of these it is still to decide.
    pub fn set_taken(&mut self, schedule: &str, taken: Vec<Taken>) {
        let done = self.schedules.entry(schedule.to_owned()).or_default();
        if done.taken != taken {
            done.taken = taken;
            self.save();
        }
    }

    fn save(&self) {
        let text = serde_yaml::to_string(&self.schedules).map_err(io::Error::other);
        if let Err(error) = text.and_then(|text| replace(&self.file, text.as_bytes())) {
            let file = self.file.display();
            log::warn!(
                "{file}: {error}; what schedules took just now may never be deleted by them, and their \
                 'after' not be run should the daemon die"
            );
        }
    }
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    open_own(file, OFlags::RDONLY)?
        .take(MAX_FILE)
        .read_to_end(&mut text)?;
    Ok(text)
}

/// Replaces a file, so that after a crash it is the old or the new one.
fn replace(file: &Path, text: &[u8]) -> io::Result<()> {
    let new = file.with_extension("new");
    let mut written = open_own(&new, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)?;
    written.write_all(text)?;
    written.sync_all()?;
    std::fs::rename(&new, file)?;
    match file.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}
