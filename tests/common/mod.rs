//! Real stores on real mounts, for tests: made in a temporary directory, served by the program
//! itself, and taken down again when a test ends or panics. Nothing is ended, unmounted or
//! detached but what was started here.

// Each test program uses another part of this.
#![allow(dead_code, missing_docs, unused_imports)]
#![allow(clippy::unwrap_used, reason = "tests may")]

pub mod checks;
pub mod commands;
pub mod damaged;
pub mod engine;
pub mod history;
pub mod invariants;
pub mod iscsi;
pub mod model;
mod mounts;
pub mod pdu;
mod random;
pub mod script;
pub mod watched;

pub use mounts::{Away, Loop, Mounted, mounts};
pub use random::{Random, seeds};

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// The program under test.
pub const SNAPMARK: &str = env!("CARGO_BIN_EXE_snapmark");

/// How long a tool may take before it counts as hanging, in seconds.
const PATIENCE: &str = "240";

/// Whether a test can run here: as root, with FUSE and loop devices, and with these tools, each
/// named with the Debian package that has it. Where not, it says why, and fails if `CI=true`.
///
/// ```ignore
/// if !able(&[("mkfs.xfs", "xfsprogs")]) { return; }
/// ```
#[must_use]
pub fn able(tools: &[(&str, &str)]) -> bool {
    let root = rustix::process::geteuid().is_root();
    let usable = |what: bool, why: &str| what || missing(why);
    usable(root, "needs root")
        && usable(
            Path::new("/dev/fuse").exists(),
            "needs /dev/fuse: modprobe fuse",
        )
        && tools.iter().all(|(tool, package)| require(tool, package))
}

/// Whether this tool is there. Where not, says which Debian package has it, and fails if
/// `CI=true`.
#[must_use]
pub fn require(tool: &str, package: &str) -> bool {
    let found = find(tool).is_some();
    let install = match package {
        package if package.starts_with("cargo ") => package.to_owned(),
        package => format!("apt-get install {package}"),
    };
    found || missing(&format!("needs {tool}: {install}"))
}

/// Where a tool is. Also where `cargo install` puts one.
pub fn find(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo/bin"));
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .chain(home)
        .map(|dir| dir.join(tool))
        .find(|path| path.is_file())
}

pub fn missing(why: &str) -> bool {
    let ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
    assert!(!ci, "{why}");
    eprintln!("skipped: {why}");
    false
}

