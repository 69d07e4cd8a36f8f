//! Power loss at every write and sync: what opens is the last commit that returned, or the one
//! that was under way.

use std::sync::Arc;

use parking_lot::Mutex;

use super::model::Model;
use super::{Files, Random, SMALL, Seed, disk::Disk};

/// What a power loss left, and the last commit that had returned by then.
struct Image {
    files: Files,
    returned: u64,
}

struct Recorder {
    random: Random,
    images: Vec<Image>,
    returned: u64,
}

fn record(files: &Files, recorder: &Arc<Mutex<Recorder>>) -> Arc<dyn Fn() + Send + Sync> {
    let recorder = Arc::clone(recorder);
    let (pages, log): (Arc<Disk>, Arc<Disk>) = (Arc::clone(&files.pages), Arc::clone(&files.log));
    Arc::new(move || {
        let mut recorder = recorder.lock();
        // A checkpoint of scattered pages has many writes; each alike.
        if !recorder.random.one_in(3) {
            return;
        }
        let files = Files {
            pages: pages.crash_image(&mut recorder.random),
            log: log.crash_image(&mut recorder.random),
        };
        let returned = recorder.returned;
        recorder.images.push(Image { files, returned });
    })
}

#[test]
fn every_power_loss_opens_the_last_commit_or_the_one_under_way() {
    let mut opened = 0;
    for seed in 100..104 {
        opened += power_losses(seed);
    }
    println!("{opened} images");
    assert!(opened > 500, "only {opened} images");
}

fn power_losses(seed: u64) -> usize {
    let _seed = Seed(seed);
    let mut random = Random(seed);
    let mut files = Files::create(24 << 10, 256 << 10);
    let mut models = vec![Model::default()];
    let mut opened = 0;
    // Each round goes on from one of the images that the last one left.
    for _ in 0..5 {
        let catalog = files.open(SMALL).unwrap();
        models.truncate(catalog.view().generation() as usize + 1);
        let recorder = Arc::new(Mutex::new(Recorder {
            random: Random(random.next()),
            images: Vec::new(),
            returned: catalog.view().generation(),
        }));
        let hook = record(&files, &recorder);
        files.pages.set_hook(Some(Arc::clone(&hook)));
        files.log.set_hook(Some(hook));
        for _ in 0..20 {
            let mut model = models[models.len() - 1].clone();
            // Some commits exceed the log as a whole.
            let most = if random.one_in(6) { 700 } else { 40 };
            let changes = model.commit(&mut random, catalog.geometry(), 300, most);
            models.push(model);
            catalog.commit(&changes).unwrap();
            recorder.lock().returned += 1;
            if random.one_in(7) {
                catalog.checkpoint().unwrap();
            }
        }
        files.pages.set_hook(None);
        files.log.set_hook(None);
        drop(catalog);
        let images = std::mem::take(&mut recorder.lock().images);
        for image in &images {
            check(image, &models);
            opened += 1;
        }
        files = images[random.below(images.len() as u64) as usize]
            .files
            .clone();
    }
    opened
}

fn check(image: &Image, models: &[Model]) {
    // What the opening itself writes must not change what the next one finds.
    for _ in 0..2 {
        let catalog = image.files.open(SMALL).unwrap();
        let view = catalog.view();
        let shown = view.generation();
        let returned = image.returned;
        assert!(
            shown == returned || shown == returned + 1,
            "{shown}, but {returned} returned"
        );
        assert!(
            Model::of(&view) == models[shown as usize],
            "commit {shown} shows something else"
        );
    }
}
