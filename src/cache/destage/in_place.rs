//! Changes to a segment whose newest versions no snapshot sees.
//!
//! These are the *own* layers. A block that one of them has is overwritten in place: the journal
//! still has what is written there, and is synced, so that a crash does no harm. Other blocks go
//! to the top layer where that has a slot of its own, else on top as a new thin layer: what is
//! written again and again over a snapshot goes to packs, each block once.

use super::super::CacheError;
use super::allocate::Allocator;
use super::moving::readable;
use super::segment::{Context, Layer, MAX_LAYERS, Update, is_thin};
use super::work::{Data, Work};
use crate::base::{BlockMask, Epoch, Place};
use crate::ondisk::{Change, Descriptor, Extent, VersionKey};

/// Own layers that are put together into one with what comes next.
pub(super) const MANY_OWN: usize = 12;

/// What own layers and an update make together.
pub(super) struct Together {
    data: BlockMask,
    zero: BlockMask,
    /// What of the layers shows.
    pub kept: Vec<(Extent, BlockMask)>,
}

impl Together {
    pub fn of(own: &[Layer], update: &Update) -> Self {
        let (data, zero) = (update.data(), update.zero);
        let kept = Vec::with_capacity(own.len());
        let mut all = Self { data, zero, kept };
        for (_, layer) in own {
            let hidden = all.data.or(&all.zero);
            let shows = layer.data.minus(&hidden);
            all.data = all.data.or(&shows);
            all.zero = all.zero.or(&layer.zero.minus(&hidden));
            all.kept.extend(layer.extent().map(|from| (from, shows)));
        }
        all
    }
}

