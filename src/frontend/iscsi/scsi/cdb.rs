//! Fields of command descriptor blocks (SPC-4, section 4.3).

use super::opcodes::Op;
use super::sense::Sense;

/// Bytes of a logical block.
pub const BLOCK: u64 = 512;
/// The most logical blocks that one command reads or writes: 1 MiB, which is one record of the write
/// cache, so that a snapshot has all of a write or nothing.
pub const MAX_BLOCKS: u64 = (1 << 20) / BLOCK;
/// The most that COMPARE AND WRITE compares: its field has one byte.
pub const MAX_COMPARE: u64 = 255;

/// The longest parameter list of commands whose field for that is longer than any list.
const MAX_PARAMETERS: u32 = 4096;

/// The two bytes that begin here.
#[must_use]
pub fn be16(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}

/// The four bytes that begin here.
#[must_use]
pub fn be32(bytes: &[u8]) -> u32 {
    u32::from(be16(bytes)) << 16 | u32::from(be16(&bytes[2..]))
}

/// The eight bytes that begin here.
#[must_use]
pub fn be64(bytes: &[u8]) -> u64 {
    u64::from(be32(bytes)) << 32 | u64::from(be32(&bytes[4..]))
}

/// Logical blocks that a command is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// The first.
    pub first: u64,
    /// How many.
    pub count: u64,
}

impl Blocks {
    /// Those of a command; nothing where it is about none.
    #[must_use]
    pub fn of(op: Op, cdb: &[u8; 16]) -> Option<Self> {
        let six = || {
            let count = u64::from(cdb[4]);
            Self {
                first: u64::from(be32(cdb) & 0x1f_ffff),
                // 0 stands for 256 here, and here only.
                count: if count == 0 { 256 } else { count },
            }
        };
        let ten = || Self {
            first: u64::from(be32(&cdb[2..])),
            count: u64::from(be16(&cdb[7..])),
        };
        let twelve = || Self {
            first: u64::from(be32(&cdb[2..])),
            count: u64::from(be32(&cdb[6..])),
        };
        let sixteen = || Self {
            first: be64(&cdb[2..]),
            count: u64::from(be32(&cdb[10..])),
        };
        Some(match op {
            Op::Read6 | Op::Write6 => six(),
            Op::Read10
            | Op::Write10
            | Op::WriteVerify10
            | Op::Verify10
            | Op::SyncCache10
            | Op::Prefetch10
            | Op::WriteSame10 => ten(),
            Op::Read12 | Op::Write12 | Op::WriteVerify12 | Op::Verify12 => twelve(),
            Op::Read16
            | Op::Write16
            | Op::WriteVerify16
            | Op::Verify16
            | Op::SyncCache16
            | Op::Prefetch16
            | Op::WriteSame16 => sixteen(),
            Op::CompareAndWrite => Self {
                first: be64(&cdb[2..]),
                count: u64::from(cdb[13]),
            },
            _ => return None,
        })
    }

    /// As bytes: offset and length.
    #[must_use]
    pub fn bytes(self) -> (u64, u64) {
        (self.first * BLOCK, self.count * BLOCK)
    }
}

/// How a command verifies what it reads or wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// That it can be read.
    Medium,
    /// That it is the data that came with the command.
    Compare,
    /// That each block is the one that came with the command.
    CompareOne,
}

/// What BYTCHK asks for.
///
/// # Errors
/// Where it is none of these.
pub fn verification(cdb: &[u8; 16]) -> Result<Verify, Sense> {
    match cdb[1] >> 1 & 3 {
        0 => Ok(Verify::Medium),
        1 => Ok(Verify::Compare),
        3 => Ok(Verify::CompareOne),
        _ => Err(Sense::field_in_cdb(1, Some(2))),
    }
}

