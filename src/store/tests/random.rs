//! Random commits against the oracle, with checkpoints, kills and reopening in between.

use super::model::Model;
use super::{Files, Random, SMALL, Seed};
use crate::base::{Epoch, MapId, SegmentNo, Slot};
use crate::ondisk::VersionKey;
use crate::store::{CatalogError, View};

#[test]
fn random_changes_agree_with_the_oracle() {
    for (seed, segment) in [(1, 64 << 10), (2, 256 << 10), (3, 256 << 10), (4, 4 << 20)] {
        run(seed, segment, 4000, 250);
    }
}

#[test]
fn small_trees_that_fill_and_empty_agree_with_the_oracle() {
    for seed in 10..16 {
        run(seed, 1 << 20, 40, 60);
    }
}

fn run(seed: u64, segment: u64, segments: u64, commits: u64) {
    let _seed = Seed(seed);
    let mut random = Random(seed);
    let files = Files::create(256 << 10, segment);
    let mut catalog = files.open(SMALL).unwrap();
    let geometry = catalog.geometry();
    let mut model = Model::default();
    let mut kept: Vec<(View, Model)> = Vec::new();
    for commit in 1..=commits {
        let most = if random.one_in(10) { 2000 } else { 150 };
        let before = model.clone();
        let mut changes = model.commit(&mut random, geometry, segments, most);
        if random.one_in(8)
            && let Some(bad) = before.change(&mut random, geometry, segments, true)
        {
            // A change that can't be made at the start takes all others down with it.
            changes.insert(0, bad);
            let error = catalog.commit(&changes).unwrap_err();
            assert!(
                matches!(error, CatalogError::Refused { index: 0, .. }),
                "{error}"
            );
            assert_eq!(catalog.view().generation(), commit - 1);
            assert!(
                Model::of(&catalog.view()) == before,
                "a refused commit shows"
            );
            changes.remove(0);
        }
        catalog.commit(&changes).unwrap();
        let view = catalog.view();
        assert_eq!(view.generation(), commit);
        ask(&view, &model, &mut random, segments);
        match random.below(20) {
            0 => catalog.checkpoint().unwrap(),
            1 | 2 => {
                kept.clear();
                drop(view);
                drop(catalog);
                catalog = files.open(SMALL).unwrap();
                assert_eq!(catalog.view().generation(), commit);
                assert!(Model::of(&catalog.view()) == model, "reopened at {commit}");
            }
            3 => assert!(Model::of(&view) == model, "at {commit}"),
            4 => kept.push((view, model.clone())),
            5 => {
                // Views show what they showed, whatever came after them.
                for (view, model) in kept.drain(..) {
                    assert!(Model::of(&view) == model, "view of {}", view.generation());
                }
            }
            _ => {}
        }
    }
    catalog.checkpoint().unwrap();
    assert!(Model::of(&catalog.view()) == model);
    pages_are_accounted_for(&catalog);
}

/// Every page is in use by a tree, or free; none by two.
fn pages_are_accounted_for(catalog: &crate::store::Catalog) {
    let (in_use, reachable) = catalog.pages_in_use();
    assert_eq!(in_use, reachable);
}

fn ask(view: &View, model: &Model, random: &mut Random, segments: u64) {
    for _ in 0..20 {
        let map = MapId(random.below(3) as u32);
        let segment = SegmentNo(random.below(segments));
        let epoch = Epoch(random.below(9));
        let key = |death| VersionKey {
            map,
            segment,
            death,
        };
        let of = |range: std::ops::RangeInclusive<VersionKey>| {
            model.versions.range(range).map(|(key, d)| (*key, *d))
        };
        let seen = of(key(epoch.next())..=key(Epoch::LIVE)).next();
        let seen = seen.filter(|(_, descriptor)| descriptor.birth <= epoch);
        assert_eq!(view.version_at(map, segment, epoch).unwrap(), seen);
        let live = of(key(Epoch::LIVE)..=key(Epoch::LIVE)).next();
        assert_eq!(view.live(map, segment).unwrap(), live);
        let mut down = Vec::new();
        view.versions_down(key(epoch), &mut |key, descriptor| {
            down.push((key, *descriptor));
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
        let all_down: Vec<_> = of(key(Epoch(0))..=key(epoch)).rev().collect();
        assert_eq!(down, all_down);
        let limit = random.below(30) as usize;
        let last = VersionKey {
            map,
            segment: SegmentNo(u64::MAX),
            death: Epoch::LIVE,
        };
        let from: Vec<_> = of(key(epoch)..=last).take(limit).collect();
        assert_eq!(view.versions_from(key(epoch), limit).unwrap(), from);
    }
    for device in model.devices.keys() {
        let from = Slot(random.below(400));
        let runs = view.free_runs(*device, from, 2).unwrap();
        let first = model
            .free
            .iter()
            .find(|p| p.device == *device && p.slot >= from);
        assert_eq!(runs.first().map(|run| run.0), first.map(|place| place.slot));
        let block = random.below(3000);
        let mut sums = [crate::base::Checksum(77); 3];
        let known: Option<Vec<_>> = (block..block + 3)
            .map(|block| model.sums.get(&(*device, block)).copied())
            .collect();
        match view.checksums(*device, block, &mut sums) {
            Ok(()) => assert_eq!(Some(sums.to_vec()), known),
            Err(CatalogError::NoChecksum { .. }) => assert_eq!(known, None),
            Err(error) => panic!("{error}"),
        }
    }
}
