//! A plain file.

use std::path::{Path, PathBuf};

use anyhow::Result;
use tempfile::TempDir;

use super::{Kind, Peer, Place, sparse};

pub const RAW: Kind = Kind {
    id: "raw",
    name: "raw file",
    needs: &[],
    file_system: None,
    keeps_data: true,
    short: true,
    all_jobs: true,
    start,
};

struct Raw {
    path: PathBuf,
    _scratch: TempDir,
}

fn start(place: &Place) -> Result<Box<dyn Peer>> {
    let scratch = place.scratch("raw")?;
    let path = scratch.path().join("disk.img");
    sparse(&path, place.size)?;
    Ok(Box::new(Raw {
        path,
        _scratch: scratch,
    }))
}

impl Peer for Raw {
    fn path(&self) -> &Path {
        &self.path
    }

    fn another(&mut self, size: u64) -> Result<Option<PathBuf>> {
        let path = self.path.with_extension("second");
        sparse(&path, size)?;
        Ok(Some(path))
    }
}
