//! `snapmark flush`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::client::Mount;
use crate::cli::exit::Failure;
use crate::cli::output::print;
use crate::cli::progress::spinner;

const EXAMPLES: &str = "\
Example:
  snapmark flush /mnt/disks                     before moving the store's devices elsewhere

Nothing is lost without it: fsync and the journal keep acknowledged writes.";

/// Move everything that is cached to the devices
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Flush {
    /// Where the store is mounted; may be left out where there is only one
    #[arg(value_hint = clap::ValueHint::DirPath)]
    mountpoint: Option<PathBuf>,
}

impl Flush {
    /// Flushes.
    pub fn run(self) -> Result<(), Failure> {
        let mount = Mount::at_or_only(self.mountpoint.as_deref())?;
        let flush = || mount.command("flush");
        print(&spinner("moving the cache to the devices", flush)?)
    }
}
