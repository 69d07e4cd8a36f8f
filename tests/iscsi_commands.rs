//! SCSI commands over a session, as initiators see them.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use common::engine::Shape;
use common::iscsi::{Lab, good, identity, options, read, sense, settle, ten, write};
use common::model::new_disk;
use common::noise;
use snapmark::device::{Effect, Operation, When};
use snapmark::frontend::iscsi::{Identity, Initiator, Transfer, snapshot_cdb};
use snapmark::volume::SetAttributes;

const IN: Transfer<'static> = Transfer::In(4096);

fn snapshot(session: &mut Initiator, name: &str, all: bool) -> snapmark::frontend::iscsi::Outcome {
    let cdb = snapshot_cdb(name, all, false).unwrap();
    let transfer = match name {
        "" => Transfer::None,
        name => Transfer::Out(name.as_bytes()),
    };
    session.command(&cdb, transfer).unwrap()
}

/// The names of all disks and snapshots.
fn files(lab: &Lab) -> Vec<String> {
    lab.engine
        .list()
        .into_iter()
        .map(|(name, _)| name)
        .collect()
}

#[test]
fn a_snapshot_stands_where_its_command_stood() {
    let lab = Lab::new();
    let mut disk = lab.session("a", "disk");
    for round in 0..20u8 {
        good(&write(&mut disk, 0, &[round; 8192]));
        good(&snapshot(&mut disk, &format!("s{round}"), false));
    }
    good(&snapshot(&mut disk, "", false));
    for round in 0..20u8 {
        let file = format!("disk@s{round}");
        assert!(lab.bytes(&file, 0, 8192) == [round; 8192]);
        assert!(read(&mut lab.session("a", &file), 0, 16) == [round; 8192]);
    }
    let named_by_time = |(name, _): &(String, _)| name.ends_with('Z');
    assert_eq!(
        lab.engine
            .list()
            .iter()
            .filter(|of| named_by_time(of))
            .count(),
        1
    );
}

#[test]
fn all_disks_of_an_initiator_are_taken_at_one_point() {
    let lab = Lab::new();
    for name in ["second", "third"] {
        lab.engine.create(new_disk(name, 1 << 20)).unwrap();
    }
    let mut disk = lab.session("a", "disk");
    let second = lab.session("a", "second");
    let third = lab.session("b", "third");
    good(&snapshot(&mut disk, "both", true));
    assert_eq!(
        files(&lab),
        ["disk", "disk@both", "second", "second@both", "third"]
    );
    drop((second, third));
}

/// The form of twelve bytes, whose flags and length are in other places.
#[test]
fn the_longest_form_names_and_flags_too() {
    let lab = Lab::new();
    lab.engine.create(new_disk("second", 1 << 20)).unwrap();
    let (mut disk, second) = (lab.session("a", "disk"), lab.session("a", "second"));
    let form = |flags: u8, len: u8| [0xc2, flags, 0, 0, 0, 0, 0, 0, 0, len, 0, 0];
    let one = disk.command(&form(0x02, 4), Transfer::Out(b"late"));
    good(&one.unwrap());
    let both = disk.command(&form(0x01, 6), Transfer::Out(b"both\0 "));
    good(&both.unwrap());
    assert_eq!(
        files(&lab),
        ["disk", "disk@both", "disk@late", "second", "second@both"]
    );
    for (at, value) in [(1, 0x04), (2, 1), (5, 1), (10, 1)] {
        let mut cdb = form(0, 1);
        cdb[at] = value;
        let refused = disk.command(&cdb, Transfer::Out(b"x")).unwrap();
        assert_eq!(sense(&refused), (5, 0x24, 0), "byte {at}");
    }
    // Less data than is announced; and the same of the form of ten bytes.
    for cdb in [&form(0, 9)[..], &[0xc1, 0, 0, 0, 0, 0, 0, 0, 9, 0]] {
        let short = disk.command(cdb, Transfer::Out(b"short")).unwrap();
        assert_eq!(sense(&short), (5, 0x0e, 3));
    }
    assert_eq!(lab.engine.list().len(), 5);
    drop(second);
}

