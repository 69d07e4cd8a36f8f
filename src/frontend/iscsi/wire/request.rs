//! What initiators send, from raw headers to checked ones (RFC 7143, sections 11.3 to 11.18).

use super::header::Header;

/// Why a header is no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// No initiator sends such PDUs.
    #[error("opcode {0:#04x} is none that an initiator sends")]
    Opcode(u8),
    /// What is asked for does not go with error recovery level 0.
    #[error("opcode {0:#04x} needs a higher error recovery level than 0")]
    Unsupported(u8),
    /// A field has a value that it can't have.
    #[error("byte {byte} of a PDU with opcode {opcode:#04x} can't have that value")]
    Field {
        /// Of the PDU.
        opcode: u8,
        /// From the start of the header.
        byte: u8,
    },
}

/// How a task wants to be ordered among others (SAM-5, section 8.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// In any order with other simple ones.
    Simple,
    /// After all that came before it, and before all that comes after.
    Ordered,
    /// Before all that waits.
    HeadOfQueue,
}

/// A SCSI command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScsiCommand {
    /// The task's tag.
    pub tag: u32,
    /// The logical unit, as its eight bytes stand there.
    pub lun: u64,
    /// Whether no unsolicited data follows but what comes with it.
    pub is_final: bool,
    /// Whether data may come back.
    pub reads: bool,
    /// Whether data is to be sent.
    pub writes: bool,
    /// How it is ordered.
    pub attribute: Attribute,
    /// Bytes that the initiator expects to be transferred.
    pub expected: u32,
    /// The command descriptor block; 6-, 10- and 12-byte ones have zeros behind them.
    pub cdb: [u8; 16],
}

/// Data for a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataOut {
    /// The task's tag.
    pub tag: u32,
    /// The tag of the R2T that it answers, or [`NO_TAG`](super::NO_TAG).
    pub transfer_tag: u32,
    /// Its number within its sequence.
    pub data_sn: u32,
    /// Where in the task's data it goes, in bytes.
    pub offset: u32,
    /// Whether it ends its sequence.
    pub is_final: bool,
}

/// A ping, or the answer to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NopOut {
    /// The tag to answer with, or [`NO_TAG`](super::NO_TAG) where no answer is wanted.
    pub tag: u32,
    /// The tag of the ping that it answers, or [`NO_TAG`](super::NO_TAG).
    pub transfer_tag: u32,
    /// Copied into the answer.
    pub lun: u64,
}

/// What a task management function does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// Ends one task.
    AbortTask,
    /// Ends all tasks of this session.
    AbortTaskSet,
    /// There are none of this kind here.
    ClearAca,
    /// Ends all tasks of all sessions.
    ClearTaskSet,
    /// Ends all tasks, and takes the logical unit back to how it began.
    LogicalUnitReset,
    /// The same, of all logical units of the target.
    TargetWarmReset,
    /// The same, and ends all sessions.
    TargetColdReset,
    /// Takes a task over to another connection.
    TaskReassign,
    /// Any other.
    Unknown(u8),
}

/// A task management function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskManagement {
    /// The tag to answer with.
    pub tag: u32,
    /// What to do.
    pub function: Function,
    /// To which logical unit.
    pub lun: u64,
    /// To which task.
    pub referenced: u32,
}

/// A stage of the login phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Who is there.
    Security,
    /// How to work together.
    Operational,
    /// The login is over.
    FullFeature,
}

impl Stage {
    fn of(bits: u8) -> Option<Self> {
        match bits & 3 {
            0 => Some(Self::Security),
            1 => Some(Self::Operational),
            3 => Some(Self::FullFeature),
            _ => None,
        }
    }

    /// As two bits.
    #[must_use]
    pub fn bits(self) -> u8 {
        match self {
            Self::Security => 0,
            Self::Operational => 1,
            Self::FullFeature => 3,
        }
    }
}

