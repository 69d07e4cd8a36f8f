//! The systemd units: systemd understands them, and the service works with what they leave it.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Running, SNAPMARK, TestStore, able, execute, noise, read_at, require, write_at};

fn units() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/systemd")
}

/// A unit with the program where it is here.
fn unit(name: &str) -> String {
    let text = fs::read_to_string(units().join(name)).unwrap();
    text.replace("/usr/bin/snapmark", SNAPMARK)
}

/// The value of a setting that a unit has once.
fn setting<'a>(unit: &'a str, key: &str) -> &'a str {
    let values: Vec<&str> = unit
        .lines()
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        .collect();
    assert_eq!(values.len(), 1, "{key}: {values:?}");
    values[0]
}

#[test]
fn systemd_understands_the_units() {
    if !require("systemd-analyze", "systemd") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let names = ["snapmark@.service", "snapmark-loop@.service"];
    for name in names {
        fs::write(dir.path().join(name), unit(name)).unwrap();
    }
    let verify = |unit: &str| {
        let path = dir.path().join(unit);
        let words = ["verify".into(), "--man=no".into(), path];
        let (shown, output) = execute("systemd-analyze", words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // It reads other units of the machine too, and has its words about those.
        let ours = said.lines().filter(|line| line.contains("snapmark"));
        (
            output.status.success(),
            ours.map(str::to_owned).collect::<Vec<_>>(),
            shown,
        )
    };
    for name in names {
        let instance = name.replace('@', "@main");
        let (well, said, shown) = verify(&instance);
        assert!(well && said.is_empty(), "{shown}: {said:?}");
    }
    // That it would say so.
    let wrong = unit(names[0]).replace("Restart=on-failure", "Restart=sometimes");
    fs::write(dir.path().join(names[0]), wrong).unwrap();
    let (_, said, shown) = verify("snapmark@main.service");
    assert!(
        said.iter().any(|line| line.contains("sometimes")),
        "{shown}: {said:?}"
    );
}

/// What would hide the mount from everybody else, or leave a way into the directory below it.
#[test]
fn the_unit_has_no_mount_namespace_and_restarts() {
    let unit = unit("snapmark@.service");
    assert_eq!(setting(&unit, "Restart"), "on-failure");
    assert_eq!(setting(&unit, "Type"), "notify");
    for key in [
        "Protect",
        "Private",
        "ReadWrite",
        "ReadOnly",
        "Inaccessible",
        "TemporaryFileSystem",
        "BindPaths",
        "DynamicUser",
        "RootDirectory",
        "MountFlags",
        "ExecStopPost",
    ] {
        let set = unit.lines().find(|line| line.starts_with(key));
        assert_eq!(set, None);
    }
}

/// As systemd would: with the unit's capabilities alone, told when it is ready, killed and started
/// again, and ended by its stop command.
#[test]
fn the_service_works_with_the_rights_of_its_unit() {
    if !able(&[("setpriv", "util-linux")]) {
        return;
    }
    let unit = unit("snapmark@.service");
    assert_eq!(setting(&unit, "NoNewPrivileges"), "yes");
    let rights = setting(&unit, "CapabilityBoundingSet").split(' ');
    let rights = rights.map(|one| format!(",+{}", one.trim_start_matches("CAP_").to_lowercase()));
    let rights = format!("-all{}", rights.collect::<String>());
    let store = TestStore::unmounted(&["--size", "1GiB"]);
    let socket = store.dir().join("notify");
    let told = UnixDatagram::bind(&socket).unwrap();
    told.set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let hear = |word: &str| {
        let mut bytes = [0; 256];
        let len = told
            .recv(&mut bytes)
            .unwrap_or_else(|error| panic!("{word}: {error}"));
        assert_eq!(std::str::from_utf8(&bytes[..len]).unwrap().trim(), word);
    };
    // The words of a command line of the unit.
    let command = |key: &str| {
        let line = setting(&unit, key).replace("$OPTIONS", "");
        let line = line.replace("${STORE}", &common::text(&store.store()));
        let line = line.replace("${MOUNTPOINT}", &common::text(&store.mnt()));
        let mut command = Command::new("setpriv");
        command.args([
            "--bounding-set",
            &rights,
            "--inh-caps",
            "-all",
            "--no-new-privs",
        ]);
        command.args(line.split_whitespace()).stdin(Stdio::null());
        command.env("NOTIFY_SOCKET", &socket);
        command
    };
    let disk = store.disk("vm1.img");
    for turn in 0..3u8 {
        let mut daemon = Running(command("ExecStart").spawn().unwrap());
        hear("READY=1");
        if turn == 0 {
            store.make("vm1.img", 1 << 20);
        } else {
            let last = u64::from(turn) - 1;
            assert!(read_at(&disk, last * 100_000, 100_000) == noise(last, 100_000));
        }
        write_at(
            &disk,
            u64::from(turn) * 100_000,
            &noise(turn.into(), 100_000),
        );
        if turn < 2 {
            daemon.0.kill().unwrap();
            assert_eq!(daemon.0.wait().unwrap().signal(), Some(9));
            continue;
        }
        let stopped = command("ExecStop")
            .env_remove("NOTIFY_SOCKET")
            .status()
            .unwrap();
        assert!(stopped.success(), "{stopped}");
        hear("STOPPING=1");
        assert!(daemon.0.wait().unwrap().success());
    }
    assert!(!disk.exists());
}
