//! Promise P10: the daemon's memory stays within its cache and 64 MiB, with two stores at once,
//! with a disk of 64 TiB, with 1,000 snapshots, and under streaming and random load.

#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/stamps.rs"]
#[allow(dead_code)]
mod stamps;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use common::{TestStore, noise};
use stamps::{BLOCK, Buffer, Rng, Times, open_direct, punch, seed};

const MIB: u64 = 1 << 20;
const CACHE: u64 = 16 * MIB;
/// What the daemon may need besides its cache.
const BESIDES: u64 = 64 * MIB;

fn store(size: &str) -> TestStore {
    TestStore::with(&[
        "--size",
        size,
        "--cache-size",
        "16MiB",
        "--journal-size",
        "32MiB",
    ])
}

/// Fails where the daemon ever needed too much.
#[track_caller]
fn within_bounds(store: &TestStore, after: &str) {
    let (most, now) = (store.memory("VmHWM"), store.memory("VmRSS"));
    eprintln!(
        "{after}: {} MiB at most, {} MiB now, cache {} MiB",
        most / MIB,
        now / MIB,
        CACHE / MIB
    );
    assert!(
        most <= CACHE + BESIDES,
        "{after}: {} MiB with a cache of {} MiB",
        most / MIB,
        CACHE / MIB
    );
}

fn disk(store: &TestStore, name: &str, size: u64) -> File {
    open_direct(&store.make(name, size), true).unwrap()
}

/// Writes all of a disk in pieces of 1 MiB.
fn stream(file: &File, size: u64, seed: u64) {
    let mut buffer = Buffer::new(MIB as usize);
    buffer.bytes().copy_from_slice(&noise(seed, MIB as usize));
    for at in (0..size).step_by(MIB as usize) {
        file.write_all_at(buffer.bytes(), at).unwrap();
    }
}

/// Writes blocks all over a disk.
fn scatter(file: &File, size: u64, count: u64, rng: &mut Rng) {
    let mut buffer = Buffer::new(BLOCK);
    buffer.bytes().fill(0xa5);
    for _ in 0..count {
        let block = rng.below(size / BLOCK as u64);
        file.write_all_at(buffer.bytes(), block * BLOCK as u64)
            .unwrap();
    }
}

#[test]
fn p10_two_stores_at_once_under_streaming_and_random_load() {
    if !common::able(&[]) {
        return;
    }
    let stores = [store("4GiB"), store("4GiB")];
    let seed = seed();
    const SIZE: u64 = 192 * MIB;
    std::thread::scope(|scope| {
        for (store, number) in stores.iter().zip(0u64..) {
            for name in ["stream.img", "random.img"] {
                scope.spawn(move || {
                    let file = disk(store, name, SIZE);
                    let mut rng = Rng::new(seed + number);
                    if name == "stream.img" {
                        stream(&file, SIZE, seed + number);
                    } else {
                        scatter(&file, SIZE, 10_000, &mut rng);
                    }
                });
            }
        }
    });
    for (store, number) in stores.iter().zip(0u64..) {
        within_bounds(store, "streaming and random load on two stores");
        // Each has its own data and nothing of the other.
        let expected = noise(seed + number, MIB as usize);
        for at in [0, SIZE / 2, SIZE - MIB] {
            assert_eq!(
                common::read_at(&store.disk("stream.img"), at, MIB as usize),
                expected,
                "store {number} at {at}"
            );
        }
        assert_eq!(store.status()["state"], "ok");
    }
}

