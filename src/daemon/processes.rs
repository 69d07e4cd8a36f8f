//! Who serves a mount and who uses it, from `/proc`, as far as this user may see.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::base::Mounted;

const DEVICE: &str = "/dev/fuse";

/// The process that serves a mount.
///
/// Newer kernels say which connection a descriptor of the FUSE device belongs to. On others it is
/// the process that has the device open and was started with the store's path.
pub(super) fn daemon_of(mounted: &Mounted) -> Option<u32> {
    let minor = mounted.device.split(':').nth(1)?;
    let holders: Vec<u32> = processes()
        .filter(|pid| connection(*pid).is_some())
        .collect();
    let by_connection = |pid: &&u32| connection(**pid).flatten().as_deref() == Some(minor);
    let silent = |pid: u32| connection(pid) == Some(None);
    let by_argument = |pid: &&u32| silent(**pid) && names(**pid, &mounted.source);
    let mut found = holders.iter().filter(by_connection);
    let found = found.next().or_else(|| holders.iter().find(by_argument));
    found.copied()
}

/// Whether a process has the FUSE device open, and for which connection where the kernel says.
fn connection(pid: u32) -> Option<Option<String>> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let mut held = None;
    for entry in entries.flatten() {
        if fs::read_link(entry.path()).is_ok_and(|to| to == Path::new(DEVICE)) {
            let number = entry.file_name();
            let info = format!("/proc/{pid}/fdinfo/{}", number.display());
            let said = connection_in(&fs::read_to_string(info).unwrap_or_default());
            if said.is_some() {
                return Some(said);
            }
            held = Some(None);
        }
    }
    held
}

fn connection_in(info: &str) -> Option<String> {
    let mut lines = info.lines();
    let value = lines.find_map(|line| line.strip_prefix("fuse_connection:"))?;
    Some(value.trim().to_owned())
}

/// Whether an argument of the process is this path.
fn names(pid: u32, store: &OsStr) -> bool {
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let is_store = |argument: &[u8]| {
        let path = PathBuf::from(OsStr::from_bytes(argument));
        path.as_os_str() == store
            || path
                .canonicalize()
                .is_ok_and(|path| path == Path::new(store))
    };
    arguments
        .split(|byte| *byte == 0)
        .any(|argument| !argument.is_empty() && is_store(argument))
}

/// The commands that have something below this path open, or work in it.
pub(super) fn users_of(mountpoint: &Path) -> Vec<String> {
    let mut users: Vec<String> = processes()
        .filter(|pid| uses(*pid, mountpoint))
        .map(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            format!("{} ({pid})", name.trim())
        })
        .collect();
    users.extend(loop_devices(mountpoint));
    users
}

fn uses(pid: u32, mountpoint: &Path) -> bool {
    let below = |link: PathBuf| fs::read_link(link).is_ok_and(|to| to.starts_with(mountpoint));
    let process = PathBuf::from(format!("/proc/{pid}"));
    let files = fs::read_dir(process.join("fd")).into_iter().flatten();
    below(process.join("cwd"))
        || below(process.join("root"))
        || files.flatten().any(|file| below(file.path()))
}

/// Loop devices over files below this path: no process has those open.
fn loop_devices(mountpoint: &Path) -> Vec<String> {
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let over = |device: fs::DirEntry| {
        let file = fs::read_to_string(device.path().join("loop/backing_file")).ok()?;
        let below = Path::new(file.trim_end()).starts_with(mountpoint);
        below.then(|| format!("/dev/{}", device.file_name().display()))
    };
    devices.filter_map(over).collect()
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connection_is_read_where_the_kernel_says() {
        let info = "pos:\t0\nflags:\t0100002\nfuse_connection:\t45\n";
        assert_eq!(connection_in(info).as_deref(), Some("45"));
        assert_eq!(connection_in("pos:\t0\n"), None);
    }

    #[test]
    fn a_process_with_an_open_file_is_a_user() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        let mine = format!("({})", std::process::id());
        assert!(!users_of(&path).iter().any(|user| user.contains(&mine)));
        let _open = fs::File::create(path.join("file")).unwrap();
        assert!(users_of(&path).iter().any(|user| user.contains(&mine)));
    }
}
