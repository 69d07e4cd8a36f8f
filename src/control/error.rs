//! Why a command failed: a kind that a frontend turns into its own code, and words for people.

use std::fmt;

use crate::base::NameError;
use crate::volume::VolumeError;

/// The kinds of failure that a caller can tell apart. Each stands for one errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The line is no command, or an argument makes no sense.
    Invalid,
    /// No such disk or snapshot.
    NotFound,
    /// The name is taken.
    Exists,
    /// The disk is open.
    Busy,
    /// The pool is full.
    NoSpace,
    /// The target is a snapshot, which does not change.
    ReadOnly,
    /// The line or a name is too long.
    TooLong,
    /// A size that no disk can have.
    TooBig,
    /// A device failed, or the store has halted.
    Io,
}

impl ErrorKind {
    /// The errno's name, as `errno -l` and the history show it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Invalid => "EINVAL",
            Self::NotFound => "ENOENT",
            Self::Exists => "EEXIST",
            Self::Busy => "EBUSY",
            Self::NoSpace => "ENOSPC",
            Self::ReadOnly => "EROFS",
            Self::TooLong => "ENAMETOOLONG",
            Self::TooBig => "EFBIG",
            Self::Io => "EIO",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A command that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CommandError {
    /// Which kind of failure.
    pub kind: ErrorKind,
    /// What went wrong and what to do, without a line feed at the end.
    pub message: String,
}

impl CommandError {
    /// An error of this kind with these words.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// A line or argument that makes no sense.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }
}

impl From<VolumeError> for CommandError {
    fn from(error: VolumeError) -> Self {
        let kind = match &error {
            VolumeError::NotFound(_) => ErrorKind::NotFound,
            VolumeError::Exists(_) => ErrorKind::Exists,
            VolumeError::Name(NameError::TooLong(_)) => ErrorKind::TooLong,
            VolumeError::Name(_) | VolumeError::Invalid(_) => ErrorKind::Invalid,
            VolumeError::Busy(_) => ErrorKind::Busy,
            VolumeError::ReadOnly(_) => ErrorKind::ReadOnly,
            VolumeError::NoSpace { .. } | VolumeError::HostFull(_) | VolumeError::NoSpaceYet(_) => {
                ErrorKind::NoSpace
            }
            VolumeError::TooBig { .. } => ErrorKind::TooBig,
            VolumeError::Halted(_) | VolumeError::Io(_) => ErrorKind::Io,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<NameError> for CommandError {
    fn from(error: NameError) -> Self {
        VolumeError::from(error).into()
    }
}
