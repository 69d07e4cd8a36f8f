//! What the iSCSI target promises, PDU by PDU: the order of tasks, how they are given up, the window of
//! commands, what is durable, and that nobody gets in past CHAP.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::engine::{Engine, Shape};
use common::iscsi::{
    Lab, STORE, good, identity, options, read, secrets, sense, settle, ten, write,
};
use common::model::new_disk;
use common::{noise, wait_until};
use parking_lot::{Condvar, Mutex};
use snapmark::config::{Account, Secret};
use snapmark::control::{CommandError, Commands, Control};
use snapmark::frontend::iscsi::{
    Identity, Initiator, IscsiOptions, IscsiTarget, Transfer, snapshot_cdb, target_name,
};

/// How long nothing comes where nothing is to come.
const QUIET: Duration = Duration::from_millis(300);
/// Task attributes.
const SIMPLE: u8 = 1;
const ORDERED: u8 = 2;
const HEAD_OF_QUEUE: u8 = 3;
/// Task management functions.
const ABORT_TASK: u8 = 1;
const ABORT_TASK_SET: u8 = 2;
const RESET: u8 = 5;
/// What comes from a target.
const NOP_IN: u8 = 0x20;
const SCSI: u8 = 0x21;
const MANAGED: u8 = 0x22;
const LOGIN: u8 = 0x23;
const TEXT: u8 = 0x24;
const DATA_IN: u8 = 0x25;
const R2T: u8 = 0x31;

const NO_TAG: u32 = u32::MAX;

/// What came.
struct Pdu {
    header: [u8; 48],
    data: Vec<u8>,
}

impl Pdu {
    fn u32(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.header[at..at + 4].try_into().unwrap())
    }

    fn opcode(&self) -> u8 {
        self.header[0] & 0x3f
    }

    /// What it is, and what it answers.
    fn kind(&self) -> (u8, u32) {
        (self.opcode(), self.u32(16))
    }
}

/// A session whose PDUs a test makes itself.
struct Raw {
    socket: TcpStream,
    cmd_sn: u32,
    tag: u32,
}

impl Raw {
    fn over(socket: TcpStream) -> Self {
        let patience = Some(Duration::from_secs(30));
        socket.set_read_timeout(patience).unwrap();
        socket.set_nodelay(true).unwrap();
        Self {
            socket,
            cmd_sn: 1,
            tag: 1000,
        }
    }

    fn connect(portal: SocketAddr) -> Self {
        Self::over(TcpStream::connect(portal).unwrap())
    }

    /// A session that has been told all there was to tell.
    fn session(lab: &Lab, initiator: &str, file: &str) -> Self {
        let who = identity(initiator, file);
        let session = Initiator::log_in(lab.portal, &who).unwrap();
        let mut raw = Self::over(session.socket().try_clone().unwrap());
        drop(session);
        raw.settle();
        raw
    }

    fn settle(&mut self) {
        loop {
            let tag = self.command(SIMPLE, 0, &[0; 6], 0, &[]);
            let answer = self.next();
            assert_eq!(answer.kind(), (SCSI, tag));
            if answer.header[3] == 0 {
                return;
            }
        }
    }

