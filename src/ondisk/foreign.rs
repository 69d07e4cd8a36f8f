//! What other programs write at the start of a disk, so that their data is not overwritten.

/// How many bytes from the start [`foreign`] wants to see.
pub const FOREIGN_PROBE: usize = 68 << 10;

/// A mark: its bytes, where they stand, whose they are.
type Mark = (&'static [u8], usize, &'static str);

// From the kernel's headers and libblkid; a table of partitions comes last, because some file
// systems carry its mark too.
const MARKS: &[Mark] = &[
    (
        &[0x53, 0xef],
        1024 + 56,
        "an ext2, ext3 or ext4 file system",
    ),
    (b"XFSB", 0, "an XFS file system"),
    (b"_BHRfS_M", (64 << 10) + 64, "a btrfs file system"),
    (
        &[0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca],
        4096 + 24,
        "a bcachefs file system or a bcache device",
    ),
    (&[0x10, 0x20, 0xf5, 0xf2], 1024, "an F2FS file system"),
    (b"NTFS    ", 3, "an NTFS file system"),
    (b"EXFAT   ", 3, "an exFAT file system"),
    (b"LUKS\xba\xbe", 0, "a LUKS encrypted volume"),
    (b"LABELONE", 0, "an LVM physical volume"),
    (b"LABELONE", 512, "an LVM physical volume"),
    (b"LABELONE", 1024, "an LVM physical volume"),
    (b"LABELONE", 1536, "an LVM physical volume"),
    (&[0xfc, 0x4e, 0x2b, 0xa9], 0, "a member of an md RAID"),
    (&[0xfc, 0x4e, 0x2b, 0xa9], 4096, "a member of an md RAID"),
    (b"SWAPSPACE2", 4096 - 10, "swap space"),
    (b"SWAP-SPACE", 4096 - 10, "swap space"),
    (b"QFI\xfb", 0, "a qcow2 image"),
    (b"EFI PART", 512, "a GPT partition table"),
    (b"EFI PART", 4096, "a GPT partition table"),
    (
        &[0x55, 0xaa],
        510,
        "an MBR partition table or a boot sector",
    ),
];

/// What a device that begins so seems to hold, in words; nothing where no known mark stands there.
/// `start` may be shorter than [`FOREIGN_PROBE`], on a device that is.
#[must_use]
pub fn foreign(start: &[u8]) -> Option<&'static str> {
    MARKS
        .iter()
        .find(|(mark, at, _)| start.get(*at..*at + mark.len()) == Some(*mark))
        .map(|(_, _, what)| *what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mark_is_found_within_the_probe() {
        for (mark, at, what) in MARKS {
            let mut start = vec![0; FOREIGN_PROBE];
            start[*at..*at + mark.len()].copy_from_slice(mark);
            assert_eq!(foreign(&start), Some(*what));
        }
        assert_eq!(foreign(&vec![0; FOREIGN_PROBE]), None);
        assert_eq!(foreign(b"XF"), None);
    }
}
