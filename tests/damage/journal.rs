//! Damage in the journal: what was durable once is not taken for a torn end, and what can be
//! replayed is. The daemon and the check agree on it.

use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use crate::common::engine::{Engine, SEGMENT, Shape};
use crate::common::model::new_disk;
use crate::common::watched::Watch;
use crate::common::{checks, noise};
use snapmark::base::{DiskId, Seq, Timestamp};
use snapmark::check::{Kind, Verdict};
use snapmark::device::{CrashDisk, Device, FileDevice, Fill, Images, MemoryDevice};
use snapmark::ondisk::journal::{
    Body, JournalHeader, RECORD_HEADER, RING_START, RecordHeader, Stamp,
};
use snapmark::volume::{Extent, Node};

/// A store that destages only when it is told to.
fn manual() -> Engine {
    Engine::new(Shape {
        interval: Duration::from_secs(3600),
        ..Shape::default()
    })
}

/// What each block of the tests has.
pub fn content(block: u64) -> Vec<u8> {
    noise(block + 1, 4096)
}

fn write(engine: &Engine, disk: DiskId, block: u64) {
    engine.write(disk, block * 4096, &content(block)).unwrap();
}

/// A disk whose blocks were written one by one, with a sync after every second one, and those
/// blocks of it that are there.
fn eight_blocks() -> Engine {
    let engine = manual();
    let disk = engine.create(new_disk("d", SEGMENT)).unwrap();
    engine.flush().unwrap();
    for block in 0..8 {
        write(&engine, disk, block);
        if block % 2 == 1 {
            engine.sync().unwrap();
        }
    }
    engine
}

/// The blocks of disk `d` that hold what was written. The others are zeros, or can't be read.
fn blocks(engine: &Engine, count: u64) -> Vec<u64> {
    let node = engine.lookup("d").unwrap();
    let is_there = |block: &u64| {
        let mut bytes = vec![1; 4096];
        match engine.read(node, block * 4096, &mut bytes) {
            Ok(_) if bytes == content(*block) => true,
            Ok(_) => {
                assert_eq!(bytes, [0; 4096], "block {block} has wrong data");
                false
            }
            Err(_) => false,
        }
    };
    (0..count).filter(is_there).collect()
}

fn flip(device: &MemoryDevice, at: u64) {
    let mut byte = [0];
    device.read_at(&mut byte, at).unwrap();
    device
        .write_at(&[IoSlice::new(&[byte[0] ^ 4])], at)
        .unwrap();
}

/// Where in the journal the data of a block lies.
fn data_of(images: &Images, block: u64) -> u64 {
    let (journal, data) = (images["journal"].to_bytes(), content(block));
    let place = journal.windows(4096).position(|window| window == data);
    place.unwrap() as u64
}

fn open(images: &Images, shape: Shape) -> Result<Engine, String> {
    Engine::try_open(CrashDisk::from_images(images), shape, &|device| device)
}

/// Daemon and check both refuse it, with the record's number.
#[track_caller]
fn refused(images: &Images, shape: Shape) -> String {
    let report = checks::report(images);
    assert_eq!(report.verdict, Verdict::Damaged, "{report:#?}");
    assert!(report.problems.iter().any(|it| it.kind == Kind::Journal));
    let Err(error) = open(images, shape) else {
        panic!("it was opened, and the check says {:#?}", report.problems);
    };
    assert!(error.contains("journal"), "{error}");
    error
}

/// Both take it, and so many blocks are there.
#[track_caller]
fn taken(images: &Images, shape: Shape, expected: &[u64]) -> Engine {
    checks::clean(images, "before it is opened");
    let engine = open(images, shape).unwrap();
    assert_eq!(blocks(&engine, 8), expected);
    engine
}

fn header_of(images: &Images, slot: u64) -> Option<JournalHeader> {
    let mut bytes = [0; JournalHeader::LEN];
    images["journal"].read_at(&mut bytes, slot * 4096).unwrap();
    JournalHeader::decode(&bytes).ok()
}

fn newest_header(images: &Images) -> JournalHeader {
    let headers = [0, 1]
        .into_iter()
        .filter_map(|slot| header_of(images, slot));
    headers.max_by_key(|header| header.session).unwrap()
}

