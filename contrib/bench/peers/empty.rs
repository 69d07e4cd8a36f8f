//! The empty filesystem of this program, in a process of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;

use super::{Kind, Peer, Place, directory};
use crate::SERVE_EMPTY;
use crate::empty::NAME;
use crate::process::Server;

pub const EMPTY: Kind = Kind {
    id: "empty",
    name: "empty FUSE filesystem",
    needs: &[],
    file_system: None,
    keeps_data: false,
    short: true,
    all_jobs: true,
    start,
};

struct Empty {
    path: PathBuf,
    // Goes first: the mount is in the directory.
    _server: Server,
    _scratch: TempDir,
}

fn start(place: &Place) -> Result<Box<dyn Peer>> {
    let scratch = place.scratch("empty")?;
    let mountpoint = directory(scratch.path().join("mnt"))?;
    let path = mountpoint.join(NAME);
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(SERVE_EMPTY).arg(&mountpoint);
    command.arg(place.size.to_string());
    let server = Server::start(&mut command, &mountpoint, &path, Some(place.size))?;
    Ok(Box::new(Empty {
        path,
        _server: server,
        _scratch: scratch,
    }))
}

impl Peer for Empty {
    fn path(&self) -> &Path {
        &self.path
    }
}
