//! The journal's bytes, pinned: what is written here has to be readable for ever. Checksums are
//! computed by another implementation.

use proptest::prelude::*;

use super::*;
use crate::base::{Block, Checksum, DeviceNo, DiskId, Epoch, MapId, Place, Seq, Slot, Timestamp};
use crate::ondisk::Origin;

fn crc(bytes: &[u8]) -> [u8; 4] {
    crc::Crc::<u32>::new(&crc::CRC_32_ISCSI)
        .checksum(bytes)
        .to_le_bytes()
}

const KEY: u64 = 0x3132_3334_3536_3738;
const KEY_BYTES: &[u8] = b"\x38\x37\x36\x35\x34\x33\x32\x31";

fn header() -> JournalHeader {
    JournalHeader {
        store: [0xa5; 16],
        session: 0x0102_0305,
        first: Seq(0x1112_1314_1516_1718),
        ring: 0x2122_2324_2526_2728,
        key: KEY,
    }
}

#[test]
fn golden_header() {
    let mut fields = b"\x01\0\0\0".to_vec();
    fields.extend([0xa5; 16]);
    fields.extend(b"\x05\x03\x02\x01\0\0\0\0");
    fields.extend(b"\x18\x17\x16\x15\x14\x13\x12\x11");
    fields.extend(b"\x28\x27\x26\x25\x24\x23\x22\x21");
    fields.extend(KEY_BYTES);
    let mut expected = b"SNAPMKJ1".to_vec();
    expected.extend(crc(&fields));
    expected.extend(fields);
    assert_eq!(header().encode().as_slice(), expected);
    assert_eq!(header().slot(), 4096, "odd sessions write the second slot");
    assert_eq!(RING_START, 8192);
    assert_eq!(JournalHeader::decode(&expected), Ok(header()));
}

#[test]
fn a_header_of_a_later_format_is_refused_as_such() {
    let mut bytes = header().encode();
    bytes[12] = 2;
    let sum = crc(&bytes[12..]);
    bytes[8..12].copy_from_slice(&sum);
    assert_eq!(
        JournalHeader::decode(&bytes),
        Err(JournalFormatError::Version(2))
    );
}

#[test]
fn every_flipped_bit_of_a_header_is_noticed() {
    let bytes = header().encode();
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes;
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(JournalHeader::decode(&bad).is_err(), "bit {bit}");
    }
}

/// A record's bytes from the parts that tell it from others.
fn expected(kind: u8, place: &[u8; 28], size: u64, body: &[u8]) -> Vec<u8> {
    let (disk, extent) = place.split_at(4);
    let mut covered = KEY_BYTES.to_vec();
    covered.extend(b"\x07\0\0\0");
    covered.extend([kind, 0, 0, 0]);
    covered.extend(b"\x18\x17\x16\x15\x14\x13\x12\x11");
    covered.extend(b"\x28\x27\x26\x25\x24\x23\x22\x01");
    covered.extend(disk);
    covered.extend((body.len() as u32).to_le_bytes());
    covered.extend(&extent[..16]);
    covered.extend(b"\xd2\x04\0\0\0\0\0\0");
    covered.extend(size.to_le_bytes());
    covered.extend(body);
    let mut bytes = b"SMJR".to_vec();
    bytes.extend(crc(&covered));
    bytes.extend(covered);
    bytes.resize(bytes.len().next_multiple_of(64), 0);
    bytes
}

fn encode(disk: u32, extent: (u64, u64), size: Option<u64>, body: &Body) -> Vec<u8> {
    let stamp = Stamp {
        key: KEY,
        session: 7,
        durable: Seq(0x0122_2324_2526_2728),
    };
    let mut header = RecordHeader::new(stamp, Seq(0x1112_1314_1516_1718), Timestamp(1234));
    (header.disk, header.block, header.count) = (DiskId(disk), Block(extent.0), extent.1);
    header.size_after = size;
    header.encode(body)
}

fn assert_reads_back(bytes: &[u8], body: &Body) -> RecordHeader {
    let header = RecordHeader::decode(bytes).unwrap();
    assert_eq!(header.head_len(), bytes.len());
    assert_eq!(header.body(bytes).as_ref(), Ok(body));
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        let read = RecordHeader::decode(&bad).and_then(|header| header.body(&bad));
        // Padding is the only part that the checksum leaves out.
        assert!(read.is_err() || read.as_ref() == Ok(body), "bit {bit}");
    }
    header
}

