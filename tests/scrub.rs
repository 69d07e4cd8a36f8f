//! `snapmark scrub` over a real mount: what it says, its exit codes, and that it goes on after the
//! store was unmounted.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use common::{
    Random, Running, SNAPMARK, TestStore, able, execute, noise, read_at, run, run_failing, text,
    wait_until, write_at,
};
use serde_json::Value;

const MIB: usize = 1 << 20;

/// A scrub with these options: its exit code, and what it printed.
fn scrub(store: &TestStore, options: &[&str]) -> (i32, String) {
    let mount = text(&store.mnt());
    let arguments = ["scrub", &mount].into_iter().chain(options.iter().copied());
    let (_, output) = execute(SNAPMARK, arguments);
    let words = String::from_utf8(output.stdout).unwrap();
    (output.status.code().unwrap(), words)
}

/// What `--status --json` says.
fn status(store: &TestStore) -> Value {
    serde_json::from_str(&scrub(store, &["--status", "--json"]).1).unwrap()
}

/// Where these bytes lie in a file.
fn find(file: &Path, bytes: &[u8]) -> u64 {
    let whole = std::fs::read(file).unwrap();
    let mut blocks = whole.chunks_exact(4096);
    blocks
        .position(|block| block == bytes)
        .expect("it is there") as u64
        * 4096
}

#[test]
fn it_tells_what_is_damaged() {
    if !able(&[]) {
        return;
    }
    let mut store = TestStore::with(&["--size", "128MiB"]);
    let disk = store.make("vm1.img", 16 << 20);
    let data = noise(5, 4 * MIB);
    write_at(&disk, 0, &data);
    store.snapshot("vm1.img", "a");
    store.flush();
    let (code, words) = scrub(&store, &[]);
    assert_eq!(code, 0, "{words}");
    assert!(
        words.contains("scrub    done, 4 MiB of 4 MiB checked, 0 damaged blocks"),
        "{words}"
    );
    // Nothing of the page cache hides what becomes of the medium.
    assert_eq!(read_at(&disk, 0, 4 * MIB), data);

    let pool = store.store().join("pool.img");
    let at = find(&pool, &data[MIB..MIB + 4096]);
    let good = read_at(&pool, at, 4096);
    write_at(&pool, at + 100, b"rot");
    // A path in the mount does as well.
    let (shown, output) = execute(SNAPMARK, ["scrub", &text(&disk), "--json"]);
    assert_eq!(output.status.code(), Some(2), "{shown}");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&found["state"], &found["damaged"]),
        (&"done".into(), &1.into())
    );
    let problem = &found["problems"][0];
    assert_eq!(problem["offset"], MIB as u64);
    assert_eq!(
        problem["touches"],
        serde_json::json!(["vm1.img@a", "vm1.img"])
    );
    assert_eq!(problem["path"], text(&pool));
    let (code, words) = scrub(&store, &["--status"]);
    assert_eq!(code, 2);
    assert!(
        words.starts_with("DAMAGE: block ") && words.contains("vm1.img@a, vm1.img"),
        "{words}"
    );
    let logged = store.logged();
    assert!(
        logged.contains("scrub: damaged: block ") && logged.contains("vm1.img@a"),
        "{logged}"
    );
    let stats = std::fs::read_to_string(store.disk(".stats")).unwrap();
    for line in [
        "snapmark_scrub_state{state=\"done\"} 1",
        "snapmark_scrub_damaged_blocks 1",
        "snapmark_scrub_checked_bytes 4194304",
    ] {
        assert!(stats.contains(line), "{line}: {stats}");
    }
    assert_eq!(store.status()["scrub"]["damaged"], 1);
    // The same as the offline check says; and what was found is still known after a restart.
    store.unmount();
    let (code, words) = run_failing(SNAPMARK, ["check", "--data", &text(&store.store())]);
    assert_eq!(code, 2, "{words}");
    store.mount();
    assert_eq!(status(&store)["problems"][0], *problem);

    write_at(&pool, at, &good);
    assert_eq!(scrub(&store, &[]).0, 0);
    assert_eq!(status(&store)["problems"], serde_json::json!([]));
    store.unmount();
    let (code, words) = scrub(&store, &[]);
    assert_eq!(code, 3, "not mounted: {words}");
    assert_eq!(
        execute(SNAPMARK, ["scrub", "--nonsense"]).1.status.code(),
        Some(3)
    );
}

