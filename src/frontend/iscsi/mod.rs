//! The iSCSI target (RFC 7143): the same disks over the network. A thin layer that turns SCSI commands
//! into calls of `volume` and `control`; what a disk is is decided below.
//!
//! Where to read on: `server` listens, `login` lets initiators in, `connection` receives, `reads` has reads
//! under way, `session` and `order` say what is done when, `scsi/` does it, `wire/` knows the bytes.

mod budget;
mod connection;
#[doc(hidden)]
pub mod fuzz;
mod initiator;
mod login;
mod logins;
mod names;
mod options;
mod order;
mod reads;
mod scsi;
mod server;
mod session;
mod sessions;
mod targets;
mod wire;

pub use initiator::{Identity, Initiator, InitiatorError, Outcome, Transfer};
pub use names::target_name;
pub use options::{Access, IscsiOptions};
pub use scsi::snapshot_cdb;
pub use server::{IscsiError, IscsiTarget};
