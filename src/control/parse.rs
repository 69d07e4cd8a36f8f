//! A line into a [`Command`]. Total: every line gives a command or an error that shows the right
//! form, and nothing is looked up or changed on the way.

use crate::base::{
    ByteSize, check_disk_name, check_snapshot_name, snapshot_file_name, split_snapshot_file_name,
};

use super::error::{CommandError, ErrorKind};
use super::grammar::{Form, form_of, nearest};

/// The longest line, in bytes.
pub const MAX_LINE: usize = 4096;

/// A command whose words have been checked. Names of snapshots are file names, `DISK@NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Take a snapshot of all these disks at one point.
    Snapshot {
        /// The disks; at least one, none twice.
        disks: Vec<String>,
        /// The part after the `@`; the UTC time where there is none.
        name: Option<String>,
        /// Whether to wait until the marker would survive power loss.
        durable: bool,
    },
    /// Delete a disk or a snapshot.
    Delete {
        /// Its file name.
        name: String,
    },
    /// Rename a disk, or a snapshot of a disk.
    Rename {
        /// File name that it has.
        from: String,
        /// File name that it is to have.
        to: String,
    },
    /// Make a disk's content that of its snapshot.
    Rollback {
        /// The disk.
        disk: String,
        /// The snapshot's file name.
        snapshot: String,
        /// Also while the disk is open.
        force: bool,
    },
    /// Make a writable disk over a snapshot.
    Clone {
        /// The snapshot's file name.
        snapshot: String,
        /// The new disk.
        disk: String,
    },
    /// Change a disk's virtual size.
    Resize {
        /// The disk.
        disk: String,
        /// What it is to have.
        size: ByteSize,
    },
    /// Move everything that is cached to the devices.
    Flush,
    /// Set a disk's destage priority.
    Priority {
        /// The disk.
        disk: String,
        /// Higher goes first.
        priority: u8,
    },
    /// Give the pool another device.
    DeviceAdd(DeviceSpec),
    /// Show the devices.
    DeviceList,
    /// The online data check.
    Scrub(ScrubCommand),
    /// Show disks and snapshots.
    List,
    /// Show the state.
    Status,
    /// Show the counters.
    Stats,
    /// Show the commands.
    Help,
}

/// What the online data check is to do. Rates are bytes a second; 0 is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScrubCommand {
    /// Begin, with the rate of the settings where none is given.
    Start(Option<ByteSize>),
    /// Wait where it is.
    Pause,
    /// Go on.
    Resume,
    /// End.
    Stop,
    /// Go on faster or slower.
    Rate(ByteSize),
}

/// A device as it is named in commands: `PATH` or `PATH:SIZE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceSpec {
    /// Backing file or block device.
    pub path: String,
    /// Its size where it is to be made.
    pub size: Option<ByteSize>,
}

impl std::str::FromStr for DeviceSpec {
    type Err = String;

    /// What follows the last colon is a size only if it reads as one, so that paths with colons
    /// (`/dev/disk/by-path/pci-0000:00:04.0`) can be given.
    fn from_str(text: &str) -> Result<Self, String> {
        let sized = text
            .rsplit_once(':')
            .and_then(|(path, size)| Some((path, size.parse::<ByteSize>().ok()?)))
            .filter(|(path, _)| !text.starts_with("/dev/") && !path.is_empty());
        let (path, size) = match sized {
            Some((path, size)) => (path, Some(size)),
            None => (text, None),
        };
        if path.is_empty() || path.contains('\0') {
            return Err("a device is PATH or PATH:SIZE, as in /srv/pool2:500GiB".to_owned());
        }
        if size == Some(ByteSize(0)) {
            return Err(format!("{text:?}: a device can't have the size 0"));
        }
        Ok(Self {
            path: path.to_owned(),
            size,
        })
    }
}

