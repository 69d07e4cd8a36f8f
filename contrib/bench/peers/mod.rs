//! What is measured: Snapmark and its peers, each set up below the same directory with its default
//! settings. Dropping one takes it down: it is unmounted, its process ended, its files removed.

mod empty;
mod nbd;
mod qemu;
mod raw;
mod reflink;
mod s3backer;
mod snapmark;
mod xmount;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::process::{find, run};

pub use snapmark::{US, openings};

/// For programs that only set something up.
const SETUP: Duration = Duration::from_secs(60);

/// One that runs.
pub trait Peer {
    /// The file whose content is the image.
    fn path(&self) -> &Path;

    /// Moves what waits in caches of its own to the disk, so that it disturbs no later run. The file
    /// was synced just before.
    fn settle(&mut self) -> Result<()> {
        Ok(())
    }

    /// Takes the snapshot of that number; `false` where there is no such thing.
    fn snapshot(&mut self, _number: u32) -> Result<bool> {
        Ok(false)
    }

    /// The file whose content is the snapshot of that number, where it can be read.
    fn snapshot_path(&self, _number: u32) -> Option<PathBuf> {
        None
    }

    /// Deletes the snapshot of that number; `false` where there is no such thing.
    fn delete(&mut self, _number: u32) -> Result<bool> {
        Ok(false)
    }

    /// Makes a writable clone of the snapshot of that number, where it can.
    fn clone_of(&mut self, _number: u32) -> Result<Option<PathBuf>> {
        Ok(None)
    }

    /// Makes a second image of that size beside the first, where one server has several.
    fn another(&mut self, _size: u64) -> Result<Option<PathBuf>> {
        Ok(None)
    }

    /// The most memory that its server ever had resident, in bytes, where that is of interest.
    fn memory(&self) -> Option<u64> {
        None
    }
}

/// A program that a peer needs.
#[derive(Debug)]
pub struct Need {
    /// The program's name in PATH.
    pub program: &'static str,
    /// Debian's package that has it.
    pub package: &'static str,
    /// How it tells its version.
    pub version: &'static str,
}

const fn need(program: &'static str, package: &'static str) -> Need {
    Need {
        program,
        package,
        version: "--version",
    }
}

/// One that can be set up.
pub struct Kind {
    /// For the command line and the file of the last run.
    pub id: &'static str,
    /// For the report.
    pub name: &'static str,
    /// What has to be installed.
    pub needs: &'static [Need],
    /// A file system that the kernel has to know.
    pub file_system: Option<&'static str>,
    /// Whether what is written can be read: there is one that only marks the ceiling.
    pub keeps_data: bool,
    /// Whether the short form has it.
    pub short: bool,
    /// Whether the full form has all jobs beside it: there are peers that write 2 MB/s.
    pub all_jobs: bool,
    /// Sets it up.
    pub start: fn(&Place) -> Result<Box<dyn Peer>>,
}

/// The peers, in the order of the report.
pub static PEERS: [Kind; 9] = [
    raw::RAW,
    qemu::STORAGE_DAEMON,
    empty::EMPTY,
    nbd::QEMU_NBD,
    nbd::NBDKIT,
    reflink::XFS,
    reflink::BTRFS,
    s3backer::S3BACKER,
    xmount::XMOUNT,
];

impl Kind {
    /// What this machine lacks for it, if anything.
    pub fn missing(&self) -> Option<String> {
        for Need {
            program, package, ..
        } in self.needs
        {
            if find(program).is_none() {
                return Some(format!("{program} is not installed (Debian: {package})"));
            }
        }
        let system = self.file_system?;
        let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
        let known = known.split_whitespace().any(|name| name == system);
        let loaded = || run(Command::new("modprobe").arg(system), SETUP).is_ok();
        (!known && !loaded()).then(|| format!("this kernel has no {system}"))
    }

    /// Sets it up, as an error says whose it is.
    pub fn start(&self, place: &Place) -> Result<Box<dyn Peer>> {
        (self.start)(place).with_context(|| format!("{} can't be set up", self.name))
    }
}

/// Where peers are set up, and what size their image has.
pub struct Place {
    /// On the backing file system.
    pub dir: PathBuf,
    /// Bytes of the image.
    pub size: u64,
}

impl Place {
    /// A directory for one of them, removed when dropped.
    fn scratch(&self, name: &str) -> Result<tempfile::TempDir> {
        let made = tempfile::Builder::new().prefix(name).tempdir_in(&self.dir);
        made.with_context(|| format!("can't make a directory in {}", self.dir.display()))
    }
}

/// A directory to mount on.
fn directory(path: PathBuf) -> Result<PathBuf> {
    std::fs::create_dir(&path).with_context(|| path.display().to_string())?;
    Ok(path)
}

/// A sparse file of that size.
fn sparse(path: &Path, size: u64) -> Result<()> {
    let file = std::fs::File::create_new(path).with_context(|| path.display().to_string())?;
    file.set_len(size)
        .with_context(|| path.display().to_string())
}
