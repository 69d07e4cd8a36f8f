//! `BLKDISCARD`, the one request to the host that has no safe wrapper.

use std::os::fd::AsFd;

use rustix::io::Result as HostResult;
use rustix::ioctl::{self, Setter, opcode};

/// `_IO(0x12, 119)` of `linux/fs.h`.
const BLKDISCARD: ioctl::Opcode = opcode::none(0x12, 119);

/// Tells a block device that a range is not needed any more. What reads give there afterwards is
/// unspecified.
pub(super) fn discard(device: impl AsFd, offset: u64, len: u64) -> HostResult<()> {
    let range = [offset, len];
    #[allow(unsafe_code)] // rustix has no wrapper for this request
    // SAFETY: on a block device BLKDISCARD reads two u64 behind the pointer and writes nothing;
    // the setter holds the array by value until the call has returned. On any other file the host
    // answers ENOTTY.
    unsafe {
        ioctl::ioctl(device, Setter::<BLKDISCARD, [u64; 2]>::new(range))
    }
}
