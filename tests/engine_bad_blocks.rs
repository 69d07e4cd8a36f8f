//! A block that can't be read, or is damaged, costs itself and no more: the store goes on taking
//! writes, snapshots and deletions, whatever had to be merged with that block stays as it is, and
//! when it can be read again nothing is left of it all.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use common::engine::{Engine, SEGMENT, Shape};
use common::model::new_disk;
use common::{checks, invariants, noise};
use snapmark::base::DiskId;
use snapmark::device::{CrashDisk, Device, DeviceError, Effect, FaultDevice, Operation, When};
use snapmark::volume::{Node, VolumeError};

const BLOCK: u64 = 4096;
const BLOCKS: u64 = SEGMENT / BLOCK;
/// Written before anything else, and never again.
const BAD: u64 = 5;

/// A disk of two segments, and what is in it.
struct Disk {
    engine: Engine,
    id: DiskId,
    content: Vec<u8>,
    snapshots: Vec<(String, Vec<u8>)>,
    taken: u64,
}

impl Disk {
    fn new() -> Self {
        Self::with(false)
    }

    fn with(volatile: bool) -> Self {
        let engine = Engine::new(Shape {
            interval: Duration::from_secs(3600),
            volatile,
            ..Shape::default()
        });
        let id = engine.create(new_disk("a", 2 * SEGMENT)).unwrap();
        let content = noise(1, 2 * SEGMENT as usize);
        engine.write(id, 0, &content).unwrap();
        engine.flush().unwrap();
        Self {
            engine,
            id,
            content,
            snapshots: Vec::new(),
            taken: 0,
        }
    }

    /// So many snapshots, each with blocks written after it, none of them the bad one.
    fn go_on(&mut self, times: u64) {
        for turn in 0..times {
            let name = format!("s{}", self.taken);
            self.taken += 1;
            self.engine.snapshot(&["a"], Some(&name), false).unwrap();
            self.snapshots.push((name, self.content.clone()));
            for block in [BAD + 1 + turn % (BLOCKS - BAD - 1), BLOCKS + turn % BLOCKS] {
                let data = noise(block + turn * 1000, BLOCK as usize);
                let at = block * BLOCK;
                self.engine.write(self.id, at, &data).unwrap();
                self.content[at as usize..][..data.len()].copy_from_slice(&data);
            }
            self.engine.flush().unwrap();
        }
    }

    /// Deletes every second snapshot.
    fn thin_out(&mut self) {
        let mut number = 0;
        let engine = &self.engine;
        self.snapshots.retain(|(name, _)| {
            number += 1;
            if number % 2 == 0 {
                engine.remove(&format!("a@{name}")).unwrap();
            }
            number % 2 != 0
        });
        self.engine.flush().unwrap();
    }

    /// Reads all there is, block by block. Says how many could not be read.
    fn look(&self) -> usize {
        let mut failed = 0;
        let live = (Node::Disk(self.id), &self.content);
        let all = self.snapshots.iter().map(|(name, content)| {
            let node = self.engine.lookup(&format!("a@{name}")).unwrap();
            (node, content)
        });
        for (node, content) in all.chain([live]) {
            for (block, expected) in content.chunks_exact(BLOCK as usize).enumerate() {
                let mut found = [0; BLOCK as usize];
                match self.engine.read(node, block as u64 * BLOCK, &mut found) {
                    Ok(_) => assert!(found == expected, "{node:?} block {block} is wrong"),
                    Err(_) => failed += 1,
                }
            }
        }
        failed
    }

    /// The block is what it was: nothing is left of its having been bad.
    fn recovered(self) {
        self.engine.settle();
        assert_eq!(self.look(), 0);
        invariants::check(&self.engine.catalog.view(), &self.engine.pool, true);
        checks::clean(&self.engine.disk.kill_image(), "healed");
        self.engine.volumes.abandon();
    }
}

