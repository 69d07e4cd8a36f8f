use super::*;

fn record() -> DeviceRecord {
    DeviceRecord {
        device: DeviceNo(0x0302),
        uuid: [0xd1; 16],
        path: "pool.img".into(),
        slots: 0x0708,
    }
}

fn superblock() -> Superblock {
    Superblock::of(Uuid([0xa5; 16]), &record(), Geometry::default())
}

const LEN: u64 = DATA_START + 0x0708 * (256 << 10);

#[test]
fn golden_bytes() {
    let bytes = superblock().encode();
    let mut expected = b"snapmkDV\x01\0\0\0\0\0\0\0".to_vec();
    expected.extend([0xa5; 16]);
    expected.extend([0xd1; 16]);
    expected.extend(b"\x02\x03\0\0\0\0\0\0");
    expected.extend(b"\x00\x00\x04\0\0\0\0\0");
    expected.extend(b"\x00\x00\x40\0\0\0\0\0");
    expected.extend(b"\x08\x07\0\0\0\0\0\0");
    expected.resize(252, 0);
    expected.extend(
        crc::Crc::<u32>::new(&crc::CRC_32_ISCSI)
            .checksum(&expected)
            .to_le_bytes(),
    );
    expected.resize(4096, 0);
    assert_eq!(bytes.as_slice(), expected);
}

#[test]
fn it_reads_back() {
    let raw = RawSuper::decode(&superblock().encode()).unwrap();
    assert_eq!(raw.validate(LEN), Ok(superblock()));
    assert_eq!(
        raw.validate(LEN - 1),
        Err(SuperError::TooShort {
            needed: LEN,
            len: LEN - 1
        })
    );
}

#[test]
fn every_flipped_bit_is_noticed() {
    let bytes = superblock().encode();
    for bit in 0..256 * 8 {
        let mut bad = bytes;
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(RawSuper::decode(&bad).is_err(), "bit {bit}");
    }
    assert_eq!(RawSuper::decode(&[0; BLOCK]), Err(SuperError::NotSnapmark));
}

/// The block with a field replaced and the checksum made right again.
fn forged(at: usize, field: &[u8]) -> [u8; BLOCK] {
    let mut bytes = superblock().encode();
    bytes[at..at + field.len()].copy_from_slice(field);
    let crc = checksum(&bytes[..AT_CRC]);
    bytes[AT_CRC..AT_END].copy_from_slice(&crc.0.to_le_bytes());
    bytes
}

#[test]
fn what_checks_but_can_not_be_is_refused() {
    let validate =
        |at, field: &[u8]| RawSuper::decode(&forged(at, field)).and_then(|raw| raw.validate(LEN));
    assert_eq!(
        validate(AT_VERSION, &2u32.to_le_bytes()),
        Err(SuperError::Newer { found: 2 })
    );
    assert_eq!(
        validate(AT_SEGMENT, &4096u64.to_le_bytes()),
        Err(SuperError::Geometry(GeometryError(4096)))
    );
    assert_eq!(
        validate(AT_START, &4096u64.to_le_bytes()),
        Err(SuperError::Start(4096))
    );
    assert!(matches!(
        validate(AT_SLOTS, &u64::MAX.to_le_bytes()),
        Err(SuperError::TooShort { .. })
    ));
}

#[test]
fn another_store_a_swapped_device_and_another_division_are_told_apart() {
    let geometry = Geometry::default();
    let expect = |store: u8, change: &dyn Fn(&mut DeviceRecord), geometry| {
        let mut record = record();
        change(&mut record);
        superblock().expect(Uuid([store; 16]), &record, geometry)
    };
    assert_eq!(expect(0xa5, &|_| {}, geometry), Ok(()));
    let other = expect(1, &|_| {}, geometry).unwrap_err();
    assert!(
        other
            .to_string()
            .contains("a5a5a5a5-a5a5-a5a5-a5a5-a5a5a5a5a5a5"),
        "{other}"
    );
    let swapped = expect(0xa5, &|r| r.device = DeviceNo(1), geometry).unwrap_err();
    assert!(swapped.to_string().contains("swapped"), "{swapped}");
    let replaced = expect(0xa5, &|r| r.uuid = [0; 16], geometry);
    assert!(matches!(replaced, Err(SuperError::OtherDevice { .. })));
    let slots = expect(0xa5, &|r| r.slots = 1, geometry);
    assert!(matches!(slots, Err(SuperError::Division { .. })));
    let small = Geometry::from_segment_bytes(64 << 10).unwrap();
    let segment = expect(0xa5, &|_| {}, small);
    assert!(matches!(segment, Err(SuperError::Division { .. })));
}

#[test]
fn slots_end_within_the_device() {
    let geometry = Geometry::default();
    for (len, slots) in [(0, 0), (DATA_START, 0), (LEN - 1, 0x0707), (LEN, 0x0708)] {
        assert_eq!(slots_for(len, geometry), slots, "{len}");
    }
    assert_eq!(slot_start(Slot(0x0708), geometry), LEN);
}
