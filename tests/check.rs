//! The offline check: silent on every store that the engine or a crash leaves, loud on each kind
//! of damage, with the names of those it touches; and it leaves no trace.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::engine::{Engine, SEGMENT, Shape};
use common::model::{Mix, Model, new_disk};
use common::{Random, SNAPMARK, TestStore, able, checks, execute, noise, run, seeds};
use snapmark::base::{BlockMask, DeviceNo, Epoch, MapId, Place, SegmentNo, Slot};
use snapmark::check::{Kind, Options, Parts, Report, Severity, Verdict, check};
use snapmark::device::{Device, Effect, FaultDevice, Images, MemoryDevice, Operation, When};
use snapmark::ondisk::{
    Change, Descriptor, PAGE, Page, PageBody, PageHeader, Root, TreeKind, VersionKey, encode_leaf,
    slot_start,
};
use snapmark::store::{Catalog, CatalogConfig, View};

/// A store that destages only when it is told to.
fn manual() -> Engine {
    Engine::new(Shape {
        interval: Duration::from_secs(3600),
        ..Shape::default()
    })
}

/// A store with a bit of everything, settled: disks `a` and `b`, a clone `c` of `a@s`, and
/// `a@t`; `a` has changed since.
fn little_store() -> Engine {
    let engine = manual();
    let a = engine.create(new_disk("a", 4 * SEGMENT)).unwrap();
    let b = engine.create(new_disk("b", 2 * SEGMENT)).unwrap();
    engine.write(a, 0, &noise(1, 3 * SEGMENT as usize)).unwrap();
    engine.write(b, 4096, &noise(2, 65536)).unwrap();
    engine.snapshot(&["a"], Some("s"), false).unwrap();
    engine.write(a, 8192, &noise(3, 8192)).unwrap();
    let c = engine
        .clone_snapshot("a@s", new_disk("c", 4 * SEGMENT))
        .unwrap();
    engine.write(c, SEGMENT, &noise(4, 4096)).unwrap();
    engine.snapshot(&["a"], Some("t"), false).unwrap();
    engine.write(a, 0, &noise(5, 4096)).unwrap();
    engine.settle();
    engine
}

fn view(images: &Images) -> View {
    catalog(images).view()
}

fn catalog(images: &Images) -> Catalog {
    let (pages, log) = (images["pages"].clone(), images["log"].clone());
    Catalog::open(pages, log, CatalogConfig::default()).unwrap()
}

/// A settled little store whose catalog has these changes, too.
fn with(changes: impl FnOnce(&View) -> Vec<Change>) -> Report {
    let engine = little_store();
    let images = engine.disk.kill_image();
    engine.volumes.abandon();
    checks::clean(&images, "as it was made");
    let catalog = catalog(&images);
    let changes = changes(&catalog.view());
    catalog.commit(&changes).unwrap();
    checks::report(&images)
}

#[track_caller]
fn finds(report: &Report, severity: Severity, kind: Kind, touched: &[&str]) {
    let found = report.problems.iter().any(|problem| {
        let names = |name: &&&str| {
            let name = (**name).to_owned();
            problem.disks.contains(&name) || problem.snapshots.contains(&name)
        };
        problem.severity == severity
            && problem.kind == kind
            && touched.iter().filter(names).count() == touched.len()
    });
    assert!(found, "no {severity:?} {kind:?} {touched:?} in {report:#?}");
    let verdict = match severity {
        Severity::Damage => Verdict::Damaged,
        Severity::Repairable => Verdict::Repairable,
        Severity::Note => Verdict::Clean,
    };
    assert!(
        report.verdict == verdict || report.verdict == Verdict::Damaged,
        "{report:#?}"
    );
}

fn live(view: &View, disk: &str, segment: u64) -> (VersionKey, Descriptor) {
    let disks = view.disks().unwrap();
    let map = disks.iter().find(|it| it.name == disk).unwrap().map;
    view.live(map, SegmentNo(segment)).unwrap().unwrap()
}

