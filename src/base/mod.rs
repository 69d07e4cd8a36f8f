//! Numbers with units, geometry and names: what every other layer may use, and which uses none.

mod checksum;
mod clock;
mod geometry;
mod mask;
mod mountinfo;
mod name;
mod size;
pub mod sync;
mod units;
mod workers;

pub use checksum::{Checksum, checksum};
pub use clock::{Timestamp, now};
pub use geometry::{BLOCK, BLOCK_SIZE, Geometry, GeometryError};
pub use mask::BlockMask;
pub use mountinfo::{Mounted, parse_mountinfo};
pub use name::{
    NameError, check_disk_name, check_snapshot_name, snapshot_file_name, split_snapshot_file_name,
};
pub use size::{ByteSize, ParseSizeError};
pub use units::{Block, DeviceNo, DiskId, Epoch, MapId, Place, SegmentNo, Seq, Slot};
pub use workers::Workers;
