//! Hours of everything at once on a real store, with kills, and every byte that is read compared
//! with what it has to be:
//!
//! ```sh
//! cargo run --release --example soak -- --minutes 600
//! ```
//!
//! As root, with FUSE. Writers on two shared disks, ten snapshots of them a second, and families
//! of disks that are written, discarded, resized, renamed, cloned, rolled back and deleted; a pool
//! that is kept nearly full, so that ENOSPC is normal; devices added. Each round of load ends with
//! a kill -9, with a kill while the daemon closes, or with an unmount; then comes `snapmark check
//! --data`, perhaps some kills while it opens, a mount, and a comparison of all content. It is the
//! same as `tests/kill.rs`, for longer.
//!
//! It prints its seed at the start and a summary at the end. At the first thing that is wrong it
//! says what, keeps the store as it is, and ends with exit code 1.
//!
//! With a command of `snapmark` as arguments this is the `snapmark` program: so the daemon is a
//! process of its own, and nothing has to be installed first.

#![allow(clippy::unwrap_used, reason = "a test, though a long one")]

#[path = "../../tests/common/torture/mod.rs"]
mod torture;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use clap::Parser;
use signal_hook::consts::{SIGINT, SIGTERM};
use torture::{Limits, Options, Orders, Served, Tally, Torture};

/// Everything at once on a real store, with kills, until the time is over or something is wrong
#[derive(Debug, Parser)]
#[command(name = "soak")]
struct Arguments {
    /// How long
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Repeats the choices of an earlier run, as far as threads allow; else from the clock
    #[arg(long)]
    seed: Option<u64>,
    /// Where the store is made; removed at a good end
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Keep the store also at a good end
    #[arg(long)]
    keep: bool,
    /// The pool, in MiB; it is filled
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(256..))]
    pool: u64,
    /// The pool's segments, in KiB
    #[arg(long, default_value_t = 256)]
    segment: u64,
    /// The cache, in MiB
    #[arg(long, default_value_t = 16)]
    cache: u64,
    /// The journal, in MiB
    #[arg(long, default_value_t = 32)]
    journal: u64,
    /// How full the pool is kept, in percent; every third round it is filled to the brim
    #[arg(long, default_value_t = 95.0)]
    fill: f64,
    /// Snapshots a second of the shared disks
    #[arg(long, default_value_t = 10.0)]
    snapshots: f64,
    /// Writers to the shared disks
    #[arg(long, default_value_t = 3)]
    writers: u32,
    /// Families of disks, with a thread each
    #[arg(long, default_value_t = 3)]
    families: u32,
    /// The longest load before a kill, in seconds
    #[arg(long, default_value_t = 10.0)]
    load: f64,
}

impl Arguments {
    fn options(&self, seed: u64) -> Options {
        Options {
            seed,
            pool: self.pool,
            segment: self.segment,
            cache: self.cache,
            journal: self.journal,
            writers: self.writers,
            // A multiple of the chunks of all writers: 8 MiB or so.
            blocks: 16 * self.writers * (128 / self.writers.max(1)),
            orders: Orders {
                snapshots: 40,
                clones: 4,
                devices: 8,
                // About half of the commands are snapshots, and half of this is the mean.
                pause: Duration::from_secs_f64(1.0 / self.snapshots.max(0.001)),
            },
            families: self.families,
            limits: Limits {
                disks: 4,
                snapshots: 12,
                units: 16384,
            },
            fill: Some(self.fill),
            load: (
                Duration::from_millis(20),
                Duration::from_secs_f64(self.load),
            ),
        }
    }
}

/// What there is to say and to end when something is wrong, in whatever thread.
struct Last {
    seed: u64,
    started: Instant,
    dir: PathBuf,
    served: OnceLock<Arc<Served>>,
    tally: OnceLock<Arc<Tally>>,
}

impl Last {
    fn summary(&self) {
        let seconds = self.started.elapsed().as_secs();
        println!(
            "after {} min {} s, with --seed {}:",
            seconds / 60,
            seconds % 60,
            self.seed
        );
        if let Some(tally) = self.tally.get() {
            println!("{tally}");
        }
    }

    fn wrong(&self, what: &std::panic::PanicHookInfo<'_>) -> ! {
        println!("WRONG: {what}");
        self.summary();
        if let Some(served) = self.served.get() {
            println!("the daemon's log ends with:\n{}", served.logged());
            served.release();
        }
        println!("the store is kept: {}", self.dir.display());
        std::process::exit(1);
    }
}

fn main() -> ExitCode {
    let verb = std::env::args().nth(1);
    if verb.is_some_and(|verb| !verb.starts_with('-')) {
        return snapmark::cli::main();
    }
    let arguments = Arguments::parse();
    let program = std::env::current_exe().expect("this program");
    run(&arguments, &program);
    ExitCode::SUCCESS
}

fn run(arguments: &Arguments, program: &Path) {
    let seed = arguments.seed.unwrap_or_else(torture::seed);
    let dir = arguments.dir.clone().unwrap_or_else(|| {
        let name = format!("snapmark-soak-{}", std::process::id());
        Path::new("/var/tmp").join(name)
    });
    println!("soak: --seed {seed}, in {}", dir.display());
    std::fs::create_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let last = Arc::new(Last {
        seed,
        started: Instant::now(),
        dir: dir.clone(),
        served: OnceLock::new(),
        tally: OnceLock::new(),
    });
    let at_panic = Arc::clone(&last);
    std::panic::set_hook(Box::new(move |what| at_panic.wrong(what)));
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).expect("a signal");
    }
    let mut torture = Torture::new(program, &dir, arguments.options(seed));
    let _ = last.served.set(torture.served());
    let _ = last.tally.set(torture.tally());
    let mut told = Instant::now();
    while last.started.elapsed().as_secs() < arguments.minutes * 60 && !stop.load(Relaxed) {
        torture.round();
        if told.elapsed() > Duration::from_secs(60) {
            told = Instant::now();
            last.summary();
        }
    }
    torture.finish();
    last.summary();
    drop(torture);
    if !arguments.keep {
        std::fs::remove_dir_all(&dir).expect("nothing is mounted there any more");
    }
    println!("nothing lost, nothing wrong");
}