#[test]
fn what_the_engine_leaves_is_clean() {
    for seed in seeds(4) {
        let mix = Mix {
            largest: 320 << 10,
            disks: 4,
            snapshots: 6,
            simple: false,
            clones: true,
        };
        let shape = Shape {
            volatile: seed % 4 == 3,
            ..Shape::default()
        };
        let mut engine = Engine::new(shape);
        let mut model = Model::new(seed, mix);
        checks::clean(&engine.disk.kill_image(), "new");
        for round in 0..12 {
            (0..40).for_each(|_| model.step(&engine));
            let when = format!("seed {seed} round {round}");
            checks::clean(&engine.disk.kill_image(), &when);
            if round % 4 == 3 {
                engine = engine.reopen();
                checks::clean(&engine.disk.kill_image(), &(when + " closed"));
            }
        }
        engine.settle();
        let report = checks::clean(&engine.disk.kill_image(), "settled");
        assert_eq!(report.data_read, report.blocks * 4096);
        engine.volumes.abandon();
    }
}

#[test]
fn counts_that_are_wrong_are_repairable() {
    let report = with(|view| {
        let mut disk = view.disks().unwrap().remove(0);
        disk.allocated += 1;
        vec![Change::PutDisk(disk)]
    });
    finds(&report, Severity::Repairable, Kind::Allocated, &["a"]);
    let report = with(|view| {
        let mut snapshot = view.snapshots().unwrap().remove(0);
        snapshot.allocated += 1;
        vec![Change::PutSnapshot(snapshot)]
    });
    finds(&report, Severity::Repairable, Kind::Allocated, &["a@s"]);
}

#[test]
fn slots_with_no_user_or_two_are_found() {
    let take = |place: Place| Change::Take {
        device: place.device,
        first: place.slot,
        count: 1,
    };
    let far = Place {
        device: DeviceNo(1),
        slot: Slot(99),
    };
    let report = with(|_| vec![take(far)]);
    finds(&report, Severity::Repairable, Kind::Slot, &[]);
    let report = with(|view| {
        let ((_, theirs), (key, ours)) = (live(view, "b", 0), live(view, "a", 1));
        let mixed = Descriptor {
            place: theirs.place,
            ..ours
        };
        vec![Change::PutVersion(key, mixed)]
    });
    finds(&report, Severity::Damage, Kind::Slot, &["a", "b"]);
    let report = with(|view| {
        let (key, ours) = live(view, "b", 1);
        let moved = Descriptor {
            place: Some(far),
            ..ours
        };
        vec![Change::PutVersion(key, moved)]
    });
    finds(&report, Severity::Repairable, Kind::Slot, &["b"]);
    finds(&report, Severity::Damage, Kind::Checksum, &["b"]);
    let report = with(|view| vec![Change::Retire(live(view, "c", 1).1.place.unwrap())]);
    finds(&report, Severity::Repairable, Kind::Slot, &["c"]);
}

#[test]
fn packs_that_versions_do_not_share_as_they_should_are_found() {
    let is_packed = |version: &Descriptor| version.place.is_some() && !version.has_own_slot();
    // Two versions have the same block of a pack.
    let report = with(|view| {
        let ((_, theirs), (key, ours)) = (live(view, "a", 0), live(view, "c", 1));
        assert!(is_packed(&theirs) && is_packed(&ours));
        let (place, layout) = (theirs.place, theirs.layout);
        let mixed = Descriptor {
            place,
            layout,
            ..ours
        };
        vec![Change::PutVersion(key, mixed)]
    });
    finds(&report, Severity::Damage, Kind::Slot, &["c"]);
    // One takes it for its own.
    let report = with(|view| {
        let ((_, theirs), (key, ours)) = (live(view, "c", 1), live(view, "b", 1));
        let mixed = Descriptor {
            place: theirs.place,
            ..ours
        };
        vec![Change::PutVersion(key, mixed)]
    });
    finds(&report, Severity::Damage, Kind::Slot, &["b", "c"]);
    // A pack in a slot that another version has.
    let report = with(|view| {
        let ((_, theirs), (key, ours)) = (live(view, "b", 1), live(view, "c", 1));
        let mixed = Descriptor {
            place: theirs.place,
            ..ours
        };
        vec![Change::PutVersion(key, mixed)]
    });
    finds(&report, Severity::Damage, Kind::Slot, &["b", "c"]);
}