#[test]
fn golden_write() {
    let body = Body::Write(vec![Checksum(0x0403_0201), Checksum(0x0807_0605)]);
    let bytes = encode(9, (0x0a0b, 2), Some(0x0c0d), &body);
    let place = b"\x09\0\0\0\x0b\x0a\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let sums = b"\x01\x02\x03\x04\x05\x06\x07\x08";
    assert_eq!(bytes, expected(1, place, 0x0c0d, sums));
    assert_eq!(bytes.len(), 128);
    let header = assert_reads_back(&bytes, &body);
    assert_eq!(body.data_len(), 2 * 4096);
    assert_eq!((header.stamp.session, header.disk), (7, DiskId(9)));
    assert_eq!((header.block, header.count), (Block(0x0a0b), 2));
    assert_eq!(header.size_after, Some(0x0c0d));
    assert_eq!(header.time, Timestamp(1234));
}

#[test]
fn golden_zero() {
    let bytes = encode(9, (1, 1 << 32), None, &Body::Zero);
    let place = b"\x09\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0";
    assert_eq!(bytes, expected(2, place, 0, b""));
    assert_eq!(bytes.len(), RECORD_HEADER.next_multiple_of(RECORD_ALIGN));
    let header = assert_reads_back(&bytes, &Body::Zero);
    assert_eq!((Body::Zero.data_len(), header.size_after), (0, None));
}

#[test]
fn golden_skip() {
    let body = Body::Skip(Seq(0x1112_1314_1516_1819));
    let bytes = encode(0, (0, 0), None, &body);
    let next = b"\x19\x18\x16\x15\x14\x13\x12\x11";
    assert_eq!(bytes, expected(5, &[0; 28], 0, next));
    assert_reads_back(&bytes, &body);
    let back = encode(0, (0, 0), None, &Body::Skip(Seq(0x1112_1314_1516_1718)));
    let header = RecordHeader::decode(&back).unwrap();
    assert!(header.body(&back).is_err(), "it leads to itself");
}

#[test]
fn a_record_that_claims_to_have_been_durable_before_it_was_there_is_refused() {
    let mut bytes = encode(9, (1, 1), None, &Body::Zero);
    bytes[32..40].copy_from_slice(&0x1112_1314_1516_1718u64.to_le_bytes());
    assert!(RecordHeader::decode(&bytes).is_err());
}

#[test]
fn golden_write_by_reference() {
    let place = |device, slot| Place {
        device: DeviceNo(device),
        slot: Slot(slot),
    };
    let body = Body::Reference(Reference {
        head: 1,
        segment: 2,
        places: vec![place(3, 4), place(0x0506, 7)],
        sums: (1..=6).map(Checksum).collect(),
    });
    let bytes = encode(9, (0x0a0b, 6), Some(0x0c0d), &body);
    let extent = b"\x09\0\0\0\x0b\x0a\0\0\0\0\0\0\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let fields = b"\x01\0\0\0\x02\0\0\0\x02\0\0\0\
                   \x03\0\x04\0\0\0\0\0\0\0\x06\x05\x07\0\0\0\0\0\0\0\
                   \x01\0\0\0\x02\0\0\0\x03\0\0\0\x04\0\0\0\x05\0\0\0\x06\0\0\0";
    assert_eq!(bytes, expected(4, extent, 0x0c0d, fields));
    assert_reads_back(&bytes, &body);
    assert_eq!(body.data_len(), 2 * 4096);
}

#[test]
fn a_reference_to_more_segments_than_the_write_has_is_refused() {
    for (head, segment, places) in [(0, 2, 0), (0, 0, 1), (5, 2, 1), (0, 7, 1)] {
        let place = Place {
            device: DeviceNo(0),
            slot: Slot(0),
        };
        let body = Body::Reference(Reference {
            head,
            segment,
            places: vec![place; places],
            sums: vec![Checksum(0); 6],
        });
        let bytes = encode(9, (0, 6), None, &body);
        let header = RecordHeader::decode(&bytes).unwrap();
        assert!(header.body(&bytes).is_err(), "{head} {segment} {places}");
    }
}

fn origin() -> Origin {
    Origin {
        map: MapId(0x0304),
        epoch: Epoch(0x0506),
        limit: Block(0x0708),
    }
}

