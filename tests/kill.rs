//! Promise P5 on the real daemon: killed without warning under load, round after round, it comes
//! back on the mountpoint that it left, with every acknowledged write, snapshot and clone there,
//! and nothing else than at most what was under way. `SNAPMARK_KILL_ROUNDS` asks for more rounds.

#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/stamps.rs"]
#[allow(dead_code)]
mod stamps;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use common::TestStore;
use stamps::{BLOCK, Buffer, Checker, Plan, Progress, Rng, Writer, open_direct, seed};

const ROUNDS: u32 = 20;
const DISKS: [&str; 2] = ["a.img", "b.img"];
/// Snapshots that are kept from round to round.
const KEPT: usize = 24;
/// Stamps of clones have numbers that no writer reaches.
const CLONE: u32 = 1 << 31;

/// What a client may be told by a daemon that dies: requests under way are aborted, later ones
/// find nobody.
fn is_death(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOTCONN | libc::ECONNABORTED)
    )
}

/// A snapshot command, and how far the writers were.
#[derive(Clone, Debug)]
struct Taken {
    name: String,
    disks: Vec<u32>,
    bounds: Vec<Progress>,
}

impl Taken {
    fn files(&self) -> impl Iterator<Item = (u32, String)> + '_ {
        let file = |disk: &u32| (*disk, format!("{}@{}", DISKS[*disk as usize], self.name));
        self.disks.iter().map(file)
    }
}

/// A file that does not change, or a clone: what each of its blocks is to be.
type Image = Vec<u32>;

/// The command that was under way when the daemon died.
#[derive(Clone, Debug)]
enum Command {
    Take(Taken),
    Delete(String),
    Clone {
        from: String,
        to: String,
    },
    WriteClone {
        name: String,
        block: u32,
        stamp: u32,
    },
}

/// What the store must hold besides the disks.
struct World {
    plan: Plan,
    /// Taken in this round, and not yet looked at.
    taken: Vec<Taken>,
    /// Snapshots by file name, with their disk and what was found in them.
    snapshots: BTreeMap<String, (u32, Image)>,
    /// Clones by name.
    clones: BTreeMap<String, (u32, Image)>,
    under_way: Option<Command>,
    counter: u32,
}

impl World {
    /// One command, noted before it is given and when it is acknowledged.
    fn step(&mut self, store: &TestStore, writers: &[Writer], rng: &mut Rng) -> io::Result<()> {
        self.counter += 1;
        let command = self.choose(writers, rng);
        self.under_way = Some(command.clone());
        match command {
            Command::Take(mut taken) => {
                let names: Vec<&str> = taken.disks.iter().map(|at| DISKS[*at as usize]).collect();
                store.control(&format!("snapshot {} {}\n", names.join(","), taken.name))?;
                for (bound, writer) in taken.bounds.iter_mut().zip(writers) {
                    bound.begun = writer.progress().begun;
                }
                self.taken.push(taken);
            }
            Command::Delete(file) => {
                std::fs::remove_file(store.disk(&file))?;
                self.snapshots.remove(&file);
                self.clones.remove(&file);
            }
            Command::Clone { from, to } => {
                store.control(&format!("clone {from} {to}\n"))?;
                let image = self.snapshots[&from].clone();
                self.clones.insert(to, image);
            }
            Command::WriteClone { name, block, stamp } => {
                let (disk, _) = self.clones[&name];
                let (at, bytes) = self.clone_block(disk, block, stamp);
                let file = File::options().write(true).open(store.disk(&name))?;
                file.write_all_at(&bytes, at)?;
                if let Some((_, image)) = self.clones.get_mut(&name) {
                    image[block as usize] = stamp;
                }
            }
        }
        self.under_way = None;
        Ok(())
    }

    fn clone_block(&self, disk: u32, block: u32, stamp: u32) -> (u64, Vec<u8>) {
        let mut bytes = vec![0; BLOCK];
        let number = disk * self.plan.blocks + block;
        self.plan
            .stamp(self.plan.owner(number), stamp, number, &mut bytes);
        (u64::from(block) * BLOCK as u64, bytes)
    }

