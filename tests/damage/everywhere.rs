//! Each bit flipped, each sector zeroed, each block in place of another one, in all files of a
//! small store: what can be read is right, the rest is a named error, and the check has noticed.
//!
//! `SNAPMARK_SEED=N` tries other bits, `SNAPMARK_ROUNDS=N` as many more.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::common::{Random, seeds};
use crate::trial::{Healthy, Opened, Patch, assert_healthy, closed, killed, trial};
use snapmark::device::Device;

const PAGE: u64 = 4096;
/// Bits flipped in a round, of each store.
const BITS: usize = 2000;
/// Nothing takes as long; the machine may stand still meanwhile.
const HANGS: Duration = Duration::from_secs(300);

/// The pages of a device that are not all zeros.
fn pages(device: &dyn Device) -> Vec<(u64, Vec<u8>)> {
    let offsets = (0..device.len()).step_by(PAGE as usize);
    let page = |offset| {
        let mut bytes = vec![0; PAGE as usize];
        device.read_at(&mut bytes, offset).unwrap();
        (offset, bytes)
    };
    let pages = offsets.map(page);
    pages
        .filter(|(_, bytes)| bytes.iter().any(|byte| *byte != 0))
        .collect()
}

/// Every zeroed sector and every misplaced block, and some of the bits.
fn patches(healthy: &Healthy, random: &mut Random, bits: usize) -> Vec<Patch> {
    let mut patches = Vec::new();
    let mut all_bits: Vec<Vec<(&String, u64, usize)>> = Vec::new();
    for (name, device) in &healthy.images {
        let pages = pages(device.as_ref());
        let mut own = Vec::new();
        let patch = |offset, bytes: &[u8]| Patch {
            device: name.clone(),
            offset,
            bytes: bytes.to_vec(),
        };
        for (number, (offset, bytes)) in pages.iter().enumerate() {
            let is_data = name.starts_with("pool") && *offset >= 4 << 20;
            // Of a block of data each sector is like the others.
            let sectors = if is_data { 1 } else { 8 };
            for (at, sector) in bytes.chunks(512).take(sectors).enumerate() {
                if sector.iter().any(|byte| *byte != 0) {
                    patches.push(patch(offset + at as u64 * 512, &[0; 512]));
                }
            }
            for other in [number + 1, number + pages.len() - 1] {
                let (_, other) = &pages[other % pages.len()];
                if other != bytes {
                    patches.push(patch(*offset, other));
                }
            }
            let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 9;
            let used = if is_data { 4 } else { used.min(bytes.len()) };
            own.extend((0..used * 8).map(|bit| (name, offset + bit as u64 / 8, bit % 8)));
        }
        all_bits.push(own);
    }
    for _ in 0..bits {
        // As many of each device, however long it is.
        let own = random.pick(&all_bits).unwrap();
        let Some((name, offset, bit)) = random.pick(own).copied() else {
            continue;
        };
        let mut byte = [0];
        healthy.images[name].read_at(&mut byte, offset).unwrap();
        patches.push(Patch {
            device: name.clone(),
            offset,
            bytes: vec![byte[0] ^ (1 << bit)],
        });
    }
    patches
}

/// Tries all of them on two threads; a hang ends the test.
fn try_all(healthy: &Healthy, patches: &[Patch]) -> BTreeMap<String, u64> {
    let (next, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    let failures = Mutex::new(Vec::new());
    let outcomes = Mutex::new(BTreeMap::new());
    let running: [Mutex<Option<(Instant, usize)>>; 2] = Default::default();
    std::thread::scope(|scope| {
        let workers: Vec<_> = running
            .iter()
            .map(|running| {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let Some(patch) = patches.get(number) else {
                            return;
                        };
                        *running.lock().unwrap() = Some((Instant::now(), number));
                        let outcome = trial(healthy, std::slice::from_ref(patch), number % 4 == 0);
                        *running.lock().unwrap() = None;
                        let word = match outcome {
                            Ok(outcome) => match outcome.opened {
                                Opened::Refused(_) => "refused",
                                Opened::Unreadable(_) => "unreadable in part",
                                Opened::Right(0) => "right",
                                Opened::Right(_) => "right, without what was not synced",
                            },
                            Err(error) => {
                                failures.lock().unwrap().push((patch.clone(), error));
                                "WRONG"
                            }
                        };
                        *outcomes.lock().unwrap().entry(word.to_owned()).or_default() += 1;
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(20));
                for running in &running {
                    let running = *running.lock().unwrap();
                    if let Some((since, number)) = running
                        && since.elapsed() > HANGS
                    {
                        eprintln!("{}: {} hangs", healthy.name, words(&patches[number]));
                        std::process::abort();
                    }
                }
            }
        });
        workers
            .into_iter()
            .for_each(|worker| worker.join().unwrap());
        done.store(true, Ordering::Relaxed);
    });
    let failures = failures.into_inner().unwrap();
    for (patch, error) in failures.iter().take(30) {
        eprintln!("{}: {}: {error}", healthy.name, words(patch));
    }
    assert!(
        failures.is_empty(),
        "{} of {}",
        failures.len(),
        patches.len()
    );
    outcomes.into_inner().unwrap()
}

fn words(patch: &Patch) -> String {
    let Patch {
        device,
        offset,
        bytes,
    } = patch;
    let (len, start) = (bytes.len(), &bytes[..bytes.len().min(8)]);
    format!("{device} byte {offset}, {len} bytes {start:02x?}")
}

fn all_damage(healthy: &Healthy) {
    assert_healthy(healthy);
    for seed in seeds(1) {
        let mut random = Random(seed ^ 0xda);
        let patches = patches(healthy, &mut random, BITS);
        let outcomes = try_all(healthy, &patches);
        println!(
            "{}, seed {seed}: {} damaged stores: {outcomes:?}",
            healthy.name,
            patches.len()
        );
        // The test would prove nothing if all of it hit what nobody looks at.
        assert!(outcomes["refused"] > 30, "{outcomes:?}");
        assert!(outcomes["unreadable in part"] > 20, "{outcomes:?}");
        assert!(outcomes["right"] > 20, "{outcomes:?}");
    }
}

#[test]
fn p8_damage_to_a_store_that_was_closed_is_noticed() {
    all_damage(&closed());
}

#[test]
fn p8_damage_to_a_store_whose_daemon_died_is_noticed() {
    all_damage(&killed());
}
