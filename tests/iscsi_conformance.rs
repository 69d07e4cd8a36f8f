//! libiscsi's own tests of targets: everything passes, or is skipped for a feature that is not there and
//! not reported.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use common::engine::Shape;
use common::iscsi::{Lab, options};
use common::model::new_disk;
use snapmark::frontend::iscsi::target_name;

/// What fails and should not. In the second part of `GetLBAStatus.UnmapSingle` the status of the second
/// block after those that were unmapped is asked for, and the answer is to begin with the eighth, where a
/// physical block has eight: no answer begins with another block than it was asked for (SBC-3, section 5.5).
const FALSE_FAILURES: [&str; 1] = ["Suite GetLBAStatus, Test UnmapSingle"];

/// Runs a family; returns what it said, without what each test says.
fn family(lab: &Lab, name: &str) -> String {
    let target = target_name("lab", "disk").unwrap();
    let url = format!("iscsi://{}/{target}/0", lab.portal);
    let arguments = ["--dataloss", "--normal", "--test", name, url.as_str()];
    let (shown, output) = common::execute("iscsi-test-cu", arguments);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.code().is_some_and(|code| code < 100),
        "{shown}\n{said}"
    );
    said
}

/// The tests that failed.
fn failures(said: &str) -> Vec<String> {
    let failed = said
        .lines()
        .filter_map(|line| line.trim().strip_suffix(" had failures:"));
    failed.map(str::to_owned).collect()
}

/// Of the run's summary: how many tests were run, and how many failed.
fn counts(said: &str) -> (u32, u32) {
    let line = said
        .lines()
        .find(|line| line.trim_start().starts_with("tests "));
    let line = line.unwrap_or_else(|| panic!("no summary:\n{said}"));
    let numbers: Vec<u32> = line
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    (numbers[1], numbers[3])
}

#[test]
fn libiscsis_tests_pass() {
    if !common::require("iscsi-test-cu", "libiscsi-bin") {
        return;
    }
    for name in ["ALL", "iSCSI", "LINUX"] {
        let shape = Shape {
            pool: 1 << 30,
            cache: 32 << 20,
            journal: 64 << 20,
            ..Shape::default()
        };
        let lab = Lab::with(options(), shape);
        lab.engine.create(new_disk("other", 1 << 20)).unwrap();
        let said = family(&lab, name);
        let (ran, failed) = counts(&said);
        let failures = failures(&said);
        eprintln!("{name}: {ran} tests; failed: {failures:?}");
        assert!(ran > 0 && failures.len() as u32 == failed, "{said}");
        let is_false = |failure: &String| FALSE_FAILURES.contains(&failure.as_str());
        assert!(failures.iter().all(is_false), "{said}");
    }
}
