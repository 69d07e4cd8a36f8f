//! Random operations on an engine over memory, and on a naive oracle beside it.
//!
//! `SNAPMARK_SEED=N` runs one seed, `SNAPMARK_ROUNDS=N` as many more.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use common::engine::{Engine, SEGMENT, Shape};
use common::model::{Mix, Model};
use common::{Random, invariants, seeds};

fn shape(seed: u64, volatile: bool) -> Shape {
    let mut random = Random(seed ^ 0x5eed);
    let pick = |random: &mut Random, list: &[u64]| *random.pick(list).unwrap();
    Shape {
        cache: pick(&mut random, &[1 << 20, 2 << 20, 4 << 20]),
        journal: pick(&mut random, &[4 << 20, 8 << 20, 16 << 20]),
        batch: pick(&mut random, &[16 << 10, 128 << 10, 1 << 20]),
        interval: Duration::from_millis(pick(&mut random, &[1, 5, 3_600_000])),
        volatile,
        segment: pick(&mut random, &[SEGMENT, 4 * SEGMENT]),
        ..Shape::default()
    }
}

fn run(seed: u64, ops: u64, volatile: bool) {
    let mix = Mix {
        largest: [400 << 10, 2 << 20, 6 << 20][seed as usize % 3],
        disks: 5,
        snapshots: 10,
        simple: false,
        clones: true,
    };
    let mut engine = Engine::new(shape(seed, volatile));
    let mut model = Model::new(seed, mix);
    let done = catch_unwind(AssertUnwindSafe(|| {
        for op in 1..=ops {
            model.step(&engine);
            let turn = model.random.below(150);
            if turn == 0 {
                model.note("flush".to_owned());
                engine.flush().unwrap();
            } else if turn == 1 {
                model.note("reopen".to_owned());
                replace(&mut engine, Engine::reopen);
            } else if turn == 2 && !volatile {
                model.note("kill".to_owned());
                replace(&mut engine, Engine::kill);
            } else if turn == 3 {
                engine.sync().unwrap();
            }
            if turn < 4 || op == ops {
                model.compare(&engine);
            }
            if turn == 4 || op == ops {
                model.note("settle".to_owned());
                engine.settle();
                invariants::check(&engine.catalog.view(), &engine.pool, true);
                model.compare(&engine);
            }
        }
    }));
    if let Err(panic) = done {
        model.log.iter().for_each(|line| eprintln!("  {line}"));
        eprintln!(
            "SNAPMARK_SEED={seed} volatile {volatile} halted {:?}",
            engine.status().state
        );
        std::panic::resume_unwind(panic);
    }
    engine.close_store().unwrap();
}

fn replace(engine: &mut Engine, with: impl FnOnce(Engine) -> Engine) {
    let old = Engine {
        disk: engine.disk.clone(),
        catalog: engine.catalog.clone(),
        pool: engine.pool.clone(),
        volumes: engine.volumes.clone(),
        shape: engine.shape,
        faults: engine.faults.clone(),
    };
    *engine = with(old);
}

#[test]
fn random_operations_match_the_model() {
    for seed in seeds(6) {
        run(seed, 1500, false);
    }
}

#[test]
fn random_operations_without_a_journal_match_the_model() {
    for seed in seeds(4) {
        run(seed, 1000, true);
    }
}