    fn choose(&self, writers: &[Writer], rng: &mut Rng) -> Command {
        let any = |of: &BTreeMap<String, (u32, Image)>, rng: &mut Rng| {
            let at = rng.below(of.len().max(1) as u64) as usize;
            of.keys().nth(at).cloned()
        };
        let full = self.snapshots.len() + self.taken.len() > KEPT;
        let picked = match rng.below(8) {
            0..=2 if full => any(&self.snapshots, rng).map(Command::Delete),
            3 => any(&self.snapshots, rng).map(Command::Delete),
            4 if self.clones.len() > 4 => any(&self.clones, rng).map(Command::Delete),
            4 | 5 => any(&self.snapshots, rng).map(|from| Command::Clone {
                from,
                to: format!("clone{}.img", self.counter),
            }),
            6 => any(&self.clones, rng).map(|name| Command::WriteClone {
                name,
                block: rng.below(u64::from(self.plan.blocks)) as u32,
                stamp: CLONE + self.counter,
            }),
            _ => None,
        };
        picked.unwrap_or_else(|| {
            Command::Take(Taken {
                name: format!("s{}", self.counter),
                disks: [vec![0], vec![1], vec![0, 1]][rng.below(3) as usize].clone(),
                bounds: writers.iter().map(Writer::progress).collect(),
            })
        })
    }

    /// Settles whether what was under way has happened, then compares everything.
    fn prove(&mut self, store: &TestStore, writers: &[Writer]) {
        self.prove_disks(store, writers);
        let listed: BTreeSet<String> = std::fs::read_dir(store.mnt())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with('.'))
            .collect();
        let under_way = self.under_way.take();
        if let Some(command) = under_way {
            self.settle(command, &listed, writers, store);
        }
        let mut checkers = Checker::all(writers);
        for taken in std::mem::take(&mut self.taken) {
            self.prove_taken(store, &taken, &mut checkers);
        }
        let kept = self.snapshots.keys().chain(self.clones.keys()).cloned();
        let expected: BTreeSet<String> = kept.chain(DISKS.map(str::to_owned)).collect();
        assert_eq!(listed, expected);
        for (name, (disk, image)) in self.snapshots.iter().chain(&self.clones) {
            let found = self.plan.read_image(*disk, &store.disk(name)).unwrap();
            assert!(
                found == *image,
                "{name} has changed at {:?}",
                differences(&found, image)
            );
        }
    }

    /// Every acknowledged write is on the disks; of each writer at most the one that was under
    /// way is there besides.
    fn prove_disks(&self, store: &TestStore, writers: &[Writer]) {
        let read = |disk: u32| {
            let path = store.disk(DISKS[disk as usize]);
            self.plan.read_image(disk, &path).unwrap()
        };
        let images = [read(0), read(1)];
        let views = [(0, images[0].as_slice()), (1, images[1].as_slice())];
        for (writer, checker) in writers.iter().zip(&mut Checker::all(writers)) {
            match checker.check(&views, writer.progress()) {
                Ok(held) => writer.restart_after(held),
                Err(error) => panic!("after the crash: {error}"),
            }
        }
    }

    fn prove_taken(&mut self, store: &TestStore, taken: &Taken, checkers: &mut [Checker]) {
        let images: Vec<(u32, String, Image)> = taken
            .files()
            .map(|(disk, file)| {
                let image = self.plan.read_image(disk, &store.disk(&file)).unwrap();
                (disk, file, image)
            })
            .collect();
        let views: Vec<(u32, &[u32])> = images
            .iter()
            .map(|(disk, _, image)| (*disk, image.as_slice()))
            .collect();
        for (checker, bounds) in checkers.iter_mut().zip(&taken.bounds) {
            if let Err(error) = checker.check(&views, *bounds) {
                panic!("{taken:?}: {error}");
            }
        }
        for (disk, file, image) in images {
            self.snapshots.insert(file, (disk, image));
        }
    }

    fn settle(
        &mut self,
        command: Command,
        listed: &BTreeSet<String>,
        writers: &[Writer],
        store: &TestStore,
    ) {
        match command {
            Command::Take(mut taken) => {
                let there = taken
                    .files()
                    .filter(|(_, file)| listed.contains(file))
                    .count();
                assert!(
                    there == 0 || there == taken.disks.len(),
                    "{taken:?} is there in part: {listed:?}"
                );
                if there > 0 {
                    for (bound, writer) in taken.bounds.iter_mut().zip(writers) {
                        bound.begun = writer.progress().begun;
                    }
                    self.taken.push(taken);
                }
            }
            Command::Delete(file) => {
                if !listed.contains(&file) {
                    self.snapshots.remove(&file);
                    self.clones.remove(&file);
                }
            }
            Command::Clone { from, to } => {
                if listed.contains(&to) {
                    self.clones.insert(to, self.snapshots[&from].clone());
                }
            }
            Command::WriteClone { name, block, stamp } => {
                let Some((disk, image)) = self.clones.get_mut(&name) else {
                    return;
                };
                let found = self.plan.read_image(*disk, &store.disk(&name)).unwrap();
                if found[block as usize] == stamp {
                    image[block as usize] = stamp;
                }
            }
        }
    }
}

