//! Promise P5 on the real daemon: killed without warning at any moment, of writes, syncs,
//! snapshots, deletes, clones, rollbacks, renames, resizes, discards, added devices, of destaging,
//! opening and closing, it comes back on the mountpoint that it left, with every acknowledged
//! command there, and what was under way there whole or not at all. After each kill the offline
//! check finds nothing. `SNAPMARK_KILL_ROUNDS` asks for more rounds, `SNAPMARK_SEED` for the
//! choices of an earlier run; `contrib/soak` goes on for hours.

#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/torture/mod.rs"]
mod torture;

use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use torture::{Limits, Options, Orders, Torture, seed};

const ROUNDS: u32 = 100;

#[test]
fn p5_every_acknowledged_write_survives_kill_9_round_after_round() {
    if !common::able(&[]) {
        return;
    }
    let rounds = std::env::var("SNAPMARK_KILL_ROUNDS").ok();
    let rounds = rounds.map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        seed: seed(),
        pool: 1024,
        // So that many are covered whole by one write.
        segment: 64,
        cache: 8,
        journal: 16,
        writers: 3,
        blocks: 384,
        orders: Orders {
            snapshots: 8,
            clones: 3,
            devices: 6,
            pause: Duration::from_millis(10),
        },
        families: 2,
        limits: Limits {
            disks: 3,
            snapshots: 6,
            units: 4096,
        },
        fill: None,
        load: (Duration::from_millis(20), Duration::from_millis(400)),
    };
    let started = Instant::now();
    let mut torture = Torture::new(Path::new(common::SNAPMARK), dir.path(), options);
    for _ in 0..rounds {
        torture.round();
    }
    torture.finish();
    let tally = torture.tally();
    eprintln!("{tally}\n{:>9?}  in all", started.elapsed());
    let done = [
        &tally.writes,
        &tally.snapshots,
        &tally.deletes,
        &tally.clones,
        &tally.rollbacks,
        &tally.renames,
        &tally.resizes,
        &tally.syncs,
        &tally.kills,
        &tally.kills_closing,
        &tally.kills_opening,
        &tally.unmounts,
    ];
    assert!(rounds < ROUNDS || done.iter().all(|it| it.load(Relaxed) > 0));
}
