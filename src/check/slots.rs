//! What each slot of the pool is: half a byte each, and less where neighbours are alike.

use std::collections::BTreeMap;

use crate::base::{DeviceNo, Place, Slot};

/// What a slot is known to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Use {
    /// Not free: some version should have it.
    Taken = 0,
    /// On the free list.
    Free = 1,
    /// Given up, not yet punched.
    Pending = 2,
    /// A version has it for its own.
    Version = 3,
    /// It is a pack, which versions share.
    Pack = 4,
}

/// Slots in a chunk.
const CHUNK: u64 = 1 << 16;
const PER_BYTE: u64 = 2;
/// Bits of a slot.
const BITS: u64 = 8 / PER_BYTE;

#[derive(Clone)]
enum Chunk {
    All(Use),
    Each(Box<[u8]>),
}

/// The slots of a device.
pub(super) struct DeviceSlots {
    len: u64,
    chunks: Vec<Chunk>,
}

/// The slots of all devices.
#[derive(Default)]
pub(super) struct Slots {
    devices: BTreeMap<DeviceNo, DeviceSlots>,
}

impl Use {
    fn of(bits: u8) -> Self {
        match bits & 0xf {
            0 => Self::Taken,
            1 => Self::Free,
            2 => Self::Pending,
            3 => Self::Version,
            _ => Self::Pack,
        }
    }

    /// All slots of a byte.
    fn byte(self) -> u8 {
        self as u8 * 0x11
    }
}

impl Chunk {
    fn get(&self, at: u64) -> Use {
        match self {
            Self::All(all) => *all,
            Self::Each(bytes) => Use::of(bytes[(at / PER_BYTE) as usize] >> (at % PER_BYTE * BITS)),
        }
    }

    fn set(&mut self, at: u64, to: Use) {
        if let Self::All(all) = self {
            if *all == to {
                return;
            }
            *self = Self::Each(vec![all.byte(); (CHUNK / PER_BYTE) as usize].into());
        }
        if let Self::Each(bytes) = self {
            let (byte, shift) = (&mut bytes[(at / PER_BYTE) as usize], at % PER_BYTE * BITS);
            *byte = *byte & !(0xf << shift) | (to as u8) << shift;
        }
    }
}

impl DeviceSlots {
    fn new(len: u64, all: Use) -> Self {
        let chunks = usize::try_from(len.div_ceil(CHUNK)).unwrap_or(0);
        Self {
            len,
            chunks: vec![Chunk::All(all); chunks],
        }
    }

    fn get(&self, slot: u64) -> Option<Use> {
        let chunk = (slot < self.len).then(|| &self.chunks[(slot / CHUNK) as usize])?;
        Some(chunk.get(slot % CHUNK))
    }

    fn set(&mut self, slot: u64, to: Use) {
        if slot < self.len {
            self.chunks[(slot / CHUNK) as usize].set(slot % CHUNK, to);
        }
    }

    /// The runs of slots of one use, as first and count, in order.
    pub fn runs(&self, wanted: Use) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.runs_where(move |found| found == wanted)
    }

    /// The runs of slots that versions have.
    pub fn in_use(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.runs_where(|found| matches!(found, Use::Version | Use::Pack))
    }

    fn runs_where(&self, wanted: impl Fn(Use) -> bool + Copy) -> impl Iterator<Item = (u64, u64)> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let first = self.next_where(at, wanted)?;
            let end = self
                .next_where(first, |found| !wanted(found))
                .unwrap_or(self.len);
            at = end;
            Some((first, end - first))
        })
    }

    fn next_where(&self, from: u64, is: impl Fn(Use) -> bool) -> Option<u64> {
        let mut at = from;
        while at < self.len {
            match &self.chunks[(at / CHUNK) as usize] {
                Chunk::All(all) if !is(*all) => at = (at / CHUNK + 1) * CHUNK,
                chunk if is(chunk.get(at % CHUNK)) => return Some(at),
                _ => at += 1,
            }
        }
        None
    }

    /// How many slots are of one use.
    pub fn count(&self, wanted: Use) -> u64 {
        self.runs(wanted).map(|(_, count)| count).sum()
    }
}

