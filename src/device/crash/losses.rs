//! All that a crash can leave of a short recording: at every event, every subset of what was not
//! synced, in every order where that matters, with every tearing.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::super::MemoryDevice;
use super::image::{Images, Random, images, sectors};
use super::recording::{Event, Recording};

/// How far to go where there is too much for all.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open changes up to which all subsets are tried; of more, so many subsets as of so many.
    pub open: usize,
    /// Candidates looked at after one event; beyond, so many are chosen.
    pub candidates: usize,
    /// Chooses.
    pub seed: u64,
}

/// What part of a change reached the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Whole,
    /// The first so many sectors.
    Front(usize),
    /// All but the first so many sectors.
    Back(usize),
    /// All but this sector.
    Without(usize),
}

impl Part {
    fn has(self, sector: usize) -> bool {
        match self {
            Self::Whole => true,
            Self::Front(count) => sector < count,
            Self::Back(count) => sector >= count,
            Self::Without(lost) => sector != lost,
        }
    }

    /// All ways to tear a change of so many sectors.
    fn tearings(sectors: usize) -> impl Iterator<Item = Self> {
        let inner = 1..sectors.saturating_sub(1);
        let fronts = (1..sectors).map(Self::Front);
        let backs = (1..sectors).map(Self::Back);
        fronts.chain(backs).chain(inner.map(Self::Without))
    }
}

/// One image that a crash can leave, and when.
#[derive(Clone, Debug)]
pub struct Loss {
    /// A power failure may leave it after so many events at the earliest...
    pub first: usize,
    /// ... and still after so many. Perhaps after more, but before more was promised.
    pub last: usize,
    /// So many events after which the death of the daemon leaves it, if it ever does.
    pub killed: Option<usize>,
    /// What is there of the changes that were not synced after `first` events, in the order in
    /// which they reached the disk.
    kept: Vec<(usize, Part)>,
}

impl Loss {
    /// Whether a change reached the disk in part.
    #[must_use]
    pub fn is_torn(&self) -> bool {
        self.kept.iter().any(|(_, part)| *part != Part::Whole)
    }
}

/// All of them, each once.
pub struct Losses {
    /// In the order of `first`.
    pub list: Vec<Loss>,
    /// Ways to come to them that were looked at.
    pub candidates: usize,
    /// Events after which there were more ways than the limits let through.
    pub sampled: usize,
}

/// A recording as it is gone through, event by event.
struct Walk<'a> {
    recording: &'a Recording,
    /// What each device holds for sure.
    durable: Vec<MemoryDevice>,
    digest: u64,
    /// Changes that are not synced, oldest first.
    open: Vec<usize>,
}

impl<'a> Walk<'a> {
    fn new(recording: &'a Recording) -> Self {
        let durable: Vec<_> = recording.devices.iter().map(|of| of.base.clone()).collect();
        let digests = durable.iter().enumerate();
        Self {
            recording,
            digest: digests.fold(0, |all, (number, device)| all ^ device.digest(number)),
            durable,
            open: Vec::new(),
        }
    }

