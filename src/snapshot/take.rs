//! Taking a snapshot: one marker in the queue for all disks named, under one short lock.

use std::time::Instant;

use crate::base::{check_snapshot_name, now, snapshot_file_name};
use crate::device::Step;
use crate::ondisk::journal::{Op, Target};
use crate::volume::{Entered, Namespace, Result, VolumeError, Volumes};

/// Disks in one command at the most: what one journal record holds.
const MAX_DISKS: usize = 2048;

impl Volumes {
    /// Sets one marker over all these disks. Returns the file names of the snapshots, which can
    /// be read at once. Without a name they get the time, as in `2026-11-20T21-30-00Z`. With
    /// `durable` it returns when the marker, and all that was acknowledged before it, would
    /// survive power loss (P3); without, when they would survive the daemon's death.
    ///
    /// # Errors
    /// Where a disk is none or is named twice, a snapshot's name is taken or no name, or the
    /// store has halted. Then there is no snapshot of any of them.
    pub fn snapshot(
        &self,
        disks: &[&str],
        name: Option<&str>,
        durable: bool,
    ) -> Result<Vec<String>> {
        let started = Instant::now();
        let taken = self.take(disks, name, durable);
        self.metrics
            .snapshot
            .record(taken.is_ok(), 0, started.elapsed());
        taken
    }

    fn take(&self, disks: &[&str], name: Option<&str>, durable: bool) -> Result<Vec<String>> {
        if disks.is_empty() || disks.len() > MAX_DISKS {
            return Err(VolumeError::Invalid(format!(
                "name 1 to {MAX_DISKS} disks, not {}",
                disks.len()
            )));
        }
        let chosen = std::cell::RefCell::new(String::new());
        let entered: Entered = self.commit_op_over(disks.len(), |names, lines| {
            let name = match name {
                Some(name) => name.to_owned(),
                None => time_name(names, disks),
            };
            let mut targets: Vec<Target> = Vec::with_capacity(disks.len());
            for disk_name in disks {
                let disk = names.disk_named(disk_name)?;
                check_snapshot_name(disk_name, &name)?;
                let file_name = snapshot_file_name(disk_name, &name);
                if names.lookup(&file_name).is_some() {
                    return Err(VolumeError::Exists(file_name));
                }
                if targets.iter().any(|target| target.disk == disk.id) {
                    return Err(VolumeError::Invalid(format!(
                        "{disk_name:?} is named twice"
                    )));
                }
                let (map, epoch, size) = lines
                    .line(disk.id)
                    .ok_or_else(|| VolumeError::NotFound((*disk_name).to_owned()))?;
                let disk_name = (*disk_name).to_owned();
                targets.push(Target {
                    disk: disk.id,
                    map: map.id,
                    epoch,
                    disk_name,
                    size,
                });
            }
            chosen.replace(name.clone());
            Ok(Op::Marker { name, targets })
        })?;
        Step::MarkerWritten.passes();
        if durable {
            self.cache.sync(entered.0)?;
        }
        Ok(disks
            .iter()
            .map(|disk| snapshot_file_name(disk, &chosen.borrow()))
            .collect())
    }
}

/// The time in UTC, with a number behind it where one of the disks has a snapshot of this second.
fn time_name(names: &Namespace, disks: &[&str]) -> String {
    let second = now().0.div_euclid(1_000_000_000);
    let time = jiff::Timestamp::from_second(second).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let base = time.strftime("%Y-%m-%dT%H-%M-%SZ").to_string();
    let free = |name: &String| {
        disks
            .iter()
            .all(|disk| names.lookup(&snapshot_file_name(disk, name)).is_none())
    };
    let numbered = (2u32..).map(|n| format!("{base}.{n}"));
    std::iter::once(base.clone())
        .chain(numbered)
        .find(free)
        .unwrap_or(base)
}
