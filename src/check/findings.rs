//! Where problems are gathered, so many of each kind at the most.

use std::collections::BTreeMap;

use super::problem::{Kind, Problem, Severity};

/// Problems of a kind that are kept. The rest is counted: a store that is damaged all over must
/// not fill memory with words.
const MAX_OF_KIND: u64 = 1000;

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Findings {
    problems: Vec<Problem>,
    counts: BTreeMap<(Kind, Severity), u64>,
}

impl Findings {
    pub fn add(&mut self, problem: Problem) {
        let count = self
            .counts
            .entry((problem.kind, problem.severity))
            .or_default();
        *count += 1;
        if *count <= MAX_OF_KIND {
            self.problems.push(problem);
        }
    }

    /// How many problems of at least this severity there are.
    pub fn count(&self, severity: Severity) -> u64 {
        let counted = self.counts.iter().filter(|((_, of), _)| *of >= severity);
        counted.map(|(_, count)| count).sum()
    }

    /// Whether it is in doubt what the catalog says.
    pub fn in_doubt(&self) -> bool {
        let mut found = self.counts.keys();
        found.any(|(kind, severity)| *severity == Severity::Damage && kind.is_of_catalog())
    }

    /// The problems, gravest first, and how many more there are.
    pub fn finish(self) -> (Vec<Problem>, u64) {
        let Self {
            mut problems,
            counts,
        } = self;
        let left_out = counts.values().sum::<u64>() - problems.len() as u64;
        problems.sort_by_key(|problem| std::cmp::Reverse(problem.severity));
        (problems, left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gravest_come_first_and_a_flood_is_counted() {
        let mut findings = Findings::default();
        findings.add(Problem::note(Kind::Root, "torn"));
        for n in 0..MAX_OF_KIND + 5 {
            findings.add(Problem::damage(Kind::Slot, n.to_string()));
        }
        assert_eq!(findings.count(Severity::Damage), MAX_OF_KIND + 5);
        let (problems, left_out) = findings.finish();
        assert_eq!(left_out, 5);
        assert_eq!(problems[0].severity, Severity::Damage);
        assert_eq!(problems.last().unwrap().severity, Severity::Note);
    }
}
