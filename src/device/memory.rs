//! Memory as a device: for tests, and for trying things out without a disk.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::RwLock;

use super::range::{total, within};
use super::{Device, DeviceError, Operation};

const PAGE: usize = 4096;

/// Shared with copies of the device until one of them changes it.
type Page = Arc<[u8; PAGE]>;

/// A device in memory. It takes up what was written, not what it is long.
///
/// A write or a punch is atomic towards reads. Nothing is durable: [`Device::sync`] does nothing.
pub struct MemoryDevice {
    name: String,
    len: u64,
    /// Pages by their number; one that is not here reads as zeros.
    pages: RwLock<HashMap<u64, Page>>,
}

impl MemoryDevice {
    /// A device of `len` zeros.
    #[must_use]
    pub fn new(name: impl Into<String>, len: u64) -> Self {
        Self {
            name: name.into(),
            len,
            pages: RwLock::default(),
        }
    }

    /// A device with this content.
    #[must_use]
    pub fn from_bytes(name: impl Into<String>, bytes: &[u8]) -> Self {
        let device = Self::new(name, bytes.len() as u64);
        device.put(0, bytes);
        device
    }

    /// All its bytes, zeros included: for short devices.
    ///
    /// # Panics
    /// Where the device is longer than memory can be.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let len = usize::try_from(self.len).expect("asked for of short devices alone");
        let mut bytes = vec![0; len];
        self.get(0, &mut bytes);
        bytes
    }

    /// Bytes `at..`, known to lie within.
    pub(super) fn get(&self, at: u64, buf: &mut [u8]) {
        let pages = self.pages.read();
        for (number, inside, outside) in pieces(at, buf.len()) {
            match pages.get(&number) {
                Some(page) => buf[outside].copy_from_slice(&page[inside]),
                None => buf[outside].fill(0),
            }
        }
    }

    /// Writes bytes `at..`, known to lie within.
    pub(super) fn put(&self, at: u64, bytes: &[u8]) {
        put(&mut self.pages.write(), at, bytes);
    }

    /// A number that tells its content, as that of device number `device`, from other contents. The
    /// numbers of several devices, or of parts of one, are put together by exclusive or.
    pub(super) fn digest(&self, device: usize) -> u64 {
        let pages = self.pages.read();
        let each = pages
            .iter()
            .map(|(number, page)| digest(device, *number, page));
        each.fold(0, |all, page| all ^ page)
    }

    /// As [`digest`](Self::digest), of the pages that a range touches.
    pub(super) fn digest_of(&self, device: usize, pages: &BTreeSet<u64>) -> u64 {
        let all = self.pages.read();
        let each = pages
            .iter()
            .filter_map(|number| Some((number, all.get(number)?)));
        each.fold(0, |sum, (number, page)| sum ^ digest(device, *number, page))
    }

    /// The pages that a range touches.
    pub(super) fn pages_of(at: u64, len: u64) -> Range<u64> {
        at / PAGE as u64..(at + len).div_ceil(PAGE as u64)
    }

    /// Zeros a range that is known to lie within.
    pub(super) fn zero(&self, at: u64, len: u64) {
        let mut pages = self.pages.write();
        let (first, last) = (at / PAGE as u64, (at + len).div_ceil(PAGE as u64));
        let clear = |number: u64, page: &mut Page| {
            let start = number * PAGE as u64;
            let from = at.saturating_sub(start).min(PAGE as u64) as usize;
            let to = (at + len).saturating_sub(start).min(PAGE as u64) as usize;
            if to - from < PAGE {
                Arc::make_mut(page)[from..to].fill(0);
            }
            to - from < PAGE
        };
        if last - first < pages.len() as u64 {
            for number in first..last {
                if let Some(page) = pages.get_mut(&number)
                    && !clear(number, page)
                {
                    pages.remove(&number);
                }
            }
        } else {
            pages.retain(|number, page| !(first..last).contains(number) || clear(*number, page));
        }
    }
}

/// What tells a page from others; 0 for one of zeros, as for one that is not there.
fn digest(device: usize, number: u64, page: &[u8; PAGE]) -> u64 {
    let mut hash = 0u64;
    for (at, word) in page.chunks_exact(8).enumerate() {
        let word = word.try_into().map_or(0, u64::from_le_bytes);
        if word != 0 {
            let place = (number * (PAGE as u64 / 8) + at as u64) ^ ((device as u64) << 56);
            hash ^= mix(word ^ mix(place));
        }
    }
    hash
}

