//! A disk is a file: every way of reading and writing one gives what it gives elsewhere.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use common::{TestStore, able, checksum, noise, read_at, write_at};
use rustix::fs::SeekFrom as Seeking;

/// Where there is data, by SEEK_DATA and SEEK_HOLE.
fn data_of(path: &Path) -> Vec<(u64, u64)> {
    let file = File::open(path).unwrap();
    let (mut at, mut found) = (0, Vec::new());
    while let Ok(start) = rustix::fs::seek(&file, Seeking::Data(at)) {
        let end = rustix::fs::seek(&file, Seeking::Hole(start)).unwrap();
        assert!(end > start);
        found.push((start, end));
        at = end;
    }
    found
}

#[test]
fn seeking_data_and_holes_finds_what_was_written() {
    if !able(&[]) {
        return;
    }
    let mut store = TestStore::new();
    let disk = store.make("vm1.img", 1 << 40);
    assert_eq!(data_of(&disk), []);
    let written: [(u64, u64); 5] = [
        (0, 4096),
        (8192, 20_480),
        (1 << 20, (1 << 20) + (300 << 10)),
        (5 << 30, (5 << 30) + 4096),
        ((1 << 40) - 8192, 1 << 40),
    ];
    for (start, end) in written {
        write_at(&disk, start, &noise(start, (end - start) as usize));
    }
    assert_eq!(data_of(&disk), written, "in the cache");
    store.flush();
    assert_eq!(data_of(&disk), written, "in the pool");
    store.snapshot("vm1.img", "a");
    // What is discarded is a hole again, in the disk and not in the snapshot.
    let file = OpenOptions::new().write(true).open(&disk).unwrap();
    let punch = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, punch, 12_288, 4096).unwrap();
    rustix::fs::fallocate(&file, punch, 5 << 30, 1 << 30).unwrap();
    let left = [
        written[0],
        (8192, 12_288),
        (16_384, 20_480),
        written[2],
        written[4],
    ];
    for _ in 0..2 {
        assert_eq!(data_of(&disk), left);
        assert_eq!(data_of(&store.disk("vm1.img@a")), written);
        store.flush();
    }
    drop(file);
    store.remount();
    assert_eq!(data_of(&disk), left);
    assert_eq!(data_of(&store.disk("vm1.img@a")), written);
}

/// A mapping of a file.
struct Map {
    at: *mut u8,
    len: usize,
}

#[allow(
    unsafe_code,
    reason = "mmap has no safe form: others may change the file"
)]
impl Map {
    fn new(file: &File, len: usize, flags: i32) -> Self {
        let (null, both) = (std::ptr::null_mut(), libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: a new mapping at a place of the kernel's choice touches nothing that is there.
        let at = unsafe { libc::mmap(null, len, both, flags, file.as_raw_fd(), 0) };
        assert!(
            at != libc::MAP_FAILED,
            "{}",
            std::io::Error::last_os_error()
        );
        Self { at: at.cast(), len }
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is this long and lives as long as this borrow; no other thread of
        // this test touches the file meanwhile.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.len) }
    }

    fn sync(&self) {
        // SAFETY: the range is a mapping of ours.
        let done = unsafe { libc::msync(self.at.cast(), self.len, libc::MS_SYNC) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    }
}

#[allow(unsafe_code, reason = "the other half of mmap")]
impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing borrows from it any more.
        unsafe { libc::munmap(self.at.cast(), self.len) };
    }
}

#[test]
fn mappings_shared_and_private() {
    if !able(&[]) {
        return;
    }
    let store = TestStore::new();
    let disk = store.make("vm1.img", 4 << 20);
    write_at(&disk, 0, &noise(1, 1 << 20));
    let file = File::options().read(true).write(true).open(&disk).unwrap();
    let mut shared = Map::new(&file, 1 << 20, libc::MAP_SHARED);
    assert!(shared.bytes() == noise(1, 1 << 20));
    shared.bytes()[5000..9000].copy_from_slice(&noise(2, 4000));
    shared.sync();
    // Written through: another reader and a snapshot have it.
    assert!(read_at(&disk, 5000, 4000) == noise(2, 4000));
    store.snapshot("vm1.img", "a");
    assert!(read_at(&store.disk("vm1.img@a"), 5000, 4000) == noise(2, 4000));
    // A write through the descriptor shows in the mapping.
    file.write_all_at(&noise(3, 100), 40_000).unwrap();
    assert!(shared.bytes()[40_000..40_100] == noise(3, 100));

    let mut private = Map::new(&file, 1 << 20, libc::MAP_PRIVATE);
    private.bytes()[0..10].fill(7);
    private.sync();
    assert!(
        read_at(&disk, 0, 10) == noise(1, 10),
        "private stays private"
    );
    // Unmapping and closing writes back what msync did not.
    shared.bytes()[100_000..100_100].fill(9);
    drop((shared, private, file));
    assert!(read_at(&disk, 100_000, 100) == [9; 100]);
    let snapshot = File::open(store.disk("vm1.img@a")).unwrap();
    let mut look = Map::new(&snapshot, 1 << 20, libc::MAP_PRIVATE);
    assert!(look.bytes()[5000..9000] == noise(2, 4000));
}

