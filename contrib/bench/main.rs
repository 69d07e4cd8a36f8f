//! Snapmark beside what one would use in its place, on the same disk and in one run:
//!
//! ```sh
//! cargo run --release --example bench -- DIRECTORY           # BENCHMARKS.md; some two hours
//! cargo run --release --example bench -- DIRECTORY --short   # for development; under 3 minutes
//! ```
//!
//! As root, with fio. Each peer of [`peers::PEERS`] is set up below DIRECTORY with its default
//! settings, its image filled, and a pass of `fio --verify` says whether it gives back what was
//! written. Then come the rows of [`plan::ROWS`], the same job of fio on the peer and on us in turn
//! (peer, us, peer, us), so that what changes on the machine meanwhile meets both; before each run
//! all that was written is synced, and before reads the page cache is emptied. What counts is the
//! ratio of the two runs of a pair: its median, with the lowest and the highest. Last, a snapshot is
//! taken while a writer goes on; in the full form several are and one is deleted, there are many of them,
//! PostgreSQL's own benchmark runs, and what wants an image of its own: a tree of files, two disks, a large
//! discard, a clone. Peers whose programs are not installed are named as missing.
//!
//! The full form writes BENCHMARKS.md, the chart beside it, and the ratios to
//! `contrib/bench/last.json`. The short form has three peers at a time and prints its report; with
//! `--save` its ratios go to `last.json` too. Both say which ratio fell by more than 10 % against
//! the last run of their form there.
//!
//! Where to read on: `plan` has what is measured, `measure` in which order, `peers/` how each peer
//! is set up and taken down, `fio`, `fresh`, `snapshots` and `database` measure, `report`, `chart` and `last` write.
//!
//! With a command of `snapmark` as arguments this is the `snapmark` program: so the daemon is a
//! process of its own, and nothing has to be installed first.

mod chart;
mod database;
mod empty;
mod figures;
mod fio;
mod fresh;
mod last;
mod looped;
mod machine;
mod measure;
mod peers;
mod plan;
mod process;
mod report;
mod snapshots;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;

use figures::Figures;
use peers::{Kind, PEERS, Place};
use plan::Plan;

/// The command by which this program serves the empty filesystem.
const SERVE_EMPTY: &str = "serve-empty";

/// Snapmark beside its peers, on the same disk and in one run
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Arguments {
    /// Where all is set up and removed again; the file system that it is on is what is measured
    directory: PathBuf,
    /// Three peers and short runs, to be compared with the last such run
    #[arg(long)]
    short: bool,
    /// These peers only, by their short names
    #[arg(long, value_delimiter = ',', value_name = "PEER")]
    peers: Vec<String>,
    /// The report; the chart goes beside it. BENCHMARKS.md, or standard output for the short form
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Keep the ratios as those of the last run; the full form with all peers does so by itself
    #[arg(long)]
    save: bool,
    /// Seconds of each run of fio
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,
    /// Pairs of each row
    #[arg(long)]
    pairs: Option<usize>,
    /// The image, in MiB
    #[arg(long, value_parser = clap::value_parser!(u64).range(16..))]
    mib: Option<u64>,
}

fn main() -> ExitCode {
    let verb = std::env::args().nth(1).unwrap_or_default();
    if snapmark::cli::command().find_subcommand(&verb).is_some() {
        return snapmark::cli::main();
    }
    let done = if verb == SERVE_EMPTY {
        serve_empty()
    } else {
        run(&Arguments::parse())
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            process::say(&format!("bench: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn serve_empty() -> Result<()> {
    let mut arguments = std::env::args_os().skip(2);
    let (Some(mountpoint), Some(size)) = (arguments.next(), arguments.next()) else {
        bail!("usage: {SERVE_EMPTY} MOUNTPOINT BYTES");
    };
    let size = size
        .to_string_lossy()
        .parse()
        .context("no number of bytes")?;
    empty::serve(Path::new(&mountpoint), size)
}

fn run(arguments: &Arguments) -> Result<()> {
    ensure!(
        !cfg!(debug_assertions),
        "figures of a debug build say nothing: use --release"
    );
    ensure!(
        rustix::process::geteuid().is_root(),
        "only root can mount all of this"
    );
    ensure!(
        process::find("fio").is_some(),
        "fio is not installed (Debian: fio)"
    );
    let peers = chosen(arguments)?;
    let plan = plan(arguments);
    let dir = arguments.directory.canonicalize();
    let place = Place {
        dir: dir.with_context(|| arguments.directory.display().to_string())?,
        size: plan.size,
    };
    process::catch_signals()?;
    let figures = measure::measure(&plan, &place, &peers)?;
    write(arguments, &figures)
}

fn plan(arguments: &Arguments) -> Plan {
    let mut plan = if arguments.short {
        Plan::short()
    } else {
        Plan::full()
    };
    plan.seconds = arguments.seconds.unwrap_or(plan.seconds);
    plan.pairs = arguments.pairs.unwrap_or(plan.pairs).max(1);
    plan.size = arguments.mib.map_or(plan.size, |mib| mib << 20);
    plan
}

fn chosen(arguments: &Arguments) -> Result<Vec<&'static Kind>> {
    let ids = || PEERS.iter().map(|kind| kind.id);
    for id in &arguments.peers {
        let known = ids().collect::<Vec<_>>().join(", ");
        ensure!(
            ids().any(|other| other == id),
            "no peer {id:?}; there are {known}"
        );
    }
    let wanted = |kind: &&Kind| match arguments.peers.as_slice() {
        [] => !arguments.short || kind.short,
        some => some.iter().any(|id| id == kind.id),
    };
    Ok(PEERS.iter().filter(wanted).collect())
}

/// The report, the chart and the ratios for next time, each where it belongs.
fn write(arguments: &Arguments, figures: &Figures) -> Result<()> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let kept = repository.join("contrib/bench/last.json");
    let whole = !arguments.short && arguments.peers.is_empty();
    let comparison = last::compare(&kept, figures)?;
    let out = match &arguments.out {
        None if whole => Some(repository.join("BENCHMARKS.md")),
        other => other.clone(),
    };
    match out {
        None => {
            let text = report::report(figures, None, &comparison);
            std::io::stdout().write_all(text.as_bytes())?;
        }
        Some(out) => {
            let picture = out.with_extension("svg");
            let name = picture.file_name().unwrap_or_default().to_string_lossy();
            let text = report::report(figures, Some(&*name), &comparison);
            std::fs::write(&out, text).with_context(|| out.display().to_string())?;
            let picture_text = chart::chart(figures);
            std::fs::write(&picture, picture_text)
                .with_context(|| picture.display().to_string())?;
            process::say(&format!("{comparison}\nwritten: {}", out.display()));
        }
    }
    if arguments.save || whole {
        last::save(&kept, figures)?;
    }
    Ok(())
}
