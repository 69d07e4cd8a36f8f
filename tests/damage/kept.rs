//! Damaged stores that are kept: what check and daemon say of each stays the same, and the whole
//! ones that they are made of open in every later version.
//!
//! `tests/fixtures/damaged` has the stores as text, and in `cases.txt` what is done to them and what
//! is to come of it. `SNAPMARK_BLESS_FORMAT=1` writes all of it anew; only a change of the format may ask
//! for that, and none will after the first release.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

use crate::common::model::State;
use crate::text::{from_hex, from_text, hex, to_text};
use crate::trial::{Healthy, Opened, Outcome, Patch, assert_healthy, closed, killed, trial};
use snapmark::check::Verdict;
use snapmark::device::Device;
use snapmark::ondisk::journal::{JournalHeader, RING_START, RecordHeader};
use snapmark::ondisk::{FrameHeader, Root, TreeKind};

fn fixture(name: &str) -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.join("tests/fixtures/damaged").join(name)
}

fn is_blessing() -> bool {
    std::env::var_os("SNAPMARK_BLESS_FORMAT").is_some()
}

/// What people see in a store: a line for each file, its size and the checksum of its content.
fn seen(state: &State) -> String {
    let mut text = String::new();
    for (name, content) in &state.files {
        let sum = snapmark::base::checksum(content).0;
        writeln!(text, "{name} {} {sum:08x}", content.len()).unwrap();
    }
    text
}

/// A store of the fixtures, with what it shows when it is opened.
fn load(name: &'static str) -> Healthy {
    let text = std::fs::read_to_string(fixture(&format!("{name}.txt"))).unwrap();
    let (seen_then, store) = text.split_once("\n\n").unwrap();
    let images = from_text(store);
    let disk = snapmark::device::CrashDisk::from_images(&images);
    let shape = crate::trial::shape();
    let engine = crate::common::engine::Engine::try_open(disk, shape, &|device| device).unwrap();
    let state = State::of(&engine);
    engine.volumes.abandon();
    assert_eq!(seen(&state), format!("{seen_then}\n"), "{name}");
    let mut states = vec![state];
    if name == "killed" {
        // The last write, a block of `a`, was not synced.
        let mut without = states[0].clone();
        let mut a = without.files["a"].as_ref().clone();
        a[20 * 4096..21 * 4096].copy_from_slice(&without.files["a@u"][20 * 4096..21 * 4096]);
        without.files.insert("a".to_owned(), Arc::new(a));
        states.push(without);
    }
    Healthy {
        name,
        images,
        states,
    }
}

fn bless(healthy: &Healthy) {
    let text = format!("{}\n{}", seen(&healthy.states[0]), to_text(&healthy.images));
    std::fs::write(fixture(&format!("{}.txt", healthy.name)), text).unwrap();
}

/// A damaged store, by name.
struct Case {
    name: String,
    store: String,
    patches: Vec<Patch>,
}

/// What came of it, in a line each: of check the result and the kinds of damage, of the daemon
/// what part refused, or which files could not be read.
fn outcome(outcome: &Outcome) -> String {
    let check = match &outcome.check {
        None => "could not".to_owned(),
        Some((verdict, kinds)) => {
            let verdict = match verdict {
                Verdict::Clean => "clean",
                Verdict::Repairable => "repairable",
                Verdict::Repaired => "repaired",
                Verdict::Damaged => "damaged",
            };
            let kinds = kinds.iter().map(|kind| serde_json::to_value(kind).unwrap());
            let kinds = kinds.map(|kind| format!(" {}", kind.as_str().unwrap()));
            format!("{verdict}{}", kinds.collect::<String>())
        }
    };
    let open = match &outcome.opened {
        Opened::Right(0) => "right".to_owned(),
        Opened::Right(_) => "right but for what was not synced".to_owned(),
        Opened::Unreadable(files) => format!("unreadable {}", files.join(" ")),
        Opened::Refused(why) => format!("refused {}", part(why)),
    };
    format!("  check {check}\n  open {open}\n")
}

