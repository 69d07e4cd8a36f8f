//! Promises that are about what is *not* done: each over devices that count calls, hold them up,
//! fail them, or lie.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use std::io::IoSlice;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use common::engine::{Engine, SEGMENT, Shape};
use common::model::new_disk;
use common::wait_until;
use common::watched::{Release, Watch};
use parking_lot::Mutex;
use snapmark::base::DiskId;
use snapmark::device::{Device, Effect, FaultDevice, Operation, When};
use snapmark::volume::{Node, VolumeError};

/// What a call may take that waits for nothing; long, for a machine that is stopped meanwhile.
const LONG: Duration = Duration::from_secs(90);

fn manual() -> Shape {
    Shape {
        interval: Duration::from_secs(3600),
        ..Shape::default()
    }
}

fn write(engine: &Engine, disk: DiskId, block: u64, byte: u8) {
    engine.write(disk, block * 4096, &[byte; 4096]).unwrap();
}

fn byte(engine: &Engine, node: Node, block: u64) -> u8 {
    let mut buf = [0xee; 4096];
    engine.read(node, block * 4096, &mut buf).unwrap();
    assert!(buf.iter().all(|byte| *byte == buf[0]));
    buf[0]
}

/// Does it on a thread of its own, and fails where that does not end.
fn promptly<T: Send + 'static>(what: &str, call: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = mpsc::channel();
    let worker = std::thread::spawn(move || done.send(call()).unwrap());
    let result = result.recv_timeout(LONG);
    let result = result.unwrap_or_else(|_| panic!("{what} waits for what it must not wait for"));
    worker.join().unwrap();
    result
}

/// A store over watched devices, with a disk of 64 segments.
fn watched(shape: Shape) -> (Arc<Engine>, Arc<Watch>, DiskId) {
    let watch = Arc::new(Watch::default());
    let engine = Engine::open_over(Engine::make(&shape), shape, &|device| watch.over(device));
    let disk = engine.create(new_disk("d", 64 * SEGMENT)).unwrap();
    (Arc::new(engine), watch, disk)
}

#[test]
fn p1_a_snapshot_waits_for_no_destage() {
    let (engine, watch, disk) = watched(Shape::default());
    // All that the destager writes and syncs stands still: the devices and the catalog.
    let _release = Release(&watch);
    watch.hold(&["pool0", "pool1", "pages", "log"]);
    for block in 0..8 {
        write(&engine, disk, block, 1);
    }
    wait_until("destaging is held up", || watch.waiting() > 0);
    for n in 0..5u8 {
        let at = engine.clone();
        let name = n.to_string();
        promptly("a snapshot", move || {
            at.snapshot(&["d"], Some(&name), true).unwrap();
        });
        let at = engine.clone();
        promptly("a write behind it", move || {
            write(&at, disk, u64::from(n), n + 2);
        });
        let at = engine.clone();
        let seen = promptly("a read of it", move || {
            let node = at.lookup(&format!("d@{n}")).unwrap();
            (
                byte(&at, node, u64::from(n)),
                byte(&at, Node::Disk(disk), u64::from(n)),
            )
        });
        assert_eq!(seen, (1, n + 2), "snapshot {n}");
    }
    assert!(watch.waiting() > 0, "destaging went on");
    watch.release();
    engine.settle();
    for n in 0..5u8 {
        let node = engine.lookup(&format!("d@{n}")).unwrap();
        let seen: Vec<u8> = (0..8).map(|block| byte(&engine, node, block)).collect();
        let want: Vec<u8> = (0..8).map(|b| if b < n { b + 2 } else { 1 }).collect();
        assert_eq!(seen, want, "snapshot {n} once it was destaged");
    }
    engine.close_store().unwrap();
}

