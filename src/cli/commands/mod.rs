//! The subcommands, one file each.

pub mod check;
pub mod clone;
pub mod completions;
pub mod delete;
pub mod device;
pub mod flush;
pub mod init;
pub mod list;
pub mod man;
pub mod mount;
pub mod priority;
pub mod rename;
pub mod resize;
pub mod rollback;
pub mod scrub;
pub mod scsi_snapshot;
pub mod snapshot;
pub mod status;
pub mod top;
pub mod unmount;
