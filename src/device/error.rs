//! What can go wrong on a device, with place and numbers.

use std::fmt;
use std::io;
use std::sync::Arc;

/// What was being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Opening or creating it.
    Open,
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Making writes durable.
    Sync,
    /// Giving space back.
    Punch,
    /// Asking for its size or allocation.
    Stat,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Read => "read",
            Self::Write => "write",
            Self::Sync => "sync",
            Self::Punch => "punch a hole in",
            Self::Stat => "stat",
        })
    }
}

/// A failed operation on a device.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DeviceError {
    /// The host said no.
    #[error("can't {operation} {device} at byte {offset}, {len} bytes: {source}")]
    Host {
        /// What was tried.
        operation: Operation,
        /// On what.
        device: String,
        /// From which byte.
        offset: u64,
        /// How many bytes.
        len: u64,
        /// The host's word.
        source: Arc<io::Error>,
    },
    /// The range is not within the device.
    #[error("{operation} of {len} bytes at {offset} lies outside {device}, which has {size} bytes")]
    OutOfRange {
        /// What was tried.
        operation: Operation,
        /// On what.
        device: String,
        /// From which byte.
        offset: u64,
        /// How many bytes.
        len: u64,
        /// Bytes that there are.
        size: u64,
    },
}

impl DeviceError {
    /// The host's error number, where it gave one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Host { source, .. } => source.raw_os_error(),
            Self::OutOfRange { .. } => None,
        }
    }
}
