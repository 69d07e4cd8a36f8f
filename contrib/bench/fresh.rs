//! Jobs that want images of their own: of another size, with a file system, a second disk, or a clone.
//! Each run has one that was just made.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::fs::{FallocateFlags, fallocate};

use super::fio;
use super::looped::Loop;
use super::peers::{Kind, Peer, Place};
use super::plan::{CLONE, COPY, DISCARD, Plan, Row, TWO_DISKS};
use super::process::{Mounted, run};

/// For what is not measured, and the longest that a measured command may take.
const LIMIT: Duration = Duration::from_secs(600);

/// How large the image to be discarded is.
const DISCARDED: u64 = 10 << 30;

/// Files to be copied: so many in each of so many directories.
const DIRECTORIES: usize = 50;
const FILES: usize = 100;
/// Their sizes in turn: 41 KB in the mean.
const SIZES: [usize; 10] = [
    300, 1_000, 2_000, 3_500, 6_000, 10_000, 20_000, 40_000, 80_000, 250_000,
];

/// A job, and what it runs on.
pub struct Job {
    /// For the table.
    pub row: &'static Row,
    /// Bytes of the image, where it is not the plan's size.
    size: Option<u64>,
    /// Whether all of it is written first.
    filled: bool,
    measure: fn(&On<'_>, &mut dyn Peer) -> Result<Option<f64>>,
}

/// All of them, in the order of the table.
pub static JOBS: [Job; 4] = [
    Job {
        row: &COPY,
        size: None,
        filled: false,
        measure: copy,
    },
    Job {
        row: &TWO_DISKS,
        size: None,
        filled: true,
        measure: two_disks,
    },
    Job {
        row: &DISCARD,
        size: Some(DISCARDED),
        filled: true,
        measure: discard,
    },
    Job {
        row: &CLONE,
        size: None,
        filled: true,
        measure: write_to_clone,
    },
];

/// What a job runs on.
struct On<'a> {
    kind: &'a Kind,
    place: Place,
    plan: &'a Plan,
    round: usize,
    settle: fn(&mut dyn Peer, &Place) -> Result<()>,
}

impl Job {
    /// The figure of one run on a new image; `None` where the peer has no such thing. `settle` has
    /// everything written out.
    pub fn run(
        &self,
        kind: &Kind,
        place: &Place,
        plan: &Plan,
        round: usize,
        settle: fn(&mut dyn Peer, &Place) -> Result<()>,
    ) -> Result<Option<f64>> {
        let place = Place {
            dir: place.dir.clone(),
            size: self.size.unwrap_or(place.size),
        };
        let mut peer = kind.start(&place)?;
        if self.filled {
            fio::fill(peer.path(), place.size)?;
        }
        settle(peer.as_mut(), &place)?;
        let on = On {
            kind,
            place,
            plan,
            round,
            settle,
        };
        (self.measure)(&on, peer.as_mut())
    }
}

impl On<'_> {
    fn write(&self, path: &Path) -> Result<f64> {
        let (seconds, round) = (self.plan.seconds, self.round);
        let (rate, _) = fio::measure(&TWO_DISKS, path, self.place.size, seconds, round)?;
        Ok(rate)
    }
}

/// MB/s of a tree of files that comes from memory and ends on the disk.
fn copy(on: &On<'_>, peer: &mut dyn Peer) -> Result<Option<f64>> {
    let scratch = tempfile::tempdir_in(&on.place.dir)?;
    let (tree, bytes) = tree(scratch.path())?;
    // With direct I/O QEMU's FUSE export mixes blocks up, and no file system survives that.
    let looped = Loop::over(peer.path(), false)?;
    let mut mkfs = Command::new("mkfs.ext4");
    run(mkfs.args(["-q", "-F"]).arg(looped.path()), LIMIT)?;
    let mountpoint = scratch.path().join("mnt");
    std::fs::create_dir(&mountpoint)?;
    let mut mount = Command::new("mount");
    run(mount.arg(looped.path()).arg(&mountpoint), LIMIT)?;
    let mounted = Mounted(mountpoint);
    (on.settle)(peer, &on.place)?;
    let started = Instant::now();
    let mut cp = Command::new("cp");
    run(cp.arg("-a").arg(&tree).arg(&mounted.0), LIMIT)?;
    rustix::fs::syncfs(File::open(&mounted.0)?)?;
    let took = started.elapsed();
    drop(mounted);
    drop(looped);
    Ok(Some(bytes as f64 / 1e6 / took.as_secs_f64()))
}

/// Makes the files; gives their directory, and their bytes.
fn tree(below: &Path) -> Result<(PathBuf, usize)> {
    let content: Vec<u8> = (0..SIZES[SIZES.len() - 1]).map(|at| at as u8).collect();
    let (tree, mut bytes) = (below.join("tree"), 0);
    for number in 0..DIRECTORIES {
        let dir = tree.join(number.to_string());
        std::fs::create_dir_all(&dir)?;
        for number in 0..FILES {
            let size = SIZES[number % SIZES.len()];
            std::fs::write(dir.join(number.to_string()), &content[..size])?;
            bytes += size;
        }
    }
    Ok((tree, bytes))
}

/// Writes a second to both of two images: of one server where it has several, else of two.
fn two_disks(on: &On<'_>, peer: &mut dyn Peer) -> Result<Option<f64>> {
    let (second, mut other) = match peer.another(on.place.size)? {
        Some(path) => (path, None),
        None => {
            let other = on.kind.start(&on.place)?;
            (other.path().to_owned(), Some(other))
        }
    };
    fio::fill(&second, on.place.size)?;
    (on.settle)(peer, &on.place)?;
    if let Some(other) = &mut other {
        (on.settle)(other.as_mut(), &on.place)?;
    }
    let rates = std::thread::scope(|scope| {
        let paths = [peer.path().to_owned(), second];
        let writers = paths.map(|path| scope.spawn(move || on.write(&path)));
        writers.map(|writer| writer.join().expect("a thread of fio's"))
    });
    let [one, two] = rates;
    Ok(Some(one? + two?))
}

/// MB/s at which data is given up, until that is durable.
fn discard(on: &On<'_>, peer: &mut dyn Peer) -> Result<Option<f64>> {
    let image = File::options().read(true).write(true).open(peer.path())?;
    let started = Instant::now();
    let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&image, how, 0, on.place.size).context("fallocate")?;
    image.sync_all()?;
    let took = started.elapsed();
    let mut block = [0; 4096];
    for at in [0, on.place.size / 2, on.place.size - block.len() as u64] {
        image.read_exact_at(&mut block, at)?;
        ensure!(block == [0; 4096], "data is there after the discard");
    }
    Ok(Some(on.place.size as f64 / 1e6 / took.as_secs_f64()))
}

/// Writes a second to a clone, from the moment when it is there.
fn write_to_clone(on: &On<'_>, peer: &mut dyn Peer) -> Result<Option<f64>> {
    if !peer.snapshot(1)? {
        return Ok(None);
    }
    match peer.clone_of(1)? {
        Some(clone) => on.write(&clone).map(Some),
        None => Ok(None),
    }
}