/// One can't stop it for all others.
#[test]
fn a_unit_is_started_always() {
    let lab = Lab::new();
    let mut session = lab.session("a", "disk");
    for (flags, is_taken) in [
        (0x01, true),
        (0x00, false),
        (0x03, false),
        (0x10, false),
        (0x31, false),
    ] {
        let outcome = session.command(&[0x1b, 0, 0, 0, flags, 0], Transfer::None);
        let outcome = outcome.unwrap();
        if is_taken {
            good(&outcome);
        } else {
            assert_eq!(sense(&outcome), (5, 0x24, 0), "{flags:02x}h");
        }
    }
    good(&write(&mut session, 0, &[1; 512]));
}

#[test]
fn all_disks_of_an_initiator_are_none_that_others_have_reserved() {
    let lab = Lab::new();
    lab.engine.create(new_disk("second", 1 << 20)).unwrap();
    let (mut a, mut a_second) = (lab.session("a", "disk"), lab.session("a", "second"));
    let mut b = lab.session("b", "second");
    good(&b.command(&[0x16, 0, 0, 0, 0, 0], Transfer::None).unwrap());
    assert_eq!(snapshot(&mut a, "all", true).status, 0x18);
    assert_eq!(lab.engine.list().len(), 2, "none of the two");
    good(&snapshot(&mut a, "own", false));
    good(&b.command(&[0x17, 0, 0, 0, 0, 0], Transfer::None).unwrap());
    good(
        &a_second
            .command(&[0x16, 0, 0, 0, 0, 0], Transfer::None)
            .unwrap(),
    );
    good(&snapshot(&mut a, "all", true));
    assert!(lab.engine.lookup("second@all").is_some());
}

#[test]
fn why_there_is_no_snapshot_is_said() {
    let lab = Lab::new();
    let mut disk = lab.session("a", "disk");
    good(&snapshot(&mut disk, "s", false));
    let again = snapshot(&mut disk, "s", false);
    assert_eq!(sense(&again), (5, 0x80, 2));
    assert!(
        again.words().unwrap().contains("disk@s"),
        "{:?}",
        again.words()
    );
    assert_eq!(sense(&snapshot(&mut disk, "a/b", false)), (5, 0x80, 3));
    assert_eq!(
        sense(&snapshot(&mut disk, &"x".repeat(255), false)),
        (5, 0x80, 3)
    );
    let mut of_snapshot = lab.session("a", "disk@s");
    assert_eq!(sense(&snapshot(&mut of_snapshot, "t", false)), (7, 0x80, 4));
    let reserved = disk
        .command(&[0xc1, 0x80, 0, 0, 0, 0, 0, 0, 0, 0], Transfer::None)
        .unwrap();
    assert_eq!(sense(&reserved), (5, 0x24, 0));

    // The same as descriptors, where they are asked for.
    let mut list = vec![
        0, 0, 0, 0, 0x0a, 10, 0x24, 0x10, 0, 0, 0, 0, 0xff, 0xff, 0, 0,
    ];
    let select = [0x15, 0x10, 0, 0, list.len() as u8, 0];
    good(&disk.command(&select, Transfer::Out(&list)).unwrap());
    let again = snapshot(&mut disk, "s", false);
    assert_eq!((again.sense[0], sense(&again)), (0x72, (5, 0x80, 2)));
    assert!(again.words().unwrap().contains("disk@s"));
    list[6] = 0x20;
    good(&disk.command(&select, Transfer::Out(&list)).unwrap());
    assert_eq!(snapshot(&mut disk, "s", false).sense[0], 0x70);
}

#[test]
fn a_disk_that_is_gone_has_no_snapshot() {
    let lab = Lab::new();
    let mut disk = lab.session("a", "disk");
    lab.engine.remove("disk").unwrap();
    let refused = snapshot(&mut disk, "s", false);
    assert_eq!(sense(&refused), (5, 0x80, 1));
    // It lives on for those who use it.
    good(&write(&mut disk, 0, &[1; 512]));
}

