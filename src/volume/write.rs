//! The way of a write: whole blocks go straight to the cache; the ragged ends of others are read,
//! completed, and written on the condition that nothing changed them meanwhile.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use smallvec::{SmallVec, smallvec};

use super::namespace::Disk;
use super::read::Image;
use super::volumes::{MAX_DISK_SIZE, Result, Volumes};
use super::{Extent, VolumeError};
use crate::base::{BLOCK, BLOCK_SIZE, Block, DiskId, Epoch, Seq, now};
use crate::cache::{Append, CacheError, MapState, Part, ReliesOn};
use crate::ondisk::journal::Op;

/// The blocks at the ends of a range that it covers only in part, as they were when looked at.
struct Ends {
    map: Arc<MapState>,
    stamps: SmallVec<[(Block, Seq); 2]>,
}

impl Ends {
    /// Notes the stamps before anything is read.
    fn of(disk: &Disk, range: Extent) -> Self {
        let map = disk.map.read().clone();
        let end = range.offset + range.len;
        let ragged = [range.offset, end]
            .into_iter()
            .filter(|at| at % BLOCK_SIZE != 0);
        let mut stamps = SmallVec::new();
        for block in ragged.map(Block::holding) {
            if stamps.last().is_none_or(|(last, _)| *last != block) {
                stamps.push((block, map.stamp(block)));
            }
        }
        Self { map, stamps }
    }

    fn image(&self) -> Image {
        Image {
            map: self.map.clone(),
            epoch: Epoch::LIVE,
        }
    }

    fn relies_on(self, size: Option<u64>) -> Option<ReliesOn> {
        Some(ReliesOn {
            map: self.map.id,
            stamps: self.stamps,
            size,
        })
    }
}

impl Volumes {
    /// Writes all of `data`, growing the disk where it ends past its size. Data of up to
    /// 1 MiB goes in as one record: a marker falls before or after all of it.
    ///
    /// # Errors
    /// Where the pool is full, the disk would be too big or is gone, or the store has halted.
    pub fn write(&self, disk: DiskId, offset: u64, data: &[u8]) -> Result<()> {
        let started = Instant::now();
        let done = self.write_pieces(disk, offset, data);
        self.metrics
            .write
            .record(done.is_ok(), data.len() as u64, started.elapsed());
        done
    }

