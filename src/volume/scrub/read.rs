//! Reads blocks from the medium and compares them with their checksums.

use std::sync::Arc;

use super::mapped::Run;
use crate::base::{BLOCK, Block, BlockMask, Checksum, Epoch, Place, Slot, checksum};
use crate::cache::{Cache, Found, Lent};
use crate::device::AlignedBuf;
use crate::store::{CatalogError, Source, View};
use crate::volume::read::Image;

/// What is wrong with a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// It has no checksum.
    Unknown,
    /// It is not what was written.
    Differs,
    /// The device does not give it; in the host's words.
    Unreadable(String),
}

impl Bad {
    /// In words, after "block 7".
    pub fn words(&self) -> String {
        match self {
            Self::Unknown => "has no recorded checksum".to_owned(),
            Self::Differs => "is not what its checksum says".to_owned(),
            Self::Unreadable(error) => format!("can't be read: {error}"),
        }
    }
}

/// Reads a run and hands the blocks that may be bad to `suspect`, counted from the device's first:
/// those that differ, or all where the device does not give the whole run. What was given up
/// meanwhile does not count. The view is a fresh one, and held for this one read.
pub(super) fn run(
    cache: &Cache,
    run: &Run,
    buf: &mut AlignedBuf,
    suspect: &mut dyn FnMut(u64),
) -> Result<(), CatalogError> {
    let view = cache.catalog().view();
    let sums = sums(&view, run, suspect)?;
    let bytes = &mut buf[..run.wanted.len() * BLOCK];
    let read = cache.pool().read_uncached(run.device, run.first, bytes);
    let chunks = bytes.chunks_exact(BLOCK).zip(sums);
    for (block, (bytes, sum)) in (run.first..).zip(chunks) {
        if sum.is_some_and(|sum| read.is_err() || checksum(bytes) != sum) {
            suspect(block);
        }
    }
    Ok(())
}

