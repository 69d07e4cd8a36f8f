//! The store's directory against whoever could put something else into it: nothing is opened,
//! written or made through a link, a FIFO or another name, and nobody opens a store twice.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use common::{
    SNAPMARK, TestStore, able, execute, noise, read_at, run, run_failing, sh, text, write_at,
};
use rustix::fs::{CWD, FileType, Mode};
use snapmark::base::checksum;

/// All that a store has, and whether the daemon writes to it.
const FILES: [(&str, bool); 7] = [
    ("pool.img", true),
    ("journal", true),
    ("catalog.pages", true),
    ("catalog.log", true),
    ("lock", true),
    ("store.yaml", false),
    ("snapmark.log", true),
];

fn small() -> TestStore {
    TestStore::unmounted(&["--size", "64MiB", "--journal-size", "8MiB"])
}

/// Asks for a mount in the background, which is to fail, and soon.
#[track_caller]
fn refused(store: &TestStore, what: &str) -> (i32, String) {
    let (_, output) = execute(
        "timeout",
        [
            "20",
            SNAPMARK,
            "mount",
            &text(&store.store()),
            &text(&store.mnt()),
        ],
    );
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let code = output.status.code().unwrap();
    assert!(
        code != 0 && code != 124,
        "{what}: ended with {code}: {said}"
    );
    (code, said)
}

fn mount_and_unmount(store: &TestStore) {
    run(SNAPMARK, ["mount".into(), store.store(), store.mnt()]);
    run(SNAPMARK, ["unmount".into(), store.mnt()]);
}

/// Length and checksum; the big ones are sparse, so only their start counts.
fn print_of(path: &Path) -> (u64, u32) {
    let file = File::open(path).unwrap();
    let len = file.metadata().unwrap().len();
    let mut start = vec![0; len.min(32 << 20) as usize];
    file.read_exact_at(&mut start, 0).unwrap();
    (len, checksum(&start).0)
}

#[test]
fn files_of_a_store_are_not_reached_through_tricks() {
    if !able(&[]) {
        return;
    }
    let store = small();
    mount_and_unmount(&store);
    let elsewhere = store.dir().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let mut tried = 0;
    for (name, written) in FILES {
        let path = store.store().join(name);
        // The same content, so that nothing but the trick is wrong.
        let original = elsewhere.join(name);
        fs::rename(&path, &original).unwrap();
        let before = print_of(&original);
        let missing = elsewhere.join("missing");
        let tricks: [(&str, &dyn Fn()); 6] = [
            ("a link", &|| symlink(&original, &path).unwrap()),
            ("a dangling link", &|| symlink(&missing, &path).unwrap()),
            ("a FIFO", &|| {
                rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
            }),
            ("a directory", &|| fs::create_dir(&path).unwrap()),
            ("a character device", &|| {
                let null = rustix::fs::makedev(1, 3);
                let kind = FileType::CharacterDevice;
                rustix::fs::mknodat(CWD, &path, kind, Mode::RWXU, null).unwrap();
            }),
            ("another name", &|| fs::hard_link(&original, &path).unwrap()),
        ];
        for (trick, play) in tricks {
            if trick == "another name" && !written {
                continue;
            }
            play();
            let (_, said) = refused(&store, &format!("{name} is {trick}"));
            // A check looks at it, and waits no more than the daemon does.
            let check = ["20", SNAPMARK, "check", &text(&store.store())];
            let code = execute("timeout", check).1.status.code();
            assert_ne!(code, Some(124), "{name} is {trick}: the check hangs");
            // What is written is not called clean where a mount refuses it.
            if trick == "a link" && written && name != "snapmark.log" {
                assert_ne!(code, Some(0), "{name} is {trick}");
            }
            assert_eq!(print_of(&original), before, "{name} is {trick}: {said}");
            assert!(!missing.exists(), "{name} is {trick}: {said}");
            let is_dir = fs::symlink_metadata(&path).unwrap().is_dir();
            if is_dir {
                fs::remove_dir(&path).unwrap();
            } else {
                fs::remove_file(&path).unwrap();
            }
            tried += 1;
        }
        fs::rename(&original, &path).unwrap();
    }
    eprintln!("{tried} tricks");
    assert_eq!(tried, 7 * 6 - 1);
    mount_and_unmount(&store);
}

