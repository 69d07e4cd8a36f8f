//! Snapshots that are taken and deleted by themselves, as `snapshots` in the settings says.
//!
//! One thread owns it. What it has done stands in a file of the store: when each schedule was last due,
//! and which snapshots it took. Only these are deleted, and only as long as they have the name that they
//! were given: what a person took, or renamed, stays.

mod hook;
mod state;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, unbounded};
use jiff::Timestamp;

use crate::base::{check_snapshot_name, snapshot_file_name};
use crate::config::ScheduleRule;
use crate::control::{Commands, ErrorKind};
use crate::volume::{Node, Volumes};
use hook::{Environment, GRACE, Hook};
use state::{Owed, State, Taken};

/// How long the thread sleeps at the most, since clocks may be set.
const LOOK: Duration = Duration::from_secs(20);

/// How often disks are listed again that are gone when their snapshot is taken.
const TRIES: usize = 8;

/// The thread, until it is dropped; then it ends what it is at.
pub struct Schedules {
    alive: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Schedules {
    /// Starts it, where there are any schedules.
    ///
    /// # Errors
    /// Where there is no thread to be had.
    pub fn start(
        rules: &[ScheduleRule],
        file: PathBuf,
        volumes: &Arc<Volumes>,
        commands: &Arc<dyn Commands>,
    ) -> io::Result<Self> {
        if rules.is_empty() {
            return Ok(Self {
                alive: None,
                thread: None,
            });
        }
        let (alive, ended) = unbounded();
        let mut keeper = Keeper {
            rules: rules.to_vec(),
            state: State::load(file),
            volumes: Arc::clone(volumes),
            commands: Arc::clone(commands),
            ended,
        };
        let thread = std::thread::Builder::new()
            .name("schedules".to_owned())
            .spawn(move || keeper.run())?;
        Ok(Self {
            alive: Some(alive),
            thread: Some(thread),
        })
    }
}

impl Drop for Schedules {
    fn drop(&mut self) {
        drop(self.alive.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the schedules panicked; this is a bug, please report it");
        }
    }
}

/// What the thread has.
struct Keeper {
    rules: Vec<ScheduleRule>,
    state: State,
    volumes: Arc<Volumes>,
    commands: Arc<dyn Commands>,
    ended: Receiver<()>,
}

impl Keeper {
    fn run(&mut self) {
        self.state.begin(&self.rules, Timestamp::now());
        for rule in self.rules.clone() {
            self.settle_crash(&rule);
        }
        loop {
            let wait = self.turn(Timestamp::now());
            match self.ended.recv_timeout(wait) {
                Err(RecvTimeoutError::Timeout) => {}
                _ => return,
            }
        }
    }

    fn stops(&self) -> bool {
        self.ended.try_recv() == Err(TryRecvError::Disconnected)
    }

    /// Does what is due, and returns how long nothing will be.
    fn turn(&mut self, now: Timestamp) -> Duration {
        let mut wait = LOOK;
        for rule in self.rules.clone() {
            if self.stops() {
                return wait;
            }
            let last = self.state.last(&rule.name, now);
            let Some(next) = rule.next_after(last) else {
                continue;
            };
            if next > now {
                let until = Duration::try_from(next.duration_since(now)).unwrap_or(LOOK);
                wait = wait.min(until);
                continue;
            }
            self.take(&rule, now);
            if !self.stops() {
                self.expire(&rule);
            }
            wait = Duration::ZERO;
        }
        wait
    }

    /// The disks that a schedule is for; and those of them that can't have a snapshot of this name.
    fn disks(&self, rule: &ScheduleRule, name: &str) -> (Vec<String>, Vec<String>) {
        let listed = self.volumes.list().into_iter();
        listed
            .filter(|(disk, node)| matches!(node, Node::Disk(_)) && rule.disks.matches(disk))
            .map(|(disk, _)| disk)
            .partition(|disk| check_snapshot_name(disk, name).is_ok())
    }

    /// Takes a snapshot. However often it was due, it is taken once.
    fn take(&mut self, rule: &ScheduleRule, now: Timestamp) {
        let name = format!("{}-{}", rule.name, now.strftime("%Y-%m-%dT%H-%M-%SZ"));
        let (disks, left_out) = self.disks(rule, &name);
        for disk in left_out {
            log::warn!(
                "schedule {}: {disk} is left out: its name is too long for {name} behind it",
                rule.name
            );
        }
        if disks.is_empty() {
            log::debug!("schedule {}: no disk is called {}", rule.name, rule.disks);
            return self.state.settle(&rule.name, Some(now), Vec::new());
        }
        let mut environment = Environment {
            schedule: rule.name.clone(),
            name: name.clone(),
            disks: disks.join(","),
            result: None,
        };
        if rule.before.is_some() && rule.after.is_some() {
            let (name, disks) = (name.clone(), environment.disks.clone());
            self.state.owe(&rule.name, Owed { name, disks });
        }
        let before = rule.before.as_deref();
        let before = Hook::run(before, &environment, &self.ended, Duration::ZERO);
        let taken = match before {
            Ok(()) => self.snapshot(rule, &name),
            Err(error) => Err(format!("'before' failed: {error}")),
        };
        let came = match &taken {
            Ok(disks) => {
                log::info!("schedule {}: took {name} of {}", rule.name, disks.join(","));
                self.taken(&name, disks)
            }
            Err(error) => {
                log::warn!("schedule {}: no snapshot: {error}", rule.name);
                Vec::new()
            }
        };
        // What did not come about because the daemon stops is still due when it begins again.
        let is_done = taken.is_ok() || !self.stops();
        self.state.settle(&rule.name, is_done.then_some(now), came);
        environment.result = Some(taken.is_ok());
        self.after(rule, &environment);
    }

