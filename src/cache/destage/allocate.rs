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

/// Slots in stock, and free ones by device, as of the last commit less what was handed out since.
pub(super) struct Allocator {
    stock: Arc<Stock>,
    devices: VecDeque<DeviceRuns>,
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

    /// A slot for new data.
    pub fn take(&mut self) -> Option<NewSlot> {
        match self.stock.take() {
            Some(place) => Some(NewSlot { place, lent: true }),
            None => self.take_free().map(|place| NewSlot { place, lent: false }),
        }
    }

    /// Free slots that are to fill up the stock with the next commit, after a batch that took so
    /// many.
    pub fn refill(&mut self, view: &View, taken: u64) -> Result<Vec<Place>, CacheError> {
        let missing = self.stock.missing(taken);
        if missing > 0 {
            self.prepare(view, self.stock.ready() + missing)?;
        }
        Ok(std::iter::from_fn(|| self.take_free())
            .take(missing as usize)
            .collect())
    }

    /// A free slot; the devices take turns.
    fn take_free(&mut self) -> Option<Place> {
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