#[test]
fn appenders_never_overwrite_one_another() {
    if !able(&[]) {
        return;
    }
    let store = TestStore::new();
    let path = store.disk("log");
    std::thread::scope(|scope| {
        for id in 1..=4u8 {
            let path = &path;
            scope.spawn(move || {
                let open = OpenOptions::new().append(true).create(true).open(path);
                let mut file = open.unwrap();
                for _ in 0..200 {
                    file.write_all(&[id; 100]).unwrap();
                }
            });
        }
    });
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes.len(), 4 * 200 * 100);
    for piece in bytes.chunks(100) {
        assert!(piece.iter().all(|byte| *byte == piece[0]), "a torn line");
    }
    for id in 1..=4 {
        assert_eq!(bytes.iter().filter(|byte| **byte == id).count(), 20_000);
    }
}

/// What an O_SYNC or O_DSYNC write or an fsync has returned is there after the daemon's death.
#[test]
fn synchronous_writes_and_syncs() {
    if !able(&[]) {
        return;
    }
    let mut store = TestStore::new();
    let disk = store.make("vm1.img", 1 << 20);
    for (at, flags) in [(0, libc::O_SYNC), (100_000, libc::O_DSYNC), (200_000, 0)] {
        let mut options = OpenOptions::new();
        let file = options.write(true).custom_flags(flags).open(&disk).unwrap();
        file.write_all_at(&noise(at, 10_000), at).unwrap();
        file.sync_data().unwrap();
        file.sync_all().unwrap();
    }
    store.kill9();
    store.mount();
    for at in [0, 100_000, 200_000] {
        assert!(read_at(&disk, at, 10_000) == noise(at, 10_000), "{at}");
    }
}

#[test]
fn direct_reads_and_writes_of_any_offset_and_length() {
    if !able(&[]) {
        return;
    }
    let store = TestStore::new();
    let disk = store.make("vm1.img", 8 << 20);
    let mut options = OpenOptions::new();
    let direct = options.read(true).write(true).custom_flags(libc::O_DIRECT);
    let file = direct.open(&disk).unwrap();
    let mut wanted = vec![0; 8 << 20];
    for turn in 0..300u64 {
        let at = (turn * 1_234_567) % (7 << 20);
        let len = [1, 511, 512, 4096, 4097, 65_536, 700_001][turn as usize % 7];
        let bytes = noise(turn, len);
        file.write_all_at(&bytes, at).unwrap();
        wanted[at as usize..][..len].copy_from_slice(&bytes);
        let mut back = vec![0; len + 2];
        file.read_exact_at(&mut back, at).unwrap();
        assert!(
            back[..] == wanted[at as usize..][..len + 2],
            "{turn}: {at} {len}"
        );
    }
    assert!(std::fs::read(&disk).unwrap() == wanted);
}

#[test]
fn writes_behind_the_end_grow_and_reads_there_are_short() {
    if !able(&[]) {
        return;
    }
    let store = TestStore::new();
    let disk = store.disk("vm1.img");
    let mut file = File::create_new(&disk).unwrap();
    file.write_all(b"start").unwrap();
    file.seek(SeekFrom::Start(1_000_000)).unwrap();
    file.write_all(b"end").unwrap();
    assert_eq!(disk.metadata().unwrap().len(), 1_000_003);
    let bytes = std::fs::read(&disk).unwrap();
    assert_eq!(
        (&bytes[..5], &bytes[1_000_000..]),
        (&b"start"[..], &b"end"[..])
    );
    assert!(bytes[5..1_000_000].iter().all(|byte| *byte == 0));
    let file = File::open(&disk).unwrap();
    let mut short = [1; 100];
    assert_eq!(file.read_at(&mut short, 999_990).unwrap(), 13);
    assert_eq!(file.read_at(&mut short, 1_000_003).unwrap(), 0);
    assert_eq!(file.read_at(&mut short, 1 << 50).unwrap(), 0);
}

#[test]
fn many_threads_and_many_opens() {
    if !able(&[]) {
        return;
    }
    let store = TestStore::new();
    let disk = store.make("vm1.img", 64 << 20);
    let opens: Vec<File> = (0..500).map(|_| File::open(&disk).unwrap()).collect();
    let disks = store.status()["disks"][0]["opens"].as_u64();
    assert_eq!(disks, Some(500));
    std::thread::scope(|scope| {
        for id in 0..16u64 {
            let (disk, opens) = (&disk, &opens);
            scope.spawn(move || {
                let file = OpenOptions::new().write(true).open(disk).unwrap();
                for turn in 0..100 {
                    // Neighbours of others in the same blocks and segments.
                    let at = turn * 16 * 3000 + id * 3000;
                    file.write_all_at(&noise(at, 3000), at).unwrap();
                    let mut back = vec![0; 3000];
                    opens[(at % 500) as usize]
                        .read_exact_at(&mut back, at)
                        .unwrap();
                    assert!(back == noise(at, 3000), "{at}");
                }
            });
        }
    });
    drop(opens);
    let sum = checksum(&disk);
    for at in (0..16 * 100 * 3000).step_by(3000) {
        assert!(read_at(&disk, at, 3000) == noise(at, 3000), "{at}");
    }
    store.flush();
    assert_eq!(checksum(&disk), sum);
}
