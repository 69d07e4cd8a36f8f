//! What sends the snapshot command: `snapmark scsi-snapshot`, the program in C for libiscsi, the example.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use std::fs::{Permissions, set_permissions, write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::iscsi::{STORE, served, served_with};
use common::{SNAPMARK, able, missing, read_at, run, run_failing, text};
use snapmark::config::{Account, Secret};
use snapmark::frontend::iscsi::{Identity, Initiator, target_name};

const MIB: u64 = 1 << 20;
const SECRET: &str = "correct horse battery";
const INITIATOR: &str = "iqn.2026-11.test:host";

fn target(file: &str) -> String {
    target_name(STORE, file).unwrap()
}

/// A file that nobody else may read.
fn private(path: PathBuf, content: &str) -> String {
    write(&path, content).unwrap();
    set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    text(&path)
}

/// `snapmark scsi-snapshot` to one portal.
struct Client<'a> {
    portal: SocketAddr,
    always: Vec<&'a str>,
}

impl Client<'_> {
    fn words<'b>(&'b self, portal: &'b str, more: &'b [&'b str]) -> Vec<&'b str> {
        let before = ["scsi-snapshot", "--portal", portal];
        let words = before.iter().chain(&self.always).chain(more);
        words.copied().collect()
    }

    #[track_caller]
    fn does(&self, more: &[&str]) -> String {
        run(SNAPMARK, self.words(&self.portal.to_string(), more))
    }

    /// How it fails, and what it says.
    #[track_caller]
    fn fails(&self, more: &[&str]) -> (i32, String) {
        run_failing(SNAPMARK, self.words(&self.portal.to_string(), more))
    }
}

#[test]
fn the_client_takes_snapshots_and_says_why_there_is_none() {
    if !able(&[]) {
        return;
    }
    let (store, portal) = served(&["--size", "64MiB"]);
    store.make("disk", MIB);
    let client = Client {
        portal,
        always: Vec::new(),
    };
    let disk = target("disk");
    let long = "x".repeat(300);
    let of_disk = |name| ["--target", &*disk, name];
    client.does(&of_disk("s"));
    assert!(store.disk("disk@s").exists());
    client.does(&["--target", &disk, "--nosync", "t"]);
    assert!(store.disk("disk@t").exists());
    // Named by the time.
    client.does(&["--target", &disk]);
    let listed = client.does(&["--list"]);
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines.len(), 4, "{listed}");
    assert!(lines.iter().all(|line| line.starts_with(&disk)), "{listed}");
    assert!(
        lines
            .iter()
            .all(|line| line.ends_with(&format!("{portal},1"))),
        "{listed}"
    );
    assert!(
        lines.iter().any(|line| line.contains("disk:20")),
        "{listed}"
    );

    let (code, said) = client.fails(&of_disk("s"));
    assert!(code == 4 && said.contains("disk@s"), "{code} {said}");
    let (code, said) = client.fails(&of_disk("a/b"));
    assert!(code == 2 && said.contains('/'), "{code} {said}");
    let (code, said) = client.fails(&of_disk(&long));
    assert!(code == 2 && said.contains("255"), "{code} {said}");
    let (code, said) = client.fails(&["--target", &target("none"), "s"]);
    assert!(
        code == 3 && said.contains("no such target"),
        "{code} {said}"
    );
    let (code, said) = client.fails(&["--target", &target("disk@s"), "u"]);
    assert!(code == 7 && said.contains("snapshot"), "{code} {said}");
    let (code, _) = client.fails(&["u"]);
    assert_eq!(code, 2, "no target");
    drop(store);
    let (code, said) = client.fails(&of_disk("v"));
    assert!(
        code == 3 && said.contains(&portal.to_string()),
        "{code} {said}"
    );
}

