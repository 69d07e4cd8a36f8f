//! The bodies of the fuzzer, a while on a stable compiler: what a real store has, mutated with a
//! seed. They panic where a promise is broken; here memory is watched, too.
//!
//! `SNAPMARK_SEED=N` tries one seed, `SNAPMARK_ROUNDS=N` as many more; `SNAPMARK_CORPUS=DIR` writes
//! what is mutated to a directory for each body, for `cargo fuzz run BODY DIR/BODY`.

#![allow(clippy::unwrap_used, reason = "tests may")]

#[path = "../fuzz/bodies.rs"]
mod bodies;
#[path = "common/random.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod random;
#[path = "damage/text.rs"]
#[allow(dead_code, reason = "the tests of damage write such texts, too")]
mod text;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;

use random::{Random, seeds};
use snapmark::base::Geometry;
use snapmark::device::{Device, Images};
use snapmark::ondisk::journal::{RECORD_ALIGN, RECORD_HEADER, RecordHeader};
use snapmark::ondisk::{FrameHeader, Page, PageBody, PageRef, TreeKind};

/// Inputs of each body in a round.
const INPUTS: u64 = 100_000;
/// What a body may hold beyond what goes with its input: messages, its own copies of a page, the buffer
/// of a connection and the most data of a PDU.
const CONSTANT: usize = 576 << 10;
/// And for each byte of the input.
const FACTOR: usize = 64;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static MOST: Cell<usize> = const { Cell::new(0) };
}

/// The system's memory, with what each thread holds of it.
struct Counting;

// SAFETY: every call goes to the system's allocator as it came; the counters allocate nothing.
#[allow(unsafe_code, reason = "an allocator can't be written without")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = HELD.try_with(|held| {
            held.set(held.get().wrapping_add(layout.size()));
            let _ = MOST.try_with(|most| most.set(most.get().max(held.get())));
        });
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        let _ = HELD.try_with(|held| held.set(held.get().saturating_sub(layout.size())));
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static MEMORY: Counting = Counting;

/// The most that a call holds at a time.
fn most_held(call: impl FnOnce()) -> usize {
    HELD.set(0);
    MOST.set(0);
    call();
    MOST.get()
}

/// The stores that the repository keeps.
fn stores() -> Vec<Images> {
    let store = |name: &str| {
        let here = env!("CARGO_MANIFEST_DIR");
        let path = format!("{here}/tests/fixtures/damaged/{name}.txt");
        let text = std::fs::read_to_string(path).unwrap();
        text::from_text(text.split_once("\n\n").unwrap().1)
    };
    ["closed", "killed"].map(store).into()
}

fn read(images: &Images, name: &str, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    images[name].read_at(&mut bytes, offset).unwrap();
    bytes
}

