//! Small files of a store, opened by name.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

/// Opens a file of a store; where the flags have it made, it is its owner's alone. Whatever lies
/// there in its place is neither written nor waited for.
///
/// # Errors
/// Where the host refuses, or it is no regular file of one name: what has another name may be a
/// file that matters elsewhere.
pub fn open_own(path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let mode = Mode::RUSR | Mode::WUSR;
    let file = File::from(rustix::fs::open(path, flags, mode)?);
    let found = file.metadata()?;
    if found.is_file() && found.nlink() <= 1 {
        Ok(file)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no regular file of one name; remove it",
        ))
    }
}
