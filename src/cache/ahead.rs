//! Has the host hold in its memory what of the journal is about to be written, and write out what has
//! been written.
//!
//! Records begin and end inside the host's pages. Where the host does not have a page, it reads it
//! from the disk before it takes a part of it, and the write waits: cold, writes of 4 KiB came at an
//! eighth of the rate. So a thread reads ahead of the records. Once the ring has been round, and unless
//! the host is short of memory, there is nothing left for it to read. What it had read before writers
//! rested it has the host look for again when they go on: meanwhile others may have wanted the memory.
//!
//! What lies behind the records the same thread has the host begin to write out: else it would all be
//! left to the next sync, and a snapshot's command, or a database's fsync beside a busy writer, would
//! wait for tens of megabytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{Builder, JoinHandle, Thread, park, park_timeout};
use std::time::Duration;

use parking_lot::Mutex;

use crate::device::Device;
use crate::ondisk::journal::RING_START;

/// The ring in pieces of so many bytes.
const PIECE: u64 = 4 << 20;
/// Pieces that are read ahead: as many bytes as are journaled while a few of them are read.
const AHEAD: u64 = 8;
/// After so long without a new piece writers are taken to rest.
const REST: Duration = Duration::from_millis(250);

/// Reads ahead in one journal, until it is dropped.
#[derive(Default)]
pub(super) struct Ahead {
    shared: Arc<Shared>,
    worker: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// The piece that was written to last.
    piece: AtomicU64,
    /// Whether nothing was written for long, or so little that it makes no difference.
    rested: AtomicBool,
    stop: AtomicBool,
    /// Whom to wake.
    thread: Mutex<Option<Thread>>,
}

impl Ahead {
    /// Begins with what comes after `head`, an offset in a ring of so many bytes. Where the device has
    /// no use for it, or the host no thread, nothing is read ahead.
    pub fn start(device: Arc<dyn Device>, ring: u64, head: u64) -> Self {
        let shared = Arc::new(Shared {
            piece: AtomicU64::new(head / PIECE),
            ..Shared::default()
        });
        if !device.prefetch(RING_START + head, 1) {
            return Self {
                shared,
                worker: None,
            };
        }
        let run = {
            let shared = shared.clone();
            move || shared.run(&*device, ring)
        };
        let worker = Builder::new().name("readahead".to_owned()).spawn(run);
        if let Err(error) = &worker {
            log::warn!("no thread to read ahead in the journal, writes may be slow: {error}");
        }
        let worker = worker.ok();
        *shared.thread.lock() = worker.as_ref().map(|worker| worker.thread().clone());
        Self { shared, worker }
    }

