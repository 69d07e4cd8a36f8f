//! What was done to a store, op by op, and what of it a crash may leave.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use snapmark::device::{CrashDisk, Images, Loss};

use super::engine::{Engine, Shape};
use super::model::State;
use super::{checks, invariants};

/// One op, with the events between which it ran.
#[derive(Clone)]
pub struct Entry {
    pub begun: usize,
    pub acked: usize,
    /// All up to here survives a power loss once it has returned.
    pub durable: bool,
    /// What there is after it.
    pub state: State,
    /// In words.
    pub line: String,
}

/// Ops, and the recording of what they did to the devices.
pub struct History {
    /// How to get it again.
    pub name: String,
    pub shape: Shape,
    pub disk: CrashDisk,
    /// The first is where it begins.
    pub entries: Vec<Entry>,
}

/// Which states may be found: `least..=most`.
pub type Bounds = (usize, usize);

impl History {
    /// The last op that had begun before so many events.
    fn begun(&self, events: usize) -> usize {
        self.entries.partition_point(|entry| entry.begun <= events) - 1
    }

    fn acked(&self, events: usize) -> usize {
        self.entries.partition_point(|entry| entry.acked <= events) - 1
    }

    /// What the death of the daemon after so many events may leave.
    pub fn after_kill(&self, events: usize) -> Bounds {
        let least = if self.shape.volatile {
            self.after_power_loss(events).0
        } else {
            self.acked(events)
        };
        (least, self.begun(events))
    }

    /// What a power failure after so many events may leave.
    pub fn after_power_loss(&self, events: usize) -> Bounds {
        let durable = |entry: &Entry| entry.durable && entry.acked <= events;
        let least = self.entries.iter().rposition(durable).unwrap();
        (least, self.begun(events))
    }

    /// What may be found in one of the images that are told apart by their content alone.
    pub fn after(&self, loss: &Loss) -> Bounds {
        let mut most = self.after_power_loss(loss.first).1;
        // What comes after may change nothing that shows.
        let same = |at: usize| self.entries.get(at + 1).map(|next| &next.state);
        while same(most) == Some(&self.entries[most].state) {
            most += 1;
        }
        let least = self.after_power_loss(loss.last).0;
        let killed = loss.killed.map_or(0, |events| self.after_kill(events).0);
        (least.max(killed), most)
    }

    /// The numbers of events after which more is promised than before.
    pub fn turns(&self) -> BTreeSet<usize> {
        self.entries.iter().map(|entry| entry.acked).collect()
    }

    /// Opens the images, and checks that they hold one of these states, and go on doing so
    /// however often they are opened, killed and destaged. Returns which.
    pub fn check(&self, images: &Images, (least, most): Bounds, what: &str) -> usize {
        let done = catch_unwind(AssertUnwindSafe(|| {
            checks::clean(images, "as the crash left it");
            let engine = Engine::open_images(images, self.shape);
            let found = State::of(&engine);
            let Some(at) = (least..=most)
                .rev()
                .find(|at| self.entries[*at].state == found)
            else {
                let nearest = self.entries[least].state.difference(&found);
                let known = self.entries.iter().position(|entry| entry.state == found);
                panic!(
                    "want a state of {least}..={most}, found {known:?}; not {least}: {nearest:?}"
                );
            };
            let same = |engine: &Engine, when: &str| {
                assert_eq!(State::of(engine).difference(&found), None, "{when}");
            };
            let opened = engine.disk.kill_image();
            checks::clean(&opened, "opened");
            engine.volumes.abandon();
            let engine = Engine::open_images(&opened, self.shape);
            same(&engine, "opened twice");
            engine.settle();
            invariants::check(&engine.catalog.view(), &engine.pool, true);
            let settled = engine.disk.kill_image();
            checks::clean(&settled, "settled");
            same(&engine, "destaged");
            engine.volumes.abandon();
            let engine = Engine::open_images(&settled, self.shape);
            same(&engine, "killed when it was destaged");
            engine.volumes.abandon();
            at
        }));
        done.unwrap_or_else(|panic| {
            for (at, entry) in self.entries.iter().enumerate().take(most + 1) {
                if at + 25 > least {
                    eprintln!("  {at} {}..{} {}", entry.begun, entry.acked, entry.line);
                }
            }
            eprintln!("{} {what} {:?}", self.name, self.shape);
            std::panic::resume_unwind(panic);
        })
    }
}
