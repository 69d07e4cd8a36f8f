//! What a round is going to do: blocks to write, slots to take and give up, changes to commit.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IoSlice;
use std::sync::Arc;

use super::super::state::Cache;
use super::super::stock::Stock;
use super::super::{CacheError, Frame, Lent};
use super::allocate::{NewSlot, adopt_changes, lend_changes};
use super::holes::{Holes, make_holes};
use super::moving::Moving;
use crate::base::{BLOCK, BlockMask, Checksum, DeviceNo, Place};
use crate::device::AlignedBuf;
use crate::ondisk::{Change, Descriptor, Extent};
use crate::store::{Catalog, Pool, View};

/// Blocks held in memory before they are written: 4 MiB.
const HELD_BLOCKS: usize = (4 << 20) / BLOCK;

/// A block's new content.
pub(super) enum Data {
    /// From the cache.
    Frame(Arc<Frame>),
    /// Read from another slot, and checked: the block of that number in what was read.
    Copy(Arc<AlignedBuf>, usize, Checksum),
}

impl Data {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Frame(frame) => frame,
            Self::Copy(read, at, _) => &read[at * BLOCK..][..BLOCK],
        }
    }

    fn checksum(&self) -> Checksum {
        match self {
            Self::Frame(frame) => frame.checksum(),
            Self::Copy(_, _, sum) => *sum,
        }
    }
}

/// The work of one commit.
pub(super) struct Work {
    catalog: Arc<Catalog>,
    stock: Arc<Stock>,
    /// Still to be written, to where nobody reads before the commit.
    writes: Vec<(Place, usize, Data)>,
    /// To be written over what the catalog has a checksum of. They come last: once one of them is
    /// begun, what failed before the commit can't be left as if it had never been.
    overwrites: Vec<(Place, usize, Data)>,
    /// Whether that has begun.
    unsettles: bool,
    /// Bytes written already.
    written: u64,
    /// Checksums of what is written, and the devices that it is on.
    sums: Vec<Change>,
    devices: BTreeSet<DeviceNo>,
    /// Slots that it writes to for the first time; the commit adopts them.
    taken: Vec<Place>,
    /// Slots that writers filled; the commit adopts them too.
    lent: Vec<Arc<Lent>>,
    /// Those of `taken` that are still on the free list.
    unlent: Vec<Place>,
    /// Slots given up; they go to the pending list with the commit.
    retired: Vec<Place>,
    /// Blocks of slots still in use whose data is no longer needed.
    punches: BTreeMap<Place, BlockMask>,
    /// Changes of records and versions, in order.
    pub changes: Vec<Change>,
}

impl Work {
    pub fn new(cache: &Cache) -> Self {
        Self {
            catalog: cache.catalog.clone(),
            stock: cache.stock.clone(),
            writes: Vec::new(),
            overwrites: Vec::new(),
            unsettles: false,
            written: 0,
            sums: Vec::new(),
            devices: BTreeSet::new(),
            taken: Vec::new(),
            lent: Vec::new(),
            unlent: Vec::new(),
            retired: Vec::new(),
            punches: BTreeMap::new(),
            changes: Vec::new(),
        }
    }

    pub fn write(&mut self, to: &Extent, block: usize, data: Data) {
        self.writes.push((to.place, to.index(block), data));
    }

    /// As [`write`](Self::write), over data that is live.
    pub fn overwrite(&mut self, to: &Extent, block: usize, data: Data) {
        self.overwrites.push((to.place, to.index(block), data));
    }

    pub fn took(&mut self, slot: NewSlot) {
        self.taken.push(slot.place);
        if !slot.lent {
            self.unlent.push(slot.place);
        }
    }

    /// There will be no commit: slots that were lent for it are nobody's again. Says whether live
    /// blocks may hold something else now than the catalog's checksums say.
    pub fn give_back(self) -> bool {
        let lent = self.taken.iter().filter(|at| !self.unlent.contains(at));
        self.stock.give_up(lent.copied());
        self.unsettles
    }

    /// A slot that a writer filled, all but these blocks of it.
    pub fn adopt(&mut self, lent: Arc<Lent>, zero: &BlockMask) {
        self.punch(&Extent::own(lent.place()), zero);
        self.lent.push(lent);
    }

    /// New slots that it writes to.
    pub fn taken(&self) -> &[Place] {
        &self.taken
    }

    /// Slots that writers filled.
    pub fn lent(&self) -> &[Arc<Lent>] {
        &self.lent
    }

    /// All slots that the commit adopts.
    pub fn adopted(&self) -> Vec<Place> {
        let lent = self.lent.iter().map(|lent| lent.place());
        self.taken.iter().copied().chain(lent).collect()
    }

    /// A version goes: its slot is given up; of a pack, its part.
    pub fn release(&mut self, version: &Descriptor) {
        let Some(extent) = version.extent() else {
            return;
        };
        if version.has_own_slot() {
            self.retired.push(extent.place);
        } else {
            self.punch(&extent, &version.stored());
        }
    }

    /// Blocks of a segment are no longer needed where they lie.
    pub fn punch(&mut self, extent: &Extent, blocks: &BlockMask) {
        if !blocks.is_empty() {
            let punches = self.punches.entry(extent.place).or_insert(BlockMask::EMPTY);
            *punches = punches.or(&extent.indexes(blocks));
        }
    }

