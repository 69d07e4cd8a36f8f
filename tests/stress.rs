//! Everything at once on one mount for a while: no error but those that a race explains, no halt,
//! and afterwards what a snapshot holds is the same before and after mounting again.

#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/stamps.rs"]
#[allow(dead_code)]
mod stamps;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use common::{TestStore, checksum};
use stamps::{Rng, punch, seed};

const TIME: Duration = Duration::from_secs(12);
const SIZE: u64 = 8 << 20;
const DISKS: u64 = 5;
/// More than these are not kept, so that the pool does not fill up.
const SNAPSHOTS: usize = 40;

/// One thread's view of the mount.
struct Actor<'a> {
    store: &'a TestStore,
    rng: Rng,
    counter: &'a AtomicU64,
}

impl Actor<'_> {
    fn disk(&mut self) -> String {
        format!("d{}.img", self.rng.below(DISKS))
    }

    fn fresh(&self) -> u64 {
        self.counter.fetch_add(1, Relaxed)
    }

    fn open(&mut self) -> io::Result<File> {
        let name = self.disk();
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.store.disk(&name))
    }

    fn names(&self, keep: impl Fn(&str) -> bool) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.store.mnt())? {
            let name = entry?.file_name().into_string().unwrap();
            if keep(&name) {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn any(&mut self, keep: impl Fn(&str) -> bool) -> io::Result<Option<String>> {
        let names = self.names(keep)?;
        let at = self.rng.below(names.len().max(1) as u64) as usize;
        Ok(names.get(at).cloned())
    }

    fn snapshot_name(&mut self) -> io::Result<Option<String>> {
        self.any(|name| name.contains('@'))
    }

    fn write(&mut self) -> io::Result<()> {
        let file = self.open()?;
        for _ in 0..50 {
            let len = match self.rng.below(10) {
                0 => 256 << 10,
                1 => 1 + self.rng.below(9000) as usize,
                _ => 4096,
            };
            let at = self.rng.below(SIZE);
            let at = if len == 4096 { at & !4095 } else { at };
            let data = vec![self.rng.next() as u8 | 1; len];
            file.write_all_at(&data, at)?;
        }
        if self.rng.chance(4) {
            file.sync_all()
        } else {
            Ok(())
        }
    }

    fn read(&mut self) -> io::Result<()> {
        let name = self.any(|name| !name.starts_with('.'))?;
        let Some(name) = name else { return Ok(()) };
        let file = File::open(self.store.disk(&name))?;
        let mut buffer = vec![0; 1 + self.rng.below(300_000) as usize];
        for _ in 0..20 {
            let _ = file.read_at(&mut buffer, self.rng.below(SIZE))?;
        }
        Ok(())
    }

    fn discard(&mut self) -> io::Result<()> {
        let (at, len) = (self.rng.below(SIZE), 1 + self.rng.below(SIZE / 4));
        punch(&self.open()?, at, len)
    }

    fn resize(&mut self) -> io::Result<()> {
        let size = SIZE / 2 + self.rng.below(SIZE);
        self.open()?.set_len(size)
    }

    fn snapshot(&mut self) -> io::Result<()> {
        if self.names(|name| name.contains('@'))?.len() > SNAPSHOTS {
            return self.delete();
        }
        let (a, b) = (self.disk(), self.disk());
        let disks = if a == b { a } else { format!("{a},{b}") };
        let name = self.fresh();
        self.store.control(&format!("snapshot {disks} s{name}\n"))
    }

    fn delete(&mut self) -> io::Result<()> {
        match self.snapshot_name()? {
            Some(name) => std::fs::remove_file(self.store.disk(&name)),
            None => Ok(()),
        }
    }

    fn clone(&mut self) -> io::Result<()> {
        let clones = |name: &str| name.starts_with("clone") && !name.contains('@');
        if self.names(clones)?.len() > 6 {
            let clone = self.any(clones)?.unwrap_or_default();
            return std::fs::remove_file(self.store.disk(&clone));
        }
        let Some(from) = self.snapshot_name()? else {
            return Ok(());
        };
        let to = format!("clone{}.img", self.fresh());
        self.store.control(&format!("clone {from} {to}\n"))?;
        let file = OpenOptions::new().write(true).open(self.store.disk(&to))?;
        file.write_all_at(&[7; 10_000], self.rng.below(SIZE))
    }

    fn roll_back(&mut self) -> io::Result<()> {
        match self.snapshot_name()? {
            Some(name) => self.store.control(&format!("rollback {name} force\n")),
            None => Ok(()),
        }
    }

    /// Gives a disk another name, or its own back.
    fn rename(&mut self) -> io::Result<()> {
        let (name, aside) = (self.disk(), format!("aside{}.img", self.fresh()));
        let (name, aside) = (self.store.disk(&name), self.store.disk(&aside));
        std::fs::rename(&name, &aside)?;
        std::thread::sleep(Duration::from_micros(self.rng.below(2000)));
        std::fs::rename(&aside, &name)
    }

    fn recreate(&mut self) -> io::Result<()> {
        let name = self.disk();
        let path = self.store.disk(&name);
        std::fs::remove_file(&path)?;
        let options = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        options.set_len(SIZE)
    }

    fn look(&mut self) -> io::Result<()> {
        for name in [".status", ".stats", ".control"] {
            std::fs::read_to_string(self.store.disk(name))?;
        }
        self.store.control("flush\n")
    }
}

/// What a race explains: the other thread has just deleted, renamed or made the name, or the pool
/// is full for now.
fn is_expected(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::EEXIST | libc::EBUSY | libc::ENOSPC | libc::ESTALE)
    )
}

