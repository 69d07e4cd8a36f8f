//! CRC-32C (Castagnoli), the checksum of every block, record and page.

use std::fmt;

use crc_fast::CrcAlgorithm;

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
    let crc = crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes);
    // Of 64 bits, for all widths that the crate has.
    Checksum(crc as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_another_implementation() {
        let oracle = crc::Crc::<u32, crc::Table<16>>::new(&crc::CRC_32_ISCSI);
        let bytes: Vec<u8> = (0..9000u32).map(|n| ((n * 31) >> 3) as u8).collect();
        // All ways that the length and the alignment may take through the vector code.
        let lens = (0..700).chain([1024, 4095, 4096, 4097, 8990]);
        for (len, start) in lens.flat_map(|len| (0..4).map(move |start| (len, start))) {
            let bytes = &bytes[start..start + len];
            assert_eq!(checksum(bytes).0, oracle.checksum(bytes), "{len} {start}");
        }
    }
}
