//! `snapmark rollback`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::client::Target;
use crate::cli::exit::Failure;
use crate::cli::output::print;

const EXAMPLES: &str = "\
Examples:
  snapmark rollback mnt/vm1.img@before
  snapmark snapshot mnt/vm1.img now && snapmark rollback mnt/vm1.img@before
      with a way back from the rollback

Whoever has the disk open would find other data under his feet: unmount it, 'losetup -d' it, stop
the VM. --force does not wait for that.";

/// Make a disk's content that of its snapshot
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Rollback {
    /// The snapshot: mnt/DISK@NAME
    #[arg(value_name = "PATH@NAME", value_hint = clap::ValueHint::FilePath)]
    snapshot: PathBuf,
    /// Also while the disk is open
    #[arg(long)]
    force: bool,
}

impl Rollback {
    /// Rolls back.
    pub fn run(self) -> Result<(), Failure> {
        let target = Target::of(&self.snapshot)?;
        let force = if self.force { " force" } else { "" };
        let line = format!("rollback {}{force}", target.name);
        print(&target.mount.command(&line)?)
    }
}
