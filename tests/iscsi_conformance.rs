//! libiscsi's own tests of targets: everything passes, or is skipped for a feature that is not there and
//! not reported. `contrib/iscsi/conformance.md` says which and why.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use common::engine::Shape;
use common::iscsi::{Lab, options};
use common::model::new_disk;
use snapmark::frontend::iscsi::target_name;

const PAGE: &str = include_str!("../contrib/iscsi/conformance.md");

/// What fails and should not: the page says what is wrong with it.
const FALSE_FAILURES: [&str; 1] = ["GetLBAStatus.UnmapSingle"];

/// What the summary of a run says, and what was said before that.
struct Run {
    tests: u32,
    failed: Vec<String>,
    skipped: Vec<String>,
    said: String,
}

/// Runs tests over two sessions, since some want two ways to the unit.
fn run(lab: &Lab, file: &str, tests: &str) -> Run {
    let target = target_name("lab", file).unwrap();
    let url = format!("iscsi://{}/{target}/0", lab.portal);
    let flags = ["--dataloss", "--allow-sanitize", "--normal", "--test"];
    let arguments = flags.into_iter().chain([tests, &url, &url]);
    let (shown, output) = common::execute("iscsi-test-cu", arguments);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.code().is_some_and(|code| code < 100),
        "{shown}\n{said}"
    );
    let (tests, failures) = counts(&said);
    let failed = failures_of(&said);
    assert!(tests > 0 && failed.len() as u32 == failures, "{said}");
    let reasons = said
        .lines()
        .filter_map(|line| line.split_once("[SKIPPED]"))
        .map(|(_, reason)| reason.trim().to_owned())
        .collect();
    Run {
        tests,
        failed,
        skipped: reasons,
        said,
    }
}

/// The tests that failed, as `Suite.Test`.
fn failures_of(said: &str) -> Vec<String> {
    let failed = said
        .lines()
        .filter_map(|line| line.trim().strip_suffix(" had failures:"));
    failed
        .filter_map(|line| line.strip_prefix("Suite ")?.split_once(", Test "))
        .map(|(suite, test)| format!("{suite}.{test}"))
        .collect()
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

/// Runs a family on a disk, or on a snapshot of it.
fn passes(tests: &str, snapshot: bool) {
    if !common::require("iscsi-test-cu", "libiscsi-bin") {
        return;
    }
    let shape = Shape {
        pool: 1 << 30,
        cache: 32 << 20,
        journal: 64 << 20,
        ..Shape::default()
    };
    let lab = Lab::with(options(), shape);
    lab.engine.create(new_disk("other", 1 << 20)).unwrap();
    lab.engine.snapshot(&["disk"], Some("s"), true).unwrap();
    let run = run(&lab, if snapshot { "disk@s" } else { "disk" }, tests);
    eprintln!(
        "{tests}: {} tests, failed {:?}, skips {}",
        run.tests,
        run.failed,
        run.skipped.len()
    );
    for test in &run.failed {
        let known = FALSE_FAILURES.contains(&test.as_str()) && PAGE.contains(test);
        assert!(known, "{test}\n{}", run.said);
    }
    for reason in &run.skipped {
        assert!(
            PAGE.contains(&format!("`{reason}`")),
            "skipped, and the page does not say why: {reason}"
        );
    }
}

#[test]
fn all_of_libiscsis_tests_pass() {
    passes("ALL", false);
}

#[test]
fn its_linux_family_passes() {
    passes("LINUX", false);
}

#[test]
fn its_iscsi_family_passes() {
    passes("iSCSI", false);
}

#[test]
fn its_tests_of_write_protection_pass() {
    passes("ALL.ReadOnly", true);
    passes("ALL.Inquiry", true);
    passes("ALL.Read10", true);
    passes("ALL.ReadCapacity16", true);
}