/// Makes the catalog keep each pack for one more block than it has. No commit could.
fn miscount_packs(images: &Images) {
    let pages = &images["pages"];
    let root = |page: u64| {
        let mut bytes = [0; PAGE];
        pages.read_at(&mut bytes, page * PAGE as u64).unwrap();
        Root::decode(&bytes).unwrap()
    };
    let newest = [0, 1].map(root).into_iter().max_by_key(|it| it.generation);
    let mut root = newest.unwrap();
    let kind = TreeKind::Packs;
    let at = TreeKind::ALL.iter().position(|it| *it == kind).unwrap();
    let tree = &mut root.trees[at];
    assert_eq!(tree.level, 0);
    let top = tree.top.as_mut().unwrap();
    let mut bytes = [0; PAGE];
    pages.read_at(&mut bytes, top.page * PAGE as u64).unwrap();
    let page = Page::decode(&bytes, *top, kind, 0, root.geometry).unwrap();
    let PageBody::Leaf(mut values) = page.body else {
        panic!("a branch");
    };
    for value in values.chunks_exact_mut(8) {
        value[0] += 1;
    }
    let header = PageHeader {
        number: top.page,
        generation: page.generation,
        kind,
        level: 0,
    };
    top.crc = encode_leaf(&header, &page.keys, &values, &mut bytes);
    let at = top.page * PAGE as u64;
    pages.write_at(&[IoSlice::new(&bytes)], at).unwrap();
    let at = root.generation % 2 * PAGE as u64;
    let bytes = root.encode().unwrap();
    pages.write_at(&[IoSlice::new(&bytes)], at).unwrap();
}

#[test]
fn a_pack_that_is_kept_for_too_many_blocks_is_found() {
    let engine = little_store().reopen();
    let images = engine.disk.kill_image();
    engine.volumes.abandon();
    checks::clean(&images, "as it was made");
    miscount_packs(&images);
    let report = checks::report(&images);
    finds(&report, Severity::Damage, Kind::Slot, &["c"]);
    assert!(report.problems.iter().all(|it| it.kind == Kind::Slot));
}

#[test]
fn an_own_layer_under_another_is_seen_and_written_in_place() {
    let engine = manual();
    let disk = engine.create(new_disk("d", SEGMENT)).unwrap();
    engine.write(disk, 0, &noise(1, SEGMENT as usize)).unwrap();
    engine.snapshot(&["d"], Some("s"), false).unwrap();
    engine.settle();
    for block in [0, 9] {
        let data = noise(block, 4096);
        engine.write(disk, block * 4096, &data).unwrap();
        engine.settle();
    }
    let images = engine.disk.kill_image();
    let (key, top) = live(&view(&images), "d", 0);
    let from = VersionKey {
        death: Epoch(0),
        ..key
    };
    let versions = view(&images).versions_from(from, 9).unwrap();
    let lower = versions.iter().find(|(key, _)| key.death == top.birth);
    let (_, lower) = *lower.unwrap();
    assert!(lower.birth.is_same_epoch(top.birth) && lower.data.has(0));
    checks::clean(&images, "two own layers");
    // Queued; as if the destager had died after it wrote a part of it in place.
    let extent = lower.extent().unwrap();
    let start = slot_start(extent.place.slot, view(&images).geometry());
    let at = start + extent.index(0) as u64 * 4096 + 17;
    let device = format!("pool{}", extent.place.device);
    flip(&images[&device], at);
    let report = checks::report(&images);
    finds(&report, Severity::Damage, Kind::Block, &["d"]);
    assert!(report.problems.iter().all(|it| it.snapshots.is_empty()));
    engine.write(disk, 0, &noise(3, 4096)).unwrap();
    let images = engine.disk.kill_image();
    flip(&images[&device], at);
    checks::clean(&images, "block 0 is in the journal");
    engine.volumes.abandon();
}

#[test]
fn versions_that_cannot_be_are_found() {
    let report = with(|view| {
        let (key, live) = live(view, "b", 0);
        let later = Descriptor {
            birth: Epoch::FIRST.after_marker(),
            ..live
        };
        vec![Change::PutVersion(key, later)]
    });
    finds(&report, Severity::Damage, Kind::Version, &["b"]);
    let report = with(|view| {
        let (key, live) = live(view, "a", 0);
        let early = Descriptor {
            birth: Epoch(1),
            ..live
        };
        vec![Change::PutVersion(key, early)]
    });
    finds(&report, Severity::Damage, Kind::Version, &["a"]);
    let report = with(|view| {
        let (key, _) = live(view, "b", 0);
        let (data, zero) = (BlockMask::EMPTY, BlockMask::range(0, 16));
        let zero = Descriptor::new(Epoch(1), None, data, zero);
        let key = VersionKey {
            map: MapId(77),
            ..key
        };
        vec![Change::PutVersion(key, zero)]
    });
    finds(&report, Severity::Damage, Kind::Version, &[]);
    // A snapshot that is gone, with what only it saw.
    let report = with(|view| {
        let snapshots = view.snapshots().unwrap();
        let t = snapshots.iter().find(|it| it.name == "t").unwrap();
        vec![Change::RemoveSnapshot(t.map, t.epoch)]
    });
    finds(&report, Severity::Repairable, Kind::Stale, &["a"]);
}

