//! Commands to a mounted store, by `.control` and by the program, and what stops a store from
//! being mounted.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::fs::{self, File};
use std::io;
use std::path::Path;

use common::{
    Loop, Mounted, SNAPMARK, TestStore, able, checksum, execute, noise, read_at, run, run_failing,
    sh, text, write_at,
};
use rustix::io::Errno;

fn errno<T>(result: io::Result<T>) -> Option<Errno> {
    result.err().and_then(|error| Errno::from_io_error(&error))
}

/// The program's exit code and words where it fails.
#[track_caller]
fn refused<const N: usize>(arguments: [&str; N]) -> (i32, String) {
    run_failing(SNAPMARK, arguments)
}

#[test]
fn a_bad_line_fails_the_write_with_its_errno() {
    if !able(&[]) {
        return;
    }
    let store = TestStore::new();
    let disk = store.make("vm1.img", 1 << 20);
    store.snapshot("vm1.img", "a");
    let fails = |line: &str| errno(store.control(line));
    for (line, wanted) in [
        ("snapshto vm1.img", Errno::INVAL),
        ("snapshot", Errno::INVAL),
        ("snapshot vm1.img a/b", Errno::INVAL),
        ("snapshot none.img x", Errno::NOENT),
        ("snapshot vm1.img,none.img x", Errno::NOENT),
        ("snapshot vm1.img a", Errno::EXIST),
        ("delete vm1.img@none", Errno::NOENT),
        ("delete none.img", Errno::NOENT),
        ("rename vm1.img@a vm1.img@.x", Errno::INVAL),
        ("rollback vm1.img@none", Errno::NOENT),
        ("clone vm1.img@a vm1.img", Errno::EXIST),
        ("clone vm1.img@none new.img", Errno::NOENT),
        ("resize vm1.img much", Errno::INVAL),
        ("resize none.img 1GiB", Errno::NOENT),
        ("resize vm1.img 10000TiB", Errno::FBIG),
        ("priority vm1.img 256", Errno::INVAL),
        ("device-add /nowhere/at/all", Errno::INVAL),
    ] {
        assert_eq!(fails(line), Some(wanted), "{line}");
    }
    // Nothing came of them.
    let files = fs::read_dir(store.mnt()).unwrap().count();
    assert_eq!(files, 3 + 2);
    let open = File::open(&disk).unwrap();
    assert_eq!(fails("rollback vm1.img@a"), Some(Errno::BUSY));
    drop(open);
    let long = format!("snapshot vm1.img {}", "x".repeat(300));
    assert_eq!(fails(&long), Some(Errno::NAMETOOLONG));

    let history = fs::read_to_string(store.disk(".control")).unwrap();
    for said in [
        "snapshot vm1.img a",
        "did you mean: snapshot",
        "none.img",
        "EEXIST",
        "EBUSY",
    ] {
        assert!(history.contains(said), "{said:?} is not in:\n{history}");
    }
    // As a shell gives them.
    sh(&format!(
        "echo 'snapshot vm1.img shell' > {}",
        store.disk(".control").display()
    ));
    assert!(store.disk("vm1.img@shell").exists());
    sh(&format!(
        "echo 'snapshot vm1.img' >> {}",
        store.disk(".control").display()
    ));
    assert!(
        fs::read_to_string(store.disk(".stats"))
            .unwrap()
            .contains("# TYPE")
    );
    assert!(
        fs::read_to_string(store.disk(".status"))
            .unwrap()
            .contains("state: ok")
    );
}

