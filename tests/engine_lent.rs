//! Writes by reference: whole segments that go straight to lent slots, and each window in which
//! the daemon's death or a power loss may cut their way short.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::engine::{Engine, SEGMENT, Shape};
use common::model::{State, is_no_space, new_disk};
use common::{checks, invariants};
use snapmark::base::DiskId;
use snapmark::check::End;
use snapmark::device::{CrashDisk, Device, Effect, FaultDevice, Images, Operation, When};
use snapmark::volume::{Extent, Node, VolumeError, Whence};

const BLOCKS: u64 = SEGMENT / 4096;

/// A store that destages only when it is told to, and a disk in it.
fn manual() -> (Engine, DiskId) {
    let engine = Engine::new(Shape {
        interval: Duration::from_secs(3600),
        cache: 64 << 20,
        // What fills a batch is destaged unasked.
        batch: 16 << 20,
        journal: 32 << 20,
        ..Shape::default()
    });
    let disk = engine.create(new_disk("d", 64 * SEGMENT)).unwrap();
    fill_stock(&engine);
    (engine, disk)
}

/// Bytes that wait, and those of them that lie in the cache's memory.
fn waiting(engine: &Engine) -> (u64, u64) {
    let status = engine.status();
    let queued = status.disks.iter().map(|disk| disk.queued).sum();
    (queued, status.cache.used)
}

