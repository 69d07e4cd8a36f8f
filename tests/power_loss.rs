//! Power loss, exhaustively for short histories: after every event, every subset of what was not
//! synced, in every order that matters, with one change torn in every way. Each image opens,
//! passes the check with its data, holds a prefix that reaches what was promised (P2, P3, P4, P5,
//! P6), and stays what it is however often it is opened and destaged.
//!
//! A history whose images are too many has all the untorn ones looked at first, and of the others
//! a choice: `SNAPMARK_ROUNDS=N` looks at N times as many, `SNAPMARK_SEED=N` chooses others.
//! `tests/engine_crash.rs` samples long histories.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use common::Random;
use common::engine::{SEGMENT, Shape};
use common::history::History;
use common::model::State;
use common::script::{Holds, Script};
use snapmark::device::{Limits, Loss};

const KIB: u64 = 1 << 10;
const BLOCK: u64 = 4 * KIB;
/// Images of a history looked at in one round.
const IMAGES: usize = 800;
/// Threads that look: a store that settles sleeps now and then.
const LOOKERS: usize = 4;

fn number(name: &str, or: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.map_or(or, |text| text.parse().expect("a number"))
}

fn rounds() -> usize {
    number("SNAPMARK_ROUNDS", 1) as usize
}

fn seed() -> u64 {
    number("SNAPMARK_SEED", 1)
}

/// Small, and without anything that happens by itself.
fn small() -> Shape {
    Shape {
        segment: SEGMENT,
        log: 128 << 10,
        journal: 576 << 10,
        pool: 8 << 20,
        cache: 1 << 20,
        batch: 256 << 10,
        interval: Duration::from_secs(3600),
        volatile: false,
        patience: Duration::from_secs(60),
    }
}

/// What was looked at.
#[derive(Default)]
struct Tally {
    events: usize,
    candidates: usize,
    images: usize,
    left_out: usize,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.events += other.events;
        self.candidates += other.candidates;
        self.images += other.images;
        self.left_out += other.left_out;
    }
}

/// Looks at all images of a history after so many events, or at `most` of them.
fn look(history: &History, from: usize, most: usize) -> Tally {
    let limits = Limits {
        open: 10,
        candidates: (5 * most).max(300) * rounds(),
        seed: seed(),
    };
    let losses = history.disk.losses(from, &history.turns(), &limits);
    let mut list: Vec<Loss> = losses.list;
    let found = list.len();
    choose(&mut list, most * rounds());
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..LOOKERS {
            scope.spawn(|| {
                while let Some(loss) = list.get(next.fetch_add(1, SeqCst)) {
                    if failed.load(SeqCst) {
                        return;
                    }
                    let images = history.disk.image_of(loss);
                    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        history.check(&images, history.after(loss), &format!("{loss:?}"))
                    }));
                    if let Err(panic) = done {
                        failed.store(true, SeqCst);
                        std::panic::resume_unwind(panic);
                    }
                }
            });
        }
    });
    Tally {
        events: history.disk.crash_points() - from,
        candidates: losses.candidates,
        images: list.len(),
        left_out: found - list.len(),
    }
}

/// So many of them: what a killed daemon leaves, then what is whole, then of the rest a choice.
fn choose(list: &mut Vec<Loss>, most: usize) {
    if list.len() <= most {
        return;
    }
    let mut random = Random(seed());
    let mut keyed: Vec<(u64, Loss)> = list
        .drain(..)
        .map(|loss| {
            let class = match (loss.killed, loss.is_torn()) {
                (Some(_), _) => 0,
                (None, false) => 1,
                (None, true) => 2 + random.below(4),
            };
            (class << 32 | random.below(1 << 32), loss)
        })
        .collect();
    keyed.sort_by_key(|(key, _)| *key);
    keyed.truncate(most);
    keyed.sort_by_key(|(_, loss)| loss.first);
    list.extend(keyed.into_iter().map(|(_, loss)| loss));
}

fn run(script: Script) -> History {
    let started = Instant::now();
    let history = script.end();
    let tally = look(&history, 0, IMAGES);
    report(&history.name, &tally, started);
    history
}

