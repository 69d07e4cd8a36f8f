//! The state that views take, and which older ones are still looked at.

use std::collections::VecDeque;
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;

use super::state::State;
use crate::base::sync::{Mutex, turn};

/// The current state, and the past ones that views may still hold.
pub(crate) struct Published {
    current: ArcSwap<State>,
    /// Past states, oldest first; those that no one holds are dropped now and then.
    past: Mutex<VecDeque<Past>>,
}

struct Past {
    commit: u64,
    publication: u64,
    state: Weak<State>,
}

impl Past {
    fn is_held(&self) -> bool {
        self.state.strong_count() > 0
    }
}

impl Published {
    pub(crate) fn new(state: State) -> Self {
        Self {
            current: ArcSwap::from_pointee(state),
            past: Mutex::new(VecDeque::new()),
        }
    }

    /// The current state. Takes no lock.
    pub(crate) fn load(&self) -> Arc<State> {
        turn();
        self.current.load_full()
    }

    /// Makes a state the current one.
    pub(crate) fn publish(&self, state: State) {
        let mut past = self.past.lock();
        // A swap returns only once every reader that found the old state has a count in it, so
        // from here on the count tells whether anyone holds it.
        let old = self.current.swap(Arc::new(state));
        turn();
        past.push_back(Past {
            commit: old.commit,
            publication: old.publication,
            state: Arc::downgrade(&old),
        });
        sweep(&mut past);
        drop(past);
        // Outside of the lock: it may be the last one to hold many nodes.
        drop(old);
    }

    /// Whether every living view includes this commit.
    pub(crate) fn quiesced(&self, commit: u64) -> bool {
        let mut past = self.past.lock();
        sweep(&mut past);
        if self.current.load().commit < commit {
            return false;
        }
        turn();
        let quiet = past
            .iter()
            .all(|past| past.commit >= commit || !past.is_held());
        // What the views' threads read happened before they let go of the state.
        fence(Ordering::Acquire);
        quiet
    }

    /// The oldest publication that a living view shows.
    pub(crate) fn oldest(&self) -> u64 {
        let mut past = self.past.lock();
        sweep(&mut past);
        let held = past.iter().find(|past| past.is_held());
        let oldest = held.map(|past| past.publication);
        fence(Ordering::Acquire);
        oldest.unwrap_or_else(|| self.current.load().publication)
    }
}

/// Forgets the states that no one holds: those in front at once, the others when there are many.
fn sweep(past: &mut VecDeque<Past>) {
    while past.front().is_some_and(|past| !past.is_held()) {
        past.pop_front();
    }
    if past.len() >= 64 && past.len().is_power_of_two() {
        past.retain(Past::is_held);
    }
}
