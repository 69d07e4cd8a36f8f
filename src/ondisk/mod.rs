//! The on-disk formats: types, and the bytes that they become. Does no I/O.
//!
//! Numbers are little-endian and of fixed width. Each file below documents one format, beside the
//! offsets that its code reads by. Decoding never panics, whatever the bytes.

mod catalog;
mod change;
mod disk;
mod error;
mod field;
mod foreign;
mod frame;
#[cfg(test)]
mod golden;
pub mod journal;
mod key;
mod map;
mod marks;
mod page;
mod pool;
mod root;
mod snapshot;
mod sums;
mod superblock;
mod tree_kind;
mod version;
mod wire;

pub use catalog::{
    Change, Descriptor, DeviceRecord, DiskRecord, Extent, Layout, MapRecord, Marks, Origin,
    SnapshotRecord, Space, VersionKey,
};
pub use error::FormatError;
pub use field::Record;
pub use foreign::{FOREIGN_PROBE, foreign};
pub use frame::{FrameHeader, encode_frame};
pub use key::{
    decode_pack, decode_run, encode_pack, encode_run, key_place, place_key, snapshot_key,
};
pub use page::{
    PAGE, Page, PageBody, PageHeader, PageRef, encode_branch, encode_leaf, page_capacity,
};
pub use pool::DeviceEntry;
pub use root::{FORMAT_VERSION, ROOTS_END, Root, TreeRoot};
pub use sums::SumGroup;
pub use superblock::{
    DATA_START, RawSuper, SUPERBLOCK_VERSION, SuperError, Superblock, Uuid, slot_start, slots_for,
};
pub use tree_kind::{PAGE_MAP_BYTES, PAGE_MAP_PAGES, TreeKind};
pub use wire::WireError;
