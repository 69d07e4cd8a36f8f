//! `snapmark mount`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::daemon_calls::{self, MountOptions, Place};
use crate::cli::exit::Failure;
use crate::config::Portal;

const EXAMPLES: &str = "\
Examples:
  snapmark mount /srv/store /mnt/disks          returns once the disks are there
  snapmark mount -f /srv/store /mnt/disks       stays, for a service manager or to watch the log
  snapmark mount --iscsi 127.0.0.1 /srv/store /mnt/disks       also as iSCSI targets
  snapmark mount -o allow_other store mnt       as non-root (needs the package fuse3, and
                                                user_allow_other in /etc/fuse.conf)";

/// Serve a store: its disks appear as files in MOUNTPOINT
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Mount {
    /// Directory of the store
    #[arg(value_hint = clap::ValueHint::DirPath)]
    store: PathBuf,
    /// Directory where the disks are to appear
    #[arg(value_hint = clap::ValueHint::DirPath)]
    mountpoint: PathBuf,
    /// Stay in the foreground and log to standard error
    #[arg(short, long)]
    foreground: bool,
    /// Added by the parent that starts the background process.
    #[arg(long, hide = true)]
    background_child: bool,
    /// Let other users see the mount; file permissions still apply
    #[arg(long)]
    allow_other: bool,
    /// Serve the disks over iSCSI too, at this address (port 3260 unless given); beyond this machine only
    /// with secrets, see 'iscsi' in store.yaml
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    iscsi: Vec<Portal>,
    /// Mount options as mount(8) gives them: allow_other, fsname=NAME; those of fstab are ignored
    #[arg(short, value_name = "OPT", value_delimiter = ',')]
    options: Vec<MountOption>,
}

/// One word of `-o`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum MountOption {
    AllowOther,
    FsName(String),
    Ignored,
}

impl std::str::FromStr for MountOption {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        const IGNORED: [&str; 20] = [
            "rw",
            "dev",
            "nodev",
            "suid",
            "nosuid",
            "exec",
            "noexec",
            "auto",
            "noauto",
            "user",
            "nouser",
            "users",
            "nofail",
            "_netdev",
            "defaults",
            "atime",
            "noatime",
            "relatime",
            "async",
            "default_permissions",
        ];
        match word.split_once('=') {
            None if word == "allow_other" => Ok(Self::AllowOther),
            None if word == "ro" => Err(
                "a store is served read-write; snapshots are read-only by themselves".to_owned(),
            ),
            None if IGNORED.contains(&word) || word.starts_with("x-") => Ok(Self::Ignored),
            Some(("fsname", name)) if !name.is_empty() => Ok(Self::FsName(name.to_owned())),
            Some((key, _)) if key.starts_with("x-") => Ok(Self::Ignored),
            _ => Err(format!(
                "{word:?} is no option of ours; there are allow_other and fsname=NAME"
            )),
        }
    }
}

impl Mount {
    /// Serves the store.
    pub fn run(self) -> Result<(), Failure> {
        let fs_name = self.options.iter().find_map(|option| match option {
            MountOption::FsName(name) => Some(name.clone()),
            _ => None,
        });
        daemon_calls::mount(&MountOptions {
            allow_other: self.allow_other || self.options.contains(&MountOption::AllowOther),
            fs_name,
            iscsi: self.iscsi,
            store: self.store,
            mountpoint: self.mountpoint,
            place: match (self.background_child, self.foreground) {
                (true, _) => Place::Child,
                (false, true) => Place::Foreground,
                (false, false) => Place::Background,
            },
        })
    }
}
