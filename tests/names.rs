//! Names and attributes: what makes, shows, renames and deletes disks and snapshots in a mount.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use common::{TestStore, able, noise, read_at, sh, text, write_at};
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

fn errno<T>(result: io::Result<T>) -> Option<Errno> {
    result.err().and_then(|error| Errno::from_io_error(&error))
}

fn names(store: &TestStore) -> Vec<String> {
    let entries = fs::read_dir(store.mnt()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
    names.sort();
    names
}

#[test]
fn disks_are_made_by_whatever_makes_files() {
    if !able(&[]) {
        return;
    }
    let store = TestStore::new();
    let (mnt, dir) = (store.mnt(), store.dir().to_owned());
    let (mnt, dir) = (mnt.display(), dir.display());
    sh(&format!(
        "umask 027; touch {mnt}/touch.img; truncate -s 3G {mnt}/truncate.img;
         head -c 70000 /dev/urandom > {dir}/source; cp {dir}/source {mnt}/cp.img;
         dd if={dir}/source of={mnt}/dd.img status=none; cmp {dir}/source {mnt}/cp.img;
         cmp {dir}/source {mnt}/dd.img; cat {dir}/source > {mnt}/shell.img;
         cmp {dir}/source {mnt}/shell.img; mv {dir}/source {mnt}/mv.img; : > {mnt}/Größe"
    ));
    let made = [
        "Größe",
        "cp.img",
        "dd.img",
        "mv.img",
        "shell.img",
        "touch.img",
        "truncate.img",
    ];
    let mut listed = names(&store);
    listed.sort_by_key(|name| name.replace("Größe", "A"));
    assert_eq!(listed, made);
    let meta = store.disk("touch.img").metadata().unwrap();
    assert_eq!((meta.mode(), meta.len(), meta.blocks()), (0o100_640, 0, 0));
    assert_eq!(
        store.disk("truncate.img").metadata().unwrap().len(),
        3 << 30
    );
    // Exclusive making fails on what is there.
    assert_eq!(
        errno(File::create_new(store.disk("cp.img"))),
        Some(Errno::EXIST)
    );
    assert_eq!(errno(fs::create_dir(store.disk("d"))), Some(Errno::PERM));
    assert!(std::os::unix::fs::symlink("a", store.disk("l")).is_err());
    assert!(fs::hard_link(store.disk("cp.img"), store.disk("l")).is_err());
    sh(&format!("mkfifo {mnt}/p 2>/dev/null && exit 1 || true"));
    assert_eq!(names(&store).len(), made.len());
}

#[test]
fn names_that_can_not_be_are_refused() {
    if !able(&[]) {
        return;
    }
    let store = TestStore::new();
    store.make("vm1.img", 4096);
    for bad in [".hidden", "a@b", "a,b", "a b", "-a", "a\nb"] {
        assert_eq!(
            errno(File::create(store.disk(bad))),
            Some(Errno::INVAL),
            "{bad:?}"
        );
        let renamed = fs::rename(store.disk("vm1.img"), store.disk(bad));
        assert_eq!(errno(renamed), Some(Errno::INVAL), "{bad:?}");
    }
    let long = "x".repeat(256);
    assert_eq!(
        errno(File::create(store.disk(&long))),
        Some(Errno::NAMETOOLONG)
    );
    store.make(&long[..255], 4096);
    for own in [".control", ".stats", ".status"] {
        assert!(fs::remove_file(store.disk(own)).is_err(), "{own}");
        assert!(
            fs::rename(store.disk(own), store.disk("x")).is_err(),
            "{own}"
        );
        assert!(
            fs::rename(store.disk("vm1.img"), store.disk(own)).is_err(),
            "{own}"
        );
    }
    assert_eq!(names(&store), ["vm1.img", &long[..255]]);
}

#[test]
fn disks_are_renamed_also_over_one_another() {
    if !able(&[]) {
        return;
    }
    let mut store = TestStore::new();
    for (name, seed) in [("a", 1), ("b", 2), ("c", 3)] {
        write_at(&store.make(name, 1 << 20), 0, &noise(seed, 100_000));
    }
    let kept = |name: &str, seed| read_at(&store.disk(name), 0, 100_000) == noise(seed, 100_000);
    // A handle goes with its disk.
    let open = File::options()
        .read(true)
        .write(true)
        .open(store.disk("a"))
        .unwrap();
    fs::rename(store.disk("a"), store.disk("d")).unwrap();
    assert!(kept("d", 1) && !store.disk("a").exists());
    open.write_all_at(&noise(1, 100_000), 0).unwrap();
    drop(open);
    fs::rename(store.disk("d"), store.disk("b")).unwrap();
    assert!(kept("b", 1));
    assert_eq!(names(&store), ["b", "c"]);
    let to = |from: &str, to: &str, flags| {
        rustix::fs::renameat_with(CWD, store.disk(from), CWD, store.disk(to), flags)
    };
    assert_eq!(to("b", "c", RenameFlags::NOREPLACE), Err(Errno::EXIST));
    assert_eq!(to("b", "e", RenameFlags::NOREPLACE), Ok(()));
    assert_eq!(to("e", "c", RenameFlags::EXCHANGE), Err(Errno::INVAL));
    let gone = fs::rename(store.disk("nothing"), store.disk("x"));
    assert_eq!(errno(gone), Some(Errno::NOENT));
    assert!(kept("e", 1) && kept("c", 3));
    store.snapshot("c", "s");
    fs::rename(store.disk("c"), store.disk("f")).unwrap();
    assert_eq!(names(&store), ["e", "f", "f@s"]);
    store.remount();
    assert_eq!(names(&store), ["e", "f", "f@s"]);
    assert!(read_at(&store.disk("f@s"), 0, 100_000) == noise(3, 100_000));
}

#[test]
fn a_deleted_disk_lives_until_it_is_closed() {
    if !able(&[]) {
        return;
    }
    let mut store = TestStore::new();
    let empty = store.used();
    let disk = store.make("vm1.img", 64 << 20);
    write_at(&disk, 0, &noise(1, 16 << 20));
    store.flush();
    let open = File::options().read(true).write(true).open(&disk).unwrap();
    fs::remove_file(&disk).unwrap();
    assert!(!disk.exists());
    assert_eq!(open.metadata().unwrap().nlink(), 0);
    open.write_all_at(&noise(2, 5000), 777).unwrap();
    let mut bytes = vec![0; 5000];
    open.read_exact_at(&mut bytes, 777).unwrap();
    assert!(bytes == noise(2, 5000));
    // Its name is free for another.
    let other = store.make("vm1.img", 4096);
    assert!(read_at(&other, 0, 4096) == [0; 4096]);
    assert!(store.used() > empty + (15 << 20));
    drop(open);
    common::wait_until("the space is back", || store.used() < empty + (1 << 20));
    // One that was open when the daemon died is gone too.
    let lost = store.make("lost.img", 64 << 20);
    write_at(&lost, 0, &noise(1, 8 << 20));
    let open = File::open(&lost).unwrap();
    fs::remove_file(&lost).unwrap();
    store.kill9();
    drop(open);
    store.mount();
    assert_eq!(names(&store), ["vm1.img"]);
    common::wait_until("the space is back", || store.used() < empty + (1 << 20));
}

#[test]
fn mode_owner_and_times_outlive_the_daemon() {
    if !able(&[]) {
        return;
    }
    let mut store = TestStore::new();
    let disk = store.make("vm1.img", 1 << 20);
    fs::set_permissions(&disk, Permissions::from_mode(0o4751)).unwrap();
    std::os::unix::fs::chown(&disk, Some(1234), Some(4321)).unwrap();
    fs::set_permissions(&disk, Permissions::from_mode(0o751)).unwrap();
    let at = SystemTime::UNIX_EPOCH + Duration::new(1_234_567_890, 123_456_789);
    let old = SystemTime::UNIX_EPOCH - Duration::new(86_400, 0);
    let times = fs::FileTimes::new().set_accessed(old).set_modified(at);
    File::options()
        .write(true)
        .open(&disk)
        .unwrap()
        .set_times(times)
        .unwrap();
    let seen = || {
        let meta = disk.metadata().unwrap();
        let owner = (meta.mode(), meta.uid(), meta.gid());
        (
            owner,
            meta.modified().unwrap(),
            meta.accessed().unwrap(),
            meta.ctime(),
        )
    };
    let before = seen();
    assert_eq!(before.0, (0o100_751, 1234, 4321));
    assert_eq!((before.1, before.2), (at, old));
    store.remount();
    assert_eq!(seen(), before);
    store.kill9();
    store.mount();
    assert_eq!(seen(), before);
    write_at(&disk, 0, b"x");
    let age = SystemTime::now().duration_since(disk.metadata().unwrap().modified().unwrap());
    assert!(
        age.unwrap_or_default() < Duration::from_secs(60),
        "a write sets the time"
    );
}

#[test]
fn a_snapshot_does_not_change() {
    if !able(&[]) {
        return;
    }
    let store = TestStore::new();
    let disk = store.make("vm1.img", 1 << 20);
    fs::set_permissions(&disk, Permissions::from_mode(0o666)).unwrap();
    write_at(&disk, 0, &noise(1, 100_000));
    store.snapshot("vm1.img", "a");
    let snapshot = store.disk("vm1.img@a");
    let rofs = Some(Errno::ROFS);
    assert_eq!(snapshot.metadata().unwrap().mode(), 0o100_444);
    assert_eq!(errno(OpenOptions::new().write(true).open(&snapshot)), rofs);
    assert_eq!(errno(OpenOptions::new().append(true).open(&snapshot)), rofs);
    assert_eq!(errno(File::create(&snapshot)), rofs);
    let mode = |mode| fs::set_permissions(&snapshot, Permissions::from_mode(mode));
    assert_eq!(errno(mode(0o644)), rofs);
    assert_eq!(
        errno(std::os::unix::fs::chown(&snapshot, Some(1), None)),
        rofs
    );
    let (_, said) = common::run_failing("truncate", ["-s", "0", &text(&snapshot)]);
    assert!(said.contains("Read-only"), "{said}");
    let (_, said) = common::run_failing("touch", [&snapshot]);
    assert!(said.contains("Read-only"), "{said}");
    write_at(&disk, 0, &noise(2, 100_000));
    assert!(read_at(&snapshot, 0, 100_000) == noise(1, 100_000));
}

#[test]
fn snapshots_are_renamed_and_deleted_as_files() {
    if !able(&[]) {
        return;
    }
    let mut store = TestStore::new();
    let disk = store.make("vm1.img", 1 << 20);
    for (seed, name) in ["a", "b", "c"].into_iter().enumerate() {
        write_at(&disk, 0, &noise(seed as u64, 10_000));
        store.snapshot("vm1.img", name);
    }
    let at = |name: &str| store.disk(&format!("vm1.img@{name}"));
    fs::rename(at("b"), at("before")).unwrap();
    // Not to another disk, nor into a disk, nor a disk into a snapshot.
    assert_eq!(
        errno(fs::rename(at("a"), store.disk("other@a"))),
        Some(Errno::INVAL)
    );
    assert_eq!(
        errno(fs::rename(at("a"), store.disk("new"))),
        Some(Errno::INVAL)
    );
    assert_eq!(errno(fs::rename(&disk, at("d"))), Some(Errno::INVAL));
    let open = File::open(at("c")).unwrap();
    fs::remove_file(at("c")).unwrap();
    let mut bytes = vec![0; 10_000];
    open.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == noise(2, 10_000), "readable until it is closed");
    drop(open);
    assert_eq!(errno(fs::remove_file(at("c"))), Some(Errno::NOENT));
    // Snapshots outlive their disk.
    fs::remove_file(&disk).unwrap();
    store.remount();
    assert_eq!(names(&store), ["vm1.img@a", "vm1.img@before"]);
    let read = |name: &str| read_at(&store.disk(&format!("vm1.img@{name}")), 0, 10_000);
    assert!(read("a") == noise(0, 10_000) && read("before") == noise(1, 10_000));
}

