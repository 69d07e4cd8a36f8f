//! The keys of the catalog's smaller trees.

use super::FormatError;
use super::field::{Fixed, MAX_48, bounded, only_zeros, split};
use crate::base::{DeviceNo, Epoch, MapId, Place, Slot};

/// Bits of a slot or an epoch.
const LOW: u32 = 48;

/// The key of a snapshot: map, epoch.
///
/// # Errors
/// Where the epoch has more than 48 bits.
pub fn snapshot_key(map: MapId, epoch: Epoch) -> Result<u128, FormatError> {
    let epoch = bounded("snapshot key", "epoch", epoch.0, MAX_48)?;
    Ok(u128::from(map.0) << LOW | u128::from(epoch))
}

/// The key of a slot, in the trees of free runs and of pending slots: device, slot.
///
/// # Errors
/// Where the slot has more than 48 bits.
pub fn place_key(place: Place) -> Result<u128, FormatError> {
    let slot = bounded("slot key", "slot", place.slot.0, MAX_48)?;
    Ok(u128::from(place.device.0) << LOW | u128::from(slot))
}

/// The slot that such a key stands for.
#[must_use]
pub fn key_place(key: u128) -> Place {
    Place {
        device: DeviceNo((key >> LOW) as u16),
        slot: Slot(key as u64 & MAX_48),
    }
}

/// The length of a free run as a tree's value.
#[must_use]
pub fn encode_run(slots: u64) -> [u8; 8] {
    slots.to_le_bytes()
}

/// The length of the free run that a tree's value is.
///
/// # Errors
/// Where the value has another length, or the run is empty or longer than a device can be.
pub fn decode_run(value: &[u8]) -> Result<u64, FormatError> {
    count("free run", "length", value)
}

/// How many blocks of a pack versions need, as a tree's value.
#[must_use]
pub fn encode_pack(blocks: u64) -> [u8; 8] {
    blocks.to_le_bytes()
}

/// How many blocks of a pack versions need, from a tree's value.
///
/// # Errors
/// Where the value has another length, or says that there are none.
pub fn decode_pack(value: &[u8]) -> Result<u64, FormatError> {
    count("pack", "blocks", value)
}

fn count(what: &'static str, field: &'static str, value: &[u8]) -> Result<u64, FormatError> {
    let (number, rest) = split(what, value, size_of::<u64>())?;
    only_zeros(what, rest)?;
    match u64::get(number) {
        0 => Err(FormatError::Unknown {
            what,
            field,
            value: 0,
        }),
        number => bounded(what, field, number, MAX_48),
    }
}
