//! `snapmark list`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::base::split_snapshot_file_name;
use crate::cli::client::{Mount, Target};
use crate::cli::exit::Failure;
use crate::cli::output::{print, print_json};
use crate::control::render_list;
use crate::volume::{DiskStatus, SnapshotStatus, Status};

const EXAMPLES: &str = "\
Examples:
  snapmark list                       all disks and snapshots of the only mount
  snapmark list mnt/vm1.img           one disk and its snapshots
  snapmark list --snapshots --json | jq -r '.snapshots[].name'";

/// List disks and snapshots
#[derive(Debug, Args)]
#[command(visible_alias = "ls", after_long_help = EXAMPLES)]
pub struct List {
    /// A mountpoint, a disk or a snapshot; may be left out where only one store is mounted
    #[arg(value_name = "PATH", value_hint = clap::ValueHint::AnyPath)]
    path: Option<PathBuf>,
    /// Only snapshots
    #[arg(long)]
    snapshots: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Listing {
    #[serde(skip_serializing_if = "Option::is_none")]
    disks: Option<Vec<DiskStatus>>,
    snapshots: Vec<SnapshotStatus>,
}

impl List {
    /// Lists.
    pub fn run(self) -> Result<(), Failure> {
        let (mount, name) = place(self.path.as_deref())?;
        let mut status = mount.status()?;
        if let Some(name) = &name {
            only(&mut status, name)?;
        }
        if self.json {
            return print_json(&Listing {
                disks: (!self.snapshots).then_some(status.disks),
                snapshots: status.snapshots,
            });
        }
        print(&render_list(&status, !self.snapshots))
    }
}

/// The mount, and the one thing in it that is to be shown.
fn place(path: Option<&Path>) -> Result<(Mount, Option<String>), Failure> {
    match path {
        Some(path) if !path.is_dir() => {
            let target = Target::of(path)?;
            Ok((target.mount, Some(target.name)))
        }
        path => Ok((Mount::at_or_only(path)?, None)),
    }
}

/// Leaves what has this file name, and a disk's snapshots with it.
fn only(status: &mut Status, name: &str) -> Result<(), Failure> {
    let (disk, snapshot) = match split_snapshot_file_name(name) {
        Some((disk, snapshot)) => (disk, Some(snapshot)),
        None => (name, None),
    };
    let shown = |s: &SnapshotStatus| s.disk == disk && snapshot.is_none_or(|name| name == s.name);
    status.snapshots.retain(shown);
    status
        .disks
        .retain(|d| snapshot.is_none() && d.name == disk);
    if status.disks.is_empty() && status.snapshots.is_empty() {
        return Err(Failure::not_found(format!(
            "there is no {name:?}; 'snapmark list' shows what there is"
        )));
    }
    Ok(())
}
