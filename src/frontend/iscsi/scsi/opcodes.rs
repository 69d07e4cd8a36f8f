//! All commands in one table: what is checked of each before it is done, and what REPORT SUPPORTED
//! OPERATION CODES tells (SPC-4, section 6.35).

use super::cdb::{be16, be32};
use super::sense::Sense;

/// What a command does to those who share a logical unit: which reservations keep it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing; it is let in always.
    Any,
    /// It asks for the state. Kept out by RESERVE alone.
    State,
    /// It reads.
    Reads,
    /// It changes what others read.
    Writes,
    /// As `Writes`, but no data changes: a read-only logical unit does it too.
    Manages,
}

/// One command.
#[derive(Debug)]
pub struct Row {
    /// The command.
    pub op: Op,
    /// The first byte.
    pub opcode: u8,
    /// The service action, where the opcode has such.
    pub action: Option<u16>,
    /// Who is kept out.
    pub access: Access,
    /// The bits of each byte that may be set; as many bytes as the command has.
    pub usage: &'static [u8],
}

/// The commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are the standards' names")]
pub enum Op {
    TestUnitReady,
    RequestSense,
    Inquiry,
    ReportLuns,
    ReportOpcodes,
    ModeSelect6,
    ModeSelect10,
    ModeSense6,
    ModeSense10,
    Reserve,
    Release,
    ReserveIn,
    ReserveOut,
    StartStop,
    ReadCapacity10,
    ReadCapacity16,
    LbaStatus,
    Read6,
    Read10,
    Read12,
    Read16,
    Write6,
    Write10,
    Write12,
    Write16,
    WriteVerify10,
    WriteVerify12,
    WriteVerify16,
    Verify10,
    Verify12,
    Verify16,
    CompareAndWrite,
    SyncCache10,
    SyncCache16,
    Prefetch10,
    Prefetch16,
    Unmap,
    WriteSame10,
    WriteSame16,
    Snapshot6,
    Snapshot10,
    Snapshot12,
}

impl Op {
    /// Whether what it moves has to be durable first (FUA), where it reads or writes blocks; the forms with
    /// six bytes have none.
    pub fn forces(self, cdb: &[u8; 16]) -> bool {
        !matches!(self, Self::Read6 | Self::Write6) && cdb[1] & 0x08 != 0
    }
}

const fn row(op: Op, opcode: u8, access: Access, usage: &'static [u8]) -> Row {
    Row {
        op,
        opcode,
        action: None,
        access,
        usage,
    }
}

const fn action(op: Op, opcode: u8, action: u16, access: Access, usage: &'static [u8]) -> Row {
    Row {
        action: Some(action),
        ..row(op, opcode, access, usage)
    }
}

use Access::{Any, Manages, Reads, State, Writes};

/// A whole byte, and the group number's bits.
const F: u8 = 0xff;
const GROUP: u8 = 0x1f;
/// DPO and FUA.
const CACHE: u8 = 0x18;

