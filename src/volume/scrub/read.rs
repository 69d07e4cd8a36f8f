//! Reads blocks from the medium and compares them with their checksums.

use std::sync::Arc;

use super::mapped::Run;
use crate::base::{BLOCK, BlockMask, Checksum, Epoch, Place, Slot, checksum};
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

/// Reads a run and hands the blocks that differ to `bad`, counted from the device's first. What
/// was given up meanwhile does not count. The view is a fresh one, and held for this alone.
pub(super) fn run(
    cache: &Cache,
    run: &Run,
    buf: &mut AlignedBuf,
    bad: &mut dyn FnMut(u64, Bad),
) -> Result<(), CatalogError> {
    let view = cache.catalog().view();
    let sums = sums(&view, run, bad)?;
    let bytes = &mut buf[..run.wanted.len() * BLOCK];
    let whole = cache.pool().read_uncached(run.device, run.first, bytes);
    let chunks = bytes.chunks_exact_mut(BLOCK).zip(sums);
    for (block, (bytes, sum)) in (run.first..).zip(chunks) {
        let Some(sum) = sum else { continue };
        let alone = match &whole {
            Ok(()) => Ok(()),
            Err(_) => cache.pool().read_uncached(run.device, block, bytes),
        };
        match alone {
            Err(error) => bad(block, Bad::Unreadable(error.to_string())),
            Ok(()) if checksum(bytes) != sum => bad(block, Bad::Differs),
            Ok(()) => {}
        }
    }
    Ok(())
}

/// The checksums of the blocks that count.
fn sums(
    view: &View,
    run: &Run,
    bad: &mut dyn FnMut(u64, Bad),
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
                bad(block, Bad::Unknown);
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

/// Blocks of a lent slot that differ from what was written there.
pub(super) fn lent(cache: &Cache, lent: &Lent, buf: &mut AlignedBuf) -> Vec<(usize, Bad)> {
    let bytes = &mut buf[..lent.sums().len() * BLOCK];
    let first = cache.geometry().slot_block(lent.place().slot);
    let mut found = Vec::new();
    let whole = cache
        .pool()
        .read_uncached(lent.place().device, first, bytes);
    for (at, bytes) in bytes.chunks_exact_mut(BLOCK).enumerate() {
        let read = match &whole {
            Ok(()) => compare(bytes, lent.sums()[at]),
            Err(_) => block(cache, lent.place(), at, lent.sums()[at], bytes),
        };
        found.extend(read.err().map(|bad| (at, bad)));
    }
    found
}

fn compare(bytes: &[u8], sum: Checksum) -> Result<(), Bad> {
    if checksum(bytes) == sum {
        Ok(())
    } else {
        Err(Bad::Differs)
    }
}

fn block(cache: &Cache, place: Place, at: usize, sum: Checksum, buf: &mut [u8]) -> Result<(), Bad> {
    let block = cache.geometry().slot_block(place.slot) + at as u64;
    let read = cache.pool().read_uncached(place.device, block, buf);
    read.map_err(|error| Bad::Unreadable(error.to_string()))?;
    compare(buf, sum)
}

/// Where a block of an image lies on a device, and whether it is what it should be there.
pub(super) struct Looked {
    pub place: Place,
    /// In the slot.
    pub at: usize,
    pub found: Result<(), Bad>,
}

/// Goes the way of a read for one block: nothing where the cache has it, or it is zero.
pub(super) fn image(
    cache: &Cache,
    image: &Image,
    block_no: crate::base::Block,
    buf: &mut [u8],
) -> Result<Option<Looked>, CatalogError> {
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
                let place = lent.place();
                let found = block(cache, place, at, lent.sums()[at], buf);
                return Ok(Some(Looked { place, at, found }));
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
                let found = match view.checksums(place.device, first, &mut sum) {
                    Ok(()) => block(cache, place, at, sum[0], buf),
                    Err(CatalogError::NoChecksum { .. }) => Err(Bad::Unknown),
                    Err(error) => return Err(error),
                };
                return Ok(Some(Looked { place, at, found }));
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
fn origin(image: &Image, block: crate::base::Block) -> Option<Image> {
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
