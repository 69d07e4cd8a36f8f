//! Two disks that several writers write to at once, and one who commands: snapshots of one or both
//! at one point, rollbacks under the writers' hands, renames, clones, devices.
//!
//! What a writer did is known one by one, so is what was commanded; where a command fell among the
//! operations is known only as far as the writers were before and after it. So the images are
//! looked at in the order of the commands, each as a prefix of every writer.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::served::{Served, is_full};
use super::stamps::{BLOCK, Buffer, Checker, Plan, Progress, Rng, Unreadable, Writer, open_direct};
use super::tally::{Tally, count};

/// Stamps of clones have numbers that no writer reaches.
const CLONE: u32 = 1 << 31;
const DISKS: usize = 2;

/// What each block of a file is to be.
type Image = Arc<Vec<u32>>;

/// A disk's number and a snapshot's name.
type Key = (u32, String);

/// A snapshot command, and how far the writers were.
#[derive(Clone, Debug)]
struct Taken {
    name: String,
    disks: Vec<u32>,
    bounds: Vec<Progress>,
    /// What it held when it was read at once.
    seen: Option<Vec<Image>>,
}

/// A command that says something about the writers' order.
enum Event {
    Taken(Taken),
    RolledBack {
        disk: u32,
        image: Image,
        bounds: Vec<Progress>,
    },
}

#[derive(Clone, Debug)]
enum Command {
    Take(Taken),
    RollBack {
        key: Key,
        bounds: Vec<Progress>,
    },
    Delete(Key),
    DeleteClone(String),
    Clone {
        key: Key,
        to: String,
    },
    WriteClone {
        name: String,
        block: u32,
        stamp: u32,
    },
    Rename {
        disk: u32,
        to: String,
    },
    AddDevice {
        path: String,
    },
    Flush,
}

/// How often what is commanded.
#[derive(Clone, Copy, Debug)]
pub struct Orders {
    /// Snapshots that are kept.
    pub snapshots: usize,
    pub clones: usize,
    /// Devices that the pool may have.
    pub devices: usize,
    /// The longest time between two commands.
    pub pause: Duration,
}

/// What the store must hold, and who writes.
pub struct Shared {
    plan: Plan,
    orders: Orders,
    pub writers: Arc<Vec<Writer>>,
    names: [String; DISKS],
    /// Of this round, in order.
    events: Vec<Event>,
    /// Disks that were rolled back after their last snapshot in this round.
    rolled_back: [bool; DISKS],
    /// Snapshots whose content is known, and those of which it is not yet.
    snapshots: BTreeMap<Key, Image>,
    unread: BTreeSet<Key>,
    clones: BTreeMap<String, (u32, Image)>,
    devices: usize,
    under_way: Option<Command>,
    counter: u32,
}

impl Shared {
    /// Makes the disks.
    pub fn new(served: &Served, plan: Plan, orders: Orders) -> Self {
        let names = ["a.img".to_owned(), "b.img".to_owned()];
        for name in &names {
            let disk = File::create_new(served.file(name)).expect("a new disk");
            disk.set_len(plan.disk_bytes()).expect("a size");
        }
        Self {
            plan,
            orders,
            writers: Arc::new(Writer::all(plan)),
            names,
            events: Vec::new(),
            rolled_back: [false; DISKS],
            snapshots: BTreeMap::new(),
            unread: BTreeSet::new(),
            clones: BTreeMap::new(),
            devices: served.devices(),
            under_way: None,
            counter: 0,
        }
    }

    /// Opens the disks for a writer.
    pub fn open(&self, served: &Served) -> Vec<File> {
        let open = |name: &String| open_direct(&served.file(name), true).expect("a disk");
        self.names.iter().map(open).collect()
    }

