//! Tests of the grammar.

use proptest::prelude::*;

use super::*;

fn snap(disks: &[&str], name: Option<&str>, durable: bool) -> Command {
    Command::Snapshot {
        disks: disks.iter().map(|&disk| disk.to_owned()).collect(),
        name: name.map(str::to_owned),
        durable,
    }
}

#[test]
fn each_form_is_understood() {
    let rollback = |force| Command::Rollback {
        disk: "vm1.img".to_owned(),
        snapshot: "vm1.img@a".to_owned(),
        force,
    };
    let rename = |from: &str, to: &str| Command::Rename {
        from: from.to_owned(),
        to: to.to_owned(),
    };
    let device = |path: &str, size: Option<u64>| {
        Command::DeviceAdd(DeviceSpec {
            path: path.to_owned(),
            size: size.map(ByteSize),
        })
    };
    let disk = "vm1.img".to_owned();
    for (line, command) in [
        ("snapshot vm1.img", snap(&["vm1.img"], None, true)),
        (
            "snapshot a,b nightly\n",
            snap(&["a", "b"], Some("nightly"), true),
        ),
        ("  snapshot a nosync", snap(&["a"], None, false)),
        ("snapshot a n\tnosync", snap(&["a"], Some("n"), false)),
        ("scrub start", Command::Scrub(ScrubCommand::Start(None))),
        (
            "scrub start 200MiB/s",
            Command::Scrub(ScrubCommand::Start(Some(ByteSize(200 << 20)))),
        ),
        ("scrub pause", Command::Scrub(ScrubCommand::Pause)),
        ("scrub resume", Command::Scrub(ScrubCommand::Resume)),
        ("scrub stop", Command::Scrub(ScrubCommand::Stop)),
        (
            "scrub rate 0",
            Command::Scrub(ScrubCommand::Rate(ByteSize(0))),
        ),
        ("delete vm1.img", Command::Delete { name: disk.clone() }),
        ("rename a b", rename("a", "b")),
        ("rename a@1 2", rename("a@1", "a@2")),
        ("rename a@1 a@2", rename("a@1", "a@2")),
        ("rollback vm1.img@a", rollback(false)),
        ("rollback vm1.img a force", rollback(true)),
        ("rollback vm1.img vm1.img@a", rollback(false)),
        ("rollback vm1.img@a force", rollback(true)),
        (
            "clone vm1.img@a vm2.img",
            Command::Clone {
                snapshot: "vm1.img@a".to_owned(),
                disk: "vm2.img".to_owned(),
            },
        ),
        (
            "resize vm1.img 1.5 GiB",
            Command::Resize {
                disk: disk.clone(),
                size: ByteSize(3 << 29),
            },
        ),
        (
            "priority vm1.img 7",
            Command::Priority { disk, priority: 7 },
        ),
        (
            "device-add /srv/my pool:1G",
            device("/srv/my pool", Some(1 << 30)),
        ),
        ("device-add /srv/a:b", device("/srv/a:b", None)),
        (
            "device-add /dev/disk/by-path/a:1",
            device("/dev/disk/by-path/a:1", None),
        ),
        ("flush", Command::Flush),
        ("device-list", Command::DeviceList),
        ("list", Command::List),
        ("status", Command::Status),
        ("stats", Command::Stats),
        ("help me", Command::Help),
    ] {
        assert_eq!(parse(line), Ok(command), "{line:?}");
    }
}

#[test]
fn an_error_says_what_was_wrong_and_shows_the_form() {
    for (line, words) in [
        ("", "empty"),
        ("snapshto vm1.img", "did you mean: snapshot DISK"),
        ("frobnicate", "'help' lists them"),
        ("snapshot", "0 arguments where one to three are expected"),
        ("snapshot a, b", "the name is empty"),
        ("snapshot a b c", "not 'nosync'"),
        ("snapshot a,a", "named twice"),
        ("snapshot a@1", "has '@' in it"),
        ("delete a b", "2 arguments where one is expected"),
        ("rename a b@c", "is a disk"),
        ("rename a@1 b@1", "stays with its disk"),
        ("rollback a", "a snapshot is DISK@NAME"),
        ("rollback a b@c", "clone it instead"),
        ("rollback force", "a snapshot is DISK@NAME"),
        ("clone a b", "a snapshot is DISK@NAME"),
        ("resize a", "is no size"),
        ("resize a huge", "is no size"),
        ("priority a 256", "no number from 0 to 255"),
        ("device-add", "a device is PATH"),
        ("device-add x:0", "size 0"),
        ("flush now", "1 argument where no are expected"),
        ("list\nlist", "one write is one line"),
    ] {
        let error = parse(line).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid, "{line:?}");
        assert!(error.message.contains(words), "{line:?}: {error}");
    }
    assert!(
        parse("clone a b")
            .unwrap_err()
            .message
            .ends_with("the form is: clone DISK@NAME NEW")
    );
}

#[test]
fn long_lines_and_names_are_refused_by_length() {
    let line = format!("snapshot {}", "x".repeat(MAX_LINE));
    assert_eq!(parse(&line).unwrap_err().kind, ErrorKind::TooLong);
    let name = format!("delete {}", "x".repeat(256));
    assert_eq!(parse(&name).unwrap_err().kind, ErrorKind::TooLong);
}

proptest! {
    #[test]
    fn no_line_panics(line in ".{0,300}") {
        let _ = parse(&line);
    }

    #[test]
    fn no_line_that_begins_with_a_verb_panics(
        at in 0..crate::control::FORMS.len(),
        rest in "[ a-z@,.:0-9GiBé\t\u{0}-]{0,60}",
    ) {
        let line = format!("{} {rest}", crate::control::FORMS[at].verb);
        if let Ok(Command::Snapshot { disks, .. }) = parse(&line) {
            prop_assert!(!disks.is_empty());
            prop_assert!(disks.iter().all(|disk| check_disk_name(disk).is_ok()));
        }
    }
}
