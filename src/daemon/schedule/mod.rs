//! Snapshots that are taken and deleted by themselves, as `snapshots` in the settings says.
//!
//! Each schedule has a thread of its own. Those with commands take turns: what one freezes no other thaws. What
//! they have done stands in a file of the store: when each was last due, and which snapshots it took. Only
//! these are deleted, and only as long as they have the name that they were given: what a person took, or
//! renamed, stays.

mod hook;
mod state;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, unbounded};
use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};

use crate::base::{check_snapshot_name, snapshot_file_name};
use crate::config::ScheduleRule;
use crate::control::{Commands, ErrorKind};
use crate::volume::{Node, Reports, ScheduleStatus, Status, Volumes};
use hook::{Environment, GRACE, Hook};
use state::{Owed, State, Taken, time_of};

/// How long a thread sleeps at the most, since clocks may be set.
const LOOK: Duration = Duration::from_secs(20);

/// How often disks are listed again that are gone when their snapshot is taken.
const TRIES: usize = 8;

/// The threads, until it is dropped; then they end what they are at.
pub struct Schedules {
    alive: Option<Sender<()>>,
    /// That which begins the others, and ends after them.
    thread: Option<JoinHandle<()>>,
}

impl Schedules {
    /// Starts them, where there are any schedules.
    ///
    /// # Errors
    /// Where there is no thread to be had.
    pub fn start(
        rules: &[ScheduleRule],
        file: PathBuf,
        volumes: &Arc<Volumes>,
        commands: &Arc<dyn Commands>,
    ) -> io::Result<Self> {
        let (alive, ended) = unbounded();
        let mut schedules = Self {
            alive: Some(alive),
            thread: None,
        };
        if rules.is_empty() {
            return Ok(schedules);
        }
        let mut state = State::load(file);
        state.begin(rules, Timestamp::now());
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            shown: Mutex::default(),
            commands: Mutex::default(),
        });
        let reports: Weak<Shared> = Arc::downgrade(&shared);
        volumes.add_report(reports);
        let keeper = |rule: &ScheduleRule| Keeper {
            rule: rule.clone(),
            shared: Arc::clone(&shared),
            volumes: Arc::clone(volumes),
            commands: Arc::clone(commands),
            ended: ended.clone(),
        };
        let keepers: Vec<Keeper> = rules.iter().map(keeper).collect();
        let thread = std::thread::Builder::new().name("schedules".to_owned());
        schedules.thread = Some(thread.spawn(move || run_all(&keepers))?);
        Ok(schedules)
    }
}

/// First what a crash left of any of them: what is frozen since is thawed before another freezes it.
fn run_all(keepers: &[Keeper]) {
    keepers.iter().for_each(Keeper::show);
    keepers.iter().for_each(Keeper::settle_crash);
    std::thread::scope(|scope| {
        for keeper in keepers {
            let thread = std::thread::Builder::new().name("schedule".to_owned());
            if let Err(error) = thread.spawn_scoped(scope, || keeper.run()) {
                log::error!("schedule {}: no thread: {error}", keeper.rule.name);
            }
        }
    });
}

impl Drop for Schedules {
    fn drop(&mut self) {
        drop(self.alive.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("a schedule panicked; this is a bug, please report it");
        }
    }
}

/// What all of them have.
struct Shared {
    state: Mutex<State>,
    /// For those who ask, who do not wait until the state is in its file.
    shown: Mutex<BTreeMap<String, ScheduleStatus>>,
    /// Held from before the first of a schedule's commands until its last has ended.
    commands: Mutex<()>,
}

impl Reports for Shared {
    fn report(&self, status: &mut Status) {
        status.schedules = self.shown.lock().values().cloned().collect();
    }
}

/// What the thread of a schedule has.
struct Keeper {
    rule: ScheduleRule,
    shared: Arc<Shared>,
    volumes: Arc<Volumes>,
    commands: Arc<dyn Commands>,
    ended: Receiver<()>,
}

impl Keeper {
    fn run(&self) {
        loop {
            let wait = self.turn(Timestamp::now());
            self.show();
            match self.ended.recv_timeout(wait) {
                Err(RecvTimeoutError::Timeout) => {}
                _ => return,
            }
        }
    }