/// Reads one line; a line feed at its end is taken off.
///
/// # Errors
/// Where it is no command: what was wrong, and the right form.
pub fn parse(line: &str) -> Result<Command, CommandError> {
    let line = line.trim_end_matches(['\n', '\r', '\0']);
    if line.len() > MAX_LINE {
        return Err(CommandError::new(
            ErrorKind::TooLong,
            format!(
                "the line has {} bytes; {MAX_LINE} are allowed; name fewer disks",
                line.len()
            ),
        ));
    }
    if let Some(bad) = line.chars().find(|c| c.is_control() && *c != '\t') {
        return Err(CommandError::invalid(format!(
            "the line has {bad:?} in it; one write is one line of text"
        )));
    }
    let Some(verb) = line.split_whitespace().next() else {
        return Err(CommandError::invalid(
            "the line is empty; 'help' lists the commands",
        ));
    };
    let form = form_of(verb).ok_or_else(|| unknown(verb))?;
    let rest = line.trim_start()[verb.len()..].trim();
    let words: Vec<&str> = rest.split_whitespace().collect();
    arguments(form, rest, &words).map_err(|error| CommandError {
        message: format!("{}; the form is: {form}", error.message),
        ..error
    })
}

fn unknown(verb: &str) -> CommandError {
    let shown: String = verb.chars().take(64).collect();
    CommandError::invalid(match nearest(verb) {
        Some(form) => format!("there is no command {shown:?}; did you mean: {form}"),
        None => format!("there is no command {shown:?}; 'help' lists them"),
    })
}

fn arguments(form: &Form, rest: &str, words: &[&str]) -> Result<Command, CommandError> {
    match form.verb {
        "snapshot" => snapshot(words),
        "delete" => {
            let [name] = exactly(words)?;
            Ok(Command::Delete {
                name: disk_or_snapshot(name)?,
            })
        }
        "rename" => rename(words),
        "rollback" => rollback(words),
        "clone" => {
            let [snapshot, disk] = exactly(words)?;
            Ok(Command::Clone {
                snapshot: snapshot_name(snapshot)?.1,
                disk: disk_name(disk)?,
            })
        }
        "resize" => {
            let [disk, size @ ..] = words else {
                return Err(count(words, "two"));
            };
            Ok(Command::Resize {
                disk: disk_name(disk)?,
                size: parse_size(&size.concat())?,
            })
        }
        "priority" => {
            let [disk, number] = exactly(words)?;
            Ok(Command::Priority {
                disk: disk_name(disk)?,
                priority: number.parse().map_err(|_| {
                    CommandError::invalid(format!("{number:?} is no number from 0 to 255"))
                })?,
            })
        }
        "device-add" => rest
            .parse()
            .map(Command::DeviceAdd)
            .map_err(CommandError::invalid),
        "scrub" => scrub(words),
        "flush" => exactly(words).map(|[]| Command::Flush),
        "device-list" => exactly(words).map(|[]| Command::DeviceList),
        "list" => exactly(words).map(|[]| Command::List),
        "status" => exactly(words).map(|[]| Command::Status),
        "stats" => exactly(words).map(|[]| Command::Stats),
        _ => Ok(Command::Help),
    }
}

fn snapshot(words: &[&str]) -> Result<Command, CommandError> {
    let (list, name, durable) = match *words {
        [list] => (list, None, true),
        [list, "nosync"] => (list, None, false),
        [list, name] => (list, Some(name), true),
        [list, name, "nosync"] => (list, Some(name), false),
        [_, _, third] => {
            return Err(CommandError::invalid(format!(
                "{third:?} is not 'nosync'; several disks are joined by ',' without spaces"
            )));
        }
        _ => return Err(count(words, "one to three")),
    };
    let mut disks: Vec<String> = Vec::new();
    for disk in list.split(',') {
        let disk = disk_name(disk)?;
        if disks.contains(&disk) {
            return Err(CommandError::invalid(format!("{disk:?} is named twice")));
        }
        if let Some(name) = name {
            check_snapshot_name(&disk, name)?;
        }
        disks.push(disk);
    }
    Ok(Command::Snapshot {
        disks,
        name: name.map(str::to_owned),
        durable,
    })
}