    /// Bytes that it writes, or has written.
    pub fn bytes(&self) -> u64 {
        self.written + (self.writes.len() + self.overwrites.len()) as u64 * BLOCK as u64
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.bytes() == 0 && self.retired.is_empty()
    }

    /// Writes blocks that were read elsewhere.
    pub fn put(&mut self, pool: &Pool, to: &Extent, blocks: Moving) -> Result<(), CacheError> {
        for (block, data) in blocks.into_blocks() {
            self.write(to, block, data);
        }
        if self.writes.len() > HELD_BLOCKS {
            self.write_out(pool)?;
        }
        Ok(())
    }

    /// Writes what is held. Nothing of it counts before the commit, so when is a matter of memory
    /// alone: merging one segment may bring as many blocks as it has.
    fn write_out(&mut self, pool: &Pool) -> Result<(), CacheError> {
        self.lend()?;
        let writes = std::mem::take(&mut self.writes);
        self.write_all(pool, writes)
    }

    fn write_all(
        &mut self,
        pool: &Pool,
        mut writes: Vec<(Place, usize, Data)>,
    ) -> Result<(), CacheError> {
        // The commit of a batch like this one, with later records, may have found no room: came it
        // back with a crash, its checksums would not be those of what is written now.
        self.catalog.withdraw()?;
        let geometry = pool.geometry();
        writes.sort_by_key(|(place, block, _)| (*place, *block));
        for of_device in writes.chunk_by(|a, b| a.0.device == b.0.device) {
            let mut runs = Vec::with_capacity(of_device.len());
            for run in of_device.chunk_by(|a, b| a.0 == b.0 && a.1 + 1 == b.1) {
                let (place, first, _) = &run[0];
                let bufs = run.iter().map(|(_, _, data)| IoSlice::new(data.bytes()));
                runs.push((place.slot, *first, bufs.collect()));
                let at = geometry.slot_block(place.slot) + *first as u64;
                let sums = run.iter().map(|(_, _, data)| data.checksum());
                push_sums(&mut self.sums, place.device, at, sums);
            }
            let place = of_device[0].0;
            let written = pool.write_each(place.device, &runs);
            let written = written.map_err(CacheError::from);
            written.inspect_err(|error| self.stock.note_full(place, error))?;
            self.devices.insert(place.device);
        }
        self.written += writes.len() as u64 * BLOCK as u64;
        Ok(())
    }

    /// Puts the new slots on the pending list before anything is written to them, so that a crash
    /// before the commit gives back what was written (P9). Costs a commit, but only where the
    /// stock did not do.
    fn lend(&mut self) -> Result<(), CacheError> {
        if !self.unlent.is_empty() {
            self.catalog.commit(&lend_changes(&self.unlent))?;
            self.stock.lend(&self.unlent);
            self.unlent.clear();
        }
        Ok(())
    }

    /// Writes all data, makes it durable, and adds what the commit must say of it.
    pub fn store(&mut self, pool: &Pool) -> Result<(), CacheError> {
        self.write_out(pool)?;
        let overwrites = std::mem::take(&mut self.overwrites);
        self.unsettles = !overwrites.is_empty();
        self.write_all(pool, overwrites)?;
        let devices: Vec<DeviceNo> = self.devices.iter().copied().collect();
        pool.sync(&devices)?;
        let geometry = pool.geometry();
        for lent in &self.lent {
            let Place { device, slot } = lent.place();
            let sums = lent.sums().iter().copied();
            push_sums(&mut self.sums, device, geometry.slot_block(slot), sums);
        }
        let mut changes = adopt_changes(&self.adopted());
        changes.append(&mut self.changes);
        changes.append(&mut self.sums);
        changes.extend(self.retired.iter().map(|place| Change::Retire(*place)));
        self.changes = changes;
        Ok(())
    }

    /// After the commit: gives the host the blocks that are no longer needed. A reader that still
    /// looks at one finds that its checksum does not match, and looks again.
    /// Those of packs come later. Returns the slots that are to be punched as a whole: those
    /// given up, and the packs that the catalog gave up with them since nobody needs them any
    /// more.
    pub fn punch_blocks(
        &self,
        pool: &Pool,
        view: &View,
        holes: &mut Holes,
    ) -> Result<Vec<Place>, CacheError> {
        let mut whole: BTreeSet<Place> = self.retired.iter().copied().collect();
        for (place, blocks) in &self.punches {
            if view.is_pending(*place)? {
                whole.insert(*place);
                continue;
            }
            if view.pack(*place)?.is_some() {
                holes.add(*place, blocks);
                continue;
            }
            make_holes(pool, *place, blocks);
        }
        whole.iter().for_each(|place| holes.forget(*place));
        Ok(whole.into_iter().collect())
    }
}

fn push_sums(
    changes: &mut Vec<Change>,
    device: DeviceNo,
    first: u64,
    sums: impl Iterator<Item = Checksum>,
) {
    match changes.last_mut() {
        Some(Change::PutChecksums {
            device: of,
            first: start,
            sums: before,
        }) if *of == device && *start + before.len() as u64 == first => {
            before.extend(sums);
        }
        _ => changes.push(Change::PutChecksums {
            device,
            first,
            sums: sums.collect(),
        }),
    }
}
