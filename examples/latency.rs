//! What a snapshot costs those who write: two threads write 4 KiB blocks at random, first alone,
//! then while a snapshot is taken every 100 ms; the longest waits of both are set side by side.
//!
//! `cargo run --release --example latency -- MOUNTPOINT [SECONDS [MIB]]`
//!
//! It makes the disk `latency.img` in the mount, and removes it and its snapshots at the end.

#![allow(clippy::print_stdout)]

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

const BLOCK: u64 = 4096;
const WRITERS: u64 = 2;
const INTERVAL: Duration = Duration::from_millis(100);
const DISK: &str = "latency.img";

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let Some(mountpoint) = arguments.next().map(PathBuf::from) else {
        bail!("usage: latency MOUNTPOINT [SECONDS [MIB]]");
    };
    let mut number = |default: u64| match arguments.next() {
        None => Ok(default),
        Some(text) => {
            let text = text.to_string_lossy().into_owned();
            text.parse()
                .with_context(|| format!("{text:?} is no number"))
        }
    };
    let time = Duration::from_secs(number(10)?);
    let size = number(1024)? << 20;

    let disk = Disk::make(&mountpoint, size)?;
    disk.fill()?;
    let mut rows = Vec::new();
    // The first run only warms up: each later one finds what the one before it left.
    run(&disk, time / 4, false)?;
    for (name, snapshots) in [("without", false), ("with", true), ("without", false)] {
        rows.push((name, run(&disk, time, snapshots)?));
    }
    println!(
        "{WRITERS} writers of 4 KiB at random, {} s each",
        time.as_secs()
    );
    println!("snapshots  writes/s      p50       p99     p99.9   longest");
    for (name, run) in &mut rows {
        let rate = run.writes.0.len() as f64 / time.as_secs_f64();
        println!("{name:<9} {rate:>9.0} {}", run.writes.row());
        if *name == "with" {
            println!(
                " {:>5} commands      {}",
                run.commands.0.len(),
                run.commands.row()
            );
        }
    }
    Ok(())
}

/// The disk, and what is removed with it.
struct Disk {
    mountpoint: PathBuf,
    size: u64,
}

impl Disk {
    fn make(mountpoint: &Path, size: u64) -> Result<Self> {
        let path = mountpoint.join(DISK);
        let file =
            File::create_new(&path).with_context(|| format!("can't make {}", path.display()))?;
        file.set_len(size)?;
        Ok(Self {
            mountpoint: mountpoint.to_owned(),
            size,
        })
    }

    fn open(&self) -> Result<File> {
        let direct = rustix::fs::OFlags::DIRECT.bits().cast_signed();
        let mut options = OpenOptions::new();
        let options = options.write(true).custom_flags(direct);
        Ok(options.open(self.mountpoint.join(DISK))?)
    }

    fn fill(&self) -> Result<()> {
        let (file, mut room) = (self.open()?, vec![0x5a; 2 << 20]);
        let piece = aligned(&mut room, 1 << 20);
        for at in (0..self.size).step_by(1 << 20) {
            file.write_all_at(piece, at)?;
        }
        self.command("flush\n")
    }

    fn command(&self, line: &str) -> Result<()> {
        let path = self.mountpoint.join(".control");
        let mut control = OpenOptions::new().write(true).open(&path)?;
        control
            .write_all(line.as_bytes())
            .with_context(|| format!("{}: {}", path.display(), line.trim()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let names = std::fs::read_dir(&self.mountpoint).into_iter().flatten();
        for entry in names.flatten() {
            if entry.file_name().to_string_lossy().starts_with(DISK) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

struct Run {
    writes: Times,
    commands: Times,
}

fn run(disk: &Disk, time: Duration, snapshots: bool) -> Result<Run> {
    let done = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        let spawn = |seed| scope.spawn(move || write(disk, seed, done));
        let writers: Vec<_> = (1..=WRITERS).map(spawn).collect();
        let commands = command(disk, time, snapshots);
        done.store(true, Relaxed);
        let mut writes = Times::default();
        for writer in writers {
            match writer.join() {
                Ok(times) => writes.0.extend(times?.0),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        let commands = commands?;
        Ok(Run { writes, commands })
    })
}

fn write(disk: &Disk, seed: u64, done: &AtomicBool) -> Result<Times> {
    let (file, mut room) = (disk.open()?, vec![seed as u8; 3 * BLOCK as usize]);
    let (block, mut times, mut state) =
        (aligned(&mut room, BLOCK as usize), Times::default(), seed);
    while !done.load(Relaxed) {
        // Xorshift (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let started = Instant::now();
        file.write_all_at(block, state % (disk.size / BLOCK) * BLOCK)?;
        times.0.push(started.elapsed());
    }
    Ok(times)
}

/// Takes snapshots, or none, for that time.
fn command(disk: &Disk, time: Duration, snapshots: bool) -> Result<Times> {
    let (started, mut times) = (Instant::now(), Times::default());
    if !snapshots {
        std::thread::sleep(time);
        return Ok(times);
    }
    for number in 1.. {
        let begun = Instant::now();
        disk.command(&format!("snapshot {DISK} n{number}\n"))?;
        times.0.push(begun.elapsed());
        let next = started + INTERVAL * number;
        if next > started + time {
            break;
        }
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(times)
}

/// A part of this that `O_DIRECT` takes.
fn aligned(room: &mut [u8], len: usize) -> &mut [u8] {
    let start = room.as_ptr().align_offset(BLOCK as usize);
    &mut room[start..start + len]
}

#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    fn row(&mut self) -> String {
        self.0.sort_unstable();
        let last = self.0.len().saturating_sub(1);
        let at = |part: f64| {
            let time = self.0.get((last as f64 * part) as usize);
            format!(
                "{:>6.2} ms",
                time.copied().unwrap_or_default().as_secs_f64() * 1000.0
            )
        };
        [0.5, 0.99, 0.999, 1.0].map(at).join(" ")
    }
}
