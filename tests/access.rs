//! Who may do what in a mount that others see: disks belong to who made them, commands to who
//! serves the store, names to the directory, and the kernel holds all of them to it.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use common::{TestStore, able, execute, noise, read_at, write_at};

/// Users of no account: the numbers alone count.
const ANN: u32 = 4001;
const BOB: u32 = 4002;

const TOOLS: [(&str, &str); 1] = [("setpriv", "util-linux")];

/// A store that others see, and where they can get to.
fn shared() -> TestStore {
    let store = TestStore::unmounted(&["--size", "1GiB"]);
    let settings = store.store().join("store.yaml");
    let text = fs::read_to_string(&settings).unwrap();
    let open = text.replace("#allow_other: false", "allow_other: true");
    assert_ne!(text, open);
    fs::write(&settings, open).unwrap();
    fs::set_permissions(store.dir(), Permissions::from_mode(0o711)).unwrap();
    store
}

/// Runs a line of shell as a user, in the mount; says how it went.
fn as_user(store: &TestStore, user: u32, line: &str) -> Result<String, String> {
    let id = user.to_string();
    let mnt = store.mnt();
    let line = format!("cd {}; {line}", mnt.display());
    let privileges = ["--reuid", &id, "--regid", &id, "--clear-groups"];
    let words = privileges.into_iter().chain(["sh", "-euc", &line]);
    let (_, output) = execute("setpriv", words);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let failed = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        Ok(said)
    } else {
        Err(failed)
    }
}

#[track_caller]
fn may(store: &TestStore, user: u32, line: &str) {
    let done = as_user(store, user, line);
    assert!(done.is_ok(), "user {user} may: {line}: {done:?}");
}

#[track_caller]
fn may_not(store: &TestStore, user: u32, line: &str) {
    let done = as_user(store, user, line);
    let refused = done.as_ref().is_err_and(|said| {
        [
            "Permission denied",
            "Operation not permitted",
            "Read-only file system",
        ]
        .iter()
        .any(|words| said.contains(words))
    });
    assert!(refused, "user {user} may not: {line}: {done:?}");
}

fn owner(path: &Path) -> (u32, u32, u32) {
    let meta = fs::metadata(path).unwrap();
    (meta.uid(), meta.gid(), meta.mode() & 0o7777)
}

/// What nobody but who serves the store may do, whatever the directory allows.
#[track_caller]
fn commands_are_the_servers(store: &TestStore, user: u32) {
    assert_eq!(owner(&store.disk(".control")), (0, 0, 0o600));
    for command in [
        "snapshot root.img theirs",
        "delete root.img",
        "device-add /etc/shadow",
        "help",
    ] {
        may_not(store, user, &format!("echo {command} > .control"));
        may_not(store, user, &format!("echo {command} >> .control"));
    }
    for line in [
        "cat .control",
        "chmod 666 .control",
        "chown $(id -u) .control",
        "rm -f .control",
        "mv .control x",
        "echo x > .status",
        "echo x > .stats",
        "chmod 777 .",
    ] {
        may_not(store, user, line);
    }
    may(
        store,
        user,
        "grep -q disks .status; grep -q . .stats; ls -la > /dev/null; df . > /dev/null",
    );
    assert!(store.disk("root.img").exists());
    assert!(!store.disk("root.img@theirs").exists());
}

