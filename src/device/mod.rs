//! The one seam to the outside: byte storage that is read, written, synced and punched.

mod aio;
mod aligned;
mod crash;
mod discard;
mod error;
mod fault;
mod file;
mod forward;
mod memory;
mod range;
mod step;
mod transfer;
mod uring;

pub use aligned::AlignedBuf;
pub use crash::{CrashDisk, Images, Limits, Loss, Losses};
pub use error::{DeviceError, Operation};
pub use fault::{Effect, Fault, FaultDevice, When};
pub use file::{FileDevice, Fill, OpenMode};
pub use forward::ForwardReader;
pub use memory::MemoryDevice;
pub use step::Step;
#[cfg(debug_assertions)]
pub use step::{Watch, watch};
pub use uring::{Ended, ReadRing};

use std::io::IoSlice;
use std::os::fd::BorrowedFd;

/// Random-access byte storage of a fixed length: a backing file, a block device, a journal, a
/// catalog file; in tests memory, faults, and crashes.
///
/// Calls may come from many threads at once. None of them returns a short count: they finish, or
/// fail with what was tried and why. `EINTR` and short transfers are dealt with inside.
pub trait Device: Send + Sync {
    /// What to call it in messages, usually its path.
    fn name(&self) -> &str;

    /// Its length in bytes.
    fn len(&self) -> u64;

    /// Whether it has no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buf` from `offset`. Space that was never written, or was punched, reads as zeros.
    ///
    /// # Errors
    /// Where the range lies outside, or the host fails.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), DeviceError>;

    /// As [`read_at`](Self::read_at), from the medium itself where that can be done: for those who
    /// want to know whether it still has what was written. Wants whole blocks in an
    /// [`AlignedBuf`]; else it is an ordinary read.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    fn read_uncached(&self, buf: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        self.read_at(buf, offset)
    }

    /// Writes all of `bufs`, one after the other, from `offset`. Durable after a later [`sync`].
    ///
    /// [`sync`]: Device::sync
    ///
    /// # Errors
    /// Where the range lies outside, or the host fails; then any part of it may have been written.
    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<(), DeviceError>;

    /// Makes all these writes, in any order, as [`write_at`](Self::write_at) does one; where a
    /// device is faster with many at a time, many at a time. It may be faster where the bytes are
    /// whole blocks in aligned memory.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at), for one of them; any of the others may have been made.
    fn write_each(&self, writes: &[Write<'_>]) -> Result<(), DeviceError> {
        writes
            .iter()
            .try_for_each(|write| self.write_at(write.bufs, write.offset))
    }

    /// Makes all these reads, in any order, and says which of them it could; where a device is faster
    /// with many at a time, many at a time, past the host's memory. Who wants to know why one could
    /// not be made asks for it by [`read_at`](Self::read_at).
    fn read_each(&self, reads: &mut [Read<'_>]) -> Vec<bool> {
        let mut read = |read: &mut Read<'_>| self.read_at(read.buf, read.offset).is_ok();
        reads.iter_mut().map(&mut read).collect()
    }

    /// The host's file that [`read_at`](Self::read_at) reads, for those who read it in a way of their own;
    /// none where a read is more than that.
    fn file(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Has the host bring a range into its memory, and does not wait until it is there. Says whether
    /// that can be done, and makes it faster to write to parts of pages there.
    fn prefetch(&self, _offset: u64, _len: u64) -> bool {
        false
    }

    /// Has the host begin to write a range out, and does not wait for the end of it, though a busy disk
    /// may keep it waiting for the beginning: so that a later [`sync`](Self::sync), which alone says
    /// what is durable, has less left to do.
    fn begin_sync(&self, _offset: u64, _len: u64) {}

    /// Makes every write and punch that returned before this call durable (`fdatasync`).
    ///
    /// # Errors
    /// Where the host fails. The caller must take that as final: what was written since the last
    /// sync that returned may be lost, and asking again proves nothing.
    fn sync(&self) -> Result<(), DeviceError>;

    /// Gives a range back to the host; it reads as zeros from then on.
    ///
    /// # Errors
    /// Where the range lies outside, or the host fails. A device that can't give space back does
    /// nothing and returns `Ok(false)`: the range's bytes are then unspecified.
    fn punch(&self, offset: u64, len: u64) -> Result<bool, DeviceError>;

    /// Bytes that the host has allocated for it (all of them, for a block device).
    ///
    /// # Errors
    /// Where the host fails.
    fn allocated(&self) -> Result<u64, DeviceError>;

    /// The space of the host's file system that it is on, where it takes from that as it is
    /// written.
    fn host_space(&self) -> Option<HostSpace> {
        None
    }
}

/// One of many writes.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// Where it goes.
    pub offset: u64,
    /// What, one after the other.
    pub bufs: &'a [IoSlice<'a>],
}

/// One of many reads.
#[derive(Debug)]
pub struct Read<'a> {
    /// From where.
    pub offset: u64,
    /// Where to.
    pub buf: &'a mut [u8],
}

/// Space of a file system of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostSpace {
    /// Bytes that there are for this user, used or not.
    pub total: u64,
    /// Bytes that are left.
    pub available: u64,
}
