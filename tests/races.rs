//! The engine itself, over devices in memory, under a scheduler that tries out which thread runs
//! when: queue, index, journal, destager, lent slots and views. Not a model of them: with the
//! feature `shuttle` all locks, condition variables and threads of `src/base/sync.rs` are the
//! checker's, a wait that may only end by a wake-up ends by nothing else, and each access to a
//! device is a place where another thread may run.
//!
//! `cargo test --features shuttle --test races`. `SNAPMARK_SEED=N` for other schedules than those
//! of seed 1, `SNAPMARK_ROUNDS=N` for so many times as many.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use std::io::IoSlice;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::engine::{Engine, SEGMENT, Shape};
use common::model::new_disk;
use common::{checks, invariants};
use shuttle::rand::Rng;
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner, thread};
use snapmark::base::sync::turn;
use snapmark::base::{BlockMask, DiskId, SegmentNo};
use snapmark::device::{Device, DeviceError, Images};
use snapmark::store::{At, Source, read_blocks};
use snapmark::volume::{Node, Volumes};

const BLOCK: u64 = 4096;

fn number(name: &str, or: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.map_or(or, |text| text.parse().expect("a number"))
}

fn config() -> Config {
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    config.silence_warnings = true;
    config
}

/// Tries so many schedules, half of them at random, half with few changes of priority, which
/// finds what needs one thread to be held up for long.
fn explore(name: &str, schedules: usize, test: impl Fn() + Send + Sync + Clone + 'static) {
    let (seed, rounds) = (number("SNAPMARK_SEED", 1), number("SNAPMARK_ROUNDS", 1));
    let each = schedules * rounds as usize / 2;
    println!("{name}: 2 * {each} schedules, SNAPMARK_SEED={seed} SNAPMARK_ROUNDS={rounds}");
    Runner::new(RandomScheduler::new_from_seed(seed, each), config()).run(test.clone());
    Runner::new(PctScheduler::new_from_seed(seed, 3, each), config()).run(test);
}

/// Lets others run: mostly a little, sometimes for long, as a slow device does.
fn stall() {
    let mut random = shuttle::rand::thread_rng();
    let turns = match random.gen_range(0..6) {
        0 => random.gen_range(10..300),
        _ => 1,
    };
    (0..turns).for_each(|_| turn());
}

/// Reads under way: device, first byte, length.
type Reads = Arc<Mutex<Vec<(String, u64, u64)>>>;

/// A device whose accesses stall. No slot is punched as a whole while one reads there (P9).
struct Stalling {
    inner: Arc<dyn Device>,
    reads: Reads,
}

impl Device for Stalling {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        let read = (self.name().to_owned(), offset, buf.len() as u64);
        self.reads.lock().unwrap().push(read.clone());
        stall();
        let done = self.inner.read_at(buf, offset);
        let mut reads = self.reads.lock().unwrap();
        let at = reads.iter().position(|of| *of == read).unwrap();
        reads.swap_remove(at);
        done
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<(), DeviceError> {
        stall();
        self.inner.write_at(bufs, offset)?;
        stall();
        Ok(())
    }

