//! Snapmark: a disk on its mount, with the settings that `init` writes.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::{Kind, Peer, Place, SETUP, directory, sparse};
use crate::figures::Opening;
use crate::fio;
use crate::process::{Server, empty_page_cache, run};

/// What the others are compared with.
pub const US: Kind = Kind {
    id: "snapmark",
    name: "Snapmark",
    needs: &[],
    file_system: None,
    keeps_data: true,
    short: true,
    all_jobs: true,
    start,
};

const DISK: &str = "bench.img";
/// Bytes of a store that has hardly any data.
const SMALLEST: u64 = 1 << 30;
/// In a directory of its own.
const STORE: &str = "store";
const MOUNTPOINT: &str = "mnt";

struct Snapmark {
    path: PathBuf,
    mountpoint: PathBuf,
    // Goes first: the mount is in the directory.
    server: Server,
    scratch: TempDir,
}

fn start(place: &Place) -> Result<Box<dyn Peer>> {
    let scratch = place.scratch("snapmark")?;
    Ok(Box::new(start_in(place, scratch)?))
}

fn start_in(place: &Place, scratch: TempDir) -> Result<Snapmark> {
    directory(scratch.path().join(MOUNTPOINT))?;
    let mut init = Command::new(std::env::current_exe()?);
    // Room for what snapshots keep.
    let size = (16 * place.size).max(SMALLEST).to_string();
    let store = scratch.path().join(STORE);
    run(init.arg("init").arg(store).args(["--size", &size]), SETUP)?;
    let (server, mountpoint) = mount(scratch.path())?;
    let made = Snapmark {
        path: mountpoint.join(DISK),
        mountpoint,
        server,
        scratch,
    };
    sparse(&made.path, place.size)?;
    Ok(made)
}

/// Mounts the store in this directory; gives the mountpoint too.
fn mount(scratch: &Path) -> Result<(Server, PathBuf)> {
    let mountpoint = scratch.join(MOUNTPOINT);
    // With a verb of Snapmark's, this program is Snapmark.
    let mut mount = Command::new(std::env::current_exe()?);
    mount
        .args(["mount", "--foreground"])
        .arg(scratch.join(STORE))
        .arg(&mountpoint);
    let control = mountpoint.join(".control");
    let server = Server::start(&mut mount, &mountpoint, &control, None)?;
    Ok((server, mountpoint))
}

/// Stores with more and more data, each stopped and opened again.
pub fn openings(place: &Place) -> Result<Vec<Opening>> {
    let mut found = Vec::new();
    for factor in [0, 1, 4, 10] {
        let place = Place {
            dir: place.dir.clone(),
            size: factor * place.size,
        };
        let scratch = place.scratch("snapmark")?;
        let mut made = start_in(&place, scratch)?;
        if factor > 0 {
            fio::fill(&made.path, place.size)?;
        }
        made.settle()?;
        // The mount goes, the store stays.
        let Snapmark {
            server, scratch, ..
        } = made;
        drop(server);
        empty_page_cache()?;
        let started = Instant::now();
        let (server, _) = mount(scratch.path())?;
        found.push(Opening {
            mapped: place.size,
            took: started.elapsed(),
            memory: server.memory().unwrap_or_default(),
        });
    }
    Ok(found)
}

impl Snapmark {
    /// Gives a line to `.control`; returns when it was carried out.
    fn command(&self, line: &str) -> Result<()> {
        let path = self.mountpoint.join(".control");
        let mut control = OpenOptions::new().write(true).open(&path)?;
        let given = control.write_all(format!("{line}\n").as_bytes());
        given.with_context(|| format!("{line:?}"))
    }
}

impl Peer for Snapmark {
    fn path(&self) -> &Path {
        &self.path
    }

    fn settle(&mut self) -> Result<()> {
        self.command("flush")
    }

    fn snapshot(&mut self, number: u32) -> Result<bool> {
        self.command(&format!("snapshot {DISK} bench{number}"))?;
        Ok(true)
    }

    fn snapshot_path(&self, number: u32) -> Option<PathBuf> {
        let name = format!("{DISK}@bench{number}");
        Some(self.mountpoint.join(name))
    }

    fn delete(&mut self, number: u32) -> Result<bool> {
        self.command(&format!("delete {DISK}@bench{number}"))?;
        Ok(true)
    }

    fn clone_of(&mut self, number: u32) -> Result<Option<PathBuf>> {
        let name = format!("clone{number}.img");
        self.command(&format!("clone {DISK}@bench{number} {name}"))?;
        Ok(Some(self.mountpoint.join(name)))
    }

    fn another(&mut self, size: u64) -> Result<Option<PathBuf>> {
        let path = self.mountpoint.join("second.img");
        sparse(&path, size)?;
        Ok(Some(path))
    }

    fn memory(&self) -> Option<u64> {
        self.server.memory()
    }
}
