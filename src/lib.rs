//! Snapmark: thin virtual disks in a FUSE mount, with exact snapshots that never stop the writer.
//!
//! The modules are layers; each may import only those to its left, and a test holds that:
//!
//! `base < ondisk < config < device < store < cache < volume < snapshot < check < control <
//! frontend < daemon < cli`
//!
//! A store is made by [`daemon::init::init`] and served by [`daemon::mount::Mounting`]. To use one
//! in a process of one's own, without a mount, [`daemon::store::OpenStore::open`] gives its
//! [`volume::Volumes`]: read, write, snapshot, clone, roll back. `ARCHITECTURE.md` in the
//! repository leads through the code along the way of a write and of a snapshot.

pub mod base;
pub mod cache;
pub mod check;
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