    fn sync(&self) -> Result<(), DeviceError> {
        stall();
        self.inner.sync()?;
        stall();
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> Result<bool, DeviceError> {
        stall();
        let reads = self.reads.lock().unwrap().clone();
        let inside = |(name, at, count): &&(String, u64, u64)| {
            name == self.name() && *at < offset + len && offset < at + count
        };
        let reader = reads.iter().find(inside).filter(|_| len == SEGMENT);
        assert_eq!(reader, None, "a slot is punched under a reader");
        self.inner.punch(offset, len)
    }

    fn allocated(&self) -> Result<u64, DeviceError> {
        self.inner.allocated()
    }
}

fn shape() -> Shape {
    Shape {
        segment: SEGMENT,
        log: 256 << 10,
        journal: 576 << 10,
        // Enough that some are lent to writers.
        pool: (4 << 20) + 64 * SEGMENT,
        cache: 1 << 20,
        batch: 256 << 10,
        // Nothing happens by time.
        interval: Duration::from_secs(3600),
        volatile: false,
        patience: Duration::from_secs(60),
    }
}

fn open(images: &Images) -> Arc<Engine> {
    open_as(images, shape())
}

fn open_as(images: &Images, shape: Shape) -> Arc<Engine> {
    let disk = snapmark::device::CrashDisk::from_images(images);
    let reads = Reads::default();
    Arc::new(Engine::open_over(disk, shape, &|inner| {
        let reads = reads.clone();
        Arc::new(Stalling { inner, reads })
    }))
}

/// A store with the disk `a` of two segments, in which this was done.
fn prepared(does: impl Fn(&Engine) + Send + Sync + 'static) -> Images {
    let made = Arc::new(Mutex::new(None));
    let into = made.clone();
    let make = move || {
        let engine = Engine::new(shape());
        engine.create(new_disk("a", 2 * SEGMENT)).unwrap();
        does(&engine);
        engine.settle();
        *into.lock().unwrap() = Some(engine.disk.kill_image());
        engine.volumes.abandon();
    };
    Runner::new(RandomScheduler::new_from_seed(1, 1), config()).run(make);
    let images = made.lock().unwrap().take();
    images.unwrap()
}

fn disk(volumes: &Volumes) -> DiskId {
    match volumes.lookup("a") {
        Some(Node::Disk(id)) => id,
        other => panic!("a is {other:?}"),
    }
}

/// The number that a block of a disk or snapshot is full of.
fn block(volumes: &Volumes, name: &str, block: u64) -> u64 {
    let node = volumes.lookup(name).unwrap();
    let mut bytes = [0xee; BLOCK as usize];
    let read = volumes.read(node, block * BLOCK, &mut bytes).unwrap();
    assert_eq!(read, bytes.len());
    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "torn");
    u64::from(bytes[0])
}

fn write(volumes: &Volumes, at: u64, blocks: u64, number: u64) {
    let data = vec![number as u8; (blocks * BLOCK) as usize];
    volumes.write(disk(volumes), at * BLOCK, &data).unwrap();
}

/// How far a writer is.
#[derive(Default)]
struct Progress {
    begun: AtomicU64,
    acked: AtomicU64,
}

/// Writes of one that writes its numbers to two blocks in turn.
const WRITES: u64 = 4;

fn write_in_turn(engine: &Engine, first: u64, progress: &Progress) {
    for number in 1..=WRITES {
        progress.begun.store(number, SeqCst);
        write(engine, first + number % 2, 1, number);
        progress.acked.store(number, SeqCst);
        assert_eq!(block(engine, "a", first + number % 2), number, "its own");
    }
}

/// How many of such writes an image holds.
fn held(engine: &Engine, name: &str, first: u64) -> u64 {
    let (even, odd) = (block(engine, name, first), block(engine, name, first + 1));
    let newest = even.max(odd);
    assert_eq!(even.min(odd), newest.saturating_sub(1), "no prefix");
    assert_eq!(newest % 2 == 0, even >= odd, "of another block");
    newest
}

/// Writers, snapshots and destaging side by side: each snapshot holds of each writer's writes a
/// prefix from what was acknowledged before it to what was begun before it returned, and goes on
/// doing so (P2); who writes reads what he wrote.
#[test]
fn p2_snapshots_are_exact_in_the_middle_of_everything() {
    let images = prepared(|engine| {
        write(engine, 8, 8, 200);
        engine.snapshot(&["a"], Some("base"), true).unwrap();
    });
    explore("snapshots", 2000, move || {
        let engine = open(&images);
        let progress: Arc<[Progress; 2]> = Arc::default();
        let mut threads = Vec::new();
        for (writer, first) in [0, 8].into_iter().enumerate() {
            let (engine, progress) = (engine.clone(), progress.clone());
            threads.push(thread::spawn(move || {
                if first == 8 {
                    // Over what the first snapshot holds.
                    write(&engine, 8, 2, 0);
                }
                write_in_turn(&engine, first, &progress[writer]);
            }));
        }
        let flusher = engine.clone();
        threads.push(thread::spawn(move || {
            flusher.flush().unwrap();
            flusher.flush().unwrap();
        }));
        let mut taken = Vec::new();
        for name in ["s", "t"] {
            let before: Vec<u64> = progress.iter().map(|of| of.acked.load(SeqCst)).collect();
            engine.snapshot(&["a"], Some(name), name == "t").unwrap();
            let name = format!("a@{name}");
            for (writer, first) in [0, 8].into_iter().enumerate() {
                if before[writer] == 0 && first == 8 {
                    // Its first write, of zeros, may not be there yet.
                    continue;
                }
                let begun = progress[writer].begun.load(SeqCst);
                let held = held(&engine, &name, first);
                let acked = before[writer];
                assert!((acked..=begun).contains(&held), "{acked}..={begun}: {held}");
                taken.push((name.clone(), first, held));
            }
        }
        threads.into_iter().for_each(|of| of.join().unwrap());
        let same = |engine: &Engine, when: &str| {
            for (name, first, number) in &taken {
                assert_eq!(held(engine, name, *first), *number, "{when}");
            }
            assert_eq!(held(engine, "a", 0), WRITES, "{when}");
            assert_eq!(block(engine, "a@base", 8), 200, "{when}");
        };
        same(&engine, "in the cache");
        engine.flush().unwrap();
        same(&engine, "destaged");
        let left = engine.disk.kill_image();
        engine.volumes.abandon();
        checks::clean(&left, "at the end");
    });
}

