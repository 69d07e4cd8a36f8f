//! Sense data: why a command did not do what it should (SPC-4, section 4.5).

use crate::control::{CommandError, ErrorKind};
use crate::volume::VolumeError;

/// The longest sense data, in bytes: its length has one byte.
const LONGEST: usize = 252;
/// Bytes of fixed format sense data before our own.
const FIXED: usize = 18;

/// What kind of condition it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Key {
    /// Nothing is wrong.
    NoSense = 0x0,
    /// The logical unit can't be used now.
    NotReady = 0x2,
    /// Data can't be read or written.
    MediumError = 0x3,
    /// The target is at fault.
    HardwareError = 0x4,
    /// The initiator is.
    IllegalRequest = 0x5,
    /// Something has happened that it should know of.
    UnitAttention = 0x6,
    /// The data can't be changed.
    DataProtect = 0x7,
    /// The command was given up.
    AbortedCommand = 0xb,
    /// Data is not what it was expected to be.
    Miscompare = 0xe,
}

/// Why a command did not do what it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sense {
    /// The kind.
    pub key: Key,
    /// Additional sense code and its qualifier.
    pub code: (u8, u8),
    /// Where it happened: a logical block, or an offset in compared data.
    pub information: Option<u64>,
    /// The field that is wrong.
    pub field: Option<Field>,
    /// In words, for people.
    pub words: Option<String>,
}

/// A field that can't have its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Whether it is one of the command, not of its parameters.
    pub in_command: bool,
    /// Its byte.
    pub byte: u16,
    /// Its leftmost bit, where it is known.
    pub bit: Option<u8>,
}

/// Codes, as the standards' lists have them.
pub mod code {
    /// LOGICAL UNIT NOT READY, SPACE ALLOCATION IN PROGRESS; told by the status BUSY
    pub const SPACE_COMES: (u8, u8) = (0x04, 0x14);
    /// PARAMETER LIST LENGTH ERROR
    pub const PARAMETER_LIST_LENGTH: (u8, u8) = (0x1a, 0x00);
    /// MISCOMPARE DURING VERIFY OPERATION
    pub const MISCOMPARE: (u8, u8) = (0x1d, 0x00);
    /// INVALID COMMAND OPERATION CODE
    pub const OPCODE: (u8, u8) = (0x20, 0x00);
    /// LOGICAL BLOCK ADDRESS OUT OF RANGE
    pub const OUT_OF_RANGE: (u8, u8) = (0x21, 0x00);
    /// INVALID FIELD IN CDB
    pub const FIELD_IN_CDB: (u8, u8) = (0x24, 0x00);
    /// LOGICAL UNIT NOT SUPPORTED
    pub const NO_UNIT: (u8, u8) = (0x25, 0x00);
    /// INVALID FIELD IN PARAMETER LIST
    pub const FIELD_IN_PARAMETERS: (u8, u8) = (0x26, 0x00);
    /// WRITE PROTECTED
    pub const WRITE_PROTECTED: (u8, u8) = (0x27, 0x00);
    /// SOFTWARE WRITE PROTECTED
    pub const SOFTWARE_WRITE_PROTECTED: (u8, u8) = (0x27, 0x02);
    /// SPACE ALLOCATION FAILED WRITE PROTECT
    pub const NO_SPACE: (u8, u8) = (0x27, 0x07);
    /// POWER ON, RESET, OR BUS DEVICE RESET OCCURRED
    pub const POWER_ON: (u8, u8) = (0x29, 0x00);
    /// BUS DEVICE RESET FUNCTION OCCURRED
    pub const RESET: (u8, u8) = (0x29, 0x03);
    /// MODE PARAMETERS CHANGED
    pub const MODE_CHANGED: (u8, u8) = (0x2a, 0x01);
    /// RESERVATIONS PREEMPTED
    pub const RESERVATIONS_PREEMPTED: (u8, u8) = (0x2a, 0x03);
    /// RESERVATIONS RELEASED
    pub const RESERVATIONS_RELEASED: (u8, u8) = (0x2a, 0x04);
    /// REGISTRATIONS PREEMPTED
    pub const REGISTRATIONS_PREEMPTED: (u8, u8) = (0x2a, 0x05);
    /// CAPACITY DATA HAS CHANGED
    pub const CAPACITY_CHANGED: (u8, u8) = (0x2a, 0x09);
    /// MEDIUM NOT PRESENT
    pub const NO_MEDIUM: (u8, u8) = (0x3a, 0x00);
    /// INTERNAL TARGET FAILURE
    pub const TARGET_FAILURE: (u8, u8) = (0x44, 0x00);
    /// INSUFFICIENT REGISTRATION RESOURCES
    pub const NO_REGISTRATIONS: (u8, u8) = (0x55, 0x04);
    /// INVALID RELEASE OF PERSISTENT RESERVATION
    pub const INVALID_RELEASE: (u8, u8) = (0x26, 0x04);
    /// INVALID FIELD IN COMMAND INFORMATION UNIT
    pub const COMMAND_UNIT: (u8, u8) = (0x0e, 0x03);
    /// PROTOCOL SERVICE CRC ERROR: what a sequence number that is out of order stands for
    pub const DATA_LOST: (u8, u8) = (0x47, 0x05);
    /// WRITE ERROR
    pub const WRITE_ERROR: (u8, u8) = (0x0c, 0x00);
    /// UNRECOVERED READ ERROR
    pub const READ_ERROR: (u8, u8) = (0x11, 0x00);
    /// Of a snapshot command, and ours: no such disk any more.
    pub const SNAPSHOT_NOT_FOUND: (u8, u8) = (0x80, 0x01);
    /// The name is taken.
    pub const SNAPSHOT_EXISTS: (u8, u8) = (0x80, 0x02);
    /// The name is none that a snapshot can have.
    pub const SNAPSHOT_NAME: (u8, u8) = (0x80, 0x03);
    /// Of several disks one is read-only.
    pub const SNAPSHOT_READ_ONLY: (u8, u8) = (0x80, 0x04);
    /// Too many disks at once, or another limit.
    pub const SNAPSHOT_LIMIT: (u8, u8) = (0x80, 0x05);
}