#[test]
fn the_verbs_do_what_they_say() {
    if !able(&[]) {
        return;
    }
    let mut store = TestStore::new();
    let (disk, other) = (
        store.make("vm1.img", 1 << 20),
        store.make("db.img", 1 << 20),
    );
    let path = |name: &str| text(&store.disk(name));
    let (vm, db) = (path("vm1.img"), path("db.img"));
    write_at(&disk, 0, &noise(1, 100_000));
    write_at(&other, 0, &noise(2, 100_000));
    run(SNAPMARK, ["snapshot", &vm, &db, "nightly"]);
    write_at(&disk, 0, &noise(3, 100_000));
    run(SNAPMARK, ["snapshot", &vm]);
    let json = |arguments: &[&str]| -> serde_json::Value {
        serde_json::from_str(&run(SNAPMARK, arguments)).unwrap()
    };
    let list = json(&["list", "--json", &text(&store.mnt())]);
    let disks: Vec<_> = list["disks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|disk| &disk["name"])
        .collect();
    assert_eq!(disks, ["db.img", "vm1.img"]);
    assert_eq!(list["snapshots"].as_array().unwrap().len(), 3);
    assert_eq!(list["disks"][1]["size"], 1 << 20);
    let shown = run(SNAPMARK, ["list", &vm]);
    assert!(
        shown.contains("nightly") && !shown.contains("db.img"),
        "{shown}"
    );
    let status = json(&["status", "--json", &text(&store.mnt())]);
    assert_eq!(status["state"], "ok");
    assert!(run(SNAPMARK, ["status", &text(&store.mnt())]).contains("ok"));

    run(SNAPMARK, ["clone", &path("vm1.img@nightly"), "clone.img"]);
    assert!(read_at(&store.disk("clone.img"), 0, 100_000) == noise(1, 100_000));
    write_at(&store.disk("clone.img"), 0, &noise(4, 5000));
    assert!(read_at(&store.disk("vm1.img@nightly"), 0, 5000) == noise(1, 100_000)[..5000]);

    let open = File::open(&disk).unwrap();
    let (code, said) = refused(["rollback", &path("vm1.img@nightly")]);
    assert!(code == 5 && said.contains("open"), "{code} {said}");
    run(SNAPMARK, ["rollback", "--force", &path("vm1.img@nightly")]);
    assert!(read_at(&disk, 0, 100_000) == noise(1, 100_000));
    drop(open);
    run(SNAPMARK, ["rollback", &path("vm1.img@nightly")]);

    run(SNAPMARK, ["resize", &vm, "3GiB"]);
    assert_eq!(disk.metadata().unwrap().len(), 3 << 30);
    run(SNAPMARK, ["rename", &vm, "web.img"]);
    run(SNAPMARK, ["rename", &path("web.img@nightly"), "before"]);
    run(SNAPMARK, ["priority", &path("web.img"), "9"]);
    run(SNAPMARK, ["flush", &text(&store.mnt())]);
    run(
        SNAPMARK,
        ["delete", &path("web.img@before"), &path("db.img")],
    );
    assert!(!store.disk("web.img@before").exists() && store.disk("db.img@nightly").exists());
    assert!(read_at(&store.disk("clone.img"), 5000, 5000) == noise(1, 10_000)[5000..]);

    for (arguments, code) in [
        (["delete", &path("none.img")], 3),
        (["delete", &path("web.img@none")], 3),
        (["rollback", "/tmp/not-there@a"], 3),
        (["unmount", &text(store.dir())], 3),
    ] {
        assert_eq!(refused(arguments).0, code, "{arguments:?}");
    }
    assert_eq!(refused(["snapshot", &path("web.img"), "a/b", "c"]).0, 3);
    assert_eq!(refused(["snapshot", &path("web.img"), "--name", "@"]).0, 2);
    store.remount();
    assert!(read_at(&store.disk("web.img"), 0, 100_000) == noise(1, 100_000));
}

#[test]
fn snapshots_are_deleted_in_any_order() {
    if !able(&[]) {
        return;
    }
    let mut store = TestStore::new();
    let disk = store.make("vm1.img", 8 << 20);
    let empty = store.used();
    for turn in 0..12 {
        write_at(&disk, turn * 300_000, &noise(turn, 400_000));
        store.snapshot("vm1.img", &format!("s{turn}"));
    }
    let mnt = store.mnt();
    let all = |turn: u64| checksum(&mnt.join(format!("vm1.img@s{turn}")));
    let mut left: Vec<(u64, u32)> = (0..12).map(|turn| (turn, all(turn))).collect();
    for turn in [5, 0, 11, 6, 3, 4] {
        store.control(&format!("delete vm1.img@s{turn}")).unwrap();
        left.retain(|(name, _)| *name != turn);
        for (name, sum) in &left {
            assert_eq!(all(*name), *sum, "s{name} after s{turn} was deleted");
        }
    }
    store.remount();
    for (name, sum) in left {
        assert_eq!(all(name), sum);
        fs::remove_file(store.disk(&format!("vm1.img@s{name}"))).unwrap();
    }
    fs::remove_file(disk).unwrap();
    common::wait_until("all space is back", || {
        store.flush();
        store.used() <= empty
    });
}

#[test]
fn a_device_is_added_while_mounted() {
    if !able(&[]) {
        return;
    }
    let mut store = TestStore::with(&["--size", "64MiB"]);
    let disk = text(&store.disk("vm1.img"));
    let fill = format!("dd if=/dev/urandom of={disk} bs=1M count=200 status=none");
    let (_, said) = run_failing("sh", ["-c", &fill]);
    assert!(said.contains("No space left"), "{said}");
    let more = store.dir().join("more");
    let mnt = text(&store.mnt());
    run(
        SNAPMARK,
        ["device", "add", &mnt, &format!("{}:512MiB", more.display())],
    );
    sh(&fill);
    // A block device too.
    let raw = store.dir().join("raw");
    File::create(&raw).unwrap().set_len(256 << 20).unwrap();
    let device = Loop::with(&raw, &[]);
    run(SNAPMARK, ["device", "add", &mnt, device.device()]);
    let list: serde_json::Value =
        serde_json::from_str(&run(SNAPMARK, ["device", "list", "--json", &mnt])).unwrap();
    let list = list
        .as_array()
        .or_else(|| list["devices"].as_array())
        .unwrap();
    assert_eq!(list.len(), 3, "{list:?}");
    let again = refused(["device", "add", &mnt, device.device()]);
    assert_eq!(again.0, 4, "{}", again.1);
    let tiny = store.dir().join("tiny");
    let (code, said) = refused(["device", "add", &mnt, &format!("{}:64KiB", tiny.display())]);
    assert!(code == 2 && said.contains("too small"), "{code}: {said}");
    assert!(!tiny.exists(), "nothing is left of what was refused");
    // What holds something else is not taken.
    let taken = store.dir().join("taken.img");
    sh(&format!(
        "truncate -s 64M {0}; mkfs.ext4 -q -F {0}",
        text(&taken)
    ));
    let (_, said) = refused(["device", "add", &mnt, &text(&taken)]);
    assert!(said.contains("ext"), "{said}");
    let sum = common::checksum(&store.disk("vm1.img"));
    store.remount();
    assert_eq!(common::checksum(&store.disk("vm1.img")), sum);
    store.unmount();
    drop(device);
}

#[test]
fn devices_added_at_once_get_numbers_of_their_own() {
    if !able(&[]) {
        return;
    }
    let mut store = TestStore::with(&["--size", "64MiB"]);
    std::thread::scope(|scope| {
        for number in 0..6 {
            let store = &store;
            let path = store.dir().join(format!("more{number}"));
            let line = format!("device-add {}:64MiB", path.display());
            scope.spawn(move || store.control(&line).unwrap());
        }
    });
    assert_eq!(store.status()["devices"].as_array().unwrap().len(), 7);
    store.remount();
    assert_eq!(store.status()["devices"].as_array().unwrap().len(), 7);
}

#[test]
fn in_the_background_until_it_is_unmounted() {
    if !able(&[]) {
        return;
    }
    let store = TestStore::unmounted(&["--size", "1GiB"]);
    let (dir, mnt) = (text(&store.store()), text(&store.mnt()));
    run(SNAPMARK, ["mount", &dir, &mnt]);
    let disk = store.make("vm1.img", 1 << 20);
    write_at(&disk, 0, &noise(1, 9999));

    let other = store.dir().join("other");
    fs::create_dir(&other).unwrap();
    let (code, said) = refused(["mount", &dir, &text(&other)]);
    assert!(
        code == 5 && said.contains("in use by process"),
        "{code}: {said}"
    );
    let (code, said) = refused(["mount", &dir, &mnt]);
    assert!(
        code == 5 && said.contains("mounted already"),
        "{code}: {said}"
    );
    // Two stores at once do not know of each other.
    let second = TestStore::new();
    second.make("x", 4096);

    let open = File::open(&disk).unwrap();
    let (code, said) = refused(["unmount", &mnt]);
    assert_eq!(code, 5, "{said}");
    assert!(
        said.contains(&format!("({})", std::process::id())),
        "{said}"
    );
    drop(open);
    let device = Loop::over(&disk);
    let (code, said) = refused(["unmount", &mnt]);
    assert!(
        code == 5 && said.contains(device.device()),
        "{code}: {said}"
    );
    device.detach();
    run(SNAPMARK, ["unmount", &mnt]);
    assert!(!store.disk(".control").exists());
    // The daemon is gone with it: the store can be had at once.
    run(SNAPMARK, ["mount", &dir, &mnt]);
    assert!(read_at(&disk, 0, 9999) == noise(1, 9999));
    sh(&format!("umount {mnt}"));
    common::wait_until("umount ends the daemon", || {
        execute(SNAPMARK, ["mount", &dir, &mnt]).1.status.success()
    });
    run(SNAPMARK, ["unmount", &mnt]);
}

/// Why a store is not mounted; it is as it was after that.
#[track_caller]
fn not_mounted(store: &TestStore) -> String {
    let (dir, mnt) = (text(&store.store()), text(&store.mnt()));
    let in_front = refused(["mount", "-f", &dir, &mnt]);
    let behind = refused(["mount", &dir, &mnt]);
    assert_eq!(in_front, behind, "the same in the background");
    assert!(!store.disk(".control").exists());
    behind.1
}

#[test]
fn what_is_wrong_with_a_store_is_said_before_it_is_mounted() {
    if !able(&[]) {
        return;
    }
    let mut store = TestStore::unmounted(&["--size", "1GiB"]);
    // Settings.
    let settings = store.store().join("store.yaml");
    let good = fs::read_to_string(&settings).unwrap();
    fs::write(
        &settings,
        good.replace("  #interval: 1s", "  intervall: 1s"),
    )
    .unwrap();
    let said = not_mounted(&store);
    assert!(
        said.contains("intervall") && said.contains("interval"),
        "{said}"
    );
    let line = good
        .lines()
        .position(|line| line.contains("#interval: 1s"))
        .unwrap()
        + 1;
    assert!(
        said.contains(&format!("store.yaml:{line}:3")),
        "{line}: {said}"
    );
    fs::write(
        &settings,
        good.replace("  #interval: 1s", "  interval: soon"),
    )
    .unwrap();
    let said = not_mounted(&store);
    assert!(said.contains(&format!("store.yaml:{line}:")), "{said}");
    fs::write(&settings, &good).unwrap();

    // No store.
    let empty = store.dir().join("empty");
    fs::create_dir(&empty).unwrap();
    let (code, said) = refused(["mount", &text(&empty), &text(&store.mnt())]);
    assert!(
        code == 3 && said.contains("snapmark init"),
        "{code}: {said}"
    );
    let (code, said) = refused(["mount", &text(&store.store()), "/nowhere"]);
    assert!(code == 3 && said.contains("mkdir"), "{code}: {said}");
    let (_, said) = refused(["init", &text(&store.store())]);
    assert!(said.contains("is a store already"), "{said}");

    // A device that is missing, and one of another store.
    let pool = pool_of(&store);
    fs::rename(&pool, store.dir().join("away")).unwrap();
    let said = not_mounted(&store);
    assert!(said.contains(&text(&pool)), "{said}");
    assert!(!pool.exists(), "nothing was made in its place");
    let other = TestStore::unmounted(&["--size", "1GiB"]);
    let before = common::checksum(&pool_of(&other));
    fs::rename(pool_of(&other), &pool).unwrap();
    let said = not_mounted(&store);
    assert!(
        said.contains(&text(&pool)) || said.contains("another store"),
        "{said}"
    );
    assert_eq!(common::checksum(&pool), before, "the other's is left alone");
    fs::rename(store.dir().join("away"), &pool).unwrap();

    store.mount();
    store.make("vm1.img", 4096);
    store.unmount();
}

/// The only device of a store.
fn pool_of(store: &TestStore) -> std::path::PathBuf {
    let entries = fs::read_dir(store.store()).unwrap();
    let mut paths = entries.map(|entry| entry.unwrap().path());
    paths
        .find(|path| path.metadata().unwrap().len() == 1 << 30)
        .unwrap()
}

#[test]
fn a_store_on_a_read_only_file_system_is_refused() {
    if !able(&[("mkfs.ext4", "e2fsprogs")]) {
        return;
    }
    let store = TestStore::nothing();
    let image = store.dir().join("image");
    sh(&format!(
        "truncate -s 256M {0}; mkfs.ext4 -q -F {0}",
        text(&image)
    ));
    let host = Mounted::new(&image, store.store(), "loop");
    let at = store.store().join("s");
    run(
        SNAPMARK,
        [
            "init",
            &text(&at),
            "--size",
            "1GiB",
            "--journal-size",
            "8MiB",
        ],
    );
    host.unmount();
    let host = Mounted::new(&image, store.store(), "ro,loop");
    let (code, said) = refused(["mount", &text(&at), &text(&store.mnt())]);
    assert!(said.contains("ead-only file system"), "{code}: {said}");
    host.unmount();
    let host = Mounted::new(&image, store.store(), "loop");
    run(SNAPMARK, ["mount", &text(&at), &text(&store.mnt())]);
    write_at(&store.make("vm1.img", 1 << 20), 0, b"x");
    run(SNAPMARK, ["unmount", &text(&store.mnt())]);
    host.unmount();
}

/// All of it as nobody, who has no rights but to `/dev/fuse`.
#[test]
fn without_root() {
    if !able(&[
        ("fusermount3", "fuse3"),
        ("setpriv", "util-linux"),
        ("unshare", "util-linux"),
    ]) {
        return;
    }
    let store = TestStore::nothing();
    let dir = text(store.dir());
    // The program where nobody can run it, and a device that nobody can open, seen by these
    // processes alone.
    sh(&format!(
        "chmod 755 {dir}; cp {SNAPMARK} {dir}/snapmark; mkdir -m 777 {dir}/home"
    ));
    let script = format!(
        "set -eu; cd {dir}/home; mkdir mnt
         {dir}/snapmark init store --size 1GiB --journal-size 16MiB --cache-size 8MiB
         {dir}/snapmark mount store mnt
         trap '{dir}/snapmark unmount --lazy mnt' EXIT
         truncate -s 100M mnt/vm1.img; mkfs.ext4 -q -F mnt/vm1.img
         {dir}/snapmark snapshot mnt/vm1.img a; e2fsck -fn mnt/vm1.img@a
         [ $(stat -c %U mnt/vm1.img) = nobody ]
         trap - EXIT; {dir}/snapmark unmount mnt
         {dir}/snapmark mount store mnt; cmp mnt/vm1.img mnt/vm1.img@a
         kill -9 $(cat store/lock); ! stat mnt 2>/dev/null
         {dir}/snapmark mount store mnt; cmp mnt/vm1.img mnt/vm1.img@a
         kill -9 $(cat store/lock); {dir}/snapmark unmount mnt; [ -z \"$(ls mnt)\" ]"
    );
    let device = format!("{dir}/fuse");
    sh(&format!("mknod {device} c 10 229; chmod 666 {device}"));
    run(
        "unshare",
        [
            "-m", "--propagation", "private", "sh", "-euc",
            &format!(
                "mount --bind {device} /dev/fuse
                 PATH=$PATH:/usr/sbin:/sbin exec setpriv --reuid 65534 --regid 65534 --clear-groups sh -c \"$0\""
            ),
            &script,
        ],
    );
    assert!(Path::new(&dir).join("home/store").exists());
}
