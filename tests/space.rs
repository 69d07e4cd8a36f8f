//! Promises P7 and P9 over a real mount: what is deleted and discarded comes back to the pool and
//! to the host, and a full pool refuses writes without harm.

#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/stamps.rs"]
#[allow(dead_code)]
mod stamps;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::{TestStore, allocated, noise};
use stamps::{BLOCK, Rng, open_direct, punch, seed};

const MIB: u64 = 1 << 20;

fn pool_file(store: &TestStore) -> PathBuf {
    store.store().join("pool.img")
}

/// Pool in use, and what the host has allocated for the backing file.
fn taken(store: &TestStore) -> (u64, u64) {
    (store.used(), allocated(&pool_file(store)))
}

/// Waits until both are within 1 % of what they were when the store was empty; a percent of the
/// pool, as an empty store takes next to nothing.
#[track_caller]
fn back_to(store: &TestStore, empty: (u64, u64), pool: u64, after: &str) {
    store.flush();
    let near = |now: u64, then: u64| now <= then + pool / 100;
    let started = Instant::now();
    let mut now = taken(store);
    while !(near(now.0, empty.0) && near(now.1, empty.1)) {
        assert!(
            started.elapsed() < Duration::from_secs(40),
            "{after}: pool and file take {now:?}, when empty {empty:?}\n{}",
            store.status()["pool"]
        );
        std::thread::sleep(Duration::from_millis(50));
        now = taken(store);
    }
    eprintln!(
        "{after}: pool and file {now:?}, when empty {empty:?}, within {:?}",
        started.elapsed()
    );
}

/// Fills a disk with data.
fn fill(file: &File, size: u64, seed: u64) {
    let data = noise(seed, MIB as usize);
    for at in (0..size).step_by(MIB as usize) {
        file.write_all_at(&data, at).unwrap();
    }
}

/// Fills disks, takes snapshots, and overwrites here and there in between.
fn use_up(store: &TestStore, disks: &[&str], size: u64, rng: &mut Rng) -> Vec<File> {
    let open = |name: &&str| open_direct(&store.make(name, size), true).unwrap();
    let files: Vec<File> = disks.iter().map(open).collect();
    for file in &files {
        fill(file, size, rng.next());
    }
    let block = noise(rng.next(), BLOCK);
    for snapshot in 0..6 {
        store.snapshot(&disks.join(","), &format!("s{snapshot}"));
        for file in &files {
            for _ in 0..200 {
                let at = rng.below(size / BLOCK as u64) * BLOCK as u64;
                file.write_all_at(&block, at).unwrap();
            }
            fill(file, size / 4, rng.next());
        }
        if snapshot % 2 == 0 {
            store.flush();
        }
    }
    files
}

fn delete_snapshots(store: &TestStore, disks: &[&str]) {
    // In no particular order.
    for snapshot in [3, 0, 5, 1, 4, 2] {
        for disk in disks {
            std::fs::remove_file(store.disk(&format!("{disk}@s{snapshot}"))).unwrap();
        }
    }
}

#[test]
fn p9_deleted_snapshots_and_discarded_data_give_their_space_back() {
    if !common::able(&[]) {
        return;
    }
    const POOL: u64 = 1024 * MIB;
    let store = TestStore::with(&["--size", "1GiB"]);
    let (empty, rng) = (taken(&store), &mut Rng::new(seed()));
    let (disks, size) = (["a.img", "b.img"], 64 * MIB);

    let files = use_up(&store, &disks, size, rng);
    store.flush();
    let full = taken(&store);
    eprintln!("in use: {full:?}");
    assert!(
        full.0 > 2 * size && full.1 > 2 * size,
        "nothing was used: {full:?}"
    );
    delete_snapshots(&store, &disks);
    for file in &files {
        punch(file, 0, size).unwrap();
    }
    back_to(&store, empty, POOL, "snapshots deleted, data discarded");
    drop(files);
    for disk in disks {
        std::fs::remove_file(store.disk(disk)).unwrap();
    }

    // The disks first: their snapshots outlive them.
    drop(use_up(&store, &disks, size, rng));
    for disk in disks {
        std::fs::remove_file(store.disk(disk)).unwrap();
    }
    let outlived = common::checksum(&store.disk("a.img@s3"));
    store.flush();
    assert_eq!(common::checksum(&store.disk("a.img@s3")), outlived);
    delete_snapshots(&store, &disks);
    back_to(&store, empty, POOL, "disks deleted, then their snapshots");

    // A disk that is deleted while it is open gives its space back at the last close.
    let file = open_direct(&store.make("open.img", size), true).unwrap();
    fill(&file, size, 1);
    std::fs::remove_file(store.disk("open.img")).unwrap();
    store.flush();
    assert!(store.used() >= empty.0 + size);
    drop(file);
    back_to(&store, empty, POOL, "an open disk deleted and closed");
}

#[test]
fn p9_space_comes_back_while_other_snapshots_stay() {
    if !common::able(&[]) {
        return;
    }
    const SIZE: u64 = 32 * MIB;
    let mut store = TestStore::with(&["--size", "1GiB"]);
    let file = open_direct(&store.make("vm.img", SIZE), true).unwrap();
    fill(&file, SIZE, 1);
    store.snapshot("vm.img", "first");
    let kept = common::checksum(&store.disk("vm.img@first"));
    fill(&file, SIZE, 2);
    store.snapshot("vm.img", "between");
    fill(&file, SIZE, 3);
    store.snapshot("vm.img", "last");
    let last = common::checksum(&store.disk("vm.img@last"));
    store.flush();
    let before = store.used();
    std::fs::remove_file(store.disk("vm.img@between")).unwrap();
    store.flush();
    common::wait_until("what only one snapshot saw is free", || {
        store.used() <= before - SIZE
    });
    punch(&file, 0, SIZE).unwrap();
    store.flush();
    assert_eq!(common::checksum(&store.disk("vm.img@first")), kept);
    assert_eq!(common::checksum(&store.disk("vm.img@last")), last);
    store.remount_with(file);
    assert_eq!(common::checksum(&store.disk("vm.img@first")), kept);
    assert_eq!(common::checksum(&store.disk("vm.img@last")), last);
}

