//! Reaps, and batches that were cut short: who may look at blocks which no commit knows yet.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use std::time::Duration;

use common::engine::{Engine, SEGMENT, Shape};
use common::model::new_disk;
use common::{invariants, wait_until};
use snapmark::base::{BLOCK, DiskId, SegmentNo};
use snapmark::device::Images;
use snapmark::store::read_blocks;
use snapmark::volume::{Extent, Node};

/// A store that destages only when it is told to.
const MANUAL: Shape = Shape {
    segment: SEGMENT,
    log: 1 << 20,
    journal: 4 << 20,
    pool: 64 << 20,
    cache: 2 << 20,
    batch: 256 << 10,
    interval: Duration::from_secs(3600),
    volatile: false,
    patience: Duration::from_secs(60),
};

fn write(engine: &Engine, disk: DiskId, block: u64, byte: u8) {
    engine.write(disk, block * 4096, &[byte; 4096]).unwrap();
}

fn bytes(engine: &Engine, disk: DiskId, blocks: u64) -> Vec<u8> {
    let mut buf = vec![0xee; blocks as usize * BLOCK];
    engine.read(Node::Disk(disk), 0, &mut buf).unwrap();
    let same = |block: &[u8]| block.iter().all(|byte| *byte == block[0]);
    assert!(buf.chunks(BLOCK).all(same));
    buf.iter().step_by(BLOCK).copied().collect()
}

/// Discards a disk's only segment and destages that, so that its slot is pending. Keep a view
/// from before, and it stays so: the next session gives it back in the same go in which it would
/// reap.
fn leave_pending(engine: &Engine, disk: DiskId) {
    let (offset, len) = (0, SEGMENT);
    engine.discard(disk, Extent { offset, len }).unwrap();
    engine.flush().unwrap();
    assert_eq!(engine.status().pool.pending, SEGMENT);
}

/// Whether a live block of the disk is not what the catalog says, while a reap is due on its map.
fn is_cut_short(engine: &Engine, disk: DiskId) -> bool {
    let view = engine.catalog.view();
    let map = view.disk(disk).unwrap().unwrap().map;
    let Some((_, live)) = view.live(map, SegmentNo(0)).unwrap() else {
        return false;
    };
    let differs = |block| {
        let extent = live.extent().unwrap();
        let at = extent.index(block);
        read_blocks(&engine.pool, &view, extent.place, at, &mut [0; BLOCK]).is_err()
    };
    view.map(map).unwrap().unwrap().reap && (0..16).filter(|b| live.data.has(*b)).any(differs)
}

/// Opens the images; waits until the destager has been where it reaps; then destages all. Returns
/// whether a batch had been cut short there.
fn open_and_settle(images: &Images, disk: DiskId, want: &[u8], what: &str) -> bool {
    let engine = Engine::open_images(images, MANUAL);
    let cut_short = is_cut_short(&engine, disk);
    assert_eq!(bytes(&engine, disk, 16), want, "{what}: opened");
    let reaps = |engine: &Engine| engine.catalog.view().maps().unwrap().iter().any(|m| m.reap);
    if reaps(&engine) {
        wait_until("the pending slot is free", || {
            engine.status().state != "ok" || engine.status().pool.pending == 0
        });
    }
    if let Err(error) = engine.flush() {
        panic!("{what}: {error}");
    }
    engine.settle();
    invariants::check(&engine.catalog.view(), &engine.pool, true);
    assert_eq!(bytes(&engine, disk, 16), want, "{what}: settled");
    let engine = engine.kill();
    assert_eq!(
        bytes(&engine, disk, 16),
        want,
        "{what}: after another crash"
    );
    engine.volumes.abandon();
    cut_short
}

