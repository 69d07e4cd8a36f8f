//! A slot that a write fills itself, before it is in the queue: the data needs no other way.
//!
//! Whoever may look at the slot holds a [`Lent`]: the record in the line, the entries in the
//! index, a reader that found one of them. The last one to let go gives the slot back, unless a
//! commit has adopted it: so no slot is used anew under a reader. After an adoption the slot is
//! a version's; a reader that found the reference before is kept safe by a view that it holds.

use std::io::IoSlice;
use std::sync::Arc;

use super::CacheError;
use super::stock::Stock;
use crate::base::sync::atomic::{AtomicBool, Ordering};
use crate::base::{BLOCK, Checksum, Place, checksum};
use crate::store::{BlockError, Pool};

/// A segment's data in a slot that is lent.
pub struct Lent {
    place: Place,
    /// One for each block of the segment, once it is filled.
    sums: Vec<Checksum>,
    /// Set once a commit leads readers to the slot: it is not given back any more.
    adopted: AtomicBool,
    stock: Arc<Stock>,
}

impl Lent {
    /// A slot that is lent already, with the checksums of what it holds.
    pub(super) fn new(place: Place, sums: Vec<Checksum>, stock: Arc<Stock>) -> Self {
        Self {
            place,
            sums,
            adopted: AtomicBool::new(false),
            stock,
        }
    }

    /// Writes a whole segment into the slot, and computes the checksums.
    ///
    /// # Errors
    /// Where the device fails. The slot is given back then.
    pub fn fill(mut self, pool: &Pool, data: &[u8]) -> Result<Arc<Self>, CacheError> {
        self.sums = data.chunks_exact(BLOCK).map(checksum).collect();
        let written = pool.write(self.place, 0, &[IoSlice::new(data)]);
        let written = written.map_err(CacheError::from);
        written.inspect_err(|error| self.stock.note_full(self.place, error))?;
        Ok(Arc::new(self))
    }

    /// Fills `buf`, whole blocks, from block `first` on, and checks them.
    ///
    /// # Errors
    /// Where the device fails or a block does not match. A mismatch may only mean that the slot
    /// was adopted and written over meanwhile: look again.
    pub fn read(&self, pool: &Pool, first: usize, buf: &mut [u8]) -> Result<(), BlockError> {
        pool.read(self.place, first, buf)
            .map_err(|source| BlockError::of_device(self.place, first, source))?;
        let blocks = buf.chunks_exact(BLOCK).zip(&self.sums[first..]);
        for (at, (data, stored)) in blocks.enumerate() {
            let computed = checksum(data);
            if computed != *stored {
                return Err(BlockError::Checksum {
                    place: self.place,
                    block: first + at,
                    stored: *stored,
                    computed,
                });
            }
        }
        Ok(())
    }

    /// The slot.
    #[must_use]
    pub fn place(&self) -> Place {
        self.place
    }

    /// The checksums of its blocks.
    #[must_use]
    pub fn sums(&self) -> &[Checksum] {
        &self.sums
    }

    /// A commit has made the slot a version's.
    pub(super) fn adopt(&self) {
        self.adopted.store(true, Ordering::Release);
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if !self.adopted.load(Ordering::Acquire) {
            self.stock.give_back(self.place);
        }
    }
}