#[test]
fn a_store_that_has_stopped_writing_takes_no_snapshot() {
    let lab = Lab::new();
    let mut disk = lab.session("a", "disk");
    for device in &lab.engine.faults {
        device.plan(Operation::Write, When::From(1), Effect::Fail(libc::EIO));
    }
    good(&write(&mut disk, 0, &[1; 4096]));
    lab.engine.flush().unwrap_err();
    let refused = snapshot(&mut disk, "s", false);
    assert_eq!(sense(&refused), (4, 0x44, 0));
    assert!(refused.words().unwrap().contains("stopped writing"));
    assert_eq!(sense(&write(&mut disk, 0, &[2; 4096])), (4, 0x44, 0));
    assert!(read(&mut disk, 0, 8) == [1; 4096]);
}

#[test]
fn snapshots_can_be_read_and_not_written() {
    let lab = Lab::new();
    lab.engine.snapshot(&["disk"], Some("s"), true).unwrap();
    let mut session = lab.session("a", "disk@s");
    assert_eq!(sense(&write(&mut session, 0, &[1; 512])), (7, 0x27, 0));
    let unmap = session
        .command(&[0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0], Transfer::None)
        .unwrap();
    assert_eq!(sense(&unmap), (7, 0x27, 0));
    let mode = session.command(&[0x1a, 0, 0x3f, 0, 255, 0], IN).unwrap();
    assert_eq!(mode.data[2] & 0x80, 0x80, "write protected");
    assert!(read(&mut session, 0, 1) == [0; 512]);
}

#[test]
fn blocks_past_the_end_and_unknown_commands_are_refused() {
    let lab = Lab::new();
    let mut disk = lab.session("a", "disk");
    let last = (64 << 20) / 512 - 1;
    assert!(read(&mut disk, last, 1) == [0; 512]);
    for cdb in [
        ten(0x28, last, 2),
        ten(0x28, last + 1, 1),
        ten(0x28, u32::MAX, 1),
    ] {
        assert_eq!(sense(&disk.command(&cdb, IN).unwrap()), (5, 0x21, 0));
    }
    assert_eq!(sense(&write(&mut disk, last, &[1; 1024])), (5, 0x21, 0));
    assert_eq!(
        sense(&disk.command(&[0xd0, 0, 0, 0, 0, 0], IN).unwrap()),
        (5, 0x20, 0)
    );
    assert_eq!(
        sense(&disk.command(&ten(0x28, 0, 2049), IN).unwrap()),
        (5, 0x24, 0),
        "too long"
    );
}

#[test]
fn a_new_size_is_told_to_each_initiator() {
    let lab = Lab::new();
    let (mut a, mut b) = (lab.session("a", "disk"), lab.session("b", "disk"));
    let set = SetAttributes {
        size: Some(128 << 20),
        ..SetAttributes::default()
    };
    lab.engine.set_attributes(lab.node("disk"), &set).unwrap();
    for session in [&mut a, &mut b] {
        let told = session.command(&[0; 6], Transfer::None).unwrap();
        assert_eq!(sense(&told), (6, 0x2a, 9));
        let mut cdb = [0; 16];
        (cdb[0], cdb[1], cdb[13]) = (0x9e, 0x10, 32);
        let capacity = session.command(&cdb, IN).unwrap();
        let last = u64::from_be_bytes(capacity.data[..8].try_into().unwrap());
        assert_eq!(last, (128 << 20) / 512 - 1);
        assert_eq!(
            capacity.data[13..15],
            [3, 0xc0],
            "4 KiB physical blocks, thin, zeros"
        );
    }
    // One that asks what there is to tell, before it does anything else.
    let set = SetAttributes {
        size: Some(64 << 20),
        ..SetAttributes::default()
    };
    lab.engine.set_attributes(lab.node("disk"), &set).unwrap();
    let told = a.command(&[0x03, 0, 0, 0, 252, 0], IN).unwrap();
    good(&told);
    assert_eq!((told.data[2], told.data[12], told.data[13]), (6, 0x2a, 9));
    good(&a.command(&[0; 6], Transfer::None).unwrap());
}

#[test]
fn a_full_pool_is_told_as_such_and_what_was_acknowledged_stays() {
    let shape = Shape {
        pool: 4 << 20,
        ..Shape::default()
    };
    let lab = Lab::with(options(), shape);
    let mut disk = lab.session("a", "disk");
    let data = noise(1, 1 << 20);
    let mut written = 0;
    let full = loop {
        let outcome = write(&mut disk, written * 2048, &data);
        if outcome.status != 0 {
            break outcome;
        }
        written += 1;
        assert!(written < 60, "the pool is never full");
    };
    assert_eq!(sense(&full), (7, 0x27, 7));
    for piece in 0..written {
        assert!(read(&mut disk, piece * 2048, 2048) == data, "{piece}");
    }
}