/// The catalog knows of a snapshot's removal, and a batch has written a block in place but not
/// committed its checksum, when all ends. The reap then has to move that very block.
#[test]
fn p5_p8_a_reap_leaves_blocks_alone_that_no_commit_knows() {
    let engine = Engine::new(MANUAL);
    let disk = engine.create(new_disk("d", SEGMENT)).unwrap();
    let other = engine.create(new_disk("o", SEGMENT)).unwrap();
    write(&engine, other, 0, 1);
    // The older version has more blocks than the newer one: those of the newer one move.
    (8..16).for_each(|block| write(&engine, disk, block, 1));
    engine.snapshot(&["d"], Some("s"), false).unwrap();
    engine.flush().unwrap();
    write(&engine, disk, 0, 2);
    engine.flush().unwrap();
    let view = engine.catalog.view();
    leave_pending(&engine, other);
    engine.remove("d@s").unwrap();
    write(&engine, disk, 0, 3);
    let from = engine.disk.crash_points();
    engine.flush().unwrap();
    let to = engine.disk.crash_points();
    drop(view);
    let mut want = [1; 16];
    want[..8].copy_from_slice(&[3, 0, 0, 0, 0, 0, 0, 0]);
    let mut cut_short = 0;
    for events in from..=to {
        let images = engine.disk.kill_image_at(events);
        let what = format!("kill at {events} of {from}..={to}");
        cut_short += usize::from(open_and_settle(&images, disk, &want, &what));
        for seed in 0..4 {
            let images = engine.disk.image_at(events, seed);
            let what = format!("power loss at {events} of {from}..={to}, seed {seed}");
            // Nobody asked for a sync: the last write may be gone.
            let state = Engine::open_images(&images, MANUAL);
            want[0] = bytes(&state, disk, 1)[0];
            state.volumes.abandon();
            assert!([2, 3].contains(&want[0]), "{what}: {want:?}");
            cut_short += usize::from(open_and_settle(&images, disk, &want, &what));
            want[0] = 3;
        }
    }
    assert!(
        cut_short > 0,
        "no crash came between the write and its commit"
    );
    engine.volumes.abandon();
}

/// A discard over very many segments is committed a chunk at a time, and its record stays in the
/// journal until the last. A crash after any event of it leaves the discard whole, with a reap due
/// over the same segments, and with later writes to them behind it.
#[test]
fn p5_p6_a_wide_discard_that_was_cut_short_is_done_again() {
    const SEGMENTS: u64 = 2100;
    let shape = Shape {
        pool: 128 << 20,
        journal: 16 << 20,
        ..MANUAL
    };
    let engine = Engine::new(shape);
    let disk = engine.create(new_disk("d", SEGMENTS * SEGMENT)).unwrap();
    let spots = [0, 1, 2047, 2048, SEGMENTS - 1].map(|segment| segment * 16);
    let shown = |engine: &Engine, file: &str| {
        let node = engine.lookup(file).unwrap();
        let byte = |block: u64| {
            let mut buf = [0xee; 2];
            engine.read(node, block * 4096, &mut buf).unwrap();
            buf[0]
        };
        spots.map(|spot| [byte(spot), byte(spot + 1)])
    };
    for segment in 0..SEGMENTS {
        write(&engine, disk, segment * 16, 1);
    }
    engine.snapshot(&["d"], Some("kept"), false).unwrap();
    spots.iter().for_each(|at| write(&engine, disk, at + 1, 2));
    engine.snapshot(&["d"], Some("gone"), false).unwrap();
    spots.iter().for_each(|at| write(&engine, disk, *at, 3));
    engine.flush().unwrap();
    engine.remove("d@gone").unwrap();
    spots.iter().for_each(|at| write(&engine, disk, *at, 4));
    let (offset, len) = (0, SEGMENTS * SEGMENT);
    engine.discard(disk, Extent { offset, len }).unwrap();
    write(&engine, disk, spots[1], 5);
    write(&engine, disk, spots[4] + 1, 6);
    engine.sync().unwrap();
    let from = engine.disk.crash_points();
    engine.flush().unwrap();
    let to = engine.disk.crash_points();
    let (none, kept) = ([0, 0], [[1, 0]; 5]);
    let want = [none, [5, 0], none, none, [0, 6]];
    assert!(to - from > 10);
    for events in from..=to {
        for images in [
            engine.disk.kill_image_at(events),
            engine.disk.image_at(events, 3),
        ] {
            let after = Engine::open_images(&images, shape);
            assert_eq!(
                shown(&after, "d"),
                want,
                "{events} of {from}..={to}: opened"
            );
            after.settle();
            assert_eq!(
                shown(&after, "d"),
                want,
                "{events} of {from}..={to}: settled"
            );
            assert_eq!(shown(&after, "d@kept"), kept, "{events} of {from}..={to}");
            invariants::check(&after.catalog.view(), &after.pool, true);
            after.volumes.abandon();
        }
    }
    engine.volumes.abandon();
}
