//! One test for each mistake that was found in the engine.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use common::engine::{Engine, SEGMENT, Shape};
use common::model::new_disk;
use common::{checks, invariants, wait_until};
use snapmark::base::DiskId;
use snapmark::device::{Device, Effect, FaultDevice, Images, Operation, When};
use snapmark::ondisk::journal::RING_START;
use snapmark::volume::{Extent, Node};

/// A store that destages only when it is told to.
fn manual() -> Engine {
    Engine::new(Shape {
        interval: Duration::from_secs(3600),
        ..Shape::default()
    })
}

fn write(engine: &Engine, disk: DiskId, block: u64, byte: u8) {
    engine.write(disk, block * 4096, &[byte; 4096]).unwrap();
}

fn byte(engine: &Engine, node: Node, block: u64) -> u8 {
    let mut buf = [0xee; 4096];
    engine.read(node, block * 4096, &mut buf).unwrap();
    assert!(buf.iter().all(|byte| *byte == buf[0]));
    buf[0]
}

fn settle(engine: &Engine) {
    engine.settle();
    invariants::check(&engine.catalog.view(), &engine.pool, true);
}

#[test]
fn what_comes_and_goes_between_two_commits_does_not_halt() {
    let engine = manual();
    engine.create(new_disk("stays", SEGMENT)).unwrap();
    engine.snapshot(&["stays"], Some("a"), false).unwrap();
    engine.remove("stays@a").unwrap();
    engine.create(new_disk("goes", SEGMENT)).unwrap();
    engine.remove("goes").unwrap();
    settle(&engine);
    assert_eq!(engine.list().len(), 1);
}

#[test]
fn a_reap_merges_several_versions_at_once() {
    let engine = manual();
    let disk = engine.create(new_disk("d", SEGMENT)).unwrap();
    for (round, blocks) in [8..16, 1..2, 0..1].into_iter().enumerate() {
        for block in blocks {
            write(&engine, disk, block, round as u8 + 1);
        }
        engine
            .snapshot(&["d"], Some(&round.to_string()), false)
            .unwrap();
        engine.flush().unwrap();
    }
    write(&engine, disk, 2, 9);
    engine.flush().unwrap();
    for round in 0..3 {
        engine.remove(&format!("d@{round}")).unwrap();
    }
    settle(&engine);
    let shown: Vec<u8> = (0..10)
        .map(|block| byte(&engine, Node::Disk(disk), block))
        .collect();
    assert_eq!(shown, [3, 2, 9, 0, 0, 0, 0, 0, 1, 1]);
    assert_eq!(engine.status().pool.used, SEGMENT);
}

#[test]
fn data_is_found_through_clones_that_are_still_queued() {
    let engine = manual();
    let disk = engine.create(new_disk("a", 8 * SEGMENT)).unwrap();
    write(&engine, disk, 40, 7);
    engine.snapshot(&["a"], Some("s"), false).unwrap();
    engine.flush().unwrap();
    engine.clone_snapshot("a@s", new_disk("b", 0)).unwrap();
    engine.snapshot(&["b"], Some("t"), false).unwrap();
    let clone = Node::Disk(engine.clone_snapshot("b@t", new_disk("c", 0)).unwrap());
    assert_eq!(byte(&engine, clone, 40), 7);
    let data = engine
        .seek(clone, 0, snapmark::volume::Whence::Data)
        .unwrap();
    assert_eq!(data, Some(40 * 4096));
}

#[test]
fn a_rename_that_is_refused_deletes_nothing() {
    let engine = manual();
    for name in ["a", "b"] {
        engine.create(new_disk(name, SEGMENT)).unwrap();
        engine.snapshot(&[name], Some("s"), false).unwrap();
    }
    assert!(
        engine.rename("a", "b", true).is_err(),
        "both have a snapshot s"
    );
    assert!(engine.lookup("b").is_some());
    engine.remove("b@s").unwrap();
    engine.rename("a", "b", true).unwrap();
    let names: Vec<String> = engine.list().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["b", "b@s"]);
}

#[test]
fn a_write_that_grows_a_disk_races_its_truncation() {
    use snapmark::volume::SetAttributes;
    let engine = Engine::new(Shape::default());
    let disk = engine.create(new_disk("d", 4 * 4096)).unwrap();
    let node = Node::Disk(disk);
    let resize = |blocks: u64| {
        let size = Some(blocks * 4096);
        let set = SetAttributes {
            size,
            ..SetAttributes::default()
        };
        engine.set_attributes(node, &set).unwrap();
    };
    for turn in 0..3000 {
        // Each time one wins: the write is cut off, or the truncation comes first.
        let to = if turn % 2 == 0 { 2 } else { 6 };
        std::thread::scope(|scope| {
            scope.spawn(|| write(&engine, disk, 10, 7));
            scope.spawn(|| resize(to));
        });
        let size = engine.attributes(node).unwrap().size / 4096;
        assert!(size == 11 || size == to, "{size}");
        resize(20);
        let want = if size == 11 { 7 } else { 0 };
        assert_eq!(byte(&engine, node, 10), want, "turn {turn} size {size}");
        resize(4);
    }
}