/// Which part of the store an error speaks of.
fn part(error: &str) -> &'static str {
    let parts = [
        ("root", "root"),
        ("catalog in pages", "root"),
        ("holds no catalog", "root"),
        ("page ", "page"),
        ("commit", "log"),
        ("journal", "journal"),
        ("superblock", "device"),
        ("device", "device"),
        ("pool", "device"),
    ];
    let found = parts.iter().find(|(word, _)| error.contains(word));
    found
        .unwrap_or_else(|| panic!("an error without a name: {error}"))
        .1
}

fn cases() -> Vec<(Case, String)> {
    let text = std::fs::read_to_string(fixture("cases.txt")).unwrap();
    let mut cases: Vec<(Case, String)> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["case", store, ..] => {
                let name = words[2..].join(" ");
                let (store, patches) = (store.to_owned(), Vec::new());
                let case = Case {
                    name,
                    store,
                    patches,
                };
                cases.push((case, String::new()));
            }
            ["patch", device, offset, bytes] => {
                let (case, _) = cases.last_mut().unwrap();
                case.patches.push(Patch {
                    device: device.to_owned(),
                    offset: offset.parse().unwrap(),
                    bytes: from_hex(bytes),
                });
            }
            ["check" | "open", ..] => {
                let (_, expected) = cases.last_mut().unwrap();
                writeln!(expected, "  {}", words.join(" ")).unwrap();
            }
            _ => assert!(line.is_empty(), "{line}"),
        }
    }
    cases
}

#[test]
fn stores_that_this_version_wrote_open_and_damaged_ones_are_told_apart() {
    if is_blessing() {
        std::fs::create_dir_all(fixture("")).unwrap();
        bless(&closed());
        bless(&killed());
    }
    let stores = ["closed", "killed"].map(|name| (name, load(name)));
    let stores: BTreeMap<_, _> = stores.into_iter().collect();
    stores.values().for_each(assert_healthy);
    if is_blessing() {
        let mut text = String::from(
            "# case STORE WHAT, then what is put where, and what check and daemon make of it.\n",
        );
        for case in stores.values().flat_map(damages) {
            let came = trial(&stores[case.store.as_str()], &case.patches, true).unwrap();
            writeln!(text, "\ncase {} {}", case.store, case.name).unwrap();
            for patch in &case.patches {
                let bytes = match patch.bytes.len() {
                    512.. if patch.bytes.iter().all(|byte| *byte == 0) => {
                        format!("00*{}", patch.bytes.len())
                    }
                    _ => hex(&patch.bytes),
                };
                writeln!(text, "  patch {} {} {bytes}", patch.device, patch.offset).unwrap();
            }
            text.push_str(&outcome(&came));
        }
        std::fs::write(fixture("cases.txt"), text).unwrap();
    }
    let cases = cases();
    assert!(cases.len() >= 30, "{} cases", cases.len());
    for (case, expected) in &cases {
        let came = trial(&stores[case.store.as_str()], &case.patches, true);
        let came = came.unwrap_or_else(|error| panic!("{}: {error}", case.name));
        assert_eq!(&outcome(&came), expected, "{}: {came:?}", case.name);
    }
    println!("{} damaged stores", cases.len());
}

