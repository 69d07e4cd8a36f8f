//! The offline check and what power loss and bad devices leave: it tells damage from what a crash cut
//! short, names who reads a bad block, and panics on nothing.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::sync::Arc;

use common::checks;
use common::damaged::{catalog, finds, flip, little_store, live, manual, view};
use common::engine::SEGMENT;
use common::model::new_disk;
use common::{Random, noise, seeds};
use snapmark::base::Place;
use snapmark::check::{Kind, Options, Parts, Severity, Verdict, check};
use snapmark::device::{Device, FaultDevice, Images, MemoryDevice};
use snapmark::ondisk::{Change, slot_start};

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
    let mut cuts = Vec::new();
    // Each sector in turn, from the first of the headers on.
    for sector in 0..100 {
        let device = |name: &str| -> Arc<dyn Device> { images[name].clone() };
        let journal = FaultDevice::new(device("journal"));
        journal.lose(sector * 512..(sector + 1) * 512);
        let parts = Parts {
            pages: device("pages"),
            log: Ok(device("log")),
            journal: Ok(Arc::new(journal)),
            open: &|record| Ok(device(&record.path)),
        };
        let report = check(&parts, Options::default(), &mut |_, _| {}).unwrap();
        let seen = report.journal.as_ref().map_or(0, |journal| journal.records);
        if seen < records {
            cuts.push(seen);
        }
        let named = report.problems.iter().any(|problem| {
            problem.kind == Kind::Journal
                && problem.severity == Severity::Damage
                && problem.message.contains("os error 5")
        });
        // What no record has to be read from does no harm.
        assert!(named || seen == records, "sector {sector}: {report:#?}");
    }
    // A bad sector takes its own record and those after it, and no other.
    assert!(cuts.is_sorted(), "{cuts:?}");
    cuts.dedup();
    assert!(cuts.len() >= 8, "{cuts:?}");
}

#[test]
fn a_write_by_reference_into_a_slot_that_is_not_lent_is_found() {
    let engine = manual();
    let disk = engine.create(new_disk("d", 64 * SEGMENT)).unwrap();
    let segments = noise(4, 2 * SEGMENT as usize);
    // Until there are slots to be had.
    let references = loop {
        engine.write(disk, 0, &segments).unwrap();
        engine.sync().unwrap();
        let report = checks::clean(&engine.disk.kill_image(), "queued");
        match report.journal.unwrap().references {
            0 => engine.flush().unwrap(),
            some => break some,
        }
    };
    assert_eq!(references, 1);
    let images = engine.disk.kill_image();
    engine.volumes.abandon();
    let catalog = catalog(&images);
    let holds = |place: &Place| {
        let mut bytes = vec![0; SEGMENT as usize];
        let start = slot_start(place.slot, catalog.geometry());
        let device = &images[&format!("pool{}", place.device)];
        device.read_at(&mut bytes, start).unwrap();
        bytes == segments[..SEGMENT as usize]
    };
    let pending = catalog.view().pending(10_000).unwrap();
    let mut lent = pending.into_iter().filter(holds);
    let place = lent.next().expect("a slot has the first segment");
    catalog.commit(&[Change::Free(place)]).unwrap();
    let report = checks::report(&images);
    let found = report.problems.iter().any(|it| {
        it.kind == Kind::Journal
            && it.severity == Severity::Damage
            && it.at.slot == Some(place.slot.0)
            && it.message.contains("is not lent out to it")
    });
    assert!(found, "{report:#?}");
}
