//! Snapshots that the daemon takes by itself, over a real mount.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use std::sync::{Arc, Mutex};

use common::commands::Around;
use common::engine::{Engine, Shape};
use common::model::new_disk;
use common::{TestStore, wait_until};
use snapmark::config::Settings;
use snapmark::control::Commands;
use snapmark::daemon::schedule::Schedules;

/// A mounted store with these schedules.
fn scheduled(schedules: &str) -> TestStore {
    let mut store = TestStore::unmounted(&["--size", "1GiB"]);
    set(&store, schedules);
    store.mount();
    store
}

fn set(store: &TestStore, schedules: &str) {
    let settings = store.store().join("store.yaml");
    let text = std::fs::read_to_string(&settings).unwrap();
    let text = text.split("\nsnapshots:").next().unwrap().to_owned();
    std::fs::write(&settings, format!("{text}\nsnapshots:\n{schedules}")).unwrap();
}

/// The names of a disk's snapshots, without the disk's.
fn snapshots(store: &TestStore, disk: &str) -> Vec<String> {
    let files = std::fs::read_dir(store.mnt()).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let of_disk =
        names.filter_map(|name| Some(name.strip_prefix(disk)?.strip_prefix('@')?.to_owned()));
    let mut found: Vec<String> = of_disk.collect();
    found.sort();
    found
}

fn of_schedule(store: &TestStore, disk: &str, schedule: &str) -> Vec<String> {
    let mut names = snapshots(store, disk);
    names.retain(|name| name.starts_with(&format!("{schedule}-2")));
    names
}

#[test]
fn snapshots_come_and_go_and_what_a_person_named_stays() {
    if !common::able(&[]) {
        return;
    }
    let store = scheduled("  - {name: often, disks: \"*.img\", every: 1s, keep: {last: 3}}\n");
    for disk in ["a.img", "b.img", "c.raw"] {
        store.make(disk, 1 << 20);
    }
    store.snapshot("a.img", "mine");
    wait_until("there are snapshots", || {
        of_schedule(&store, "a.img", "often").len() >= 2
    });
    let kept = of_schedule(&store, "a.img", "often").remove(0);
    store
        .control(&format!("rename a.img@{kept} a.img@keep-this"))
        .unwrap();
    // One that only looks like it: taken by a person, and old.
    store.snapshot("a.img", "often-2001-01-01T00-00-00Z");
    let first = of_schedule(&store, "b.img", "often").remove(0);
    wait_until("old ones go", || {
        !snapshots(&store, "b.img").contains(&first)
    });
    wait_until("both have the same", || {
        let (a, b) = (
            of_schedule(&store, "a.img", "often"),
            of_schedule(&store, "b.img", "often"),
        );
        b.len() == 3 && b.iter().all(|name| a.contains(name))
    });
    let a = snapshots(&store, "a.img");
    for stays in ["mine", "keep-this", "often-2001-01-01T00-00-00Z"] {
        assert!(a.contains(&stays.to_owned()), "{stays}: {a:?}");
    }
    assert!(snapshots(&store, "c.raw").is_empty());
}