#[test]
fn in_a_directory_of_roots_users_have_what_they_are_given() {
    if !able(&TOOLS) {
        return;
    }
    let mut store = shared();
    store.mount();
    fs::set_permissions(
        store.make("root.img", 1 << 20),
        Permissions::from_mode(0o600),
    )
    .unwrap();
    let disk = store.make("ann.img", 1 << 20);
    chown(&disk, Some(ANN), Some(ANN)).unwrap();
    fs::set_permissions(&disk, Permissions::from_mode(0o600)).unwrap();
    write_at(&disk, 0, &noise(1, 10_000));

    commands_are_the_servers(&store, ANN);
    // Names are the directory's: no user makes, renames or deletes here, not even his own.
    for line in [
        "touch new.img",
        "rm -f ann.img",
        "mv ann.img other.img",
        "ln ann.img b.img",
    ] {
        may_not(&store, ANN, line);
    }
    // The content is its owner's.
    may(
        &store,
        ANN,
        "head -c 5000 /dev/zero | dd of=ann.img conv=notrunc status=none",
    );
    may(
        &store,
        ANN,
        "truncate -s 2M ann.img; cat ann.img > /dev/null; fallocate -p -l 4096 ann.img",
    );
    for line in [
        "cat ann.img",
        "echo x >> ann.img",
        "truncate -s 0 ann.img",
        "chmod 666 ann.img",
        "chown $(id -u) ann.img",
        "touch ann.img",
        "cat root.img",
    ] {
        may_not(&store, BOB, line);
    }
    // Its mode is its owner's too, the owner is not.
    may(&store, ANN, "chmod 644 ann.img");
    may(&store, BOB, "cat ann.img > /dev/null");
    may_not(&store, BOB, "echo x >> ann.img");
    may_not(&store, ANN, &format!("chown {BOB} ann.img"));
    may_not(&store, ANN, &format!("chgrp {BOB} ann.img"));
    may(&store, ANN, "chmod 600 ann.img");

    // A snapshot is its disk's owner's, to read.
    store.snapshot("ann.img", "a");
    assert_eq!(owner(&store.disk("ann.img@a")), (ANN, ANN, 0o400));
    may(&store, ANN, "cmp ann.img ann.img@a");
    for line in [
        "echo x >> ann.img@a",
        "rm -f ann.img@a",
        "mv ann.img@a ann.img@b",
        "chmod 644 ann.img@a",
    ] {
        may_not(&store, ANN, line);
    }
    for line in ["cat ann.img@a", "echo x >> ann.img@a", "rm -f ann.img@a"] {
        may_not(&store, BOB, line);
    }
    // A clone is the same owner's, to write.
    store.control("clone ann.img@a clone.img\n").unwrap();
    assert_eq!(owner(&store.disk("clone.img")), (ANN, ANN, 0o600));
    may(&store, ANN, "echo x >> clone.img");
    may_not(&store, BOB, "cat clone.img");

    // All of it outlives the daemon, also without an orderly end.
    for orderly in [true, false] {
        if orderly {
            store.unmount();
        } else {
            store.kill9();
        }
        store.mount();
        assert_eq!(owner(&store.disk("ann.img")), (ANN, ANN, 0o600));
        assert_eq!(owner(&store.disk("ann.img@a")), (ANN, ANN, 0o400));
        may(&store, ANN, "cat ann.img ann.img@a clone.img > /dev/null");
        may_not(&store, BOB, "cat ann.img@a");
    }
    assert!(read_at(&store.disk("ann.img"), 5000, 4000) == noise(1, 10_000)[5000..9000]);
}

#[test]
fn in_a_sticky_directory_each_has_disks_of_his_own() {
    if !able(&TOOLS) {
        return;
    }
    let mut store = shared();
    fs::set_permissions(store.mnt(), Permissions::from_mode(0o1777)).unwrap();
    store.mount();
    store.make("root.img", 1 << 20);
    may(
        &store,
        ANN,
        "umask 027; truncate -s 1M ann.img; echo hers > ann.img",
    );
    assert_eq!(owner(&store.disk("ann.img")), (ANN, ANN, 0o640));
    may(&store, BOB, "umask 077; echo his > bob.img");
    assert_eq!(owner(&store.disk("bob.img")), (BOB, BOB, 0o600));
    commands_are_the_servers(&store, ANN);
    store.snapshot("ann.img", "a");
    for line in [
        "cat ann.img",
        "rm -f ann.img",
        "mv ann.img taken.img",
        "mv bob.img ann.img",
        "rm -f ann.img@a",
        "mv ann.img@a ann.img@b",
        "rm -f root.img",
    ] {
        may_not(&store, BOB, line);
    }
    may(&store, ANN, "mv ann.img new.img; rm new.img@a; rm new.img");
    may(
        &store,
        BOB,
        "[ \"$(cat bob.img)\" = his ]; mv bob.img ann.img",
    );
    assert_eq!(owner(&store.disk("ann.img")), (BOB, BOB, 0o600));
}

/// Root serves a store for a user, in a directory of hers. Her disks are hers to make and delete,
/// but a command is carried out with root's rights, so commands are root's.
#[test]
fn in_a_users_directory_commands_are_still_the_servers() {
    if !able(&TOOLS) {
        return;
    }
    let mut store = shared();
    chown(store.mnt(), Some(ANN), Some(ANN)).unwrap();
    fs::set_permissions(store.mnt(), Permissions::from_mode(0o755)).unwrap();
    store.mount();
    store.make("root.img", 1 << 20);
    commands_are_the_servers(&store, ANN);
    may(
        &store,
        ANN,
        "echo hers > ann.img; mv ann.img b.img; rm b.img; echo hers > c.img",
    );
    may_not(&store, BOB, "touch his.img");
    may_not(&store, BOB, "rm -f c.img");
    assert_eq!(owner(&store.disk("c.img")).0, ANN);
}

#[test]
fn without_allow_other_nobody_else_sees_anything() {
    if !able(&TOOLS) {
        return;
    }
    let mut store = TestStore::new();
    fs::set_permissions(store.dir(), Permissions::from_mode(0o711)).unwrap();
    fs::set_permissions(store.make("open.img", 4096), Permissions::from_mode(0o666)).unwrap();
    for line in ["true", "cat open.img", "ls .", "cat .status"] {
        let done = as_user(&store, ANN, line);
        assert!(done.is_err(), "{line}: {done:?}");
    }
    // The store's own directory is nobody else's in any case.
    let line = format!("cat {}/store.yaml", store.store().display());
    let done = as_user(&store, ANN, &line);
    assert!(done.is_err(), "{done:?}");
    store.unmount();
}
