//! Slots that are lent out: taken off the free list before anyone writes to them.
//!
//! They stand on the catalog's pending list, durably, until the commit that leads readers there
//! adopts them. So whatever a crash leaves written in a slot that was not adopted is punched and
//! freed by reclaim at the next opening, like any slot that was given up (P9).

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use rustc_hash::FxHashSet;

use super::CacheError;
use crate::base::sync::Mutex;
use crate::base::{DeviceNo, Place};
use crate::ondisk::Space;

/// Slots kept ready at the most.
const MOST: u64 = 4096;
/// How long slots are kept warm after a writer last asked for some.
pub(super) const WARM_FOR: Duration = Duration::from_secs(1);

/// The slots that are lent out.
#[derive(Default)]
pub(super) struct Stock {
    state: Mutex<State>,
    /// How long a device that was full goes without being tried, where there are others.
    full_for: Duration,
    /// Slots kept warm at the most.
    most_warm: usize,
}

#[derive(Default)]
struct State {
    /// Lent, written by nobody, and for whoever needs one; oldest first.
    ready: VecDeque<Place>,
    /// All that are lent: `ready`, and those that were taken from it and not adopted yet. Only
    /// the destager adds and removes any.
    lent: FxHashSet<Place>,
    /// Taken by writers and given back: nothing came of the write, or something newer took its
    /// place before it was destaged. Still lent; may hold data.
    returned: Vec<Place>,
    /// Taken by the destager for a batch that came to nothing. Still lent; may hold data.
    unused: Vec<Place>,
    /// Given up by what was in them and by the last reader, and not punched: for writers, who fill
    /// slots whole. The host has space for them already, and those given up last also in its
    /// memory; both cost more to come by than a slot is worth that is written over at once.
    /// Still lent; they hold old data. The warmest is last.
    warm: Vec<Place>,
    /// When a writer last asked for slots.
    asked_at: Option<Instant>,
    /// None is kept warm before this.
    cold_until: Option<Instant>,
    /// How many to keep ready: so many as the last batches took.
    want: u64,
    /// How many writers asked for since that was reckoned.
    asked: u64,
    /// The most that any of them asked for in vain; who asks again counts once.
    failed: u64,
    /// Devices for which the host had no space, and when that was.
    full: BTreeMap<DeviceNo, Instant>,
}

impl State {
    /// A ready slot; of a device that may be full only if told so.
    fn take(&mut self, even_full: bool) -> Option<Place> {
        if self.full.is_empty() || even_full {
            return self.ready.pop_front();
        }
        let full = &self.full;
        let at = self
            .ready
            .iter()
            .position(|at| !full.contains_key(&at.device))?;
        self.ready.remove(at)
    }

    /// Whether slots are worth to be kept warm.
    fn wants_warm(&self) -> bool {
        let asked = self.asked_at.is_some_and(|at| at.elapsed() < WARM_FOR);
        let cold = self.cold_until.is_some_and(|until| Instant::now() < until);
        asked && !cold && self.full.is_empty()
    }

    /// How many ready slots are on devices that may have space.
    fn usable(&self) -> usize {
        if self.full.is_empty() {
            return self.ready.len();
        }
        let usable = |place: &&Place| !self.full.contains_key(&place.device);
        self.ready.iter().filter(usable).count()
    }
}

impl Stock {
    /// No slots; a device that was full is left alone for so long, and so many slots are kept
    /// warm at the most.
    pub fn new(full_for: Duration, most_warm: usize) -> Self {
        Self {
            full_for,
            most_warm,
            ..Self::default()
        }
    }

    /// A slot to write to, if there is one on a device that may have space.
    pub fn take(&self) -> Option<Place> {
        self.state.lock().take(false)
    }

    /// A slot to write to, on whatever device.
    pub fn take_any(&self) -> Option<Place> {
        self.state.lock().take(true)
    }

    /// Where a write failed because the host has no space, takes note of the device.
    pub fn note_full(&self, place: Place, error: &CacheError) {
        if error.is_no_room() {
            let now = Instant::now();
            self.state.lock().full.insert(place.device, now);
        }
    }

    /// The devices that were full a short while ago.
    pub fn full(&self) -> Vec<DeviceNo> {
        let mut state = self.state.lock();
        state
            .full
            .retain(|_, since| since.elapsed() < self.full_for);
        state.full.keys().copied().collect()
    }