/// Writers that together want more memory than there is: each has its turn, woken by whoever went before
/// it and by what comes back, and by no clock.
#[test]
fn p4_who_waits_for_memory_has_a_turn() {
    let images = prepared(|_| ());
    explore("memory", 400, move || {
        let engine = open_as(
            &images,
            Shape {
                cache: 16 * BLOCK,
                ..shape()
            },
        );
        let writer = |first| {
            let engine = engine.clone();
            thread::spawn(move || {
                for number in 1..4 {
                    write(&engine, first, 7, number);
                }
                assert_eq!(block(&engine, "a", first + 6), 3, "its own");
            })
        };
        let writers = [0, 8, 16].map(writer);
        writers.into_iter().for_each(|of| of.join().unwrap());
        engine.volumes.abandon();
    });
}

/// Reads the snapshot `old` where a view says that it is: as long as the view is held, it is there.
fn look_through_a_view(engine: &Engine) {
    let view = engine.catalog.view();
    let snapshots = view.snapshots().unwrap();
    let Some(old) = snapshots.iter().find(|snapshot| snapshot.name == "old") else {
        return;
    };
    let (at, all) = (
        At::Epoch(old.epoch),
        BlockMask::range(0, (SEGMENT / BLOCK) as usize),
    );
    for (blocks, source) in view.resolve(old.map, SegmentNo(0), at, all).unwrap() {
        let Source::Data(extent) = source else {
            panic!("{blocks:?} of the snapshot have no data");
        };
        stall();
        for run in blocks.runs() {
            let mut bytes = vec![0; run.len() * BLOCK as usize];
            let first = extent.index(run.start);
            read_blocks(&engine.pool, &view, extent.place, first, &mut bytes).unwrap();
            assert!(bytes.iter().all(|byte| *byte == 1), "not the snapshot's");
        }
    }
}

/// A reader, while whole segments are written by reference, destaged, kept by snapshots, given up,
/// reclaimed, and their slots used anew: it reads what is there, and no slot serves two.
#[test]
fn p9_no_slot_is_used_anew_under_a_reader() {
    let images = prepared(|engine| {
        let segment = SEGMENT / BLOCK;
        write(engine, 0, segment, 1);
        engine.settle();
        // Slots in stock, for writes by reference.
        write(engine, 0, segment, 1);
        engine.settle();
        engine.snapshot(&["a"], Some("old"), true).unwrap();
        write(engine, 0, segment, 1);
        engine.settle();
    });
    explore("slots", 1000, move || {
        let engine = open(&images);
        let progress = Arc::new(Progress::default());
        progress.begun.store(1, SeqCst);
        progress.acked.store(1, SeqCst);
        let writer = {
            let (engine, progress) = (engine.clone(), progress.clone());
            thread::spawn(move || {
                for number in 2..6 {
                    progress.begun.store(number, SeqCst);
                    write(&engine, 0, SEGMENT / BLOCK, number);
                    progress.acked.store(number, SeqCst);
                    if number == 3 {
                        engine.snapshot(&["a"], Some("s"), false).unwrap();
                    }
                    if number == 3 {
                        engine.remove("a@old").unwrap();
                    }
                    if number == 4 {
                        engine.remove("a@s").unwrap();
                    }
                    if number != 2 {
                        engine.flush().unwrap();
                    }
                }
            })
        };
        let reader = {
            let (engine, progress) = (engine.clone(), progress.clone());
            thread::spawn(move || {
                for turn in 0..8 {
                    let acked = progress.acked.load(SeqCst);
                    let found = block(&engine, "a", turn % 2 * 7);
                    let begun = progress.begun.load(SeqCst);
                    assert!(
                        (acked..=begun).contains(&found),
                        "{acked}..={begun}: {found}"
                    );
                }
            })
        };
        let viewer = {
            let engine = engine.clone();
            thread::spawn(move || (0..4).for_each(|_| look_through_a_view(&engine)))
        };
        writer.join().unwrap();
        reader.join().unwrap();
        viewer.join().unwrap();
        engine.settle();
        invariants::check(&engine.catalog.view(), &engine.pool, true);
        let status = engine.status();
        assert_eq!(status.pool.pending, 0);
        let left = engine.disk.kill_image();
        engine.volumes.abandon();
        checks::clean(&left, "at the end");
    });
}

