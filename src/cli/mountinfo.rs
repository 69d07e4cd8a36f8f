//! `/proc/self/mountinfo` (proc_pid_mountinfo(5)): which mounts there are.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::exit::Failure;

/// The type that the kernel shows for a mount of ours.
pub const FS_TYPE: &str = "fuse.snapmark";

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// The mount's number, as `statx` also tells it.
    pub id: u64,
    /// The device of the file system as `MAJOR:MINOR`; major 0 where it has none of its own.
    pub device: String,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// Its type.
    pub fs_type: String,
    /// What is mounted there: a block device, or any word.
    pub source: PathBuf,
}

/// The mounts of this process's namespace.
///
/// # Errors
/// Where `/proc` is not there.
pub fn mounts() -> Result<Vec<MountEntry>, Failure> {
    let path = "/proc/self/mountinfo";
    let bytes = std::fs::read(path).map_err(|error| Failure::io(path, &error))?;
    Ok(parse(&bytes))
}

/// The entries of a mountinfo text; lines that do not read as one are passed over.
#[must_use]
pub fn parse(text: &[u8]) -> Vec<MountEntry> {
    text.split(|&byte| byte == b'\n')
        .filter_map(parse_line)
        .collect()
}

fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let fields: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    // Any number of optional fields stand before a lone dash.
    let dash = fields.iter().skip(6).position(|field| *field == b"-")? + 6;
    let text = |at: usize| Some(String::from_utf8_lossy(fields.get(at)?).into_owned());
    Some(MountEntry {
        id: text(0)?.parse().ok()?,
        device: text(2)?,
        mountpoint: unescape(fields.get(4)?),
        fs_type: text(dash + 1)?,
        source: unescape(fields.get(dash + 2)?),
    })
}

/// Space, tab, line feed, backslash and '#' are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut at = 0;
    while let Some(&byte) = field.get(at) {
        let octal = field.get(at + 1..at + 4).and_then(octal);
        match octal {
            Some(escaped) if byte == b'\\' => {
                bytes.push(escaped);
                at += 4;
            }
            _ => {
                bytes.push(byte);
                at += 1;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

fn octal(digits: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(digits).ok()?;
    let plain = digits.iter().all(u8::is_ascii_digit);
    u8::from_str_radix(text, 8).ok().filter(|_| plain)
}

/// The mounts of ours among these, each mountpoint once.
#[must_use]
pub fn snapmark_mounts(entries: &[MountEntry]) -> Vec<&Path> {
    let mut paths: Vec<&Path> = entries
        .iter()
        .filter(|entry| entry.fs_type == FS_TYPE)
        .map(|entry| entry.mountpoint.as_path())
        .collect();
    paths.sort_unstable();
    paths.dedup();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_with_escapes_and_optional_fields() {
        let text = b"\
22 27 0:21 / /proc rw,relatime - proc proc rw
36 35 7:0 / /mnt/a\\040b\\134c\\011\\043 rw,noatime shared:1 master:2 - ext4 /dev/loop0 rw
40 27 0:50 / /srv/disks rw,nosuid - fuse.snapmark /srv/store rw,user_id=0
41 27 0:50 / /srv/disks rw,nosuid - fuse.snapmark /srv/store rw,user_id=0
nonsense
42 27 0:51 / /x\\9 rw -";
        let entries = parse(text);
        assert_eq!(entries.len(), 4);
        assert_eq!(entries[1].id, 36);
        assert_eq!(entries[1].device, "7:0");
        assert_eq!(entries[1].mountpoint, Path::new("/mnt/a b\\c\t#"));
        assert_eq!(entries[1].fs_type, "ext4");
        assert_eq!(entries[1].source, Path::new("/dev/loop0"));
        assert_eq!(snapmark_mounts(&entries), [Path::new("/srv/disks")]);
    }

    #[test]
    fn a_backslash_that_escapes_nothing_stays() {
        for same in ["a\\", "\\08", "\\+11", "\\999", "\\777"] {
            assert_eq!(unescape(same.as_bytes()), Path::new(same), "{same}");
        }
    }
}