#[test]
fn a_directory_that_others_can_change_is_not_served() {
    if !able(&[]) {
        return;
    }
    let store = small();
    let dir = store.store();
    let mode = |mode| fs::set_permissions(&dir, Permissions::from_mode(mode)).unwrap();
    for open in [0o770, 0o707, 0o1777] {
        mode(open);
        let (code, said) = refused(&store, "others may write");
        assert!(code == 7 && said.contains("chmod go-w"), "{code}: {said}");
    }
    mode(0o700);
    std::os::unix::fs::chown(&dir, Some(1234), None).unwrap();
    let (code, said) = refused(&store, "it is another's");
    assert!(code == 7 && said.contains("1234"), "{code}: {said}");
    assert!(!dir.join("snapmark.log").exists(), "nothing was written");
    // Nor is it repaired: its owner says where the journal is.
    let lock = dir.join("lock");
    let before = fs::read(&lock).ok();
    let repair = [SNAPMARK, "check", &text(&dir), "--repair"];
    let (_, output) = execute("timeout", ["20"].into_iter().chain(repair));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("1234"), "{said}");
    assert_eq!(fs::read(&lock).ok(), before);
    std::os::unix::fs::chown(&dir, Some(0), None).unwrap();
    mode(0o755);
    mount_and_unmount(&store);
}

/// What the administrator names outside of the store may be a link, as those in /dev/disk/by-id.
#[test]
fn devices_and_a_journal_elsewhere_may_be_links() {
    if !able(&[]) {
        return;
    }
    let store = TestStore::nothing();
    let at = |name: &str| text(&store.dir().join(name));
    File::create(at("real")).unwrap().set_len(64 << 20).unwrap();
    symlink("real", at("by-id")).unwrap();
    let (device, journal) = (at("by-id"), at("journal"));
    let options = [
        "--journal-size",
        "8MiB",
        "--device",
        &device,
        "--journal",
        &journal,
    ];
    let dir = text(&store.store());
    run(SNAPMARK, ["init", &dir].into_iter().chain(options));
    mount_and_unmount(&store);
    fs::rename(at("journal"), at("moved")).unwrap();
    symlink("moved", at("journal")).unwrap();
    mount_and_unmount(&store);
}

#[test]
fn a_store_is_open_once_by_whatever_path() {
    if !able(&[]) {
        return;
    }
    let mut store = TestStore::nothing();
    let dir = store.dir().to_owned();
    let at = |name: &str| dir.join(name);
    let (link, bound, mnt) = (at("link"), at("bound"), at("other"));
    let (outside, copy) = (text(&at("pool")), at("copy"));
    let device = format!("{outside}:64MiB");
    let words = ["--journal-size", "8MiB", "--device", &device];
    run(
        SNAPMARK,
        ["init", &text(&store.store())].into_iter().chain(words),
    );
    store.mount();
    symlink("store", &link).unwrap();
    fs::create_dir(&bound).unwrap();
    fs::create_dir(&mnt).unwrap();
    let _away = common::Away(mnt.clone());
    let bind = common::Mounted::new(store.store(), bound.clone(), "bind");
    for path in [&link, &bound] {
        let (code, said) = run_failing(SNAPMARK, ["mount".into(), path.clone(), mnt.clone()]);
        assert!(code == 5 && said.contains("in use"), "{code}: {said}");
    }
    bind.unmount();
    // A copied store has a lock of its own, and names the same device.
    sh(&format!("cp -a {} {}", text(&store.store()), text(&copy)));
    let (code, said) = run_failing(SNAPMARK, ["mount".into(), copy, mnt.clone()]);
    assert!(said.contains("in use"), "{code}: {said}");
    // So does another store that is to be made.
    let words = ["init", &text(&at("second")), "--device", &outside];
    let (_, said) = run_failing(SNAPMARK, words);
    assert!(said.contains("in use"), "{said}");
    assert!(!at("second").exists());
    write_at(&store.make("vm1.img", 1 << 20), 0, &noise(1, 10_000));
    assert!(read_at(&store.disk("vm1.img"), 0, 10_000) == noise(1, 10_000));
    store.unmount();
}

