//! What is done with hostile bytes: each body takes any bytes, and panics where a promise is broken.
//! Decoding never panics; what was understood is written so that it is understood as the same.
//!
//! The fuzzer and `tests/fuzz.rs` share them. Checksums are set right first, as those who know the
//! format can.

use std::str::FromStr;

use snapmark::base::{
    BLOCK, ByteSize, Checksum, DeviceNo, Geometry, check_disk_name, check_snapshot_name, checksum,
    split_snapshot_file_name,
};
use snapmark::config::{Cron, Glob, Interval, Portal, Secrets, Settings};
use snapmark::control::{parse, parse_exposition};
pub use snapmark::frontend::iscsi::fuzz as iscsi;
use snapmark::ondisk::journal::{Body, JournalHeader, RECORD_HEADER, RecordHeader};
use snapmark::ondisk::{
    Change, Descriptor, DeviceEntry, DeviceRecord, DiskRecord, FrameHeader, MapRecord, Marks, PAGE,
    Page, PageBody, PageHeader, PageRef, RawSuper, Record, Root, SnapshotRecord, Space, SumGroup,
    Superblock, TreeKind, Uuid, VersionKey, decode_pack, decode_run, encode_branch, encode_frame,
    encode_leaf, foreign, page_capacity,
};

/// A body and its name.
pub type Named = (&'static str, fn(&[u8]));

/// All of them.
pub const ALL: &[Named] = &[
    ("journal_header", journal_header),
    ("journal_record", journal_record),
    ("catalog_frame", catalog_frame),
    ("catalog_value", catalog_value),
    ("catalog_page", catalog_page),
    ("catalog_root", catalog_root),
    ("superblock", superblock),
    ("settings", settings),
    ("control_line", control_line),
    ("words", words),
    ("iscsi_header", iscsi::header),
    ("iscsi_stream", iscsi::stream),
    ("iscsi_text", iscsi::text),
    ("iscsi_command", iscsi::command),
    ("secrets", secrets),
];

fn set_sum(bytes: &mut [u8], place: usize, covered: std::ops::Range<usize>) {
    let sum = checksum(&bytes[covered]).0;
    bytes[place..place + 4].copy_from_slice(&sum.to_le_bytes());
}

/// A header slot of the journal.
pub fn journal_header(data: &[u8]) {
    let mut bytes = data.to_vec();
    let _ = JournalHeader::decode(&bytes);
    bytes.resize(JournalHeader::LEN, 0);
    bytes[..8].copy_from_slice(b"SNAPMKJ1");
    set_sum(&mut bytes, 8, 12..JournalHeader::LEN);
    if let Ok(header) = JournalHeader::decode(&bytes) {
        assert_eq!(JournalHeader::decode(&header.encode()), Ok(header));
        let _ = header.in_slot(0);
    }
}

/// A record of the journal.
pub fn journal_record(data: &[u8]) {
    let mut bytes = data.to_vec();
    record(&bytes);
    if bytes.len() >= RECORD_HEADER {
        bytes[..4].copy_from_slice(b"SMJR");
        record(&bytes);
        let body = (bytes.len() - RECORD_HEADER) as u32;
        let stored = u32::from_le_bytes([bytes[44], bytes[45], bytes[46], bytes[47]]);
        bytes[44..48].copy_from_slice(&stored.min(body).to_le_bytes());
        let end = RECORD_HEADER + stored.min(body) as usize;
        set_sum(&mut bytes, 4, 8..end);
        record(&bytes);
    }
}

fn record(bytes: &[u8]) {
    let Ok(header) = RecordHeader::decode(bytes) else {
        return;
    };
    let Ok(body) = header.body(bytes) else {
        return;
    };
    assert!(header.head_len() >= RECORD_HEADER);
    // Of the blocks that follow each has its checksum in the body.
    let sums = match &body {
        Body::Write(sums) => sums.len(),
        Body::Reference(reference) => reference.sums.len(),
        _ => 0,
    };
    assert!(body.data_len() <= sums * BLOCK);
    let again = header.encode(&body);
    let read = RecordHeader::decode(&again).and_then(|header| header.body(&again));
    assert_eq!(read, Ok(body));
}

fn geometry(byte: u8) -> Geometry {
    let sizes = [64 << 10, 128 << 10, 256 << 10, 1 << 20];
    Geometry::from_segment_bytes(sizes[usize::from(byte) % sizes.len()]).unwrap()
}

/// A frame of the catalog's log. The first byte says how big segments are.
pub fn catalog_frame(data: &[u8]) {
    let Some((first, data)) = data.split_first() else {
        return;
    };
    let geometry = geometry(*first);
    let mut bytes = data.to_vec();
    frame(&bytes, geometry);
    const LEN: usize = FrameHeader::LEN;
    if bytes.len() >= LEN {
        bytes[..8].copy_from_slice(b"SNAPLOG\x01");
        let body = (bytes.len() - LEN) as u32;
        bytes[LEN - 12..LEN - 8].copy_from_slice(&body.to_le_bytes());
        set_sum(&mut bytes, LEN - 8, LEN..LEN + body as usize);
        set_sum(&mut bytes, LEN - 4, 0..LEN - 4);
        bytes.resize(bytes.len().next_multiple_of(PAGE), 0);
        frame(&bytes, geometry);
    }
    // The changes alone, without a header before them.
    if let Ok((change, _)) = Change::decode(data, geometry) {
        let mut again = Vec::new();
        change.encode(geometry, &mut again).expect("it was decoded");
        assert_eq!(Change::decode(&again, geometry), Ok((change, &[][..])));
    }
}

fn frame(bytes: &[u8], geometry: Geometry) {
    let Ok(header) = FrameHeader::decode(bytes) else {
        return;
    };
    let _ = header.frame_len();
    if header.verify(bytes).is_err() {
        return;
    }
    if let Ok(changes) = header.changes(bytes, geometry) {
        let (uuid, generation, commit) = (header.uuid, header.generation, header.commit);
        let again = encode_frame(uuid, generation, commit, &changes, geometry);
        let again = again.expect("it was decoded");
        let header = FrameHeader::decode(&again).expect("it was encoded");
        assert_eq!(header.verify(&again), Ok(()));
        assert_eq!(header.changes(&again, geometry), Ok(changes));
    }
}

fn value<R: Record + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    let _ = R::from_value(bytes);
    if let Ok((record, _)) = R::decode(bytes) {
        let again = record.to_value().expect("it was decoded");
        assert_eq!(R::from_value(&again), Ok(record));
    }
}