#[test]
fn a_priority_outlives_the_daemon() {
    let engine = manual();
    engine.create(new_disk("d", SEGMENT)).unwrap();
    engine.set_priority("d", 9).unwrap();
    let engine = engine.reopen();
    assert_eq!(engine.status().disks[0].priority, 9);
    assert_eq!(engine.kill().status().disks[0].priority, 9);
}

#[test]
fn p5_a_record_that_an_earlier_recovery_gave_up_never_comes_back() {
    let engine = manual();
    let disk = engine.create(new_disk("d", SEGMENT)).unwrap();
    let shown = |engine: &Engine| [0, 3].map(|block| byte(engine, Node::Disk(disk), block));
    write(&engine, disk, 3, 1);
    engine.flush().unwrap();
    // Two records on a page of their own. Power loss takes the first; the second stays, as
    // nobody asked for a sync.
    let before = engine.disk.kill_image()["journal"].to_bytes();
    write(&engine, disk, 0, 1);
    let (offset, len) = (3 * 4096, 4096);
    engine.discard(disk, Extent { offset, len }).unwrap();
    let images = engine.disk.kill_image();
    engine.volumes.abandon();
    let journal = &images["journal"];
    let after = journal.to_bytes();
    let at = before.iter().zip(&after).position(|(a, b)| a != b).unwrap() as u64;
    assert_eq!(at % 4096, 0);
    journal.punch(at, 4096).unwrap();
    let engine = Engine::open_images(&images, engine.shape);
    assert_eq!(
        shown(&engine),
        [0, 1],
        "the second counts no more than the first"
    );
    // A record as long as the first goes where that was, so the catalog's mark now points at the
    // second, which has the number of the next one.
    write(&engine, disk, 0, 2);
    engine.flush().unwrap();
    let engine = engine.kill();
    assert_eq!(shown(&engine), [2, 1]);
    // The true record of that number; a session's first goes to the next page.
    write(&engine, disk, 3, 7);
    let mut engine = engine.kill();
    for crash in 0..3 {
        assert_eq!(shown(&engine), [2, 7], "crash {crash}");
        engine = engine.kill();
    }
    settle(&engine);
    assert_eq!(shown(&engine), [2, 7]);
}

/// Ends the writers, also where a check fails: a scope waits for its threads.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// A store that is always behind: each write to a device takes a millisecond.
fn slow(shape: Shape) -> Engine {
    Engine::open_over(Engine::make(&shape), shape, &|device| {
        if !device.name().starts_with("pool") {
            return device;
        }
        let slow = FaultDevice::new(device);
        let delay = Effect::Delay(Duration::from_millis(1));
        slow.plan(Operation::Write, When::Every(1), delay);
        Arc::new(slow) as Arc<dyn Device>
    })
}

/// While writers keep a disk as busy as they can: starts `begin` once `full` says so, and waits
/// until `reached`. Fails where they were served `most` more writes first.
fn under_load(
    engine: &Engine,
    disk: DiskId,
    full: impl Fn() -> bool,
    begin: impl FnOnce() + Send,
    reached: impl Fn() -> bool,
    most: u64,
) {
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        for writer in 0..4 {
            let (stop, written) = (&stop, &written);
            scope.spawn(move || {
                for turn in 0.. {
                    if stop.load(SeqCst) {
                        break;
                    }
                    write(engine, disk, (turn * 4 + writer) % 1024, turn as u8);
                    written.fetch_add(1, SeqCst);
                }
            });
        }
        wait_until("the cache or the journal is full", full);
        let from = written.load(SeqCst);
        scope.spawn(begin);
        while !reached() {
            let since = written.load(SeqCst) - from;
            assert!(since < most, "{since} writes went first");
            std::thread::sleep(Duration::from_millis(1));
        }
    });
}

#[test]
fn a_disk_of_low_priority_has_its_turn_without_a_journal() {
    let engine = slow(Shape {
        volatile: true,
        cache: 1 << 20,
        batch: 16 << 10,
        interval: Duration::from_millis(1),
        ..Shape::default()
    });
    let high = engine.create(new_disk("high3", 64 * SEGMENT)).unwrap();
    let low = engine.create(new_disk("low", SEGMENT)).unwrap();
    engine.flush().unwrap();
    let queued = |name: &str| {
        let status = engine.status();
        let disk = status.disks.iter().find(|disk| disk.name == name);
        disk.unwrap().queued
    };
    let written = AtomicBool::new(false);
    let begin = || {
        write(&engine, low, 0, 1);
        written.store(true, SeqCst);
    };
    let full = || queued("high3") > 512 << 10;
    let reached = || written.load(SeqCst) && queued("low") == 0;
    under_load(&engine, high, full, begin, reached, 3000);
    engine.close_store().unwrap();
}