#[test]
fn init_takes_an_empty_directory_and_nothing_else() {
    if !able(&[]) {
        return;
    }
    let store = TestStore::nothing();
    let at = |name: &str| store.dir().join(name);
    let init = |dir: &Path, more: &str| {
        let line = format!(
            "umask 0; exec {SNAPMARK} init {} --size 64MiB --journal-size 8MiB {more}",
            dir.display()
        );
        execute("sh", ["-c", &line]).1
    };
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    // Whatever the umask and the mode that was there.
    fs::create_dir(at("wide")).unwrap();
    fs::set_permissions(at("wide"), Permissions::from_mode(0o777)).unwrap();
    symlink("linked", at("link")).unwrap();
    fs::create_dir(at("linked")).unwrap();
    for (given, made) in [("new", "new"), ("wide", "wide"), ("link", "linked")] {
        let output = init(&at(given), "");
        assert!(output.status.success(), "{given}: {output:?}");
        run(SNAPMARK, ["mount".into(), at(given), store.mnt()]);
        run(SNAPMARK, ["unmount".into(), store.mnt()]);
        assert_eq!(mode(&at(made)), 0o700, "{given}");
        let files = fs::read_dir(at(made)).unwrap().map(Result::unwrap);
        for file in files {
            assert_eq!(mode(&file.path()), 0o600, "{:?}", file.path());
        }
    }
    // Not where something is, nor through a link to nothing, nor over data.
    fs::create_dir(at("full")).unwrap();
    fs::write(at("full").join("thesis"), "years of work").unwrap();
    symlink("full", at("to-full")).unwrap();
    symlink("nowhere", at("dangling")).unwrap();
    fs::write(at("file"), "precious").unwrap();
    for taken in ["full", "to-full", "dangling", "file", "new"] {
        assert!(!init(&at(taken), "").status.success(), "{taken}");
    }
    assert!(!at("nowhere").exists());
    assert_eq!(fs::read_dir(at("full")).unwrap().count(), 1);
    let text_file = at("letters");
    fs::write(&text_file, "dear all, ".repeat(1 << 20)).unwrap();
    let before = print_of(&text_file);
    for more in [
        format!("--device {}", text_file.display()),
        format!("--journal {}", text_file.display()),
    ] {
        assert!(!init(&at("third"), &more).status.success(), "{more}");
        assert!(!at("third").exists(), "{more}");
        assert_eq!(print_of(&text_file), before, "{more}");
    }
    // What could not be finished leaves no mark on devices that were there.
    let devices = ["one", "two"].map(at);
    for device in &devices {
        File::create(device).unwrap().set_len(64 << 20).unwrap();
    }
    let both = devices.map(|device| format!("--device {}", device.display()));
    let both = both.join(" ");
    for more in [
        format!("{both} --journal {}", text_file.display()),
        format!("{both} --device {}", text_file.display()),
    ] {
        assert!(!init(&at("third"), &more).status.success(), "{more}");
        assert!(!at("third").exists(), "{more}");
    }
    let output = init(&at("third"), &both);
    assert!(output.status.success(), "{output:?}");
}

