//! Snapmark: a disk on its mount, with the settings that `init` writes.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::{Kind, Peer, Place, SETUP, directory, sparse};
use crate::process::{Server, run};

/// What the others are compared with.
pub const US: Kind = Kind {
    id: "snapmark",
    name: "Snapmark",
    needs: &[],
    file_system: None,
    keeps_data: true,
    short: true,
    start,
};

const DISK: &str = "bench.img";

struct Snapmark {
    path: PathBuf,
    mountpoint: PathBuf,
    // Goes first: the mount is in the directory.
    _server: Server,
    _scratch: TempDir,
}

fn start(place: &Place) -> Result<Box<dyn Peer>> {
    let scratch = place.scratch("snapmark")?;
    let store = scratch.path().join("store");
    let mountpoint = directory(scratch.path().join("mnt"))?;
    // With a verb of Snapmark's, this program is Snapmark.
    let program = std::env::current_exe()?;
    let mut init = Command::new(&program);
    // Room for what snapshots keep.
    let size = (16 * place.size).to_string();
    run(init.arg("init").arg(&store).args(["--size", &size]), SETUP)?;
    let mut mount = Command::new(&program);
    mount
        .args(["mount", "--foreground"])
        .arg(&store)
        .arg(&mountpoint);
    let control = mountpoint.join(".control");
    let server = Server::start(&mut mount, &mountpoint, &control, None)?;
    let path = mountpoint.join(DISK);
    let made = Snapmark {
        path,
        mountpoint,
        _server: server,
        _scratch: scratch,
    };
    sparse(&made.path, place.size)?;
    Ok(Box::new(made))
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
}
