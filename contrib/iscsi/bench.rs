//! The iSCSI target beside tgt's, on the same disk and in one run:
//!
//! ```sh
//! cargo run --release --example iscsi-bench -- DIRECTORY
//! ```
//!
//! As root, with tgt (Debian: tgt). Both serve a disk of 1 GiB below DIRECTORY over the loopback
//! interface, with their default settings: tgt a raw file, Snapmark a thin disk. The same initiator asks
//! tgt, Snapmark, tgt, Snapmark; before reads the page cache is emptied. What counts is the ratio of the
//! two runs of a pair: its median, with the lowest and the highest.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use snapmark::frontend::iscsi::{Identity, Initiator, Transfer, target_name};

/// Bytes of the disk.
const SIZE: u64 = 1 << 30;
const BLOCK: u64 = 512;
/// How long a server may take until it answers.
const START: Duration = Duration::from_secs(30);

/// Snapmark's iSCSI target beside tgt's
#[derive(Debug, Parser)]
#[command(name = "iscsi-bench")]
struct Arguments {
    /// Where all is set up and removed again
    directory: PathBuf,
    /// Seconds of each run
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Pairs of each row
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Commands under way at a time
    #[arg(long, default_value_t = 16)]
    depth: usize,
    /// Only the rows that have this in their names
    #[arg(long, default_value = "")]
    only: String,
}

/// One workload.
struct Row {
    name: &'static str,
    /// Bytes of a request.
    len: u64,
    writes: bool,
    random: bool,
    /// At a time, where it is not what the command line says.
    depth: Option<usize>,
}

const ROWS: [Row; 5] = [
    Row {
        name: "4 KiB random write",
        len: 4096,
        writes: true,
        random: true,
        depth: None,
    },
    Row {
        name: "4 KiB random read",
        len: 4096,
        writes: false,
        random: true,
        depth: None,
    },
    Row {
        name: "4 KiB random write, depth 1",
        len: 4096,
        writes: true,
        random: true,
        depth: Some(1),
    },
    Row {
        name: "1 MiB sequential write, depth 4",
        len: 1 << 20,
        writes: true,
        random: false,
        depth: Some(4),
    },
    Row {
        name: "1 MiB sequential read, depth 4",
        len: 1 << 20,
        writes: false,
        random: false,
        depth: Some(4),
    },
];

fn main() -> Result<()> {
    let verb = std::env::args().nth(1).unwrap_or_default();
    if snapmark::cli::command().find_subcommand(&verb).is_some() {
        let code = snapmark::cli::main();
        std::process::exit(i32::from(code != std::process::ExitCode::SUCCESS));
    }
    let arguments = Arguments::parse();
    ensure!(
        !cfg!(debug_assertions),
        "figures of a debug build say nothing: use --release"
    );
    let scratch = tempfile::Builder::new()
        .prefix("iscsi-bench-")
        .tempdir_in(&arguments.directory)?;
    let tgt = Tgt::start(scratch.path()).context("tgt can't be set up")?;
    let us = Us::start(scratch.path()).context("Snapmark can't be set up")?;
    for (server, name) in [(&tgt.at, "tgt"), (&us.at, "Snapmark")] {
        fill(server).with_context(|| format!("{name} can't be filled"))?;
    }
    println!(
        "| | tgt | Snapmark | ratio (lowest to highest of {}) |\n|---|---|---|---|",
        arguments.pairs
    );
    for row in ROWS.iter().filter(|row| row.name.contains(&arguments.only)) {
        let mut pairs = Vec::new();
        for round in 0..arguments.pairs {
            let run = |at: &At| measure(row, at, &arguments, round as u64);
            let theirs = run(&tgt.at).context("tgt")?;
            us.flush()?;
            let ours = run(&us.at).context("Snapmark")?;
            us.flush()?;
            pairs.push((theirs, ours));
        }
        print(row, &pairs);
    }
    Ok(())
}

fn median(figures: impl Iterator<Item = f64>) -> (f64, f64, f64) {
    let mut sorted: Vec<f64> = figures.collect();
    sorted.sort_by(f64::total_cmp);
    (
        sorted[sorted.len() / 2],
        sorted[0],
        sorted[sorted.len() - 1],
    )
}

