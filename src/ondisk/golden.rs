//! The bytes of every format, pinned; and that decoding takes any bytes without a panic.

use super::*;
use crate::base::{
    Block, BlockMask, Checksum, DeviceNo, DiskId, Epoch, Geometry, MapId, Place, SegmentNo, Seq,
    Slot, Timestamp,
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn small() -> Geometry {
    Geometry::from_segment_bytes(64 << 10).unwrap()
}

fn disk() -> DiskRecord {
    DiskRecord {
        id: DiskId(0x0102),
        name: "vm1.img".into(),
        map: MapId(3),
        size: 4 << 30,
        mode: 0o644,
        uid: 5,
        gid: 6,
        created: Timestamp(7),
        modified: Timestamp(8),
        changed: Timestamp(9),
        accessed: Timestamp(-1),
        applied: Seq(11),
        allocated: 12,
        priority: 13,
        unlinked: true,
    }
}

fn map() -> MapRecord {
    MapRecord {
        id: MapId(1),
        epoch: Epoch(2),
        origin: Some(Origin {
            map: MapId(3),
            epoch: Epoch(4),
            limit: Block(5),
        }),
        live: true,
        reap: false,
    }
}

fn snapshot() -> SnapshotRecord {
    SnapshotRecord {
        map: MapId(1),
        epoch: Epoch(2),
        disk_name: "vm1.img".into(),
        name: "é".into(),
        size: 3,
        mode: 4,
        uid: 5,
        gid: 6,
        created: Timestamp(7),
        allocated: 8,
        hidden: true,
    }
}

fn device() -> DeviceRecord {
    DeviceRecord {
        device: DeviceNo(1),
        uuid: *b"0123456789abcdef",
        path: "data".into(),
        slots: 0x0203,
    }
}

fn key() -> VersionKey {
    VersionKey {
        map: MapId(1),
        segment: SegmentNo(2),
        death: Epoch(3),
    }
}

fn place() -> Place {
    Place {
        device: DeviceNo(4),
        slot: Slot(5),
    }
}

fn descriptor() -> Descriptor {
    Descriptor {
        birth: Epoch(2),
        place: Some(place()),
        layout: Layout::Own,
        data: BlockMask::range(0, 4),
        zero: BlockMask::range(8, 16),
    }
}

/// One that shares its slot, from the slot's sixth block on; of its blocks the last is dead.
fn packed() -> Descriptor {
    let extent = Extent {
        place: place(),
        packed: Some((5, BlockMask::range(2, 5).or(&BlockMask::range(8, 9)))),
    };
    let data = BlockMask::range(2, 5);
    Descriptor::new(Epoch(2), Some(extent), data, BlockMask::range(8, 16))
}

#[test]
fn a_pack_holds_blocks_one_after_the_other() {
    let extent = packed().extent().unwrap();
    assert_eq!([2, 3, 4, 8].map(|block| extent.index(block)), [5, 6, 7, 8]);
    let some = BlockMask::range(3, 4).or(&BlockMask::range(8, 9));
    assert_eq!(extent.indexes(&some).iter().collect::<Vec<_>>(), [6, 8]);
    let own = Extent::own(place());
    assert_eq!((own.index(8), own.indexes(&some)), (8, some));
}

#[test]
fn what_does_not_fit_a_pack_is_neither_written_nor_read() {
    let encode = |layout| {
        let version = Descriptor { layout, ..packed() };
        version.encode(small(), &mut Vec::new())
    };
    let dead = BlockMask::range(8, 9);
    assert_eq!(encode(Layout::Packed { first: 12, dead }), Ok(()));
    let (end, blocks) = (17, 16);
    let late = encode(Layout::Packed { first: 13, dead });
    assert_eq!(late, Err(FormatError::BadPacking { end, blocks }));
    let dead = BlockMask::range(7, 9);
    let alive = encode(Layout::Packed { first: 5, dead });
    assert_eq!(alive, Err(FormatError::BadPacking { end: 10, blocks }));
    let mut bytes = Vec::new();
    packed().encode(small(), &mut bytes).unwrap();
    let of_pack = Descriptor::packed_blocks(&bytes, small());
    assert_eq!(of_pack, Ok(Some((place(), 3))));
    bytes[6] = 2;
    assert!(
        Descriptor::from_value(&bytes, small()).is_err(),
        "a pack nowhere"
    );
}

fn marks() -> Marks {
    Marks {
        applied: Seq(1),
        journal_offset: 2,
        journal_seq: Seq(3),
        next_disk: DiskId(4),
        next_map: MapId(5),
        durable: Seq(6),
        session: 7,
        closed: true,
    }
}

/// Every kind of change, with its bytes.
fn changes() -> Vec<(Change, String)> {
    let record = |tag: &str, bytes: Vec<u8>| format!("{tag}{}", hex(&bytes));
    let bytes = |encode: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        encode(&mut out);
        out
    };
    let version = "03000000000002000000000001000000";
    let (device, slot) = (DeviceNo(1), Slot(2));
    vec![
        (
            Change::PutDisk(disk()),
            record("01", bytes(&|out| disk().encode(out).unwrap())),
        ),
        (Change::RemoveDisk(DiskId(7)), "0207000000".into()),
        (
            Change::PutMap(map()),
            record("03", bytes(&|out| map().encode(out).unwrap())),
        ),
        (Change::RemoveMap(MapId(8)), "0408000000".into()),
        (
            Change::PutSnapshot(snapshot()),
            record("05", bytes(&|out| snapshot().encode(out).unwrap())),
        ),
        (
            Change::RemoveSnapshot(MapId(1), Epoch(2)),
            "06010000000200000000000000".into(),
        ),
        (
            Change::AddDevice(self::device()),
            record("07", bytes(&|out| self::device().encode(out).unwrap())),
        ),
        (
            Change::PutVersion(key(), descriptor()),
            format!("08{version}{DESCRIPTOR}"),
        ),
        (
            Change::PutVersion(key(), packed()),
            format!("08{version}{PACKED}"),
        ),
        (Change::RemoveVersion(key()), format!("09{version}")),
        (
            Change::PutChecksums {
                device,
                first: 3,
                sums: vec![Checksum(4), Checksum(5)],
            },
            "0a0100030000000000000002000000000000000400000005000000".into(),
        ),
        (
            Change::Take {
                device,
                first: slot,
                count: 3,
            },
            "0b010002000000000000000300000000000000".into(),
        ),
        (Change::Retire(place()), "0c0500000000000400".into()),
        (Change::Free(place()), "0d0500000000000400".into()),
        (Change::SetMarks(marks()), format!("0e{MARKS}")),
        (
            Change::Adopt {
                device,
                first: slot,
                count: 3,
            },
            "0f010002000000000000000300000000000000".into(),
        ),
        (
            Change::CountFree(device, 7),
            "1001000700000000000000".into(),
        ),
        (
            Change::CountSpace(Space {
                total: 9,
                free: 7,
                pending: 1,
            }),
            "11090000000000000007000000000000000100000000000000".into(),
        ),
        (
            Change::CountPack(place(), 6),
            "1205000000000004000600000000000000".into(),
        ),
    ]
}

