//! What it takes to open a store with many mapped segments, beside an empty one: time until the
//! mount serves, and the daemon's memory; after a clean stop, and after `kill -9` under random
//! writes.
//!
//! `cargo run --release --example opening -- measure DIRECTORY [MILLIONS [SECONDS [ROUNDS]]]`
//!
//! It makes two stores in the directory and removes them at the end. The mapped segments of the
//! full one come straight into its catalog, every block with its checksum: that of zeros, which
//! the sparse device holds, so that nothing has to be written for them. `snapmark check` goes over
//! it before anything is measured. Ten million segments take some 4 GiB for the catalog.
//! As root, the host's cache is dropped before each opening.
//!
//! With other arguments this is the `snapmark` program.

#![allow(clippy::print_stdout)]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use snapmark::base::{BLOCK, BlockMask, DeviceNo, Epoch, Place, SegmentNo, Slot, checksum};
use snapmark::config::Layout;
use snapmark::device::{FileDevice, OpenMode};
use snapmark::ondisk::{Change, Descriptor, VersionKey};
use snapmark::store::{Catalog, CatalogConfig};

const DISK: &str = "big.img";
const SEGMENT: u64 = 256 << 10;
/// Segments a commit.
const PORTION: u64 = 4096;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_none_or(|first| first != "measure") {
        return snapmark::cli::main();
    }
    let Some(dir) = arguments.next().map(PathBuf::from) else {
        eprintln!("usage: opening measure DIRECTORY [MILLIONS [SECONDS [ROUNDS]]]");
        return ExitCode::FAILURE;
    };
    let mut number = |default: u64| match arguments.next() {
        None => Some(default),
        Some(text) => text.to_str().and_then(|text| text.parse().ok()),
    };
    let (Some(millions), Some(seconds), Some(rounds)) = (number(10), number(10), number(3)) else {
        eprintln!("opening: millions, seconds and rounds are numbers");
        return ExitCode::FAILURE;
    };
    match measure(
        &dir,
        millions * 1_000_000,
        Duration::from_secs(seconds),
        rounds,
    ) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("opening: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(dir: &Path, segments: u64, time: Duration, rounds: u64) -> Result<()> {
    let empty = Store::make(dir, "empty", segments)?;
    let full = Store::make(dir, "full", segments)?;
    let started = Instant::now();
    full.fill(segments)?;
    println!(
        "{segments} segments mapped in {:.0} s",
        started.elapsed().as_secs_f64()
    );
    let started = Instant::now();
    snapmark([Path::new("check"), &full.store()])?;
    println!("checked in {:.0} s", started.elapsed().as_secs_f64());
    println!("store  stopped by   writes before      ready   resident       most");
    for _ in 0..rounds {
        for (name, store) in [("empty", &empty), ("full", &full)] {
            let opened = store.open()?;
            store.unmount()?;
            println!("{name:<6} unmount                  -   {opened}");
        }
        for (name, store) in [("empty", &empty), ("full", &full)] {
            let written = store.write_and_kill(time)?;
            let opened = store.open()?;
            store.unmount()?;
            println!("{name:<6} kill -9     {written:>14}   {opened}");
        }
    }
    Ok(())
}

/// What an opening took.
struct Opened {
    ready: Duration,
    resident: u64,
    most: u64,
}

impl std::fmt::Display for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let (resident, most) = (mib(self.resident), mib(self.most));
        let ready = self.ready.as_secs_f64() * 1000.0;
        write!(f, "{ready:>5.0} ms {resident:>6.1} MiB {most:>6.1} MiB")
    }
}

/// A store and its mountpoint; both go when it is dropped.
struct Store {
    dir: PathBuf,
}

impl Store {
    fn make(dir: &Path, name: &str, segments: u64) -> Result<Self> {
        let dir = dir.join(format!("snapmark-opening-{name}-{}", std::process::id()));
        std::fs::create_dir(&dir).with_context(|| format!("can't make {}", dir.display()))?;
        let store = Self { dir };
        std::fs::create_dir(store.mountpoint())?;
        let size = segments * SEGMENT + (64 << 30);
        let init = [Path::new("init"), &store.store(), Path::new("--size")];
        let size = size.to_string();
        snapmark(init.iter().copied().chain([Path::new(&size)]))?;
        store.open()?;
        File::create_new(store.mountpoint().join(DISK))?.set_len(segments * SEGMENT)?;
        store.unmount()?;
        Ok(store)
    }

    fn store(&self) -> PathBuf {
        self.dir.join("store")
    }

    fn mountpoint(&self) -> PathBuf {
        self.dir.join("mnt")
    }

