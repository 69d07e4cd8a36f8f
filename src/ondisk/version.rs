//! The bytes of a version of a segment: its key, and its [`Descriptor`].
//!
//! The descriptor is two words and two masks. The birth and the slot take the low 48 bits of
//! their words; above them stand the flags and the device. Of the flags' 16 bits the lowest says
//! that there is a place, the next that it is a pack, and the upper 12 where the blocks begin in
//! it. The first mask is that of the blocks that have a place; those of a pack that are in the
//! second mask, of the zeros, as well, are dead.

use super::field::{Field, Fixed, MAX_48, bounded, grow, only_zeros, split};
use super::{Descriptor, FormatError, Layout, VersionKey};
use crate::base::{BlockMask, DeviceNo, Epoch, Geometry, MapId, Place, SegmentNo, Slot};

const BIRTH: Field<u64> = Field::FIRST;
const SLOT: Field<u64> = BIRTH.then();
const MASKS: usize = SLOT.end();

const HIGH: u32 = 48;
/// Flags of the birth's word: there is a place; it is a pack.
const HAS_PLACE: u64 = 1;
const PACKED: u64 = 2;
/// Above the flags: where in the pack the blocks begin.
const FIRST: u32 = 4;
const _: () = assert!(Geometry::MAX_BLOCKS <= 1 << (16 - FIRST));

const WHAT: &str = "version";

impl VersionKey {
    /// The key in the tree: map, segment, death, from the highest bits down. All versions of a
    /// segment are neighbours, and the live one is the last of them.
    ///
    /// # Errors
    /// Where segment or death have more than 48 bits.
    pub fn to_key(self) -> Result<u128, FormatError> {
        let segment = bounded(WHAT, "segment", self.segment.0, MAX_48)?;
        let death = bounded(WHAT, "death", self.death.0, MAX_48)?;
        Ok(u128::from(self.map.0) << 96 | u128::from(segment) << 48 | u128::from(death))
    }

    /// The version that a key of the tree stands for.
    #[must_use]
    pub fn from_key(key: u128) -> Self {
        Self {
            map: MapId((key >> 96) as u32),
            segment: SegmentNo((key >> 48) as u64 & MAX_48),
            death: Epoch(key as u64 & MAX_48),
        }
    }
}

impl Descriptor {
    /// How many bytes a descriptor has in a store of this geometry.
    #[must_use]
    pub fn encoded_len(geometry: Geometry) -> usize {
        MASKS + 2 * size_of::<u64>() * mask_words(geometry)
    }

    /// Appends its bytes.
    ///
    /// # Errors
    /// Where it breaks a rule of its fields.
    pub fn encode(&self, geometry: Geometry, out: &mut Vec<u8>) -> Result<(), FormatError> {
        self.check(geometry)?;
        let record = grow(out, Self::encoded_len(geometry));
        let (mut birth, mut slot) = (self.birth.0, 0);
        if let Some(place) = self.place {
            birth |= HAS_PLACE << HIGH;
            slot = place.slot.0 | u64::from(place.device.0) << HIGH;
        }
        if let Layout::Packed { first, .. } = self.layout {
            birth |= (PACKED | u64::from(first) << FIRST) << HIGH;
        }
        BIRTH.put(record, birth);
        SLOT.put(record, slot);
        let stored = self.stored();
        let words = stored
            .words(geometry)
            .iter()
            .chain(self.zero.words(geometry));
        for (word, to) in words.zip(record[MASKS..].chunks_exact_mut(size_of::<u64>())) {
            word.put(to);
        }
        Ok(())
    }