#[test]
fn the_client_proves_who_it_is_and_takes_all_disks_of_an_initiator() {
    if !able(&[]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let accounts = format!("initiators: [{{user: host, secret: {SECRET}}}]\n");
    let secrets = private(dir.path().join("chap.yaml"), &accounts);
    let (store, portal) = served_with(&["--size", "64MiB"], &format!("  secrets: {secrets}\n"));
    for disk in ["one", "two", "three"] {
        store.make(disk, MIB);
    }
    let right = private(dir.path().join("right"), &format!("{SECRET}\nand a line\n"));
    let wrong = private(dir.path().join("wrong"), "something else\n");
    let empty = private(dir.path().join("empty"), "\n");
    let one = target("one");
    let anybody = Client {
        portal,
        always: vec!["--target", &one],
    };
    let (code, said) = anybody.fails(&["s"]);
    assert_eq!(code, 7, "{said}");
    let with = |file| ["--user", "host", "--secret-file", file, "s"];
    let (code, said) = anybody.fails(&with(&wrong));
    assert!(
        code == 7 && !said.contains("something else"),
        "{code} {said}"
    );
    let (code, said) = anybody.fails(&with(&empty));
    assert!(code == 2 && said.contains("first line"), "{code} {said}");
    set_permissions(&right, Permissions::from_mode(0o640)).unwrap();
    let (code, said) = anybody.fails(&with(&right));
    assert!(code == 7 && said.contains("chmod 600"), "{code} {said}");
    assert!(!store.disk("one@s").exists());
    set_permissions(&right, Permissions::from_mode(0o600)).unwrap();
    anybody.does(&with(&right));
    assert!(store.disk("one@s").exists());

    // The initiator has two of the disks.
    let sessions = ["one", "two"].map(|disk| {
        let identity = Identity {
            initiator: INITIATOR.to_owned(),
            target: Some(target(disk)),
            account: Some(Account {
                user: "host".to_owned(),
                secret: Secret::new(SECRET),
                initiator: None,
            }),
            ..Identity::default()
        };
        Initiator::log_in(portal, &identity).unwrap()
    });
    let user = ["--initiator", INITIATOR, "--user", "host", "--secret-file"];
    let all = [&user[..], &[&*right, "--all", "both"]].concat();
    anybody.does(&all);
    let has = |file: &str| store.disk(file).exists();
    assert_eq!(
        [has("one@both"), has("two@both"), has("three@both")],
        [true, true, false]
    );
    for session in sessions {
        session.log_out().unwrap();
    }
}

#[test]
fn the_program_in_c_takes_a_snapshot() {
    if !able(&[("cc", "gcc")]) {
        return;
    }
    let header = Path::new("/usr/include/iscsi/iscsi.h");
    if !header.exists() && !missing("needs libiscsi's headers: apt-get install libiscsi-dev") {
        return;
    }
    let (store, portal) = served(&["--size", "64MiB"]);
    store.make("disk", MIB);
    let program = text(&store.dir().join("snapshot"));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/iscsi/snapshot.c");
    let strict = ["-Wall", "-Wextra", "-Werror", "-o", &program];
    run("cc", strict.iter().copied().chain([source, "-liscsi"]));
    let at = format!("iscsi://{portal}/{}/0", target("disk"));
    run(&program, [&*at, "named"]);
    run(&program, [&*at]);
    assert!(store.disk("disk@named").exists());
    let disks = std::fs::read_dir(store.mnt()).unwrap();
    let names = disks.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.starts_with("disk@")).count(), 2);
    let (code, said) = run_failing(&program, [&*at, "named"]);
    assert!(code == 1 && said.contains("no snapshot"), "{code} {said}");
}

#[test]
fn the_example_does_what_it_says() {
    if !able(&[]) {
        return;
    }
    let (store, portal) = served(&["--size", "64MiB"]);
    let disk = store.make("disk", MIB);
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    // As the tests are built, so that it is there.
    let profile = if cfg!(debug_assertions) {
        "dev"
    } else {
        "release"
    };
    let before = ["run", "--locked", "--quiet", "--manifest-path", manifest];
    let before = before.into_iter().chain(["--profile", profile]);
    let (portal, target) = (portal.to_string(), target("disk"));
    let words = ["--example", "scsi_snapshot", "--", &portal, &target, "demo"];
    let said = run(&cargo, before.chain(words));
    assert!(
        said.contains("the snapshot has '1', the disk has '2'"),
        "{said}"
    );
    assert_eq!(read_at(&store.disk("disk@demo"), 0, 512), [b'1'; 512]);
    assert_eq!(read_at(&disk, 0, 512), [b'2'; 512]);
}
