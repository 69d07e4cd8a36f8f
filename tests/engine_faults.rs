//! Faults of every device at every call: writes, syncs, reads and punches that fail, writes that
//! come out short, a host without space. After each, what is served is right, what was acknowledged
//! is there over healthy devices, and the offline check finds nothing.
//!
//! `SNAPMARK_SEED=N` runs one seed, `SNAPMARK_ROUNDS=N` walks through the calls in as much smaller
//! steps.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use common::engine::{Engine, SEGMENT, Shape};
use common::model::{BLOCK, State, new_disk};
use common::{Random, checks, invariants};
use snapmark::device::{Effect, FaultDevice, Operation, When};
use snapmark::volume::{Extent, Node, SetAttributes, VolumeError};

const DEVICES: [&str; 5] = ["pages", "log", "journal", "pool0", "pool1"];
const DISK: u64 = 5 * SEGMENT;
const OPS: usize = 150;

type Result = std::result::Result<(), VolumeError>;

/// A device's calls of one kind that fail.
#[derive(Clone, Copy, Debug)]
struct Plan {
    device: &'static str,
    operation: Operation,
    when: When,
    effect: Effect,
}

/// So small that checkpoints, ring wraps and full caches come often.
const SMALL: Shape = Shape {
    segment: SEGMENT,
    log: 32 << 10,
    journal: 1 << 20,
    cache: 1 << 20,
    batch: 64 << 10,
    interval: Duration::from_millis(2),
    pool: 16 << 20,
    volatile: false,
    patience: Duration::from_secs(60),
};

/// A store over devices that can be told to fail.
struct Rig {
    engine: Engine,
    faults: BTreeMap<String, Arc<FaultDevice>>,
}

impl Rig {
    fn with(shape: Shape) -> Self {
        let disk = Engine::make(&shape);
        let faults = RefCell::new(BTreeMap::new());
        let engine = Engine::open_over(disk, shape, &|device| {
            let fault = Arc::new(FaultDevice::new(device));
            let name = snapmark::device::Device::name(&*fault).to_owned();
            faults.borrow_mut().insert(name, fault.clone());
            fault
        });
        let faults = faults.into_inner();
        Self { engine, faults }
    }

    fn plan(&self, plan: Plan) {
        self.faults[plan.device].plan(plan.operation, plan.when, plan.effect);
    }

    fn heal(&self) {
        self.faults.values().for_each(|device| device.heal());
    }

    fn calls(&self, device: &str, operation: Operation) -> u64 {
        self.faults[device].calls(operation)
    }

    fn state(&self) -> String {
        self.engine.status().state
    }
}

/// Random ops that may fail, and the states that they may have led to.
struct History {
    random: Random,
    /// After each op that succeeded, the first is empty; and after one that failed and may have
    /// been done or not, where that was the last.
    states: Vec<State>,
    /// The newest state that was synced.
    durable: usize,
    /// The last op failed.
    unsure: Option<State>,
    named: u64,
    lines: Vec<String>,
}

impl History {
    fn new(seed: u64) -> Self {
        Self {
            random: Random(seed),
            states: vec![State::default()],
            durable: 0,
            unsure: None,
            named: 0,
            lines: Vec::new(),
        }
    }

    fn name(&mut self, what: &str) -> String {
        self.named += 1;
        format!("{what}{}", self.named)
    }

