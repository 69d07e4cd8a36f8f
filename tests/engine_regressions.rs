//! One test for each mistake that was found in the engine.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use std::time::Duration;

use common::engine::{Engine, SEGMENT, Shape};
use common::invariants;
use common::model::new_disk;
use snapmark::base::DiskId;
use snapmark::volume::Node;

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
