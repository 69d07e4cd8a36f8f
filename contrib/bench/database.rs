//! PostgreSQL's own benchmark, on an ext4 on a loop device over the image: a database's mix of random
//! writes, a log, and a sync for each transaction.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::figures::Figure;
use super::looped::Loop;
use super::process::{Mounted, run, take_down};

/// For what is not measured.
const SETUP: Duration = Duration::from_secs(300);
/// How long a run may take beyond what it was given.
const GRACE: Duration = Duration::from_secs(60);
/// What Debian makes for the server; it does not run as root.
const USER: &str = "postgres";
/// 100,000 accounts each.
const SCALE: &str = "10";
const CLIENTS: &str = "4";
/// So that its memory and its log fit the image, and the disk is what counts.
const SETTINGS: &str = "-c listen_addresses='' -c shared_buffers=32MB -c max_wal_size=192MB \
    -c min_wal_size=64MB -c autovacuum=off";

/// A server whose data is on the image. Dropping it stops it and takes down what it stands on.
pub struct Database {
    programs: PathBuf,
    data: PathBuf,
    // In this order: the mount is on the loop device, and its mountpoint in the directory.
    _mounted: Mounted,
    _loop: Loop,
    scratch: TempDir,
}

/// Where the server's programs are; none where it is not installed. Debian has one directory for each
/// version, none of them in PATH.
pub fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut found: Vec<PathBuf> = versions
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|bin| bin.join("pgbench").is_file() && bin.join("initdb").is_file())
        .collect();
    found.sort();
    found.pop()
}

impl Database {
    /// Makes a file system on the image, and on it a database that is filled and runs.
    pub fn start(programs: PathBuf, image: &Path) -> Result<Self> {
        // The server's user has to get there, so not below a directory of root's.
        let scratch = tempfile::Builder::new().prefix("bench-pg").tempdir()?;
        let dir = scratch.path();
        run(Command::new("chmod").arg("755").arg(dir), SETUP)?;
        // With direct I/O QEMU's FUSE export mixes blocks up, and no file system survives that.
        let looped = Loop::over(image, false)?;
        run(
            Command::new("mkfs.ext4")
                .args(["-q", "-F"])
                .arg(looped.path()),
            SETUP,
        )?;
        let mountpoint = dir.join("mnt");
        std::fs::create_dir(&mountpoint)?;
        run(
            Command::new("mount").arg(looped.path()).arg(&mountpoint),
            SETUP,
        )?;
        let mounted = Mounted(mountpoint);
        let data = mounted.0.join("data");
        let install = ["-d", "-o", USER, "-m", "700"];
        run(Command::new("install").args(install).arg(&data), SETUP)?;
        let sockets = dir.join("sockets");
        run(Command::new("install").args(install).arg(&sockets), SETUP)?;
        let database = Self {
            programs,
            data,
            _mounted: mounted,
            _loop: looped,
            scratch,
        };
        let data = || database.data.as_os_str();
        let mut initdb = database.program("initdb");
        run(initdb.args(["--auth=trust", "-D"]).arg(data()), SETUP).context("initdb")?;
        let settings = format!(
            "{SETTINGS} -c unix_socket_directories={}",
            sockets.display()
        );
        let mut start = database.program("pg_ctl");
        start.args(["-w", "-l"]).arg(sockets.join("log"));
        start.arg("-D").arg(data()).args(["-o", &settings, "start"]);
        run(&mut start, SETUP).context("the server does not start")?;
        let mut fill = database.client();
        run(fill.args(["--initialize", "--quiet", "-s", SCALE]), SETUP)?;
        Ok(database)
    }

    /// Transactions a second, of so many seconds.
    pub fn measure(&self, seconds: u64) -> Result<Figure> {
        let mut client = self.client();
        client.args(["--no-vacuum", "-c", CLIENTS, "-T", &seconds.to_string()]);
        let printed = run(&mut client, Duration::from_secs(seconds) + GRACE)?;
        let tps = printed.lines().find_map(|line| line.strip_prefix("tps = "));
        let tps = tps.and_then(|rest| rest.split(' ').next()?.parse().ok());
        let value = tps.with_context(|| format!("pgbench says no rate: {printed}"))?;
        // What it moves is not known.
        let cpu = f64::NAN;
        Ok(Figure { value, cpu })
    }

    fn client(&self) -> Command {
        let mut client = self.program("pgbench");
        client.arg("-h").arg(self.scratch.path().join("sockets"));
        client.env("PGDATABASE", "postgres");
        client
    }

    /// One of the server's programs, as the user that it runs as.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new("setpriv");
        let user = [&format!("--reuid={USER}"), &format!("--regid={USER}")];
        command.args(user).args(["--clear-groups", "--"]);
        command.arg(self.programs.join(name));
        command.current_dir("/");
        command
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let mut stop = self.program("pg_ctl");
        stop.args(["-w", "-m", "immediate", "-D"]).arg(&self.data);
        // Where it does not run, there is nothing to stop.
        let _ = take_down(stop.arg("stop"), SETUP);
    }
}
