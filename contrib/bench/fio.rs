//! Runs of fio.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;

use super::plan::{Row, Unit};
use super::process::run;

/// How long a run may take beyond what it was given: peers that drain at the end of it, or hang.
const GRACE: Duration = Duration::from_secs(60);
/// How long filling and comparing may take: there are peers that write 2 MB/s.
const SETUP: Duration = Duration::from_secs(20 * 60);
/// How much of the image is written and compared, in MiB.
const VERIFIED: u64 = 64;

#[derive(Deserialize)]
struct Output {
    jobs: Vec<Job>,
}

#[derive(Deserialize)]
struct Job {
    error: i64,
    read: Side,
    write: Side,
}

#[derive(Deserialize)]
struct Side {
    /// Operations a second.
    iops: f64,
    /// Bytes a second.
    bw_bytes: f64,
    /// Bytes in all.
    io_bytes: f64,
}

fn command(path: &Path, size: u64) -> Command {
    let mut fio = Command::new("fio");
    fio.args(["--name=bench", "--output-format=json", "--thread"]);
    // The file is there and has its size; fio must not make or lengthen it.
    fio.args(["--allow_file_create=0", "--fallocate=none"]);
    fio.arg(format!("--filename={}", path.display()));
    fio.arg(format!("--size={size}"));
    fio
}

/// Runs one row on that file for that long; gives its figure, and how many GiB were moved. `seed`
/// decides the order of random blocks: one for the peer and us.
pub fn measure(row: &Row, path: &Path, size: u64, seconds: u64, seed: usize) -> Result<(f64, f64)> {
    let mut fio = command(path, size);
    if row.timed {
        fio.arg("--time_based");
        fio.arg(format!("--runtime={seconds}"));
    }
    fio.arg("--norandommap");
    fio.arg(format!("--randseed={}", seed + 1));
    let options = row.requests.iter().chain(row.options);
    fio.args(options.map(|option| format!("--{option}")));
    let printed = run(&mut fio, Duration::from_secs(seconds) + GRACE)?;
    let Job { read, write, .. } = parse(&printed)?;
    let value = match row.unit {
        Unit::Operations => read.iops + write.iops,
        Unit::Megabytes => (read.bw_bytes + write.bw_bytes) / 1e6,
    };
    let moved = (read.io_bytes + write.io_bytes) / f64::from(1 << 30);
    Ok((value, moved))
}

/// Runs a job that counts for nothing.
pub fn prepare(options: &[&str], path: &Path, size: u64) -> Result<()> {
    let mut fio = command(path, size);
    fio.args(options.iter().map(|option| format!("--{option}")));
    parse(&run(&mut fio, SETUP)?).map(drop)
}

/// How long the processors have been busy, all together, since the machine was started.
pub fn busy() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().unwrap_or_default();
    let fields: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .map(str::parse)
        .collect::<Result<_, _>>()
        .context("/proc/stat")?;
    // user, nice, system, (idle, iowait,) irq, softirq: see proc_stat(5).
    let ticks = [0, 1, 2, 5, 6].map(|at| fields.get(at).copied().unwrap_or_default());
    let hertz = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_millis(
        ticks.iter().sum::<u64>() * 1000 / hertz,
    ))
}

/// Writes all of the file once.
pub fn fill(path: &Path, size: u64) -> Result<()> {
    let mut fio = command(path, size);
    fio.args([
        "--rw=write",
        "--bs=1m",
        "--ioengine=psync",
        "--direct=1",
        "--end_fsync=1",
    ]);
    parse(&run(&mut fio, SETUP)?).map(drop)
}

/// Writes part of the file at random, 16 requests at a time, and compares what it then reads.
pub fn verify(path: &Path, size: u64) -> Result<()> {
    let mut fio = command(path, size.min(VERIFIED << 20));
    fio.args([
        "--rw=randwrite",
        "--bs=4k",
        "--ioengine=libaio",
        "--direct=1",
        "--iodepth=16",
    ]);
    fio.args(["--verify=crc32c", "--do_verify=1", "--verify_fatal=1"]);
    // Nothing is left in files of the working directory.
    fio.args(["--verify_dump=0", "--verify_state_save=0"]);
    let compared = run(&mut fio, SETUP).and_then(|printed| parse(&printed));
    compared.map(drop).map_err(|error| {
        let complaint = format!("{error:#}");
        // Which file it was in is known.
        anyhow!("{}", complaint.split(" at file").next().unwrap_or_default())
    })
}

fn parse(printed: &str) -> Result<Job> {
    // Notes may come first.
    let start = printed.find('{').context("fio printed no JSON")?;
    let output: Output = serde_json::from_str(&printed[start..]).context("fio's JSON")?;
    let job = output.jobs.into_iter().next().context("fio ran no job")?;
    if job.error != 0 {
        bail!(
            "fio: {}",
            std::io::Error::from_raw_os_error(job.error as i32)
        );
    }
    Ok(job)
}
