//! SCSI commands over disks and snapshots (SAM-5, SPC-4, SBC-3): what each means, whatever carries it.

mod blocks;
mod capacity;
mod cdb;
mod inquiry;
mod mode;
mod nexus;
mod opcodes;
mod reservations;
mod sense;
mod snapshot;
mod thin;
mod unit;

pub(super) use blocks::get;
pub(super) use nexus::Nexus;
pub(super) use sense::{Sense, code};
pub use snapshot::snapshot_cdb;
pub(super) use unit::Unit;

use std::sync::atomic::Ordering::Relaxed;

use crate::volume::{Extent, Node};
use opcodes::{Access, Op, Row};
use sense::Key;

/// What a command came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is done.
    Good,
    /// It is done, and these are its data.
    Data(Vec<u8>),
    /// It is done, and its data are to be read from here.
    Read(Extent),
    /// It is not done.
    Check(Sense),
    /// A reservation keeps it out.
    Conflict,
    /// It is not done, and is to be sent again.
    Busy,
}

/// A command that has been looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prepared {
    row: &'static Row,
    /// Bytes of data that it takes.
    pub data_out: u64,
}

impl Prepared {
    fn op(&self) -> Op {
        self.row.op
    }

    /// Whether it reads blocks, and does nothing else.
    pub fn is_read(&self) -> bool {
        matches!(
            self.row.op,
            Op::Read6 | Op::Read10 | Op::Read12 | Op::Read16
        )
    }

    /// Whether it writes blocks.
    pub fn is_write(&self) -> bool {
        matches!(
            self.row.op,
            Op::Write6 | Op::Write10 | Op::Write12 | Op::Write16
        )
    }

    /// Whether it wants space for what it brings; what discards gives space back.
    pub fn brings_data(&self, cdb: &[u8; 16]) -> bool {
        let discards = match self.row.op {
            Op::Unmap => true,
            Op::WriteSame10 | Op::WriteSame16 => cdb[1] & 0x08 != 0,
            _ => false,
        };
        self.row.access == Access::Writes && !discards
    }

    /// Whether it only makes what was written durable.
    pub fn is_sync(&self) -> bool {
        matches!(self.row.op, Op::SyncCache10 | Op::SyncCache16)
    }

    /// Whether what it moves has to be durable first (FUA).
    pub fn forces(&self, cdb: &[u8; 16]) -> bool {
        self.row.op.forces(cdb)
    }

    /// Whether it takes no longer than an answer does: nothing of it waits for a device.
    pub fn is_quick(&self) -> bool {
        use Op::{
            Inquiry, ModeSelect6, ModeSelect10, ModeSense6, ModeSense10, ReadCapacity10,
            ReadCapacity16, Release, ReportLuns, ReportOpcodes, RequestSense, Reserve, ReserveIn,
            StartStop, TestUnitReady,
        };
        matches!(
            self.row.op,
            Inquiry
                | ModeSelect6
                | ModeSelect10
                | ModeSense6
                | ModeSense10
                | ReadCapacity10
                | ReadCapacity16
                | Release
                | ReportLuns
                | ReportOpcodes
                | RequestSense
                | Reserve
                | ReserveIn
                | StartStop
                | TestUnitReady
        )
    }

    /// Whether so much data will do, where it wants another amount: of less, writes write what there is
    /// (compare FCP-4, section 9.4.3), and of more than their lengths say all take what they want, but for
    /// those two whose lengths the data themselves are to confirm.
    fn takes(&self, sent: u64) -> bool {
        use Op::{
            CompareAndWrite, WriteSame10, WriteSame16, WriteVerify10, WriteVerify12, WriteVerify16,
        };
        match self.row.op {
            CompareAndWrite | WriteSame10 | WriteSame16 => sent == self.data_out,
            WriteVerify10 | WriteVerify12 | WriteVerify16 => true,
            _ => self.is_write() || sent >= self.data_out,
        }
    }
}

/// Looks at a command before its data come.
///
/// # Errors
/// Where there is no such command.
pub(super) fn prepare(cdb: &[u8; 16]) -> Result<Prepared, Sense> {
    let row = opcodes::find(cdb)?;
    let data_out = cdb::data_out(row.op, cdb)?;
    Ok(Prepared { row, data_out })
}

/// What is around a command.
pub(super) struct Scene<'a> {
    /// The logical unit of its target.
    pub unit: &'a Unit,
    /// Who sent it.
    pub nexus: &'a Nexus,
    /// Whether the logical unit number is that of the unit.
    pub is_unit: bool,
    /// Bytes that it announced as data of the command.
    pub sent: u64,
    /// The disks that an initiator has sessions with; nothing where a reservation keeps it from one of them.
    pub disks_of: &'a dyn Fn(&str) -> Option<Vec<Node>>,
    /// Gives up what a port has under way.
    pub abort: &'a dyn Fn(&str),
}

/// Does a command.
pub(super) fn execute(
    scene: &Scene<'_>,
    prepared: Result<&Prepared, &Sense>,
    cdb: &[u8; 16],
    data: &[u8],
) -> Answer {
    match run(scene, prepared, cdb, data) {
        Ok(answer) => answer,
        // The status that says the same has initiators send it again that take the sense for a failure,
        // as QEMU's does.
        Err(sense) if sense.code == code::SPACE_COMES => Answer::Busy,
        Err(sense) => Answer::Check(sense),
    }
}

