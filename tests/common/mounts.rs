//! Loop devices and mounts of others than Snapmark, taken down again when dropped.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{execute, run, wait_until};

/// A loop device; detached when dropped.
pub struct Loop {
    device: String,
}

impl Loop {
    /// Over this file, with direct I/O.
    #[track_caller]
    pub fn over(file: &Path) -> Self {
        Self::with(file, &["--direct-io=on"])
    }

    /// Over this file, with options of `losetup`.
    #[track_caller]
    pub fn with(file: &Path, options: &[&str]) -> Self {
        let arguments = || {
            let options = ["-f", "--show"].iter().chain(options);
            options.map(PathBuf::from).chain([file.to_owned()])
        };
        // Others may take the device between the look and the grab.
        for _ in 0..20 {
            let (_, output) = execute("losetup", arguments());
            if output.status.success() {
                let device = String::from_utf8_lossy(&output.stdout).trim().to_owned();
                return Self { device };
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let device = run("losetup", arguments()).trim().to_owned();
        Self { device }
    }

    /// Its path.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Detaches it; it must not be in use.
    #[track_caller]
    pub fn detach(self) {
        run("losetup", ["-d", &self.device]);
        let name = self.device.trim_start_matches("/dev/").to_owned();
        std::mem::forget(self);
        // The kernel lets go of it when its last user has.
        let backing = format!("/sys/block/{name}/loop/backing_file");
        wait_until("the loop device is free", || !Path::new(&backing).exists());
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.device]).status();
    }
}

/// A mounted file system; unmounted when dropped.
pub struct Mounted {
    at: PathBuf,
}

impl Mounted {
    /// Mounts a device or a file on a directory, which is made where it is missing. For a file,
    /// `options` say `loop`.
    #[track_caller]
    pub fn new(source: impl AsRef<Path>, at: PathBuf, options: &str) -> Self {
        std::fs::create_dir_all(&at).expect("a directory");
        let source = source.as_ref().as_os_str();
        run(
            "mount",
            ["-o".as_ref(), options.as_ref(), source, at.as_os_str()],
        );
        Self { at }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Unmounts it; it must not be in use for long.
    #[track_caller]
    pub fn unmount(self) {
        wait_until("unmounted", || {
            execute("umount", [&self.at]).1.status.success()
        });
        std::mem::forget(self);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let umount = |options: &[&str]| {
            let mut umount = Command::new("umount");
            let status = umount.args(options).arg(&self.at).status();
            status.is_ok_and(|status| status.success())
        };
        let _ = umount(&[]) || umount(&["-l"]);
    }
}

/// Unmounts what is at a path when dropped, so that a daemon in the background ends also when a
/// test fails.
pub struct Away(pub PathBuf);

impl Drop for Away {
    fn drop(&mut self) {
        if mounts().contains(&self.0) {
            let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        }
    }
}

/// Where something is mounted.
pub fn mounts() -> Vec<PathBuf> {
    let info = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = info.lines().filter_map(|line| line.split(' ').nth(4));
    points.map(PathBuf::from).collect()
}
