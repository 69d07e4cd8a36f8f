//! A power domain that can be cut: devices that record what reached them, and the images that a
//! crash could have left. For tests.
//!
//! The idea is that of dm-log-writes and of redb's crash tests, with all devices of a store in
//! one recording, because a store's promises are about their order among each other.

mod image;
mod losses;
mod recording;

pub use image::Images;
pub use losses::{Limits, Loss, Losses};

use std::collections::{BTreeMap, BTreeSet};
use std::io::IoSlice;
use std::sync::Arc;

use parking_lot::Mutex;

use super::range::{total, within};
use super::{Device, DeviceError, MemoryDevice, Operation};
use crate::base::sync::thread;
use recording::{Event, Recording};

/// A recorder for the devices of one power domain: pool, catalog and journal together.
///
/// Every write, punch and completed sync is an event; events have one order over all devices. A
/// crash can be imagined after any number of them, as often as wanted, while the recording goes on:
///
/// - [`image_at`](Self::image_at): the power failed. A device holds what it had synced, and of the
///   rest anything: nothing, all, some, in another order, torn at 512 bytes.
/// - [`kill_image_at`](Self::kill_image_at): the daemon died, the host lives. A device holds all
///   that was written.
///
/// Clones share the recording.
#[derive(Clone, Default)]
pub struct CrashDisk {
    recording: Arc<Mutex<Recording>>,
}

impl CrashDisk {
    /// A power domain without devices.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A power domain that starts from what a crash left, to crash once more during recovery.
    #[must_use]
    pub fn from_images(images: &Images) -> Self {
        let disk = Self::new();
        for image in images.values() {
            disk.adopt(MemoryDevice::clone(image));
        }
        disk
    }

    /// Adds a device of `len` zeros and returns it; where one of that name is here, returns that.
    pub fn device(&self, name: &str, len: u64) -> Arc<dyn Device> {
        let known = self.recording.lock().find(name);
        match known {
            Some((number, len)) => self.handle(number, name, len),
            None => self.adopt(MemoryDevice::new(name, len)),
        }
    }

    /// Adds a device whose present content is durable, and returns it.
    pub fn adopt(&self, content: MemoryDevice) -> Arc<dyn Device> {
        let (name, len) = (content.name().to_owned(), content.len());
        let number = self.recording.lock().add(content);
        self.handle(number, &name, len)
    }

    fn handle(&self, number: usize, name: &str, len: u64) -> Arc<dyn Device> {
        Arc::new(CrashDevice {
            recording: self.recording.clone(),
            number,
            name: name.to_owned(),
            len,
        })
    }

    /// How many events there are so far: a crash can be imagined after 0 up to so many of them.
    #[must_use]
    pub fn crash_points(&self) -> usize {
        self.recording.lock().events.len()
    }

    /// What a power failure after the first `events` events could have left.
    ///
    /// Seed 0 loses all that was not synced, seed 1 loses nothing; every other seed makes up
    /// something of its own: a prefix, a subset, another order, torn writes.
    #[must_use]
    pub fn image_at(&self, events: usize, seed: u64) -> Images {
        image::power_failure(&self.recording.lock(), events, seed)
    }

    /// What a power failure now could have left; see [`image_at`](Self::image_at).
    #[must_use]
    pub fn crash_image(&self, seed: u64) -> Images {
        self.image_at(usize::MAX, seed)
    }

    /// What the death of the daemon after the first `events` events left.
    #[must_use]
    pub fn kill_image_at(&self, events: usize) -> Images {
        image::kill(&self.recording.lock(), events)
    }

    /// What the death of the daemon now would leave.
    #[must_use]
    pub fn kill_image(&self) -> Images {
        self.kill_image_at(usize::MAX)
    }

    /// As it was after the first `events` events, when the daemon died: the host's memory has what
    /// was not synced, and a power failure may still take it away.
    #[must_use]
    pub fn killed_at(&self, events: usize) -> Self {
        let recording = self.recording.lock().until(events);
        Self {
            recording: Arc::new(Mutex::new(recording)),
        }
    }

    /// All that crashes after `from` events and at any moment later can leave, each image once:
    /// every subset of the changes that were not synced, the orders of those that overlap, and
    /// the tearings of one of them at 512 bytes; as far as `limits` let it. `turns` are numbers
    /// of events after which more was promised than before, so that what could be left earlier
    /// is looked at again.
    #[must_use]
    pub fn losses(&self, from: usize, turns: &BTreeSet<usize>, limits: &Limits) -> Losses {
        losses::losses(&self.recording.lock(), from, turns, limits)
    }

    /// The devices as one of [`losses`](Self::losses) has them.
    #[must_use]
    pub fn image_of(&self, loss: &Loss) -> Images {
        losses::image_of(&self.recording.lock(), loss)
    }

    /// Events so far, by device: writes, punches, syncs.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, (u64, u64, u64)> {
        self.recording.lock().counts()
    }
}

/// One device of a [`CrashDisk`].
struct CrashDevice {
    recording: Arc<Mutex<Recording>>,
    number: usize,
    name: String,
    len: u64,
}

impl Device for CrashDevice {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        let live = self.recording.lock().live(self.number);
        live.read_at(buf, offset)
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<(), DeviceError> {
        within(&self.name, self.len, Operation::Write, offset, total(bufs))?;
        let bytes: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
        if !bytes.is_empty() {
            self.recording.lock().record(Event::Write {
                device: self.number,
                offset,
                bytes: bytes.into(),
            });
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), DeviceError> {
        let covers = self.recording.lock().events.len();
        // What other threads write from here on may come too late for this sync, so it counts
        // as not covered: the contract speaks of writes that returned before the call.
        thread::yield_now();
        self.recording.lock().record(Event::Sync {
            device: self.number,
            covers,
        });
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> Result<bool, DeviceError> {
        within(&self.name, self.len, Operation::Punch, offset, len)?;
        if len > 0 {
            self.recording.lock().record(Event::Punch {
                device: self.number,
                offset,
                len,
            });
        }
        Ok(true)
    }

    fn allocated(&self) -> Result<u64, DeviceError> {
        self.recording.lock().live(self.number).allocated()
    }
}

#[cfg(test)]
mod tests;
