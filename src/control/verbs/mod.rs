//! One file for each subject; [`run`] branches.

mod clone;
mod delete;
mod device;
mod list;
mod priority;
mod rename;
mod resize;
mod rollback;
mod scrub;
mod snapshot;

pub use device::list as render_devices;
pub use list::render as render_list;
pub use snapshot::{MOUNT_HINTS, SnapshotAnswer};

use super::error::CommandError;
use super::{Command, grammar, stats};
use crate::volume::Volumes;

/// What a verb answers.
type Answer = Result<String, CommandError>;

/// Runs a command; the answer ends with a line feed.
///
/// # Errors
/// Where it can't be done; nothing has changed then.
pub fn run(volumes: &Volumes, command: &Command) -> Answer {
    match command {
        Command::Snapshot {
            disks,
            name,
            durable,
        } => snapshot::run(volumes, disks, name.as_deref(), *durable),
        Command::Delete { name } => delete::run(volumes, name),
        Command::Rename { from, to } => rename::run(volumes, from, to),
        Command::Rollback {
            disk,
            snapshot,
            force,
        } => rollback::run(volumes, disk, snapshot, *force),
        Command::Clone { snapshot, disk } => clone::run(volumes, snapshot, disk),
        Command::Resize { disk, size } => resize::run(volumes, disk, *size),
        Command::Flush => flush(volumes),
        Command::Priority { disk, priority } => priority::run(volumes, disk, *priority),
        Command::DeviceAdd(device) => device::add(volumes, device),
        Command::DeviceList => Ok(device::list(&volumes.status())),
        Command::Scrub(command) => scrub::run(volumes, *command),
        Command::List => Ok(list::render(&volumes.status(), true)),
        Command::Status => status(volumes),
        Command::Stats => Ok(stats::render(&volumes.status(), volumes.metrics())),
        Command::Help => Ok(grammar::help()),
    }
}

fn flush(volumes: &Volumes) -> Answer {
    volumes.flush()?;
    Ok("flushed: everything acknowledged before is on the devices\n".to_owned())
}

fn status(volumes: &Volumes) -> Answer {
    serde_yaml::to_string(&volumes.status())
        .map_err(|error| CommandError::new(super::ErrorKind::Io, error.to_string()))
}
