//! Hands out free slots between two commits.

use std::collections::VecDeque;

use super::super::CacheError;
use crate::base::{DeviceNo, Place, Slot};
use crate::ondisk::Change;
use crate::store::View;

/// Runs fetched from a device's free list in one go.
const FETCH: usize = 512;

/// Free slots by device, as of the last commit less what was handed out since; and the pack that
/// is being filled.
#[derive(Default)]
pub(super) struct Allocator {
    devices: VecDeque<DeviceRuns>,
    /// The pack, and its first block that nothing has been written to.
    open: Option<(Place, usize)>,
    /// Slots that may still be taken beyond those that queued writes were promised.
    spare: u64,
}

/// Where some blocks may lie together in a pack.
pub(super) struct Room {
    pub place: Place,
    pub first: u16,
    /// Whether the slot was taken for it.
    pub is_new: bool,
}

struct DeviceRuns {
    device: DeviceNo,
    /// First slot and count, lowest first.
    runs: VecDeque<(Slot, u64)>,
}

impl Allocator {
    /// Looks up free slots, at least `count` where there are so many. Call only when what was
    /// handed out before has been committed. Returns how many it found.
    pub fn prepare(&mut self, view: &View, count: u64) -> Result<u64, CacheError> {
        if self.held() >= count {
            return Ok(self.held());
        }
        self.devices.clear();
        for record in view.devices()? {
            let mut runs = VecDeque::new();
            let (mut from, mut found) = (Slot(0), 0);
            while found < count {
                let more = view.free_runs(record.device, from, FETCH)?;
                let Some((last, len)) = more.last().copied() else {
                    break;
                };
                from = Slot(last.0 + len);
                found += more.iter().map(|(_, len)| len).sum::<u64>();
                runs.extend(more);
            }
            if !runs.is_empty() {
                self.devices.push_back(DeviceRuns {
                    device: record.device,
                    runs,
                });
            }
        }
        Ok(self.held())
    }

    fn held(&self) -> u64 {
        self.devices
            .iter()
            .flat_map(|device| &device.runs)
            .map(|(_, len)| len)
            .sum()
    }

    /// Forgets what it holds; after a failure nothing of it is sure.
    pub fn forget(&mut self) {
        self.devices.clear();
        self.open = None;
    }

    /// Stops filling the pack where it was given up meanwhile. To be called after each commit,
    /// before more is packed.
    pub fn check_pack(&mut self, view: &View) -> Result<(), CacheError> {
        if let Some((place, _)) = self.open
            && view.pack(place)?.is_none()
        {
            self.open = None;
        }
        Ok(())
    }

    /// Says how many slots may be taken from now on beyond those promised.
    pub fn allow(&mut self, spare: u64) {
        self.spare = spare;
    }

    /// Room for `count` blocks in a pack of `blocks`: in the open one, or in a new one where a
    /// slot is spare.
    ///
    /// A slot that a segment was promised is not spent on a pack: what else is queued for the
    /// segment may need it still, and finds no room in the pack.
    pub fn pack(&mut self, count: usize, blocks: usize) -> Option<Room> {
        let open = self.open.filter(|(_, next)| next + count <= blocks);
        let (place, next) = match open {
            Some(open) => open,
            None => (self.take_spare()?, 0),
        };
        self.open = Some((place, next + count));
        Some(Room {
            place,
            first: next as u16,
            is_new: open.is_none(),
        })
    }

    /// A free slot that nobody was promised.
    pub fn take_spare(&mut self) -> Option<Place> {
        self.spare = self.spare.checked_sub(1)?;
        self.take()
    }

    /// A free slot; the devices take turns.
    pub fn take(&mut self) -> Option<Place> {
        loop {
            let mut from = self.devices.pop_front()?;
            let Some(run) = from.runs.front_mut() else {
                continue;
            };
            let place = Place {
                device: from.device,
                slot: run.0,
            };
            *run = (run.0.next(), run.1 - 1);
            if run.1 == 0 {
                from.runs.pop_front();
            }
            self.devices.push_back(from);
            return Some(place);
        }
    }
}

/// The changes that take these slots off the free list.
pub(super) fn take_changes(mut taken: Vec<Place>) -> Vec<Change> {
    taken.sort_unstable();
    let mut changes: Vec<Change> = Vec::new();
    for place in taken {
        match changes.last_mut() {
            Some(Change::Take {
                device,
                first,
                count,
            }) if *device == place.device && first.0 + *count == place.slot.0 => {
                *count += 1;
            }
            _ => changes.push(Change::Take {
                device: place.device,
                first: place.slot,
                count: 1,
            }),
        }
    }
    changes
}