    fn event(&self, number: usize) -> &'a Event {
        &self.recording.events[number]
    }

    /// Goes past an event.
    fn pass(&mut self, number: usize) {
        let Event::Sync { device, covers } = self.event(number) else {
            self.open.push(number);
            return;
        };
        let open = std::mem::take(&mut self.open);
        for change in open {
            let event = self.event(change);
            if event.device() == *device && change < *covers {
                self.digest ^= apply(event, Part::Whole, *device, &self.durable[*device]);
            } else {
                self.open.push(change);
            }
        }
    }

    /// What the devices hold if this is kept, as a number.
    fn digest_with(&self, kept: &[(usize, Part)]) -> u64 {
        let mut changed = BTreeMap::<usize, MemoryDevice>::new();
        let mut digest = self.digest;
        for (change, part) in kept {
            let event = self.event(*change);
            let number = event.device();
            let device = changed.entry(number);
            let device = device.or_insert_with(|| self.durable[number].clone());
            digest ^= apply(event, *part, number, device);
        }
        digest
    }

    /// Ways to come out of a crash now. Where `newest` is given, those alone that keep something
    /// of that change: the others were there before it.
    fn candidates(
        &self,
        newest: Option<usize>,
        limits: &Limits,
    ) -> (Vec<Vec<(usize, Part)>>, bool) {
        let mut random = Random(limits.seed ^ (self.open.len() as u64) << 32);
        let subsets = self.subsets(limits, &mut random);
        let fits = |kept: &[(usize, Part)]| {
            newest.is_none_or(|newest| kept.iter().any(|(change, _)| *change == newest))
        };
        let mut ways = Vec::new();
        for subset in &subsets {
            let whole: Vec<_> = subset.iter().map(|change| (*change, Part::Whole)).collect();
            for order in self.orders(&whole, &mut random) {
                for (at, (change, _)) in order.iter().enumerate() {
                    if !self.is_company(subset, at) {
                        continue;
                    }
                    let count = sectors(self.event(*change)).count();
                    ways.extend(Part::tearings(count).map(|part| {
                        let mut kept = order.clone();
                        kept[at].1 = part;
                        kept
                    }));
                }
                ways.push(order);
            }
        }
        ways.retain(|kept| fits(kept));
        let is_sampled = ways.len() > limits.candidates;
        if is_sampled {
            // The plain ones first, then as many torn ones as there is room for.
            random.shuffle(&mut ways);
            ways.sort_by_key(|kept| kept.iter().any(|(_, part)| *part != Part::Whole));
            let (half, total) = (limits.candidates / 2, ways.len());
            let plain =
                ways.partition_point(|kept| kept.iter().all(|(_, part)| *part == Part::Whole));
            let torn = ways.split_off(plain);
            ways.truncate(half.max(limits.candidates.saturating_sub(total - plain)));
            let room = limits.candidates - ways.len();
            ways.extend(torn.into_iter().take(room));
        }
        (ways, is_sampled || self.open.len() > limits.open)
    }

    /// Whether one of a subset is torn in the company of the others: of few changes each with all
    /// subsets of the others; of more alone, with all before it, all after it, and all.
    fn is_company(&self, subset: &[usize], at: usize) -> bool {
        let (open, last) = (&self.open, at + 1 == subset.len());
        open.len() <= 4
            || subset.len() == 1
            || subset.len() == open.len()
            || last && open.starts_with(subset)
            || at == 0 && open.ends_with(subset)
    }

    /// Subsets of what is open, each in the order of the events.
    fn subsets(&self, limits: &Limits, random: &mut Random) -> BTreeSet<Vec<usize>> {
        let open = &self.open;
        let chosen = |bits: u128| {
            let with = open.iter().enumerate();
            with.filter(|(at, _)| bits >> (at % 128) & 1 == 1)
                .map(|(_, change)| *change)
                .collect::<Vec<_>>()
        };
        if open.len() <= limits.open {
            return (0..1 << open.len()).map(chosen).collect();
        }
        let mut subsets = BTreeSet::new();
        for at in 0..=open.len() {
            subsets.insert(open[..at].to_vec());
            subsets.insert(open[at..].to_vec());
            let mut but_one = open.clone();
            if at < open.len() {
                but_one.remove(at);
                subsets.insert(vec![open[at]]);
            }
            subsets.insert(but_one);
        }
        for _ in 0..1 << limits.open {
            let mut subset = open.clone();
            subset.retain(|_| random.below(2) == 0);
            subsets.insert(subset);
        }
        subsets
    }

    /// The orders of changes that may matter: all of those that overlap others, where these are
    /// few.
    fn orders(&self, kept: &[(usize, Part)], random: &mut Random) -> Vec<Vec<(usize, Part)>> {
        let overlaps = |a: usize, b: usize| {
            let (a, b) = (self.event(a), self.event(b));
            let ((at, len), (from, count)) = (a.range(), b.range());
            a.device() == b.device() && at < from + count && from < at + len
        };
        let meets = |of: &usize| kept.iter().any(|(at, _)| at != of && overlaps(*at, *of));
        let places: Vec<usize> = (0..kept.len()).filter(|at| meets(&kept[*at].0)).collect();
        if places.len() < 2 {
            return vec![kept.to_vec()];
        }
        let mut turns: Vec<Vec<usize>> = Vec::new();
        if places.len() <= 4 {
            permute(&places, &mut Vec::new(), &mut turns);
        } else {
            turns.push(places.clone());
            turns.push(places.iter().rev().copied().collect());
            for _ in 0..8 {
                let mut turn = places.clone();
                random.shuffle(&mut turn);
                turns.push(turn);
            }
        }
        let ordered = |turn: Vec<usize>| {
            let mut order = kept.to_vec();
            for (to, from) in places.iter().zip(turn) {
                order[*to] = kept[from];
            }
            order
        };
        turns.into_iter().map(ordered).collect()
    }
}

