//! The format of `/proc/self/mountinfo` (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// The type that the kernel shows for a Snapmark mount.
const SNAPMARK_TYPE: &str = "fuse.snapmark";

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// The mount's number, as `statx` also tells it.
    pub id: u64,
    /// Where.
    pub mountpoint: PathBuf,
    /// The device number as `MAJOR:MINOR`; no two mounted filesystems share one. Major 0 where it
    /// is no device's.
    pub device: String,
    /// The filesystem's type.
    pub kind: String,
    /// What is mounted: a block device, or any word; with Snapmark, the store's path.
    pub source: OsString,
}

impl Mounted {
    /// The device number as `stat` tells it of what is in there.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        let (major, minor) = self.device.split_once(':')?;
        let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
        Some(rustix::fs::makedev(major, minor))
    }

    /// Whether this is Snapmark's.
    #[must_use]
    pub fn is_snapmark(&self) -> bool {
        self.kind == SNAPMARK_TYPE
    }
}

/// The mounts of such a text, each after those that it may cover; lines that do not read as one are
/// passed over.
#[must_use]
pub fn parse_mountinfo(text: &[u8]) -> Vec<Mounted> {
    text.split(|&byte| byte == b'\n')
        .filter_map(parse_line)
        .collect()
}

fn parse_line(line: &[u8]) -> Option<Mounted> {
    let fields: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    // Any number of optional fields stand before a lone dash.
    let dash = fields.iter().skip(6).position(|field| *field == b"-")? + 6;
    let text = |at: usize| Some(String::from_utf8_lossy(fields.get(at)?).into_owned());
    Some(Mounted {
        id: text(0)?.parse().ok()?,
        mountpoint: unescape(fields.get(4)?).into(),
        device: text(2)?,
        kind: text(dash + 1)?,
        source: unescape(fields.get(dash + 2)?),
    })
}

/// Space, tab, line feed, backslash and '#' are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        match (first, after.get(..3).and_then(octal)) {
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

fn octal(digits: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(digits).ok()?;
    let plain = digits.iter().all(u8::is_ascii_digit);
    u8::from_str_radix(text, 8).ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn entries_are_read_with_escapes_and_optional_fields() {
        let text = b"\
22 27 0:21 / /proc rw,relatime - proc proc rw
36 35 7:0 / /mnt/a\\040b\\134c\\011\\043 rw,noatime shared:1 master:2 - ext4 /dev/loop0 rw
40 27 0:50 / /srv/disks rw,nosuid - fuse.snapmark /srv/my\\134store rw,user_id=0
nonsense
42 27 0:51 / /x\\9 rw -";
        let mounts = parse_mountinfo(text);
        assert_eq!(mounts.len(), 3);
        let [_, ext4, ours] = &mounts[..] else {
            panic!("{mounts:?}")
        };
        assert_eq!((ext4.id, &*ext4.device), (36, "7:0"));
        assert_eq!(ext4.number(), Some(rustix::fs::makedev(7, 0)));
        assert_eq!(ext4.mountpoint, Path::new("/mnt/a b\\c\t#"));
        assert_eq!(ext4.kind, "ext4");
        assert_eq!(ext4.source, "/dev/loop0");
        assert_eq!(ours.source, "/srv/my\\store");
        assert!(ours.is_snapmark() && !ext4.is_snapmark());
    }

    #[test]
    fn a_backslash_that_escapes_nothing_stays() {
        for same in ["a\\", "a\\04", "\\08", "\\+11", "\\999", "\\777"] {
            assert_eq!(unescape(same.as_bytes()), same, "{same}");
        }
    }
}
