//! `snapmark check`.

use std::fmt::Write;
use std::path::PathBuf;

use clap::Args;

use crate::base::ByteSize;
use crate::check::{CheckError, Files, Options, Problem, Report, Severity, Verdict};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{count, print, print_json};
use crate::cli::progress;

const EXAMPLES: &str = "\
Examples:
  snapmark check /srv/store                   the catalog, the journal, the devices' headers
  snapmark check /srv/store --data            and every block against its checksum
  snapmark check /srv/store --repair          mend what can be mended without guessing
  snapmark check /srv/store --repair --drop-journal-tail
                                              give up what a damaged journal can't replay
  snapmark check /srv/store --json | jq '.problems[] | {message, disks}'

Without --repair nothing is written, not even a time stamp. The store must not be mounted.

--repair first copies catalog.pages and catalog.log to files beside them. It corrects counts of
data blocks, takes slots in use off the free list, gives back space that nobody has, and has
versions that nobody sees freed by the next mount. It changes no data.

A mount refuses a journal with damage in the middle: what was acknowledged would be lost without a
word. Where there is no copy of it to bring back, --drop-journal-tail gives up the record that is
damaged and all that came after it, and keeps what came before. 'snapmark check' without it says how
many records and which disks that are. The journal is copied into the store's directory first.

Exit codes of check:
  0  clean
  1  repaired, or can be repaired
  2  damaged: the report says what, where, and which disks and snapshots it touches
  3  could not check, for instance because the store is mounted";

/// Check a store that is not mounted
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Check {
    /// Directory of the store
    #[arg(value_hint = clap::ValueHint::DirPath)]
    store: PathBuf,
    /// Read every block of data, too, and compare it with its checksum
    #[arg(long)]
    data: bool,
    /// Mend what can be mended without guessing
    #[arg(long)]
    repair: bool,
    /// Give up what can't be replayed of a damaged journal: the writes after the damage are lost
    #[arg(long, requires = "repair")]
    drop_journal_tail: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Check {
    /// Checks it.
    pub fn run(self) -> Result<(), Failure> {
        let options = Options { data: self.data };
        let mut bar = progress::bytes("data");
        let report = if self.drop_journal_tail {
            let files = Files::open_to_repair(&self.store);
            files.and_then(|files| files.drop_journal_tail(options, &mut bar))
        } else if self.repair {
            Files::open_to_repair(&self.store).and_then(|files| files.repair(options, &mut bar))
        } else {
            Files::open(&self.store).and_then(|files| files.check(options, &mut bar))
        };
        let report = report.map_err(|error| could_not(&error))?;
        if self.json {
            print_json(&report)?;
        } else {
            print(&words(&report, self.data))?;
        }
        match report.verdict {
            Verdict::Clean => Ok(()),
            Verdict::Repairable => Err(Failure::new(
                Exit::REPAIRABLE,
                "the store can be repaired: run 'snapmark check --repair'",
            )),
            Verdict::Repaired => Err(Failure::new(
                Exit::REPAIRABLE,
                "the store was repaired: mount it to have the space back that is named above",
            )),
            Verdict::Damaged => Err(Failure::new(
                Exit::DAMAGED,
                "the store is damaged: copy what can be read before you change anything",
            )),
        }
    }
}

fn could_not(error: &CheckError) -> Failure {
    Failure::new(Exit::UNCHECKED, format!("can't check: {error}"))
}

fn words(report: &Report, data: bool) -> String {
    let mut text = String::new();
    for problem in &report.problems {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}", line(problem));
    }
    if report.left_out > 0 {
        let _ = writeln!(text, "and {} more like these", report.left_out);
    }
    if !text.is_empty() {
        text.push('\n');
    }
    let Some(store) = &report.store else {
        return text;
    };
    let space = report.space;
    let _ = writeln!(
        text,
        "store    {store}, segments of {}, commit {}\n\
         disks    {}, with {}\n\
         pool     {}: {} used, {} free, {} to be given back\n\
         data     {} in {}",
        ByteSize(report.segment),
        report.commit,
        report.disks,
        count(report.snapshots as u64, "snapshot"),
        count(space.total, "segment"),
        space.used,
        space.free,
        space.pending,
        ByteSize(report.blocks * crate::base::BLOCK_SIZE),
        count(report.versions, "version"),
    );
    if let Some(journal) = &report.journal {
        let _ = writeln!(
            text,
            "journal  {} to be replayed: {}, {}, {}",
            count(journal.records, "record"),
            count(journal.writes, "write"),
            count(journal.zeros, "discard"),
            count(journal.ops, "other")
        );
    }
    if data {
        let _ = writeln!(text, "read     {}", ByteSize(report.data_read));
    }
    let _ = writeln!(
        text,
        "result   {}",
        match report.verdict {
            Verdict::Clean => "clean",
            Verdict::Repairable => "can be repaired",
            Verdict::Repaired => "repaired",
            Verdict::Damaged => "damaged",
        }
    );
    text
}

fn line(problem: &Problem) -> String {
    let grade = match problem.severity {
        Severity::Note => "note",
        Severity::Repairable if problem.repaired => "repaired",
        Severity::Repairable => "repairable",
        Severity::Damage => "DAMAGE",
    };
    let mut text = format!("{grade}: {}", problem.message);
    if let Some(file) = &problem.at.file {
        let _ = write!(text, " ({file}");
        if let Some(offset) = problem.at.offset {
            let _ = write!(text, ", byte {offset}");
        }
        text.push(')');
    }
    let touched: Vec<&str> = problem
        .disks
        .iter()
        .chain(&problem.snapshots)
        .map(String::as_str)
        .collect();
    if !touched.is_empty() {
        let _ = write!(text, "\n  touches {}", touched.join(", "));
    }
    text
}
