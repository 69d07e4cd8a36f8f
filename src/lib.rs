//! Snapmark: thin virtual disks in a FUSE mount, with exact snapshots that never stop the writer.
//!
//! The modules are layers; each may import only those to its left:
//! `base < ondisk < config < device < store < cache < volume < snapshot < control < frontend <
//! daemon < cli`. A test holds that.

pub mod base;
pub mod cache;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod device;
pub mod frontend;
pub mod ondisk;
pub mod snapshot;
pub mod store;
pub mod volume;