#[test]
fn p8_a_damaged_block_stops_nothing_but_its_own_reads() {
    let mut disk = Disk::new();
    disk.go_on(10);
    let at = disk.engine.place("a", None, BAD);
    disk.engine.damage(at);
    // More than a segment may have layers.
    disk.go_on(220);
    disk.thin_out();
    disk.go_on(30);
    assert_eq!(disk.engine.status().state, "ok");
    // Everybody reads that block from where it is.
    assert_eq!(disk.look(), disk.snapshots.len() + 1);
    disk.engine.damage(at);
    disk.recovered();
}

#[test]
fn p8_a_device_that_can_not_be_read_for_a_while_stops_nothing_but_reads() {
    let mut disk = Disk::new();
    disk.go_on(10);
    for device in &disk.engine.faults {
        device.plan(Operation::Read, When::Every(1), Effect::Fail(libc::EIO));
    }
    disk.go_on(220);
    disk.thin_out();
    disk.go_on(30);
    assert_eq!(disk.engine.status().state, "ok");
    assert!(disk.look() > disk.snapshots.len());
    disk.engine.faults.iter().for_each(|device| device.heal());
    disk.recovered();
}

#[test]
fn p8_a_failed_read_names_the_disk_that_was_read() {
    let disk = Disk::new();
    let engine = &disk.engine;
    engine.snapshot(&["a"], Some("s"), false).unwrap();
    engine.snapshot(&["a"], Some("t"), false).unwrap();
    engine.clone_snapshot("a@s", new_disk("c", 0)).unwrap();
    engine.rollback("a", "a@t", false).unwrap();
    engine.flush().unwrap();
    // Nobody stands on it any more but the disk itself.
    engine.remove("a@t").unwrap();
    engine.settle();
    engine.damage(engine.place("a", Some("s"), BAD));
    for name in ["a", "a@s", "c"] {
        let node = engine.lookup(name).unwrap();
        let mut block = [0; BLOCK as usize];
        let read = engine.read(node, BAD * BLOCK, &mut block);
        let Err(VolumeError::Io(words)) = read else {
            panic!("{name}: {read:?}");
        };
        let expected = format!("{name} from offset {}", BAD * BLOCK);
        assert!(words.starts_with(&expected), "{name}: {words}");
    }
    engine.volumes.abandon();
}

#[test]
fn p8_without_a_journal_a_damaged_block_stops_nothing_either() {
    let mut disk = Disk::with(true);
    let at = disk.engine.place("a", None, BAD);
    disk.engine.damage(at);
    for turn in 0..50 {
        let block = BAD + 1 + turn % (BLOCKS - BAD - 1);
        let (at, data) = (block * BLOCK, noise(block + turn * 1000, BLOCK as usize));
        disk.engine.write(disk.id, at, &data).unwrap();
        disk.content[at as usize..][..data.len()].copy_from_slice(&data);
        disk.engine.flush().unwrap();
        assert_eq!(disk.look(), 1);
    }
    disk.go_on(30);
    assert_eq!(disk.engine.status().state, "ok");
    assert_eq!(disk.look(), disk.snapshots.len() + 1);
    disk.engine.damage(at);
    disk.recovered();
}

/// What can't be written is not taken for what can't be read.
#[test]
fn p5_without_a_journal_a_failed_write_of_what_is_moved_halts() {
    let engine = Engine::new(Shape {
        interval: Duration::from_secs(3600),
        volatile: true,
        cache: 64 << 20,
        batch: 32 << 20,
        ..Shape::default()
    });
    // Moving so many segments holds more than is held before some of it is written.
    let segments = 400;
    let id = engine.create(new_disk("a", segments * SEGMENT)).unwrap();
    for segment in 0..segments {
        let data = noise(segment, SEGMENT as usize);
        engine.write(id, segment * SEGMENT, &data).unwrap();
    }
    engine.flush().unwrap();
    engine.settle();
    for segment in 0..segments {
        engine
            .write(id, segment * SEGMENT, &[1; BLOCK as usize])
            .unwrap();
    }
    for device in &engine.faults {
        device.plan(Operation::Write, When::Nth(1), Effect::Fail(libc::EIO));
    }
    engine.flush().unwrap_err();
    assert!(engine.status().state.starts_with("halted"));
    engine.volumes.abandon();
}

