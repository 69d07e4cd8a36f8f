//! What SCSI commands do to a disk: durable where that is asked for, as a whole or not at all, and kept out
//! by reservations.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use std::time::Duration;

use common::engine::{Engine, Shape};
use common::iscsi::{Lab, good, options, read, sense, served, session_at, settle, ten, write};
use common::{able, missing, noise, run, text, wait_until, write_at};
use snapmark::frontend::iscsi::{Initiator, Transfer, snapshot_cdb};

/// Whoever hears that an initiator has gone can have what it had reserved.
#[test]
fn a_logout_gives_up_what_was_reserved() {
    let lab = Lab::new();
    for _ in 0..100 {
        let mut first = lab.session("a", "disk");
        let mut second = lab.session("b", "disk");
        let reserve = [0x16, 0, 0, 0, 0, 0];
        good(&first.command(&reserve, Transfer::None).unwrap());
        assert_eq!(
            second.command(&reserve, Transfer::None).unwrap().status,
            0x18
        );
        first.log_out().unwrap();
        good(&second.command(&reserve, Transfer::None).unwrap());
        second.log_out().unwrap();
    }
}

type Doing<'a> = (&'a str, &'a dyn Fn(&mut Initiator));

/// Each alone, in a store that syncs nothing by itself; all that was not synced is lost.
#[test]
fn what_is_forced_survives_power_loss() {
    let snapshot = |session: &mut Initiator| {
        good(&write(session, 0, &[5; 4096]));
        let cdb = snapshot_cdb("s", false, false).unwrap();
        good(&session.command(&cdb, Transfer::Out(b"s")).unwrap());
    };
    let out = |cdb: &[u8], data: &[u8], session: &mut Initiator| {
        good(&session.command(cdb, Transfer::Out(data)).unwrap());
    };
    let forced = |opcode: u8| {
        let mut cdb = ten(opcode, 0, 8);
        cdb[1] = 8;
        cdb
    };
    let mut compare = [0; 16];
    (compare[0], compare[1], compare[13]) = (0x89, 8, 8);
    let both = [[0; 4096], [5; 4096]].concat();
    let does: [Doing<'_>; 7] = [
        ("nothing", &|session| good(&write(session, 0, &[5; 4096]))),
        ("SYNCHRONIZE CACHE", &|session| {
            good(&write(session, 0, &[5; 4096]));
            good(&session.command(&ten(0x35, 0, 0), Transfer::None).unwrap());
        }),
        ("WRITE, FUA", &|session| {
            out(&forced(0x2a), &[5; 4096], session)
        }),
        ("WRITE AND VERIFY", &|session| {
            out(&ten(0x2e, 0, 8), &[5; 4096], session);
        }),
        ("COMPARE AND WRITE, FUA", &|session| {
            out(&compare, &both, session)
        }),
        ("READ, FUA", &|session| {
            good(&write(session, 0, &[5; 4096]));
            good(&session.command(&forced(0x28), Transfer::In(4096)).unwrap());
        }),
        ("snapshot", &snapshot),
    ];
    for (what, does) in does {
        let shape = Shape {
            interval: Duration::from_secs(3600),
            ..Shape::default()
        };
        let lab = Lab::with(options(), shape);
        let mut session = lab.session("a", "disk");
        does(&mut session);
        let lost = lab.engine.disk.crash_image(0);
        let again = Engine::open_images(&lost, shape);
        let file = if what == "snapshot" { "disk@s" } else { "disk" };
        let mut bytes = [0; 4096];
        let node = again.lookup(file);
        if let Some(node) = node {
            again.read(node, 0, &mut bytes).unwrap();
        }
        assert_eq!(bytes == [5; 4096], what != "nothing", "{what}");
    }
}

