//! The state of a store, as `.status` and `snapmark status` show it.

use serde::{Deserialize, Serialize};

use super::ScrubStatus;

/// The state of a mounted store. Sizes are bytes, times RFC 3339 UTC.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// `ok`; or `paused: ` and what waits for space on the host; or `halted: ` and why the store
    /// has stopped writing.
    pub state: String,
    /// What to do, where it is not `ok`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
    /// Seconds that something has waited for space on the host, in all.
    #[serde(default)]
    pub paused_seconds: u64,
    /// Where space runs low, in words.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// The store's UUID.
    pub store: String,
    /// Version of the program that serves it.
    pub version: String,
    /// Bytes in a segment.
    pub segment: u64,
    /// The pool.
    pub pool: PoolStatus,
    /// The cache.
    pub cache: CacheStatus,
    /// The journal; absent in volatile mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal: Option<JournalStatus>,
    /// The online data check.
    #[serde(default)]
    pub scrub: ScrubStatus,
    /// The iSCSI target, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iscsi: Option<IscsiStatus>,
    /// Schedules of snapshots, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schedules: Vec<ScheduleStatus>,
    /// Devices of the pool.
    pub devices: Vec<DeviceStatus>,
    /// Disks by name.
    pub disks: Vec<DiskStatus>,
    /// Snapshots by disk name and age.
    pub snapshots: Vec<SnapshotStatus>,
}

/// The iSCSI target.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct IscsiStatus {
    /// Addresses and ports at which it listens.
    pub portals: Vec<String>,
    /// Logins that succeeded since the store was mounted.
    pub logins: u64,
    /// Connections that ended without one.
    pub failed_logins: u64,
    /// Sessions, oldest first.
    pub sessions: Vec<IscsiSessionStatus>,
}

/// A schedule of snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleStatus {
    /// Its name.
    pub name: String,
    /// When it was last at work; absent until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
    /// Why there was no snapshot then, or what of its commands failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When it is due; absent where it never is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Snapshots that it took and that it has not deleted.
    pub snapshots: u64,
}

/// An iSCSI session. Counts are from its login on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct IscsiSessionStatus {
    /// The initiator's name.
    pub initiator: String,
    /// Its address and port.
    pub address: String,
    /// The target's name; absent in a discovery session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// When it logged in.
    pub since: String,
    /// SCSI commands that have ended.
    pub commands: u64,
    /// Bytes that were read.
    pub read: u64,
    /// Bytes that were written.
    pub written: u64,
}

/// Space of the pool in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PoolStatus {
    /// All segments.
    pub total: u64,
    /// Segments in use.
    pub used: u64,
    /// Promised to writes that are still in the cache.
    pub reserved: u64,
    /// Given up, waiting for their hole punch.
    pub pending: u64,
    /// Free for new writes.
    pub available: u64,
}

/// The cache.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CacheStatus {
    /// Configured bytes.
    pub size: u64,
    /// Bytes of data waiting to be destaged.
    pub used: u64,
    /// Records waiting to be destaged.
    pub records: u64,
    /// Snapshot markers waiting to be destaged.
    pub markers: u64,
    /// Blocks read that were found in it.
    pub hits: u64,
    /// Blocks read that were not.
    pub misses: u64,
}

/// The journal.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JournalStatus {
    /// Where it is.
    pub path: String,
    /// Bytes that it can hold.
    pub size: u64,
    /// Bytes in use.
    pub used: u64,
}

/// A device of the pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// Its number.
    pub device: u16,
    /// Where it is.
    pub path: String,
    /// Bytes of its segments.
    pub size: u64,
    /// Bytes of its segments in use.
    pub used: u64,
    /// Bytes that the host has allocated for it, where it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocated: Option<u64>,
    /// Bytes left on the host's file system, where the device takes them as it is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_available: Option<u64>,
    /// Calls on it that have failed since the store was mounted.
    #[serde(default)]
    pub errors: DeviceErrors,
}

/// How often calls on a device have failed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceErrors {
    /// Reads.
    pub read: u64,
    /// Writes.
    pub write: u64,
    /// Syncs.
    pub sync: u64,
    /// Punches of holes.
    pub punch: u64,
    /// The last failure in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
}

/// A disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// Its name.
    pub name: String,
    /// Virtual size.
    pub size: u64,
    /// Allocated bytes.
    pub allocated: u64,
    /// When it was made.
    pub created: String,
    /// The snapshot that it is a clone of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// Open handles.
    pub opens: u64,
    /// Bytes of it that wait in the cache.
    pub queued: u64,
    /// Its destage priority.
    pub priority: u8,
}

/// A snapshot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SnapshotStatus {
    /// Its disk's name.
    pub disk: String,
    /// Its own name.
    pub name: String,
    /// Virtual size.
    pub size: u64,
    /// Allocated bytes of the disk at the marker.
    pub allocated: u64,
    /// When the marker was set.
    pub created: String,
    /// Whether its marker still waits in the cache.
    pub queued: bool,
}