    /// Commands until the daemon is gone, or as long as `more` says.
    ///
    /// # Errors
    /// Where the daemon is gone.
    pub fn command(
        &mut self,
        served: &Served,
        rng: &mut Rng,
        tally: &Tally,
        more: &dyn Fn() -> bool,
    ) -> io::Result<()> {
        while more() {
            self.step(served, rng, tally)?;
            let pause = self.orders.pause.as_micros() as u64;
            std::thread::sleep(Duration::from_micros(rng.below(pause + 1)));
        }
        Ok(())
    }

    /// One command, noted before it is given and when it is acknowledged.
    fn step(&mut self, served: &Served, rng: &mut Rng, tally: &Tally) -> io::Result<()> {
        self.counter += 1;
        let command = self.choose(rng);
        self.under_way = Some(command.clone());
        let started = Instant::now();
        let done = self.give(&command, served);
        tally.waited(started.elapsed());
        match done {
            Ok(()) => {}
            Err(error) if is_full(&error) => {
                count(&tally.no_space);
                self.under_way = None;
                return Ok(());
            }
            Err(error) => {
                assert!(served.is_death(&error), "{command:?}: {error}");
                return Err(error);
            }
        }
        self.under_way = None;
        self.apply(command, tally);
        if rng.chance(3) {
            self.look_at_newest(served, tally)?;
        }
        Ok(())
    }

    fn give(&self, command: &Command, served: &Served) -> io::Result<()> {
        match command {
            Command::Take(taken) => {
                let disks = taken
                    .disks
                    .iter()
                    .map(|at| self.names[*at as usize].as_str());
                let disks: Vec<&str> = disks.collect();
                served.control(&format!("snapshot {} {}\n", disks.join(","), taken.name))
            }
            Command::RollBack { key, .. } => {
                served.control(&format!("rollback {} force\n", self.file(key)))
            }
            Command::Delete(key) => std::fs::remove_file(served.file(&self.file(key))),
            Command::DeleteClone(name) => std::fs::remove_file(served.file(name)),
            Command::Clone { key, to } => {
                served.control(&format!("clone {} {to}\n", self.file(key)))
            }
            Command::WriteClone { name, block, stamp } => {
                let (disk, _) = self.clones[name];
                let mut bytes = vec![0; BLOCK];
                let number = disk * self.plan.blocks + block;
                let owner = self.plan.owner(number);
                self.plan.stamp(owner, *stamp, number, &mut bytes);
                let file = served.open(name, true)?;
                file.write_all_at(&bytes, u64::from(*block) * BLOCK as u64)
            }
            Command::Rename { disk, to } => {
                let from = served.file(&self.names[*disk as usize]);
                std::fs::rename(from, served.file(to))
            }
            Command::AddDevice { path } => served.control(&format!("device-add {path}:64MiB\n")),
            Command::Flush => served.control("flush\n"),
        }
    }

    /// Notes what a command has done that was acknowledged, or is found to have happened.
    fn apply(&mut self, command: Command, tally: &Tally) {
        let begun = |bounds: &mut Vec<Progress>, writers: &[Writer]| {
            for (bound, writer) in bounds.iter_mut().zip(writers) {
                bound.begun = writer.progress().begun;
            }
        };
        match command {
            Command::Take(mut taken) => {
                begun(&mut taken.bounds, &self.writers);
                for disk in &taken.disks {
                    self.rolled_back[*disk as usize] = false;
                    self.unread.insert((*disk, taken.name.clone()));
                }
                self.events.push(Event::Taken(taken));
                count(&tally.snapshots);
            }
            Command::RollBack { key, mut bounds } => {
                begun(&mut bounds, &self.writers);
                let (disk, image) = (key.0, Arc::clone(&self.snapshots[&key]));
                self.rolled_back[disk as usize] = true;
                self.events.push(Event::RolledBack {
                    disk,
                    image,
                    bounds,
                });
                count(&tally.rollbacks);
            }
            Command::Delete(key) => {
                self.snapshots.remove(&key);
                count(&tally.deletes);
            }
            Command::DeleteClone(name) => {
                self.clones.remove(&name);
                count(&tally.deletes);
            }
            Command::Clone { key, to } => {
                let image = Arc::clone(&self.snapshots[&key]);
                self.clones.insert(to, (key.0, image));
                count(&tally.clones);
            }
            Command::WriteClone { name, block, stamp } => {
                if let Some((_, image)) = self.clones.get_mut(&name) {
                    Arc::make_mut(image)[block as usize] = stamp;
                }
                count(&tally.writes);
            }
            Command::Rename { disk, to } => {
                self.names[disk as usize] = to;
                count(&tally.renames);
            }
            Command::AddDevice { .. } => {
                self.devices += 1;
                count(&tally.devices);
            }
            Command::Flush => count(&tally.flushes),
        }
    }

