//! Single promises of the catalog's interface.

use std::sync::atomic::{AtomicBool, Ordering};

use super::model::Model;
use super::{Files, Random, SMALL};
use crate::base::{
    BlockMask, Checksum, DeviceNo, DiskId, Epoch, Geometry, MapId, Place, SegmentNo, Slot,
};
use crate::ondisk::{Change, Descriptor, DeviceRecord, Marks, Space, VersionKey};
use crate::store::{CatalogConfig, CatalogError, Refusal};

fn device(device: u16, slots: u64) -> Change {
    Change::AddDevice(DeviceRecord {
        device: DeviceNo(device),
        uuid: [7; 16],
        path: "data".into(),
        slots,
    })
}

fn take(first: u64, count: u64) -> Change {
    let (device, first) = (DeviceNo(0), Slot(first));
    Change::Take {
        device,
        first,
        count,
    }
}

fn at(slot: u64) -> Place {
    let (device, slot) = (DeviceNo(0), Slot(slot));
    Place { device, slot }
}

#[test]
fn a_refused_commit_leaves_no_trace_and_names_the_change() {
    let files = Files::create(64 << 10, 256 << 10);
    let catalog = files.open(SMALL).unwrap();
    catalog.commit(&[device(0, 10), take(0, 4)]).unwrap();
    let reason = |changes: &[Change]| match catalog.commit(changes).unwrap_err() {
        CatalogError::Refused { index, reason } => (index, reason),
        other => panic!("{other}"),
    };
    let not_free = Refusal::NotFree {
        device: DeviceNo(0),
        first: Slot(3),
        count: 3,
    };
    assert_eq!(reason(&[take(5, 1), take(3, 3)]), (1, not_free));
    assert_eq!(
        reason(&[Change::Free(at(1))]),
        (0, Refusal::NotPending(at(1)))
    );
    assert_eq!(
        reason(&[Change::Retire(at(7))]),
        (0, Refusal::IsFree(at(7)))
    );
    let retired = [Change::Retire(at(1)), Change::Retire(at(1))];
    assert_eq!(reason(&retired), (1, Refusal::IsPending(at(1))));
    assert_eq!(
        reason(&[device(0, 3)]),
        (0, Refusal::DeviceExists(DeviceNo(0)))
    );
    assert!(matches!(
        reason(&[take(8, u64::MAX)]),
        (0, Refusal::OutsideDevice { .. })
    ));
    let gone = [Change::RemoveDisk(DiskId(3))];
    assert_eq!(reason(&gone), (0, Refusal::NoDisk(DiskId(3))));
    let view = catalog.view();
    assert_eq!(view.generation(), 1);
    assert_eq!(
        view.space(),
        Space {
            total: 10,
            free: 6,
            pending: 0
        }
    );
    assert_eq!(
        view.free_runs(DeviceNo(0), Slot(0), 9).unwrap(),
        [(Slot(4), 6)]
    );
}

#[test]
fn freed_slots_coalesce_and_lose_their_checksums() {
    for segment in [64 << 10, 256 << 10, 1 << 20] {
        let files = Files::create(64 << 10, segment);
        let catalog = files.open(SMALL).unwrap();
        let geometry = catalog.geometry();
        let blocks = geometry.slot_block(Slot(4));
        let sums = Change::PutChecksums {
            device: DeviceNo(0),
            first: 0,
            sums: vec![Checksum(0); blocks as usize],
        };
        catalog.commit(&[device(0, 5), take(0, 4), sums]).unwrap();
        for (slot, runs) in [
            (1, vec![(Slot(1), 1), (Slot(4), 1)]),
            (3, vec![(Slot(1), 1), (Slot(3), 2)]),
            (2, vec![(Slot(1), 4)]),
            (0, vec![(Slot(0), 5)]),
        ] {
            catalog.commit(&[Change::Retire(at(slot))]).unwrap();
            assert_eq!(catalog.view().pending(5).unwrap(), [at(slot)]);
            catalog.commit(&[Change::Free(at(slot))]).unwrap();
            let view = catalog.view();
            assert_eq!(view.free_runs(DeviceNo(0), Slot(0), 9).unwrap(), runs);
            let block = geometry.slot_block(Slot(slot)) + 3;
            let error = view
                .checksums(DeviceNo(0), block, &mut [Checksum(9)])
                .unwrap_err();
            assert!(matches!(error, CatalogError::NoChecksum { block: b, .. } if b == block));
        }
        assert_eq!(catalog.view().0.content.checksums.entries(), 0);
        let runs = catalog.view().free_runs(DeviceNo(0), Slot(2), 9).unwrap();
        assert_eq!(runs, [(Slot(2), 3)]);
    }
}

#[test]
fn views_keep_what_they_show_and_are_waited_for() {
    let files = Files::create(64 << 10, 256 << 10);
    let catalog = files.open(SMALL).unwrap();
    assert!(catalog.quiesced(0));
    assert!(!catalog.quiesced(1), "new views do not show commit 1 yet");
    let old = catalog.view();
    catalog.commit(&[device(0, 10)]).unwrap();
    assert!(!catalog.quiesced(1));
    let second = old.clone();
    drop(old);
    catalog.commit(&[take(0, 4)]).unwrap();
    assert!(!catalog.quiesced(1));
    assert_eq!(second.space(), Space::default());
    drop(second);
    assert!(catalog.quiesced(1));
    assert!(catalog.quiesced(2));
    assert!(!catalog.quiesced(3));
}

