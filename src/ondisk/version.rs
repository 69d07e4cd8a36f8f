//! The bytes of a version of a segment: its key, and its [`Descriptor`].
//!
//! The descriptor is two words and two masks. The birth and the slot take the low 48 bits of
//! their words; above them stand the flags and the device.

use super::field::{Field, Fixed, MAX_48, bounded, grow, only_zeros, split};
use super::{Descriptor, FormatError, VersionKey};
use crate::base::{BlockMask, DeviceNo, Epoch, Geometry, MapId, Place, SegmentNo, Slot};

const BIRTH: Field<u64> = Field::FIRST;
const SLOT: Field<u64> = BIRTH.then();
const MASKS: usize = SLOT.end();

const HIGH: u32 = 48;
/// Flag of the birth's word: there is a place.
const HAS_PLACE: u64 = 1;

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
        BIRTH.put(record, birth);
        SLOT.put(record, slot);
        let words = self
            .data
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
        let flags = birth >> HIGH;
        if flags & !HAS_PLACE != 0 || (flags == 0 && slot != 0) {
            let field = "flags";
            return Err(FormatError::Unknown {
                what: WHAT,
                field,
                value: flags,
            });
        }
        let (data, zero) = record[MASKS..].split_at(size_of::<u64>() * mask_words(geometry));
        let descriptor = Self {
            birth: Epoch(birth & MAX_48),
            place: (flags == HAS_PLACE).then_some(place),
            data: mask(data, "data", geometry)?,
            zero: mask(zero, "zero", geometry)?,
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
        match self.data.and(&self.zero).iter().next() {
            Some(block) => Err(FormatError::MaskOverlap { block }),
            None => Ok(()),
        }
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