fn print(row: &Row, pairs: &[(f64, f64)]) {
    let unit = if row.random { "operations/s" } else { "MB/s" };
    let scale = if row.random {
        1.0
    } else {
        row.len as f64 / 1e6
    };
    let theirs = median(pairs.iter().map(|pair| pair.0 * scale)).0;
    let ours = median(pairs.iter().map(|pair| pair.1 * scale)).0;
    let (ratio, low, high) = median(pairs.iter().map(|pair| pair.1 / pair.0));
    let name = row.name;
    println!("| {name}, {unit} | {theirs:.0} | {ours:.0} | {ratio:.2} ({low:.2} to {high:.2}) |");
}

/// Where a disk is served.
struct At {
    portal: SocketAddr,
    target: String,
    lun: u8,
}

impl At {
    fn session(&self) -> Result<Initiator> {
        let who = Identity {
            initiator: "iqn.2026-11.io.snapmark:bench".to_owned(),
            // tgt takes one of zeros for none.
            isid: [0x80, 0, 0, 0, 0, 1],
            target: Some(self.target.clone()),
            lun: self.lun,
            ..Identity::default()
        };
        let mut session = Initiator::log_in(self.portal, &who)?;
        for _ in 0..16 {
            if session.command(&[0; 6], Transfer::None)?.status == 0 {
                return Ok(session);
            }
        }
        bail!("the disk is never ready")
    }
}

fn fill(at: &At) -> Result<()> {
    let mut session = at.session()?;
    let data: Vec<u8> = (0..1u32 << 20).map(|n| (n * 7 + n / 4096) as u8).collect();
    for piece in 0..SIZE >> 20 {
        let cdb = cdb(true, (piece << 20) / BLOCK, 1 << 20);
        let outcome = session.command(&cdb, Transfer::Out(&data))?;
        ensure!(outcome.status == 0, "status {:02x}h", outcome.status);
    }
    // SYNCHRONIZE CACHE (10)
    session.command(&[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0], Transfer::None)?;
    Ok(session.log_out()?)
}

/// READ or WRITE (16).
fn cdb(writes: bool, first: u64, len: u64) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = if writes { 0x8a } else { 0x88 };
    cdb[2..10].copy_from_slice(&first.to_be_bytes());
    cdb[10..14].copy_from_slice(&((len / BLOCK) as u32).to_be_bytes());
    cdb
}

/// Requests a second.
fn measure(row: &Row, at: &At, arguments: &Arguments, round: u64) -> Result<f64> {
    let mut session = at.session()?;
    if !row.writes {
        rustix::fs::sync();
        std::fs::write("/proc/sys/vm/drop_caches", "3").context("only root can")?;
    }
    let data = vec![round as u8 | 1; row.len as usize];
    let transfer = if row.writes {
        Transfer::Out(&data)
    } else {
        Transfer::In(row.len as usize)
    };
    let pieces = SIZE / row.len;
    let mut place = round.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = 0;
    let mut choose = || {
        if row.random {
            // xorshift64
            place ^= place << 13;
            place ^= place >> 7;
            place ^= place << 17;
            next = place % pieces;
        } else {
            next = (next + 1) % pieces;
        }
        cdb(row.writes, next * row.len / BLOCK, row.len)
    };
    let depth = row.depth.unwrap_or(arguments.depth);
    let (started, time) = (Instant::now(), Duration::from_secs(arguments.seconds));
    for _ in 0..depth {
        session.start(&choose(), transfer)?;
    }
    let (mut under_way, mut done) = (depth, 0u64);
    while under_way > 0 {
        let (_, outcome) = session.next_end(|_| transfer)?;
        ensure!(outcome.status == 0, "status {:02x}h", outcome.status);
        done += 1;
        if started.elapsed() < time {
            session.start(&choose(), transfer)?;
        } else {
            under_way -= 1;
        }
    }
    let rate = done as f64 / started.elapsed().as_secs_f64();
    session.log_out()?;
    Ok(rate)
}

