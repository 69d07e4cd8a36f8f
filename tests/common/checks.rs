//! The offline check over what a crash left, or a test made up.

use std::sync::Arc;

use snapmark::check::{Options, Parts, Report, Verdict, check};
use snapmark::device::{Device, Images};

/// The report on these devices, their data included.
pub fn report(images: &Images) -> Report {
    let device = |name: &str| -> Arc<dyn Device> { images[name].clone() };
    let parts = Parts {
        pages: device("pages"),
        log: Ok(device("log")),
        journal: Ok(device("journal")),
        open: &|record| Ok(device(&record.path)),
    };
    check(&parts, Options { data: true }, &mut |_, _| {}).unwrap()
}

/// Fails where the check finds anything.
#[track_caller]
pub fn clean(images: &Images, when: &str) -> Report {
    let report = report(images);
    assert_eq!(
        report.verdict,
        Verdict::Clean,
        "{when}: {:#?}",
        report.problems
    );
    report
}