    /// So many slots for a writer to fill; none where there are fewer. Says too whether the stock
    /// runs low.
    pub fn borrow(&self, count: u64) -> (Vec<Place>, bool) {
        let mut state = self.state.lock();
        state.asked_at = Some(Instant::now());
        let warm = if state.full.is_empty() {
            state.warm.len()
        } else {
            0
        };
        let from_warm = count.min(warm as u64);
        let others = count - from_warm;
        if others > state.usable() as u64 {
            state.failed = state.failed.max(others);
            return (Vec::new(), true);
        }
        state.asked += others;
        let rest = state.warm.len() - from_warm as usize;
        let mut places = state.warm.split_off(rest);
        places.extend((0..others).filter_map(|_| state.take(false)));
        let low = others > 0 && state.ready.len() as u64 <= state.want / 2;
        (places, low)
    }

    /// Keeps a slot warm that nobody can look at any more, as long as writers ask for some; whether
    /// it does.
    pub fn keep_warm(&self, place: Place) -> bool {
        let mut state = self.state.lock();
        let keep = state.wants_warm() && state.warm.len() < self.most_warm;
        if keep {
            state.warm.push(place);
            state.lent.insert(place);
        }
        keep
    }

    /// Lets no slot be kept warm before a writer asks for one again.
    pub fn cool_down(&self) {
        self.state.lock().asked_at = None;
    }

    /// Lets no slot be kept warm for a while, whoever asks: space is short.
    pub fn stay_cold(&self) {
        self.state.lock().cold_until = Some(Instant::now() + WARM_FOR);
    }

    /// Whether slots are kept warm.
    pub fn is_warm(&self) -> bool {
        !self.state.lock().warm.is_empty()
    }

    /// The slots that were kept warm, where it is time to give them back. They are lent no more, but
    /// given up.
    pub fn take_cold(&self) -> Vec<Place> {
        let mut state = self.state.lock();
        if state.wants_warm() {
            return Vec::new();
        }
        let cold = std::mem::take(&mut state.warm);
        for place in &cold {
            state.lent.remove(place);
        }
        cold
    }

    /// A writer's slot comes back.
    pub fn give_back(&self, place: Place) {
        self.state.lock().returned.push(place);
    }

    /// Slots that the destager took and that no commit will adopt.
    pub fn give_up(&self, places: impl Iterator<Item = Place>) {
        self.state.lock().unused.extend(places);
    }

    /// The slots that came back: those of writers, and the destager's. They are lent no more, but
    /// given up.
    pub fn take_returned(&self) -> (Vec<Place>, Vec<Place>) {
        let mut state = self.state.lock();
        let returned = std::mem::take(&mut state.returned);
        let unused = std::mem::take(&mut state.unused);
        for place in returned.iter().chain(&unused) {
            state.lent.remove(place);
        }
        (returned, unused)
    }

    /// Notes slots that a commit has put on the pending list, for whoever needs one.
    pub fn add(&self, places: &[Place]) {
        let mut state = self.state.lock();
        state.ready.extend(places);
        state.lent.extend(places);
    }

    /// Notes slots that a commit has put on the pending list for one who is about to write them.
    pub fn lend(&self, places: &[Place]) {
        self.state.lock().lent.extend(places);
    }

    /// Slots that a commit has adopted: they are in use now.
    pub fn adopted(&self, places: &[Place]) {
        let mut state = self.state.lock();
        for place in places {
            state.lent.remove(place);
        }
    }

    /// How many are ready.
    pub fn ready(&self) -> u64 {
        self.state.lock().ready.len() as u64
    }

    /// How many are lent.
    pub fn lent(&self) -> u64 {
        self.state.lock().lent.len() as u64
    }

    /// How many slots of a device are lent, and hold nothing that has been given up.
    pub fn lent_of(&self, device: DeviceNo) -> u64 {
        let state = self.state.lock();
        let of_device = |place: &&Place| place.device == device;
        let given_up = state.returned.iter().chain(&state.warm);
        (state.lent.iter().filter(of_device).count() - given_up.filter(of_device).count()) as u64
    }

    /// The pool's slots as people see them: one that is lent out is free until it is adopted.
    pub fn shown(&self, space: Space) -> Space {
        let state = self.state.lock();
        let lent = (state.lent.len() - state.returned.len() - state.warm.len()) as u64;
        let lent = lent.min(space.pending);
        Space {
            free: space.free + lent,
            pending: space.pending - lent,
            ..space
        }
    }

