//! What there is: READ CAPACITY, GET LBA STATUS (SBC-3, sections 5.12, 5.15 and 5.16), REPORT LUNS.

use super::cdb::{BLOCK, be32, be64};
use super::sense::{Sense, code};
use super::unit::Unit;
use crate::volume::Whence;

/// Descriptors that one GET LBA STATUS answers with, at the most.
const MOST_EXTENTS: usize = 64;

/// The number of blocks; a disk without any has no medium.
pub(super) fn blocks(unit: &Unit) -> Result<u64, Sense> {
    let capacity = unit.capacity().map_err(|error| Sense::of_read(&error))?;
    match capacity / BLOCK {
        0 => Err(Sense::new(super::sense::Key::NotReady, code::NO_MEDIUM)),
        blocks => Ok(blocks),
    }
}

/// READ CAPACITY (10).
pub(super) fn short(unit: &Unit, cdb: &[u8; 16]) -> Result<Vec<u8>, Sense> {
    // An address goes with PMI alone, which is obsolete.
    if be32(&cdb[2..]) != 0 && cdb[8] & 1 == 0 {
        return Err(Sense::field_in_cdb(2, None));
    }
    let last = u32::try_from(blocks(unit)? - 1).unwrap_or(u32::MAX);
    Ok([last.to_be_bytes(), (BLOCK as u32).to_be_bytes()].concat())
}

/// READ CAPACITY (16).
pub(super) fn long(unit: &Unit, cdb: &[u8; 16]) -> Result<Vec<u8>, Sense> {
    if be64(&cdb[2..]) != 0 && cdb[14] & 1 == 0 {
        return Err(Sense::field_in_cdb(2, None));
    }
    let mut answer = vec![0; 32];
    answer[..8].copy_from_slice(&(blocks(unit)? - 1).to_be_bytes());
    answer[8..12].copy_from_slice(&(BLOCK as u32).to_be_bytes());
    // 2^3 logical blocks in a physical one; thin, and what is unmapped reads as zeros.
    answer[13] = 3;
    answer[14] = 0xc0;
    answer.truncate(be32(&cdb[10..]) as usize);
    Ok(answer)
}

/// GET LBA STATUS: which blocks are mapped, from one on.
pub(super) fn status(unit: &Unit, cdb: &[u8; 16]) -> Result<Vec<u8>, Sense> {
    let (first, end) = (be64(&cdb[2..]), blocks(unit)?);
    if first >= end {
        return Err(Sense::illegal(code::OUT_OF_RANGE));
    }
    let room = (be32(&cdb[10..]) as usize).saturating_sub(8) / 16;
    let mut answer = vec![0; 8];
    let mut at = first;
    for _ in 0..room.clamp(1, MOST_EXTENTS) {
        if at >= end {
            break;
        }
        let (is_mapped, until) = extent(unit, at, end)?;
        // A count has four bytes.
        let until = until.min(at + u64::from(u32::MAX));
        answer.extend(at.to_be_bytes());
        answer.extend(((until - at) as u32).to_be_bytes());
        answer.extend([u8::from(!is_mapped), 0, 0, 0]);
        at = until;
    }
    let len = (answer.len() - 4) as u32;
    answer[..4].copy_from_slice(&len.to_be_bytes());
    answer.truncate(be32(&cdb[10..]) as usize);
    Ok(answer)
}

/// Whether a block is mapped, and up to which it is the same.
fn extent(unit: &Unit, at: u64, end: u64) -> Result<(bool, u64), Sense> {
    let seek = |whence| {
        let found = unit.volumes.seek(unit.node, at * BLOCK, whence);
        let found = found.map_err(|error| Sense::of_read(&error))?;
        Ok::<_, Sense>(found.unwrap_or(end * BLOCK))
    };
    let data = seek(Whence::Data)?;
    Ok(if data / BLOCK <= at {
        (true, seek(Whence::Hole)?.div_ceil(BLOCK).clamp(at + 1, end))
    } else {
        (false, (data / BLOCK).clamp(at + 1, end))
    })
}

/// REPORT LUNS: there is one, 0.
pub(super) fn luns(cdb: &[u8; 16]) -> Result<Vec<u8>, Sense> {
    let mut answer = vec![0; 8];
    match cdb[2] {
        // All, but for those that are well known; or both.
        0 | 2 => answer.extend([0; 8]),
        1 => {}
        _ => return Err(Sense::field_in_cdb(2, None)),
    }
    let len = (answer.len() - 8) as u32;
    answer[..4].copy_from_slice(&len.to_be_bytes());
    answer.truncate(be32(&cdb[6..]) as usize);
    Ok(answer)
}
