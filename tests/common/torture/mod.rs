//! A store under everything at once, ended at any moment, and proved to hold what it has to: for
//! `tests/kill.rs` in short rounds, for `contrib/soak` for hours.
//!
//! A round: load, an end (a kill, a kill while it closes, an end in order), an offline check of
//! everything, kills while it opens, then a mount on which all content is compared.

#![allow(dead_code, missing_docs, reason = "each program uses another part")]
#![allow(clippy::unwrap_used, reason = "tests may")]

mod actor;
mod family;
mod pattern;
mod served;
mod shared;
#[path = "../stamps.rs"]
pub mod stamps;
mod tally;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use actor::Actor;
use shared::Shared;
use stamps::{Plan, Rng};
use tally::count;

pub use family::Limits;
#[allow(unused_imports, reason = "each program uses another part")]
pub use served::{Served, is_full};
pub use shared::Orders;
#[allow(unused_imports, reason = "each program uses another part")]
pub use stamps::seed;
pub use tally::Tally;

/// Longer than this nobody may wait for a daemon that is dead.
const HANGING: Duration = Duration::from_secs(60);

/// A pool with so many percent in use has nothing in it.
const EMPTY: f64 = 2.0;

/// What a store is put through.
#[derive(Clone, Debug)]
pub struct Options {
    pub seed: u64,
    /// The pool's first device, in MiB, and its segments in KiB.
    pub pool: u64,
    pub segment: u64,
    /// The cache in MiB.
    pub cache: u64,
    /// The least journal in MiB.
    pub journal: u64,
    /// Who writes to the two shared disks, and how large they are in blocks.
    pub writers: u32,
    pub blocks: u32,
    pub orders: Orders,
    pub families: u32,
    pub limits: Limits,
    /// How full the pool is kept, in percent.
    pub fill: Option<f64>,
    /// The least and the longest time of load.
    pub load: (Duration, Duration),
}

/// How a round ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Kill,
    KillClosing,
    Unmount,
}

/// A store, what it must hold, and what was done to it.
pub struct Torture {
    options: Options,
    served: Arc<Served>,
    rng: Rng,
    shared: Shared,
    actors: Vec<Actor>,
    ballast: Option<Actor>,
    /// How long the last mount took.
    mounting: Duration,
    tally: Arc<Tally>,
}

impl Torture {
    /// Makes a store in `dir` with `program` and serves it.
    pub fn new(program: &Path, dir: &Path, options: Options) -> Self {
        let words = |name: &str, mib: u64| [format!("--{name}"), format!("{mib}MiB")];
        let init: Vec<String> = [
            words("size", options.pool),
            words("cache-size", options.cache),
            words("journal-size", options.journal),
            ["--segment".to_owned(), format!("{}KiB", options.segment)],
        ]
        .concat();
        let served = Arc::new(Served::init(program, dir, &init));
        let mounting = served.mount();
        let plan = Plan {
            seed: options.seed,
            writers: options.writers,
            disks: 2,
            blocks: options.blocks,
            discards: 20,
        };
        let shared = Shared::new(&served, plan, options.orders);
        let actor = |number: u32| {
            let seed = options.seed + 1 + u64::from(number);
            Actor::new(&format!("f{number}-"), options.limits, seed)
        };
        let ballast = options.fill.map(|_| {
            let limits = Limits {
                units: (options.pool * 2048) as u32,
                ..options.limits
            };
            Actor::new("full", limits, options.seed)
        });
        Self {
            actors: (0..options.families).map(actor).collect(),
            ballast,
            shared,
            served,
            rng: Rng::new(options.seed),
            mounting,
            tally: Arc::default(),
            options,
        }
    }

    /// Who is served.
    pub fn served(&self) -> Arc<Served> {
        Arc::clone(&self.served)
    }

    /// What was done.
    pub fn tally(&self) -> Arc<Tally> {
        Arc::clone(&self.tally)
    }

    /// One round.
    pub fn round(&mut self) {
        let end = match self.rng.below(8) {
            0 => End::Unmount,
            1 => End::KillClosing,
            _ => End::Kill,
        };
        self.load(end);
        let opening = match end {
            End::Kill => {
                assert!(!self.served.wait(), "it was killed");
                count(&self.tally.kills);
                self.check();
                self.rng.below(3).saturating_sub(1)
            }
            End::KillClosing => {
                self.close_and_kill();
                self.check();
                self.rng.below(3)
            }
            End::Unmount => {
                self.served.unmount();
                count(&self.tally.unmounts);
                self.check();
                0
            }
        };
        for _ in 0..opening {
            self.open_and_kill();
        }
        self.settings();
        self.mounting = self.served.mount();
        self.prove();
        count(&self.tally.rounds);
    }