/// A command can give the pool what the administrator names, and nothing that is in use or that
/// holds data.
#[test]
fn devices_added_by_command() {
    if !able(&[]) {
        return;
    }
    let mut store = small();
    store.mount();
    write_at(&store.make("vm1.img", 1 << 20), 0, &noise(1, 100_000));
    let outside = store.dir().join("letters");
    fs::write(&outside, "dear all, ".repeat(1 << 20)).unwrap();
    symlink(store.dir().join("missing"), store.dir().join("dangling")).unwrap();
    // In the store no other name for it will do: with that, the next mount would refuse it.
    for name in ["far", "near"] {
        let path = store.dir().join(name);
        File::create(path).unwrap().set_len(64 << 20).unwrap();
    }
    symlink(store.dir().join("far"), store.store().join("link")).unwrap();
    fs::hard_link(store.dir().join("near"), store.store().join("name")).unwrap();
    let own = |name: &str| text(&store.store().join(name));
    let (letters, dangling) = (text(&outside), text(&store.dir().join("dangling")));
    let deep = (0..6).fold(store.dir().to_owned(), |dir, n: u8| {
        dir.join((b'a' + n).escape_ascii().to_string().repeat(200))
    });
    fs::create_dir_all(&deep).unwrap();
    let long = format!("{}:64MiB", text(&deep.join("pool")));
    let before: Vec<_> = [outside.clone()]
        .iter()
        .map(|path| print_of(path))
        .collect();
    let cases: Vec<String> = [
        // The store's own files, by every name.
        "journal",
        "catalog.log",
        "catalog.pages",
        "pool.img",
        "lock",
        "store.yaml",
    ]
    .iter()
    .flat_map(|name| [(*name).to_owned(), own(name)])
    .chain([
        // Out of the store.
        "../escaped:64MiB".to_owned(),
        "../../etc/passwd".to_owned(),
        "sub/../../escaped:64MiB".to_owned(),
        // Other names.
        "link".to_owned(),
        "name".to_owned(),
        // Data, and what is no device.
        letters,
        format!("{dangling}:64MiB"),
        "/dev/null".to_owned(),
        "/dev/tty".to_owned(),
        "/proc/self/mem".to_owned(),
        own(""),
        // Longer than the catalog can name.
        long,
    ])
    .collect();
    for case in &cases {
        let error = store.control(&format!("device-add {case}\n")).unwrap_err();
        let code = error.raw_os_error().unwrap();
        let known = [libc::EINVAL, libc::EIO, libc::EEXIST];
        assert!(known.contains(&code), "{case}: {error}");
    }
    assert!(!store.dir().join("escaped").exists());
    assert!(!store.dir().join("missing").exists());
    assert!(!deep.join("pool").exists());
    assert_eq!(print_of(&outside), before[0]);
    assert_eq!(store.status()["state"], "ok");
    assert_eq!(store.status()["devices"].as_array().unwrap().len(), 1);
    store.control("device-add more:64MiB\n").unwrap();
    let more = fs::metadata(store.store().join("more")).unwrap();
    assert_eq!(more.mode() & 0o777, 0o600);
    store.remount();
    assert!(read_at(&store.disk("vm1.img"), 0, 100_000) == noise(1, 100_000));
    store.unmount();
    run(SNAPMARK, ["check".into(), "--data".into(), store.store()]);
}