/// A step of a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Login {
    /// The tag to answer with.
    pub tag: u32,
    /// Whether the initiator wants to go on to `next`.
    pub transit: bool,
    /// Whether the text goes on in the next PDU.
    pub continues: bool,
    /// The stage that this is of.
    pub current: Stage,
    /// The stage that it wants to go on to; as `current` where it does not want to.
    pub next: Stage,
    /// The lowest version that the initiator speaks.
    pub version_min: u8,
    /// The initiator's part of the session's name.
    pub isid: [u8; 6],
    /// Our part of it; 0 for a new session.
    pub tsih: u16,
    /// The connection's number.
    pub cid: u16,
}

/// Text in the full feature phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text {
    /// The tag to answer with.
    pub tag: u32,
    /// The tag by which we asked it to go on, or [`NO_TAG`](super::NO_TAG).
    pub transfer_tag: u32,
    /// Whether the text goes on in the next PDU.
    pub continues: bool,
    /// Whether the initiator has no more to ask.
    pub is_final: bool,
    /// Copied into the answer.
    pub lun: u64,
}

/// What is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogoutReason {
    /// The session.
    CloseSession,
    /// The connection with this number.
    CloseConnection(u16),
    /// A connection, for recovery.
    Recovery,
}

/// An orderly end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logout {
    /// The tag to answer with.
    pub tag: u32,
    /// What is to end.
    pub reason: LogoutReason,
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// NOP-Out.
    Nop(NopOut),
    /// SCSI Command.
    Scsi(ScsiCommand),
    /// Task Management Function Request.
    TaskManagement(TaskManagement),
    /// Login Request.
    Login(Login),
    /// Text Request.
    Text(Text),
    /// SCSI Data-Out.
    DataOut(DataOut),
    /// Logout Request.
    Logout(Logout),
}

impl Request {
    /// Reads a header.
    ///
    /// # Errors
    /// Where it is no request.
    pub fn decode(header: &Header) -> Result<Self, Malformed> {
        let opcode = header.opcode();
        let bad = |byte| Malformed::Field { opcode, byte };
        let flags = header.0[1];
        let tag = header.task_tag();
        match opcode {
            0x00 => Ok(Self::Nop(NopOut {
                tag,
                transfer_tag: header.u32(20),
                lun: header.lun(),
            })),
            0x01 => scsi(header).map(Self::Scsi),
            0x02 => Ok(Self::TaskManagement(TaskManagement {
                tag,
                function: function(flags & 0x7f),
                lun: header.lun(),
                referenced: header.u32(20),
            })),
            0x03 => login(header).map(Self::Login),
            0x04 => Ok(Self::Text(Text {
                tag,
                transfer_tag: header.u32(20),
                continues: flags & 0x40 != 0,
                is_final: header.is_final(),
                lun: header.lun(),
            })),
            0x05 => Ok(Self::DataOut(DataOut {
                tag,
                transfer_tag: header.u32(20),
                data_sn: header.u32(36),
                offset: header.u32(40),
                is_final: header.is_final(),
            })),
            0x06 => {
                let cid = u16::from_be_bytes([header.0[20], header.0[21]]);
                let reason = match flags & 0x7f {
                    0 => LogoutReason::CloseSession,
                    1 => LogoutReason::CloseConnection(cid),
                    2 => LogoutReason::Recovery,
                    _ => return Err(bad(1)),
                };
                Ok(Self::Logout(Logout { tag, reason }))
            }
            0x10 => Err(Malformed::Unsupported(opcode)),
            _ => Err(Malformed::Opcode(opcode)),
        }
    }
}

