//! The whole engine under load, over devices that delay calls at random: writers, snapshots,
//! deletes, syncs, flushes and readers side by side. What comes out is compared with what each
//! writer did (`tests/common/stamps.rs`): live, in snapshots, after kills and after power losses.
//!
//! `SNAPMARK_SEED=N` runs one seed, `SNAPMARK_ROUNDS=N` as many more.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;
#[path = "common/stamps.rs"]
#[allow(dead_code, reason = "each test program uses another part")]
mod stamps;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::engine::{Engine, Shape};
use common::model::new_disk;
use common::{Random, checks, invariants, seeds};
use snapmark::base::DiskId;
use snapmark::device::{Device, Effect, FaultDevice, Images, Operation, When};
use snapmark::volume::{Extent, Node, Volumes};
use stamps::{BLOCK, Buffer, Checker, Kind, Plan, Progress, Rng, Writer};

const WRITERS: u32 = 3;
const STEPS: usize = 420;

/// What was promised at a moment, and the devices at that moment.
struct Moment {
    what: String,
    images: Images,
    bounds: Vec<Progress>,
}

fn plan(seed: u64) -> Plan {
    Plan {
        seed,
        writers: WRITERS,
        disks: 2,
        // Four chunks of each writer on each disk.
        blocks: stamps::CHUNK * WRITERS * 4,
        discards: 9,
    }
}

fn name(disk: u32) -> String {
    format!("disk{disk}")
}

fn id(volumes: &Volumes, disk: u32) -> DiskId {
    match volumes.lookup(&name(disk)) {
        Some(Node::Disk(id)) => id,
        other => panic!("{disk} is {other:?}"),
    }
}

/// The operation that each block of a file is from.
fn read(volumes: &Volumes, plan: &Plan, disk: u32, name: &str) -> Vec<u32> {
    let node = volumes.lookup(name).unwrap();
    let mut bytes = vec![0xee; plan.disk_bytes() as usize];
    assert_eq!(volumes.read(node, 0, &mut bytes).unwrap(), bytes.len());
    let first = disk * plan.blocks;
    let blocks = (first..).zip(bytes.chunks_exact(BLOCK));
    blocks
        .map(|(block, bytes)| plan.read_stamp(block, bytes).unwrap())
        .collect()
}

/// Proves that both disks, as of a snapshot where one is named, hold a prefix of each writer's
/// operations, within bounds.
fn holds(
    volumes: &Volumes,
    writers: &[Writer],
    snapshot: Option<&str>,
    bounds: &[Progress],
    what: &str,
) {
    let plan = writers[0].plan;
    let file = |disk| match snapshot {
        Some(snapshot) => format!("{}@{snapshot}", name(disk)),
        None => name(disk),
    };
    let found: Vec<_> = (0..plan.disks)
        .map(|disk| (disk, read(volumes, &plan, disk, &file(disk))))
        .collect();
    let images: Vec<(u32, &[u32])> = found.iter().map(|(at, of)| (*at, &of[..])).collect();
    for (checker, bounds) in Checker::all(writers).iter_mut().zip(bounds) {
        let checked = checker.check(&images, *bounds);
        checked.unwrap_or_else(|error| panic!("{what}: {error}"));
    }
}

fn progress(writers: &[Writer]) -> Vec<Progress> {
    writers.iter().map(Writer::progress).collect()
}

/// What was acknowledged before, and begun by the end.
fn between(before: &[Progress], after: &[Progress]) -> Vec<Progress> {
    let both = before.iter().zip(after);
    both.map(|(before, after)| Progress {
        acked: before.acked,
        begun: after.begun,
    })
    .collect()
}

/// Has calls of one device after the other delayed, at random, until it is over.
fn disturb(devices: &[Arc<FaultDevice>], mut random: Random, over: &AtomicBool) {
    let operations = [
        Operation::Write,
        Operation::Sync,
        Operation::Read,
        Operation::Punch,
    ];
    while !over.load(SeqCst) {
        for device in devices {
            device.heal();
            for _ in 0..3 {
                let operation = *random.pick(&operations).unwrap();
                let when = When::Nth(1 + random.below(8));
                let time = Duration::from_micros(50 << random.below(8));
                device.plan(operation, when, Effect::Delay(time));
            }
        }
        std::thread::sleep(Duration::from_millis(1 + random.below(4)));
    }
    devices.iter().for_each(|device| device.heal());
}

