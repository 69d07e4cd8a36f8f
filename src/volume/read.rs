//! The way of a read: the cache's index first, then the segment map and the devices.
//!
//! In this order, because a block goes from the cache to the map: a reader that misses it in the
//! cache looks at a map that has it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use smallvec::SmallVec;

use super::volumes::{Result, Volumes};
use super::{Node, VolumeError};
use crate::base::sync::thread;
use crate::base::{BLOCK, BLOCK_SIZE, Block, BlockMask, Epoch};
use crate::cache::{Found, Lent, MapState};
use crate::store::{At, BlockError, Source, View, read_blocks};

/// A read that races destage may find a block overwritten under it. So often it looks again
/// before it calls that damage.
pub(super) const TRIES: usize = 8;

/// What is read: a map as of an epoch.
#[derive(Clone)]
pub(crate) struct Image {
    pub map: Arc<MapState>,
    /// [`Epoch::LIVE`] for a disk.
    pub epoch: Epoch,
}

impl Image {
    pub fn at(&self) -> At {
        if self.epoch == Epoch::LIVE {
            At::Live
        } else {
            At::Epoch(self.epoch)
        }
    }
}

impl Volumes {
    /// Reads up to `buf.len()` bytes; fewer only at the end of the node. Returns how many.
    ///
    /// # Errors
    /// Where the node is gone, or a device fails or gives a block that does not match its
    /// checksum.
    pub fn read(&self, node: Node, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let started = Instant::now();
        let (len, done) = loop {
            let (image, size) = self.image(node)?;
            let len = size.saturating_sub(offset).min(buf.len() as u64) as usize;
            let done = self.read_image(&image, offset, &mut buf[..len]);
            // A rollback may have taken the map away, and its versions with it.
            if Arc::ptr_eq(&image.map, &self.image(node)?.0.map) {
                break (len, done);
            }
        };
        let metrics = &self.metrics.read;
        metrics.record(done.is_ok(), len as u64, started.elapsed());
        done.map(|()| len)
    }

    /// What a node reads from, and its size.
    pub(crate) fn image(&self, node: Node) -> Result<(Image, u64)> {
        match node {
            Node::Disk(id) => {
                let disk = self.disk(id)?;
                let map = disk.map.read().clone();
                Ok((
                    Image {
                        map,
                        epoch: Epoch::LIVE,
                    },
                    disk.size.load(Relaxed),
                ))
            }
            Node::Snapshot(_) => {
                let snapshot = self.snapshot_of(node)?;
                Ok((
                    Image {
                        map: snapshot.map.clone(),
                        epoch: snapshot.epoch,
                    },
                    snapshot.size,
                ))
            }
        }
    }

    /// Reads any range. Past the end of what was written it reads zeros.
    pub(crate) fn read_image(&self, image: &Image, offset: u64, buf: &mut [u8]) -> Result<()> {
        if buf.is_empty() {
            return Ok(());
        }
        let skip = (offset % BLOCK_SIZE) as usize;
        if skip == 0 && buf.len().is_multiple_of(BLOCK) {
            return self.read_whole(image, image, Block::holding(offset), buf);
        }
        let mut whole = vec![0; (skip + buf.len()).next_multiple_of(BLOCK)];
        self.read_whole(image, image, Block::holding(offset), &mut whole)?;
        buf.copy_from_slice(&whole[skip..skip + buf.len()]);
        Ok(())
    }

    /// Reads whole blocks, a segment at a time. `asked` is what shows the image: the image itself, or
    /// what stands on it.
    fn read_whole(
        &self,
        asked: &Image,
        image: &Image,
        first: Block,
        mut buf: &mut [u8],
    ) -> Result<()> {
        let mut at = first;
        while !buf.is_empty() {
            let (_, index) = self.geometry.locate(at);
            let count = (self.geometry.blocks() - index).min(buf.len() / BLOCK);
            let (part, rest) = buf.split_at_mut(count * BLOCK);
            self.read_in_segment(asked, image, at, part)?;
            at = Block(at.0 + count as u64);
            buf = rest;
        }
        Ok(())
    }