/// The table, in the order of opcodes.
pub static ROWS: [Row; 53] = [
    row(Op::TestUnitReady, 0x00, State, &[0x00, 0, 0, 0, 0, 0]),
    row(Op::RequestSense, 0x03, Any, &[0x03, 0x01, 0, 0, F, 0]),
    row(Op::Read6, 0x08, Reads, &[0x08, 0x1f, F, F, F, 0]),
    row(Op::Write6, 0x0a, Writes, &[0x0a, 0x1f, F, F, F, 0]),
    row(Op::Inquiry, 0x12, Any, &[0x12, 0x01, F, F, F, 0]),
    row(Op::ModeSelect6, 0x15, Manages, &[0x15, 0x11, 0, 0, F, 0]),
    row(Op::Reserve, 0x16, Manages, &[0x16, 0, 0, 0, 0, 0]),
    row(Op::Release, 0x17, Any, &[0x17, 0, 0, 0, 0, 0]),
    row(Op::ModeSense6, 0x1a, Reads, &[0x1a, 0x08, F, F, F, 0]),
    row(Op::StartStop, 0x1b, Manages, &[0x1b, 0x01, 0, 0, 0x01, 0]),
    row(
        Op::ReadCapacity10,
        0x25,
        State,
        &[0x25, 0, F, F, F, F, 0, 0, 0x01, 0],
    ),
    row(
        Op::Read10,
        0x28,
        Reads,
        &[0x28, CACHE, F, F, F, F, GROUP, F, F, 0],
    ),
    row(
        Op::Write10,
        0x2a,
        Writes,
        &[0x2a, CACHE, F, F, F, F, GROUP, F, F, 0],
    ),
    row(
        Op::WriteVerify10,
        0x2e,
        Writes,
        &[0x2e, 0x12, F, F, F, F, GROUP, F, F, 0],
    ),
    row(
        Op::Verify10,
        0x2f,
        Reads,
        &[0x2f, 0x16, F, F, F, F, GROUP, F, F, 0],
    ),
    row(
        Op::Prefetch10,
        0x34,
        Reads,
        &[0x34, 0x02, F, F, F, F, GROUP, F, F, 0],
    ),
    row(
        Op::SyncCache10,
        0x35,
        Manages,
        &[0x35, 0x06, F, F, F, F, GROUP, F, F, 0],
    ),
    row(
        Op::WriteSame10,
        0x41,
        Writes,
        &[0x41, 0x08, F, F, F, F, GROUP, F, F, 0],
    ),
    row(
        Op::Unmap,
        0x42,
        Writes,
        &[0x42, 0, 0, 0, 0, 0, GROUP, F, F, 0],
    ),
    row(
        Op::ModeSelect10,
        0x55,
        Manages,
        &[0x55, 0x11, 0, 0, 0, 0, 0, F, F, 0],
    ),
    row(
        Op::Reserve,
        0x56,
        Manages,
        &[0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ),
    row(Op::Release, 0x57, Any, &[0x57, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    row(
        Op::ModeSense10,
        0x5a,
        Reads,
        &[0x5a, 0x18, F, F, 0, 0, 0, F, F, 0],
    ),
    action(
        Op::ReserveIn,
        0x5e,
        0,
        Any,
        &[0x5e, 0x1f, 0, 0, 0, 0, 0, F, F, 0],
    ),
    action(
        Op::ReserveIn,
        0x5e,
        1,
        Any,
        &[0x5e, 0x1f, 0, 0, 0, 0, 0, F, F, 0],
    ),
    action(
        Op::ReserveIn,
        0x5e,
        2,
        Any,
        &[0x5e, 0x1f, 0, 0, 0, 0, 0, F, F, 0],
    ),
    action(
        Op::ReserveIn,
        0x5e,
        3,
        Any,
        &[0x5e, 0x1f, 0, 0, 0, 0, 0, F, F, 0],
    ),
    action(
        Op::ReserveOut,
        0x5f,
        0,
        Any,
        &[0x5f, 0x1f, F, 0, 0, F, F, F, F, 0],
    ),
    action(
        Op::ReserveOut,
        0x5f,
        1,
        Any,
        &[0x5f, 0x1f, F, 0, 0, F, F, F, F, 0],
    ),
    action(
        Op::ReserveOut,
        0x5f,
        2,
        Any,
        &[0x5f, 0x1f, F, 0, 0, F, F, F, F, 0],
    ),
    action(
        Op::ReserveOut,
        0x5f,
        3,
        Any,
        &[0x5f, 0x1f, F, 0, 0, F, F, F, F, 0],
    ),
    action(
        Op::ReserveOut,
        0x5f,
        4,
        Any,
        &[0x5f, 0x1f, F, 0, 0, F, F, F, F, 0],
    ),
    action(
        Op::ReserveOut,
        0x5f,
        5,
        Any,
        &[0x5f, 0x1f, F, 0, 0, F, F, F, F, 0],
    ),
    action(
        Op::ReserveOut,
        0x5f,
        6,
        Any,
        &[0x5f, 0x1f, F, 0, 0, F, F, F, F, 0],
    ),
    row(
        Op::Read16,
        0x88,
        Reads,
        &[0x88, CACHE, F, F, F, F, F, F, F, F, F, F, F, F, GROUP, 0],
    ),
    row(
        Op::CompareAndWrite,
        0x89,
        Writes,
        &[0x89, CACHE, F, F, F, F, F, F, F, F, 0, 0, 0, F, GROUP, 0],
    ),
    row(
        Op::Write16,
        0x8a,
        Writes,
        &[0x8a, CACHE, F, F, F, F, F, F, F, F, F, F, F, F, GROUP, 0],
    ),
    row(
        Op::WriteVerify16,
        0x8e,
        Writes,
        &[0x8e, 0x12, F, F, F, F, F, F, F, F, F, F, F, F, GROUP, 0],
    ),
    row(
        Op::Verify16,
        0x8f,
        Reads,
        &[0x8f, 0x16, F, F, F, F, F, F, F, F, F, F, F, F, GROUP, 0],
    ),
    row(
        Op::Prefetch16,
        0x90,
        Reads,
        &[0x90, 0x02, F, F, F, F, F, F, F, F, F, F, F, F, GROUP, 0],
    ),
    row(
        Op::SyncCache16,
        0x91,
        Manages,
        &[0x91, 0x06, F, F, F, F, F, F, F, F, F, F, F, F, GROUP, 0],
    ),
    row(
        Op::WriteSame16,
        0x93,
        Writes,
        &[0x93, 0x09, F, F, F, F, F, F, F, F, F, F, F, F, GROUP, 0],
    ),
    action(
        Op::ReadCapacity16,
        0x9e,
        0x10,
        State,
        &[0x9e, 0x1f, F, F, F, F, F, F, F, F, F, F, F, F, 0x01, 0],
    ),
    action(
        Op::LbaStatus,
        0x9e,
        0x12,
        Reads,
        &[0x9e, 0x1f, F, F, F, F, F, F, F, F, F, F, F, F, F, 0],
    ),
    row(
        Op::ReportLuns,
        0xa0,
        Any,
        &[0xa0, 0, F, 0, 0, 0, F, F, F, F, 0, 0],
    ),
    action(
        Op::ReportOpcodes,
        0xa3,
        0x0c,
        Any,
        &[0xa3, 0x1f, 0x87, F, F, F, F, F, F, F, 0, 0],
    ),
    row(
        Op::Read12,
        0xa8,
        Reads,
        &[0xa8, CACHE, F, F, F, F, F, F, F, F, GROUP, 0],
    ),
    row(
        Op::Write12,
        0xaa,
        Writes,
        &[0xaa, CACHE, F, F, F, F, F, F, F, F, GROUP, 0],
    ),
    row(
        Op::WriteVerify12,
        0xae,
        Writes,
        &[0xae, 0x12, F, F, F, F, F, F, F, F, GROUP, 0],
    ),
    row(
        Op::Verify12,
        0xaf,
        Reads,
        &[0xaf, 0x16, F, F, F, F, F, F, F, F, GROUP, 0],
    ),
    row(Op::Snapshot6, 0xc0, Manages, &[0xc0, 0, 0, 0, 0, 0]),
    row(
        Op::Snapshot10,
        0xc1,
        Manages,
        &[0xc1, 0x03, 0, 0, 0, 0, 0, F, F, 0],
    ),
    row(
        Op::Snapshot12,
        0xc2,
        Manages,
        &[0xc2, 0x03, 0, 0, 0, 0, F, F, F, F, 0, 0],
    ),
];

/// The service action of a command whose opcode has such.
fn action_of(cdb: &[u8; 16]) -> u16 {
    u16::from(cdb[1] & 0x1f)
}

/// The row of a command.
///
/// # Errors
/// Where there is no such command, or a bit is set that must not be.
pub fn find(cdb: &[u8; 16]) -> Result<&'static Row, Sense> {
    let mut found = of_opcode(cdb[0]).peekable();
    if found.peek().is_none() {
        return Err(Sense::illegal(super::sense::code::OPCODE));
    }
    let row = found.find(|row| row.action.is_none_or(|action| action == action_of(cdb)));
    let row = row.ok_or_else(|| Sense::field_in_cdb(1, Some(4)))?;
    for (at, (have, may)) in cdb.iter().zip(row.usage).enumerate().skip(1) {
        let bad = have & !may;
        if bad != 0 {
            return Err(Sense::field_in_cdb(at as u16, Some(bad.ilog2() as u8)));
        }
    }
    Ok(row)
}

fn of_opcode(opcode: u8) -> impl Iterator<Item = &'static Row> {
    ROWS.iter().filter(move |row| row.opcode == opcode)
}

/// REPORT SUPPORTED OPERATION CODES.
pub(super) fn report(cdb: &[u8; 16]) -> Result<Vec<u8>, Sense> {
    let with_timeouts = cdb[2] & 0x80 != 0;
    let (opcode, action) = (cdb[3], be16(&cdb[4..]));
    let allocation = be32(&cdb[6..]) as usize;
    let mut answer = match cdb[2] & 7 {
        0 => all(with_timeouts),
        1 => {
            if of_opcode(opcode).any(|row| row.action.is_some()) {
                return Err(Sense::field_in_cdb(2, Some(2)));
            }
            one(of_opcode(opcode).next(), with_timeouts)
        }
        2 => {
            if of_opcode(opcode).any(|row| row.action.is_none()) {
                return Err(Sense::field_in_cdb(2, Some(2)));
            }
            one(
                of_opcode(opcode).find(|row| row.action == Some(action)),
                with_timeouts,
            )
        }
        // Either, whatever the opcode has.
        3 => {
            let fits = |row: &&Row| row.action.unwrap_or(0) == action;
            one(of_opcode(opcode).find(fits), with_timeouts)
        }
        _ => return Err(Sense::field_in_cdb(2, Some(2))),
    };
    answer.truncate(allocation);
    Ok(answer)
}

/// A timeouts descriptor: none is known.
const TIMEOUTS: [u8; 12] = [0, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn all(with_timeouts: bool) -> Vec<u8> {
    let mut answer = vec![0; 4];
    for row in &ROWS {
        let flags = u8::from(row.action.is_some()) | if with_timeouts { 2 } else { 0 };
        answer.extend([row.opcode, 0]);
        answer.extend(row.action.unwrap_or(0).to_be_bytes());
        answer.extend([0, flags]);
        answer.extend((row.usage.len() as u16).to_be_bytes());
        if with_timeouts {
            answer.extend(TIMEOUTS);
        }
    }
    let len = (answer.len() - 4) as u32;
    answer[..4].copy_from_slice(&len.to_be_bytes());
    answer
}

fn one(row: Option<&Row>, with_timeouts: bool) -> Vec<u8> {
    let Some(row) = row else {
        // "Not supported", and no command descriptor block.
        return vec![0, 1, 0, 0];
    };
    let timeouts = if with_timeouts { 0x80 } else { 0 };
    // "Supported, in conformance with a standard", or "in a vendor-specific manner".
    let support = if row.opcode >= 0xc0 { 5 } else { 3 };
    let mut answer = vec![0, timeouts | support];
    answer.extend((row.usage.len() as u16).to_be_bytes());
    let at = answer.len();
    answer.extend_from_slice(row.usage);
    if let Some(action) = row.action {
        answer[at + 1] = (answer[at + 1] & !0x1f) | action as u8;
    }
    if with_timeouts {
        answer.extend(TIMEOUTS);
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cdb(bytes: &[u8]) -> [u8; 16] {
        let mut cdb = [0; 16];
        cdb[..bytes.len()].copy_from_slice(bytes);
        cdb
    }

    #[test]
    fn the_table_is_in_order_and_says_its_opcodes() {
        for row in &ROWS {
            assert_eq!(row.usage[0], row.opcode, "{row:?}");
            assert!([6, 10, 12, 16].contains(&row.usage.len()), "{row:?}");
            assert_eq!(row.usage[row.usage.len() - 1], 0, "control: {row:?}");
        }
        let key = |row: &Row| (row.opcode, row.action);
        assert!(ROWS.windows(2).all(|pair| key(&pair[0]) < key(&pair[1])));
    }

    #[test]
    fn a_bit_that_must_not_be_set_is_pointed_at() {
        assert!(find(&cdb(&[0x28, 0x18, 0, 0, 0, 0, 0, 0, 1, 0])).is_ok());
        let protected = find(&cdb(&[0x28, 0x20])).unwrap_err();
        assert_eq!(protected, Sense::field_in_cdb(1, Some(5)));
        let control = find(&cdb(&[0x00, 0, 0, 0, 0, 0x04])).unwrap_err();
        assert_eq!(control, Sense::field_in_cdb(5, Some(2)));
        assert_eq!(
            find(&cdb(&[0x9e, 0x11])).unwrap_err(),
            Sense::field_in_cdb(1, Some(4))
        );
        assert_eq!(find(&cdb(&[0xd0])).unwrap_err().code, (0x20, 0));
    }

    #[test]
    fn each_command_can_be_asked_for() {
        let all = report(&cdb(&[0xa3, 0x0c, 0, 0, 0, 0, 0, 0, F, F])).unwrap();
        assert_eq!(all.len(), 4 + 8 * ROWS.len());
        let one = report(&cdb(&[0xa3, 0x0c, 2, 0x9e, 0, 0x10, 0, 0, F, F])).unwrap();
        assert_eq!(one[..6], [0, 3, 0, 16, 0x9e, 0x10]);
        let ours = report(&cdb(&[0xa3, 0x0c, 0x81, 0xc1, 0, 0, 0, 0, F, F])).unwrap();
        assert_eq!((ours[1], ours.len()), (0x85, 4 + 10 + 12));
        let none = report(&cdb(&[0xa3, 0x0c, 1, 0xd0, 0, 0, 0, 0, F, F])).unwrap();
        assert_eq!(none, [0, 1, 0, 0]);
        assert!(report(&cdb(&[0xa3, 0x0c, 1, 0x9e, 0, 0x10, 0, 0, F, F])).is_err());
        assert!(report(&cdb(&[0xa3, 0x0c, 2, 0x28, 0, 0, 0, 0, F, F])).is_err());
    }
}