/// Writers that sync, one for all: what an acknowledgement said survives the daemon's death (P5),
/// what a sync said the power's (P4), and a big write's data comes before its record.
#[test]
fn p4_p5_acknowledged_and_synced_is_there() {
    let images = prepared(|engine| {
        write(engine, 16, 16, 9);
        engine.settle();
        write(engine, 16, 16, 9);
        engine.settle();
    });
    let looked = Arc::new(AtomicUsize::new(0));
    let counter = looked.clone();
    explore("syncs", 1000, move || {
        let engine = open(&images);
        // Images that were left at some moment, and which blocks must hold what at least.
        let promised = Arc::new(Mutex::new(Vec::new()));
        let mut threads = Vec::new();
        for writer in 0..3u64 {
            let (engine, promised) = (engine.clone(), promised.clone());
            threads.push(thread::spawn(move || {
                let (at, blocks) = [(0, 1), (8, 2), (16, 16)][writer as usize];
                for number in 1..=2 {
                    write(&engine, at, blocks, 20 + number);
                    let killed = engine.disk.kill_image();
                    promised.lock().unwrap().push((killed, at, 20 + number));
                    engine.sync().unwrap();
                    let lost = engine.disk.crash_image(0);
                    promised.lock().unwrap().push((lost, at, 20 + number));
                }
            }));
        }
        threads.into_iter().for_each(|of| of.join().unwrap());
        engine.volumes.abandon();
        let promised = std::mem::take(&mut *promised.lock().unwrap());
        // Two of them; each schedule chooses others.
        for _ in 0..2 {
            let chosen = shuttle::rand::thread_rng().gen_range(0..promised.len());
            let (images, at, number) = &promised[chosen];
            checks::clean(images, "at the promise");
            let engine = Engine::open_images(images, shape());
            let found = block(&engine, "a", *at);
            assert!(
                (*number..30).contains(&found),
                "{found} at {at}, not {number}"
            );
            engine.volumes.abandon();
            counter.fetch_add(1, SeqCst);
        }
    });
    println!("syncs: {} images opened", looked.load(SeqCst));
}

/// Views and commits: once a commit counts as quiesced, nobody holds a view from before it.
#[test]
fn p9_a_commit_is_quiesced_when_the_last_older_view_is_gone() {
    let images = prepared(|_| {});
    explore("views", 10_000, move || {
        let engine = open(&images);
        const NONE: u64 = u64::MAX;
        let holds: Arc<[AtomicU64; 2]> = Arc::new([AtomicU64::new(NONE), AtomicU64::new(NONE)]);
        let mut threads = Vec::new();
        for reader in 0..2 {
            let (engine, holds) = (engine.clone(), holds.clone());
            threads.push(thread::spawn(move || {
                for _ in 0..3 {
                    let view = engine.catalog.view();
                    holds[reader].store(view.generation(), SeqCst);
                    turn();
                    assert_eq!(view.disks().unwrap().len(), 1);
                    turn();
                    holds[reader].store(NONE, SeqCst);
                    drop(view);
                }
            }));
        }
        let committer = engine.clone();
        threads.push(thread::spawn(move || {
            for _ in 0..3 {
                let marks = committer.catalog.view().marks();
                let change = snapmark::ondisk::Change::SetMarks(marks);
                committer.catalog.commit(&[change]).unwrap();
            }
        }));
        for _ in 0..8 {
            let commit = engine.catalog.view().generation();
            if engine.catalog.quiesced(commit) {
                let held = holds.iter().map(|of| of.load(SeqCst)).min().unwrap();
                assert!(
                    held >= commit,
                    "commit {commit} is quiesced, {held} is held"
                );
            }
            turn();
        }
        threads.into_iter().for_each(|of| of.join().unwrap());
        engine.volumes.abandon();
    });
}