const ORIGIN: &[u8] = b"\x04\x03\0\0\x06\x05\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0";

fn target(disk: u32, name: &str) -> Target {
    Target {
        disk: DiskId(disk),
        map: MapId(2),
        epoch: Epoch(3),
        disk_name: name.to_owned(),
        size: 4096,
    }
}

fn new_disk(origin: Option<Origin>) -> Op {
    Op::Create(NewDiskOp {
        disk: DiskId(1),
        map: MapId(2),
        name: "vm1.img".to_owned(),
        size: 0x0a0b_0c0d,
        mode: 0o644,
        uid: 1000,
        gid: 1001,
        origin,
    })
}

/// One of each kind, and the bytes that it becomes.
fn ops() -> Vec<(Op, Vec<u8>)> {
    let new = b"\x01\x01\0\0\0\x02\0\0\0\x07\0vm1.img\x0d\x0c\x0b\x0a\0\0\0\0\
                \xa4\x01\0\0\xe8\x03\0\0\xe9\x03\0\0";
    let (disk, map, epoch) = (DiskId(1), MapId(2), Epoch(3));
    vec![
        (new_disk(None), [new.as_slice(), b"\0"].concat()),
        (
            new_disk(Some(origin())),
            [new.as_slice(), b"\x01", ORIGIN].concat(),
        ),
        (Op::Unlink(disk), b"\x02\x01\0\0\0".to_vec()),
        (Op::Remove(disk), b"\x03\x01\0\0\0".to_vec()),
        (
            Op::Rename {
                from: "a".to_owned(),
                to: "\u{e9}".to_owned(),
                over: None,
            },
            b"\x04\x01\0a\x02\0\xc3\xa9\0".to_vec(),
        ),
        (
            Op::Rename {
                from: "a".to_owned(),
                to: "b".to_owned(),
                over: Some(Replaced { disk, open: true }),
            },
            b"\x04\x01\0a\x01\0b\x01\x01\0\0\0\x01".to_vec(),
        ),
        (
            Op::Attributes {
                disk,
                mode: 0o600,
                uid: 2,
                gid: 3,
                accessed: Timestamp(-1),
                modified: Timestamp(5),
            },
            b"\x05\x01\0\0\0\x80\x01\0\0\x02\0\0\0\x03\0\0\0\
              \xff\xff\xff\xff\xff\xff\xff\xff\x05\0\0\0\0\0\0\0"
                .to_vec(),
        ),
        (
            Op::Resize { disk, size: 0x0102 },
            b"\x06\x01\0\0\0\x02\x01\0\0\0\0\0\0".to_vec(),
        ),
        (
            Op::Marker {
                name: "s".to_owned(),
                targets: vec![target(1, "a"), target(5, "bc")],
            },
            b"\x07\x01\0s\x02\0\0\0\
              \x01\0\0\0\x02\0\0\0\x03\0\0\0\0\0\0\0\x01\0a\0\x10\0\0\0\0\0\0\
              \x05\0\0\0\x02\0\0\0\x03\0\0\0\0\0\0\0\x02\0bc\0\x10\0\0\0\0\0\0"
                .to_vec(),
        ),
        (
            Op::RemoveSnapshot {
                map,
                epoch,
                open: true,
            },
            b"\x08\x02\0\0\0\x03\0\0\0\0\0\0\0\x01".to_vec(),
        ),
        (
            Op::RenameSnapshot {
                map,
                epoch,
                to: "t".to_owned(),
            },
            b"\x09\x02\0\0\0\x03\0\0\0\0\0\0\0\x01\0t".to_vec(),
        ),
        (
            Op::Rollback {
                disk,
                map,
                origin: origin(),
                size: 0x0900,
            },
            [
                b"\x0a\x01\0\0\0\x02\0\0\0".as_slice(),
                ORIGIN,
                b"\0\x09\0\0\0\0\0\0",
            ]
            .concat(),
        ),
        (
            Op::Priority {
                disk,
                priority: 200,
            },
            b"\x0b\x01\0\0\0\xc8".to_vec(),
        ),
    ]
}

#[test]
fn golden_ops() {
    for (op, bytes) in ops() {
        let body = Body::Op(op);
        let record = encode(0, (0, 0), None, &body);
        assert_eq!(record, expected(3, &[0; 28], 0, &bytes), "{body:?}");
        assert_reads_back(&record, &body);
    }
}