    /// Does one op. Returns its error.
    fn step(&mut self, engine: &Engine) -> Option<VolumeError> {
        let mut next = self.states.last().unwrap().clone();
        let (disks, snapshots) = (next.disks(), next.snapshots());
        let disk = self.random.pick(&disks).cloned();
        let snapshot = self.random.pick(&snapshots).cloned();
        let what = self.random.below(100);
        let (line, done) = match (disk, snapshot) {
            (Some(disk), _) if what < 55 => self.write(engine, &mut next, &disk),
            (Some(disk), _) if what < 65 => {
                let at = self.random.below(DISK / BLOCK) * BLOCK;
                let len = (1 + self.random.below(30)) * BLOCK;
                let content = Arc::make_mut(next.files.get_mut(&disk).unwrap());
                let end = (at + len).min(DISK);
                content[at as usize..end as usize].fill(0);
                let done = engine.discard(id(engine, &disk), Extent { offset: at, len });
                (format!("discard {disk} {at}+{len}"), done)
            }
            (Some(disk), _) if what < 77 && snapshots.len() < 5 => {
                let name = self.name("s");
                let durable = self.random.chance(2);
                let content = next.files[&disk].clone();
                next.files.insert(format!("{disk}@{name}"), content);
                let done = engine.snapshot(&[&disk], Some(&name), durable).map(drop);
                (format!("snapshot {disk} {name}"), done)
            }
            (_, Some(snapshot)) if what < 85 => {
                next.files.remove(&snapshot);
                (format!("remove {snapshot}"), engine.remove(&snapshot))
            }
            (Some(disk), _) if what < 87 && disks.len() > 1 => {
                next.files.remove(&disk);
                (format!("remove {disk}"), engine.remove(&disk))
            }
            (Some(_), _) if what < 93 => ("sync".to_owned(), engine.sync()),
            (Some(_), _) if what < 96 || disks.len() > 2 => ("flush".to_owned(), engine.flush()),
            _ => {
                let name = self.name("d");
                next.files
                    .insert(name.clone(), Arc::new(vec![0; DISK as usize]));
                let done = engine.create(new_disk(&name, DISK)).map(drop);
                (format!("create {name}"), done)
            }
        };
        let synced = line == "sync" || line == "flush";
        self.lines.push(format!("{line}: {done:?}"));
        match done {
            Ok(()) => {
                self.states.push(next);
                if synced {
                    self.durable = self.states.len() - 1;
                }
                None
            }
            Err(error) => {
                self.unsure = Some(next);
                Some(error)
            }
        }
    }

    fn write(&mut self, engine: &Engine, next: &mut State, disk: &str) -> (String, Result) {
        let (mut at, mut len) = (
            self.random.below(DISK - 3 * BLOCK),
            1 + self.random.below(3 * BLOCK),
        );
        if self.random.chance(2) {
            (at, len) = (at / BLOCK * BLOCK, len.next_multiple_of(BLOCK));
        }
        if self.random.chance(5) {
            // Whole segments go by reference.
            (at, len) = (self.random.below(4) * SEGMENT, SEGMENT);
        }
        let byte = self.random.next() as u8 | 1;
        let data: Vec<u8> = (0..len).map(|n| byte.wrapping_add(n as u8) | 1).collect();
        let content = Arc::make_mut(next.files.get_mut(disk).unwrap());
        content[at as usize..(at + len) as usize].copy_from_slice(&data);
        let done = engine.write(id(engine, disk), at, &data);
        (format!("write {disk} {at}+{len}"), done)
    }

    /// Whether this is what has to be served now.
    fn is_right(&self, found: &State) -> std::result::Result<(), String> {
        self.is_one_of(found, self.states.len() - 1)
    }

    /// Whether this is one of the states from `least` on.
    fn is_one_of(&self, found: &State, least: usize) -> std::result::Result<(), String> {
        let mut may = self.states[least..].iter().chain(&self.unsure);
        if may.any(|state| state == found) {
            return Ok(());
        }
        let last = self.states.last().unwrap();
        Err(last.difference(found).unwrap_or_default())
    }
}

fn id(engine: &Engine, name: &str) -> snapmark::base::DiskId {
    match engine.lookup(name) {
        Some(Node::Disk(id)) => id,
        other => panic!("{name} is {other:?}"),
    }
}

/// What may come of a fault.
#[derive(Clone, Copy, PartialEq)]
enum Outcome {
    /// The store may halt, or not notice.
    MayHalt,
    /// It does halt, now and then.
    Halts,
    /// Calls may fail; the store goes on.
    Fails,
    /// Writes may find no space; the store goes on.
    NoSpace,
    /// Nothing fails: it is waited for.
    Waits,
}

/// One history with a fault in it. Says whether the fault struck, and whether the store halted.
fn run(seed: u64, plan: Option<Plan>, outcome: Outcome) -> (bool, bool, Rig) {
    let rig = Rig::with(SMALL);
    check(seed, rig, plan, outcome)
}

