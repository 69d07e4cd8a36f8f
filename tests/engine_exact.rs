//! P2: a snapshot under many writers is one point of one order, for all disks it names.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use common::engine::{Engine, Shape};
use common::model::new_disk;
use common::{Random, invariants, seeds};
use snapmark::base::DiskId;
use snapmark::volume::Node;

const WRITERS: usize = 4;
/// Blocks of a writer on each disk.
const BLOCKS: u64 = 40;

/// What a writer has begun, and what has been acknowledged to it.
#[derive(Default)]
struct Counters {
    begun: AtomicU64,
    acked: AtomicU64,
}

/// What is known of a snapshot: the acknowledged before the command, the begun when it returned.
struct Taken {
    files: Vec<String>,
    acked: Vec<u64>,
    begun: Vec<u64>,
}

/// Where write number `k` of a writer goes: disk, block on it, number of blocks. The disks take
/// turns, so that a prefix over both disks is an order among them.
fn place(writer: usize, k: u64, disks: u64) -> (usize, u64, u64) {
    let turn = k / disks;
    // Some cover whole segments, with blocks before and after them.
    let count = if turn % 5 == 4 { 36 } else { 1 + turn % 3 };
    let first = (turn * 7) % (BLOCKS + 1 - count);
    ((k % disks) as usize, writer as u64 * BLOCKS + first, count)
}

fn block(writer: usize, k: u64) -> [u8; 4096] {
    let mut block = [writer as u8 + 1; 4096];
    block[..8].copy_from_slice(&k.to_le_bytes());
    block[4088..].copy_from_slice(&k.to_le_bytes());
    block
}

/// Every block of a writer as it is after its first `count` writes (numbered from 1).
fn expected(writer: usize, count: u64, disks: u64) -> Vec<Vec<u64>> {
    let mut state = vec![vec![0; BLOCKS as usize]; disks as usize];
    for k in 1..=count {
        let (disk, at, blocks) = place(writer, k, disks);
        let at = (at - writer as u64 * BLOCKS) as usize;
        state[disk][at..at + blocks as usize].fill(k);
    }
    state
}

fn check(engine: &Engine, taken: &Taken) {
    let disks = taken.files.len() as u64;
    for writer in 0..WRITERS {
        let mut found = Vec::new();
        for file in &taken.files {
            let node = engine.lookup(file).unwrap();
            let mut buf = vec![0xee; (BLOCKS * 4096) as usize];
            engine
                .read(node, writer as u64 * BLOCKS * 4096, &mut buf)
                .unwrap();
            let stamp = |block: &[u8]| {
                let ends = [&block[..8], &block[4088..]];
                let [a, b] = ends.map(|end| u64::from_le_bytes(end.try_into().unwrap()));
                assert_eq!(a, b, "{file}: a torn block");
                a
            };
            found.push(buf.chunks(4096).map(stamp).collect::<Vec<u64>>());
        }
        let newest = found.iter().flatten().copied().max().unwrap();
        let (acked, begun) = (taken.acked[writer], taken.begun[writer]);
        let name = format!(
            "{:?} writer {writer}: {newest} of {acked}..={begun}",
            taken.files
        );
        assert!((acked..=begun).contains(&newest), "P2 {name}");
        assert_eq!(
            found,
            expected(writer, newest, disks),
            "not a prefix: {name}"
        );
    }
}

/// Stops the writers, also where a check fails: a scope waits for its threads.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

fn run(seed: u64, disks: u64) {
    let mut random = Random(seed);
    let engine = Engine::new(Shape {
        cache: 1 << 20,
        journal: 2 << 20,
        interval: Duration::from_millis(*random.pick(&[1, 10, 3_600_000]).unwrap()),
        ..Shape::default()
    });
    let size = WRITERS as u64 * BLOCKS * 4096;
    let names: Vec<String> = (0..disks).map(|n| format!("d{n}")).collect();
    let ids: Vec<DiskId> = names
        .iter()
        .map(|name| engine.create(new_disk(name, size)).unwrap())
        .collect();
    let list: Vec<&str> = names.iter().map(String::as_str).collect();
    let counters: Vec<Counters> = (0..WRITERS).map(|_| Counters::default()).collect();
    let stop = AtomicBool::new(false);
    let mut all = Vec::new();
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        for (writer, counter) in counters.iter().enumerate() {
            let (engine, ids, stop) = (&engine, &ids, &stop);
            scope.spawn(move || {
                for k in 1.. {
                    if stop.load(SeqCst) {
                        break;
                    }
                    let (disk, at, blocks) = place(writer, k, disks);
                    let data = block(writer, k).repeat(blocks as usize);
                    counter.begun.store(k, SeqCst);
                    engine.write(ids[disk], at * 4096, &data).unwrap();
                    counter.acked.store(k, SeqCst);
                }
            });
        }
        for n in 0..30 {
            std::thread::sleep(Duration::from_micros(200 + random.below(6000)));
            let read = |of: fn(&Counters) -> &AtomicU64| {
                counters
                    .iter()
                    .map(|c| of(c).load(SeqCst))
                    .collect::<Vec<u64>>()
            };
            let acked = read(|c| &c.acked);
            let files = engine
                .snapshot(&list, Some(&format!("s{n}")), n % 3 > 0)
                .unwrap();
            let begun = read(|c| &c.begun);
            let taken = Taken {
                files,
                acked,
                begun,
            };
            check(&engine, &taken);
            all.push(taken);
            if n % 7 == 6 {
                // Space returns below those that stay.
                let gone: Taken = all.remove(random.below(all.len() as u64) as usize);
                gone.files
                    .iter()
                    .for_each(|file| engine.remove(file).unwrap());
            }
            let old = random.pick(&all).unwrap();
            check(&engine, old);
        }
    });
    all.iter().for_each(|taken| check(&engine, taken));
    engine.settle();
    all.iter().for_each(|taken| check(&engine, taken));
    invariants::check(&engine.catalog.view(), &engine.pool, true);
    let engine = engine.kill();
    all.iter().for_each(|taken| check(&engine, taken));
    for (n, id) in ids.iter().enumerate() {
        assert_eq!(engine.lookup(&names[n]), Some(Node::Disk(*id)));
    }
    engine.close_store().unwrap();
}

#[test]
fn p2_a_snapshot_is_an_exact_prefix_of_every_writer() {
    seeds(3).into_iter().for_each(|seed| run(seed, 1));
}

#[test]
fn p2_one_command_is_one_point_for_all_its_disks() {
    seeds(3).into_iter().for_each(|seed| run(seed, 3));
}