#[test]
fn every_op_has_its_golden_bytes() {
    let mut kinds: Vec<u8> = ops().iter().map(|(_, bytes)| bytes[0]).collect();
    kinds.dedup();
    assert_eq!(kinds, (1..=11).collect::<Vec<u8>>());
}

#[test]
fn an_op_that_ends_early_or_goes_on_is_refused() {
    for (op, bytes) in ops() {
        for len in 0..bytes.len() {
            let record = expected(3, &[0; 28], 0, &bytes[..len]);
            let header = RecordHeader::decode(&record).unwrap();
            assert!(header.body(&record).is_err(), "{op:?} cut to {len}");
        }
        let record = expected(3, &[0; 28], 0, &[&bytes[..], b"\0"].concat());
        let header = RecordHeader::decode(&record).unwrap();
        assert!(header.body(&record).is_err(), "{op:?} with a byte more");
    }
}

fn any_name() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9._\u{e9}\u{4e16}-]{1,40}"
}

fn any_origin() -> impl Strategy<Value = Origin> {
    (any::<u32>(), any::<u64>(), any::<u64>()).prop_map(|(map, epoch, limit)| Origin {
        map: MapId(map),
        epoch: Epoch(epoch),
        limit: Block(limit),
    })
}

fn any_target() -> impl Strategy<Value = Target> {
    let numbers = (any::<u32>(), any::<u32>(), any::<u64>(), any::<u64>());
    (numbers, any_name()).prop_map(|((disk, map, epoch, size), disk_name)| Target {
        disk: DiskId(disk),
        map: MapId(map),
        epoch: Epoch(epoch),
        disk_name,
        size,
    })
}

fn any_op() -> impl Strategy<Value = Op> {
    let create = (
        any::<(u32, u32, u64, u32, u32, u32)>(),
        any_name(),
        prop::option::of(any_origin()),
    )
        .prop_map(|((disk, map, size, mode, uid, gid), name, origin)| {
            Op::Create(NewDiskOp {
                disk: DiskId(disk),
                map: MapId(map),
                name,
                size,
                mode,
                uid,
                gid,
                origin,
            })
        });
    let attributes = any::<(u32, u32, u32, u32, i64, i64)>().prop_map(
        |(disk, mode, uid, gid, accessed, modified)| Op::Attributes {
            disk: DiskId(disk),
            mode,
            uid,
            gid,
            accessed: Timestamp(accessed),
            modified: Timestamp(modified),
        },
    );
    let marker = (any_name(), prop::collection::vec(any_target(), 0..40))
        .prop_map(|(name, targets)| Op::Marker { name, targets });
    let rollback =
        (any::<(u32, u32, u64)>(), any_origin()).prop_map(|((disk, map, size), origin)| {
            Op::Rollback {
                disk: DiskId(disk),
                map: MapId(map),
                origin,
                size,
            }
        });
    prop_oneof![
        create,
        attributes,
        marker,
        rollback,
        any::<u32>().prop_map(|disk| Op::Unlink(DiskId(disk))),
        any::<u32>().prop_map(|disk| Op::Remove(DiskId(disk))),
        (any_name(), any_name(), any::<Option<(u32, bool)>>()).prop_map(|(from, to, over)| {
            let over = over.map(|(disk, open)| Replaced {
                disk: DiskId(disk),
                open,
            });
            Op::Rename { from, to, over }
        }),
        any::<(u32, u64)>().prop_map(|(disk, size)| Op::Resize {
            disk: DiskId(disk),
            size
        }),
        any::<(u32, u64, bool)>().prop_map(|(map, epoch, open)| Op::RemoveSnapshot {
            map: MapId(map),
            epoch: Epoch(epoch),
            open
        }),
        (any::<(u32, u64)>(), any_name()).prop_map(|((map, epoch), to)| Op::RenameSnapshot {
            map: MapId(map),
            epoch: Epoch(epoch),
            to
        }),
        any::<(u32, u8)>().prop_map(|(disk, priority)| Op::Priority {
            disk: DiskId(disk),
            priority
        }),
    ]
}

fn any_body() -> impl Strategy<Value = Body> {
    let sums = prop::collection::vec(any::<u32>().prop_map(Checksum), 1..300);
    prop_oneof![
        sums.prop_map(Body::Write),
        Just(Body::Zero),
        any_op().prop_map(Body::Op),
        any_reference().prop_map(Body::Reference),
    ]
}

