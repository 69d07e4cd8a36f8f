//! Promise P2 over a real mount: while threads write, every snapshot holds exactly the first so
//! many operations of each of them, with all that was acknowledged before the command and nothing
//! that was begun after it; also over two disks at one point, read at once, after the drain, and
//! by another daemon.

#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/stamps.rs"]
#[allow(dead_code)]
mod stamps;

use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use common::TestStore;
use stamps::{Buffer, Checker, Plan, Progress, Rng, Times, Writer, open_direct, seed};

const SNAPSHOTS: u32 = 200;
const DISKS: [&str; 2] = ["a.img", "b.img"];

/// A snapshot, and how far each writer was before the command and after it.
struct Taken {
    name: String,
    disks: Vec<u32>,
    bounds: Vec<Progress>,
}

/// A snapshot with the images of its disks, as they were read right after it was taken.
type Read = (Taken, Vec<Vec<u32>>);

impl Taken {
    fn read(&self, store: &TestStore, plan: &Plan) -> Vec<Vec<u32>> {
        let image = |disk: &u32| {
            let file = format!("{}@{}", DISKS[*disk as usize], self.name);
            plan.read_image(*disk, &store.disk(&file)).unwrap()
        };
        self.disks.iter().map(image).collect()
    }

    fn prove(&self, images: &[Vec<u32>], checkers: &mut [Checker]) {
        let views: Vec<(u32, &[u32])> = self
            .disks
            .iter()
            .zip(images)
            .map(|(disk, image)| (*disk, image.as_slice()))
            .collect();
        for (checker, bounds) in checkers.iter_mut().zip(&self.bounds) {
            if let Err(error) = checker.check(&views, *bounds) {
                panic!("snapshot {} of disks {:?}: {error}", self.name, self.disks);
            }
        }
    }
}

/// What all parts of the load look at.
struct Load<'a> {
    store: &'a TestStore,
    plan: Plan,
    writers: &'a [Writer],
    snapshotting: AtomicBool,
    done: AtomicBool,
}

/// How long writes waited.
#[derive(Default)]
struct Waits {
    without: Times,
    with: Times,
}

impl Load<'_> {
    fn disks(&self) -> Vec<File> {
        let open = |name| open_direct(&self.store.disk(name), true).unwrap();
        DISKS.map(open).into()
    }

    fn write(&self, writer: &Writer) -> Waits {
        let (disks, mut buffer) = (self.disks(), Buffer::new(1 << 16));
        let mut rng = Rng::new(self.plan.seed + u64::from(writer.number));
        let mut waits = Waits::default();
        while !self.done.load(SeqCst) {
            let with = self.snapshotting.load(SeqCst);
            let took = writer.step(&disks, &mut rng, &mut buffer).unwrap();
            let times = if with {
                &mut waits.with
            } else {
                &mut waits.without
            };
            times.add(took);
        }
        waits
    }

    fn take(&self, number: u32, rng: &mut Rng, times: &mut Times) -> Taken {
        let disks = match rng.below(3) {
            0 => vec![0],
            1 => vec![1],
            _ => vec![0, 1],
        };
        let names: Vec<&str> = disks.iter().map(|disk| DISKS[*disk as usize]).collect();
        let name = format!("s{number}");
        let before: Vec<Progress> = self.writers.iter().map(Writer::progress).collect();
        let started = Instant::now();
        let line = format!("snapshot {} {name}\n", names.join(","));
        self.store.control(&line).unwrap();
        times.add(started.elapsed());
        let bound = |(writer, before): (&Writer, Progress)| Progress {
            acked: before.acked,
            begun: writer.progress().begun,
        };
        let bounds = self.writers.iter().zip(before).map(bound).collect();
        Taken {
            name,
            disks,
            bounds,
        }
    }
}

#[test]
fn p2_every_snapshot_is_an_exact_prefix_of_every_writer() {
    if !common::able(&[]) {
        return;
    }
    let mut store = TestStore::new();
    let plan = Plan {
        seed: seed(),
        writers: 3,
        disks: 2,
        blocks: 1536,
        discards: 50,
    };
    for disk in DISKS {
        store.make(disk, plan.disk_bytes());
    }
    let writers = Writer::all(plan);
    let (taken, mut commands) = under_load(&store, plan, &writers);

    store.flush();
    let mut checkers = Checker::all(&writers);
    for (taken, at_once) in &taken {
        taken.prove(at_once, &mut checkers);
        assert_eq!(
            taken.read(&store, &plan),
            *at_once,
            "{} after the drain",
            taken.name
        );
    }
    store.remount();
    for (taken, at_once) in taken.iter().step_by(10) {
        assert_eq!(
            taken.read(&store, &plan),
            *at_once,
            "{} mounted again",
            taken.name
        );
    }
    eprintln!("snapshot commands: {}", commands.words());
}

