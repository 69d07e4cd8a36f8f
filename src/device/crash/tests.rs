use std::collections::BTreeSet;

use super::*;

fn write(device: &Arc<dyn Device>, offset: u64, byte: u8, len: usize) {
    device
        .write_at(&[IoSlice::new(&vec![byte; len])], offset)
        .unwrap();
}

fn bytes(images: &Images, name: &str) -> Vec<u8> {
    images[name].to_bytes()
}

#[test]
fn what_was_synced_is_there_under_every_seed() {
    let disk = CrashDisk::new();
    let device = disk.device("pool", 8192);
    write(&device, 0, 1, 1024);
    device.sync().unwrap();
    write(&device, 4096, 2, 1024);
    for seed in 0..500 {
        let image = bytes(&disk.crash_image(seed), "pool");
        assert!(image[..1024].iter().all(|b| *b == 1), "seed {seed}");
        assert!(image[1024..4096].iter().all(|b| *b == 0), "seed {seed}");
    }
    assert_eq!(bytes(&disk.crash_image(0), "pool")[4096], 0);
    assert_eq!(bytes(&disk.crash_image(1), "pool")[4096], 2);
    assert_eq!(bytes(&disk.kill_image(), "pool")[4096], 2);
}

#[test]
fn writes_not_synced_may_be_lost_reordered_and_torn_at_sectors() {
    let disk = CrashDisk::new();
    let device = disk.device("pool", 2048);
    write(&device, 0, 1, 1024);
    write(&device, 512, 2, 1024);
    let seen: BTreeSet<Vec<u8>> = (0..3000)
        .map(|seed| {
            let image = bytes(&disk.crash_image(seed), "pool");
            image
                .chunks(512)
                .map(|sector| {
                    assert!(sector.iter().all(|b| *b == sector[0]), "seed {seed}");
                    sector[0]
                })
                .collect()
        })
        .collect();
    // Every sector holds one of what was written to it, or nothing: 2 * 3 * 2 outcomes.
    assert_eq!(seen.len(), 12, "{seen:?}");
    assert!(seen.contains([0, 2, 2, 0].as_slice()), "later, not earlier");
    assert!(seen.contains([1, 1, 2, 0].as_slice()), "other order, torn");
}

#[test]
fn the_same_seed_gives_the_same_image() {
    let disk = CrashDisk::new();
    let device = disk.device("pool", 1 << 20);
    for n in 0..50u8 {
        write(&device, u64::from(n) * 4096, n, 8192);
    }
    for seed in [2, 3, 99] {
        assert_eq!(
            bytes(&disk.image_at(40, seed), "pool"),
            bytes(&disk.image_at(40, seed), "pool")
        );
    }
}

#[test]
fn a_sync_speaks_for_its_own_device_only() {
    let disk = CrashDisk::new();
    let (pool, log) = (disk.device("pool", 4096), disk.device("log", 4096));
    write(&pool, 0, 1, 512);
    write(&log, 0, 1, 512);
    log.sync().unwrap();
    let images = disk.crash_image(0);
    assert_eq!(bytes(&images, "pool")[0], 0);
    assert_eq!(bytes(&images, "log")[0], 1);
    assert_eq!(disk.counts()["log"], (1, 0, 1));
}

#[test]
fn a_crash_can_be_imagined_after_any_event() {
    let disk = CrashDisk::new();
    let device = disk.device("pool", 4096);
    write(&device, 0, 1, 512);
    device.sync().unwrap();
    write(&device, 0, 2, 512);
    assert!(device.punch(0, 512).unwrap());
    device.sync().unwrap();
    assert_eq!(disk.crash_points(), 5);
    let first = |images: &Images| bytes(images, "pool")[0];
    let lost: Vec<u8> = (0..=5).map(|at| first(&disk.image_at(at, 0))).collect();
    let kept: Vec<u8> = (0..=5).map(|at| first(&disk.image_at(at, 1))).collect();
    let killed: Vec<u8> = (0..=5).map(|at| first(&disk.kill_image_at(at))).collect();
    assert_eq!(lost, [0, 0, 1, 1, 1, 0]);
    assert_eq!(kept, [0, 1, 1, 2, 0, 0]);
    assert_eq!(killed, kept);
}

#[test]
fn a_write_during_a_sync_is_not_covered_by_it() {
    let disk = CrashDisk::new();
    let device = disk.device("pool", 4096);
    write(&device, 0, 1, 512);
    let covers = disk.crash_points();
    write(&device, 512, 2, 512);
    disk.recording
        .lock()
        .record(Event::Sync { device: 0, covers });
    let image = bytes(&disk.crash_image(0), "pool");
    assert_eq!((image[0], image[512]), (1, 0));
}

