//! A device that counts what is read, and can be made to hold calls up.

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use snapmark::device::{Device, DeviceError};

/// What all watched devices of a store share.
#[derive(Default)]
pub struct Watch {
    /// Calls that read, and the bytes that they read.
    pub reads: AtomicU64,
    pub bytes: AtomicU64,
    held: Mutex<Held>,
    changed: Condvar,
}

#[derive(Default)]
struct Held {
    /// Names of the devices whose writes, punches and syncs wait.
    devices: Vec<&'static str>,
    /// And of those whose syncs alone do.
    syncs: Vec<&'static str>,
    waiting: usize,
}

impl Watch {
    /// Puts itself before a device.
    pub fn over(self: &Arc<Self>, inner: Arc<dyn Device>) -> Arc<dyn Device> {
        Arc::new(Watched {
            inner,
            watch: self.clone(),
        })
    }

    /// Holds up writes, punches and syncs of these devices from now on.
    pub fn hold(&self, devices: &[&'static str]) {
        self.held.lock().devices = devices.to_vec();
    }

    /// Holds up the syncs of these devices from now on.
    pub fn hold_syncs(&self, devices: &[&'static str]) {
        self.held.lock().syncs = devices.to_vec();
    }

    /// Lets all go that was held up.
    pub fn release(&self) {
        let mut held = self.held.lock();
        held.devices.clear();
        held.syncs.clear();
        self.changed.notify_all();
    }

    /// How many calls are held up.
    pub fn waiting(&self) -> usize {
        self.held.lock().waiting
    }

    /// Calls that read so far, and their bytes.
    pub fn read(&self) -> (u64, u64) {
        (self.reads.load(Relaxed), self.bytes.load(Relaxed))
    }

    fn pass(&self, name: &str, is_sync: bool) {
        let mut held = self.held.lock();
        while held.devices.contains(&name) || is_sync && held.syncs.contains(&name) {
            held.waiting += 1;
            self.changed.wait_for(&mut held, Duration::from_secs(1));
            held.waiting -= 1;
        }
    }
}

/// Lets all go when it is dropped: a test that fails must not hang.
pub struct Release<'a>(pub &'a Watch);

impl Drop for Release<'_> {
    fn drop(&mut self) {
        self.0.release();
    }
}

struct Watched {
    inner: Arc<dyn Device>,
    watch: Arc<Watch>,
}

impl Device for Watched {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        self.watch.reads.fetch_add(1, Relaxed);
        self.watch.bytes.fetch_add(buf.len() as u64, Relaxed);
        self.inner.read_at(buf, offset)
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<(), DeviceError> {
        self.watch.pass(self.name(), false);
        self.inner.write_at(bufs, offset)
    }

    fn sync(&self) -> Result<(), DeviceError> {
        self.watch.pass(self.name(), true);
        self.inner.sync()
    }

    fn punch(&self, offset: u64, len: u64) -> Result<bool, DeviceError> {
        self.watch.pass(self.name(), false);
        self.inner.punch(offset, len)
    }

    fn allocated(&self) -> Result<u64, DeviceError> {
        self.inner.allocated()
    }
}