/// The checksums of the blocks that count.
fn sums(
    view: &View,
    run: &Run,
    suspect: &mut dyn FnMut(u64),
) -> Result<Vec<Option<Checksum>>, CatalogError> {
    let given_up = given_up(view, run)?;
    let blocks = view.geometry().blocks() as u64;
    let counts = |at: &usize| {
        let slot = Slot((run.first + *at as u64) / blocks);
        run.wanted[*at] && !given_up.contains(&slot)
    };
    let mut sums = vec![None; run.wanted.len()];
    let mut found = vec![Checksum(0); run.wanted.len()];
    let mut at = 0;
    while at < sums.len() {
        if !counts(&at) {
            at += 1;
            continue;
        }
        let end = (at..sums.len())
            .find(|at| !counts(at))
            .unwrap_or(sums.len());
        let part = &mut found[at..end];
        match view.checksums(run.device, run.first + at as u64, part) {
            Ok(()) => {
                let pairs = sums[at..end].iter_mut().zip(part);
                pairs.for_each(|(to, sum)| *to = Some(*sum));
                at = end;
            }
            // Those before it have one.
            Err(CatalogError::NoChecksum { block, .. }) => {
                let missing = (block - run.first) as usize;
                let pairs = sums[at..missing].iter_mut().zip(part);
                pairs.for_each(|(to, sum)| *to = Some(*sum));
                suspect(block);
                at = missing + 1;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(sums)
}

/// The slots of a run that wait for their punch, or have had it.
fn given_up(view: &View, run: &Run) -> Result<Vec<Slot>, CatalogError> {
    let blocks = view.geometry().blocks() as u64;
    let last = (run.first + run.wanted.len() as u64 - 1) / blocks;
    let first = Slot(run.first / blocks);
    let device = run.device;
    let from = Place {
        device,
        slot: first,
    };
    let most = (last - first.0 + 1) as usize;
    let pending = view.pending_from(from, most)?.into_iter();
    let here = pending.take_while(|place| place.device == device && place.slot.0 <= last);
    Ok(here.map(|place| place.slot).collect())
}

/// Blocks of a lent slot that differ from what was written there; all, where the device does not
/// give the whole slot.
pub(super) fn lent(cache: &Cache, lent: &Lent, buf: &mut AlignedBuf) -> Vec<usize> {
    let bytes = &mut buf[..lent.sums().len() * BLOCK];
    let Place { device, slot } = lent.place();
    let first = cache.geometry().slot_block(slot);
    let read = cache.pool().read_uncached(device, first, bytes);
    let found = bytes.chunks_exact(BLOCK).zip(lent.sums()).enumerate();
    let bad = found.filter(|(_, (bytes, sum))| read.is_err() || checksum(bytes) != **sum);
    bad.map(|(at, _)| at).collect()
}

/// Reads a block and compares it.
pub(super) fn block(cache: &Cache, spot: &Spot, sum: Checksum, buf: &mut [u8]) -> Result<(), Bad> {
    let block = cache.geometry().slot_block(spot.place.slot) + spot.at as u64;
    let read = cache.pool().read_uncached(spot.place.device, block, buf);
    read.map_err(|error| Bad::Unreadable(error.to_string()))?;
    if checksum(buf) == sum {
        Ok(())
    } else {
        Err(Bad::Differs)
    }
}

/// Where a block of an image lies on a device.
pub(super) struct Spot {
    pub place: Place,
    /// In the slot.
    pub at: usize,
    /// What it should be there, where that is recorded.
    pub sum: Option<Checksum>,
}

/// Goes the way of a read for one block, up to the device: nothing where the cache has it, or it is
/// zero. What is found stays where it is for the time of `look`.
pub(super) fn find<T>(
    cache: &Cache,
    image: &Image,
    block_no: Block,
    look: impl FnOnce(&Spot) -> T,
) -> Result<Option<T>, CatalogError> {
    let (segment, index) = cache.geometry().locate(block_no);
    let mut wanted = BlockMask::EMPTY;
    wanted.insert(index);
    let mut image = image.clone();
    loop {
        // As in a read: what is found in a lent slot stays there while this is held.
        let _guard = cache.catalog().view();
        let mut cached = Found::Nothing;
        image
            .map
            .find(block_no, 1, image.epoch, |_, found| cached = found);
        match cached {
            Found::Data(_) | Found::Zero => return Ok(None),
            Found::Lent(lent, at) => {
                let (place, sum) = (lent.place(), Some(lent.sums()[at]));
                return Ok(Some(look(&Spot { place, at, sum })));
            }
            Found::Nothing => {}
        }
        let view = cache.catalog().view();
        let pieces = view.resolve(image.map.id, segment, image.at(), wanted)?;
        match pieces.first().map(|(_, source)| *source) {
            Some(Source::Data(extent)) => {
                let (place, at) = (extent.place, extent.index(index));
                let first = cache.geometry().slot_block(place.slot) + at as u64;
                let mut sum = [Checksum(0)];
                let sum = match view.checksums(place.device, first, &mut sum) {
                    Ok(()) => Some(sum[0]),
                    Err(CatalogError::NoChecksum { .. }) => None,
                    Err(error) => return Err(error),
                };
                return Ok(Some(look(&Spot { place, at, sum })));
            }
            Some(Source::Zero) | None => return Ok(None),
            Some(Source::Below) => match origin(&image, block_no) {
                Some(below) => image = below,
                None => return Ok(None),
            },
        }
    }
}

/// What shows through an image at a block.
fn origin(image: &Image, block: Block) -> Option<Image> {
    let origin = image.map.origin.as_ref()?;
    let below = || Image {
        map: Arc::clone(&origin.map),
        epoch: origin.epoch,
    };
    (block < origin.limit).then(below)
}

/// Whether an image shows a map, its own or one below.
pub(super) fn shows(image: &Image, map: crate::base::MapId) -> bool {
    let mut at = Some(&image.map);
    while let Some(state) = at {
        if state.id == map {
            return true;
        }
        at = state.origin.as_ref().map(|origin| &origin.map);
    }
    false
}

/// The live image of a map.
pub(super) fn live(map: Arc<crate::cache::MapState>) -> Image {
    let epoch = Epoch::LIVE;
    Image { map, epoch }
}