#[test]
fn after_a_failed_write_nothing_is_committed_any_more() {
    for which in 0..2 {
        for calls in 0..9 {
            let files = Files::create(64 << 10, 256 << 10);
            let catalog = files.open(SMALL).unwrap();
            let mut model = Model::default();
            let mut random = Random(calls as u64);
            for _ in 0..5 {
                let changes = model.commit(&mut random, Geometry::default(), 50, 30);
                catalog.commit(&changes).unwrap();
            }
            let disk = if which == 0 { &files.pages } else { &files.log };
            disk.fail_after(calls);
            let mut failure = None;
            for _ in 0..20 {
                let result = catalog.commit(&[Change::SetMarks(Marks::default())]);
                match result.and_then(|()| catalog.checkpoint()) {
                    Ok(()) => {}
                    Err(error) => failure = failure.or(Some(error.to_string())),
                }
            }
            let failure = failure.unwrap();
            disk.fail_after(-1);
            let error = catalog
                .commit(&[Change::SetMarks(Marks::default())])
                .unwrap_err();
            assert_eq!(error.to_string(), failure);
            assert_eq!(catalog.checkpoint().unwrap_err().to_string(), failure);
            model.marks = Marks::default();
            let mut shown = Model::of(&catalog.view());
            shown.marks = Marks::default();
            assert!(shown == model, "views go on");
            let mut shown = Model::of(&files.open(SMALL).unwrap().view());
            shown.marks = Marks::default();
            assert!(shown == model, "and what was committed is there");
        }
    }
}

#[test]
fn an_emptied_catalog_gives_its_pages_back() {
    let files = Files::create(1 << 20, 256 << 10);
    let catalog = files.open(CatalogConfig::default()).unwrap();
    catalog
        .commit(&[device(0, 20_000), take(0, 20_000)])
        .unwrap();
    let sums = |slot: u64| Change::PutChecksums {
        device: DeviceNo(0),
        first: slot * 64,
        sums: vec![Checksum(1); 64],
    };
    for slots in (0..20_000u64).collect::<Vec<_>>().chunks(1000) {
        catalog
            .commit(&slots.iter().map(|slot| sums(*slot)).collect::<Vec<_>>())
            .unwrap();
    }
    catalog.checkpoint().unwrap();
    let (full, _) = catalog.pages_in_use();
    assert!(full > 20_000 / 14, "{full}");
    // In an order that leaves nodes sparse before it leaves them empty.
    let order: Vec<u64> = (0..20_000).map(|n| n * 7919 % 20_000).collect();
    for (round, slots) in order.chunks(1000).enumerate() {
        let free = |slot: &u64| [Change::Retire(at(*slot)), Change::Free(at(*slot))];
        catalog
            .commit(&slots.iter().flat_map(free).collect::<Vec<_>>())
            .unwrap();
        if round == 15 {
            catalog.checkpoint().unwrap();
            let (sparse, reachable) = catalog.pages_in_use();
            assert_eq!(sparse, reachable);
            assert!(
                sparse < full / 2,
                "{sparse} of {full} pages with a fifth of the entries"
            );
        }
    }
    catalog.checkpoint().unwrap();
    let (empty, reachable) = catalog.pages_in_use();
    assert_eq!(empty, reachable);
    assert!(empty < 10, "{empty} pages");
}

#[test]
fn readers_go_on_while_commits_and_checkpoints_run() {
    let files = Files::create(64 << 10, 256 << 10);
    let tiny = CatalogConfig {
        page_cache: 0,
        dirty_limit: 64 << 10,
    };
    let catalog = files.open(tiny).unwrap();
    let done = AtomicBool::new(false);
    catalog.commit(&[device(0, 64)]).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    // The oracle checks that the counters agree with the lists.
                    let model = Model::of(&catalog.view());
                    let space = model.space();
                    assert!(space.free + space.pending <= space.total);
                }
            });
        }
        let mut random = Random(1);
        let mut model = Model::of(&catalog.view());
        for _ in 0..400 {
            let changes = model.commit(&mut random, catalog.geometry(), 200, 80);
            catalog.commit(&changes).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        assert!(Model::of(&catalog.view()) == model);
    });
    catalog.checkpoint().unwrap();
    let (in_use, reachable) = catalog.pages_in_use();
    assert_eq!(in_use, reachable);
    // Held pages come back once the views are gone: the file does not grow without end.
    assert!(files.pages.written() < 64 << 20);
}

/// The front of a disk is discarded, and written again from the back on.
#[test]
fn p8_what_comes_before_the_first_key_left_is_found_again() {
    let files = Files::create(1 << 20, 256 << 10);
    let catalog = files.open(SMALL).unwrap();
    const COUNT: u64 = 6000;
    let key = |segment: u64| VersionKey {
        map: MapId(1),
        segment: SegmentNo(segment),
        death: Epoch::LIVE,
    };
    let zeros = Descriptor {
        birth: Epoch::FIRST,
        place: None,
        layout: crate::ondisk::Layout::Own,
        data: BlockMask::EMPTY,
        zero: BlockMask::range(0, 64),
    };
    let put = |segment| Change::PutVersion(key(segment), zeros);
    let commit = |changes: Vec<Change>| {
        for some in changes.chunks(500) {
            catalog.commit(some).unwrap();
        }
        catalog.checkpoint().unwrap();
    };
    commit((0..COUNT).map(put).collect());
    let front = 0..COUNT / 2;
    let remove = |segment| Change::RemoveVersion(key(segment));
    commit(front.clone().map(remove).collect());
    commit(front.rev().map(put).collect());
    drop(catalog);
    let view = files.open(SMALL).unwrap().view();
    let missing = (0..COUNT).find(|at| view.live(MapId(1), SegmentNo(*at)).unwrap().is_none());
    assert_eq!(missing, None);
}
