//! Destaging leaves the processor to writers while nobody waits for it, and not a moment longer.
//! A program of its own: it looks at all destage threads of the process.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use common::engine::{Engine, Shape};
use common::model::new_disk;
use rustix::process::{Pid, getpriority_process, setpriority_process};
use snapmark::device::{Effect, Operation, When};
use snapmark::volume::Node;

/// The nice value of the one thread of that name.
fn nice_of_destage() -> i32 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let is_destage = |path: &Path| {
        let name = std::fs::read_to_string(path.join("comm"));
        name.is_ok_and(|name| name.trim() == "destage")
    };
    let ids: Vec<i32> = tasks
        .map(|task| task.unwrap().path())
        .filter(|path| is_destage(path))
        .map(|path| path.file_name().unwrap().to_str().unwrap().parse().unwrap())
        .collect();
    // A thread that it starts has its name for a moment.
    let first = ids.iter().min().unwrap();
    getpriority_process(Pid::from_raw(*first)).unwrap()
}

/// Whether it becomes so before long.
fn becomes(nice: i32) -> bool {
    let started = Instant::now();
    while nice_of_destage() != nice {
        if started.elapsed() > Duration::from_secs(20) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

/// Whether a thread may become more favoured again.
fn may_come_back() -> bool {
    std::thread::spawn(|| {
        let usual = getpriority_process(None).unwrap();
        setpriority_process(None, usual + 1).unwrap();
        setpriority_process(None, usual).is_ok()
    })
    .join()
    .unwrap()
}

#[test]
fn destaging_gives_way_until_someone_waits_for_it() {
    let usual = getpriority_process(None).unwrap();
    let polite = if may_come_back() { 19 } else { usual };
    let shape = Shape {
        interval: Duration::from_secs(3600),
        ..Shape::default()
    };
    let engine = Engine::new(shape);
    engine.create(new_disk("disk", 64 << 20)).unwrap();
    let Some(Node::Disk(disk)) = engine.lookup("disk") else {
        panic!("no disk");
    };
    engine.flush().unwrap();
    assert!(becomes(polite), "at rest");

    let slow_down = |time| {
        for device in &engine.faults {
            device.heal();
            device.plan(Operation::Write, When::Every(1), Effect::Delay(time));
        }
    };
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        slow_down(Duration::from_millis(500));
        engine.write(disk, 0, &[1; 4096]).unwrap();
        let flush = scope.spawn(|| engine.flush().unwrap());
        assert!(becomes(usual), "while a flush waits");
        flush.join().unwrap();
        assert!(becomes(polite), "after the flush");

        slow_down(Duration::from_millis(20));
        let writer = scope.spawn(|| {
            for block in (0..2048u64).cycle() {
                if over.load(SeqCst) {
                    return;
                }
                engine.write(disk, block * 4096, &[2; 4096]).unwrap();
            }
        });
        let became = becomes(usual);
        over.store(true, SeqCst);
        writer.join().unwrap();
        assert!(became, "while a writer waits for memory");
    });
    engine.faults.iter().for_each(|device| device.heal());
    engine.flush().unwrap();
    assert!(becomes(polite), "at rest again");
}
