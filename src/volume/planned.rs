//! Reads for those who can have many under way without a thread for each: what is to be read from which
//! device, and whether that was right.

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use smallvec::{SmallVec, smallvec};

use super::read::{Image, find};
use super::volumes::Volumes;
use super::{Extent, Node};
use crate::base::{BLOCK, BLOCK_SIZE, Block, BlockMask, Checksum, checksum};
use crate::cache::Found;
use crate::device::{Device, ReadRing};
use crate::store::{Source, View};

/// How a range can be read.
pub enum Plan {
    /// Out of memory: [`Volumes::read`] waits for no device.
    Memory,
    /// By one read of a device.
    Device(PlannedRead),
    /// In a way that takes more than that: by [`Volumes::read`].
    Other,
}

/// A read of a device that is to be made. As long as it is kept, its slot is not given back; blocks in it
/// may be destaged over, which their checksums tell.
pub struct PlannedRead {
    node: Node,
    image: Image,
    sums: SmallVec<[Checksum; 16]>,
    device: Arc<dyn Device>,
    offset: u64,
    started: Instant,
    /// As long as it is there, the slot goes to nobody else.
    _view: View,
}

/// Planned reads that are under way, of one thread. Each has a token, which comes back with its end.
pub struct ReadQueue<T>(ReadRing<Queued<T>>);

struct Queued<T> {
    planned: PlannedRead,
    place: Range<usize>,
    token: T,
}

/// A planned read that is over.
pub struct EndedRead<T> {
    /// What the user gave.
    pub token: T,
    /// The memory that was lent.
    pub bytes: Vec<u8>,
    /// Whether what the node has there is in it now. Where not, a destage or a rollback may have come in
    /// between, or it can't be read: [`Volumes::read`] finds out.
    pub is_right: bool,
}

impl<T> ReadQueue<T> {
    /// For so many reads at a time.
    ///
    /// # Errors
    /// Where the kernel has nothing for that.
    pub fn new(depth: u32) -> io::Result<Self> {
        ReadRing::new(depth).map(Self)
    }

    /// Whether reads are under way, or have ended and were not taken.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.0.is_busy()
    }

    /// Reads into a part of `bytes`; it begins with the next [`wait`](Self::wait).
    ///
    /// # Errors
    /// The token, where it can't be read so.
    pub fn start(
        &mut self,
        planned: PlannedRead,
        bytes: Vec<u8>,
        place: Range<usize>,
        token: T,
    ) -> Result<(), T> {
        let (device, offset) = (Arc::clone(&planned.device), planned.offset);
        let queued = Queued {
            planned,
            place: place.clone(),
            token,
        };
        let started = self.0.start(&device, offset, bytes, place, queued);
        started.map_err(|(_, queued)| queued.token)
    }

    /// Begins what was started, and waits until something has ended, or until `socket` has something to
    /// be received or is at its end. It may return without either. Whether the socket has something.
    ///
    /// # Errors
    /// Where no read will end any more: what is left is to be [given up](Self::abandon).
    pub fn wait(&mut self, socket: BorrowedFd<'_>) -> io::Result<bool> {
        self.0.wait(socket)
    }

    /// Waits until nothing is under way.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_for_all(&mut self) -> io::Result<()> {
        self.0.wait_for_all()
    }

    /// One that has ended.
    pub fn next_ended(&mut self, volumes: &Volumes) -> Option<EndedRead<T>> {
        let ended = self.0.next_ended()?;
        let Queued {
            planned,
            place,
            token,
        } = ended.token;
        Some(EndedRead {
            is_right: ended.is_read && volumes.is_as_planned(&planned, &ended.bytes[place]),
            token,
            bytes: ended.bytes,
        })
    }

    /// After a failure: gives up what is under way. Returns the tokens.
    pub fn abandon(&mut self) -> Vec<T> {
        let left = self.0.abandon().into_iter();
        left.map(|queued| queued.token).collect()
    }
}

impl Volumes {
    /// How a range of a node can be read just now. It waits for no device but where the catalog has to.
    #[must_use]
    pub fn plan_read(&self, node: Node, range: Extent) -> Plan {
        self.try_plan(node, range).unwrap_or(Plan::Other)
    }

    fn try_plan(&self, node: Node, range: Extent) -> Option<Plan> {
        let started = Instant::now();
        let (image, size) = self.image(node).ok()?;
        let end = range.offset.checked_add(range.len)?;
        let is_whole =
            range.offset.is_multiple_of(BLOCK_SIZE) && range.len.is_multiple_of(BLOCK_SIZE);
        let first = Block::holding(range.offset);
        let (segment, start) = self.geometry.locate(first);
        let count = usize::try_from(range.len / BLOCK_SIZE).ok()?;
        if end > size || !is_whole || count == 0 || start + count > self.geometry.blocks() {
            return None;
        }
        // The index first, as for any read.
        let queued = find(&image, first, count as u64);
        if !queued.is_empty() {
            let is_memory = |found: &Found| matches!(found, Found::Data(_) | Found::Zero);
            let is_all = queued.len() == count && queued.iter().all(|(_, found)| is_memory(found));
            return is_all.then_some(Plan::Memory);
        }
        let view = self.cache.catalog().view();
        let wanted = BlockMask::range(start, start + count);
        let pieces = view
            .resolve(image.map.id, segment, image.at(), wanted)
            .ok()?;
        let [(_, source)] = pieces[..] else {
            return None;
        };
        let extent = match source {
            Source::Zero => return Some(Plan::Memory),
            Source::Below => return image.map.origin.is_none().then_some(Plan::Memory),
            Source::Data(extent) => extent,
        };
        let (place, at) = (extent.place, extent.index(start));
        let mut sums: SmallVec<[Checksum; 16]> = smallvec![Checksum(0); count];
        let on_device = self.geometry.slot_block(place.slot) + at as u64;
        view.checksums(place.device, on_device, &mut sums).ok()?;
        let (device, offset) = self.cache.pool().device_of(place, at..at + count).ok()?;
        Some(Plan::Device(PlannedRead {
            node,
            image,
            sums,
            device,
            offset,
            started,
            _view: view,
        }))
    }

    fn is_as_planned(&self, planned: &PlannedRead, data: &[u8]) -> bool {
        let blocks = data.chunks_exact(BLOCK).zip(&planned.sums);
        let is_right = data.len() == planned.sums.len() * BLOCK
            && blocks.into_iter().all(|(data, sum)| checksum(data) == *sum);
        // A rollback may have taken the map away, and its versions with it.
        let is_same = |(image, _): (Image, u64)| Arc::ptr_eq(&image.map, &planned.image.map);
        if !is_right || !self.image(planned.node).is_ok_and(is_same) {
            return false;
        }
        let missed = planned.sums.len() as u64;
        self.metrics.cache_misses.fetch_add(missed, Relaxed);
        let took = planned.started.elapsed();
        self.metrics.read.record(true, data.len() as u64, took);
        true
    }
}
