//! Measurements; they print and assert nothing. Run them in a release build:
//! `cargo test --release --lib store::tests::speed -- --ignored --nocapture`.

use std::time::Instant;

use super::memory::{fill, put, put_sums};
use super::{Files, Random};
use crate::base::{MapId, SegmentNo};
use crate::store::CatalogConfig;

#[test]
#[ignore = "a measurement"]
fn commits_and_lookups() {
    let files = Files::create(16 << 20, 256 << 10);
    let segments = 1_000_000;
    let config = CatalogConfig {
        page_cache: 512 << 20,
        dirty_limit: 64 << 20,
    };
    let start = Instant::now();
    let catalog = fill(&files, config, segments, true);
    println!(
        "filled in {:?}, pages {} MiB",
        start.elapsed(),
        files.pages.written() >> 20
    );
    let mut random = Random(1);
    let view = catalog.view();
    let mut lookups = |what, limit: u64| {
        for _ in 0..2 {
            let start = Instant::now();
            for _ in 0..1_000_000 {
                let found = view.live(MapId(1), SegmentNo(random.below(limit)));
                assert!(found.unwrap().is_some());
            }
            println!("look-up, {what}: {:?}", start.elapsed() / 1_000_000);
        }
    };
    lookups("all segments", segments);
    lookups("neighbours", 4096);
    drop(view);
    for round in 0..4 {
        let (mut plain, mut checkpoints) = (Vec::new(), Vec::new());
        for _ in 0..100 {
            let mut changes = Vec::new();
            for _ in 0..256 {
                let segment = random.below(segments);
                changes.push(put(catalog.geometry(), segment, segment));
                changes.push(put_sums(segment));
            }
            let start = Instant::now();
            catalog.commit(&changes).unwrap();
            let checkpoint = catalog.dirty_bytes() == 0;
            let times = if checkpoint {
                &mut checkpoints
            } else {
                &mut plain
            };
            times.push(start.elapsed());
        }
        plain.sort_unstable();
        let (best, median) = (plain[0], plain[plain.len() / 2]);
        println!("round {round}: commit {best:?} at best, {median:?} median");
        println!("with a checkpoint {checkpoints:?}");
    }
    drop(catalog);
    let start = Instant::now();
    let catalog = files.open(config).unwrap();
    println!(
        "opened in {:?}, log {} KiB",
        start.elapsed(),
        catalog.log_used() >> 10
    );
}

#[test]
#[ignore = "a measurement"]
fn opening_ten_million_segments() {
    let files = Files::create(16 << 20, 256 << 10);
    let config = CatalogConfig::default();
    let start = Instant::now();
    drop(fill(&files, config, 10_000_000, false));
    println!("filled in {:?}", start.elapsed());
    let start = Instant::now();
    let catalog = files.open(config).unwrap();
    println!(
        "opened in {:?}, {} nodes in memory",
        start.elapsed(),
        catalog.resident_nodes()
    );
}