fn any_reference() -> impl Strategy<Value = Reference> {
    let place = any::<(u16, u64)>().prop_map(|(device, slot)| Place {
        device: DeviceNo(device),
        slot: Slot(slot),
    });
    let places = prop::collection::vec(place, 1..5);
    (0u32..20, 1u32..40, places, 0u32..20).prop_map(|(head, segment, places, tail)| {
        let sums = head + segment * places.len() as u32 + tail;
        Reference {
            head,
            segment,
            places,
            sums: (0..sums).map(Checksum).collect(),
        }
    })
}

proptest! {
    #[test]
    fn any_header_reads_back(store: [u8; 16], session: u32, first: u64, ring: u64, key: u64) {
        let header = JournalHeader { store, session, first: Seq(first), ring, key };
        prop_assert_eq!(JournalHeader::decode(&header.encode()), Ok(header));
    }

    #[test]
    fn any_record_reads_back(
        body in any_body(),
        (key, session) in any::<(u64, u32)>(),
        (seq, durable) in (1u64..1 << 62, any::<u64>()),
        (disk, more) in (any::<u32>(), 0u8..4),
        block in 0u64..1 << 40,
        time: i64,
        size in prop::option::of(1u64..),
    ) {
        let count = match &body {
            Body::Write(sums) => sums.len() as u64,
            Body::Zero => 77,
            Body::Op(_) | Body::Skip(_) => 0,
            Body::Reference(reference) => reference.sums.len() as u64,
        };
        let stamp = Stamp { key, session, durable: Seq(durable % seq) };
        let mut written = RecordHeader::new(stamp, Seq(seq), Timestamp(time));
        (written.disk, written.block, written.count) = (DiskId(disk), Block(block), count);
        (written.more, written.size_after) = (more, size);
        let bytes = written.encode(&body);
        let header = RecordHeader::decode(&bytes).unwrap();
        prop_assert_eq!(header.body(&bytes), Ok(body));
        prop_assert_eq!((header.stamp, header.seq, header.disk), (stamp, Seq(seq), DiskId(disk)));
        prop_assert_eq!((header.block, header.count), (Block(block), count));
        prop_assert_eq!((header.time, header.size_after), (Timestamp(time), size));
        prop_assert_eq!((header.more, bytes[21]), (more, more));
        prop_assert_eq!(bytes.len() % RECORD_ALIGN, 0);
    }

    /// Whatever lies in the ring, reading it gives an answer or an error. The checksum is set
    /// right, so that the fields are really looked at.
    #[test]
    fn no_bytes_make_a_decoder_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..400),
        magic: bool,
        body in prop::option::of(0u32..400),
        kind in 0u8..6,
    ) {
        let _ = JournalHeader::decode(&bytes);
        if bytes.len() >= RECORD_HEADER && magic {
            bytes[..4].copy_from_slice(b"SMJR");
            bytes[20] = kind;
            if let Some(body) = body {
                bytes[44..48].copy_from_slice(&body.to_le_bytes());
                let end = bytes.len().min(RECORD_HEADER + body as usize);
                let sum = crc(&bytes[8..end]);
                bytes[4..8].copy_from_slice(&sum);
            }
        }
        if let Ok(header) = RecordHeader::decode(&bytes) {
            let _ = header.head_len();
            let _ = header.body(&bytes);
        }
        if bytes.len() >= JournalHeader::LEN && magic {
            bytes[..8].copy_from_slice(b"SNAPMKJ1");
            let sum = crc(&bytes[12..JournalHeader::LEN]);
            bytes[8..12].copy_from_slice(&sum);
            let _ = JournalHeader::decode(&bytes);
        }
    }

    #[test]
    fn no_bytes_make_an_op_panic(kind in 0u8..13, rest in prop::collection::vec(any::<u8>(), 0..200)) {
        let body = [&[kind][..], &rest].concat();
        let record = expected(3, &[0; 28], 0, &body);
        let header = RecordHeader::decode(&record).unwrap();
        if let Ok(Body::Op(op)) = header.body(&record) {
            // What was understood is written the same way again.
            prop_assert_eq!(encode(0, (0, 0), None, &Body::Op(op)), record);
        }
    }
}