/// Whole structures for each body.
fn samples() -> BTreeMap<&'static str, Vec<Vec<u8>>> {
    let mut samples: BTreeMap<_, Vec<Vec<u8>>> = BTreeMap::new();
    let mut add = |body, bytes: Vec<u8>| samples.entry(body).or_default().push(bytes);
    // 64 KiB is the first of the segment sizes that a body chooses from.
    let geometry = Geometry::from_segment_bytes(64 << 10).unwrap();
    for images in stores() {
        for slot in [0, 4096] {
            add("journal_header", read(&images, "journal", slot, 64));
            add("catalog_root", read(&images, "pages", slot, 4096));
        }
        for device in ["pool0", "pool1"] {
            add("superblock", read(&images, device, 0, 4096));
        }
        let journal = images["journal"].to_bytes();
        for at in (0..journal.len() - RECORD_HEADER).step_by(RECORD_ALIGN) {
            let header = RecordHeader::decode(&journal[at..]);
            if let Ok(header) = header.filter_body(&journal[at..]) {
                add(
                    "journal_record",
                    journal[at..at + header.head_len()].to_vec(),
                );
            }
        }
        for at in (0..images["log"].len()).step_by(4096) {
            let start = read(&images, "log", at, 4096);
            if let Ok(header) = FrameHeader::decode(&start) {
                let frame = read(&images, "log", at, header.frame_len() as usize);
                let changes = &frame[FrameHeader::LEN..FrameHeader::LEN + header.length as usize];
                add("catalog_frame", [&[0], changes].concat());
                add("catalog_frame", [&[0], &frame[..]].concat());
            }
        }
        for page in 2..200 {
            let bytes = read(&images, "pages", page * 4096, 4096);
            sample_page(&bytes, page, geometry, &mut add);
        }
    }
    add(
        "settings",
        include_bytes!("../src/config/template.yaml").to_vec(),
    );
    let text = "cache: {size: 8MiB, mode: volatile}\ndisks:\n  - match: \"db*\"\n    priority: 7\n\
                destage: {interval: 1h, batch: 1GiB}\nspace: {warn: [80, 95]}\n";
    add("settings", text.into());
    let text = "iscsi: {listen: [127.0.0.1, \"[::1]:3261\"], secrets: x, sessions: 9, access: [{match: a, \
                initiators: [\"*\"]}]}\nsnapshots: [{name: n, disks: \"*\", at: 0 3 * * mon, keep: {last: 1}}, \
                {name: m, disks: a, every: 30m, before: x}]\n";
    add("settings", text.into());
    let text = "initiators: [{user: a, secret: correct horse battery, initiator: \"*\"}]\n\
                target: {user: b, secret: another long one}\n";
    add("secrets", text.into());
    add(
        "secrets",
        b"initiators:\n  - user: a\n    secret: twelve bytes\n".into(),
    );
    let text =
        b"InitiatorName=iqn.a:b\0SessionType=Normal\0TargetName=iqn.2026-11.io.snapmark:lab:a\0\
                 HeaderDigest=CRC32C,None\0MaxRecvDataSegmentLength=262144\0InitialR2T=No\0\
                 FirstBurstLength=65536\0MaxBurstLength=0x100000\0ErrorRecoveryLevel=0\0";
    add("iscsi_text", text.into());
    add(
        "iscsi_text",
        b"iqn.2026-11.io.snapmark:lab:a-x41:2026-11-20t21-30-00z".into(),
    );
    for opcode in [0u8, 1, 2, 3, 4, 5, 6, 0x10] {
        let mut header = vec![0; 48];
        (header[0], header[1], header[32]) = (opcode | 0x40, 0x81, 0x2a);
        let with_data = |len: usize, ahs: u8| {
            let mut pdu = header.clone();
            (pdu[4], pdu[7], pdu[16]) = (ahs, len as u8, opcode);
            pdu.resize(48 + usize::from(ahs) * 4 + len.next_multiple_of(4), opcode);
            pdu
        };
        let pdus = [with_data(0, 0), with_data(200, 0), with_data(17, 3)].concat();
        (0..4).for_each(|digests| add("iscsi_stream", [&[digests], &pdus[..]].concat()));
        add("iscsi_header", header);
    }
    for opcode in [0x12u8, 0x2a, 0x5f, 0x88, 0x89, 0x93, 0x9e, 0xa3, 0xc1, 0xc2] {
        add(
            "iscsi_command",
            vec![opcode, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0],
        );
    }
    for line in [
        "snapshot vm1.img,db.img nightly",
        "snapshot vm1.img",
        "delete vm1.img@a",
        "rename vm1.img \"a b.img\"",
        "rollback vm1.img@a --force",
        "clone vm1.img@a vm2.img",
        "resize vm1.img 100GiB",
        "priority vm1.img 200",
        "device add /dev/sdb 1TiB",
        "flush",
        "help",
        "# HELP a b\n# TYPE a counter\na{b=\"c\",d=\"e\\\"\"} 1.5e9\n",
    ] {
        add("control_line", line.into());
    }
    for text in [
        "vm1.img",
        "vm1.img@a",
        "100GiB",
        "1.5T",
        "512",
        "10ms",
        "1h",
        "a*b?c\nabc",
    ] {
        add("words", text.into());
    }
    samples
}

