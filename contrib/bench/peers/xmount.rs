//! xmount, with its cache file for what is written.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::{Kind, Need, Peer, Place, SETUP, directory, need, sparse};
use crate::process::{Mounted, run};

pub const XMOUNT: Kind = Kind {
    id: "xmount",
    name: "xmount with a cache file",
    needs: &[Need {
        version: "--version",
        ..need("xmount", "xmount")
    }],
    file_system: None,
    keeps_data: true,
    short: false,
    all_jobs: false,
    start,
};

struct Xmount {
    path: PathBuf,
    // Goes first: the mount is in the directory. The program goes with the mount.
    _mounted: Mounted,
    _scratch: TempDir,
}

fn start(place: &Place) -> Result<Box<dyn Peer>> {
    let scratch = place.scratch("xmount")?;
    let image = scratch.path().join("disk.img");
    sparse(&image, place.size)?;
    let mountpoint = directory(scratch.path().join("mnt"))?;
    let mut command = Command::new("xmount");
    command.arg("--cache").arg(scratch.path().join("cache"));
    command.args(["--in", "raw"]).arg(&image);
    // It goes into the background once it serves.
    run(command.args(["--out", "raw"]).arg(&mountpoint), SETUP)?;
    let mounted = Mounted(mountpoint);
    let path = mounted.0.join("disk.dd");
    std::fs::metadata(&path).with_context(|| path.display().to_string())?;
    Ok(Box::new(Xmount {
        path,
        _mounted: mounted,
        _scratch: scratch,
    }))
}

impl Peer for Xmount {
    fn path(&self) -> &Path {
        &self.path
    }
}
