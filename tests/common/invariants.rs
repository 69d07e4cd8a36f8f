//! What must hold for every catalog once reaping and reclaiming have come to rest.

use std::collections::{BTreeMap, BTreeSet};

use snapmark::base::{BLOCK, BlockMask, DeviceNo, Epoch, MapId, Place, SegmentNo, Slot};
use snapmark::ondisk::{Descriptor, Extent, VersionKey};
use snapmark::store::{At, Pool, Source, View, read_blocks};

/// What a slot is used as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Free,
    Pending,
    Version(VersionKey),
    Pack,
}

/// What versions have of a pack.
struct Packed {
    needed: u64,
    taken: BlockMask,
}

impl Default for Packed {
    fn default() -> Self {
        Self {
            needed: 0,
            taken: BlockMask::EMPTY,
        }
    }
}

/// Checks everything. `settled`: all reaps are over, so that nothing unseen may be left.
pub fn check(view: &View, pool: &Pool, settled: bool) {
    let geometry = view.geometry();
    let mut slots = BTreeMap::<(DeviceNo, Slot), Use>::new();
    let mut claim = |device, slot, what| {
        if let Some(before) = slots.insert((device, slot), what) {
            panic!("device {device} slot {slot:?} is {before:?} and {what:?}");
        }
    };
    let (mut free, mut total) = (0, 0);
    for device in view.devices().unwrap() {
        total += device.slots;
        let runs = view
            .free_runs(device.device, Slot(0), usize::MAX >> 1)
            .unwrap();
        let mut of_device = 0;
        for (first, count) in runs {
            of_device += count;
            (first.0..first.0 + count).for_each(|slot| claim(device.device, Slot(slot), Use::Free));
        }
        assert_eq!(of_device, view.free_slots_of(device.device).unwrap());
        free += of_device;
    }
    let pending = view.pending(usize::MAX >> 1).unwrap();
    pending
        .iter()
        .for_each(|place| claim(place.device, place.slot, Use::Pending));
    let maps = view.maps().unwrap();
    let mut packed = BTreeMap::<Place, Packed>::new();
    for map in &maps {
        let epochs: Vec<Epoch> = view
            .snapshots_of(map.id)
            .unwrap()
            .iter()
            .map(|snapshot| snapshot.epoch)
            .collect();
        if settled {
            assert!(map.live || !epochs.is_empty(), "{map:?} is nobody's");
        }
        assert!(
            epochs.iter().all(|epoch| *epoch < map.epoch),
            "{map:?} {epochs:?}"
        );
        if let Some(origin) = map.origin {
            let below = view.snapshot(origin.map, origin.epoch).unwrap();
            assert!(below.is_some(), "{map:?} stands on nothing");
        }
        let versions = versions(view, map.id);
        for pair in versions.windows(2) {
            let ((a, _), (b, newer)) = (pair[0], pair[1]);
            assert!(
                a.segment != b.segment || a.death <= newer.birth,
                "{a:?} {b:?} {newer:?}"
            );
        }
        let mut above_is_seen = false;
        for (key, version) in versions.into_iter().rev() {
            match version.extent() {
                Some(Extent {
                    place,
                    packed: Some((first, stored)),
                }) => {
                    let blocks = packed.entry(place).or_default();
                    blocks.needed += version.data.count() as u64;
                    let first = usize::from(first);
                    let lies = BlockMask::range(first, first + stored.count());
                    assert!(
                        blocks.taken.and(&lies).is_empty(),
                        "{key:?} overlaps in {place}"
                    );
                    blocks.taken = blocks.taken.or(&lies);
                }
                Some(Extent { place, .. }) => {
                    claim(place.device, place.slot, Use::Version(key));
                }
                None => {}
            }
            assert!(
                version.data.and(&version.zero).is_empty(),
                "{key:?} {version:?}"
            );
            assert_eq!(
                version.place.is_some(),
                !version.data.is_empty(),
                "{key:?} {version:?}"
            );
            assert!(version.birth < key.death, "{key:?} {version:?}");
            let seen = |epoch: &Epoch| (version.birth..key.death).contains(epoch);
            let seen = key.death == Epoch::LIVE && map.live || epochs.iter().any(seen);
            let is_lower = key.death != Epoch::LIVE && version.birth.is_same_epoch(key.death);
            let seen = seen || is_lower && above_is_seen;
            above_is_seen = seen;
            assert!(
                seen || map.reap || !settled,
                "nobody sees {key:?} {version:?}: {map:?} {epochs:?}"
            );
        }
    }
    for (place, blocks) in &packed {
        claim(place.device, place.slot, Use::Pack);
        assert_eq!(view.pack(*place).unwrap(), Some(blocks.needed), "{place}");
    }
    let first = Place {
        device: DeviceNo(0),
        slot: Slot(0),
    };
    assert_eq!(
        view.packs(first, usize::MAX >> 1).unwrap().len(),
        packed.len()
    );
    assert_eq!(slots.len() as u64, total, "slots that nobody knows of");
    let space = view.space();
    assert_eq!(
        (space.total, space.free, space.pending),
        (total, free, pending.len() as u64)
    );
    let mut live = BTreeSet::new();
    for disk in view.disks().unwrap() {
        assert!(live.insert(disk.map), "two disks write to {:?}", disk.map);
        let own = data_blocks(view, disk.map, At::Live, pool);
        assert_eq!(disk.allocated, own, "allocated blocks of {}", disk.name);
    }
    for map in &maps {
        assert_eq!(map.live, live.contains(&map.id), "{map:?}");
    }
    for snapshot in view.snapshots().unwrap() {
        let is_origin = |map: &snapmark::ondisk::MapRecord| {
            map.origin
                .is_some_and(|o| (o.map, o.epoch) == (snapshot.map, snapshot.epoch))
        };
        if settled {
            assert!(
                !snapshot.hidden || maps.iter().any(is_origin),
                "hidden for no one: {snapshot:?}"
            );
        }
        data_blocks(view, snapshot.map, At::Epoch(snapshot.epoch), pool);
    }
    let _ = geometry;
}

pub fn versions(view: &View, map: MapId) -> Vec<(VersionKey, Descriptor)> {
    let first = VersionKey {
        map,
        segment: SegmentNo(0),
        death: Epoch(0),
    };
    view.versions_from(first, usize::MAX >> 1).unwrap()
}

/// Data blocks that a map shows of its own as of `at`; each is read and checked.
fn data_blocks(view: &View, map: MapId, at: At, pool: &Pool) -> u64 {
    let segments: BTreeSet<SegmentNo> = versions(view, map)
        .iter()
        .map(|(key, _)| key.segment)
        .collect();
    let mut count = 0;
    for segment in segments {
        let all = BlockMask::full(view.geometry());
        for (blocks, source) in view.resolve(map, segment, at, all).unwrap() {
            let Source::Data(extent) = source else {
                continue;
            };
            count += blocks.count() as u64;
            for run in blocks.runs() {
                let mut buf = vec![0; run.len() * BLOCK];
                let at = extent.index(run.start);
                read_blocks(pool, view, extent.place, at, &mut buf).unwrap();
            }
        }
    }
    count
}