/// A value of one of the catalog's trees. The first byte says of which, the second how big segments
/// are.
pub fn catalog_value(data: &[u8]) {
    let [kind, segments, data @ ..] = data else {
        return;
    };
    let geometry = geometry(*segments);
    match kind % 10 {
        0 => value::<DiskRecord>(data),
        1 => value::<MapRecord>(data),
        2 => value::<SnapshotRecord>(data),
        3 => value::<DeviceRecord>(data),
        4 => value::<DeviceEntry>(data),
        5 => value::<Marks>(data),
        6 => value::<Space>(data),
        7 => {
            let _ = Descriptor::from_value(data, geometry);
            let _ = Descriptor::packed_blocks(data, geometry);
            if let Ok((descriptor, _)) = Descriptor::decode(data, geometry) {
                let mut again = Vec::new();
                let encoded = descriptor.encode(geometry, &mut again);
                encoded.expect("it was decoded");
                assert_eq!(
                    Descriptor::decode(&again, geometry),
                    Ok((descriptor, &[][..]))
                );
            }
        }
        8 => {
            let _ = (decode_run(data), decode_pack(data), foreign(data));
            if let Some(key) = data.first_chunk::<16>() {
                let key = u128::from_le_bytes(*key);
                let _ = VersionKey::from_key(key).to_key();
                let _ = snapmark::ondisk::key_place(key);
            }
        }
        _ => {
            let _ = SumGroup::present(data);
            for block in [0, 1, 31, 63, 64, u64::MAX] {
                let (_, index) = SumGroup::locate(DeviceNo(0), block);
                let _ = SumGroup::get(data, index);
            }
        }
    }
}

/// A page of a tree. The first bytes say of which tree, level and segment size.
pub fn catalog_page(data: &[u8]) {
    let [kind, level, segments, data @ ..] = data else {
        return;
    };
    let kind = TreeKind::ALL[usize::from(*kind) % TreeKind::ALL.len()];
    let (level, geometry) = (level % 3, geometry(*segments));
    let mut bytes = data.to_vec();
    let at = |bytes: &[u8]| PageRef {
        page: 7,
        crc: Checksum(
            bytes
                .first_chunk()
                .map_or(0, |crc| u32::from_le_bytes(*crc)),
        ),
    };
    let _ = Page::decode(&bytes, at(&bytes), kind, level, geometry);
    bytes.resize(PAGE, 0);
    let header = PageHeader {
        number: 7,
        generation: 3,
        kind,
        level,
    };
    let mut own = vec![0; PAGE];
    encode_leaf(&header, &[], &[], &mut own);
    // Mark, number, tree and level are right; count, keys and values are what they are.
    bytes[..26].copy_from_slice(&own[..26]);
    set_sum(&mut bytes, 0, 4..PAGE);
    one_page(&bytes, &header, at(&bytes), geometry);
    // Now with a count that can be, keys that ascend, and nothing behind the values.
    let most = page_capacity(kind, level, geometry);
    let count = usize::from(bytes[26]) % (most + 1);
    bytes[26..28].copy_from_slice(&(count as u16).to_le_bytes());
    bytes[28..32].fill(0);
    for key in 0..count {
        bytes[32 + key * 16 + 15] = key as u8;
    }
    let value = match level {
        0 => kind.value_len(geometry),
        _ => 12,
    };
    bytes[32 + count * (16 + value)..].fill(0);
    set_sum(&mut bytes, 0, 4..PAGE);
    one_page(&bytes, &header, at(&bytes), geometry);
}

