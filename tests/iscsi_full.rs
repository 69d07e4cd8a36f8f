//! iSCSI targets over a host that is full: commands wait for space, but not for longer than initiators do,
//! and nothing else waits behind them.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use common::engine::Shape;
use common::iscsi::{Lab, good, options, read, sense, ten, write};
use snapmark::device::{Effect, Operation, When};
use snapmark::frontend::iscsi::{Initiator, IscsiOptions, Outcome, Transfer, snapshot_cdb};
use snapmark::volume::Node;

const BUSY: u8 = 0x08;
const LONG: Duration = Duration::from_secs(60);
/// Bytes of the writes here, and their logical blocks.
const LEN: usize = 4096;
const BLOCKS: u32 = 8;

/// A target over a host that is full: as long a store has patience, and as long the target.
fn full(store: Duration, target: Duration) -> Lab {
    let options = IscsiOptions {
        space_patience: target,
        ..options()
    };
    let shape = Shape {
        patience: store,
        ..Shape::default()
    };
    let lab = Lab::with(options, shape);
    for device in &lab.engine.faults {
        device.plan(Operation::Write, When::From(1), Effect::Fail(libc::ENOSPC));
    }
    lab
}

fn has_space_again(lab: &Lab) {
    lab.engine.faults.iter().for_each(|device| device.heal());
}

fn data(number: u32) -> [u8; LEN] {
    [number as u8; LEN]
}

/// Writes until a write is not done: how many were, and what became of that one.
fn fill(session: &mut Initiator) -> (u32, Outcome) {
    for number in 0..4096 {
        let outcome = write(session, number * BLOCKS, &data(number));
        if outcome.status != 0 {
            return (number, outcome);
        }
    }
    panic!("the host is never full");
}

#[test]
fn what_waits_for_space_is_to_be_sent_again_and_then_done() {
    let patience = Duration::from_millis(300);
    let lab = full(LONG, patience);
    let mut session = lab.session("a", "disk");
    let (written, outcome) = fill(&mut session);
    assert_eq!((outcome.status, outcome.sense_code()), (BUSY, None));
    let began = Instant::now();
    let again = write(&mut session, written * BLOCKS, &data(written));
    assert_eq!(again.status, BUSY);
    assert!(began.elapsed() >= patience, "it waited before");
    has_space_again(&lab);
    for number in written..written + 100 {
        let done = || write(&mut session, number * BLOCKS, &data(number)).status == 0;
        common::wait_until("there is space again", done);
    }
    for number in 0..written + 100 {
        assert!(read(&mut session, number * BLOCKS, 8) == data(number));
    }
}

#[test]
fn a_host_that_stays_full_is_told_as_a_full_pool_is() {
    let lab = full(Duration::from_millis(500), LONG);
    let mut session = lab.session("a", "disk");
    let (written, outcome) = fill(&mut session);
    assert_eq!(sense(&outcome), (7, 0x27, 7));
    assert!(outcome.words().unwrap().contains("no space on the host"));
    for number in 0..written {
        assert!(read(&mut session, number * BLOCKS, 8) == data(number));
    }
}

#[test]
fn writes_that_wait_for_space_hold_up_nothing_else() {
    let lab = full(LONG, LONG);
    let disk = lab.engine.lookup("disk").unwrap();
    let Node::Disk(disk) = disk else {
        panic!("a disk")
    };
    // Until one would have to wait.
    let fits = |number: &u32| {
        let at = u64::from(number * BLOCKS) * 512;
        lab.engine
            .write_in_a_hurry(disk, at, &data(*number))
            .is_ok()
    };
    let written = (0..4096).take_while(fits).count() as u32;
    let metrics = &lab.engine.metrics().write;
    let (done, failed) = (metrics.done.load(Relaxed), metrics.failed.load(Relaxed));
    // More than there are threads for.
    let mut writer = lab.session("writer", "disk");
    let block = data(written);
    let transfer = Transfer::Out(&block);
    for number in 0..100 {
        let cdb = ten(0x2a, (written + number) * BLOCKS, BLOCKS as u16);
        writer.start(&cdb, transfer).unwrap();
    }
    // This one is answered once they all have come.
    let last = writer.start(&ten(0x28, 0, 8), Transfer::In(LEN)).unwrap();
    let (ended, _) = writer.next_end(|_| Transfer::In(LEN)).unwrap();
    assert_eq!(ended, last);
    let mut other = lab.session("other", "disk");
    assert!(read(&mut other, 0, 8) == data(0));
    let cdb = snapshot_cdb("meanwhile", false, false).unwrap();
    good(&other.command(&cdb, Transfer::Out(b"meanwhile")).unwrap());
    good(&other.command(&ten(0x35, 0, 0), Transfer::None).unwrap());
    // What gives space back is behind none of them either.
    let list = [&[0, 22, 0, 16, 0, 0, 0, 0][..], &[0; 11], &[8], &[0; 4]].concat();
    let unmap = [0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0];
    good(&other.command(&unmap, Transfer::Out(&list)).unwrap());
    assert_eq!(metrics.failed.load(Relaxed), failed);
    assert!(metrics.done.load(Relaxed) < done + 100, "they wait still");
    has_space_again(&lab);
    for _ in 0..100 {
        let (_, outcome) = writer.next_end(|_| transfer).unwrap();
        good(&outcome);
    }
}