    /// Reads one from the start of these bytes; returns what follows, too.
    ///
    /// # Errors
    /// Where they are no descriptor of a store of this geometry.
    pub fn decode(bytes: &[u8], geometry: Geometry) -> Result<(Self, &[u8]), FormatError> {
        let (record, rest) = split(WHAT, bytes, Self::encoded_len(geometry))?;
        let (birth, slot) = (BIRTH.get(record), SLOT.get(record));
        let place = Place {
            device: DeviceNo((slot >> HIGH) as u16),
            slot: Slot(slot & MAX_48),
        };
        let value = birth >> HIGH;
        let (flags, first) = (value & ((1 << FIRST) - 1), (value >> FIRST) as u16);
        let known = match flags {
            0 => slot == 0 && first == 0,
            HAS_PLACE => first == 0,
            flags => flags == HAS_PLACE | PACKED,
        };
        if !known {
            let (what, field) = (WHAT, "flags");
            return Err(FormatError::Unknown { what, field, value });
        }
        let (stored, zero) = record[MASKS..].split_at(size_of::<u64>() * mask_words(geometry));
        let (mut data, zero) = (
            mask(stored, "data", geometry)?,
            mask(zero, "zero", geometry)?,
        );
        let mut layout = Layout::Own;
        if flags & PACKED != 0 {
            let dead = data.and(&zero);
            data = data.minus(&dead);
            layout = Layout::Packed { first, dead };
        }
        let descriptor = Self {
            birth: Epoch(birth & MAX_48),
            place: (flags & HAS_PLACE != 0).then_some(place),
            layout,
            data,
            zero,
        };
        descriptor.check(geometry)?;
        Ok((descriptor, rest))
    }

    /// The descriptor that is a tree's value.
    ///
    /// # Errors
    /// Where it is none.
    pub fn from_value(value: &[u8], geometry: Geometry) -> Result<Self, FormatError> {
        let (descriptor, rest) = Self::decode(value, geometry)?;
        only_zeros(WHAT, rest)?;
        Ok(descriptor)
    }

    /// Whether it can be the version of this key.
    ///
    /// # Errors
    /// Where it was born after its death.
    pub fn check_key(&self, key: VersionKey) -> Result<(), FormatError> {
        if self.birth > key.death {
            return Err(FormatError::BirthAfterDeath {
                birth: self.birth,
                death: key.death,
            });
        }
        Ok(())
    }

    fn check(&self, geometry: Geometry) -> Result<(), FormatError> {
        bounded(WHAT, "birth", self.birth.0, MAX_48)?;
        if let Some(place) = self.place {
            bounded(WHAT, "slot", place.slot.0, MAX_48)?;
        } else if !self.data.is_empty() {
            let blocks = self.data.count();
            return Err(FormatError::NoPlace { blocks });
        }
        let full = BlockMask::full(geometry);
        let blocks = geometry.blocks();
        for (field, mask) in [("data", &self.data), ("zero", &self.zero)] {
            if !mask.minus(&full).is_empty() {
                return Err(FormatError::MaskOutside { field, blocks });
            }
        }
        if let Some(block) = self.data.and(&self.zero).iter().next() {
            return Err(FormatError::MaskOverlap { block });
        }
        let Layout::Packed { first, dead } = &self.layout else {
            return Ok(());
        };
        let end = usize::from(*first) + self.stored().count();
        let fits = end <= blocks && self.place.is_some() && !self.data.is_empty();
        if !fits || !dead.minus(&self.zero).is_empty() {
            return Err(FormatError::BadPacking { end, blocks });
        }
        Ok(())
    }

    /// How many blocks of a pack count for the version that is a tree's value, and which slot
    /// that is; nothing where it has none in a pack.
    ///
    /// # Errors
    /// Where the value is none.
    pub fn packed_blocks(
        value: &[u8],
        geometry: Geometry,
    ) -> Result<Option<(Place, u64)>, FormatError> {
        let (record, _) = split(WHAT, value, Self::encoded_len(geometry))?;
        if (BIRTH.get(record) >> HIGH) & PACKED == 0 {
            return Ok(None);
        }
        let (descriptor, _) = Self::decode(value, geometry)?;
        let blocks = descriptor.data.count() as u64;
        Ok(descriptor.place.map(|place| (place, blocks)))
    }
}

fn mask_words(geometry: Geometry) -> usize {
    geometry.blocks().div_ceil(64)
}

fn mask(bytes: &[u8], field: &'static str, geometry: Geometry) -> Result<BlockMask, FormatError> {
    let words = bytes.chunks_exact(size_of::<u64>()).map(u64::get);
    BlockMask::from_words(words, geometry).ok_or(FormatError::MaskOutside {
        field,
        blocks: geometry.blocks(),
    })
}