/// `rename vm1.img@a b` is taken as `rename vm1.img@a vm1.img@b`.
fn rename(words: &[&str]) -> Result<Command, CommandError> {
    let [from, to] = exactly(words)?;
    let from = disk_or_snapshot(from)?;
    let to = match (split_snapshot_file_name(&from), to.contains('@')) {
        (None, false) => disk_name(to)?,
        (None, true) => {
            return Err(CommandError::invalid(format!(
                "{from:?} is a disk and {to:?} names a snapshot"
            )));
        }
        (Some((disk, _)), false) => {
            check_snapshot_name(disk, to)?;
            snapshot_file_name(disk, to)
        }
        (Some((disk, _)), true) => {
            let (other, file) = snapshot_name(to)?;
            if other != disk {
                return Err(CommandError::invalid(format!(
                    "a snapshot stays with its disk: {disk:?} is not {other:?}"
                )));
            }
            file
        }
    };
    Ok(Command::Rename { from, to })
}

fn rollback(words: &[&str]) -> Result<Command, CommandError> {
    let (words, force) = match words {
        [words @ .., "force"] if !words.is_empty() => (words, true),
        words => (words, false),
    };
    let (disk, snapshot) = match *words {
        [file] => snapshot_name(file)?,
        [disk, name] if !name.contains('@') => snapshot_name(&snapshot_file_name(disk, name))?,
        [disk, file] => {
            let (of, snapshot) = snapshot_name(file)?;
            if of != disk {
                return Err(CommandError::invalid(format!(
                    "{file:?} is no snapshot of {disk:?}; clone it instead"
                )));
            }
            (of, snapshot)
        }
        _ => return Err(count(words, "one or two")),
    };
    Ok(Command::Rollback {
        disk,
        snapshot,
        force,
    })
}

fn scrub(words: &[&str]) -> Result<Command, CommandError> {
    let command = match *words {
        ["start"] => ScrubCommand::Start(None),
        ["start", rate] => ScrubCommand::Start(Some(parse_rate(rate)?)),
        ["pause"] => ScrubCommand::Pause,
        ["resume"] => ScrubCommand::Resume,
        ["stop"] => ScrubCommand::Stop,
        ["rate", rate] => ScrubCommand::Rate(parse_rate(rate)?),
        [] => return Err(count(words, "one or two")),
        [other, ..] => {
            return Err(CommandError::invalid(format!(
                "{other:?} with {} more words is nothing that a scrub can do",
                words.len() - 1
            )));
        }
    };
    Ok(Command::Scrub(command))
}

/// Bytes a second, as in `200MiB/s`, or without the `/s`.
///
/// # Errors
/// Where it is no size.
pub fn parse_rate(text: &str) -> Result<ByteSize, CommandError> {
    parse_size(text.strip_suffix("/s").unwrap_or(text))
}

fn exactly<'a, const N: usize>(words: &[&'a str]) -> Result<[&'a str; N], CommandError> {
    const NUMBERS: [&str; 3] = ["no", "one", "two"];
    let wanted = NUMBERS.get(N).copied().unwrap_or("other");
    <[&str; N]>::try_from(words).map_err(|_| count(words, wanted))
}

fn count(words: &[&str], wanted: &str) -> CommandError {
    CommandError::invalid(format!(
        "{} argument{} where {wanted} {} expected",
        words.len(),
        if words.len() == 1 { "" } else { "s" },
        if wanted == "one" { "is" } else { "are" },
    ))
}

fn disk_name(name: &str) -> Result<String, CommandError> {
    check_disk_name(name)?;
    Ok(name.to_owned())
}

fn snapshot_name(file: &str) -> Result<(String, String), CommandError> {
    let Some((disk, name)) = split_snapshot_file_name(file) else {
        return Err(CommandError::invalid(format!(
            "{file:?} names no snapshot: a snapshot is DISK@NAME"
        )));
    };
    check_disk_name(disk)?;
    check_snapshot_name(disk, name)?;
    Ok((disk.to_owned(), file.to_owned()))
}

fn disk_or_snapshot(file: &str) -> Result<String, CommandError> {
    if file.contains('@') {
        snapshot_name(file).map(|(_, file)| file)
    } else {
        disk_name(file)
    }
}

fn parse_size(text: &str) -> Result<ByteSize, CommandError> {
    text.parse()
        .map_err(|error: crate::base::ParseSizeError| CommandError::invalid(error.to_string()))
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