/// A page and its values.
fn sample_page(
    bytes: &[u8],
    page: u64,
    geometry: Geometry,
    add: &mut impl FnMut(&'static str, Vec<u8>),
) {
    let crc = u32::from_le_bytes(*bytes.first_chunk().unwrap());
    for (number, kind) in TreeKind::ALL.into_iter().enumerate() {
        for level in 0..3 {
            let at = PageRef {
                page,
                crc: snapmark::base::Checksum(crc),
            };
            let Ok(decoded) = Page::decode(bytes, at, kind, level, geometry) else {
                continue;
            };
            add("catalog_page", [&[number as u8, level, 0], bytes].concat());
            if let PageBody::Leaf(values) = decoded.body {
                for value in values.chunks(kind.value_len(geometry)) {
                    // Of which of the trees it is, a body finds out.
                    (0..10).for_each(|kind| add("catalog_value", [&[kind, 0], value].concat()));
                }
            }
        }
    }
}

/// A header with a body that checks.
trait WithBody {
    fn filter_body(self, bytes: &[u8]) -> Result<RecordHeader, ()>;
}

impl<E> WithBody for Result<RecordHeader, E> {
    fn filter_body(self, bytes: &[u8]) -> Result<RecordHeader, ()> {
        let header = self.map_err(drop)?;
        header.body(bytes).map(|_| header).map_err(drop)
    }
}

/// One of the samples, or a piece of one, changed in a few places.
fn mutated(samples: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = random.pick(samples).cloned().unwrap_or_default();
    for _ in 0..random.below(6) {
        let at = random.below(bytes.len() as u64) as usize;
        let number = match random.below(6) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << random.below(64),
            3 => (1 << random.below(64)) - 1,
            4 => random.below(300),
            _ => random.next(),
        };
        match random.below(8) {
            0 | 1 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            2 if !bytes.is_empty() => bytes[at] = number as u8,
            3 | 4 => {
                let len = *random.pick(&[2, 4, 8]).unwrap();
                // Fields lie at multiples of their length more often than not.
                let at = at / len * len;
                let end = bytes.len().min(at + len);
                bytes[at..end].copy_from_slice(&number.to_le_bytes()[..end - at]);
            }
            5 => bytes.truncate(at),
            6 => bytes.extend((0..random.below(40)).map(|_| random.next() as u8)),
            _ => {
                let other = random.pick(samples).cloned().unwrap_or_default();
                let from = random.below(other.len() as u64) as usize;
                bytes.truncate(at);
                bytes.extend(&other[from..]);
            }
        }
    }
    bytes
}

#[test]
fn no_bytes_break_a_decoder() {
    let samples = samples();
    if let Some(dir) = std::env::var_os("SNAPMARK_CORPUS") {
        for (body, samples) in &samples {
            let dir = std::path::Path::new(&dir).join(body);
            std::fs::create_dir_all(&dir).unwrap();
            for (number, sample) in samples.iter().enumerate() {
                std::fs::write(dir.join(number.to_string()), sample).unwrap();
            }
        }
    }
    for seed in seeds(1) {
        let mut tried = 0;
        for (name, body) in bodies::ALL {
            let samples = &samples[name];
            assert!(samples.len() > 1, "{name}");
            samples.iter().for_each(|sample| body(sample));
            let mut random = Random(seed ^ name.len() as u64 ^ (tried << 20));
            for number in 0..INPUTS {
                let input = mutated(samples, &mut random);
                let result = std::panic::catch_unwind(|| most_held(|| body(&input)));
                let Ok(held) = result else {
                    panic!("{name}, seed {seed}, input {number}: {}", text::hex(&input));
                };
                let limit = CONSTANT + FACTOR * input.len();
                assert!(
                    held <= limit,
                    "{name}, {seed}, {number}: {held} bytes of memory"
                );
                tried += 1;
            }
        }
        println!("seed {seed}: {tried} inputs, {} bodies", bodies::ALL.len());
    }
}