    fn write_pieces(&self, id: DiskId, offset: u64, data: &[u8]) -> Result<()> {
        let end = offset
            .checked_add(data.len() as u64)
            .filter(|end| *end <= MAX_DISK_SIZE);
        end.ok_or(VolumeError::TooBig {
            size: offset.saturating_add(data.len() as u64),
            max: MAX_DISK_SIZE,
        })?;
        let disk = self.disk(id)?;
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let most = (self.largest_write - at % BLOCK_SIZE) as usize;
            let (piece, more) = rest.split_at(rest.len().min(most));
            self.write_piece(&disk, at, piece)?;
            at += piece.len() as u64;
            rest = more;
        }
        disk.modified.store(now().0, Relaxed);
        Ok(())
    }

    fn write_piece(&self, disk: &Disk, offset: u64, data: &[u8]) -> Result<()> {
        let end = offset + data.len() as u64;
        if offset.is_multiple_of(BLOCK_SIZE) && data.len().is_multiple_of(BLOCK) {
            let frames = self.cache.hold(data)?;
            let part = Part::Write {
                block: Block::holding(offset),
                frames,
            };
            return self.append(&Append {
                end: Some(end),
                ..Append::of(disk.id, smallvec![part])
            });
        }
        self.until_unchanged(|| {
            let ends = Ends::of(
                disk,
                Extent {
                    offset,
                    len: data.len() as u64,
                },
            );
            let part = self.completed(&ends.image(), offset, data)?;
            let append = Append {
                end: Some(end),
                ..Append::of(disk.id, smallvec![part])
            };
            Ok(Some(Append {
                relies_on: ends.relies_on(None),
                ..append
            }))
        })
    }

    /// A write of whole blocks that holds `data` at `offset`, its ends completed with what is
    /// there.
    fn completed(&self, image: &Image, offset: u64, data: &[u8]) -> Result<Part> {
        let skip = (offset % BLOCK_SIZE) as usize;
        let block = Block::holding(offset);
        let mut whole = vec![0; (skip + data.len()).next_multiple_of(BLOCK)];
        let last = whole.len() - BLOCK;
        if skip > 0 || last == 0 {
            self.read_image(image, block.byte(), &mut whole[..BLOCK])?;
        }
        if last > 0 && !(skip + data.len()).is_multiple_of(BLOCK) {
            self.read_image(image, block.byte() + last as u64, &mut whole[last..])?;
        }
        whole[skip..skip + data.len()].copy_from_slice(data);
        Ok(Part::Write {
            block,
            frames: self.cache.hold(&whole)?,
        })
    }

    /// Appends what `build` makes, again and again until nothing that it read has changed before
    /// it was appended. Each turn that is lost is another writer's that was won.
    fn until_unchanged(&self, build: impl Fn() -> Result<Option<Append>>) -> Result<()> {
        loop {
            let Some(append) = build()? else {
                return Ok(());
            };
            match self.cache.append(&append) {
                Ok(_) => return Ok(()),
                Err(CacheError::Stale) => std::thread::yield_now(),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn append(&self, append: &Append) -> Result<()> {
        self.cache.append(append)?;
        Ok(())
    }

    /// Makes a range read as zeros and gives its space back; never grows the disk.
    ///
    /// # Errors
    /// Where the disk is gone or the store has halted; where the pool is full, only if an end of
    /// the range lies inside a block.
    pub fn discard(&self, disk: DiskId, range: Extent) -> Result<()> {
        let started = Instant::now();
        let state = self.disk(disk)?;
        let asked = range.offset.saturating_add(range.len);
        let done = self.zero(&state, range.offset, None, |size| {
            // What lies past the size is zero already: the last block goes whole.
            if asked >= size {
                size.next_multiple_of(BLOCK_SIZE)
            } else {
                asked
            }
        });
        let end = asked.min(state.size.load(Relaxed));
        state.modified.store(now().0, Relaxed);
        self.metrics.discard.record(
            done.is_ok(),
            end.saturating_sub(range.offset),
            started.elapsed(),
        );
        done
    }

    /// Zeroes from `from` to what `to` says for the disk's size, then enters `then`. Should the
    /// size change meanwhile it looks again: what a write has just added is neither forgotten
    /// behind the new end nor taken for what lay past the old one.
    fn zero(
        &self,
        disk: &Disk,
        from: u64,
        then: Option<&Op>,
        to: impl Fn(u64) -> u64,
    ) -> Result<()> {
        self.until_unchanged(|| {
            let size = disk.size.load(Relaxed);
            let to = to(size);
            if from >= to {
                return Ok(None);
            }
            let ends = Ends::of(
                disk,
                Extent {
                    offset: from,
                    len: to - from,
                },
            );
            let (first, last) = (from.div_ceil(BLOCK_SIZE), to / BLOCK_SIZE);
            let mut parts = SmallVec::new();
            let zeros = [0; BLOCK];
            if first > last {
                parts.push(self.completed(&ends.image(), from, &zeros[..(to - from) as usize])?);
            } else {
                let head = (first * BLOCK_SIZE - from) as usize;
                let tail = (to - last * BLOCK_SIZE) as usize;
                if head > 0 {
                    parts.push(self.completed(&ends.image(), from, &zeros[..head])?);
                }
                if last > first {
                    parts.push(Part::Zero {
                        block: Block(first),
                        count: last - first,
                    });
                }
                if tail > 0 {
                    parts.push(self.completed(&ends.image(), last * BLOCK_SIZE, &zeros[..tail])?);
                }
            }
            let append = Append {
                then: then.cloned(),
                ..Append::of(disk.id, parts)
            };
            Ok(Some(Append {
                relies_on: ends.relies_on(Some(size)),
                ..append
            }))
        })
    }

    /// Sets a disk's size. What is cut off is gone, and reads as zeros should the disk grow again.
    pub(crate) fn set_size(&self, disk: &Disk, size: u64) -> Result<()> {
        if size > MAX_DISK_SIZE {
            return Err(VolumeError::TooBig {
                size,
                max: MAX_DISK_SIZE,
            });
        }
        let op = Op::Resize {
            disk: disk.id,
            size,
        };
        loop {
            let old = disk.size.load(Relaxed);
            if size < old {
                self.zero(disk, size, Some(&op), |old| {
                    old.next_multiple_of(BLOCK_SIZE)
                })?;
                disk.modified.store(now().0, Relaxed);
                return Ok(());
            }
            if size == old || self.grow(disk, size)? {
                return Ok(());
            }
        }
    }

    /// Sets a disk's size where it is smaller; says whether it was.
    fn grow(&self, disk: &Disk, size: u64) -> Result<bool> {
        let op = Op::Resize {
            disk: disk.id,
            size,
        };
        let grown = std::cell::Cell::new(true);
        let entered = self.commit_op(|_, lines| {
            // Under the lock: a write may have grown it further, and must not be cut off.
            let line = lines.line(disk.id);
            if line.is_some_and(|(_, _, now)| now >= size) {
                grown.set(false);
                return Err(VolumeError::Invalid("it is larger already".to_owned()));
            }
            Ok(op.clone())
        });
        match entered {
            Ok(_) => Ok(true),
            Err(_) if !grown.get() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// `fallocate` without punching: grows the disk if `grow` and the range ends past its size.
    /// Space is thin and stays so, but where the pool could not take the range now, it says so.
    ///
    /// # Errors
    /// [`VolumeError::NoSpace`] where the pool has too little; others as for a write.
    pub fn allocate(&self, disk: DiskId, range: Extent, grow: bool) -> Result<()> {
        let state = self.disk(disk)?;
        let end = range.offset.saturating_add(range.len);
        if end > MAX_DISK_SIZE {
            return Err(VolumeError::TooBig {
                size: end,
                max: MAX_DISK_SIZE,
            });
        }
        let segment = self.geometry.segment_bytes();
        let needed = end.div_ceil(segment) - range.offset / segment;
        let available = self.cache.usage().available;
        if needed > available {
            let map = state.map.read().id;
            let view = self.cache.catalog().view();
            let (from, to) = (range.offset / segment, end.div_ceil(segment));
            let (from, to) = (crate::base::SegmentNo(from), crate::base::SegmentNo(to));
            let mapped =
                view.mapped_segments(map, crate::store::At::Live, from, to, needed as usize)?;
            let needed = needed - mapped.len() as u64;
            if needed > available {
                return Err(VolumeError::NoSpace { needed, available });
            }
        }
        if grow && end > state.size.load(Relaxed) {
            self.grow(&state, end)?;
        }
        Ok(())
    }
}
