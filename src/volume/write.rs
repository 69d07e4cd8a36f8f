//! The way of a write: whole blocks go straight to the cache; the ragged ends of others are read,
//! completed, and written on the condition that nothing changed them meanwhile.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use smallvec::{SmallVec, smallvec};

use super::namespace::Disk;
use super::read::Image;
use super::volumes::{MAX_DISK_SIZE, Result, Volumes};
use super::{Extent, VolumeError};
use crate::base::sync::thread;
use crate::base::{BLOCK, BLOCK_SIZE, Block, DiskId, Epoch, SegmentNo, Seq, now};
use crate::cache::{
    Append, CacheError, Content, MapState, Part, ReliesOn, in_a_hurry, with_space_deadline,
};
use crate::ondisk::journal::Op;
use crate::store::At;

/// Blocks as they were when looked at: mostly those at the ends of a range that it covers in part.
pub(super) struct Stamps {
    map: Arc<MapState>,
    stamps: SmallVec<[(Block, Seq); 2]>,
}

impl Stamps {
    /// Notes the stamps of all blocks of a range before anything is read.
    fn of_all(disk: &Disk, range: Extent) -> Self {
        let map = disk.map.read().clone();
        let end = (range.offset + range.len).div_ceil(BLOCK_SIZE);
        let blocks = (Block::holding(range.offset).0..end).map(Block);
        let stamps = blocks.map(|block| (block, map.stamp(block))).collect();
        Self { map, stamps }
    }

    /// Notes the stamps of the blocks at the ends of a range that it covers only in part.
    pub(super) fn of_ends(disk: &Disk, range: Extent) -> Self {
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

    pub(super) fn image(&self) -> Image {
        Image {
            map: self.map.clone(),
            epoch: Epoch::LIVE,
        }
    }

    pub(super) fn relies_on(self) -> ReliesOn {
        ReliesOn {
            map: self.map.id,
            stamps: self.stamps,
            size: None,
        }
    }
}

impl Volumes {
    /// Whether a write of so many bytes may have to wait for room.
    #[must_use]
    pub fn is_crowded(&self, len: usize) -> bool {
        self.cache.is_crowded(len)
    }

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

    /// As [`write`](Self::write), for a thread that others wait for: where the host has no space,
    /// and this would have to wait for some, it fails at once.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_in_a_hurry(&self, disk: DiskId, offset: u64, data: &[u8]) -> Result<()> {
        in_a_hurry(|| self.write(disk, offset, data))
    }

    /// Does something that can be asked for again: what still waits for space then, while the store has
    /// patience, fails with [`VolumeError::NoSpaceYet`]. Without a time nothing waits for space.
    pub fn with_space_deadline<T>(deadline: Option<Instant>, something: impl FnOnce() -> T) -> T {
        with_space_deadline(deadline, something)
    }

    /// Writes `new` where there is `expected`, both of one length, as one step among all that write the
    /// disk. Where there is something else, nothing is written, and it says at which byte that first
    /// differs.
    ///
    /// # Errors
    /// As [`write`](Self::write); also where what is there can't be read.
    pub fn compare_and_write(
        &self,
        disk: DiskId,
        offset: u64,
        expected: &[u8],
        new: &[u8],
    ) -> Result<Option<usize>> {
        let started = Instant::now();
        let done = self.compare_and_append(disk, offset, expected, new);
        self.metrics
            .write
            .record(done.is_ok(), new.len() as u64, started.elapsed());
        done
    }

