//! Giving space back, and filling: UNMAP and WRITE SAME (SBC-3, sections 5.28, 5.41 and 5.42).

use super::Answer;
use super::blocks::{disk, range, within};
use super::cdb::{BLOCK, Blocks, be16, be32, be64};
use super::inquiry::{MAX_RANGES, MAX_SAME, MAX_UNMAP};
use super::opcodes::Op;
use super::sense::{Sense, code};
use super::unit::Unit;
use crate::volume::Extent;

/// Bytes that WRITE SAME writes at a time.
const PIECE: u64 = 1 << 20;

/// UNMAP. All ranges are checked before the first is discarded.
pub(super) fn unmap(unit: &Unit, list: &[u8]) -> Result<Answer, Sense> {
    if list.is_empty() {
        return Ok(Answer::Good);
    }
    if list.len() < 8 {
        return Err(Sense::illegal(code::PARAMETER_LIST_LENGTH));
    }
    let len = usize::from(be16(&list[2..]));
    let descriptors = list[8..].chunks_exact(16).take(len / 16);
    let mut ranges = Vec::new();
    let mut total = 0u64;
    for descriptor in descriptors {
        let blocks = Blocks {
            first: be64(descriptor),
            count: u64::from(be32(&descriptor[8..])),
        };
        total += blocks.count;
        ranges.push(within(unit, blocks)?);
    }
    if ranges.len() > MAX_RANGES as usize || total > u64::from(MAX_UNMAP) {
        return Err(Sense::illegal(code::FIELD_IN_PARAMETERS));
    }
    ranges
        .into_iter()
        .try_for_each(|range| discard(unit, range))?;
    Ok(Answer::Good)
}

fn discard(unit: &Unit, range: Extent) -> Result<(), Sense> {
    if range.len == 0 {
        return Ok(());
    }
    let done = unit.volumes.discard(disk(unit)?, range);
    done.map_err(|error| Sense::of_write(&error))
}

/// WRITE SAME.
pub(super) fn write_same(
    unit: &Unit,
    op: Op,
    cdb: &[u8; 16],
    data: &[u8],
) -> Result<Answer, Sense> {
    let field = Sense::field_in_cdb(if op == Op::WriteSame10 { 7 } else { 10 }, None);
    let extent = range(unit, op, cdb)?;
    if extent.len == 0 || extent.len > MAX_SAME * BLOCK {
        return Err(field);
    }
    // Without data (NDOB) it writes zeros.
    let is_zero = data.iter().all(|byte| *byte == 0);
    if cdb[1] & 0x08 != 0 && is_zero {
        discard(unit, extent)?;
    } else {
        fill(unit, extent, data)?;
    }
    Ok(Answer::Good)
}

fn fill(unit: &Unit, range: Extent, data: &[u8]) -> Result<(), Sense> {
    let len = PIECE.min(range.len) as usize;
    let pattern = match data {
        [] => vec![0; len],
        data => data.iter().copied().cycle().take(len).collect(),
    };
    let mut at = 0;
    while at < range.len {
        let len = PIECE.min(range.len - at);
        let written = unit
            .volumes
            .write(disk(unit)?, range.offset + at, &pattern[..len as usize]);
        written.map_err(|error| Sense::of_write(&error))?;
        at += len;
    }
    Ok(())
}
