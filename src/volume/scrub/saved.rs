//! Where a scrub has come to, in a small file of the store: a big pool takes days, and its daemon
//! may be restarted meanwhile. Nothing depends on the file: without it the scrub begins anew.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::state::Reached;
use crate::base::DeviceNo;
use crate::volume::ScrubStatus;

/// The longest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

#[derive(Serialize, Deserialize)]
struct Saved {
    /// The stretch that comes next: device and number.
    next: Option<(u16, u64)>,
    scrub: ScrubStatus,
}

/// Reads the file; nothing where there is none.
pub(super) fn load(path: &Path) -> io::Result<Option<(ScrubStatus, Reached)>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text)?;
    let saved: Saved = serde_yaml::from_str(&text).map_err(io::Error::other)?;
    let next = saved.next.map(|(device, at)| (DeviceNo(device), at));
    let checked = saved.scrub.checked;
    Ok(Some((saved.scrub, Reached { next, checked })))
}

/// Writes it anew. It is not synced: after a power loss the scrub may begin anew.
pub(super) fn save(path: &Path, mut scrub: ScrubStatus, reached: Reached) -> io::Result<()> {
    if scrub.finished.is_none() {
        scrub.checked = reached.checked;
    }
    let next = reached.next.map(|(device, at)| (device.0, at));
    let text = serde_yaml::to_string(&Saved { next, scrub }).map_err(io::Error::other)?;
    let new = path.with_extension("new");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let mut file = File::from(rustix::fs::open(&new, flags, Mode::RUSR | Mode::WUSR)?);
    file.write_all(text.as_bytes())?;
    std::fs::rename(&new, path)
}
