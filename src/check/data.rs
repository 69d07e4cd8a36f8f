//! Reads data blocks and compares them with their checksums: in long runs, in the order of their
//! places, with two threads, one of which reads while the other one computes. Only one reads at a
//! time: the host then sees one stream and reads ahead of it, as it does for `cat`.

use std::collections::BTreeMap;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use parking_lot::Mutex;

use super::overlay::Group;
use crate::base::{BLOCK, BLOCK_SIZE, Checksum, DeviceNo, checksum};
use crate::device::Device;
use crate::ondisk::{DATA_START, SumGroup};

/// Threads that read.
const READERS: usize = 2;
/// Blocks read at once: 1 MiB, which a processor's own cache holds.
const RUN: usize = 256;
/// A gap of at most so many blocks is read over.
const GAP: u64 = 16;
/// Runs that wait for a reader.
const WAITING: usize = 16;

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

/// What the readers say.
enum Said {
    Read(u64),
    Bad(BadBlock),
}

/// Hands runs to the readers.
pub(super) struct Feed {
    run: Option<Run>,
    to: Sender<Run>,
}

/// Lets `feed` hand out blocks and reads them side by side. `progress` hears of bytes that were
/// read, `bad` of blocks that are not what they should be.
pub(super) fn read(
    devices: &BTreeMap<DeviceNo, Arc<dyn Device>>,
    feed: impl FnOnce(Feed) + Send,
    progress: &mut dyn FnMut(u64),
    bad: &mut dyn FnMut(BadBlock),
) {
    let (to, from) = bounded(WAITING);
    let from = Mutex::new(from);
    let (say, said) = unbounded();
    std::thread::scope(|scope| {
        for _ in 0..READERS {
            let (from, say) = (&from, say.clone());
            scope.spawn(move || reader(devices, from, &say));
        }
        drop(say);
        scope.spawn(move || feed(Feed { run: None, to }));
        for word in said {
            match word {
                Said::Read(bytes) => progress(bytes),
                Said::Bad(block) => bad(block),
            }
        }
    });
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
            // The readers stay until this sender goes.
            let _ = self.to.send(run);
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.send();
    }
}

fn reader(
    devices: &BTreeMap<DeviceNo, Arc<dyn Device>>,
    from: &Mutex<Receiver<Run>>,
    say: &Sender<Said>,
) {
    let mut buf = vec![0; RUN * BLOCK];
    loop {
        let turn = from.lock();
        let Ok(run) = turn.recv() else { return };
        let bytes = &mut buf[..run.sums.len() * BLOCK];
        if let Some(device) = devices.get(&run.device) {
            let read = device.read_at(bytes, DATA_START + run.first * BLOCK_SIZE);
            drop(turn);
            compare(&**device, &run, (bytes, read.is_ok()), &mut |block| {
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
            false => device.read_at(bytes, DATA_START + block * BLOCK_SIZE),
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
