//! The pool: the open devices, and segments on them by place.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::complaints::Complaints;
use crate::base::sync::{spawn_scoped, thread};
use crate::base::{BLOCK, BLOCK_SIZE, DeviceNo, Geometry, Place, Slot};
use crate::device::{Device, DeviceError, HostSpace, Read, Write};
use crate::ondisk::{
    DATA_START, DeviceRecord, FOREIGN_PROBE, RawSuper, SuperError, Superblock, Uuid, foreign,
    slot_start,
};

/// What can go wrong with the pool.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PoolError {
    /// A device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A device is not what it should be.
    #[error("can't use {device}: {source}")]
    Super {
        /// The device's name.
        device: String,
        /// What is wrong with it.
        source: SuperError,
    },
    /// A device to be made holds something already.
    #[error(
        "{device} holds {what}: if that can go, ask again with --force; everything on it will \
         be lost"
    )]
    InUse {
        /// The device's name.
        device: String,
        /// What was found there.
        what: &'static str,
    },
    /// A device to be made belongs to a store.
    #[error(
        "{device} is a snapmark device already: mount the store that it belongs to, or, if that \
         store is gone, overwrite its first 4 KiB with zeros"
    )]
    Ours {
        /// The device's name.
        device: String,
    },
    /// A device to be made is too small for what the record says.
    #[error("{device} has {len} bytes, too few for {slots} segments of {segment_bytes} bytes")]
    Small {
        /// The device's name.
        device: String,
        /// Bytes that it has.
        len: u64,
        /// Slots asked for.
        slots: u64,
        /// Bytes in a segment.
        segment_bytes: u64,
    },
    /// A device of this number is attached already.
    #[error("device {device} is attached already, as {name}")]
    Attached {
        /// The number.
        device: DeviceNo,
        /// The name of the one that is there.
        name: String,
    },
    /// No device of this number is attached.
    #[error("device {0} of the pool is not attached")]
    Missing(DeviceNo),
    /// The blocks are not all within a segment of the device.
    #[error(
        "blocks {first}..{end} of {place} do not exist: the device has {slots} segments of \
         {blocks} blocks"
    )]
    Outside {
        /// The segment.
        place: Place,
        /// The first block asked for, in the segment.
        first: usize,
        /// The block after the last one.
        end: usize,
        /// Segments of the device.
        slots: u64,
        /// Blocks in a segment.
        blocks: usize,
    },
    /// A buffer is not made of whole blocks.
    #[error("{0} bytes are not a whole number of blocks")]
    Partial(u64),
}

/// Whether [`format()`] may overwrite what another program wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// Refuse where anything but zeros stands at the start: for files, whose content no mark
    /// tells.
    IfEmpty,
    /// Refuse where something is recognised.
    No,
    /// Overwrite all but another snapmark device.
    Yes,
}

/// Makes a device one of a store: writes its superblock, durably.
///
/// A device that carries a superblock of any store is refused whatever `force` says, with one
/// exception: what an interrupted addition of this very device left behind, that is a superblock
/// of this store with this number, is overwritten. So a number must not be given out twice.
///
/// # Errors
/// Where it holds something, is too small, or fails.
pub fn format(
    device: &dyn Device,
    store: Uuid,
    record: &DeviceRecord,
    geometry: Geometry,
    force: Force,
) -> Result<(), PoolError> {
    let superblock = formattable(device, store, record, geometry, force)?;
    device.write_at(&[IoSlice::new(&superblock.encode())], 0)?;
    device.sync()?;
    Ok(())
}

/// The superblock that [`format()`] would write. Changes nothing.
///
/// # Errors
/// Where [`format()`] would refuse.
pub fn formattable(
    device: &dyn Device,
    store: Uuid,
    record: &DeviceRecord,
    geometry: Geometry,
    force: Force,
) -> Result<Superblock, PoolError> {
    let superblock = Superblock::of(store, record, geometry);
    let fits = superblock_of(&superblock.encode(), device.len());
    if fits.is_err() {
        return Err(PoolError::Small {
            device: device.name().to_owned(),
            len: device.len(),
            slots: record.slots,
            segment_bytes: geometry.segment_bytes(),
        });
    }
    refuse_in_use(device, &superblock, force)?;
    Ok(superblock)
}

fn superblock_of(bytes: &[u8; BLOCK], len: u64) -> Result<Superblock, SuperError> {
    RawSuper::decode(bytes)?.validate(len)
}

