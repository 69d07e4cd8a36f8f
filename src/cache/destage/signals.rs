//! How the destager is told that there is work.

use std::time::Duration;

use super::niceness::Niceness;
use crate::base::Seq;
use crate::base::sync::atomic::{AtomicBool, Ordering};
use crate::base::sync::{Condvar, Mutex, MutexGuard};

/// What has been asked of the destager.
#[derive(Default)]
pub(in crate::cache) struct Signals {
    asked: Mutex<Asked>,
    wake: Condvar,
    /// Mirrors `asked.hurry`, so that asking twice costs a load.
    hurrying: AtomicBool,
    /// Of the thread that all this is told to.
    pub(super) niceness: Niceness,
}

#[derive(Default)]
struct Asked {
    hurry: bool,
    flush: Seq,
    /// Something happened that may end a pause.
    help: bool,
    refill: bool,
    stop: bool,
    /// The destager waits.
    resting: bool,
}

/// Why the destager woke up.
pub(super) enum Wake {
    /// It was asked to destage.
    Asked,
    /// The time is over.
    Idle,
    /// The stock of slots runs low.
    Refill,
    /// It is to end.
    Stop,
}

impl Signals {
    /// Asks for a round soon.
    pub fn hurry(&self) {
        if !self.hurrying.swap(true, Ordering::AcqRel) {
            self.asked.lock().hurry = true;
            self.wake.notify_all();
        }
    }

    /// As [`hurry`](Self::hurry), by someone who waits for it.
    pub fn hurry_for_me(&self) {
        self.niceness.insist();
        self.hurry();
    }

    /// Asks for all records up to `seq`.
    pub fn flush(&self, seq: Seq) {
        self.niceness.insist();
        let mut asked = self.asked.lock();
        asked.flush = asked.flush.max(seq);
        asked.hurry = true;
        asked.help = true;
        self.wake.notify_all();
    }

    /// Asks for a round now, even in a pause: there may be space, or something that makes some.
    pub fn help(&self) {
        let mut asked = self.asked.lock();
        asked.hurry = true;
        asked.help = true;
        self.wake.notify_all();
    }

    /// Asks for more slots in stock.
    pub fn refill(&self) {
        let mut asked = self.asked.lock();
        if !asked.refill {
            asked.refill = true;
            self.wake.notify_all();
        }
    }

    /// Whether the destager has done all it was asked for, and waits.
    pub fn is_idle(&self) -> bool {
        let asked = self.asked.lock();
        asked.resting && !asked.hurry && !asked.refill
    }

    /// Whether someone waits for this record to be destaged.
    pub(super) fn awaits(&self, seq: Seq) -> bool {
        seq <= self.asked.lock().flush
    }

    /// Ends the destager.
    pub fn stop(&self) {
        self.niceness.insist();
        self.asked.lock().stop = true;
        self.wake.notify_all();
    }

    pub(super) fn stopping(&self) -> bool {
        self.asked.lock().stop
    }

    fn rest(&self, asked: &mut MutexGuard<'_, Asked>, time: Duration) {
        asked.resting = true;
        self.wake.wait_for(asked, time);
        asked.resting = false;
    }

    /// Waits in a pause, for so long at the most. Those who wait for room don't cut it short: there
    /// is none to be had.
    pub(super) fn wait_paused(&self, time: Duration) -> Wake {
        let mut asked = self.asked.lock();
        if !asked.help && !asked.stop {
            self.rest(&mut asked, time);
        }
        // A flush that was asked for before asks again.
        self.hurrying.store(true, Ordering::Release);
        match (asked.stop, std::mem::take(&mut asked.help)) {
            (true, _) => Wake::Stop,
            (false, true) => Wake::Asked,
            (false, false) => Wake::Idle,
        }
    }

    /// Waits for something to do, `interval` at the most.
    pub(super) fn wait(&self, interval: Duration) -> Wake {
        let mut asked = self.asked.lock();
        // A pause may have left it set with nothing asked for.
        self.hurrying.store(asked.hurry, Ordering::Release);
        if !asked.hurry && !asked.stop && !asked.refill {
            self.rest(&mut asked, interval);
        }
        let hurry = std::mem::take(&mut asked.hurry);
        self.hurrying.store(false, Ordering::Release);
        let refill = std::mem::take(&mut asked.refill);
        asked.help = false;
        match (asked.stop, hurry) {
            (true, _) => Wake::Stop,
            (false, true) => Wake::Asked,
            (false, false) if refill => Wake::Refill,
            (false, false) => Wake::Idle,
        }
    }
}
