//! Whether what a cut left is a prefix of what the record says, and reaches far enough.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;

use crate::record::{Mark, NEVER, Record, Span, Taken};
use crate::torture::Served;
use crate::torture::stamps::{Checker, Progress, Writer};
use crate::write::DISKS;

/// Verifies.
#[derive(Args)]
pub struct Verify {
    #[arg(long)]
    dir: PathBuf,
    #[arg(long)]
    record: PathBuf,
    /// The last mark before the cut
    #[arg(long)]
    mark: usize,
    /// What serves the store
    #[arg(long)]
    program: PathBuf,
}

/// What the order of things says: nothing that is there was begun after something was acknowledged
/// that is not.
struct Order {
    /// The last that was begun of what is there, in words.
    there: (u64, String),
    /// The first that was acknowledged of what is missing.
    missing: (u64, String),
}

impl Order {
    fn there(&mut self, span: Span, what: impl Fn() -> String) {
        if span.begun > self.there.0 {
            self.there = (span.begun, what());
        }
    }

    fn missing(&mut self, span: Span, what: impl Fn() -> String) {
        if span.acked < self.missing.0 {
            self.missing = (span.acked, what());
        }
    }
}

impl Verify {
    /// Does it.
    pub fn run(&self) {
        let record = Record::read(&self.record);
        let mark = record.marks[self.mark - 1];
        let served = Served::over(&self.program, &self.dir);
        served.mount();
        let images = |disks: &[u32], suffix: &str| -> Vec<(u32, Vec<u32>)> {
            let read = |disk: &u32| {
                let path = served.file(&format!("{}{suffix}", DISKS[*disk as usize]));
                let image = record.plan.read_image(*disk, &path);
                let image = image.unwrap_or_else(|error| panic!("{}: {error:?}", path.display()));
                (*disk, image)
            };
            disks.iter().map(read).collect()
        };
        let mut order = Order {
            there: (0, "nothing".to_owned()),
            missing: (NEVER, "nothing".to_owned()),
        };
        let writers = record.writers();
        let live = images(&[0, 1], "");
        let held = disks(&record, &writers, &live, mark, &mut order);
        let listed = listed(&served);
        let mut absent = Vec::new();
        let mut known = 2;
        for taken in &record.snapshots {
            let file = |disk: &u32| format!("{}@{}", DISKS[*disk as usize], taken.name);
            let there = taken.disks.iter().copied();
            let there: Vec<u32> = there
                .filter(|disk| listed.contains_key(&file(disk)))
                .collect();
            known += there.len();
            if there.len() == taken.disks.len() {
                order.there(taken.span, || format!("{taken:?}"));
                if let Some(deleted) = taken.deleted {
                    order.missing(deleted, || format!("the end of {taken:?}"));
                }
            } else {
                // Its files are deleted one by one.
                assert!(
                    there.is_empty() || taken.deleted.is_some(),
                    "in part: {taken:?}"
                );
                absent.push(taken);
            }
            let images = images(&there, &format!("@{}", taken.name));
            prove(&writers, &images, &taken.bounds, &taken.name);
        }
        assert_eq!(listed.len(), known, "unknown files: {listed:?}");
        for taken in absent {
            missing(taken, mark, &mut order);
        }
        let Order { there, missing } = &order;
        assert!(
            there.0 <= missing.0,
            "there is {there:?}, but not {missing:?}"
        );
        assert!(
            mark.all <= missing.0,
            "{mark:?} is durable, but not {missing:?}"
        );
        served.unmount();
        println!("{held} operations, {} files, {mark:?}", listed.len());
    }
}

/// A snapshot is not there: it was not taken yet, or it was deleted.
fn missing(taken: &Taken, mark: Mark, order: &mut Order) {
    let must = taken.span.acked < order.there.0.max(mark.all) || taken.span.acked < mark.snapshots;
    match taken.deleted {
        Some(deleted) if must => order.there(deleted, || format!("the end of {taken:?}")),
        Some(_) => {}
        None => {
            assert!(
                taken.span.acked >= mark.snapshots,
                "{taken:?} is lost, {mark:?}"
            );
            order.missing(taken.span, || format!("{taken:?}"));
        }
    }
}

/// How many operations the disks hold; of each writer a prefix.
fn disks(
    record: &Record,
    writers: &[Writer],
    live: &[(u32, Vec<u32>)],
    mark: Mark,
    order: &mut Order,
) -> u32 {
    let views: Vec<(u32, &[u32])> = live.iter().map(|(disk, it)| (*disk, &it[..])).collect();
    let mut all = 0;
    for (mut checker, operations) in Checker::all(writers).into_iter().zip(&record.operations) {
        let begun = operations.len() as u32;
        let durable = operations.iter().filter(|(_, span)| span.acked < mark.all);
        let mut check = |acked: u32| checker.check(&views, Progress { acked, begun });
        let held = check(durable.count() as u32).unwrap_or_else(|error| panic!("{error}"));
        // The images may not tell whether what came next is there.
        let mut most = held;
        while most < begun && check(most + 1) == Ok(most + 1) {
            most += 1;
        }
        if let Some(at) = held.checked_sub(1) {
            order.there(operations[at as usize].1, || format!("operation {held}"));
        }
        if let Some((op, span)) = operations.get(most as usize) {
            order.missing(*span, || format!("operation {}, {op:?}", most + 1));
        }
        all += held;
    }
    all
}

fn prove(writers: &[Writer], images: &[(u32, Vec<u32>)], bounds: &[Progress], name: &str) {
    let views: Vec<(u32, &[u32])> = images.iter().map(|(disk, it)| (*disk, &it[..])).collect();
    for (checker, bounds) in Checker::all(writers).iter_mut().zip(bounds) {
        if let Err(error) = checker.check(&views, *bounds) {
            panic!("snapshot {name}: {error}");
        }
    }
}

/// The files in the mount with their sizes.
fn listed(served: &Served) -> BTreeMap<String, u64> {
    let names = std::fs::read_dir(served.mnt()).expect("a mount");
    let entries = names.map(|entry| entry.expect("a name"));
    let of = |entry: std::fs::DirEntry| {
        let size = entry.metadata().expect("attributes").len();
        (entry.file_name().into_string().expect("text"), size)
    };
    let all = entries.map(of);
    all.filter(|(name, _)| !name.starts_with('.')).collect()
}
