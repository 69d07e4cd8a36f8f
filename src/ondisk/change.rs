//! The bytes of a [`Change`] in the catalog's log: a tag, then what the change carries.

use super::field::{Field, Fixed, MAX_48, Record, bounded, grow, split};
use super::{
    Change, Descriptor, DeviceRecord, DiskRecord, FormatError, MapRecord, Marks, SnapshotRecord,
    Space, VersionKey, key_place, place_key,
};
use crate::base::{Checksum, DeviceNo, DiskId, Epoch, Geometry, MapId, Place, Slot};

const PUT_DISK: u8 = 1;
const REMOVE_DISK: u8 = 2;
const PUT_MAP: u8 = 3;
const REMOVE_MAP: u8 = 4;
const PUT_SNAPSHOT: u8 = 5;
const REMOVE_SNAPSHOT: u8 = 6;
const ADD_DEVICE: u8 = 7;
const PUT_VERSION: u8 = 8;
const REMOVE_VERSION: u8 = 9;
const PUT_CHECKSUMS: u8 = 10;
const TAKE: u8 = 11;
const RETIRE: u8 = 12;
const FREE: u8 = 13;
const SET_MARKS: u8 = 14;
const ADOPT: u8 = 15;
const COUNT_FREE: u8 = 16;
const COUNT_SPACE: u8 = 17;
const COUNT_PACK: u8 = 18;

/// A run of slots or of checksums: device, first, how many.
const RUN_DEVICE: Field<u16> = Field::FIRST;
const RUN_FIRST: Field<u64> = RUN_DEVICE.then();
const RUN_COUNT: Field<u64> = RUN_FIRST.then();
const RUN_LEN: usize = RUN_COUNT.end();

/// A place, packed like a key.
const PLACE: Field<u64> = Field::FIRST;

const FREE_DEVICE: Field<u16> = Field::FIRST;
const FREE_COUNT: Field<u64> = FREE_DEVICE.then();

const SPACE_TOTAL: Field<u64> = Field::FIRST;
const SPACE_FREE: Field<u64> = SPACE_TOTAL.then();
const SPACE_PENDING: Field<u64> = SPACE_FREE.then();

const PACK_PLACE: Field<u64> = Field::FIRST;
const PACK_BLOCKS: Field<u64> = PACK_PLACE.then();

const SNAPSHOT_MAP: Field<u32> = Field::FIRST;
const SNAPSHOT_EPOCH: Field<u64> = SNAPSHOT_MAP.then();

const WHAT: &str = "change";

impl Change {
    /// Appends its bytes.
    ///
    /// # Errors
    /// Where it breaks a rule of its fields.
    pub fn encode(&self, geometry: Geometry, out: &mut Vec<u8>) -> Result<(), FormatError> {
        match self {
            Self::PutDisk(disk) => tagged(PUT_DISK, out).and_encode(disk),
            Self::RemoveDisk(id) => tagged(REMOVE_DISK, out).and(id.0),
            Self::PutMap(map) => tagged(PUT_MAP, out).and_encode(map),
            Self::RemoveMap(id) => tagged(REMOVE_MAP, out).and(id.0),
            Self::PutSnapshot(snapshot) => tagged(PUT_SNAPSHOT, out).and_encode(snapshot),
            Self::RemoveSnapshot(map, epoch) => {
                bounded(WHAT, "epoch", epoch.0, MAX_48)?;
                tagged(REMOVE_SNAPSHOT, out).and(map.0)?;
                Tagged(out).and(epoch.0)
            }
            Self::AddDevice(device) => tagged(ADD_DEVICE, out).and_encode(device),
            Self::PutVersion(key, descriptor) => {
                descriptor.check_key(*key)?;
                tagged(PUT_VERSION, out).and(key.to_key()?)?;
                descriptor.encode(geometry, out)
            }
            Self::RemoveVersion(key) => tagged(REMOVE_VERSION, out).and(key.to_key()?),
            Self::PutChecksums {
                device,
                first,
                sums,
            } => {
                tagged(PUT_CHECKSUMS, out).run(*device, *first, sums.len() as u64)?;
                let bytes = grow(out, size_of_val(sums.as_slice()));
                for (sum, to) in sums.iter().zip(bytes.chunks_exact_mut(size_of::<u32>())) {
                    sum.0.put(to);
                }
                Ok(())
            }
            Self::Take {
                device,
                first,
                count,
            } => tagged(TAKE, out).run(*device, first.0, *count),
            Self::Retire(place) => tagged(RETIRE, out).and(place_key(*place)? as u64),
            Self::Free(place) => tagged(FREE, out).and(place_key(*place)? as u64),
            Self::SetMarks(marks) => tagged(SET_MARKS, out).and_encode(marks),
            Self::Adopt {
                device,
                first,
                count,
            } => tagged(ADOPT, out).run(*device, first.0, *count),
            Self::CountFree(device, free) => {
                tagged(COUNT_FREE, out).and(device.0)?;
                Tagged(out).and(*free)
            }
            Self::CountSpace(space) => {
                tagged(COUNT_SPACE, out).and(space.total)?;
                Tagged(out).and(space.free)?;
                Tagged(out).and(space.pending)
            }
            Self::CountPack(place, blocks) => {
                tagged(COUNT_PACK, out).and(place_key(*place)? as u64)?;
                Tagged(out).and(*blocks)
            }
        }
    }

