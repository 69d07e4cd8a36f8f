//! What is mounted where, from the kernel's own list. Asking it never waits for a filesystem.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The type that the kernel shows for a Snapmark mount.
pub(super) const TYPE: &str = "fuse.snapmark";

/// As many links as the kernel follows in one path.
const MAX_LINKS: usize = 40;

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// The mount's number, as `statx` also tells it.
    pub id: u64,
    /// Where.
    pub mountpoint: PathBuf,
    /// The device number as `MAJOR:MINOR`; no two mounted filesystems share one.
    pub device: String,
    /// The filesystem's type.
    pub kind: String,
    /// What is mounted; with Snapmark, the store's path.
    pub source: OsString,
}

impl Mounted {
    /// The device number as `stat` tells it of what is in there.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        let (major, minor) = self.device.split_once(':')?;
        Some(rustix::fs::makedev(
            major.parse().ok()?,
            minor.parse().ok()?,
        ))
    }

    /// Whether this is Snapmark's.
    #[must_use]
    pub fn is_snapmark(&self) -> bool {
        self.kind == TYPE
    }
}

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

/// Reads the format of `/proc/self/mountinfo` (proc_pid_mountinfo(5)), leaving out lines that are
/// not in it.
#[must_use]
pub fn parse_mountinfo(text: &[u8]) -> Vec<Mounted> {
    text.split(|byte| *byte == b'\n')
        .filter_map(parse_line)
        .collect()
}

fn parse_line(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let device = fields.nth(1)?;
    let mountpoint = fields.nth(1)?;
    fields.find(|field| *field == b"-")?;
    let kind = fields.next()?;
    let source = fields.next()?;
    Some(Mounted {
        id,
        mountpoint: unescape(mountpoint).into(),
        device: String::from_utf8(device.to_vec()).ok()?,
        kind: String::from_utf8(kind.to_vec()).ok()?,
        source: unescape(source),
    })
}

/// Undoes the octal escapes of spaces, tabs, newlines and backslashes.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        match (first, octal(after)) {
            (b'\\', Some(byte)) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes)
}

fn octal(after: &[u8]) -> Option<u8> {
    let digits = std::str::from_utf8(after.get(..3)?).ok()?;
    u8::from_str_radix(digits, 8).ok()
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
    use std::ffi::OsStr;

    const SAMPLE: &[u8] = b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
        90 22 0:45 / /mnt/a\\040b rw,nosuid,nodev - fuse.snapmark /srv/my\\134store rw,user_id=0\n\
        broken line\n\
        91 22 0:46 / /mnt/c rw shared:3 master:4 - tmpfs tmpfs rw\n";

    #[test]
    fn the_kernels_list_is_read() {
        let mounts = parse_mountinfo(SAMPLE);
        assert_eq!(mounts.len(), 3);
        let ours = &mounts[1];
        assert!(ours.is_snapmark() && !mounts[0].is_snapmark());
        assert_eq!(ours.mountpoint, Path::new("/mnt/a b"));
        assert_eq!((ours.id, ours.device.as_str()), (90, "0:45"));
        assert_eq!(ours.source, OsStr::new("/srv/my\\store"));
        assert_eq!(mounts[2].kind, "tmpfs");
    }

    #[test]
    fn escapes_that_are_none_stay() {
        assert_eq!(unescape(b"a\\04"), OsStr::new("a\\04"));
        assert_eq!(unescape(b"a\\999b"), OsStr::new("a\\999b"));
    }

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
