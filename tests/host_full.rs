//! A store on a host's file system that is smaller than the pool, and fills up: writes wait or are
//! refused, nothing acknowledged is lost, and all goes on when there is space again. And a file
//! system on a disk of a pool that is full.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;
#[path = "common/stamps.rs"]
#[allow(dead_code)]
mod stamps;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use common::{Loop, Mounted, SNAPMARK, TestStore, execute, noise, run, run_failing, text};
use stamps::open_direct;

const MIB: u64 = 1 << 20;

/// A store of 1 GiB on an ext4 of 112 MiB, of which less than the half is left.
struct Small {
    store: TestStore,
    host: Option<Mounted>,
}

impl Small {
    fn new() -> Self {
        let mut store = TestStore::nothing();
        let image = store.dir().join("host.img");
        File::create_new(&image)
            .unwrap()
            .set_len(112 * MIB)
            .unwrap();
        run("mkfs.ext4", ["-q", "-F", "-m", "0", &text(&image)]);
        let host = Mounted::new(&image, store.store(), "loop");
        let sizes = [
            "--size",
            "1GiB",
            "--journal-size",
            "16MiB",
            "--cache-size",
            "8MiB",
        ];
        let arguments = ["init".to_owned(), text(&store.store())];
        run(
            SNAPMARK,
            arguments.into_iter().chain(sizes.map(str::to_owned)),
        );
        let settings = store.store().join("store.yaml");
        let lines = std::fs::read_to_string(&settings).unwrap();
        let lines = lines.replace("#patience: 60s", "patience: 1s");
        assert!(lines.contains("\n  patience: 1s"));
        std::fs::write(&settings, lines).unwrap();
        std::fs::write(store.store().join("ballast"), noise(9, 16 << 20)).unwrap();
        store.mount();
        let host = Some(host);
        Self { store, host }
    }

