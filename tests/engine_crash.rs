//! Crashes at any event: what the daemon's death or a power loss leaves opens, keeps the rules,
//! and holds what was promised.
//!
//! `SNAPMARK_SEED=N` runs one seed, `SNAPMARK_ROUNDS=N` as many more.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use common::engine::{Engine, Shape};
use common::model::{Mix, Model, State};
use common::{Random, checks, invariants, seeds};
use snapmark::device::Images;

/// One op of the history, with the events between which it ran.
struct Entry {
    begun: usize,
    acked: usize,
    /// All up to here survives a power loss once it has returned.
    durable: bool,
    /// What there is after it.
    state: State,
}

struct History {
    seed: u64,
    shape: Shape,
    engine: Engine,
    entries: Vec<Entry>,
    lines: Vec<String>,
}

fn shape(seed: u64, volatile: bool) -> Shape {
    let mut random = Random(seed ^ 0xc4a5);
    Shape {
        cache: 1 << 20,
        journal: *random.pick(&[1 << 20, 2 << 20, 8 << 20]).unwrap(),
        batch: *random.pick(&[16 << 10, 128 << 10]).unwrap(),
        interval: Duration::from_millis(*random.pick(&[1, 3, 20, 3_600_000]).unwrap()),
        volatile,
        ..Shape::default()
    }
}

fn history(seed: u64, ops: usize, volatile: bool) -> History {
    let mix = Mix {
        largest: 320 << 10,
        disks: 4,
        snapshots: 6,
        simple: true,
        clones: true,
    };
    let shape = shape(seed, volatile);
    let mut engine = Engine::new(shape);
    let mut model = Model::new(seed, mix);
    if seed % 2 == 1 {
        // Begin in the middle: a recovery of a recovery.
        (0..100).for_each(|_| model.step(&engine));
        engine = engine.reopen();
    }
    let mut entries = vec![Entry {
        begun: 0,
        acked: 0,
        durable: true,
        state: model.state.clone(),
    }];
    let mut lines = Vec::new();
    for _ in 0..ops {
        let begun = engine.disk.crash_points();
        let what = model.random.below(30);
        let mut durable = what < 2;
        match what {
            0 => {
                model.note("sync".to_owned());
                engine.sync().unwrap();
            }
            1 => {
                model.note("flush".to_owned());
                engine.flush().unwrap();
            }
            _ => model.step(&engine),
        }
        let line = model.log.back().cloned().unwrap_or_default();
        durable |= line.starts_with("clone") || line.starts_with("rollback");
        durable |= line.starts_with("snapshot") && line.ends_with("durable");
        lines.push(line);
        entries.push(Entry {
            begun,
            acked: engine.disk.crash_points(),
            durable,
            state: model.state.clone(),
        });
        if model.random.chance(20) {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    History {
        seed,
        shape,
        engine,
        entries,
        lines,
    }
}

impl History {
    /// Opens the images, and checks that they hold one of the states `least..=most`.
    fn check(&self, images: &Images, (least, most): (usize, usize), what: &str) {
        let done = catch_unwind(AssertUnwindSafe(|| {
            checks::clean(images, "as the crash left it");
            let engine = Engine::open_images(images, self.shape);
            checks::clean(&engine.disk.kill_image(), "opened");
            let found = State::of(&engine);
            if !(least..=most)
                .rev()
                .any(|at| self.entries[at].state == found)
            {
                let nearest = self.entries[least].state.difference(&found);
                let known = self.entries.iter().position(|entry| entry.state == found);
                panic!(
                    "want a state of {least}..={most}, found {known:?}; not {least}: {nearest:?}"
                );
            }
            let again = Engine::open_images(images, self.shape);
            assert_eq!(State::of(&again).difference(&found), None, "opened twice");
            again.volumes.abandon();
            engine.settle();
            invariants::check(&engine.catalog.view(), &engine.pool, true);
            checks::clean(&engine.disk.kill_image(), "settled");
            assert_eq!(
                State::of(&engine).difference(&found),
                None,
                "after it was destaged"
            );
            let engine = engine.kill();
            assert_eq!(
                State::of(&engine).difference(&found),
                None,
                "after another crash"
            );
            engine.volumes.abandon();
        }));
        if let Err(panic) = done {
            for (at, line) in self.lines.iter().enumerate().take(most + 1) {
                if at + 25 > least {
                    eprintln!("  {} {line}", at + 1);
                }
            }
            eprintln!("SNAPMARK_SEED={} {what} {:?}", self.seed, self.shape);
            std::panic::resume_unwind(panic);
        }
    }

    /// The last op that had begun before so many events.
    fn begun(&self, events: usize) -> usize {
        self.entries.partition_point(|entry| entry.begun <= events) - 1
    }

    fn kill(&self, events: usize) {
        let acked = self.entries.partition_point(|entry| entry.acked <= events) - 1;
        let images = self.engine.disk.kill_image_at(events);
        self.check(
            &images,
            (acked, self.begun(events)),
            &format!("kill at {events}"),
        );
    }

    fn power(&self, events: usize, seed: u64) {
        let durable = |entry: &Entry| entry.durable && entry.acked <= events;
        let least = self.entries.iter().rposition(durable).unwrap();
        let images = self.engine.disk.image_at(events, seed);
        let what = format!("power loss at {events} seed {seed}");
        self.check(&images, (least, self.begun(events)), &what);
    }

    fn end(self) {
        self.engine.volumes.abandon();
    }
}

#[test]
fn p5_kill_loses_nothing_acknowledged() {
    for seed in seeds(6) {
        let history = history(seed, 200, false);
        let mut random = Random(seed ^ 1);
        let first = history.entries[1].begun as u64;
        let points = history.engine.disk.crash_points() as u64;
        for _ in 0..12 {
            history.kill((first + random.below(points - first)) as usize);
        }
        history.kill(history.entries.last().unwrap().acked);
        history.end();
    }
}

#[test]
fn p6_p3_power_loss_leaves_a_prefix_with_all_that_was_synced() {
    for seed in seeds(8) {
        let history = history(seed, 200, false);
        let mut random = Random(seed ^ 2);
        let first = history.entries[1].begun as u64;
        let points = history.engine.disk.crash_points() as u64;
        for _ in 0..14 {
            let events = (first + random.below(points - first)) as usize;
            history.power(events, random.below(12));
        }
        history.end();
    }
}

#[test]
fn volatile_power_loss_leaves_all_that_was_synced() {
    for seed in seeds(3) {
        let history = history(seed, 120, true);
        // Right after a sync nothing else may be there; the destager has nothing left to do.
        let synced = history.entries.iter().enumerate().skip(1);
        for (at, entry) in synced.filter(|(_, entry)| entry.durable).take(8) {
            let images = history.engine.disk.image_at(entry.acked, seed);
            history.check(&images, (at, at), "after a sync");
        }
        history.end();
    }
}
