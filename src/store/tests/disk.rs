//! A device in memory that knows what a sync made durable, and can crash and fail.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::Mutex;

use super::Random;
use crate::device::{Device, DeviceError, Operation};

const SECTOR: usize = 512;

pub(super) struct Disk {
    name: &'static str,
    len: u64,
    bytes: Mutex<Bytes>,
    /// Writes and syncs left until all fail; negative: they never do.
    until_failure: AtomicI64,
    /// Called before each write and sync takes effect, and after.
    hook: Mutex<Option<Arc<dyn Fn() + Send + Sync>>>,
}

#[derive(Clone, Default)]
struct Bytes {
    /// As a reader sees it.
    now: Vec<u8>,
    /// As of the last sync.
    durable: Vec<u8>,
    /// Since then.
    unsynced: Vec<(usize, Vec<u8>)>,
}

impl Disk {
    pub(super) fn new(name: &'static str, len: u64) -> Self {
        Self {
            name,
            len,
            bytes: Mutex::default(),
            until_failure: AtomicI64::new(-1),
            hook: Mutex::default(),
        }
    }

    pub(super) fn fail_after(&self, calls: i64) {
        self.until_failure.store(calls, Ordering::Relaxed);
    }

    pub(super) fn set_hook(&self, hook: Option<Arc<dyn Fn() + Send + Sync>>) {
        *self.hook.lock() = hook;
    }

    /// A disk with these bytes, all durable.
    fn of(&self, bytes: Vec<u8>) -> Arc<Self> {
        let disk = Self::new(self.name, self.len);
        *disk.bytes.lock() = Bytes {
            now: bytes.clone(),
            durable: bytes,
            unsynced: Vec::new(),
        };
        Arc::new(disk)
    }

    /// What a power loss might leave: of the unsynced writes any, whole, torn or not at all.
    pub(super) fn crash_image(&self, random: &mut Random) -> Arc<Self> {
        let bytes = self.bytes.lock();
        let mut image = bytes.durable.clone();
        let how = random.below(5);
        for (offset, data) in &bytes.unsynced {
            let whole = random.one_in(2);
            for (at, sector) in data.chunks(SECTOR).enumerate() {
                let lands = match how {
                    0 => false,
                    1 => true,
                    2 => whole,
                    3 => random.one_in(2),
                    _ => !random.one_in(8),
                };
                if lands {
                    put(&mut image, offset + at * SECTOR, sector);
                }
            }
        }
        drop(bytes);
        self.of(image)
    }

    /// What a killed program leaves: everything.
    pub(super) fn copy(&self) -> Arc<Self> {
        self.of(self.bytes.lock().now.clone())
    }

    /// Bytes up to the last one ever written.
    pub(super) fn written(&self) -> usize {
        self.bytes.lock().now.len()
    }

    /// Flips bits of a byte, as if it rotted.
    pub(super) fn damage(&self, at: usize, bits: u8) {
        let mut bytes = self.bytes.lock();
        bytes.now[at] ^= bits;
        bytes.durable = bytes.now.clone();
    }

    pub(super) fn fill(&self, at: usize, data: &[u8]) {
        let mut bytes = self.bytes.lock();
        put(&mut bytes.now, at, data);
        bytes.durable = bytes.now.clone();
    }

    fn call_hook(&self) {
        let hook = self.hook.lock().clone();
        if let Some(hook) = hook {
            hook();
        }
    }

    fn check(&self, operation: Operation, offset: u64, len: u64) -> Result<(), DeviceError> {
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(DeviceError::OutOfRange {
                operation,
                device: self.name.into(),
                offset,
                len,
                size: self.len,
            });
        }
        if operation == Operation::Read {
            return Ok(());
        }
        let left = self.until_failure.load(Ordering::Relaxed);
        if left > 0 {
            self.until_failure.store(left - 1, Ordering::Relaxed);
        }
        if left == 0 {
            return Err(DeviceError::Host {
                operation,
                device: self.name.into(),
                offset,
                len,
                source: Arc::new(io::Error::from_raw_os_error(5)),
            });
        }
        Ok(())
    }
}

fn put(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    let end = at + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[at..end].copy_from_slice(data);
}

impl Device for Disk {
    fn name(&self) -> &str {
        self.name
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        self.check(Operation::Read, offset, buf.len() as u64)?;
        let bytes = self.bytes.lock();
        let start = (offset as usize).min(bytes.now.len());
        let end = (start + buf.len()).min(bytes.now.len());
        let there = end - start;
        buf[..there].copy_from_slice(&bytes.now[start..end]);
        buf[there..].fill(0);
        Ok(())
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<(), DeviceError> {
        let mut data = Vec::new();
        bufs.iter().for_each(|buf| data.extend_from_slice(buf));
        self.check(Operation::Write, offset, data.len() as u64)?;
        self.call_hook();
        let mut bytes = self.bytes.lock();
        put(&mut bytes.now, offset as usize, &data);
        bytes.unsynced.push((offset as usize, data));
        drop(bytes);
        self.call_hook();
        Ok(())
    }

    fn sync(&self) -> Result<(), DeviceError> {
        self.check(Operation::Sync, 0, 0)?;
        self.call_hook();
        let mut bytes = self.bytes.lock();
        let Bytes {
            durable, unsynced, ..
        } = &mut *bytes;
        for (offset, data) in unsynced.drain(..) {
            put(durable, offset, &data);
        }
        drop(bytes);
        self.call_hook();
        Ok(())
    }

    fn punch(&self, _: u64, _: u64) -> Result<bool, DeviceError> {
        Ok(false)
    }

    fn allocated(&self) -> Result<u64, DeviceError> {
        Ok(self.written() as u64)
    }
}