const DESCRIPTOR: &str = concat!(
    "0200000000000100", // birth 2, with a place
    "0500000000000400", // slot 5 of device 4
    "0f00000000000000", // data
    "00ff000000000000", // zero
);
const PACKED: &str = concat!(
    "0200000000005300", // birth 2, with a place that is a pack, from its block 5 on
    "0500000000000400", // slot 5 of device 4
    "1c01000000000000", // data, and the dead block
    "00ff000000000000", // zero
);
const MARKS: &str = "0100000000000000020000000000000003000000000000000400000005000000\
                     06000000000000000700000001000000";

#[test]
fn records_have_these_bytes() {
    let of = |encode: &dyn Fn(&mut Vec<u8>) -> Result<(), FormatError>| {
        let mut out = Vec::new();
        encode(&mut out).unwrap();
        hex(&out)
    };
    assert_eq!(
        of(&|out| disk().encode(out)),
        concat!(
            "0201000003000000",                                 // id, map
            "0000000001000000a40100000500000006000000",         // size, mode, uid, gid
            "070000000000000008000000000000000900000000000000", // created, modified, changed
            "ffffffffffffffff",                                 // accessed
            "0b000000000000000c000000000000000d01", // applied, allocated, priority, flags
            "0700766d312e696d67"                    // name
        )
    );
    assert_eq!(
        of(&|out| map().encode(out)),
        "01000000050200000000000000\
         0300000004000000000000000500000000000000"
    );
    assert_eq!(
        of(&|out| snapshot().encode(out)),
        "0100000002000000000000000300000000000000\
         040000000500000006000000\
         070000000000000008000000000000000107\
         02766d312e696d67c3a9"
    );
    assert_eq!(
        of(&|out| device().encode(out)),
        "0100303132333435363738396162636465660302000000000000040064617461"
    );
    let entry = DeviceEntry {
        free: 9,
        record: device(),
    };
    let device_hex = of(&|out| device().encode(out));
    assert_eq!(
        of(&|out| entry.encode(out)),
        format!("0900000000000000{device_hex}")
    );
    assert_eq!(
        DeviceEntry::counts(&entry.to_value().unwrap()),
        Ok((9, 0x0203))
    );
    assert_eq!(of(&|out| descriptor().encode(small(), out)), DESCRIPTOR);
    assert_eq!(of(&|out| marks().encode(out)), MARKS);
    let space = Space {
        total: 1,
        free: 2,
        pending: 3,
    };
    assert_eq!(
        of(&|out| space.encode(out)),
        "010000000000000002000000000000000300000000000000"
    );
    assert_eq!(key().to_key(), Ok(0x00000001_000000000002_000000000003));
    assert_eq!(snapshot_key(MapId(1), Epoch(2)), Ok(0x1_0000_0000_0002));
    assert_eq!(place_key(place()), Ok(0x4_0000_0000_0005));
    assert_eq!(
        SumGroup::locate(DeviceNo(1), 130),
        (0x1_0000_0000_0000_0002, 2)
    );
    let mut group = vec![0; SumGroup::LEN];
    SumGroup::set(&mut group, 1, &[Checksum(7), Checksum(8)]);
    assert_eq!(
        hex(&group[..20]),
        "0600000000000000000000000700000008000000"
    );
    SumGroup::clear(&mut group, 0b10);
    assert_eq!(
        hex(&group[..20]),
        "0400000000000000000000000000000008000000"
    );
    assert_eq!(SumGroup::get(&group, 1), Ok(None));
    assert_eq!(SumGroup::get(&group, 2), Ok(Some(Checksum(8))));
}

