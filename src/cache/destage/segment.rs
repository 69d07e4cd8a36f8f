//! What becomes of one segment in a round: written in place, into a new slot over the older
//! version, or given up.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::super::{CacheError, Frame, Lent, MapState};
use super::allocate::Allocator;
use super::fetched::Fetched;
use super::moving::{Moving, readable};
use super::work::{Data, Work};
use crate::base::{BlockMask, DeviceNo, Epoch, Geometry, MapId, SegmentNo};
use crate::ondisk::{Change, Descriptor, Extent, Origin, VersionKey};
use crate::store::{At, Pool, Source, View};

/// How many versions a read may have to walk before the next one is merged with all below it,
/// as far as the batch's budget goes. They are neighbours in the catalog, so that a walk costs
/// little; a merge copies up to a segment.
const MANY_LAYERS: usize = 96;
/// How many versions a read may have to walk at the most.
pub(super) const MAX_LAYERS: usize = 192;

/// A version with no more than this part of a segment's blocks is thin: it shares a slot, a pack,
/// with others. So what was written after a snapshot lies together, however far apart it was
/// written, and takes the space that it needs.
const THIN: usize = 4;
/// A thin version that has to move, since more is written to it, is thin still with no more than
/// this part. It is written anew each time.
const GROWN_THIN: usize = 8;

/// Neighbours that are due together: what they have in a pack lies side by side, and is read at once.
const NEIGHBOURS: u64 = 64;

/// [`MANY_LAYERS`] or somewhat fewer: not all segments of a disk are to be merged after the same
/// snapshot.
fn many_layers(segment: SegmentNo) -> usize {
    MANY_LAYERS - (segment.0 / NEIGHBOURS) as usize % (MANY_LAYERS / 2)
}

/// What a run brings to a segment: the newest data of each block, or that it is zero.
#[derive(Clone)]
pub(super) struct Update {
    pub frames: BTreeMap<usize, Arc<Frame>>,
    /// The slot that has all blocks but the zero ones; then there are no frames.
    pub lent: Option<Arc<Lent>>,
    pub zero: BlockMask,
    /// Queued writes that it stands for.
    pub writes: u32,
}

