//! A snapshot while a writer goes on: what it does to the writer, and how long the command takes.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use super::peers::Peer;
use super::plan::Plan;

const BLOCK: u64 = 4096;

/// One snapshot under load.
#[derive(Clone, Copy, Debug)]
pub struct UnderLoad {
    /// Writes a second before it.
    pub rate_before: f64,
    /// Writes a second from the moment when the command returned.
    pub rate_after: f64,
    /// The longest that a write took before it.
    pub longest_before: Duration,
    /// The longest that a write took which ended after the command had begun.
    pub longest_after: Duration,
    /// How long the command took.
    pub command: Duration,
}

/// A write that ended then.
struct Write {
    end: Instant,
    took: Duration,
}

/// One thread writes 4 KiB blocks at random, O_DIRECT; in the middle of it a snapshot is taken.
/// `None` where the peer has no snapshots.
pub fn under_load(peer: &mut dyn Peer, size: u64, plan: &Plan) -> Result<Option<UnderLoad>> {
    let path = peer.path().to_owned();
    let window = Duration::from_secs(plan.snapshot_seconds);
    let done = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| write(&path, size, done));
        // What a first snapshot or the first writes set up counts for nothing.
        sleep(window / 4);
        let started = Instant::now();
        sleep(window);
        let begun = Instant::now();
        let taken = peer.snapshot(1);
        let returned = Instant::now();
        if matches!(taken, Ok(true)) {
            sleep(window);
        }
        done.store(true, Relaxed);
        let writes = writer.join().map_err(|_| anyhow!("the writer panicked"))?;
        if !taken.context("the snapshot's command")? {
            return Ok(None);
        }
        let writes = writes.context("the writer")?;
        let within = |from, to| writes.iter().filter(move |w| w.end >= from && w.end < to);
        let rate = |from| within(from, from + window).count() as f64 / window.as_secs_f64();
        let longest = |from, to| within(from, to).map(|w| w.took).max().unwrap_or_default();
        Ok(Some(UnderLoad {
            rate_before: rate(started),
            rate_after: rate(returned),
            longest_before: longest(started, begun),
            // The last write may have waited past the window.
            longest_after: longest(begun, returned + 1000 * window),
            command: returned - begun,
        }))
    })
}

fn write(path: &Path, size: u64, done: &AtomicBool) -> Result<Vec<Write>> {
    let direct = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    let mut options = OpenOptions::new();
    let file: File = options.write(true).custom_flags(direct).open(path)?;
    let mut room = vec![0x5a; 2 * BLOCK as usize];
    let start = room.as_ptr().align_offset(BLOCK as usize);
    let block = &mut room[start..start + BLOCK as usize];
    let (mut writes, mut state) = (Vec::new(), 1_u64);
    while !done.load(Relaxed) {
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
