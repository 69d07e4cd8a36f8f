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
use stamps::{Buffer, Checker, OnDrop, Plan, Progress, Rng, Times, Writer, open_direct, seed};

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

/// What the checker is to follow: images in their order, and rollbacks to earlier ones.
enum Event {
    Image(Vec<u32>, Progress),
    RollBack(std::sync::Arc<Vec<u32>>, Progress),
}

/// A writer on a plain file that is now and then put back to an earlier content, with bounds that
/// are looser than what happened.
fn rolled_back_now_and_then(seed: u64) -> (Writer, Vec<Event>) {
    let plan = Plan {
        seed,
        writers: 1,
        disks: 1,
        blocks: 32,
        discards: 5,
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    std::fs::write(&path, vec![0; plan.disk_bytes() as usize]).unwrap();
    let disks = [File::options().read(true).write(true).open(&path).unwrap()];
    let (writer, mut rng) = (Writer::new(plan, 0), Rng::new(seed));
    let (mut buffer, mut kept, mut events) = (Buffer::new(1 << 16), Vec::new(), Vec::new());
    let mut acked = 0;
    for _ in 0..60 {
        for _ in 0..rng.below(4) {
            writer.step(&disks, &mut rng, &mut buffer).unwrap();
        }
        let now = writer.progress().acked;
        acked += rng.below(u64::from(now - acked) + 1) as u32;
        let begun = now + rng.below(3) as u32;
        let bounds = Progress { acked, begun };
        let after_image = matches!(events.last(), Some(Event::Image(..)));
        if after_image && rng.chance(2) {
            let at = rng.below(kept.len() as u64) as usize;
            let (bytes, image): &(Vec<u8>, std::sync::Arc<Vec<u32>>) = &kept[at];
            std::fs::write(&path, bytes).unwrap();
            events.push(Event::RollBack(image.clone(), bounds));
        } else {
            let image = plan.read_image(0, &path).unwrap();
            let bytes = std::fs::read(&path).unwrap();
            kept.push((bytes, std::sync::Arc::new(image.clone())));
            events.push(Event::Image(image, bounds));
        }
    }
    (writer, events)
}

fn follow(writer: &Writer, events: &[Event]) -> Result<(), String> {
    let mut checkers = Checker::all(std::slice::from_ref(writer));
    for event in events {
        match event {
            Event::Image(image, bounds) => {
                checkers[0].check(&[(0, image)], *bounds)?;
            }
            Event::RollBack(image, bounds) => checkers[0].roll_back(0, image, *bounds),
        }
    }
    Ok(())
}

#[test]
fn the_checker_follows_rollbacks_wherever_they_fell_and_sees_what_is_wrong_after_them() {
    let (mut seen, mut tried) = (0, 0);
    for seed in 0..40 {
        let (writer, mut events) = rolled_back_now_and_then(seed);
        follow(&writer, &events).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        // One block of one image is from an operation that is not its last there.
        let mut rng = Rng::new(seed);
        let at = 1 + rng.below(events.len() as u64 - 1) as usize;
        if let Event::Image(image, bounds) = &mut events[at] {
            let block = rng.below(image.len() as u64) as usize;
            if image[block] > 0 && image[block] < bounds.acked {
                image[block] -= 1;
                tried += 1;
                seen += u32::from(follow(&writer, &events).is_err());
            }
        }
    }
    assert!(tried > 5 && seen == tried, "{seen} of {tried}");
}
