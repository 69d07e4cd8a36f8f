//! Where it was measured.

use std::fs;
use std::process::Command;
use std::time::Duration;

use super::peers::{Kind, Need, Place};
use super::process::{find, run};

/// What a reader has to know about the machine to judge the figures.
pub struct Machine {
    /// The time, in UTC.
    pub when: String,
    /// The kernel's release.
    pub kernel: String,
    /// How many processors there are, and which.
    pub processors: String,
    /// Memory, in MiB.
    pub memory: u64,
    /// Type, source and options of the mount that all is on.
    pub backing: String,
    /// Programs with what they say of their version.
    pub versions: Vec<(String, String)>,
}

const UNKNOWN: &str = "unknown";

impl Machine {
    /// Looks. What can't be found out is called unknown.
    pub fn look(place: &Place, peers: &[&Kind]) -> Self {
        let needs = peers.iter().flat_map(|kind| kind.needs);
        let mut versions = vec![("snapmark".to_owned(), env!("CARGO_PKG_VERSION").to_owned())];
        let fio = Need {
            program: "fio",
            package: "fio",
            version: "--version",
        };
        for need in std::iter::once(&fio).chain(needs) {
            let program = need.program.to_owned();
            if find(&program).is_some() && !versions.iter().any(|(seen, _)| *seen == program) {
                versions.push((program, version(need)));
            }
        }
        Self {
            when: jiff::Timestamp::now()
                .strftime("%Y-%m-%d %H:%M UTC")
                .to_string(),
            kernel: read("/proc/sys/kernel/osrelease"),
            processors: processors(),
            memory: memory(),
            backing: printed(
                Command::new("findmnt")
                    .args(["-n", "-o", "FSTYPE,SOURCE,OPTIONS", "-T"])
                    .arg(&place.dir),
            ),
            versions,
        }
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map_or(UNKNOWN.to_owned(), |text| text.trim().to_owned())
}

/// The first line that a program prints.
fn printed(command: &mut Command) -> String {
    let printed = run(command, Duration::from_secs(10)).unwrap_or_default();
    let line = printed.lines().find(|line| !line.trim().is_empty());
    let words = line.unwrap_or(UNKNOWN).split_whitespace();
    words.collect::<Vec<_>>().join(" ")
}

fn version(need: &Need) -> String {
    let mut command = Command::new("sh");
    // Some tell it on standard error.
    command.args(["-c", "exec \"$0\" \"$1\" 2>&1", need.program, need.version]);
    printed(&mut command)
}

fn processors() -> String {
    let info = read("/proc/cpuinfo");
    let values = |key: &str| {
        let of = |line: &str| {
            line.split_once(':')
                .map(|(k, v)| (k.trim().to_owned(), v.trim().to_owned()))
        };
        let found = info.lines().filter_map(of).filter(|(k, _)| k == key);
        found.map(|(_, value)| value).collect::<Vec<_>>()
    };
    let model = values("model name").first().cloned();
    let count = values("processor").len();
    format!("{count} × {}", model.unwrap_or(UNKNOWN.to_owned()))
}

fn memory() -> u64 {
    let info = read("/proc/meminfo");
    let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    kib.unwrap_or(0_u64) / 1024
}
