//! ext4, XFS and btrfs on disks: made on the file and on a loop device over it, checked, trimmed,
//! and snapshotted while something writes to them.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::path::Path;

use common::{Loop, Mounted, Running, SNAPMARK, TestStore, able, allocated, run, sh, text};

/// A kind of file system and how to deal with it.
struct Kind {
    mkfs: &'static [&'static str],
    check: &'static [&'static str],
    package: &'static str,
    /// Mount options that make deletions discard.
    discard: &'static str,
    /// Mount options for a snapshot that was taken in the midst of writing.
    torn: &'static str,
    /// Mount options for a clone of it.
    cloned: &'static str,
}

const EXT4: Kind = Kind {
    mkfs: &["mkfs.ext4", "-q", "-F"],
    check: &["e2fsck", "-fn"],
    package: "e2fsprogs",
    discard: "discard",
    torn: "ro,noload,loop",
    cloned: "rw,loop",
};

const XFS: Kind = Kind {
    mkfs: &["mkfs.xfs", "-q", "-f"],
    check: &["xfs_repair", "-n"],
    package: "xfsprogs",
    discard: "discard",
    torn: "ro,norecovery,nouuid,loop",
    cloned: "rw,nouuid,loop",
};

const BTRFS: Kind = Kind {
    mkfs: &["mkfs.btrfs", "-q", "-f"],
    check: &["btrfs", "check", "--readonly"],
    package: "btrfs-progs",
    discard: "discard=sync",
    torn: "ro,rescue=nologreplay,loop",
    cloned: "rw,loop",
};

const SIZE: u64 = 512 << 20;
const BIG: u64 = 48 << 20;

impl Kind {
    fn able(&self) -> bool {
        able(&[(self.mkfs[0], self.package), (self.check[0], self.package)])
    }

    #[track_caller]
    fn make(&self, on: &str) {
        run(self.mkfs[0], self.mkfs[1..].iter().chain([&on]));
    }

    #[track_caller]
    fn check(&self, on: &Path) {
        run(self.check[0], self.check[1..].iter().chain([&&*text(on)]));
    }
}

/// This crate's sources, and a file of nothing that repeats.
fn fill(at: &Path) {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    run("cp", ["-a".into(), sources, at.join("tree")]);
    std::fs::write(at.join("big"), common::noise(7, BIG as usize)).expect("a file");
    run("sync", ["-f".into(), text(at)]);
}

fn same_tree(at: &Path) {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    run("diff", ["-r".into(), sources, at.join("tree")]);
}

/// Made on the file itself; `fstrim` gives space back; all of it outlives the daemon.
fn made_on_the_file(kind: &Kind) {
    if !kind.able() {
        return;
    }
    let mut store = TestStore::new();
    let disk = store.make("vm1.img", SIZE);
    kind.make(&text(&disk));
    kind.check(&disk);

    let device = Loop::over(&disk);
    let at = store.dir().join("fs");
    let mounted = Mounted::new(device.device(), at.clone(), "rw");
    fill(&at);
    store.flush();
    let (used, blocks) = (store.used(), allocated(&disk));
    std::fs::remove_file(at.join("big")).expect("it is there");
    let given_back = BIG * 9 / 10;
    // XFS and btrfs free what was deleted a little later.
    common::wait_until("fstrim gives space back", || {
        run("sync", ["-f".into(), text(&at)]);
        run("fstrim", [&at]);
        store.flush();
        store.used() + given_back < used && allocated(&disk) + given_back < blocks
    });

    mounted.unmount();
    device.detach();
    kind.check(&disk);
    store.remount();
    kind.check(&disk);
    let device = Loop::over(&disk);
    let mounted = Mounted::new(device.device(), at.clone(), "rw");
    same_tree(&at);
    mounted.unmount();
    device.detach();
}

/// Made on the loop device; deletions discard by themselves.
fn made_on_a_loop_device(kind: &Kind) {
    if !kind.able() {
        return;
    }
    let store = TestStore::new();
    let disk = store.make("vm1.img", SIZE);
    let device = Loop::over(&disk);
    kind.make(device.device());
    let at = store.dir().join("fs");
    let mounted = Mounted::new(device.device(), at.clone(), kind.discard);
    fill(&at);
    store.flush();
    let blocks = allocated(&disk);
    std::fs::remove_file(at.join("big")).expect("it is there");
    common::wait_until("deleting gives space back", || {
        run("sync", ["-f".into(), text(&at)]);
        store.flush();
        allocated(&disk) + BIG * 9 / 10 < blocks
    });
    same_tree(&at);
    mounted.unmount();
    device.detach();
    kind.check(&disk);
}

