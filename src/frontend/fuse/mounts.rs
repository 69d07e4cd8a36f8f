//! What is mounted where, from the kernel's own list. Asking it never waits for a filesystem.

use std::io;
use std::path::{Path, PathBuf};

use crate::base::{Mounted, parse_mountinfo};

/// As many links as the kernel follows in one path.
const MAX_LINKS: usize = 40;

/// All mounts that this process sees, each after those that it may cover.
///
/// # Errors
/// Where `/proc` is not there.
pub fn mounts() -> io::Result<Vec<Mounted>> {
    Ok(parse_mountinfo(&std::fs::read("/proc/self/mountinfo")?))
}

/// What is on top at this path, which must be absolute and without symbolic links.
///
/// # Errors
/// Where `/proc` is not there.
pub fn mounted_at(path: &Path) -> io::Result<Option<Mounted>> {
    let at = |mounted: &Mounted| mounted.mountpoint == path;
    Ok(mounts()?.into_iter().rev().find(at))
}

/// The name as an option value for `fusermount3`, where commas separate options.
pub(super) fn escape_option(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,")
}

/// The absolute path of a directory, without symbolic links and without asking the directory
/// itself, which a dead daemon would answer with an error: its parent is looked at, and where it
/// is a link, whatever that leads to.
///
/// # Errors
/// Where the parent is not there, or links lead in a circle.
pub fn absolute(path: &Path) -> io::Result<PathBuf> {
    let mut path = std::path::absolute(path)?;
    for _ in 0..MAX_LINKS {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return path.canonicalize();
        };
        let parent = parent.canonicalize()?;
        let found = parent.join(name);
        match std::fs::read_link(&found) {
            Ok(target) => path = parent.join(target),
            Err(_) => return Ok(found),
        }
    }
    Err(rustix::io::Errno::LOOP.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_always_mounted() {
        assert!(mounted_at(Path::new("/")).unwrap().is_some());
    }

    #[test]
    fn links_are_followed_without_asking_what_they_lead_to() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        let at = |name: &str| real.join(name);
        std::os::unix::fs::symlink("b", at("a")).unwrap();
        std::os::unix::fs::symlink(at("target"), at("b")).unwrap();
        std::os::unix::fs::symlink("circle", at("circle")).unwrap();
        assert_eq!(absolute(&at("a")).unwrap(), at("target"));
        assert_eq!(absolute(&at("./target/")).unwrap(), at("target"));
        assert!(absolute(&at("circle")).is_err());
        assert_eq!(absolute(Path::new("/")).unwrap(), Path::new("/"));
    }

    #[test]
    fn commas_in_a_stores_path_do_not_end_the_option() {
        assert_eq!(escape_option(r"/a,b\c"), r"/a\,b\\c");
    }
}