#[test]
fn p1_nothing_waits_for_a_snapshot_that_syncs() {
    let (engine, watch, disk) = watched(manual());
    write(&engine, disk, 0, 1);
    let _release = Release(&watch);
    watch.hold_syncs(&["journal"]);
    let at = engine.clone();
    let snapshot = std::thread::spawn(move || at.snapshot(&["d"], Some("s"), true).unwrap());
    wait_until("the snapshot syncs", || watch.waiting() > 0);
    let at = engine.clone();
    promptly("a write meanwhile", move || write(&at, disk, 0, 2));
    let at = engine.clone();
    promptly("a new disk meanwhile", move || {
        at.create(new_disk("e", SEGMENT)).unwrap()
    });
    let at = engine.clone();
    let files = promptly("another snapshot meanwhile", move || {
        at.snapshot(&["d", "e"], Some("t"), false).unwrap()
    });
    let at = engine.clone();
    let seen = promptly("a read meanwhile", move || {
        let files = ["d", "d@s", "d@t"].map(|name| at.lookup(name).unwrap());
        files.map(|node| byte(&at, node, 0))
    });
    assert_eq!((seen, files.len()), ([2, 1, 2], 2));
    assert!(!snapshot.is_finished());
    watch.release();
    snapshot.join().unwrap();
    engine.close_store().unwrap();
}

#[test]
fn p4_what_a_sync_has_covered_survives_power_loss() {
    let engine = Engine::new(manual());
    let disk = engine.create(new_disk("d", SEGMENT)).unwrap();
    for turn in 1..=20u8 {
        let block = u64::from(turn % 7);
        write(&engine, disk, block, turn);
        engine.sync().unwrap();
        let synced = engine.disk.crash_points();
        write(&engine, disk, block, 0xff);
        for (events, seed) in [(synced, 0), (synced, 7), (usize::MAX, 0)] {
            let images = engine.disk.image_at(events, seed);
            let after = Engine::open_images(&images, manual());
            let seen = byte(&after, Node::Disk(disk), block);
            assert_eq!(seen, turn, "turn {turn}, {events} events, seed {seed}");
            after.volumes.abandon();
        }
    }
    engine.volumes.abandon();
}

/// Keeps what is logged, for all tests of this program.
struct Log(Mutex<Vec<String>>);

static LOG: Log = Log(Mutex::new(Vec::new()));

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        self.0.lock().push(record.args().to_string());
    }

    fn flush(&self) {}
}

#[test]
fn p8_a_flipped_byte_gives_an_error_and_a_log_line_and_never_wrong_data() {
    log::set_logger(&LOG).unwrap();
    log::set_max_level(log::LevelFilter::Error);
    let shape = Shape {
        pool: 8 << 20,
        ..manual()
    };
    let engine = Engine::new(shape);
    let disk = engine.create(new_disk("d", 4 * SEGMENT)).unwrap();
    (0..40).for_each(|block| write(&engine, disk, block, block as u8 + 1));
    let images = engine.reopen().disk.kill_image();
    let mut damaged = 0;
    for name in ["pool0", "pool1"] {
        let content = images[name].to_bytes();
        for (at, block) in (0..).step_by(4096).zip(content.chunks(4096)) {
            let number = u64::from(block[0]).wrapping_sub(1);
            if number >= 40 || block.iter().any(|byte| *byte != block[0]) {
                continue;
            }
            damaged += 1;
            let flip = at + number * 97 % 4096;
            let byte_there = [block[0] ^ (1 << (number % 8))];
            let write = |bytes: &[u8]| images[name].write_at(&[IoSlice::new(bytes)], flip);
            write(&byte_there).unwrap();
            let engine = Engine::open_images(&images, shape);
            let mut buf = [0xee; 4096];
            let read = engine.read(Node::Disk(disk), number * 4096, &mut buf);
            assert!(
                matches!(read, Err(VolumeError::Io(_))),
                "{number}: {read:?}"
            );
            let logged = LOG.0.lock().drain(..).collect::<Vec<_>>();
            let offset = format!("offset {}", number * 4096);
            let told = |line: &String| line.contains(name) && line.contains(&offset);
            assert!(logged.iter().any(told), "{number}: {logged:?}");
            for other in (0..40).filter(|other| *other != number) {
                assert_eq!(byte(&engine, Node::Disk(disk), other), other as u8 + 1);
            }
            engine.volumes.abandon();
            write(&block[..1]).unwrap();
        }
    }
    assert_eq!(damaged, 40);
}