/// Asks for slots until big writes go by reference.
fn fill_stock(engine: &Engine) {
    let scratch = engine.create(new_disk("scratch", 64 * SEGMENT)).unwrap();
    loop {
        engine.flush().unwrap();
        engine
            .write(scratch, 0, &vec![1; 16 * SEGMENT as usize])
            .unwrap();
        let (queued, used) = waiting(engine);
        if used < queued {
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    engine.remove("scratch").unwrap();
    settle(engine);
}

/// Writes a segment, by reference.
fn big(engine: &Engine, disk: DiskId, segment: u64, byte: u8) {
    let before = waiting(engine);
    engine
        .write(disk, segment * SEGMENT, &[byte; SEGMENT as usize])
        .unwrap();
    let after = waiting(engine);
    assert_eq!(after, (before.0 + SEGMENT, before.1), "not by reference");
}

fn small(engine: &Engine, disk: DiskId, block: u64, byte: u8) {
    engine.write(disk, block * 4096, &[byte; 4096]).unwrap();
}

fn bytes(engine: &Engine, name: &str, first: u64, count: u64) -> Vec<u8> {
    let node = engine.lookup(name).unwrap();
    let mut buf = vec![0xee; (count * 4096) as usize];
    engine.read(node, first * 4096, &mut buf).unwrap();
    let block = |block: &[u8]| {
        assert!(block.iter().all(|byte| *byte == block[0]), "mixed");
        block[0]
    };
    buf.chunks_exact(4096).map(block).collect()
}

fn segment(engine: &Engine, name: &str, segment: u64) -> Vec<u8> {
    bytes(engine, name, segment * BLOCKS, BLOCKS)
}

fn settle(engine: &Engine) {
    engine.settle();
    invariants::check(&engine.catalog.view(), &engine.pool, true);
}

/// Looks at what each crash from `first` on leaves: at once, destaged, and after another death.
fn after_each_kill(engine: &Engine, first: usize, look: impl Fn(&Engine)) {
    for events in first..=engine.disk.crash_points() {
        let images = engine.disk.kill_image_at(events);
        checks::clean(&images, "as the death left it");
        let opened = Engine::open_images(&images, engine.shape);
        look(&opened);
        let opened = opened.kill();
        look(&opened);
        settle(&opened);
        look(&opened);
        let blocks = opened.status().pool.used;
        assert!(opened.allocated() <= blocks, "after {events} events");
        opened.volumes.abandon();
    }
}

#[test]
fn a_big_write_goes_by_reference_and_is_there_at_every_stage() {
    let (engine, disk) = manual();
    small(&engine, disk, 2 * BLOCKS + 3, 9);
    // Ragged at both ends, two whole segments in the middle.
    let data = vec![5; 2 * SEGMENT as usize + 3000];
    let before = waiting(&engine);
    engine.write(disk, SEGMENT - 1000, &data).unwrap();
    let after = waiting(&engine);
    assert_eq!(
        after.1 - before.1,
        2 * 4096,
        "only the ends are in the cache"
    );
    let look = |engine: &Engine| {
        let mut buf = vec![0; 4 * SEGMENT as usize];
        engine.read(Node::Disk(disk), 0, &mut buf).unwrap();
        let (from, to) = (SEGMENT as usize - 1000, 3 * SEGMENT as usize + 2000);
        assert!(buf[..from].iter().chain(&buf[to..]).all(|byte| *byte == 0));
        assert!(buf[from..to].iter().all(|byte| *byte == 5));
        let seek = |at, whence| engine.seek(Node::Disk(disk), at, whence).unwrap();
        assert_eq!(seek(0, Whence::Data), Some(SEGMENT - 4096));
        assert_eq!(seek(SEGMENT, Whence::Hole), Some(3 * SEGMENT + 4096));
        let allocated = engine.attributes(Node::Disk(disk)).unwrap().allocated;
        assert!(allocated >= 2 * SEGMENT + 8192, "{allocated}");
    };
    look(&engine);
    let engine = engine.kill();
    look(&engine);
    settle(&engine);
    look(&engine);
    look(&engine.reopen());
}

#[test]
fn p4_a_sync_covers_the_data_of_big_writes() {
    let (engine, disk) = manual();
    big(&engine, disk, 1, 7);
    engine.sync().unwrap();
    big(&engine, disk, 2, 8);
    // All that was not synced is lost.
    let engine = Engine::open_images(&engine.disk.crash_image(0), engine.shape);
    assert_eq!(segment(&engine, "d", 1), [7; BLOCKS as usize]);
    assert_eq!(segment(&engine, "d", 2), [0; BLOCKS as usize]);
    settle(&engine);
    assert_eq!(segment(&engine, "d", 1), [7; BLOCKS as usize]);
}

#[test]
fn p4_what_is_replayed_is_synced_with_its_data() {
    let (engine, disk) = manual();
    big(&engine, disk, 1, 7);
    // The daemon dies; the data is in the host's memory. The next one syncs it before its header
    // says that all of it was there.
    let next = Engine::open_images(&engine.disk.kill_image(), engine.shape);
    let synced = next.disk.counts();
    assert!(synced["pool0"].2 + synced["pool1"].2 > 0, "{synced:?}");
}

/// The journal and the catalog of one image, the pool of another.
fn mixed(records: &Images, data: &Images) -> Images {
    let mut images = records.clone();
    for (name, image) in data.iter().filter(|(name, _)| name.starts_with("pool")) {
        images.insert(name.clone(), image.clone());
    }
    images
}

#[test]
fn p6_a_record_whose_data_is_not_there_ends_the_journal() {
    let (engine, disk) = manual();
    small(&engine, disk, 0, 3);
    let before = engine.disk.kill_image();
    big(&engine, disk, 1, 7);
    small(&engine, disk, 2 * BLOCKS, 4);
    let images = engine.disk.kill_image();
    let journal = checks::clean(&images, "whole").journal.unwrap();
    assert_eq!((journal.references, journal.end), (1, Some(End::Clean)));
    let (next, images) = (journal.next, mixed(&images, &before));
    let journal = checks::clean(&images, "without the data").journal.unwrap();
    assert_eq!((journal.references, journal.end), (0, Some(End::Gap)));
    assert_eq!(journal.next, next - 2);
    let look = |engine: &Engine| {
        assert_eq!(bytes(engine, "d", 0, 1), [3]);
        assert_eq!(segment(engine, "d", 1), [0; BLOCKS as usize]);
        assert_eq!(
            bytes(engine, "d", 2 * BLOCKS, 1),
            [0],
            "a later write without an earlier"
        );
    };
    let engine = Engine::open_images(&images, engine.shape);
    look(&engine);
    small(&engine, disk, 3 * BLOCKS, 5);
    settle(&engine);
    look(&engine);
    let engine = engine.kill();
    look(&engine);
    assert_eq!(bytes(&engine, "d", 3 * BLOCKS, 1), [5]);
}

#[test]
fn p8_a_slot_that_can_not_be_read_is_no_end_of_the_journal() {
    for durable in [true, false] {
        let (engine, disk) = manual();
        big(&engine, disk, 1, 7);
        if durable {
            engine.sync().unwrap();
        }
        small(&engine, disk, 2 * BLOCKS, 4);
        let (images, shape) = (engine.disk.kill_image(), engine.shape);
        let open = || {
            let faults = Mutex::new(Vec::new());
            let opened = Engine::try_open(CrashDisk::from_images(&images), shape, &|device| {
                let device = Arc::new(FaultDevice::new(device));
                if device.name().starts_with("pool") {
                    // Its superblock can be read.
                    device.plan(Operation::Read, When::From(2), Effect::Fail(libc::EIO));
                    faults.lock().unwrap().push(device.clone());
                }
                device
            });
            (opened, faults.into_inner().unwrap())
        };
        let (opened, faults) = open();
        if !durable {
            let error = opened.err().unwrap();
            assert!(error.contains("rror 5"), "{error}");
            let engine = Engine::open_images(&images, shape);
            assert_eq!(segment(&engine, "d", 1), [7; BLOCKS as usize]);
            continue;
        }
        let engine = opened.unwrap();
        let mut buf = [0; 4096];
        engine
            .read(Node::Disk(disk), SEGMENT, &mut buf)
            .unwrap_err();
        assert_eq!(bytes(&engine, "d", 2 * BLOCKS, 1), [4]);
        small(&engine, disk, 3 * BLOCKS, 5);
        engine.flush().unwrap();
        faults.iter().for_each(|device| device.heal());
        assert_eq!(segment(&engine, "d", 1), [7; BLOCKS as usize]);
        settle(&engine);
        assert_eq!(bytes(&engine, "d", 3 * BLOCKS, 1), [5]);
    }
}

#[test]
fn p6_every_power_loss_leaves_a_prefix_of_big_writes() {
    let (engine, disk) = manual();
    let whole = |engine: &Engine, at: u64, blocks: u64, byte: u8| {
        let data = vec![byte; (blocks * 4096) as usize];
        engine.write(disk, at * 4096, &data).unwrap();
    };
    let steps: [&dyn Fn(&Engine); 14] = [
        &|engine| big(engine, disk, 1, 1),
        &|engine| small(engine, disk, BLOCKS + 2, 2),
        &|engine| engine.sync().unwrap(),
        &|engine| whole(engine, BLOCKS - 2, 3 * BLOCKS, 3),
        &|engine| big(engine, disk, 1, 4),
        &|engine| engine.flush().unwrap(),
        &|engine| small(engine, disk, 2 * BLOCKS, 5),
        &|engine| drop(engine.snapshot(&["d"], Some("s"), true).unwrap()),
        &|engine| big(engine, disk, 2, 6),
        &|engine| {
            let (offset, len) = (2 * SEGMENT, SEGMENT / 2);
            engine.discard(disk, Extent { offset, len }).unwrap();
        },
        &|engine| whole(engine, 2 * BLOCKS + 1, 2 * BLOCKS, 7),
        &|engine| engine.flush().unwrap(),
        &|engine| engine.rollback("d", "d@s", false).unwrap(),
        &|engine| big(engine, disk, 1, 8),
    ];
    // After each step: the events so far, whether all of it is durable, and what there is.
    let mut history = vec![(engine.disk.crash_points(), true, State::of(&engine))];
    for (at, step) in steps.iter().enumerate() {
        step(&engine);
        let durable = [2, 5, 7, 11, 12].contains(&at);
        history.push((engine.disk.crash_points(), durable, State::of(&engine)));
    }
    engine.flush().unwrap();
    for events in history[0].0..=engine.disk.crash_points() {
        let least = history
            .iter()
            .rposition(|(at, durable, _)| *durable && *at <= events);
        for seed in [0, 1, events as u64 + 2, events as u64 + 1000] {
            let images = engine.disk.image_at(events, seed);
            checks::clean(&images, &format!("after {events} events, seed {seed}"));
            let opened = Engine::open_images(&images, engine.shape);
            let found = State::of(&opened);
            let known = history[least.unwrap()..]
                .iter()
                .any(|(_, _, state)| *state == found);
            assert!(known, "no prefix after {events} events, seed {seed}");
            settle(&opened);
            assert_eq!(State::of(&opened).difference(&found), None, "destaged");
            opened.volumes.abandon();
        }
    }
}

#[test]
fn p5_what_goes_over_a_big_write_waits_until_that_is_applied() {
    let (engine, disk) = manual();
    big(&engine, disk, 1, 7);
    small(&engine, disk, BLOCKS + 4, 8);
    small(&engine, disk, 0, 9);
    let first = engine.disk.crash_points();
    engine.flush().unwrap();
    let mut want = vec![7; BLOCKS as usize];
    want[4] = 8;
    after_each_kill(&engine, first, |engine| {
        assert_eq!(segment(engine, "d", 1), want);
        assert_eq!(bytes(engine, "d", 0, 1), [9]);
    });
}

#[test]
fn p5_a_big_write_over_another_and_what_is_between_them() {
    let (engine, disk) = manual();
    small(&engine, disk, BLOCKS + 1, 1);
    big(&engine, disk, 1, 2);
    big(&engine, disk, 1, 3);
    big(&engine, disk, 2, 4);
    let half = Extent {
        offset: 2 * SEGMENT,
        len: SEGMENT / 2,
    };
    engine.discard(disk, half).unwrap();
    big(&engine, disk, 3, 5);
    let whole = Extent {
        offset: 3 * SEGMENT,
        len: SEGMENT,
    };
    engine.discard(disk, whole).unwrap();
    engine.snapshot(&["d"], Some("s"), false).unwrap();
    big(&engine, disk, 1, 6);
    small(&engine, disk, 3 * BLOCKS, 7);
    let first = engine.disk.crash_points();
    engine.flush().unwrap();
    settle(&engine);
    let half = |byte| {
        [
            vec![0; BLOCKS as usize / 2],
            vec![byte; BLOCKS as usize / 2],
        ]
        .concat()
    };
    after_each_kill(&engine, first, |engine| {
        assert_eq!(segment(engine, "d@s", 1), [3; BLOCKS as usize]);
        assert_eq!(segment(engine, "d@s", 2), half(4));
        assert_eq!(segment(engine, "d@s", 3), [0; BLOCKS as usize]);
        assert_eq!(segment(engine, "d", 1), [6; BLOCKS as usize]);
        assert_eq!(segment(engine, "d", 2), half(4));
        assert_eq!(bytes(engine, "d", 3 * BLOCKS, 2), [7, 0]);
    });
}

#[test]
fn p5_reclaim_leaves_what_the_journal_has_not_been_asked_about_yet() {
    let (engine, disk) = manual();
    for block in 0..1500 {
        small(&engine, disk, 5 * BLOCKS + block % 64, block as u8);
    }
    big(&engine, disk, 1, 7);
    let images = engine.disk.kill_image();
    let shape = Shape {
        interval: Duration::from_micros(100),
        ..engine.shape
    };
    for _ in 0..5 {
        let engine = Engine::open_images(&images, shape);
        assert_eq!(segment(&engine, "d", 1), [7; BLOCKS as usize]);
        engine.volumes.abandon();
    }
}

#[test]
fn a_big_write_whose_device_fails_leaves_no_trace() {
    let (engine, disk) = manual();
    let before = engine.allocated();
    small(&engine, disk, BLOCKS, 1);
    for device in &engine.faults {
        device.plan(Operation::Write, When::From(1), Effect::Short(8192, 5));
    }
    let failed = engine.write(disk, SEGMENT, &[7; SEGMENT as usize]);
    assert!(matches!(failed, Err(VolumeError::Io(_))), "{failed:?}");
    engine.faults.iter().for_each(|device| device.heal());
    assert_eq!(engine.status().state, "ok");
    assert_eq!(bytes(&engine, "d", BLOCKS, 2), [1, 0]);
    settle(&engine);
    assert_eq!(engine.allocated(), before + 4096);
    big(&engine, disk, 1, 8);
    assert_eq!(segment(&engine, "d", 1), [8; BLOCKS as usize]);
    settle(&engine);
    assert_eq!(engine.allocated(), before + SEGMENT);
}

#[test]
fn p9_no_slot_is_used_anew_under_a_reader() {
    let engine = Engine::new(Shape {
        interval: Duration::from_millis(1),
        ..Shape::default()
    });
    let disk = engine.create(new_disk("d", 4 * SEGMENT)).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    // Panics where a block is torn or can't be read.
                    segment(&engine, "d", 1);
                }
            });
        }
        for turn in 0..3000u64 {
            engine
                .write(disk, SEGMENT, &[turn as u8; SEGMENT as usize])
                .unwrap();
            if turn % 7 == 0 {
                small(&engine, disk, BLOCKS + turn % BLOCKS, 1);
            }
        }
        done.store(true, Relaxed);
    });
    settle(&engine);
    assert_eq!(engine.status().pool.used, SEGMENT);
}

