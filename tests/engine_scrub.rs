//! The online data check in process: it finds each kind of damage and names whom it touches, it
//! cries no wolf whatever goes on meanwhile, and it waits, stops and goes on as it is told.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use common::engine::{Engine, SEGMENT, Shape};
use common::model::new_disk;
use common::{Random, noise, seeds, wait_until};
use snapmark::base::{DiskId, Place};
use snapmark::device::{Effect, Operation, When};
use snapmark::volume::{Extent, ScrubState, ScrubStatus, VolumeError};

const BLOCKS: u64 = SEGMENT / 4096;

/// A store that destages only when it is told to.
fn manual() -> Engine {
    Engine::new(Shape {
        interval: Duration::from_secs(3600),
        cache: 64 << 20,
        journal: 32 << 20,
        ..Shape::default()
    })
}

/// Waits until the scrub has ended.
fn ended(engine: &Engine) -> ScrubStatus {
    let over = |state| !matches!(state, ScrubState::Running | ScrubState::Paused);
    wait_until("the scrub ends", || over(engine.scrub().status().state));
    engine.scrub().status()
}

/// A whole scrub.
fn scrub(engine: &Engine) -> ScrubStatus {
    let status = scrub_of_what_changes(engine);
    assert_eq!(status.checked, status.total, "{status:?}");
    status
}

/// A whole scrub while others write: what they delete after it was counted is not there to be checked.
fn scrub_of_what_changes(engine: &Engine) -> ScrubStatus {
    engine.scrub().start(None).unwrap();
    let status = ended(engine);
    assert_eq!(status.state, ScrubState::Done, "{status:?}");
    assert!(status.checked <= status.total, "{status:?}");
    status
}

/// Disks `a` and `b`, a clone `c` of `a@s`; `a` has changed since in place and in packs.
fn little_store() -> Engine {
    let engine = manual();
    let a = engine.create(new_disk("a", 8 * SEGMENT)).unwrap();
    let b = engine.create(new_disk("b", 2 * SEGMENT)).unwrap();
    engine.write(a, 0, &noise(1, 4 * SEGMENT as usize)).unwrap();
    engine.write(b, 4096, &noise(2, 65536)).unwrap();
    engine.snapshot(&["a"], Some("s"), false).unwrap();
    engine.clone_snapshot("a@s", new_disk("c", 0)).unwrap();
    // A thin version, and one with a slot of its own.
    engine.write(a, 2 * 4096, &noise(3, 8192)).unwrap();
    engine
        .write(a, SEGMENT, &noise(4, SEGMENT as usize))
        .unwrap();
    engine.settle();
    engine
}

#[test]
fn damage_is_found_and_named_and_nothing_else_is() {
    let engine = little_store();
    let clean = scrub(&engine);
    assert_eq!((clean.damaged, clean.problems.len()), (0, 0), "{clean:?}");
    // The blocks of the four segments and of the other disk, and what is new.
    assert_eq!(clean.total, (4 * BLOCKS + 16 + 2 + BLOCKS) * 4096);
    // What is hit, and who reads it.
    let cases: [(&str, Option<&str>, u64, &[&str]); 5] = [
        ("b", None, 7, &["b"]),
        ("a", None, 3 * BLOCKS + 5, &["a@s", "a", "c"]),
        // Seen by the snapshot alone, and what stands on it.
        ("a", Some("s"), BLOCKS + 1, &["a@s", "c"]),
        ("a", Some("s"), 3, &["a@s", "c"]),
        // In a pack.
        ("a", None, 3, &["a"]),
    ];
    for (disk, snapshot, block, touched) in cases {
        let at = engine.place(disk, snapshot, block);
        engine.damage(at);
        let found = scrub(&engine);
        assert_eq!(found.damaged, 1, "{found:?}");
        let problem = &found.problems[0];
        let where_to = (problem.device, problem.segment, problem.block);
        assert_eq!(where_to, (at.0.device.0, at.0.slot.0, at.1 as u64));
        assert_eq!((problem.offset, problem.count), (block * 4096, 1));
        let mut names: Vec<&str> = problem.touches.iter().map(|name| &**name).collect();
        let mut touched = touched.to_vec();
        names.sort_unstable();
        touched.sort_unstable();
        assert_eq!(names, touched, "{disk} {snapshot:?} {block}: {problem}");
        assert_eq!(problem.path, format!("pool{}", problem.device));
        // The damage undone.
        engine.damage(at);
    }
    assert_eq!(scrub(&engine).damaged, 0);
    // Neighbours are one problem.
    for block in 3..9 {
        engine.damage(engine.place("b", None, block));
    }
    let found = scrub(&engine);
    assert_eq!((found.damaged, found.problems.len()), (6, 1), "{found:?}");
    assert_eq!(
        (found.problems[0].offset, found.problems[0].count),
        (3 * 4096, 6)
    );
    engine.volumes.abandon();
}

