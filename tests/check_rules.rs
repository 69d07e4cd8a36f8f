//! The offline check and the rules of the catalog: silent on every store that the engine leaves, loud
//! on each rule that is broken, with the names of those it touches.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use common::checks;
use common::damaged::{finds, flip, live, manual, view, with};
use common::engine::{Engine, SEGMENT, Shape};
use common::model::{Mix, Model, new_disk};
use common::{noise, seeds};
use snapmark::base::{BlockMask, DeviceNo, Epoch, MapId, Place, SegmentNo, Slot};
use snapmark::check::{Kind, Severity};
use snapmark::ondisk::{Change, Descriptor, Space, VersionKey, slot_start};
use snapmark::store::View;

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

/// A pack, and the version in it.
fn pack_of(view: &View, disk: &str, segment: u64) -> (Place, VersionKey, u64) {
    let (key, version) = live(view, disk, segment);
    assert!(version.place.is_some() && !version.has_own_slot());
    let place = version.place.unwrap();
    (place, key, view.pack(place).unwrap().unwrap())
}

#[test]
fn a_pack_that_is_counted_wrong_is_repairable() {
    for wrong in [-1, 1, 7] {
        let report = with(|view| {
            let (place, _, blocks) = pack_of(view, "a", 0);
            let blocks = blocks.checked_add_signed(wrong).unwrap();
            assert!(blocks > 0, "more than one block is in it");
            vec![Change::CountPack(place, blocks)]
        });
        finds(&report, Severity::Repairable, Kind::Slot, &["a"]);
        assert_eq!(report.problems.len(), 1, "{report:#?}");
    }
}

#[test]
fn a_pack_in_no_version_is_found() {
    let report = with(|view| {
        let (place, key, blocks) = pack_of(view, "c", 1);
        let first = VersionKey {
            map: MapId(0),
            segment: SegmentNo(0),
            death: Epoch(0),
        };
        let all = view.all_versions_from(first, 1000).unwrap().into_iter();
        let in_it = all.filter(|(_, it)| it.place == Some(place));
        let gone: Vec<_> = in_it.map(|(key, _)| Change::RemoveVersion(key)).collect();
        assert!(gone.contains(&Change::RemoveVersion(key)));
        let more = Change::CountPack(place, blocks + 3);
        [more].into_iter().chain(gone).collect()
    });
    let found = report.problems.iter().any(|it| {
        it.kind == Kind::Slot
            && it.severity == Severity::Repairable
            && it
                .message
                .ends_with("is kept for 3 blocks and has no version's")
    });
    assert!(found, "{report:#?}");
}

#[test]
fn a_pack_on_the_free_list_is_found() {
    for pending in [true, false] {
        let report = with(|view| {
            let (place, _, _) = pack_of(view, "c", 1);
            let free = (!pending).then_some(Change::Free(place));
            [Change::Retire(place)].into_iter().chain(free).collect()
        });
        finds(&report, Severity::Repairable, Kind::Slot, &["c"]);
        if !pending {
            // With the slot its checksums went.
            finds(&report, Severity::Damage, Kind::Checksum, &["c"]);
        }
    }
}

#[test]
fn counts_of_free_slots_that_are_wrong_are_repairable() {
    let report = with(|_| vec![Change::CountFree(DeviceNo(1), 3)]);
    finds(&report, Severity::Repairable, Kind::Space, &[]);
    let count = |change: fn(&mut Space)| {
        let report = with(|view| {
            let mut space = view.space();
            change(&mut space);
            vec![Change::CountSpace(space)]
        });
        finds(&report, Severity::Repairable, Kind::Space, &[]);
        assert_eq!(report.problems.len(), 1, "{report:#?}");
    };
    count(|space| space.total += 1);
    count(|space| space.free -= 1);
    count(|space| space.pending = 1 << 40);
}