    fn read_in_segment(
        &self,
        asked: &Image,
        image: &Image,
        first: Block,
        buf: &mut [u8],
    ) -> Result<()> {
        let mut tries = 1;
        loop {
            let error = match self.try_read(asked, image, first, buf) {
                Ok(()) => return Ok(()),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Block(error)) => error,
            };
            if tries == TRIES || !matches!(error, BlockError::Checksum { .. }) {
                return Err(self.give_up(asked, first, &error));
            }
            tries += 1;
            thread::yield_now();
        }
    }

    /// Says in the log what can't be read, where it lies and whose it is (P8).
    fn give_up(&self, image: &Image, first: Block, error: &BlockError) -> VolumeError {
        if matches!(error, BlockError::Checksum { .. }) {
            self.metrics.checksum_errors.fetch_add(1, Relaxed);
        }
        let pool = self.cache.pool();
        let device = error.at().map(|(place, _)| pool.name(place.device));
        let device = device.map_or_else(String::new, |name| format!(" on {name}"));
        let words = format!(
            "{} from offset {}{device}: {error}",
            self.name_of(image),
            first.byte()
        );
        pool.complain(error.at(), "read failed", &words);
        VolumeError::Io(words)
    }

    /// What people call it.
    fn name_of(&self, image: &Image) -> String {
        let names = self.names.read();
        let found = if image.epoch == Epoch::LIVE {
            let disk = names.disk_over(image.map.id);
            disk.map(|disk| disk.meta.lock().name.clone())
        } else {
            let snapshot = names.snapshot_at(image.map.id, image.epoch);
            snapshot.map(|snapshot| snapshot.file_name())
        };
        found.unwrap_or_else(|| format!("something deleted (map {})", image.map.id))
    }

    fn try_read(
        &self,
        asked: &Image,
        image: &Image,
        first: Block,
        buf: &mut [u8],
    ) -> std::result::Result<(), Failure> {
        let (segment, start) = self.geometry.locate(first);
        let count = buf.len() / BLOCK;
        let mut wanted = BlockMask::range(start, start + count);
        let mut cached = find(image, first, count as u64);
        // A slot that is found here may be adopted, given up and used anew while it is read. Not
        // while a view is held that is older than its giving up: then it was found under that.
        let mut _guard = None;
        if cached
            .iter()
            .any(|(_, found)| matches!(found, Found::Lent(..)))
        {
            _guard = Some(self.cache.catalog().view());
            cached = find(image, first, count as u64);
        }
        let mut lent: Option<LentRun> = None;
        for (at, found) in cached {
            wanted.remove(start + at);
            if let Found::Lent(slot, block) = found {
                match &mut lent {
                    Some(run) if run.goes_on(at, &slot, block) => run.count += 1,
                    _ => self.read_lent(lent.replace(LentRun::new(at, slot, block)), buf)?,
                }
                continue;
            }
            let block = &mut buf[at * BLOCK..][..BLOCK];
            match found {
                Found::Data(frame) => block.copy_from_slice(&frame),
                _ => block.fill(0),
            }
        }
        self.read_lent(lent, buf)?;
        let missed = wanted.count();
        self.metrics
            .cache_hits
            .fetch_add((count - missed) as u64, Relaxed);
        self.metrics.cache_misses.fetch_add(missed as u64, Relaxed);
        if missed == 0 {
            return Ok(());
        }
        let view = self.cache.catalog().view();
        let pieces = view
            .resolve(image.map.id, segment, image.at(), wanted)
            .map_err(BlockError::from)?;
        for (blocks, source) in pieces {
            for run in blocks.runs() {
                let part = &mut buf[(run.start - start) * BLOCK..(run.end - start) * BLOCK];
                let from = Block(first.0 + (run.start - start) as u64);
                match source {
                    Source::Data(extent) => {
                        let (pool, at) = (self.cache.pool(), extent.index(run.start));
                        read_blocks(pool, &view, extent.place, at, part)?;
                    }
                    Source::Zero => part.fill(0),
                    Source::Below => self.read_below(asked, image, from, part)?,
                }
            }
        }
        Ok(())
    }

    /// Reads blocks that lie in a lent slot.
    fn read_lent(
        &self,
        run: Option<LentRun>,
        buf: &mut [u8],
    ) -> std::result::Result<(), BlockError> {
        let Some(run) = run else { return Ok(()) };
        let part = &mut buf[run.at * BLOCK..(run.at + run.count) * BLOCK];
        run.lent.read(self.cache.pool(), run.block, part)
    }

    /// Blocks that the map has no version of: its origin's, or zeros.
    fn read_below(
        &self,
        asked: &Image,
        image: &Image,
        first: Block,
        buf: &mut [u8],
    ) -> std::result::Result<(), Failure> {
        let Some(origin) = &image.map.origin else {
            buf.fill(0);
            return Ok(());
        };
        let shown = (origin.limit.0.saturating_sub(first.0) as usize).min(buf.len() / BLOCK);
        let (shown, hidden) = buf.split_at_mut(shown * BLOCK);
        hidden.fill(0);
        let below = Image {
            map: origin.map.clone(),
            epoch: origin.epoch,
        };
        self.read_whole(asked, &below, first, shown)
            .map_err(Failure::Final)
    }

    /// The blocks of a segment that hold data.
    pub(super) fn data_mask(
        &self,
        image: &Image,
        segment: crate::base::SegmentNo,
    ) -> Result<BlockMask> {
        let first = self.geometry.first_block(segment);
        let (mut wanted, mut data) = (BlockMask::full(self.geometry), BlockMask::EMPTY);
        image.map.find(
            first,
            self.geometry.blocks() as u64,
            image.epoch,
            |at, found| {
                wanted.remove(at as usize);
                if matches!(found, Found::Data(_) | Found::Lent(..)) {
                    data.insert(at as usize);
                }
            },
        );
        let view: View = self.cache.catalog().view();
        for (blocks, source) in view.resolve(image.map.id, segment, image.at(), wanted)? {
            match source {
                Source::Data(_) => data = data.or(&blocks),
                Source::Zero => {}
                Source::Below => {
                    let Some(origin) = &image.map.origin else {
                        continue;
                    };
                    let shown = origin
                        .limit
                        .0
                        .saturating_sub(first.0)
                        .min(self.geometry.blocks() as u64);
                    let shown = BlockMask::range(0, shown as usize).and(&blocks);
                    let below = Image {
                        map: origin.map.clone(),
                        epoch: origin.epoch,
                    };
                    data = data.or(&self.data_mask(&below, segment)?.and(&shown));
                }
            }
        }
        Ok(data)
    }
}

/// What the index knows of some blocks, by their distance from the first.
pub(super) fn find(image: &Image, first: Block, count: u64) -> SmallVec<[(usize, Found); 16]> {
    let mut found = SmallVec::new();
    image.map.find(first, count, image.epoch, |at, what| {
        found.push((at as usize, what))
    });
    found
}

/// Neighbouring blocks that lie in one lent slot.
struct LentRun {
    /// Where they go in the buffer, in blocks.
    at: usize,
    count: usize,
    lent: Arc<Lent>,
    /// The first of them in the slot.
    block: usize,
}

impl LentRun {
    fn new(at: usize, lent: Arc<Lent>, block: usize) -> Self {
        let count = 1;
        Self {
            at,
            count,
            lent,
            block,
        }
    }

    fn goes_on(&self, at: usize, lent: &Arc<Lent>, block: usize) -> bool {
        let next = (self.at + self.count, self.block + self.count);
        Arc::ptr_eq(&self.lent, lent) && next == (at, block)
    }
}

enum Failure {
    Block(BlockError),
    Final(VolumeError),
}

impl From<BlockError> for Failure {
    fn from(error: BlockError) -> Self {
        Self::Block(error)
    }
}
