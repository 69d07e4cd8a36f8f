//! `snapmark clone`.

use std::path::PathBuf;

use clap::Args;

use super::rename::name_beside;
use crate::cli::client::Target;
use crate::cli::exit::Failure;
use crate::cli::output::print;

const EXAMPLES: &str = "\
Examples:
  snapmark clone mnt/vm1.img@before vm2.img
      at once, whatever the size; the two share all data until one is written";

/// Make a writable disk over a snapshot
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Clone {
    /// The snapshot: mnt/DISK@NAME
    #[arg(value_name = "PATH@NAME", value_hint = clap::ValueHint::FilePath)]
    snapshot: PathBuf,
    /// Name of the new disk, or a path in the same mount
    #[arg(value_name = "NEW")]
    new: PathBuf,
}

impl Clone {
    /// Makes the clone.
    pub fn run(self) -> Result<(), Failure> {
        let of = Target::of(&self.snapshot)?;
        let new = name_beside(&of, &self.new)?;
        print(&of.mount.command(&format!("clone {} {new}", of.name))?)
    }
}
