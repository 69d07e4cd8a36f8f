//! The mount when the daemon dies: its users get errors and do not hang, the next mount at the same
//! place serves again, and nothing is ever detached but what a dead daemon of ours left.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::{
    Loop, Mounted, Running, SNAPMARK, TestStore, able, execute, mounts, noise, read_at, run,
    run_failing, sh, text, wait_until, write_at,
};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::thread::CapabilitySet;
use snapmark::frontend::fuse::{DeadMount, Unmounter};

/// What is asked of a mount: by a file in it, or by its path.
type Request = fn(&File, &Path) -> io::Result<()>;

/// What a dead daemon's users are told: requests under way are aborted, later ones find nobody.
#[track_caller]
fn assert_dead<T>(what: &str, result: io::Result<T>) {
    let code = result.err().and_then(|error| error.raw_os_error());
    assert!(
        matches!(code, Some(libc::ENOTCONN | libc::ECONNABORTED)),
        "{what}: {code:?}"
    );
}

/// The types of what is mounted at a path, those that are covered first.
fn types_at(path: &Path) -> Vec<String> {
    let info = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let at = |line: &&str| line.split(' ').nth(4) == path.to_str();
    let kind = |line: &str| Some(line.split(" - ").nth(1)?.split(' ').next()?.to_owned());
    info.lines().filter(at).filter_map(kind).collect()
}

/// A mount of this type that nobody has ever served, as one whose daemon died.
fn orphan(kind: &str, at: &Path) {
    drop(connected(kind, at));
}

/// A mount of this type, and the daemon's end of it; a read from that does not wait.
fn connected(kind: &str, at: &Path) -> File {
    let mut options = File::options();
    let options = options.read(true).write(true);
    let fuse = options.custom_flags(libc::O_NONBLOCK).open("/dev/fuse");
    let fuse = fuse.unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&fuse);
    let data = format!("fd={fd},rootmode=40000,user_id=0,group_id=0");
    let data = std::ffi::CString::new(data).unwrap();
    rustix::mount::mount("orphan", at, kind, MountFlags::NODEV, Some(data.as_c_str())).unwrap();
    fuse
}

