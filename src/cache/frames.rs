//! The cache's memory: a fixed number of blocks, taken before a write is acknowledged and given
//! back when its data has reached a segment and no reader holds it.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::slab::{self, Filling, Page};
use super::throttle::Throttle;
use super::{CacheError, Halt};
use crate::base::sync::{Condvar, Mutex, MutexGuard, thread};
use crate::base::{BLOCK, Checksum, checksum};

/// Places to wait at; those of one line share them in turn.
const PLACES: usize = 32;
/// How long a replay waits for destaging to give memory back.
const REPLAY_PATIENCE: Duration = Duration::from_secs(2);
/// When it looks again.
const REPLAY_LOOKS_AGAIN: Duration = Duration::from_millis(20);

/// A block of data with its checksum. Never changes once made; the memory goes back to its pool
/// when the last holder drops it.
pub struct Frame {
    /// `None` only while being dropped.
    page: Option<&'static mut Page>,
    sum: Checksum,
    pool: Arc<FramePool>,
}

impl Frame {
    /// The data's CRC-32C.
    #[must_use]
    pub fn checksum(&self) -> Checksum {
        self.sum
    }
}

impl Deref for Frame {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.page.as_ref().map_or(&[], |page| &page.0)
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        if let Some(page) = self.page.take() {
            self.pool.put_back(page);
        }
    }
}

/// Memory that was taken and is to be filled.
pub struct Taken {
    pages: Vec<&'static mut Page>,
    pool: Arc<FramePool>,
}

impl Taken {
    /// Fills the blocks with `data`, a whole number of blocks, and computes their checksums.
    #[must_use]
    pub fn fill(self, data: &[u8]) -> Vec<Arc<Frame>> {
        debug_assert_eq!(data.len(), self.pages.len() * BLOCK);
        self.fill_with(data.chunks_exact(BLOCK))
    }

    /// As [`fill`](Self::fill), block by block.
    #[must_use]
    pub fn fill_with<'a>(mut self, blocks: impl Iterator<Item = &'a [u8]>) -> Vec<Arc<Frame>> {
        let pages = std::mem::take(&mut self.pages);
        let fill = |(page, block): (&'static mut Page, &[u8])| {
            page.0.copy_from_slice(block);
            Arc::new(Frame {
                sum: checksum(block),
                page: Some(page),
                pool: self.pool.clone(),
            })
        };
        pages.into_iter().zip(blocks).map(fill).collect()
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        for page in self.pages.drain(..) {
            self.pool.put_back(page);
        }
    }
}

/// All blocks of the cache. Writers that find none wait in one line, first come, first served,
/// so that none starves.
pub struct FramePool {
    size: usize,
    state: Mutex<State>,
    /// Where those in line wait, each at the place of its ticket: only the first is to wake up.
    places: [Condvar; PLACES],
    filling: Mutex<Filling>,
}

struct State {
    free: Vec<&'static mut Page>,
    /// Tickets of those that wait, in order.
    line: VecDeque<u64>,
    next_ticket: u64,
    /// A replay found no memory for long: it takes what it needs.
    has_grown: bool,
    /// How many free blocks the first in line waits for; 0 where nobody does.
    wanted: usize,
    throttle: Throttle,
}

impl State {
    /// How long whoever is next has to wait for so many blocks; nothing if that is not known.
    fn wait(&self, count: usize, size: usize) -> Option<Duration> {
        let free = self.free.len();
        (free >= count).then(|| self.throttle.wait(Instant::now(), free, size))
    }

    /// Whether so many blocks can be had at once.
    fn has(&self, count: usize, size: usize) -> bool {
        self.wait(count, size).is_some_and(|wait| wait.is_zero())
    }
}

