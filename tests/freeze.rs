//! `snapshot --freeze` on a real file system: frozen for the moment, thawed whatever happens.
//! Needs root, loop devices and mkfs.ext4; a plain directory stands in for the store, since only
//! the freezing is looked at here.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const SNAPMARK: &str = env!("CARGO_BIN_EXE_snapmark");

/// An ext4 on a loop device; gone when dropped.
struct Ext4 {
    dir: tempfile::TempDir,
    device: String,
}

impl Ext4 {
    fn disk(&self) -> PathBuf {
        self.dir.path().join("store/vm1.img")
    }

    fn mountpoint(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    /// `None` where this machine can't do it; with `CI=true` that is a failure.
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() || !Path::new("/dev/loop-control").exists() {
            assert!(
                std::env::var_os("CI").is_none(),
                "needs root and loop devices"
            );
            eprintln!("skipped: needs root and loop devices");
            return None;
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut made = Self {
            dir,
            device: String::new(),
        };
        for sub in ["store", "mnt"] {
            std::fs::create_dir(made.dir.path().join(sub)).expect("a directory");
        }
        std::fs::write(made.dir.path().join("store/.control"), "").expect("a file");
        let disk = std::fs::File::create(made.disk()).expect("a file");
        disk.set_len(64 << 20).expect("a sparse file");
        run(Command::new("mkfs.ext4").arg("-q").arg(made.disk()));
        made.device = run(Command::new("losetup")
            .args(["-f", "--show"])
            .arg(made.disk()));
        run(Command::new("mount")
            .arg(&made.device)
            .arg(made.mountpoint()));
        Some(made)
    }

    fn guard(&self) -> Child {
        let info = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        let point = self.mountpoint();
        let id = info
            .lines()
            .find(|line| line.split(' ').nth(4) == point.to_str())
            .and_then(|line| line.split(' ').next())
            .expect("the mount");
        Command::new(SNAPMARK)
            .args(["freeze-guard", &format!("{id}={}", point.display())])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the guard")
    }

    /// A process that writes to the file system.
    fn writer(&self) -> Child {
        let mut touch = Command::new("touch");
        touch
            .arg(self.mountpoint().join("file"))
            .spawn()
            .expect("touch")
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.mountpoint()).status();
        if !self.device.is_empty() {
            let _ = Command::new("losetup").args(["-d", &self.device]).status();
        }
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().expect("the tool is installed");
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn ends_within(child: &mut Child, limit: Duration) -> bool {
    let start = Instant::now();
    while start.elapsed() < limit {
        if child.try_wait().expect("a child").is_some() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

#[test]
fn a_file_system_is_frozen_until_the_parent_dies_and_not_by_a_signal() {
    let Some(ext4) = Ext4::new() else { return };
    let mut guard = ext4.guard();
    let mut words = BufReader::new(guard.stdout.take().expect("a pipe"));
    let mut line = String::new();
    words.read_line(&mut line).expect("a word");
    assert_eq!(line, "frozen\n");

    run(Command::new("kill").args(["-TERM", &guard.id().to_string()]));
    let mut writer = ext4.writer();
    assert!(
        !ends_within(&mut writer, Duration::from_millis(500)),
        "not frozen"
    );

    // What the kernel does when the parent is killed.
    drop(guard.stdin.take());
    assert!(
        ends_within(&mut writer, Duration::from_secs(5)),
        "not thawed"
    );
    assert!(guard.wait().expect("a child").success());
    let mut rest = String::new();
    words.read_to_string(&mut rest).expect("a word");
    assert_eq!(rest, "thawed\n");
}

#[test]
fn a_snapshot_with_freeze_leaves_nothing_frozen() {
    let Some(ext4) = Ext4::new() else { return };
    run(Command::new(SNAPMARK)
        .args(["snapshot", "--freeze", "--name", "a"])
        .arg(ext4.disk()));
    let control = ext4.dir.path().join("store/.control");
    let line = std::fs::read_to_string(control).expect("the line");
    assert_eq!(line, "snapshot vm1.img a\n");
    assert!(
        ends_within(&mut ext4.writer(), Duration::from_secs(5)),
        "still frozen"
    );
    // A file system that someone else froze is left to him.
    run(Command::new("fsfreeze").arg("-f").arg(ext4.mountpoint()));
    let refused = Command::new(SNAPMARK)
        .args(["snapshot", "--freeze", "--name", "b"])
        .arg(ext4.disk())
        .output()
        .expect("snapmark");
    let mut writer = ext4.writer();
    let held = !ends_within(&mut writer, Duration::from_millis(500));
    run(Command::new("fsfreeze").arg("-u").arg(ext4.mountpoint()));
    assert!(ends_within(&mut writer, Duration::from_secs(5)));
    assert!(held, "someone else's freeze was undone");
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && words.contains("frozen already"),
        "{words}"
    );
}