/// What is done to a store when the fixtures are made: something to each structure.
fn damages(healthy: &Healthy) -> Vec<Case> {
    let mut made = Vec::new();
    let mut add = |name: String, patches: Vec<Patch>| {
        made.push(Case {
            name,
            store: healthy.name.to_owned(),
            patches,
        });
    };
    let flip = |device: &str, offset: u64| {
        let mut byte = [0];
        healthy.images[device].read_at(&mut byte, offset).unwrap();
        Patch {
            device: device.to_owned(),
            offset,
            bytes: vec![byte[0] ^ 0x10],
        }
    };
    let zero = |device: &str, offset: u64, len: usize| Patch {
        device: device.to_owned(),
        offset,
        bytes: vec![0; len],
    };
    let roots = [0, 1].map(|page| {
        let mut bytes = vec![0; 4096];
        healthy.images["pages"]
            .read_at(&mut bytes, page * 4096)
            .unwrap();
        Root::decode(&bytes).unwrap()
    });
    let newest = roots.iter().max_by_key(|root| root.generation).unwrap();
    let at = newest.generation % 2 * 4096;
    add("newest root, a bit".into(), vec![flip("pages", at + 100)]);
    add(
        "older root, a bit".into(),
        vec![flip("pages", 4096 - at + 100)],
    );
    add(
        "both roots, a bit".into(),
        vec![flip("pages", 100), flip("pages", 4196)],
    );
    add("both roots, zeros".into(), vec![zero("pages", 0, 8192)]);
    for (kind, tree) in TreeKind::ALL.iter().zip(&newest.trees) {
        let Some(top) = tree.top else { continue };
        let place = top.page * 4096;
        add(
            format!("top of tree {kind:?}, a bit"),
            vec![flip("pages", place + 60)],
        );
        add(
            format!("top of tree {kind:?}, a sector"),
            vec![zero("pages", place, 512)],
        );
    }
    let frames: Vec<u64> = (0..healthy.images["log"].len() / 4096)
        .map(|page| page * 4096)
        .filter(|at| {
            let mut bytes = vec![0; FrameHeader::LEN];
            healthy.images["log"].read_at(&mut bytes, *at).unwrap();
            FrameHeader::decode(&bytes).is_ok_and(|header| header.generation == newest.generation)
        })
        .collect();
    add(
        "first frame of the log, a bit".into(),
        vec![flip("log", frames[0] + 20)],
    );
    if let [_, .., last] = frames[..] {
        let middle = frames[frames.len() / 2];
        add(
            "a frame of the log, a bit".into(),
            vec![flip("log", middle + 80)],
        );
        add(
            "a frame of the log, a sector".into(),
            vec![zero("log", middle, 512)],
        );
        add(
            "last frame of the log, a bit".into(),
            vec![flip("log", last + 80)],
        );
    }
    add("superblock, a bit".into(), vec![flip("pool0", 20)]);
    add("superblock, zeros".into(), vec![zero("pool1", 0, 4096)]);
    for slot in 0..2 {
        let mut bytes = [0; JournalHeader::LEN];
        let at = slot * 4096;
        healthy.images["journal"].read_at(&mut bytes, at).unwrap();
        if let Ok(header) = JournalHeader::decode(&bytes) {
            let name = format!("journal header of session {}", header.session);
            add(format!("{name}, a bit"), vec![flip("journal", at + 50)]);
        }
    }
    add(
        "both journal headers, zeros".into(),
        vec![zero("journal", 0, 8192)],
    );
    let ring = healthy.images["journal"].to_bytes();
    let mut records: Vec<(u64, RecordHeader)> = (RING_START..ring.len() as u64 - 128)
        .step_by(64)
        .filter_map(|at| {
            let bytes = &ring[at as usize..];
            let header = RecordHeader::decode(bytes).ok()?;
            header.body(bytes).ok()?;
            Some((at, header))
        })
        .collect();
    records.sort_by_key(|(_, header)| header.seq);
    records.dedup_by_key(|(_, header)| header.seq);
    let count = records.len();
    // Of a store that was closed none is needed.
    let last = if healthy.name == "closed" { 1 } else { 12 };
    for (at, header) in records.into_iter().skip(count.saturating_sub(last)) {
        let name = format!("journal record {}", header.seq);
        add(format!("{name}, a bit"), vec![flip("journal", at + 30)]);
        add(
            format!("{name}, its sector"),
            vec![zero("journal", at / 512 * 512, 512)],
        );
    }
    for slot in 0..12 {
        for device in ["pool0", "pool1"] {
            let place = (4 << 20) + slot * crate::common::engine::SEGMENT + 4096;
            let mut byte = [0];
            healthy.images[device].read_at(&mut byte, place).unwrap();
            if byte[0] != 0 {
                let name = format!("slot {slot} of {device}, a bit");
                add(name, vec![flip(device, place)]);
            }
        }
    }
    made
}
