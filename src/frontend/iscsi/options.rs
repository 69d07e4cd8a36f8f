//! How disks are served over iSCSI.

use std::net::SocketAddr;
use std::time::Duration;

use crate::config::Glob;
pub use crate::config::{Account, Secrets};

/// What an iSCSI target is started with.
#[derive(Clone, Debug)]
pub struct IscsiOptions {
    /// Where it listens.
    pub listen: Vec<SocketAddr>,
    /// The store's part of target names.
    pub store: String,
    /// The store's number, from which the disks' serial numbers are made.
    pub uuid: [u8; 16],
    /// Who may log in, by CHAP; everybody where there are none.
    pub secrets: Option<Secrets>,
    /// Which initiators may use which disks; the first that matches counts, and without one all may.
    pub access: Vec<Access>,
    /// Whether it may listen beyond this machine without secrets.
    pub open: bool,
    /// Sessions at the most.
    pub sessions: usize,
    /// How long an initiator may be silent before it is asked whether it is still there, and how long it may
    /// take to answer.
    pub silence: Duration,
    /// How long data may take that an initiator was asked for.
    pub data_patience: Duration,
    /// How long a command may wait for space before the initiator is told to send it again.
    pub space_patience: Duration,
}

/// Who may use some disks, and their snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Which disks.
    pub disks: Glob,
    /// The names of initiators that may.
    pub initiators: Vec<Glob>,
}

impl IscsiOptions {
    /// How long initiators may be silent, unless told otherwise.
    pub const SILENCE: Duration = Duration::from_secs(30);
    /// How long data that were asked for may take, unless told otherwise.
    pub const DATA_PATIENCE: Duration = Duration::from_secs(30);

    /// How long commands wait for space, unless told otherwise. Linux's initiator gives them 30 s, and
    /// then resets the unit.
    pub const SPACE_PATIENCE: Duration = Duration::from_secs(10);

    /// Whether an initiator may use a disk.
    #[must_use]
    pub fn allows(&self, initiator: &str, disk: &str) -> bool {
        let rule = self.access.iter().find(|rule| rule.disks.matches(disk));
        rule.is_none_or(|rule| rule.initiators.iter().any(|name| name.matches(initiator)))
    }
}