#[test]
fn a_whole_group_of_checksums_is_set_at_once() {
    let mut group = vec![0; SumGroup::LEN];
    SumGroup::set(&mut group, 0, &[Checksum(1); 64]);
    assert_eq!(SumGroup::present(&group), Ok(u64::MAX));
    SumGroup::clear(&mut group, u64::MAX);
    SumGroup::set(&mut group, 63, &[Checksum(1)]);
    assert_eq!(SumGroup::present(&group), Ok(1 << 63));
}

#[test]
fn changes_have_these_bytes_and_come_back() {
    for (change, expected) in changes() {
        let mut bytes = Vec::new();
        change.encode(small(), &mut bytes).unwrap();
        assert_eq!(hex(&bytes), expected, "{change:?}");
        bytes.push(0xee);
        let (back, rest) = Change::decode(&bytes, small()).unwrap();
        assert_eq!((back, rest), (change, &[0xee][..]));
    }
}

#[test]
fn records_come_back_from_padded_values() {
    assert_eq!(
        DiskRecord::from_value(&disk().to_value().unwrap()),
        Ok(disk())
    );
    assert_eq!(MapRecord::from_value(&map().to_value().unwrap()), Ok(map()));
    let value = snapshot().to_value().unwrap();
    assert_eq!(SnapshotRecord::from_value(&value), Ok(snapshot()));
    let mut value = device().to_value().unwrap();
    assert_eq!(DeviceRecord::from_value(&value), Ok(device()));
    *value.last_mut().unwrap() = 1;
    assert!(matches!(
        DeviceRecord::from_value(&value),
        Err(FormatError::Trailing { .. })
    ));
}

fn sample_frame() -> Vec<u8> {
    let all: Vec<Change> = changes().into_iter().map(|(change, _)| change).collect();
    encode_frame([7; 16], 8, 9, &all, small()).unwrap()
}

