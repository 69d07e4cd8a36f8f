//! The process that serves a store: turns settings into running parts, and owns start and stop.

pub mod background;
pub mod init;
mod iscsi;
pub mod mount;
pub mod mountpoint;
pub mod process;
mod processes;
pub mod schedule;
pub mod serve;
pub mod store;
pub mod unmount;
