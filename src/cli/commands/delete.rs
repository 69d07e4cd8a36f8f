//! `snapmark delete`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::client::Target;
use crate::cli::exit::Failure;
use crate::cli::output::print;

const EXAMPLES: &str = "\
Examples:
  snapmark delete mnt/vm1.img@before            a snapshot
  snapmark delete mnt/vm1.img@a mnt/vm1.img@b   several, in any order
  snapmark delete mnt/vm1.img                   a disk; its snapshots stay

'rm' on the same paths does the same.";

/// Delete snapshots or disks
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Delete {
    /// Snapshots (mnt/DISK@NAME) or disks (mnt/DISK)
    #[arg(required = true, value_name = "PATH", value_hint = clap::ValueHint::FilePath)]
    paths: Vec<PathBuf>,
}

impl Delete {
    /// Deletes in the order given, up to the first that fails.
    pub fn run(self) -> Result<(), Failure> {
        for path in &self.paths {
            let target = Target::of(path)?;
            let answer = target.mount.command(&format!("delete {}", target.name))?;
            print(&answer)?;
        }
        Ok(())
    }
}
