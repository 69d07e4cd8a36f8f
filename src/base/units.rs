//! Newtypes: one for every number that has a unit, so that none is taken for another.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl $name {
            /// The number after this one.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }
    };
}

number! {
    /// A 4 KiB block of a disk, counted from the disk's start.
    Block(u64)
}
number! {
    /// A segment of a disk's address space (a *logical* segment), counted from the disk's start.
    SegmentNo(u64)
}
number! {
    /// A segment of a device's space (a *physical* segment), counted from the first usable one.
    Slot(u64)
}
number! {
    /// A device of the pool, by its place in the device table; never reused.
    DeviceNo(u16)
}
number! {
    /// A disk, for as long as it exists; survives renames and rollbacks; never reused.
    DiskId(u32)
}
number! {
    /// A segment map. A disk has one; a rollback gives it another. Snapshots belong to a map.
    MapId(u32)
}
number! {
    /// A run of a map's history between two markers, or the birth or death of a version in it. A
    /// snapshot is named by the epoch it ended.
    /// Uses 48 bits on disk.
    Epoch(u64)
}
number! {
    /// The place of a record in the one global order of all records.
    Seq(u64)
}

impl Epoch {
    /// The epoch of death of a version that is still live: later than every real epoch.
    pub const LIVE: Epoch = Epoch((1 << 48) - 1);
    /// The epoch that a new map starts in.
    pub const FIRST: Epoch = Epoch(Epoch::BIRTHS);
    /// An epoch's number is the last of so many. The others are its as well: a segment may get
    /// several versions within an epoch, each with a later birth.
    const BIRTHS: u64 = 1 << 12;

    /// The epoch that begins when a marker ends this one.
    #[must_use]
    pub fn after_marker(self) -> Self {
        Self(self.0 + Self::BIRTHS)
    }

    /// The birth of a segment's first version in this epoch: later than all before it.
    #[must_use]
    pub fn first_birth(self) -> Self {
        Self(self.0.saturating_sub(Self::BIRTHS - 1))
    }

    /// The birth of a version that goes on top of one of this birth within the same epoch, where
    /// there is one left.
    #[must_use]
    pub fn next_birth(self) -> Option<Self> {
        (!self.0.is_multiple_of(Self::BIRTHS)).then(|| self.next())
    }

    /// Whether both belong to the same epoch, so that no marker is between them.
    #[must_use]
    pub fn is_same_epoch(self, other: Self) -> bool {
        let epoch = |birth: Self| birth.0.div_ceil(Self::BIRTHS);
        epoch(self) == epoch(other)
    }
}

/// Where a segment's data lies: a slot of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The device.
    pub device: DeviceNo,
    /// The slot on it.
    pub slot: Slot,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "device {} segment {}", self.device, self.slot)
    }
}
