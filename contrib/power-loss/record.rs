//! What was done to the store and when, as text outside of it. Times are ticks of one counter: a
//! thing whose `acked` is less than another's `begun` came before it.

use std::fmt::Write;
use std::path::Path;

use crate::torture::stamps::{Kind, Op, Plan, Progress, Writer};

/// A tick that never came.
pub const NEVER: u64 = u64::MAX;

/// When something was begun, and when it was acknowledged.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub begun: u64,
    pub acked: u64,
}

/// A snapshot of some of the disks.
#[derive(Clone, Debug)]
pub struct Taken {
    pub name: String,
    pub disks: Vec<u32>,
    pub span: Span,
    /// How far each writer was.
    pub bounds: Vec<Progress>,
    /// When it was deleted, if it was.
    pub deleted: Option<Span>,
}

/// What is durable from a mark in the log on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mark {
    /// All that was acknowledged before this tick.
    pub all: u64,
    /// Snapshots that were acknowledged before this one.
    pub snapshots: u64,
}

/// All of it.
pub struct Record {
    pub plan: Plan,
    /// Of each writer, its operations with their times.
    pub operations: Vec<Vec<(Op, Span)>>,
    pub snapshots: Vec<Taken>,
    /// Mark 1 is the first.
    pub marks: Vec<Mark>,
}

impl Record {
    /// Writes it down.
    pub fn write(&self, path: &Path) {
        let mut text = String::new();
        let plan = &self.plan;
        let _ = writeln!(text, "plan {} {} {}", plan.seed, plan.writers, plan.blocks);
        for (writer, operations) in self.operations.iter().enumerate() {
            for (op, span) in operations {
                let kind = match op.kind {
                    Kind::Write => 'w',
                    Kind::Discard => 'd',
                    Kind::Refused => 'r',
                };
                let Op { block, count, .. } = op;
                let Span { begun, acked } = span;
                let _ = writeln!(text, "op {writer} {kind} {block} {count} {begun} {acked}");
            }
        }
        for taken in &self.snapshots {
            let Taken {
                name, disks, span, ..
            } = taken;
            let disks: u32 = disks.iter().map(|disk| 1 << disk).sum();
            let deleted = taken.deleted.unwrap_or(Span {
                begun: NEVER,
                acked: NEVER,
            });
            let _ = write!(
                text,
                "snapshot {name} {disks} {} {}",
                span.begun, span.acked
            );
            let _ = write!(text, " {} {}", deleted.begun, deleted.acked);
            for bound in &taken.bounds {
                let _ = write!(text, " {} {}", bound.acked, bound.begun);
            }
            text.push('\n');
        }
        for mark in &self.marks {
            let _ = writeln!(text, "mark {} {}", mark.all, mark.snapshots);
        }
        std::fs::write(path, text).expect("the record");
    }

    /// Reads it.
    pub fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).expect("the record");
        let mut lines = text.lines();
        let plan: Vec<u64> = numbers(lines.next().expect("a plan").split(' ').skip(1));
        let mut record = Self {
            plan: plan_of(plan[0], plan[1] as u32, plan[2] as u32),
            operations: vec![Vec::new(); plan[1] as usize],
            snapshots: Vec::new(),
            marks: Vec::new(),
        };
        for line in lines {
            let mut words = line.split(' ');
            match words.next() {
                Some("op") => record.read_op(words.collect()),
                Some("snapshot") => {
                    let name = words.next().expect("a name").to_owned();
                    record.read_snapshot(name, &numbers(words));
                }
                Some("mark") => {
                    let ticks = numbers(words);
                    record.marks.push(Mark {
                        all: ticks[0],
                        snapshots: ticks[1],
                    });
                }
                word => panic!("{word:?} in the record"),
            }
        }
        record
    }

    fn read_op(&mut self, words: Vec<&str>) {
        let kind = match words[1] {
            "w" => Kind::Write,
            "d" => Kind::Discard,
            _ => Kind::Refused,
        };
        let writer: usize = words[0].parse().expect("a number");
        let of = numbers(words[2..].iter().copied());
        let op = Op {
            kind,
            block: of[0] as u32,
            count: of[1] as u32,
        };
        let (begun, acked) = (of[2], of[3]);
        self.operations[writer].push((op, Span { begun, acked }));
    }

    fn read_snapshot(&mut self, name: String, of: &[u64]) {
        let span = |at: usize| Span {
            begun: of[at],
            acked: of[at + 1],
        };
        let bound = |pair: &[u64]| Progress {
            acked: pair[0] as u32,
            begun: pair[1] as u32,
        };
        self.snapshots.push(Taken {
            name,
            disks: (0..2).filter(|disk| of[0] >> disk & 1 == 1).collect(),
            span: span(1),
            deleted: Some(span(3)).filter(|span| span.begun != NEVER),
            bounds: of[5..].chunks(2).map(bound).collect(),
        });
    }

    /// The writers as they were at the end.
    pub fn writers(&self) -> Vec<Writer> {
        let of = |(number, operations): (u32, &Vec<(Op, Span)>)| {
            let operations = operations.iter().map(|(op, _)| *op).collect();
            Writer::with(self.plan, number, operations)
        };
        (0..).zip(&self.operations).map(of).collect()
    }
}

/// Who writes where.
pub fn plan_of(seed: u64, writers: u32, blocks: u32) -> Plan {
    Plan {
        seed,
        writers,
        disks: 2,
        blocks,
        discards: 20,
    }
}

fn numbers<'a>(words: impl Iterator<Item = &'a str>) -> Vec<u64> {
    words.map(|word| word.parse().expect("a number")).collect()
}
