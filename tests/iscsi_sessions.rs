//! Who gets a session with the iSCSI target, and with what.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::engine::{Engine, Shape};
use common::iscsi::{Lab, access, good, identity, options, read, secrets, settle, write};
use common::model::new_disk;
use common::wait_until;
use snapmark::config::{Account, Secret};
use snapmark::control::Control;
use snapmark::frontend::iscsi::{
    Identity, Initiator, InitiatorError, IscsiError, IscsiTarget, Transfer, target_name,
};

fn status(result: Result<Initiator, InitiatorError>) -> Option<(u8, u8)> {
    match result {
        Ok(_) => None,
        Err(InitiatorError::Login { class, detail }) => Some((class, detail)),
        Err(other) => panic!("{other}"),
    }
}

fn discover(lab: &Lab, initiator: &str) -> Vec<String> {
    let who = Identity {
        target: None,
        ..identity(initiator, "disk")
    };
    let mut session = Initiator::log_in(lab.portal, &who).unwrap();
    let targets = session.targets().unwrap();
    let address = format!("{},1", lab.portal);
    assert!(targets.iter().all(|(_, at)| *at == address), "{targets:?}");
    session.log_out().unwrap();
    targets.into_iter().map(|(name, _)| name).collect()
}

#[test]
fn disks_and_snapshots_are_discovered_and_can_be_used() {
    let lab = Lab::new();
    lab.engine
        .create(new_disk("VM 2".replace(' ', "_").as_str(), 1 << 20))
        .unwrap();
    let mut disk = lab.session("a", "disk");
    good(&write(&mut disk, 8, &[7; 4096]));
    lab.engine.snapshot(&["disk"], Some("s"), true).unwrap();
    good(&write(&mut disk, 8, &[8; 4096]));
    let names = ["VM_2", "disk", "disk@s"].map(|file| target_name("lab", file).unwrap());
    assert_eq!(discover(&lab, "a"), names);

    let mut snapshot = lab.session("a", "disk@s");
    assert!(read(&mut snapshot, 8, 8) == [7; 4096] && read(&mut disk, 8, 8) == [8; 4096]);
    assert!(lab.bytes("disk", 4096, 4096) == [8; 4096]);
    snapshot.log_out().unwrap();
    disk.log_out().unwrap();
}

#[test]
fn all_addresses_of_use_are_told_first_that_of_the_connection() {
    let mut options = options();
    let listen = ["127.0.0.1:0", "0.0.0.0:0", "127.0.0.2:0", "[::1]:0"];
    options.listen = listen.map(|at| at.parse().unwrap()).to_vec();
    options.open = true;
    let lab = Lab::with(options, Shape::default());
    let target = lab.target.as_ref().unwrap();
    let portals: Vec<SocketAddr> = target.addresses().collect();
    let anywhere = SocketAddr::new(portals[0].ip(), portals[1].port());
    for (at, wanted) in [
        (portals[0], vec![portals[0], portals[2]]),
        (anywhere, vec![anywhere, portals[0], portals[2]]),
        (portals[2], vec![portals[2], portals[0]]),
        (portals[3], vec![portals[3]]),
    ] {
        let who = Identity {
            target: None,
            ..identity("a", "disk")
        };
        let mut session = Initiator::log_in(at, &who).unwrap();
        let told = session.targets().unwrap();
        let wanted: Vec<String> = wanted.iter().map(|at| format!("{at},1")).collect();
        let told: Vec<String> = told.into_iter().map(|(_, at)| at).collect();
        assert_eq!(told, wanted);
        session.log_out().unwrap();
    }
}

#[test]
fn a_name_that_is_too_long_keeps_no_other_from_being_a_target() {
    let lab = Lab::new();
    lab.engine
        .create(new_disk(&"x".repeat(200), 1 << 20))
        .unwrap();
    let names = [target_name("lab", "disk").unwrap()];
    assert_eq!(discover(&lab, "a"), names);
}

#[test]
fn more_targets_than_fit_into_one_pdu_are_discovered() {
    let lab = Lab::new();
    for number in 0..3000 {
        let name = format!("a-disk-with-a-rather-long-name-so-that-the-list-is-long-{number:05}");
        lab.engine.create(new_disk(&name, 1 << 20)).unwrap();
    }
    assert_eq!(discover(&lab, "a").len(), 3001);
}

