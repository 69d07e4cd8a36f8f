//! Blocks on their way from one place in the pool to another.
//!
//! They are read before anything is planned that relies on them: what a device does not give, or
//! gives damaged, stays where it is, and so does all that was to be moved with it. Copying it as it
//! came would lose what the next attempt may read well (a cable, a controller), and to stop the
//! store for it would turn one bad sector into a store that can't be written.

use std::ops::Range;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::super::CacheError;
use super::work::Data;
use crate::base::{BLOCK, BlockMask, Checksum, Place, checksum};
use crate::device::AlignedBuf;
use crate::ondisk::Extent;
use crate::store::{BlockError, Pool, PoolError, View, read_blocks};

/// Blocks of a segment that were read, with their indexes in it.
#[derive(Default)]
pub(super) struct Moving(Vec<(usize, Data)>);

/// Blocks that were read ahead of need, many at a time: one by one a batch would wait for each. Nobody
/// has checked them.
#[derive(Default)]
pub(super) struct Fetched(FxHashMap<(Place, usize), (Arc<AlignedBuf>, usize)>);

impl Fetched {
    /// Reads these blocks. What can't be read is not among them.
    pub fn read(pool: &Pool, wanted: &[(Extent, BlockMask)]) -> Result<Self, CacheError> {
        if wanted.is_empty() {
            return Ok(Self::default());
        }
        let mut runs = Vec::new();
        for (from, blocks) in wanted {
            let indexes = from.indexes(blocks);
            runs.extend(indexes.runs().map(|run| (from.place, run.start, run.len())));
        }
        let count: usize = runs.iter().map(|(_, _, len)| len).sum();
        let mut buf = AlignedBuf::new(count * BLOCK);
        let mut rest = &mut buf[..];
        let mut reads = Vec::with_capacity(runs.len());
        for (place, first, len) in &runs {
            let (part, others) = rest.split_at_mut(len * BLOCK);
            reads.push((*place, *first, part));
            rest = others;
        }
        let made = pool.read_each(reads)?;
        let (buf, mut at) = (Arc::new(buf), 0);
        let mut fetched = Self::default();
        for ((place, first, len), made) in runs.into_iter().zip(made) {
            for block in 0..if made { len } else { 0 } {
                let found = (buf.clone(), at + block);
                fetched.0.insert((place, first + block), found);
            }
            at += len;
        }
        Ok(fetched)
    }

    /// A run of blocks, if all of them are here and are what their checksums say.
    fn run(
        &self,
        view: &View,
        (place, first): (Place, usize),
        blocks: Range<usize>,
    ) -> Result<Option<Vec<(usize, Data)>>, CacheError> {
        let found = (first..first + blocks.len()).map(|block| self.0.get(&(place, block)));
        let Some(found) = found.collect::<Option<Vec<_>>>() else {
            return Ok(None);
        };
        let mut sums = vec![Checksum(0); blocks.len()];
        let at = view.geometry().slot_block(place.slot) + first as u64;
        view.checksums(place.device, at, &mut sums)?;
        let copies = blocks.zip(found.into_iter().zip(sums));
        let copies = copies.map(|(block, ((buf, at), sum))| {
            let is_right = checksum(&buf[at * BLOCK..][..BLOCK]) == sum;
            is_right.then(|| (block, Data::Copy(buf.clone(), *at, sum)))
        });
        Ok(copies.collect())
    }
}

impl Moving {
    /// Reads blocks, and checks them; those that were fetched need not be read.
    pub fn read(
        &mut self,
        (pool, view, fetched): (&Pool, &View, &Fetched),
        from: &Extent,
        blocks: &BlockMask,
    ) -> Result<(), CacheError> {
        for run in blocks.runs() {
            let first = (from.place, from.index(run.start));
            if let Some(found) = fetched.run(view, first, run.clone())? {
                self.0.extend(found);
                continue;
            }
            let mut buf = AlignedBuf::new(run.len() * BLOCK);
            let sums = read_blocks(pool, view, from.place, from.index(run.start), &mut buf)?;
            let buf = Arc::new(buf);
            let blocks = run.zip(sums).enumerate();
            let copy = |(at, (block, sum))| (block, Data::Copy(buf.clone(), at, sum));
            self.0.extend(blocks.map(copy));
        }
        Ok(())
    }

    /// Reads blocks, and takes them for what they are.
    pub fn read_as_is(
        &mut self,
        pool: &Pool,
        from: &Extent,
        blocks: &BlockMask,
    ) -> Result<(), CacheError> {
        for block in blocks.iter() {
            let mut buf = AlignedBuf::new(BLOCK);
            pool.read(from.place, from.index(block), &mut buf)?;
            let sum = checksum(&buf);
            self.0.push((block, Data::Copy(Arc::new(buf), 0, sum)));
        }
        Ok(())
    }

    pub fn into_blocks(self) -> Vec<(usize, Data)> {
        self.0
    }
}

/// What was read; nothing where blocks can't be read or are damaged, which the log says then.
pub(super) fn readable<T>(
    pool: &Pool,
    read: Result<T, CacheError>,
) -> Result<Option<T>, CacheError> {
    let error = match read {
        Ok(read) => return Ok(Some(read)),
        Err(error) => error,
    };
    let at = match &error {
        CacheError::Block(block @ (BlockError::Device { .. } | BlockError::Checksum { .. })) => {
            block.at()
        }
        CacheError::Pool(PoolError::Device(_)) => None,
        _ => return Err(error),
    };
    pool.complain(
        at,
        "left where it is, and not merged with what lies over it",
        &error,
    );
    Ok(None)
}
