//! The versions of all segments, in the order of their keys: their lifetimes, who sees them, the
//! slots that they have, and what that adds up to.

use std::collections::{BTreeMap, BTreeSet};

use super::catalog::Catalog;
use super::findings::Findings;
use super::names::{self, file_name};
use super::problem::{Kind, Problem};
use super::slots::{Slots, Use};
use crate::base::{BLOCK_SIZE, BlockMask, Epoch, MapId, Place, Slot};
use crate::ondisk::{Change, Descriptor, DiskRecord, MapRecord, SumGroup, TreeKind, VersionKey};

/// Entries that are none which are kept to be reported.
const MAX_ODD: usize = 1000;
/// Slots that one change list gives back; there may be more such lists.
const MAX_RETIRED: u64 = 1 << 16;

/// A version with its key.
pub(super) type Version = (VersionKey, Descriptor);

/// What all versions come to.
#[derive(Default)]
pub(super) struct Versions {
    /// How many there are.
    pub count: u64,
    /// How many blocks of data they have.
    pub blocks: u64,
    /// Slots that more than one has.
    pub shared: BTreeSet<Place>,
    /// Whether all of them could be read.
    pub readable: bool,
}

/// Looks at every version, and marks the slots that they have. `readable`: whether all pages of
/// their tree are; else what they come to says nothing.
pub(super) fn check(
    catalog: &mut Catalog<'_>,
    readable: bool,
    findings: &mut Findings,
) -> Versions {
    let mut slots = std::mem::take(&mut catalog.slots);
    let found = run(catalog, readable, &mut slots, findings);
    catalog.slots = slots;
    found
}

fn run(
    catalog: &Catalog<'_>,
    readable: bool,
    slots: &mut Slots,
    findings: &mut Findings,
) -> Versions {
    let maps = catalog.maps.values();
    let mut maps: BTreeMap<_, _> = maps.map(|map| (map.id, OfMap::new(catalog, map))).collect();
    for disk in catalog.disks.values() {
        if let Some(map) = maps.get_mut(&disk.map) {
            map.disk = Some(disk);
        }
    }
    let mut pass = Pass {
        catalog,
        slots,
        maps,
        found: Versions::default(),
        findings,
    };
    let mut odd = Vec::new();
    each_segment(catalog, &mut |versions| pass.segment(versions), &mut odd);
    pass.found.readable = readable && odd.is_empty();
    for (key, what) in odd {
        let message = format!("segment {} of map {}: {what}", key.segment, key.map);
        let mut problem = Problem::damage(Kind::Version, message);
        names::add_map(catalog, key.map, &mut problem);
        pass.findings.add(problem);
    }
    if pass.found.readable && catalog.whole {
        totals(catalog, &pass.maps, pass.findings);
        leaks(pass.slots, pass.findings);
    }
    pass.found
}

/// Goes through the versions, all of a segment at a time, oldest first. What is no version goes to
/// `odd` with the reason, as far as there is room.
pub(super) fn each_segment(
    catalog: &Catalog<'_>,
    segment: &mut dyn FnMut(&[Version]),
    odd: &mut Vec<(VersionKey, String)>,
) {
    let geometry = catalog.root.geometry;
    let mut versions: Vec<Version> = Vec::new();
    let mut gone = Vec::new();
    let same = |a: &VersionKey, b: &VersionKey| (a.map, a.segment) == (b.map, b.segment);
    catalog.versions.walk(
        &catalog.tree(TreeKind::Versions),
        (0, u128::MAX),
        &mut |_| true,
        &mut |key, value| {
            let key = VersionKey::from_key(key);
            if versions.last().is_some_and(|(last, _)| !same(last, &key)) {
                segment(&versions);
                versions.clear();
            }
            match Descriptor::from_value(value, geometry) {
                Ok(descriptor) => versions.push((key, descriptor)),
                Err(error) if odd.len() < MAX_ODD => odd.push((key, error.to_string())),
                Err(_) => {}
            }
            true
        },
        &mut |key| gone.push(VersionKey::from_key(key)),
    );
    if !versions.is_empty() {
        segment(&versions);
    }
    let gone = gone.into_iter().take(MAX_ODD);
    odd.extend(gone.map(|key| {
        (
            key,
            "the log removes a version that was not there".to_owned(),
        )
    }));
}

/// Blocks of a segment with data, as whoever looks at `versions[at]` finds it: what it says, and
/// through its gaps what those below it say.
pub(super) fn shown(versions: &[Version], at: usize) -> BlockMask {
    let mut data = BlockMask::EMPTY;
    let mut covered = BlockMask::EMPTY;
    for (_, version) in versions[..=at].iter().rev() {
        data = data.or(&version.data.minus(&covered));
        covered = covered.or(&version.covered());
    }
    data
}

