//! Whether a suspect is damaged: it is if someone who goes the way of a read finds it so.
//!
//! A block on a device may well differ from its checksum. The destager writes in place before the
//! commit that has the new checksum; after a crash such a block may stay for long. Whoever reads it
//! finds the queued write first. And nobody at all may read it: it lies hidden under a newer
//! version, or was given up. So what counts is what readers find, tried as often as they try.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use super::read::{self, Bad, Spot};
use super::state::Ended;
use super::suspects::{Owned, each_alone};
use super::walk::{Walk, failed};
use crate::base::sync::thread;
use crate::base::{BLOCK, BLOCK_SIZE, BlockMask, Checksum, MapId, Place};
use crate::volume::read::{Image, TRIES};
use crate::volume::{ScrubProblem, Volumes};

/// Names that a problem lists.
const NAMES: usize = 8;
/// Damaged blocks whose readers are looked for. Beyond them a whole device is bad, and what else
/// differs is only counted.
const NAMED: u64 = 64 << 10;

/// Someone who reads.
struct Reader {
    name: String,
    image: Image,
}

/// A damaged block.
struct Damage {
    place: Place,
    at: usize,
    bad: Bad,
    /// The byte in those whose it is.
    offset: u64,
    names: Vec<String>,
    /// How many more there are.
    more: u64,
}

/// What a suspect is for those who have this checksum for it.
struct Seen {
    sum: Checksum,
    found: Result<(), Bad>,
}

impl Walk {
    /// Judges all suspects.
    pub fn judge(&mut self) -> Result<(), Ended> {
        let mut owned = self.suspects.take_owned();
        let slots = self.look_again()?;
        if !slots.is_empty() && self.shared.with(|state| state.status().damaged) >= NAMED {
            let count: usize = slots.values().map(BlockMask::count).sum();
            self.shared.suspects(count as u64);
        } else if !slots.is_empty() {
            self.find_owners(&slots, &mut owned)?;
        }
        let mut readers = HashMap::<MapId, Rc<Vec<Reader>>>::new();
        let mut damaged = Vec::new();
        for suspect in &owned {
            let volumes = self.volumes()?;
            let map = suspect.image.map.id;
            let of_map = readers.entry(map);
            let of_map = Rc::clone(of_map.or_insert_with(|| Rc::new(readers_of(&volumes, map))));
            drop(volumes);
            damaged.extend(self.judge_one(suspect, &of_map)?);
        }
        self.report(damaged)
    }

    /// Reads the suspects once more: most of them were only being written.
    fn look_again(&mut self) -> Result<BTreeMap<Place, BlockMask>, Ended> {
        let slots = self.suspects.take();
        if slots.is_empty() {
            return Ok(slots);
        }
        let blocks = self.volumes()?.geometry.blocks() as u64;
        for run in each_alone(&slots, blocks) {
            self.look(&run)?;
        }
        Ok(self.suspects.take())
    }

    /// Finds the versions that have these blocks. Each has one at the most.
    fn find_owners(
        &self,
        slots: &BTreeMap<Place, BlockMask>,
        owned: &mut Vec<Owned>,
    ) -> Result<(), Ended> {
        let mut found = Vec::new();
        self.each_version(&mut |key, version| {
            let extent = version.extent();
            let of = extent.and_then(|extent| Some((extent, slots.get(&extent.place)?)));
            let Some((extent, mask)) = of else { return };
            for block in version.data.iter() {
                let at = extent.index(block);
                if mask.has(at) {
                    found.push((key.map, key.segment, block, extent.place, at));
                }
            }
        })?;
        let volumes = self.volumes()?;
        for (map, segment, block, place, at) in found {
            // A map that nobody stands on any more has no readers.
            let Some(map) = volumes.names.read().map(map) else {
                continue;
            };
            let first = volumes.geometry.first_block(segment).0;
            owned.push(Owned {
                image: read::live(map),
                block: crate::base::Block(first + block as u64),
                place,
                at,
            });
        }
        Ok(())
    }

