//! A file on XFS or btrfs, with `cp --reflink` for snapshots. The file system is on a loop device
//! over a file of the backing one, so that all have the same disk.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;

use super::{Kind, Peer, Place, SETUP, directory, need, sparse};
use crate::process::{Mounted, run};

pub const XFS: Kind = Kind {
    id: "xfs",
    name: "file on XFS (reflink), loop-mounted",
    needs: &[need_mkfs("mkfs.xfs", "xfsprogs", "-V")],
    file_system: Some("xfs"),
    keeps_data: true,
    short: false,
    all_jobs: true,
    start: |place| start(place, "xfs"),
};

pub const BTRFS: Kind = Kind {
    id: "btrfs",
    name: "file on btrfs (reflink), loop-mounted",
    needs: &[need_mkfs("mkfs.btrfs", "btrfs-progs", "--version")],
    file_system: Some("btrfs"),
    keeps_data: true,
    short: false,
    all_jobs: true,
    start: |place| start(place, "btrfs"),
};

const fn need_mkfs(
    program: &'static str,
    package: &'static str,
    version: &'static str,
) -> super::Need {
    super::Need {
        version,
        ..need(program, package)
    }
}

struct Reflink {
    path: PathBuf,
    // Goes first: the mount is in the directory, and so is its image.
    _mounted: Mounted,
    _scratch: TempDir,
}

fn start(place: &Place, system: &str) -> Result<Box<dyn Peer>> {
    let scratch = place.scratch(system)?;
    let image = scratch.path().join("file-system.img");
    // Room for copies that are overwritten, and for the file system itself.
    sparse(&image, 16 * place.size + (1 << 30))?;
    run(Command::new(format!("mkfs.{system}")).arg(&image), SETUP)?;
    let mountpoint = directory(scratch.path().join("mnt"))?;
    let mut mount = Command::new("mount");
    mount.args(["-t", system, "-o", "loop"]);
    run(mount.arg(&image).arg(&mountpoint), SETUP)?;
    let mounted = Mounted(mountpoint);
    let path = mounted.0.join("disk.img");
    sparse(&path, place.size)?;
    Ok(Box::new(Reflink {
        path,
        _mounted: mounted,
        _scratch: scratch,
    }))
}

fn reflink(from: &Path, to: &Path) -> Result<()> {
    let mut cp = Command::new("cp");
    run(cp.arg("--reflink=always").arg(from).arg(to), 2 * SETUP).map(drop)
}

impl Reflink {
    fn copy(&self, number: u32) -> PathBuf {
        self.path.with_extension(format!("copy{number}"))
    }
}

impl Peer for Reflink {
    fn path(&self) -> &Path {
        &self.path
    }

    fn snapshot(&mut self, number: u32) -> Result<bool> {
        reflink(&self.path, &self.copy(number))?;
        Ok(true)
    }

    fn snapshot_path(&self, number: u32) -> Option<PathBuf> {
        Some(self.copy(number))
    }

    fn delete(&mut self, number: u32) -> Result<bool> {
        std::fs::remove_file(self.copy(number))?;
        Ok(true)
    }

    fn clone_of(&mut self, number: u32) -> Result<Option<PathBuf>> {
        let clone = self.path.with_extension(format!("clone{number}"));
        reflink(&self.copy(number), &clone)?;
        Ok(Some(clone))
    }

    fn another(&mut self, size: u64) -> Result<Option<PathBuf>> {
        let path = self.path.with_extension("second");
        sparse(&path, size)?;
        Ok(Some(path))
    }
}
