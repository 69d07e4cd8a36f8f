//! A small elastic pool for requests that may take long, so that they don't hold up the threads
//! that take requests.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// How long an idle worker stays.
const LINGER: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

/// Threads that come and go with the work.
pub struct Workers {
    name: &'static str,
    shared: Arc<Shared>,
    max_threads: usize,
    max_queued: usize,
}

struct Shared {
    state: Mutex<State>,
    /// Signalled when a job is queued.
    work: Condvar,
    /// Signalled when a worker has run out of work.
    rest: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    /// Threads that there are; idle <= threads.
    threads: usize,
    /// Threads that wait for a job. One that was woken counts itself out.
    idle: usize,
    /// Jobs running in workers.
    running: usize,
}

impl Workers {
    /// A pool of at most so many threads, of this name, and waiting jobs.
    #[must_use]
    pub fn new(name: &'static str, max_threads: usize, max_queued: usize) -> Self {
        let shared = Shared {
            state: Mutex::default(),
            work: Condvar::new(),
            rest: Condvar::new(),
        };
        Self {
            name,
            shared: Arc::new(shared),
            max_threads,
            max_queued,
        }
    }

    /// Has the job done by a worker; by the caller, before this returns, where the queue is full
    /// or no thread can be had.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        let mut state = self.shared.state.lock();
        if state.queue.len() >= self.max_queued {
            drop(state);
            return job();
        }
        state.queue.push_back(Box::new(job));
        if state.idle >= state.queue.len() {
            self.shared.work.notify_one();
        } else if state.threads < self.max_threads {
            state.threads += 1;
            drop(state);
            self.start();
        }
    }

    /// Returns when no job waits or runs.
    pub fn finish(&self) {
        let mut state = self.shared.state.lock();
        while !state.queue.is_empty() || state.running > 0 {
            self.shared.rest.wait(&mut state);
        }
    }

    fn start(&self) {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name(self.name.to_owned());
        if let Err(error) = thread.spawn(move || shared.work()) {
            log::warn!("no thread for a slow request ({}): {error}", self.name);
            let mut state = self.shared.state.lock();
            state.threads -= 1;
            // With others at work the queue is theirs; alone, the caller has to do it.
            let jobs = if state.threads == 0 {
                std::mem::take(&mut state.queue)
            } else {
                VecDeque::new()
            };
            drop(state);
            jobs.into_iter().for_each(|job| job());
        }
    }
}

impl Shared {
    fn work(&self) {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.queue.pop_front() {
                state.running += 1;
                drop(state);
                job();
                state = self.state.lock();
                state.running -= 1;
                self.rest.notify_all();
                continue;
            }
            state.idle += 1;
            let waited = self.work.wait_for(&mut state, LINGER);
            state.idle -= 1;
            if waited.timed_out() && state.queue.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::sync::mpsc;

    #[test]
    fn every_job_runs_once() {
        let workers = Workers::new("test", 4, 8);
        let done = Arc::new(AtomicUsize::new(0));
        for _ in 0..1000 {
            let done = Arc::clone(&done);
            workers.run(move || {
                done.fetch_add(1, SeqCst);
            });
        }
        workers.finish();
        assert_eq!(done.load(SeqCst), 1000);
        assert!(workers.shared.state.lock().threads <= 4);
    }

    #[test]
    fn a_slow_job_does_not_hold_up_the_next() {
        let workers = Workers::new("test", 2, 8);
        let (release, wait) = mpsc::channel::<()>();
        workers.run(move || {
            let _ = wait.recv();
        });
        let (done, finished) = mpsc::channel();
        workers.run(move || {
            let _ = done.send(());
        });
        assert!(finished.recv_timeout(Duration::from_secs(10)).is_ok());
        drop(release);
        workers.finish();
    }

    #[test]
    fn the_caller_works_where_the_queue_is_full() {
        let workers = Workers::new("test", 1, 1);
        let (release, wait) = mpsc::channel::<()>();
        let (started, running) = mpsc::channel();
        workers.run(move || {
            let _ = started.send(());
            let _ = wait.recv();
        });
        running.recv().unwrap();
        workers.run(|| ());
        let caller = std::thread::current().id();
        let (tell, told) = mpsc::channel();
        workers.run(move || {
            let _ = tell.send(std::thread::current().id());
        });
        assert_eq!(told.try_recv(), Ok(caller));
        drop(release);
        workers.finish();
    }
}