/// What is known of a map, and what its versions add up to.
struct OfMap<'c> {
    record: &'c MapRecord,
    disk: Option<&'c DiskRecord>,
    /// Of its snapshots, rising.
    epochs: Vec<Epoch>,
    /// Data blocks that each snapshot sees more, or fewer, than the one before it.
    steps: Vec<i64>,
    /// Data blocks of the live segments.
    live: u64,
    /// Versions that nobody sees.
    unseen: u64,
}

impl<'c> OfMap<'c> {
    fn new(catalog: &'c Catalog<'_>, record: &'c MapRecord) -> Self {
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

    /// Which of its snapshots look at a version.
    fn seers(&self, (key, version): &Version) -> std::ops::Range<usize> {
        let before = |epoch: Epoch| self.epochs.partition_point(|it| *it < epoch);
        let from = before(version.birth);
        from..before(key.death).max(from)
    }
}

struct Pass<'a, 'c, 'd> {
    catalog: &'c Catalog<'d>,
    slots: &'a mut Slots,
    maps: BTreeMap<MapId, OfMap<'c>>,
    found: Versions,
    findings: &'a mut Findings,
}

impl Pass<'_, '_, '_> {
    fn segment(&mut self, versions: &[Version]) {
        for (at, version) in versions.iter().enumerate() {
            self.lifetime(versions, at);
            self.slot(versions, at);
            self.found.count += 1;
            self.found.blocks += version.1.data.count() as u64;
        }
        let (key, _) = versions[0];
        let Some(map) = self.maps.get_mut(&key.map) else {
            if self.catalog.whole {
                let message = format!(
                    "segment {} is of map {}, which there is not",
                    key.segment, key.map
                );
                self.findings.add(Problem::damage(Kind::Version, message));
            }
            return;
        };
        let mut beyond = None;
        for (at, version) in versions.iter().enumerate() {
            let live = version.0.death == Epoch::LIVE && map.record.live;
            let seers = map.seers(version);
            if !live && seers.is_empty() {
                map.unseen += 1;
                continue;
            }
            let data = shown(versions, at);
            let count = data.count() as i64;
            map.steps[seers.start] += count;
            map.steps[seers.end] -= count;
            if live {
                map.live += count as u64;
                beyond = map.disk.filter(|disk| {
                    let end = data.runs().last().map_or(0, |run| run.end as u64);
                    let first = self.catalog.root.geometry.first_block(key.segment).0;
                    end > 0 && first + end > disk.size.div_ceil(BLOCK_SIZE)
                });
            }
        }
        if let Some(disk) = beyond {
            let message = format!(
                "segment {} of {} has data past its {} bytes",
                key.segment, disk.name, disk.size
            );
            self.findings
                .add(Problem::damage(Kind::Version, message).of_disk(&disk.name));
        }
    }

    /// Birth, death, masks and place of a version, by itself and after the one before it.
    fn lifetime(&mut self, versions: &[Version], at: usize) {
        let (key, descriptor) = &versions[at];
        if descriptor.birth >= key.death {
            self.wrong(versions, at, "died before it was born");
        }
        let before = at.checked_sub(1).map(|at| versions[at].0.death);
        if let Some(death) = before.filter(|death| *death > descriptor.birth) {
            let message = format!("lives before the one below it dies, in epoch {death}");
            self.wrong(versions, at, &message);
        }
        if descriptor.place.is_some() == descriptor.data.is_empty() {
            let message = match descriptor.place {
                Some(_) => "has a slot and no data in it",
                None => "has data and no slot",
            };
            self.wrong(versions, at, message);
        }
        let Some(map) = self.catalog.maps.get(&key.map) else {
            return;
        };
        let died = Some(key.death).filter(|death| *death != Epoch::LIVE);
        if descriptor.birth > map.epoch || died > Some(map.epoch) {
            let message = format!(
                "is of a later epoch than its map, which is in {}",
                map.epoch
            );
            self.wrong(versions, at, &message);
        }
    }

    fn slot(&mut self, versions: &[Version], at: usize) {
        let (key, descriptor) = &versions[at];
        let Some(place) = descriptor.place else {
            return;
        };
        let problem = match self.slots.get(place) {
            None => Problem::damage(Kind::Slot, format!("{place} does not exist")),
            Some(Use::Taken) => return self.slots.set(place, Use::Version),
            Some(Use::Version) => {
                self.found.shared.insert(place);
                Problem::damage(Kind::Slot, format!("{place} has more than one user"))
            }
            Some(Use::Free) => {
                self.slots.set(place, Use::Version);
                let message =
                    format!("{place} is in use and on the free list: a write may overwrite it");
                Problem::mended_by(Kind::Slot, message, vec![take(place)])
            }
            Some(Use::Pending) => {
                self.slots.set(place, Use::Version);
                let message = format!(
                    "{place} is in use and waits for its hole punch: it is about to be lost"
                );
                // There is no other way off the pending list. The checksums go with it, and are
                // set again.
                let mut mend = vec![Change::Free(place), take(place)];
                mend.extend(sums_of(self.catalog, place));
                Problem::mended_by(Kind::Slot, message, mend)
            }
        };
        let words = format!(
            "{}; it holds segment {} of map {}",
            problem.message, key.segment, key.map
        );
        let problem = Problem {
            message: words,
            ..problem.at_slot(place)
        };
        let problem = name(self.catalog, versions, (at, descriptor.data), problem);
        self.findings.add(problem);
    }

    fn wrong(&mut self, versions: &[Version], at: usize, message: &str) {
        let (key, descriptor) = &versions[at];
        let death = match key.death {
            Epoch::LIVE => "now".to_owned(),
            death => death.to_string(),
        };
        let message = format!(
            "the version of segment {} of map {} from epoch {} to {death} {message}",
            key.segment, key.map, descriptor.birth
        );
        let mut problem = Problem::damage(Kind::Version, message);
        if let Some(place) = descriptor.place {
            problem = problem.at_slot(place);
        }
        let all = BlockMask::full(self.catalog.root.geometry);
        self.findings
            .add(name(self.catalog, versions, (at, all), problem));
    }
}

