//! Who may have which slot, when few are left.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use std::time::Duration;

use common::engine::{Engine, SEGMENT, Shape};
use common::invariants;
use common::model::new_disk;
use snapmark::base::{DeviceNo, Place, SegmentNo, Slot};
use snapmark::volume::{Extent, Node};

const FIRST: Place = Place {
    device: DeviceNo(0),
    slot: Slot(0),
};

fn manual(slots: u64) -> Engine {
    Engine::new(Shape {
        pool: (4 << 20) + slots / 2 * SEGMENT,
        interval: Duration::from_secs(3600),
        ..Shape::default()
    })
}

/// A batch that finds too few slots gives up those it took from the stock, which no writer had
/// borrowed.
#[test]
fn p7_a_batch_that_is_cut_short_gives_back_what_nobody_borrowed() {
    let engine = manual(8);
    let total = engine.catalog.view().space().total;
    let disk = engine.create(new_disk("d", 100 * SEGMENT)).unwrap();
    for segment in 0..total - 2 {
        engine.write(disk, segment * SEGMENT, &[1; 4096]).unwrap();
    }
    engine.flush().unwrap();
    // The last two were lent out with that commit.
    let space = engine.catalog.view().space();
    assert_eq!((space.free, space.pending), (0, 2));
    let view = engine.catalog.view();
    let (offset, len) = (0, 100 * SEGMENT);
    engine.discard(disk, Extent { offset, len }).unwrap();
    engine.flush().unwrap();
    for segment in 0..3 {
        engine.write(disk, segment * SEGMENT, &[2; 4096]).unwrap();
    }
    std::thread::scope(|scope| {
        let flush = scope.spawn(|| engine.flush());
        // Longer than `READERS_PATIENCE`.
        std::thread::sleep(Duration::from_secs(2));
        drop(view);
        flush.join().unwrap().unwrap();
    });
    engine.settle();
    assert_eq!(engine.status().state, "ok");
}

/// A snapshot between two others goes away while fewer slots are left than a batch leaves to
/// writers: two packed versions are merged into a new place all the same.
#[test]
fn p9_a_reap_gets_a_slot_on_a_pool_that_is_nearly_full() {
    let engine = manual(200);
    let disk = engine.create(new_disk("d", 100 * SEGMENT)).unwrap();
    let round = |block: u64| {
        for segment in 0..8 {
            let at = segment * SEGMENT + block * 4096;
            engine.write(disk, at, &[block as u8 + 1; 4096]).unwrap();
        }
        engine.flush().unwrap();
    };
    round(0);
    engine.snapshot(&["d"], Some("a"), false).unwrap();
    round(1);
    engine.snapshot(&["d"], Some("b"), false).unwrap();
    round(2);
    let packs = engine.catalog.view().packs(FIRST, 100).unwrap();
    assert!(!packs.is_empty(), "nothing was packed");
    let fill = engine.create(new_disk("f", 1000 * SEGMENT)).unwrap();
    let mut segment = 0;
    loop {
        engine.flush().unwrap();
        let space = engine.catalog.view().space();
        if space.free + space.pending <= 40 {
            break;
        }
        engine.write(fill, segment * SEGMENT, &[9; 4096]).unwrap();
        segment += 1;
    }
    engine.remove("d@b").unwrap();
    for _ in 0..50 {
        engine.flush().unwrap();
        std::thread::sleep(Duration::from_millis(100));
        if !engine.catalog.view().maps().unwrap().iter().any(|m| m.reap) {
            return;
        }
    }
    let space = engine.catalog.view().space();
    panic!(
        "5 s later the reap still waits, with {} slots that nobody was promised",
        space.free + space.pending
    );
}

