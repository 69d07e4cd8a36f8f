//! What a check found: each problem with its place, how grave it is, and whom it touches.

use serde::Serialize;

use crate::base::Place;
use crate::ondisk::Change;

/// How grave a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing is wrong: what a crash leaves, or what the next mount sees to.
    Note,
    /// A repair mends it, and no data is lost.
    Repairable,
    /// Data or the catalog itself is lost or in doubt.
    Damage,
}

/// Which rule is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A file of the store is missing or can't be read.
    File,
    /// A root of the catalog.
    Root,
    /// A page of the catalog.
    Page,
    /// The page map against the pages that the trees take.
    PageMap,
    /// The catalog's log.
    Log,
    /// A record of the catalog: a disk, a map, a snapshot, a device, the marks.
    Record,
    /// A name that is none, or is used twice.
    Name,
    /// A device of the pool, or its superblock.
    Device,
    /// The free list, the pending list or their counts.
    Space,
    /// A slot that has no user, or more than one.
    Slot,
    /// A version of a segment.
    Version,
    /// A version that nobody sees.
    Stale,
    /// The count of a disk's or a snapshot's data blocks.
    Allocated,
    /// A data block without a checksum.
    Checksum,
    /// A data block that is not what its checksum says, or can't be read.
    Block,
    /// The journal.
    Journal,
}

impl Kind {
    /// Whether damage of this kind leaves in doubt what the catalog says. Nothing may be built on
    /// that then: a change that is right by itself may lead the next mount to punch a slot that
    /// someone else has, too.
    pub(super) fn is_of_catalog(self) -> bool {
        match self {
            Self::Root
            | Self::Page
            | Self::PageMap
            | Self::Log
            | Self::Record
            | Self::Space
            | Self::Slot
            | Self::Version => true,
            Self::File
            | Self::Name
            | Self::Device
            | Self::Stale
            | Self::Allocated
            | Self::Checksum
            | Self::Block
            | Self::Journal => false,
        }
    }
}

/// Where a problem is, as far as it has a place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct At {
    /// The file or block device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The byte in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// The device of the pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<u16>,
    /// The slot on the device: its segment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot: Option<u64>,
    /// The block in the slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block: Option<u64>,
    /// How many blocks or slots from there on, where more than one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// The byte in the disk that the block belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_offset: Option<u64>,
}

/// A broken rule.
#[derive(Clone, Debug, Serialize)]
pub struct Problem {
    /// How grave it is.
    pub severity: Severity,
    /// Which rule.
    pub kind: Kind,
    /// What is wrong, in words.
    pub message: String,
    /// Where.
    pub at: At,
    /// Disks that it touches, by file name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<String>,
    /// Snapshots that it touches, by file name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<String>,
    /// Whether a repair has mended it.
    pub repaired: bool,
    /// The changes of the catalog that mend it.
    #[serde(skip)]
    pub(super) mend: Vec<Change>,
}

impl Problem {
    pub(super) fn new(severity: Severity, kind: Kind, message: impl Into<String>) -> Self {
        Self {
            severity,
            kind,
            message: message.into(),
            at: At::default(),
            disks: Vec::new(),
            snapshots: Vec::new(),
            repaired: false,
            mend: Vec::new(),
        }
    }

    pub(super) fn damage(kind: Kind, message: impl Into<String>) -> Self {
        Self::new(Severity::Damage, kind, message)
    }

    pub(super) fn note(kind: Kind, message: impl Into<String>) -> Self {
        Self::new(Severity::Note, kind, message)
    }

    /// One that these changes mend.
    pub(super) fn mended_by(kind: Kind, message: impl Into<String>, mend: Vec<Change>) -> Self {
        let problem = Self::new(Severity::Repairable, kind, message);
        Self { mend, ..problem }
    }

    pub(super) fn in_file(mut self, file: &str, offset: u64) -> Self {
        (self.at.file, self.at.offset) = (Some(file.to_owned()), Some(offset));
        self
    }

    pub(super) fn at_slot(mut self, place: Place) -> Self {
        (self.at.device, self.at.slot) = (Some(place.device.0), Some(place.slot.0));
        self
    }

    pub(super) fn of_disk(mut self, name: impl Into<String>) -> Self {
        self.disks.push(name.into());
        self
    }

    pub(super) fn of_disks(mut self, names: impl IntoIterator<Item = String>) -> Self {
        self.disks.extend(names);
        self
    }

    pub(super) fn of_snapshot(mut self, name: impl Into<String>) -> Self {
        self.snapshots.push(name.into());
        self
    }
}
