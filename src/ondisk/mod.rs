//! The on-disk formats: types, and the bytes that they become. Does no I/O.

mod catalog;

pub use catalog::{
    Change, Descriptor, DeviceRecord, DiskRecord, MapRecord, Marks, Origin, SnapshotRecord, Space,
    VersionKey,
};
