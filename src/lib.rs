//! Snapmark: thin virtual disks in a FUSE mount, with exact snapshots that never stop the writer.
//!
//! The modules below are layers; each may import only those listed before it. `tests/layers.rs`
//! holds that.

pub mod base;
pub mod device;
pub mod ondisk;
pub mod volume;
