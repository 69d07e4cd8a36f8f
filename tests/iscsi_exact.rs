//! Promise P2 with writers on iSCSI and on the mount at once, and snapshots from both sides: each holds
//! exactly the first so many operations of each writer.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;
#[path = "common/stamps.rs"]
#[allow(dead_code, reason = "each test program uses another part")]
mod stamps;

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use common::TestStore;
use common::iscsi::{STORE, good, served, settle};
use snapmark::frontend::iscsi::{Identity, Initiator, Transfer, snapshot_cdb, target_name};
use stamps::{Buffer, Checker, Kind, OnDrop, Plan, Progress, Rng, Writer, open_direct, seed};

const SNAPSHOTS: u32 = 120;
const DISKS: [&str; 2] = ["a.img", "b.img"];

fn session(portal: SocketAddr, number: u32, disk: u32) -> Initiator {
    let who = Identity {
        initiator: "iqn.2026-11.test:exact".to_owned(),
        isid: [0, 0, 0, 0, 0, number as u8],
        target: Some(target_name(STORE, DISKS[disk as usize]).unwrap()),
        digests: number.is_multiple_of(2),
        ..Identity::default()
    };
    let mut session = Initiator::log_in(portal, &who).unwrap();
    settle(&mut session);
    session
}

/// WRITE (16), or UNMAP.
fn operate(session: &mut Initiator, kind: Kind, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let (first, count) = (offset / 512, (bytes.len() / 512) as u32);
    let outcome = match kind {
        Kind::Refused => return Ok(()),
        Kind::Write => {
            let mut cdb = [0; 16];
            cdb[0] = 0x8a;
            cdb[2..10].copy_from_slice(&first.to_be_bytes());
            cdb[10..14].copy_from_slice(&count.to_be_bytes());
            session.command(&cdb, Transfer::Out(bytes))
        }
        Kind::Discard => {
            let mut list = [0; 24];
            (list[1], list[3]) = (22, 16);
            list[8..16].copy_from_slice(&first.to_be_bytes());
            list[16..20].copy_from_slice(&count.to_be_bytes());
            session.command(&[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], Transfer::Out(&list))
        }
    };
    good(&outcome.map_err(io::Error::other)?);
    Ok(())
}

fn write(store: &TestStore, portal: SocketAddr, writer: &Writer, over: &AtomicBool) {
    let mut rng = Rng::new(writer.plan.seed + u64::from(writer.number));
    let mut buffer = Buffer::new(1 << 16);
    // Every other one over iSCSI.
    if writer.number.is_multiple_of(2) {
        let files = DISKS.map(|name| open_direct(&store.disk(name), true).unwrap());
        while !over.load(SeqCst) {
            writer.step(&files, &mut rng, &mut buffer).unwrap();
        }
    } else {
        let mut sessions = [0, 1].map(|disk| session(portal, writer.number, disk));
        while !over.load(SeqCst) {
            let does = |kind, disk: u32, offset, bytes: &[u8]| {
                operate(&mut sessions[disk as usize], kind, offset, bytes)
            };
            writer.step_by(&mut rng, &mut buffer, does).unwrap();
        }
    }
}

#[test]
fn p2_snapshots_are_exact_whoever_writes_and_whoever_takes_them() {
    if !common::able(&[]) {
        return;
    }
    let (store, portal) = served(&["--size", "2GiB"]);
    let plan = Plan {
        seed: seed(),
        writers: 4,
        disks: 2,
        blocks: 2048,
        discards: 40,
    };
    for disk in DISKS {
        store.make(disk, plan.disk_bytes());
    }
    let writers = Writer::all(plan);
    let over = AtomicBool::new(false);
    let taken = std::thread::scope(|scope| {
        let _end = OnDrop(&over);
        for writer in &writers {
            let (store, over) = (&store, &over);
            scope.spawn(move || write(store, portal, writer, over));
        }
        take_snapshots(&store, portal, &writers)
    });
    let mut checkers = Checker::all(&writers);
    for (name, bounds) in &taken {
        let images: Vec<Vec<u32>> = (0..2)
            .map(|disk| {
                let file = format!("{}@{name}", DISKS[disk as usize]);
                plan.read_image(disk, &store.disk(&file)).unwrap()
            })
            .collect();
        let views = [(0, &images[0][..]), (1, &images[1][..])];
        for (checker, bounds) in checkers.iter_mut().zip(bounds) {
            let checked = checker.check(&views, *bounds);
            checked.unwrap_or_else(|error| panic!("snapshot {name}: {error}"));
        }
    }
}

type Snapshots = Vec<(String, Vec<Progress>)>;

fn take_snapshots(store: &TestStore, portal: SocketAddr, writers: &[Writer]) -> Snapshots {
    let mut rng = Rng::new(writers[0].plan.seed ^ 7);
    // With sessions for both disks, so that all of the initiator's are both.
    let mut sessions = [0, 1].map(|disk| session(portal, 100, disk));
    let mut taken = Vec::new();
    for number in 0..SNAPSHOTS {
        std::thread::sleep(Duration::from_micros(rng.below(20_000)));
        let name = format!("s{number}");
        let before: Vec<Progress> = writers.iter().map(Writer::progress).collect();
        if rng.chance(2) {
            store
                .control(&format!("snapshot {},{} {name}\n", DISKS[0], DISKS[1]))
                .unwrap();
        } else {
            let cdb = snapshot_cdb(&name, true, rng.chance(2)).unwrap();
            let session = &mut sessions[rng.below(2) as usize];
            good(
                &session
                    .command(&cdb, Transfer::Out(name.as_bytes()))
                    .unwrap(),
            );
        }
        let bound = |(writer, before): (&Writer, Progress)| Progress {
            acked: before.acked,
            begun: writer.progress().begun,
        };
        taken.push((name, writers.iter().zip(before).map(bound).collect()));
    }
    taken
}

#[test]
fn what_is_written_on_one_side_is_there_on_the_other() {
    if !common::able(&[]) {
        return;
    }
    let (store, portal) = served(&["--size", "2GiB"]);
    let file = store.make(DISKS[0], 8 << 20);
    let mut disk = session(portal, 1, 0);
    let content = common::noise(9, 8 << 20);
    for (n, piece) in (0u64..).zip(content.chunks(1 << 20)) {
        operate(&mut disk, Kind::Write, n << 20, piece).unwrap();
    }
    assert!(std::fs::read(&file).unwrap() == content);
    store.snapshot(DISKS[0], "s");
    let other = common::noise(10, 8 << 20);
    std::fs::File::options()
        .write(true)
        .open(&file)
        .map(|file: File| {
            use std::os::unix::fs::FileExt;
            file.write_all_at(&other, 0).unwrap();
        })
        .unwrap();
    let read = |session: &mut Initiator| -> Vec<u8> {
        let piece = |n: u32| common::iscsi::read(session, n * 2048, 2048);
        (0..8).flat_map(piece).collect()
    };
    assert!(read(&mut disk) == other);
    let who = Identity {
        initiator: "iqn.2026-11.test:exact".to_owned(),
        target: Some(target_name(STORE, "a.img@s").unwrap()),
        ..Identity::default()
    };
    let mut snapshot = Initiator::log_in(portal, &who).unwrap();
    settle(&mut snapshot);
    assert!(read(&mut snapshot) == content);
}