    pub fn is_lent(&self, place: Place) -> bool {
        self.state.lock().lent.contains(&place)
    }

    /// How many more are to be made ready, now that a batch took so many.
    pub fn missing(&self, taken: u64) -> u64 {
        let mut state = self.state.lock();
        let asked = std::mem::take(&mut state.asked) + std::mem::take(&mut state.failed);
        let taken = taken.saturating_add(asked);
        if taken > 0 {
            state.want = taken.max(state.want - state.want / 8).min(MOST);
        }
        state.want.saturating_sub(state.ready.len() as u64)
    }

    /// All that are ready; nobody gets one any more.
    pub fn close(&self) -> Vec<Place> {
        let mut state = self.state.lock();
        state.want = 0;
        std::mem::take(&mut state.ready).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Slot;

    fn at(slot: u64) -> Place {
        Place {
            device: DeviceNo(slot as u16 % 2),
            slot: Slot(slot),
        }
    }

    #[test]
    fn a_slot_is_lent_until_it_is_adopted() {
        let stock = Stock::default();
        stock.add(&[at(1), at(2)]);
        stock.lend(&[at(3)]);
        assert_eq!((stock.ready(), stock.lent()), (2, 3));
        assert_eq!(stock.take(), Some(at(1)));
        assert!(stock.is_lent(at(1)));
        assert_eq!(stock.lent_of(DeviceNo(1)), 2);
        stock.adopted(&[at(1), at(3)]);
        assert!(!stock.is_lent(at(1)));
        assert_eq!((stock.ready(), stock.lent()), (1, 1));
        assert_eq!(stock.close(), [at(2)]);
        assert_eq!(stock.take(), None);
    }

    #[test]
    fn so_many_are_kept_ready_as_the_last_batches_took() {
        let stock = Stock::default();
        assert_eq!(stock.missing(0), 0);
        assert_eq!(stock.missing(64), 64);
        stock.add(&[at(1), at(2)]);
        assert_eq!(stock.missing(1), 54);
        assert_eq!(stock.missing(0), 54);
        assert_eq!(stock.missing(1 << 40), MOST - 2);
    }

    #[test]
    fn a_slot_that_a_writer_gives_back_is_given_up() {
        let stock = Stock::default();
        assert_eq!(stock.borrow(2), (Vec::new(), true));
        assert_eq!(stock.missing(0), 2);
        stock.add(&[at(1), at(2), at(3)]);
        assert_eq!(stock.borrow(2), (vec![at(1), at(2)], true));
        stock.give_back(at(1));
        assert_eq!((stock.ready(), stock.lent()), (1, 3));
        stock.give_up([at(2)].into_iter());
        assert_eq!(stock.take_returned(), (vec![at(1)], vec![at(2)]));
        assert_eq!((stock.ready(), stock.lent()), (1, 1));
    }

    #[test]
    fn slots_are_kept_warm_for_writers_as_long_as_these_ask() {
        let stock = Stock::new(Duration::ZERO, 2);
        assert!(!stock.keep_warm(at(1)), "nobody asked");
        stock.borrow(1);
        let kept = [at(1), at(2), at(3)].map(|place| stock.keep_warm(place));
        assert_eq!(kept, [true, true, false]);
        assert_eq!((stock.ready(), stock.lent(), stock.is_warm()), (0, 2, true));
        assert_eq!(
            stock.take(),
            None,
            "who fills a slot in part gets an empty one"
        );
        // The warmest first, and others with them.
        stock.add(&[at(5), at(6)]);
        assert_eq!(stock.borrow(1).0, [at(2)]);
        assert_eq!(stock.borrow(3).0, [at(1), at(5), at(6)]);
        assert!(stock.keep_warm(at(2)));
        assert!(stock.take_cold().is_empty());
        stock.cool_down();
        assert_eq!(stock.take_cold(), [at(2)]);
        stock.borrow(0);
        assert!(stock.keep_warm(at(2)));
        // Also where writers go on asking.
        stock.stay_cold();
        stock.borrow(0);
        assert_eq!(stock.take_cold(), [at(2)]);
        assert!(!stock.is_lent(at(2)) && !stock.keep_warm(at(2)));
    }
}