/// Bytes of data that a command takes from the initiator.
///
/// # Errors
/// Where it would be more than a command may move.
pub fn data_out(op: Op, cdb: &[u8; 16]) -> Result<u64, Sense> {
    let count = Blocks::of(op, cdb).map_or(0, |blocks| blocks.count);
    let moves = match op {
        Op::Read6 | Op::Read10 | Op::Read12 | Op::Read16 => count <= MAX_BLOCKS,
        Op::Write6 | Op::Write10 | Op::Write12 | Op::Write16 => count <= MAX_BLOCKS,
        Op::WriteVerify10 | Op::WriteVerify12 | Op::WriteVerify16 => count <= MAX_BLOCKS,
        Op::Verify10 | Op::Verify12 | Op::Verify16 => count <= MAX_BLOCKS,
        Op::ReserveOut => be32(&cdb[5..]) <= MAX_PARAMETERS,
        Op::Snapshot10 => u32::from(be16(&cdb[7..])) <= MAX_PARAMETERS,
        Op::Snapshot12 => be32(&cdb[6..]) <= MAX_PARAMETERS,
        Op::CompareAndWrite => count <= MAX_COMPARE,
        _ => true,
    };
    if !moves {
        let byte = match op {
            Op::ReserveOut => 5,
            Op::Read12 | Op::Write12 | Op::WriteVerify12 | Op::Verify12 | Op::Snapshot12 => 6,
            Op::Read16 | Op::Write16 | Op::WriteVerify16 | Op::Verify16 => 10,
            _ => 7,
        };
        return Err(Sense::field_in_cdb(byte, None));
    }
    Ok(match op {
        Op::Write6
        | Op::Write10
        | Op::Write12
        | Op::Write16
        | Op::WriteVerify10
        | Op::WriteVerify12
        | Op::WriteVerify16 => count * BLOCK,
        Op::Verify10 | Op::Verify12 | Op::Verify16 => match verification(cdb)? {
            Verify::Medium => 0,
            Verify::Compare => count * BLOCK,
            Verify::CompareOne => BLOCK.min(count * BLOCK),
        },
        Op::CompareAndWrite => 2 * count * BLOCK,
        Op::WriteSame16 if cdb[1] & 1 != 0 => 0,
        Op::WriteSame10 | Op::WriteSame16 => BLOCK,
        Op::Unmap | Op::ModeSelect10 | Op::Snapshot10 => u64::from(be16(&cdb[7..])),
        Op::ModeSelect6 => u64::from(cdb[4]),
        Op::ReserveOut => u64::from(be32(&cdb[5..])),
        Op::Snapshot12 => u64::from(be32(&cdb[6..])),
        _ => 0,
    })
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
    fn blocks_stand_where_the_standard_has_them() {
        let of = |op, bytes: &[u8]| {
            let blocks = Blocks::of(op, &cdb(bytes)).unwrap();
            (blocks.first, blocks.count)
        };
        assert_eq!(of(Op::Read6, &[0x08, 0x01, 2, 3, 0]), (0x01_0203, 256));
        assert_eq!(
            of(Op::Write10, &[0x2a, 0, 1, 2, 3, 4, 0, 5, 6]),
            (0x0102_0304, 0x0506)
        );
        assert_eq!(
            of(Op::Read12, &[0xa8, 0, 1, 2, 3, 4, 5, 6, 7, 8]),
            (0x0102_0304, 0x0506_0708)
        );
        let sixteen = [0x88, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        assert_eq!(
            of(Op::Read16, &sixteen),
            (0x0102_0304_0506_0708, 0x090a_0b0c)
        );
        assert_eq!(
            of(Op::CompareAndWrite, &sixteen),
            (0x0102_0304_0506_0708, 12)
        );
        assert_eq!(Blocks::of(Op::Inquiry, &cdb(&[])), None);
    }

    #[test]
    fn what_a_command_takes_is_in_it() {
        let of = |op, bytes: &[u8]| data_out(op, &cdb(bytes)).map_err(|sense| sense.code);
        assert_eq!(
            of(Op::Write10, &[0x2a, 0, 0, 0, 0, 0, 0, 0x08, 0]),
            Ok(1 << 20)
        );
        assert_eq!(
            of(Op::Write10, &[0x2a, 0, 0, 0, 0, 0, 0, 0x08, 1]),
            Err((0x24, 0))
        );
        assert_eq!(of(Op::Verify10, &[0x2f, 0, 0, 0, 0, 0, 0, 8, 0]), Ok(0));
        // However many blocks there are to go over: a worker is not had for ever.
        assert_eq!(
            of(Op::Verify10, &[0x2f, 0, 0, 0, 0, 0, 0, F, F]),
            Err((0x24, 0))
        );
        assert_eq!(of(Op::Verify10, &[0x2f, 2, 0, 0, 0, 0, 0, 0, 3]), Ok(1536));
        assert_eq!(of(Op::Verify10, &[0x2f, 6, 0, 0, 0, 0, 0, 0, 3]), Ok(512));
        assert_eq!(
            of(Op::Verify10, &[0x2f, 4, 0, 0, 0, 0, 0, 0, 3]),
            Err((0x24, 0))
        );
        assert_eq!(of(Op::WriteSame16, &[0x93, 1]), Ok(0));
        assert_eq!(
            of(Op::Snapshot12, &[0xc2, 0, 0, 0, 0, 0, 0, 0, 0, 9]),
            Ok(9)
        );
        for (op, bytes) in [
            (Op::Snapshot12, &[0xc2, 0, 0, 0, 0, 0, 2, 0, 0, 0][..]),
            (Op::ReserveOut, &[0x5f, 0, 0, 0, 0, 2, 0, 0, 0]),
        ] {
            assert_eq!(of(op, bytes), Err((0x24, 0)), "32 MiB of parameters");
        }
    }

    const F: u8 = 0xff;
}
