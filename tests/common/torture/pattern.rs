//! What is written to the disks of a family: every 512 bytes say by which command, and where.

use super::stamps::mix;

/// Bytes in a unit, the least that is written.
pub const UNIT: usize = 512;
const STAMP: usize = 32;

/// A pattern of one run.
#[derive(Clone, Copy)]
pub struct Pattern(pub u64);

impl Pattern {
    fn stamp(self, unit: u64, number: u32) -> [u8; STAMP] {
        let mut stamp = *b"................snapmark torture";
        let tag = mix(self.0 ^ mix(unit) ^ u64::from(number));
        stamp[..8].copy_from_slice(&tag.to_le_bytes());
        stamp[8..12].copy_from_slice(&number.to_le_bytes());
        stamp[12..16].copy_from_slice(&(unit as u32).to_le_bytes());
        stamp
    }

    /// Fills units, the first of which is the disk's `unit`.
    pub fn fill(self, unit: u64, number: u32, into: &mut [u8]) {
        for (unit, bytes) in (unit..).zip(into.chunks_exact_mut(UNIT)) {
            let stamp = self.stamp(unit, number);
            for part in bytes.chunks_exact_mut(STAMP) {
                part.copy_from_slice(&stamp);
            }
        }
    }

    /// The numbers of the commands that wrote these units, 0 where they are zeros.
    ///
    /// # Errors
    /// Where a unit was never written there, or is torn.
    pub fn read(self, unit: u64, bytes: &[u8], into: &mut Vec<u32>) -> Result<(), String> {
        for (unit, bytes) in (unit..).zip(bytes.chunks_exact(UNIT)) {
            if bytes[STAMP..] != bytes[..UNIT - STAMP] {
                return Err(format!("unit {unit} is torn"));
            }
            let number = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
            let zeros = bytes[..STAMP] == [0; STAMP];
            if !zeros && bytes[..STAMP] != self.stamp(unit, number) {
                return Err(format!("unit {unit} holds what was never written there"));
            }
            into.push(if zeros { 0 } else { number });
        }
        Ok(())
    }
}