#[test]
fn p1_a_snapshot_has_its_turn_while_small_writes_fill_the_journal() {
    let engine = slow(Shape {
        cache: 16 << 20,
        journal: 4 << 20,
        batch: 16 << 10,
        interval: Duration::from_millis(1),
        ..Shape::default()
    });
    let disk = engine.create(new_disk("d", 64 * SEGMENT)).unwrap();
    let taken = AtomicBool::new(false);
    let begin = || {
        engine.snapshot(&["d"], Some("s"), true).unwrap();
        taken.store(true, SeqCst);
    };
    let full = || engine.status().journal.unwrap().used > 6 << 19;
    under_load(&engine, disk, full, begin, || taken.load(SeqCst), 3000);
    engine.close_store().unwrap();
}

#[test]
fn a_clone_counts_the_blocks_that_a_merge_gives_it() {
    let engine = manual();
    let disk = engine.create(new_disk("a", SEGMENT)).unwrap();
    (0..16).for_each(|block| write(&engine, disk, block, 1));
    engine.snapshot(&["a"], Some("s"), false).unwrap();
    let clone = engine.clone_snapshot("a@s", new_disk("b", 0)).unwrap();
    // More layers than a read may walk, but for what shows of the origin.
    for round in 0..220 {
        write(&engine, clone, round % 2, 2);
        let name = round.to_string();
        engine.snapshot(&["b"], Some(&name), false).unwrap();
        engine.flush().unwrap();
    }
    settle(&engine);
}

/// The hole for a block that was discarded is made some time later; what is written to the block
/// in the meantime must not lie there.
#[test]
fn what_is_written_after_a_discard_does_not_go_where_a_hole_is_to_be_made() {
    let engine = Engine::new(Shape {
        interval: Duration::from_secs(3600),
        // A block a batch, and all batches before any hole.
        batch: 4096,
        ..Shape::default()
    });
    let disk = engine.create(new_disk("d", SEGMENT)).unwrap();
    (0..16).for_each(|block| write(&engine, disk, block, 1));
    engine.snapshot(&["d"], Some("s"), false).unwrap();
    engine.flush().unwrap();
    // A thin version with two blocks.
    engine.write(disk, 0, &[2; 8192]).unwrap();
    engine.flush().unwrap();
    let (offset, len) = (0, 4096);
    engine.discard(disk, Extent { offset, len }).unwrap();
    write(&engine, disk, 1, 3);
    write(&engine, disk, 0, 4);
    settle(&engine);
    let node = Node::Disk(disk);
    assert_eq!([0, 1, 2].map(|block| byte(&engine, node, block)), [4, 3, 1]);
}

/// Records that a recovery decided against lie where a later session, closed in order, ended; and
/// the header of that session is lost.
#[test]
fn p6_what_a_recovery_decided_against_stays_away_when_a_header_is_lost() {
    let page = |images: &Images, at: u64| {
        let zeros = [0; 4096];
        images["journal"]
            .write_at(&[IoSlice::new(&zeros)], at)
            .unwrap();
    };
    let engine = Engine::new(Shape {
        interval: Duration::from_secs(3600),
        cache: 64 << 20,
        batch: 16 << 20,
        ..Shape::default()
    });
    let disk = engine.create(new_disk("d", 8 * SEGMENT)).unwrap();
    let engine = engine.reopen();
    let tail = engine.catalog.view().marks().journal_offset;
    let start = tail.next_multiple_of(4096);
    // Of 33 sectors in four, so that each 32nd begins on a page.
    for block in 0..32 {
        write(&engine, disk, block, 1);
    }
    for block in 32..128 {
        write(&engine, disk, block, 2);
    }
    let images = engine.disk.kill_image();
    engine.abandon();
    page(&images, RING_START + start + 8 * 33 * 512);
    let engine = Engine::open_images(&images, engine.shape);
    assert_eq!(
        byte(&engine, Node::Disk(disk), 32),
        0,
        "it does not end there"
    );
    for block in 0..32 {
        write(&engine, disk, block, 3);
    }
    let engine = engine.reopen();
    let session = engine.catalog.view().marks().session;
    let images = engine.disk.kill_image_at(0);
    engine.abandon();
    page(&images, u64::from(session % 2) * 4096);
    let journal = checks::clean(&images, "without the newest header").journal;
    assert_eq!(journal.unwrap().records, 0);
    let engine = Engine::open_images(&images, engine.shape);
    for block in 0..128 {
        let expected = if block < 32 { 3 } else { 0 };
        assert_eq!(byte(&engine, Node::Disk(disk), block), expected, "{block}");
    }
    engine.abandon();
}
