//! The naive oracle: the catalog as plain maps and sets.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use super::Random;
use crate::base::{
    Block, BlockMask, Checksum, DeviceNo, DiskId, Epoch, Geometry, MapId, Place, SegmentNo, Seq,
    Slot, Timestamp,
};
use crate::ondisk::{
    Change, Descriptor, DeviceRecord, DiskRecord, Extent, MapRecord, Marks, Origin, SnapshotRecord,
    Space, SumGroup, VersionKey,
};
use crate::store::View;

const FIRST_PLACE: Place = Place {
    device: DeviceNo(0),
    slot: Slot(0),
};

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Model {
    pub(super) disks: BTreeMap<DiskId, DiskRecord>,
    pub(super) maps: BTreeMap<MapId, MapRecord>,
    pub(super) snapshots: BTreeMap<(MapId, Epoch), SnapshotRecord>,
    pub(super) devices: BTreeMap<DeviceNo, DeviceRecord>,
    pub(super) versions: BTreeMap<VersionKey, Descriptor>,
    pub(super) sums: BTreeMap<(DeviceNo, u64), Checksum>,
    pub(super) free: BTreeSet<Place>,
    pub(super) pending: BTreeSet<Place>,
    /// Blocks needed of each pack; none only in the midst of a commit.
    pub(super) packs: BTreeMap<Place, u64>,
    pub(super) marks: Marks,
}

impl Model {
    /// Makes a change, or says that it can't be made.
    pub(super) fn apply(&mut self, change: &Change, geometry: Geometry) -> Result<(), ()> {
        let there = |yes: bool| if yes { Ok(()) } else { Err(()) };
        let place = |device, slot| Place {
            device,
            slot: Slot(slot),
        };
        match change.clone() {
            Change::PutDisk(disk) => drop(self.disks.insert(disk.id, disk)),
            Change::RemoveDisk(id) => there(self.disks.remove(&id).is_some())?,
            Change::PutMap(map) => drop(self.maps.insert(map.id, map)),
            Change::RemoveMap(id) => there(self.maps.remove(&id).is_some())?,
            Change::PutSnapshot(snapshot) => {
                self.snapshots
                    .insert((snapshot.map, snapshot.epoch), snapshot);
            }
            Change::RemoveSnapshot(map, epoch) => {
                there(self.snapshots.remove(&(map, epoch)).is_some())?;
            }
            Change::AddDevice(device) => {
                there(!self.devices.contains_key(&device.device))?;
                self.free
                    .extend((0..device.slots).map(|slot| place(device.device, slot)));
                self.devices.insert(device.device, device);
            }
            Change::PutVersion(key, descriptor) => {
                self.count_packed(&descriptor, true);
                if let Some(old) = self.versions.insert(key, descriptor) {
                    self.count_packed(&old, false);
                }
            }
            Change::RemoveVersion(key) => {
                let old = self.versions.remove(&key).ok_or(())?;
                self.count_packed(&old, false);
            }
            Change::PutChecksums {
                device,
                first,
                sums,
            } => {
                there(self.devices.contains_key(&device))?;
                self.sums
                    .extend((first..).map(|block| (device, block)).zip(sums));
            }
            Change::Take {
                device,
                first,
                count,
            } => {
                for slot in first.0..first.0 + count {
                    there(self.free.remove(&place(device, slot)))?;
                }
            }
            Change::Retire(place) => {
                there(
                    self.devices
                        .get(&place.device)
                        .is_some_and(|d| place.slot.0 < d.slots),
                )?;
                there(!self.free.contains(&place) && self.pending.insert(place))?;
            }
            Change::Free(place) => {
                there(self.pending.remove(&place))?;
                self.free.insert(place);
                let first = geometry.slot_block(place.slot);
                for block in first..first + geometry.blocks() as u64 {
                    self.sums.remove(&(place.device, block));
                }
            }
            Change::SetMarks(marks) => self.marks = marks,
            Change::Adopt {
                device,
                first,
                count,
            } => {
                for slot in first.0..first.0 + count {
                    there(self.pending.remove(&place(device, slot)))?;
                }
            }
            // Here the counts are always right.
            Change::CountFree(..) | Change::CountSpace(_) | Change::CountPack(..) => {}
        }
        Ok(())
    }