fn permute(left: &[usize], begun: &mut Vec<usize>, into: &mut Vec<Vec<usize>>) {
    if left.is_empty() {
        into.push(begun.clone());
    }
    for at in 0..left.len() {
        let mut others = left.to_vec();
        begun.push(others.remove(at));
        permute(&others, begun, into);
        begun.pop();
    }
}

/// Does a part of a change, and returns by what the device's digest changes.
fn apply(event: &Event, part: Part, number: usize, device: &MemoryDevice) -> u64 {
    let (at, len) = event.range();
    let pages: BTreeSet<u64> = MemoryDevice::pages_of(at, len).collect();
    let before = device.digest_of(number, &pages);
    keep(event, part, device);
    before ^ device.digest_of(number, &pages)
}

fn keep(event: &Event, part: Part, device: &MemoryDevice) {
    if part == Part::Whole {
        return event.apply(device);
    }
    for (sector, (at, len)) in sectors(event).enumerate() {
        if part.has(sector) {
            event.apply_part(device, at, len);
        }
    }
}

/// All that crashes after `from` events and later can leave. `turns`: numbers of events after
/// which more is promised than before, without an event of its own.
pub(super) fn losses(
    recording: &Recording,
    from: usize,
    turns: &BTreeSet<usize>,
    limits: &Limits,
) -> Losses {
    let mut walk = Walk::new(recording);
    let mut known = HashMap::<u64, usize>::new();
    let mut losses = Losses {
        list: Vec::new(),
        candidates: 0,
        sampled: 0,
    };
    for events in 0..=recording.events.len() {
        if let Some(passed) = events.checked_sub(1) {
            walk.pass(passed);
        }
        if events < from {
            continue;
        }
        let newest = walk.open.last().copied();
        let newest = newest
            .filter(|change| *change + 1 == events && events > from && !turns.contains(&events));
        let (ways, is_sampled) = walk.candidates(newest, limits);
        losses.candidates += ways.len();
        losses.sampled += usize::from(is_sampled);
        for kept in ways {
            let is_all = kept.len() == walk.open.len()
                && kept.is_sorted_by_key(|(change, _)| *change)
                && kept.iter().all(|(_, part)| *part == Part::Whole);
            let at = *known.entry(walk.digest_with(&kept)).or_insert_with(|| {
                losses.list.push(Loss {
                    first: events,
                    last: events,
                    killed: None,
                    kept,
                });
                losses.list.len() - 1
            });
            let loss = &mut losses.list[at];
            loss.last = events;
            if is_all {
                loss.killed = Some(events);
            }
        }
    }
    losses
}

/// The devices as a loss leaves them.
pub(super) fn image_of(recording: &Recording, loss: &Loss) -> Images {
    let mut walk = Walk::new(recording);
    (0..loss.first).for_each(|event| walk.pass(event));
    for (change, part) in &loss.kept {
        let event = walk.event(*change);
        keep(event, *part, &walk.durable[event.device()]);
    }
    images(walk.durable)
}
