//! Disks and snapshots as objects that are read, written, named and snapshotted. What the
//! frontends and `control` speak to; knows nothing of FUSE or SCSI.

mod error;
mod metrics;
mod status;
mod types;

pub use error::VolumeError;
pub use metrics::{Histogram, Metrics, OperationMetrics};
pub use status::{
    CacheStatus, DeviceStatus, DiskStatus, JournalStatus, PoolStatus, SnapshotStatus, Status,
};
pub use types::{Attributes, Extent, NewDisk, Node, PoolUsage, SetAttributes, SnapshotId, Whence};

mod volumes;
pub use volumes::Volumes;