    /// A record is being written at this offset of the ring.
    pub fn reached(&self, offset: u64) {
        let (piece, shared) = (offset / PIECE, &*self.shared);
        if shared.piece.load(Relaxed) != piece || shared.rested.load(Relaxed) {
            shared.piece.store(piece, Relaxed);
            shared.rested.store(false, Relaxed);
            shared.wake();
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        self.shared.wake();
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn wake(&self) {
        if let Some(thread) = &*self.thread.lock() {
            thread.unpark();
        }
    }

    fn run(&self, device: &dyn Device, ring: u64) {
        let pieces = ring.div_ceil(PIECE);
        let mut plan = Plan::default();
        let range = |piece: u64| {
            let start = piece * PIECE;
            (RING_START + start, PIECE.min(ring - start))
        };
        while !self.stop.load(Relaxed) {
            let written = self.piece.load(Relaxed);
            // Reading comes first: who overtakes it waits at each page.
            let ahead = plan.next(written, pieces);
            if let Some((start, len)) = ahead.map(range) {
                device.prefetch(start, len);
            }
            let behind = plan.left(written, pieces);
            if let Some((start, len)) = behind.map(range) {
                device.begin_sync(start, len);
            }
            if ahead.is_none() && behind.is_none() {
                park_timeout(REST);
                if self.piece.load(Relaxed) == written && !self.stop.load(Relaxed) {
                    self.rested.store(true, Relaxed);
                    park();
                    plan.forget();
                }
            }
        }
    }
}

/// What has been read, and what is to be written out.
#[derive(Default)]
struct Plan {
    /// The piece that is written to, and how many from there on have been read.
    at: u64,
    read: u64,
    /// The first piece that has not been left or is yet to be written out.
    behind: Option<u64>,
}

impl Plan {
    /// A piece, of so many, that writers have left and that is to be written out. Where they were
    /// faster, only the last ones are.
    fn left(&mut self, written: u64, pieces: u64) -> Option<u64> {
        // In a small ring what was left is soon what comes.
        let most = AHEAD.min((pieces - 1) / 2);
        let behind = *self.behind.get_or_insert(written);
        let waiting = (written + pieces - behind) % pieces;
        // None, or one who was overtaken.
        if waiting == 0 || waiting + most >= pieces {
            return None;
        }
        let piece = (written + pieces - waiting.min(most)) % pieces;
        self.behind = Some((piece + 1) % pieces);
        (most > 0).then_some(piece)
    }

    /// What has been read may not be there any more.
    fn forget(&mut self) {
        self.read = 0;
    }

    /// The next piece to be read while one is being written, of so many; none where enough is.
    fn next(&mut self, written: u64, pieces: u64) -> Option<u64> {
        let moved = (written + pieces - self.at) % pieces;
        // Writers come in no order at the border of two pieces.
        if moved == pieces - 1 && pieces > 2 * AHEAD && self.read > 0 {
            return None;
        }
        self.read = self.read.saturating_sub(moved);
        self.at = written;
        if self.read >= AHEAD.min(pieces) {
            return None;
        }
        let next = (written + self.read) % pieces;
        self.read += 1;
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_so_far_ahead_and_reads_nothing_twice() {
        let mut plan = Plan::default();
        let mut read =
            |written| -> Vec<u64> { std::iter::from_fn(|| plan.next(written, 20)).collect() };
        assert_eq!(read(5), (5..13).collect::<Vec<_>>());
        assert!(read(5).is_empty());
        assert_eq!(read(6), [13]);
        assert!(read(5).is_empty(), "one who was overtaken");
        assert_eq!(read(9), [14, 15, 16]);
        assert_eq!(read(15), [17, 18, 19, 0, 1, 2]);
        // Round the ring, and far away.
        assert_eq!(read(1), [3, 4, 5, 6, 7, 8]);
        assert_eq!(read(12), (12..20).collect::<Vec<_>>());
        plan.forget();
        assert_eq!(plan.next(12, 20), Some(12));
    }

    #[test]
    fn what_is_left_behind_is_written_out_once() {
        let mut plan = Plan::default();
        let mut left = |written, pieces| -> Vec<u64> {
            std::iter::from_fn(|| plan.left(written, pieces)).collect()
        };
        assert!(left(5, 20).is_empty());
        assert_eq!(left(6, 20), [5]);
        assert!(left(5, 20).is_empty(), "one who was overtaken");
        assert!(left(6, 20).is_empty());
        assert_eq!(left(8, 20), [6, 7]);
        assert_eq!(left(19, 20), (11..19).collect::<Vec<_>>(), "the last ones");
        assert_eq!(left(1, 20), [19, 0]);
        let mut plan = Plan::default();
        for (written, left) in [
            (0, None),
            (1, Some(0)),
            (0, None),
            (2, Some(1)),
            (0, Some(2)),
        ] {
            assert_eq!(plan.left(written, 3), left, "{written}");
        }
        let mut plan = Plan::default();
        assert!((0..4).all(|at| plan.left(at % 2, 2).is_none()));
    }

    #[test]
    fn a_small_ring_is_read_once() {
        let mut plan = Plan::default();
        assert_eq!(plan.next(0, 1), Some(0));
        assert_eq!(plan.next(0, 1), None);
        let all: Vec<u64> = std::iter::from_fn(|| plan.next(2, 3)).collect();
        assert_eq!(all, [2, 0, 1]);
    }
}
