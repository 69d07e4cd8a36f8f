//! Stores that are damaged on purpose, and what comes of them: a trial damages one, checks it, opens
//! it and reads everything.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use snapmark::check::{Kind, Options, Parts, Report, Severity, Verdict, check};
use snapmark::device::{CrashDisk, Device, Images, MemoryDevice};
use snapmark::volume::{Extent, Node, Volumes};

use crate::common::checks;
use crate::common::engine::{Engine, SEGMENT, Shape};
use crate::common::model::{State, new_disk};

/// A store that is as it should be.
pub struct Healthy {
    pub name: &'static str,
    pub images: Images,
    /// What people see in it. Where the last write was not synced, what there is without it, too.
    pub states: Vec<State>,
}

/// The shape of all these stores: small, and nothing is destaged unless it is asked for.
pub fn shape() -> Shape {
    Shape {
        segment: SEGMENT,
        log: 256 << 10,
        journal: 1 << 20,
        pool: (4 << 20) + 48 * SEGMENT,
        cache: 2 << 20,
        batch: 256 << 10,
        interval: Duration::from_secs(3600),
        volatile: false,
        patience: Duration::from_secs(60),
    }
}

/// Blocks of which each is full of one byte.
fn filled(first: u8, blocks: u64) -> Vec<u8> {
    let bytes = (0..blocks).map(|block| first.wrapping_add(block as u8).max(1));
    bytes.flat_map(|byte| [byte; 4096]).collect()
}

/// A store with a bit of everything, all of it in the pool: disks with holes and packs, snapshots,
/// one of a disk that is gone, a clone, a disk that was rolled back.
fn settled() -> Engine {
    let engine = Engine::new(shape());
    let a = engine.create(new_disk("a", 4 * SEGMENT)).unwrap();
    let b = engine.create(new_disk("b", 2 * SEGMENT)).unwrap();
    let gone = engine.create(new_disk("gone", SEGMENT)).unwrap();
    engine.write(a, 0, &filled(1, 40)).unwrap();
    engine.write(b, 4096, &filled(50, 18)).unwrap();
    engine.write(gone, 0, &filled(70, 3)).unwrap();
    engine.snapshot(&["a"], Some("s"), false).unwrap();
    engine
        .snapshot(&["gone", "b"], Some("kept"), false)
        .unwrap();
    engine.remove("gone").unwrap();
    engine.write(a, 8192, &filled(80, 2)).unwrap();
    engine.flush().unwrap();
    let c = engine
        .clone_snapshot("a@s", new_disk("c", 4 * SEGMENT))
        .unwrap();
    engine.write(c, SEGMENT, &filled(90, 1)).unwrap();
    engine.flush().unwrap();
    engine.snapshot(&["a"], Some("t"), false).unwrap();
    engine.write(a, 0, &filled(100, 1)).unwrap();
    engine.write(a, 30 * 4096, &filled(101, 2)).unwrap();
    let hole = Extent {
        offset: 5 * 4096,
        len: 3 * 4096,
    };
    engine.discard(a, hole).unwrap();
    engine.write(b, 0, &filled(110, 3)).unwrap();
    engine.rollback("b", "b@kept", true).unwrap();
    engine.settle();
    engine
}

/// Asks for slots until a big write goes by reference.
fn fill_stock(engine: &Engine, disk: snapmark::base::DiskId) {
    for _ in 0..2000 {
        engine.write(disk, 0, &filled(120, SEGMENT / 4096)).unwrap();
        let status = engine.status();
        let queued: u64 = status.disks.iter().map(|disk| disk.queued).sum();
        if status.cache.used < queued {
            return;
        }
        engine.flush().unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("no write goes by reference");
}

/// A store that was closed in order.
pub fn closed() -> Healthy {
    let engine = settled();
    let state = State::of(&engine);
    engine.volumes.close_store().unwrap();
    Healthy {
        name: "closed",
        images: engine.disk.kill_image(),
        states: vec![state],
    }
}

/// A store whose daemon died, with every kind of record in the journal. All but the last is known
/// to have been synced.
pub fn killed() -> Healthy {
    let engine = settled();
    let e = engine.create(new_disk("e", 2 * SEGMENT)).unwrap();
    fill_stock(&engine, e);
    let node = |name| match engine.lookup(name) {
        Some(Node::Disk(disk)) => disk,
        _ => panic!("no disk {name}"),
    };
    let (a, b) = (node("a"), node("b"));
    engine.write(a, 4096, &filled(140, 3)).unwrap();
    engine.write(b, 1000, &filled(150, 1)).unwrap();
    let hole = Extent {
        offset: 0,
        len: 2 * 4096,
    };
    engine.discard(a, hole).unwrap();
    engine.snapshot(&["a", "e"], Some("u"), false).unwrap();
    engine.rename("b", "b2", false).unwrap();
    engine.write(a, 2 * 4096, &filled(160, 1)).unwrap();
    engine.sync().unwrap();
    let before = State::of(&engine);
    engine.write(a, 20 * 4096, &filled(170, 1)).unwrap();
    let after = State::of(&engine);
    let images = engine.disk.kill_image();
    engine.volumes.abandon();
    Healthy {
        name: "killed",
        images,
        states: vec![after, before],
    }
}

/// Bytes put in place of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    pub device: String,
    pub offset: u64,
    pub bytes: Vec<u8>,
}