#[test]
fn it_waits_and_goes_on_and_outlives_the_mount() {
    if !able(&[]) {
        return;
    }
    let mut store = TestStore::with(&["--size", "128MiB"]);
    let disk = store.make("vm1.img", 16 << 20);
    write_at(&disk, 0, &noise(6, 8 * MIB));
    store.flush();
    // A byte a second: it reads once, and then for years not.
    let (code, words) = scrub(&store, &["--background", "--rate", "1"]);
    assert_eq!(code, 0, "{words}");
    wait_until("it reads", || status(&store)["checked"].as_u64() > Some(0));
    assert_eq!(status(&store)["total"], 8 << 20);
    let refused = store.control("scrub start\n").unwrap_err();
    assert_eq!(
        refused.raw_os_error(),
        Some(rustix::io::Errno::BUSY.raw_os_error())
    );
    assert_eq!(
        store.control("scrub dance\n").unwrap_err().raw_os_error(),
        Some(22)
    );
    // Killed before it came anywhere: that it began is known.
    store.kill9();
    store.mount();
    let now = status(&store);
    assert_eq!(
        (&now["state"], &now["rate"]),
        (&"running".into(), &1.into()),
        "{now}"
    );
    assert_eq!(scrub(&store, &["--pause"]).0, 0);
    store.remount();
    assert_eq!(status(&store)["state"], "paused");
    store.kill9();
    store.mount();
    assert_eq!(status(&store)["state"], "paused");
    assert_eq!(scrub(&store, &["--resume"]).0, 0);
    assert_eq!(status(&store)["state"], "running");
    // Someone waits for it, and it is stopped under him.
    let mut waiting = Running::sh(&format!(
        "{SNAPMARK} scrub {0} > {1} 2>&1; echo never",
        text(&store.mnt()),
        text(&store.dir().join("waiting"))
    ));
    let seen = || std::fs::read_to_string(store.dir().join("waiting")).unwrap_or_default();
    wait_until("he waits", || seen().contains("running already"));
    assert_eq!(scrub(&store, &["--stop"]).0, 0);
    assert_eq!(waiting.0.wait().unwrap().code(), Some(3), "{}", seen());
    assert!(seen().contains("stopped before its end"), "{}", seen());
    assert_eq!(
        scrub(&store, &["--stop"]).0,
        3,
        "nothing is there to be stopped"
    );
    run(SNAPMARK, ["scrub", &text(&store.mnt()), "--rate", "1GiB/s"]);
    assert_eq!(status(&store)["rate"], 1 << 30);
}

/// A guest that tries again for ever must not fill the host with lines of the log.
#[test]
fn what_can_not_be_read_is_logged_once() {
    if !able(&[]) {
        return;
    }
    let store = TestStore::with(&["--size", "128MiB"]);
    let disk = store.make("vm1.img", 16 << 20);
    let data = noise(5, MIB);
    write_at(&disk, 0, &data);
    store.flush();
    let pool = store.store().join("pool.img");
    for block in [3, 4] {
        let at = find(&pool, &data[block * 4096..][..4096]);
        write_at(&pool, at + 100, b"rot");
    }
    let file = std::fs::File::open(&disk).unwrap();
    let mut buf = [0; 4096];
    for _ in 0..300 {
        for block in [3, 4] {
            let read = std::os::unix::fs::FileExt::read_at(&file, &mut buf, block * 4096);
            assert_eq!(read.unwrap_err().raw_os_error(), Some(5));
        }
    }
    let logged = store.logged();
    let lines = logged.matches("vm1.img from offset").count();
    assert_eq!(lines, 2, "{logged}");
    // The disk's offset, and the place on the device.
    for words in ["offset 12288", "offset 16384"] {
        assert!(logged.contains(words), "{logged}");
    }
}

/// The page cache, the medium and writers in between: a read past the cache must not find what is
/// not there yet.
#[test]
fn it_cries_no_wolf_while_the_mount_is_written() {
    if !able(&[]) {
        return;
    }
    let store = TestStore::with(&["--size", "256MiB"]);
    let disks = ["a.img", "b.img"].map(|name| store.make(name, 16 << 20));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (seed, disk) in (0..).zip(&disks) {
            let stop = &stop;
            scope.spawn(move || {
                let mut random = Random(seed);
                while !stop.load(Relaxed) {
                    let len = [4096, 8192, MIB][random.below(3) as usize];
                    let offset = random.below((15 << 20) / 4096) * 4096;
                    write_at(disk, offset, &noise(random.next(), len));
                }
            });
        }
        let _stop = Stop(&stop);
        for turn in 0..6 {
            store.snapshot("a.img", &turn.to_string());
            let (code, words) = scrub(&store, &["--rate", "0"]);
            assert_eq!(code, 0, "turn {turn}: {words}");
        }
    });
    assert_eq!(scrub(&store, &[]).0, 0);
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}