    /// What `.status` says of the state; `snapmark status` would end with a failure.
    fn state(&self) -> String {
        let status = std::fs::read_to_string(self.store.disk(".status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("state: "));
        line.unwrap().trim_matches(['\'', '"']).to_owned()
    }

    fn metric(&self, name: &str) -> f64 {
        let stats = std::fs::read_to_string(self.store.disk(".stats")).unwrap();
        let value = stats.lines().find_map(|line| line.strip_prefix(name));
        value
            .unwrap_or_else(|| panic!("{name} in {stats}"))
            .trim()
            .parse()
            .unwrap()
    }
}

impl Drop for Small {
    /// The daemon first, then the host's file system, and then the directory that it is in.
    fn drop(&mut self) {
        self.store.end();
        drop(self.host.take());
    }
}

/// A disk, and which of its MiB were acknowledged.
struct Disk {
    file: File,
    path: PathBuf,
    acked: Vec<u64>,
    seed: u64,
}

impl Disk {
    fn new(store: &TestStore, name: &str, seed: u64) -> Self {
        let path = store.make(name, 512 * MIB);
        Self {
            file: open_direct(&path, true).unwrap(),
            path,
            acked: Vec::new(),
            seed,
        }
    }

    fn data(&self, at: u64) -> Vec<u8> {
        noise(self.seed * 1000 + at, MIB as usize)
    }

    /// Writes the MiB; says whether there was space.
    fn write(&mut self, at: u64) -> bool {
        let data = self.data(at);
        let half = MIB as usize / 2;
        // In pieces of a segment and in small ones: by reference, and through the cache.
        let mut done = self.file.write_all_at(&data[..half], at * MIB);
        for (n, small) in data[half..].chunks(64 << 10).enumerate() {
            let from = at * MIB + (half + n * (64 << 10)) as u64;
            done = done.and_then(|()| self.file.write_all_at(small, from));
        }
        match done {
            Ok(()) => self.acked.push(at),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
                return false;
            }
        }
        true
    }

    /// Writes on until there is no space; returns how many MiB were written.
    fn fill(&mut self, from: u64) -> u64 {
        let fits = (from..512).take_while(|at| self.write(*at)).count() as u64;
        assert!(fits < 200, "the host is never full");
        fits
    }

    #[track_caller]
    fn check(&self) {
        for at in &self.acked {
            let found = common::read_at(&self.path, at * MIB, MIB as usize);
            assert!(
                found == self.data(*at),
                "MiB {at} of {}",
                self.path.display()
            );
        }
    }
}

#[test]
fn p5_p7_a_full_host_pauses_the_store_and_it_goes_on_by_itself() {
    if !common::able(&[("mkfs.ext4", "e2fsprogs")]) {
        return;
    }
    let mut small = Small::new();
    let mut a = Disk::new(&small.store, "a.img", 1);
    let written = a.fill(0);
    eprintln!("{written} MiB fit");
    common::wait_until("the pause shows", || small.state().starts_with("paused: "));

    // It says so, and what to do.
    let (code, said) = run_failing(SNAPMARK, ["status".into(), text(&small.store.mnt())]);
    assert_eq!(code, 6, "{said}");
    assert!(said.starts_with("PAUSED: no space on the host"), "{said}");
    assert!(
        said.contains("pool.img") && said.contains("device add"),
        "{said}"
    );
    assert_eq!(small.metric("snapmark_state{state=\"paused\"}"), 1.0);
    assert!(
        small
            .store
            .logged()
            .contains("paused, no space on the host")
    );
    common::wait_until("a warning of the file system", || {
        small.store.logged().contains("the file system of")
    });

    // Reads, syncs and snapshots go on; what waits is in the journal.
    a.file.sync_all().unwrap();
    small.store.snapshot("a.img", "full");
    a.check();
    let queued = small.metric("snapmark_cache_queue_bytes ");
    assert!(queued > 0.0);

    // There is space again, and nobody has to do anything.
    std::fs::remove_file(small.store.store().join("ballast")).unwrap();
    common::wait_until("it goes on", || small.state() == "ok");
    let more = a.fill(200);
    eprintln!("{more} MiB more fit");
    assert!(more >= 8, "{more}");
    a.check();
    common::wait_until("the pause shows", || small.state().starts_with("paused: "));

    // Full again, and the daemon dies.
    drop(std::mem::replace(
        &mut a.file,
        File::open("/dev/null").unwrap(),
    ));
    small.store.kill9();
    small.store.mount();
    a.check();

    // A deletion makes space.
    let acked = std::mem::take(&mut a.acked);
    std::fs::remove_file(small.store.disk("a.img@full")).unwrap();
    std::fs::remove_file(small.store.disk("a.img")).unwrap();
    common::wait_until("the deletion made space", || {
        small.state() == "ok" && small.metric("snapmark_pool_used_bytes ") < 1e6
    });
    let mut b = Disk::new(&small.store, "b.img", 2);
    let fits = b.fill(0);
    eprintln!("{fits} MiB fit after the deletion of {}", acked.len());
    assert!(fits >= 16, "{fits}");
    b.check();

    // Unmounting comes to an end, though not all is destaged, and loses nothing.
    b.file.sync_all().unwrap();
    drop(std::mem::replace(
        &mut b.file,
        File::open("/dev/null").unwrap(),
    ));
    let (_, unmounted) = execute(SNAPMARK, ["unmount".into(), text(&small.store.mnt())]);
    eprintln!("unmounted: {unmounted:?}");
    small.store.crashed();
    let report = run(
        SNAPMARK,
        ["check".into(), "--data".into(), text(&small.store.store())],
    );
    eprintln!("{report}");
    small.store.mount();
    b.check();
}

#[test]
fn p7_a_device_elsewhere_ends_the_pause() {
    if !common::able(&[("mkfs.ext4", "e2fsprogs")]) {
        return;
    }
    let small = Small::new();
    let mut a = Disk::new(&small.store, "a.img", 3);
    a.fill(0);
    common::wait_until("the pause shows", || small.state().starts_with("paused: "));
    let elsewhere = small.store.dir().join("elsewhere.img");
    let line = format!("device-add {}:256MiB\n", elsewhere.display());
    small.store.control(&line).unwrap();
    common::wait_until("it goes on", || small.state() == "ok");
    for at in 200..264 {
        assert!(a.write(at), "MiB {at}: {}", small.state());
    }
    small.store.flush();
    a.check();
}

#[test]
fn p7_a_file_system_on_a_full_pool_recovers_when_the_pool_grows() {
    if !common::able(&[("mkfs.ext4", "e2fsprogs"), ("e2fsck", "e2fsprogs")]) {
        return;
    }
    let store = TestStore::with(&["--size", "64MiB"]);
    let disk = store.make("vm.img", 512 * MIB);
    run("mkfs.ext4", ["-q", "-F", &text(&disk)]);
    let device = Loop::over(&disk);
    let at = store.dir().join("fs");
    let mounted = Mounted::new(device.device(), at.clone(), "rw");
    for n in 0..8 {
        std::fs::write(at.join(format!("before{n}")), noise(n, 2 << 20)).unwrap();
    }
    run("sync", ["-f".into(), text(&at)]);
    // The page cache takes it all; writing it back fails.
    let fill = std::fs::write(at.join("fill"), noise(99, 128 << 20));
    let file = File::open(at.join("fill"));
    let synced = fill.and_then(|()| file?.sync_all());
    assert!(synced.is_err(), "the pool was not full");
    eprintln!("as was to be: {}", synced.unwrap_err());
    common::wait_until("the pool is full", || {
        store.status()["pool"]["available"].as_u64().unwrap() < MIB
    });
    assert_eq!(store.status()["state"], "ok");
    assert!(!store.status()["warnings"].as_array().unwrap().is_empty());

    let more = store.dir().join("more.img");
    store
        .control(&format!("device-add {}:256MiB\n", more.display()))
        .unwrap();
    mounted.unmount();
    // Mounting replays the file system's journal.
    Mounted::new(device.device(), at.clone(), "rw").unmount();
    run("e2fsck", ["-fn", device.device()]);
    let mounted = Mounted::new(device.device(), at.clone(), "rw");
    for n in 0..8 {
        let found = std::fs::read(at.join(format!("before{n}"))).unwrap();
        assert!(found == noise(n, 2 << 20), "before{n}");
    }
    let after = at.join("after");
    std::fs::write(&after, noise(100, 16 << 20)).unwrap();
    File::open(&after).unwrap().sync_all().unwrap();
    mounted.unmount();
    run("e2fsck", ["-fn", device.device()]);
    device.detach();
}
