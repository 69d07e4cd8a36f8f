//! What becomes of one segment in a round: written in place, into a new slot over the older
//! version, or given up.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::{CacheError, Frame};
use super::allocate::Allocator;
use super::work::{Data, Work};
use crate::base::{BlockMask, Epoch, Geometry, MapId, Place, SegmentNo};
use crate::ondisk::{Change, Descriptor, Origin, VersionKey};
use crate::store::{At, Pool, Source, View};

/// How many versions a read may have to walk before the next one is merged with all below it,
/// as far as the batch's budget goes.
const MANY_LAYERS: usize = 8;
/// How many versions a read may have to walk at the most.
const MAX_LAYERS: usize = 32;
/// Bytes that one batch merges before it leaves the rest for later, so that the writes that wait
/// for its memory do not wait long.
pub(super) const MERGE_BUDGET: u64 = 8 << 20;

/// [`MANY_LAYERS`] or somewhat fewer: not all segments of a disk are to be merged after the same
/// snapshot.
fn many_layers(segment: SegmentNo) -> usize {
    MANY_LAYERS - segment.0 as usize % (MANY_LAYERS / 2)
}

/// What a run brings to a segment: the newest data of each block, or that it is zero.
#[derive(Clone)]
pub(super) struct Update {
    pub frames: BTreeMap<usize, Arc<Frame>>,
    pub zero: BlockMask,
    /// Queued writes that it stands for.
    pub writes: u32,
}

impl Default for Update {
    fn default() -> Self {
        Self {
            frames: BTreeMap::new(),
            zero: BlockMask::EMPTY,
            writes: 0,
        }
    }
}

impl Update {
    pub fn set(&mut self, block: usize, frame: Arc<Frame>) {
        self.frames.insert(block, frame);
        self.zero.remove(block);
    }

    pub fn clear(&mut self, blocks: &BlockMask) {
        self.zero = self.zero.or(blocks);
        self.frames.retain(|block, _| !blocks.has(*block));
    }

    fn data(&self) -> BlockMask {
        let mut mask = BlockMask::EMPTY;
        self.frames.keys().for_each(|block| mask.insert(*block));
        mask
    }
}

/// How a segment came out whose live version moved to the history.
struct Displaced {
    has_slot: bool,
    /// Blocks of what the map stands on that are its own now.
    from_origin: usize,
}

/// What holds for all segments of a run.
pub(super) struct Context<'a> {
    pub view: &'a View,
    pub pool: &'a Pool,
    pub geometry: Geometry,
    pub map: MapId,
    pub epoch: Epoch,
    /// The newest snapshot of the map.
    pub newest_snapshot: Option<Epoch>,
    pub origin: Option<Origin>,
    /// Never overwrite data in place: there is no journal to repair a torn write from.
    pub copy_on_write: bool,
    /// Bytes that may still be merged in this batch.
    pub merge_budget: &'a Cell<u64>,
}

/// How a segment came out.
pub(super) struct Outcome {
    /// Blocks with data in the map's own versions: how many more than before.
    pub allocated: i64,
    /// Whether the segment has a slot of this epoch now.
    pub has_slot: bool,
}