/// A device whose host keeps in memory what the medium has no more.
struct Stale {
    inner: Arc<dyn Device>,
    is_stale: Arc<AtomicBool>,
}

impl Device for Stale {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        self.inner.read_at(buf, offset)?;
        if self.is_stale.load(Relaxed) {
            buf.fill(0xaa);
        }
        Ok(())
    }

    fn read_uncached(&self, buf: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        self.inner.read_at(buf, offset)
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<(), DeviceError> {
        self.inner.write_at(bufs, offset)
    }

    fn sync(&self) -> Result<(), DeviceError> {
        self.inner.sync()
    }

    fn punch(&self, offset: u64, len: u64) -> Result<bool, DeviceError> {
        self.inner.punch(offset, len)
    }

    fn allocated(&self) -> Result<u64, DeviceError> {
        self.inner.allocated()
    }
}

/// Before a block is called damaged, the medium is asked.
#[test]
fn p8_what_the_host_holds_by_mistake_is_not_damage() {
    let Disk {
        engine, content, ..
    } = Disk::new();
    let (disk, shape) = (engine.disk.clone(), engine.shape);
    engine.volumes.close_store().unwrap();
    let is_stale = Arc::new(AtomicBool::new(false));
    let stale = is_stale.clone();
    let wrap = move |inner: Arc<dyn Device>| -> Arc<dyn Device> {
        let is_stale = stale.clone();
        if inner.name().contains("pool") {
            Arc::new(Stale { inner, is_stale })
        } else {
            inner
        }
    };
    let engine = Engine::open_over(disk, shape, &wrap);
    is_stale.store(true, Relaxed);
    let node = engine.lookup("a").unwrap();
    let mut bytes = vec![0; content.len()];
    engine.read(node, 0, &mut bytes).unwrap();
    assert!(bytes == content);
    is_stale.store(false, Relaxed);
    engine.volumes.close_store().unwrap();
}

/// A sector of the journal that can't be read is no end of it: the store opens with all that was
/// written, or says that it can't.
#[test]
fn p8_a_bad_sector_of_the_journal_is_not_taken_for_its_end() {
    let engine = Engine::new(Shape {
        interval: Duration::from_secs(3600),
        ..Shape::default()
    });
    let id = engine.create(new_disk("a", 2 * SEGMENT)).unwrap();
    let content = noise(1, 8 * BLOCK as usize);
    for (at, block) in (0..)
        .step_by(BLOCK as usize)
        .zip(content.chunks(BLOCK as usize))
    {
        engine.write(id, at, block).unwrap();
    }
    engine.sync().unwrap();
    let (images, shape) = (engine.disk.kill_image(), engine.shape);
    engine.volumes.abandon();
    let mut refused = 0;
    for sector in 0..100 {
        let wrap = |inner: Arc<dyn Device>| -> Arc<dyn Device> {
            if inner.name() != "journal" {
                return inner;
            }
            let device = FaultDevice::new(inner);
            device.lose(sector * 512..(sector + 1) * 512);
            Arc::new(device)
        };
        match Engine::try_open(CrashDisk::from_images(&images), shape, &wrap) {
            Ok(engine) => {
                let node = engine.lookup("a").unwrap();
                let mut bytes = vec![0; content.len()];
                engine.read(node, 0, &mut bytes).unwrap();
                assert!(bytes == content, "sector {sector}");
                engine.volumes.abandon();
            }
            Err(error) => {
                assert!(error.contains("os error 5"), "sector {sector}: {error}");
                refused += 1;
            }
        }
    }
    // Eight records of nine sectors, less what they share; and the headers.
    assert!((64..80).contains(&refused), "{refused}");
}