impl Context<'_> {
    /// Plans the change. `own` are the own layers, at least one, of `layers` in all. Returns the
    /// top layer as it is then, and the blocks that were merged into it.
    pub(super) fn change_own(
        &self,
        own: &[Layer],
        layers: usize,
        update: &Update,
        slots: &mut Allocator,
        work: &mut Work,
    ) -> Result<(Descriptor, BlockMask), CacheError> {
        let (key, mut top) = own[0];
        let lower = &own[1..];
        let mut left = update.data();
        let may_fill = self.may_fill(&top, &left, slots);
        self.change_top(&mut top, update, &mut left, may_fill, work);
        let mut hidden = top.covered();
        let mut changed = Vec::new();
        for (key, layer) in lower {
            let mut layer = *layer;
            let here = left.and(&layer.data.minus(&hidden));
            overwrite_some(layer.extent(), update, &here, work);
            left = left.minus(&here);
            hidden = hidden.or(&layer.covered());
            clear(&mut layer, &update.zero, work);
            changed.push((*key, layer));
        }
        let on_top = if left.is_empty() {
            None
        } else if top.place.is_none() {
            let extent = self.new_extent(&left, is_thin(&left, self.geometry), slots, work)?;
            fill_some(Some(extent), update, &left, work);
            let zero = top.zero.minus(&left);
            top = Descriptor::new(top.birth, Some(extent), left, zero);
            None
        } else if let Some(birth) = top.birth.next_birth() {
            let thin = !self.has_outgrown(own, &left);
            let together = if thin && layers < MAX_LAYERS && own.len() >= MANY_OWN {
                self.put_together(own, birth, update, slots, work)?
            } else {
                None
            };
            let at = (key, layers);
            let new = match together {
                Some(new) => new,
                None => self.put_on_top(at, birth, (&left, thin), update, slots, work)?,
            };
            Some(new)
        } else {
            // No birth is left in the epoch: one layer takes it all.
            let rest = update.only(&left.or(&top.data));
            top = self
                .rewrite(key, &top, &rest, slots, work)?
                .ok_or_else(|| self.stuck(key.segment))?;
            None
        };
        self.keep(on_top, top, (own, &changed), work);
        let merged = on_top.map_or(BlockMask::EMPTY, |new| new.data.minus(&update.data()));
        Ok((on_top.unwrap_or(top), merged))
    }

    /// Whether own layers have so many blocks in packs, with these, that they are thin no longer.
    pub(super) fn has_outgrown(&self, own: &[Layer], blocks: &BlockMask) -> bool {
        let packed = own.iter().filter(|(_, layer)| !layer.has_own_slot());
        let all = packed.fold(*blocks, |all, (_, layer)| all.or(&layer.data));
        !is_thin(&all, self.geometry)
    }

    /// Whether blocks that a layer does not have yet may be written to its place. Not those that
    /// are dead in a pack: a hole is still to be made there. Nor where the host has no space for
    /// them, if a slot elsewhere can be spared: nobody promised one.
    fn may_fill(&self, top: &Descriptor, blocks: &BlockMask, slots: &mut Allocator) -> bool {
        let is_full = |at: Place| self.full.contains(&at.device);
        top.has_own_slot()
            && (blocks.minus(&top.data).is_empty()
                || !top.place.is_some_and(is_full)
                || !slots.spend_spare())
    }

    /// What of an update the top layer takes in place. `left` is what it does not.
    fn change_top(
        &self,
        top: &mut Descriptor,
        update: &Update,
        left: &mut BlockMask,
        may_fill: bool,
        work: &mut Work,
    ) {
        let room = if may_fill {
            BlockMask::full(self.geometry)
        } else {
            top.data
        };
        let here = left.and(&room);
        overwrite_some(top.extent(), update, &here.and(&top.data), work);
        fill_some(top.extent(), update, &here.minus(&top.data), work);
        *left = left.minus(&here);
        let zero = top.zero.minus(&here);
        *top = Descriptor::new(top.birth, top.extent(), top.data.or(&here), zero);
        clear(top, &update.zero, work);
        let zero = top.zero.or(&update.zero);
        *top = Descriptor::new(top.birth, top.extent(), top.data, zero);
    }

    /// A new layer over all others, in a pack if it is to be thin; complete where there are many.
    pub(super) fn put_on_top(
        &self,
        (key, layers): (VersionKey, usize),
        birth: Epoch,
        (blocks, thin): (&BlockMask, bool),
        update: &Update,
        slots: &mut Allocator,
        work: &mut Work,
    ) -> Result<Descriptor, CacheError> {
        let merge = self.is_due(key.segment, layers);
        let extent = self.new_extent(blocks, thin && !merge, slots, work)?;
        fill_some(Some(extent), update, blocks, work);
        let zero = update.zero;
        let mut new = Descriptor::new(birth, Some(extent), *blocks, zero);
        if merge {
            // What the update overwrites in place further down is merged as it will be.
            let placed = update.data().minus(blocks);
            fill_some(Some(extent), update, &placed, work);
            new.data = new.data.or(&placed);
            self.merge_below(key, &mut new, work)?;
        }
        Ok(new)
    }

    /// A new layer instead of the own ones, with all that they have, which is little. Nothing where
    /// that can't be read.
    fn put_together(
        &self,
        own: &[Layer],
        birth: Epoch,
        update: &Update,
        slots: &mut Allocator,
        work: &mut Work,
    ) -> Result<Option<Descriptor>, CacheError> {
        let segment = own[0].0.segment;
        let Together { data, zero, kept } = Together::of(own, update);
        let mut parts = Vec::with_capacity(kept.len());
        for (from, shows) in kept {
            let Some(part) = readable(self.pool, self.read(segment, &from, &shows))? else {
                return Ok(None);
            };
            parts.push(part);
        }
        let to = self.new_extent(&data, true, slots, work)?;
        fill_some(Some(to), update, &update.data(), work);
        for part in parts {
            work.put(self.pool, &to, part)?;
        }
        Ok(Some(Descriptor::new(birth, Some(to), data, zero)))
    }

    /// Enters what is different now of the own layers, the top one and those below it, but for those
    /// that nothing shows of any more.
    pub(super) fn keep(
        &self,
        on_top: Option<Descriptor>,
        top: Descriptor,
        (own, lower): (&[Layer], &[Layer]),
        work: &mut Work,
    ) {
        let (key, before) = own[0];
        let mut hidden = on_top.map_or(BlockMask::EMPTY, |new| new.covered());
        let mut old = Vec::new();
        if let Some(new) = on_top {
            let below = VersionKey {
                death: new.birth,
                ..key
            };
            if !top.covered().minus(&hidden).is_empty() {
                work.changes.push(Change::PutVersion(below, top));
            } else {
                work.release(&top);
            }
            work.changes.push(Change::PutVersion(key, new));
        } else {
            let only_zeros = top.data.is_empty()
                && top.zero.is_full(self.geometry)
                && self.origin_blocks(key.segment).is_empty();
            if only_zeros {
                work.changes.push(Change::RemoveVersion(key));
            } else if top != before {
                work.changes.push(Change::PutVersion(key, top));
            }
        }
        hidden = hidden.or(&top.covered());
        for ((key, layer), (_, before)) in lower.iter().zip(&own[1..]) {
            if layer.covered().minus(&hidden).is_empty() {
                work.release(layer);
                old.push(Change::RemoveVersion(*key));
            } else if layer != before {
                old.push(Change::PutVersion(*key, *layer));
            }
            hidden = hidden.or(&layer.covered());
        }
        work.changes.append(&mut old);
    }
}

/// Writes these blocks of an update to their places.
fn fill_some(to: Option<Extent>, update: &Update, blocks: &BlockMask, work: &mut Work) {
    let Some(to) = to else { return };
    for block in blocks.iter() {
        if let Some(frame) = update.frames.get(&block) {
            work.write(&to, block, Data::Frame(frame.clone()));
        }
    }
}

/// As [`fill_some`], where the layer has these blocks already.
fn overwrite_some(to: Option<Extent>, update: &Update, blocks: &BlockMask, work: &mut Work) {
    let Some(to) = to else { return };
    for block in blocks.iter() {
        if let Some(frame) = update.frames.get(&block) {
            work.overwrite(&to, block, Data::Frame(frame.clone()));
        }
    }
}

/// Blocks of a layer become zero.
fn clear(layer: &mut Descriptor, zero: &BlockMask, work: &mut Work) {
    let gone = layer.data.and(zero);
    if gone.is_empty() {
        return;
    }
    let data = layer.data.minus(&gone);
    let zero = layer.zero.or(&gone);
    if data.is_empty() {
        work.release(layer);
        *layer = Descriptor::new(layer.birth, None, data, zero);
    } else {
        if let Some(extent) = layer.extent() {
            work.punch(&extent, &gone);
        }
        *layer = Descriptor::new(layer.birth, layer.extent(), data, zero);
    }
}