#[test]
fn a_frame_has_these_bytes() {
    let take = Change::RemoveMap(MapId(8));
    let frame = encode_frame([7; 16], 8, 9, &[take], small()).unwrap();
    assert_eq!(frame.len(), PAGE);
    assert_eq!(
        hex(&frame[..57]),
        concat!(
            "534e41504c4f4701",                 // mark
            "07070707070707070707070707070707", // store
            "08000000000000000900000000000000", // generation, commit
            "0500000063ab73531977aa3b",         // length, checksums of changes and header
            "0408000000"                        // the change
        )
    );
    let header = FrameHeader::decode(&frame).unwrap();
    assert_eq!((header.generation, header.commit, header.length), (8, 9, 5));
    let frame = sample_frame();
    let header = FrameHeader::decode(&frame).unwrap();
    assert_eq!(header.verify(&frame), Ok(()));
    let back = header.changes(&frame, small()).unwrap();
    assert!(back.iter().eq(changes().iter().map(|(change, _)| change)));
}

fn sample_pages() -> Vec<(PageRef, TreeKind, u8, Vec<u8>)> {
    let mut pages = Vec::new();
    let header = |kind, level| PageHeader {
        number: 5,
        generation: 6,
        kind,
        level,
    };
    let mut page = vec![0xff; PAGE];
    let values: Vec<u8> = [9u64, 8].iter().flat_map(|n| n.to_le_bytes()).collect();
    let crc = encode_leaf(&header(TreeKind::Free, 0), &[1, 2], &values, &mut page);
    pages.push((PageRef { page: 5, crc }, TreeKind::Free, 0, page.clone()));
    let children = [(7, 8), (9, 10)].map(|(page, crc)| PageRef {
        page,
        crc: Checksum(crc),
    });
    let branch = header(TreeKind::Versions, 1);
    let crc = encode_branch(&branch, &[0, 3], children.into_iter(), &mut page);
    pages.push((PageRef { page: 5, crc }, TreeKind::Versions, 1, page));
    pages
}

#[test]
fn pages_have_these_bytes() {
    let pages = sample_pages();
    assert_eq!(
        hex(&pages[0].3[4..80]),
        concat!(
            "534d5047",                                                         // mark
            "0500000000000000060000000000000007000200",                         // header
            "00000000",                                                         // reserved
            "0100000000000000000000000000000002000000000000000000000000000000", // keys
            "09000000000000000800000000000000"                                  // values
        )
    );
    assert_eq!(
        hex(&pages[1].3[4..88]),
        concat!(
            "534d5047",
            "0500000000000000060000000000000005010200",
            "00000000",
            "0000000000000000000000000000000003000000000000000000000000000000",
            "07000000000000000800000009000000000000000a000000" // children
        )
    );
    for (at, kind, level, page) in &pages {
        let back = Page::decode(page, *at, *kind, *level, small()).unwrap();
        assert_eq!((back.generation, back.keys.len()), (6, 2));
        let elsewhere = PageRef { page: 6, ..*at };
        assert!(Page::decode(page, elsewhere, *kind, *level, small()).is_err());
        assert!(Page::decode(page, *at, TreeKind::Disks, *level, small()).is_err());
        assert!(Page::decode(page, *at, *kind, level + 1, small()).is_err());
        let stale = PageRef {
            crc: Checksum(1),
            ..*at
        };
        assert!(Page::decode(page, stale, *kind, *level, small()).is_err());
    }
}

fn sample_root() -> Root {
    let mut trees = [TreeRoot::default(); TreeKind::ALL.len()];
    trees[1] = TreeRoot {
        top: Some(PageRef {
            page: 9,
            crc: Checksum(10),
        }),
        level: 1,
        entries: 12,
    };
    Root {
        uuid: [7; 16],
        geometry: small(),
        generation: 3,
        commit: 4,
        marks: marks(),
        space: Space {
            total: 5,
            free: 6,
            pending: 7,
        },
        trees,
    }
}

#[test]
fn the_root_has_these_bytes() {
    let page = sample_root().encode().unwrap();
    assert_eq!(hex(&page[..8]), hex(b"SNAPMARK"));
    assert_eq!(
        hex(&page[12..176]),
        [
            "01000000",                         // format
            "07070707070707070707070707070707", // store
            "0000010000000000",                 // segment size
            "03000000000000000400000000000000", // generation, commit
            MARKS,
            "050000000000000006000000000000000700000000000000", // space
            "000000000000000000000000000000000000000000000000", // no disks
            "09000000000000000a000000010000000c00000000000000", // maps
        ]
        .concat()
    );
    assert!(page[176..].iter().all(|byte| *byte == 0));
    assert_eq!(Root::decode(&page), Ok(sample_root()));
}

