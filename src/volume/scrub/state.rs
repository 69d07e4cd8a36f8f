//! What a scrub is asked to do and how far it has come, shared by its thread and those who ask.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::mapped::Stretch;
use super::rate::Bucket;
use crate::base::now;
use crate::base::sync::{Condvar, Mutex};
use crate::volume::{ScrubProblem, ScrubState, ScrubStatus};

/// Problems that are remembered, the last ones.
const REMEMBERED: usize = 32;

/// How long is waited for a word; it is waited for again.
const LONG: Duration = Duration::from_secs(3600);

/// Why a scrub ended before its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It was told to.
    Stopped,
    /// The store is being closed: it goes on at the next opening.
    Closed,
    /// It can't go on.
    Failed(String),
}

/// What its thread is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Run,
    Pause,
    Stop,
    Close,
}

/// How far a scrub has come for good: all before it was looked at and judged.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Reached {
    /// The next stretch; none at the very start.
    pub next: Option<Stretch>,
    /// Bytes checked up to there, and what was found.
    checked: u64,
    damaged: u64,
    suspects: u64,
    problems: Vec<ScrubProblem>,
}

impl Reached {
    /// All that is known, before this stretch.
    pub fn of(next: Option<Stretch>, status: &ScrubStatus) -> Self {
        Self {
            next,
            checked: status.checked,
            damaged: status.damaged,
            suspects: status.suspects,
            problems: status.problems.clone(),
        }
    }

    /// Takes out of a status what will be looked at again.
    pub fn put(self, status: &mut ScrubStatus) {
        status.checked = self.checked;
        status.damaged = self.damaged;
        status.suspects = self.suspects;
        status.problems = self.problems;
    }
}

/// The state of the scrub.
pub(super) struct State {
    pub ask: Ask,
    /// Whether its thread runs.
    pub alive: bool,
    pub bucket: Bucket,
    pub reached: Reached,
    status: ScrubStatus,
    problems: VecDeque<ScrubProblem>,
}

/// See the module. The state's lock is held for moments, and takes no other one.
pub(super) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    started: Instant,
    /// Held while the state is saved, so that what is written last is what was so last.
    pub saving: Mutex<()>,
}

impl State {
    pub fn status(&self) -> ScrubStatus {
        ScrubStatus {
            rate: self.bucket.rate(),
            problems: self.problems.iter().cloned().collect(),
            ..self.status.clone()
        }
    }

    /// Begins anew.
    pub fn begin(&mut self) {
        self.status = ScrubStatus {
            state: ScrubState::Running,
            started: Some(now().rfc3339()),
            ..ScrubStatus::default()
        };
        self.problems.clear();
        (self.ask, self.alive, self.reached) = (Ask::Run, true, Reached::default());
    }

    /// Takes up what an earlier session of the store has saved.
    pub fn restore(&mut self, status: ScrubStatus, reached: Reached) {
        self.bucket = Bucket::new(status.rate);
        self.problems = status.problems.iter().cloned().collect();
        self.reached = reached;
        let goes_on = matches!(status.state, ScrubState::Running | ScrubState::Paused);
        self.ask = match status.state {
            ScrubState::Paused => Ask::Pause,
            _ => Ask::Run,
        };
        self.alive = goes_on;
        self.status = status;
    }

    /// Asks its thread for something; it runs.
    pub fn ask(&mut self, ask: Ask) {
        self.ask = ask;
        match ask {
            Ask::Run => self.status.state = ScrubState::Running,
            Ask::Pause => self.status.state = ScrubState::Paused,
            Ask::Stop | Ask::Close => {}
        }
    }
}

impl Shared {
    pub fn new(rate: u64) -> Self {
        let state = State {
            ask: Ask::Run,
            alive: false,
            bucket: Bucket::new(rate),
            reached: Reached::default(),
            status: ScrubStatus::default(),
            problems: VecDeque::new(),
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            started: Instant::now(),
            saving: Mutex::default(),
        }
    }

    /// Looks at the state, or changes it.
    pub fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        let result = look(&mut self.state.lock());
        self.changed.notify_all();
        result
    }

    /// The time that the bucket goes by.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Returns when so many bytes may be read: not while paused, nor faster than the rate.
    pub fn admit(&self, bytes: u64) -> Result<(), Ended> {
        let mut state = self.state.lock();
        loop {
            match state.ask {
                Ask::Stop => return Err(Ended::Stopped),
                Ask::Close => return Err(Ended::Closed),
                Ask::Pause => {
                    self.changed.wait_for(&mut state, LONG);
                }
                Ask::Run => {
                    let now = self.now();
                    let wait = state.bucket.wait(now);
                    if bytes == 0 || wait.is_zero() {
                        state.bucket.spend(bytes, now);
                        return Ok(());
                    }
                    self.changed.wait_for(&mut state, wait);
                }
            }
        }
    }

    /// Lets others have the device for a while.
    pub fn rest(&self, time: Duration) {
        let mut state = self.state.lock();
        if state.ask == Ask::Run {
            self.changed.wait_for(&mut state, time);
        }
    }

    /// How much there is to be checked.
    pub fn total(&self, bytes: u64) {
        self.with(|state| state.status.total = bytes);
    }

    /// More was checked, and found to be there at all.
    pub fn checked(&self, bytes: u64) {
        self.with(|state| {
            state.status.checked += bytes;
            state.status.total = state.status.total.max(state.status.checked);
        });
    }

    /// So much has been looked at and judged.
    pub fn reached(&self, next: Stretch) {
        self.with(|state| {
            state.reached = Reached::of(Some(next), &state.status());
        });
    }

    /// Blocks differ of which nobody looks who reads them.
    pub fn suspects(&self, blocks: u64) {
        self.with(|state| state.status.suspects += blocks);
    }

    /// Blocks are damaged.
    pub fn damaged(&self, problem: ScrubProblem) {
        self.with(|state| {
            state.status.damaged += problem.count;
            state.problems.push_back(problem);
            while state.problems.len() > REMEMBERED {
                state.problems.pop_front();
            }
        });
    }

    /// Its thread ends.
    pub fn ended(&self, result: Result<(), Ended>) {
        self.with(|state| {
            state.alive = false;
            let (to, error) = match result {
                Ok(()) => (ScrubState::Done, None),
                Err(Ended::Stopped) => (ScrubState::Stopped, None),
                Err(Ended::Failed(error)) => (ScrubState::Failed, Some(error)),
                Err(Ended::Closed) => return,
            };
            state.reached = Reached::default();
            state.status.finished = Some(now().rfc3339());
            (state.status.state, state.status.error) = (to, error);
        });
    }
}
