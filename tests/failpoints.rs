//! Every named step of commit, destage, snapshot, delete and open: the store fails there, and it
//! dies there. After each it holds what was promised, and opens again.
//!
//! `SNAPMARK_ROUNDS=N` lets each step fail at N times as many of its turns.

#![cfg(debug_assertions)]
#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::engine::{SEGMENT, Shape};
use common::history::History;
use common::model::State;
use common::script::{Holds, Script};
use snapmark::device::{Step, watch};

const BLOCK: u64 = 4096;

fn shape() -> Shape {
    Shape {
        segment: SEGMENT,
        // Full after some commits, so that checkpoints come by themselves.
        log: 96 << 10,
        journal: 576 << 10,
        pool: 8 << 20,
        cache: 1 << 20,
        batch: 256 << 10,
        interval: Duration::from_secs(3600),
        volatile: false,
        patience: Duration::from_secs(60),
    }
}

fn begin(name: &str) -> Script {
    let mut script = Script::new(name, shape());
    script.tolerate();
    script
}

/// A bit of everything.
fn tell(script: &mut Script) {
    script.create("a", 4 * SEGMENT);
    script.create("b", SEGMENT);
    script.write("a", 0, SEGMENT);
    // A request for slots is served by itself only where nothing else is asked for with it.
    script.rest();
    script.write("b", 100, 5000);
    script.settle();
    script.write("a", SEGMENT, SEGMENT + BLOCK);
    script.sync();
    script.snapshot(&["a", "b"], "s", Holds::PowerLoss);
    script.write("a", 0, BLOCK);
    script.write("b", BLOCK, BLOCK);
    script.flush();
    script.clone_of("a@s", "c");
    script.write("c", BLOCK, BLOCK);
    script.snapshot(&["a"], "t", Holds::Kill);
    script.discard("a", BLOCK, 2 * BLOCK);
    script.write("a", 2 * SEGMENT, BLOCK);
    script.settle();
    script.add_device("pool2", shape().pool);
    script.remove("a@t");
    script.remove("c");
    script.settle();
    script.write("a", BLOCK, BLOCK);
    script.kill();
    script.write("a", 3 * BLOCK, BLOCK);
    script.checkpoint();
    script.roll_back("a", "a@s");
    script.write("a", 0, SEGMENT);
    script.resize("b", 3 * BLOCK);
    script.remove("b@s");
    script.settle();
    script.remove("b");
    script.reopen();
    script.write("a", 0, BLOCK);
    script.settle();
}

/// Serves for the death of the daemon at a moment, and of the power.
fn look(history: &History, events: usize, what: &str) -> usize {
    let killed = history.disk.kill_image_at(events);
    history.check(
        &killed,
        history.after_kill(events),
        &format!("{what}, killed"),
    );
    for seed in [0, 5, 6] {
        let lost = history.disk.image_at(events, seed);
        let what = format!("{what}, power loss, seed {seed}");
        history.check(&lost, history.after_power_loss(events), &what);
    }
    4
}

/// When each step was taken in a story that nothing disturbs, and whether it can fail.
#[derive(Default)]
struct Taken {
    /// Numbers of events.
    at: BTreeMap<Step, Vec<usize>>,
    can_fail: BTreeSet<Step>,
}

/// One test, since the steps of all stores of the process are told to one who watches.
#[test]
fn the_store_fails_and_dies_at_every_step() {
    let taken = dies();
    let every: BTreeSet<Step> = Step::ALL.iter().copied().collect();
    let reached: BTreeSet<Step> = taken.at.keys().copied().collect();
    let missed: Vec<_> = every.difference(&reached).collect();
    assert!(missed.is_empty(), "steps that no story takes: {missed:?}");
    fails(&taken);
}

/// The story, undisturbed; then what its end at each step would have left.
fn dies() -> Taken {
    let taken = Arc::new(Mutex::new(Taken::default()));
    let mut script = begin("dies");
    let (into, disk) = (taken.clone(), script.engine.disk.clone());
    watch(Some(Arc::new(move |step, can_fail| {
        let mut taken = into.lock().unwrap();
        taken.at.entry(step).or_default().push(disk.crash_points());
        if can_fail {
            taken.can_fail.insert(step);
        }
        false
    })));
    tell(&mut script);
    watch(None);
    assert!(!script.failed);
    let history = script.end();
    let taken = std::mem::take(&mut *taken.lock().unwrap());
    let mut images = 0;
    let mut known = BTreeSet::new();
    for (step, moments) in &taken.at {
        // The first, the last, and one in between.
        let some = [0, moments.len() / 2, moments.len() - 1].map(|at| moments[at]);
        for events in some {
            if known.insert(events) {
                images += look(&history, events, &format!("dies at {step:?}"));
            }
        }
    }
    let (steps, turns) = (
        taken.at.len(),
        taken.at.values().map(Vec::len).sum::<usize>(),
    );
    println!(
        "dies: {steps} steps, taken {turns} times; {images} images of {} moments",
        known.len()
    );
    taken
}

/// The story again and again, in which one step fails at one of its turns.
fn fails(taken: &Taken) {
    let rounds = std::env::var("SNAPMARK_ROUNDS").map_or(1, |text| text.parse().unwrap());
    let (mut stories, mut halted, mut images) = (0, 0, 0);
    for step in &taken.can_fail {
        let turns = taken.at[step].len();
        let step_by = (turns / (3 * rounds)).max(1);
        for turn in (0..turns).step_by(step_by) {
            let name = format!("fails at {step:?}, turn {turn}");
            let mut script = begin(&name);
            let (chosen, met) = (*step, Arc::new(AtomicUsize::new(0)));
            let seen = met.clone();
            watch(Some(Arc::new(move |step, can_fail| {
                step == chosen && can_fail && seen.fetch_add(1, SeqCst) == turn
            })));
            tell(&mut script);
            watch(None);
            if met.load(SeqCst) <= turn {
                // The destager did it in fewer turns this time.
                continue;
            }
            stories += 1;
            halted += usize::from(script.failed);
            // Reads go on, of what was there before the step that failed, or after it.
            let shown = State::of(&script.engine);
            let last = script.state.difference(&shown);
            let before = script.before().difference(&shown);
            assert!(
                last.is_none() || before.is_none(),
                "{name}: {last:?}, {before:?}"
            );
            let history = script.end();
            let events = history.disk.crash_points();
            images += look(&history, events, &name);
        }
    }
    println!(
        "fails: {} steps, {stories} stories, of which {halted} came to a halt; {images} images; \
         SNAPMARK_ROUNDS={rounds}",
        taken.can_fail.len()
    );
}