#[test]
fn the_newest_snapshots_are_told_and_the_others_are_there_too() {
    let lab = Lab::new();
    for number in 0..600 {
        let name = format!("s{:03}", (number * 7) % 600);
        lab.engine.snapshot(&["disk"], Some(&name), false).unwrap();
    }
    let told = discover(&lab, "a");
    let target = |number: u32| {
        let file = format!("disk@s{:03}", (number * 7) % 600);
        target_name("lab", &file).unwrap()
    };
    assert_eq!(told.len(), 1 + 512);
    assert!((88..600).all(|number| told.contains(&target(number))));
    assert!(told.contains(&target_name("lab", "disk").unwrap()));
    let mut oldest = lab.session("a", "disk@s000");
    assert!(read(&mut oldest, 0, 8) == [0; 4096]);
}

#[test]
fn without_a_secret_nobody_is_let_in_where_there_are_secrets() {
    let mut options = options();
    options.secrets = secrets(
        "initiators: [{user: alice, secret: correct horse battery, initiator: '*:a'}]\n\
         target: {user: lab, secret: the other secret}",
    );
    let lab = Lab::with(options, Shape::default());
    let account = |user: &str, secret: &str| Account {
        user: user.to_owned(),
        secret: Secret::new(secret),
        initiator: None,
    };
    let with = |initiator: &str, account, proof| {
        let who = Identity {
            account,
            proof,
            ..identity(initiator, "disk")
        };
        Initiator::log_in(lab.portal, &who)
    };
    let right = || Some(account("alice", "correct horse battery"));
    let theirs = || Some(account("lab", "the other secret"));
    assert_eq!(status(with("a", None, None)), Some((2, 1)));
    assert_eq!(
        status(with(
            "a",
            Some(account("alice", "wrong horse battery")),
            None
        )),
        Some((2, 1))
    );
    assert_eq!(
        status(with(
            "a",
            Some(account("bob", "correct horse battery")),
            None
        )),
        Some((2, 1))
    );
    assert_eq!(
        status(with("b", right(), None)),
        Some((2, 1)),
        "another initiator's account"
    );
    assert_eq!(status(with("a", right(), None)), None);
    assert_eq!(status(with("a", right(), theirs())), None, "mutual");
    let impostor = with("a", right(), Some(account("lab", "not that secret")));
    assert!(matches!(impostor, Err(InitiatorError::Proof)));
    // Nor to look around.
    let who = Identity {
        target: None,
        ..identity("a", "disk")
    };
    assert_eq!(status(Initiator::log_in(lab.portal, &who)), Some((2, 1)));
}

#[test]
fn without_secrets_it_listens_on_this_machine_alone() {
    let engine = Engine::new(Shape::default());
    let start = |listen: &str, open| {
        let mut options = options();
        options.listen = vec![listen.parse().unwrap()];
        options.open = open;
        let commands = Arc::new(Control::new(Arc::clone(&engine.volumes)));
        IscsiTarget::start(Arc::clone(&engine.volumes), commands, options)
    };
    for open in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        assert!(
            matches!(start(open, false), Err(IscsiError::Open(_))),
            "{open}"
        );
    }
    for at in ["127.0.0.1:0", "[::1]:0"] {
        assert!(start(at, false).is_ok(), "{at}");
    }
    assert!(start("0.0.0.0:0", true).is_ok());
    assert!(matches!(
        start("192.0.2.1:0", true),
        Err(IscsiError::Listen { .. })
    ));
}

#[test]
fn a_session_over_ipv6_with_digests_works_like_any_other() {
    let mut options = options();
    options.listen = vec!["[::1]:0".parse().unwrap()];
    let lab = Lab::with(options, Shape::default());
    let who = Identity {
        digests: true,
        ..identity("a", "disk")
    };
    let mut session = Initiator::log_in(lab.portal, &who).unwrap();
    settle(&mut session);
    let data = common::noise(5, 1 << 20);
    good(&write(&mut session, 3, &data));
    assert!(read(&mut session, 3, 2048) == data);
    assert!(lab.bytes("disk", 3 * 512, 1 << 20) == data);
}

#[test]
fn initiators_see_and_use_only_what_they_may() {
    let mut options = options();
    options.access = vec![access("d*", "*:a"), access("*", "*:b")];
    let lab = Lab::with(options, Shape::default());
    lab.engine.create(new_disk("other", 1 << 20)).unwrap();
    lab.engine.snapshot(&["disk"], Some("s"), true).unwrap();
    let log_in =
        |who: &str, file: &str| status(Initiator::log_in(lab.portal, &identity(who, file)));
    assert_eq!(log_in("a", "disk"), None);
    assert_eq!(log_in("a", "disk@s"), None);
    assert_eq!(log_in("a", "other"), Some((2, 2)));
    assert_eq!(log_in("b", "disk"), Some((2, 2)));
    assert_eq!(log_in("b", "nothing"), Some((2, 3)));
    assert_eq!(discover(&lab, "b"), [target_name("lab", "other").unwrap()]);
    assert_eq!(discover(&lab, "c"), [""; 0]);
}

