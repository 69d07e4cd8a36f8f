//! What the catalog holds: disks, segment maps, snapshots, devices, versions of segments,
//! checksums and free space; and the changes that a commit makes to them.

use crate::base::{
    Block, BlockMask, Checksum, DeviceNo, DiskId, Epoch, MapId, Place, SegmentNo, Seq, Slot,
    Timestamp,
};

/// A disk: a name over a segment map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskRecord {
    /// Its identity.
    pub id: DiskId,
    /// Its file name; at most 255 bytes.
    pub name: String,
    /// The map that its writes go to.
    pub map: MapId,
    /// Its virtual size in bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owning user.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// When it was made.
    pub created: Timestamp,
    /// Last change of its content.
    pub modified: Timestamp,
    /// Last change of its content or attributes.
    pub changed: Timestamp,
    /// Last read, as far as it was recorded.
    pub accessed: Timestamp,
    /// Every record of this disk up to this one has been destaged, and none after it.
    pub applied: Seq,
    /// Blocks of the live map that hold data.
    pub allocated: u64,
    /// Destage order: higher first; 0 unless set.
    pub priority: u8,
    /// Deleted, but still open somewhere when this was written; goes away at the next opening.
    pub unlinked: bool,
}

/// A segment map: the versions keyed by its number, over an origin where it is a clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapRecord {
    /// Its identity.
    pub id: MapId,
    /// The epoch that the next destaged write belongs to.
    pub epoch: Epoch,
    /// What shows through where the map has nothing.
    pub origin: Option<Origin>,
    /// Whether a disk writes to it; else it stays for its snapshots only.
    pub live: bool,
    /// Whether a snapshot or the disk went away since the last full reap of the map.
    pub reap: bool,
}

/// The snapshot under a clone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The map that the snapshot is of.
    pub map: MapId,
    /// The epoch that it ended.
    pub epoch: Epoch,
    /// Blocks from here on do not show through (the clone was once smaller, or the origin is).
    pub limit: Block,
}

/// A snapshot: a name over an epoch of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRecord {
    /// The map that it is of.
    pub map: MapId,
    /// The epoch that its marker ended: it sees versions born in it or before that died after it.
    pub epoch: Epoch,
    /// The name of its disk; with `name` at most 255 bytes.
    pub disk_name: String,
    /// Its own name, after the `@`.
    pub name: String,
    /// The disk's virtual size at the marker, in bytes.
    pub size: u64,
    /// Permission bits of the disk; shown without the write bits.
    pub mode: u32,
    /// Owning user.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// When the marker was set.
    pub created: Timestamp,
    /// Data blocks of the disk at the marker.
    pub allocated: u64,
    /// Deleted, but a clone stands on it or it was open: not listed, still kept.
    pub hidden: bool,
}

/// A device of the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRecord {
    /// Its number.
    pub device: DeviceNo,
    /// What its superblock must say.
    pub uuid: [u8; 16],
    /// Where it is; relative to the store where it does not start with `/`. At most 1,024 bytes.
    pub path: String,
    /// How many slots it has.
    pub slots: u64,
}

/// Which version of a segment: of which map, and in which epoch it died.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VersionKey {
    /// The map.
    pub map: MapId,
    /// The logical segment; 48 bits.
    pub segment: SegmentNo,
    /// The first epoch that no longer sees it; [`Epoch::LIVE`] while it is the newest.
    pub death: Epoch,
}

/// A version of a segment: where its data lies and which blocks it speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The epoch that made it.
    pub birth: Epoch,
    /// Where its data lies; none where it only says that blocks are zero.
    pub place: Option<Place>,
    /// How its blocks lie in `place`.
    pub layout: Layout,
    /// Blocks whose data lies in `place`; empty without one.
    pub data: BlockMask,
    /// Blocks that read as zero. Disjoint from `data`. A block in neither is read from the next
    /// older version of the segment, or from the map's origin where there is none.
    pub zero: BlockMask,
}

/// How the blocks of a version lie in its slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// The slot is the version's own: each block has the place in it that it has in the segment.
    #[default]
    Own,
    /// The slot is a *pack*, which versions with few blocks share: theirs lie there one after the
    /// other.
    Packed {
        /// Where the first of them lies.
        first: u16,
        /// Blocks that have a place there and do not count any more. All of them are zero now.
        dead: BlockMask,
    },
}

/// Where blocks of a segment lie in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The slot.
    pub place: Place,
    /// Where the first block lies, and which blocks lie there; nothing where each has the place
    /// that it has in the segment.
    pub packed: Option<(u16, BlockMask)>,
}

impl Extent {
    /// A slot of its own.
    #[must_use]
    pub fn own(place: Place) -> Self {
        Self {
            place,
            packed: None,
        }
    }

    /// Which block of the slot holds this block of the segment. Neighbours among those that it
    /// holds are neighbours there, too.
    #[must_use]
    pub fn index(&self, block: usize) -> usize {
        match &self.packed {
            None => block,
            Some((first, blocks)) => usize::from(*first) + blocks.rank(block),
        }
    }