fn run(
    scene: &Scene<'_>,
    prepared: Result<&Prepared, &Sense>,
    cdb: &[u8; 16],
    data: &[u8],
) -> Result<Answer, Sense> {
    let (unit, nexus) = (scene.unit, scene.nexus);
    let op = prepared.ok().map(Prepared::op);
    // These three are let through whatever there is to tell.
    match op {
        Some(Op::Inquiry) => return inquiry::inquiry(unit, cdb, scene.is_unit).map(Answer::Data),
        Some(Op::ReportLuns) => return capacity::luns(cdb).map(Answer::Data),
        Some(Op::RequestSense) => return Ok(request_sense(scene, cdb)),
        _ if !scene.is_unit => return Err(Sense::illegal(code::NO_UNIT)),
        _ => {}
    }
    attend(unit, nexus)?;
    let prepared = prepared.map_err(Clone::clone)?;
    let access = prepared.row.access;
    if unit.reservations.lock().conflict(&nexus.port, access) {
        return Ok(Answer::Conflict);
    }
    if access == Access::Writes {
        may_write(unit)?;
    }
    if !prepared.takes(scene.sent) {
        // Its data are more likely right than its number of blocks, which has but one byte.
        return Err(match prepared.op() {
            Op::CompareAndWrite => Sense::field_in_cdb(13, None),
            _ => Sense::illegal(code::COMMAND_UNIT),
        });
    }
    perform(scene, prepared.op(), cdb, data)
}

/// Whatever the initiator has yet to be told comes first.
fn attend(unit: &Unit, nexus: &Nexus) -> Result<(), Sense> {
    match next_attention(unit, nexus) {
        Some(code) => Err(Sense::new(Key::UnitAttention, code)),
        None => Ok(()),
    }
}

fn next_attention(unit: &Unit, nexus: &Nexus) -> Option<(u8, u8)> {
    if let Ok(capacity) = unit.capacity()
        && nexus.has_new_capacity(capacity)
    {
        nexus.attend(code::CAPACITY_CHANGED);
    }
    nexus.next_attention()
}

fn may_write(unit: &Unit) -> Result<(), Sense> {
    if unit.is_snapshot() {
        return Err(Sense::new(Key::DataProtect, code::WRITE_PROTECTED));
    }
    if unit.software_protected.load(Relaxed) {
        return Err(Sense::new(Key::DataProtect, code::SOFTWARE_WRITE_PROTECTED));
    }
    Ok(())
}

fn request_sense(scene: &Scene<'_>, cdb: &[u8; 16]) -> Answer {
    let sense = if scene.is_unit {
        match next_attention(scene.unit, scene.nexus) {
            Some(code) => Sense::new(Key::UnitAttention, code),
            None => Sense::new(Key::NoSense, (0, 0)),
        }
    } else {
        Sense::illegal(code::NO_UNIT)
    };
    let mut bytes = if cdb[1] & 1 != 0 {
        sense.descriptors()
    } else {
        sense.fixed()
    };
    bytes.truncate(usize::from(cdb[4]));
    Answer::Data(bytes)
}

fn perform(scene: &Scene<'_>, op: Op, cdb: &[u8; 16], data: &[u8]) -> Result<Answer, Sense> {
    let (unit, nexus) = (scene.unit, scene.nexus);
    match op {
        Op::TestUnitReady => capacity::blocks(unit).map(|_| Answer::Good),
        // It is started always. One initiator can't stop it for all others, so it is not said to be stopped.
        Op::StartStop if cdb[4] & 1 == 0 => Err(Sense::field_in_cdb(4, Some(0))),
        Op::StartStop => capacity::blocks(unit).map(|_| Answer::Good),
        Op::Inquiry | Op::ReportLuns | Op::RequestSense => Err(Sense::illegal(code::OPCODE)),
        Op::ReportOpcodes => opcodes::report(cdb).map(Answer::Data),
        Op::ModeSelect6 => Ok(mode::select(unit, nexus, cdb, data, false)),
        Op::ModeSelect10 => Ok(mode::select(unit, nexus, cdb, data, true)),
        Op::ModeSense6 => mode::sense(unit, cdb, false).map(Answer::Data),
        Op::ModeSense10 => mode::sense(unit, cdb, true).map(Answer::Data),
        Op::Reserve => Ok(reservations::reserve(unit, nexus)),
        Op::Release => Ok(reservations::release(unit, nexus)),
        Op::ReserveIn => Ok(reservations::report(unit, cdb)),
        Op::ReserveOut => Ok(reservations::change(unit, nexus, cdb, data, scene.abort)),
        Op::ReadCapacity10 => capacity::short(unit, cdb).map(Answer::Data),
        Op::ReadCapacity16 => capacity::long(unit, cdb).map(Answer::Data),
        Op::LbaStatus => capacity::status(unit, cdb).map(Answer::Data),
        Op::Read6 | Op::Read10 | Op::Read12 | Op::Read16 => blocks::read(unit, op, cdb),
        Op::Write6 | Op::Write10 | Op::Write12 | Op::Write16 => blocks::write(unit, op, cdb, data),
        Op::WriteVerify10 | Op::WriteVerify12 | Op::WriteVerify16 => {
            blocks::write_and_verify(unit, op, cdb, data)
        }
        Op::Verify10 | Op::Verify12 | Op::Verify16 => blocks::verify(unit, op, cdb, data),
        Op::CompareAndWrite => blocks::compare_and_write(unit, cdb, data),
        Op::SyncCache10 | Op::SyncCache16 => blocks::synchronize(unit, op, cdb),
        Op::Prefetch10 | Op::Prefetch16 => blocks::prefetch(unit, op, cdb),
        Op::Unmap => thin::unmap(unit, data),
        Op::WriteSame10 | Op::WriteSame16 => thin::write_same(unit, op, cdb, data),
        Op::Snapshot6 | Op::Snapshot10 | Op::Snapshot12 => {
            snapshot::snapshot(unit, nexus, op, cdb, data, scene.disks_of)
        }
    }
}