#[test]
fn records_that_do_not_fit_together_are_found() {
    let report = with(|view| {
        let s = view.snapshots().unwrap().remove(0);
        vec![Change::RemoveSnapshot(s.map, s.epoch)]
    });
    finds(&report, Severity::Damage, Kind::Record, &["c"]);
    let report = with(|view| {
        let mut disk = view.disks().unwrap().remove(1);
        disk.size = 4096;
        vec![Change::PutDisk(disk)]
    });
    finds(&report, Severity::Damage, Kind::Version, &["b"]);
    let report = with(|view| {
        let mut disk = view.disks().unwrap().remove(1);
        disk.name = "a".to_owned();
        vec![Change::PutDisk(disk)]
    });
    finds(&report, Severity::Damage, Kind::Name, &["a"]);
    let report = with(|view| {
        let mut map = view.maps().unwrap().remove(0);
        map.epoch = Epoch::FIRST;
        vec![Change::PutMap(map)]
    });
    finds(&report, Severity::Damage, Kind::Record, &["a", "a@t", "c"]);
    let report = with(|view| {
        let mut marks = view.marks();
        marks.next_disk = snapmark::base::DiskId(1);
        vec![Change::SetMarks(marks)]
    });
    finds(&report, Severity::Damage, Kind::Record, &["b"]);
    let report = with(|view| {
        let mut disk = view.disks().unwrap().remove(0);
        disk.applied = snapmark::base::Seq(1 << 40);
        vec![Change::PutDisk(disk)]
    });
    finds(&report, Severity::Damage, Kind::Journal, &[]);
    let report = with(|view| {
        let mut disk = view.disks().unwrap().remove(0);
        let id = disk.id;
        disk.map = view.disks().unwrap()[1].map;
        disk.allocated = 0;
        vec![Change::RemoveDisk(id), Change::PutDisk(disk)]
    });
    finds(&report, Severity::Damage, Kind::Record, &["a", "b"]);
}

fn flip(device: &MemoryDevice, at: u64) {
    let mut byte = [0];
    device.read_at(&mut byte, at).unwrap();
    device
        .write_at(&[IoSlice::new(&[byte[0] ^ 0x10])], at)
        .unwrap();
}

#[test]
fn a_bad_block_names_those_who_read_it() {
    let engine = little_store();
    let images = engine.disk.kill_image();
    let of = |disk: &str, segment, block: usize| {
        let (_, version) = live(&view(&images), disk, segment);
        let extent = version.extent().unwrap();
        let (place, block) = (extent.place, extent.index(block) as u64);
        let at = slot_start(place.slot, view(&images).geometry()) + block * 4096;
        (format!("pool{}", place.device), at, place)
    };
    // Segment 2 of `a` has not changed since its first snapshot, and `c` stands on that.
    let (device, at, place) = of("a", 2, 5);
    flip(&images[&device], at + 100);
    let report = checks::report(&images);
    finds(
        &report,
        Severity::Damage,
        Kind::Block,
        &["a", "a@s", "a@t", "c"],
    );
    let bad = report
        .problems
        .iter()
        .find(|it| it.kind == Kind::Block)
        .unwrap();
    assert_eq!(bad.at.slot, Some(place.slot.0));
    assert_eq!((bad.at.block, bad.at.offset), (Some(5), Some(at)));
    assert_eq!(bad.at.disk_offset, Some(2 * SEGMENT + 5 * 4096));
    assert_eq!(bad.at.file.as_deref(), Some(device.as_str()));
    flip(&images[&device], at + 100);
    // The newest version of segment 0 is that of the disk alone.
    let (device, at, _) = of("a", 0, 0);
    flip(&images[&device], at);
    let report = checks::report(&images);
    finds(&report, Severity::Damage, Kind::Block, &["a"]);
    assert!(report.problems.iter().all(|it| it.snapshots.is_empty()));
    engine.volumes.abandon();
}