fn refuse_in_use(device: &dyn Device, new: &Superblock, force: Force) -> Result<(), PoolError> {
    let len = usize::try_from(device.len()).map_or(FOREIGN_PROBE, |len| len.min(FOREIGN_PROBE));
    let mut start = vec![0; len];
    device.read_at(&mut start, 0)?;
    let name = || device.name().to_owned();
    if RawSuper::is_ours(&start) {
        let old = start
            .first_chunk()
            .and_then(|block| superblock_of(block, device.len()).ok());
        return match old {
            Some(old) if old.store == new.store && old.number == new.number => Ok(()),
            _ => Err(PoolError::Ours { device: name() }),
        };
    }
    let what = match force {
        Force::Yes => None,
        Force::No => foreign(&start),
        Force::IfEmpty => {
            let data = start.iter().any(|byte| *byte != 0);
            foreign(&start).or(data.then_some("data of its own"))
        }
    };
    match what {
        Some(what) => Err(PoolError::InUse {
            device: name(),
            what,
        }),
        None => Ok(()),
    }
}

/// The open devices of a store, by number.
///
/// Devices may be attached while others are in use; no look-up takes a lock.
pub struct Pool {
    geometry: Geometry,
    store: Uuid,
    /// Indexed by device number. Entries are added, never replaced, and only one that was never used
    /// goes again; kept by [`Pool::attach`] and [`Pool::detach`].
    table: ArcSwap<Table>,
    /// Held while the table is exchanged, never across I/O.
    attaching: Mutex<()>,
    complaints: Complaints,
}

type Table = Vec<Option<Arc<Member>>>;

struct Member {
    device: Arc<dyn Device>,
    slots: u64,
    failures: Failures,
}

/// How often each kind of call on a device has failed since it was attached.
#[derive(Default)]
struct Failures {
    reads: AtomicU64,
    writes: AtomicU64,
    syncs: AtomicU64,
    punches: AtomicU64,
    /// In the host's words, the last time.
    last: Mutex<Option<String>>,
}

impl Failures {
    fn note<T>(&self, of: &AtomicU64, done: Result<T, DeviceError>) -> Result<T, DeviceError> {
        done.inspect_err(|error| {
            of.fetch_add(1, Relaxed);
            *self.last.lock() = Some(error.to_string());
        })
    }
}

impl Member {
    fn sync(&self) -> Result<(), DeviceError> {
        let failures = &self.failures;
        failures.note(&failures.syncs, self.device.sync())
    }
}

/// An attached device, as people want to see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolDevice {
    /// Its number.
    pub number: DeviceNo,
    /// Its name, usually the path.
    pub name: String,
    /// Its length in bytes.
    pub len: u64,
    /// Its segments.
    pub slots: u64,
    /// Bytes that the host has allocated for it, where it says so.
    pub allocated: Option<u64>,
    /// The host's file system, where the device takes space from it as it is written.
    pub host: Option<HostSpace>,
    /// Calls that have failed.
    pub failures: DeviceFailures,
}

/// How often calls on a device have failed since the store was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceFailures {
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Syncs; the first one is the last.
    pub syncs: u64,
    /// Punches of holes.
    pub punches: u64,
    /// The last failure in words.
    pub last: Option<String>,
}

impl Pool {
    /// A pool without devices.
    #[must_use]
    pub fn new(geometry: Geometry, store: Uuid) -> Self {
        Self {
            geometry,
            store,
            table: ArcSwap::default(),
            attaching: Mutex::new(()),
            complaints: Complaints::default(),
        }
    }

    /// The segment size.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Logs that blocks can't be read: once for each place, and then how many more there are.
    pub fn complain(&self, at: Option<(Place, usize)>, what: &str, error: &dyn std::fmt::Display) {
        self.complaints.log(at, what, error);
    }

    /// Adds a device, once its superblock has said that it is the one the record means.
    ///
    /// # Errors
    /// Where it is not, can't be read, or its number is attached already.
    pub fn attach(&self, record: &DeviceRecord, device: Arc<dyn Device>) -> Result<(), PoolError> {
        self.check_superblock(record, device.as_ref())?;
        let _guard = self.attaching.lock();
        let mut table = Table::clone(&self.table.load());
        let index = usize::from(record.device.0);
        if table.len() <= index {
            table.resize(index + 1, None);
        }
        if let Some(there) = &table[index] {
            return Err(PoolError::Attached {
                device: record.device,
                name: there.device.name().to_owned(),
            });
        }
        table[index] = Some(Arc::new(Member {
            device,
            slots: record.slots,
            failures: Failures::default(),
        }));
        self.table.store(Arc::new(table));
        Ok(())
    }

    /// Lets go of a device on which nothing is.
    pub fn detach(&self, device: DeviceNo) {
        let _guard = self.attaching.lock();
        let mut table = Table::clone(&self.table.load());
        if let Some(entry) = table.get_mut(usize::from(device.0)) {
            *entry = None;
        }
        self.table.store(Arc::new(table));
    }

