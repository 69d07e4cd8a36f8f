//! `snapmark snapshot`.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::base::split_snapshot_file_name;
use crate::cli::client::{Mount, Target};
use crate::cli::exit::Failure;
use crate::cli::freeze::{self, FileSystem, Frozen, Thawed};
use crate::cli::output::{note, print, print_json};
use crate::control::{MOUNT_HINTS, SnapshotAnswer};

const EXAMPLES: &str = "\
Examples:
  snapmark snapshot mnt/vm1.img before-upgrade
  snapmark snapshot mnt/vm1.img mnt/db.img nightly    both at exactly the same point
  snapmark snapshot mnt/vm1.img                       named by the UTC time
  snapmark snapshot --freeze mnt/vm1.img clean        of a loop-mounted file system (as root)

The last argument is the name if it has no '/' and is no disk; --name says it beyond doubt.

A snapshot holds every write acknowledged before. What a file system on the disk still holds in its
own page cache has not been written: such a snapshot is crash-consistent, as after a power cut.
Mount it without replaying the journal, which would be a write:
  ext4   mount -o ro,noload,loop mnt/vm1.img@before /mnt/old
  xfs    mount -o ro,norecovery,nouuid,loop ...
  btrfs  mount -o ro,rescue=nologreplay,loop ...
XFS needs its options also after --freeze, since it leaves its log dirty when frozen.
--freeze makes the file systems that are loop-mounted here write all they have and hold still for
the moment of the snapshot. Those mounted in containers or virtual machines it does not see: use
fsfreeze(8) or the guest agent there.";

/// Take a snapshot of disks, all at one point, while they are being written
#[derive(Debug, Args)]
#[command(
    visible_alias = "snap",
    override_usage = "snapmark snapshot [OPTIONS] <PATH>... [NAME]",
    after_long_help = EXAMPLES
)]
pub struct Snapshot {
    /// Disks, and last a name; without one the UTC time is the name
    #[arg(required = true, value_name = "PATH", value_hint = clap::ValueHint::FilePath)]
    paths: Vec<PathBuf>,
    /// The name, where the last argument should not be taken for it
    #[arg(long)]
    name: Option<String>,
    /// Freeze the file systems that are loop-mounted from these disks for the moment
    #[arg(long)]
    freeze: bool,
    /// Return before the marker would survive power loss
    #[arg(long)]
    nosync: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    snapshots: Vec<Taken>,
    /// `file-system` or `crash`.
    consistency: &'static str,
    frozen: Vec<FrozenReport>,
}

#[derive(Serialize)]
struct Taken {
    disk: String,
    name: String,
    path: PathBuf,
}

#[derive(Serialize)]
struct FrozenReport {
    mountpoint: PathBuf,
    file_system: String,
}

impl Snapshot {
    /// Takes it.
    pub fn run(self) -> Result<(), Failure> {
        let (paths, name) = split_name(self.paths, self.name);
        let (mount, disks) = Target::all_of(&paths)?;
        let mut line = format!("snapshot {}", disks.join(","));
        if let Some(name) = &name {
            line.extend([" ", name]);
        }
        if self.nosync {
            line.push_str(" nosync");
        }
        let systems = if self.freeze {
            freeze::file_systems(&mount, &disks)?
        } else {
            Vec::new()
        };
        let (answer, thawed) = take(&mount, &line, &systems)?;
        let consistent = thawed == Some(Thawed::InTime);
        if thawed == Some(Thawed::Early) {
            note(
                "the file systems were thawed before the snapshot was done, since it took too long; it may be crash-consistent only",
            );
        }
        if self.freeze && systems.is_empty() {
            note("no file system is loop-mounted here from these disks, so none was frozen");
        }
        if self.json {
            report(&mount, &answer, consistent, &systems)
        } else {
            print(&words(&answer, consistent, &systems))
        }
    }
}