/// Nothing is reclaimed while the journal is read. With a smaller cache than before, and no slot but
/// those lent out, destaging waits for that, and the journal is read on all the same.
#[test]
fn p12_a_full_pool_opens_with_a_smaller_cache() {
    let shape = Shape {
        pool: (4 << 20) + 20 * SEGMENT,
        cache: 8 << 20,
        batch: 8 << 20,
        interval: Duration::from_secs(3600),
        ..Shape::default()
    };
    let mut engine = Engine::new(shape);
    let total = engine.catalog.view().space().total;
    let disk = engine.create(new_disk("d", 100 * SEGMENT)).unwrap();
    for segment in 0..total / 2 {
        engine.write(disk, segment * SEGMENT, &[1; 4096]).unwrap();
    }
    engine.flush().unwrap();
    let space = engine.catalog.view().space();
    assert_eq!((space.free, space.pending), (0, total - total / 2));
    for block in 0..(total / 2) * 16 {
        engine
            .write(disk, total / 2 * SEGMENT + block * 4096, &[2; 4096])
            .unwrap();
    }
    assert!(engine.status().cache.used > 1 << 20, "destaged already");
    engine.shape.cache = 1 << 20;
    let (done, opened) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let engine = engine.kill();
        let _ = done.send(());
        engine.volumes.abandon();
    });
    let opened = opened.recv_timeout(Duration::from_secs(30));
    assert!(opened.is_ok(), "not open after 30 s");
}

/// Without a journal the live version is written anew; a layer below it of the same epoch, made by
/// a session with a journal, goes when it is hidden.
#[test]
fn p9_layers_of_a_session_with_a_journal_go_in_one_without() {
    let mut engine = manual(400);
    let disk = engine.create(new_disk("d", SEGMENT)).unwrap();
    let write = |engine: &Engine, block: u64, byte: u8| {
        engine.write(disk, block * 4096, &[byte; 4096]).unwrap();
    };
    write(&engine, 0, 1);
    engine.snapshot(&["d"], Some("a"), false).unwrap();
    for block in 1..3 {
        write(&engine, block, 2);
        engine.flush().unwrap();
    }
    engine.shape.volatile = true;
    let mut engine = engine.reopen();
    (0..16).for_each(|block| write(&engine, block, 3));
    engine.flush().unwrap();
    engine.remove("d@a").unwrap();
    engine.settle();
    engine.shape.volatile = false;
    let engine = engine.reopen();
    engine.settle();
    assert_eq!(engine.status().pool.used, SEGMENT);
}

/// An epoch has 4,096 births for the versions of a segment. What comes then goes to another place
/// together with the version that is on top.
#[test]
fn a_segment_outlives_the_births_of_its_epoch() {
    let engine = manual(400);
    let disk = engine.create(new_disk("d", SEGMENT)).unwrap();
    let write = |block: u64, byte: u8| {
        engine.write(disk, block * 4096, &[byte; 4096]).unwrap();
        engine.flush().unwrap();
    };
    (0..16).for_each(|block| write(block, 1));
    engine.snapshot(&["d"], Some("s"), false).unwrap();
    write(1, 2);
    let births = || {
        let view = engine.catalog.view();
        let map = view.disk(disk).unwrap().unwrap().map;
        let (_, live) = view.live(map, SegmentNo(0)).unwrap().unwrap();
        live.birth
    };
    let mut round = 0u32;
    let mut after = 0;
    while after < 20 {
        // Two blocks, each a layer; both are gone again.
        let byte = (round % 200) as u8 + 3;
        write(0, byte);
        write(2, byte + 1);
        let mut blocks = [0; 3 * 4096];
        engine.read(Node::Disk(disk), 0, &mut blocks).unwrap();
        let seen = [0, 4096, 8192].map(|at| blocks[at]);
        assert_eq!(seen, [byte, 2, byte + 1], "round {round}");
        for offset in [0, 2 * 4096] {
            engine.discard(disk, Extent { offset, len: 4096 }).unwrap();
        }
        engine.flush().unwrap();
        after += u32::from(births().next_birth().is_none());
        round += 1;
        assert!(round < 10_000, "births are not used up");
    }
    engine.settle();
    invariants::check(&engine.catalog.view(), &engine.pool, true);
}