#[test]
fn a_block_that_the_journal_is_about_to_write_is_no_damage() {
    let engine = manual();
    let disk = engine.create(new_disk("d", SEGMENT)).unwrap();
    engine.write(disk, 0, &noise(1, 8192)).unwrap();
    engine.settle();
    // Queued; as if the destager had died after it wrote a part of it in place.
    engine.write(disk, 0, &noise(2, 4096)).unwrap();
    let images = engine.disk.kill_image();
    let (_, version) = live(&view(&images), "d", 0);
    let place = version.place.unwrap();
    let at = slot_start(place.slot, view(&images).geometry());
    let pool = &images[&format!("pool{}", place.device)];
    flip(pool, at + 17);
    checks::clean(&images, "block 0 is in the journal");
    flip(pool, at + 4096);
    finds(
        &checks::report(&images),
        Severity::Damage,
        Kind::Block,
        &["d"],
    );
    flip(pool, at + 4096);
    flip(pool, at + 17);
    // Behind a marker that waits, too, nothing has been written in place.
    engine.settle();
    engine.snapshot(&["d"], Some("s"), false).unwrap();
    engine.write(disk, 0, &noise(3, 4096)).unwrap();
    let images = engine.disk.kill_image();
    checks::clean(&images, "a marker waits");
    flip(&images[&format!("pool{}", place.device)], at + 17);
    finds(
        &checks::report(&images),
        Severity::Damage,
        Kind::Block,
        &["d"],
    );
    engine.volumes.abandon();
}

#[test]
fn damage_of_each_file_is_found() {
    let engine = little_store().reopen();
    let images = engine.disk.kill_image();
    engine.volumes.abandon();
    // Of what the root leads to, every page is needed.
    let mut found = 0;
    for page in 2..60 {
        let mut bytes = [0; 4096];
        images["pages"].read_at(&mut bytes, page * 4096).unwrap();
        if bytes.iter().all(|byte| *byte == 0) {
            continue;
        }
        flip(&images["pages"], page * 4096 + 60);
        let report = checks::report(&images);
        if report.problems.iter().any(|it| it.kind == Kind::Page) {
            assert_eq!(report.verdict, Verdict::Damaged);
            found += 1;
        }
        flip(&images["pages"], page * 4096 + 60);
    }
    assert!(found >= 6, "{found} pages");
    checks::clean(&images, "all flipped back");
    flip(&images["pool1"], 20);
    let report = checks::report(&images);
    finds(&report, Severity::Damage, Kind::Device, &[]);
    flip(&images["pool1"], 20);
    for slot in [0, 4096] {
        flip(&images["pages"], slot + 40);
    }
    finds(&checks::report(&images), Severity::Damage, Kind::Root, &[]);
    // One root alone may be what a crash tore: the log knows better.
    flip(&images["pages"], 40);
    flip(&images["pages"], 4096 + 40);
    for slot in [0, 4096] {
        flip(&images["pages"], slot + 40);
        let report = checks::report(&images);
        assert!(report.problems.iter().any(|it| it.kind == Kind::Root));
        flip(&images["pages"], slot + 40);
    }
    for slot in [0, 4096] {
        flip(&images["journal"], slot);
    }
    finds(
        &checks::report(&images),
        Severity::Damage,
        Kind::Journal,
        &[],
    );
}

#[test]
fn a_commit_lost_in_the_middle_is_no_torn_end() {
    let engine = little_store();
    let images = engine.disk.kill_image();
    engine.volumes.abandon();
    let offsets: Vec<u64> = (0..64)
        .map(|page| page * 4096)
        .filter(|at| {
            let mut bytes = vec![0; snapmark::ondisk::FrameHeader::LEN];
            images["log"].read_at(&mut bytes, *at).unwrap();
            snapmark::ondisk::FrameHeader::decode(&bytes).is_ok()
        })
        .collect();
    let (last, middle) = (offsets[offsets.len() - 1], offsets[offsets.len() / 2]);
    flip(&images["log"], middle + 80);
    finds(&checks::report(&images), Severity::Damage, Kind::Log, &[]);
    flip(&images["log"], middle + 80);
    // Without its last commit the catalog is as it was before it.
    flip(&images["log"], last + 80);
    let report = checks::report(&images);
    assert!(
        report.problems.iter().all(|it| it.kind != Kind::Log),
        "{report:#?}"
    );
}