    /// The turn of a schedule that has commands.
    fn turn_of_commands(&self) -> Option<MutexGuard<'_, ()>> {
        let has_any = self.rule.before.is_some() || self.rule.after.is_some();
        has_any.then(|| self.shared.commands.lock())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock()
    }

    /// For the status of the store.
    fn show(&self) {
        let (now, name) = (Timestamp::now(), &self.rule.name);
        let mut state = self.state();
        let outcome = state.outcome(name);
        let last = state.last(name, now);
        let status = ScheduleStatus {
            name: name.clone(),
            last: outcome
                .as_ref()
                .and_then(|outcome| Timestamp::from_second(outcome.at).ok())
                .map(|time| time.to_string()),
            error: outcome.and_then(|outcome| outcome.error),
            next: self.rule.next_after(last).map(|time| time.to_string()),
            snapshots: state.taken(name).len() as u64,
        };
        drop(state);
        self.shared.shown.lock().insert(name.clone(), status);
    }

    fn stops(&self) -> bool {
        self.ended.try_recv() == Err(TryRecvError::Disconnected)
    }

    /// Does what is due, and returns how long nothing will be.
    fn turn(&self, now: Timestamp) -> Duration {
        let last = self.state().last(&self.rule.name, now);
        let Some(next) = self.rule.next_after(last) else {
            return LOOK;
        };
        if next > now {
            let until = Duration::try_from(next.duration_since(now)).unwrap_or(LOOK);
            return until.min(LOOK);
        }
        let turn = self.turn_of_commands();
        if self.stops() {
            return LOOK;
        }
        self.take(Timestamp::now());
        drop(turn);
        if !self.stops() {
            self.expire();
        }
        Duration::ZERO
    }

    /// The disks that a schedule is for; and those of them that can't have a snapshot of this name.
    fn disks(&self, name: &str) -> (Vec<String>, Vec<String>) {
        let listed = self.volumes.list().into_iter();
        listed
            .filter(|(disk, node)| matches!(node, Node::Disk(_)) && self.rule.disks.matches(disk))
            .map(|(disk, _)| disk)
            .partition(|disk| check_snapshot_name(disk, name).is_ok())
    }

    /// Takes a snapshot. However often it was due, it is taken once.
    fn take(&self, now: Timestamp) {
        let rule = &self.rule;
        let name = format!("{}-{}", rule.name, now.strftime("%Y-%m-%dT%H-%M-%SZ"));
        let (disks, left_out) = self.disks(&name);
        for disk in left_out {
            log::warn!(
                "schedule {}: {disk} is left out: its name is too long for {name} behind it",
                rule.name
            );
        }
        if disks.is_empty() {
            log::debug!("schedule {}: no disk is called {}", rule.name, rule.disks);
            return self.state().settle(&rule.name, Some(now), Vec::new(), None);
        }
        let mut environment = Environment {
            schedule: rule.name.clone(),
            name: name.clone(),
            disks: disks.join(","),
            result: None,
        };
        if rule.before.is_some() && rule.after.is_some() {
            let (name, disks) = (name.clone(), environment.disks.clone());
            self.state().owe(&rule.name, Owed { name, disks });
        }
        let before = rule.before.as_deref();
        let before = Hook::run(before, &environment, &self.ended, Duration::ZERO);
        let taken = match before {
            Ok(()) => self.snapshot(&name),
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
        environment.result = Some(taken.is_ok());
        let last = is_done.then_some(now);
        self.state().settle(&rule.name, last, came, taken.err());
        self.show();
        self.after(&environment, now);
    }

    /// Runs the command after a snapshot that was begun then.
    fn after(&self, environment: &Environment, begun: Timestamp) {
        let rule = &self.rule;
        let after = rule.after.as_deref();
        let failed = Hook::run(after, environment, &self.ended, GRACE).err();
        let failed = failed.map(|error| format!("'after' failed: {error}"));
        if let Some(error) = &failed {
            log::warn!("schedule {}: {error}", rule.name);
        }
        self.state().undone(&rule.name, begun, failed);
    }

    /// Takes it of the disks that there are now, which may be others than before the hook. Returns which.
    fn snapshot(&self, name: &str) -> Result<Vec<String>, String> {
        let mut tries = 0;
        loop {
            let (disks, _) = self.disks(name);
            if disks.is_empty() {
                return Err("the disks are gone".to_owned());
            }
            // Somebody else's, which must not look like its own after a crash.
            if let Some(there) = self.taken(name, &disks).first() {
                return Err(format!("{} has a snapshot of that name", there.disk));
            }
            // Written first: should the daemon die in between, name and disks say whose the snapshots are.
            self.state().announce(&self.rule.name, name, &disks);
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
    fn settle_crash(&self) {
        let rule = &self.rule;
        let announced = self.state().announced(&rule.name);
        if let Some((name, disks)) = announced {
            let taken = self.taken(&name, &disks);
            let last = taken.first().and_then(|taken| taken.time(&rule.name));
            self.state().settle(&rule.name, last, taken, None);
        }
        let owed = self.state().owed(&rule.name);
        if let Some(Owed { name, disks }) = owed {
            let _turn = self.turn_of_commands();
            log::info!("schedule {}: 'after' of {name} was not run", rule.name);
            // Whether it died before the snapshot or after it.
            let taken = self.state().taken(&rule.name);
            let is_taken = taken.iter().any(|taken| taken.name == name);
            let begun = time_of(&rule.name, &name).unwrap_or_else(Timestamp::now);
            let environment = Environment {
                schedule: rule.name.clone(),
                name,
                disks,
                result: Some(is_taken),
            };
            self.after(&environment, begun);
        }
    }

    /// Deletes what need not be kept any more.
    fn expire(&self) {
        let rule = &self.rule;
        let known = self.state().taken(&rule.name);
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
                if kept || !self.delete(disk, &taken.name) {
                    left.push(taken.clone());
                }
            }
        }
        self.state().set_taken(&rule.name, left);
    }

    /// Whether it is gone.
    fn delete(&self, disk: &str, name: &str) -> bool {
        let rule = &self.rule;
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
