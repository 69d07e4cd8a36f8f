//! The tasks of an iSCSI session, PDU by PDU: their order, how they are given up, the window of commands,
//! and what data they move.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use common::commands::Around;
use common::engine::{Engine, Shape};
use common::iscsi::{Lab, STORE, good, identity, options, read, settle, ten, write};
use common::model::new_disk;
use common::pdu::*;
use common::{noise, wait_until};
use parking_lot::{Condvar, Mutex};
use snapmark::frontend::iscsi::{Initiator, IscsiOptions, IscsiTarget, Transfer, target_name};

/// What snapshots wait at until they are let go.
#[derive(Default)]
struct Held {
    /// How many are there, and whether they are let go.
    state: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl Held {
    fn wait(&self) {
        let mut state = self.state.lock();
        state.0 += 1;
        while !state.1 {
            let waited = self.changed.wait_for(&mut state, Duration::from_secs(60));
            assert!(!waited.timed_out(), "never let go");
        }
    }

    fn wait_for(&self, count: usize) {
        wait_until("the snapshot has begun", || self.state.lock().0 == count);
    }

    fn let_go(&self) {
        self.state.lock().1 = true;
        self.changed.notify_all();
    }
}

/// A target whose snapshots wait.
fn held() -> (Lab, Arc<Held>) {
    let engine = Engine::new(Shape::default());
    engine.create(new_disk("disk", 64 << 20)).unwrap();
    let held = Arc::new(Held::default());
    let waits = Arc::clone(&held);
    let commands = Arc::new(Around::new(&engine.volumes, move |_, _| waits.wait()));
    let target = IscsiTarget::start(Arc::clone(&engine.volumes), commands, options()).unwrap();
    let portal = target.addresses().next().unwrap();
    let lab = Lab {
        target: Some(target),
        portal,
        engine,
    };
    (lab, held)
}

/// A target that waits two seconds for data.
fn impatient() -> Lab {
    let options = IscsiOptions {
        data_patience: Duration::from_secs(2),
        ..options()
    };
    Lab::with(options, Shape::default())
}

#[test]
fn tasks_are_done_in_the_order_that_they_ask_for() {
    let lab = Lab::new();
    let mut raw = Raw::session(&lab, "a", "disk");
    let data = vec![7; 4096];
    let written = raw.command(SIMPLE, 0x20, &ten(0x2a, 0, 8), 4096, &[]);
    let asked = raw.next();
    assert_eq!(asked.kind(), (R2T, written));
    // The write is under way, and its data do not come yet.
    let ordered = raw.snapshot(ORDERED, "ordered");
    let simple = raw.snapshot(SIMPLE, "simple");
    let head = raw.snapshot(HEAD_OF_QUEUE, "head");
    let first = raw.next();
    assert_eq!((first.kind(), first.header[3]), ((SCSI, head), 0));
    assert!(raw.is_quiet(), "all others wait");
    raw.answer(&asked, &data);
    for tag in [written, ordered, simple] {
        let ended = raw.next();
        assert_eq!((ended.kind(), ended.header[3]), ((SCSI, tag), 0));
    }
    assert!(lab.bytes("disk@head", 0, 4096) == [0; 4096]);
    assert!(lab.bytes("disk@ordered", 0, 4096) == data);
    assert!(lab.bytes("disk@simple", 0, 4096) == data);
}

#[test]
fn a_task_that_is_aborted_is_waited_for_and_not_answered() {
    let (lab, held) = held();
    let mut raw = Raw::session(&lab, "a", "disk");
    let written = raw.command(SIMPLE, 0x20, &ten(0x2a, 0, 8), 4096, &[]);
    let asked = raw.next();
    let task = raw.snapshot(SIMPLE, "s");
    held.wait_for(1);
    let unknown = raw.manage(ABORT_TASK, 77);
    let answer = raw.next();
    assert_eq!((answer.kind(), answer.header[2]), ((MANAGED, unknown), 1));
    let aborting = raw.manage(ABORT_TASK, task);
    assert!(raw.is_quiet(), "what is being done is waited for");
    held.let_go();
    let answer = raw.next();
    assert_eq!((answer.kind(), answer.header[2]), ((MANAGED, aborting), 0));
    raw.ping();
    // The other is as it was.
    raw.answer(&asked, &[1; 4096]);
    let ended = raw.next();
    assert_eq!((ended.kind(), ended.header[3]), ((SCSI, written), 0));
}

#[test]
fn data_of_a_task_set_that_was_aborted_are_not_written() {
    let lab = Lab::new();
    let mut raw = Raw::session(&lab, "a", "disk");
    raw.command(SIMPLE, 0x20, &ten(0x2a, 0, 8), 4096, &[]);
    let asked = raw.next();
    let aborting = raw.manage(ABORT_TASK_SET, NO_TAG);
    let answer = raw.next();
    assert_eq!((answer.kind(), answer.header[2]), ((MANAGED, aborting), 0));
    raw.answer(&asked, &[1; 4096]);
    raw.ping();
    assert!(lab.bytes("disk", 0, 4096) == [0; 4096]);
}

#[test]
fn a_reset_gives_up_what_other_sessions_have_under_way() {
    let (lab, held) = held();
    let mut a = Raw::session(&lab, "a", "disk");
    let mut b = lab.session("b", "disk");
    // Sense data as descriptors: that ends with a reset too.
    let list = [
        0, 0, 0, 0, 0x0a, 10, 0x24, 0x10, 0, 0, 0, 0, 0xff, 0xff, 0, 0,
    ];
    let select = [0x15, 0x10, 0, 0, 16, 0];
    good(&b.command(&select, Transfer::Out(&list)).unwrap());
    a.settle();
    let mut b = Raw::over(b.socket().try_clone().unwrap());
    a.snapshot(SIMPLE, "s");
    held.wait_for(1);
    let reset = b.manage(RESET, NO_TAG);
    assert!(b.is_quiet(), "what is being done is waited for");
    held.let_go();
    let answer = b.next();
    assert_eq!((answer.kind(), answer.header[2]), ((MANAGED, reset), 0));
    a.ping();
    a.command(SIMPLE, 0, &[0; 6], 0, &[]);
    let told = a.next();
    let sense = &told.data[2..];
    assert_eq!(
        (sense[0], sense[2], sense[12], sense[13]),
        (0x70, 6, 0x29, 3)
    );
}

#[test]
fn a_cold_reset_ends_all_sessions_of_its_target() {
    let lab = Lab::new();
    lab.engine.create(new_disk("other", 1 << 20)).unwrap();
    let mut a = Raw::session(&lab, "a", "disk");
    let (mut b, mut other) = (
        Raw::session(&lab, "b", "disk"),
        Raw::session(&lab, "c", "other"),
    );
    // A warm one does not.
    let warm = a.manage(WARM_RESET, NO_TAG);
    let answer = a.next();
    assert_eq!((answer.kind(), answer.header[2]), ((MANAGED, warm), 0));
    b.ping();
    let cold = a.manage(COLD_RESET, NO_TAG);
    let answer = a.next();
    assert_eq!((answer.kind(), answer.header[2]), ((MANAGED, cold), 0));
    for ended in [&mut a, &mut b] {
        assert_eq!(ended.socket.read(&mut [0]).unwrap(), 0, "the end");
    }
    other.ping();
    drop(Raw::session(&lab, "a", "disk"));
}

#[test]
fn a_port_that_comes_back_waits_for_what_it_had_under_way() {
    let (lab, held) = held();
    let mut old = Raw::session(&lab, "a", "disk");
    old.snapshot(SIMPLE, "s");
    held.wait_for(1);
    std::thread::scope(|scope| {
        let new = scope.spawn(|| Initiator::log_in(lab.portal, &identity("a", "disk")));
        std::thread::sleep(QUIET);
        let is_early = new.is_finished();
        held.let_go();
        settle(&mut new.join().unwrap().unwrap());
        assert!(!is_early);
    });
    lab.node("disk@s");
}

#[test]
fn who_preempts_and_aborts_waits_for_what_is_aborted() {
    let (lab, held) = held();
    let (mut a, mut b) = (
        Raw::session(&lab, "a", "disk"),
        Raw::session(&lab, "b", "disk"),
    );
    let reserve = |raw: &mut Raw, action: u8, key: u8, new: u8| {
        let mut list = [0; 24];
        (list[7], list[15]) = (key, new);
        let cdb = [0x5f, action, 1, 0, 0, 0, 0, 0, 24, 0];
        raw.command(SIMPLE, 0x20, &cdb, 24, &list)
    };
    for (raw, key) in [(&mut a, 1), (&mut b, 2)] {
        let tag = reserve(raw, 0, 0, key);
        let ended = raw.next();
        assert_eq!((ended.kind(), ended.header[3]), ((SCSI, tag), 0));
    }
    a.snapshot(SIMPLE, "s");
    held.wait_for(1);
    let preempting = reserve(&mut b, 5, 2, 1);
    assert!(b.is_quiet(), "what is being done is waited for");
    held.let_go();
    let ended = b.next();
    assert_eq!((ended.kind(), ended.header[3]), ((SCSI, preempting), 0));
    // Its task is not answered; it is told why.
    a.ping();
    a.command(SIMPLE, 0, &[0; 6], 0, &[]);
    let told = a.next();
    assert_eq!((told.data[4], told.data[14], told.data[15]), (6, 0x2a, 5));
}

#[test]
fn commands_outside_of_the_window_are_passed_over() {
    let lab = Lab::new();
    let mut raw = Raw::session(&lab, "a", "disk");
    let one = ten(0x2a, 0, 1);
    for far in [1000, 1 << 30, u32::MAX] {
        let cmd_sn = raw.cmd_sn.wrapping_add(far);
        raw.numbered(cmd_sn, SIMPLE, &[0; 6], 0, &[]);
        raw.ping();
    }
    let asked: Vec<Pdu> = (0..128)
        .map(|_| {
            let tag = raw.command(SIMPLE, 0x20, &one, 512, &[]);
            let asked = raw.next();
            assert_eq!(asked.kind(), (R2T, tag));
            asked
        })
        .collect();
    let shown = raw.ping();
    let (expected, most) = (shown.u32(28), shown.u32(32));
    assert_eq!((expected, most), (raw.cmd_sn, raw.cmd_sn - 1), "full");
    raw.numbered(expected, SIMPLE | 0x20, &one, 512, &[]);
    raw.ping();
    raw.answer(&asked[0], &[1; 512]);
    let ended = raw.next();
    assert_eq!(ended.opcode(), SCSI);
    assert_eq!((ended.u32(28), ended.u32(32)), (expected, expected));
    let tag = raw.command(SIMPLE, 0x20, &one, 512, &[]);
    assert_eq!(raw.next().kind(), (R2T, tag));
}

#[test]
fn writes_whose_data_come_in_share_so_much_memory() {
    let lab = Lab::new();
    let mut raw = Raw::session(&lab, "a", "disk");
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..40 {
        raw.command(SIMPLE, 0x20, &ten(0x2a, 0, 2048), 1 << 20, &[]);
        let answer = raw.next();
        match (answer.opcode(), answer.header[3]) {
            (R2T, _) => taken += 1,
            (SCSI, 0x28) => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((taken, refused), (16, 24), "TASK SET FULL");
    let mut another = Raw::session(&lab, "b", "disk");
    for _ in 0..16 {
        let tag = another.command(SIMPLE, 0x20, &ten(0x2a, 0, 2048), 1 << 20, &[]);
        assert_eq!(another.next().kind(), (R2T, tag));
    }
    // Nothing is left; and all others get on, one command at a time.
    let mut other = lab.session("c", "disk");
    let data = noise(3, 1 << 20);
    for _ in 0..20 {
        good(&write(&mut other, 0, &data));
    }
    assert!(read(&mut other, 0, 2048) == data);
}

/// Immediate commands have no window: so there are few of them, and the others are rejected.
#[test]
fn immediate_commands_are_few() {
    let lab = Lab::new();
    let mut raw = Raw::session(&lab, "a", "disk");
    let mut answers = Vec::new();
    for tag in 1..=20u32 {
        let numbers = raw.cmd_sn.to_be_bytes();
        let fields: [(usize, &[u8]); 6] = [
            (0, &[0x41]),
            (1, &[0xa1]),
            (16, &tag.to_be_bytes()),
            (20, &512u32.to_be_bytes()),
            (24, &numbers),
            (32, &ten(0x2a, 0, 1)),
        ];
        raw.send(&fields, &[]);
        let answer = raw.next();
        answers.push((answer.opcode(), answer.header[2]));
    }
    assert!(
        answers[..8].iter().all(|answer| answer.0 == R2T),
        "{answers:?}"
    );
    // Reject, with the reason of RFC 7143, section 11.17.1.
    assert!(
        answers[8..].iter().all(|answer| *answer == (0x3f, 0x06)),
        "{answers:?}"
    );
}

/// Data that were asked for have their time; but not those of a task that another initiator's reset gave up.
#[test]
fn data_that_do_not_come_end_their_session_unless_they_were_given_up() {
    let lab = impatient();
    let begin = |raw: &mut Raw| {
        let tag = raw.command(SIMPLE, 0x20, &ten(0x2a, 0, 64), 64 * 512, &[]);
        assert_eq!(raw.next().kind(), (R2T, tag));
    };
    let mut given_up = Raw::session(&lab, "a", "disk");
    begin(&mut given_up);
    lab.session("b", "disk").reset().unwrap();
    let mut late = Raw::session(&lab, "c", "disk");
    begin(&mut late);
    let mut pretends = Raw::session(&lab, "d", "disk");
    begin(&mut pretends);
    for n in 0..8u32 {
        std::thread::sleep(Duration::from_millis(500));
        given_up.ping();
        // Data of no task are none; the last few come after its end.
        let fields: [(usize, &[u8]); 3] =
            [(0, &[0x05]), (1, &[0x80]), (16, &(77 + n).to_be_bytes())];
        if n < 4 {
            pretends.send(&fields, &[]);
        }
    }
    given_up.settle();
    for ended in [&mut late, &mut pretends] {
        let rejected = ended.next();
        assert_eq!((rejected.opcode(), rejected.header[2]), (0x3f, 0x04));
        assert_eq!(ended.socket.read(&mut [0]).unwrap(), 0, "its end");
    }
}

/// On a slow link what asks for data may be behind much else.
#[test]
fn data_are_not_late_that_were_not_asked_for_yet() {
    let lab = impatient();
    let mut raw = Raw::session(&lab, "a", "disk");
    let small = rustix::net::sockopt::set_socket_recv_buffer_size(&raw.socket, 64 << 10);
    small.unwrap();
    let read = |raw: &mut Raw| raw.command(SIMPLE, 0x40, &ten(0x28, 0, 2048), 1 << 20, &[]);
    let reads = [0; 8].map(|_| read(&mut raw));
    let written = raw.command(SIMPLE, 0x20, &ten(0x2a, 0, 8), 4096, &[]);
    for _ in 0..8 {
        // Each makes the target look.
        std::thread::sleep(Duration::from_millis(500));
        raw.command(SIMPLE, 0, &[0; 6], 0, &[]);
    }
    let (mut ended, mut left) = (false, reads.len() + 8);
    while !ended || left > 0 {
        let pdu = raw.next();
        match pdu.opcode() {
            R2T => raw.answer(&pdu, &[1; 4096]),
            SCSI if pdu.u32(16) == written => ended = pdu.header[3] == 0,
            SCSI => left -= 1,
            DATA_IN => left -= usize::from(pdu.header[1] & 1),
            other => panic!("{other:x}h"),
        }
    }
    assert!(lab.bytes("disk", 0, 4096) == [1; 4096]);
}

/// On a slow link the data of the last of many commands take long: that some come is enough.
#[test]
fn data_may_take_long_while_others_come() {
    let lab = impatient();
    let mut raw = Raw::session(&lab, "a", "disk");
    let data = noise(1, 8 * 512);
    let (first, last) = (
        raw.command(SIMPLE, 0x20, &ten(0x2a, 0, 8), 8 * 512, &[]),
        raw.command(SIMPLE, 0x20, &ten(0x2a, 8, 8), 8 * 512, &[]),
    );
    let (asked, then) = (raw.next(), raw.next());
    assert_eq!((asked.kind(), then.kind()), ((R2T, first), (R2T, last)));
    for (n, piece) in (0u32..).zip(data.chunks(512)) {
        std::thread::sleep(Duration::from_millis(600));
        let fields: [(usize, &[u8]); 6] = [
            (0, &[0x05]),
            (1, &[if n == 7 { 0x80 } else { 0 }]),
            (16, &asked.header[16..20]),
            (20, &asked.header[20..24]),
            (36, &n.to_be_bytes()),
            (40, &(n * 512).to_be_bytes()),
        ];
        raw.send(&fields, piece);
    }
    assert_eq!(raw.next().kind(), (SCSI, first));
    raw.answer(&then, &data);
    assert_eq!(raw.next().kind(), (SCSI, last));
    assert!(lab.bytes("disk", 0, 8192) == [&data[..], &data[..]].concat());
}

/// Direction, command, bytes that are expected, and data; flag and status, and residual.
type Case<'a> = (u8, &'a [u8], usize, &'a [u8], (u8, u8), u32);

#[test]
fn what_was_not_moved_is_counted() {
    let lab = Lab::new();
    let mut raw = Raw::session(&lab, "a", "disk");
    const UNDER: (u8, u8) = (0x02, 0);
    const OVER: (u8, u8) = (0x04, 0);
    let none = (0, 0);
    let (one, out, into) = (ten(0x28, 0, 1), ten(0x2a, 0, 1), ten(0x2a, 0, 2));
    let sent = [1; 1024];
    let cases: [Case<'_>; 7] = [
        (0x40, &one, 4096, &[], UNDER, 3584),
        (0x40, &one, 256, &[], OVER, 256),
        (0x40, &one, 512, &[], none, 0),
        (0x40, &[0x12, 0, 0, 0, 4, 0], 4096, &[], UNDER, 4092),
        (0x40, &[0; 6], 100, &[], UNDER, 100),
        (0x20, &out, 1024, &sent, UNDER, 512),
        (0x20, &into, 512, &sent[..512], OVER, 512),
    ];
    for (direction, cdb, expected, data, (flag, status), residual) in cases {
        raw.command(SIMPLE, direction, cdb, expected, data);
        let ended = raw.next();
        let what = format!("{cdb:02x?} {expected}");
        assert!(matches!(ended.opcode(), SCSI | DATA_IN), "{what}");
        assert_eq!(
            (ended.header[1] & 0x06, ended.header[3]),
            (flag, status),
            "{what}"
        );
        assert_eq!(ended.u32(44), residual, "{what}");
    }
}

#[test]
fn pieces_are_numbered() {
    let lab = Lab::new();
    lab.engine.create(new_disk("other", 64 << 20)).unwrap();
    let mut raw = Raw::session(&lab, "a", "disk");
    raw.command(SIMPLE, 0x40, &ten(0x28, 0, 2048), 1 << 20, &[]);
    for n in 0..4 {
        let piece = raw.next();
        assert_eq!(piece.opcode(), DATA_IN);
        assert_eq!((piece.u32(36), piece.u32(40)), (n, n << 18));
        assert_eq!(
            piece.header[1] & 0x81 == 0x81,
            n == 3,
            "the last has the status"
        );
    }
    // With bursts of 64 KiB a write needs several R2Ts.
    let mut raw = Raw::connect(lab.portal);
    let target = target_name(STORE, "other").unwrap();
    let said = [
        ("InitiatorName", "iqn.2026-11.test:b"),
        ("SessionType", "Normal"),
        ("TargetName", &target),
        ("MaxBurstLength", "65536"),
        ("FirstBurstLength", "65536"),
    ];
    raw.log_in(0x87, &said).unwrap();
    raw.settle();
    let data = noise(4, 256 << 10);
    raw.command(SIMPLE, 0x20, &ten(0x2a, 0, 512), 256 << 10, &[]);
    for n in 0..4 {
        let asked = raw.next();
        assert_eq!(asked.opcode(), R2T);
        let fields = [36, 40, 44].map(|at| asked.u32(at));
        assert_eq!(fields, [n, n << 16, 1 << 16]);
        raw.answer(&asked, &data);
    }
    assert_eq!(raw.next().header[3], 0);
    assert!(lab.bytes("other", 0, 256 << 10) == data);
}