fn scsi(header: &Header) -> Result<ScsiCommand, Malformed> {
    let flags = header.0[1];
    let attribute = match flags & 7 {
        0 | 1 => Attribute::Simple,
        2 => Attribute::Ordered,
        3 => Attribute::HeadOfQueue,
        _ => {
            return Err(Malformed::Field {
                opcode: header.opcode(),
                byte: 1,
            });
        }
    };
    let mut cdb = [0; 16];
    cdb.copy_from_slice(&header.0[32..48]);
    Ok(ScsiCommand {
        tag: header.task_tag(),
        lun: header.lun(),
        is_final: header.is_final(),
        reads: flags & 0x40 != 0,
        writes: flags & 0x20 != 0,
        attribute,
        expected: header.u32(20),
        cdb,
    })
}

fn function(code: u8) -> Function {
    match code {
        1 => Function::AbortTask,
        2 => Function::AbortTaskSet,
        3 => Function::ClearAca,
        4 => Function::ClearTaskSet,
        5 => Function::LogicalUnitReset,
        6 => Function::TargetWarmReset,
        7 => Function::TargetColdReset,
        8 => Function::TaskReassign,
        other => Function::Unknown(other),
    }
}

fn login(header: &Header) -> Result<Login, Malformed> {
    let flags = header.0[1];
    let bad = Malformed::Field {
        opcode: header.opcode(),
        byte: 1,
    };
    let current = Stage::of(flags >> 2).ok_or(bad)?;
    let transit = flags & 0x80 != 0;
    let continues = flags & 0x40 != 0;
    let next = if transit {
        Stage::of(flags).ok_or(bad)?
    } else {
        current
    };
    let goes_on = next.bits() > current.bits();
    if current == Stage::FullFeature || (transit && (continues || !goes_on)) {
        return Err(bad);
    }
    let mut isid = [0; 6];
    isid.copy_from_slice(&header.0[8..14]);
    Ok(Login {
        tag: header.task_tag(),
        transit,
        continues,
        current,
        next,
        version_min: header.0[3],
        isid,
        tsih: u16::from_be_bytes([header.0[14], header.0[15]]),
        cid: u16::from_be_bytes([header.0[20], header.0[21]]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(opcode: u8, flags: u8) -> Header {
        let mut header = Header([0; 48]);
        header.0[0] = opcode;
        header.0[1] = flags;
        header
    }

    #[test]
    fn commands_say_direction_order_and_length() {
        let mut raw = header(0x41, 0xa2);
        raw.set_u32(16, 7);
        raw.set_u32(20, 512);
        raw.0[32] = 0x2a;
        let Ok(Request::Scsi(command)) = Request::decode(&raw) else {
            panic!("no command");
        };
        assert!(raw.is_immediate() && command.writes && !command.reads && command.is_final);
        assert_eq!(command.attribute, Attribute::Ordered);
        assert_eq!(
            (command.tag, command.expected, command.cdb[0]),
            (7, 512, 0x2a)
        );
        assert!(Request::decode(&header(0x01, 0x84)).is_err(), "ACA");
    }

    #[test]
    fn a_login_goes_forward_only() {
        let stages = |flags| match Request::decode(&header(0x43, flags)) {
            Ok(Request::Login(login)) => Some((login.current, login.next)),
            _ => None,
        };
        assert_eq!(stages(0x00), Some((Stage::Security, Stage::Security)));
        assert_eq!(stages(0x81), Some((Stage::Security, Stage::Operational)));
        assert_eq!(stages(0x87), Some((Stage::Operational, Stage::FullFeature)));
        for flags in [0x80, 0x84, 0x82, 0x08, 0x0c, 0xc1] {
            assert_eq!(stages(flags), None, "{flags:#04x}");
        }
    }

    #[test]
    fn what_no_initiator_sends_is_named() {
        let of = |opcode| Request::decode(&header(opcode, 0x80)).unwrap_err();
        assert_eq!(of(0x21), Malformed::Opcode(0x21));
        assert_eq!(of(0x10), Malformed::Unsupported(0x10));
        let bad = Request::decode(&header(0x06, 0x83)).unwrap_err();
        assert_eq!(
            bad.to_string(),
            "byte 1 of a PDU with opcode 0x06 can't have that value"
        );
    }
}
