//! Hands out slots to write to: from those that are lent already, and where they don't do, from
//! the free list; then they have to be lent before anyone writes to them.

use std::collections::VecDeque;
use std::sync::Arc;

use super::super::CacheError;
use super::super::stock::Stock;
use crate::base::{DeviceNo, Place, Slot};
use crate::ondisk::Change;
use crate::store::View;

/// Runs fetched from a device's free list in one go.
const FETCH: usize = 512;

/// Slots in stock, and free ones by device, as of the last commit less what was handed out since;
/// and the pack that is being filled.
pub(super) struct Allocator {
    stock: Arc<Stock>,
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
    /// The slot, where it was taken for this.
    pub new: Option<NewSlot>,
}

struct DeviceRuns {
    device: DeviceNo,
    /// First slot and count, lowest first.
    runs: VecDeque<(Slot, u64)>,
}

/// A slot that was handed out.
#[derive(Clone, Copy)]
pub(super) struct NewSlot {
    pub place: Place,
    /// Whether it is on the pending list, durably. If not it must be before it is written to.
    pub lent: bool,
}

impl Allocator {
    pub fn new(stock: Arc<Stock>) -> Self {
        Self {
            stock,
            devices: VecDeque::new(),
            open: None,
            spare: 0,
        }
    }

    /// Looks up free slots, so that there are at least `count` with those in stock, where there
    /// are so many. Call only when what was handed out before has been committed. Returns how
    /// many there are.
    pub fn prepare(&mut self, view: &View, count: u64) -> Result<u64, CacheError> {
        let ready = self.stock.ready();
        let count = count.saturating_sub(ready);
        if self.held() >= count {
            return Ok(ready + self.held());
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
        Ok(ready + self.held())
    }

    fn held(&self) -> u64 {
        self.devices
            .iter()
            .flat_map(|device| &device.runs)
            .map(|(_, len)| len)
            .sum()
    }

    /// Forgets the free slots that it holds: there are others now.
    pub fn forget(&mut self) {
        self.devices.clear();
    }

    /// What was to be committed is not: the pack may have been new with it.
    pub fn close_pack(&mut self) {
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
        let new = match open {
            Some(_) => None,
            None => Some(self.take_spare()?),
        };
        let (place, next) = open.or(new.map(|slot| (slot.place, 0)))?;
        self.open = Some((place, next + count));
        Some(Room {
            place,
            first: next as u16,
            new,
        })
    }

    /// Counts a slot that was not promised, which [`take`](Self::take) will hand out. Whether there
    /// is one.
    pub fn spend_spare(&mut self) -> bool {
        let left = self.spare.checked_sub(1);
        self.spare = left.unwrap_or(0);
        left.is_some()
    }

    /// A free slot that nobody was promised.
    pub fn take_spare(&mut self) -> Option<NewSlot> {
        self.spare = self.spare.checked_sub(1)?;
        self.take()
    }

    /// A slot for new data.
    pub fn take(&mut self) -> Option<NewSlot> {
        let lent = |place| NewSlot { place, lent: true };
        let free = |place| NewSlot { place, lent: false };
        // One on a device for which the host had no space only where there is no other.
        let full = self.stock.full();
        let found = self.stock.take().map(lent);
        let found = found.or_else(|| self.take_free(&full).map(free));
        let found = found.or_else(|| self.stock.take_any().map(lent));
        found.or_else(|| self.take_free(&[]).map(free))
    }

    /// Free slots that are to fill up the stock with the next commit, after a batch that took so
    /// many.
    pub fn refill(&mut self, view: &View, taken: u64) -> Result<Vec<Place>, CacheError> {
        let missing = self.stock.missing(taken);
        if missing > 0 {
            self.prepare(view, self.stock.ready() + missing)?;
        }
        let full = self.stock.full();
        Ok(std::iter::from_fn(|| self.take_free(&full))
            .take(missing as usize)
            .collect())
    }

    /// A free slot of another device than these; the devices take turns.
    fn take_free(&mut self, not: &[DeviceNo]) -> Option<Place> {
        loop {
            let may = |runs: &DeviceRuns| !not.contains(&runs.device);
            let next = self.devices.iter().position(may)?;
            let mut from = self.devices.remove(next)?;
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

/// The changes that lend out free slots: off the free list, onto the pending list.
pub(super) fn lend_changes(places: &[Place]) -> Vec<Change> {
    let run = |(device, first, count)| Change::Take {
        device,
        first,
        count,
    };
    let mut changes: Vec<Change> = runs(places).into_iter().map(run).collect();
    changes.extend(places.iter().copied().map(Change::Retire));
    changes
}

/// The changes that make lent slots ones in use.
pub(super) fn adopt_changes(places: &[Place]) -> Vec<Change> {
    let run = |(device, first, count)| Change::Adopt {
        device,
        first,
        count,
    };
    runs(places).into_iter().map(run).collect()
}

/// Runs of neighbouring slots.
fn runs(places: &[Place]) -> Vec<(DeviceNo, Slot, u64)> {
    let mut sorted = places.to_vec();
    sorted.sort_unstable();
    let mut runs: Vec<(DeviceNo, Slot, u64)> = Vec::new();
    for place in sorted {
        match runs.last_mut() {
            Some((device, first, count))
                if *device == place.device && first.0 + *count == place.slot.0 =>
            {
                *count += 1;
            }
            _ => runs.push((place.device, place.slot, 1)),
        }
    }
    runs
}
