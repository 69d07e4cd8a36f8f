//! `list`: disks, each with its snapshots.

use crate::base::{ByteSize, snapshot_file_name};
use crate::control::{Align, Table};
use crate::volume::{DiskStatus, SnapshotStatus, Status};

/// A table of the disks, each followed by its snapshots, and of snapshots whose disk is gone.
///
/// `disks`: whether the disks themselves are shown.
pub fn render(status: &Status, disks: bool) -> String {
    if !disks && status.snapshots.is_empty() {
        return "no snapshots yet; 'snapshot DISK [NAME]' takes one\n".to_owned();
    }
    if status.disks.is_empty() && status.snapshots.is_empty() {
        return "no disks yet; 'truncate -s 100G vm1.img' in the mount makes one\n".to_owned();
    }
    let mut table = Table::new(&[
        ("NAME", Align::Left),
        ("SIZE", Align::Right),
        ("ALLOCATED", Align::Right),
        ("CREATED", Align::Left),
        ("NOTE", Align::Left),
    ]);
    let orphan = |s: &&SnapshotStatus| !status.disks.iter().any(|disk| disk.name == s.disk);
    for disk in &status.disks {
        if disks {
            table.row(disk_row(disk));
        }
        for snapshot in status.snapshots.iter().filter(|s| s.disk == disk.name) {
            table.row(snapshot_row(snapshot, ""));
        }
    }
    for snapshot in status.snapshots.iter().filter(orphan) {
        table.row(snapshot_row(snapshot, "its disk was deleted"));
    }
    table.to_string()
}

fn disk_row(disk: &DiskStatus) -> [String; 5] {
    let note = match (&disk.origin, disk.opens) {
        (Some(origin), _) => format!("clone of {origin}"),
        (None, 0) => String::new(),
        (None, _) => "open".to_owned(),
    };
    [
        disk.name.clone(),
        ByteSize(disk.size).to_string(),
        ByteSize(disk.allocated).to_string(),
        disk.created.clone(),
        note,
    ]
}

fn snapshot_row(snapshot: &SnapshotStatus, note: &str) -> [String; 5] {
    let note = if snapshot.queued && note.is_empty() {
        "still in the cache"
    } else {
        note
    };
    [
        snapshot_file_name(&snapshot.disk, &snapshot.name),
        ByteSize(snapshot.size).to_string(),
        ByteSize(snapshot.allocated).to_string(),
        snapshot.created.clone(),
        note.to_owned(),
    ]
}