#[test]
fn p10_a_disk_of_64_tib_written_at_both_ends() {
    if !common::able(&[]) {
        return;
    }
    let mut store = store("1GiB");
    let empty = store.used();
    const SIZE: u64 = 64 << 40;
    const PLACES: [u64; 4] = [0, SIZE / 2 - MIB, SIZE / 2 + 12 * 1024, SIZE - MIB];
    let file = disk(&store, "big.img", SIZE);
    let data = noise(64, MIB as usize);
    for at in PLACES {
        file.write_all_at(&data, at).unwrap();
    }
    store.snapshot("big.img", "a");
    let rng = &mut Rng::new(seed());
    scatter(&file, SIZE, 1000, rng);
    let last = noise(65, MIB as usize);
    file.write_all_at(&last, SIZE - MIB).unwrap();
    file.sync_all().unwrap();
    let started = Instant::now();
    store.remount_with(file);
    eprintln!("unmounted and mounted in {:?}", started.elapsed());
    for at in PLACES {
        let found = common::read_at(&store.disk("big.img@a"), at, MIB as usize);
        assert!(found == data, "the snapshot at {at}");
    }
    let found = common::read_at(&store.disk("big.img"), SIZE - MIB, MIB as usize);
    assert!(found == last, "the end of the disk");
    within_bounds(&store, "64 TiB written at both ends and in 1,000 places");

    let file = open_direct(&store.disk("big.img"), true).unwrap();
    let started = Instant::now();
    punch(&file, 0, SIZE).unwrap();
    eprintln!("discarded 64 TiB in {:?}", started.elapsed());
    for at in PLACES {
        let found = common::read_at(&store.disk("big.img"), at, MIB as usize);
        assert!(found.iter().all(|byte| *byte == 0), "discarded at {at}");
        let found = common::read_at(&store.disk("big.img@a"), at, MIB as usize);
        assert!(found == data, "the snapshot at {at}, after the discard");
    }
    drop(file);
    std::fs::remove_file(store.disk("big.img")).unwrap();
    std::fs::remove_file(store.disk("big.img@a")).unwrap();
    store.flush();
    common::wait_until("the space is back", || store.used() == empty);
    within_bounds(&store, "64 TiB discarded and deleted");
}

#[test]
fn p10_a_thousand_snapshots_of_one_disk() {
    if !common::able(&[]) {
        return;
    }
    let store = store("4GiB");
    const SIZE: u64 = 64 * MIB;
    const COUNT: u32 = 1000;
    let file = disk(&store, "vm.img", SIZE);
    stream(&file, SIZE, 1);
    let rng = &mut Rng::new(seed());
    let (mut commands, mut writes) = (Times::default(), Times::default());
    for number in 0..COUNT {
        let started = Instant::now();
        store.snapshot("vm.img", &format!("s{number:04}"));
        commands.add(started.elapsed());
        let started = Instant::now();
        scatter(&file, SIZE, 4, rng);
        writes.add(started.elapsed());
        // The last block tells the snapshots apart.
        file.write_all_at(&noise(u64::from(number), BLOCK), SIZE - BLOCK as u64)
            .unwrap();
    }
    eprintln!("snapshot commands: {}", commands.words());
    eprintln!("four writes after: {}", writes.words());
    within_bounds(&store, "1,000 snapshots taken");

    let started = Instant::now();
    let listed = std::fs::read_dir(store.mnt()).unwrap().count();
    eprintln!("listed in {:?}", started.elapsed());
    assert_eq!(listed, COUNT as usize + 1 + 3);
    let started = Instant::now();
    for number in [1u32, 2, 500, 999] {
        let path = store.disk(&format!("vm.img@s{number:04}"));
        let last = common::read_at(&path, SIZE - BLOCK as u64, BLOCK);
        assert!(
            last == noise(u64::from(number - 1), BLOCK),
            "snapshot {number}"
        );
    }
    let oldest = store.disk("vm.img@s0000");
    let expected = noise(1, MIB as usize);
    for at in (0..SIZE).step_by(MIB as usize) {
        assert!(
            common::read_at(&oldest, at, MIB as usize) == expected,
            "the oldest snapshot at {at}"
        );
    }
    eprintln!("the oldest read in {:?}", started.elapsed());
    store.flush();
    within_bounds(&store, "1,000 snapshots read");

    let started = Instant::now();
    let mut order: Vec<u32> = (0..COUNT).collect();
    while !order.is_empty() {
        let number = order.swap_remove(rng.below(order.len() as u64) as usize);
        std::fs::remove_file(store.disk(&format!("vm.img@s{number:04}"))).unwrap();
    }
    eprintln!("deleted in {:?}", started.elapsed());
    store.flush();
    // What the disk itself holds stays: 64 MiB, and a segment for each place at the most.
    common::wait_until("the space is back", || store.used() <= SIZE + MIB);
    within_bounds(&store, "1,000 snapshots deleted");
    assert_eq!(store.status()["state"], "ok");
}
