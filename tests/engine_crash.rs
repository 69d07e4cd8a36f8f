//! Crashes at any event of long histories: what the daemon's death or a power loss leaves opens,
//! keeps the rules, and holds what was promised. `tests/power_loss.rs` does the same for all that
//! crashes can leave of short ones.
//!
//! `SNAPMARK_SEED=N` runs one seed, `SNAPMARK_ROUNDS=N` as many more.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use std::time::Duration;

use common::engine::{Engine, SEGMENT, Shape};
use common::history::{Entry, History};
use common::model::{Mix, Model};
use common::{Random, seeds};

fn shape(seed: u64, volatile: bool) -> Shape {
    let mut random = Random(seed ^ 0xc4a5);
    Shape {
        cache: 1 << 20,
        journal: *random.pick(&[1 << 20, 2 << 20, 8 << 20]).unwrap(),
        batch: *random.pick(&[16 << 10, 128 << 10]).unwrap(),
        interval: Duration::from_millis(*random.pick(&[1, 3, 20, 3_600_000]).unwrap()),
        volatile,
        segment: *random.pick(&[SEGMENT, 4 * SEGMENT]).unwrap(),
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
        line: "begin".to_owned(),
    }];
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
        entries.push(Entry {
            begun,
            acked: engine.disk.crash_points(),
            durable,
            state: model.state.clone(),
            line,
        });
        if model.random.chance(20) {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    engine.volumes.abandon();
    History {
        name: format!("SNAPMARK_SEED={seed}"),
        shape,
        disk: engine.disk,
        entries,
    }
}

fn kill(history: &History, events: usize) {
    let images = history.disk.kill_image_at(events);
    let bounds = history.after_kill(events);
    history.check(&images, bounds, &format!("kill at {events}"));
}

fn power(history: &History, events: usize, seed: u64) {
    let images = history.disk.image_at(events, seed);
    let bounds = history.after_power_loss(events);
    let what = format!("power loss at {events} seed {seed}");
    history.check(&images, bounds, &what);
}

#[test]
fn p5_kill_loses_nothing_acknowledged() {
    for seed in seeds(6) {
        let history = history(seed, 200, false);
        let mut random = Random(seed ^ 1);
        let first = history.entries[1].begun as u64;
        let points = history.disk.crash_points() as u64;
        for _ in 0..16 {
            kill(&history, (first + random.below(points - first)) as usize);
        }
        kill(&history, history.entries.last().unwrap().acked);
    }
}

#[test]
fn p6_p3_power_loss_leaves_a_prefix_with_all_that_was_synced() {
    for seed in seeds(8) {
        let history = history(seed, 200, false);
        let mut random = Random(seed ^ 2);
        let first = history.entries[1].begun as u64;
        let points = history.disk.crash_points() as u64;
        for _ in 0..24 {
            let events = (first + random.below(points - first)) as usize;
            power(&history, events, random.below(1000));
        }
    }
}

#[test]
fn volatile_power_loss_leaves_all_that_was_synced() {
    for seed in seeds(3) {
        let history = history(seed, 120, true);
        // Right after a sync nothing else may be there; the destager has nothing left to do.
        let synced = history.entries.iter().enumerate().skip(1);
        for (at, entry) in synced.filter(|(_, entry)| entry.durable).take(8) {
            let images = history.disk.image_at(entry.acked, seed);
            history.check(&images, (at, at), "after a sync");
        }
    }
}
