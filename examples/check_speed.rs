//! How fast `snapmark check --data` reads a pool, beside `cat` of the same backing file: in turn,
//! several times, each with nothing of it in the host's page cache; of two runs the faster counts.
//!
//! `cargo run --release --example check_speed -- DIRECTORY [GIB [PAIRS]]`, as root
//!
//! It makes a store in the directory, which must not exist yet, fills it by way of the engine with
//! data that does not compress, and removes it in the end. For anything but a first impression the
//! data should be several times the machine's memory.

#![allow(clippy::print_stdout)]

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use snapmark::check::{Files, Options, Verdict};
use snapmark::daemon::init::{NewStore, init};
use snapmark::daemon::store::OpenStore;
use snapmark::volume::NewDisk;

const MIB: u64 = 1 << 20;
/// Written at once.
const WRITE: u64 = 4 * MIB;

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let Some(dir) = arguments.next().map(PathBuf::from) else {
        bail!("usage: check_speed DIRECTORY [GIB [PAIRS]]");
    };
    let mut number = |default: f64| match arguments.next() {
        None => Ok(default),
        Some(text) => {
            let text = text.to_string_lossy().into_owned();
            let parsed = text.parse();
            parsed.with_context(|| format!("{text:?} is no number"))
        }
    };
    let bytes = (number(20.0)? * 1024.0) as u64 * MIB;
    let pairs = number(5.0)? as usize;
    ensure!(bytes > 0 && pairs > 0, "nothing to be measured");
    ensure!(!dir.exists(), "{} exists", dir.display());
    let measured = fill(&dir, bytes).and_then(|()| measure(&dir, bytes, pairs));
    let removed = std::fs::remove_dir_all(&dir);
    measured?;
    removed.with_context(|| format!("can't remove {}", dir.display()))
}

/// Makes the store and fills a disk in it.
fn fill(dir: &Path, bytes: u64) -> Result<()> {
    let new = NewStore {
        dir: dir.to_owned(),
        // Some room, since a full pool goes slower ways.
        size: Some(bytes + bytes / 20 + 64 * MIB),
        ..NewStore::default()
    };
    init(&new, &mut |_, _| {})?;
    let store = OpenStore::open(dir)?;
    let disk = store.volumes.create(NewDisk {
        name: "disk.img".to_owned(),
        size: bytes,
        mode: 0o600,
        uid: 0,
        gid: 0,
    })?;
    let started = Instant::now();
    let mut data = vec![0; WRITE as usize];
    for offset in (0..bytes).step_by(WRITE as usize) {
        let part = &mut data[..WRITE.min(bytes - offset) as usize];
        noise(offset + 1, part);
        store.volumes.write(disk, offset, part)?;
    }
    store.volumes.close_store()?;
    let seconds = started.elapsed().as_secs_f64();
    println!("{} MiB written in {seconds:.0} s", bytes / MIB);
    Ok(())
}

/// Bytes that look like nothing (xorshift64; Marsaglia 2003).
fn noise(seed: u64, to: &mut [u8]) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for word in to.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
}

fn measure(dir: &Path, bytes: u64, pairs: usize) -> Result<()> {
    let pool = dir.join("pool.img");
    let on_host = std::fs::metadata(&pool)?.blocks() * 512;
    println!("pair      cat MiB/s   check MiB/s   ratio");
    let mut ratios = Vec::new();
    for pair in 1..=pairs {
        let cat = || faster(dir, || cat(&pool));
        let check = || faster(dir, || check(dir, bytes));
        // Each comes first as often as the other.
        let (cat, check) = if pair % 2 == 1 {
            let cat = cat()?;
            (cat, check()?)
        } else {
            let check = check()?;
            (cat()?, check)
        };
        let rate = |bytes: u64, seconds: f64| bytes as f64 / MIB as f64 / seconds;
        let (cat, check) = (rate(on_host, cat), rate(bytes, check));
        ratios.push(check / cat);
        println!("{pair:>4} {cat:>14.0} {check:>13.0} {:>7.2}", check / cat);
    }
    ratios.sort_by(f64::total_cmp);
    println!("median of the ratios: {:.2}", ratios[ratios.len() / 2]);
    Ok(())
}

/// The faster of two runs. On a virtual machine whose host takes unused memory back, the first
/// one that fills the page cache gets that memory page by page, and cat takes twice as long.
fn faster(dir: &Path, work: impl Fn() -> Result<()>) -> Result<f64> {
    Ok(time(dir, &work)?.min(time(dir, &work)?))
}

/// How many seconds it takes with nothing of the store in the page cache.
fn time(dir: &Path, work: impl Fn() -> Result<()>) -> Result<f64> {
    for entry in std::fs::read_dir(dir)? {
        File::open(entry?.path())?.sync_all()?;
    }
    // Advice to drop a file's pages would leave some of them there.
    std::fs::write("/proc/sys/vm/drop_caches", "3").context("only root can drop the page cache")?;
    let started = Instant::now();
    work()?;
    Ok(started.elapsed().as_secs_f64())
}

fn cat(file: &Path) -> Result<()> {
    let status = Command::new("cat").arg(file).stdout(Stdio::null()).status();
    ensure!(status.context("cat")?.success(), "cat failed");
    Ok(())
}

fn check(dir: &Path, bytes: u64) -> Result<()> {
    let report = Files::open(dir)?.check(Options { data: true }, &mut |_, _| {})?;
    ensure!(report.verdict == Verdict::Clean, "{:?}", report.problems);
    ensure!(report.data_read == bytes, "{} bytes read", report.data_read);
    Ok(())
}
