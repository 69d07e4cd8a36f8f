//! What was done to a store, in numbers.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident: $words:literal,)*) => {
        /// Counters of a run.
        #[derive(Default)]
        pub struct Tally {
            $($(#[$doc])* pub $name: AtomicU64,)*
            longest: AtomicU64,
        }

        impl fmt::Display for Tally {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                $(writeln!(f, "{:>12}  {}", self.$name.load(Relaxed), $words)?;)*
                write!(f, "{:>9} ms  longest wait for an answer", self.longest.load(Relaxed))
            }
        }
    };
}

counters! {
    rounds: "rounds",
    writes: "writes and discards acknowledged",
    snapshots: "snapshots taken",
    deletes: "snapshots and disks deleted",
    clones: "clones",
    rollbacks: "rollbacks",
    renames: "renames",
    resizes: "resizes",
    syncs: "syncs",
    devices: "devices added",
    flushes: "flushes",
    no_space: "answers that there is no space",
    kills: "kills under load",
    kills_closing: "kills while it closed",
    kills_opening: "kills while it opened",
    unmounts: "unmounts in order",
    /// Commands that a kill cut off.
    cut: "commands and writes cut off by a kill",
    /// Of these, those that had happened.
    cut_done: "of these, found done",
    checks: "offline checks of everything, all clean",
    read: "bytes read and compared while it ran",
    proved: "bytes read and compared after mounting",
}

impl Tally {
    /// Notes what was read while it ran.
    pub fn read_more(&self, bytes: u64) {
        self.read.fetch_add(bytes, Relaxed);
    }

    /// Notes what was read after mounting.
    pub fn proved_more(&self, bytes: u64) {
        self.proved.fetch_add(bytes, Relaxed);
    }

    /// Notes what was under way of a writer that had begun `begun` operations, of which `held`
    /// are there.
    pub fn writers_cut(&self, acked: u32, begun: u32, held: u32) {
        self.cut.fetch_add(u64::from(begun - acked), Relaxed);
        self.cut_done
            .fetch_add(u64::from(held.saturating_sub(acked)), Relaxed);
    }

    /// Notes how long someone waited.
    pub fn waited(&self, took: Duration) {
        self.longest.fetch_max(took.as_millis() as u64, Relaxed);
    }
}

/// One more.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
