//! Shell completions and man pages, made from the command line's own definition.

use clap_complete::Shell;

use super::exit::Failure;

/// The completions for a shell.
#[must_use]
pub fn completions(shell: Shell) -> String {
    let mut bytes = Vec::new();
    clap_complete::generate(shell, &mut super::command(), "snapmark", &mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The man pages as file names and texts: one for the program, one for each subcommand.
///
/// # Errors
/// Where one can't be rendered.
pub fn man_pages() -> Result<Vec<(String, String)>, Failure> {
    let mut command = super::command();
    command.build();
    let mut pages = Vec::new();
    collect(&command, "snapmark", &mut pages)?;
    Ok(pages)
}

fn collect(
    command: &clap::Command,
    name: &str,
    pages: &mut Vec<(String, String)>,
) -> Result<(), Failure> {
    pages.push((format!("{name}.1"), page(command, name)?));
    let shown = |sub: &&clap::Command| !sub.is_hide_set() && sub.get_name() != "help";
    for sub in command.get_subcommands().filter(shown) {
        collect(sub, &format!("{name}-{}", sub.get_name()), pages)?;
    }
    Ok(())
}

fn page(command: &clap::Command, name: &str) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    clap_mangen::Man::new(command.clone())
        .title(name)
        .manual("Snapmark")
        .render(&mut bytes)
        .map_err(|error| Failure::io(name, &error))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