    /// The blocks of the slot that hold these blocks of the segment, of those that it holds.
    #[must_use]
    pub fn indexes(&self, blocks: &BlockMask) -> BlockMask {
        if self.packed.is_none() {
            return *blocks;
        }
        let mut indexes = BlockMask::EMPTY;
        blocks
            .iter()
            .for_each(|block| indexes.insert(self.index(block)));
        indexes
    }
}

impl Descriptor {
    /// A version with these blocks of an extent; those of a pack that it does not have are dead,
    /// and must be zero.
    #[must_use]
    pub fn new(birth: Epoch, extent: Option<Extent>, data: BlockMask, zero: BlockMask) -> Self {
        let layout = match extent.and_then(|extent| extent.packed) {
            None => Layout::Own,
            Some((first, stored)) => Layout::Packed {
                first,
                dead: stored.minus(&data),
            },
        };
        Self {
            birth,
            place: extent.map(|extent| extent.place),
            layout,
            data,
            zero,
        }
    }

    /// The blocks that it speaks for.
    #[must_use]
    pub fn covered(&self) -> BlockMask {
        self.data.or(&self.zero)
    }

    /// The blocks that have a place in its slot.
    #[must_use]
    pub fn stored(&self) -> BlockMask {
        match &self.layout {
            Layout::Own => self.data,
            Layout::Packed { dead, .. } => self.data.or(dead),
        }
    }

    /// Where its blocks lie, if it has any.
    #[must_use]
    pub fn extent(&self) -> Option<Extent> {
        let place = self.place?;
        let packed = match self.layout {
            Layout::Own => None,
            Layout::Packed { first, .. } => Some((first, self.stored())),
        };
        Some(Extent { place, packed })
    }

    /// Whether it has a slot of its own.
    #[must_use]
    pub fn has_own_slot(&self) -> bool {
        self.place.is_some() && self.layout == Layout::Own
    }
}

/// Positions and counters that move with every commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Every control record up to this one has been applied.
    pub applied: Seq,
    /// Where in the journal's ring the oldest record lies that is still needed.
    pub journal_offset: u64,
    /// That record's number; the number of the next record where none is needed.
    pub journal_seq: Seq,
    /// The number that the next disk gets.
    pub next_disk: DiskId,
    /// The number that the next map gets.
    pub next_map: MapId,
    /// Every record of the journal up to this one was durable.
    pub durable: Seq,
    /// The journal's last session; 0 before the first.
    pub session: u32,
    /// Whether that session ended in order: the journal has no record that is needed, nor one that
    /// came after.
    pub closed: bool,
}

/// Counts of the pool's slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Slots of all devices.
    pub total: u64,
    /// Slots that may be taken at once.
    pub free: u64,
    /// Slots given up but not yet punched, and slots that are lent out to be written to.
    pub pending: u64,
}

/// One change of a commit. All changes of a commit become durable together, or none does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "the largest is by far the most frequent"
)]
pub enum Change {
    /// Adds a disk, or replaces what is known of it.
    PutDisk(DiskRecord),
    /// Forgets a disk.
    RemoveDisk(DiskId),
    /// Adds a map, or replaces what is known of it.
    PutMap(MapRecord),
    /// Forgets a map; it has no versions left.
    RemoveMap(MapId),
    /// Adds a snapshot, or replaces what is known of it.
    PutSnapshot(SnapshotRecord),
    /// Forgets a snapshot.
    RemoveSnapshot(MapId, Epoch),
    /// Adds a device and all its slots to the free list.
    AddDevice(DeviceRecord),
    /// Adds a version, or replaces what is known of it.
    PutVersion(VersionKey, Descriptor),
    /// Forgets a version.
    RemoveVersion(VersionKey),
    /// Sets the checksums of neighbouring blocks of a device, counted from its first slot.
    PutChecksums {
        /// The device.
        device: DeviceNo,
        /// The first block.
        first: u64,
        /// One for each block.
        sums: Vec<Checksum>,
    },
    /// Takes neighbouring slots off the free list.
    Take {
        /// The device.
        device: DeviceNo,
        /// The first slot.
        first: Slot,
        /// How many.
        count: u64,
    },
    /// Gives up a slot in use: it waits for its hole punch.
    Retire(Place),
    /// Moves a punched slot to the free list.
    Free(Place),
    /// Sets the marks.
    SetMarks(Marks),
    /// Takes neighbouring slots off the pending list: they were put there before they were written
    /// to, so that a crash gives them back, and from now on they are in use.
    Adopt {
        /// The device.
        device: DeviceNo,
        /// The first slot.
        first: Slot,
        /// How many.
        count: u64,
    },
    /// Corrects how many slots of a device are on the free list. This and the next two are made by
    /// repairs alone: all other changes keep the counts.
    CountFree(DeviceNo, u64),
    /// Corrects the counts of the pool's slots.
    CountSpace(Space),
    /// Corrects how many blocks of a pack versions need. Where that is none, it is given up.
    CountPack(Place, u64),
}