    /// Reads the snapshot that was taken last, while all goes on, so that it can be used.
    fn look_at_newest(&mut self, served: &Served, tally: &Tally) -> io::Result<()> {
        let Some(Event::Taken(taken)) = self.events.last() else {
            return Ok(());
        };
        if taken.seen.is_some() {
            return Ok(());
        }
        let (name, disks) = (taken.name.clone(), taken.disks.clone());
        let mut seen = Vec::new();
        for disk in &disks {
            let file = self.file(&(*disk, name.clone()));
            match self.plan.read_image(*disk, &served.file(&file)) {
                Ok(image) => seen.push(Arc::new(image)),
                Err(Unreadable::Io(error)) if served.is_death(&error) => return Err(error),
                Err(error) => panic!("{file}: {error:?}"),
            }
            tally.read_more(self.plan.disk_bytes());
        }
        for (disk, image) in disks.iter().zip(&seen) {
            self.known((*disk, name.clone()), Arc::clone(image));
        }
        if let Some(Event::Taken(taken)) = self.events.last_mut() {
            taken.seen = Some(seen);
        }
        Ok(())
    }

    fn known(&mut self, key: Key, image: Image) {
        self.unread.remove(&key);
        self.snapshots.insert(key, image);
    }

    fn file(&self, (disk, name): &Key) -> String {
        format!("{}@{name}", self.names[*disk as usize])
    }

    fn choose(&self, rng: &mut Rng) -> Command {
        let counter = self.counter;
        let bounds = || self.writers.iter().map(Writer::progress).collect();
        let any = |rng: &mut Rng| {
            let at = rng.below(self.snapshots.len().max(1) as u64) as usize;
            self.snapshots.keys().nth(at).cloned()
        };
        let any_clone = |rng: &mut Rng| {
            let at = rng.below(self.clones.len().max(1) as u64) as usize;
            self.clones.keys().nth(at).cloned()
        };
        let crowded = self.snapshots.len() + self.unread.len() > self.orders.snapshots;
        let picked = match rng.below(40) {
            0..20 if crowded => any(rng).map(Command::Delete),
            20..24 => any(rng).map(Command::Delete),
            24..27 if self.clones.len() < self.orders.clones => any(rng).map(|key| {
                let to = format!("clone{counter}.img");
                Command::Clone { key, to }
            }),
            24..27 => any_clone(rng).map(Command::DeleteClone),
            27..31 => any_clone(rng).map(|name| Command::WriteClone {
                name,
                block: rng.below(u64::from(self.plan.blocks)) as u32,
                stamp: CLONE + counter,
            }),
            31..34 => any(rng)
                .filter(|key| !self.rolled_back[key.0 as usize])
                .map(|key| Command::RollBack {
                    key,
                    bounds: bounds(),
                }),
            34 | 35 => Some(Command::Rename {
                disk: counter % 2,
                to: format!("{}{counter}.img", ["a", "b"][counter as usize % 2]),
            }),
            36 if self.devices < self.orders.devices && rng.chance(4) => Some(Command::AddDevice {
                path: format!("device{counter}.img"),
            }),
            37 => Some(Command::Flush),
            _ => None,
        };
        picked.unwrap_or_else(|| {
            Command::Take(Taken {
                name: format!("s{counter}"),
                disks: [vec![0], vec![1], vec![0, 1]][rng.below(3) as usize].clone(),
                bounds: bounds(),
                seen: None,
            })
        })
    }