impl Patch {
    /// The images with it. All other devices are shared.
    pub fn apply(&self, images: &Images) -> Images {
        let mut images = images.clone();
        let device = MemoryDevice::clone(&images[&self.device]);
        device
            .write_at(&[IoSlice::new(&self.bytes)], self.offset)
            .unwrap();
        images.insert(self.device.clone(), Arc::new(device));
        images
    }
}

/// What became of a damaged store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// It was not opened, for this reason.
    Refused(String),
    /// These files have blocks that can't be read; the rest is right.
    Unreadable(Vec<String>),
    /// All is there. The number is that of the state.
    Right(usize),
}

/// What check and daemon said of a damaged store.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// None where it could not be checked.
    pub check: Option<(Verdict, Vec<Kind>)>,
    pub opened: Opened,
}

/// Damages a store and looks at it. An error says which promise was broken.
pub fn trial(healthy: &Healthy, patches: &[Patch], flush: bool) -> Result<Outcome, String> {
    let mut images = healthy.images.clone();
    for patch in patches {
        images = patch.apply(&images);
    }
    let check = catch_unwind(AssertUnwindSafe(|| report(&images)));
    let check = check.map_err(|_| "the check panicked".to_owned())?;
    let opened = catch_unwind(AssertUnwindSafe(|| open(&images, healthy, flush)));
    let opened = opened.map_err(|_| "opening or reading panicked".to_owned())??;
    let check = check.map(|report| {
        let damage = report.problems.iter();
        let damage = damage.filter(|problem| problem.severity == Severity::Damage);
        let mut kinds: Vec<Kind> = damage.map(|problem| problem.kind).collect();
        kinds.sort();
        kinds.dedup();
        (report.verdict, kinds)
    });
    let verdict = check.as_ref().map(|(verdict, _)| *verdict);
    let noticed = matches!(verdict, None | Some(Verdict::Damaged));
    match &opened {
        Opened::Right(_) => {}
        _ if noticed => {}
        opened => return Err(format!("the check says {verdict:?}, and {opened:?}")),
    }
    Ok(Outcome { check, opened })
}

fn report(images: &Images) -> Option<Report> {
    let device = |name: &str| -> Arc<dyn Device> { images[name].clone() };
    let parts = Parts {
        pages: device("pages"),
        log: Ok(device("log")),
        journal: Ok(device("journal")),
        open: &|record| match images.get(&record.path) {
            Some(device) => Ok(device.clone()),
            None => Err("there is none".to_owned()),
        },
    };
    check(&parts, Options { data: true }, &mut |_, _| {}).ok()
}

fn open(images: &Images, healthy: &Healthy, flush: bool) -> Result<Opened, String> {
    let disk = CrashDisk::from_images(images);
    let engine = match Engine::try_open(disk, shape(), &|device| device) {
        Ok(engine) => engine,
        Err(error) if error.contains("panicked") => return Err(error),
        Err(error) => return Ok(Opened::Refused(error)),
    };
    let mut opened = look(&engine.volumes, healthy);
    if flush && opened.is_ok() {
        match engine.flush() {
            Err(error) if error.to_string().contains("panicked") => opened = Err(error.to_string()),
            _ => {
                let after = look(&engine.volumes, healthy);
                let after = after.map_err(|error| format!("after a flush {error}"));
                opened = opened.and_then(|before| after.map(|_| before));
            }
        }
    }
    engine.volumes.abandon();
    opened
}

/// Reads everything. What can be read must be that of one of the states.
fn look(volumes: &Volumes, healthy: &Healthy) -> Result<Opened, String> {
    let mut wrong = String::new();
    for (number, state) in healthy.states.iter().enumerate() {
        match compare(volumes, state) {
            Ok(unreadable) if unreadable.is_empty() => return Ok(Opened::Right(number)),
            Ok(unreadable) => return Ok(Opened::Unreadable(unreadable)),
            Err(error) => wrong = error,
        }
    }
    Err(wrong)
}

/// The files that can't be read as a whole, or where something is wrong.
fn compare(volumes: &Volumes, state: &State) -> Result<Vec<String>, String> {
    let listed: BTreeMap<String, Node> = volumes.list().into_iter().collect();
    if !listed.keys().eq(state.files.keys()) {
        return Err(format!("the names are {:?}", listed.keys()));
    }
    let mut unreadable = Vec::new();
    for (name, node) in listed {
        let expected = &state.files[&name];
        let size = volumes.attributes(node).map(|attributes| attributes.size);
        match size {
            Ok(size) if size == expected.len() as u64 => {}
            Ok(size) => return Err(format!("{name} has a size of {size}")),
            Err(_) => {
                unreadable.push(name);
                continue;
            }
        }
        let mut bytes = vec![0xee; expected.len()];
        let whole = volumes.read(node, 0, &mut bytes);
        if whole.is_ok() && bytes == **expected {
            continue;
        }
        let mut all = true;
        for (at, expected) in (0..).step_by(4096).zip(expected.chunks(4096)) {
            let mut bytes = vec![0xee; expected.len()];
            match volumes.read(node, at, &mut bytes) {
                Ok(_) if bytes == expected => {}
                Ok(_) => return Err(format!("{name}: block {} is wrong", at / 4096)),
                Err(_) => all = false,
            }
        }
        match all {
            true => return Err(format!("{name} reads otherwise as a whole")),
            false => unreadable.push(name),
        }
    }
    Ok(unreadable)
}

/// A store is what its makers say, before it is damaged.
pub fn assert_healthy(healthy: &Healthy) {
    checks::clean(&healthy.images, healthy.name);
    let outcome = trial(healthy, &[], true).unwrap();
    assert_eq!(outcome.opened, Opened::Right(0), "{}", healthy.name);
}