/// Runs a history over a store, and looks at what comes of it.
fn check(seed: u64, rig: Rig, plan: Option<Plan>, outcome: Outcome) -> (bool, bool, Rig) {
    // Calls are counted from here on: what opening does is another test's.
    let before = plan.map(|plan| rig.calls(plan.device, plan.operation));
    plan.into_iter().for_each(|plan| rig.plan(plan));
    let mut history = History::new(seed);
    let done = catch_unwind(AssertUnwindSafe(|| {
        for _ in 0..OPS {
            let Some(error) = history.step(&rig.engine) else {
                continue;
            };
            assert!(outcome != Outcome::Waits, "it failed: {error}");
            let no_space = matches!(error, VolumeError::HostFull(_));
            if !no_space && rig.state() != "ok" {
                break;
            }
            let line = history.lines.last().unwrap();
            let frees = line.starts_with("remove") || line.starts_with("discard");
            assert!(!(no_space && frees), "what frees space failed: {line}");
            assert!(no_space || outcome != Outcome::NoSpace, "{error}");
            // Nothing was changed by it.
            history.unsure = None;
        }
        // A crash may come while the host is full.
        let in_between = matches!(outcome, Outcome::NoSpace | Outcome::Waits).then(|| {
            (
                rig.engine.disk.kill_image(),
                rig.engine.disk.crash_image(seed + 2),
            )
        });
        rig.heal();
        let served = State::of(&rig.engine);
        history.is_right(&served).expect("served after the fault");
        // The destager may have met it only just now. Where it did not stop, nothing is left of it.
        let halted = rig.engine.try_settle().is_err();
        assert_eq!(rig.state() == "ok", !halted, "{}", rig.state());
        assert!(
            !halted || matches!(outcome, Outcome::MayHalt | Outcome::Halts),
            "halted: {}",
            rig.state()
        );
        if !halted {
            invariants::check(&rig.engine.catalog.view(), &rig.engine.pool, true);
        }
        let images = rig.engine.disk.kill_image();
        let power = rig.engine.disk.crash_image(seed + 1);
        let both = |(killed, power)| [(killed, history.states.len() - 1), (power, history.durable)];
        let all = in_between
            .into_iter()
            .chain([(images, power)])
            .flat_map(both);
        for (images, least) in all {
            checks::clean(&images, "as a crash left it");
            let engine = Engine::open_images(&images, rig.engine.shape);
            let found = State::of(&engine);
            history.is_one_of(&found, least).expect("opened again");
            engine.settle();
            invariants::check(&engine.catalog.view(), &engine.pool, true);
            assert_eq!(State::of(&engine).difference(&found), None, "destaged");
            checks::clean(&engine.disk.kill_image(), "destaged");
            engine.volumes.abandon();
        }
        halted
    }));
    rig.engine.volumes.abandon();
    match done {
        Ok(halted) => {
            let struck = plan.zip(before).is_some_and(|(plan, before)| {
                let calls = rig.calls(plan.device, plan.operation) - before;
                matches!(plan.when, When::Nth(n) | When::From(n) if calls >= n)
            });
            (struck, halted, rig)
        }
        Err(panic) => {
            let skip = history.lines.len().saturating_sub(25);
            history.lines[skip..]
                .iter()
                .for_each(|l| eprintln!("  {l}"));
            eprintln!("SNAPMARK_SEED={seed} {plan:?}");
            std::panic::resume_unwind(panic);
        }
    }
}