#[test]
fn where_data_differ_is_told() {
    let lab = Lab::new();
    let mut disk = lab.session("a", "disk");
    let data = noise(3, 600 << 10);
    good(&write(&mut disk, 0, &data));
    let mut other = data.clone();
    other[500_000] ^= 1;
    let mut verify = ten(0x2f, 0, 1200);
    verify[1] = 2;
    let outcome = disk.command(&verify, Transfer::Out(&other)).unwrap();
    assert_eq!(sense(&outcome), (0x0e, 0x1d, 0));
    assert_eq!(outcome.sense[3..7], 500_000u32.to_be_bytes());

    // One block that all are compared with.
    good(&write(&mut disk, 0, &[7; 4096]));
    let mut block = [7; 512];
    let mut verify = ten(0x2f, 0, 8);
    verify[1] = 6;
    good(&disk.command(&verify, Transfer::Out(&block)).unwrap());
    block[9] = 8;
    good(&write(&mut disk, 3, &block));
    let outcome = disk.command(&verify, Transfer::Out(&[7; 512])).unwrap();
    assert_eq!(sense(&outcome), (0x0e, 0x1d, 0));
    assert_eq!(outcome.sense[3..7], (3 * 512 + 9u32).to_be_bytes());

    let mut compare = [0; 16];
    (compare[0], compare[13]) = (0x89, 4);
    let both = [[7; 2048], [1; 2048]].concat();
    let outcome = disk.command(&compare, Transfer::Out(&both)).unwrap();
    assert_eq!(sense(&outcome), (0x0e, 0x1d, 0));
    assert_eq!(outcome.sense[3..7], (3 * 512 + 9u32).to_be_bytes());
    assert!(read(&mut disk, 0, 1) == [7; 512], "nothing is written");
}

#[test]
fn ranges_are_filled_or_discarded_as_a_whole_or_not_at_all() {
    let lab = Lab::new();
    let mut disk = lab.session("a", "disk");
    let pattern = noise(5, 512);
    let mut same = [0; 16];
    (same[0], same[1]) = (0x93, 0x08);
    same[10..14].copy_from_slice(&(3 * 2048u32 + 1).to_be_bytes());
    // What is no zeros is written, also with UNMAP.
    good(&disk.command(&same, Transfer::Out(&pattern)).unwrap());
    for first in [0, 2047, 2048, 3 * 2048] {
        assert!(read(&mut disk, first, 1) == pattern, "{first}");
    }
    assert!(read(&mut disk, 3 * 2048 + 1, 1) == [0; 512]);

    let unmap = |disk: &mut Initiator, ranges: &[(u64, u32)]| {
        let mut list = vec![0; 8];
        for (first, count) in ranges {
            list.extend(first.to_be_bytes());
            list.extend(count.to_be_bytes());
            list.extend([0; 4]);
        }
        let len = list.len() as u16;
        list[..2].copy_from_slice(&(len - 2).to_be_bytes());
        list[2..4].copy_from_slice(&(len - 8).to_be_bytes());
        let [high, low] = len.to_be_bytes();
        let cdb = [0x42, 0, 0, 0, 0, 0, 0, high, low, 0];
        disk.command(&cdb, Transfer::Out(&list)).unwrap()
    };
    let outside = unmap(&mut disk, &[(0, 8), (1 << 40, 8)]);
    assert_eq!(sense(&outside), (5, 0x21, 0));
    let many = unmap(&mut disk, &[(0, 8); 257]);
    assert_eq!(sense(&many), (5, 0x26, 0));
    assert!(read(&mut disk, 0, 1) == pattern, "nothing is discarded");
    good(&unmap(&mut disk, &[(0, 8); 256]));
    assert!(read(&mut disk, 0, 1) == [0; 512]);
}

