//! Other programs: each is run with a limit, ended by its process id, and taken down with what it
//! mounted, also after an error or Ctrl-C.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

const POLL: Duration = Duration::from_millis(5);
/// How long a program may take to start serving, or to end when told to.
const PATIENCE: Duration = Duration::from_secs(20);

static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From here on Ctrl-C only asks to stop; whatever waits then fails, and what was set up is taken
/// down on the way out.
pub fn catch_signals() -> Result<()> {
    let flag = STOP.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(flag)).context("can't catch signals")?;
    }
    Ok(())
}

/// Fails once somebody asked to stop.
pub fn go_on() -> Result<()> {
    let stopped = STOP.get().is_some_and(|flag| flag.load(Relaxed));
    ensure!(!stopped, "interrupted");
    Ok(())
}

/// Progress, for whoever watches.
pub fn say(what: &str) {
    let _ = writeln!(std::io::stderr(), "{what}");
}

/// Has the kernel forget what it holds of files.
pub fn empty_page_cache() -> Result<()> {
    std::fs::write("/proc/sys/vm/drop_caches", "1").context("only root can drop the page cache")
}

/// Where a program is that PATH leads to.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut places = std::env::split_paths(&path).map(|dir| dir.join(program));
    places.find(|place| place.is_file())
}

/// Runs a program to its end and gives what it printed. Fails when it does, takes longer than `limit`,
/// or somebody asks to stop.
pub fn run(command: &mut Command, limit: Duration) -> Result<String> {
    run_while(command, limit, go_on)
}

/// As [`run`], for what takes something down: that is done also when somebody asked to stop.
pub fn take_down(command: &mut Command, limit: Duration) -> Result<String> {
    run_while(command, limit, || Ok(()))
}

fn run_while(
    command: &mut Command,
    limit: Duration,
    go_on: impl Fn() -> Result<()>,
) -> Result<String> {
    let what = command.get_program().to_string_lossy().into_owned();
    let (mut out, mut err) = (tempfile::tempfile()?, tempfile::tempfile()?);
    // A group of its own: Ctrl-C on the terminal is for this program, which then ends the others.
    command.stdin(Stdio::null()).process_group(0);
    command.stdout(out.try_clone()?).stderr(err.try_clone()?);
    let mut child = command.spawn().with_context(|| what.clone())?;
    let status = match wait(&mut child, limit, go_on) {
        Ok(status) => status,
        Err(error) => {
            end(&mut child, Signal::KILL);
            return Err(error.context(what));
        }
    };
    let (printed, complaint) = (text(&mut out)?, text(&mut err)?);
    let complaint = if complaint.trim().is_empty() {
        &printed
    } else {
        &complaint
    };
    // What follows from it comes after it.
    let first = complaint.trim().lines().next().unwrap_or_default();
    ensure!(status.success(), "{what}: {status}: {first}");
    Ok(printed)
}

fn wait(child: &mut Child, limit: Duration, go_on: impl Fn() -> Result<()>) -> Result<ExitStatus> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        go_on()?;
        ensure!(started.elapsed() < limit, "took longer than {limit:?}");
        std::thread::sleep(POLL);
    }
}

/// Asks this one process to end and waits; one that does not gets killed.
fn end(child: &mut Child, first: Signal) {
    for signal in [first, Signal::KILL] {
        let _ = kill_process(Pid::from_child(child), signal);
        if ends(child, PATIENCE) {
            return;
        }
    }
    say(&format!("process {} does not end", child.id()));
}

/// Whether it ends in that time, interrupted or not.
fn ends(child: &mut Child, limit: Duration) -> bool {
    let started = Instant::now();
    while started.elapsed() < limit {
        match child.try_wait() {
            Ok(None) => std::thread::sleep(POLL),
            _ => return true,
        }
    }
    false
}

fn text(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(3)..].join("; ")
}

/// A program that serves a file in the foreground. Dropping it unmounts and ends it.
pub struct Server {
    child: Child,
    log: File,
    /// What it mounts: a directory, or a file in the case of QEMU's export.
    mountpoint: PathBuf,
}

impl Server {
    /// The most memory that the process ever had resident, in bytes, if the system says so.
    pub fn memory(&self) -> Option<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kib << 10)
    }

    /// Starts it and waits until `path` is there in what it mounted, of that many bytes if that is
    /// known.
    pub fn start(
        command: &mut Command,
        mountpoint: &Path,
        path: &Path,
        size: Option<u64>,
    ) -> Result<Self> {
        let what = command.get_program().to_string_lossy().into_owned();
        let log = tempfile::tempfile()?;
        command.stdin(Stdio::null()).process_group(0);
        command.stdout(log.try_clone()?).stderr(log.try_clone()?);
        let child = command.spawn().with_context(|| what.clone())?;
        let mut server = Self {
            child,
            log,
            mountpoint: mountpoint.to_owned(),
        };
        server.serves(path, size).with_context(|| what)?;
        Ok(server)
    }

    fn serves(&mut self, path: &Path, size: Option<u64>) -> Result<()> {
        let started = Instant::now();
        let seen = || std::fs::metadata(path).map(|found| found.len());
        let right = |len| size.is_none_or(|size| size == len);
        while !mounted(&self.mountpoint) || !seen().is_ok_and(right) {
            go_on()?;
            if let Some(status) = self.child.try_wait()? {
                bail!("{status}: {}", last_lines(&text(&mut self.log)?));
            }
            if started.elapsed() > PATIENCE {
                let log = last_lines(&text(&mut self.log)?);
                let (path, seen) = (path.display(), seen());
                bail!("{path} is not there, of {size:?} bytes: {seen:?}: {log}");
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        unmount(&self.mountpoint);
        if !ends(&mut self.child, PATIENCE / 4) {
            end(&mut self.child, Signal::TERM);
        }
        // One that was killed leaves a dead mount.
        unmount(&self.mountpoint);
    }
}

/// Something mounted, until it is dropped.
pub struct Mounted(pub PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}

/// Whether something is mounted just there, going by the kernel's list.
pub fn mounted(at: &Path) -> bool {
    let Ok(list) = std::fs::read_to_string("/proc/self/mountinfo") else {
        return false;
    };
    let at = at.to_string_lossy();
    list.lines()
        .any(|line| line.split(' ').nth(4) == Some(&*at))
}

/// Unmounts, trying again while it is in use, and lazily in the end.
fn unmount(at: &Path) {
    let started = Instant::now();
    while mounted(at) {
        let lazily = started.elapsed() > PATIENCE;
        let flags = if lazily {
            rustix::mount::UnmountFlags::DETACH
        } else {
            rustix::mount::UnmountFlags::empty()
        };
        match rustix::mount::unmount(at, flags) {
            Err(error) if lazily => {
                say(&format!("can't unmount {}: {error}", at.display()));
                return;
            }
            Err(_) => std::thread::sleep(POLL * 10),
            Ok(()) => {}
        }
    }
}
