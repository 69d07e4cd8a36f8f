//! `snapmark resize`.

use std::path::PathBuf;

use clap::Args;

use crate::base::ByteSize;
use crate::cli::client::Target;
use crate::cli::exit::Failure;
use crate::cli::output::print;

const EXAMPLES: &str = "\
Examples:
  snapmark resize mnt/vm1.img 200GiB
  losetup --set-capacity /dev/loop0             so that a loop device on it learns of it

Shrinking cuts off what lies behind the new end; snapshots keep it. 'truncate -s' does the same.";

/// Change a disk's virtual size
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Resize {
    /// The disk
    #[arg(value_name = "PATH", value_hint = clap::ValueHint::FilePath)]
    disk: PathBuf,
    /// New size, as in 200GiB
    size: ByteSize,
}

impl Resize {
    /// Resizes.
    pub fn run(self) -> Result<(), Failure> {
        let target = Target::of(&self.disk)?;
        let line = format!("resize {} {}", target.name, self.size.0);
        print(&target.mount.command(&line)?)
    }
}