impl FramePool {
    /// A pool of so many whole blocks.
    ///
    /// # Errors
    /// Where the host has not so much memory.
    pub fn new(size: usize) -> Result<Arc<Self>, CacheError> {
        let (free, filling) = slab::take(size).map_err(|error| no_memory(size, error))?;
        let state = State {
            free,
            line: VecDeque::new(),
            next_ticket: 0,
            wanted: 0,
            has_grown: false,
            throttle: Throttle::new(Instant::now()),
        };
        Ok(Arc::new(Self {
            size,
            state: Mutex::new(state),
            places: std::array::from_fn(|_| Condvar::new()),
            filling: Mutex::new(filling),
        }))
    }

    /// Returns when all of it is backed by memory. To be called before anything is written that may
    /// make memory short.
    ///
    /// # Errors
    /// Where the host has not so much memory.
    pub fn fill(&self) -> Result<(), CacheError> {
        let filling = std::mem::take(&mut *self.filling.lock());
        filling.wait().map_err(|error| {
            // The next pool is not to take these for memory.
            self.state.lock().free.clear();
            no_memory(self.size, error)
        })
    }

    /// Blocks in all.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Blocks not in use.
    #[must_use]
    pub fn free(&self) -> usize {
        self.state.lock().free.len()
    }

    /// Whether `count` blocks would have to be waited for.
    #[must_use]
    pub fn is_crowded(&self, count: usize) -> bool {
        let state = self.state.lock();
        !state.line.is_empty() || !state.has(count, self.size)
    }

    /// Whether anyone waits for blocks.
    #[must_use]
    pub fn is_waited_for(&self) -> bool {
        !self.state.lock().line.is_empty()
    }

    /// Notes that destaging so many blocks took so long.
    pub fn destaged(&self, blocks: u32, time: Duration) {
        self.state.lock().throttle.destaged(blocks, time);
    }

    /// Takes `count` blocks, waiting in line until there are so many. `hurry` is called before
    /// waiting, to get destaging going; `check` says whether it is worth to wait on.
    ///
    /// # Errors
    /// What `check` says.
    pub fn take(
        self: &Arc<Self>,
        count: usize,
        check: impl Fn() -> Result<(), CacheError>,
        hurry: impl Fn(),
    ) -> Result<Taken, CacheError> {
        let mut state = self.state.lock();
        if !state.line.is_empty() || !state.has(count, self.size) {
            self.wait_in_line(&mut state, count, check, hurry)?;
        }
        let free = state.free.len();
        state
            .throttle
            .handed_out(Instant::now(), count, free, self.size);
        let pages = state.free.split_off(free - count);
        Ok(Taken {
            pages,
            pool: self.clone(),
        })
    }

    /// As [`take`](Self::take), for the replay of the journal. Where destaging gives nothing back
    /// for long, the pool grows beyond its size: it may itself wait for the end of the replay, for
    /// slots that only then are known to be nobody's.
    ///
    /// # Errors
    /// Where the store halts meanwhile.
    pub fn take_for_replay(
        self: &Arc<Self>,
        count: usize,
        halt: &Halt,
        hurry: impl Fn(),
    ) -> Result<Taken, CacheError> {
        let started = Instant::now();
        loop {
            halt.check()?;
            let mut state = self.state.lock();
            state.has_grown |= started.elapsed() > REPLAY_PATIENCE;
            let missing = count.saturating_sub(state.free.len());
            if missing > 0 && state.has_grown {
                let (more, filling) =
                    slab::take(missing).map_err(|error| no_memory(missing, error))?;
                drop(filling);
                state.free.extend(more);
            }
            if state.free.len() >= count {
                let keep = state.free.len() - count;
                let pages = state.free.split_off(keep);
                let pool = self.clone();
                return Ok(Taken { pages, pool });
            }
            drop(state);
            hurry();
            thread::sleep(REPLAY_LOOKS_AGAIN);
        }
    }