    /// Counts, logs and remembers damage: neighbours that the same ones read as one.
    fn report(&mut self, mut damaged: Vec<Damage>) -> Result<(), Ended> {
        let volumes = self.volumes()?;
        damaged.sort_by_key(|damage| (damage.place, damage.at, damage.offset));
        damaged.dedup_by_key(|damage| (damage.place, damage.at));
        let step = BLOCK as u64;
        let follows = |a: &Damage, b: &Damage| {
            (a.place, a.at + 1, a.offset + step) == (b.place, b.at, b.offset)
                && (&a.names, a.more, &a.bad) == (&b.names, b.more, &b.bad)
        };
        for run in damaged.chunk_by(follows) {
            let (first, count) = (&run[0], run.len() as u64);
            let problem = ScrubProblem {
                device: first.place.device.0,
                path: volumes.cache.pool().name(first.place.device),
                segment: first.place.slot.0,
                block: first.at as u64,
                count,
                what: first.bad.words(),
                offset: first.offset,
                touches: first.names.clone(),
                more: first.more,
            };
            log::error!("scrub: damaged: {problem}");
            self.shared.damaged(problem);
        }
        Ok(())
    }

    /// Lets all readers look at a suspect.
    fn judge_one(&mut self, suspect: &Owned, readers: &[Reader]) -> Result<Option<Damage>, Ended> {
        let (mut damage, mut seen): (Option<Damage>, _) = (None, None);
        for reader in readers {
            let Some(bad) = self.finds_bad(suspect, &reader.image, &mut seen)? else {
                continue;
            };
            let damage = damage.get_or_insert(Damage {
                place: suspect.place,
                at: suspect.at,
                bad,
                offset: suspect.block.byte(),
                names: Vec::new(),
                more: 0,
            });
            if damage.names.len() < NAMES {
                damage.names.push(reader.name.clone());
            } else {
                damage.more += 1;
            }
        }
        Ok(damage)
    }

    /// What a reader finds wrong with the suspect, if it finds it at all. A device may take long to
    /// say that it can't read a block: what others have seen there is not read again.
    fn finds_bad(
        &mut self,
        suspect: &Owned,
        image: &Image,
        seen: &mut Option<Seen>,
    ) -> Result<Option<Bad>, Ended> {
        let mut tries = 0;
        loop {
            tries += 1;
            let bytes = if seen.is_none() { BLOCK_SIZE } else { 0 };
            let found = self.reads(bytes, |walk, volumes| {
                let (cache, buf) = (&volumes.cache, &mut walk.buf[..BLOCK]);
                let look = |spot: &Spot| {
                    if (spot.place, spot.at) != (suspect.place, suspect.at) {
                        return Ok(());
                    }
                    let sum = spot.sum.ok_or(Bad::Unknown)?;
                    seen.take_if(|seen| seen.sum != sum);
                    if let Some(seen) = seen {
                        return seen.found.clone();
                    }
                    let found = read::block(cache, spot, sum, buf);
                    if tries == TRIES || found != Err(Bad::Differs) {
                        let found = found.clone();
                        *seen = Some(Seen { sum, found });
                    }
                    found
                };
                read::find(cache, image, suspect.block, look).map_err(failed)
            })?;
            match found {
                None | Some(Ok(())) => return Ok(None),
                // It may only be on its way there.
                Some(Err(Bad::Differs)) if seen.is_none() => thread::yield_now(),
                Some(Err(bad)) => return Ok(Some(bad)),
            }
        }
    }
}

/// All who may read from a map: disks, snapshots and clones.
fn readers_of(volumes: &Volumes, map: MapId) -> Vec<Reader> {
    let names = volumes.names.read();
    let all = names.images();
    let shows = all.filter(|(_, image)| read::shows(image, map));
    let mut readers: Vec<_> = shows.map(|(name, image)| Reader { name, image }).collect();
    drop(names);
    // The live disk last: older readers find less in the cache, and so what is on the device.
    readers.sort_by(|a, b| (a.image.epoch, &a.name).cmp(&(b.image.epoch, &b.name)));
    readers
}
