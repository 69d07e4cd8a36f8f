//! `snapmark device`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::init::absolute_device;
use crate::cli::client::Mount;
use crate::cli::exit::Failure;
use crate::cli::output::{print, print_json};
use crate::control::DeviceSpec;

const EXAMPLES: &str = "\
Examples:
  snapmark device list /mnt/disks
  snapmark device add /mnt/disks /srv/more:500GiB     a backing file, made if it does not exist
  snapmark device add /mnt/disks /dev/sdc             a block device, all of it";

/// Add and list the devices that give the pool its space
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Device {
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Give the pool another device; its space can be used at once
    Add {
        /// Where the store is mounted
        #[arg(value_hint = clap::ValueHint::DirPath)]
        mountpoint: PathBuf,
        /// A backing file (made with SIZE if it does not exist) or a block device
        #[arg(value_name = "PATH[:SIZE]")]
        device: DeviceSpec,
    },
    /// Show the devices
    List {
        /// Where the store is mounted; may be left out where there is only one
        #[arg(value_hint = clap::ValueHint::DirPath)]
        mountpoint: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

impl Device {
    /// Adds or lists.
    pub fn run(self) -> Result<(), Failure> {
        match self.command {
            Action::Add { mountpoint, device } => add(&Mount::at(&mountpoint)?, device),
            Action::List { mountpoint, json } => {
                let mount = Mount::at_or_only(mountpoint.as_deref())?;
                if json {
                    print_json(&mount.status()?.devices)
                } else {
                    print(&mount.command("device-list")?)
                }
            }
        }
    }
}

fn add(mount: &Mount, device: DeviceSpec) -> Result<(), Failure> {
    let device = absolute_device(device)?;
    let size = device.size.map(|size| format!(":{}", size.0));
    let line = format!("device-add {}{}", device.path, size.unwrap_or_default());
    print(&mount.command(&line)?)
}
