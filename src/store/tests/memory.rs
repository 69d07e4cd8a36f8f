//! Memory stays within what was given, whatever the catalog holds.

use super::{Files, Random};
use crate::base::{BlockMask, Checksum, DeviceNo, Epoch, Geometry, MapId, Place, SegmentNo, Slot};
use crate::ondisk::{Change, Descriptor, DeviceRecord, VersionKey};
use crate::store::pages::NODE_BYTES;
use crate::store::{Catalog, CatalogConfig};

pub(super) fn fill(files: &Files, config: CatalogConfig, segments: u64, sums: bool) -> Catalog {
    let catalog = files.open(config).unwrap();
    let add = Change::AddDevice(DeviceRecord {
        device: DeviceNo(0),
        uuid: [0; 16],
        path: "data".into(),
        slots: segments + 1000,
    });
    catalog.commit(&[add]).unwrap();
    let mut at = 0;
    while at < segments {
        let to = (at + 2000).min(segments);
        let mut changes = vec![Change::Take {
            device: DeviceNo(0),
            first: Slot(at),
            count: to - at,
        }];
        for segment in at..to {
            changes.push(put(catalog.geometry(), segment, segment));
            if sums {
                changes.push(put_sums(segment));
            }
        }
        catalog.commit(&changes).unwrap();
        at = to;
    }
    catalog
}

pub(super) fn put_sums(slot: u64) -> Change {
    Change::PutChecksums {
        device: DeviceNo(0),
        first: slot * 64,
        sums: vec![Checksum(slot as u32); 64],
    }
}

pub(super) fn put(geometry: Geometry, segment: u64, slot: u64) -> Change {
    let key = VersionKey {
        map: MapId(1),
        segment: SegmentNo(segment),
        death: Epoch::LIVE,
    };
    let descriptor = Descriptor {
        birth: Epoch(1),
        place: Some(Place {
            device: DeviceNo(0),
            slot: Slot(slot),
        }),
        layout: crate::ondisk::Layout::Own,
        data: BlockMask::full(geometry),
        zero: BlockMask::EMPTY,
    };
    Change::PutVersion(key, descriptor)
}

#[test]
fn a_million_versions_in_two_mebibytes() {
    let files = Files::create(16 << 20, 256 << 10);
    let config = CatalogConfig {
        page_cache: 1 << 20,
        dirty_limit: 1 << 20,
    };
    let segments = 1_000_000;
    let catalog = fill(&files, config, segments, false);
    let mut random = Random(1);
    let mut most = 0;
    for round in 0..20_000 {
        let segment = random.below(segments);
        let (_, descriptor) = catalog
            .view()
            .live(MapId(1), SegmentNo(segment))
            .unwrap()
            .unwrap();
        assert_eq!(
            descriptor.place.map(|place| place.slot),
            Some(Slot(segment))
        );
        if round % 100 == 0 {
            catalog
                .commit(&[put(catalog.geometry(), segment, segment)])
                .unwrap();
            most = most.max(catalog.resident_nodes() * NODE_BYTES);
        }
    }
    assert!(
        most <= config.page_cache + config.dirty_limit + (64 << 10),
        "{most} bytes"
    );
    drop(catalog);
    let start = std::time::Instant::now();
    let catalog = files.open(config).unwrap();
    assert!(
        start.elapsed().as_millis() < 1000,
        "opening took {:?}",
        start.elapsed()
    );
    assert!(catalog.resident_nodes() * NODE_BYTES <= config.page_cache + config.dirty_limit);
}
