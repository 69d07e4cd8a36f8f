//! `snapmark man`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::exit::Failure;
use crate::cli::generate;
use crate::cli::output::print;

const EXAMPLES: &str = "\
Examples:
  snapmark man | man -l -                       read it
  snapmark man /usr/local/share/man/man1        write all pages there";

/// Print the man page, or write all of them to a directory
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Man {
    /// Directory to write one page for each subcommand to
    #[arg(value_hint = clap::ValueHint::DirPath)]
    dir: Option<PathBuf>,
}

impl Man {
    /// Prints or writes.
    pub fn run(self) -> Result<(), Failure> {
        let pages = generate::man_pages()?;
        let Some(dir) = self.dir else {
            return pages.first().map_or(Ok(()), |(_, text)| print(text));
        };
        std::fs::create_dir_all(&dir).map_err(|error| Failure::io(dir.display(), &error))?;
        for (name, text) in pages {
            let path = dir.join(name);
            std::fs::write(&path, text).map_err(|error| Failure::io(path.display(), &error))?;
        }
        Ok(())
    }
}