impl Slots {
    /// Adds a device.
    pub fn add(&mut self, device: DeviceNo, len: u64, all: Use) {
        self.devices.insert(device, DeviceSlots::new(len, all));
    }

    pub fn devices(&self) -> impl Iterator<Item = (DeviceNo, &DeviceSlots)> {
        self.devices.iter().map(|(number, slots)| (*number, slots))
    }

    /// What a slot is; nothing where there is no such slot.
    pub fn get(&self, place: Place) -> Option<Use> {
        self.devices.get(&place.device)?.get(place.slot.0)
    }

    pub fn set(&mut self, place: Place, to: Use) {
        if let Some(device) = self.devices.get_mut(&place.device) {
            device.set(place.slot.0, to);
        }
    }

    /// Turns a run of slots from one use into another. Returns the first that was of another use,
    /// or that there is not; those before it have been turned.
    pub fn turn(
        &mut self,
        (device, first, count): (DeviceNo, u64, u64),
        from: Use,
        to: Use,
    ) -> Result<(), Place> {
        let wrong = |slot| Place {
            device,
            slot: Slot(slot),
        };
        let slots = self.devices.get_mut(&device).ok_or(wrong(first))?;
        let end = first.checked_add(count).ok_or(wrong(first))?;
        let mut at = first;
        while at < end {
            let whole = at.is_multiple_of(CHUNK) && end - at >= CHUNK;
            match slots.chunks.get_mut((at / CHUNK) as usize) {
                Some(Chunk::All(all))
                    if whole && *all == from && slots.len.saturating_sub(at) >= CHUNK =>
                {
                    *all = to;
                    at += CHUNK;
                    continue;
                }
                _ => {}
            }
            if slots.get(at) != Some(from) {
                return Err(wrong(at));
            }
            slots.set(at, to);
            at += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: DeviceNo = DeviceNo(3);

    #[test]
    fn uses_are_kept_apart_across_chunks() {
        let mut slots = Slots::default();
        slots.add(DEVICE, 3 * CHUNK + 7, Use::Taken);
        slots
            .turn((DEVICE, 10, 2 * CHUNK), Use::Taken, Use::Free)
            .unwrap();
        slots
            .turn((DEVICE, CHUNK, 1), Use::Free, Use::Pending)
            .unwrap();
        let (_, device) = slots.devices().next().unwrap();
        assert_eq!(
            device.runs(Use::Free).collect::<Vec<_>>(),
            [(10, CHUNK - 10), (CHUNK + 1, CHUNK + 9)]
        );
        assert_eq!(device.count(Use::Taken), 10 + CHUNK - 10 + 7);
        assert_eq!(device.runs(Use::Version).count(), 0);
    }

    #[test]
    fn what_is_of_another_use_is_named() {
        let mut slots = Slots::default();
        slots.add(DEVICE, 8, Use::Free);
        slots.turn((DEVICE, 4, 1), Use::Free, Use::Taken).unwrap();
        let wrong = slots.turn((DEVICE, 2, 5), Use::Free, Use::Pending);
        assert_eq!(wrong.unwrap_err().slot, Slot(4));
        let past = slots.turn((DEVICE, 6, 5), Use::Free, Use::Pending);
        assert_eq!(past.unwrap_err().slot, Slot(8));
        assert!(
            slots
                .turn((DEVICE, 1, u64::MAX), Use::Free, Use::Taken)
                .is_err()
        );
        assert!(
            slots
                .turn((DeviceNo(9), 0, 1), Use::Free, Use::Taken)
                .is_err()
        );
        assert_eq!(
            slots.get(Place {
                device: DEVICE,
                slot: Slot(8)
            }),
            None
        );
    }
}