#[test]
fn a_record_lost_in_the_middle_is_no_torn_end() {
    let engine = manual();
    let disk = engine.create(new_disk("d", SEGMENT)).unwrap();
    engine.flush().unwrap();
    for block in 0..8 {
        engine
            .write(disk, block * 4096, &noise(block, 4096))
            .unwrap();
        if block % 2 == 1 {
            engine.sync().unwrap();
        }
    }
    let images = engine.disk.kill_image();
    engine.volumes.abandon();
    let whole = checks::clean(&images, "as it is").journal.unwrap();
    assert_eq!(whole.writes, 8);
    // Each record's data is its block.
    let journal = images["journal"].to_bytes();
    let place = |block: u64| {
        let data = noise(block, 4096);
        journal
            .windows(4096)
            .position(|window| window == data)
            .unwrap() as u64
    };
    flip(&images["journal"], place(7));
    let report = checks::clean(&images, "torn end");
    let torn = report.journal.unwrap();
    assert_eq!(
        (torn.writes, torn.end),
        (7, Some(snapmark::check::End::Torn))
    );
    flip(&images["journal"], place(7));
    flip(&images["journal"], place(1));
    let report = checks::report(&images);
    finds(&report, Severity::Damage, Kind::Journal, &[]);
    assert_eq!(report.journal.unwrap().end, Some(snapmark::check::End::Gap));
    flip(&images["journal"], place(1));
    // No two syncs have begun since: a power failure may have left this.
    flip(&images["journal"], place(6));
    let report = checks::clean(&images, "a gap before what was not synced");
    assert_eq!(report.journal.unwrap().end, Some(snapmark::check::End::Gap));
}

/// Whatever the bytes are, the check comes to an end, and says so.
#[test]
fn rubbish_makes_no_panic() {
    let engine = little_store();
    engine
        .write(
            engine.create(new_disk("e", SEGMENT)).unwrap(),
            0,
            &noise(9, 9000),
        )
        .unwrap();
    let clean = engine.disk.kill_image();
    engine.volumes.abandon();
    let reach = |name: &str| match name {
        "pages" | "log" => 64 * 4096,
        "journal" => 1 << 20,
        _ => (4 << 20) + 16 * SEGMENT,
    };
    for seed in seeds(300) {
        let mut random = Random(seed);
        let mut images: Images = BTreeMap::new();
        for (name, image) in &clean {
            images.insert(name.clone(), Arc::new(MemoryDevice::clone(image)));
        }
        for _ in 0..1 + random.below(4) {
            let names: Vec<_> = images.keys().cloned().collect();
            let name = random.pick(&names).unwrap().clone();
            let at = random.below(reach(&name));
            if random.chance(2) {
                flip(&images[&name], at);
            } else {
                let zeros = vec![0; *random.pick(&[512, 4096, 65536]).unwrap()];
                let at = at / 512 * 512;
                images[&name].write_at(&[IoSlice::new(&zeros)], at).unwrap();
            }
        }
        let device = |name: &str| -> Arc<dyn Device> { images[name].clone() };
        let parts = Parts {
            pages: device("pages"),
            log: Ok(device("log")),
            journal: Ok(device("journal")),
            open: &|record| Ok(device(&record.path)),
        };
        let _ = check(&parts, Options { data: true }, &mut |_, _| {});
    }
}

/// Content and times of all files of a store. Of the catalog's pages, a file of 1 TiB that is one
/// hole but for its start, the start and what the host has allocated.
fn trace(store: &Path) -> BTreeMap<String, Vec<i64>> {
    let files = std::fs::read_dir(store).unwrap().map(|entry| {
        let entry = entry.unwrap();
        let meta = entry.metadata().unwrap();
        let file = std::fs::File::open(entry.path()).unwrap();
        let mut bytes = vec![0; meta.len().min(300 << 20) as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        let sum = snapmark::base::checksum(&bytes).0;
        let times = [
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec(),
        ];
        let mut trace = vec![meta.len() as i64, meta.blocks() as i64, sum.into()];
        trace.extend(times);
        (entry.file_name().to_string_lossy().into_owned(), trace)
    });
    files.collect()
}

fn run_check(store: &Path, options: &[&str]) -> (i32, String) {
    let mut arguments = vec!["check".into(), store.to_owned()];
    arguments.extend(options.iter().map(|option| (*option).into()));
    let (shown, output) = execute(SNAPMARK, arguments);
    let words = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap_or(-1), shown + "\n" + &words)
}