#[test]
fn discarded_blocks_are_unmapped_and_read_as_zeros() {
    let lab = Lab::new();
    let mut disk = lab.session("a", "disk");
    good(&write(&mut disk, 0, &noise(2, 1 << 20)));
    let mut list = vec![0; 24];
    list[1] = 22;
    list[3] = 16;
    list[8..16].copy_from_slice(&512u64.to_be_bytes());
    list[16..20].copy_from_slice(&1024u32.to_be_bytes());
    let unmap = [0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0];
    good(&disk.command(&unmap, Transfer::Out(&list)).unwrap());
    assert!(read(&mut disk, 512, 1024).iter().all(|byte| *byte == 0));
    assert!(read(&mut disk, 511, 1) != [0; 512] && read(&mut disk, 1536, 1) != [0; 512]);
    let mut cdb = [0; 16];
    (cdb[0], cdb[1], cdb[13]) = (0x9e, 0x12, 4 + 4 + 3 * 16);
    let status = disk.command(&cdb, IN).unwrap();
    let extent = |at: usize| {
        let bytes = &status.data[8 + 16 * at..];
        let first = u64::from_be_bytes(bytes[..8].try_into().unwrap());
        let count = u32::from_be_bytes(bytes[8..12].try_into().unwrap());
        (first, count, bytes[12])
    };
    assert_eq!(
        [extent(0), extent(1), extent(2)],
        [(0, 512, 0), (512, 1024, 1), (1536, 512, 0)]
    );

    // WRITE SAME (16), with UNMAP and a block of zeros.
    let mut same = [0; 16];
    (same[0], same[1], same[12]) = (0x93, 0x08, 1);
    good(&disk.command(&same, Transfer::Out(&[0; 512])).unwrap());
    assert!(read(&mut disk, 0, 256).iter().all(|byte| *byte == 0));
    same[1] = 0;
    good(&disk.command(&same, Transfer::Out(&[9; 512])).unwrap());
    assert!(read(&mut disk, 0, 256).iter().all(|byte| *byte == 9));
}

#[test]
fn comparing_and_writing_is_one_step_among_all_writers() {
    let lab = Lab::new();
    let mut cdb = [0; 16];
    (cdb[0], cdb[13]) = (0x89, 1);
    let count = 4;
    let rounds = 200;
    let adds = |number: u8| {
        let who = Identity {
            isid: [0, 0, 0, 0, 0, number],
            ..identity("a", "disk")
        };
        let mut session = Initiator::log_in(lab.portal, &who).unwrap();
        settle(&mut session);
        for _ in 0..rounds {
            loop {
                let old = read(&mut session, 0, 1);
                let value = u64::from_be_bytes(old[..8].try_into().unwrap());
                let mut new = old.clone();
                new[..8].copy_from_slice(&(value + 1).to_be_bytes());
                let both = [old, new].concat();
                let outcome = session.command(&cdb, Transfer::Out(&both)).unwrap();
                if outcome.status == 0 {
                    break;
                }
                assert_eq!(sense(&outcome), (0x0e, 0x1d, 0));
            }
        }
    };
    std::thread::scope(|scope| {
        let adds = &adds;
        for number in 0..count {
            scope.spawn(move || adds(number));
        }
    });
    let sum = u64::from_be_bytes(lab.bytes("disk", 0, 8).try_into().unwrap());
    assert_eq!(sum, u64::from(count) * rounds);
}

