//! A pool that is full, and space that returns.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use std::ops::ControlFlow;
use std::time::Duration;

use common::engine::{Engine, SEGMENT, Shape};
use common::model::{Mix, Model, is_no_space, new_disk};
use common::{Random, ends, invariants, seeds};
use snapmark::base::{BlockMask, DiskId, SegmentNo};
use snapmark::device::{Effect, Operation, When};
use snapmark::store::At;
use snapmark::volume::{Extent, Node, VolumeError};

/// Two devices of so many slots each.
fn tiny(slots: u64, interval: u64) -> Engine {
    Engine::new(Shape {
        pool: (4 << 20) + slots * SEGMENT,
        interval: Duration::from_millis(interval),
        ..Shape::default()
    })
}

fn slots(engine: &Engine) -> u64 {
    engine.catalog.view().space().total
}

fn write(engine: &Engine, disk: DiskId, block: u64, byte: u8) -> Result<(), VolumeError> {
    engine.write(disk, block * 4096, &[byte; 4096])
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

/// A range that queued writes have slots promised for already needs them once, not twice.
#[test]
fn a_range_that_is_queued_can_be_allocated() {
    let engine = tiny(8, 3_600_000);
    let total = slots(&engine);
    let disk = engine.create(new_disk("d", 100 * SEGMENT)).unwrap();
    for segment in 0..total {
        write(&engine, disk, segment * 16, 1).unwrap();
    }
    let range = |segments| Extent {
        offset: 0,
        len: segments * SEGMENT,
    };
    engine.allocate(disk, range(total), true).unwrap();
    let refused = engine.allocate(disk, range(total + 1), true).unwrap_err();
    assert!(is_no_space(&refused), "{refused}");
    settle(&engine);
}

#[test]
fn p7_a_full_pool_refuses_writes_before_they_are_acknowledged() {
    for interval in [1, 3_600_000] {
        let engine = tiny(8, interval);
        let total = slots(&engine);
        let disk = engine.create(new_disk("d", 100 * SEGMENT)).unwrap();
        let mut accepted = 0;
        for segment in 0..2 * total {
            match write(&engine, disk, segment * 16, 1) {
                Ok(()) => accepted += 1,
                Err(error) => assert!(is_no_space(&error), "{error}"),
            }
        }
        assert_eq!(accepted, total);
        // In place it goes on, queued and destaged.
        for segment in 0..total {
            write(&engine, disk, segment * 16 + 1, 2).unwrap();
        }
        engine.flush().unwrap();
        for segment in 0..total {
            write(&engine, disk, segment * 16 + 2, 3).unwrap();
        }
        // A snapshot holds all of it: nothing can be overwritten any more.
        engine.snapshot(&["d"], Some("s"), true).unwrap();
        assert!(is_no_space(&write(&engine, disk, 0, 4).unwrap_err()));
        engine.flush().unwrap();
        assert!(is_no_space(&write(&engine, disk, 0, 4).unwrap_err()));
        let all = Extent {
            offset: 0,
            len: 100 * SEGMENT,
        };
        engine.discard(disk, all).unwrap();
        assert!(is_no_space(&write(&engine, disk, 0, 4).unwrap_err()));
        engine.remove("d@s").unwrap();
        settle(&engine);
        for segment in 0..total {
            write(&engine, disk, segment * 16, 5).unwrap();
        }
        settle(&engine);
        assert_eq!(byte(&engine, Node::Disk(disk), 16), 5);
        assert_eq!(byte(&engine, Node::Disk(disk), 17), 0);
        engine.close_store().unwrap();
    }
}

#[test]
fn p7_a_write_waits_for_the_space_of_what_was_deleted() {
    // So many segments that a reap takes several steps.
    let engine = tiny(1500, 3_600_000);
    let total = slots(&engine);
    let size = 2 * total * SEGMENT;
    let fill = |name: &str, byte| {
        let disk = engine.create(new_disk(name, size)).unwrap();
        for segment in 0..total {
            write(&engine, disk, segment * 16, byte).unwrap();
        }
        let over = write(&engine, disk, total * 16, byte).unwrap_err();
        assert!(is_no_space(&over), "{over}");
        disk
    };
    fill("removed", 1);
    engine.remove("removed").unwrap();
    let kept = fill("kept", 2);
    engine.flush().unwrap();
    // Of what waits in the queue alone, too.
    engine.snapshot(&["kept"], Some("s"), true).unwrap();
    engine.remove("kept").unwrap();
    assert!(engine.read(Node::Disk(kept), 0, &mut [0; 4096]).is_err());
    let disk = engine.create(new_disk("d", size)).unwrap();
    let error = write(&engine, disk, 0, 3).unwrap_err();
    assert!(is_no_space(&error), "the snapshot holds all: {error}");
    engine.remove("kept@s").unwrap();
    write(&engine, disk, 0, 3).unwrap();
    let len = total / 2 * SEGMENT;
    for segment in 1..total {
        write(&engine, disk, segment * 16, 3).unwrap();
    }
    engine.discard(disk, Extent { offset: 0, len }).unwrap();
    for segment in total..total + total / 2 {
        write(&engine, disk, segment * 16, 4).unwrap();
    }
    settle(&engine);
    assert_eq!(byte(&engine, Node::Disk(disk), total * 16), 4);
    engine.close_store().unwrap();
}

#[test]
fn p7_discards_need_no_space_however_many_snapshots() {
    let engine = tiny(8, 3_600_000);
    let total = slots(&engine);
    let disk = engine.create(new_disk("d", 100 * SEGMENT)).unwrap();
    for segment in 0..total {
        engine
            .write(disk, segment * SEGMENT, &[1; SEGMENT as usize])
            .unwrap();
    }
    for n in 0..14 {
        engine
            .snapshot(&["d"], Some(&n.to_string()), false)
            .unwrap();
        let offset = n * 4096;
        engine.discard(disk, Extent { offset, len: 4096 }).unwrap();
        engine.flush().unwrap();
    }
    for n in 0..16 {
        assert_eq!(byte(&engine, Node::Disk(disk), n), u8::from(n >= 14));
    }
    for n in [3, 0, 13, 7, 1, 2, 4, 5, 6, 8, 9, 10, 11, 12] {
        engine.remove(&format!("d@{n}")).unwrap();
        settle(&engine);
    }
    assert_eq!(byte(&engine, Node::Disk(disk), 15), 1);
}

#[test]
fn p7_a_wide_discard_leaves_a_slot_for_the_write_behind_it() {
    for _ in 0..3 {
        let engine = tiny(8, 3_600_000);
        let total = slots(&engine);
        let disk = engine.create(new_disk("d", 200 * SEGMENT)).unwrap();
        let other = engine.create(new_disk("o", 200 * SEGMENT)).unwrap();
        for segment in 0..total {
            write(&engine, disk, segment * 16, 1).unwrap();
        }
        engine.flush().unwrap();
        // The discard is queued when the writes are let in: they count on slots that it takes.
        engine
            .discard(
                disk,
                Extent {
                    offset: 0,
                    len: 200 * SEGMENT,
                },
            )
            .unwrap();
        for segment in 0..total {
            write(&engine, disk, segment * 16 + 1, 2).unwrap();
        }
        std::thread::scope(|scope| {
            let flush = scope.spawn(|| engine.flush());
            for segment in (0..total).cycle().take(2000) {
                match write(&engine, other, segment * 16, 3) {
                    Ok(()) => {}
                    Err(error) => assert!(is_no_space(&error), "{error}"),
                }
            }
            flush.join().unwrap().unwrap();
        });
        settle(&engine);
        for segment in 0..total {
            assert_eq!(byte(&engine, Node::Disk(disk), segment * 16 + 1), 2);
        }
        engine.close_store().unwrap();
    }
}

#[test]
fn p7_a_slow_reader_delays_a_full_pool_and_does_not_halt_it() {
    let engine = tiny(8, 3_600_000);
    let total = slots(&engine);
    let disk = engine.create(new_disk("d", 100 * SEGMENT)).unwrap();
    for segment in 0..total {
        write(&engine, disk, segment * 16, 1).unwrap();
    }
    engine.flush().unwrap();
    // What a reader holds while it waits for a device.
    let view = engine.catalog.view();
    let (offset, len) = (0, 100 * SEGMENT);
    engine.discard(disk, Extent { offset, len }).unwrap();
    engine.flush().unwrap();
    let space = engine.catalog.view().space();
    assert_eq!((space.free, space.pending), (0, total));
    // The slots come back for sure, so they may be promised.
    write(&engine, disk, 16, 2).unwrap();
    std::thread::scope(|scope| {
        let flush = scope.spawn(|| engine.flush());
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(engine.status().state, "ok");
        drop(view);
        flush.join().unwrap().unwrap();
    });
    settle(&engine);
    assert_eq!(byte(&engine, Node::Disk(disk), 16), 2);
    engine.close_store().unwrap();
}

#[test]
fn p7_what_was_acknowledged_has_space_under_many_writers() {
    for seed in seeds(6) {
        ends(move || many_writers(seed));
    }
}

fn many_writers(seed: u64) {
    let engine = tiny(12, [1, 5, 3_600_000][seed as usize % 3]);
    let disks: Vec<DiskId> = (0..3)
        .map(|n| {
            engine
                .create(new_disk(&format!("d{n}"), 80 * SEGMENT))
                .unwrap()
        })
        .collect();
    std::thread::scope(|scope| {
        for (n, disk) in disks.iter().enumerate() {
            let engine = &engine;
            scope.spawn(move || {
                let mut random = Random(seed * 10 + n as u64);
                for turn in 0..600 {
                    let name = format!("d{n}");
                    let done = match random.below(12) {
                        0 => engine.discard(
                            *disk,
                            Extent {
                                offset: random.below(20) * SEGMENT,
                                len: (1 + random.below(75)) * SEGMENT,
                            },
                        ),
                        1 => engine
                            .snapshot(&[&name], Some(&turn.to_string()), false)
                            .map(drop),
                        2 | 3 => {
                            let prefix = format!("d{n}@");
                            let list = engine.list();
                            let mut ours = list.iter().filter(|(s, _)| s.starts_with(&prefix));
                            ours.next().map_or(Ok(()), |(name, _)| engine.remove(name))
                        }
                        _ => {
                            let at = random.below(20 * 16);
                            engine.write(*disk, at * 4096, &[turn as u8; 8192])
                        }
                    };
                    if let Err(error) = done {
                        assert!(is_no_space(&error), "seed {seed}: {error}");
                    }
                }
            });
        }
    });
    settle(&engine);
    for (name, node) in engine.list() {
        let mut buf = vec![0; 80 * SEGMENT as usize];
        engine
            .read(node, 0, &mut buf)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    engine.close_store().unwrap();
}

#[test]
fn p9_all_space_returns_to_the_pool_and_the_host() {
    for seed in seeds(3) {
        let mut engine = tiny(2000, 2);
        let before = engine.allocated();
        let mix = Mix {
            largest: 2 << 20,
            disks: 4,
            snapshots: 12,
            simple: false,
            clones: seed != 1,
        };
        let mut model = Model::new(seed + 100, mix);
        (0..400).for_each(|_| model.step(&engine));
        if seed == 2 {
            engine = engine.kill();
        }
        settle(&engine);
        assert!(engine.allocated() > before);
        let disks = model.state.disks();
        let mut names: Vec<String> = model.state.files.keys().cloned().collect();
        while let Some(name) = model.random.pick(&names).cloned() {
            names.retain(|other| *other != name);
            if seed == 1 && disks.contains(&name) {
                let Some(Node::Disk(id)) = engine.lookup(&name) else {
                    panic!("{name}")
                };
                engine
                    .discard(
                        id,
                        Extent {
                            offset: 0,
                            len: 2 << 20,
                        },
                    )
                    .unwrap();
                continue;
            }
            engine.remove(&name).unwrap();
        }
        settle(&engine);
        let pool = engine.status().pool;
        assert_eq!((pool.used, pool.pending), (0, 0), "seed {seed}");
        let allocated = engine.allocated();
        assert!(
            allocated <= before,
            "seed {seed}: {allocated}, {before} before"
        );
        engine.close_store().unwrap();
        let space = engine.catalog.view().space();
        assert_eq!((space.free, space.pending), (space.total, 0), "seed {seed}");
    }
}

#[test]
fn p9_a_kill_leaves_nothing_written_in_slots_that_are_not_in_use() {
    let engine = tiny(100, 3_600_000);
    let before = engine.allocated();
    let disk = engine.create(new_disk("d", 100 * SEGMENT)).unwrap();
    let first = engine.disk.crash_points();
    for round in 0..3 {
        // The first batch finds nothing in stock, the later ones too little or enough.
        for segment in 0..[4, 9, 3][round] {
            let at = (20 * round as u64 + segment) * 16;
            write(&engine, disk, at, 1).unwrap();
        }
        engine.flush().unwrap();
    }
    for events in first..=engine.disk.crash_points() {
        let engine = Engine::open_images(&engine.disk.kill_image_at(events), engine.shape);
        if events % 2 == 0 && engine.lookup("d").is_some() {
            // Else what is replayed may go to the same slots again.
            let (offset, len) = (0, 50 * SEGMENT);
            engine.discard(disk, Extent { offset, len }).unwrap();
        }
        settle(&engine);
        let blocks = engine.status().disks.first().map_or(0, |d| d.allocated);
        assert_eq!(engine.allocated(), before + blocks, "after {events} events");
        engine.volumes.abandon();
    }
    engine.close_store().unwrap();
}

/// How many versions a read of a whole segment walks over at the most, live or as of a snapshot.
fn longest_walk(engine: &Engine) -> usize {
    let view = engine.catalog.view();
    let map = view.disks().unwrap()[0].map;
    let snapshots = view.snapshots().unwrap();
    let seen_at = snapshots.iter().map(|it| At::Epoch(it.epoch));
    let walk = |at| {
        let (mut rest, mut steps) = (BlockMask::full(view.geometry()), 0);
        view.layers(map, SegmentNo(0), at, &mut |_, version| {
            if rest.is_empty() {
                return ControlFlow::Break(());
            }
            steps += 1;
            rest = rest.minus(&version.covered());
            ControlFlow::Continue(())
        })
        .unwrap();
        steps
    };
    seen_at.chain([At::Live]).map(walk).max().unwrap()
}

/// The versions of the only disk's first segment, the newest first, as far as no snapshot sees them:
/// whether each has a slot of its own, and how many blocks.
fn own_versions(engine: &Engine) -> Vec<(bool, usize)> {
    let view = engine.catalog.view();
    let map = view.disks().unwrap()[0].map;
    let newest = view.newest_snapshot(map).unwrap();
    let mut own = Vec::new();
    view.layers(map, SegmentNo(0), At::Live, &mut |_, version| {
        if newest.is_some_and(|epoch| version.birth <= epoch) {
            return ControlFlow::Break(());
        }
        own.push((version.has_own_slot(), version.data.count()));
        ControlFlow::Continue(())
    })
    .unwrap();
    own
}

#[test]
fn p11_what_is_written_bit_by_bit_after_a_snapshot_is_put_together_and_then_grows_in_its_slot() {
    let engine = Engine::new(Shape {
        segment: 256 << 10,
        interval: Duration::from_secs(3600),
        ..Shape::default()
    });
    let disk = engine.create(new_disk("d", 256 << 10)).unwrap();
    engine.write(disk, 0, &[1; 256 << 10]).unwrap();
    engine.snapshot(&["d"], Some("s"), false).unwrap();
    let put = |block: u64| {
        write(&engine, disk, 3 * block % 64, 2).unwrap();
        engine.flush().unwrap();
    };
    (0..12).for_each(put);
    assert_eq!(own_versions(&engine), [(false, 1); 12]);
    put(12);
    assert_eq!(own_versions(&engine), [(false, 13)]);
    (13..16).for_each(put);
    let in_packs = [(false, 1), (false, 1), (false, 1), (false, 13)];
    assert_eq!(own_versions(&engine), in_packs);
    // More than a quarter: from here on nothing is read for what is written.
    let fail_reads = |fails: bool| {
        for device in &engine.faults {
            device.heal();
            if fails {
                device.plan(Operation::Read, When::Every(1), Effect::Fail(libc::EIO));
            }
        }
    };
    fail_reads(true);
    put(16);
    assert_eq!(
        own_versions(&engine),
        [&[(true, 1)][..], &in_packs].concat()
    );
    (17..40).for_each(put);
    let own = own_versions(&engine);
    assert_eq!((own[0], own.len()), ((true, 24), 5), "{own:?}");
    // A block that is there already changes nothing but itself.
    put(20);
    assert_eq!(own_versions(&engine), own);
    fail_reads(false);
    for block in 0..64 {
        let expected = if block < 40 { 2 } else { 1 };
        assert_eq!(byte(&engine, Node::Disk(disk), 3 * block % 64), expected);
    }
    settle(&engine);
    engine.close_store().unwrap();
}

#[test]
fn p11_a_read_walks_no_further_with_more_snapshots() {
    let engine = tiny(1000, 3_600_000);
    let disk = engine.create(new_disk("d", SEGMENT)).unwrap();
    engine.write(disk, 0, &[1; SEGMENT as usize]).unwrap();
    let mut walks = Vec::new();
    for n in 0..500u64 {
        let name = n.to_string();
        engine.snapshot(&["d"], Some(&name), false).unwrap();
        // Never the first block, which is looked for in all that lies above.
        write(&engine, disk, 1 + n % 15, 2).unwrap();
        engine.flush().unwrap();
        if n % 100 == 99 {
            walks.push(longest_walk(&engine));
        }
    }
    // MAX_LAYERS, and what a batch may put on top.
    assert!(walks.iter().all(|steps| *steps <= 193), "{walks:?}");
    assert_eq!(byte(&engine, Node::Disk(disk), 0), 1);
    engine.close_store().unwrap();
}

#[test]
fn p11_a_thousand_snapshots_are_read_right() {
    let engine = tiny(4000, 5);
    let disk = engine.create(new_disk("d", 8 * SEGMENT)).unwrap();
    for n in 0..1000u64 {
        engine
            .write(disk, (n % 128) * 4096, &[(n % 251) as u8 + 1; 4096])
            .unwrap();
        engine
            .snapshot(&["d"], Some(&n.to_string()), false)
            .unwrap();
    }
    let check = |n: u64| {
        let node = engine.lookup(&format!("d@{n}")).unwrap();
        for block in 0..128 {
            let newest = (0..=n).rev().find(|k| k % 128 == block);
            let want = newest.map_or(0, |k| (k % 251) as u8 + 1);
            assert_eq!(
                byte(&engine, node, block),
                want,
                "snapshot {n} block {block}"
            );
        }
    };
    [0, 1, 127, 128, 500, 999].into_iter().for_each(check);
    settle(&engine);
    [0, 1, 127, 128, 500, 999].into_iter().for_each(check);
    for n in (0..1000).filter(|n| n % 10 > 0) {
        engine.remove(&format!("d@{n}")).unwrap();
    }
    settle(&engine);
    [0, 10, 130, 500, 990].into_iter().for_each(check);
}