/// Runs a tool, fails with all that it said where it fails, and returns its output.
#[track_caller]
pub fn run<S: AsRef<std::ffi::OsStr>>(
    tool: &str,
    arguments: impl IntoIterator<Item = S>,
) -> String {
    let (shown, output) = execute(tool, arguments);
    assert!(output.status.success(), "{shown}\n{}", said(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a tool that is to fail; returns its exit code and all that it said.
#[track_caller]
pub fn run_failing<S: AsRef<std::ffi::OsStr>>(
    tool: &str,
    arguments: impl IntoIterator<Item = S>,
) -> (i32, String) {
    let (shown, output) = execute(tool, arguments);
    assert!(
        !output.status.success(),
        "{shown} did not fail\n{}",
        said(&output)
    );
    (output.status.code().unwrap_or(-1), said(&output))
}

/// Runs a line of shell; fails where it fails.
#[track_caller]
pub fn sh(line: &str) -> String {
    run("sh", ["-euc", line])
}

/// Runs a tool, whatever comes of it. One that hangs is ended.
#[track_caller]
pub fn execute<S: AsRef<std::ffi::OsStr>>(
    tool: &str,
    arguments: impl IntoIterator<Item = S>,
) -> (String, Output) {
    let program = find(tool).unwrap_or_else(|| PathBuf::from(tool));
    let mut command = Command::new("timeout");
    command.args(["-k", "5", PATIENCE]).arg(program);
    command.args(arguments).stdin(Stdio::null());
    let output = command.output().expect("timeout, from coreutils");
    (format!("{command:?}: {}", output.status), output)
}

fn said(output: &Output) -> String {
    let words = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    words(&output.stdout) + &words(&output.stderr)
}

/// Waits until `true`; fails after half a minute.
#[track_caller]
pub fn wait_until(what: &str, mut reached: impl FnMut() -> bool) {
    let start = Instant::now();
    while !reached() {
        assert!(start.elapsed() < Duration::from_secs(30), "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Bytes that look like nothing else and come from a seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A store in a directory of its own, and its mount.
pub struct TestStore {
    dir: tempfile::TempDir,
    /// Runs from [`TestStore::mount`] until it was seen to end.
    daemon: Option<Child>,
}

impl TestStore {
    /// A mounted store with a pool of 2 GiB, a small cache and a small journal.
    pub fn new() -> Self {
        Self::with(&["--size", "2GiB"])
    }

    /// A mounted store made with these options of `init`; cache and journal are small unless
    /// they say otherwise.
    pub fn with(options: &[&str]) -> Self {
        let mut store = Self::unmounted(options);
        store.mount();
        store
    }

    /// As [`TestStore::with`], not mounted yet.
    pub fn unmounted(options: &[&str]) -> Self {
        let store = Self::nothing();
        let mut arguments: Vec<String> = vec!["init".into(), text(&store.store())];
        arguments.extend(options.iter().map(|&option| option.to_owned()));
        for (option, size) in [("--journal-size", "16MiB"), ("--cache-size", "8MiB")] {
            if !options.contains(&option) {
                arguments.extend([option.to_owned(), size.to_owned()]);
            }
        }
        run(SNAPMARK, &arguments);
        store
    }

    /// A directory with a mountpoint; there is no store yet.
    pub fn nothing() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Self { dir, daemon: None };
        std::fs::create_dir(store.mnt()).expect("a directory");
        store
    }

    /// The directory that all of it is in, with room for more.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The store.
    pub fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// The mountpoint.
    pub fn mnt(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    /// A disk, snapshot or other file in the mount.
    pub fn disk(&self, name: &str) -> PathBuf {
        self.mnt().join(name)
    }

    /// Where the daemon's log goes.
    pub fn log(&self) -> PathBuf {
        self.dir.path().join("daemon.log")
    }

    /// The daemon's process.
    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("it is mounted").id()
    }

    /// Serves the store; returns when the disks are there.
    pub fn mount(&mut self) {
        assert!(self.daemon.is_none(), "it is mounted");
        let log = OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.log());
        let log = log.expect("a log file");
        let mut command = Command::new(SNAPMARK);
        command
            .args(["mount", "-f"])
            .arg(self.store())
            .arg(self.mnt());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        self.daemon = Some(command.spawn().expect("the program"));
        let start = Instant::now();
        while !self.disk(".control").exists() {
            let ended = self.daemon.as_mut().map(Child::try_wait);
            if let Some(Ok(Some(status))) = ended {
                self.daemon = None;
                panic!("not mounted: {status}\n{}", self.logged());
            }
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "not mounted after a minute\n{}",
                self.logged()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What the daemons of this store have logged.
    pub fn logged(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// Ends the mount in order: all is drained, and the daemon has ended well.
    #[track_caller]
    pub fn unmount(&mut self) {
        run(SNAPMARK, ["unmount".into(), self.mnt()]);
        let status = self.daemon.take().expect("it is mounted").wait();
        let status = status.expect("a child");
        assert!(status.success(), "{status}\n{}", self.logged());
    }

    /// Ends the mount in order and serves the store again.
    #[track_caller]
    pub fn remount(&mut self) {
        self.unmount();
        self.mount();
    }

    /// Ends the daemon without a word, as a crash would; the mount goes with it.
    pub fn kill9(&mut self) {
        let mut daemon = self.daemon.take().expect("it is mounted");
        daemon.kill().expect("a child that runs");
        daemon.wait().expect("a child");
        self.detach();
    }

    /// Ends the daemon as a crash would, and leaves its dead mount where it is.
    pub fn kill9_only(&mut self) {
        let daemon = self.daemon.as_mut().expect("it is mounted");
        daemon.kill().expect("a child that runs");
        self.crashed();
    }

    /// Stops the daemon as a debugger would, so that requests wait; until it is killed.
    pub fn freeze(&self) {
        let daemon = self.daemon.as_ref().expect("it is mounted");
        let pid = rustix::process::Pid::from_child(daemon);
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("it runs");
        // Each thread stops when it gets round to it.
        let tasks = format!("/proc/{}/task", daemon.id());
        wait_until("all threads are stopped", || {
            let tasks = std::fs::read_dir(&tasks).into_iter().flatten().flatten();
            tasks.into_iter().all(|task| {
                let stat = std::fs::read_to_string(task.path().join("stat"));
                stat.is_ok_and(|stat| stat.contains(") T "))
            })
        });
    }

    /// Notes that the daemon was killed; its mount is left as it is.
    pub fn crashed(&mut self) {
        let mut daemon = self.daemon.take().expect("it was mounted");
        daemon.wait().expect("a child");
    }

    /// Closes this file, ends the mount in order, and serves the store again.
    #[track_caller]
    pub fn remount_with(&mut self, file: File) {
        drop(file);
        self.remount();
    }

    /// Gives a command to `.control`; the errno is in the error.
    pub fn control(&self, line: &str) -> io::Result<()> {
        let mut control = OpenOptions::new().write(true).open(self.disk(".control"))?;
        control.write_all(line.as_bytes())
    }

    /// Runs the program, and fails where it fails.
    #[track_caller]
    pub fn snapmark<S: AsRef<std::ffi::OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> String {
        run(SNAPMARK, arguments)
    }

    /// Takes a snapshot of a disk.
    #[track_caller]
    pub fn snapshot(&self, disk: &str, name: &str) {
        let snapshot = self.control(&format!("snapshot {disk} {name}\n"));
        snapshot.unwrap_or_else(|error| panic!("snapshot {disk} {name}: {error}"));
    }

    /// Memory of the daemon in bytes: `VmRSS`, what it has now, or `VmHWM`, the most that it ever had.
    pub fn memory(&self, which: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(which));
        let kib = line.unwrap().trim_matches([':', '\t', ' ', 'k', 'B']);
        kib.parse::<u64>().unwrap() << 10
    }

    /// The state as the program tells it to programs.
    #[track_caller]
    pub fn status(&self) -> serde_json::Value {
        let text = run(
            SNAPMARK,
            ["status".into(), "--json".into(), text(&self.mnt())],
        );
        serde_json::from_str(&text).expect("JSON")
    }

    /// Moves all that is cached to the devices.
    #[track_caller]
    pub fn flush(&self) {
        self.control("flush\n").expect("a flush");
    }

    /// Makes a disk of this size and returns its path.
    #[track_caller]
    pub fn make(&self, name: &str, size: u64) -> PathBuf {
        let path = self.disk(name);
        let disk = File::create_new(&path).expect("a new disk");
        disk.set_len(size).expect("a size");
        path
    }

    /// Bytes of the pool in use, as `df` shows them.
    pub fn used(&self) -> u64 {
        let at = rustix::fs::statvfs(self.mnt()).expect("statvfs");
        (at.f_blocks - at.f_bfree) * at.f_frsize
    }

    fn detach(&self) {
        // A test may have left several on top of each other.
        while mounts().iter().any(|at| *at == self.mnt()) {
            let umount = Command::new("umount").arg("-l").arg(self.mnt()).status();
            if !umount.is_ok_and(|status| status.success()) {
                break;
            }
        }
    }

    /// Ends what runs of it, as when it is dropped; its directory stays.
    pub fn end(&mut self) {
        let Some(mut daemon) = self.daemon.take() else {
            return self.detach();
        };
        let pid = rustix::process::Pid::from_child(&daemon);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let start = Instant::now();
        // Unmounting drains first; what is still open after a panic would keep it for long.
        let limit = Duration::from_secs(if std::thread::panicking() { 3 } else { 20 });
        while matches!(daemon.try_wait(), Ok(None)) {
            if start.elapsed() > limit {
                let _ = daemon.kill();
                let _ = daemon.wait();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.detach();
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.logged());
        }
    }
}

impl Drop for TestStore {
    fn drop(&mut self) {
        self.end();
    }
}

/// A child that is ended when dropped, with all that it started.
pub struct Running(pub Child);

impl Running {
    /// Starts a line of shell in the background, in a process group of its own.
    pub fn sh(line: &str) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-euc", line]).stdin(Stdio::null());
        shell.process_group(0);
        Self(shell.spawn().expect("sh"))
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.0.wait();
    }
}

/// Does it on a thread of its own, and fails where that does not end: a store that has lost count of
/// its space waits for ever.
#[track_caller]
pub fn ends(call: impl FnOnce() + Send + 'static) {
    const LONG: Duration = Duration::from_secs(300);
    let (alive, ended) = mpsc::channel::<()>();
    let worker = std::thread::spawn(move || {
        let _alive = alive;
        call();
    });
    let heard = ended.recv_timeout(LONG);
    assert_eq!(
        heard,
        Err(RecvTimeoutError::Disconnected),
        "it does not end"
    );
    if let Err(panic) = worker.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Bytes that a file takes, as `stat` shows them.
pub fn allocated(file: &Path) -> u64 {
    std::fs::metadata(file).expect("a file").blocks() * 512
}

/// Reads a part of a file.
pub fn read_at(file: &Path, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let file = File::open(file).expect("a file");
    file.read_exact_at(&mut bytes, offset).expect("a read");
    bytes
}

/// Writes a part of a file.
pub fn write_at(file: &Path, offset: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(file).expect("a file");
    file.write_all_at(bytes, offset).expect("a write");
}

/// The CRC-32C of a whole file.
pub fn checksum(file: &Path) -> u32 {
    let mut file = File::open(file).expect("a file");
    let mut crc = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    let mut chunk = vec![0; 1 << 20];
    loop {
        match file.read(&mut chunk).expect("a read") {
            0 => return crc.finalize() as u32,
            n => crc.update(&chunk[..n]),
        }
    }
}

/// A path as text.
pub fn text(path: &Path) -> String {
    path.to_str().expect("a path that is text").to_owned()
}