    fn check_superblock(
        &self,
        record: &DeviceRecord,
        device: &dyn Device,
    ) -> Result<(), PoolError> {
        let wrong = |source| PoolError::Super {
            device: device.name().to_owned(),
            source,
        };
        if device.len() < BLOCK_SIZE {
            return Err(wrong(SuperError::NotSnapmark));
        }
        let mut block = [0; BLOCK];
        device.read_at(&mut block, 0)?;
        superblock_of(&block, device.len())
            .and_then(|found| found.expect(self.store, record, self.geometry))
            .map_err(wrong)
    }

    /// Fills `buf`, whole blocks, from a block of a segment on.
    ///
    /// # Errors
    /// Where the range is not within the segment, or the device fails.
    pub fn read(&self, place: Place, block: usize, buf: &mut [u8]) -> Result<(), PoolError> {
        let end = block.saturating_add(blocks_in(buf.len() as u64)?);
        let (member, at) = self.locate(place, block..end)?;
        let failures = &member.failures;
        Ok(failures.note(&failures.reads, member.device.read_at(buf, at))?)
    }

    /// The device of a segment, and the byte at which these blocks of it begin there.
    ///
    /// # Errors
    /// Where the range is not within the segment.
    pub fn device_of(
        &self,
        place: Place,
        blocks: Range<usize>,
    ) -> Result<(Arc<dyn Device>, u64), PoolError> {
        let (member, at) = self.locate(place, blocks)?;
        Ok((Arc::clone(&member.device), at))
    }

    /// Fills `buf`, whole blocks, from the medium of a device, from a block on that is counted from
    /// its first segment's first. They may be of several segments.
    ///
    /// # Errors
    /// Where the range is not within the segments, or the device fails.
    pub fn read_uncached(
        &self,
        device: DeviceNo,
        first: u64,
        buf: &mut [u8],
    ) -> Result<(), PoolError> {
        let member = self.member(device)?;
        let end = first.saturating_add(blocks_in(buf.len() as u64)? as u64);
        let blocks = self.geometry.blocks() as u64;
        if end > self.geometry.slot_block(Slot(member.slots)) {
            return Err(PoolError::Outside {
                place: Place {
                    device,
                    slot: Slot(first / blocks),
                },
                first: (first % blocks) as usize,
                end: (end - first / blocks * blocks) as usize,
                slots: member.slots,
                blocks: self.geometry.blocks(),
            });
        }
        let at = DATA_START + first * BLOCK_SIZE;
        let failures = &member.failures;
        Ok(failures.note(&failures.reads, member.device.read_uncached(buf, at))?)
    }