#[test]
fn p9_a_slot_found_in_the_index_stays_while_it_is_read() {
    let (engine, disk) = manual();
    big(&engine, disk, 1, 7);
    for device in &engine.faults {
        let slow = Effect::Delay(Duration::from_millis(800));
        device.plan(Operation::Read, When::Nth(1), slow);
    }
    let reads = || -> u64 {
        let devices = engine.faults.iter();
        devices.map(|device| device.calls(Operation::Read)).sum()
    };
    let before = reads();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| segment(&engine, "d", 1));
        while reads() == before {
            std::thread::sleep(Duration::from_millis(1));
        }
        // Adopted, then given up for another.
        engine.flush().unwrap();
        big(&engine, disk, 1, 8);
        engine.flush().unwrap();
        std::thread::sleep(Duration::from_millis(200));
        let pending = engine.status().pool.pending;
        if !reader.is_finished() {
            assert_eq!(pending, SEGMENT, "reclaimed under the reader");
        }
        assert_eq!(reader.join().unwrap(), [7; BLOCKS as usize]);
    });
    settle(&engine);
    assert_eq!(engine.status().pool.used, SEGMENT);
}

#[test]
fn p7_big_writes_fill_a_pool_to_its_last_slot() {
    let engine = Engine::new(Shape {
        pool: (4 << 20) + 100 * SEGMENT,
        interval: Duration::from_millis(1),
        ..Shape::default()
    });
    let disk = engine.create(new_disk("d", 400 * SEGMENT)).unwrap();
    let total = engine.catalog.view().space().total;
    let mut accepted = Vec::new();
    for at in 0..total + 50 {
        match engine.write(disk, at * SEGMENT, &[at as u8 | 1; SEGMENT as usize]) {
            Ok(()) => accepted.push(at),
            Err(error) => assert!(is_no_space(&error), "{error}"),
        }
    }
    assert_eq!(accepted.len() as u64, total);
    // In place there is always room.
    for at in &accepted {
        let offset = at * SEGMENT;
        engine
            .write(disk, offset, &[*at as u8 | 3; SEGMENT as usize])
            .unwrap();
    }
    settle(&engine);
    for at in &accepted {
        assert_eq!(segment(&engine, "d", *at), [*at as u8 | 3; BLOCKS as usize]);
    }
    let all = Extent {
        offset: 0,
        len: 400 * SEGMENT,
    };
    engine.discard(disk, all).unwrap();
    settle(&engine);
    let pool = engine.status().pool;
    assert_eq!((pool.used, pool.available), (0, pool.total));
    assert_eq!(engine.allocated(), 2 * 4096, "the superblocks");
}

