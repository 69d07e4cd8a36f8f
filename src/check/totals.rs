//! What the versions add up to: the data blocks of disks and snapshots, what nobody sees, and the
//! slots that nobody has.

use std::collections::BTreeMap;

use super::catalog::Catalog;
use super::findings::Findings;
use super::names::{self, file_name};
use super::problem::{Kind, Problem};
use super::records;
use super::segments::Version;
use super::slots::{Slots, Use};
use crate::base::{Epoch, MapId, Place, Slot};
use crate::ondisk::{Change, DiskRecord, MapRecord};

/// Slots that one problem gives back; there may be more such problems.
const MAX_RETIRED: u64 = 1 << 16;

/// What is known of a map, and what its versions add up to.
pub(super) struct OfMap<'c> {
    pub record: &'c MapRecord,
    pub disk: Option<&'c DiskRecord>,
    /// Of its snapshots, rising.
    epochs: Vec<Epoch>,
    /// Data blocks that each snapshot sees more, or fewer, than the one before it.
    pub steps: Vec<i64>,
    /// Data blocks of the live segments.
    pub live: u64,
    /// Versions that nobody sees.
    pub unseen: u64,
}

impl<'c> OfMap<'c> {
    pub fn new(catalog: &'c Catalog<'_>, record: &'c MapRecord) -> Self {
        let of = names::snapshots_of(catalog, record.id);
        let epochs: Vec<_> = of.map(|snapshot| snapshot.epoch).collect();
        Self {
            record,
            disk: None,
            steps: vec![0; epochs.len() + 1],
            epochs,
            live: 0,
            unseen: 0,
        }
    }

    /// Counts those of a segment's versions that nobody sees.
    pub fn count_unseen(&mut self, versions: &[Version]) {
        let mut above_is_seen = false;
        for version in versions.iter().rev() {
            let (key, descriptor) = version;
            let is_live = key.death == Epoch::LIVE;
            // What an epoch made in several layers is seen as a whole.
            let is_lower = !is_live && descriptor.birth.is_same_epoch(key.death);
            above_is_seen = is_live && self.record.live
                || !self.seers(version).is_empty()
                || is_lower && above_is_seen;
            self.unseen += u64::from(!above_is_seen);
        }
    }

    /// Which of its snapshots look at a version.
    pub fn seers(&self, (key, version): &Version) -> std::ops::Range<usize> {
        let before = |epoch: Epoch| self.epochs.partition_point(|it| *it < epoch);
        let from = before(version.birth);
        from..before(key.death).max(from)
    }
}

/// Compares the counts of data blocks in the records with what the versions come to, and looks
/// for versions that nobody sees. Only where all versions could be read.
pub(super) fn check(
    catalog: &Catalog<'_>,
    maps: &BTreeMap<MapId, OfMap<'_>>,
    findings: &mut Findings,
) {
    for map in maps.values() {
        if let Some(disk) = map.disk.filter(|disk| disk.allocated != map.live) {
            let message = format!(
                "disk {} counts {} blocks of data and has {}",
                disk.name, disk.allocated, map.live
            );
            let mended = DiskRecord {
                allocated: map.live,
                ..disk.clone()
            };
            findings.add(
                Problem::mended_by(Kind::Allocated, message, vec![Change::PutDisk(mended)])
                    .of_disk(&disk.name),
            );
        }
        let mut seen = 0;
        for (snapshot, step) in names::snapshots_of(catalog, map.record.id).zip(&map.steps) {
            seen += step;
            let seen = seen.unsigned_abs();
            if snapshot.allocated == seen {
                continue;
            }
            let name = file_name(snapshot);
            let message = format!(
                "{name} counts {} blocks of data and has {seen}",
                snapshot.allocated
            );
            let mut mended = snapshot.clone();
            mended.allocated = seen;
            findings.add(
                Problem::mended_by(Kind::Allocated, message, vec![Change::PutSnapshot(mended)])
                    .of_snapshot(name),
            );
        }
        if map.unseen > 0 && !map.record.reap {
            let message = format!(
                "{} versions of map {} are kept that nobody sees",
                map.unseen, map.record.id
            );
            let mend = vec![records::reap(map.record)];
            let mut problem = Problem::mended_by(Kind::Stale, message, mend);
            names::add_map(catalog, map.record.id, &mut problem);
            findings.add(problem);
        }
    }
}

/// Slots that are neither free nor anyone's.
pub(super) fn leaks(slots: &Slots, findings: &mut Findings) {
    for (device, of) in slots.devices() {
        for (first, count) in of.runs(Use::Taken) {
            for start in (first..first + count).step_by(MAX_RETIRED as usize) {
                let count = (first + count - start).min(MAX_RETIRED);
                let places = (start..start + count).map(|slot| Place {
                    device,
                    slot: Slot(slot),
                });
                let message = format!(
                    "{count} segments of device {device} from {start} are neither free nor in use"
                );
                let mend = places.map(Change::Retire).collect();
                let mut problem = Problem::mended_by(Kind::Slot, message, mend);
                problem.at.device = Some(device.0);
                (problem.at.slot, problem.at.count) = (Some(start), Some(count));
                findings.add(problem);
            }
        }
    }
}