#[test]
fn p4_a_synced_record_that_rots_is_not_taken_for_the_end() {
    let engine = eight_blocks();
    let images = engine.disk.kill_image();
    engine.volumes.abandon();
    let shape = engine.shape;
    taken(&images, shape, &[0, 1, 2, 3, 4, 5, 6, 7])
        .volumes
        .abandon();
    for block in 0..8 {
        let at = data_of(&images, block);
        // In its data, in its checksums, in its number, in its magic.
        for at in [at + 77, at - 46, at - 104, at - 128] {
            flip(&images["journal"], at);
            if block < 6 {
                let error = refused(&images, shape);
                assert!(error.contains("--drop-journal-tail"), "{error}");
            } else {
                // Nothing was written after the last sync, so nobody knows of it.
                let left: Vec<u64> = (0..block).collect();
                taken(&images, shape, &left).volumes.abandon();
            }
            flip(&images["journal"], at);
        }
    }
}

#[test]
fn p6_what_was_not_synced_may_have_gaps() {
    let engine = eight_blocks();
    let Node::Disk(disk) = engine.lookup("d").unwrap() else {
        panic!("no disk");
    };
    (8..14).for_each(|block| write(&engine, disk, block));
    let images = engine.disk.kill_image();
    engine.volumes.abandon();
    for block in 8..14 {
        let at = data_of(&images, block);
        flip(&images["journal"], at);
        checks::clean(&images, "not synced");
        let opened = open(&images, engine.shape).unwrap();
        assert_eq!(blocks(&opened, 14), (0..block).collect::<Vec<_>>());
        opened.volumes.abandon();
        flip(&images["journal"], at);
    }
    // These were, and those that came later say so.
    for block in 6..8 {
        let at = data_of(&images, block);
        flip(&images["journal"], at);
        refused(&images, engine.shape);
        flip(&images["journal"], at);
    }
}

#[test]
fn what_the_last_opening_found_was_durable() {
    let engine = eight_blocks().kill();
    let images = engine.disk.kill_image();
    engine.volumes.abandon();
    taken(&images, engine.shape, &[0, 1, 2, 3, 4, 5, 6, 7])
        .volumes
        .abandon();
    // Nothing was written since; the header alone knows.
    for block in 0..8 {
        let at = data_of(&images, block);
        flip(&images["journal"], at);
        refused(&images, engine.shape);
        flip(&images["journal"], at);
    }
}

#[test]
fn what_a_commit_knew_to_be_durable_was() {
    let engine = Engine::new(Shape {
        interval: Duration::from_secs(3600),
        batch: 4096,
        ..Shape::default()
    });
    let disk = engine.create(new_disk("d", SEGMENT)).unwrap();
    engine.flush().unwrap();
    (0..8).for_each(|block| write(&engine, disk, block));
    let begun = engine.disk.crash_points();
    engine.flush().unwrap();
    let (mut said, mut opened) = (0, 0);
    for events in begun..=engine.disk.crash_points() {
        // The last record, with nothing behind it: only the catalog can tell.
        let images = engine.disk.kill_image_at(events);
        flip(&images["journal"], data_of(&images, 7));
        match open(&images, engine.shape) {
            Err(error) => {
                assert!(error.contains("journal"), "{error}");
                assert_eq!(checks::report(&images).verdict, Verdict::Damaged);
                said += 1;
            }
            Ok(engine) => {
                let there = blocks(&engine, 8);
                let applied = there.len() == 8;
                assert!(applied || said == 0, "{there:?} after {events} events");
                opened += u64::from(applied);
                engine.volumes.abandon();
                checks::clean(&images, "not needed, or not known");
            }
        }
    }
    engine.volumes.abandon();
    assert!(
        said > 0 && opened > 0,
        "{said} refused, {opened} needed nothing"
    );
}

#[test]
fn a_lost_header_loses_no_records() {
    for reopened in [false, true] {
        let mut engine = eight_blocks();
        if reopened {
            engine = engine.kill();
        }
        let Node::Disk(disk) = engine.lookup("d").unwrap() else {
            panic!("no disk");
        };
        write(&engine, disk, 9);
        let images = engine.disk.kill_image();
        engine.volumes.abandon();
        let newest = newest_header(&images);
        let zeros = [0; 4096];
        let journal = &images["journal"];
        journal
            .write_at(&[IoSlice::new(&zeros)], newest.slot())
            .unwrap();
        let expected = [0, 1, 2, 3, 4, 5, 6, 7];
        let engine = taken(&images, engine.shape, &expected);
        assert_eq!(blocks(&engine, 10), [0, 1, 2, 3, 4, 5, 6, 7, 9]);
        // The new header goes where the lost one was, so that there is one at any time.
        let images = engine.disk.kill_image();
        assert_eq!(newest_header(&images).slot(), newest.slot());
        assert!(newest_header(&images).session > newest.session);
        write(&engine, disk, 8);
        let engine = engine.kill();
        assert_eq!(blocks(&engine, 10), (0..10).collect::<Vec<_>>());
        let engine = engine.reopen();
        assert_eq!(blocks(&engine, 10), (0..10).collect::<Vec<_>>());
        checks::clean(&engine.disk.kill_image(), "closed in order");
        engine.volumes.abandon();
    }
}

