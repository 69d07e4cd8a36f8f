//! Which mounts there are.

use std::path::Path;

use super::exit::Failure;
use crate::base::{Mounted, parse_mountinfo};

/// The mounts of this process's namespace.
///
/// # Errors
/// Where `/proc` is not there.
pub fn mounts() -> Result<Vec<Mounted>, Failure> {
    let path = "/proc/self/mountinfo";
    let bytes = std::fs::read(path).map_err(|error| Failure::io(path, &error))?;
    Ok(parse_mountinfo(&bytes))
}

/// The mounts of ours among these, each mountpoint once.
#[must_use]
pub fn snapmark_mounts(mounts: &[Mounted]) -> Vec<&Path> {
    let ours = mounts.iter().filter(|mounted| mounted.is_snapmark());
    let mut paths: Vec<&Path> = ours.map(|mounted| mounted.mountpoint.as_path()).collect();
    paths.sort_unstable();
    paths.dedup();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mountpoint_is_named_once() {
        let mounts = parse_mountinfo(
            b"22 27 0:21 / /proc rw,relatime - proc proc rw
40 27 0:50 / /srv/disks rw,nosuid - fuse.snapmark /srv/store rw,user_id=0
41 27 0:50 / /srv/disks rw,nosuid - fuse.snapmark /srv/store rw,user_id=0",
        );
        assert_eq!(snapmark_mounts(&mounts), [Path::new("/srv/disks")]);
    }
}
