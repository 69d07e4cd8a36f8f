//! What can go wrong in the catalog.

use crate::base::{DeviceNo, DiskId, Epoch, MapId, Place, Slot};
use crate::device::DeviceError;
use crate::ondisk::{FormatError, VersionKey};

/// A failure of the catalog.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CatalogError {
    /// The host failed. After a failed write or sync every later commit fails with it, too.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The host has no space for what the commit has to write. Nothing of it was made; it may be
    /// tried again.
    #[error(transparent)]
    NoRoom(DeviceError),
    /// There is no catalog.
    #[error("{device} holds no catalog; make a store with 'snapmark init'")]
    NotAStore {
        /// The device.
        device: String,
    },
    /// Neither of the two roots can be used.
    #[error(
        "both roots of {device} are damaged (page 0: {first}; page 1: {second}); restore it from a copy"
    )]
    RootsDamaged {
        /// The device.
        device: String,
        /// What is wrong with page 0.
        first: Box<FormatError>,
        /// What is wrong with page 1.
        second: Box<FormatError>,
    },
    /// A root that says why it can't be used.
    #[error("can't open the catalog in {device}: {source}")]
    Root {
        /// The device.
        device: String,
        /// Why.
        source: FormatError,
    },
    /// The newest root is gone: the log goes on from a later one than the best that there is.
    #[error(
        "the newest root of {pages} is damaged: the log {log} continues generation {newest}, \
         but the best root left is {root}; restore the catalog from a copy"
    )]
    LostRoot {
        /// The device of the pages.
        pages: String,
        /// The device of the log.
        log: String,
        /// The newest generation in the log.
        newest: u64,
        /// The newest whole root.
        root: u64,
    },
    /// A page is not what its parent says.
    #[error("page {page} of {device} is damaged: {source}")]
    Page {
        /// The device.
        device: String,
        /// The page.
        page: u64,
        /// What is wrong with it.
        source: FormatError,
    },
    /// A commit in the middle of the log can't be read.
    #[error(
        "{device} is damaged at byte {offset}: commit {commit} should be there, \
         and commit {later} comes after it"
    )]
    LogDamaged {
        /// The log's device.
        device: String,
        /// Where the commit should be.
        offset: u64,
        /// Its number.
        commit: u64,
        /// A later commit that is whole.
        later: u64,
    },
    /// A whole commit of the log does not fit the catalog that it was written for.
    #[error("commit {commit} at byte {offset} of {device} can't be repeated: {source}")]
    Replay {
        /// The log's device.
        device: String,
        /// Where it is.
        offset: u64,
        /// Its number.
        commit: u64,
        /// Why.
        source: Box<CatalogError>,
    },
    /// A device that is too small for a catalog.
    #[error("{device} has {len} bytes; a catalog needs at least {need}")]
    TooSmall {
        /// The device.
        device: String,
        /// Its length.
        len: u64,
        /// The least that would do.
        need: u64,
    },
    /// No page is left. Every later commit fails with it, too.
    #[error("all {pages} pages of {device} are in use; give the catalog more room")]
    PagesFull {
        /// The device.
        device: String,
        /// Pages that it has.
        pages: u64,
    },
    /// A change that can't be made; nothing of its commit was.
    #[error("change {index} of a commit can't be made: {reason}")]
    Refused {
        /// Its place in the commit.
        index: usize,
        /// Why.
        reason: Refusal,
    },
    /// A record that can't be read, or an argument that can't be stored.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A record stands under another one's key.
    #[error("the {what} found under key {key:#x} is another one's")]
    Misplaced {
        /// What kind of record.
        what: &'static str,
        /// The key.
        key: u128,
    },
    /// A block without a recorded checksum.
    #[error("block {block} of device {device} has no recorded checksum")]
    NoChecksum {
        /// The device.
        device: DeviceNo,
        /// The block, counted from the device's first slot.
        block: u64,
    },
    /// A tree that is deeper than any can be, or whose counters disagree with its entries.
    #[error("the catalog contradicts itself: {0}")]
    Inconsistent(&'static str),
}

/// Why a change can't be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It breaks a rule of its fields.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// There is no such disk.
    #[error("there is no disk {0}")]
    NoDisk(DiskId),
    /// There is no such map.
    #[error("there is no map {0}")]
    NoMap(MapId),
    /// There is no such snapshot.
    #[error("map {0} has no snapshot of epoch {1}")]
    NoSnapshot(MapId, Epoch),
    /// There is no such version.
    #[error("map {map} segment {segment} has no version that died in epoch {death}", map = .0.map, segment = .0.segment, death = .0.death)]
    NoVersion(VersionKey),
    /// Versions give up more blocks of a pack than they had.
    #[error("{0} is a pack of which versions do not need so many blocks")]
    NotInPack(Place),
    /// There is no such device.
    #[error("there is no device {0}")]
    NoDevice(DeviceNo),
    /// The number is in use.
    #[error("there is a device {0} already")]
    DeviceExists(DeviceNo),
    /// Past the device's end.
    #[error("{count} {what} from {first} lie outside device {device}, which has {limit}")]
    OutsideDevice {
        /// Slots or blocks.
        what: &'static str,
        /// The device.
        device: DeviceNo,
        /// The first of them.
        first: u64,
        /// How many.
        count: u64,
        /// How many there are.
        limit: u64,
    },
    /// Slots to be taken that are not free.
    #[error("{count} segments of device {device} from {first} are not all free")]
    NotFree {
        /// The device.
        device: DeviceNo,
        /// The first of them.
        first: Slot,
        /// How many.
        count: u64,
    },
    /// A slot to be given up that is free.
    #[error("{0} is free already")]
    IsFree(Place),
    /// A slot to be given up that waits for its hole punch.
    #[error("{0} has been given up already")]
    IsPending(Place),
    /// A slot to be freed that has not been given up.
    #[error("{0} has not been given up")]
    NotPending(Place),
    /// A count is less than what is there.
    #[error("the catalog counts too few {0} segments; 'snapmark check --repair' counts them anew")]
    Miscounted(&'static str),
}
