//! Measures how long a write to another disk of the same mount waits.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::lab::Result;

const DISK: u64 = 64 << 20;
const BLOCK: usize = 4096;
/// Between two writes.
const PAUSE: Duration = Duration::from_micros(300);

/// When a write began, and how long it took.
type Wait = (Instant, Duration);

/// A thread that writes 4 KiB blocks here and there.
pub struct Probe {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<std::io::Result<Vec<Wait>>>>,
}

/// All writes that were made.
pub struct Waits(Vec<Wait>);

impl Probe {
    pub fn start(disk: &Path) -> Result<Self> {
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .open(disk)?;
        file.set_len(DISK)?;
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("probe".to_owned())
            .spawn(move || write(&file, &until))?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    pub fn end(mut self) -> Result<Waits> {
        self.stop.store(true, Relaxed);
        let thread = self.thread.take().ok_or("the probe has ended before")?;
        Ok(Waits(thread.join().map_err(|_| "the probe panicked")??))
    }
}

impl Drop for Probe {
    /// Its disk must be closed before the store can be unmounted.
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn write(file: &File, stop: &AtomicBool) -> std::io::Result<Vec<Wait>> {
    let mut waits = Vec::with_capacity(1 << 16);
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    while !stop.load(Relaxed) {
        // Xorshift (Marsaglia 2003): any place will do.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let block = [random as u8; BLOCK];
        let at = random % (DISK / BLOCK as u64) * BLOCK as u64;
        let begin = Instant::now();
        file.write_all_at(&block, at)?;
        waits.push((begin, begin.elapsed()));
        std::thread::sleep(PAUSE);
    }
    Ok(waits)
}

impl Waits {
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The longest wait of a write that was under way in this span.
    pub fn longest_in(&self, span: (Instant, Instant)) -> Duration {
        let inside = self.0.iter().filter(|wait| overlaps(wait, span));
        longest(inside)
    }

    /// The longest wait of a write that was under way in none of these.
    pub fn longest_outside(&self, spans: &[(Instant, Instant)]) -> Duration {
        let outside = |wait: &&_| !spans.iter().any(|span| overlaps(wait, *span));
        longest(self.0.iter().filter(outside))
    }

    /// What this part of the writes stayed below.
    pub fn percentile(&self, part: f64) -> Duration {
        let mut sorted: Vec<Duration> = self.0.iter().map(|(_, took)| *took).collect();
        sorted.sort_unstable();
        let at = (sorted.len() as f64 * part) as usize;
        sorted
            .get(at.min(sorted.len().saturating_sub(1)))
            .copied()
            .unwrap_or_default()
    }
}

fn overlaps((begin, took): &Wait, (from, to): (Instant, Instant)) -> bool {
    *begin <= to && *begin + *took >= from
}

fn longest<'a>(waits: impl Iterator<Item = &'a Wait>) -> Duration {
    waits.map(|(_, took)| *took).max().unwrap_or_default()
}
