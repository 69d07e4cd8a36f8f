//! What is mounted where, from the kernel's own list. Asking it never waits for a filesystem.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The type that the kernel shows for a Snapmark mount.
pub(super) const TYPE: &str = "fuse.snapmark";

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
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
    let device = fields.nth(2)?;
    let mountpoint = fields.nth(1)?;
    fields.find(|field| *field == b"-")?;
    let kind = fields.next()?;
    let source = fields.next()?;
    Some(Mounted {
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

/// The absolute path of a directory without asking the directory itself, which a dead daemon
/// would answer with an error: only its parent is looked at.
///
/// # Errors
/// Where the parent is not there.
pub fn absolute(path: &Path) -> io::Result<PathBuf> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => {
            let parent = if parent.as_os_str().is_empty() {
                Path::new(OsStr::from_bytes(b"."))
            } else {
                parent
            };
            Ok(parent.canonicalize()?.join(name))
        }
        _ => path.canonicalize(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(ours.device, "0:45");
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
    fn commas_in_a_stores_path_do_not_end_the_option() {
        assert_eq!(escape_option(r"/a,b\c"), r"/a\,b\\c");
    }
}