#[test]
fn a_gap_is_noticed_without_the_newest_header_too() {
    let engine = eight_blocks();
    let images = engine.disk.kill_image();
    engine.volumes.abandon();
    let slot = newest_header(&images).slot();
    flip(&images["journal"], slot + 20);
    flip(&images["journal"], data_of(&images, 1));
    refused(&images, engine.shape);
}

#[test]
fn a_journal_without_any_header_or_of_another_time_is_refused() {
    let engine = eight_blocks();
    let early = engine.disk.kill_image();
    let engine = engine.kill().kill().kill();
    engine.flush().unwrap();
    let images = engine.disk.kill_image();
    engine.volumes.abandon();
    let mut old = images.clone();
    old.insert("journal".into(), early["journal"].clone());
    let error = refused(&old, engine.shape);
    assert!(
        error.contains("damaged") || error.contains("old copy"),
        "{error}"
    );
    for slot in [0, 4096] {
        flip(&images["journal"], slot + 20);
    }
    refused(&images, engine.shape);
    // A header in the slot of the other one is none.
    let mut slot = vec![0; 4096];
    early["journal"]
        .read_at(&mut slot, newest_header(&early).slot())
        .unwrap();
    let other = 4096 - newest_header(&early).slot();
    images["journal"]
        .write_at(&[IoSlice::new(&slot)], other)
        .unwrap();
    refused(&images, engine.shape);
}

#[test]
fn a_damaged_segment_of_a_synced_record_is_like_any_other() {
    let shape = Shape {
        interval: Duration::from_secs(3600),
        cache: 64 << 20,
        journal: 32 << 20,
        ..Shape::default()
    };
    let engine = Engine::new(shape);
    let disk = engine.create(new_disk("d", 64 * SEGMENT)).unwrap();
    // Until writes go by reference.
    let data: Vec<u8> = (0..SEGMENT / 4096).flat_map(content).collect();
    for _ in 0..500 {
        engine.flush().unwrap();
        engine.write(disk, 0, &data).unwrap();
        engine.sync().unwrap();
        if checks::report(&engine.disk.kill_image())
            .journal
            .unwrap()
            .references
            > 0
        {
            break;
        }
    }
    let unknown = engine.disk.kill_image();
    engine.write(disk, SEGMENT, &content(99)).unwrap();
    let images = engine.disk.kill_image();
    engine.volumes.abandon();
    let report = checks::clean(&images, "as it is");
    assert_eq!(report.journal.unwrap().references, 1);
    let pool = |images: &Images| {
        let (data, mut found) = (content(3), None);
        for name in ["pool0", "pool1"] {
            let mut bytes = vec![0; 32 << 20];
            images[name].read_at(&mut bytes, 0).unwrap();
            let places = bytes.chunks(4096).enumerate();
            let places = places.filter(|(_, block)| *block == data);
            // The newest copy is the one that is read.
            for (number, _) in places {
                flip(&images[name], number as u64 * 4096 + 9);
                found = Some(number);
            }
        }
        found.unwrap();
    };
    pool(&images);
    let report = checks::report(&images);
    assert_eq!(report.verdict, Verdict::Damaged);
    let opened = open(&images, shape).unwrap();
    let mut expected: Vec<u64> = (0..SEGMENT / 4096).collect();
    expected.remove(3);
    assert_eq!(blocks(&opened, SEGMENT / 4096), expected);
    let mut block = [0; 4096];
    assert!(opened.read(Node::Disk(disk), 3 * 4096, &mut block).is_err());
    opened.read(Node::Disk(disk), SEGMENT, &mut block).unwrap();
    assert_eq!(block.as_slice(), content(99));
    opened.volumes.abandon();
    // Without the record behind it nobody knows that it was synced.
    pool(&unknown);
    open(&unknown, shape).unwrap().volumes.abandon();
}