#[test]
fn a_new_session_of_a_port_ends_the_old_one() {
    let lab = Lab::new();
    let mut old = lab.session("a", "disk");
    let mut beside = Initiator::log_in(
        lab.portal,
        &Identity {
            isid: [0, 0, 0, 0, 0, 9],
            ..identity("a", "disk")
        },
    )
    .unwrap();
    let mut new = lab.session("a", "disk");
    assert!(
        old.command(&[0; 6], Transfer::None).is_err(),
        "its connection is closed"
    );
    settle(&mut beside);
    good(&write(&mut new, 0, &[1; 512]));
}

#[test]
fn of_logins_of_one_port_at_the_same_time_one_is_left() {
    let lab = Lab::new();
    for _ in 0..10 {
        let log_in = || Initiator::log_in(lab.portal, &identity("twin", "disk"));
        let sessions: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(log_in)).collect();
            threads
                .into_iter()
                .filter_map(|t| t.join().unwrap().ok())
                .collect()
        });
        let works = |mut session: Initiator| session.command(&[0; 6], Transfer::None).is_ok();
        assert_eq!(
            sessions
                .into_iter()
                .filter_map(|s| works(s).then_some(()))
                .count(),
            1
        );
    }
}

#[test]
fn there_are_so_many_sessions_and_no_more() {
    let mut options = options();
    options.sessions = 3;
    let lab = Lab::with(options, Shape::default());
    let who = |number: u8| Identity {
        isid: [0, 0, 0, 0, 0, number],
        ..identity("a", "disk")
    };
    let mut sessions: Vec<_> = (0..3)
        .map(|n| Initiator::log_in(lab.portal, &who(n)).unwrap())
        .collect();
    assert_eq!(status(Initiator::log_in(lab.portal, &who(9))), Some((3, 2)));
    sessions.pop().unwrap().log_out().unwrap();
    let started = Instant::now();
    while status(Initiator::log_in(lab.portal, &who(9))).is_some() {
        assert!(started.elapsed() < Duration::from_secs(10));
    }
    sessions.iter_mut().for_each(settle);
}

#[test]
fn a_disk_with_sessions_is_in_use() {
    let lab = Lab::new();
    let session = lab.session("a", "disk");
    lab.engine.snapshot(&["disk"], Some("s"), true).unwrap();
    assert!(lab.engine.rollback("disk", "disk@s", false).is_err());
    session.log_out().unwrap();
    common::wait_until("the session is over", || {
        lab.engine.rollback("disk", "disk@s", false).is_ok()
    });
}

#[test]
fn the_target_ends_its_sessions_and_leaves_nothing_behind() {
    let mut lab = Lab::new();
    let mut session = lab.session("a", "disk");
    good(&write(&mut session, 0, &[3; 4096]));
    drop(lab.target.take());
    assert!(session.command(&[0; 6], Transfer::None).is_err());
    assert!(Initiator::log_in(lab.portal, &identity("a", "disk")).is_err());
    assert!(lab.bytes("disk", 0, 4096) == [3; 4096]);
}

/// What a logical unit says of itself is what it is now called, once nobody has it from before.
#[test]
fn a_disk_that_was_renamed_says_so() {
    let lab = Lab::new();
    let names = |session: &mut Initiator| {
        let outcome = session
            .command(&[0x12, 1, 0x83, 4, 0, 0], Transfer::In(1024))
            .unwrap();
        good(&outcome);
        String::from_utf8_lossy(&outcome.data).into_owned()
    };
    let mut session = lab.session("a", "disk");
    assert!(names(&mut session).contains("lab:disk"));
    // Something that outlives the session (PERSISTENT RESERVE OUT, REGISTER).
    let mut list = [0; 24];
    list[15] = 1;
    let register = [0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0];
    good(&session.command(&register, Transfer::Out(&list)).unwrap());
    session.log_out().unwrap();
    lab.engine.rename("disk", "renamed", false).unwrap();
    // The session of before is over a moment after its logout is answered.
    wait_until("nobody has it from before", || {
        std::thread::sleep(Duration::from_millis(50));
        let mut session = lab.session("a", "renamed");
        let now = names(&mut session);
        session.log_out().unwrap();
        now.contains("lab:renamed") && !now.contains("lab:disk")
    });
}