#[test]
fn damage_that_nobody_reads_is_none() {
    let engine = little_store();
    let hit = engine.place("b", None, 4);
    engine.damage(hit);
    // The new data waits in the cache, and goes to that very place.
    let Some(snapmark::volume::Node::Disk(b)) = engine.lookup("b") else {
        panic!("no b");
    };
    engine.write(b, 4 * 4096, &noise(9, 4096)).unwrap();
    assert_eq!(scrub(&engine).damaged, 0);
    engine.flush().unwrap();
    assert_eq!(engine.place("b", None, 4), hit, "written in place");
    assert_eq!(scrub(&engine).damaged, 0);
    engine.volumes.abandon();
}

#[test]
fn what_a_device_does_not_give_is_damage() {
    let engine = little_store();
    let (at, _) = engine.place("b", None, 1);
    let faults = &engine.faults[usize::from(at.device.0)];
    faults.plan(Operation::Read, When::From(1), Effect::Fail(5));
    let found = scrub(&engine);
    assert!(found.damaged >= 16, "{found:?}");
    let of_b = |what: &str| {
        let mut of_b = found.problems.iter();
        of_b.any(|problem| problem.touches == ["b"] && problem.what.contains(what))
    };
    assert!(of_b("can't be read"), "{found:?}");
    faults.heal();
    assert_eq!(scrub(&engine).damaged, 0);
    engine.volumes.abandon();
}

/// A segment that so many snapshots read, too.
fn seen_by_many(snapshots: u64) -> Engine {
    let engine = manual();
    let disk = engine.create(new_disk("d", SEGMENT)).unwrap();
    engine.write(disk, 0, &noise(1, SEGMENT as usize)).unwrap();
    for name in 0..snapshots {
        engine
            .snapshot(&["d"], Some(&name.to_string()), false)
            .unwrap();
    }
    engine.settle();
    engine
}

/// How often the pool's devices were read so far.
fn reads(engine: &Engine) -> u64 {
    let of = engine.faults.iter();
    of.map(|device| device.calls(Operation::Read)).sum()
}

fn plan_reads(engine: &Engine, effect: Effect) {
    for device in &engine.faults {
        device.plan(Operation::Read, When::From(1), effect);
    }
}

/// A device may take ten seconds to say that it can't read a block.
#[test]
fn a_bad_block_is_read_a_few_times_however_many_see_it() {
    let engine = seen_by_many(50);
    let found_with = |most: u64| {
        let before = reads(&engine);
        let found = scrub(&engine);
        let read = reads(&engine) - before;
        assert!(read <= most, "{read} reads: {found:?}");
        let problem = &found.problems[0];
        assert_eq!(problem.touches.len() as u64 + problem.more, 51);
        found.damaged
    };
    // All at once, each alone, and once more for those who have it.
    plan_reads(&engine, Effect::Fail(5));
    assert_eq!(found_with(1 + 2 * BLOCKS), BLOCKS);
    engine.faults.iter().for_each(|device| device.heal());
    // One that differs is looked at as often as a reader does, by one of them.
    engine.damage(engine.place("d", None, 3));
    assert_eq!(found_with(1 + 1 + 8), 1);
    engine.volumes.abandon();
}

#[test]
fn it_stops_also_while_it_judges() {
    let engine = seen_by_many(50);
    for block in 0..BLOCKS {
        engine.damage(engine.place("d", None, block));
    }
    plan_reads(&engine, Effect::Delay(Duration::from_millis(40)));
    let before = reads(&engine);
    engine.scrub().start(None).unwrap();
    // The run, its blocks, and some that are judged.
    wait_until("it judges", || reads(&engine) >= before + BLOCKS + 4);
    let asked = reads(&engine);
    engine.scrub().stop().unwrap();
    let read = reads(&engine) - asked;
    assert!(read <= 2, "{read} reads after it was told to stop");
    assert_eq!(engine.scrub().status().state, ScrubState::Stopped);
    engine.volumes.abandon();
}

