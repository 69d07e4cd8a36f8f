//! Reads data blocks and compares them with their checksums: in long runs, in the order of their
//! places, past the host's page cache, which would cost a copy of all of them. Several threads take
//! the runs in turn, so that the devices never wait for a comparison.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread::Builder;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::overlay::Group;
use crate::base::{BLOCK, BLOCK_SIZE, Checksum, DeviceNo, checksum};
use crate::device::{AlignedBuf, Device};
use crate::ondisk::{DATA_START, SumGroup};

/// Blocks read at once: 4 MiB.
const RUN: usize = 1024;
/// A gap of at most so many blocks is read over.
const GAP: u64 = 16;
/// Runs that wait to be read.
const WAITING: usize = 8;
/// Threads that read and compare, each with a buffer.
const WORKERS: usize = 3;

/// A run of blocks and the checksums that they must have; none where it does not matter.
struct Run {
    device: DeviceNo,
    /// Counted from the device's first slot.
    first: u64,
    sums: Vec<Option<Checksum>>,
}

/// A block that is not what it should be.
pub(super) struct BadBlock {
    pub device: DeviceNo,
    /// Counted from the device's first slot.
    pub block: u64,
    /// The host's word where it could not be read; none where its checksum does not match.
    pub error: Option<String>,
}

/// What the threads say.
enum Said {
    Read(u64),
    Bad(BadBlock),
}

/// Hands out what is to be read.
pub(super) struct Feed {
    run: Option<Run>,
    to: Sender<Run>,
}

/// Lets `feed` hand out blocks and reads them side by side. `progress` hears of bytes that were
/// read, `bad` of blocks that are not what they should be.
///
/// # Errors
/// Where the host has no threads to give.
pub(super) fn read(
    devices: &BTreeMap<DeviceNo, Arc<dyn Device>>,
    feed: impl FnOnce(Feed) + Send,
    progress: &mut dyn FnMut(u64),
    bad: &mut dyn FnMut(BadBlock),
) -> io::Result<()> {
    let (to, from) = bounded(WAITING);
    let (say, said) = unbounded();
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            let (from, say) = (from.clone(), say.clone());
            Builder::new().spawn_scoped(scope, move || worker(devices, &from, &say))?;
        }
        // They end when the feed does, and what they say with them.
        drop((from, say));
        Builder::new().spawn_scoped(scope, move || feed(Feed { run: None, to }))?;
        for word in said {
            match word {
                Said::Read(bytes) => progress(bytes),
                Said::Bad(block) => bad(block),
            }
        }
        Ok(())
    })
}

impl Feed {
    /// Adds blocks of a group: those of `blocks`, with these checksums.
    pub fn group(&mut self, device: DeviceNo, group: u64, blocks: u64, sums: &Group) {
        for at in (0..SumGroup::BLOCKS).filter(|at| blocks >> at & 1 == 1) {
            self.block(device, group * SumGroup::BLOCKS + at, sums[at as usize]);
        }
    }

    fn block(&mut self, device: DeviceNo, block: u64, sum: Option<Checksum>) {
        let fits = |run: &Run| {
            let end = run.first + run.sums.len() as u64;
            run.device == device
                && (end..=end + GAP).contains(&block)
                && block - run.first < RUN as u64
        };
        if !self.run.as_ref().is_some_and(fits) {
            self.send();
        }
        let run = self.run.get_or_insert_with(|| Run {
            device,
            first: block,
            sums: Vec::with_capacity(RUN),
        });
        run.sums.resize((block - run.first) as usize, None);
        run.sums.push(sum);
    }

    fn send(&mut self) {
        if let Some(run) = self.run.take() {
            // The threads stay until this sender goes.
            let _ = self.to.send(run);
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.send();
    }
}

fn worker(devices: &BTreeMap<DeviceNo, Arc<dyn Device>>, from: &Receiver<Run>, say: &Sender<Said>) {
    let mut buf = AlignedBuf::new(RUN * BLOCK);
    for run in from {
        // A device that is missing was reported.
        if let Some(device) = devices.get(&run.device) {
            let bytes = &mut buf[..run.sums.len() * BLOCK];
            let at = DATA_START + run.first * BLOCK_SIZE;
            let whole = device.read_uncached(bytes, at).is_ok();
            compare(&**device, &run, (bytes, whole), &mut |block| {
                let _ = say.send(Said::Bad(block));
            });
        }
        let wanted = run.sums.iter().flatten().count() as u64;
        let _ = say.send(Said::Read(wanted * BLOCK_SIZE));
    }
}

/// Compares a run that was read; where it could not be, its blocks may be, one by one.
fn compare(
    device: &dyn Device,
    run: &Run,
    (bytes, whole): (&mut [u8], bool),
    bad: &mut dyn FnMut(BadBlock),
) {
    let blocks = bytes.chunks_exact_mut(BLOCK).zip(&run.sums);
    for (block, (bytes, sum)) in (run.first..).zip(blocks) {
        let Some(sum) = sum else { continue };
        let alone = match whole {
            true => Ok(()),
            false => device.read_uncached(bytes, DATA_START + block * BLOCK_SIZE),
        };
        let error = match alone {
            Ok(()) if checksum(bytes) == *sum => continue,
            Ok(()) => None,
            Err(error) => Some(error.to_string()),
        };
        bad(BadBlock {
            device: run.device,
            block,
            error,
        });
    }
}
