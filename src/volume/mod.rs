//! Disks and snapshots as objects that are read, written, named and snapshotted. What the
//! frontends and `control` speak to; knows nothing of FUSE or SCSI.

mod devices;
mod error;
mod low_space;
mod metrics;
mod names;
mod namespace;
mod planned;
mod prefetch;
mod read;
mod report;
mod scrub;
mod scrub_status;
mod seek;
mod status;
mod types;
mod volumes;
mod write;
mod write_lent;

pub use error::VolumeError;
pub use metrics::{Histogram, Metrics, OperationMetrics};
pub(crate) use namespace::Namespace;
pub use planned::{EndedRead, Plan, PlannedRead, ReadQueue};
pub use report::Reports;
pub use scrub::{Scrub, ScrubConfig};
pub use scrub_status::{ScrubProblem, ScrubState, ScrubStatus};
pub use status::{
    CacheStatus, DeviceErrors, DeviceStatus, DiskStatus, IscsiSessionStatus, IscsiStatus,
    JournalStatus, PoolStatus, ScheduleStatus, SnapshotStatus, Status,
};
pub use types::{Attributes, Extent, NewDisk, Node, PoolUsage, SetAttributes, SnapshotId, Whence};
pub(crate) use volumes::{Entered, Result};
pub use volumes::{MAX_DISK_SIZE, VolumeConfig, Volumes};
