//! The report in markdown.

use std::fmt::Write;
use std::time::Duration;

use super::figures::{Figures, PeerFigures, RowFigures, Spread, UnderLoad, Verdict};
use super::plan::Deed;

/// The whole text. `chart` is the picture's path relative to it if there is one, `comparison` what is
/// to be said about the last run.
pub fn report(figures: &Figures, chart: Option<&str>, comparison: &str) -> String {
    let plan = &figures.plan;
    let mut text = format!(
        "# Benchmarks\n\n\
         The {form} run of {when}; made by `cargo run --release --example bench -- DIRECTORY{option}`.\n\n\
         A ratio is Snapmark's figure through the peer's, of two runs one right after the other: above 1 \
         Snapmark is ahead. Shown is the median of {pairs} pairs, and the lowest and the highest. The image \
         has {mib} MiB and was filled before; each run takes {seconds} s, starts when all that was \
         written before is on the disk, and, where it reads from the disk, with an empty page cache. What \
         wants an image of its own has a new one each time, and is not run beside peers that would take hours \
         to fill it. All is at its default settings.{together} CPU is what all processors did, the job \
         and what it left to be written included.\n\n\
         ",
        form = plan.form,
        when = figures.machine.when,
        option = if plan.together { " --short" } else { "" },
        pairs = plan.pairs,
        mib = plan.size >> 20,
        seconds = plan.seconds,
        together = if plan.together {
            " The peers of a round share Snapmark's run that comes after them."
        } else {
            ""
        },
    );
    if let Some(chart) = chart {
        let _ = writeln!(text, "![ratios]({chart})\n");
    }
    text += &overview(figures);
    text += &verdicts(figures);
    text += &snapshots(figures);
    text += &ourselves(figures);
    for peer in &figures.peers {
        text += &details(peer);
    }
    text += &machine(figures);
    let _ = write!(text, "## Since the last run\n\n{comparison}");
    text.trim_end().to_owned() + "\n"
}

/// Large figures whole, small ones with a fraction.
fn figure(figure: f64) -> String {
    if figure >= 100.0 {
        format!("{figure:.0}")
    } else {
        format!("{figure:.1}")
    }
}

fn cell(spread: Option<Spread>, shown: impl Fn(Spread) -> String) -> String {
    spread.map_or("–".to_owned(), shown)
}

fn overview(figures: &Figures) -> String {
    let mut text = "## Ratios (Snapmark / peer, median of pairs)\n\n| workload |".to_owned();
    for peer in &figures.peers {
        let _ = write!(text, " {} |", peer.name);
    }
    let _ = writeln!(text, "\n|---|{}", "---:|".repeat(figures.peers.len()));
    for row in figures.plan.rows() {
        let _ = write!(text, "| {} |", row.name);
        for peer in &figures.peers {
            let ratio = peer.row(row).and_then(RowFigures::ratio);
            let _ = write!(text, " {} |", cell(ratio, |s| format!("{:.2}", s.median)));
        }
        text.push('\n');
    }
    text.push('\n');
    for (name, why) in &figures.missing {
        let _ = writeln!(text, "- **missing**: {name}: {why}");
    }
    if figures.missing.is_empty() {
        text += "No peer of this form of the run is missing.\n";
    }
    text + "\n"
}

fn verdicts(figures: &Figures) -> String {
    let mut text = "## Data\n\n\
        64 MiB (or the image, if smaller) written at random in blocks of 4 KiB, O_DIRECT, depth 16, then \
        read and compared: `fio --verify=crc32c`. Rates of who failed are rates of wrong data.\n\n\
        | | verified |\n|---|---|\n"
        .to_owned();
    let peers = figures.peers.iter().map(|peer| (peer.name, &peer.verdict));
    for (name, verdict) in std::iter::once(("Snapmark", &figures.our_verdict)).chain(peers) {
        let verdict = match verdict {
            Verdict::Passed => "passed".to_owned(),
            Verdict::Failed(why) => format!("**failed**: {}", plain(why)),
            Verdict::NotApplicable => "– (keeps no data)".to_owned(),
        };
        let _ = writeln!(text, "| {name} | {verdict} |");
    }
    text + "\n"
}

/// Text of other programs, so that it stays in its cell.
fn plain(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

fn snapshots(figures: &Figures) -> String {
    let seconds = figures.plan.snapshot_seconds;
    let mut text = format!(
        "## Snapshots under load\n\n\
         Threads write 4 KiB blocks at random, O_DIRECT, one after the other, {seconds} s before the snapshot \
         and {seconds} s from the moment when its command returned; or a snapshot is taken every second of \
         these, or one that was taken before is deleted. Each once, so these are figures and no medians.\n\n\
         | | threads | snapshots | rate before (writes/s) | rate after (writes/s) | after / before \
         | p99.9 of writes before (ms) | during and after (ms) | longest write before (ms) \
         | during and after (ms) | command (ms) |\n\
         |---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|\n"
    );
    let ours = ("Snapmark", &figures.our_snapshots);
    let peers = figures
        .peers
        .iter()
        .map(|peer| (peer.name, &peer.snapshots));
    let mut without = Vec::new();
    for (name, snapshots) in std::iter::once(ours).chain(peers) {
        for snapshot in snapshots {
            text += &under_load(name, snapshot);
        }
        if snapshots.is_empty() {
            without.push(name);
        }
    }
    if !without.is_empty() {
        let _ = writeln!(text, "\nNo snapshot here: {}.", without.join("; "));
    }
    text + "\n" + &many(figures)
}

fn ms(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1e3)
}

