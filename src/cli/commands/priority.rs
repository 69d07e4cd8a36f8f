//! `snapmark priority`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::client::Target;
use crate::cli::exit::Failure;
use crate::cli::output::print;

const EXAMPLES: &str = "\
Example:
  snapmark priority mnt/db.img 200              destaged before disks with a lower number";

/// Set which disk leaves the cache first
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Priority {
    /// The disk
    #[arg(value_name = "PATH", value_hint = clap::ValueHint::FilePath)]
    disk: PathBuf,
    /// From 0 to 255; the higher goes first
    priority: u8,
}

impl Priority {
    /// Sets it.
    pub fn run(self) -> Result<(), Failure> {
        let target = Target::of(&self.disk)?;
        let line = format!("priority {} {}", target.name, self.priority);
        print(&target.mount.command(&line)?)
    }
}