/// Walks a fault through all calls of each device that the history makes, about `most` of them.
fn walk(
    devices: &[&'static str],
    operation: Operation,
    effects: &[Effect],
    outcome: Outcome,
    most: u64,
) {
    let rounds = common::seeds(1).len() as u64;
    let (mut struck, mut halted, mut tried) = (0, 0, 0);
    // Each history makes another number of calls.
    let seeds = [7, 8, 9];
    for (device, seed) in devices.iter().flat_map(|d| seeds.map(|seed| (d, seed))) {
        let (_, _, rig) = run(seed, None, Outcome::Waits);
        let calls = rig.calls(device, operation).max(1);
        let step = (calls * seeds.len() as u64 / (most * rounds)).max(1);
        for (turn, n) in (1..=calls).step_by(step as usize).enumerate() {
            let plan = Plan {
                device,
                operation,
                when: When::Nth(n),
                effect: effects[turn % effects.len()],
            };
            let (hit, stopped, _) = run(seed, Some(plan), outcome);
            (struck, halted, tried) = (
                struck + u64::from(hit),
                halted + u64::from(stopped),
                tried + 1,
            );
        }
        eprintln!("{device}: {calls} calls of {operation} with seed {seed}");
    }
    eprintln!("{tried} faults of {operation} tried, {struck} struck, {halted} halted the store");
    assert!(struck * 2 > tried, "{struck} of {tried} struck");
    assert!(outcome != Outcome::Halts || halted > 0);
}

#[test]
fn p5_p8_a_failed_write_at_any_call_loses_nothing_acknowledged() {
    let effects = [
        Effect::Fail(libc::EIO),
        Effect::Short(512, libc::EIO),
        Effect::Short(4096 + 512, libc::EIO),
    ];
    walk(&DEVICES, Operation::Write, &effects, Outcome::Halts, 30);
}

#[test]
fn p4_p8_a_failed_sync_at_any_call_is_final_and_loses_nothing_synced() {
    let effects = [Effect::Fail(libc::EIO), Effect::Fail(libc::ENOSPC)];
    walk(&DEVICES, Operation::Sync, &effects, Outcome::Halts, 30);
}

#[test]
fn p5_a_host_without_space_for_a_write_at_any_call_is_waited_for() {
    let effects = [
        Effect::Fail(libc::ENOSPC),
        Effect::Short(512, libc::ENOSPC),
        Effect::Short(9000, libc::EDQUOT),
        Effect::Short(1 << 40, libc::ENOSPC),
    ];
    let devices = ["journal", "pool0", "pool1"];
    walk(&devices, Operation::Write, &effects, Outcome::Waits, 30);
    // A catalog's root, and the start of its log behind it, can't be taken back.
    let devices = ["pages", "log"];
    walk(&devices, Operation::Write, &effects, Outcome::MayHalt, 30);
}

#[test]
fn p8_a_failed_read_at_any_call_harms_nobody_else() {
    let effects = [Effect::Fail(libc::EIO)];
    walk(
        &["pool0", "pool1"],
        Operation::Read,
        &effects,
        Outcome::Fails,
        30,
    );
}

#[test]
fn p9_a_failed_punch_at_any_call_stops_nothing() {
    let effects = [Effect::Fail(libc::EIO), Effect::Fail(libc::ENOSPC)];
    walk(
        &["pool0", "pool1"],
        Operation::Punch,
        &effects,
        Outcome::Waits,
        30,
    );
}

/// The host has no space from a call on, for good: reads and deletions go on, and all is right when
/// there is space again.
#[test]
fn p5_p7_a_host_that_stays_full_refuses_writes_and_takes_deletions() {
    let (mut refused, mut paused) = (0, 0);
    for turn in common::seeds(24) {
        let rig = Rig::with(Shape {
            patience: Duration::from_millis(5),
            ..SMALL
        });
        for device in ["pool0", "pool1"] {
            rig.plan(Plan {
                device,
                operation: Operation::Write,
                when: When::From(1 + turn * 2),
                effect: Effect::Short(turn * 1000, libc::ENOSPC),
            });
        }
        let (_, _, rig) = check(turn, rig, None, Outcome::NoSpace);
        let writes = &rig.engine.metrics().write;
        refused += writes.failed.load(std::sync::atomic::Ordering::Relaxed);
        paused += u64::from(rig.engine.paused_for() > Duration::ZERO);
    }
    eprintln!("{paused} stores paused, {refused} writes refused");
    assert!(refused > 0 && paused > 3);
}

/// A batch overwrites blocks, and its commit finds no room although all of it was written; then a
/// smaller batch overwrites one of these with something older, and the daemon dies.
#[test]
fn p5_p8_a_commit_without_room_does_not_come_back_over_what_was_written_after_it() {
    let shape = Shape {
        cache: 64 << 20,
        batch: 8 << 20,
        journal: 32 << 20,
        log: 1 << 20,
        interval: Duration::from_secs(3600),
        patience: Duration::from_millis(50),
        ..SMALL
    };
    let rig = Rig::with(shape);
    let (engine, blocks) = (&rig.engine, 600);
    let disk = engine.create(new_disk("d", blocks * BLOCK)).unwrap();
    engine
        .write(disk, 0, &vec![9; (blocks * BLOCK) as usize])
        .unwrap();
    engine.settle();
    let first = engine.disk.crash_points();
    let plan = |when, effect| {
        rig.plan(Plan {
            device: "log",
            operation: Operation::Write,
            when,
            effect,
        });
    };
    plan(When::Nth(1), Effect::Short(1 << 40, libc::ENOSPC));
    // The second is what withdraws the first.
    plan(When::From(3), Effect::Fail(libc::ENOSPC));
    for block in (0..blocks).chain([0]) {
        let byte = if block == 0 { 1 } else { 2 };
        engine
            .write(disk, block * BLOCK, &[byte; BLOCK as usize])
            .unwrap();
    }
    engine.write(disk, 0, &[3; BLOCK as usize]).unwrap();
    let error = engine.flush().unwrap_err();
    assert!(matches!(error, VolumeError::HostFull(_)), "{error}");
    let begun = engine.disk.crash_points();
    for _ in 0..3 {
        engine.flush().unwrap_err();
    }
    for events in first..=engine.disk.crash_points() {
        let images = engine.disk.kill_image_at(events);
        checks::clean(&images, "as the death left it");
        let opened = Engine::open_images(&images, shape);
        let mut found = [0; BLOCK as usize];
        opened.read(Node::Disk(disk), 0, &mut found).unwrap();
        if events >= begun {
            assert_eq!(found, [3; BLOCK as usize], "after {events} events");
        }
        opened.volumes.abandon();
    }
    rig.engine.volumes.abandon();
}

#[test]
fn p7_on_a_full_host_a_disk_of_any_size_is_emptied_and_deleted() {
    let rig = Rig::with(Shape {
        interval: Duration::from_secs(3600),
        patience: Duration::from_millis(50),
        ..SMALL
    });
    let engine = &rig.engine;
    // The largest there is: its segments are more than memory has room for.
    let disk = engine.create(new_disk("d", 1 << 50)).unwrap();
    engine.flush().unwrap();
    for device in ["pool0", "pool1"] {
        rig.plan(Plan {
            device,
            operation: Operation::Write,
            when: When::From(1),
            effect: Effect::Fail(libc::ENOSPC),
        });
    }
    engine.write(disk, 1 << 40, &[1; BLOCK as usize]).unwrap();
    engine.flush().unwrap_err();
    assert!(rig.state().starts_with("paused"), "{}", rig.state());
    let empty = SetAttributes {
        size: Some(0),
        ..SetAttributes::default()
    };
    engine.set_attributes(Node::Disk(disk), &empty).unwrap();
    engine.remove("d").unwrap();
    engine.flush().unwrap();
    engine.settle();
    assert_eq!(engine.status().pool.used, 0);
    assert_eq!(rig.state(), "ok");
    rig.heal();
    engine.volumes.abandon();
}

#[test]
fn p8_a_device_that_is_gone_fails_its_own_reads_alone_and_says_whose_they_were() {
    let rig = Rig::with(Shape {
        interval: Duration::from_secs(3600),
        ..SMALL
    });
    let engine = &rig.engine;
    let disk = |name: &str| engine.create(new_disk(name, DISK)).unwrap();
    let disks = [disk("vm1.img"), disk("vm2.img")];
    for (disk, byte) in disks.into_iter().zip([1, 2]) {
        for segment in 0..5 {
            let at = segment * SEGMENT;
            engine.write(disk, at, &[byte; BLOCK as usize]).unwrap();
        }
    }
    engine.snapshot(&["vm1.img"], Some("s"), true).unwrap();
    engine.flush().unwrap();
    for operation in [Operation::Read, Operation::Write, Operation::Sync] {
        rig.plan(Plan {
            device: "pool1",
            operation,
            when: When::From(1),
            effect: Effect::Fail(libc::ENXIO),
        });
    }
    let mut buf = [0; BLOCK as usize];
    let (mut read, mut failed) = (0, Vec::new());
    for (name, byte) in [("vm1.img", 1), ("vm2.img", 2), ("vm1.img@s", 1)] {
        let node = engine.lookup(name).unwrap();
        for segment in 0..5 {
            match engine.read(node, segment * SEGMENT, &mut buf) {
                Ok(_) => {
                    assert!(buf.iter().all(|found| *found == byte));
                    read += 1;
                }
                Err(error) => {
                    let words = error.to_string();
                    let offset = format!("offset {}", segment * SEGMENT);
                    for part in [&format!("{name} "), &offset, "pool1", "segment"] {
                        assert!(words.contains(part), "no {part:?} in {words:?}");
                    }
                    failed.push(words);
                }
            }
        }
    }
    eprintln!(
        "{read} read, {} failed, such as: {}",
        failed.len(),
        failed[0]
    );
    assert!(read >= 3 && failed.len() >= 3);
    assert_eq!(engine.status().state, "ok", "nothing was written yet");
    let errors = &engine.status().devices[1].errors;
    assert_eq!(errors.read, failed.len() as u64);
    assert!(
        errors
            .last
            .as_ref()
            .is_some_and(|last| last.contains("pool1"))
    );

    // The next destage halts it, for good; what was acknowledged is there over healthy devices.
    for disk in disks {
        (0..5).for_each(|n| {
            engine
                .write(disk, n * SEGMENT, &[7; BLOCK as usize])
                .unwrap()
        });
    }
    assert!(matches!(engine.flush(), Err(VolumeError::Halted(_))));
    let status = engine.status();
    assert!(status.state.starts_with("halted: "), "{}", status.state);
    assert!(status.advice.is_some());
    assert!(engine.write(disks[0], 0, &[8; 4096]).is_err());
    let served = |engine: &Engine| {
        let mut buf = [0; BLOCK as usize];
        for disk in disks {
            engine.read(Node::Disk(disk), 0, &mut buf).unwrap();
            assert_eq!(buf, [7; BLOCK as usize], "from the cache");
        }
    };
    served(engine);
    let images = engine.disk.kill_image();
    engine.volumes.abandon();
    let engine = Engine::open_images(&images, engine.shape);
    served(&engine);
    engine.settle();
    served(&engine);
    engine.volumes.abandon();
}

#[test]
fn a_device_that_finds_no_room_in_the_catalog_can_be_added_later() {
    const SIZE: u64 = 8 << 20;
    let rig = Rig::with(SMALL);
    let engine = &rig.engine;
    engine.settle();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let devices = |engine: &Engine| engine.status().devices.len();
    let full = |when, bytes| {
        rig.plan(Plan {
            device: "log",
            operation: Operation::Write,
            when,
            effect: Effect::Short(bytes, libc::ENOSPC),
        });
    };
    let refused = |name: &str, size| {
        let added = engine.add_device(&path(name), size);
        assert!(matches!(added, Err(VolumeError::HostFull(_))), "{added:?}");
        rig.heal();
        assert_eq!(devices(engine), 2, "{name}");
    };
    // All of the commit may be there although the host said no. It does not come back.
    for bytes in [0, 1 << 20] {
        full(When::Nth(1), bytes);
        refused("made", Some(SIZE));
        assert!(!std::fs::exists(path("made")).unwrap(), "it stays");
        let after = Engine::open_images(&engine.disk.kill_image(), SMALL);
        assert_eq!(devices(&after), 2);
        after.abandon();
    }
    std::fs::File::create(path("there"))
        .unwrap()
        .set_len(SIZE)
        .unwrap();
    full(When::Nth(1), 0);
    refused("there", None);
    // It can't be said to be gone while the host is full, so what it names stays.
    full(When::From(1), 1 << 20);
    refused("kept", Some(SIZE));
    assert!(std::fs::exists(path("kept")).unwrap());

    assert_eq!(engine.add_device(&path("there"), None).unwrap(), 2);
    assert_eq!(engine.add_device(&path("made"), Some(SIZE)).unwrap(), 3);
    assert_eq!((devices(engine), rig.state()), (4, "ok".to_owned()));
    engine.abandon();
}

#[test]
fn a_device_that_can_not_say_what_it_takes_hides_no_other() {
    let rig = Rig::with(SMALL);
    rig.plan(Plan {
        device: "pool0",
        operation: Operation::Stat,
        when: When::From(1),
        effect: Effect::Fail(libc::EIO),
    });
    assert_eq!(rig.engine.status().devices.len(), 2);
    rig.engine.abandon();
}