#[test]
fn what_was_missed_is_made_up_for_once() {
    if !common::able(&[]) {
        return;
    }
    let mut store = scheduled("  - {name: later, disks: \"*\", every: 8784h}\n");
    store.make("a.img", 1 << 20);
    store.unmount();
    assert!(store.store().join("schedules.yaml").exists());
    // As if it had been away for years.
    let file = store.store().join("schedules.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let last = text.lines().find(|line| line.contains("last:")).unwrap();
    std::fs::write(&file, text.replace(last, "  last: 1000000000")).unwrap();
    store.mount();
    wait_until("it is made up for", || {
        !of_schedule(&store, "a.img", "later").is_empty()
    });
    std::thread::sleep(std::time::Duration::from_secs(2));
    store.remount();
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(of_schedule(&store, "a.img", "later").len(), 1);
}

#[test]
fn hooks_decide_and_are_told() {
    if !common::able(&[]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let told = |what: &str| {
        format!(
            "echo {what} $SNAPMARK_SCHEDULE $SNAPMARK_DISKS $SNAPMARK_RESULT >> {}",
            log.display()
        )
    };
    let store = scheduled(&format!(
        "  - {{name: good, disks: \"a*\", every: 1s, before: \"{}\", after: \"{}\"}}\n\
         \x20 - {{name: bad, disks: \"b*\", every: 1s, before: \"exit 1\", after: \"{}\"}}\n",
        told("before"),
        told("after"),
        told("after"),
    ));
    store.make("a.img", 1 << 20);
    store.make("b.img", 1 << 20);
    wait_until("hooks are run", || {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        [
            "before good a.img",
            "after good a.img ok",
            "after bad b.img failed",
        ]
        .iter()
        .all(|line| said.lines().any(|said| said.trim() == *line))
    });
    assert!(!of_schedule(&store, "a.img", "good").is_empty());
    assert!(snapshots(&store, "b.img").is_empty());
}

/// What the hook before a snapshot froze is thawed, also where the daemon dies in between: by the next one.
#[test]
fn the_hook_after_it_is_run_by_the_next_daemon_if_need_be() {
    if !common::able(&[]) {
        return;
    }
    let mut store = TestStore::unmounted(&["--size", "1GiB"]);
    let (frozen, thawed) = (store.dir().join("frozen"), store.dir().join("thawed"));
    set(
        &store,
        &format!(
            "  - {{name: n, disks: \"a*\", every: 1s, before: \"touch {}; sleep 100\", \
             after: \"echo $SNAPMARK_NAME $SNAPMARK_DISKS $SNAPMARK_RESULT >> {}\"}}\n",
            frozen.display(),
            thawed.display()
        ),
    );
    store.mount();
    store.make("a.img", 1 << 20);
    wait_until("it is frozen", || frozen.exists());
    store.kill9();
    assert!(!thawed.exists());
    std::fs::remove_file(&frozen).unwrap();
    store.mount();
    wait_until("it is thawed", || thawed.exists());
    let said = std::fs::read_to_string(&thawed).unwrap();
    let words: Vec<&str> = said.split_whitespace().collect();
    assert!(words[0].starts_with("n-2"), "{said}");
    assert_eq!(words[1..3], ["a.img", "failed"]);
    // It is owed once: an orderly stop runs its own.
    wait_until("it is frozen again", || frozen.exists());
    store.unmount();
    assert_eq!(std::fs::read_to_string(&thawed).unwrap().lines().count(), 2);
    set(
        &store,
        "  - {name: n, disks: \"none\", every: 1s, after: \"exit 1\"}\n",
    );
    store.mount();
    assert!(!store.logged().contains("'after' failed"));
}

/// It is told what came of the snapshot, also where the daemon died after that was written down.
#[test]
fn the_hook_after_it_is_told_of_a_snapshot_that_was_taken() {
    for (taken, result) in [
        ("n-2001-09-09T01-46-40Z", "ok"),
        ("n-2000-01-01T00-00-00Z", "failed"),
    ] {
        let engine = Engine::new(Shape::default());
        let dir = tempfile::tempdir().unwrap();
        let (file, out) = (dir.path().join("schedules.yaml"), dir.path().join("out"));
        let text = format!(
            "n:\n  last: 4000000000\n  owed: {{name: n-2001-09-09T01-46-40Z, disks: a}}\n  taken:\n  \
             - {{disk: a, name: {taken}, identity: [1, 2]}}\n"
        );
        std::fs::write(&file, text).unwrap();
        let after = format!("echo $SNAPMARK_RESULT > {}", out.display());
        let rule = format!("  - {{name: n, disks: none, every: 8784h, after: \"{after}\"}}\n");
        let schedules = with_engine(&engine, &rule, |_, _| {}, &file);
        let said = || std::fs::read_to_string(&out).unwrap_or_default();
        wait_until("it is run", || said().trim() == result);
        drop(schedules);
        assert!(
            !std::fs::read_to_string(&file)
                .unwrap()
                .contains("n-2001-09-09T01-46-40Z, disks")
        );
    }
}

/// As if it had died right after it had written what it was about to take.
fn announce(store: &TestStore, schedule: &str, name: &str) {
    let file = store.store().join("schedules.yaml");
    let text = format!(
        "{schedule}:\n  last: 1000000000\n  announced: {name}\n  disks: [a.img]\n  taken: []\n"
    );
    std::fs::write(file, text).unwrap();
}

/// What it is about to take stands in the store's file before it is taken: so it knows what is its own
/// where it died in between, and what it still has to take.
#[test]
fn what_it_was_about_to_take_is_its_own_or_still_due() {
    if !common::able(&[]) {
        return;
    }
    let mut store = TestStore::unmounted(&["--size", "1GiB"]);
    store.mount();
    for disk in ["a.img", "b.img"] {
        store.make(disk, 1 << 20);
    }
    // Taken, of the disk that was announced; and of another, by somebody else.
    let name = "n-2001-09-09T01-46-40Z";
    store.snapshot("a.img", name);
    store.snapshot("b.img", name);
    store.unmount();
    set(
        &store,
        "  - {name: n, disks: \"a*\", every: 1s, keep: {last: 1}}\n",
    );
    announce(&store, "n", name);
    store.mount();
    wait_until("it is deleted in its turn", || {
        let there = snapshots(&store, "a.img");
        !there.is_empty() && !there.contains(&name.to_owned())
    });
    assert_eq!(snapshots(&store, "b.img"), [name]);
    store.unmount();
    // Not taken.
    set(&store, "  - {name: m, disks: \"b*\", every: 8784h}\n");
    announce(&store, "m", "m-2001-09-09T01-46-40Z");
    store.mount();
    wait_until("it is made up for", || {
        !of_schedule(&store, "b.img", "m").is_empty()
    });
}

/// A snapshot that a hook took, of whatever disk and by whatever name, is not the schedule's.
#[test]
fn what_a_hook_took_stays() {
    if !common::able(&[]) {
        return;
    }
    let mut store = TestStore::unmounted(&["--size", "1GiB"]);
    store.mount();
    for disk in ["a.img", "person.img"] {
        store.make(disk, 1 << 20);
    }
    store.unmount();
    let control = store.disk(".control");
    // Of another disk, and once of its own, so that the schedule's fails.
    let before = format!(
        "echo snapshot person.img $SNAPMARK_NAME > {control}; test -e {mark} || echo snapshot a.img \
         $SNAPMARK_NAME > {control}; touch {mark}",
        control = control.display(),
        mark = store.dir().join("mark").display(),
    );
    set(
        &store,
        &format!(
            "  - {{name: q, disks: \"a*\", every: 1s, keep: {{last: 1}}, before: \"{before}\"}}\n"
        ),
    );
    store.mount();
    wait_until("it has taken and deleted some", || {
        of_schedule(&store, "person.img", "q").len() >= 5
    });
    let (all, own) = (snapshots(&store, "person.img"), snapshots(&store, "a.img"));
    assert!(own.contains(&all[0]), "the hook's own: {own:?} {all:?}");
    assert!(own.len() <= 3, "{own:?}");
}

/// A stop during the hook before it: the one after it is run all the same, and it is still due.
#[test]
fn a_stop_lets_the_hook_after_it_run_and_the_snapshot_due() {
    if !common::able(&[]) {
        return;
    }
    let mut store = TestStore::unmounted(&["--size", "1GiB"]);
    store.mount();
    store.make("a.img", 1 << 20);
    store.unmount();
    let (begun, after) = (store.dir().join("begun"), store.dir().join("after"));
    let hooks = format!(
        "before: \"touch {}; sleep 100\", after: \"sleep 0.5; echo $SNAPMARK_RESULT > {}\"",
        begun.display(),
        after.display()
    );
    let rule = "name: n, disks: \"*\", every: 8784h";
    set(&store, &format!("  - {{{rule}, {hooks}}}\n"));
    let file = store.store().join("schedules.yaml");
    std::fs::write(&file, "n:\n  last: 1000000000\n").unwrap();
    store.mount();
    wait_until("the hook is at it", || begun.exists());
    store.unmount();
    assert_eq!(std::fs::read_to_string(&after).unwrap(), "failed\n");
    set(&store, &format!("  - {{{rule}}}\n"));
    store.mount();
    wait_until("it is made up for", || {
        !of_schedule(&store, "a.img", "n").is_empty()
    });
}

#[test]
fn wrong_schedules_are_refused_with_their_place() {
    if !common::able(&[]) {
        return;
    }
    for (schedules, why) in [
        ("  - {name: n, disks: \"*\"}\n", "'every' or 'at'"),
        (
            "  - {name: n, disks: \"*\", every: 1m, at: \"@daily\"}\n",
            "'every' or 'at'",
        ),
        (
            "  - {name: n, disks: \"*\", every: 1m, keep: {}}\n",
            "keeps nothing",
        ),
        ("  - {name: a/b, disks: \"*\", every: 1m}\n", "'/'"),
        (
            "  - {name: n, disks: \"*\", at: \"99 * * * *\"}\n",
            "0 to 59",
        ),
        (
            "  - {name: n, disks: a, every: 1m}\n  - {name: n, disks: b, every: 1m}\n",
            "two schedules",
        ),
    ] {
        let store = TestStore::unmounted(&["--size", "1GiB"]);
        set(&store, schedules);
        let (store_dir, mnt) = (common::text(&store.store()), common::text(&store.mnt()));
        let (_, said) = common::run_failing(common::SNAPMARK, ["mount", &store_dir, &mnt]);
        assert!(said.contains(why) && said.contains("store.yaml:"), "{said}");
    }
}

/// A schedule over a store in memory, until what is waited for is there.
fn with_engine(
    engine: &Engine,
    rules: &str,
    before: impl Fn(&[String], Option<&str>) + Send + Sync + 'static,
    file: &std::path::Path,
) -> Schedules {
    let text = format!("snapshots:\n{rules}");
    let rules = Settings::parse("test", text.as_bytes()).unwrap().snapshots;
    let commands: Arc<dyn Commands> = Arc::new(Around::new(&engine.volumes, before));
    Schedules::start(&rules, file.to_owned(), &engine.volumes, &commands).unwrap()
}

/// Disks that snapshots were asked of, and what the file said then.
type Seen = Mutex<Vec<(Vec<String>, String)>>;

/// Names and disks are in the file before there is a snapshot; and disks that go away between the two are
/// no reason to take none of the others.
#[test]
fn it_is_announced_first_and_taken_of_the_disks_that_there_are() {
    let engine = Engine::new(Shape::default());
    let long = "l".repeat(240);
    for disk in ["a", "b", long.as_str()] {
        engine.create(new_disk(disk, 1 << 20)).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("schedules.yaml");
    std::fs::write(&file, "n:\n  last: 1000000000\n").unwrap();
    let (seen, volumes, noted) = (Arc::default(), Arc::clone(&engine.volumes), file.clone());
    let told: Arc<Seen> = Arc::clone(&seen);
    let schedules = with_engine(
        &engine,
        "  - {name: n, disks: \"*\", every: 8784h}\n",
        move |disks, _| {
            let text = std::fs::read_to_string(&noted).unwrap();
            let mut told = told.lock().unwrap();
            if told.is_empty() {
                // Listed, and gone when its snapshot is taken.
                volumes.remove("b").unwrap();
            }
            told.push((disks.to_vec(), text));
        },
        &file,
    );
    let taken = || {
        let names = engine.list().into_iter().map(|(name, _)| name);
        names
            .filter(|name| name.contains("@n-"))
            .collect::<Vec<_>>()
    };
    wait_until("it is taken", || !taken().is_empty());
    drop(schedules);
    let taken = taken();
    assert!(
        taken.len() == 1 && taken[0].starts_with("a@n-"),
        "{taken:?}"
    );
    let name = taken[0].strip_prefix("a@").unwrap();
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 2);
    for ((disks, text), expected) in seen.iter().zip([vec!["a", "b"], vec!["a"]]) {
        assert_eq!(disks, &expected);
        assert!(text.contains(&format!("announced: {name}")), "{text}");
        assert!(text.contains("last: 1000000000"), "still due: {text}");
        let listed = expected
            .iter()
            .all(|disk| text.contains(&format!("  - {disk}\n")));
        assert!(listed, "{text}");
    }
}

/// Once the daemon stops nothing more begins, and what is cut short is not noted as done, but undone.
#[test]
fn a_stop_begins_nothing_more() {
    let engine = Engine::new(Shape::default());
    engine.create(new_disk("a", 1 << 20)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("schedules.yaml");
    std::fs::write(&file, "m:\n  last: 1000000000\nn:\n  last: 1000000000\n").unwrap();
    let hooks = format!(
        "before: \"touch {0}/begun-$SNAPMARK_SCHEDULE; sleep 100\", \
         after: \"touch {0}/after-$SNAPMARK_SCHEDULE\"",
        dir.path().display()
    );
    let rules = ["m", "n"]
        .map(|name| format!("  - {{name: {name}, disks: \"*\", every: 8784h, {hooks}}}\n"));
    let schedules = with_engine(&engine, &rules.concat(), |_, _| {}, &file);
    let are_there =
        |what: &str| ["m", "n"].map(|name| dir.path().join(format!("{what}-{name}")).exists());
    wait_until("a hook is at it", || are_there("begun") != [false; 2]);
    drop(schedules);
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text.matches("last: 1000000000").count(), 2, "{text}");
    let begun = are_there("begun");
    assert_ne!(begun, [true; 2], "the other one was never begun");
    assert_eq!(are_there("after"), begun);
    assert_eq!(engine.list().len(), 1);
}

/// One's command may take long, or fail: those without commands do not wait for it, those with commands do, and
/// the status tells.
#[test]
fn hooks_hold_up_only_hooks_and_failures_are_shown() {
    let engine = Engine::new(Shape::default());
    engine.create(new_disk("a", 1 << 20)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (file, log) = (dir.path().join("schedules.yaml"), dir.path().join("log"));
    let due = ["a", "b", "c", "d"].map(|name| format!("{name}:\n  last: 1000000000\n"));
    std::fs::write(&file, due.concat()).unwrap();
    let (begun, go) = (dir.path().join("begun"), dir.path().join("go"));
    let hooks = format!(
        "before: \"echo before >> {0}; touch {1}; until test -e {2}; do sleep 0.02; done; CODE\", \
         after: \"echo after >> {0}; test $SNAPMARK_SCHEDULE != d\"",
        log.display(),
        begun.display(),
        go.display()
    );
    let always = "disks: \"*\", every: 8784h";
    let rules = [
        format!(
            "  - {{name: a, {always}, {}}}\n",
            hooks.replace("CODE", "exit 0")
        ),
        format!("  - {{name: b, {always}}}\n"),
        format!(
            "  - {{name: c, {always}, {}}}\n",
            hooks.replace("CODE", "exit 3")
        ),
        format!(
            "  - {{name: d, {always}, {}}}\n",
            hooks.replace("CODE", "exit 0")
        ),
    ]
    .concat();
    let schedules = with_engine(&engine, &rules, |_, _| {}, &file);
    let shown = || engine.status().schedules;
    let are_over = || shown().iter().filter(|one| one.last.is_some()).count();
    wait_until("one has begun, and b is done", || {
        begun.exists() && are_over() == 1
    });
    let now: Vec<_> = shown().into_iter().map(|one| one.last.is_some()).collect();
    assert_eq!(now, [false, true, false, false]);
    std::fs::write(&go, "").unwrap();
    wait_until("all are done", || {
        are_over() == 4 && shown()[3].error.is_some()
    });
    let said: Vec<_> = shown()
        .into_iter()
        .map(|one| (one.name, one.error, one.snapshots, one.next.is_some()))
        .collect();
    let of = |name: &str, error: Option<&str>, snapshots| {
        (name.to_owned(), error.map(str::to_owned), snapshots, true)
    };
    let (c, d) = (
        "'before' failed: exit status: 3",
        "'after' failed: exit status: 1",
    );
    let all = [
        of("a", None, 1),
        of("b", None, 1),
        of("c", Some(c), 0),
        of("d", Some(d), 1),
    ];
    assert_eq!(said, all);
    drop(schedules);
    // None in the middle of another.
    let log = std::fs::read_to_string(&log).unwrap();
    assert_eq!(log, "before\nafter\n".repeat(3));
    assert!(shown().is_empty(), "nobody is there to tell");
    // The next daemon knows.
    let schedules = with_engine(&engine, &rules, |_, _| panic!("none is due"), &file);
    wait_until("it is told again", || shown().len() == 4);
    assert_eq!(shown()[2].error.as_deref(), Some(c));
    drop(schedules);
}

/// What a crash left frozen is thawed before anybody freezes again, whoever is due.
#[test]
fn what_a_crash_left_is_undone_before_any_schedule_begins() {
    let engine = Engine::new(Shape::default());
    engine.create(new_disk("a", 1 << 20)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (file, log) = (dir.path().join("schedules.yaml"), dir.path().join("log"));
    let due = ["a", "b", "c"].map(|name| format!("{name}:\n  last: 1000000000\n"));
    let owed = "z:\n  last: 1000000000\n  owed:\n    name: z-2026-11-28T04-00-00Z\n    disks: a\n";
    std::fs::write(&file, due.concat() + owed).unwrap();
    let rules = ["a", "b", "c", "z"].map(|name| {
        let log = log.display();
        format!(
            "  - {{name: {name}, disks: \"*\", every: 8784h, before: \"echo before >> {log}\", \
             after: \"sleep 0.1; echo after $SNAPMARK_NAME >> {log}\"}}\n"
        )
    });
    let schedules = with_engine(&engine, &rules.concat(), |_, _| {}, &file);
    let lines = || std::fs::read_to_string(&log).unwrap_or_default();
    wait_until("all are done", || lines().lines().count() == 9);
    drop(schedules);
    assert!(
        lines().starts_with("after z-2026-11-28T04-00-00Z\nbefore\n"),
        "{}",
        lines()
    );
}

/// A snapshot that was there already is not its own, whatever happens after.
#[test]
fn a_name_that_is_taken_is_not_announced() {
    let engine = Engine::new(Shape::default());
    engine.create(new_disk("a", 1 << 20)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (file, go) = (dir.path().join("schedules.yaml"), dir.path().join("go"));
    std::fs::write(&file, "n:\n  last: 1000000000\n").unwrap();
    let name = dir.path().join("name");
    let hook = format!(
        "before: \"echo $SNAPMARK_NAME > {name}.new; mv {name}.new {name}; until test -e {go}; do sleep 0.02; done\"",
        name = name.display(),
        go = go.display()
    );
    let rule = format!("  - {{name: n, disks: \"*\", every: 8784h, {hook}}}\n");
    let asked = |_: &[String], _: Option<&str>| panic!("the name is taken");
    let schedules = with_engine(&engine, &rule, asked, &file);
    wait_until("it has a name", || name.exists());
    let text = std::fs::read_to_string(&name).unwrap();
    engine.snapshot(&["a"], Some(text.trim()), true).unwrap();
    std::fs::write(&go, "").unwrap();
    wait_until("it is done with that", || {
        !std::fs::read_to_string(&file)
            .unwrap()
            .contains("last: 1000000000")
    });
    drop(schedules);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(!text.contains("identity"), "nothing is its own: {text}");
}