    fn count_packed(&mut self, version: &Descriptor, comes: bool) {
        if let Some(place) = version.place.filter(|_| !version.has_own_slot()) {
            let count = version.data.count() as u64;
            let blocks = self.packs.entry(place).or_default();
            *blocks = if comes {
                *blocks + count
            } else {
                *blocks - count
            };
        }
    }

    /// The end of a commit: packs that nobody needs are given up.
    fn settle_packs(&mut self) {
        let empty = self.packs.extract_if(.., |_, blocks| *blocks == 0);
        self.pending.extend(empty.map(|(place, _)| place));
    }

    pub(super) fn space(&self) -> Space {
        Space {
            total: self.devices.values().map(|device| device.slots).sum(),
            free: self.free.len() as u64,
            pending: self.pending.len() as u64,
        }
    }

    /// Everything that a view shows.
    pub(super) fn of(view: &View) -> Self {
        let mut model = Self {
            disks: view
                .disks()
                .unwrap()
                .into_iter()
                .map(|d| (d.id, d))
                .collect(),
            maps: view
                .maps()
                .unwrap()
                .into_iter()
                .map(|m| (m.id, m))
                .collect(),
            devices: view
                .devices()
                .unwrap()
                .into_iter()
                .map(|d| (d.device, d))
                .collect(),
            pending: view.pending(usize::MAX).unwrap().into_iter().collect(),
            packs: view
                .packs(FIRST_PLACE, usize::MAX)
                .unwrap()
                .into_iter()
                .collect(),
            marks: view.marks(),
            ..Self::default()
        };
        for snapshot in view.snapshots().unwrap() {
            model
                .snapshots
                .insert((snapshot.map, snapshot.epoch), snapshot);
        }
        for map in 0..8 {
            let (map, segment, death) = (MapId(map), SegmentNo(0), Epoch(0));
            let from = VersionKey {
                map,
                segment,
                death,
            };
            model
                .versions
                .extend(view.versions_from(from, usize::MAX).unwrap());
        }
        for device in model.devices.keys() {
            let mut last = None;
            for (first, len) in view.free_runs(*device, Slot(0), usize::MAX).unwrap() {
                assert!(last.is_none_or(|last| last < first.0), "free runs touch");
                let slots = (first.0..first.0 + len).map(|slot| Place {
                    device: *device,
                    slot: Slot(slot),
                });
                model.free.extend(slots);
                last = Some(first.0 + len);
            }
            let free = model
                .free
                .iter()
                .filter(|place| place.device == *device)
                .count();
            assert_eq!(view.free_slots_of(*device).unwrap(), free as u64);
        }
        let state = &view.0;
        let sums = &mut model.sums;
        let mut groups = 0;
        let mut visit = |key: u128, value: &[u8]| {
            groups += 1;
            for index in 0..SumGroup::BLOCKS {
                if let Some(sum) = SumGroup::get(value, index as usize)? {
                    let block = (key as u64) * SumGroup::BLOCKS + index;
                    sums.insert((DeviceNo((key >> 64) as u16), block), sum);
                }
            }
            Ok(ControlFlow::Continue(()))
        };
        state
            .content
            .checksums
            .scan(&state.pages, 0, &mut visit)
            .unwrap();
        assert_eq!(state.content.checksums.entries(), groups);
        assert_eq!(
            state.content.versions.entries(),
            model.versions.len() as u64
        );
        assert_eq!(view.space(), model.space());
        model
    }

