//! From disks to the file systems mounted from them: disk, loop device, its partitions and what
//! is stacked on them (LVM, encryption), mounts.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::ioctl;
use crate::base::Mounted;
use crate::cli::client::Mount;
use crate::cli::exit::Failure;
use crate::cli::mountinfo;

/// A file system to freeze.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// Number of the mount that it is reached by.
    pub mount_id: u64,
    /// Where that is.
    pub mountpoint: PathBuf,
    /// Its type.
    pub fs_type: String,
}

/// The file systems mounted from these disks, each once.
///
/// # Errors
/// Where the disks or the mounts can't be looked at.
pub fn file_systems(mount: &Mount, disks: &[String]) -> Result<Vec<FileSystem>, Failure> {
    let mut devices = BTreeSet::new();
    for disk in disks {
        let path = mount.path().join(disk);
        let meta = fs::metadata(&path).map_err(|error| Failure::io(path.display(), &error))?;
        for name in loops_on(Path::new("/sys/block"), &path, (meta.dev(), meta.ino())) {
            stacked(Path::new("/sys/class/block"), &name, &mut devices);
        }
    }
    Ok(select(&mountinfo::mounts()?, &devices, source_device))
}

/// Names of the loop devices over this file.
fn loops_on(sys_block: &Path, path: &Path, identity: (u64, u64)) -> Vec<String> {
    let entries = fs::read_dir(sys_block).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let backing = fs::read(entry.path().join("loop/backing_file")).ok()?;
            let same_path = backing.strip_suffix(b"\n").unwrap_or(&backing)
                == path.as_os_str().as_encoded_bytes();
            (same_path || identity_of(&name) == Some(identity)).then_some(name)
        })
        .collect()
}

/// The path in sysfs is that of the moment of attaching; the file may have been renamed since.
fn identity_of(name: &str) -> Option<(u64, u64)> {
    let device = File::open(Path::new("/dev").join(name)).ok()?;
    ioctl::backing_file(&device).ok()
}

/// Adds `MAJOR:MINOR` of a block device, its partitions, and all that is stacked on them.
fn stacked(class_block: &Path, name: &str, devices: &mut BTreeSet<String>) {
    let path = class_block.join(name);
    let Ok(number) = fs::read_to_string(path.join("dev")) else {
        return;
    };
    if !devices.insert(number.trim().to_owned()) {
        return;
    }
    let names = |dir: &Path| -> Vec<String> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    };
    let partitions = names(&path).into_iter().filter(|n| n.starts_with(name));
    for above in partitions.chain(names(&path.join("holders"))) {
        stacked(class_block, &above, devices);
    }
}

/// The mounts from these devices, each file system once: the deepest mountpoints first, since one
/// could lie on another.
fn select(
    entries: &[Mounted],
    devices: &BTreeSet<String>,
    source_device: impl Fn(&Path) -> Option<String>,
) -> Vec<FileSystem> {
    let mut seen = BTreeSet::new();
    let mut found: Vec<FileSystem> = Vec::new();
    for entry in entries {
        // btrfs shows a number of its own; the device then stands as the source.
        let own = !entry.device.starts_with("0:");
        let hit = if own {
            devices.contains(&entry.device)
        } else {
            let source = Path::new(&entry.source);
            source.starts_with("/dev")
                && source_device(source).is_some_and(|number| devices.contains(&number))
        };
        if hit && reached_by(entry) && seen.insert(entry.device.clone()) {
            found.push(FileSystem {
                mount_id: entry.id,
                mountpoint: entry.mountpoint.clone(),
                fs_type: entry.kind.clone(),
            });
        }
    }
    found.sort_by_key(|system| std::cmp::Reverse(system.mountpoint.components().count()));
    found
}

/// Whether the path leads to this mount, and not to one that was later mounted over it.
fn reached_by(entry: &Mounted) -> bool {
    cfg!(test) || File::open(&entry.mountpoint).is_ok_and(|dir| mount_id(&dir) == Some(entry.id))
}

/// The number of the mount that an open file was reached by.
pub fn mount_id(file: &File) -> Option<u64> {
    use rustix::fs::{AtFlags, StatxFlags, statx};
    let found = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
    (found.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(found.stx_mnt_id)
}

fn source_device(source: &Path) -> Option<String> {
    let number = fs::metadata(source).ok()?.rdev();
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    Some(format!("{major}:{minor}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::parse_mountinfo;

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn loop_devices_partitions_and_holders_are_found() {
        let sys = tempfile::tempdir().unwrap();
        let root = sys.path();
        put(root, "loop990/loop/backing_file", "/m/vm 1.img\n");
        put(root, "loop990/dev", "7:990\n");
        put(root, "loop990/loop990p1/dev", "259:1\n");
        put(root, "loop990p1/dev", "259:1\n");
        put(root, "loop990p1/holders/dm-9/x", "");
        put(root, "dm-9/dev", "252:9\n");
        put(root, "loop991/loop/backing_file", "/m/other.img\n");
        let names = loops_on(root, Path::new("/m/vm 1.img"), (u64::MAX, 0));
        assert_eq!(names, ["loop990"]);
        let mut devices = BTreeSet::new();
        stacked(root, "loop990", &mut devices);
        assert_eq!(Vec::from_iter(devices), ["252:9", "259:1", "7:990"]);
    }

    #[test]
    fn mounts_are_matched_by_number_or_source_and_taken_once() {
        let entries = parse_mountinfo(
            b"1 0 7:1 / /a rw - ext4 /dev/loop1 rw
2 0 7:1 / /b rw - ext4 /dev/loop1 rw
3 0 0:40 / /a/c rw - btrfs /dev/loop2 rw
4 0 0:41 / /d rw - tmpfs tmpfs rw
5 0 7:3 / /e rw - xfs /dev/loop3 rw",
        );
        let devices = BTreeSet::from(["7:1".to_owned(), "7:2".to_owned()]);
        let source = |path: &Path| (path == Path::new("/dev/loop2")).then(|| "7:2".to_owned());
        let found = select(&entries, &devices, source);
        let points: Vec<_> = found
            .iter()
            .map(|s| s.mountpoint.to_str().unwrap())
            .collect();
        assert_eq!(points, ["/a/c", "/a"]);
    }
}
