//! `snapmark unmount`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::daemon_calls::{self, UnmountOptions};
use crate::cli::exit::Failure;

const EXAMPLES: &str = "\
Examples:
  snapmark unmount /mnt/disks           returns when all that was cached is on the devices
  snapmark unmount --lazy /mnt/disks    also with files open: it goes when they are closed

Loop devices and virtual machines keep disks open: end them first (umount, losetup -d).";

/// End a mount: drain the cache and close the store
#[derive(Debug, Args)]
#[command(visible_alias = "umount", after_long_help = EXAMPLES)]
pub struct Unmount {
    /// Where the store is mounted
    #[arg(value_hint = clap::ValueHint::DirPath)]
    mountpoint: PathBuf,
    /// Detach it even while files in it are open
    #[arg(short, long)]
    lazy: bool,
}

impl Unmount {
    /// Ends the mount.
    pub fn run(self) -> Result<(), Failure> {
        daemon_calls::unmount(&UnmountOptions {
            mountpoint: self.mountpoint,
            lazy: self.lazy,
        })
    }
}