    fn compare_and_append(
        &self,
        disk: DiskId,
        offset: u64,
        expected: &[u8],
        new: &[u8],
    ) -> Result<Option<usize>> {
        debug_assert_eq!(expected.len(), new.len());
        let disk = self.disk(disk)?;
        let range = Extent {
            offset,
            len: new.len() as u64,
        };
        let mut found = vec![0; expected.len()];
        loop {
            let before = Stamps::of_all(&disk, range);
            self.read_image(&before.image(), offset, &mut found)?;
            let differs = found.iter().zip(expected).position(|(a, b)| a != b);
            if differs.is_some() {
                return Ok(differs);
            }
            let part = self.completed(&before.image(), offset, new)?;
            let append = Append {
                end: Some(offset + range.len),
                relies_on: Some(before.relies_on()),
                ..Append::of(disk.id, smallvec![part])
            };
            if self.append_unless_stale(&append)? {
                disk.modified.store(now().0, Relaxed);
                return Ok(None);
            }
            thread::yield_now();
        }
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
        if let Some(lent) = self.fill_lent(offset, data)? {
            return self.write_around(disk, offset, data, lent);
        }
        if offset.is_multiple_of(BLOCK_SIZE) && data.len().is_multiple_of(BLOCK) {
            let frames = self.cache.hold(data)?;
            let part = Part::Write {
                block: Block::holding(offset),
                content: Content::of(frames),
            };
            return self.append(&Append {
                end: Some(end),
                ..Append::of(disk.id, smallvec![part])
            });
        }
        self.until_unchanged(|| {
            let ends = Stamps::of_ends(
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
            Ok(Append {
                relies_on: Some(ends.relies_on()),
                ..append
            })
        })
    }

    /// A write of whole blocks that holds `data` at `offset`, its ends completed with what is
    /// there.
    fn completed(&self, image: &Image, offset: u64, data: &[u8]) -> Result<Part> {
        let whole = self.whole_blocks(image, offset, data)?;
        let frames = self.cache.hold(&whole)?;
        Ok(Part::Write {
            block: Block::holding(offset),
            content: Content::of(frames),
        })
    }

    /// The whole blocks that `data` touches, their ends completed with what is there.
    pub(super) fn whole_blocks<'a>(
        &self,
        image: &Image,
        offset: u64,
        data: &'a [u8],
    ) -> Result<Cow<'a, [u8]>> {
        let skip = (offset % BLOCK_SIZE) as usize;
        if skip == 0 && data.len().is_multiple_of(BLOCK) {
            return Ok(Cow::Borrowed(data));
        }
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
        Ok(Cow::Owned(whole))
    }

    /// Appends what `build` makes, again and again until nothing that it read has changed before
    /// it was appended. Each turn that is lost is another writer's that was won.
    pub(super) fn until_unchanged(&self, build: impl Fn() -> Result<Append>) -> Result<()> {
        while !self.append_unless_stale(&build()?)? {
            thread::yield_now();
        }
        Ok(())
    }

    pub(super) fn append(&self, append: &Append) -> Result<()> {
        self.cache.append(append)?;
        Ok(())
    }

    /// Makes a range read as zeros and gives its space back; never grows the disk. A snapshot, and
    /// what a crash leaves, has all of it or none.
    ///
    /// # Errors
    /// Where the disk is gone or the store has halted; where the pool is full, only if an end of
    /// the range lies inside a block.
    pub fn discard(&self, disk: DiskId, range: Extent) -> Result<()> {
        let started = Instant::now();
        let state = self.disk(disk)?;
        let done = loop {
            match self.discard_once(&state, range) {
                Ok(false) => thread::yield_now(),
                Ok(true) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        state.modified.store(now().0, Relaxed);
        let metrics = &self.metrics.discard;
        metrics.record(done.is_ok(), range.len, started.elapsed());
        done
    }

    /// Discards unless the disk changes meanwhile; whether it did not.
    fn discard_once(&self, disk: &Disk, range: Extent) -> Result<bool> {
        let size = disk.size.load(Relaxed);
        let end = range.offset.saturating_add(range.len).min(size);
        // What lies past the size is zero already: the last block goes whole.
        let end = if end == size {
            size.next_multiple_of(BLOCK_SIZE)
        } else {
            end
        };
        if range.offset >= end {
            return Ok(true);
        }
        self.append_unless_stale(&self.zeros(disk, range.offset, end, size)?)
    }

    /// Appends unless what it relies on has changed; whether it was appended.
    fn append_unless_stale(&self, append: &Append) -> Result<bool> {
        match self.cache.append(append) {
            Ok(_) => Ok(true),
            Err(CacheError::Stale) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// What zeroes `from..to`, on the condition that the disk still has this size.
    fn zeros(&self, disk: &Disk, from: u64, to: u64, size: u64) -> Result<Append> {
        let (offset, len) = (from, to - from);
        let ends = Stamps::of_ends(disk, Extent { offset, len });
        let (first, last) = (from.div_ceil(BLOCK_SIZE), to / BLOCK_SIZE);
        let mut parts = SmallVec::new();
        let zeros = [0; BLOCK];
        if first > last {
            parts.push(self.completed(&ends.image(), from, &zeros[..len as usize])?);
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
        let relies_on = Some(ReliesOn {
            size: Some(size),
            ..ends.relies_on()
        });
        Ok(Append {
            relies_on,
            ..Append::of(disk.id, parts)
        })
    }

    /// Sets a disk's size. What is cut off is gone, and reads as zeros should the disk grow again.
    pub(crate) fn set_size(&self, disk: &Disk, size: u64) -> Result<()> {
        let max = MAX_DISK_SIZE;
        if size > max {
            return Err(VolumeError::TooBig { size, max });
        }
        loop {
            let old = disk.size.load(Relaxed);
            let set = match size.cmp(&old) {
                Ordering::Less => self.shrink(disk, old, size)?,
                Ordering::Equal => true,
                Ordering::Greater => self.grow(disk, old, size)?,
            };
            if set {
                disk.modified.store(now().0, Relaxed);
                return Ok(());
            }
        }
    }

    /// Shrinks the disk if it still has the size `old`; whether it had.
    fn shrink(&self, disk: &Disk, old: u64, size: u64) -> Result<bool> {
        let cut = self.zeros(disk, size, old.next_multiple_of(BLOCK_SIZE), old)?;
        let resize = Op::Resize {
            disk: disk.id,
            size,
        };
        let append = Append {
            then: Some(resize),
            ..cut
        };
        self.append_unless_stale(&append)
    }

    /// Grows the disk if it still has the size `old`; whether it had.
    fn grow(&self, disk: &Disk, old: u64, size: u64) -> Result<bool> {
        let raced = std::cell::Cell::new(false);
        let entered = self.commit_op(|_, lines| {
            let now = lines.line(disk.id).map(|(_, _, size)| size);
            raced.set(now.is_some_and(|now| now != old));
            match now {
                Some(now) if now == old => Ok(Op::Resize {
                    disk: disk.id,
                    size,
                }),
                _ => Err(VolumeError::NotFound("the disk".to_owned())),
            }
        });
        match entered {
            Ok(_) => Ok(true),
            Err(_) if raced.get() => Ok(false),
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
        // What is queued may be promised slots for the very range; with the queue moved the map knows.
        if self.lacks_slots(&state, range)?.is_some() {
            self.cache.settle_space()?;
            if let Some((needed, available)) = self.lacks_slots(&state, range)? {
                return Err(VolumeError::NoSpace { needed, available });
            }
        }
        if grow && end > state.size.load(Relaxed) {
            self.set_size(&state, end)?;
        }
        Ok(())
    }

    /// The slots that a range needs beside those of its map, and those that there are, where that is
    /// less.
    fn lacks_slots(&self, state: &Disk, range: Extent) -> Result<Option<(u64, u64)>> {
        let segment = self.geometry.segment_bytes();
        let from = range.offset / segment;
        let to = range.offset.saturating_add(range.len).div_ceil(segment);
        let (all, available) = (to - from, self.cache.usage().available);
        if all <= available {
            return Ok(None);
        }
        let map = state.map.read().id;
        let view = self.cache.catalog().view();
        let (from, to) = (SegmentNo(from), SegmentNo(to));
        let mapped = view.mapped_segments(map, At::Live, from, to, all as usize)?;
        let needed = all - mapped.len() as u64;
        Ok((needed > available).then_some((needed, available)))
    }
}