/// A store whose devices or journal are disks of its own would wait for itself.
#[test]
fn a_store_does_not_stand_on_its_own_mount() {
    if !able(&[]) {
        return;
    }
    let mut store = small();
    store.mount();
    let disk = store.make("vm1.img", 64 << 20);
    let looped = common::Loop::over(&disk);
    let cases = [
        text(&disk),
        format!("{}:64MiB", text(&store.disk("new"))),
        looped.device().to_owned(),
    ];
    for case in &cases {
        let error = store.control(&format!("device-add {case}\n")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{case}: {error}");
    }
    assert!(!store.disk("new").exists());
    looped.detach();
    store.unmount();
    assert_eq!(fs::read_dir(store.mnt()).unwrap().count(), 0);

    // A mount over files of its own would hide them from the next one.
    let hidden = |name: &str| text(&store.mnt().join(name));
    let device = format!("--device {}:64MiB", hidden("device"));
    let journal = format!("--size 64MiB --journal {}", hidden("journal"));
    let other = store.dir().join("other");
    fs::create_dir(&other).unwrap();
    for (name, more) in [("second", device), ("third", journal)] {
        let second = store.dir().join(name);
        let init = format!(
            "{SNAPMARK} init {} --journal-size 8MiB {more}",
            text(&second)
        );
        sh(&init);
        let (code, said) = run_failing(SNAPMARK, ["mount".into(), second.clone(), store.mnt()]);
        assert!(code == 2 && said.contains("would hide"), "{code}: {said}");
        run(SNAPMARK, ["mount".into(), second, other.clone()]);
        run(SNAPMARK, ["unmount".into(), other.clone()]);
    }
}

/// Settings that would take for ever, or all memory, to read.
#[test]
fn settings_that_are_a_trap_are_refused() {
    if !able(&[]) {
        return;
    }
    let store = small();
    let settings = store.store().join("store.yaml");
    let deep = format!("disks: {}1{}\n", "[".repeat(10_000), "]".repeat(10_000));
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let list = vec![format!("*a{}", level - 1); 9].join(", ");
        laughs += &format!("a{level}: &a{level} [{list}]\n");
    }
    laughs += "disks: *a11\n";
    let rules = "  - {match: x, priority: 1}\n".repeat(3000);
    let traps = [
        ("deep", deep),
        ("laughs", laughs),
        ("long", format!("disks:\n{rules}")),
        (
            "garbage",
            String::from_utf8_lossy(&noise(1, 100_000)).into_owned(),
        ),
        ("circle", "disks: &a [*a]\n".to_owned()),
        ("text", "\u{0}\u{1}: \u{feff}".to_owned()),
    ];
    for (what, text) in traps {
        fs::write(&settings, text).unwrap();
        // With so little memory that a bomb would show.
        let line = format!(
            "ulimit -v 2000000; exec timeout 60 {SNAPMARK} mount -f {} {}",
            store.store().display(),
            store.mnt().display()
        );
        let (_, output) = execute("sh", ["-c", &line]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{what}: {said}");
        assert!(
            said.contains("store.yaml") && said.len() < 10_000,
            "{what}: {said}"
        );
    }
}

/// A path given to a command leads to a disk of a mount, or nowhere.
#[test]
fn paths_of_commands_lead_into_a_mount_or_nowhere() {
    if !able(&[]) {
        return;
    }
    let store = TestStore::new();
    let disk = store.make("vm1.img", 1 << 20);
    let at = |name: &str| store.dir().join(name);
    // A link to the mount, and one to a disk, are as good as the path.
    symlink("mnt", at("link")).unwrap();
    symlink(&disk, at("disk")).unwrap();
    store.snapmark(["snapshot".into(), at("link").join("vm1.img"), "a".into()]);
    store.snapmark(["snapshot".into(), at("disk"), "b".into()]);
    // A directory that poses as a mount gets nothing, and nothing is done through it.
    fs::create_dir(at("evil")).unwrap();
    let control = at("evil").join(".control");
    fs::write(at("victim"), "precious").unwrap();
    let tricks: [&dyn Fn(); 3] = [
        &|| symlink(at("victim"), &control).unwrap(),
        &|| symlink(store.disk(".control"), &control).unwrap(),
        &|| rustix::fs::mknodat(CWD, &control, FileType::Fifo, Mode::RWXU, 0).unwrap(),
    ];
    for play in tricks {
        play();
        let words = ["delete".into(), at("evil").join("vm1.img")];
        run_failing(SNAPMARK, words);
        fs::remove_file(&control).unwrap();
    }
    assert_eq!(fs::read_to_string(at("victim")).unwrap(), "precious");
    // One argument is one name, whatever is in it.
    for name in [
        "x\ndelete vm1.img",
        "vm1.img@a force",
        "vm1.img,vm1.img",
        "a\tb",
    ] {
        for verb in ["delete", "rollback", "snapshot"] {
            let words: [PathBuf; 2] = [verb.into(), store.disk(name)];
            let (code, said) = run_failing(SNAPMARK, words);
            assert_eq!(code, 2, "{verb} {name:?}: {said}");
        }
    }
    let (_, said) = run_failing(
        SNAPMARK,
        [
            "device".into(),
            "add".into(),
            store.mnt(),
            PathBuf::from("x\ndelete vm1.img"),
        ],
    );
    assert!(said.contains("line"), "{said}");
    for name in ["vm1.img", "vm1.img@a", "vm1.img@b"] {
        assert!(store.disk(name).exists(), "{name}");
    }
}