    /// Writes `bufs`, together whole blocks, from a block of a segment on. Durable after
    /// [`sync`](Self::sync).
    ///
    /// # Errors
    /// Where the range is not within the segment, or the device fails.
    pub fn write(&self, place: Place, block: usize, bufs: &[IoSlice<'_>]) -> Result<(), PoolError> {
        let bytes = bufs.iter().map(|buf| buf.len() as u64).sum();
        let end = block.saturating_add(blocks_in(bytes)?);
        let (member, at) = self.locate(place, block..end)?;
        let failures = &member.failures;
        Ok(failures.note(&failures.writes, member.device.write_at(bufs, at))?)
    }

    /// Makes many reads of whole blocks, each from a block of a segment on, and says which of them it
    /// could.
    ///
    /// # Errors
    /// Where one of them is not within its segment, or its device is missing.
    pub fn read_each(&self, reads: Vec<(Place, usize, &mut [u8])>) -> Result<Vec<bool>, PoolError> {
        let mut of_device = BTreeMap::<DeviceNo, (Vec<usize>, Vec<Read<'_>>)>::new();
        let mut made = vec![false; reads.len()];
        for (number, (place, block, buf)) in reads.into_iter().enumerate() {
            let end = block.saturating_add(blocks_in(buf.len() as u64)?);
            let (_, offset) = self.locate(place, block..end)?;
            let (numbers, reads) = of_device.entry(place.device).or_default();
            numbers.push(number);
            reads.push(Read { offset, buf });
        }
        for (device, (numbers, mut reads)) in of_device {
            let answers = self.member(device)?.device.read_each(&mut reads);
            for (number, answer) in numbers.into_iter().zip(answers) {
                made[number] = answer;
            }
        }
        Ok(made)
    }

    /// Makes many writes to segments of one device, each of whole blocks to a block of a slot, in any
    /// order.
    ///
    /// # Errors
    /// As [`write`](Self::write), for one of them; any of the others may have been made.
    pub fn write_each(
        &self,
        device: DeviceNo,
        writes: &[(Slot, usize, Vec<IoSlice<'_>>)],
    ) -> Result<(), PoolError> {
        let mut located = Vec::with_capacity(writes.len());
        for (slot, block, bufs) in writes {
            let place = Place {
                device,
                slot: *slot,
            };
            let bytes = bufs.iter().map(|buf| buf.len() as u64).sum();
            let end = block.saturating_add(blocks_in(bytes)?);
            let (_, offset) = self.locate(place, *block..end)?;
            located.push(Write { offset, bufs });
        }
        let member = self.member(device)?;
        let failures = &member.failures;
        Ok(failures.note(&failures.writes, member.device.write_each(&located))?)
    }

    /// Gives blocks of a segment back to the host. Says whether they read as zeros now; else their
    /// content is unspecified.
    ///
    /// # Errors
    /// Where the range is not within the segment, or the device fails.
    pub fn punch(&self, place: Place, blocks: Range<usize>) -> Result<bool, PoolError> {
        let len = blocks.len() as u64 * BLOCK_SIZE;
        let (member, at) = self.locate(place, blocks)?;
        let failures = &member.failures;
        Ok(failures.note(&failures.punches, member.device.punch(at, len))?)
    }

    /// Makes all that was written to these devices durable, each synced once, side by side.
    ///
    /// # Errors
    /// Where one of them fails; that is final, and the store must stop writing.
    pub fn sync(&self, devices: &[DeviceNo]) -> Result<(), PoolError> {
        let mut numbers = devices.to_vec();
        numbers.sort_unstable();
        numbers.dedup();
        let members = numbers
            .into_iter()
            .map(|number| self.member(number))
            .collect::<Result<Vec<_>, _>>()?;
        let Some((last, others)) = members.split_last() else {
            return Ok(());
        };
        // One device is the rule, and then no thread is started.
        thread::scope(|scope| {
            let mut result = Ok(());
            let mut started = Vec::new();
            for member in others {
                match spawn_scoped(scope, || member.sync()) {
                    Ok(thread) => started.push(thread),
                    // Where the host has no thread to give, they wait for each other.
                    Err(_) => result = result.and(member.sync()),
                }
            }
            result = result.and(last.sync());
            for thread in started {
                let done = thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                result = result.and(done);
            }
            Ok(result?)
        })
    }

    /// What is attached, by number.
    pub fn devices(&self) -> Vec<PoolDevice> {
        let table = self.table.load_full();
        let numbered = (0..).map(DeviceNo).zip(table.iter());
        numbered
            .filter_map(|(number, member)| member.as_ref().map(|member| (number, member)))
            .map(|(number, member)| PoolDevice {
                number,
                name: member.device.name().to_owned(),
                len: member.device.len(),
                slots: member.slots,
                allocated: member.device.allocated().ok(),
                host: member.device.host_space(),
                failures: DeviceFailures {
                    reads: member.failures.reads.load(Relaxed),
                    writes: member.failures.writes.load(Relaxed),
                    syncs: member.failures.syncs.load(Relaxed),
                    punches: member.failures.punches.load(Relaxed),
                    last: member.failures.last.lock().clone(),
                },
            })
            .collect()
    }

    /// The name of a device for messages; its number where it is not attached.
    #[must_use]
    pub fn name(&self, device: DeviceNo) -> String {
        match self.member(device) {
            Ok(member) => member.device.name().to_owned(),
            Err(_) => format!("device {device}"),
        }
    }

    fn member(&self, device: DeviceNo) -> Result<Arc<Member>, PoolError> {
        let table = self.table.load();
        match table.get(usize::from(device.0)) {
            Some(Some(member)) => Ok(member.clone()),
            _ => Err(PoolError::Missing(device)),
        }
    }

    /// The device of a segment, and the byte at which these blocks begin on it.
    fn locate(&self, place: Place, blocks: Range<usize>) -> Result<(Arc<Member>, u64), PoolError> {
        let member = self.member(place.device)?;
        let inside = blocks.start <= blocks.end && blocks.end <= self.geometry.blocks();
        if place.slot.0 >= member.slots || !inside {
            return Err(PoolError::Outside {
                place,
                first: blocks.start,
                end: blocks.end,
                slots: member.slots,
                blocks: self.geometry.blocks(),
            });
        }
        let at = slot_start(place.slot, self.geometry) + blocks.start as u64 * BLOCK_SIZE;
        Ok((member, at))
    }
}

fn blocks_in(bytes: u64) -> Result<usize, PoolError> {
    if bytes.is_multiple_of(BLOCK_SIZE) {
        Ok(usize::try_from(bytes / BLOCK_SIZE).unwrap_or(usize::MAX))
    } else {
        Err(PoolError::Partial(bytes))
    }
}

#[cfg(test)]
mod tests;