    fn send(&mut self, fields: &[(usize, &[u8])], data: &[u8]) {
        let mut pdu = vec![0; 48];
        for (at, bytes) in fields {
            pdu[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        pdu[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
        pdu.extend_from_slice(data);
        pdu.resize(pdu.len().next_multiple_of(4), 0);
        self.socket.write_all(&pdu).unwrap();
    }

    /// A command of this number. `direction` is 40h for what comes back, 20h for what is sent.
    fn numbered(
        &mut self,
        cmd_sn: u32,
        flags: u8,
        cdb: &[u8],
        expected: usize,
        data: &[u8],
    ) -> u32 {
        self.tag += 1;
        let tag = self.tag;
        let fields: [(usize, &[u8]); 6] = [
            (0, &[0x01]),
            (1, &[0x80 | flags]),
            (16, &tag.to_be_bytes()),
            (20, &(expected as u32).to_be_bytes()),
            (24, &cmd_sn.to_be_bytes()),
            (32, cdb),
        ];
        self.send(&fields, data);
        tag
    }

    fn command(
        &mut self,
        attribute: u8,
        direction: u8,
        cdb: &[u8],
        expected: usize,
        data: &[u8],
    ) -> u32 {
        let cmd_sn = self.cmd_sn;
        self.cmd_sn += 1;
        self.numbered(cmd_sn, attribute | direction, cdb, expected, data)
    }

    fn snapshot(&mut self, attribute: u8, name: &str) -> u32 {
        let cdb = snapshot_cdb(name, false, false).unwrap();
        self.command(attribute, 0x20, &cdb, name.len(), name.as_bytes())
    }

    /// A task management function, at once.
    fn manage(&mut self, function: u8, task: u32) -> u32 {
        self.tag += 1;
        let (tag, cmd_sn) = (self.tag, self.cmd_sn);
        let fields: [(usize, &[u8]); 5] = [
            (0, &[0x42]),
            (1, &[0x80 | function]),
            (16, &tag.to_be_bytes()),
            (20, &task.to_be_bytes()),
            (24, &cmd_sn.to_be_bytes()),
        ];
        self.send(&fields, &[]);
        tag
    }

    /// Asks for a sign of life, at once, and sees that it is what comes next.
    #[track_caller]
    fn ping(&mut self) -> Pdu {
        self.tag += 1;
        let (tag, cmd_sn) = (self.tag, self.cmd_sn);
        let fields: [(usize, &[u8]); 5] = [
            (0, &[0x40]),
            (1, &[0x80]),
            (16, &tag.to_be_bytes()),
            (20, &NO_TAG.to_be_bytes()),
            (24, &cmd_sn.to_be_bytes()),
        ];
        self.send(&fields, &[]);
        let answer = self.next();
        assert_eq!(answer.kind(), (NOP_IN, tag));
        answer
    }

    /// All that an R2T asks for.
    fn answer(&mut self, asked: &Pdu, all: &[u8]) {
        let (from, len) = (asked.u32(40) as usize, asked.u32(44) as usize);
        let mut at = from;
        for (n, piece) in (0u32..).zip(all[from..from + len].chunks(128 << 10)) {
            let is_last = at + piece.len() == from + len;
            let fields: [(usize, &[u8]); 6] = [
                (0, &[0x05]),
                (1, &[if is_last { 0x80 } else { 0 }]),
                (16, &asked.header[16..20]),
                (20, &asked.header[20..24]),
                (36, &n.to_be_bytes()),
                (40, &(at as u32).to_be_bytes()),
            ];
            self.send(&fields, piece);
            at += piece.len();
        }
    }

    #[track_caller]
    fn next(&mut self) -> Pdu {
        let mut header = [0; 48];
        self.socket.read_exact(&mut header).unwrap();
        let len = u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize;
        let mut data = vec![0; len.next_multiple_of(4)];
        self.socket.read_exact(&mut data).unwrap();
        data.truncate(len);
        Pdu { header, data }
    }

    /// Whether nothing comes for a while.
    fn is_quiet(&self) -> bool {
        self.socket.set_read_timeout(Some(QUIET)).unwrap();
        let came = self.socket.peek(&mut [0]);
        let patience = Some(Duration::from_secs(30));
        self.socket.set_read_timeout(patience).unwrap();
        came.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    /// A step of a login; `flags` are its stages. The answer, or the status where it failed.
    fn log_in(&mut self, flags: u8, said: &[(&str, &str)]) -> Result<Pdu, (u8, u8)> {
        let text: String = said
            .iter()
            .map(|(key, value)| format!("{key}={value}\0"))
            .collect();
        let fields: [(usize, &[u8]); 3] = [(0, &[0x43]), (1, &[flags]), (24, &[0, 0, 0, 1])];
        self.send(&fields, text.as_bytes());
        let answer = self.next();
        assert_eq!(answer.opcode(), LOGIN);
        match (answer.header[36], answer.header[37]) {
            (0, 0) => Ok(answer),
            status => Err(status),
        }
    }
}

/// Commands of a store whose snapshots wait until they are let go.
struct Held {
    inner: Control,
    /// How many are there, and whether they are let go.
    state: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl Held {
    fn wait_for(&self, count: usize) {
        wait_until("the snapshot has begun", || self.state.lock().0 == count);
    }

    fn let_go(&self) {
        self.state.lock().1 = true;
        self.changed.notify_all();
    }
}

impl Commands for Held {
    fn execute(&self, line: &str) -> Result<String, CommandError> {
        self.inner.execute(line)
    }

    fn snapshot(
        &self,
        disks: &[String],
        name: Option<&str>,
        durable: bool,
    ) -> Result<String, CommandError> {
        let mut state = self.state.lock();
        state.0 += 1;
        while !state.1 {
            let waited = self.changed.wait_for(&mut state, Duration::from_secs(60));
            assert!(!waited.timed_out(), "never let go");
        }
        drop(state);
        self.inner.snapshot(disks, name, durable)
    }

    fn refused(&self, line: &str, why: &CommandError) {
        self.inner.refused(line, why);
    }

    fn history(&self) -> String {
        self.inner.history()
    }

    fn stats(&self) -> String {
        self.inner.stats()
    }

    fn status(&self) -> String {
        self.inner.status()
    }
}

/// A target whose snapshots wait.
fn held() -> (Lab, Arc<Held>) {
    let engine = Engine::new(Shape::default());
    engine.create(new_disk("disk", 64 << 20)).unwrap();
    let held = Arc::new(Held {
        inner: Control::new(Arc::clone(&engine.volumes)),
        state: Mutex::default(),
        changed: Condvar::new(),
    });
    let commands: Arc<dyn Commands> = held.clone();
    let target = IscsiTarget::start(Arc::clone(&engine.volumes), commands, options()).unwrap();
    let portal = target.addresses().next().unwrap();
    let lab = Lab {
        target: Some(target),
        portal,
        engine,
    };
    (lab, held)
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

/// Who may not log in learns nothing of what there is.
#[test]
fn targets_are_looked_up_for_those_who_proved_who_they_are() {
    let lab = guarded();
    for file in ["disk", "none"] {
        let target = target_name(STORE, file).unwrap();
        let said = [
            ("InitiatorName", "iqn.2026-11.test:a"),
            ("SessionType", "Normal"),
            ("TargetName", &*target),
            ("AuthMethod", "CHAP"),
        ];
        let answer = Raw::connect(lab.portal).log_in(0, &said);
        assert!(answer.is_ok(), "{file}: it goes on");
    }
    for name in [
        "iqn.2026-11.test:a\n[ERROR] forged",
        "somebody",
        "iqn.",
        &"iqn.".repeat(60),
    ] {
        let said = [
            ("InitiatorName", name),
            ("SessionType", "Discovery"),
            ("AuthMethod", "CHAP"),
        ];
        let answer = Raw::connect(lab.portal).log_in(0, &said);
        assert_eq!(answer.err(), Some((2, 0)), "{name}");
    }
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

fn guarded() -> Lab {
    let secrets = secrets("initiators: [{user: alice, secret: correct horse battery}]");
    let options = IscsiOptions {
        secrets,
        ..options()
    };
    Lab::with(options, Shape::default())
}

/// Of connections that do not log in, so many are kept and no more: the oldest goes at once, not when its
/// time is over.
#[test]
fn so_many_connections_that_do_not_log_in_are_kept() {
    let lab = Lab::new();
    let silent: Vec<Raw> = (0..80).map(|_| Raw::connect(lab.portal)).collect();
    let is_open = |raw: &Raw| raw.is_quiet();
    let started = Instant::now();
    wait_until("the oldest are gone", || {
        silent[..16].iter().all(|raw| !is_open(raw))
    });
    assert!(silent[16..20].iter().chain(&silent[76..]).all(is_open));
    assert!(started.elapsed() < Duration::from_secs(12));
}

/// CHAP has steps; none can be left out.
#[test]
fn there_is_no_way_around_the_secret() {
    let lab = guarded();
    let target = target_name(STORE, "disk").unwrap();
    let who = [
        ("InitiatorName", "iqn.2026-11.test:a"),
        ("SessionType", "Normal"),
        ("TargetName", &target),
    ];
    let with = |more: &[(&'static str, &'static str)]| {
        let all = who.iter().copied();
        all.chain(more.iter().copied()).collect::<Vec<_>>()
    };
    let chap = with(&[("AuthMethod", "CHAP")]);
    let goes_on = |answer: &Pdu| answer.header[1] & 0x80 != 0;

    // The security stage left out, or ended before it began.
    assert_eq!(
        Raw::connect(lab.portal).log_in(0x87, &who).err(),
        Some((2, 1))
    );
    assert_eq!(
        Raw::connect(lab.portal).log_in(0x83, &who).err(),
        Some((2, 1))
    );
    let none = with(&[("AuthMethod", "None")]);
    assert_eq!(
        Raw::connect(lab.portal).log_in(0x81, &none).err(),
        Some((2, 1))
    );

    // With CHAP chosen, and then nothing of it, or a challenge that is not answered.
    let names: [&[(&str, &str)]; 2] = [&[], &[("CHAP_A", "5")]];
    for step in names {
        let mut raw = Raw::connect(lab.portal);
        assert!(!goes_on(&raw.log_in(0x81, &chap).unwrap()));
        assert!(!goes_on(&raw.log_in(0x81, step).unwrap()));
        let on = raw.log_in(0x87, &[("HeaderDigest", "None")]);
        assert_eq!(on.err().map(|(class, _)| class), Some(2));
    }
}

#[test]
fn secrets_cannot_be_tried_out_fast() {
    let lab = guarded();
    let account = Account {
        user: "alice".to_owned(),
        secret: Secret::new("wrong horse battery"),
        initiator: None,
    };
    let who = Identity {
        account: Some(account),
        ..identity("a", "disk")
    };
    let started = Instant::now();
    assert!(Initiator::log_in(lab.portal, &who).is_err());
    assert!(started.elapsed() >= Duration::from_millis(500));
}

#[test]
fn what_was_deleted_is_no_target_any_more() {
    let lab = Lab::new();
    lab.engine.create(new_disk("other", 1 << 20)).unwrap();
    lab.engine.snapshot(&["disk"], Some("s"), true).unwrap();
    let listed = || {
        let who = Identity {
            target: None,
            ..identity("a", "disk")
        };
        let mut session = Initiator::log_in(lab.portal, &who).unwrap();
        let targets = session.targets().unwrap();
        targets
            .into_iter()
            .map(|(name, _)| name)
            .collect::<Vec<_>>()
    };
    let name = |file: &str| target_name(STORE, file).unwrap();
    assert_eq!(listed(), [name("disk"), name("disk@s"), name("other")]);
    for file in ["other", "disk@s"] {
        let control = Control::new(Arc::clone(&lab.engine.volumes));
        control.execute(&format!("delete {file}")).unwrap();
    }
    assert_eq!(listed(), [name("disk")]);
    let gone = Initiator::log_in(lab.portal, &identity("a", "other"));
    assert!(gone.is_err());
}

#[test]
fn text_that_is_too_long_ends_a_session() {
    let lab = Lab::new();
    let key = "X".repeat(64);
    let mut raw = Raw::connect(lab.portal);
    assert_eq!(raw.log_in(0x87, &[(&key, "1")]).err(), Some((2, 0)));
    let key = "X".repeat(63);
    let target = target_name(STORE, "disk").unwrap();
    let said = [
        ("InitiatorName", "iqn.2026-11.test:a"),
        ("TargetName", &*target),
        (&key, "1"),
    ];
    let answer = raw_login(&lab, &said);
    let text = String::from_utf8(answer.data).unwrap();
    assert!(text.contains(&format!("{key}=NotUnderstood\0")), "{text}");

    // In a login too.
    let mut raw = Raw::connect(lab.portal);
    let step = |raw: &mut Raw| {
        raw.send(&[(0, &[0x43]), (1, &[0x44])], &[b'x'; 4096]);
        raw.next().header[36]
    };
    assert_eq!([0; 5].map(|_| step(&mut raw)), [0, 0, 0, 0, 2]);

    let mut raw = Raw::session(&lab, "b", "disk");
    let mut texts = 0u32;
    loop {
        let (tag, cmd_sn) = (5000 + texts, raw.cmd_sn);
        let fields: [(usize, &[u8]); 5] = [
            (0, &[0x44]),
            (1, &[0x40]),
            (16, &tag.to_be_bytes()),
            (20, &NO_TAG.to_be_bytes()),
            (24, &cmd_sn.to_be_bytes()),
        ];
        raw.send(&fields, &[b'x'; 4096]);
        let answer = raw.next();
        if answer.opcode() != TEXT {
            assert_eq!((answer.opcode(), answer.header[2]), (0x3f, 9));
            break;
        }
        texts += 1;
        assert!(texts <= 4, "16 KiB are allowed");
    }
}

fn raw_login(lab: &Lab, said: &[(&str, &str)]) -> Pdu {
    Raw::connect(lab.portal).log_in(0x87, said).unwrap()
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

/// Data that were asked for have their time; but not those of a task that another initiator's reset gave up.
#[test]
fn data_that_do_not_come_end_their_session_unless_they_were_given_up() {
    let lab = Lab::with(
        IscsiOptions {
            data_patience: Duration::from_secs(2),
            ..options()
        },
        Shape::default(),
    );
    let begin = |raw: &mut Raw| {
        let tag = raw.command(SIMPLE, 0x20, &ten(0x2a, 0, 64), 64 * 512, &[]);
        assert_eq!(raw.next().kind(), (R2T, tag));
    };
    let mut given_up = Raw::session(&lab, "a", "disk");
    begin(&mut given_up);
    lab.session("b", "disk").reset().unwrap();
    let mut late = Raw::session(&lab, "c", "disk");
    begin(&mut late);
    for _ in 0..8 {
        std::thread::sleep(Duration::from_millis(500));
        given_up.ping();
    }
    given_up.settle();
    let rejected = late.next();
    assert_eq!((rejected.opcode(), rejected.header[2]), (0x3f, 0x04));
    assert_eq!(late.socket.read(&mut [0]).unwrap(), 0, "its end");
}