#[test]
fn p8_after_a_failed_sync_no_write_is_taken_any_more() {
    for failing in ["journal", "pool", "log"] {
        let devices: Mutex<Vec<Arc<FaultDevice>>> = Mutex::default();
        let engine = Engine::open_over(Engine::make(&manual()), manual(), &|device| {
            if !device.name().starts_with(failing) {
                return device;
            }
            let device = Arc::new(FaultDevice::new(device));
            devices.lock().push(device.clone());
            device
        });
        let syncs = || -> u64 {
            let devices = devices.lock();
            devices.iter().map(|it| it.calls(Operation::Sync)).sum()
        };
        let disk = engine.create(new_disk("d", SEGMENT)).unwrap();
        write(&engine, disk, 0, 1);
        engine.flush().unwrap();
        write(&engine, disk, 1, 1);
        let fail = Effect::Fail(libc::EIO);
        let plan = |it: &Arc<FaultDevice>| it.plan(Operation::Sync, When::Nth(1), fail);
        devices.lock().iter().for_each(plan);
        engine.flush().unwrap_err();
        devices.lock().iter().for_each(|it| it.heal());
        let before = syncs();
        engine.write(disk, 0, &[2; 4096]).unwrap_err();
        engine.sync().unwrap_err();
        engine.flush().unwrap_err();
        engine.snapshot(&["d"], None, true).unwrap_err();
        assert_eq!(syncs(), before, "{failing}: a sync was tried again");
        assert_ne!(engine.status().state, "ok");
        assert_eq!(byte(&engine, Node::Disk(disk), 0), 1, "reads go on");
        engine.volumes.abandon();
    }
}

/// Reads that an opening takes, and their bytes: after a crash, with so many segments mapped.
fn reads_of_opening(segments: u64, snapshots: u64) -> (u64, u64) {
    let shape = Shape {
        pool: (4 << 20) + 4 * segments * SEGMENT,
        ..manual()
    };
    let engine = Engine::new(shape);
    let disk = engine.create(new_disk("d", segments * SEGMENT)).unwrap();
    for n in 0..=snapshots {
        for segment in 0..segments {
            write(&engine, disk, segment * 16, n as u8 + 1);
        }
        let name = n.to_string();
        engine.snapshot(&["d"], Some(&name), false).unwrap();
    }
    engine.flush().unwrap();
    engine.remove("d@0").unwrap();
    let engine = engine.reopen();
    engine.settle();
    let engine = engine.reopen();
    // The tail, always the same.
    (0..10).for_each(|block| write(&engine, disk, block * 16, 9));
    let images = engine.disk.kill_image();
    engine.volumes.abandon();
    let watch = Arc::new(Watch::default());
    let crashed = snapmark::device::CrashDisk::from_images(&images);
    let engine = Engine::open_over(crashed, shape, &|device| watch.over(device));
    let read = watch.read();
    assert_eq!(byte(&engine, Node::Disk(disk), 0), 9);
    engine.volumes.abandon();
    read
}

#[test]
fn p12_opening_reads_no_more_from_a_big_pool_than_from_a_small_one() {
    let (calls, bytes) = reads_of_opening(16, 2);
    for (segments, snapshots) in [(1024, 2), (4096, 1)] {
        let (more_calls, more_bytes) = reads_of_opening(segments, snapshots);
        let what = format!(
            "{segments} segments: {more_calls} reads of {more_bytes} bytes, {calls} of {bytes} with few"
        );
        // Trees are a page or two deeper.
        assert!(more_calls <= calls + 16, "{what}");
        assert!(more_bytes <= bytes + 16 * 4096, "{what}");
    }
}