impl Context<'_> {
    /// Plans one segment, and puts what is to be done into `work`.
    pub fn plan(
        &self,
        segment: SegmentNo,
        update: Update,
        slots: &mut Allocator,
        work: &mut Work,
    ) -> Result<Outcome, CacheError> {
        let live = self.view.live(self.map, segment)?;
        let touched = update.data().or(&update.zero);
        let before = self.allocated(live, &touched)?;
        let key = VersionKey {
            map: self.map,
            segment,
            death: Epoch::LIVE,
        };
        let mut merged = 0;
        let has_slot = match live {
            None => self.first(key, &update, slots, work)?,
            Some((_, live))
                if self
                    .newest_snapshot
                    .is_some_and(|newest| live.birth <= newest) =>
            {
                let displaced = self.displace(key, live, &update, slots, work)?;
                merged = displaced.from_origin;
                displaced.has_slot
            }
            Some((_, live)) if self.copy_on_write && !update.frames.is_empty() => {
                self.replace(key, live, &update, slots, work)?
            }
            Some((_, live)) => self.overwrite(key, live, &update, slots, work)?,
        };
        let allocated = (update.frames.len() + merged) as i64 - before as i64;
        Ok(Outcome {
            allocated,
            has_slot,
        })
    }

    /// Blocks of `touched` that hold data in the map's own versions.
    fn allocated(
        &self,
        live: Option<(VersionKey, Descriptor)>,
        touched: &BlockMask,
    ) -> Result<usize, CacheError> {
        let mut pieces = Vec::new();
        self.view.resolve_down(live, *touched, &mut pieces)?;
        let data = |(mask, source): &(BlockMask, Source)| match source {
            Source::Data(_) => mask.count(),
            Source::Zero | Source::Below => 0,
        };
        Ok(pieces.iter().map(data).sum())
    }

    /// Blocks of the segment that show the origin where the map has nothing.
    fn origin_blocks(&self, segment: SegmentNo) -> BlockMask {
        let Some(origin) = &self.origin else {
            return BlockMask::EMPTY;
        };
        let first = self.geometry.first_block(segment).0;
        let shown = origin
            .limit
            .0
            .saturating_sub(first)
            .min(self.geometry.blocks() as u64);
        BlockMask::range(0, shown as usize)
    }

    /// The segment has no version: its first.
    fn first(
        &self,
        key: VersionKey,
        update: &Update,
        slots: &mut Allocator,
        work: &mut Work,
    ) -> Result<bool, CacheError> {
        let data = update.data();
        let shown = self.origin_blocks(key.segment);
        let zero = BlockMask::full(self.geometry)
            .minus(&shown)
            .or(&update.zero)
            .minus(&data);
        if data.is_empty() && update.zero.and(&shown).is_empty() {
            return Ok(false);
        }
        let place = self.fill_new(update, slots, work)?;
        work.changes.push(Change::PutVersion(
            key,
            Descriptor {
                birth: self.epoch,
                place,
                data,
                zero,
            },
        ));
        Ok(place.is_some())
    }

    /// No snapshot sees the live version: it changes in place. Safe against a crash, since the
    /// journal still has what is written here, and is synced.
    fn overwrite(
        &self,
        key: VersionKey,
        live: Descriptor,
        update: &Update,
        slots: &mut Allocator,
        work: &mut Work,
    ) -> Result<bool, CacheError> {
        let new = update.data();
        let data = live.data.or(&new).minus(&update.zero);
        let zero = live.zero.minus(&new).or(&update.zero);
        let place = match live.place {
            Some(place) => {
                self.fill(place, update, work);
                Some(place)
            }
            None => self.fill_new(update, slots, work)?,
        };
        if !data.is_empty() {
            if let Some(place) = place {
                work.punch(place, live.data.and(&update.zero));
            }
            work.changes.push(Change::PutVersion(
                key,
                Descriptor {
                    birth: live.birth,
                    place,
                    data,
                    zero,
                },
            ));
            return Ok(true);
        }
        if let Some(place) = place {
            work.retire(place);
        }
        let only_zeros = zero.is_full(self.geometry) && self.origin_blocks(key.segment).is_empty();
        work.changes.push(if only_zeros {
            Change::RemoveVersion(key)
        } else {
            Change::PutVersion(
                key,
                Descriptor {
                    birth: live.birth,
                    place: None,
                    data,
                    zero,
                },
            )
        });
        Ok(false)
    }

    /// A snapshot sees the live version: it moves to the history, and a new one goes on top.
    fn displace(
        &self,
        key: VersionKey,
        live: Descriptor,
        update: &Update,
        slots: &mut Allocator,
        work: &mut Work,
    ) -> Result<Displaced, CacheError> {
        work.changes.push(Change::PutVersion(
            VersionKey {
                death: self.epoch,
                ..key
            },
            live,
        ));
        let (data, zero) = (update.data(), update.zero);
        let only_zeros = zero.is_full(self.geometry) && self.origin_blocks(key.segment).is_empty();
        if only_zeros {
            work.changes.push(Change::RemoveVersion(key));
            return Ok(Displaced {
                has_slot: false,
                from_origin: 0,
            });
        }
        let mut new = Descriptor {
            birth: self.epoch,
            place: self.fill_new(update, slots, work)?,
            data,
            zero,
        };
        // Without data of its own it has no slot, and is promised none: a discard must work when
        // the pool is full. The next write to the segment shortens the chain.
        let mut from_origin = 0;
        if new.place.is_some()
            && !new.covered().is_full(self.geometry)
            && self.is_due(key, &live)?
        {
            from_origin = self.merge_below(key, &mut new, work)?;
        }
        work.changes.push(Change::PutVersion(key, new));
        Ok(Displaced {
            has_slot: new.place.is_some(),
            from_origin,
        })
    }

    /// Without a journal: all that is still valid goes to a new slot together with what is new.
    fn replace(
        &self,
        key: VersionKey,
        live: Descriptor,
        update: &Update,
        slots: &mut Allocator,
        work: &mut Work,
    ) -> Result<bool, CacheError> {
        let data = update.data();
        let place = self.fill_new(update, slots, work)?;
        let kept = live.data.minus(&data).minus(&update.zero);
        if let (Some(from), Some(to)) = (live.place, place) {
            work.copy(self.pool, self.view, from, to, &kept)?;
        }
        if let Some(old) = live.place {
            work.retire(old);
        }
        let zero = live.zero.minus(&data).or(&update.zero);
        let new = Descriptor {
            birth: live.birth,
            place,
            data: data.or(&kept),
            zero,
        };
        work.changes.push(Change::PutVersion(key, new));
        Ok(true)
    }

    /// Whether the chain below a new version is to be merged into it.
    fn is_due(&self, key: VersionKey, live: &Descriptor) -> Result<bool, CacheError> {
        let layers = self.layers(key, live)?;
        if layers < many_layers(key.segment) {
            return Ok(false);
        }
        let left = self.merge_budget.get();
        self.merge_budget
            .set(left.saturating_sub(self.geometry.segment_bytes()));
        Ok(left > 0 || layers >= MAX_LAYERS)
    }

    /// How many versions a read of the live one may walk.
    fn layers(&self, key: VersionKey, live: &Descriptor) -> Result<usize, CacheError> {
        let (mut layers, mut version) = (1, Some((key, *live)));
        let mut covered = BlockMask::EMPTY;
        while let Some((key, descriptor)) = version {
            covered = covered.or(&descriptor.covered());
            if covered.is_full(self.geometry) || layers >= MAX_LAYERS {
                break;
            }
            layers += 1;
            version = self.view.below(key)?;
        }
        Ok(layers)
    }

    /// Completes a new version that has a slot with all that shows through it from below. Returns
    /// how many blocks of data come from what the map stands on.
    fn merge_below(
        &self,
        key: VersionKey,
        new: &mut Descriptor,
        work: &mut Work,
    ) -> Result<usize, CacheError> {
        let Some(place) = new.place else {
            return Ok(0);
        };
        let missing = BlockMask::full(self.geometry).minus(&new.covered());
        let own = self.allocated(self.view.live(self.map, key.segment)?, &missing)?;
        let before = new.data.count();
        for (blocks, source) in self.resolve_all(self.map, key.segment, At::Live, missing)? {
            let Source::Data(from) = source else {
                new.zero = new.zero.or(&blocks);
                continue;
            };
            work.copy(self.pool, self.view, from, place, &blocks)?;
            new.data = new.data.or(&blocks);
        }
        Ok(new.data.count() - before - own)
    }

    /// Resolves blocks through origins too; what nothing speaks for is zero.
    fn resolve_all(
        &self,
        map: MapId,
        segment: SegmentNo,
        at: At,
        wanted: BlockMask,
    ) -> Result<Vec<(BlockMask, Source)>, CacheError> {
        let mut all = Vec::new();
        for (blocks, source) in self.view.resolve(map, segment, at, wanted)? {
            let origin = match source {
                Source::Below => self.view.map(map)?.and_then(|record| record.origin),
                Source::Data(_) | Source::Zero => None,
            };
            let Some(origin) = origin else {
                let source = if source == Source::Below {
                    Source::Zero
                } else {
                    source
                };
                all.push((blocks, source));
                continue;
            };
            let first = self.geometry.first_block(segment).0;
            let shown = origin
                .limit
                .0
                .saturating_sub(first)
                .min(self.geometry.blocks() as u64);
            let shown = blocks.and(&BlockMask::range(0, shown as usize));
            all.push((blocks.minus(&shown), Source::Zero));
            all.extend(self.resolve_all(origin.map, segment, At::Epoch(origin.epoch), shown)?);
        }
        all.retain(|(blocks, _)| !blocks.is_empty());
        Ok(all)
    }

    /// Writes the new data into a new slot, if there is any.
    fn fill_new(
        &self,
        update: &Update,
        slots: &mut Allocator,
        work: &mut Work,
    ) -> Result<Option<Place>, CacheError> {
        if update.frames.is_empty() {
            return Ok(None);
        }
        let place = self.new_slot(slots, work)?;
        self.fill(place, update, work);
        Ok(Some(place))
    }

    fn fill(&self, place: Place, update: &Update, work: &mut Work) {
        for (block, frame) in &update.frames {
            work.write(place, *block, Data::Frame(frame.clone()));
        }
    }

    fn new_slot(&self, slots: &mut Allocator, work: &mut Work) -> Result<Place, CacheError> {
        let place = slots.take().ok_or(CacheError::NoSpace {
            needed: 1,
            available: 0,
        })?;
        work.took(place);
        Ok(place)
    }
}