#[test]
fn data_are_compared_where_that_is_asked_for() {
    let lab = Lab::new();
    let mut disk = lab.session("a", "disk");
    let data = noise(3, 4096);
    let write_and_verify = disk
        .command(&ten(0x2e, 8, 8), Transfer::Out(&data))
        .unwrap();
    good(&write_and_verify);
    let mut verify = ten(0x2f, 8, 8);
    good(&disk.command(&verify, Transfer::None).unwrap());
    verify[1] = 2;
    good(&disk.command(&verify, Transfer::Out(&data)).unwrap());
    let mut other = data.clone();
    other[1234] ^= 1;
    let miscompare = disk.command(&verify, Transfer::Out(&other)).unwrap();
    assert_eq!(sense(&miscompare), (0x0e, 0x1d, 0));
    assert_eq!(miscompare.sense[3..7], 1234u32.to_be_bytes());
}

#[test]
fn what_is_synchronized_survives_power_loss() {
    let lab = Lab::new();
    let mut disk = lab.session("a", "disk");
    good(&write(&mut disk, 0, &[5; 4096]));
    good(&disk.command(&ten(0x35, 0, 0), Transfer::None).unwrap());
    let mut forced = ten(0x2a, 8, 8);
    forced[1] = 8;
    good(&disk.command(&forced, Transfer::Out(&[6; 4096])).unwrap());
    let lost = lab.engine.disk.crash_image(0);
    let again = common::engine::Engine::open_images(&lost, lab.engine.shape);
    let node = again.lookup("disk").unwrap();
    let mut bytes = vec![0; 8192];
    again.read(node, 0, &mut bytes).unwrap();
    assert!(bytes[..4096] == [5; 4096] && bytes[4096..] == [6; 4096]);
}

#[test]
fn reservations_keep_others_out() {
    let lab = Lab::new();
    let (mut a, mut b) = (lab.session("a", "disk"), lab.session("b", "disk"));
    good(&a.command(&[0x16, 0, 0, 0, 0, 0], Transfer::None).unwrap());
    assert_eq!(write(&mut b, 0, &[1; 512]).status, 0x18);
    assert_eq!(b.command(&ten(0x28, 0, 1), IN).unwrap().status, 0x18);
    good(&b.command(&[0x12, 0, 0, 0, 96, 0], IN).unwrap());
    // The two kinds of reservation rule each other out, for whoever has the one too.
    for session in [&mut a, &mut b] {
        let keys = [0x5e, 0, 0, 0, 0, 0, 0, 0, 8, 0];
        assert_eq!(session.command(&keys, IN).unwrap().status, 0x18);
    }
    // It ends with the session.
    a.log_out().unwrap();
    common::wait_until("the reservation is gone", || {
        write(&mut b, 0, &[1; 512]).status == 0
    });

    let mut a = lab.session("a", "disk");
    let register = |session: &mut Initiator, action: u8, kind: u8, key: u8, new: u8| {
        let mut list = [0; 24];
        (list[7], list[15]) = (key, new);
        let cdb = [0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0];
        session.command(&cdb, Transfer::Out(&list)).unwrap()
    };
    good(&register(&mut a, 0, 0, 0, 1));
    good(&register(&mut a, 1, 5, 1, 0));
    assert_eq!(write(&mut b, 0, &[2; 512]).status, 0x18);
    assert!(read(&mut b, 0, 1) == [1; 512], "it may read");
    assert_eq!(snapshot(&mut b, "s", false).status, 0x18);
    good(&register(&mut b, 0, 0, 0, 2));
    good(&write(&mut b, 0, &[2; 512]));
    // They outlive the session, and its initiator comes back to them.
    a.log_out().unwrap();
    let mut a = lab.session("a", "disk");
    good(&register(&mut a, 2, 5, 1, 0));
    assert_eq!(
        sense(&b.command(&[0; 6], Transfer::None).unwrap()),
        (6, 0x2a, 4)
    );
}

#[test]
fn a_reset_ends_reservations_and_is_told_to_others() {
    let lab = Lab::new();
    let (mut a, mut b) = (lab.session("a", "disk"), lab.session("b", "disk"));
    good(&a.command(&[0x16, 0, 0, 0, 0, 0], Transfer::None).unwrap());
    b.reset().unwrap();
    assert_eq!(
        sense(&b.command(&[0; 6], Transfer::None).unwrap()),
        (6, 0x29, 3)
    );
    good(&write(&mut b, 0, &[1; 512]));
    assert_eq!(
        sense(&a.command(&[0; 6], Transfer::None).unwrap()),
        (6, 0x29, 3)
    );
}