impl Sense {
    /// A condition with nothing more to say.
    #[must_use]
    pub const fn new(key: Key, code: (u8, u8)) -> Self {
        Self {
            key,
            code,
            information: None,
            field: None,
            words: None,
        }
    }

    /// The initiator's fault.
    #[must_use]
    pub const fn illegal(code: (u8, u8)) -> Self {
        Self::new(Key::IllegalRequest, code)
    }

    /// A field of the command that can't have its value.
    #[must_use]
    pub const fn field_in_cdb(byte: u16, bit: Option<u8>) -> Self {
        let mut sense = Self::illegal(code::FIELD_IN_CDB);
        sense.field = Some(Field {
            in_command: true,
            byte,
            bit,
        });
        sense
    }

    /// A field of the parameters that can't have its value.
    #[must_use]
    pub const fn field_in_parameters(byte: u16) -> Self {
        let mut sense = Self::illegal(code::FIELD_IN_PARAMETERS);
        sense.field = Some(Field {
            in_command: false,
            byte,
            bit: None,
        });
        sense
    }

    /// Some data of a command did not come, or not in order.
    #[must_use]
    pub const fn data_lost() -> Self {
        Self::new(Key::AbortedCommand, code::DATA_LOST)
    }

    /// Data differs, first at this offset.
    #[must_use]
    pub const fn miscompare(offset: u64) -> Self {
        let mut sense = Self::new(Key::Miscompare, code::MISCOMPARE);
        sense.information = Some(offset);
        sense
    }

    /// A read that failed.
    #[must_use]
    pub fn of_read(error: &VolumeError) -> Self {
        let sense = match error {
            VolumeError::NotFound(_) => Self::illegal(code::NO_UNIT),
            _ => Self::new(Key::MediumError, code::READ_ERROR),
        };
        sense.saying(error)
    }

    /// A write, discard or sync that failed.
    #[must_use]
    pub fn of_write(error: &VolumeError) -> Self {
        let sense = match error {
            VolumeError::NotFound(_) => Self::illegal(code::NO_UNIT),
            VolumeError::NoSpace { .. } | VolumeError::HostFull(_) => {
                Self::new(Key::DataProtect, code::NO_SPACE)
            }
            VolumeError::NoSpaceYet(_) => Self::new(Key::NotReady, code::SPACE_COMES),
            VolumeError::ReadOnly(_) => Self::new(Key::DataProtect, code::WRITE_PROTECTED),
            VolumeError::TooBig { .. } => Self::illegal(code::OUT_OF_RANGE),
            VolumeError::Halted(_) => Self::new(Key::HardwareError, code::TARGET_FAILURE),
            _ => Self::new(Key::MediumError, code::WRITE_ERROR),
        };
        sense.saying(error)
    }

    /// The same, where the command must not be sent again.
    #[must_use]
    pub fn or_final(self) -> Self {
        match self.code {
            code::SPACE_COMES => Self {
                key: Key::DataProtect,
                code: code::NO_SPACE,
                ..self
            },
            _ => self,
        }
    }

    /// A snapshot that was not taken.
    #[must_use]
    pub fn of_snapshot(error: &CommandError) -> Self {
        let sense = match error.kind {
            ErrorKind::NotFound => Self::illegal(code::SNAPSHOT_NOT_FOUND),
            ErrorKind::Exists => Self::illegal(code::SNAPSHOT_EXISTS),
            ErrorKind::TooLong => Self::illegal(code::SNAPSHOT_NAME),
            ErrorKind::Invalid => Self::illegal(code::SNAPSHOT_LIMIT),
            ErrorKind::ReadOnly => Self::new(Key::DataProtect, code::SNAPSHOT_READ_ONLY),
            ErrorKind::NoSpace => Self::new(Key::DataProtect, code::NO_SPACE),
            ErrorKind::Busy | ErrorKind::TooBig | ErrorKind::Io => {
                Self::new(Key::HardwareError, code::TARGET_FAILURE)
            }
        };
        sense.saying(error)
    }

