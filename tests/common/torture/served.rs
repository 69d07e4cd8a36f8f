//! A store and the daemon that serves it, to be killed at any moment.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// How long a daemon may take to come up or to end.
const PATIENCE: Duration = Duration::from_secs(120);

/// Whether the pool is full.
pub fn is_full(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOSPC)
}

/// A store in a directory of its own, and whoever serves it.
pub struct Served {
    program: PathBuf,
    dir: PathBuf,
    daemon: Mutex<Option<Child>>,
    /// Whether the daemon was killed, or is about to be.
    killed: AtomicBool,
}

impl Served {
    /// Makes a store in `dir` with these options of `init`.
    pub fn init(program: &Path, dir: &Path, options: &[String]) -> Self {
        let served = Self::over(program, dir);
        std::fs::create_dir_all(served.mnt()).expect("a directory");
        let mut words = vec!["init".to_owned(), served.store().display().to_string()];
        words.extend_from_slice(options);
        let made = served.run(&words);
        assert!(made.status.success(), "{}", said(&made));
        served
    }

    /// The store that is in `dir` already.
    pub fn over(program: &Path, dir: &Path) -> Self {
        Self {
            program: program.to_owned(),
            dir: dir.to_owned(),
            daemon: Mutex::new(None),
            killed: AtomicBool::new(false),
        }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn store(&self) -> PathBuf {
        self.dir.join("store")
    }

    pub fn mnt(&self) -> PathBuf {
        self.dir.join("mnt")
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.mnt().join(name)
    }

    fn log(&self) -> PathBuf {
        self.dir.join("daemon.log")
    }

    /// What the daemons have logged lately.
    pub fn logged(&self) -> String {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let from = log.len().saturating_sub(8 << 10);
        let from = (from..log.len()).find(|at| log.is_char_boundary(*at));
        log[from.unwrap_or(log.len())..].to_owned()
    }

    fn run(&self, words: &[String]) -> Output {
        let mut command = Command::new(&self.program);
        command.args(words).stdin(Stdio::null());
        command.output().expect("the program starts")
    }

    /// Starts a daemon and does not wait for it.
    pub fn start(&self) {
        let mut log = OpenOptions::new();
        log.append(true).create(true);
        let log = log.open(self.log()).expect("a log file");
        let mut command = Command::new(&self.program);
        command.args(["mount", "-f"]);
        command.arg(self.store()).arg(self.mnt());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.stderr(log).spawn().expect("the program starts");
        self.killed.store(false, SeqCst);
        let before = self.daemon.lock().expect("no panic").replace(child);
        assert!(before.is_none(), "it is served");
    }

    /// Serves the store; returns how long it took until the disks were there.
    pub fn mount(&self) -> Duration {
        let started = Instant::now();
        self.start();
        while !self.file(".control").exists() {
            let ended = self.with_daemon(Child::try_wait);
            if let Ok(Some(status)) = ended {
                panic!("not mounted: {status}\n{}", self.logged());
            }
            let waited = started.elapsed();
            assert!(waited < PATIENCE, "not mounted in time\n{}", self.logged());
            std::thread::sleep(Duration::from_millis(2));
        }
        started.elapsed()
    }

    fn with_daemon<T>(&self, act: impl FnOnce(&mut Child) -> T) -> T {
        let mut daemon = self.daemon.lock().expect("no panic");
        act(daemon.as_mut().expect("it is served"))
    }

    /// Whether this is what a client is told by a daemon that dies: requests under way are
    /// aborted, later ones find nobody. One that the dying daemon was just taking from the kernel
    /// is answered EIO by that.
    pub fn is_death(&self, error: &io::Error) -> bool {
        match error.raw_os_error() {
            Some(libc::ENOTCONN | libc::ECONNABORTED) => true,
            Some(libc::EIO) => self.killed.load(SeqCst),
            _ => false,
        }
    }

    /// Ends the daemon as a crash would; its mount is left as it is.
    pub fn kill(&self) {
        self.killed.store(true, SeqCst);
        self.with_daemon(|daemon| daemon.kill().expect("it can be killed"));
    }

    /// Waits until the daemon has ended; whether it ended well.
    pub fn wait(&self) -> bool {
        let status = self.with_daemon(Child::wait).expect("a child");
        *self.daemon.lock().expect("no panic") = None;
        status.success()
    }

    /// Tells the daemon to end in order, and does not wait.
    pub fn stop(&self) {
        let pid = self.with_daemon(|daemon| rustix::process::Pid::from_child(daemon));
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    }

    /// Ends the daemon in order.
    pub fn unmount(&self) {
        self.stop();
        let started = Instant::now();
        while let Ok(None) = self.with_daemon(Child::try_wait) {
            let waited = started.elapsed();
            assert!(waited < PATIENCE, "it does not end\n{}", self.logged());
            std::thread::sleep(Duration::from_millis(2));
        }
        assert!(self.wait(), "it did not end well\n{}", self.logged());
    }

    /// Checks all of the store that lies there unserved, its data included.
    pub fn check(&self) {
        let store = self.store().display().to_string();
        let checked = self.run(&["check".to_owned(), store, "--data".to_owned()]);
        assert!(
            checked.status.success(),
            "the check found something: {}\n{}\n{}",
            checked.status,
            said(&checked),
            self.logged()
        );
    }

    /// Gives a command to `.control`.
    pub fn control(&self, line: &str) -> io::Result<()> {
        let mut control = OpenOptions::new().write(true).open(self.file(".control"))?;
        control.write_all(line.as_bytes())
    }

    /// A file in the mount.
    pub fn open(&self, name: &str, write: bool) -> io::Result<File> {
        let path = self.file(name);
        OpenOptions::new().read(true).write(write).open(path)
    }

    /// What `.status` says.
    pub fn status(&self) -> serde_json::Value {
        let status = std::fs::read_to_string(self.file(".status")).expect("a status");
        serde_yaml::from_str(&status).expect("YAML")
    }

    /// How many devices the pool has; nothing has halted.
    pub fn devices(&self) -> usize {
        let status = self.status();
        assert_eq!(status["state"], "ok");
        status["devices"].as_array().map_or(0, Vec::len)
    }

    /// How full the pool is, in percent.
    pub fn fill(&self) -> io::Result<f64> {
        let at = rustix::fs::statvfs(self.mnt())?;
        Ok(100.0 - at.f_bavail as f64 * 100.0 / at.f_blocks as f64)
    }

    /// Leaves nothing running or mounted. The store stays.
    pub fn release(&self) {
        if let Some(mut daemon) = self.daemon.lock().ok().and_then(|mut it| it.take()) {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        let info = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = info.lines().filter_map(|line| line.split(' ').nth(4));
        for at in points.map(Path::new) {
            if at == self.mnt() {
                let _ = Command::new("umount").arg("-l").arg(at).status();
            }
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.logged());
        }
        self.release();
    }
}

fn said(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}
