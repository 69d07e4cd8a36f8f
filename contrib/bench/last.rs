//! The ratios of the last committed run, in `contrib/bench/last.json`, and what fell since.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::figures::{Figures, Spread};

/// How much of a ratio may go before it is said.
const TOLERATED: f64 = 0.10;

/// The file: forms by name.
#[derive(Default, Deserialize, Serialize)]
struct Forms(BTreeMap<String, Run>);

/// One run's ratios.
#[derive(Default, Deserialize, Serialize)]
struct Run {
    when: String,
    kernel: String,
    processors: String,
    size: u64,
    seconds: u64,
    pairs: usize,
    /// By peer and row.
    ratios: BTreeMap<String, BTreeMap<String, Ratio>>,
}

#[derive(Clone, Copy, Deserialize, Serialize)]
struct Ratio {
    median: f64,
    low: f64,
    high: f64,
}

impl From<Spread> for Ratio {
    fn from(spread: Spread) -> Self {
        let rounded = |ratio: f64| (ratio * 1000.0).round() / 1000.0;
        Self {
            median: rounded(spread.median),
            low: rounded(spread.low),
            high: rounded(spread.high),
        }
    }
}

impl Run {
    fn of(figures: &Figures) -> Self {
        let mut ratios = BTreeMap::<String, BTreeMap<String, Ratio>>::new();
        for peer in &figures.peers {
            for row in &peer.rows {
                if let Some(ratio) = row.ratio() {
                    let of_peer = ratios.entry(peer.id.to_owned()).or_default();
                    of_peer.insert(row.row.name.to_owned(), ratio.into());
                }
            }
        }
        Self {
            when: figures.machine.when.clone(),
            kernel: figures.machine.kernel.clone(),
            processors: figures.machine.processors.clone(),
            size: figures.plan.size,
            seconds: figures.plan.seconds,
            pairs: figures.plan.pairs,
            ratios,
        }
    }
}

fn read(path: &Path) -> Result<Forms> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| path.display().to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Forms::default()),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// Puts this run in the place of the last one of its form.
pub fn save(path: &Path, figures: &Figures) -> Result<()> {
    let mut forms = read(path)?;
    forms
        .0
        .insert(figures.plan.form.to_owned(), Run::of(figures));
    let text = serde_json::to_string_pretty(&forms)? + "\n";
    std::fs::write(path, text).with_context(|| path.display().to_string())
}

/// What there is to say about this run beside the last one of its form, as lines of markdown.
pub fn compare(path: &Path, figures: &Figures) -> Result<String> {
    let forms = read(path)?;
    let Some(last) = forms.0.get(figures.plan.form) else {
        let form = figures.plan.form;
        return Ok(format!("There is no {form} run to compare with yet.\n"));
    };
    Ok(difference(last, &Run::of(figures)))
}

fn difference(last: &Run, now: &Run) -> String {
    let mut text = format!("Compared with the run of {}.", last.when);
    let alike = (&last.processors, last.size, last.seconds, last.pairs)
        == (&now.processors, now.size, now.seconds, now.pairs);
    if !alike {
        text += " That was another machine or a run of another length, so not much can be told.";
    }
    let mut fell = String::new();
    let mut gone = String::new();
    for (peer, rows) in &last.ratios {
        for (row, then) in rows {
            let Some(ratio) = now.ratios.get(peer).and_then(|rows| rows.get(row)) else {
                gone += &format!("- not measured now: {peer}, {row}\n");
                continue;
            };
            let change = ratio.median / then.median - 1.0;
            if change < -TOLERATED {
                let inside = if ratio.high >= then.low {
                    "; the spreads overlap"
                } else {
                    ""
                };
                fell += &format!(
                    "- **fell by {:.0} %**: {peer}, {row}: {:.2} ({:.2} to {:.2}), was {:.2} ({:.2} to {:.2}){inside}\n",
                    -100.0 * change,
                    ratio.median,
                    ratio.low,
                    ratio.high,
                    then.median,
                    then.low,
                    then.high,
                );
            }
        }
    }
    if fell.is_empty() {
        text += " No ratio fell by more than 10 %.";
    }
    format!("{text}\n\n{fell}{gone}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(median: f64) -> Run {
        let ratio = Ratio {
            median,
            low: median - 0.1,
            high: median + 0.1,
        };
        let rows = BTreeMap::from([("row".to_owned(), ratio)]);
        Run {
            ratios: BTreeMap::from([("raw".to_owned(), rows)]),
            ..Run::default()
        }
    }

    #[test]
    fn a_fall_of_more_than_a_tenth_is_said() {
        assert!(difference(&run(1.0), &run(0.89)).contains("**fell by 11 %**: raw, row"));
        assert!(difference(&run(1.0), &run(0.91)).contains("No ratio fell"));
        assert!(difference(&run(1.0), &run(2.0)).contains("No ratio fell"));
        assert!(difference(&run(1.0), &Run::default()).contains("not measured now: raw, row"));
    }
}