#[test]
fn a_new_store_is_clean_and_left_as_it_was() {
    let store = TestStore::unmounted(&["--size", "64MiB"]);
    let before = trace(&store.store());
    for options in [&["--data"][..], &[], &["--json"]] {
        let (code, said) = run_check(&store.store(), options);
        assert_eq!(code, 0, "{said}");
    }
    assert_eq!(trace(&store.store()), before);
    let (code, said) = run_check(store.dir(), &[]);
    assert_eq!(
        (code, said.contains("is no snapmark store")),
        (3, true),
        "{said}"
    );
    let (code, said) = run_check(&store.store(), &["--nonsense"]);
    assert_eq!(code, 3, "{said}");
}

#[test]
fn a_real_store_is_checked_without_a_trace_and_repaired() {
    if !able(&[]) {
        return;
    }
    let mut store = TestStore::with(&["--size", "256MiB"]);
    for (name, seed) in [("a.img", 1), ("b.img", 2)] {
        std::fs::write(store.disk(name), noise(seed, 5 << 20)).unwrap();
    }
    store.snapshot("a.img", "one");
    std::fs::write(store.disk("c.img"), noise(3, 1 << 20)).unwrap();
    let (code, said) = run_check(&store.store(), &[]);
    assert_eq!(
        (code, said.contains("unmount it first")),
        (3, true),
        "{said}"
    );
    store.kill9();
    let before = trace(&store.store());
    let (code, said) = run_check(&store.store(), &["--data"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(trace(&store.store()), before);
    store.mount();
    store.unmount();
    let (code, said) = run_check(&store.store(), &["--data", "--json"]);
    assert_eq!(code, 0, "{said}");

    damage_counts(&store.store());
    let (code, said) = run_check(&store.store(), &["--data"]);
    assert_eq!((code, said.contains("a.img")), (1, true), "{said}");
    let (code, said) = run_check(&store.store(), &["--repair"]);
    assert_eq!((code, said.contains("repaired")), (1, true), "{said}");
    let (code, said) = run_check(&store.store(), &["--data"]);
    assert_eq!(code, 0, "{said}");
    let copies = std::fs::read_dir(store.store()).unwrap();
    let copies = copies.filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().contains(".before-repair-")
    });
    assert_eq!(copies.count(), 2);
    store.mount();
    assert_eq!(
        std::fs::read(store.disk("a.img")).unwrap(),
        noise(1, 5 << 20)
    );
    assert_eq!(
        std::fs::read(store.disk("a.img@one")).unwrap(),
        noise(1, 5 << 20)
    );
    store.unmount();
    let (code, said) = run_check(&store.store(), &["--data"]);
    assert_eq!(code, 0, "{said}");

    let mut options = std::fs::OpenOptions::new();
    let pool = options.write(true).read(true);
    let pool = pool.open(store.store().join("pool.img")).unwrap();
    let mut byte = [0];
    let at = (4 << 20) + 12345;
    pool.read_exact_at(&mut byte, at).unwrap();
    pool.write_all_at(&[byte[0] ^ 1], at).unwrap();
    let (code, said) = run_check(&store.store(), &[]);
    assert_eq!(code, 0, "{said}");
    let (code, said) = run_check(&store.store(), &["--data"]);
    assert_eq!((code, said.contains(".img")), (2, true), "{said}");
    let json = run(
        "sh",
        [
            "-c",
            &format!(
                "{SNAPMARK} check {} --data --json 2>/dev/null || :",
                store.store().display()
            ),
        ],
    );
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["verdict"], "damaged");
    assert_eq!(json["problems"][0]["kind"], "block");
}

