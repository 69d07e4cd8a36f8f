//! The packs, the slots that versions with few blocks share: each is in versions, whose blocks lie
//! apart in it, and the catalog knows how many blocks they need of it.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::catalog::Catalog;
use super::findings::Findings;
use super::problem::{Kind, Problem};
use super::segments::{Version, each_segment, name};
use super::slots::{Slots, Use};
use super::versions::{sums_of, take};
use crate::base::{BlockMask, Place};
use crate::ondisk::{Change, Extent, TreeKind, decode_pack, key_place, place_key};

/// Packs that are looked into at a time, so that memory stays bounded.
const AT_ONCE: usize = 1 << 17;

/// Packs with problems that are kept to name who is in them.
const MAX_BAD: usize = 1 << 16;

/// Marks the slots that are packs. To be called before the versions mark theirs.
pub(super) fn mark(catalog: &Catalog<'_>, slots: &mut Slots, findings: &mut Findings) {
    let mut problems = BTreeMap::new();
    each(catalog, 0, &mut |place, count| {
        if let Err(error) = count {
            findings.add(Problem::damage(Kind::Record, error).at_slot(place));
        }
        let problem = match slots.get(place) {
            None => Problem::damage(
                Kind::Slot,
                format!("{place} is known to be shared and does not exist"),
            ),
            Some(Use::Free) => {
                let message =
                    format!("{place} is shared and on the free list: a write may overwrite it");
                Problem::mended_by(Kind::Slot, message, vec![take(place)])
            }
            Some(Use::Pending) => {
                let message = format!(
                    "{place} is shared and waits for its hole punch: it is about to be lost"
                );
                let mut mend = vec![Change::Free(place), take(place)];
                mend.extend(sums_of(catalog, place));
                Problem::mended_by(Kind::Slot, message, mend)
            }
            Some(Use::Taken | Use::Version | Use::Pack) => {
                slots.set(place, Use::Pack);
                return ControlFlow::Continue(());
            }
        };
        slots.set(place, Use::Pack);
        if problems.len() < MAX_BAD {
            problems.insert(place, problem.at_slot(place));
        }
        ControlFlow::Continue(())
    });
    report(catalog, problems, findings);
}

/// What versions have of a pack.
struct OfPack {
    /// Blocks that the catalog says they need.
    needed: u64,
    /// Blocks that they do need.
    found: u64,
    /// Blocks that are somebody's, needed or not.
    taken: BlockMask,
}

/// Compares the packs with the versions in them. Only where all of both could be read.
pub(super) fn check(catalog: &Catalog<'_>, findings: &mut Findings) {
    let mut from = Some(0);
    while let Some(start) = from.take() {
        let mut packs = BTreeMap::new();
        each(catalog, start, &mut |place, count| {
            if packs.len() == AT_ONCE {
                from = place_key(place).ok();
                return ControlFlow::Break(());
            }
            if let Ok(needed) = count {
                let (found, taken) = (0, BlockMask::EMPTY);
                packs.insert(
                    place,
                    OfPack {
                        needed,
                        found,
                        taken,
                    },
                );
            }
            ControlFlow::Continue(())
        });
        if !packs.is_empty() {
            compare(catalog, packs, findings);
        }
    }
}

fn compare(catalog: &Catalog<'_>, mut packs: BTreeMap<Place, OfPack>, findings: &mut Findings) {
    let mut segment = |versions: &[Version]| {
        for (at, (key, version)) in versions.iter().enumerate() {
            let Some(Extent {
                place,
                packed: Some((first, stored)),
            }) = version.extent()
            else {
                continue;
            };
            let Some(pack) = packs.get_mut(&place) else {
                continue;
            };
            pack.found += version.data.count() as u64;
            let first = usize::from(first);
            let lies = BlockMask::range(first, first + stored.count());
            if !pack.taken.and(&lies).is_empty() {
                let message = format!(
                    "blocks {first} to {} of {place} are those of segment {} of map {}, and some \
                     of them another one's, too",
                    first + stored.count() - 1,
                    key.segment,
                    key.map
                );
                let problem = Problem::damage(Kind::Slot, message).at_slot(place);
                findings.add(name(catalog, versions, (at, version.data), problem));
            }
            pack.taken = pack.taken.or(&lies);
        }
    };
    each_segment(catalog, &mut segment, &mut Vec::new());
    packs.retain(|_, pack| pack.needed != pack.found);
    let problem = |(place, pack): (&Place, &OfPack)| {
        let OfPack { needed, found, .. } = pack;
        let message = match found {
            0 => format!("{place} is kept for {needed} blocks and has no version's"),
            _ => format!(
                "{place} is kept for {needed} blocks and has {found}: it is given up too \
                 early, or never"
            ),
        };
        // All versions could be read, so that the count is theirs.
        let mend = vec![Change::CountPack(*place, *found)];
        let problem = Problem::mended_by(Kind::Slot, message, mend);
        (*place, problem.at_slot(*place))
    };
    let problems = packs.iter().take(MAX_BAD).map(problem).collect();
    report(catalog, problems, findings);
}

/// Reports what is wrong with packs, with all who are in them.
fn report(catalog: &Catalog<'_>, mut problems: BTreeMap<Place, Problem>, findings: &mut Findings) {
    if problems.is_empty() {
        return;
    }
    let mut segment = |versions: &[Version]| {
        for (at, (_, version)) in versions.iter().enumerate() {
            let place = version.place.filter(|_| !version.has_own_slot());
            if let Some((place, problem)) = place.and_then(|at| problems.remove_entry(&at)) {
                let problem = name(catalog, versions, (at, version.data), problem);
                problems.insert(place, problem);
            }
        }
    };
    each_segment(catalog, &mut segment, &mut Vec::new());
    problems
        .into_values()
        .for_each(|problem| findings.add(problem));
}

/// Hands out the packs from a key on, in the order of places, with how many blocks are needed of
/// each.
fn each(
    catalog: &Catalog<'_>,
    from: u128,
    pack: &mut dyn FnMut(Place, Result<u64, String>) -> ControlFlow<()>,
) {
    catalog.packs.walk(
        &catalog.tree(TreeKind::Packs),
        (from, u128::MAX),
        &mut |_| true,
        &mut |key, value| {
            let count = decode_pack(value).map_err(|error| error.to_string());
            pack(key_place(key), count).is_continue()
        },
        &mut |_| {},
    );
}