/// Writes until the pool is full; returns how many bytes there are.
fn write_until_full(file: &File, from: u64, piece: &[u8]) -> u64 {
    let mut at = from;
    loop {
        match file.write_at(piece, at) {
            Ok(len) => at += len as u64,
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
                return at - from;
            }
        }
        assert!(at < from + 1024 * MIB, "the pool is never full");
    }
}

#[test]
fn p7_a_full_pool_refuses_writes_and_goes_on_when_it_grows() {
    if !common::able(&[]) {
        return;
    }
    // The disks together are far larger than the pool.
    const SIZE: u64 = 1024 * MIB;
    let mut store = TestStore::with(&["--size", "64MiB"]);
    let empty = store.used();
    let a = open_direct(&store.make("a.img", SIZE), true).unwrap();
    let b = open_direct(&store.make("b.img", SIZE), true).unwrap();
    let piece = noise(1, 256 << 10);
    let written = write_until_full(&a, 0, &piece);
    eprintln!("{} MiB of 64 MiB written", written / MIB);
    assert!(written >= 60 * MIB, "full with {written} bytes");
    let refused = |result: io::Result<()>| {
        let code = result.map_err(|error| error.raw_os_error());
        assert_eq!(code, Err(Some(libc::ENOSPC)));
    };
    refused(b.write_all_at(&piece, 0));
    // What is there can be read, synced, snapshotted and, where nothing new is needed, overwritten.
    let is_written = |store: &TestStore| {
        for at in (0..written).step_by(piece.len()) {
            assert!(
                common::read_at(&store.disk("a.img"), at, piece.len()) == piece,
                "at {at}"
            );
        }
    };
    a.sync_all().unwrap();
    is_written(&store);
    a.write_all_at(&piece, 0).unwrap();
    store.flush();
    a.write_all_at(&piece, 0).unwrap();
    store.snapshot("a.img", "full");
    refused(a.write_all_at(&piece, 0));
    assert_eq!(store.status()["state"], "ok");
    is_written(&store);

    // Deleting and discarding work when full, and make room.
    std::fs::remove_file(store.disk("a.img@full")).unwrap();
    punch(&a, 0, 8 * MIB).unwrap();
    store.flush();
    common::wait_until("there is room", || b.write_all_at(&piece, 0).is_ok());
    a.write_all_at(&piece, 0).unwrap();
    let more = write_until_full(&a, piece.len() as u64, &piece);
    assert!(more <= 8 * MIB, "{more}");
    drop((a, b));
    store.remount();

    // Another device gives room at once, to writes that were refused.
    let b = open_direct(&store.disk("b.img"), true).unwrap();
    let another = store.dir().join("more.img");
    store
        .control(&format!("device-add {}:64MiB\n", another.display()))
        .unwrap();
    let more = write_until_full(&b, 0, &piece);
    assert!(more >= 56 * MIB, "only {more} bytes more");
    drop(b);
    store.remount();
    assert!(
        common::read_at(&store.disk("b.img"), more - 4096, 4096) == piece[piece.len() - 4096..]
    );
    for disk in ["a.img", "b.img"] {
        std::fs::remove_file(store.disk(disk)).unwrap();
    }
    store.flush();
    common::wait_until("all of it is free", || store.used() <= empty + MIB);
    common::wait_until("the host has it back", || {
        allocated(&pool_file(&store)) + allocated(&another) <= 2 * MIB
    });
}

#[test]
fn p5_p9_big_writes_survive_kill_9_and_what_was_not_used_goes_back_to_the_host() {
    if !common::able(&[]) {
        return;
    }
    const SIZE: u64 = 64 * MIB;
    let mut store = TestStore::with(&["--size", "1GiB"]);
    store.make("vm.img", SIZE);
    store.flush();
    let empty = taken(&store);
    for round in 0..4u64 {
        let file = open_direct(&store.disk("vm.img"), true).unwrap();
        let data = noise(round, MIB as usize);
        let pid = store.pid();
        // Into the middle of a stream of writes.
        let killer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20 + 30 * round));
            stamps::kill(pid);
        });
        let written = |at: &u64| file.write_all_at(&data, at * MIB).is_ok();
        let acked = (0..SIZE / MIB).cycle().take_while(written).count() as u64;
        killer.join().unwrap();
        drop(file);
        store.crashed();
        store.mount();
        for at in 0..acked.min(SIZE / MIB) {
            let found = common::read_at(&store.disk("vm.img"), at * MIB, MIB as usize);
            assert!(found == data, "round {round}: MiB {at} of {acked}");
        }
        eprintln!("round {round}: {acked} MiB written");
    }
    std::fs::remove_file(store.disk("vm.img")).unwrap();
    store.flush();
    common::wait_until("all of it is free", || store.used() <= empty.0);
    // Less than any piece of data: the host's map of where the file's holes are.
    let back = || allocated(&pool_file(&store)) <= empty.1 + (32 << 10);
    let started = Instant::now();
    while !back() && started.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(back(), "{:?}, when empty {empty:?}", taken(&store));
}