/// Slots that a stream gives up go to the next writer as they are; what a crash leaves of that is what
/// was written, and its space comes back (P5, P6, P9).
#[test]
fn slots_that_are_still_warm_are_written_over() {
    const SEGMENTS: u64 = 4;
    let engine = Engine::new(Shape {
        interval: Duration::from_millis(5),
        cache: 64 << 20,
        batch: 16 << 20,
        journal: 32 << 20,
        ..Shape::default()
    });
    let disk = engine.create(new_disk("d", 64 * SEGMENT)).unwrap();
    fill_stock(&engine);
    let (mut writes, mut places) = (Vec::new(), BTreeSet::new());
    let punches = |engine: &Engine| -> u64 {
        let counts = engine.disk.counts();
        let pool = |name: &&str| counts.get(*name).map_or(0, |of| of.1);
        ["pool0", "pool1"].iter().map(pool).sum()
    };
    let (first, before) = (engine.disk.crash_points(), punches(&engine));
    for number in 0..60 {
        let (segment, byte) = (number % SEGMENTS, number as u8 + 1);
        let begun = engine.disk.crash_points();
        engine
            .write(disk, segment * SEGMENT, &vec![byte; SEGMENT as usize])
            .unwrap();
        writes.push((segment, byte, begun, engine.disk.crash_points()));
        // Moved and given up, without a flush, which would have all of it punched.
        while waiting(&engine).0 > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        engine.rest().unwrap();
        places.insert(engine.place("d", None, segment * BLOCKS).0);
    }
    let punched = punches(&engine) - before;
    assert!(
        places.len() < 30 && punched < 30,
        "{punched} of 56 punched, {places:?}"
    );
    let last = engine.disk.crash_points();
    for events in (first..last).step_by((last - first) / 60) {
        let images = engine.disk.kill_image_at(events);
        checks::clean(&images, "as the death left it");
        let opened = Engine::open_images(&images, engine.shape);
        for segment in 0..SEGMENTS {
            let of = writes.iter().filter(|write| write.0 == segment);
            let acked = of.clone().rfind(|write| write.3 <= events);
            let begun = of.clone().rfind(|write| write.2 < events);
            let allowed = [acked, begun].map(|write| write.map_or(0, |write| write.1));
            let found = self::segment(&opened, "d", segment);
            assert!(found.iter().all(|byte| *byte == found[0]), "{found:?}");
            assert!(
                allowed.contains(&found[0]),
                "{} is not of {allowed:?}",
                found[0]
            );
        }
        settle(&opened);
        let (has, used) = (opened.allocated(), opened.status().pool.used);
        assert!(
            // The superblocks are not in use.
            has <= used + 2 * 4096,
            "after {events} events the host has {has} for {used}"
        );
        opened.volumes.abandon();
        for seed in 0..2 {
            let images = engine.disk.image_at(events, seed);
            checks::clean(&images, "as the power loss left it");
            let opened = Engine::open_images(&images, engine.shape);
            for segment in 0..SEGMENTS {
                let found = self::segment(&opened, "d", segment);
                assert!(found.iter().all(|byte| *byte == found[0]), "{found:?}");
            }
            opened.volumes.abandon();
        }
    }
    settle(&engine);
    let (has, used) = (engine.allocated(), engine.status().pool.used);
    assert!(
        has <= used + 2 * 4096,
        "at last the host has {has} for {used}"
    );
}