    /// A change that can be made, or with `bad` one that can't.
    pub(super) fn change(
        &self,
        random: &mut Random,
        geometry: Geometry,
        segments: u64,
        bad: bool,
    ) -> Option<Change> {
        if bad {
            return self.bad_change(random);
        }
        let text = |random: &mut Random, most| {
            let len = random.below(most) as usize;
            "näme-of-a-disk"
                .chars()
                .cycle()
                .take(len / 2)
                .collect::<String>()
        };
        Some(match random.below(21) {
            0 if self.devices.len() < 3 => Change::AddDevice(DeviceRecord {
                device: DeviceNo(self.devices.len() as u16),
                uuid: [random.next() as u8; 16],
                path: text(random, 1024),
                slots: random.below(400),
            }),
            0 => Change::SetMarks(Marks {
                applied: Seq(random.next()),
                journal_offset: random.next(),
                journal_seq: Seq(random.next()),
                next_disk: DiskId(random.next() as u32),
                next_map: MapId(random.next() as u32),
                durable: Seq(random.next()),
                session: random.next() as u32,
                closed: random.next() % 2 == 0,
            }),
            1 => Change::PutDisk(DiskRecord {
                id: DiskId(random.below(20) as u32),
                name: text(random, 255),
                map: MapId(random.next() as u32),
                size: random.next(),
                mode: 0o644,
                uid: random.next() as u32,
                gid: 7,
                created: Timestamp(random.next() as i64),
                modified: Timestamp(2),
                changed: Timestamp(3),
                accessed: Timestamp(-4),
                applied: Seq(random.next()),
                allocated: random.next(),
                priority: 9,
                unlinked: random.one_in(2),
            }),
            2 => Change::RemoveDisk(*pick(random, self.disks.keys())?),
            3 => Change::PutMap(MapRecord {
                id: MapId(random.below(20) as u32),
                epoch: Epoch(random.next() >> 16),
                origin: random.one_in(2).then(|| Origin {
                    map: MapId(random.next() as u32),
                    epoch: Epoch(random.next() >> 16),
                    limit: Block(random.next()),
                }),
                live: random.one_in(2),
                reap: random.one_in(2),
            }),
            4 => Change::RemoveMap(*pick(random, self.maps.keys())?),
            5 => Change::PutSnapshot(SnapshotRecord {
                map: MapId(random.below(4) as u32),
                epoch: Epoch(random.below(20)),
                disk_name: text(random, 120),
                name: text(random, 120),
                size: random.next(),
                mode: 0o600,
                uid: 1,
                gid: 2,
                created: Timestamp(random.next() as i64),
                allocated: random.next(),
                hidden: random.one_in(2),
            }),
            6 => {
                let (map, epoch) = pick(random, self.snapshots.keys())?;
                Change::RemoveSnapshot(*map, *epoch)
            }
            7..=10 => self.put_version(random, geometry, segments),
            11 | 12 => Change::RemoveVersion(*pick(random, self.versions.keys())?),
            13 | 14 => {
                let (device, record) = pick(random, self.devices.iter())?;
                let blocks = geometry.slot_block(Slot(record.slots));
                let first = random.below(blocks.max(1));
                let count = random.below(200).min(blocks - first);
                Change::PutChecksums {
                    device: *device,
                    first,
                    sums: (0..count)
                        .map(|_| Checksum(random.next() as u32 % 3))
                        .collect(),
                }
            }
            15 | 16 => {
                let first = *pick(random, self.free.iter())?;
                let next = |count: &u64| Place {
                    device: first.device,
                    slot: Slot(first.slot.0 + count),
                };
                let most = 1 + random.below(20);
                let count = (0..most)
                    .take_while(|n| self.free.contains(&next(n)))
                    .count();
                Change::Take {
                    device: first.device,
                    first: first.slot,
                    count: count as u64,
                }
            }
            17 | 18 => {
                let (device, record) = pick(random, self.devices.iter())?;
                let slot = Slot(random.below(record.slots.max(1)));
                let place = Place {
                    device: *device,
                    slot,
                };
                let used = self.is_used(&place) && !self.packs.contains_key(&place);
                used.then_some(Change::Retire(place))?
            }
            19 => {
                let Place { device, slot } = *pick(random, self.pending.iter())?;
                Change::Adopt {
                    device,
                    first: slot,
                    count: 1,
                }
            }
            _ => Change::Free(*pick(random, self.pending.iter())?),
        })
    }

