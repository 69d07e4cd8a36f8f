//! Little stores to be damaged, and what the offline check is to say of them.

use std::io::IoSlice;
use std::time::Duration;

use snapmark::base::SegmentNo;
use snapmark::check::{Kind, Report, Severity, Verdict};
use snapmark::device::{Device, Images, MemoryDevice};
use snapmark::ondisk::{Change, Descriptor, VersionKey};
use snapmark::store::{Catalog, CatalogConfig, View};

use super::engine::{Engine, SEGMENT, Shape};
use super::model::new_disk;
use super::{checks, noise};

/// A store that destages only when it is told to.
pub fn manual() -> Engine {
    Engine::new(Shape {
        interval: Duration::from_secs(3600),
        ..Shape::default()
    })
}

/// A store with a bit of everything, settled: disks `a` and `b`, a clone `c` of `a@s`, and
/// `a@t`; `a` has changed since.
pub fn little_store() -> Engine {
    let engine = manual();
    let a = engine.create(new_disk("a", 4 * SEGMENT)).unwrap();
    let b = engine.create(new_disk("b", 2 * SEGMENT)).unwrap();
    engine.write(a, 0, &noise(1, 3 * SEGMENT as usize)).unwrap();
    engine.write(b, 4096, &noise(2, 65536)).unwrap();
    engine.snapshot(&["a"], Some("s"), false).unwrap();
    engine.write(a, 8192, &noise(3, 8192)).unwrap();
    let c = engine
        .clone_snapshot("a@s", new_disk("c", 4 * SEGMENT))
        .unwrap();
    engine.write(c, SEGMENT, &noise(4, 4096)).unwrap();
    engine.snapshot(&["a"], Some("t"), false).unwrap();
    engine.write(a, 0, &noise(5, 4096)).unwrap();
    engine.settle();
    engine
}

pub fn view(images: &Images) -> View {
    catalog(images).view()
}

pub fn catalog(images: &Images) -> Catalog {
    let (pages, log) = (images["pages"].clone(), images["log"].clone());
    Catalog::open(pages, log, CatalogConfig::default()).unwrap()
}

/// A settled little store whose catalog has these changes, too.
pub fn with(changes: impl FnOnce(&View) -> Vec<Change>) -> Report {
    let engine = little_store();
    let images = engine.disk.kill_image();
    engine.volumes.abandon();
    checks::clean(&images, "as it was made");
    let catalog = catalog(&images);
    let changes = changes(&catalog.view());
    catalog.commit(&changes).unwrap();
    checks::report(&images)
}

#[track_caller]
pub fn finds(report: &Report, severity: Severity, kind: Kind, touched: &[&str]) {
    let found = report.problems.iter().any(|problem| {
        let names = |name: &&&str| {
            let name = (**name).to_owned();
            problem.disks.contains(&name) || problem.snapshots.contains(&name)
        };
        problem.severity == severity
            && problem.kind == kind
            && touched.iter().filter(names).count() == touched.len()
    });
    assert!(found, "no {severity:?} {kind:?} {touched:?} in {report:#?}");
    let verdict = match severity {
        Severity::Damage => Verdict::Damaged,
        Severity::Repairable => Verdict::Repairable,
        Severity::Note => Verdict::Clean,
    };
    assert!(
        report.verdict == verdict || report.verdict == Verdict::Damaged,
        "{report:#?}"
    );
}

pub fn live(view: &View, disk: &str, segment: u64) -> (VersionKey, Descriptor) {
    let disks = view.disks().unwrap();
    let map = disks.iter().find(|it| it.name == disk).unwrap().map;
    view.live(map, SegmentNo(segment)).unwrap().unwrap()
}

pub fn flip(device: &MemoryDevice, at: u64) {
    let mut byte = [0];
    device.read_at(&mut byte, at).unwrap();
    device
        .write_at(&[IoSlice::new(&[byte[0] ^ 0x10])], at)
        .unwrap();
}