    fn wait_in_line(
        &self,
        state: &mut MutexGuard<'_, State>,
        count: usize,
        check: impl Fn() -> Result<(), CacheError>,
        hurry: impl Fn(),
    ) -> Result<(), CacheError> {
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.line.push_back(ticket);
        let waited = loop {
            if let Err(error) = check() {
                break Err(error);
            }
            let is_next = state.line.front() == Some(&ticket);
            if is_next && state.has(count, self.size) {
                break Ok(());
            }
            MutexGuard::unlocked(state, &hurry);
            let is_next = state.line.front() == Some(&ticket);
            let wait = state.wait(count, self.size).filter(|_| is_next);
            match wait {
                Some(Duration::ZERO) => break Ok(()),
                wait => {
                    if is_next {
                        // With more than the reserve nobody waits.
                        let reserve = Throttle::reserve(self.size);
                        state.wanted = if wait.is_none() { count } else { reserve };
                    }
                    let most = Duration::from_millis(100);
                    self.place(ticket)
                        .wait_for(state, wait.unwrap_or(most).min(most));
                }
            }
        };
        state.line.retain(|waiting| *waiting != ticket);
        self.wake_first(state);
        waited
    }

    fn place(&self, ticket: u64) -> &Condvar {
        &self.places[ticket as usize % PLACES]
    }

    fn wake_first(&self, state: &State) {
        if let Some(first) = state.line.front() {
            self.place(*first).notify_all();
        }
    }

    fn put_back(&self, page: &'static mut Page) {
        let mut state = self.state.lock();
        state.free.push(page);
        if state.wanted > 0 && state.free.len() >= state.wanted {
            state.wanted = 0;
            self.wake_first(&state);
        }
    }
}

impl Drop for FramePool {
    fn drop(&mut self) {
        let free = std::mem::take(&mut self.state.get_mut().free);
        // The next pool is not to take for memory what is none.
        if std::mem::take(self.filling.get_mut()).wait().is_ok() {
            slab::give_back(free);
        }
    }
}

fn no_memory(blocks: usize, error: rustix::io::Errno) -> CacheError {
    CacheError::NoMemory {
        bytes: blocks as u64 * BLOCK as u64,
        error: Arc::new(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_when_the_last_holder_drops_it() {
        let pool = FramePool::new(4).unwrap();
        let halt = Halt::default();
        let frames = pool
            .take(3, || halt.check(), || {})
            .unwrap()
            .fill(&[7; 3 * BLOCK]);
        assert_eq!(pool.free(), 1);
        let held = frames[1].clone();
        drop(frames);
        assert_eq!(pool.free(), 3);
        assert_eq!(
            (&held[..], held.checksum()),
            (&[7; BLOCK][..], checksum(&[7; BLOCK]))
        );
        drop(held);
        assert_eq!(pool.free(), 4);
        drop(pool.take(2, || halt.check(), || {}).unwrap());
        assert_eq!(pool.free(), 4);
    }

    #[test]
    fn a_waiting_writer_gets_memory_in_turn_and_a_halt_wakes_it() {
        let pool = FramePool::new(2).unwrap();
        let halt = Arc::new(Halt::default());
        let all = pool.take(2, || halt.check(), || {}).unwrap();
        let waiter = {
            let (pool, halt) = (pool.clone(), halt.clone());
            std::thread::spawn(move || {
                pool.take(2, || halt.check(), || {})
                    .map(|taken| taken.fill(&[1; 2 * BLOCK]).len())
            })
        };
        std::thread::sleep(Duration::from_millis(20));
        drop(all);
        assert_eq!(waiter.join().unwrap().unwrap(), 2);

        let all = pool.take(2, || halt.check(), || {}).unwrap();
        let waiter = {
            let (pool, halt) = (pool.clone(), halt.clone());
            std::thread::spawn(move || pool.take(1, || halt.check(), || {}).map(|_| ()))
        };
        halt.set(&"test");
        assert!(matches!(waiter.join().unwrap(), Err(CacheError::Halted(_))));
        drop(all);
    }
}
