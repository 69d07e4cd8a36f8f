//! Acknowledges records in order: a record counts as written once it and all before it are.
//!
//! Recovery reads the journal up to the first gap, so a record may be acknowledged only when no
//! earlier one is still on its way (P5).

use std::collections::BTreeSet;
use std::time::Duration;

use super::{CacheError, Halt};
use crate::base::Seq;
use crate::base::sync::{Condvar, Mutex, MutexGuard};

/// The records on their way to the journal.
pub(super) struct Window {
    state: Mutex<State>,
    advanced: Condvar,
}

struct State {
    /// Every record up to this one is in the journal.
    written: Seq,
    /// Later ones that are too.
    ahead: BTreeSet<Seq>,
    waiting: usize,
}

impl Window {
    pub fn new(written: Seq) -> Self {
        let state = State {
            written,
            ahead: BTreeSet::new(),
            waiting: 0,
        };
        Self {
            state: Mutex::new(state),
            advanced: Condvar::new(),
        }
    }

    /// Notes that `first..=last` are in the journal, and waits until all before them are.
    pub fn complete(&self, first: Seq, last: Seq, halt: &Halt) -> Result<(), CacheError> {
        let mut state = self.state.lock();
        if state.written.next() != first {
            (first.0..=last.0).for_each(|seq| {
                state.ahead.insert(Seq(seq));
            });
            return self.wait(state, last, halt);
        }
        state.written = last;
        loop {
            let next = state.written.next();
            if !state.ahead.remove(&next) {
                break;
            }
            state.written = next;
        }
        if state.waiting > 0 {
            self.advanced.notify_all();
        }
        Ok(())
    }

    /// Waits until every record up to `seq` is in the journal.
    pub fn wait_for(&self, seq: Seq, halt: &Halt) -> Result<(), CacheError> {
        self.wait(self.state.lock(), seq, halt)
    }

    fn wait(
        &self,
        mut state: MutexGuard<'_, State>,
        seq: Seq,
        halt: &Halt,
    ) -> Result<(), CacheError> {
        state.waiting += 1;
        let waited = loop {
            if state.written >= seq {
                break Ok(());
            }
            if let Err(error) = halt.check() {
                break Err(error);
            }
            self.advanced
                .wait_for(&mut state, Duration::from_millis(100));
        };
        state.waiting -= 1;
        waited
    }
}
