//! The one place that turns errors into errno.

use fuser::Errno;

use crate::base::NameError;
use crate::control::{CommandError, ErrorKind};
use crate::volume::VolumeError;

impl From<VolumeError> for Errno {
    fn from(error: VolumeError) -> Self {
        errno(&error)
    }
}

impl From<CommandError> for Errno {
    fn from(error: CommandError) -> Self {
        match error.kind {
            ErrorKind::Invalid => Errno::EINVAL,
            ErrorKind::NotFound => Errno::ENOENT,
            ErrorKind::Exists => Errno::EEXIST,
            ErrorKind::Busy => Errno::EBUSY,
            ErrorKind::NoSpace => Errno::ENOSPC,
            ErrorKind::ReadOnly => Errno::EROFS,
            ErrorKind::TooLong => Errno::ENAMETOOLONG,
            ErrorKind::TooBig => Errno::EFBIG,
            ErrorKind::Io => Errno::EIO,
        }
    }
}

fn errno(error: &VolumeError) -> Errno {
    match error {
        VolumeError::NotFound(_) => Errno::ENOENT,
        VolumeError::Exists(_) => Errno::EEXIST,
        VolumeError::Name(NameError::TooLong(_)) => Errno::ENAMETOOLONG,
        VolumeError::Name(_) | VolumeError::Invalid(_) => Errno::EINVAL,
        VolumeError::Busy(_) => Errno::EBUSY,
        VolumeError::ReadOnly(_) => Errno::EROFS,
        VolumeError::NoSpace { .. } | VolumeError::HostFull(_) | VolumeError::NoSpaceYet(_) => {
            Errno::ENOSPC
        }
        VolumeError::TooBig { .. } => Errno::EFBIG,
        VolumeError::Halted(_) | VolumeError::Io(_) => Errno::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(error: VolumeError) -> i32 {
        let alone = Errno::from(error.clone()).code();
        assert_eq!(Errno::from(CommandError::from(error)).code(), alone);
        alone
    }

    #[test]
    fn errors_become_the_errno_that_tools_expect() {
        let name = || "vm1.img".to_owned();
        let full = VolumeError::NoSpace {
            needed: 2,
            available: 1,
        };
        let huge = VolumeError::TooBig { size: 2, max: 1 };
        assert_eq!(of(VolumeError::NotFound(name())), libc::ENOENT);
        assert_eq!(of(VolumeError::Exists(name())), libc::EEXIST);
        assert_eq!(of(VolumeError::Busy(name())), libc::EBUSY);
        assert_eq!(of(VolumeError::ReadOnly(name())), libc::EROFS);
        assert_eq!(of(full), libc::ENOSPC);
        assert_eq!(of(VolumeError::HostFull(name())), libc::ENOSPC);
        assert_eq!(of(huge), libc::EFBIG);
        assert_eq!(of(VolumeError::Invalid(name())), libc::EINVAL);
        assert_eq!(of(VolumeError::Halted(name())), libc::EIO);
        assert_eq!(of(VolumeError::Io(name())), libc::EIO);
        assert_eq!(of(NameError::Empty.into()), libc::EINVAL);
        assert_eq!(of(NameError::TooLong(300).into()), libc::ENAMETOOLONG);
    }

    #[test]
    fn a_bad_command_line_is_an_invalid_argument() {
        let usage = CommandError::invalid("no such command");
        assert_eq!(Errno::from(usage).code(), libc::EINVAL);
    }
}
