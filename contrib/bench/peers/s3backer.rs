//! s3backer, with a local directory in place of an object store.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;

use super::{Kind, Peer, Place, directory, need};
use crate::process::Server;

pub const S3BACKER: Kind = Kind {
    id: "s3backer",
    name: "s3backer, blocks of 128 KiB, over a local directory",
    needs: &[need("s3backer", "s3backer")],
    file_system: None,
    keeps_data: true,
    short: false,
    all_jobs: false,
    start,
};

/// The size of its objects. With its default of 4 KiB each is a file of its own, and filling one GiB
/// took more than twenty minutes.
const BLOCK_SIZE: &str = "128k";

struct S3Backer {
    path: PathBuf,
    // Goes first: the mount is in the directory.
    _server: Server,
    _scratch: TempDir,
}

fn start(place: &Place) -> Result<Box<dyn Peer>> {
    let scratch = place.scratch("s3backer")?;
    let objects = directory(scratch.path().join("objects"))?;
    let mountpoint = directory(scratch.path().join("mnt"))?;
    let path = mountpoint.join("file");
    let mut command = Command::new("s3backer");
    command.args(["-f", "--test"]);
    command.arg(format!("--size={}", place.size));
    command.arg(format!("--blockSize={BLOCK_SIZE}"));
    command.arg(&objects).arg(&mountpoint);
    let server = Server::start(&mut command, &mountpoint, &path, Some(place.size))?;
    Ok(Box::new(S3Backer {
        path,
        _server: server,
        _scratch: scratch,
    }))
}

impl Peer for S3Backer {
    fn path(&self) -> &Path {
        &self.path
    }
}
