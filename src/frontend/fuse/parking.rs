//! Writes that have to wait for room in the cache wait here, so that the threads that take
//! requests go on with reads, syncs and commands.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::AcqRel};

use crate::base::Workers;

/// Writes that are let in at the same time; the cache lets them through in turn.
const THREADS: usize = 16;
/// Writes parked at the most.
const WRITES: usize = 4096;
/// Bytes parked at the most. Beyond that the thread that took the write waits with it, and the
/// kernel with what it has not sent yet.
const BYTES: usize = 8 << 20;

/// Where a write is done.
pub(super) enum When {
    /// By a thread that may wait with it.
    Parked,
    /// By the thread that took it: there was no room to park it.
    NoRoom,
}

/// The parking place.
pub(super) struct Parking {
    workers: Workers,
    /// Bytes parked; `<= BYTES`.
    bytes: Arc<AtomicUsize>,
}

impl Parking {
    pub(super) fn new() -> Self {
        Self {
            workers: Workers::new("fuse-worker", THREADS, WRITES),
            bytes: Arc::default(),
        }
    }

    /// Copies the data and has `write` called with it later. Where there is no room for it, gives
    /// `write` back.
    pub(super) fn park<W: FnOnce(&[u8], When) + Send + 'static>(
        &self,
        data: &[u8],
        write: W,
    ) -> Result<(), W> {
        let parked = self.bytes.fetch_add(data.len(), AcqRel) + data.len();
        if parked > BYTES {
            self.bytes.fetch_sub(data.len(), AcqRel);
            return Err(write);
        }
        let (data, bytes) = (data.to_vec(), Arc::clone(&self.bytes));
        self.workers.run(move || {
            write(&data, When::Parked);
            bytes.fetch_sub(data.len(), AcqRel);
        });
        Ok(())
    }

    /// Returns when nothing is parked.
    pub(super) fn finish(&self) {
        self.workers.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Acquire;
    use std::sync::mpsc;

    #[test]
    fn what_is_parked_is_bounded_and_all_of_it_is_written() {
        let parking = Parking::new();
        let (release, wait) = mpsc::channel::<()>();
        let (done, written) = mpsc::channel();
        let block = vec![7; BYTES / 2];
        let first = done.clone();
        let park = parking.park(&block, move |data, _| {
            let _ = wait.recv();
            let _ = first.send(data.len());
        });
        assert!(park.is_ok());
        let second = done.clone();
        assert!(
            parking
                .park(&block, move |data, _| {
                    let _ = second.send(data.len());
                })
                .is_ok()
        );
        // The first still holds its half, so this is too much whatever became of the second.
        assert!(parking.park(&vec![7; BYTES], |_, _| ()).is_err());
        drop(release);
        parking.finish();
        assert_eq!(written.iter().take(2).sum::<usize>(), BYTES);
        assert_eq!(parking.bytes.load(Acquire), 0);
    }
}
