//! `snapmark rename`.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::client::Target;
use crate::cli::exit::Failure;
use crate::cli::output::print;

const EXAMPLES: &str = "\
Examples:
  snapmark rename mnt/vm1.img web.img           a disk; its snapshots become web.img@...
  snapmark rename mnt/vm1.img@a before-upgrade  a snapshot

'mv' on the same paths does the same.";

/// Rename a disk or a snapshot
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Rename {
    /// Disk or snapshot
    #[arg(value_name = "PATH", value_hint = clap::ValueHint::FilePath)]
    from: PathBuf,
    /// New name, or a path in the same mount
    #[arg(value_name = "NEW")]
    to: PathBuf,
}

impl Rename {
    /// Renames.
    pub fn run(self) -> Result<(), Failure> {
        let from = Target::of(&self.from)?;
        let to = name_beside(&from, &self.to)?;
        let answer = from.mount.command(&format!("rename {} {to}", from.name))?;
        print(&answer)
    }
}

/// The name in `new`: a bare name stands for itself, a path must lie in the mount of `target`.
pub fn name_beside(target: &Target, new: &Path) -> Result<String, Failure> {
    if new.components().count() == 1 {
        return match new.to_str() {
            Some(name) => Ok(name.to_owned()),
            None => Err(Failure::usage(format!(
                "{}: a name is UTF-8",
                new.display()
            ))),
        };
    }
    let other = Target::of(new)?;
    if other.mount == target.mount {
        Ok(other.name)
    } else {
        Err(Failure::usage(format!(
            "{} is not in {}; one command works in one mount",
            new.display(),
            target.mount.path().display()
        )))
    }
}