impl Default for Update {
    fn default() -> Self {
        Self {
            frames: BTreeMap::new(),
            lent: None,
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

    /// All of the segment lies in a slot already.
    pub fn adopt(&mut self, lent: Arc<Lent>) {
        self.frames.clear();
        self.zero = BlockMask::EMPTY;
        self.lent = Some(lent);
    }

    pub fn clear(&mut self, blocks: &BlockMask, geometry: Geometry) {
        self.zero = self.zero.or(blocks);
        self.frames.retain(|block, _| !blocks.has(*block));
        if self.zero.is_full(geometry) {
            self.lent = None;
        }
    }

    /// It brings nothing any more: nobody will see it.
    pub fn forget(&mut self) {
        *self = Self {
            writes: self.writes,
            ..Self::default()
        };
    }

    pub fn is_nothing(&self) -> bool {
        self.frames.is_empty() && self.lent.is_none() && self.zero.is_empty()
    }

    pub fn data(&self) -> BlockMask {
        let mut mask = BlockMask::EMPTY;
        self.frames.keys().for_each(|block| mask.insert(*block));
        mask
    }

    /// The part of it that is data of these blocks.
    pub fn only(&self, blocks: &BlockMask) -> Self {
        let mut part = self.clone();
        part.frames.retain(|block, _| blocks.has(*block));
        part
    }
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
    /// The map's queued writes, where an earlier batch may have put some of them in place already
    /// without a commit; see `Queue::unsettled`.
    pub unsettled: Option<&'a MapState>,
    /// Devices that the host has no space for, where there are others: what is new goes to those.
    pub full: &'a [DeviceNo],
    /// What is about to be moved, as far as it was read ahead.
    pub fetched: Fetched,
}

/// A version, and what it is found by.
pub(super) type Layer = (VersionKey, Descriptor);

/// How many blocks of `touched` hold data in these layers.
fn allocated(layers: &[Layer], mut touched: BlockMask) -> usize {
    let mut count = 0;
    for (_, layer) in layers {
        count += touched.and(&layer.data).count();
        touched = touched.minus(&layer.covered());
    }
    count
}

/// How a segment came out.
pub(super) struct Outcome {
    /// Blocks with data in the map's own versions: how many more than before.
    pub allocated: i64,
    /// Whether the segment has a slot of this epoch now.
    pub has_slot: bool,
}

impl Outcome {
    /// As it was.
    pub const NOTHING: Self = Self {
        allocated: 0,
        has_slot: false,
    };
}

impl Context<'_> {
    /// Plans one segment, and puts what is to be done into `work`.
    pub fn plan(
        &self,
        segment: SegmentNo,
        (update, layers): (Update, Vec<Layer>),
        slots: &mut Allocator,
        work: &mut Work,
    ) -> Result<Outcome, CacheError> {
        let live = layers.first().map(|(_, live)| live);
        let own = self.own(&layers);
        let touched = update.data().or(&update.zero);
        let before = allocated(&layers, touched);
        let key = VersionKey {
            map: self.map,
            segment,
            death: Epoch::LIVE,
        };
        let mut merged = BlockMask::EMPTY;
        if let Some(lent) = &update.lent {
            let before = allocated(&layers, BlockMask::full(self.geometry));
            let data = self.adopt(key, &layers, own, lent, &update.zero, work);
            return Ok(Outcome {
                allocated: data as i64 - before as i64,
                has_slot: true,
            });
        }
        let has_slot = match live {
            None => self.first(key, &update, slots, work)?,
            Some(_) if own == 0 => {
                let new = self.displace(key, &layers, &update, slots, work)?;
                merged = new.data.minus(&update.data());
                new.has_own_slot()
            }
            Some(live) if self.copy_on_write && !update.frames.is_empty() => {
                let (own, lower) = (&layers[..own], &layers[1..own]);
                let version = self.rewrite(key, live, &update, slots, work)?;
                match (version, live.birth.next_birth()) {
                    (Some(version), _) => {
                        self.keep(None, version, (own, lower), work);
                        version.has_own_slot()
                    }
                    // What can't be read stays where it is, and what is new goes on top of it.
                    (None, Some(birth)) => {
                        let (at, data) = ((key, layers.len()), update.data());
                        let blocks = (&data, is_thin(&data, self.geometry));
                        let new = self.put_on_top(at, birth, blocks, &update, slots, work)?;
                        merged = new.data.minus(&data);
                        self.keep(Some(new), *live, (own, lower), work);
                        new.has_own_slot()
                    }
                    (None, None) => return Err(self.stuck(segment)),
                }
            }
            Some(_) => {
                let own = &layers[..own];
                let (top, new) = self.change_own(own, layers.len(), &update, slots, work)?;
                merged = new;
                top.has_own_slot()
            }
        };
        // What was merged is the map's own now, also where it was its origin's before.
        let before = before + allocated(&layers, merged);
        let allocated = (update.frames.len() + merged.count()) as i64 - before as i64;
        Ok(Outcome {
            allocated,
            has_slot,
        })
    }

    /// The segment lies in a slot of its own already: that becomes the live version; the one
    /// before moves to the history, or goes with all that no snapshot sees. Returns how many
    /// blocks of it hold data.
    fn adopt(
        &self,
        key: VersionKey,
        layers: &[Layer],
        own: usize,
        lent: &Arc<Lent>,
        zero: &BlockMask,
        work: &mut Work,
    ) -> usize {
        let mut birth = self.epoch.first_birth();
        match layers.first() {
            Some((_, live)) if own == 0 => {
                let old = VersionKey {
                    death: birth,
                    ..key
                };
                work.changes.push(Change::PutVersion(old, *live));
            }
            Some((_, live)) => birth = live.birth,
            None => {}
        }
        for (old, layer) in &layers[..own] {
            work.release(layer);
            if *old != key {
                work.changes.push(Change::RemoveVersion(*old));
            }
        }
        let extent = Extent::own(lent.place());
        let data = BlockMask::full(self.geometry).minus(zero);
        work.adopt(lent.clone(), zero);
        let version = Descriptor::new(birth, Some(extent), data, *zero);
        work.changes.push(Change::PutVersion(key, version));
        data.count()
    }

    /// Whether [`plan`](Self::plan) may take a slot.
    pub fn needs_slot(&self, segment: SegmentNo, update: &Update) -> Result<bool, CacheError> {
        if update.frames.is_empty() {
            return Ok(false);
        }
        let live = self.view.live(self.map, segment)?;
        Ok(self.copy_on_write
            || live.is_none_or(|(_, live)| {
                let seen = self.newest_snapshot.is_some_and(|s| live.birth <= s);
                seen || !live.has_own_slot()
            }))
    }

    /// How many of the layers no snapshot sees: the first so many.
    pub fn own(&self, layers: &[Layer]) -> usize {
        let is_own = |(_, layer): &&Layer| self.newest_snapshot.is_none_or(|s| layer.birth > s);
        layers.iter().take_while(is_own).count()
    }

    /// The versions that the segment consists of, the newest first, down to where each block is
    /// spoken for.
    pub fn layers(&self, segment: SegmentNo) -> Result<Vec<Layer>, CacheError> {
        let (mut layers, mut covered) = (Vec::new(), BlockMask::EMPTY);
        self.view
            .layers(self.map, segment, At::Live, &mut |key, descriptor| {
                layers.push((key, *descriptor));
                covered = covered.or(&descriptor.covered());
                if covered.is_full(self.geometry) {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })?;
        Ok(layers)
    }

    /// Blocks of the segment that show the origin where the map has nothing.
    pub(super) fn origin_blocks(&self, segment: SegmentNo) -> BlockMask {
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
        // Over an origin it is a difference, which may stay small; else the segment will fill.
        let thin = !shown.is_empty() && is_thin(&data, self.geometry);
        let extent = self.fill_new(update, thin, slots, work)?;
        let version = Descriptor::new(self.epoch.first_birth(), extent, data, zero);
        work.changes.push(Change::PutVersion(key, version));
        Ok(version.has_own_slot())
    }

    /// The live version, which no snapshot sees, goes to another place together with what is new:
    /// without a journal nothing may be overwritten, and with one the epoch's births may be used
    /// up. Nothing, and nothing planned, where it can't be read.
    pub(super) fn rewrite(
        &self,
        key: VersionKey,
        live: &Descriptor,
        update: &Update,
        slots: &mut Allocator,
        work: &mut Work,
    ) -> Result<Option<Descriptor>, CacheError> {
        let new = update.data();
        let kept = live.data.minus(&new).minus(&update.zero);
        let data = new.or(&kept);
        let zero = live.zero.minus(&new).or(&update.zero);
        let thin = !live.has_own_slot() && data.count() <= self.geometry.blocks() / GROWN_THIN;
        let moving = match live.extent() {
            Some(from) => readable(self.pool, self.read(key.segment, &from, &kept))?,
            None => Some(Moving::default()),
        };
        let Some(moving) = moving else {
            return Ok(None);
        };
        let to = self.new_extent(&data, thin, slots, work)?;
        self.fill(&to, update, work);
        work.put(self.pool, &to, moving)?;
        work.release(live);
        Ok(Some(Descriptor::new(live.birth, Some(to), data, zero)))
    }

    /// A block can't be read, and there is no other way left than to move it.
    pub(super) fn stuck(&self, segment: SegmentNo) -> CacheError {
        CacheError::Stuck {
            map: self.map,
            segment,
        }
    }

    /// Reads blocks of a segment that are to be moved, each checked unless it may be of no account.
    pub(super) fn read(
        &self,
        segment: SegmentNo,
        from: &Extent,
        blocks: &BlockMask,
    ) -> Result<Moving, CacheError> {
        let unsure = blocks.and(&self.unsure(segment));
        let mut moving = Moving::default();
        let of = (self.pool, self.view, &self.fetched);
        moving.read(of, from, &blocks.minus(&unsure))?;
        moving.read_as_is(self.pool, from, &unsure)?;
        Ok(moving)
    }

    /// Blocks of a segment that may hold something else than the catalog's checksum says: those
    /// that queued writes will bring, if one of these was cut short. What they hold is of no
    /// account: whoever reads them finds the queued write first.
    fn unsure(&self, segment: SegmentNo) -> BlockMask {
        let mut unsure = BlockMask::EMPTY;
        if let Some(map) = self.unsettled {
            let (first, count) = (self.geometry.first_block(segment), self.geometry.blocks());
            map.find(first, count as u64, self.epoch, |at, _| {
                unsure.insert(at as usize);
            });
        }
        unsure
    }

    /// A snapshot sees the live version: it moves to the history, and a new one goes on top.
    fn displace(
        &self,
        key: VersionKey,
        layers: &[Layer],
        update: &Update,
        slots: &mut Allocator,
        work: &mut Work,
    ) -> Result<Descriptor, CacheError> {
        let birth = self.epoch.first_birth();
        work.changes.extend(layers.first().map(|(_, live)| {
            let death = birth;
            Change::PutVersion(VersionKey { death, ..key }, *live)
        }));
        let (data, zero) = (update.data(), update.zero);
        let only_zeros = zero.is_full(self.geometry) && self.origin_blocks(key.segment).is_empty();
        if only_zeros {
            work.changes.push(Change::RemoveVersion(key));
            return Ok(Descriptor::new(birth, None, data, zero));
        }
        // Without data of its own it has no slot, and is promised none: a discard must work when
        // the pool is full. The next write to the segment shortens the chain.
        let merge = !data.is_empty()
            && !data.or(&zero).is_full(self.geometry)
            && self.is_due(key.segment, layers.len());
        let thin = !merge && is_thin(&data, self.geometry);
        let extent = self.fill_new(update, thin, slots, work)?;
        let mut new = Descriptor::new(birth, extent, data, zero);
        if merge {
            self.merge_below(key, &mut new, work)?;
        }
        work.changes.push(Change::PutVersion(key, new));
        Ok(new)
    }

    /// Whether all that shows through a new version over so many layers is to be merged into it.
    pub(super) fn is_due(&self, segment: SegmentNo, layers: usize) -> bool {
        self.is_due_within(segment, layers, self.merge_budget)
    }

    /// As [`is_due`](Self::is_due), with another budget than the batch's.
    pub(super) fn is_due_within(
        &self,
        segment: SegmentNo,
        layers: usize,
        budget: &Cell<u64>,
    ) -> bool {
        if layers < many_layers(segment) {
            return false;
        }
        let left = budget.get();
        budget.set(left.saturating_sub(self.geometry.segment_bytes()));
        left > 0 || layers >= MAX_LAYERS
    }

    /// Completes a new version that has a slot of its own with all that shows through it from
    /// below; leaves it as it is where that can't be read.
    pub(super) fn merge_below(
        &self,
        key: VersionKey,
        new: &mut Descriptor,
        work: &mut Work,
    ) -> Result<(), CacheError> {
        let Some(to) = new.extent() else {
            return Ok(());
        };
        let missing = BlockMask::full(self.geometry).minus(&new.covered());
        let (mut data, mut zero, mut moving) = (new.data, new.zero, Vec::new());
        for (blocks, source) in self.resolve_all(self.map, key.segment, At::Live, missing)? {
            let Source::Data(from) = source else {
                zero = zero.or(&blocks);
                continue;
            };
            let Some(read) = readable(self.pool, self.read(key.segment, &from, &blocks))? else {
                return Ok(());
            };
            moving.push(read);
            data = data.or(&blocks);
        }
        for blocks in moving {
            work.put(self.pool, &to, blocks)?;
        }
        (new.data, new.zero) = (data, zero);
        Ok(())
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

    /// Writes the new data to a new place, if there is any.
    fn fill_new(
        &self,
        update: &Update,
        thin: bool,
        slots: &mut Allocator,
        work: &mut Work,
    ) -> Result<Option<Extent>, CacheError> {
        if update.frames.is_empty() {
            return Ok(None);
        }
        let extent = self.new_extent(&update.data(), thin, slots, work)?;
        self.fill(&extent, update, work);
        Ok(Some(extent))
    }

    fn fill(&self, to: &Extent, update: &Update, work: &mut Work) {
        for (block, frame) in &update.frames {
            work.write(to, *block, Data::Frame(frame.clone()));
        }
    }

    pub(super) fn new_extent(
        &self,
        blocks: &BlockMask,
        thin: bool,
        slots: &mut Allocator,
        work: &mut Work,
    ) -> Result<Extent, CacheError> {
        if thin && let Some(extent) = new_packed(blocks, self.geometry, slots, work) {
            return Ok(extent);
        }
        let slot = slots.take().ok_or(CacheError::NoSpace {
            needed: 1,
            available: 0,
        })?;
        work.took(slot);
        Ok(Extent::own(slot.place))
    }
}

/// Whether these are so few blocks that they go to a pack.
pub(super) fn is_thin(blocks: &BlockMask, geometry: Geometry) -> bool {
    blocks.count() <= geometry.blocks() / THIN
}

/// Room for these blocks in a pack, where slots may be taken for packs.
pub(super) fn new_packed(
    blocks: &BlockMask,
    geometry: Geometry,
    slots: &mut Allocator,
    work: &mut Work,
) -> Option<Extent> {
    let room = slots.pack(blocks.count(), geometry.blocks())?;
    if let Some(slot) = room.new {
        work.took(slot);
    }
    Some(Extent {
        place: room.place,
        packed: Some((room.first, *blocks)),
    })
}
