//! INQUIRY and its pages (SPC-4, sections 6.6 and 7.8; SBC-3, section 6.6).

use super::cdb::{MAX_BLOCKS, MAX_COMPARE, be16};
use super::sense::Sense;
use super::unit::Unit;

/// Whose product it is: eight characters, as T10 wants it.
const VENDOR: &[u8; 8] = b"SNAPMARK";
/// Blocks that one UNMAP discards at the most, its ranges together: 512 MiB.
pub(super) const MAX_UNMAP: u32 = 1 << 20;
/// Ranges of one UNMAP at the most.
pub(super) const MAX_RANGES: u32 = 256;
/// Blocks that one WRITE SAME writes at the most: 16 MiB.
pub(super) const MAX_SAME: u64 = 32 << 10;
/// The pool's smallest piece, in blocks: 4 KiB.
const GRANULARITY: u32 = 8;
/// What is moved best at a time, in blocks: 256 KiB.
const OPTIMAL: u32 = 512;

/// INQUIRY. `exists` says whether there is a logical unit of the number that was asked for.
pub(super) fn inquiry(unit: &Unit, cdb: &[u8; 16], exists: bool) -> Result<Vec<u8>, Sense> {
    let has_page = cdb[1] & 1 != 0;
    let mut answer = match (has_page, cdb[2]) {
        (false, 0) => standard(unit),
        (false, _) => return Err(Sense::field_in_cdb(2, None)),
        (true, page) => {
            let content = vital_product_data(unit, page).ok_or(Sense::field_in_cdb(2, None))?;
            let mut answer = vec![0, page];
            answer.extend((content.len() as u16).to_be_bytes());
            answer.extend(content);
            answer
        }
    };
    if !exists {
        // "Not capable of having one of this number."
        answer[0] = 0x7f;
    }
    answer.truncate(usize::from(be16(&cdb[3..])));
    Ok(answer)
}

fn standard(unit: &Unit) -> Vec<u8> {
    // A disk; not removable; SPC-4; hierarchical numbers, and this form; command queueing.
    let mut answer = vec![0x00, 0x00, 0x06, 0x12, 0, 0, 0, 0x02];
    answer.extend(VENDOR);
    answer.extend(if unit.is_snapshot() {
        b"Snapshot        "
    } else {
        b"Disk            "
    });
    answer.extend(revision());
    answer.resize(58, 0);
    // SAM-5, iSCSI, SPC-4, SBC-3.
    for version in [0x00a0u16, 0x0960, 0x0460, 0x04c0] {
        answer.extend(version.to_be_bytes());
    }
    answer.resize(96, 0);
    answer[4] = (answer.len() - 5) as u8;
    answer
}

/// The program's version, in four characters.
fn revision() -> [u8; 4] {
    let mut revision = [b' '; 4];
    let version = env!("CARGO_PKG_VERSION").bytes();
    revision
        .iter_mut()
        .zip(version)
        .for_each(|(to, from)| *to = from);
    revision
}

fn vital_product_data(unit: &Unit, page: u8) -> Option<Vec<u8>> {
    Some(match page {
        0x00 => vec![0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2],
        0x80 => serial_number(unit).into_bytes(),
        0x83 => identification(unit),
        0xb0 => block_limits(),
        0xb1 => characteristics(),
        // No threshold; UNMAP, WRITE SAME (16) and (10) discard; what is discarded reads as zeros;
        // thin.
        0xb2 => vec![0, 0xe4, 0x02, 0],
        _ => return None,
    })
}

fn serial_number(unit: &Unit) -> String {
    unit.serial
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn identification(unit: &Unit) -> Vec<u8> {
    let mut page = Vec::new();
    let mut add = |kind: u8, content: &[u8]| {
        // Bit 7 of the second byte: the protocol is told too, as iSCSI's.
        let protocol = if kind & 0x80 != 0 { 0x50 } else { 0x00 };
        let set = match kind & 0x0f {
            0x1 => 0x2,
            0x8 => 0x3,
            _ => 0x1,
        };
        page.extend([protocol | set, kind, 0, content.len() as u8]);
        page.extend_from_slice(content);
    };
    // Of the logical unit: by vendor, and a locally assigned NAA number.
    add(0x01, &[VENDOR, serial_number(unit).as_bytes()].concat());
    let mut number = [0; 8];
    number.copy_from_slice(&unit.serial[..8]);
    number[0] = 0x30 | (number[0] & 0x0f);
    add(0x03, &number);
    // Of the target port: its number, its group, and its name; of the device: its name.
    add(0x94, &[0, 0, 0, 1]);
    let target = unit.target();
    add(0x98, &name(&format!("{target},t,0x0001")));
    add(0xa8, &name(&target));
    page
}

/// A SCSI name string: ended by a zero byte, and a multiple of four long.
fn name(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn block_limits() -> Vec<u8> {
    let mut page = vec![0; 60];
    let mut set =
        |at: usize, bytes: &[u8]| page[at - 4..at - 4 + bytes.len()].copy_from_slice(bytes);
    // WRITE SAME of 0 blocks is none up to the end (WSNZ).
    set(4, &[1, MAX_COMPARE as u8]);
    set(6, &(GRANULARITY as u16).to_be_bytes());
    set(8, &(MAX_BLOCKS as u32).to_be_bytes());
    set(12, &OPTIMAL.to_be_bytes());
    set(16, &(MAX_BLOCKS as u32).to_be_bytes());
    set(20, &MAX_UNMAP.to_be_bytes());
    set(24, &MAX_RANGES.to_be_bytes());
    set(28, &GRANULARITY.to_be_bytes());
    // The alignment is valid: 0.
    set(32, &0x8000_0000u32.to_be_bytes());
    set(36, &MAX_SAME.to_be_bytes());
    page
}

fn characteristics() -> Vec<u8> {
    let mut page = vec![0; 60];
    // Nothing turns.
    page[1] = 1;
    page
}
