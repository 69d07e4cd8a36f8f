//! Blocks of data: reading, writing, comparing (SBC-3, section 5).

use super::Answer;
use super::cdb::{BLOCK, Blocks, Verify, verification};
use super::opcodes::Op;
use super::sense::{Key, Sense, code};
use super::unit::Unit;
use crate::base::DiskId;
use crate::volume::{Extent, Node};

/// Bytes that are compared or written at a time.
const PIECE: u64 = 256 << 10;
/// Bytes that one command prefetches at the most.
const MOST_PREFETCHED: u64 = 32 << 20;

/// The range of a command, checked against the capacity.
pub(super) fn range(unit: &Unit, op: Op, cdb: &[u8; 16]) -> Result<Extent, Sense> {
    let blocks = Blocks::of(op, cdb).ok_or(Sense::illegal(code::OPCODE))?;
    within(unit, blocks)
}

/// The same, for blocks that do not stand in the command.
pub(super) fn within(unit: &Unit, blocks: Blocks) -> Result<Extent, Sense> {
    let all = super::capacity::blocks(unit)?;
    let end = blocks.first.checked_add(blocks.count);
    if end.is_none_or(|end| end > all) {
        let mut sense = Sense::illegal(code::OUT_OF_RANGE);
        sense.information = Some(blocks.first.max(all));
        return Err(sense);
    }
    let (offset, len) = blocks.bytes();
    Ok(Extent { offset, len })
}

/// The disk behind a logical unit that can be written.
pub(super) fn disk(unit: &Unit) -> Result<DiskId, Sense> {
    match unit.node {
        Node::Disk(id) => Ok(id),
        Node::Snapshot(_) => Err(Sense::new(Key::DataProtect, code::WRITE_PROTECTED)),
    }
}

/// READ: what is read goes into the answer by pieces.
pub(super) fn read(unit: &Unit, op: Op, cdb: &[u8; 16]) -> Result<Answer, Sense> {
    let range = range(unit, op, cdb)?;
    if op.forces(cdb) && !unit.is_snapshot() {
        // What is read with FUA comes from the medium: so it has to be there.
        sync(unit)?;
    }
    Ok(Answer::Read(range))
}

/// WRITE. Of data that is short, as much as there is.
pub(super) fn write(unit: &Unit, op: Op, cdb: &[u8; 16], data: &[u8]) -> Result<Answer, Sense> {
    let range = range(unit, op, cdb)?;
    put(unit, range.offset, data)?;
    if op.forces(cdb) {
        sync(unit)?;
    }
    Ok(Answer::Good)
}

fn put(unit: &Unit, offset: u64, data: &[u8]) -> Result<(), Sense> {
    if data.is_empty() {
        return Ok(());
    }
    let written = unit.volumes.write(disk(unit)?, offset, data);
    written.map_err(|error| Sense::of_write(&error))
}

/// PRE-FETCH: the host begins to read what lies on devices. It is answered before that is done, and with
/// GOOD: CONDITION MET would promise that all of it is in memory.
pub(super) fn prefetch(unit: &Unit, op: Op, cdb: &[u8; 16]) -> Result<Answer, Sense> {
    let range = range(unit, op, cdb)?;
    // 0 stands for all that follows.
    let len = if range.len == 0 { u64::MAX } else { range.len };
    let range = Extent {
        len: len.min(MOST_PREFETCHED),
        ..range
    };
    let begun = unit.volumes.prefetch(unit.node, range);
    begun.map_err(|error| Sense::of_read(&error))?;
    Ok(Answer::Good)
}

/// WRITE AND VERIFY: durable when it returns, and read back.
pub(super) fn write_and_verify(
    unit: &Unit,
    op: Op,
    cdb: &[u8; 16],
    data: &[u8],
) -> Result<Answer, Sense> {
    if verification(cdb)? == Verify::CompareOne {
        return Err(Sense::field_in_cdb(1, Some(2)));
    }
    let range = range(unit, op, cdb)?;
    put(unit, range.offset, data)?;
    sync(unit)?;
    compare(unit, range.offset, data)?;
    Ok(Answer::Good)
}

/// VERIFY.
pub(super) fn verify(unit: &Unit, op: Op, cdb: &[u8; 16], data: &[u8]) -> Result<Answer, Sense> {
    let range = range(unit, op, cdb)?;
    match verification(cdb)? {
        Verify::Medium => read_all(unit, range)?,
        Verify::Compare => compare(unit, range.offset, data)?,
        Verify::CompareOne => {
            for at in (0..range.len).step_by(BLOCK as usize) {
                compare(unit, range.offset + at, data).map_err(|sense| further(sense, at))?;
            }
        }
    }
    Ok(Answer::Good)
}

fn read_all(unit: &Unit, range: Extent) -> Result<(), Sense> {
    let mut buffer = vec![0; PIECE.min(range.len) as usize];
    let mut at = 0;
    while at < range.len {
        let len = PIECE.min(range.len - at) as usize;
        get(unit, range.offset + at, &mut buffer[..len])?;
        at += len as u64;
    }
    Ok(())
}

/// Reads all of it; past the end there are zeros.
pub fn get(unit: &Unit, offset: u64, to: &mut [u8]) -> Result<(), Sense> {
    let got = unit.volumes.read(unit.node, offset, to);
    let got = got.map_err(|error| Sense::of_read(&error))?;
    // The disk may have become smaller meanwhile.
    to[got..].fill(0);
    Ok(())
}

fn compare(unit: &Unit, offset: u64, data: &[u8]) -> Result<(), Sense> {
    let mut buffer = vec![0; data.len().min(PIECE as usize)];
    for (n, piece) in data.chunks(PIECE as usize).enumerate() {
        let at = n as u64 * PIECE;
        let found = &mut buffer[..piece.len()];
        get(unit, offset + at, found)?;
        if let Some(differs) = found.iter().zip(piece).position(|(a, b)| a != b) {
            return Err(Sense::miscompare(at + differs as u64));
        }
    }
    Ok(())
}

fn further(sense: Sense, by: u64) -> Sense {
    Sense {
        information: sense.information.map(|at| at + by),
        ..sense
    }
}

/// COMPARE AND WRITE: atomic among all that write the disk, through whatever frontend.
pub(super) fn compare_and_write(unit: &Unit, cdb: &[u8; 16], data: &[u8]) -> Result<Answer, Sense> {
    let range = range(unit, Op::CompareAndWrite, cdb)?;
    let (expected, new) = data.split_at(range.len as usize);
    if expected.is_empty() {
        return Ok(Answer::Good);
    }
    let done = unit
        .volumes
        .compare_and_write(disk(unit)?, range.offset, expected, new);
    if let Some(differs) = done.map_err(|error| Sense::of_write(&error))? {
        return Err(Sense::miscompare(differs as u64));
    }
    if Op::CompareAndWrite.forces(cdb) {
        // It is written: sent again, it would be compared with what it wrote itself.
        sync(unit).map_err(Sense::or_final)?;
    }
    Ok(Answer::Good)
}

/// SYNCHRONIZE CACHE: everything, whatever range it names.
pub(super) fn synchronize(unit: &Unit, op: Op, cdb: &[u8; 16]) -> Result<Answer, Sense> {
    range(unit, op, cdb)?;
    if !unit.is_snapshot() {
        sync(unit)?;
    }
    Ok(Answer::Good)
}

pub(super) fn sync(unit: &Unit) -> Result<(), Sense> {
    unit.volumes.sync().map_err(|error| Sense::of_write(&error))
}