/// Slower it may always be, so nothing here depends on the machine.
#[test]
fn it_is_not_faster_than_its_rate() {
    let engine = manual();
    let disk = engine.create(new_disk("d", 4 << 20)).unwrap();
    engine.write(disk, 0, &noise(1, 4 << 20)).unwrap();
    engine.settle();
    let scrub_at = |rate: u64| {
        let started = Instant::now();
        engine.scrub().start(Some(rate)).unwrap();
        let status = ended(&engine);
        assert_eq!(status.state, ScrubState::Done, "{status:?}");
        (started.elapsed(), status.damaged)
    };
    // Four reads, of which each pays for the one before it; a tenth of a second may be made up for.
    let (took, _) = scrub_at(4 << 20);
    assert!(took >= Duration::from_millis(640), "{took:?}");
    // What is judged is paid for like the rest.
    plan_reads(&engine, Effect::Fail(5));
    let (took, damaged) = scrub_at(4 << 20);
    assert_eq!(damaged, 1024);
    assert!(took >= Duration::from_millis(2500), "{took:?}");
    engine.volumes.abandon();
}

#[test]
fn writes_by_reference_that_are_queued_are_looked_at() {
    let engine = manual();
    let disk = engine.create(new_disk("d", 64 * SEGMENT)).unwrap();
    let queued = || engine.status().disks.iter().map(|disk| disk.queued).sum();
    // Until there are slots to be had.
    let data = noise(7, 4 * SEGMENT as usize);
    loop {
        engine.flush().unwrap();
        engine.write(disk, 0, &data).unwrap();
        if engine.status().cache.used < queued() {
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(scrub(&engine).damaged, 0);
    let view = engine.catalog.view();
    let segment = |place: &Place| {
        let mut bytes = vec![0; SEGMENT as usize];
        engine.pool.read(*place, 0, &mut bytes).unwrap();
        bytes
    };
    let second = &data[SEGMENT as usize..2 * SEGMENT as usize];
    let pending = view.pending(10_000).unwrap();
    let slot = pending.into_iter().find(|place| segment(place) == second);
    let slot = slot.expect("the second segment is in a lent slot");
    drop(view);
    engine.damage((slot, 5));
    let found = scrub(&engine);
    assert_eq!(found.damaged, 1, "{found:?}");
    let problem = &found.problems[0];
    assert_eq!((problem.segment, problem.block), (slot.slot.0, 5));
    assert_eq!(problem.offset, SEGMENT + 5 * 4096);
    assert_eq!(problem.touches, ["d"]);
    engine.volumes.abandon();
}

/// Writes, discards, snapshots, clones, rollbacks and deletes while scrub follows scrub. Syncs are
/// slow, so that blocks written in place wait long for the commit that has their checksums.
#[test]
fn whatever_goes_on_meanwhile_is_no_damage() {
    for seed in seeds(3) {
        println!("seed: SNAPMARK_SEED={seed}");
        let engine = Engine::new(Shape::default());
        for device in &engine.faults {
            let slow = Effect::Delay(Duration::from_millis(4));
            device.plan(Operation::Sync, When::Every(1), slow);
        }
        let disks: Vec<DiskId> = ["a", "b"]
            .map(|name| engine.create(new_disk(name, 32 * SEGMENT)).unwrap())
            .to_vec();
        let (stop, writes) = (AtomicBool::new(false), AtomicU64::new(0));
        let done = |what: Result<(), VolumeError>| match what {
            Ok(()) | Err(VolumeError::NoSpace { .. }) => {}
            Err(error) => panic!("seed {seed}: {error}"),
        };
        std::thread::scope(|scope| {
            for (at, disk) in disks.iter().enumerate() {
                let (engine, stop, writes) = (&engine, &stop, &writes);
                scope.spawn(move || {
                    let mut random = Random(seed << 8 | at as u64);
                    while !stop.load(Relaxed) {
                        // Now and then whole segments, which go by reference.
                        let (len, limit) = match random.below(20) {
                            0 => (2 * SEGMENT, 30 * SEGMENT),
                            _ => ((1 + random.below(4)) * 4096, 4 * SEGMENT),
                        };
                        let offset = random.below(limit) & !4095;
                        if random.chance(16) {
                            done(engine.discard(*disk, Extent { offset, len }));
                        } else {
                            let data = noise(random.next(), len as usize);
                            done(engine.write(*disk, offset, &data));
                        }
                        writes.fetch_add(1, Relaxed);
                    }
                });
            }
            let (engine, stop) = (&engine, &stop);
            scope.spawn(move || {
                let mut random = Random(seed << 8 | 77);
                let mut turn = 0;
                while !stop.load(Relaxed) {
                    let disk = ["a", "b"][random.below(2) as usize];
                    turn += 1;
                    let name = turn.to_string();
                    engine.snapshot(&[disk], Some(&name), false).unwrap();
                    let snapshot = format!("{disk}@{name}");
                    if random.chance(3) {
                        let clone = engine.clone_snapshot(&snapshot, new_disk("c", 0)).unwrap();
                        done(engine.write(clone, random.below(4 * SEGMENT), &[7; 9000]));
                        engine.remove("c").unwrap();
                    }
                    if random.chance(6) {
                        engine.rollback(disk, &snapshot, true).unwrap();
                    }
                    let old = turn - 1 - random.below(4).min(turn - 1);
                    for disk in ["a", "b"] {
                        let _ = engine.remove(&format!("{disk}@{old}"));
                    }
                    std::thread::sleep(Duration::from_millis(random.below(20)));
                }
            });
            // Ended also where an assertion fails.
            let _stop = Stop(stop);
            for turn in 0..25 {
                // What the scrub reads is what others write just now: no courtesy is wanted.
                let status = scrub_of_what_changes(engine);
                assert_eq!(status.damaged, 0, "seed {seed} turn {turn}: {status:?}");
            }
        });
        assert!(writes.load(Relaxed) > 100);
        engine.settle();
        let status = scrub(&engine);
        assert_eq!(status.damaged, 0, "seed {seed} settled: {status:?}");
        engine.volumes.abandon();
    }
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn it_waits_stops_and_goes_on_as_it_is_told() {
    let engine = manual();
    // In so many segments that it takes several reads.
    let fill = |name: &str| {
        let disk = engine.create(new_disk(name, 1 << 30)).unwrap();
        for at in 0..64 {
            engine
                .write(disk, at * (4 << 20), &noise(at, 8192))
                .unwrap();
        }
        engine.settle();
    };
    fill("d");
    let scrub = engine.scrub();
    assert!(matches!(scrub.pause(), Err(VolumeError::Invalid(_))));
    assert!(matches!(scrub.resume(), Err(VolumeError::Invalid(_))));
    assert!(matches!(scrub.stop(), Err(VolumeError::Invalid(_))));
    // A byte a second: the first read goes through, and the next one in an hour.
    scrub.start(Some(1)).unwrap();
    assert!(matches!(scrub.start(None), Err(VolumeError::Busy(_))));
    wait_until("it reads", || scrub.status().checked > 0);
    let slow = scrub.status();
    assert_eq!((slow.state, slow.rate), (ScrubState::Running, 1));
    assert_eq!(slow.total, 64 * 8192);
    assert!(slow.checked < slow.total, "{slow:?}");
    // While it waits, slots that are given up come back: it holds no view.
    engine.remove("d").unwrap();
    engine.settle();
    assert_eq!(engine.status().pool.used, 0);
    scrub.pause().unwrap();
    scrub.set_rate(0).unwrap();
    let paused = scrub.status();
    assert_eq!(
        (paused.state, paused.checked),
        (ScrubState::Paused, slow.checked)
    );
    assert!(matches!(scrub.start(None), Err(VolumeError::Busy(_))));
    scrub.resume().unwrap();
    let done = ended(&engine);
    assert_eq!(
        (done.state, done.damaged),
        (ScrubState::Done, 0),
        "{done:?}"
    );
    assert_eq!(done.checked, done.total);
    assert!(done.finished.is_some());

    fill("e");
    scrub.start(Some(1)).unwrap();
    scrub.stop().unwrap();
    assert_eq!(scrub.status().state, ScrubState::Stopped);
    // A paused one does not keep the store open, nor does one that waits for its rate.
    scrub.start(Some(1)).unwrap();
    engine.volumes.close_store().unwrap();
}
