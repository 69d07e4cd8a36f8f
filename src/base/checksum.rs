//! CRC-32C (Castagnoli), the checksum of every block, record and page.

use std::fmt;

/// A CRC-32C.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checksum(pub u32);

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// The CRC-32C of these bytes.
#[must_use]
pub fn checksum(bytes: &[u8]) -> Checksum {
    Checksum(crc32c::crc32c(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_another_implementation() {
        let oracle = crc::Crc::<u32, crc::Table<16>>::new(&crc::CRC_32_ISCSI);
        let bytes: Vec<u8> = (0..9000u32).map(|n| ((n * 31) >> 3) as u8).collect();
        for len in [0, 1, 9, 512, 4096, 9000] {
            assert_eq!(checksum(&bytes[..len]).0, oracle.checksum(&bytes[..len]));
        }
    }
}
