//! The `snapmark` program: one file for each subcommand, exit codes decided in one place.

mod client;
mod commands;
pub mod daemon_calls;
mod exit;
mod freeze;
mod generate;
mod mountinfo;
mod output;
mod progress;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

pub use exit::{EXIT_CODES, Exit, Failure};
pub use generate::{completions, man_pages};

const TOUR: &str = "\
Thin virtual disks as files in a mount, with exact snapshots that never stop the writer.

A tour, as root:

  snapmark init /srv/store --size 100GiB           make a store
  snapmark mount /srv/store /mnt/disks             serve it
  truncate -s 20G /mnt/disks/vm1.img               make a disk; then mkfs it, loop-mount it, boot it
  snapmark snapshot /mnt/disks/vm1.img before      while it is being written
  mount -o ro,noload,loop /mnt/disks/vm1.img@before /mnt/old     look at the snapshot
  snapmark rollback /mnt/disks/vm1.img@before      go back to it (with the disk closed)

A disk is a file in the mountpoint. A snapshot is its read-only sibling DISK@NAME: list it with ls,
delete it with rm, copy it with cp.";

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "snapmark",
    version,
    about = "Thin virtual disks in a mount, with exact snapshots that never stop the writer",
    long_about = TOUR,
    after_long_help = EXIT_CODES,
    disable_help_subcommand = false,
    propagate_version = false
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(commands::init::Init),
    Mount(commands::mount::Mount),
    Unmount(commands::unmount::Unmount),
    Snapshot(commands::snapshot::Snapshot),
    List(commands::list::List),
    Delete(commands::delete::Delete),
    Rename(commands::rename::Rename),
    Rollback(commands::rollback::Rollback),
    Clone(commands::clone::Clone),
    Resize(commands::resize::Resize),
    Priority(commands::priority::Priority),
    Flush(commands::flush::Flush),
    Status(commands::status::Status),
    Top(commands::top::Top),
    Check(commands::check::Check),
    Scrub(commands::scrub::Scrub),
    ScsiSnapshot(commands::scsi_snapshot::ScsiSnapshot),
    Device(commands::device::Device),
    Completions(commands::completions::Completions),
    Man(commands::man::Man),
    #[command(hide = true)]
    FreezeGuard(freeze::FreezeGuard),
}

impl Command {
    fn run(self) -> Result<(), Failure> {
        match self {
            Self::Init(command) => command.run(),
            Self::Mount(command) => command.run(),
            Self::Unmount(command) => command.run(),
            Self::Snapshot(command) => command.run(),
            Self::List(command) => command.run(),
            Self::Delete(command) => command.run(),
            Self::Rename(command) => command.run(),
            Self::Rollback(command) => command.run(),
            Self::Clone(command) => command.run(),
            Self::Resize(command) => command.run(),
            Self::Priority(command) => command.run(),
            Self::Flush(command) => command.run(),
            Self::Status(command) => command.run(),
            Self::Top(command) => command.run(),
            Self::Check(command) => command.run(),
            Self::Scrub(command) => command.run(),
            Self::ScsiSnapshot(command) => command.run(),
            Self::Device(command) => command.run(),
            Self::Completions(command) => command.run(),
            Self::Man(command) => command.run(),
            Self::FreezeGuard(command) => command.run(),
        }
    }
}

/// Runs the program on the process's arguments.
#[must_use]
pub fn main() -> ExitCode {
    let level = env_logger::Env::default().default_filter_or("info,fuser=warn");
    env_logger::Builder::from_env(level).init();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return not_parsed(&error),
    };
    match cli.command.run() {
        Ok(()) => Exit::Ok.into(),
        Err(failure) => {
            output::note(&failure.message);
            failure.exit.into()
        }
    }
}

/// Shows help, or what is wrong with the command line. For a check, clap's code would say that the
/// store is damaged.
fn not_parsed(error: &clap::Error) -> ExitCode {
    // Where it can't be shown, the code is what is left.
    let _ = error.print();
    let first = std::env::args_os().nth(1);
    let checks = first.is_some_and(|arg| arg == "check" || arg == "scrub");
    match error.exit_code() {
        0 => Exit::Ok.into(),
        _ if checks => Exit::UNCHECKED.into(),
        code => Exit::from_code(code).into(),
    }
}

/// The command line as clap sees it, for what is generated from it.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_teaches() {
        let mut command = Cli::command();
        let help = command.render_long_help().to_string();
        assert!(help.contains("snapmark init /srv/store") && help.contains("Exit codes"));
        for sub in command
            .get_subcommands_mut()
            .filter(|sub| !sub.is_hide_set() && sub.get_name() != "help")
        {
            let help = sub.render_long_help().to_string();
            assert!(
                help.contains("Example"),
                "{} shows no example",
                sub.get_name()
            );
        }
    }

    #[test]
    fn command_lines_are_accepted_or_refused() {
        for good in [
            "snapmark init /s --size 100GiB --segment 256KiB --device a:1G --device /dev/sdb --mode volatile",
            "snapmark mount /s /m -f -o allow_other,fsname=x,noatime",
            "snapmark mount /s /m --iscsi 127.0.0.1 --iscsi [::1]:3261",
            "snapmark scsi-snapshot --portal 192.0.2.1 --target iqn.x --all --nosync n",
            "snapmark scsi-snapshot --portal ::1 --list",
            "snapmark unmount /m",
            "snapmark snapshot m/a m/b nightly --freeze --json",
            "snapmark snapshot m/a --name n --nosync",
            "snapmark list",
            "snapmark list m --json --snapshots",
            "snapmark delete m/a@1 m/a@2",
            "snapmark rollback m/a@1 --force",
            "snapmark device add /m b:10G",
            "snapmark device list",
            "snapmark completions zsh",
            "snapmark top -n 1",
            "snapmark check /s --data --repair --json",
            "snapmark scrub",
            "snapmark scrub /m --rate 50MiB/s --background",
            "snapmark scrub /m --status --json",
        ] {
            let parsed = Cli::try_parse_from(good.split(' '));
            assert!(parsed.is_ok(), "{good}: {parsed:?}");
        }
        for bad in [
            "snapmark",
            "snapmark init /s --size huge",
            "snapmark init /s --device a:0",
            "snapmark mount /s",
            "snapmark mount /s /m -o ro",
            "snapmark mount /s /m --iscsi localhost",
            "snapmark scsi-snapshot --portal 192.0.2.1",
            "snapmark scsi-snapshot --portal 192.0.2.1 --target iqn.x --user u",
            "snapmark mount /s /m -o nonsense",
            "snapmark snapshot",
            "snapmark delete",
            "snapmark completions cobol",
            "snapmark top -i 0",
            "snapmark check",
            "snapmark scrub /m --pause --resume",
            "snapmark scrub /m --pause --background",
            "snapmark scrub /m --rate fast",
        ] {
            assert!(Cli::try_parse_from(bad.split(' ')).is_err(), "{bad}");
        }
    }
}