#[test]
fn what_breaks_a_rule_is_neither_written_nor_read() {
    let encode = |descriptor: Descriptor| descriptor.encode(small(), &mut Vec::new());
    let outside = Descriptor {
        data: BlockMask::range(10, 17),
        ..descriptor()
    };
    let (field, blocks) = ("data", 16);
    assert_eq!(
        encode(outside),
        Err(FormatError::MaskOutside { field, blocks })
    );
    let both = Descriptor {
        zero: BlockMask::range(3, 5),
        ..descriptor()
    };
    assert_eq!(encode(both), Err(FormatError::MaskOverlap { block: 3 }));
    let nowhere = Descriptor {
        place: None,
        ..descriptor()
    };
    assert_eq!(encode(nowhere), Err(FormatError::NoPlace { blocks: 4 }));
    let unborn = Descriptor {
        birth: Epoch(4),
        ..descriptor()
    };
    let change = Change::PutVersion(key(), unborn).encode(small(), &mut Vec::new());
    let (birth, death) = (Epoch(4), Epoch(3));
    assert_eq!(change, Err(FormatError::BirthAfterDeath { birth, death }));
    let long = DiskRecord {
        name: "x".repeat(256),
        ..disk()
    };
    assert!(matches!(
        long.to_value(),
        Err(FormatError::TooLong {
            len: 256,
            limit: 255,
            ..
        })
    ));
    let wide = Change::Retire(Place {
        device: DeviceNo(0),
        slot: Slot(1 << 48),
    });
    assert!(wide.encode(small(), &mut Vec::new()).is_err());
    let mut broken = disk().to_value().unwrap();
    let name = broken.iter().position(|byte| *byte == b'v').unwrap();
    broken[name] = 0xff;
    assert!(matches!(
        DiskRecord::from_value(&broken),
        Err(FormatError::NotUtf8 { at: 0, .. })
    ));
}

#[test]
fn no_bytes_make_decoding_panic() {
    let mut samples: Vec<Vec<u8>> = changes()
        .into_iter()
        .map(|(change, _)| {
            let mut bytes = Vec::new();
            change.encode(small(), &mut bytes).unwrap();
            bytes
        })
        .collect();
    samples.push(sample_frame());
    samples.push(sample_root().encode().unwrap());
    let pages = sample_pages();
    samples.extend(pages.iter().map(|page| page.3.clone()));
    for sample in samples {
        let step = (sample.len() / 300).max(1);
        for at in (0..sample.len()).step_by(step) {
            decode_all(&sample[..at]);
            for value in [0, 1, 0x80, 0xff] {
                let mut bytes = sample.clone();
                bytes[at] ^= value;
                decode_all(&bytes);
            }
        }
    }
}

fn decode_all(bytes: &[u8]) {
    for geometry in [small(), Geometry::from_segment_bytes(4 << 20).unwrap()] {
        let _ = Change::decode(bytes, geometry);
        let _ = Descriptor::from_value(bytes, geometry);
        for kind in TreeKind::ALL {
            for level in 0..2 {
                // With the right checksum, so that what follows it is read, too.
                let mut page = bytes.to_vec();
                let crc = crate::base::checksum(bytes.get(4..).unwrap_or(&[]));
                if let Some(stored) = page.get_mut(..4) {
                    stored.copy_from_slice(&crc.0.to_le_bytes());
                }
                let at = PageRef { page: 5, crc };
                let _ = Page::decode(&page, at, kind, level, geometry);
            }
        }
    }
    let _ = DiskRecord::from_value(bytes);
    let _ = MapRecord::from_value(bytes);
    let _ = SnapshotRecord::from_value(bytes);
    let _ = DeviceEntry::from_value(bytes);
    let _ = DeviceEntry::counts(bytes);
    let _ = SumGroup::get(bytes, 63);
    let _ = decode_run(bytes);
    let _ = Root::decode(bytes);
    if let Ok(header) = FrameHeader::decode(bytes) {
        let _ = header.verify(bytes);
        let _ = header.changes(bytes, small());
    }
}
