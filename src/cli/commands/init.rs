//! `snapmark init`.

use std::path::PathBuf;

use clap::Args;

use crate::base::ByteSize;
use crate::cli::daemon_calls::{self, CacheMode, InitOptions};
use crate::cli::exit::Failure;
use crate::control::DeviceSpec;

const EXAMPLES: &str = "\
Examples:
  snapmark init /srv/store --size 100GiB
      a store with one sparse backing file in it
  snapmark init /srv/store --device /dev/sdb --device /srv/more:500GiB
      a pool of a block device and a backing file
  snapmark init /srv/store --size 1TiB --journal /nvme/snapmark.journal --journal-size 8GiB
      the journal on a faster disk than the pool

The settings are in STORE/store.yaml, commented; most can be changed there later.";

/// Make a store
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Init {
    /// Directory of the store; made if it does not exist, empty if it does
    #[arg(value_hint = clap::ValueHint::DirPath)]
    store: PathBuf,
    /// Size of the sparse backing file in the store; also of a --device that is to be made and has
    /// no SIZE of its own
    #[arg(long, value_name = "SIZE")]
    size: Option<ByteSize>,
    /// Unit of allocation: a power of two from 64KiB to 4MiB
    #[arg(long, value_name = "SIZE")]
    segment: Option<ByteSize>,
    /// A backing file (made with SIZE if it does not exist) or a block device; may be repeated
    #[arg(long, value_name = "PATH[:SIZE]")]
    device: Vec<DeviceSpec>,
    /// Where the journal is; in the store unless given
    #[arg(long, value_name = "PATH", value_hint = clap::ValueHint::FilePath)]
    journal: Option<PathBuf>,
    /// Bytes that the journal can hold
    #[arg(long, value_name = "SIZE")]
    journal_size: Option<ByteSize>,
    /// Memory for writes that wait for the devices
    #[arg(long, value_name = "SIZE")]
    cache_size: Option<ByteSize>,
    /// What acknowledged writes stand on
    #[arg(long, value_name = "MODE")]
    mode: Option<CacheMode>,
}

impl Init {
    /// Makes the store.
    pub fn run(self) -> Result<(), Failure> {
        let devices = self.device.into_iter().map(absolute_device);
        daemon_calls::init(&InitOptions {
            devices: devices.collect::<Result<_, _>>()?,
            journal: self.journal.map(absolute).transpose()?,
            store: self.store,
            size: self.size,
            segment: self.segment,
            journal_size: self.journal_size,
            cache_size: self.cache_size,
            mode: self.mode,
        })
    }
}

/// Relative paths on the command line are relative to where the user stands, while those in the
/// settings are relative to the store.
pub fn absolute_device(device: DeviceSpec) -> Result<DeviceSpec, Failure> {
    let path = absolute(PathBuf::from(&device.path))?;
    let path = path.into_os_string().into_string().map_err(|path| {
        Failure::usage(format!("{}: a device's path must be UTF-8", path.display()))
    })?;
    Ok(DeviceSpec { path, ..device })
}

fn absolute(path: PathBuf) -> Result<PathBuf, Failure> {
    std::path::absolute(&path).map_err(|error| Failure::io(path.display(), &error))
}