#[test]
fn a_snapshot_appears_to_whoever_looked_for_it_in_vain() {
    if !able(&[]) {
        return;
    }
    let store = TestStore::new();
    let disk = store.make("vm1.img", 1 << 20);
    for turn in 0..100 {
        let snapshot = store.disk(&format!("vm1.img@{turn}"));
        assert!(!snapshot.exists());
        assert!(File::open(&snapshot).is_err());
        write_at(&disk, 0, &[turn; 4096]);
        store.snapshot("vm1.img", &turn.to_string());
        assert!(read_at(&snapshot, 0, 4096) == [turn; 4096]);
        fs::remove_file(&snapshot).unwrap();
        assert!(!snapshot.exists());
    }
}

#[test]
fn a_thousand_disks_in_one_mount() {
    if !able(&[]) {
        return;
    }
    let mut store = TestStore::new();
    let name = |number: u64| format!("disk{number:04}.img");
    std::thread::scope(|scope| {
        for part in 0..4 {
            let store = &store;
            scope.spawn(move || {
                for number in (0..1000).filter(|number| number % 4 == part) {
                    let disk = store.make(&name(number), 10 << 30);
                    write_at(&disk, number << 20, &noise(number, 5000));
                }
            });
        }
    });
    let check = |store: &TestStore| {
        let wanted: Vec<String> = (0..1000).map(name).collect();
        assert_eq!(names(store), wanted);
        for number in 0..1000 {
            let disk = store.disk(&name(number));
            assert!(
                read_at(&disk, number << 20, 5000) == noise(number, 5000),
                "{number}"
            );
        }
    };
    check(&store);
    store.remount();
    check(&store);
    store.kill9();
    store.mount();
    check(&store);
}

/// The mount looks as the directory under it does.
#[test]
fn df_shows_the_pool() {
    if !able(&[]) {
        return;
    }
    let store = TestStore::with(&["--size", "1GiB"]);
    let df = || {
        let line = sh(&format!(
            "df -B1 --output=size,used,avail {} | tail -1",
            store.mnt().display()
        ));
        let numbers = line.split_whitespace().map(|word| word.parse().unwrap());
        numbers.collect::<Vec<u64>>()
    };
    let empty = df();
    assert!(empty[0] > 1000 << 20 && empty[0] <= 1 << 30, "{empty:?}");
    write_at(&store.make("vm1.img", 1 << 40), 0, &noise(1, 32 << 20));
    let full = df();
    assert_eq!(full[0], empty[0]);
    let used = full[1] - empty[1];
    assert!((32 << 20..40 << 20).contains(&used), "{used}");
    assert_eq!(full[0], full[1] + full[2]);
    store.flush();
    assert_eq!(
        common::allocated(Path::new(&store.disk("vm1.img"))),
        32 << 20
    );
}