    /// Settles whether what was under way has happened, proves the disks and all that was taken as
    /// prefixes of what the writers did, and everything else as what it was. `listed` are the
    /// names in the mount.
    pub fn prove(&mut self, served: &Served, listed: &BTreeSet<String>, tally: &Tally) {
        let mut maybe = None;
        if let Some(command) = self.under_way.take() {
            count(&tally.cut);
            maybe = self.settle_names(command, served, listed, tally);
        }
        self.prove_order(served, maybe, tally);
        let snapshots = self.snapshots.keys().map(|key| self.file(key));
        let clones = self.clones.keys().cloned();
        let expected: BTreeSet<String> =
            snapshots.chain(clones).chain(self.names.clone()).collect();
        let own = |name: &&String| ["a", "b", "clone"].iter().any(|it| name.starts_with(it));
        let found: BTreeSet<String> = listed.iter().filter(own).cloned().collect();
        assert_eq!(found, expected);
        let snapshots = self.snapshots.iter();
        let snapshots = snapshots.map(|(key, image)| (self.file(key), key.0, image));
        let clones = self.clones.iter();
        let clones = clones.map(|(name, (disk, image))| (name.clone(), *disk, image));
        for (name, disk, image) in snapshots.chain(clones) {
            let found = self.read(served, disk, &name, tally);
            assert!(
                found == *image,
                "{name} has changed at {:?}",
                differences(&found, image)
            );
        }
        assert_eq!(served.devices(), self.devices, "devices");
    }

    fn read(&self, served: &Served, disk: u32, name: &str, tally: &Tally) -> Image {
        let image = self.plan.read_image(disk, &served.file(name));
        tally.proved_more(self.plan.disk_bytes());
        Arc::new(image.unwrap_or_else(|error| panic!("{name}: {error:?}")))
    }

    /// Settles all but a rollback, which only the content tells.
    fn settle_names(
        &mut self,
        command: Command,
        served: &Served,
        listed: &BTreeSet<String>,
        tally: &Tally,
    ) -> Option<Command> {
        let happened = match &command {
            Command::Take(taken) => {
                let file = |disk: &u32| self.file(&(*disk, taken.name.clone()));
                let files: Vec<String> = taken.disks.iter().map(file).collect();
                let there = files.iter().filter(|file| listed.contains(*file)).count();
                assert!(
                    there == 0 || there == files.len(),
                    "{taken:?} is there in part: {listed:?}"
                );
                there > 0
            }
            Command::RollBack { .. } => return Some(command),
            Command::Delete(key) => !listed.contains(&self.file(key)),
            Command::DeleteClone(name) => !listed.contains(name),
            Command::Clone { to, .. } | Command::Rename { to, .. } => listed.contains(to),
            Command::WriteClone { name, block, stamp } => {
                let disk = self.clones[name].0;
                self.read(served, disk, name, tally)[*block as usize] == *stamp
            }
            Command::AddDevice { .. } => served.devices() > self.devices,
            Command::Flush => false,
        };
        if happened {
            count(&tally.cut_done);
            self.apply(command, tally);
        }
        None
    }

