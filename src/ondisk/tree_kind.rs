//! The trees that the catalog is made of.

use super::field::Record;
use super::{Descriptor, DeviceEntry, DiskRecord, MapRecord, SnapshotRecord, SumGroup};
use crate::base::Geometry;

/// Which tree of the catalog; the number is the one on disk. The comment says what it maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TreeKind {
    /// Disk number to [`DiskRecord`].
    Disks = 1,
    /// Map number to [`MapRecord`].
    Maps = 2,
    /// Map and epoch to [`SnapshotRecord`].
    Snapshots = 3,
    /// Device number to [`DeviceEntry`].
    Devices = 4,
    /// [`VersionKey`](super::VersionKey) to [`Descriptor`].
    Versions = 5,
    /// Device and group of 64 blocks to [`SumGroup`].
    Checksums = 6,
    /// Device and first slot to the length of the free run, a `u64`. Runs never touch.
    Free = 7,
    /// Device and slot, given up but not yet punched, to nothing.
    Pending = 8,
    /// Device and slot of a pack to how many of its blocks versions need, a `u64`; at least one.
    Packs = 10,
    /// Number of a stretch of [`PAGE_MAP_PAGES`] catalog pages to a bit for each that is in use.
    PageMap = 9,
}

/// Bytes of a stretch of the page map. Two of them fill a leaf.
pub const PAGE_MAP_BYTES: usize = 1984;
/// Pages in a stretch of the page map.
pub const PAGE_MAP_PAGES: u64 = PAGE_MAP_BYTES as u64 * 8;

impl TreeKind {
    /// All of them, in the order in which the root has them.
    pub const ALL: [TreeKind; 10] = [
        Self::Disks,
        Self::Maps,
        Self::Snapshots,
        Self::Devices,
        Self::Versions,
        Self::Checksums,
        Self::Free,
        Self::Pending,
        Self::Packs,
        Self::PageMap,
    ];

    /// How many bytes each of its values has.
    #[must_use]
    pub fn value_len(self, geometry: Geometry) -> usize {
        match self {
            Self::Disks => DiskRecord::MAX,
            Self::Maps => MapRecord::MAX,
            Self::Snapshots => SnapshotRecord::MAX,
            Self::Devices => DeviceEntry::MAX,
            Self::Versions => Descriptor::encoded_len(geometry),
            Self::Checksums => SumGroup::LEN,
            Self::Free | Self::Packs => size_of::<u64>(),
            Self::Pending => 0,
            Self::PageMap => PAGE_MAP_BYTES,
        }
    }
}