fn under_load(name: &str, of: &UnderLoad) -> String {
    format!(
        "| {name} | {} | {} | {:.0} | {:.0} | {:.2} | {} | {} | {} | {} | {} |\n",
        of.load.writers,
        match of.load.deed {
            Deed::Snapshot => "one",
            Deed::EverySecond => "every second",
            Deed::Delete => "one deleted",
        },
        of.rate_before,
        of.rate_after,
        of.rate_after / of.rate_before,
        ms(of.before.p999),
        ms(of.after.p999),
        ms(of.before.longest),
        ms(of.after.longest),
        ms(of.command),
    )
}

fn many(figures: &Figures) -> String {
    if figures.many.is_empty() {
        return String::new();
    }
    let mut text = "## Many snapshots\n\n\
        Snapmark alone: as many snapshots of one disk, with 64 blocks written between two of them. Then 4 KiB \
        random reads, O_DIRECT, depth 16, with an empty page cache, of the disk and of its oldest snapshot, and \
        one more snapshot under the load of one thread, as above.\n\n\
        | snapshots | reads of the disk (/s) | of the oldest snapshot (/s) | oldest / disk | rate before \
        (writes/s) | rate after (writes/s) | after / before | command (ms) |\n\
        |---:|---:|---:|---:|---:|---:|---:|---:|\n"
        .to_owned();
    for many in &figures.many {
        let load = &many.load;
        let _ = writeln!(
            text,
            "| {} | {:.0} | {:.0} | {:.2} | {:.0} | {:.0} | {:.2} | {} |",
            many.snapshots,
            many.live,
            many.oldest,
            many.oldest / many.live,
            load.rate_before,
            load.rate_after,
            load.rate_after / load.rate_before,
            ms(load.command),
        );
    }
    text + "\n"
}

/// Our memory, and how we open.
fn ourselves(figures: &Figures) -> String {
    let mut text = String::new();
    if figures.memory > 0 {
        let mib = figures.memory >> 20;
        let _ = writeln!(
            text,
            "## Memory\n\nThe most that a daemon of Snapmark had resident in all of this: {mib} MiB.\n"
        );
    }
    if !figures.openings.is_empty() {
        text += "## Opening\n\nA store with one disk, stopped and mounted again with an empty page cache.\n\n\
            | data (MiB) | until it serves (ms) | resident then (MiB) |\n|---:|---:|---:|\n";
        for opening in &figures.openings {
            let (mapped, memory) = (opening.mapped >> 20, opening.memory >> 20);
            let _ = writeln!(text, "| {mapped} | {} | {memory} |", ms(opening.took));
        }
        text.push('\n');
    }
    text
}

fn details(peer: &PeerFigures) -> String {
    let mut text = format!(
        "## {}\n\n| workload | unit | peer (median) | Snapmark (median) | ratio (median of pairs) \
         | lowest to highest ratio | pairs | CPU s/GiB: peer | Snapmark |\n\
         |---|---|---:|---:|---:|---:|---:|---:|---:|\n",
        peer.name
    );
    let mut errors = peer.errors.clone();
    for row in &peer.rows {
        let ratio = row.ratio();
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            row.row.name,
            row.row.unit.name(),
            cell(row.peer(), |s| figure(s.median)),
            cell(row.us(), |s| figure(s.median)),
            cell(ratio, |s| format!("{:.2}", s.median)),
            cell(ratio, |s| format!("{:.2} to {:.2}", s.low, s.high)),
            row.pairs.len(),
            cell(row.cpu().map(|(peer, _)| peer), |s| figure(s.median)),
            cell(row.cpu().map(|(_, us)| us), |s| figure(s.median)),
        );
        if let Some(error) = &row.error {
            errors.push(format!("{}: {error}", row.row.name));
        }
    }
    text.push('\n');
    for error in &errors {
        let _ = writeln!(text, "- **failed**: {}", plain(error));
    }
    if errors.is_empty() { text } else { text + "\n" }
}

fn machine(figures: &Figures) -> String {
    let machine = &figures.machine;
    let mut text = format!(
        "## The machine\n\n| | |\n|---|---|\n| kernel | Linux {} |\n| processors | {} |\n\
         | memory | {} MiB |\n| backing file system | {} |\n",
        plain(&machine.kernel),
        plain(&machine.processors),
        machine.memory,
        plain(&machine.backing),
    );
    for (program, version) in &machine.versions {
        let _ = writeln!(text, "| {program} | {} |", plain(version));
    }
    text + "\n"
}
