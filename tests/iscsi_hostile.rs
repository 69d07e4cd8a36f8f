//! Initiators that send nonsense, too much, or nothing: their session ends, and nobody else notices.
//!
//! `SNAPMARK_SEED=N` runs one seed, `SNAPMARK_ROUNDS=N` as many more.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use common::engine::Shape;
use common::iscsi::{Lab, good, identity, options, read, served, session_at, settle, ten, write};
use common::{Random, TestStore, seeds};
use snapmark::frontend::iscsi::{Identity, Initiator, InitiatorError, IscsiOptions, Transfer};

/// A session that is served all the time, whatever others do. Fails where an answer takes long.
fn undisturbed(lab: &Lab, others: impl FnOnce()) {
    let over = AtomicBool::new(false);
    // It has logged in before the others come: of the connections that have not, the oldest may go.
    let mut session = lab.session("well", "disk");
    session.set_patience(Duration::from_secs(20));
    std::thread::scope(|scope| {
        let well = scope.spawn(|| {
            let mut rounds = 0u32;
            while !over.load(SeqCst) || rounds < 10 {
                let data = [rounds as u8; 4096];
                good(&write(&mut session, 80_000, &data));
                assert!(read(&mut session, 80_000, 8) == data);
                rounds += 1;
            }
        });
        others();
        over.store(true, SeqCst);
        well.join().unwrap();
    });
}

fn raw(lab: &Lab) -> TcpStream {
    let socket = TcpStream::connect(lab.portal).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    socket
}