/// A discard with cut ends is three records, and is there as a whole or not at all. Where it was
/// durable, half of it is damage.
#[test]
fn p5_a_discard_of_several_records_is_there_whole_or_not_at_all() {
    for synced in [false, true] {
        let engine = eight_blocks();
        let Node::Disk(disk) = engine.lookup("d").unwrap() else {
            panic!("no disk");
        };
        let range = Extent {
            offset: 2 * 4096 + 512,
            len: 3 * 4096,
        };
        engine.discard(disk, range).unwrap();
        let whole = engine.disk.kill_image();
        if synced {
            engine.sync().unwrap();
            write(&engine, disk, 9);
        }
        let images = engine.disk.kill_image();
        engine.volumes.abandon();
        let shape = engine.shape;
        let opened = open(&whole, shape).unwrap();
        let mut bytes = vec![1; 4 * 4096];
        opened.read(Node::Disk(disk), 2 * 4096, &mut bytes).unwrap();
        opened.volumes.abandon();
        let (from, to) = (512, 512 + 3 * 4096);
        assert_eq!(bytes[..from], content(2)[..from]);
        assert_eq!(bytes[from..to], vec![0; to - from]);
        assert_eq!(bytes[to..], content(5)[512..]);
        // The last of its records: that of the block that it begins in the middle of.
        let tail = [&[0; 512], &content(5)[512..]].concat();
        let journal = images["journal"].to_bytes();
        let at = journal.windows(4096).position(|window| window == tail);
        flip(&images["journal"], at.unwrap() as u64 + 4000);
        if synced {
            refused(&images, shape);
        } else {
            taken(&images, shape, &[0, 1, 2, 3, 4, 5, 6, 7])
                .volumes
                .abandon();
        }
    }
}

/// The head of a record of a write that zeros the first block of a disk.
fn forged(header: &JournalHeader, key: u64, seq: Seq, disk: DiskId) -> Vec<u8> {
    let stamp = Stamp {
        key,
        session: header.session,
        durable: Seq(seq.0 - 1),
    };
    let mut header = RecordHeader::new(stamp, seq, Timestamp(1));
    (header.disk, header.count) = (disk, 1);
    let mut page = header.encode(&Body::Zero);
    page.resize(4096, 0);
    page
}

/// What a guest writes lies in the ring as it is. Where a round of the ring ends in front of it,
/// it must not become a record.
#[test]
fn what_a_guest_writes_is_never_taken_for_a_record() {
    let engine = eight_blocks();
    let Node::Disk(disk) = engine.lookup("d").unwrap() else {
        panic!("no disk");
    };
    let images = engine.disk.kill_image();
    engine.volumes.abandon();
    let header = newest_header(&images);
    let last = data_of(&images, 7) + 4096;
    let mut bytes = [0; RECORD_HEADER];
    images["journal"]
        .read_at(&mut bytes, data_of(&images, 7) - 128)
        .unwrap();
    let next = RecordHeader::decode(&bytes).unwrap().seq.next();
    let at = (last - RING_START).next_multiple_of(4096) + RING_START;
    let put = |key| {
        let record = forged(&header, key, next, disk);
        images["journal"]
            .write_at(&[IoSlice::new(&record)], at)
            .unwrap();
    };
    put(header.key ^ 1);
    taken(&images, engine.shape, &[0, 1, 2, 3, 4, 5, 6, 7])
        .volumes
        .abandon();
    // Nor does it prove anything.
    let far = forged(&header, header.key ^ 1, Seq(next.0 + 100), disk);
    images["journal"]
        .write_at(&[IoSlice::new(&far)], at + 8192)
        .unwrap();
    flip(&images["journal"], data_of(&images, 7));
    taken(&images, engine.shape, &[0, 1, 2, 3, 4, 5, 6])
        .volumes
        .abandon();
    flip(&images["journal"], last - 4096);
    // With the key it would have been.
    put(header.key);
    taken(&images, engine.shape, &[1, 2, 3, 4, 5, 6, 7])
        .volumes
        .abandon();
}

/// However big the ring, and whatever is left in it from earlier rounds, so much is read to find
/// out whether something was durable behind the end, and no more.
#[test]
fn p12_the_end_of_a_big_journal_is_found_soon() {
    const RING: u64 = 192 << 20;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let device = FileDevice::create(&path, RING, Fill::Sparse).unwrap();
    let noise = noise(7, 1 << 20);
    for at in (0..RING).step_by(1 << 20) {
        device.write_at(&[IoSlice::new(&noise)], at).unwrap();
    }
    snapmark::cache::create_journal(&device, [7; 16]).unwrap();
    let device: Arc<dyn Device> = Arc::new(device);
    let shape = Shape {
        journal: RING,
        ..Shape::default()
    };
    let watch = Arc::new(Watch::default());
    let wrap = |other: Arc<dyn Device>| match other.name() {
        "journal" => watch.over(device.clone()),
        _ => other,
    };
    let engine = Engine::try_open(Engine::make(&shape), shape, &wrap).unwrap();
    engine.volumes.abandon();
    let (_, bytes) = watch.read();
    // 64 MiB, and where its parts overlap.
    assert!((1 << 20..66 << 20).contains(&bytes), "{bytes} bytes read");
}
