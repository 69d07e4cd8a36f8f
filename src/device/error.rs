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

    /// Whether a write found no space on the host, or no quota. Such a write may be tried again.
    /// A sync that says so may not: what was written is lost.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::Host {
                operation: Operation::Write,
                source,
                ..
            } => matches!(source.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_write_may_find_no_space_and_be_tried_again() {
        let error = |operation, errno| DeviceError::Host {
            operation,
            device: "d".to_owned(),
            offset: 0,
            len: 1,
            source: Arc::new(io::Error::from_raw_os_error(errno)),
        };
        assert!(error(Operation::Write, libc::ENOSPC).is_no_space());
        assert!(error(Operation::Write, libc::EDQUOT).is_no_space());
        assert!(!error(Operation::Write, libc::EIO).is_no_space());
        assert!(!error(Operation::Sync, libc::ENOSPC).is_no_space());
    }
}
