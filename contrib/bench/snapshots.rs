//! Snapshots taken and deleted while writers go on: what it does to the writers, and how long the
//! command takes.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use super::figures::{Many, UnderLoad, Waits};
use super::fio;
use super::peers::Peer;
use super::plan::{Deed, Load, Plan, READ_16};
use super::process::{empty_page_cache, go_on, say};

const BLOCK: u64 = 4096;

/// How often a snapshot is taken where that is done again and again.
const EVERY: Duration = Duration::from_secs(1);

/// A write that ended then.
struct Write {
    end: Instant,
    took: Duration,
}

/// Threads write 4 KiB blocks at random, O_DIRECT; in the middle of it a snapshot is taken, with numbers
/// from `number` on, or deleted. `None` where the peer has no snapshots.
pub fn under_load(
    peer: &mut dyn Peer,
    plan: &Plan,
    load: Load,
    number: u32,
) -> Result<Option<UnderLoad>> {
    let (path, size) = (peer.path().to_owned(), plan.size);
    let window = Duration::from_secs(plan.snapshot_seconds);
    let done = &AtomicBool::new(false);
    if load.deed == Deed::Delete && !peer.snapshot(number)? {
        return Ok(None);
    }
    std::thread::scope(|scope| {
        let path = &path;
        let writers: Vec<_> = (1..=load.writers as u64)
            .map(|seed| scope.spawn(move || write(path, size, seed, done)))
            .collect();
        // What a first snapshot or the first writes set up counts for nothing.
        sleep(window / 4);
        let started = Instant::now();
        sleep(window);
        let begun = Instant::now();
        let mut taken = match load.deed {
            Deed::Delete => peer.delete(number),
            Deed::Snapshot | Deed::EverySecond => peer.snapshot(number),
        };
        let returned = Instant::now();
        let mut command = returned - begun;
        if matches!(taken, Ok(true)) {
            for more in 1.. {
                let left = (returned + window).saturating_duration_since(Instant::now());
                if left.is_zero() || taken.is_err() {
                    break;
                }
                let again = load.deed == Deed::EverySecond;
                sleep(if again { left.min(EVERY) } else { left });
                if again && left > EVERY {
                    let begun = Instant::now();
                    taken = peer.snapshot(number + more);
                    command = command.max(begun.elapsed());
                }
            }
        }
        done.store(true, Relaxed);
        let mut writes = Vec::new();
        for writer in writers {
            let written = writer.join().map_err(|_| anyhow!("a writer panicked"))?;
            writes.extend(written.context("a writer")?);
        }
        if !taken.context("the snapshot's command")? {
            return Ok(None);
        }
        let within = |from, to| writes.iter().filter(move |w| w.end >= from && w.end < to);
        let rate = |from| within(from, from + window).count() as f64 / window.as_secs_f64();
        let waits = |from, to| Waits::of(within(from, to).map(|write| write.took));
        Ok(Some(UnderLoad {
            load,
            rate_before: rate(started),
            rate_after: rate(returned),
            before: waits(started, begun),
            // The last write may have waited past the window.
            after: waits(begun, returned + 1000 * window),
            command,
        }))
    })
}

/// Takes snapshots, with a few writes before each, until there are as many as the plan says, and
/// measures at each of these numbers. `settle` is called before each measurement.
pub fn many(
    peer: &mut dyn Peer,
    plan: &Plan,
    settle: impl Fn(&mut dyn Peer) -> Result<()>,
) -> Result<Vec<Many>> {
    let mut found = Vec::new();
    let (mut taken, first) = (0, 1);
    for &wanted in plan.many {
        go_on()?;
        say(&format!("{wanted} snapshots"));
        while taken < wanted {
            write_some(peer.path(), plan.size, u64::from(taken) + 1)?;
            if !peer.snapshot(first + taken)? {
                return Ok(found);
            }
            taken += 1;
        }
        settle(peer)?;
        let read = |path: &Path| {
            empty_page_cache()?;
            let (rate, _) = fio::measure(&READ_16, path, plan.size, plan.seconds, 0)?;
            Ok::<_, anyhow::Error>(rate)
        };
        let live = read(peer.path())?;
        let Some(oldest) = peer.snapshot_path(first) else {
            return Ok(found);
        };
        let oldest = read(&oldest)?;
        let load = Load {
            writers: 1,
            deed: Deed::Snapshot,
        };
        let Some(load) = under_load(peer, plan, load, first + taken)? else {
            return Ok(found);
        };
        taken += 1;
        found.push(Many {
            snapshots: wanted,
            load,
            live,
            oldest,
        });
    }
    Ok(found)
}

/// As many random blocks as make a snapshot differ from the one before.
fn write_some(path: &Path, size: u64, seed: u64) -> Result<()> {
    const SOME: usize = 64;
    write_until(path, size, seed, |written| written >= SOME).map(drop)
}

fn write(path: &Path, size: u64, seed: u64, done: &AtomicBool) -> Result<Vec<Write>> {
    write_until(path, size, seed, |_| done.load(Relaxed))
}

/// Writes until `done`, which is told how many there were, says so.
fn write_until(
    path: &Path,
    size: u64,
    seed: u64,
    done: impl Fn(usize) -> bool,
) -> Result<Vec<Write>> {
    let direct = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    let mut options = OpenOptions::new();
    let file: File = options.write(true).custom_flags(direct).open(path)?;
    let mut room = vec![0x5a; 2 * BLOCK as usize];
    let start = room.as_ptr().align_offset(BLOCK as usize);
    let block = &mut room[start..start + BLOCK as usize];
    let (mut writes, mut state) = (Vec::new(), seed);
    while !done(writes.len()) {
        // Xorshift (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let started = Instant::now();
        file.write_all_at(block, state % (size / BLOCK) * BLOCK)?;
        let end = Instant::now();
        writes.push(Write {
            end,
            took: end - started,
        });
    }
    Ok(writes)
}
