//! NBD servers behind nbdfuse, which starts them and ends them.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;

use super::qemu::{QEMU_IMG, qcow2};
use super::{Kind, Need, Peer, Place, directory, need, sparse};
use crate::process::Server;

const NBDFUSE: Need = need("nbdfuse", "libnbd-bin");

pub const QEMU_NBD: Kind = Kind {
    id: "qemu-nbd",
    name: "qcow2, nbdfuse over qemu-nbd",
    needs: &[NBDFUSE, need("qemu-nbd", "qemu-utils"), QEMU_IMG],
    file_system: None,
    keeps_data: true,
    short: false,
    all_jobs: false,
    start: qemu_nbd,
};

pub const NBDKIT: Kind = Kind {
    id: "nbdkit",
    name: "raw file, nbdfuse over nbdkit",
    needs: &[NBDFUSE, need("nbdkit", "nbdkit")],
    file_system: None,
    keeps_data: true,
    short: false,
    all_jobs: false,
    start: nbdkit,
};

struct NbdFuse {
    path: PathBuf,
    // Goes first: the mount is in the directory.
    _server: Server,
    _scratch: TempDir,
}

fn qemu_nbd(place: &Place) -> Result<Box<dyn Peer>> {
    let scratch = place.scratch("qemu-nbd")?;
    let image = scratch.path().join("disk.qcow2");
    qcow2(&image, place.size)?;
    let server = ["qemu-nbd", "--format=qcow2"].map(OsStr::new);
    over(place, scratch, &[server[0], server[1], image.as_os_str()])
}

fn nbdkit(place: &Place) -> Result<Box<dyn Peer>> {
    let scratch = place.scratch("nbdkit")?;
    let image = scratch.path().join("disk.img");
    sparse(&image, place.size)?;
    let server = ["nbdkit", "file"].map(OsStr::new);
    over(place, scratch, &[server[0], server[1], image.as_os_str()])
}

/// nbdfuse over a server that it hands the socket to.
fn over(place: &Place, scratch: TempDir, server: &[&OsStr]) -> Result<Box<dyn Peer>> {
    let mountpoint = directory(scratch.path().join("mnt"))?;
    let path = mountpoint.join("nbd.img");
    let mut nbdfuse = Command::new("nbdfuse");
    nbdfuse.arg(&path).arg("[").args(server).arg("]");
    let server = Server::start(&mut nbdfuse, &mountpoint, &path, Some(place.size))?;
    Ok(Box::new(NbdFuse {
        path,
        _server: server,
        _scratch: scratch,
    }))
}

impl Peer for NbdFuse {
    fn path(&self) -> &Path {
        &self.path
    }
}