    fn is_used(&self, place: &Place) -> bool {
        let device = self.devices.get(&place.device);
        device.is_some_and(|record| place.slot.0 < record.slots)
            && !self.free.contains(place)
            && !self.pending.contains(place)
    }

    fn put_version(&self, random: &mut Random, geometry: Geometry, segments: u64) -> Change {
        let device = pick(random, self.devices.iter()).filter(|(_, record)| record.slots > 0);
        let place = device.map(|(device, record)| Place {
            device: *device,
            slot: Slot(random.below(record.slots)),
        });
        let mask = |random: &mut Random| {
            let blocks = geometry.blocks() as u64;
            let from = random.below(blocks);
            BlockMask::range(
                from as usize,
                (from + random.below(blocks - from + 1)) as usize,
            )
        };
        let data = if place.is_some() {
            mask(random)
        } else {
            BlockMask::EMPTY
        };
        let death = if random.one_in(2) {
            Epoch::LIVE
        } else {
            Epoch(random.below(8))
        };
        let key = VersionKey {
            map: MapId(random.below(3) as u32),
            segment: SegmentNo(random.below(segments)),
            death,
        };
        let zero = mask(random).minus(&data);
        let mut extent = place.map(Extent::own);
        if let Some(extent) = &mut extent
            && self.is_used(&extent.place)
            && !data.is_empty()
        {
            // What is dead in a pack is zero.
            let stored = data.or(&zero.and(&mask(random)));
            let room = (geometry.blocks() - stored.count()) as u64;
            extent.packed = Some((random.below(room + 1) as u16, stored));
        }
        let birth = Epoch(random.below(death.0.min(8) + 1));
        let descriptor = Descriptor::new(birth, extent, data, zero);
        Change::PutVersion(key, descriptor)
    }

    fn bad_change(&self, random: &mut Random) -> Option<Change> {
        Some(match random.below(7) {
            0 => Change::RemoveDisk(DiskId(999)),
            1 => Change::RemoveMap(MapId(999)),
            2 => {
                let place = pick(random, self.pending.iter())?;
                let Place {
                    device,
                    slot: first,
                } = *place;
                Change::Take {
                    device,
                    first,
                    count: 1,
                }
            }
            3 => Change::Free(*pick(random, self.free.iter())?),
            4 => Change::Retire(*pick(random, self.free.iter().chain(&self.pending))?),
            5 => {
                let Place { device, slot } = *pick(random, self.free.iter())?;
                Change::Adopt {
                    device,
                    first: slot,
                    count: 1,
                }
            }
            _ => Change::AddDevice(pick(random, self.devices.values())?.clone()),
        })
    }

    /// A commit's changes, each of which can be made after those before it. Makes them here, too.
    pub(super) fn commit(
        &mut self,
        random: &mut Random,
        geometry: Geometry,
        segments: u64,
        most: u64,
    ) -> Vec<Change> {
        let wanted = 1 + random.below(most) as usize;
        let mut changes = Vec::new();
        while changes.len() < wanted {
            if let Some(change) = self.change(random, geometry, segments, false) {
                self.apply(&change, geometry).unwrap();
                changes.push(change);
            }
        }
        self.settle_packs();
        changes
    }
}

fn pick<T>(random: &mut Random, from: impl Iterator<Item = T> + Clone) -> Option<T> {
    let count = from.clone().count() as u64;
    let mut from = from;
    if count == 0 {
        None
    } else {
        from.nth(random.below(count) as usize)
    }
}