/// Takes away whatever is mounted at a path, asking nobody who should serve it.
fn take_away(at: &Path) {
    while rustix::mount::unmount(at, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_ok() {}
}

/// Does it without the right to unmount, as a user would who is not root. The helper has it.
fn without_rights<T: Send>(what: impl FnOnce() -> T + Send) -> T {
    let reduced = || {
        let mut rights = rustix::thread::capabilities(None).unwrap();
        rights.effective -= CapabilitySet::SYS_ADMIN;
        rustix::thread::set_capabilities(None, rights).unwrap();
        what()
    };
    std::thread::scope(|scope| scope.spawn(reduced).join().unwrap())
}

/// Whoever is mid-request when the daemon dies, whoever has a file open, and whoever comes later.
#[test]
fn users_of_a_dead_daemon_get_errors_and_do_not_hang() {
    if !able(&[]) {
        return;
    }
    let mut store = TestStore::new();
    let disk = store.make("vm1.img", 16 << 20);
    write_at(&disk, 0, &noise(1, 1 << 20));
    let open = || {
        let mut options = File::options();
        options.read(true).write(true).open(&disk).unwrap()
    };
    let (held, dir) = (open(), std::fs::read_dir(store.mnt()).unwrap());
    // All that the kernel waits for at once: writes, syncs, reads, names, commands.
    let requests: [(&str, Request); 7] = [
        ("write", |file, _| file.write_all_at(&[7; 8192], 4096)),
        ("big write", |file, _| {
            file.write_all_at(&vec![7; 4 << 20], 0)
        }),
        ("fsync", |file, _| file.sync_all()),
        ("read", |file, _| file.read_exact_at(&mut [0; 8192], 0)),
        ("create", |_, mnt| {
            File::create_new(mnt.join("new")).map(drop)
        }),
        ("list", |_, mnt| {
            std::fs::read_dir(mnt)?.try_for_each(|entry| entry.map(drop))
        }),
        ("command", |_, mnt| {
            std::fs::write(mnt.join(".control"), "snapshot vm1.img s\n")
        }),
    ];
    let mnt = store.mnt();
    let files: Vec<File> = requests.iter().map(|_| open()).collect();
    store.freeze();
    std::thread::scope(|scope| {
        let waiting: Vec<_> = requests
            .iter()
            .zip(&files)
            .map(|((_, request), file)| scope.spawn(|| request(file, &mnt)))
            .collect();
        std::thread::sleep(Duration::from_millis(300));
        let all_wait = waiting.iter().all(|it| !it.is_finished());
        store.kill9_only();
        wait_until("all have an answer", || {
            waiting.iter().all(|it| it.is_finished())
        });
        assert!(all_wait, "the stopped daemon has answered");
        for ((what, _), result) in requests.iter().zip(waiting) {
            assert_dead(what, result.join().unwrap());
        }
    });
    assert_dead("a handle from before", held.read_at(&mut [0; 10], 0));
    assert_dead("a sync on it", held.sync_all());
    assert_dead("a look", std::fs::metadata(&disk));
    assert_dead("the mountpoint", std::fs::metadata(&mnt));
    let mut direct = File::options();
    let direct = direct.read(true).custom_flags(libc::O_DIRECT);
    assert_dead("an open", direct.open(&disk));

    // A new daemon takes the place; what was open before stays dead, and harms nothing.
    store.mount();
    assert_eq!(types_at(&mnt), ["fuse.snapmark"]);
    assert!(read_at(&disk, 8 << 10, 4096) != [0; 4096]);
    assert_dead("the old handle", held.write_all_at(&[9; 4096], 0));
    drop((held, dir, files));
    store.control("snapshot vm1.img after\n").unwrap();
    store.unmount();
}

/// In the background, through a symbolic link, and over several dead ones: the next mount cleans.
#[test]
fn a_mount_on_a_dead_one_cleans_it_and_serves() {
    if !able(&[]) {
        return;
    }
    let mut store = TestStore::new();
    let disk = store.make("vm1.img", 1 << 20);
    write_at(&disk, 0, &noise(2, 100_000));
    store.kill9_only();
    orphan("fuse.snapmark", &store.mnt());
    assert_eq!(types_at(&store.mnt()).len(), 2);
    let link = store.dir().join("link");
    std::os::unix::fs::symlink("mnt", &link).unwrap();
    let (from, at) = (text(&store.store()), text(&link));
    run(SNAPMARK, ["mount", &from, &at]);
    assert_eq!(types_at(&store.mnt()), ["fuse.snapmark"]);
    assert!(read_at(&disk, 0, 100_000) == noise(2, 100_000));
    // Once more, killed by the number in the lock as an administrator would.
    sh(&format!("kill -9 $(cat {from}/lock)"));
    wait_until("it is dead", || std::fs::metadata(&disk).is_err());
    run(SNAPMARK, ["mount", &from, &format!("{at}/")]);
    assert!(read_at(&disk, 0, 100_000) == noise(2, 100_000));
    run(SNAPMARK, ["unmount", &at]);
    assert!(types_at(&store.mnt()).is_empty());
}

/// Until the new daemon can serve, the dead mount keeps people from writing into the directory
/// that it covers.
#[test]
fn a_dead_mount_stays_while_the_store_can_not_be_opened() {
    if !able(&[]) {
        return;
    }
    let mut store = TestStore::new();
    store.make("vm1.img", 4096);
    store.kill9_only();
    let settings = store.store().join("store.yaml");
    let good = std::fs::read(&settings).unwrap();
    std::fs::write(&settings, "nonsense: 1\n").unwrap();
    let arguments = || ["mount".into(), store.store(), store.mnt()];
    let (_, said) = run_failing(SNAPMARK, arguments());
    assert!(said.contains("nonsense"), "{said}");
    assert_eq!(types_at(&store.mnt()), ["fuse.snapmark"]);
    assert!(File::create_new(store.disk("lost.img")).is_err());
    std::fs::write(&settings, good).unwrap();
    store.mount();
    assert!(store.disk("vm1.img").exists() && !store.disk("lost.img").exists());
}

#[test]
fn unmount_takes_a_dead_mount_away_also_while_it_is_open() {
    if !able(&[]) {
        return;
    }
    let mut store = TestStore::new();
    let disk = store.make("vm1.img", 1 << 20);
    let open = File::open(&disk).unwrap();
    store.kill9_only();
    // The same store, served elsewhere meanwhile: an unmount of the dead one does not wait for it.
    let other = store.dir().join("other");
    std::fs::create_dir(&other).unwrap();
    let _away = common::Away(other.clone());
    run(SNAPMARK, ["mount".into(), store.store(), other.clone()]);
    let started = Instant::now();
    run(SNAPMARK, ["unmount".into(), store.mnt()]);
    assert!(started.elapsed() < Duration::from_secs(120), "it waited");
    assert!(types_at(&store.mnt()).is_empty());
    assert!(other.join("vm1.img").exists(), "the live one lives");
    assert_dead("the open file", open.metadata());
    let (code, said) = run_failing(SNAPMARK, ["unmount".into(), store.mnt()]);
    assert_eq!(code, 3, "{said}");
    run(SNAPMARK, ["unmount".into(), other]);
}

#[test]
fn nothing_but_a_dead_mount_of_ours_is_ever_detached() {
    if !able(&[]) {
        return;
    }
    let mut store = TestStore::new();
    let mnt = store.mnt();
    let mount = |store: &Path| execute(SNAPMARK, ["mount".into(), store.into(), mnt.clone()]).1;
    // A live one, asked for by another store and by the same.
    let second = TestStore::unmounted(&["--size", "64MiB"]);
    for from in [second.store(), store.store()] {
        let output = mount(&from);
        assert_eq!(output.status.code(), Some(5), "{output:?}");
    }
    let disk = store.make("vm1.img", 4096);
    // One that only does not answer just now, and is in use: it is not asked, and stays.
    let open = File::open(&disk).unwrap();
    store.freeze();
    let (code, said) = run_failing("timeout", ["20", SNAPMARK, "unmount", &text(&mnt)]);
    assert!(code == 5 && said.contains("in use"), "{code}: {said}");
    assert_eq!(types_at(&mnt), ["fuse.snapmark"]);
    store.kill9_only();
    drop(open);
    take_away(&mnt);

    // A file system of somebody else's, and a dead FUSE mount of somebody else's.
    sh(&format!(
        "mount -t tmpfs -o size=1M tmpfs {}",
        mnt.display()
    ));
    let (code, said) = run_failing(SNAPMARK, ["unmount".into(), mnt.clone()]);
    assert_eq!(
        (code, types_at(&mnt)),
        (3, vec!["tmpfs".to_owned()]),
        "{said}"
    );
    orphan("fuse.sshfs", &mnt);
    for words in [vec!["unmount"], vec!["unmount", "--lazy"]] {
        let words = words.into_iter().map(PathBuf::from).chain([mnt.clone()]);
        let (_, said) = run_failing(SNAPMARK, words);
        assert_eq!(types_at(&mnt), ["tmpfs", "fuse.sshfs"], "{said}");
    }
    let output = mount(&store.store());
    assert!(!output.status.success());
    assert_eq!(types_at(&mnt), ["tmpfs", "fuse.sshfs"]);
    sh(&format!("umount -l {}", mnt.display()));
    // Ours dead on top of theirs alive: ours goes, theirs is then mounted over, and comes back.
    orphan("fuse.snapmark", &mnt);
    store.mount();
    assert_eq!(types_at(&mnt), ["tmpfs", "fuse.snapmark"]);
    store.unmount();
    assert_eq!(types_at(&mnt), ["tmpfs"]);
    sh(&format!("umount {}", mnt.display()));
    assert!(mounts().iter().all(|at| *at != mnt));
}

/// Between the look and the detaching others may have cleaned up and mounted anew. Root detaches by a
/// descriptor, others have the helper do it, which takes a path.
#[test]
fn what_is_detached_is_the_mount_that_was_looked_at() {
    if !able(&[("fusermount3", "fuse3")]) {
        return;
    }
    let store = TestStore::nothing();
    let mnt = store.mnt();
    for helper in [false, true] {
        let detach = |dead: &DeadMount| match helper {
            false => dead.detach(),
            true => without_rights(|| dead.detach()),
        };
        orphan("fuse.snapmark", &mnt);
        let dead = DeadMount::at(&mnt).unwrap().expect("a dead mount");
        assert!(detach(&dead).unwrap());
        assert!(types_at(&mnt).is_empty());

        orphan("fuse.snapmark", &mnt);
        let dead = DeadMount::at(&mnt).unwrap().expect("a dead mount");
        take_away(&mnt);
        let live = connected("fuse.snapmark", &mnt);
        assert!(!detach(&dead).unwrap());
        assert_eq!(types_at(&mnt), ["fuse.snapmark"], "helper: {helper}");
        take_away(&mnt);
        drop(live);
    }
}

/// One that was mounted over the dead one since then is its child, and would go with it.
#[test]
fn what_covers_a_dead_mount_stays() {
    if !able(&[("fusermount3", "fuse3")]) {
        return;
    }
    let store = TestStore::nothing();
    let mnt = store.mnt();
    orphan("fuse.snapmark", &mnt);
    let dead = DeadMount::at(&mnt).unwrap().expect("a dead mount");
    let live = connected("fuse.snapmark", &mnt);
    for helper in [false, true] {
        let detached = match helper {
            false => dead.detach(),
            true => without_rights(|| dead.detach()),
        };
        assert!(!detached.unwrap());
        let both = ["fuse.snapmark", "fuse.snapmark"];
        assert_eq!(types_at(&mnt), both, "helper: {helper}");
    }
    take_away(&mnt);
    drop(live);
}

/// Once a connection is gone, the kernel gives its number to the next mount.
#[test]
fn a_late_abort_cuts_off_no_other_mount() {
    const INSIDE: &str = "SNAPMARK_TEST_INSIDE";
    if !able(&[("unshare", "util-linux")]) {
        return;
    }
    if std::env::var_os(INSIDE).is_none() {
        // The list of connections is to be there, whether this machine has it mounted or not.
        let mut inside = Command::new("unshare");
        inside.arg("-m").arg(std::env::current_exe().unwrap());
        inside.args(["--exact", "a_late_abort_cuts_off_no_other_mount"]);
        let output = inside.env(INSIDE, "1").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("1 passed"), "{said}");
        return;
    }
    let list = "/sys/fs/fuse/connections";
    rustix::mount::mount("none", list, "fusectl", MountFlags::empty(), None).unwrap();
    let store = TestStore::nothing();
    let (first, second) = (store.dir().join("first"), store.dir().join("second"));
    for dir in [&first, &second] {
        std::fs::create_dir(dir).unwrap();
    }
    let device_of = |at: &Path| {
        let mounted = snapmark::frontend::fuse::mounted_at(at).unwrap();
        mounted.unwrap().device
    };
    // The kernel's first request, or why there is none.
    let request = |mut fuse: &File| {
        let read = io::Read::read(&mut fuse, &mut [0; 1 << 18]);
        read.map_err(|error| error.raw_os_error())
    };
    // Others on this machine mount too.
    for _ in 0..100 {
        let fuse = connected("fuse.snapmark", &first);
        let (device, unmounter) = (device_of(&first), Unmounter::at(&first).unwrap());
        take_away(&first);
        drop(fuse);
        let fuse = connected("fuse.snapmark", &second);
        let reused = device_of(&second) == device;
        let aborted = unmounter.abort();
        let asked = request(&fuse);
        assert!(asked.is_ok(), "{asked:?}, after {aborted:?}");
        if reused {
            // Its own is one.
            Unmounter::at(&second).unwrap().abort().unwrap();
            assert!(request(&fuse).is_err());
        }
        take_away(&second);
        if reused {
            return;
        }
    }
    panic!("no number was used again");
}