#[test]
fn whoever_may_not_write_may_not_discard_or_compare_either() {
    let lab = Lab::new();
    let (mut a, mut b) = (lab.session("a", "disk"), lab.session("b", "disk"));
    let mut same = [0; 16];
    (same[0], same[13]) = (0x93, 8);
    let mut compare = [0; 16];
    (compare[0], compare[13]) = (0x89, 1);
    let mut writes: Vec<(Vec<u8>, usize)> = vec![
        (ten(0x2a, 0, 1).to_vec(), 512),
        (ten(0x2e, 0, 1).to_vec(), 512),
        (ten(0x41, 0, 1).to_vec(), 512),
        (same.to_vec(), 512),
        (compare.to_vec(), 1024),
        (vec![0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], 24),
    ];
    // Write protection by software (SWP).
    let mut list = [
        0, 0, 0, 0, 0x0a, 10, 0x20, 0x10, 8, 0, 0, 0, 0xff, 0xff, 0, 0,
    ];
    let select = [0x15, 0x10, 0, 0, 16, 0];
    good(&b.command(&select, Transfer::Out(&list)).unwrap());
    settle(&mut a);
    for (cdb, len) in &writes {
        let outcome = a.command(cdb, Transfer::Out(&vec![0; *len])).unwrap();
        assert_eq!(sense(&outcome), (7, 0x27, 2), "{cdb:02x?}");
    }
    list[8] = 0;
    good(&b.command(&select, Transfer::Out(&list)).unwrap());
    settle(&mut a);
    // A persistent reservation, Write Exclusive.
    for (action, key, new) in [(0, 0, 1), (1, 1, 0)] {
        let mut list = [0; 24];
        (list[7], list[15]) = (key, new);
        let cdb = [0x5f, action, 1, 0, 0, 0, 0, 0, 24, 0];
        good(&b.command(&cdb, Transfer::Out(&list)).unwrap());
    }
    writes.push((snapshot_cdb("s", false, false).unwrap(), 1));
    for (cdb, len) in &writes {
        let outcome = a.command(cdb, Transfer::Out(&vec![0; *len])).unwrap();
        assert_eq!(outcome.status, 0x18, "{cdb:02x?}");
    }
    good(&write(&mut b, 0, &[1; 512]));
}

#[test]
fn sense_data_have_the_format_that_is_asked_for() {
    let lab = Lab::new();
    let mut disk = lab.session("a", "disk");
    for (asked, format) in [(0, 0x70), (1, 0x72)] {
        let cdb = [0x03, asked, 0, 0, 252, 0];
        let outcome = disk.command(&cdb, Transfer::In(252)).unwrap();
        good(&outcome);
        assert_eq!(outcome.data[0], format);
    }
}

#[test]
fn names_are_padded_and_snapshots_are_no_disks() {
    let lab = Lab::new();
    let mut disk = lab.session("a", "disk");
    let snapshot = |disk: &mut Initiator, name: &str, all| {
        let cdb = snapshot_cdb(name, all, false).unwrap();
        good(&disk.command(&cdb, Transfer::Out(name.as_bytes())).unwrap());
    };
    snapshot(&mut disk, "one \0 \0\0", false);
    let of_snapshot = lab.session("a", "disk@one");
    snapshot(&mut disk, "two", true);
    drop(of_snapshot);
    let names = lab.engine.list().into_iter().map(|(name, _)| name);
    assert_eq!(names.collect::<Vec<_>>(), ["disk", "disk@one", "disk@two"]);
}

/// By the host's page cache under a store.
#[test]
fn what_is_prefetched_comes_into_memory() {
    if !able(&[("fincore", "util-linux")]) {
        return;
    }
    let (store, portal) = served(&["--size", "64MiB"]);
    let disk = store.make("disk", 32 << 20);
    write_at(&disk, 0, &noise(1, 24 << 20));
    store.flush();
    store.snapshot("disk", "s");
    store.control("clone disk@s other").unwrap();
    let data = text(&store.store().join("pool.img"));
    let empty = || {
        let file = std::fs::File::open(&data).unwrap();
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    };
    let in_memory = || -> u64 {
        let words = ["--bytes", "--noheadings", "--output", "RES", &data];
        run("fincore", words).trim().parse().unwrap()
    };
    let mut sixteen = [0; 16];
    sixteen[0] = 0x90;
    // 8 MiB from the second on; all of it; all that a clone has from its origin, by the other form.
    let prefetches: [(&str, &[u8], u64); 4] = [
        ("disk", &ten(0x34, 4096, 16384), 8 << 20),
        ("disk", &ten(0x34, 0, 0), 24 << 20),
        ("disk@s", &sixteen, 24 << 20),
        ("other", &sixteen, 24 << 20),
    ];
    empty();
    if in_memory() > 0 && !missing("the store's file system keeps all in memory") {
        return;
    }
    for (file, cdb, wanted) in prefetches {
        let mut session = session_at(portal, "a", file);
        empty();
        let before = in_memory();
        good(&session.command(cdb, Transfer::None).unwrap());
        wait_until("it is in memory", || in_memory() >= before + wanted);
    }
    let mut session = session_at(portal, "a", "disk");
    let past = session
        .command(&ten(0x34, 65536, 1), Transfer::None)
        .unwrap();
    assert_eq!(sense(&past), (5, 0x21, 0));
}