type Act = fn(&mut Actor<'_>) -> io::Result<()>;

const ACTS: [(&str, Act); 13] = [
    ("write", |actor| actor.write()),
    ("write too", |actor| actor.write()),
    ("read", |actor| actor.read()),
    ("read too", |actor| actor.read()),
    ("discard", |actor| actor.discard()),
    ("resize", |actor| actor.resize()),
    ("snapshot", |actor| actor.snapshot()),
    ("delete", |actor| actor.delete()),
    ("clone", |actor| actor.clone()),
    ("rollback", |actor| actor.roll_back()),
    ("rename", |actor| actor.rename()),
    ("recreate", |actor| actor.recreate()),
    ("look", |actor| actor.look()),
];

/// Repeats one thing until the time is over; returns how often it was done and refused.
fn act(mut actor: Actor<'_>, (name, act): (&str, Act)) -> (u32, BTreeMap<i32, u32>) {
    let (started, mut done, mut refused) = (Instant::now(), 0, BTreeMap::new());
    while started.elapsed() < TIME {
        match act(&mut actor) {
            Ok(()) => done += 1,
            Err(error) if is_expected(&error) => {
                *refused.entry(error.raw_os_error().unwrap()).or_default() += 1;
            }
            Err(error) => panic!("{name}: {error}"),
        }
        // Writers write all the time, the others now and then.
        if !name.starts_with("write") {
            std::thread::sleep(Duration::from_micros(actor.rng.below(20_000)));
        }
    }
    (done, refused)
}

/// The checksums of all disks and snapshots.
fn contents(store: &TestStore) -> BTreeMap<String, u32> {
    let names = std::fs::read_dir(store.mnt()).unwrap();
    names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with('.'))
        .map(|name| {
            let sum = checksum(&store.disk(&name));
            (name, sum)
        })
        .collect()
}

#[test]
fn everything_at_once_breaks_nothing() {
    if !common::able(&[]) {
        return;
    }
    let mut store = TestStore::with(&["--size", "1GiB"]);
    let (seed, counter) = (seed(), AtomicU64::new(0));
    let empty = store.used();
    for disk in 0..DISKS {
        store.make(&format!("d{disk}.img"), SIZE);
    }
    std::thread::scope(|scope| {
        let (store, counter) = (&store, &counter);
        let threads: Vec<_> = ACTS
            .into_iter()
            .zip(seed..)
            .map(|(what, seed)| {
                let rng = Rng::new(seed);
                let actor = Actor {
                    store,
                    rng,
                    counter,
                };
                (what.0, scope.spawn(move || act(actor, what)))
            })
            .collect();
        for (name, thread) in threads {
            let (done, refused) = thread.join().unwrap();
            eprintln!("{name}: {done} times; refused by errno: {refused:?}");
            assert!(done > 0, "{name} was never done");
        }
    });
    assert_eq!(store.status()["state"], "ok");
    let before = contents(&store);
    store.flush();
    assert_eq!(contents(&store), before, "after the drain");
    store.remount();
    assert_eq!(contents(&store), before, "mounted again");
    assert_eq!(store.status()["state"], "ok");
    for name in before.keys() {
        std::fs::remove_file(store.disk(name)).unwrap();
    }
    store.flush();
    common::wait_until("all space is back", || store.used() <= empty + (10 << 20));
    assert!(!store.logged().contains("panicked"), "{}", store.logged());
}