/// Takes the last argument for the name where it can only be that.
fn split_name(mut paths: Vec<PathBuf>, name: Option<String>) -> (Vec<PathBuf>, Option<String>) {
    if name.is_some() || paths.len() < 2 {
        return (paths, name);
    }
    let is_disk = |target: Target| target.path().exists();
    let last = paths.last().and_then(|last| last.to_str());
    match last {
        Some(last) if !last.contains('/') && !Target::of(last.as_ref()).is_ok_and(is_disk) => {
            let name = last.to_owned();
            paths.pop();
            (paths, Some(name))
        }
        _ => (paths, None),
    }
}

/// Gives the command, between freeze and thaw where there is something to freeze. Prints nothing
/// meanwhile: the output may go to one of the frozen file systems.
fn take(
    mount: &Mount,
    line: &str,
    systems: &[FileSystem],
) -> Result<(String, Option<Thawed>), Failure> {
    if systems.is_empty() {
        return Ok((mount.command(line)?, None));
    }
    let frozen = Frozen::freeze(systems)?;
    let answer = mount.command(line);
    let thawed = frozen.thaw();
    let answer = answer?;
    thawed
        .map(|thawed| (answer.clone(), Some(thawed)))
        .map_err(|failure| {
            Failure::new(
                failure.exit,
                format!("{}\n{}", answer.trim_end(), failure.message),
            )
        })
}

fn words(answer: &str, consistent: bool, systems: &[FileSystem]) -> String {
    let names = SnapshotAnswer::parse(answer).map(|answer| answer.names.join(", "));
    match names {
        Some(names) if consistent => {
            let list: Vec<String> = systems.iter().map(frozen_words).collect();
            format!(
                "snapshot {names} taken (file-system-consistent: frozen meanwhile was {})\n",
                list.join(", ")
            )
        }
        _ => {
            let hints: Vec<String> = MOUNT_HINTS
                .iter()
                .map(|(system, options)| format!("{system}: mount -o {options}"))
                .collect();
            format!("{answer}to look into it, {}\n", hints.join("; "))
        }
    }
}

/// XFS leaves its log dirty on purpose when it is frozen (measured: a plain `ro` is refused on a
/// read-only device), so it has to be told not to replay it; the others are clean.
fn frozen_words(system: &FileSystem) -> String {
    let options = MOUNT_HINTS
        .iter()
        .find(|(fs_type, _)| *fs_type == "xfs" && system.fs_type == "xfs")
        .map_or("ro,loop", |(_, options)| options);
    format!(
        "{} on {}; mount it with -o {options}",
        system.fs_type,
        system.mountpoint.display()
    )
}

fn report(
    mount: &Mount,
    answer: &str,
    consistent: bool,
    systems: &[FileSystem],
) -> Result<(), Failure> {
    let names = SnapshotAnswer::parse(answer)
        .ok_or_else(|| {
            Failure::failed(format!(
                "the snapshot was taken, but the store's answer reads as none: {answer}"
            ))
        })?
        .names;
    let snapshots = names.iter().filter_map(|file| {
        let (disk, name) = split_snapshot_file_name(file)?;
        Some(Taken {
            disk: disk.to_owned(),
            name: name.to_owned(),
            path: mount.path().join(file),
        })
    });
    print_json(&Report {
        snapshots: snapshots.collect(),
        consistency: if consistent { "file-system" } else { "crash" },
        frozen: systems
            .iter()
            .map(|s| FrozenReport {
                mountpoint: s.mountpoint.clone(),
                file_system: s.fs_type.clone(),
            })
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_is_the_name_unless_it_is_a_path() {
        let split = |words: &[&str], name: Option<&str>| {
            let paths = words.iter().map(PathBuf::from).collect();
            let (paths, name) = split_name(paths, name.map(str::to_owned));
            (paths.len(), name)
        };
        assert_eq!(split(&["m/a"], None), (1, None));
        assert_eq!(split(&["m/a", "n"], None), (1, Some("n".to_owned())));
        assert_eq!(split(&["m/a", "m/b"], None), (2, None));
        assert_eq!(split(&["m/a", "b"], Some("n")), (2, Some("n".to_owned())));
    }
}