/// A header with these bytes at these places.
fn header(fields: &[(usize, &[u8])]) -> [u8; 48] {
    let mut header = [0; 48];
    for (at, bytes) in fields {
        header[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    header
}

/// Whether the other side has closed the connection; what it sent before is passed over.
fn is_closed(socket: &mut TcpStream) -> bool {
    let mut bytes = [0; 4096];
    loop {
        match socket.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

#[test]
fn noise_ends_a_connection() {
    let lab = Lab::new();
    undisturbed(&lab, || {
        for seed in seeds(60) {
            let mut random = Random(seed);
            let mut socket = raw(&lab);
            let mut bytes = common::noise(seed, 48 + random.below(3000) as usize);
            // Some of it looks like a login.
            if random.chance(2) {
                (bytes[0], bytes[1]) = (0x43, 0x87);
                bytes[4..8].copy_from_slice(&[0, 0, random.below(8) as u8, 0]);
            }
            let _ = socket.write_all(&bytes);
            let _ = socket.shutdown(std::net::Shutdown::Write);
            assert!(is_closed(&mut socket), "seed {seed}");
        }
    });
}

#[test]
fn nonsense_in_a_session_ends_it() {
    let lab = Lab::new();
    undisturbed(&lab, || {
        for seed in seeds(150) {
            let mut random = Random(seed);
            let session = lab.session("odd", "disk");
            let mut socket = session.socket().try_clone().unwrap();
            socket
                .set_read_timeout(Some(Duration::from_secs(30)))
                .unwrap();
            // PDUs that look right but for a few bytes.
            for _ in 0..1 + random.below(6) {
                let opcodes = [0x00, 0x01, 0x02, 0x04, 0x05, 0x06, 0x10, 0x1f, 0x3f];
                let opcode = *random.pick(&opcodes).unwrap();
                let mut pdu = common::noise(random.below(1 << 40), 48);
                pdu[0] = opcode | if random.chance(2) { 0x40 } else { 0 };
                let len = if random.chance(3) {
                    random.below(600) as usize
                } else {
                    0
                };
                pdu[4] = if random.chance(8) { 1 } else { 0 };
                pdu[5..8].copy_from_slice(&(len as u32).to_be_bytes()[1..]);
                if random.chance(2) {
                    // To a unit that there is, in order.
                    pdu[8..16].fill(0);
                    pdu[24..28].copy_from_slice(&1u32.to_be_bytes());
                }
                pdu.extend(vec![
                    0x5a;
                    usize::from(pdu[4]) * 4 + len.next_multiple_of(4)
                ]);
                let _ = socket.write_all(&pdu);
            }
            let _ = socket.shutdown(std::net::Shutdown::Write);
            assert!(is_closed(&mut socket), "seed {seed}");
        }
    });
}

/// Sends a PDU in a session and returns the reason for which it was rejected.
fn rejected(lab: &Lab, pdu: &[u8]) -> Option<u8> {
    let session = lab.session("odd", "disk");
    let mut socket = session.socket().try_clone().unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    socket.write_all(pdu).unwrap();
    let mut answer = [0; 96];
    socket.read_exact(&mut answer).ok()?;
    assert_eq!(answer[0], 0x3f, "a Reject");
    assert_eq!(
        answer[48..96],
        pdu[..48],
        "with the header that it is about"
    );
    assert!(is_closed(&mut socket));
    Some(answer[2])
}

#[test]
fn the_reason_is_said_before_a_session_ends() {
    let lab = Lab::new();
    // The next command is the second: TEST UNIT READY was the first, or the first two.
    let order = |ahead: u32| (2 + ahead).to_be_bytes();
    let protocol = Some(0x04);
    assert_eq!(
        rejected(&lab, &header(&[(0, &[0x5f, 0x80])])),
        Some(0x05),
        "no such opcode"
    );
    assert_eq!(
        rejected(&lab, &header(&[(0, &[0x50, 0x80])])),
        Some(0x05),
        "SNACK"
    );
    assert_eq!(
        rejected(&lab, &header(&[(0, &[0x41, 0x84])])),
        Some(0x09),
        "ACA"
    );
    assert_eq!(
        rejected(&lab, &header(&[(0, &[0x43, 0x87])])),
        protocol,
        "a login"
    );
    let left_out = header(&[(0, &[0x01, 0x81]), (24, &order(5))]);
    assert_eq!(
        rejected(&lab, &left_out),
        protocol,
        "a command number left out"
    );
    let too_long = header(&[(0, &[0x40, 0x80]), (5, &[0xff, 0xff, 0xff])]);
    assert_eq!(rejected(&lab, &too_long), protocol, "too much data");
    let mut text = header(&[(0, &[0x44, 0x80]), (7, &[4]), (20, &[0xff; 4])]).to_vec();
    text.extend(b"abcd");
    assert_eq!(rejected(&lab, &text), Some(0x09), "text without a value");
}

#[test]
fn data_out_of_their_sequence_are_not_written() {
    let lab = Lab::new();
    for (data_sn, offset, tag) in [(7u32, 0u32, None), (0, 512, None), (0, 0, Some(99u32))] {
        let mut session = lab.session("odd", "disk");
        let data = vec![1; 512 << 10];
        let task = session
            .start(&ten(0x2a, 0, 1024), Transfer::Out(&data))
            .unwrap();
        session.flush().unwrap();
        let mut socket = session.socket().try_clone().unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let mut r2t = [0; 48];
        socket.read_exact(&mut r2t).unwrap();
        assert_eq!(r2t[0], 0x31, "R2T");
        let from = u32::from_be_bytes(r2t[40..44].try_into().unwrap());
        let tag = tag.map_or(r2t[20..24].to_vec(), |tag| tag.to_be_bytes().to_vec());
        let mut pdu = header(&[
            (0, &[0x05, 0x00]),
            (6, &[2, 0]),
            (16, &task.to_be_bytes()),
            (20, &tag),
            (36, &data_sn.to_be_bytes()),
            (40, &(from + offset).to_be_bytes()),
        ])
        .to_vec();
        pdu.extend([1; 512]);
        socket.write_all(&pdu).unwrap();
        let mut answer = [0; 48];
        socket.read_exact(&mut answer).unwrap();
        if data_sn == 0 {
            assert_eq!((answer[0], answer[2]), (0x3f, 0x04), "a Reject");
            assert!(is_closed(&mut socket));
        } else {
            // As if data had been lost: the command ends, and the session does not.
            assert_eq!((answer[0], answer[3]), (0x21, 2), "CHECK CONDITION");
            let mut sense = vec![0; usize::from(answer[7]).next_multiple_of(4)];
            socket.read_exact(&mut sense).unwrap();
            assert_eq!((sense[4], sense[14], sense[15]), (0x0b, 0x47, 0x05));
            session.command(&[0; 6], Transfer::None).unwrap();
        }
        assert!(
            lab.bytes("disk", 0, 4096) == [0; 4096],
            "nothing of it was written"
        );
    }
}

#[test]
fn connections_that_never_log_in_do_not_keep_others_out() {
    let lab = Lab::new();
    undisturbed(&lab, || {
        let silent: Vec<TcpStream> = (0..200).map(|_| raw(&lab)).collect();
        // Whoever does log in is let in meanwhile.
        good(&write(&mut lab.session("a", "disk"), 0, &[1; 512]));
        // Of the others the oldest have gone, and the last have so much time and no more.
        let started = Instant::now();
        for mut socket in silent {
            assert!(is_closed(&mut socket));
        }
        assert!(started.elapsed() < Duration::from_secs(40));
    });
}

#[test]
fn logins_that_go_on_for_ever_come_to_an_end() {
    let lab = Lab::new();
    undisturbed(&lab, || {
        let mut socket = raw(&lab);
        // Text that goes on and on.
        let mut pdu = header(&[(0, &[0x43, 0x40]), (6, &[16, 0])]).to_vec();
        pdu.extend([b'x'; 4096]);
        for _ in 0..200 {
            if socket.write_all(&pdu).is_err() {
                break;
            }
        }
        assert!(is_closed(&mut socket));
    });
}

#[test]
fn an_initiator_that_takes_nothing_holds_nobody_up() {
    let lab = Lab::new();
    let mut lazy = lab.session("lazy", "disk");
    undisturbed(&lab, || {
        // 100 MiB that nobody fetches.
        for number in 0..100 {
            lazy.start(&ten(0x28, number * 8, 2048), Transfer::In(1 << 20))
                .unwrap();
        }
        lazy.flush().unwrap();
        std::thread::sleep(Duration::from_millis(500));
    });
    // What it asked for is there all the same.
    for _ in 0..100 {
        let (_, ended) = lazy.next_end(|_| Transfer::In(1 << 20)).unwrap();
        assert_eq!((ended.status, ended.data.len()), (0, 1 << 20));
    }
}

/// With the same system call as reads that are not done yet.
#[test]
fn a_logout_right_behind_commands_is_answered() {
    let lab = Lab::new();
    for _ in 0..20 {
        let mut session = lab.session("hasty", "disk");
        for number in 0..20 {
            session
                .start(&ten(0x28, number * 8, 8), Transfer::In(4096))
                .unwrap();
        }
        // What comes before its answer is not waited for.
        let mut socket = session.socket().try_clone().unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let _ = session.log_out();
        assert!(is_closed(&mut socket));
    }
}

#[test]
fn an_initiator_that_dies_leaves_whole_writes() {
    let lab = Lab::new();
    undisturbed(&lab, || {
        for round in 0..30u8 {
            let mut session = lab.session("mortal", "disk");
            let data = vec![round + 1; 1 << 20];
            session
                .start(&ten(0x2a, 0, 2048), Transfer::Out(&data))
                .unwrap();
            session.flush().unwrap();
            // Some of it was asked for, and does not come any more.
            drop(session);
        }
    });
    let bytes = lab.bytes("disk", 0, 1 << 20);
    assert!(
        bytes.iter().all(|byte| *byte == 0),
        "nothing of a write whose data did not come"
    );
}

/// Any command with any fields is answered, and the session goes on.
#[test]
fn commands_with_random_fields_are_answered() {
    let lab = Lab::new();
    let opcodes: Vec<u8> = (0..=0xff).collect();
    for seed in seeds(4) {
        let mut random = Random(seed);
        let mut session = lab.session("odd", "disk");
        for n in 0..3000 {
            let mut cdb = common::noise(random.below(1 << 40), 16);
            cdb[0] = *random.pick(&opcodes).unwrap();
            // Most bits are reserved: often only a few are set.
            if !random.chance(4) {
                for byte in &mut cdb[1..] {
                    *byte = if random.chance(4) {
                        *byte & random.below(256) as u8
                    } else {
                        0
                    };
                }
            }
            let data = common::noise(n, random.below(3000) as usize);
            let transfer = match random.below(3) {
                0 => Transfer::None,
                1 => Transfer::In(random.below(100_000) as usize),
                _ => Transfer::Out(&data),
            };
            let outcome = session
                .command(&cdb, transfer)
                .unwrap_or_else(|error| panic!("seed {seed}, {cdb:02x?} {transfer:?}: {error}"));
            assert!(
                [0, 2, 0x18, 0x28].contains(&outcome.status),
                "seed {seed}, {cdb:02x?}"
            );
        }
    }
}

#[test]
fn sixty_four_sessions_work_side_by_side() {
    let lab = Lab::new();
    let all = std::sync::Barrier::new(65);
    std::thread::scope(|scope| {
        let (lab, all) = (&lab, &all);
        for number in 0..64u8 {
            scope.spawn(move || {
                let who = Identity {
                    isid: [0, 0, 0, 0, 0, number],
                    ..identity("many", "disk")
                };
                let mut session = Initiator::log_in(lab.portal, &who).unwrap();
                settle(&mut session);
                all.wait();
                all.wait();
                for round in 0..20u8 {
                    let data = vec![number ^ round; 8192];
                    good(&write(&mut session, u32::from(number) * 64, &data));
                    assert!(read(&mut session, u32::from(number) * 64, 16) == data);
                }
                all.wait();
                all.wait();
            });
        }
        // All are there at once, before what they do and after it.
        for _ in 0..2 {
            all.wait();
            let target = lab.engine.volumes.status().iscsi.unwrap();
            all.wait();
            assert_eq!(target.sessions.len(), 64);
        }
    });
}

/// Who is silent is asked whether he is there; who does not answer has gone.
#[test]
fn a_silent_initiator_is_asked_and_then_left() {
    let options = IscsiOptions {
        silence: Duration::from_millis(300),
        ..options()
    };
    let lab = Lab::with(options, Shape::default());
    let mut answers = lab.session("answers", "disk");
    let silent = lab.session("silent", "disk");
    answers.set_patience(Duration::from_millis(1500));
    // It waits for what does not come, and answers what is asked meanwhile.
    let waited = answers.next_end(|_| Transfer::None);
    assert!(matches!(waited, Err(InitiatorError::Timeout)), "{waited:?}");
    answers.set_patience(Duration::from_secs(10));
    read(&mut answers, 0, 8);
    let mut socket = silent.socket().try_clone().unwrap();
    let mut said = Vec::new();
    socket.read_to_end(&mut said).unwrap();
    assert_eq!(said.len(), 48, "one PDU, and the end");
    // NOP-In, with a tag that wants an answer (RFC 7143, section 11.19).
    assert_eq!((said[0], &said[16..20]), (0x20, &[0xff; 4][..]));
    assert_ne!(said[20..24], [0xff; 4]);
}

/// A login whose answers nobody takes ends like any other, and keeps no thread.
#[test]
fn a_login_that_takes_no_answers_ends() {
    let lab = Lab::new();
    let keys: Vec<u8> = (0..120)
        .flat_map(|n| format!("X-{n:0>55}=1\0").into_bytes())
        .collect();
    let mut connections = Vec::new();
    for _ in 0..4 {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        // Small pieces fill the target's buffer soon.
        socket.set_recv_buffer_size(2048).unwrap();
        socket.set_tcp_mss(536).unwrap();
        socket.connect(&lab.portal.into()).unwrap();
        let mut socket = TcpStream::from(socket);
        let mut all = Vec::new();
        for round in 0..64 {
            let text: Vec<u8> = if round == 0 {
                b"InitiatorName=iqn.2026-11.test:deaf\0SessionType=Discovery\0".to_vec()
            } else {
                keys.clone()
            };
            // Operational stage, and no wish to leave it.
            let mut pdu = header(&[(0, &[0x43]), (1, &[0x04]), (11, &[1])]).to_vec();
            pdu[5..8].copy_from_slice(&(text.len() as u32).to_be_bytes()[1..]);
            pdu.extend(&text);
            pdu.resize(pdu.len().next_multiple_of(4), 0);
            all.extend(pdu);
        }
        let _ = socket.write_all(&all);
        connections.push(socket);
    }
    undisturbed(&lab, || std::thread::sleep(Duration::from_secs(1)));
    // The target ends although they are still connected: all its threads do.
    let (told, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        drop(lab);
        told.send(()).unwrap();
    });
    ended
        .recv_timeout(Duration::from_secs(40))
        .expect("the target ends");
}

/// What waits until an initiator takes more keeps no processor busy.
#[test]
fn an_initiator_that_takes_some_keeps_no_thread_busy() {
    if !common::able(&[]) {
        return;
    }
    let (store, portal) = served(&["--size", "64MiB"]);
    store.make("d", 8 << 20);
    let mut session = session_at(portal, "some", "d");
    for _ in 0..60 {
        session
            .start(&ten(0x28, 0, 2048), Transfer::In(1 << 20))
            .unwrap();
    }
    session.flush().unwrap();
    let mut socket = session.socket().try_clone().unwrap();
    let mut some = vec![0; 1 << 20];
    for _ in 0..4 {
        socket.read_exact(&mut some[..700_000]).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        let before = busy(&store);
        std::thread::sleep(Duration::from_secs(1));
        let spent = busy(&store) - before;
        eprintln!("{spent} hundredths of a second in one");
        assert!(spent < 40, "{spent} hundredths of a second");
    }
}

/// Processor time of the daemon, in hundredths of a second.
fn busy(store: &TestStore) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", store.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Initiators that ask for much and take none of it, or send parts of much, have the target keep only so
/// much: and what they asked for they get once they take it.
#[test]
fn memory_stays_bounded_whatever_is_asked_for() {
    if !common::able(&[]) {
        return;
    }
    const SESSIONS: u64 = 8;
    const ASKED: u64 = 100;
    const MIB: u64 = 1 << 20;
    let (store, portal) = served(&["--size", "256MiB"]);
    store.make("d", 64 * MIB);
    let mut sessions: Vec<Initiator> = (0..SESSIONS)
        .map(|number| session_at(portal, &format!("greedy{number}"), "d"))
        .collect();
    let data = common::noise(1, MIB as usize);
    good(&write(&mut sessions[0], 0, &data[..MIB as usize / 2]));
    let before = store.memory("VmHWM");
    for session in &mut sessions {
        for _ in 0..ASKED {
            let read = ten(0x28, 0, 2048);
            session.start(&read, Transfer::In(MIB as usize)).unwrap();
        }
        session.flush().unwrap();
    }
    // Writes whose data do not come: a MiB each, of which 256 KiB are sent at once.
    let mut halves = Vec::new();
    for number in 0..SESSIONS {
        let mut session = session_at(portal, &format!("half{number}"), "d");
        for _ in 0..ASKED {
            let all = ten(0x2a, 4096, 2048);
            session.start(&all, Transfer::Out(&data)).unwrap();
        }
        session.flush().unwrap();
        halves.push(session);
    }
    // And one that works as ever.
    let mut other = session_at(portal, "other", "d");
    for _ in 0..50 {
        read(&mut other, 8192, 8);
        std::thread::sleep(Duration::from_millis(20));
    }
    let grown = store.memory("VmHWM").saturating_sub(before);
    eprintln!("{} MiB more", grown / MIB);
    assert!(grown < 96 * MIB, "{} MiB more", grown / MIB);
    drop(halves);
    for session in &mut sessions {
        for _ in 0..ASKED {
            let (_, outcome) = session.next_end(|_| Transfer::In(MIB as usize)).unwrap();
            good(&outcome);
            assert_eq!(outcome.data.len() as u64, MIB);
            assert!(outcome.data[..MIB as usize / 2] == data[..MIB as usize / 2]);
        }
    }
}