/// Compares the counts of data blocks in the records with what the versions come to, and looks
/// for versions that nobody sees. Only where all versions could be read.
fn totals(catalog: &Catalog<'_>, maps: &BTreeMap<MapId, OfMap<'_>>, findings: &mut Findings) {
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
            let mend = vec![super::records::reap(map.record)];
            let mut problem = Problem::mended_by(Kind::Stale, message, mend);
            names::add_map(catalog, map.record.id, &mut problem);
            findings.add(problem);
        }
    }
}

/// Slots that are neither free nor anyone's.
fn leaks(slots: &Slots, findings: &mut Findings) {
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

/// Adds those who find these blocks of a version to those whom a problem touches: who looks at
/// the version itself, or at a later one through whose gaps they show.
pub(super) fn name(
    catalog: &Catalog<'_>,
    versions: &[Version],
    (at, mut blocks): (usize, BlockMask),
    mut problem: Problem,
) -> Problem {
    for (above, (key, version)) in versions.iter().enumerate().skip(at) {
        if above > at {
            blocks = blocks.minus(&version.covered());
        }
        if blocks.is_empty() {
            break;
        }
        if key.death == Epoch::LIVE {
            names::add_disk(catalog, key.map, &mut problem);
        }
        let lived = version.birth..key.death;
        let of = names::snapshots_of(catalog, key.map);
        for snapshot in of.filter(|snapshot| lived.contains(&snapshot.epoch)) {
            names::add_snapshot(catalog, snapshot, &mut problem);
        }
    }
    problem
}

fn take(place: Place) -> Change {
    Change::Take {
        device: place.device,
        first: place.slot,
        count: 1,
    }
}

/// The changes that set the checksums of a slot as they are.
fn sums_of(catalog: &Catalog<'_>, place: Place) -> Vec<Change> {
    let geometry = catalog.root.geometry;
    let first = geometry.slot_block(place.slot);
    let end = first + geometry.blocks() as u64;
    let (from, _) = SumGroup::locate(place.device, first);
    let (to, _) = SumGroup::locate(place.device, end - 1);
    let mut changes = Vec::new();
    let tree = catalog.tree(TreeKind::Checksums);
    catalog
        .sums
        .walk(&tree, (from, to), &mut |_| true, &mut |key, group| {
            let start = key as u64 * SumGroup::BLOCKS;
            let present = (start..)
                .zip(group)
                .filter_map(|(block, sum)| Some((block, (*sum)?)));
            changes.extend(
                present
                    .filter(|(block, _)| (first..end).contains(block))
                    .map(|(block, sum)| Change::PutChecksums {
                        device: place.device,
                        first: block,
                        sums: vec![sum],
                    }),
            );
        });
    changes
}
