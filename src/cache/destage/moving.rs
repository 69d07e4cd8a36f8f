//! Blocks on their way from one place in the pool to another.
//!
//! They are read before anything is planned that relies on them: what a device does not give, or
//! gives damaged, stays where it is, and so does all that was to be moved with it. Copying it as it
//! came would lose what the next attempt may read well (a cable, a controller), and to stop the
//! store for it would turn one bad sector into a store that can't be written.

use std::sync::Arc;

use super::super::CacheError;
use super::fetched::Fetched;
use super::work::Data;
use crate::base::{BLOCK, BlockMask, checksum};
use crate::device::AlignedBuf;
use crate::ondisk::Extent;
use crate::store::{BlockError, Pool, PoolError, View, read_blocks};

/// Blocks of a segment that were read, with their indexes in it.
#[derive(Default)]
pub(super) struct Moving(Vec<(usize, Data)>);

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
