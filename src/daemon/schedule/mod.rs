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

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use jiff::Timestamp;

use crate::base::snapshot_file_name;
use crate::config::ScheduleRule;
use crate::control::Commands;
use crate::volume::{Node, Volumes};
use hook::{Environment, Hook};
use state::{State, Taken};

/// How long the thread sleeps at the most, since clocks may be set.
const LOOK: Duration = Duration::from_secs(20);

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
            self.adopt(&rule);
        }
        loop {
            let wait = self.turn(Timestamp::now());
            match self.ended.recv_timeout(wait) {
                Err(RecvTimeoutError::Timeout) => {}
                _ => return,
            }
        }
    }

    /// Does what is due, and returns how long nothing will be.
    fn turn(&mut self, now: Timestamp) -> Duration {
        let mut wait = LOOK;
        for rule in self.rules.clone() {
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
            self.expire(&rule);
            wait = Duration::ZERO;
        }
        wait
    }

    /// Takes a snapshot. However often it was due, it is taken once.
    fn take(&mut self, rule: &ScheduleRule, now: Timestamp) {
        let listed = self.volumes.list().into_iter();
        let disks: Vec<String> = listed
            .filter(|(name, node)| matches!(node, Node::Disk(_)) && rule.disks.matches(name))
            .map(|(name, _)| name)
            .collect();
        let name = format!("{}-{}", rule.name, now.strftime("%Y-%m-%dT%H-%M-%SZ"));
        if disks.is_empty() {
            log::debug!("schedule {}: no disk is called {}", rule.name, rule.disks);
            self.state.note(&rule.name, now, None);
            return;
        }
        // Written first: should the daemon die in between, the name says whose the snapshots are.
        self.state.note(&rule.name, now, Some(&name));
        let mut environment = Environment {
            schedule: rule.name.clone(),
            name: name.clone(),
            disks: disks.join(","),
            result: None,
        };
        let before = Hook::run(rule.before.as_deref(), &environment, &self.ended);
        let taken = match before {
            Ok(()) => self
                .commands
                .snapshot(&disks, Some(&name), true)
                .map_err(|e| e.to_string()),
            Err(error) => Err(format!("'before' failed: {error}")),
        };
        match &taken {
            Ok(_) => log::info!(
                "schedule {}: took {name} of {}",
                rule.name,
                environment.disks
            ),
            Err(error) => log::warn!("schedule {}: no snapshot: {error}", rule.name),
        }
        environment.result = Some(taken.is_ok());
        if let Err(error) = Hook::run(rule.after.as_deref(), &environment, &self.ended) {
            log::warn!("schedule {}: 'after' failed: {error}", rule.name);
        }
        self.adopt(rule);
    }

    /// Notes the snapshots that were taken under the name that was announced.
    fn adopt(&mut self, rule: &ScheduleRule) {
        let Some(name) = self.state.announced(&rule.name) else {
            return;
        };
        let suffix = format!("@{name}");
        let mut taken = Vec::new();
        for (file, node) in self.volumes.list() {
            let Some(disk) = file.strip_suffix(&suffix) else {
                continue;
            };
            if let (Ok(identity), Node::Snapshot(_)) = (self.volumes.identity(node), node) {
                taken.push(Taken {
                    disk: disk.to_owned(),
                    name: name.clone(),
                    identity,
                });
            }
        }
        self.state.adopt(&rule.name, taken);
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