    /// Maps so many segments of the disk, one slot each.
    fn fill(&self, segments: u64) -> Result<()> {
        let layout = Layout::new(self.store());
        let open = |path: PathBuf| FileDevice::open(&path, OpenMode::READ_WRITE).map(Arc::new);
        let (pages, log) = (open(layout.catalog_pages())?, open(layout.catalog_log())?);
        let catalog = Catalog::open(pages, log, CatalogConfig::default())?;
        let geometry = catalog.geometry();
        ensure!(
            geometry.segment_bytes() == SEGMENT,
            "segments of {SEGMENT} bytes are expected"
        );
        let view = catalog.view();
        let Some(mut disk) = view.disks()?.into_iter().find(|disk| disk.name == DISK) else {
            bail!("there is no {DISK}");
        };
        let Some(map) = view.map(disk.map)? else {
            bail!("{DISK} has no map");
        };
        let blocks = SEGMENT / BLOCK as u64;
        let zeros = checksum(&[0; BLOCK]);
        // The first slots may be lent to writers already: those are left alone.
        let device = DeviceNo(0);
        let first = view.space().total - view.free_slots_of(device)?;
        drop(view);
        for from in (0..segments).step_by(PORTION as usize) {
            let to = segments.min(from + PORTION);
            let mut changes = vec![
                Change::Take {
                    device,
                    first: Slot(first + from),
                    count: to - from,
                },
                Change::PutChecksums {
                    device,
                    first: (first + from) * blocks,
                    sums: vec![zeros; ((to - from) * blocks) as usize],
                },
            ];
            for segment in from..to {
                let slot = Slot(first + segment);
                let key = VersionKey {
                    map: disk.map,
                    segment: SegmentNo(segment),
                    death: Epoch::LIVE,
                };
                let descriptor = Descriptor {
                    birth: map.epoch,
                    place: Some(Place { device, slot }),
                    layout: snapmark::ondisk::Layout::Own,
                    data: BlockMask::full(geometry),
                    zero: BlockMask::EMPTY,
                };
                changes.push(Change::PutVersion(key, descriptor));
            }
            disk.allocated = to * blocks;
            changes.push(Change::PutDisk(disk.clone()));
            catalog.commit(&changes)?;
        }
        Ok(catalog.checkpoint()?)
    }

    /// Serves the store, reads a block, and says what that took.
    fn open(&self) -> Result<Opened> {
        rustix::fs::sync();
        // Only root may; the others measure with a warm cache.
        let _ = std::fs::write("/proc/sys/vm/drop_caches", "3");
        let started = Instant::now();
        snapmark([Path::new("mount"), &self.store(), &self.mountpoint()])?;
        let ready = started.elapsed();
        if let Ok(disk) = File::open(self.mountpoint().join(DISK)) {
            disk.read_exact_at(&mut [0; BLOCK], 0)?;
        }
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let bytes = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.context("no such line in /proc/PID/status")?;
            Ok(kib
                .trim_matches([':', ' ', '\t', 'k', 'B'])
                .parse::<u64>()?
                << 10)
        };
        Ok(Opened {
            ready,
            resident: bytes("VmRSS")?,
            most: bytes("VmHWM")?,
        })
    }

    /// Two writers go all over the disk, a snapshot is taken half-way, and the daemon is killed.
    fn write_and_kill(&self, time: Duration) -> Result<u64> {
        self.open()?;
        let path = self.mountpoint().join(DISK);
        let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| -> Result<()> {
            for seed in 1..=2 {
                let (path, stop, written) = (&path, &stop, &written);
                scope.spawn(move || scatter(path, seed, stop, written));
            }
            std::thread::sleep(time / 2);
            snapmark([Path::new("snapshot"), &path])?;
            std::thread::sleep(time / 2);
            let killed = Command::new("kill").args(["-9", &self.pid()?]).status()?;
            ensure!(killed.success(), "kill: {killed}");
            stop.store(true, Relaxed);
            Ok(())
        })?;
        Ok(written.into_inner())
    }

    fn pid(&self) -> Result<String> {
        let text = std::fs::read_to_string(Layout::new(self.store()).lock())?;
        Ok(text.trim().to_owned())
    }

    fn unmount(&self) -> Result<()> {
        snapmark([Path::new("unmount"), &self.mountpoint()])
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Only what failed half-way is still mounted.
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        if mounts.contains(&*self.mountpoint().to_string_lossy()) {
            let _ = self.unmount();
        }
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            eprintln!("opening: {} stays: {error}", self.dir.display());
        }
    }
}

/// Writes blocks at random places until told to stop, or the daemon is gone.
fn scatter(path: &Path, seed: u64, stop: &AtomicBool, written: &AtomicU64) {
    let direct = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    let opened = OpenOptions::new()
        .write(true)
        .custom_flags(direct)
        .open(path);
    let Ok(disk) = opened else { return };
    let blocks = disk.metadata().map_or(1, |of| of.len() / BLOCK as u64);
    let mut room = vec![0; 2 * BLOCK];
    let start = room.as_ptr().align_offset(BLOCK);
    let block = &mut room[start..start + BLOCK];
    let mut state = seed;
    while !stop.load(Relaxed) {
        // xorshift64 (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        block[..8].copy_from_slice(&state.to_le_bytes());
        if disk
            .write_all_at(block, state % blocks * BLOCK as u64)
            .is_err()
        {
            return;
        }
        written.fetch_add(1, Relaxed);
    }
}

/// Runs the program, which this one is.
fn snapmark<'a>(arguments: impl IntoIterator<Item = &'a Path>) -> Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    // Not through pipes: the daemon keeps what it inherits.
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let status = command.status()?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}