fn run(seed: u64) -> usize {
    let mut random = Random(seed ^ 0xde1a);
    let shape = Shape {
        cache: 1 << 20,
        journal: *random.pick(&[1 << 20, 4 << 20]).unwrap(),
        batch: *random.pick(&[32 << 10, 256 << 10]).unwrap(),
        interval: Duration::from_millis(*random.pick(&[1, 4, 3_600_000]).unwrap()),
        log: 256 << 10,
        ..Shape::default()
    };
    let slow = Mutex::new(Vec::new());
    let made = Engine::make(&shape).kill_image();
    let disk = snapmark::device::CrashDisk::from_images(&made);
    let engine = Engine::open_over(disk, shape, &|inner: Arc<dyn Device>| {
        let device = Arc::new(FaultDevice::new(inner));
        slow.lock().unwrap().push(device.clone());
        device
    });
    let plan = plan(seed);
    for disk in 0..plan.disks {
        let new = new_disk(&name(disk), plan.disk_bytes());
        engine.create(new).unwrap();
    }
    engine.sync().unwrap();
    let writers = Writer::all(plan);
    let (over, moments) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let devices = slow.into_inner().unwrap();
    std::thread::scope(|scope| {
        let (engine, writers, over, moments) = (&engine, &writers, &over, &moments);
        let disturber = random.clone();
        let slow = &devices;
        scope.spawn(move || disturb(slow, disturber, over));
        let writing: Vec<_> = writers
            .iter()
            .map(|writer| scope.spawn(move || write(engine, writer, seed, writers, moments)))
            .collect();
        let others = [
            scope.spawn(move || take_snapshots(engine, writers, seed, over)),
            scope.spawn(move || {
                let mut random = Random(seed ^ 4);
                while !over.load(SeqCst) {
                    let disk = random.below(2) as u32;
                    read(engine, &writers[0].plan, disk, &name(disk));
                    if random.chance(4) {
                        engine.flush().unwrap();
                    }
                }
            }),
        ];
        let done: Vec<_> = writing.into_iter().map(|of| of.join()).collect();
        over.store(true, SeqCst);
        let others: Vec<_> = others.into_iter().map(|of| of.join()).collect();
        for done in done.into_iter().chain(others) {
            done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
    let end = progress(&writers);
    holds(&engine, &writers, None, &end, "at the end");
    engine.settle();
    invariants::check(&engine.catalog.view(), &engine.pool, true);
    holds(&engine, &writers, None, &end, "destaged");
    let left = engine.disk.kill_image();
    engine.volumes.abandon();
    checks::clean(&left, "at the end");
    let moments = moments.into_inner().unwrap();
    for moment in &moments {
        checks::clean(&moment.images, &moment.what);
        let engine = Engine::open_images(&moment.images, shape);
        holds(&engine, &writers, None, &moment.bounds, &moment.what);
        engine.volumes.abandon();
    }
    moments.len()
}

/// One writer, who now and then notes what must be there by now.
fn write(
    engine: &Engine,
    writer: &Writer,
    seed: u64,
    all: &[Writer],
    moments: &Mutex<Vec<Moment>>,
) {
    let mut rng = Rng::new(seed ^ u64::from(writer.number) << 32);
    let mut buffer = Buffer::new(stamps::CHUNK as usize * BLOCK);
    for step in 0..STEPS {
        let done = writer.step_by(&mut rng, &mut buffer, |kind, disk, offset, bytes| {
            let disk = id(engine, disk);
            let len = bytes.len() as u64;
            let done = match kind {
                Kind::Write => engine.write(disk, offset, bytes),
                Kind::Discard => engine.discard(disk, Extent { offset, len }),
                Kind::Refused => Ok(()),
            };
            done.map_err(std::io::Error::other)
        });
        done.unwrap();
        if step % 70 == 69 {
            let before = progress(all);
            let images = if rng.chance(2) {
                engine.disk.kill_image()
            } else {
                engine.sync().unwrap();
                engine.disk.crash_image(rng.below(1000))
            };
            let bounds = between(&before, &progress(all));
            let what = format!("writer {} after {step}", writer.number);
            let moment = Moment {
                what,
                images,
                bounds,
            };
            moments.lock().unwrap().push(moment);
        }
    }
}

/// Takes snapshots of both disks at once, looks at them at once and later, and deletes them.
fn take_snapshots(engine: &Engine, writers: &[Writer], seed: u64, over: &AtomicBool) {
    let mut random = Random(seed ^ 3);
    let mut taken: Vec<(String, Vec<Progress>)> = Vec::new();
    let names = [name(0), name(1)];
    let disks = [names[0].as_str(), names[1].as_str()];
    for number in 0.. {
        if over.load(SeqCst) {
            break;
        }
        let snapshot = format!("s{number}");
        let before = progress(writers);
        let durable = random.chance(2);
        engine.snapshot(&disks, Some(&snapshot), durable).unwrap();
        let bounds = between(&before, &progress(writers));
        holds(engine, writers, Some(&snapshot), &bounds, &snapshot);
        taken.push((snapshot, bounds));
        let at = random.below(taken.len() as u64) as usize;
        let (old, bounds) = &taken[at];
        holds(engine, writers, Some(old), bounds, old);
        if taken.len() > 4 {
            let (old, _) = taken.swap_remove(at);
            for disk in disks {
                engine.remove(&format!("{disk}@{old}")).unwrap();
            }
        }
        std::thread::sleep(Duration::from_millis(random.below(20)));
    }
    for (snapshot, bounds) in &taken {
        holds(engine, writers, Some(snapshot), bounds, snapshot);
    }
}

#[test]
fn p2_p4_p5_p6_hold_whatever_is_slow() {
    let mut moments = 0;
    let seeds = seeds(8);
    for seed in &seeds {
        println!("SNAPMARK_SEED={seed}");
        moments += run(*seed);
    }
    println!("{} seeds, {moments} crash images", seeds.len());
}
