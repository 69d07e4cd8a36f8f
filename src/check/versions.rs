//! The versions of all segments, in the order of their keys: their lifetimes, who sees them, the
//! slots that they have, and what that adds up to.

use std::collections::{BTreeMap, BTreeSet};

use super::catalog::Catalog;
use super::findings::Findings;
use super::mends::{sums_of, take};
use super::names;
use super::packs;
use super::pages::Readable;
use super::problem::{Kind, Problem};
use super::segments::{Version, each_segment, name};
use super::slots::{Slots, Use};
use super::totals::{self, OfMap};
use crate::base::{BLOCK_SIZE, BlockMask, Epoch, MapId, Place};
use crate::ondisk::Change;

/// Slots with several users that are looked into.
const MAX_SHARED: usize = 1 << 16;

/// What all versions come to.
#[derive(Default)]
pub(super) struct Versions {
    /// How many there are.
    pub count: u64,
    /// How many blocks of data they have.
    pub blocks: u64,
    /// Whether all of them could be read.
    pub readable: bool,
}

/// Looks at every version, and marks the slots that they have. Where not all pages of their tree
/// are `readable`, what they come to says nothing.
pub(super) fn check(
    catalog: &mut Catalog<'_>,
    readable: Readable,
    findings: &mut Findings,
) -> Versions {
    let mut slots = std::mem::take(&mut catalog.slots);
    let found = run(catalog, readable, &mut slots, findings);
    catalog.slots = slots;
    found
}

fn run(
    catalog: &Catalog<'_>,
    readable: Readable,
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
    packs::mark(catalog, slots, findings);
    let mut pass = Pass {
        catalog,
        slots,
        packs_known: readable.packs && catalog.whole,
        shared: BTreeSet::new(),
        maps,
        found: Versions::default(),
        findings,
    };
    let mut odd = Vec::new();
    each_segment(catalog, &mut |versions| pass.segment(versions), &mut odd);
    pass.found.readable = readable.versions && odd.is_empty();
    for (key, what) in odd {
        let message = format!("segment {} of map {}: {what}", key.segment, key.map);
        let mut problem = Problem::damage(Kind::Version, message);
        names::add_map(catalog, key.map, &mut problem);
        pass.findings.add(problem);
    }
    shared(catalog, &pass.shared, pass.findings);
    if pass.found.readable && catalog.whole {
        totals::check(catalog, &pass.maps, pass.findings);
        if readable.packs {
            packs::check(catalog, pass.findings);
            totals::leaks(pass.slots, pass.findings);
        }
    }
    pass.found
}

struct Pass<'a, 'c, 'd> {
    catalog: &'c Catalog<'d>,
    slots: &'a mut Slots,
    /// Whether all packs are marked.
    packs_known: bool,
    /// Slots that more than one version has.
    shared: BTreeSet<Place>,
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
        map.count_unseen(versions);
        let mut beyond = None;
        // Blocks with data, as whoever looks at a version finds it: what it says, and through its
        // gaps what those below it say.
        let mut data = BlockMask::EMPTY;
        for version in versions {
            data = version.1.data.or(&data.minus(&version.1.covered()));
            let live = version.0.death == Epoch::LIVE && map.record.live;
            let seers = map.seers(version);
            if !live && seers.is_empty() {
                continue;
            }
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
        if !descriptor.has_own_slot() {
            return self.pack(versions, at, place);
        }
        let problem = match self.slots.get(place) {
            None => Problem::damage(Kind::Slot, format!("{place} does not exist")),
            Some(Use::Taken) => return self.slots.set(place, Use::Version),
            Some(Use::Version | Use::Pack) => {
                // All of its users are known only in the end.
                if self.shared.len() < MAX_SHARED {
                    self.shared.insert(place);
                }
                return;
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

    /// The slot of a version that shares it.
    fn pack(&mut self, versions: &[Version], at: usize, place: Place) {
        match self.slots.get(place) {
            Some(Use::Pack) => return,
            Some(Use::Version) => {
                if self.shared.len() < MAX_SHARED {
                    self.shared.insert(place);
                }
                return;
            }
            _ => {}
        }
        // Once for each slot.
        self.slots.set(place, Use::Pack);
        if !self.packs_known {
            return;
        }
        let (key, descriptor) = &versions[at];
        let message = format!(
            "{place} has blocks of segment {} of map {} and others, and is not known to be shared",
            key.segment, key.map
        );
        let problem = Problem::damage(Kind::Slot, message).at_slot(place);
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

/// Reports slots that several versions have, with all of these.
fn shared(catalog: &Catalog<'_>, slots: &BTreeSet<Place>, findings: &mut Findings) {
    if slots.is_empty() {
        return;
    }
    let mut problems = BTreeMap::<Place, Problem>::new();
    let mut segment = |versions: &[Version]| {
        for (at, (key, version)) in versions.iter().enumerate() {
            let Some(place) = version.place.filter(|place| slots.contains(place)) else {
                continue;
            };
            let problem = problems.remove(&place).unwrap_or_else(|| {
                Problem::damage(Kind::Slot, format!("{place} has more than one user:"))
                    .at_slot(place)
            });
            let mut problem = name(catalog, versions, (at, version.data), problem);
            problem.message += &format!(" segment {} of map {}", key.segment, key.map);
            problems.insert(place, problem);
        }
    };
    each_segment(catalog, &mut segment, &mut Vec::new());
    problems
        .into_values()
        .for_each(|problem| findings.add(problem));
}