/// Writes for a while, then writes on while snapshots are taken and read.
fn under_load(store: &TestStore, plan: Plan, writers: &[Writer]) -> (Vec<Read>, Times) {
    let load = Load {
        store,
        plan,
        writers,
        snapshotting: AtomicBool::new(false),
        done: AtomicBool::new(false),
    };
    let load = &load;
    std::thread::scope(|scope| {
        let spawn = |writer| scope.spawn(move || load.write(writer));
        let writing: Vec<_> = writers.iter().map(spawn).collect();
        // Whatever fails here, the writers end.
        let _end = OnDrop(&load.done);
        std::thread::sleep(Duration::from_secs(2));
        load.snapshotting.store(true, SeqCst);
        let (send, receive) = sync_channel::<Taken>(0);
        let reading = scope.spawn(move || {
            let read = |taken: Taken| {
                let images = taken.read(store, &plan);
                (taken, images)
            };
            receive.into_iter().map(read).collect::<Vec<_>>()
        });
        let (mut rng, mut commands) = (Rng::new(plan.seed), Times::default());
        for number in 0..SNAPSHOTS {
            std::thread::sleep(Duration::from_micros(rng.below(20_000)));
            let taken = load.take(number, &mut rng, &mut commands);
            send.send(taken).expect("the reader reads");
        }
        drop(send);
        let taken = reading.join().unwrap();
        load.done.store(true, SeqCst);
        let mut waits = Waits::default();
        for writer in writing {
            let of = writer.join().unwrap();
            waits.without.merge(of.without);
            waits.with.merge(of.with);
        }
        eprintln!("writes without snapshots: {}", waits.without.words());
        eprintln!("writes with snapshots:    {}", waits.with.words());
        (taken, commands)
    })
}

/// Sets a flag at the end, also where that is a panic.
struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// The checker itself, on plain files: what is a prefix passes, what is none does not.
#[test]
fn the_checker_sees_what_is_missing_early_torn_or_misplaced() {
    let plan = Plan {
        seed: 7,
        writers: 2,
        disks: 1,
        blocks: 320,
        discards: 20,
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    File::create(&path)
        .unwrap()
        .set_len(plan.disk_bytes())
        .unwrap();
    let disks = [open_direct(&path, true).unwrap()];
    let (writers, mut buffer) = (Writer::all(plan), Buffer::new(1 << 16));
    let mut rng = Rng::new(plan.seed);
    let steps = AtomicU32::new(0);
    let mut go = |count: u32| {
        for _ in 0..count {
            let writer = &writers[(steps.fetch_add(1, SeqCst) % 2) as usize];
            writer.step(&disks, &mut rng, &mut buffer).unwrap();
        }
    };
    go(1000);
    let middle = plan.read_image(0, &path).unwrap();
    go(1000);
    let end = plan.read_image(0, &path).unwrap();
    let mut checkers = Checker::all(&writers);
    let mut check = |image: &[u32], acked: u32, begun: u32| {
        let mut results = checkers
            .iter_mut()
            .map(|checker| checker.check(&[(0, image)], Progress { acked, begun }));
        results.find_map(Result::err)
    };
    assert_eq!(check(&end, 1000, 1000), None);
    assert_eq!(check(&middle, 500, 500), None);
    assert_eq!(check(&middle, 490, 520), None);
    assert!(
        check(&middle, 600, 700).is_some(),
        "acknowledged writes are missing"
    );
    assert!(
        check(&middle, 100, 300).is_some(),
        "writes are there that came after"
    );
    // One block of a later write among earlier ones, and one earlier write lost.
    let newer = (0..end.len())
        .rev()
        .find(|at| end[*at] > middle[*at])
        .unwrap();
    let mut mixed = middle.clone();
    mixed[newer] = end[newer];
    assert!(
        check(&mixed, 500, 1000).is_some(),
        "a later write without an earlier one"
    );
    let old = (0..end.len())
        .find(|at| end[*at] > 0 && end[*at] < 900)
        .unwrap();
    let mut lost = end.clone();
    lost[old] = 0;
    assert!(
        check(&lost, 1000, 1000).is_some(),
        "an earlier write is lost"
    );

    let mut block = vec![0; stamps::BLOCK];
    plan.stamp(0, 5, 3, &mut block);
    assert_eq!(plan.read_stamp(3, &block), Ok(5));
    assert!(plan.read_stamp(4, &block).is_err(), "it belongs elsewhere");
    block[512..].fill(0);
    assert!(plan.read_stamp(3, &block).is_err(), "it is torn");
}