    /// Load for a while; with [`End::Kill`] the daemon is killed in the midst of it.
    fn load(&mut self, end: End) {
        let (least, longest) = self.options.load;
        let spread = (longest - least).as_micros() as u64;
        let time = least + Duration::from_micros(self.rng.below(spread + 1));
        let Self {
            options,
            served,
            rng,
            shared,
            actors,
            ballast,
            tally,
            ..
        } = self;
        let (served, tally) = (&**served, &**tally);
        let over = AtomicBool::new(false);
        let more = &|| !over.load(Relaxed);
        let disks = shared.open(served);
        let writers = shared.writers.clone();
        let mut seeds: Vec<Rng> = (0..=writers.len()).map(|_| Rng::new(rng.next())).collect();
        let ended = std::thread::scope(|scope| {
            // Also where something here fails: the others end.
            let _over = OnDrop(&over);
            let mut command_rng = seeds.pop().expect("one more than writers");
            for (writer, mut rng) in writers.iter().zip(seeds) {
                let disks = &disks;
                scope.spawn(move || shared::write(served, writer, disks, &mut rng, tally, more));
            }
            scope.spawn(move || shared.command(served, &mut command_rng, tally, more));
            for actor in actors {
                scope.spawn(move || {
                    while more() && actor.step(served, tally).is_ok() {}
                    actor.let_go();
                });
            }
            // Now and then to the brim.
            let brim = rng.chance(3).then_some(100.0);
            if let (Some(ballast), Some(fill)) =
                (ballast, options.fill.map(|fill| brim.unwrap_or(fill)))
            {
                scope.spawn(move || {
                    while more() && ballast.fill_up(fill, served, tally).is_ok() {
                        std::thread::sleep(Duration::from_millis(2));
                    }
                    ballast.let_go();
                });
            }
            std::thread::sleep(time);
            let ended = Instant::now();
            if end == End::Kill {
                served.kill();
            } else {
                over.store(true, Relaxed);
            }
            ended
        });
        let hung = ended.elapsed();
        assert!(hung < HANGING, "clients hung for {hung:?} after the end");
    }

    /// An unmount that does not come to its end.
    fn close_and_kill(&mut self) {
        self.served.stop();
        // Closing drains what the cache holds; that takes from nothing to a second.
        let most = 1 << self.rng.below(20);
        std::thread::sleep(Duration::from_micros(self.rng.below(most)));
        self.served.kill();
        self.served.wait();
        count(&self.tally.kills_closing);
    }

    /// A recovery that does not come to its end, or just so.
    fn open_and_kill(&mut self) {
        self.served.start();
        let most = self.mounting.as_micros() as u64 * 5 / 4;
        std::thread::sleep(Duration::from_micros(self.rng.below(most + 1)));
        self.served.kill();
        self.served.wait();
        count(&self.tally.kills_opening);
        if self.rng.chance(2) {
            self.check();
        }
    }

    fn check(&self) {
        self.served.check();
        count(&self.tally.checks);
    }

    /// Sometimes all waits in the journal, sometimes all is moved at once.
    fn settings(&mut self) {
        let interval = ["10ms", "50ms", "300ms", "1s", "1h"][self.rng.below(5) as usize];
        let batch = ["1MiB", "32MiB"][self.rng.below(2) as usize];
        let cache = self.options.cache;
        let text = format!(
            "cache:\n  size: {cache}MiB\ndestage:\n  interval: {interval}\n  batch: {batch}\n"
        );
        std::fs::write(self.served.store().join("store.yaml"), text).expect("settings");
    }

    /// Compares everything.
    fn prove(&mut self) {
        let listed = self.listed();
        self.shared.prove(&self.served, &listed, &self.tally);
        for actor in self.actors.iter_mut().chain(&mut self.ballast) {
            actor.prove(&self.served, &listed, &self.tally);
        }
    }

    /// Ends it in order, proves it once more, and deletes all that there is: the space comes back.
    pub fn finish(&mut self) {
        self.served.unmount();
        self.check();
        self.served.mount();
        self.prove();
        for name in self.listed() {
            std::fs::remove_file(self.served.file(&name)).expect("a file");
        }
        self.served.control("flush\n").expect("a flush");
        let (mut least, mut since) = (f64::MAX, Instant::now());
        while least > EMPTY {
            let fill = self.served.fill().expect("a pool");
            if fill < least {
                (least, since) = (fill, Instant::now());
            }
            let pool = self.served.status()["pool"].clone();
            let stuck = since.elapsed() > HANGING;
            assert!(!stuck, "space does not come back: {pool}");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.served.unmount();
        self.check();
    }

    /// Files in the mount.
    fn listed(&self) -> BTreeSet<String> {
        let names = std::fs::read_dir(self.served.mnt()).expect("a mount");
        names
            .map(|entry| entry.expect("a name").file_name())
            .map(|name| name.into_string().expect("text"))
            .filter(|name| !name.starts_with('.'))
            .collect()
    }
}

/// Sets a flag at the end, also where that is a panic.
struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}