    fn after(&mut self, rule: &ScheduleRule, environment: &Environment) {
        let after = rule.after.as_deref();
        if let Err(error) = Hook::run(after, environment, &self.ended, GRACE) {
            log::warn!("schedule {}: 'after' failed: {error}", rule.name);
        }
        self.state.undone(&rule.name);
    }

    /// Takes it of the disks that there are now, which may be others than before the hook. Returns which.
    fn snapshot(&mut self, rule: &ScheduleRule, name: &str) -> Result<Vec<String>, String> {
        let mut tries = 0;
        loop {
            let (disks, _) = self.disks(rule, name);
            if disks.is_empty() {
                return Err("the disks are gone".to_owned());
            }
            // Somebody else's, which must not look like its own after a crash.
            if let Some(there) = self.taken(name, &disks).first() {
                return Err(format!("{} has a snapshot of that name", there.disk));
            }
            // Written first: should the daemon die in between, name and disks say whose the snapshots are.
            self.state.announce(&rule.name, name, &disks);
            match self.commands.snapshot(&disks, Some(name), true) {
                Ok(_) => return Ok(disks),
                // One was deleted or renamed since it was listed.
                Err(error) if error.kind == ErrorKind::NotFound && tries < TRIES => tries += 1,
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// The snapshots of this name that these disks have.
    fn taken(&self, name: &str, disks: &[String]) -> Vec<Taken> {
        let mut taken = Vec::new();
        for disk in disks {
            let node = self.volumes.lookup(&snapshot_file_name(disk, name));
            if let Some(node @ Node::Snapshot(_)) = node
                && let Ok(identity) = self.volumes.identity(node)
            {
                taken.push(Taken {
                    disk: disk.clone(),
                    name: name.to_owned(),
                    identity,
                });
            }
        }
        taken
    }

    /// After a crash between the announcement of a snapshot and what came of it: it is there for all its
    /// disks, or is still due. What the command before it did is undone by that after it.
    fn settle_crash(&mut self, rule: &ScheduleRule) {
        if let Some((name, disks)) = self.state.announced(&rule.name) {
            let taken = self.taken(&name, &disks);
            let last = taken.first().and_then(|taken| taken.time(&rule.name));
            self.state.settle(&rule.name, last, taken);
        }
        if let Some(Owed { name, disks }) = self.state.owed(&rule.name) {
            log::info!("schedule {}: 'after' of {name} was not run", rule.name);
            // Whether it died before the snapshot or after it.
            let taken = self.state.taken(&rule.name);
            let is_taken = taken.iter().any(|taken| taken.name == name);
            let environment = Environment {
                schedule: rule.name.clone(),
                name,
                disks,
                result: Some(is_taken),
            };
            self.after(rule, &environment);
        }
    }

    /// Deletes what need not be kept any more.
    fn expire(&mut self, rule: &ScheduleRule) {
        let known = self.state.taken(&rule.name);
        // By what they are now called: a disk that was renamed takes its snapshots with it.
        let mut there: Vec<(String, Timestamp, Taken)> = Vec::new();
        for (file, node) in self.volumes.list() {
            let Node::Snapshot(_) = node else { continue };
            let Ok(identity) = self.volumes.identity(node) else {
                continue;
            };
            let Some(of) = known.iter().find(|of| of.identity == identity) else {
                continue;
            };
            let Some((disk, name)) = file.split_once('@') else {
                continue;
            };
            if name == of.name
                && let Some(time) = of.time(&rule.name)
            {
                there.push((disk.to_owned(), time, of.clone()));
            }
        }
        let mut left = Vec::new();
        let mut disks: Vec<&String> = there.iter().map(|(disk, ..)| disk).collect();
        disks.dedup();
        for disk in disks {
            let of_disk: Vec<_> = there.iter().filter(|(of, ..)| of == disk).collect();
            let times: Vec<Timestamp> = of_disk.iter().map(|(_, time, _)| *time).collect();
            let kept = rule
                .keep
                .map_or(vec![true; times.len()], |keep| keep.keeps(&times));
            for ((_, _, taken), kept) in of_disk.into_iter().zip(kept) {
                if kept || !self.delete(rule, disk, &taken.name) {
                    left.push(taken.clone());
                }
            }
        }
        self.state.set_taken(&rule.name, left);
    }

    /// Whether it is gone.
    fn delete(&self, rule: &ScheduleRule, disk: &str, name: &str) -> bool {
        let file = snapshot_file_name(disk, name);
        match self.commands.execute(&format!("delete {file}")) {
            Ok(_) => {
                log::info!("schedule {}: deleted {file}", rule.name);
                true
            }
            Err(error) => {
                log::warn!("schedule {}: {file} stays: {error}", rule.name);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests;
