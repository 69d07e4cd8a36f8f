//! `snapmark completions`.

use clap::Args;
use clap_complete::Shell;

use crate::cli::exit::Failure;
use crate::cli::generate;
use crate::cli::output::print;

const EXAMPLES: &str = "\
Examples:
  snapmark completions bash > /etc/bash_completion.d/snapmark
  snapmark completions zsh > /usr/local/share/zsh/site-functions/_snapmark
  snapmark completions fish > ~/.config/fish/completions/snapmark.fish";

/// Print completions for a shell
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Completions {
    /// Which shell
    shell: Shell,
}

impl Completions {
    /// Prints them.
    pub fn run(self) -> Result<(), Failure> {
        print(&generate::completions(self.shell))
    }
}