    /// Goes through the events in their order, then looks at the disks; the writers go on from
    /// there. `maybe` is a rollback that has happened or not.
    fn prove_order(&mut self, served: &Served, maybe: Option<Command>, tally: &Tally) {
        let mut checkers = Checker::all(&self.writers);
        for event in std::mem::take(&mut self.events) {
            match event {
                Event::Taken(taken) => self.prove_taken(served, &taken, &mut checkers, tally),
                Event::RolledBack {
                    disk,
                    image,
                    bounds,
                } => {
                    for (checker, bounds) in checkers.iter_mut().zip(bounds) {
                        checker.roll_back(disk, &image, bounds);
                    }
                }
            }
        }
        self.rolled_back = [false; DISKS];
        let disks: Vec<Image> = (0..)
            .zip(&self.names)
            .map(|(disk, name)| self.read(served, disk, name, tally))
            .collect();
        let views: Vec<(u32, &[u32])> = (0..).zip(disks.iter().map(|it| it.as_slice())).collect();
        let writers = &self.writers;
        let all = |mut checkers: Vec<Checker>| -> Result<Vec<Checker>, String> {
            for (checker, writer) in checkers.iter_mut().zip(writers.iter()) {
                checker.check(&views, writer.progress())?;
            }
            Ok(checkers)
        };
        let mut proved = all(checkers.clone());
        if let (Err(without), Some(Command::RollBack { key, bounds })) = (&proved, maybe) {
            for (checker, (mut bounds, writer)) in checkers
                .iter_mut()
                .zip(bounds.into_iter().zip(writers.iter()))
            {
                bounds.begun = writer.progress().begun;
                checker.roll_back(key.0, &self.snapshots[&key], bounds);
            }
            count(&tally.cut_done);
            proved = all(checkers).map_err(|with| {
                format!("without {key:?} rolled back to: {without}; with it: {with}")
            });
        }
        let proved = proved.unwrap_or_else(|error| panic!("after the crash: {error}"));
        for (writer, seen) in self.writers.iter().zip(&proved) {
            let Progress { acked, begun } = writer.progress();
            tally.writers_cut(acked, begun, seen.held());
            writer.restart_at(seen);
        }
    }

    fn prove_taken(
        &mut self,
        served: &Served,
        taken: &Taken,
        checkers: &mut [Checker],
        tally: &Tally,
    ) {
        let images = taken.seen.clone().unwrap_or_else(|| {
            let read = |disk: &u32| {
                let file = self.file(&(*disk, taken.name.clone()));
                self.read(served, *disk, &file, tally)
            };
            taken.disks.iter().map(read).collect()
        });
        let disks = taken.disks.iter().copied();
        let views: Vec<(u32, &[u32])> = disks
            .clone()
            .zip(images.iter().map(|it| it.as_slice()))
            .collect();
        for (checker, bounds) in checkers.iter_mut().zip(&taken.bounds) {
            if let Err(error) = checker.check(&views, *bounds) {
                panic!("snapshot {} of {:?}: {error}", taken.name, taken.disks);
            }
        }
        if taken.seen.is_none() {
            for (disk, image) in disks.zip(images) {
                self.known((disk, taken.name.clone()), image);
            }
        }
    }
}

fn differences(a: &Image, b: &Image) -> Vec<(usize, u32, u32)> {
    let pairs = a.iter().zip(b.iter()).enumerate();
    let differ = pairs.filter(|(_, (a, b))| a != b);
    differ.map(|(at, (a, b))| (at, *a, *b)).take(8).collect()
}

/// Writes until the daemon is gone, or as long as `more` says.
pub fn write(
    served: &Served,
    writer: &Writer,
    disks: &[File],
    rng: &mut Rng,
    tally: &Tally,
    more: &dyn Fn() -> bool,
) -> io::Result<()> {
    let mut buffer = Buffer::new(1 << 16);
    while more() {
        let started = Instant::now();
        match writer.step(disks, rng, &mut buffer) {
            Ok(_) => count(&tally.writes),
            Err(error) if is_full(&error) => count(&tally.no_space),
            Err(error) => {
                assert!(served.is_death(&error), "{error}");
                return Err(error);
            }
        }
        if rng.chance(100) {
            let disk = rng.below(disks.len() as u64) as usize;
            if let Err(error) = disks[disk].sync_data() {
                assert!(served.is_death(&error), "a sync: {error}");
                return Err(error);
            }
            count(&tally.syncs);
        }
        tally.waited(started.elapsed());
    }
    Ok(())
}