fn differences(a: &Image, b: &Image) -> Vec<(usize, u32, u32)> {
    let pairs = a.iter().zip(b).enumerate();
    let differ = pairs.filter(|(_, (a, b))| a != b);
    differ.map(|(at, (a, b))| (at, *a, *b)).take(8).collect()
}

/// Writes until the daemon is gone; returns when that was seen.
fn write_until_death(store: &TestStore, writer: &Writer, mut rng: Rng) -> Instant {
    let (mut buffer, disks) = (Buffer::new(1 << 16), DISKS.map(|disk| store.disk(disk)));
    let disks = disks.map(|disk| open_direct(&disk, true).unwrap());
    loop {
        let mut done = writer.step(&disks, &mut rng, &mut buffer).map(|_| ());
        if done.is_ok() && rng.chance(100) {
            done = disks[rng.below(2) as usize].sync_data();
        }
        if let Err(error) = done {
            assert!(is_death(&error), "{error}");
            return Instant::now();
        }
    }
}

fn round(store: &mut TestStore, world: &mut World, writers: &[Writer], rng: &mut Rng) {
    let wait = Duration::from_millis(50 + rng.below(500));
    let mut rngs: Vec<Rng> = (0..=writers.len()).map(|_| Rng::new(rng.next())).collect();
    let ready = &Barrier::new(writers.len() + 2);
    let (shared, pid) = (&*store, store.pid());
    let killed = std::thread::scope(|scope| {
        let mut command_rng = rngs.pop().unwrap();
        let writing: Vec<_> = writers
            .iter()
            .zip(rngs)
            .map(|(writer, rng)| {
                scope.spawn(move || {
                    ready.wait();
                    write_until_death(shared, writer, rng)
                })
            })
            .collect();
        let commanding = scope.spawn(move || {
            ready.wait();
            loop {
                if let Err(error) = world.step(shared, writers, &mut command_rng) {
                    assert!(is_death(&error), "{:?}: {error}", world.under_way);
                    return Instant::now();
                }
                std::thread::sleep(Duration::from_micros(command_rng.below(10_000)));
            }
        });
        ready.wait();
        std::thread::sleep(wait);
        let killed = Instant::now();
        stamps::kill(pid);
        let mut seen: Vec<Instant> = writing.into_iter().map(|it| it.join().unwrap()).collect();
        seen.push(commanding.join().unwrap());
        seen.into_iter().max().unwrap() - killed
    });
    assert!(
        killed < Duration::from_secs(5),
        "clients hung for {killed:?}"
    );
    let error = std::fs::metadata(store.disk(DISKS[0])).unwrap_err();
    assert!(is_death(&error), "{error}");
}

#[test]
fn p5_every_acknowledged_write_survives_kill_9_round_after_round() {
    if !common::able(&[]) {
        return;
    }
    let rounds = std::env::var("SNAPMARK_KILL_ROUNDS").ok();
    let rounds = rounds.map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let plan = Plan {
        seed: seed(),
        writers: 3,
        disks: 2,
        blocks: 768,
        discards: 20,
    };
    let mut store = TestStore::new();
    for disk in DISKS {
        store.make(disk, plan.disk_bytes());
    }
    let (writers, mut rng) = (Writer::all(plan), Rng::new(plan.seed));
    let mut world = World {
        plan,
        taken: Vec::new(),
        snapshots: BTreeMap::new(),
        clones: BTreeMap::new(),
        under_way: None,
        counter: 0,
    };
    for number in 0..rounds {
        round(&mut store, &mut world, &writers, &mut rng);
        store.crashed();
        let started = Instant::now();
        store.mount();
        let mounting = started.elapsed();
        world.prove(&store, &writers);
        let acked: u32 = writers.iter().map(|writer| writer.progress().acked).sum();
        eprintln!(
            "round {number}: {acked} writes, {} snapshots, {} clones; mounted in {mounting:?}",
            world.snapshots.len(),
            world.clones.len()
        );
    }
    store.remount();
    world.prove(&store, &writers);
}