fn one_page(bytes: &[u8], header: &PageHeader, at: PageRef, geometry: Geometry) {
    let Ok(page) = Page::decode(bytes, at, header.kind, header.level, geometry) else {
        return;
    };
    let mut again = vec![0; PAGE];
    let crc: Checksum = match &page.body {
        PageBody::Leaf(values) => encode_leaf(header, &page.keys, values, &mut again),
        PageBody::Branch(children) => {
            encode_branch(header, &page.keys, children.iter().copied(), &mut again)
        }
    };
    let at = PageRef { page: at.page, crc };
    let read = Page::decode(&again, at, header.kind, header.level, geometry);
    let read = read.expect("it was encoded");
    assert_eq!((read.keys, read.body), (page.keys, page.body));
}

/// A root of the catalog.
pub fn catalog_root(data: &[u8]) {
    let mut bytes = data.to_vec();
    let _ = Root::decode(&bytes);
    bytes.resize(PAGE, 0);
    bytes[..8].copy_from_slice(b"SNAPMARK");
    bytes[12..16].copy_from_slice(&1u32.to_le_bytes());
    set_sum(&mut bytes, 8, 12..PAGE);
    if let Ok(root) = Root::decode(&bytes) {
        let again = root.encode().expect("it was decoded");
        assert_eq!(Root::decode(&again), Ok(root));
    }
}

/// The first block of a device.
pub fn superblock(data: &[u8]) {
    let mut bytes = [0; BLOCK];
    let len = data.len().min(BLOCK);
    bytes[..len].copy_from_slice(&data[..len]);
    let _ = (RawSuper::is_ours(&bytes), foreign(&bytes));
    one_superblock(&bytes);
    let record = DeviceRecord {
        device: DeviceNo(0),
        uuid: [1; 16],
        path: String::new(),
        slots: 1,
    };
    let own = Superblock::of(Uuid([2; 16]), &record, geometry(0)).encode();
    bytes[..12].copy_from_slice(&own[..12]);
    set_sum(&mut bytes, 252, 0..252);
    one_superblock(&bytes);
}

fn one_superblock(bytes: &[u8; BLOCK]) {
    let Ok(raw) = RawSuper::decode(bytes) else {
        return;
    };
    for len in [0, 4096, 1 << 30, 1 << 50, u64::MAX] {
        if let Ok(superblock) = raw.validate(len) {
            let again = superblock.encode();
            let again = RawSuper::decode(&again).expect("it was encoded");
            assert_eq!(again.validate(len), Ok(superblock));
        }
    }
}

/// `store.yaml`.
pub fn settings(data: &[u8]) {
    if let Ok(settings) = Settings::parse("store.yaml", data) {
        let _ = settings.priority("vm1.img");
    }
}

/// The file with the secrets of iSCSI initiators.
pub fn secrets(data: &[u8]) {
    let _ = Secrets::parse("secrets", data);
}

/// A line for `.control`.
pub fn control_line(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = parse(&text);
    for line in text.lines() {
        let _ = parse(line);
    }
    let _ = parse_exposition(&text);
}

/// Names, sizes, times, patterns.
pub fn words(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = check_disk_name(&text);
    let _ = check_snapshot_name("vm1.img", &text);
    if let Some((disk, snapshot)) = split_snapshot_file_name(&text) {
        assert_eq!(snapmark::base::snapshot_file_name(disk, snapshot), text);
    }
    if let Ok(size) = ByteSize::from_str(&text) {
        let _ = size.to_string();
    }
    let _ = Interval::from_str(&text);
    let _ = Portal::from_str(&text);
    let _ = Cron::from_str(&text);
    if let Some((pattern, name)) = text.split_once('\n') {
        let _ = Glob::new(pattern).matches(name);
    }
}