/// Several at once want the place of a dead one: one gets it, and is not detached by the others.
#[test]
fn of_many_who_clean_at_once_one_serves() {
    if !able(&[]) {
        return;
    }
    let mut store = TestStore::new();
    store.make("vm1.img", 4096);
    for _ in 0..3 {
        store.kill9_only();
        let (from, at) = (store.store(), store.mnt());
        let codes: Vec<i32> = std::thread::scope(|scope| {
            let one = || execute(SNAPMARK, ["mount".into(), from.clone(), at.clone()]).1;
            let all: Vec<_> = (0..4).map(|_| scope.spawn(one)).collect();
            let codes = all.into_iter().map(|one| one.join().unwrap().status);
            codes.map(|status| status.code().unwrap()).collect()
        });
        let served = codes.iter().filter(|code| **code == 0).count();
        assert_eq!(served, 1, "{codes:?}");
        assert!(codes.iter().all(|code| [0, 5].contains(code)), "{codes:?}");
        assert_eq!(types_at(&at), ["fuse.snapmark"]);
        assert!(store.disk("vm1.img").exists());
        run(SNAPMARK, ["unmount".into(), at]);
        store.mount();
    }
}

/// A file system on a loop device on a disk: its I/O fails, it can be taken down, and after the
/// next mount all that was synced is there.
#[test]
fn a_loop_device_over_a_dead_daemon_fails_and_can_be_taken_down() {
    if !able(&[("mkfs.ext4", "e2fsprogs"), ("e2fsck", "e2fsprogs")]) {
        return;
    }
    let mut store = TestStore::new();
    let disk = store.make("vm1.img", 64 << 20);
    run("mkfs.ext4", ["-q", "-F", &text(&disk)]);
    let looped = Loop::over(&disk);
    let fs = Mounted::new(looped.device(), store.dir().join("fs"), "noatime");
    let kept = fs.path().join("kept");
    std::fs::write(&kept, noise(3, 1 << 20)).unwrap();
    File::open(&kept).unwrap().sync_all().unwrap();
    let busy = fs.path().join("busy");
    // Its syncs are under way when the daemon dies.
    let line = format!(
        "while dd if=/dev/zero of={0} bs=64k count=64 conv=fsync status=none; do :; done",
        busy.display()
    );
    let mut writer = Running::sh(&line);
    std::thread::sleep(Duration::from_millis(500));
    store.freeze();
    std::thread::sleep(Duration::from_millis(300));
    store.kill9_only();
    wait_until("the writer got an error", || !writer.runs());
    let mut direct = File::options();
    let direct = direct.read(true).custom_flags(libc::O_DIRECT);
    let device = direct.open(looped.device());
    let mut page = Box::new(Page([0; 4096]));
    let read = device.and_then(|device| device.read_at(&mut page.0, 32 << 20));
    assert_eq!(
        read.err().and_then(|error| error.raw_os_error()),
        Some(libc::EIO)
    );
    fs.unmount();
    drop(looped);
    store.mount();
    let looped = Loop::over(&disk);
    let fs = Mounted::new(looped.device(), store.dir().join("fs"), "noatime");
    assert!(std::fs::read(fs.path().join("kept")).unwrap() == noise(3, 1 << 20));
    fs.unmount();
    looped.detach();
    run("e2fsck", ["-fn", &text(&disk)]);
}

/// Memory as direct I/O wants it.
#[repr(align(4096))]
struct Page([u8; 4096]);