    /// With an explanation.
    #[must_use]
    pub fn saying(self, words: &dyn std::fmt::Display) -> Self {
        Self {
            words: Some(words.to_string()),
            ..self
        }
    }

    /// Fixed format, of 18 bytes and the words behind them.
    #[must_use]
    pub fn fixed(&self) -> Vec<u8> {
        let mut bytes = vec![0; FIXED];
        bytes[0] = 0x70;
        bytes[2] = self.key as u8;
        // Of four bytes: what does not fit is not shown.
        if let Some(information) = self.information.and_then(|value| u32::try_from(value).ok()) {
            bytes[0] |= 0x80;
            bytes[3..7].copy_from_slice(&information.to_be_bytes());
        }
        (bytes[12], bytes[13]) = self.code;
        if let Some(field) = self.field {
            bytes[15..18].copy_from_slice(&field.encode());
        }
        bytes.extend_from_slice(self.words_within(LONGEST - FIXED));
        bytes[7] = (bytes.len() - 8) as u8;
        bytes
    }

    /// Descriptor format; the words are in a vendor-specific descriptor of type 80h.
    #[must_use]
    pub fn descriptors(&self) -> Vec<u8> {
        let mut bytes = vec![0x72, self.key as u8, self.code.0, self.code.1, 0, 0, 0, 0];
        if let Some(information) = self.information {
            bytes.extend([0x00, 0x0a, 0x80, 0x00]);
            bytes.extend(information.to_be_bytes());
        }
        if let Some(field) = self.field {
            bytes.extend([0x02, 0x06, 0, 0]);
            bytes.extend(field.encode());
            bytes.push(0);
        }
        let words = self.words_within(LONGEST - bytes.len() - 2);
        if !words.is_empty() {
            bytes.extend([0x80, words.len() as u8]);
            bytes.extend_from_slice(words);
        }
        bytes[7] = (bytes.len() - 8) as u8;
        bytes
    }

    fn words_within(&self, most: usize) -> &[u8] {
        let words = self.words.as_deref().unwrap_or_default();
        let most = most.min(words.len());
        let end = (0..=most).rev().find(|at| words.is_char_boundary(*at));
        &words.as_bytes()[..end.unwrap_or(0)]
    }
}

impl Field {
    /// The sense key specific bytes.
    fn encode(self) -> [u8; 3] {
        let command = if self.in_command { 0x40 } else { 0 };
        let bit = self.bit.map_or(0, |bit| 0x08 | (bit & 7));
        let [high, low] = self.byte.to_be_bytes();
        [0x80 | command | bit, high, low]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_pool_keeps_snapshots_out_as_it_does_writes() {
        let full = CommandError::new(ErrorKind::NoSpace, "full");
        let sense = Sense::of_snapshot(&full);
        assert_eq!((sense.key, sense.code), (Key::DataProtect, (0x27, 0x07)));
    }

    #[test]
    fn both_formats_say_the_same() {
        let sense = Sense {
            information: Some(0x1234),
            ..Sense::field_in_cdb(2, Some(5))
        };
        let fixed = sense.fixed();
        assert_eq!(fixed[..8], [0xf0, 0, 5, 0, 0, 0x12, 0x34, 10]);
        assert_eq!(fixed[12..], [0x24, 0, 0, 0xcd, 0, 2]);
        let descriptors = sense.descriptors();
        assert_eq!(descriptors[..8], [0x72, 5, 0x24, 0, 0, 0, 0, 20]);
        assert_eq!(
            descriptors[8..20],
            [0, 10, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x12, 0x34]
        );
        assert_eq!(descriptors[20..], [2, 6, 0, 0, 0xcd, 0, 2, 0]);
    }

    #[test]
    fn words_are_cut_between_letters() {
        let sense = Sense::illegal(code::SNAPSHOT_EXISTS).saying(&"ü".repeat(200));
        for bytes in [sense.fixed(), sense.descriptors()] {
            assert!(bytes.len() <= LONGEST, "{}", bytes.len());
            assert_eq!(usize::from(bytes[7]) + 8, bytes.len());
        }
        assert!(std::str::from_utf8(&sense.fixed()[FIXED..]).is_ok());
        assert_eq!(sense.descriptors()[8], 0x80);
    }

    #[test]
    fn a_full_pool_is_told_as_the_standard_says() {
        let full = VolumeError::NoSpace {
            needed: 2,
            available: 1,
        };
        let sense = Sense::of_write(&full);
        assert_eq!((sense.key, sense.code), (Key::DataProtect, (0x27, 0x07)));
        let gone = VolumeError::NotFound("x".to_owned());
        assert_eq!(Sense::of_read(&gone).code, code::NO_UNIT);
    }
}
