//! What a crash leaves of a recording.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::{Device, MemoryDevice};
use super::recording::{Event, Recording};

/// The devices of a power domain after a crash, by name.
pub type Images = BTreeMap<String, Arc<MemoryDevice>>;

/// What a disk writes whole or not at all, in bytes.
const SECTOR: u64 = 512;

/// Everything that was written.
pub(super) fn kill(recording: &Recording, events: usize) -> Images {
    build(recording, |device, image| {
        for (_, event) in changes(recording, device, events) {
            event.apply(image);
        }
    })
}

/// Everything that was synced, and of the rest what `seed` says.
pub(super) fn power_failure(recording: &Recording, events: usize, seed: u64) -> Images {
    let mut random = Random(seed);
    build(recording, |device, image| {
        let durable = covered(recording, device, events);
        let mut open = Vec::new();
        for (number, event) in changes(recording, device, events) {
            if number < durable {
                event.apply(image);
            } else {
                open.push(event);
            }
        }
        match seed {
            0 => {}
            1 => open.iter().for_each(|event| event.apply(image)),
            _ => survive(&open, image, &mut random),
        }
    })
}

/// Devices by their names.
pub(super) fn images(devices: Vec<MemoryDevice>) -> Images {
    let named = devices.into_iter();
    named
        .map(|image| (image.name().to_owned(), Arc::new(image)))
        .collect()
}

fn build(recording: &Recording, mut fill: impl FnMut(usize, &MemoryDevice)) -> Images {
    let devices = recording.devices.iter().enumerate();
    let filled = devices.map(|(number, device)| {
        let image = device.base.clone();
        fill(number, &image);
        image
    });
    images(filled.collect())
}

/// The writes and punches of a device among the first `events` events, with their numbers.
fn changes(
    recording: &Recording,
    device: usize,
    events: usize,
) -> impl Iterator<Item = (usize, &Event)> {
    let numbered = recording.events.iter().enumerate().take(events);
    numbered
        .filter(move |(_, event)| event.device() == device && !matches!(event, Event::Sync { .. }))
}

/// The device's events before this number are durable.
fn covered(recording: &Recording, device: usize, events: usize) -> usize {
    let syncs = recording.events.iter().take(events).filter_map(|event| {
        let Event::Sync { device: of, covers } = event else {
            return None;
        };
        (*of == device).then_some(*covers)
    });
    syncs.max().unwrap_or(0)
}

/// Applies a part of what was not synced. Single faults are more telling than noise all over, so
/// a seed picks one of several ways.
fn survive(open: &[&Event], image: &MemoryDevice, random: &mut Random) {
    let mut order = open.to_vec();
    match random.below(6) {
        // The disk wrote in order and got so far; the last one is torn.
        0 => {
            order.truncate(random.below(open.len() + 1));
            let torn = order.pop();
            order.iter().for_each(|event| event.apply(image));
            if let Some(event) = torn {
                tear_front(event, image, random);
            }
        }
        // All but one, or all but a few.
        1 => {
            let lost = random.below(open.len().max(1));
            let run = 1 + random.below(3);
            for (number, event) in order.iter().enumerate() {
                if !(lost..lost + run).contains(&number) {
                    event.apply(image);
                }
            }
        }
        // Only the newest: later without earlier.
        2 => {
            let from = random.below(open.len() + 1);
            order[from..].iter().for_each(|event| event.apply(image));
        }
        // A subset, in order.
        3 => {
            order.retain(|_| random.below(2) == 0);
            order.iter().for_each(|event| event.apply(image));
        }
        // A subset in any order.
        4 => {
            order.retain(|_| random.below(3) > 0);
            random.shuffle(&mut order);
            order.iter().for_each(|event| event.apply(image));
        }
        // A subset in any order, each torn anywhere.
        _ => {
            random.shuffle(&mut order);
            let keep = 1 + random.below(9);
            for event in order {
                tear(event, image, random, keep);
            }
        }
    }
}

/// The first sectors of an event, some or all.
fn tear_front(event: &Event, image: &MemoryDevice, random: &mut Random) {
    let parts: Vec<_> = sectors(event).collect();
    let reached = random.below(parts.len() + 1);
    for (at, len) in &parts[..reached] {
        event.apply_part(image, *at, *len);
    }
}

/// Each sector of an event with `keep` chances in ten.
fn tear(event: &Event, image: &MemoryDevice, random: &mut Random, keep: usize) {
    for (at, len) in sectors(event) {
        if random.below(10) < keep {
            event.apply_part(image, at, len);
        }
    }
}

/// The parts of an event that lie in one sector each.
pub(super) fn sectors(event: &Event) -> impl Iterator<Item = (u64, u64)> {
    let (offset, len) = event.range();
    let (mut at, end) = (offset, offset + len);
    std::iter::from_fn(move || {
        if at == end {
            return None;
        }
        let start = at;
        at = end.min((at / SECTOR + 1) * SECTOR);
        Some((start, at - start))
    })
}

/// Numbers that look random and repeat with their seed (splitmix64; Steele, Lea, Flood 2014).
pub(super) struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            list.swap(last, self.below(last + 1));
        }
    }
}