/// SplitMix64's finish (Steele, Lea, Flood 2014).
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn put(pages: &mut HashMap<u64, Page>, at: u64, bytes: &[u8]) {
    for (number, inside, outside) in pieces(at, bytes.len()) {
        let page = pages.entry(number).or_insert_with(|| Arc::new([0; PAGE]));
        Arc::make_mut(page)[inside].copy_from_slice(&bytes[outside]);
    }
}

/// The pages that `len` bytes from `at` touch: page number, bytes in the page, bytes in the range.
fn pieces(at: u64, len: usize) -> impl Iterator<Item = (u64, Range<usize>, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let byte = at + done as u64;
        let inside = (byte % PAGE as u64) as usize;
        let count = (PAGE - inside).min(len - done);
        let piece = (
            byte / PAGE as u64,
            inside..inside + count,
            done..done + count,
        );
        done += count;
        Some(piece)
    })
}

/// A copy that goes its own way. It takes up memory for what changes in one of the two alone.
impl Clone for MemoryDevice {
    fn clone(&self) -> Self {
        Self {
            name: self.name.clone(),
            len: self.len,
            pages: RwLock::new(self.pages.read().clone()),
        }
    }
}

impl fmt::Debug for MemoryDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryDevice")
            .field("name", &self.name)
            .field("len", &self.len)
            .field("pages", &self.pages.read().len())
            .finish()
    }
}

impl Device for MemoryDevice {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        let len = buf.len() as u64;
        within(&self.name, self.len, Operation::Read, offset, len)?;
        self.get(offset, buf);
        Ok(())
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<(), DeviceError> {
        let len = total(bufs);
        within(&self.name, self.len, Operation::Write, offset, len)?;
        let mut pages = self.pages.write();
        let mut at = offset;
        for buf in bufs {
            put(&mut pages, at, buf);
            at += buf.len() as u64;
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> Result<bool, DeviceError> {
        within(&self.name, self.len, Operation::Punch, offset, len)?;
        self.zero(offset, len);
        Ok(true)
    }

    fn allocated(&self) -> Result<u64, DeviceError> {
        Ok(self.pages.read().len() as u64 * PAGE as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_agrees_with_a_vector() {
        let device = MemoryDevice::new("m", 40_000);
        let mut oracle = vec![0u8; 40_000];
        let mut seed = 1u64;
        for step in 0..500 {
            let mut random = |below: u64| {
                seed = seed
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (seed >> 33) % below
            };
            let at = random(40_000) as usize;
            let len = random(9_000).min(40_000 - at as u64) as usize;
            if random(3) == 0 {
                assert!(device.punch(at as u64, len as u64).unwrap());
                oracle[at..at + len].fill(0);
            } else {
                let bytes = vec![step as u8; len];
                let (a, b) = bytes.split_at(len / 3);
                device
                    .write_at(&[IoSlice::new(a), IoSlice::new(b)], at as u64)
                    .unwrap();
                oracle[at..at + len].copy_from_slice(&bytes);
            }
            assert!(device.to_bytes() == oracle, "step {step}");
        }
    }

    #[test]
    fn a_long_device_takes_up_only_what_was_written() {
        let device = MemoryDevice::new("m", 64 << 40);
        device
            .write_at(&[IoSlice::new(&[1; 10])], 63 << 40)
            .unwrap();
        assert_eq!(device.allocated().unwrap(), 4096);
        assert!(device.punch(0, 64 << 40).unwrap());
        assert_eq!(device.allocated().unwrap(), 0);
        assert!(device.read_at(&mut [0], 64 << 40).is_err());
    }

    #[test]
    fn a_clone_goes_its_own_way() {
        let device = MemoryDevice::from_bytes("m", b"before");
        let copy = device.clone();
        device.write_at(&[IoSlice::new(b"after!")], 0).unwrap();
        assert_eq!(copy.to_bytes(), b"before");
        assert_eq!(device.to_bytes(), b"after!");
    }
}
