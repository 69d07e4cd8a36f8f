//! What an initiator can say before it has proved who it is, and what it learns; and text in general.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::engine::Shape;
use common::iscsi::{Lab, STORE, identity, options, secrets};
use common::model::new_disk;
use common::pdu::*;
use common::wait_until;
use snapmark::config::{Account, Secret};
use snapmark::control::{Commands, Control};
use snapmark::frontend::iscsi::{Identity, Initiator, IscsiOptions, target_name};

/// Flags of text.
const ENDS: u8 = 0x80;
const GOES_ON: u8 = 0x40;

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

#[test]
fn a_flood_from_one_machine_ends_no_login_of_another() {
    let lab = guarded();
    // It takes its time.
    let mut honest = Raw::connect_from("127.0.0.2:0".parse().unwrap(), lab.portal);
    let said = [
        ("InitiatorName", "iqn.2026-11.test:a"),
        ("SessionType", "Discovery"),
        ("AuthMethod", "CHAP"),
    ];
    honest.log_in(0x81, &said).unwrap();
    let flood: Vec<Raw> = (0..300).map(|_| Raw::connect(lab.portal)).collect();
    wait_until("all but the newest are gone", || {
        flood[..236].iter().all(|raw| !raw.is_quiet())
    });
    let challenge = honest.log_in(0x81, &[("CHAP_A", "5")]).unwrap();
    let text = String::from_utf8(challenge.data).unwrap();
    assert!(text.contains("CHAP_C=0x"), "{text}");
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
    let (mut texts, mut transfer_tag) = (0, NO_TAG);
    loop {
        let answer = raw.text(GOES_ON, transfer_tag, &[b'x'; 4096]);
        if answer.opcode() != TEXT {
            assert_eq!((answer.opcode(), answer.header[2]), (0x3f, 9));
            break;
        }
        transfer_tag = answer.u32(20);
        texts += 1;
        assert!(texts <= 4, "16 KiB are allowed");
    }
}

#[test]
fn text_goes_on_as_long_as_the_initiator_has_more() {
    let lab = Lab::new();
    let mut raw = Raw::session(&lab, "a", "disk");
    // A key in two pieces.
    let answer = raw.text(GOES_ON, NO_TAG, b"X-com.exam");
    assert_eq!((answer.header[1], answer.data.len()), (0, 0));
    // It has more to ask: so we are not done either.
    let answer = raw.text(0, answer.u32(20), b"ple.a=1\0");
    assert_eq!((answer.opcode(), answer.header[1]), (TEXT, 0));
    assert_eq!(answer.data, b"X-com.example.a=NotUnderstood\0");
    assert_ne!(answer.u32(20), NO_TAG);
    let answer = raw.text(ENDS, answer.u32(20), b"X-com.example.b=1\0");
    assert_eq!((answer.header[1], answer.u32(20)), (ENDS, NO_TAG));
    assert_eq!(answer.data, b"X-com.example.b=NotUnderstood\0");
    // What was left half-way does not become part of something else.
    raw.text(GOES_ON, NO_TAG, b"X-com.example.c");
    let answer = raw.text(ENDS, NO_TAG, b"SendTargets=\0");
    let text = String::from_utf8(answer.data).unwrap();
    assert!(text.starts_with("TargetName=iqn."), "{text}");
    let answer = raw.text(ENDS | GOES_ON, NO_TAG, b"SendTargets=\0");
    assert_eq!((answer.opcode(), answer.header[2]), (0x3f, 4));
}

#[test]
fn what_does_not_match_its_digest_ends_its_session_alone() {
    let lab = Lab::new();
    let mut other = Raw::session(&lab, "other", "disk");
    let target = target_name(STORE, "disk").unwrap();
    let session = |digest: &str| {
        let mut raw = Raw::connect(lab.portal);
        let said = [
            ("InitiatorName", "iqn.2026-11.test:a"),
            ("TargetName", &*target),
            (digest, "CRC32C"),
        ];
        let answer = raw.log_in(0x87, &said).unwrap();
        let text = String::from_utf8(answer.data).unwrap();
        assert!(text.contains(&format!("{digest}=CRC32C\0")), "{text}");
        raw
    };
    let ping: [(usize, &[u8]); 5] = [
        (0, &[0x40]),
        (1, &[0x80]),
        (16, &[0, 0, 0, 9]),
        (20, &[0xff; 4]),
        (24, &[0, 0, 0, 1]),
    ];
    // Data, four bytes and what is to be their digest; the length says nothing of that.
    let send = |raw: &mut Raw, digest: [u8; 4]| {
        let mut pdu = vec![0; 48];
        for (at, bytes) in ping {
            pdu[at..at + bytes.len()].copy_from_slice(bytes);
        }
        pdu[7] = 4;
        pdu.extend(*b"ping");
        pdu.extend(digest);
        raw.socket.write_all(&pdu).unwrap();
    };
    let mut data = session("DataDigest");
    let right = snapmark::base::checksum(b"ping").0.to_le_bytes();
    send(&mut data, right);
    let answer = data.next();
    assert_eq!(
        (answer.kind(), &answer.data[..]),
        ((NOP_IN, 9), &b"ping"[..])
    );
    let mut digest = [0; 4];
    data.socket.read_exact(&mut digest).unwrap();
    assert_eq!(digest, right);
    send(&mut data, [0; 4]);
    let rejected = data.next();
    assert_eq!((rejected.opcode(), rejected.header[2]), (0x3f, 0x02));
    // Of a header that is wrong nothing can be said, nor of what comes after it.
    let mut header = session("HeaderDigest");
    send(&mut header, [0; 4]);
    let mut said = Vec::new();
    header.socket.read_to_end(&mut said).unwrap();
    assert!(said.is_empty());
    other.ping();
}

#[test]
fn a_key_is_negotiated_once() {
    let lab = Lab::new();
    let target = target_name(STORE, "disk").unwrap();
    let who = [
        ("InitiatorName", "iqn.2026-11.test:a"),
        ("TargetName", &*target),
        ("MaxBurstLength", "65536"),
    ];
    let mut raw = Raw::connect(lab.portal);
    raw.log_in(0x04, &who).unwrap();
    let again = raw.log_in(0x87, &[("MaxBurstLength", "131072")]);
    assert_eq!(again.err(), Some((2, 0)));
    let mut raw = Raw::connect(lab.portal);
    raw.log_in(0x04, &who).unwrap();
    let more = [
        ("FirstBurstLength", "65536"),
        ("InitiatorName", "iqn.2026-11.test:a"),
    ];
    assert!(raw.log_in(0x87, &more).is_ok());
}

fn raw_login(lab: &Lab, said: &[(&str, &str)]) -> Pdu {
    Raw::connect(lab.portal).log_in(0x87, said).unwrap()
}