/// A process that is ended when it is dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let deadline = Instant::now() + START;
        while Instant::now() < deadline {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_portal() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn answers(portal: SocketAddr) -> Result<()> {
    let deadline = Instant::now() + START;
    while TcpStream::connect(portal).is_err() {
        ensure!(Instant::now() < deadline, "nobody answers at {portal}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(())
}

/// tgt, with a raw file.
struct Tgt {
    at: At,
    control: String,
    _server: Server,
}

impl Tgt {
    fn start(scratch: &Path) -> Result<Self> {
        let portal = free_portal()?;
        // Not that of a tgtd that serves already.
        let control = format!("{}", 1 + std::process::id() % 30_000);
        let mut command = Command::new("tgtd");
        command
            .args(["-f", "-C", &control, "--iscsi"])
            .arg(format!("portal={portal}"));
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let server = Server(child.context("tgtd is not installed (Debian: tgt)")?);
        answers(portal)?;
        let file = scratch.join("tgt.img");
        std::fs::File::create(&file)?.set_len(SIZE)?;
        let target = "iqn.2026-11.io.snapmark:tgt".to_owned();
        let tgt = Self {
            at: At {
                portal,
                target,
                lun: 1,
            },
            control,
            _server: server,
        };
        let name = tgt.at.target.clone();
        tgt.admin(&[
            "--mode",
            "target",
            "--op",
            "new",
            "--tid",
            "1",
            "--targetname",
            &name,
        ])?;
        let file = file.to_string_lossy();
        let unit = [
            "--mode",
            "logicalunit",
            "--op",
            "new",
            "--tid",
            "1",
            "--lun",
            "1",
            "--backing-store",
        ];
        tgt.admin(&[&unit[..], &[&file]].concat())?;
        tgt.admin(&[
            "--mode",
            "target",
            "--op",
            "bind",
            "--tid",
            "1",
            "--initiator-address",
            "ALL",
        ])?;
        Ok(tgt)
    }

    fn admin(&self, arguments: &[&str]) -> Result<()> {
        run(Command::new("tgtadm")
            .args(["-C", &self.control, "--lld", "iscsi"])
            .args(arguments))
    }
}

impl Drop for Tgt {
    fn drop(&mut self) {
        // It does not end while it has a target.
        let _ = self.admin(&[
            "--mode", "target", "--op", "delete", "--force", "--tid", "1",
        ]);
        let _ = run(Command::new("tgtadm").args([
            "-C",
            &self.control,
            "--mode",
            "system",
            "--op",
            "delete",
        ]));
    }
}

/// Snapmark.
struct Us {
    at: At,
    mountpoint: PathBuf,
    _server: Server,
}

impl Us {
    fn start(scratch: &Path) -> Result<Self> {
        let program = std::env::current_exe()?;
        let (store, mountpoint) = (scratch.join("store"), scratch.join("mnt"));
        std::fs::create_dir(&mountpoint)?;
        let size = (16 * SIZE).to_string();
        run(Command::new(&program)
            .arg("init")
            .arg(&store)
            .args(["--size", &size]))?;
        let portal = free_portal()?;
        let mut command = Command::new(&program);
        command.arg("mount").arg("-f").arg(&store).arg(&mountpoint);
        command.arg("--iscsi").arg(portal.to_string());
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let server = Server(child);
        answers(portal)?;
        let disk = mountpoint.join("disk");
        let deadline = Instant::now() + START;
        while !mountpoint.join(".control").exists() {
            ensure!(Instant::now() < deadline, "it is never mounted");
            std::thread::sleep(Duration::from_millis(20));
        }
        std::fs::File::create(disk)?.set_len(SIZE)?;
        let target = target_name("store", "disk").context("no name")?;
        Ok(Self {
            at: At {
                portal,
                target,
                lun: 0,
            },
            mountpoint,
            _server: server,
        })
    }

    /// What one run left behind is not done in the next.
    fn flush(&self) -> Result<()> {
        Ok(std::fs::write(self.mountpoint.join(".control"), "flush\n")?)
    }
}
