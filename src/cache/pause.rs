//! The state that a full host leaves: what has to be written waits for space, and goes on by
//! itself.
//!
//! Nothing is lost by it: what was acknowledged is in the journal and in memory. Writers go on
//! while these have room, and wait then, but not for ever: a request of the kernel can't be
//! interrupted. (dm-thin, which may run out of space in the same way, waits for as long.)

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::CacheError;
use crate::base::sync::Mutex;

/// How long what a thread does may wait for space.
#[derive(Clone, Copy, Debug)]
enum Waits {
    /// For as long as the store has patience.
    Long,
    /// Not longer than until then, if at all; after that it is to be asked for again.
    Until(Option<Instant>),
    /// Not at all.
    Never,
}

thread_local! {
    static WAITS: Cell<Waits> = const { Cell::new(Waits::Long) };
}

/// Puts back what was so before, however it ends.
struct Before(Waits);

impl Drop for Before {
    fn drop(&mut self) {
        WAITS.set(self.0);
    }
}

fn waiting<T>(waits: Waits, something: impl FnOnce() -> T) -> T {
    let _before = Before(WAITS.replace(waits));
    something()
}

/// Does something for which others wait, so that it must not wait for a full host, nor for what is
/// being deleted: it fails instead.
pub fn in_a_hurry<T>(something: impl FnOnce() -> T) -> T {
    waiting(Waits::Never, something)
}

/// Does something that can be asked for again: where it still waits for a full host then, or for what is
/// being deleted, though the store's patience is not at its end, it fails with
/// [`CacheError::NoSpaceYet`]. Without a time it does not wait for these at all.
pub fn with_space_deadline<T>(deadline: Option<Instant>, something: impl FnOnce() -> T) -> T {
    waiting(Waits::Until(deadline), something)
}

/// Whether what this thread does must not wait.
pub(super) fn is_in_a_hurry() -> bool {
    matches!(WAITS.get(), Waits::Never)
}

/// Whether what this thread does is to be asked for again, rather than wait on.
pub(super) fn is_late() -> bool {
    match WAITS.get() {
        Waits::Until(deadline) => deadline.is_none_or(|deadline| Instant::now() >= deadline),
        Waits::Long | Waits::Never => false,
    }
}

/// Whether something waits for the host to have space.
pub struct Pause {
    /// How long a pause may last before those who wait for its end are turned away.
    patience: Duration,
    /// Mirrors `state.since`, for the write path.
    paused: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    since: Option<Instant>,
    reason: String,
    /// How long earlier pauses took.
    before: Duration,
    /// Attempts that found no space.
    tries: u64,
}

impl Pause {
    /// No pause, for now.
    #[must_use]
    pub fn new(patience: Duration) -> Self {
        Self {
            patience,
            paused: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    /// An attempt found no space.
    pub(super) fn set(&self, why: &dyn std::fmt::Display) {
        let mut state = self.state.lock();
        state.tries += 1;
        state.reason = why.to_string();
        if state.since.is_none() {
            state.since = Some(Instant::now());
            self.paused.store(true, Ordering::Release);
            log::warn!("paused, no space on the host: {why}; free some there, or add a device");
        }
    }

    /// There is space again.
    pub(super) fn clear(&self) {
        if !self.is_paused() {
            return;
        }
        let mut state = self.state.lock();
        if let Some(since) = state.since.take() {
            let lasted = since.elapsed();
            state.before += lasted;
            self.paused.store(false, Ordering::Release);
            log::info!("there is space on the host again: goes on after {lasted:.1?}");
        }
    }

    /// Whether there is no space just now.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Acquire)
    }

    /// What found no space.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        let state = self.state.lock();
        state.since.map(|_| state.reason.clone())
    }

    /// How long all pauses took together.
    #[must_use]
    pub fn total(&self) -> Duration {
        let state = self.state.lock();
        state.before + state.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    pub(super) fn tries(&self) -> u64 {
        self.state.lock().tries
    }

    /// Turns away who waits, where the pause has lasted long.
    pub(super) fn check(&self) -> Result<(), CacheError> {
        self.check_since(0)
    }

    /// As [`check`](Self::check), but not before more than so many attempts have failed.
    pub(super) fn check_since(&self, tries: u64) -> Result<(), CacheError> {
        if !self.is_paused() {
            return Ok(());
        }
        let state = self.state.lock();
        let patience = if is_in_a_hurry() {
            Duration::ZERO
        } else {
            self.patience
        };
        match state.since {
            Some(since) if since.elapsed() >= patience && state.tries > tries => {
                Err(CacheError::HostFull(state.reason.clone()))
            }
            Some(_) if is_late() => Err(CacheError::NoSpaceYet(state.reason.clone())),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_turned_away_after_a_while_and_an_attempt() {
        let pause = Pause::new(Duration::ZERO);
        assert!(pause.check().is_ok() && pause.reason().is_none());
        pause.set(&"the disk is full");
        assert!(matches!(pause.check(), Err(CacheError::HostFull(why)) if why.contains("full")));
        let tries = pause.tries();
        assert!(pause.check_since(tries).is_ok(), "nothing was tried since");
        pause.set(&"still");
        assert!(pause.check_since(tries).is_err());
        pause.clear();
        assert!(pause.check().is_ok() && !pause.is_paused());
        let total = pause.total();
        assert_eq!(pause.total(), total, "it is over");

        let patient = Pause::new(Duration::from_secs(3600));
        patient.set(&"full");
        assert!(patient.check().is_ok());
        assert!(in_a_hurry(|| patient.check()).is_err());
        assert!(patient.check().is_ok());
    }

    #[test]
    fn who_can_ask_again_is_told_to_until_patience_is_at_its_end() {
        let (patient, ended) = (
            Pause::new(Duration::from_secs(3600)),
            Pause::new(Duration::ZERO),
        );
        let (now, later) = (Instant::now(), Instant::now() + Duration::from_secs(3600));
        let check = |pause: &Pause, deadline| with_space_deadline(deadline, || pause.check());
        assert!(check(&patient, Some(now)).is_ok(), "no pause");
        patient.set(&"full");
        ended.set(&"full");
        assert!(check(&patient, Some(later)).is_ok());
        for deadline in [Some(now), None] {
            let late = check(&patient, deadline);
            assert!(matches!(late, Err(CacheError::NoSpaceYet(_))));
            let over = check(&ended, deadline);
            assert!(matches!(over, Err(CacheError::HostFull(_))));
        }
        assert!(patient.check().is_ok(), "others wait on");
    }
}
