//! The ways in: each frontend serves the same disks to another kind of client, speaks to `volume`
//! and `control` alone, and imports no other frontend.

pub mod fuse;
pub mod iscsi;