fn report(name: &str, tally: &Tally, started: Instant) {
    println!(
        "{name}: {} images of {} events ({} ways to them; {} images left out; \
         SNAPMARK_SEED={} SNAPMARK_ROUNDS={}) in {:.1?}",
        tally.images,
        tally.events,
        tally.candidates,
        tally.left_out,
        seed(),
        rounds(),
        started.elapsed()
    );
    assert!(tally.images > 30, "only {} images", tally.images);
}

fn writes(name: &str) -> Script {
    let mut script = Script::new(name, small());
    script.create("a", 96 * KIB);
    script.write("a", 0, BLOCK);
    script.sync();
    script.write("a", 3000, 6000);
    script.write("a", 0, BLOCK);
    script.write("a", 90 * KIB, 10 * KIB);
    script.sync();
    script.write("a", 8 * KIB, 512);
    script
}

#[test]
fn p4_p6_writes_and_fsyncs() {
    let mut script = writes("writes and fsyncs");
    script.flush();
    script.write("a", 0, 3 * BLOCK);
    script.sync();
    script.write("a", BLOCK, BLOCK);
    script.flush();
    run(script);
}

/// A snapshot of data in place, and a thin version over it, in a pack.
fn snapshots(name: &str) -> Script {
    let mut script = Script::new(name, small());
    script.create("a", 2 * SEGMENT);
    script.create("b", SEGMENT);
    script.write("a", 0, 3 * BLOCK);
    script.write("b", BLOCK, BLOCK);
    script.flush();
    script.write("a", 0, BLOCK);
    script.snapshot(&["a", "b"], "s", Holds::PowerLoss);
    script.write("a", BLOCK, BLOCK);
    script.write("b", BLOCK, BLOCK);
    script.flush();
    script.write("a", BLOCK, BLOCK);
    script.snapshot(&["a"], "t", Holds::Kill);
    script.write("a", SEGMENT, BLOCK);
    script.flush();
    script
}

#[test]
fn p3_snapshots_and_what_is_written_over_them() {
    run(snapshots("snapshots"));
}

#[test]
fn p9_deleted_snapshots_are_reaped_and_their_space_is_reused() {
    let mut script = snapshots("deletes");
    script.remove("a@s");
    script.settle();
    script.remove("a@t");
    script.write("a", 0, 2 * BLOCK);
    script.settle();
    script.remove("b");
    script.settle();
    script.write("a", 4 * BLOCK, BLOCK);
    script.flush();
    run(script);
}

#[test]
fn clones_and_rollbacks() {
    let mut script = snapshots("clones and rollbacks");
    script.clone_of("a@s", "c");
    script.write("c", 0, BLOCK);
    script.flush();
    script.roll_back("a", "a@s");
    script.write("a", 0, BLOCK);
    script.rename("a", "d");
    script.settle();
    script.remove("d@s");
    script.settle();
    run(script);
}

#[test]
fn resizes_and_discards() {
    let mut script = Script::new("resizes and discards", small());
    script.create("a", 3 * SEGMENT);
    script.write("a", SEGMENT - BLOCK, 2 * BLOCK);
    script.write("a", 2 * SEGMENT, BLOCK);
    script.flush();
    script.snapshot(&["a"], "s", Holds::Kill);
    script.discard("a", SEGMENT - BLOCK, 2 * BLOCK);
    script.discard("a", SEGMENT, 2 * SEGMENT);
    script.flush();
    script.write("a", SEGMENT, BLOCK);
    script.resize("a", SEGMENT + 100);
    script.resize("a", 2 * SEGMENT);
    script.sync();
    // Two cut blocks and whole ones between: three records that count only together.
    script.write("a", 0, 4 * BLOCK);
    script.discard("a", 700, 3 * BLOCK);
    script.settle();
    run(script);
}

#[test]
fn big_writes_by_reference() {
    let mut script = Script::new("big writes", small());
    script.create("a", 4 * SEGMENT);
    // The first finds no slots lent out, and makes the destager lend some.
    script.write("a", 0, SEGMENT);
    script.settle();
    let before = script.engine.disk.counts();
    script.write("a", SEGMENT - BLOCK, SEGMENT + 2 * BLOCK);
    let after = script.engine.disk.counts();
    let wrote = |pool: &str| after[pool].0 > before[pool].0;
    assert!(wrote("pool0") || wrote("pool1"), "not by reference");
    script.write("a", SEGMENT + BLOCK, BLOCK);
    script.sync();
    script.write("a", SEGMENT, SEGMENT);
    script.snapshot(&["a"], "s", Holds::PowerLoss);
    script.write("a", SEGMENT, SEGMENT);
    script.settle();
    run(script);
}