/// Miscounts a disk, leaks slots, and lists a slot in use as free.
fn damage_counts(store: &Path) {
    use snapmark::device::{FileDevice, OpenMode};
    let open = |name: &str| -> Arc<dyn Device> {
        Arc::new(FileDevice::open(&store.join(name), OpenMode::READ_WRITE).unwrap())
    };
    let (pages, log) = (open("catalog.pages"), open("catalog.log"));
    let catalog = Catalog::open(pages, log, CatalogConfig::default()).unwrap();
    let view = catalog.view();
    let mut disk = view.disks().unwrap().remove(0);
    disk.allocated += 5;
    let device = view.devices().unwrap()[0].device;
    let place = live(&view, "b.img", 3).1.place.unwrap();
    let runs = view.free_runs(device, Slot(0), 1).unwrap();
    let first = runs[0].0;
    drop(view);
    let take = Change::Take {
        device,
        first,
        count: 3,
    };
    catalog
        .commit(&[Change::PutDisk(disk), take, Change::Retire(place)])
        .unwrap();
}

#[test]
fn counts_hold_when_a_clones_segment_is_merged_with_what_it_stands_on() {
    let engine = manual();
    let a = engine.create(new_disk("a", SEGMENT)).unwrap();
    engine.write(a, 0, &noise(1, SEGMENT as usize)).unwrap();
    engine.snapshot(&["a"], Some("s"), false).unwrap();
    let c = engine
        .clone_snapshot("a@s", new_disk("c", SEGMENT))
        .unwrap();
    for round in 0..12 {
        engine.write(c, round * 4096, &noise(round, 4096)).unwrap();
        engine.flush().unwrap();
        let name = format!("r{round}");
        engine.snapshot(&["c"], Some(&name), false).unwrap();
        engine.flush().unwrap();
    }
    engine.settle();
    checks::clean(&engine.disk.kill_image(), "merged");
    engine.volumes.abandon();
}

#[test]
fn a_journal_that_the_device_does_not_give_is_no_torn_end() {
    let engine = manual();
    let disk = engine.create(new_disk("d", 8 * SEGMENT)).unwrap();
    engine.settle();
    for block in 0..8 {
        engine
            .write(disk, block * 4096, &noise(block, 4096))
            .unwrap();
    }
    engine.sync().unwrap();
    let images = engine.disk.kill_image();
    engine.volumes.abandon();
    let whole = checks::clean(&images, "whole");
    let records = whole.journal.unwrap().records;
    assert!(records >= 8);
    let mut cut = 0;
    // Each read in turn, from the first of the headers on.
    for read in 1..60 {
        let device = |name: &str| -> Arc<dyn Device> { images[name].clone() };
        let journal = FaultDevice::new(device("journal"));
        journal.plan(Operation::Read, When::Nth(read), Effect::Fail(5));
        let parts = Parts {
            pages: device("pages"),
            log: Ok(device("log")),
            journal: Ok(Arc::new(journal)),
            open: &|record| Ok(device(&record.path)),
        };
        let report = check(&parts, Options::default(), &mut |_, _| {}).unwrap();
        let seen = report.journal.as_ref().map_or(0, |journal| journal.records);
        cut += u64::from(seen < records);
        let named = report.problems.iter().any(|problem| {
            problem.kind == Kind::Journal
                && problem.severity == Severity::Damage
                && problem.message.contains("os error 5")
        });
        // A place where the next record might have been, and was not, does no harm.
        assert!(named || seen == records, "read {read}: {report:#?}");
    }
    assert!(cut >= 8, "{cut}");
}

#[test]
fn a_log_that_is_missing_is_damage_and_the_words_say_what_to_do() {
    let store = TestStore::unmounted(&["--size", "64MiB"]);
    let log = store.store().join("catalog.log");
    let aside = store.dir().join("aside");
    std::fs::rename(&log, &aside).unwrap();
    let before = trace(&store.store());
    for options in [&[][..], &["--data"], &["--repair"]] {
        let (code, said) = run_check(&store.store(), options);
        assert_eq!(code, 2, "{said}");
        assert!(
            said.contains("catalog.log, is missing") && said.contains("put it back"),
            "{said}"
        );
        assert!(!log.exists());
    }
    let mut after = trace(&store.store());
    after.remove("lock");
    assert_eq!(after, before);
    std::fs::rename(&aside, &log).unwrap();
    let (code, said) = run_check(&store.store(), &["--data"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("disks    0, with 0 snapshots"), "{said}");
}
