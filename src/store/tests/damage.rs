//! Damaged bytes: an error or the right data, never a panic and never other data.

use std::ops::ControlFlow;

use super::model::Model;
use super::{Files, Random, SMALL, Seed};
use crate::base::Geometry;
use crate::device::Device;
use crate::store::{Catalog, CatalogConfig, CatalogError, View};

/// A catalog with a checkpoint and a log, the oracle as of the last commit, and of the one before.
fn sample(seed: u64) -> (Files, Model, Model) {
    let mut random = Random(seed);
    let files = Files::create(1 << 20, 256 << 10);
    // No checkpoint but the one below.
    let catalog = files.open(CatalogConfig::default()).unwrap();
    let mut model = Model::default();
    let mut before = Model::default();
    for commit in 0..30 {
        before = model.clone();
        let changes = model.commit(&mut random, catalog.geometry(), 500, 60);
        catalog.commit(&changes).unwrap();
        if commit == 22 {
            catalog.checkpoint().unwrap();
        }
    }
    assert!(catalog.log_used() >= 8 * 4096, "{}", catalog.log_used());
    (files, model, before)
}

/// Whether all of it can be read, without a panic.
fn readable(view: &View) -> bool {
    let content = &view.0.content;
    let trees = [&content.versions, &content.checksums, &content.free];
    let scanned = trees.iter().all(|tree| {
        let go_on = &mut |_, _: &[u8]| Ok(ControlFlow::Continue(()));
        tree.scan(&view.0.pages, 0, go_on).is_ok()
    });
    scanned
        && view.disks().is_ok()
        && view.maps().is_ok()
        && view.snapshots().is_ok()
        && view.devices().is_ok()
        && view.pending(usize::MAX).is_ok()
}

#[test]
fn flipped_bits_give_an_error_or_the_right_data() {
    let seed = 7;
    let _seed = Seed(seed);
    let (files, model, before) = sample(seed);
    let mut random = Random(seed);
    let (mut errors, mut right, mut shortened) = (0, 0, 0);
    for round in 0..1200 {
        let copy = Files {
            pages: files.pages.copy(),
            log: files.log.copy(),
        };
        let disk = if round % 3 == 0 {
            &copy.log
        } else {
            &copy.pages
        };
        let at = match round % 4 {
            0 => random.below(2 * 4096),
            _ => random.below(disk.written() as u64),
        };
        disk.damage(at as usize, 1 << random.below(8));
        let Ok(catalog) = copy.open(SMALL) else {
            errors += 1;
            continue;
        };
        let view = catalog.view();
        if !readable(&view) {
            errors += 1;
            continue;
        }
        let shown = Model::of(&view);
        if shown == model {
            right += 1;
        } else {
            // The last frame alone can't be told from one that a crash tore.
            assert_eq!(view.generation(), 29);
            assert!(disk.name() == "log" && shown == before);
            shortened += 1;
        }
    }
    assert!(errors > 100 && right > 100, "{errors} {right} {shortened}");
}

#[test]
fn random_bytes_are_no_catalog() {
    let mut random = Random(5);
    for _ in 0..50 {
        let files = Files::create(64 << 10, 64 << 10);
        let noise: Vec<u8> = (0..3 * 4096).map(|_| random.next() as u8).collect();
        files.pages.fill(0, &noise);
        assert!(matches!(
            files.open(SMALL),
            Err(CatalogError::NotAStore { .. })
        ));
    }
}

#[test]
fn a_lost_newest_root_is_not_taken_for_an_older_state() {
    let (files, ..) = sample(3);
    // The generation's parity says where the newest root is: one of the two must be it.
    let mut lost = 0;
    for slot in 0..2 {
        let copy = Files {
            pages: files.pages.copy(),
            log: files.log.copy(),
        };
        copy.pages.damage(slot * 4096 + 100, 1);
        match copy.open(SMALL) {
            Ok(catalog) => assert_eq!(catalog.view().generation(), 30),
            Err(CatalogError::LostRoot { .. }) => lost += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(lost, 1);
    files.pages.damage(100, 1);
    files.pages.damage(4096 + 100, 1);
    assert!(matches!(
        files.open(SMALL),
        Err(CatalogError::RootsDamaged { .. })
    ));
}

#[test]
fn a_newer_format_is_refused() {
    let files = Files::create(64 << 10, 64 << 10);
    let mut page = vec![0; 4096];
    files.pages.read_at(&mut page, 4096).unwrap();
    page[12..16].copy_from_slice(&2u32.to_le_bytes());
    let crc = crate::base::checksum(&page[12..]).0;
    page[8..12].copy_from_slice(&crc.to_le_bytes());
    files.pages.fill(4096, &page);
    let error = files.open(SMALL).map(|_| ()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "can't open the catalog in pages: store format 2 is newer than this program knows (1); \
         use a newer snapmark"
    );
}

#[test]
fn frames_of_another_store_are_ignored() {
    let (files, ..) = sample(9);
    let geometry = Geometry::default();
    Catalog::create(&*files.pages, &*files.log, [1; 16], geometry).unwrap();
    let catalog = files.open(SMALL).unwrap();
    assert_eq!(catalog.uuid(), [1; 16]);
    assert!(Model::of(&catalog.view()) == Model::default());
}