#[test]
fn an_image_can_crash_again() {
    let disk = CrashDisk::new();
    write(&disk.device("pool", 4096), 0, 1, 512);
    let again = CrashDisk::from_images(&disk.crash_image(1));
    let device = again.device("pool", 4096);
    write(&device, 512, 2, 512);
    let image = bytes(&again.crash_image(0), "pool");
    assert_eq!((image[0], image[512]), (1, 0));
    let mut live = [0; 1024];
    device.read_at(&mut live, 0).unwrap();
    assert_eq!((live[0], live[512]), (1, 2));
}

#[test]
fn writers_of_several_threads_are_all_recorded() {
    let disk = CrashDisk::new();
    let device = disk.device("pool", 1 << 20);
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let device = &device;
            scope.spawn(move || {
                for n in 0..64 {
                    write(
                        device,
                        (u64::from(thread) * 64 + n) * 4096,
                        thread + 1,
                        4096,
                    );
                    device.sync().unwrap();
                }
            });
        }
    });
    assert_eq!(disk.crash_points(), 512);
    let image = bytes(&disk.crash_image(0), "pool");
    for (number, page) in image.chunks(4096).enumerate() {
        assert!(page.iter().all(|b| usize::from(*b) == number / 64 + 1));
    }
}

const ALL: Limits = Limits {
    open: 10,
    candidates: 1_000_000,
    seed: 0,
};

fn all_images(disk: &CrashDisk) -> Vec<(Loss, Vec<u8>)> {
    let losses = disk.losses(0, &BTreeSet::new(), &ALL);
    assert_eq!(losses.sampled, 0);
    let images = losses.list.into_iter();
    images
        .map(|loss| {
            let image = bytes(&disk.image_of(&loss), "pool");
            (loss, image)
        })
        .collect()
}

#[test]
fn all_losses_are_all_that_a_seed_can_find_and_each_comes_once() {
    let disk = CrashDisk::new();
    let device = disk.device("pool", 4096);
    write(&device, 0, 1, 1536);
    write(&device, 1024, 2, 1024);
    assert!(device.punch(0, 512).unwrap());
    let images: Vec<_> = all_images(&disk).into_iter().map(|of| of.1).collect();
    let found: BTreeSet<_> = images.iter().cloned().collect();
    assert_eq!(found.len(), images.len(), "each once");
    // Of the seeds those that tear one change at the most; the others go further.
    let seeds = (0..6000).flat_map(|seed| (0..=3).map(move |events| (seed, events)));
    let mut sampled = BTreeSet::new();
    for (seed, events) in seeds {
        sampled.insert(bytes(&disk.image_at(events, seed), "pool"));
    }
    assert!(found.is_subset(&sampled), "nothing that can't be");
    let shown = |image: &[u8]| [0, 512, 1024, 1536].map(|at| image[at]);
    let found: BTreeSet<_> = found.iter().map(|image| shown(image)).collect();
    assert!(found.contains(&[1, 1, 1, 0]), "the first alone");
    assert!(found.contains(&[0, 0, 2, 2]), "the second alone");
    assert!(found.contains(&[1, 1, 1, 2]), "in the other order");
    assert!(found.contains(&[1, 0, 1, 0]), "without a sector");
    assert!(found.contains(&[0, 1, 1, 2]), "punched, and torn");
}

#[test]
fn a_loss_says_from_when_to_when_it_can_be() {
    let disk = CrashDisk::new();
    let device = disk.device("pool", 4096);
    write(&device, 0, 1, 512);
    write(&device, 512, 2, 512);
    device.sync().unwrap();
    write(&device, 1024, 3, 512);
    let mut seen: Vec<_> = all_images(&disk)
        .into_iter()
        .map(|(loss, image)| {
            (
                image[0],
                image[512],
                image[1024],
                loss.first,
                loss.last,
                loss.killed,
            )
        })
        .collect();
    seen.sort_unstable();
    assert_eq!(
        seen,
        [
            (0, 0, 0, 0, 0, Some(0)),
            (0, 2, 0, 2, 2, None),
            (1, 0, 0, 1, 1, Some(1)),
            (1, 2, 0, 2, 3, Some(3)),
            (1, 2, 3, 4, 4, Some(4)),
        ]
    );
}

#[test]
fn what_a_killed_daemon_did_not_sync_can_still_be_lost() {
    let disk = CrashDisk::new();
    let device = disk.device("pool", 4096);
    write(&device, 0, 1, 512);
    device.sync().unwrap();
    write(&device, 512, 2, 512);
    write(&device, 1024, 3, 512);
    let killed = disk.killed_at(3);
    let again = killed.device("pool", 4096);
    let mut live = [0; 1536];
    again.read_at(&mut live, 0).unwrap();
    assert_eq!((live[0], live[512], live[1024]), (1, 2, 0));
    assert_eq!(bytes(&killed.crash_image(0), "pool")[512], 0);
    again.sync().unwrap();
    assert_eq!(bytes(&killed.crash_image(0), "pool")[512], 2);
    assert_eq!(disk.crash_points(), 4, "the other goes its own way");
}