/// Snapshots of a file system that is being written can be looked at as they are, and clones of
/// them recover as after a power cut.
fn snapshotted_while_it_is_written(kind: &Kind) {
    if !kind.able() {
        return;
    }
    let store = TestStore::new();
    let disk = store.make("vm1.img", SIZE);
    kind.make(&text(&disk));
    let device = Loop::over(&disk);
    let at = store.dir().join("fs");
    let mounted = Mounted::new(device.device(), at.clone(), "rw");
    std::fs::write(at.join("before"), common::noise(3, 1 << 20)).expect("a file");
    run("sync", ["-f".into(), text(&at)]);

    let writer = Running::sh(&format!(
        "cd {}; i=0; while i=$((i+1)); do head -c 300000 /dev/urandom > f$((i%50)); \
         mv f$((i%50)) g$((i%40)); [ $((i%7)) != 0 ] || sync g$((i%40)); done",
        at.display()
    ));
    for name in ["a", "b", "c"] {
        std::thread::sleep(std::time::Duration::from_millis(400));
        store.snapshot("vm1.img", name);
    }
    // While the writer goes on.
    let look = store.dir().join("look");
    let snapshot = Mounted::new(store.disk("vm1.img@c"), look.clone(), kind.torn);
    // What was synced may be in the file system's own journal alone, which is not looked at.
    std::fs::read_dir(&look).expect("a listing").for_each(drop);
    snapshot.unmount();

    let dirty = common::checksum(&store.disk("vm1.img@a"));
    for name in ["a", "b", "c"] {
        let clone = format!("{name}.img");
        store
            .control(&format!("clone vm1.img@{name} {clone}\n"))
            .expect("a clone");
        let recovered = Mounted::new(store.disk(&clone), look.clone(), kind.cloned);
        let before = std::fs::read(look.join("before")).expect("a file that was synced");
        assert!(before == common::noise(3, 1 << 20));
        recovered.unmount();
        kind.check(&store.disk(&clone));
    }
    assert_eq!(common::checksum(&store.disk("vm1.img@a")), dirty);
    drop(writer);
    mounted.unmount();
    device.detach();
    kind.check(&disk);
}

#[test]
fn ext4_on_the_file() {
    made_on_the_file(&EXT4);
}

#[test]
fn xfs_on_the_file() {
    made_on_the_file(&XFS);
}

#[test]
fn btrfs_on_the_file() {
    made_on_the_file(&BTRFS);
}

#[test]
fn ext4_on_a_loop_device() {
    made_on_a_loop_device(&EXT4);
}

#[test]
fn xfs_on_a_loop_device() {
    made_on_a_loop_device(&XFS);
}

#[test]
fn btrfs_on_a_loop_device() {
    made_on_a_loop_device(&BTRFS);
}

#[test]
fn snapshots_of_a_busy_ext4() {
    snapshotted_while_it_is_written(&EXT4);
}

#[test]
fn snapshots_of_a_busy_xfs() {
    snapshotted_while_it_is_written(&XFS);
}

#[test]
fn snapshots_of_a_busy_btrfs() {
    snapshotted_while_it_is_written(&BTRFS);
}

#[test]
fn a_frozen_ext4_needs_no_recovery() {
    if !EXT4.able() {
        return;
    }
    let store = TestStore::new();
    let disk = store.make("vm1.img", SIZE);
    EXT4.make(&text(&disk));
    let device = Loop::over(&disk);
    let at = store.dir().join("fs");
    let mounted = Mounted::new(device.device(), at.clone(), "rw");
    let writer = Running::sh(&format!(
        "cd {}; i=0; while i=$((i+1)); do head -c 300000 /dev/urandom > f$((i%50)); done",
        at.display()
    ));
    std::thread::sleep(std::time::Duration::from_millis(500));
    run(
        SNAPMARK,
        ["snapshot", "--freeze", &text(&disk), "--name", "clean"],
    );
    let snapshot = store.disk("vm1.img@clean");
    // Not a word of a journal to be replayed.
    let features = sh(&format!("dumpe2fs -h {} 2>&1", snapshot.display()));
    assert!(!features.contains("needs_recovery"), "{features}");
    EXT4.check(&snapshot);
    let look = Mounted::new(&snapshot, store.dir().join("look"), "ro,loop");
    let files = std::fs::read_dir(look.path()).expect("a listing").count();
    assert!(files > 2, "{files}");
    look.unmount();
    drop(writer);
    mounted.unmount();
    device.detach();
}