    /// Reads one from the start of these bytes; returns what follows, too.
    ///
    /// # Errors
    /// Where they are no change.
    pub fn decode(bytes: &[u8], geometry: Geometry) -> Result<(Self, &[u8]), FormatError> {
        let (tag, rest) = fixed::<u8>(bytes)?;
        Ok(match tag {
            PUT_DISK => map_first(DiskRecord::decode(rest)?, Self::PutDisk),
            REMOVE_DISK => map_first(fixed(rest)?, |id| Self::RemoveDisk(DiskId(id))),
            PUT_MAP => map_first(MapRecord::decode(rest)?, Self::PutMap),
            REMOVE_MAP => map_first(fixed(rest)?, |id| Self::RemoveMap(MapId(id))),
            PUT_SNAPSHOT => map_first(SnapshotRecord::decode(rest)?, Self::PutSnapshot),
            REMOVE_SNAPSHOT => {
                let (key, rest) = split(WHAT, rest, SNAPSHOT_EPOCH.end())?;
                let epoch = bounded(WHAT, "epoch", SNAPSHOT_EPOCH.get(key), MAX_48)?;
                let map = MapId(SNAPSHOT_MAP.get(key));
                (Self::RemoveSnapshot(map, Epoch(epoch)), rest)
            }
            ADD_DEVICE => map_first(DeviceRecord::decode(rest)?, Self::AddDevice),
            PUT_VERSION => {
                let (key, rest) = fixed(rest)?;
                let key = VersionKey::from_key(key);
                let (descriptor, rest) = Descriptor::decode(rest, geometry)?;
                descriptor.check_key(key)?;
                (Self::PutVersion(key, descriptor), rest)
            }
            REMOVE_VERSION => map_first(fixed(rest)?, |key| {
                Self::RemoveVersion(VersionKey::from_key(key))
            }),
            PUT_CHECKSUMS => decode_checksums(rest)?,
            TAKE => {
                let ((device, first, count), rest) = run(rest)?;
                let first = Slot(first);
                (
                    Self::Take {
                        device,
                        first,
                        count,
                    },
                    rest,
                )
            }
            RETIRE => map_first(place(rest)?, Self::Retire),
            FREE => map_first(place(rest)?, Self::Free),
            SET_MARKS => map_first(Marks::decode(rest)?, Self::SetMarks),
            ADOPT => map_first(run(rest)?, |(device, first, count)| Self::Adopt {
                device,
                first: Slot(first),
                count,
            }),
            COUNT_FREE => {
                let (count, rest) = split(WHAT, rest, FREE_COUNT.end())?;
                let device = DeviceNo(FREE_DEVICE.get(count));
                (Self::CountFree(device, FREE_COUNT.get(count)), rest)
            }
            COUNT_SPACE => {
                let (space, rest) = split(WHAT, rest, SPACE_PENDING.end())?;
                let space = Space {
                    total: SPACE_TOTAL.get(space),
                    free: SPACE_FREE.get(space),
                    pending: SPACE_PENDING.get(space),
                };
                (Self::CountSpace(space), rest)
            }
            COUNT_PACK => {
                let (pack, rest) = split(WHAT, rest, PACK_BLOCKS.end())?;
                let place = key_place(u128::from(PACK_PLACE.get(pack)));
                (Self::CountPack(place, PACK_BLOCKS.get(pack)), rest)
            }
            tag => {
                return Err(FormatError::Unknown {
                    what: WHAT,
                    field: "tag",
                    value: u64::from(tag),
                });
            }
        })
    }
}

fn decode_checksums(bytes: &[u8]) -> Result<(Change, &[u8]), FormatError> {
    let ((device, first, count), rest) = run(bytes)?;
    // More than the bytes can hold is refused here, before it becomes a length to multiply.
    let most = (rest.len() / size_of::<u32>()) as u64;
    let count = bounded(WHAT, "checksum count", count, most)? as usize;
    let (sums, rest) = split(WHAT, rest, count * size_of::<u32>())?;
    let sums = sums
        .chunks_exact(size_of::<u32>())
        .map(|sum| Checksum(u32::get(sum)))
        .collect();
    Ok((
        Change::PutChecksums {
            device,
            first,
            sums,
        },
        rest,
    ))
}

/// A change whose tag has been written.
struct Tagged<'a>(&'a mut Vec<u8>);

fn tagged(tag: u8, out: &mut Vec<u8>) -> Tagged<'_> {
    out.push(tag);
    Tagged(out)
}

impl Tagged<'_> {
    fn and<T: Fixed>(self, value: T) -> Result<(), FormatError> {
        value.put(grow(self.0, T::LEN));
        Ok(())
    }

    fn and_encode(self, record: &impl Record) -> Result<(), FormatError> {
        record.encode(self.0)
    }

    fn run(self, device: DeviceNo, first: u64, count: u64) -> Result<(), FormatError> {
        let run = grow(self.0, RUN_LEN);
        RUN_DEVICE.put(run, device.0);
        RUN_FIRST.put(run, first);
        RUN_COUNT.put(run, count);
        Ok(())
    }
}

fn fixed<T: Fixed>(bytes: &[u8]) -> Result<(T, &[u8]), FormatError> {
    let (value, rest) = split(WHAT, bytes, T::LEN)?;
    Ok((T::get(value), rest))
}

type Run = (DeviceNo, u64, u64);

fn run(bytes: &[u8]) -> Result<(Run, &[u8]), FormatError> {
    let (run, rest) = split(WHAT, bytes, RUN_LEN)?;
    let device = DeviceNo(RUN_DEVICE.get(run));
    Ok(((device, RUN_FIRST.get(run), RUN_COUNT.get(run)), rest))
}

fn place(bytes: &[u8]) -> Result<(Place, &[u8]), FormatError> {
    let (place, rest) = split(WHAT, bytes, PLACE.end())?;
    Ok((key_place(u128::from(PLACE.get(place))), rest))
}

fn map_first<A, B, R>((first, rest): (A, R), to: impl FnOnce(A) -> B) -> (B, R) {
    (to(first), rest)
}