#[test]
fn checkpoints_of_the_catalog() {
    let mut script = snapshots("checkpoints");
    script.checkpoint();
    script.write("a", 0, BLOCK);
    script.flush();
    script.remove("a@s");
    script.checkpoint();
    script.settle();
    // As many commits as fill the log, and one more.
    for turn in 0..12 {
        script.write("a", turn % 3 * BLOCK, BLOCK);
        script.flush();
    }
    script.reopen();
    run(script);
}

#[test]
fn devices_that_are_added() {
    let mut script = Script::new("devices", small());
    script.create("a", SEGMENT);
    script.write("a", 0, BLOCK);
    script.add_device("pool2", small().pool);
    script.write("a", 0, 2 * BLOCK);
    script.flush();
    run(script);
}

/// The daemon died, and the power failed only when it had come again.
#[test]
fn p5_p6_kills_before_the_power_fails() {
    let mut script = writes("kills");
    script.kill();
    script.write("a", 0, BLOCK);
    script.snapshot(&["a"], "s", Holds::Kill);
    script.kill();
    script.write("a", 0, BLOCK);
    script.flush();
    script.write("a", BLOCK, BLOCK);
    script.kill();
    script.settle();
    run(script);
}

/// The daemon died at any moment, also in the middle of a commit, a checkpoint or a destage, and
/// the power failed while the next one recovered from that and went on.
#[test]
fn p5_p6_kills_at_any_event_before_the_power_fails() {
    let started = Instant::now();
    let mut total = Tally::default();
    let mut script = snapshots("kills at any event");
    script.checkpoint();
    script.remove("a@s");
    script.settle();
    let history = script.end();
    let points = history.disk.crash_points();
    for events in 0..=points {
        let mut script = Script::revive(&history, events);
        script.create("z", SEGMENT);
        script.write("z", 0, BLOCK);
        script.sync();
        script.settle();
        let again = script.end();
        total.add(look(&again, events, IMAGES / 50));
    }
    report("kills at any event", &total, started);
}

/// Crashes while what another crash left is being recovered, and destaged.
#[test]
fn p6_recoveries_that_are_cut_short() {
    let started = Instant::now();
    let mut total = Tally::default();
    let mut big = Script::new("recoveries", small());
    big.create("a", 4 * SEGMENT);
    big.write("a", 0, SEGMENT);
    big.settle();
    big.write("a", SEGMENT, SEGMENT + BLOCK);
    big.snapshot(&["a"], "s", Holds::PowerLoss);
    big.write("a", SEGMENT, BLOCK);
    let histories = [
        writes("recoveries").end(),
        snapshots("recoveries").end(),
        big.end(),
    ];
    let mut random = Random(seed());
    for history in &histories {
        let points = history.disk.crash_points() as u64;
        for _ in 0..4 * rounds() {
            let (events, seed) = (random.below(points + 1) as usize, random.below(1000));
            let images = history.disk.image_at(events, seed);
            let what = format!("power loss at {events} seed {seed}");
            let found = history.check(&images, history.after_power_loss(events), &what);
            let state: State = history.entries[found].state.clone();
            let name = format!("{} after {what}", history.name);
            let mut script = Script::after(&name, &images, small(), state);
            script.sync();
            script.settle();
            let again = script.end();
            total.add(look(&again, 0, IMAGES / 10));
        }
    }
    report("recoveries", &total, started);
}

/// Without a journal what was synced is there, and of one disk's writes a prefix.
#[test]
fn volatile_what_was_synced_is_there() {
    let shape = Shape {
        volatile: true,
        ..small()
    };
    let mut script = Script::new("volatile", shape);
    script.create("a", 2 * SEGMENT);
    script.write("a", 0, 2 * BLOCK);
    script.sync();
    script.write("a", BLOCK, 2 * BLOCK);
    script.snapshot(&["a"], "s", Holds::PowerLoss);
    script.write("a", 0, BLOCK);
    script.discard("a", BLOCK, BLOCK);
    script.write("a", SEGMENT, BLOCK);
    script.sync();
    script.remove("a@s");
    script.write("a", 5 * BLOCK, BLOCK);
    script.settle();
    run(script);
}
