//! `snapmark check` on real stores: its exit codes and words, what it repairs, and that it leaves no
//! trace.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use common::damaged::live;
use common::{SNAPMARK, TestStore, able, execute, noise, run, write_at};
use snapmark::base::{Place, Slot};
use snapmark::device::Device;
use snapmark::ondisk::Change;
use snapmark::store::{Catalog, CatalogConfig};

/// Content and times of all files of a store. Of the catalog's pages, a file of 1 TiB that is one
/// hole but for its start, the start and what the host has allocated.
fn trace(store: &Path) -> BTreeMap<String, Vec<i64>> {
    let files = std::fs::read_dir(store).unwrap().map(|entry| {
        let entry = entry.unwrap();
        let meta = entry.metadata().unwrap();
        let file = std::fs::File::open(entry.path()).unwrap();
        let mut bytes = vec![0; meta.len().min(300 << 20) as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        let sum = snapmark::base::checksum(&bytes).0;
        let times = [
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec(),
        ];
        let mut trace = vec![meta.len() as i64, meta.blocks() as i64, sum.into()];
        trace.extend(times);
        (entry.file_name().to_string_lossy().into_owned(), trace)
    });
    files.collect()
}

fn run_check(store: &Path, options: &[&str]) -> (i32, String) {
    let mut arguments = vec!["check".into(), store.to_owned()];
    arguments.extend(options.iter().map(|option| (*option).into()));
    let (shown, output) = execute(SNAPMARK, arguments);
    let words = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap_or(-1), shown + "\n" + &words)
}

#[test]
fn a_new_store_is_clean_and_left_as_it_was() {
    let store = TestStore::unmounted(&["--size", "64MiB"]);
    let before = trace(&store.store());
    for options in [&["--data"][..], &[], &["--json"]] {
        let (code, said) = run_check(&store.store(), options);
        assert_eq!(code, 0, "{said}");
    }
    assert_eq!(trace(&store.store()), before);
    let (code, said) = run_check(store.dir(), &[]);
    assert_eq!(
        (code, said.contains("is no snapmark store")),
        (3, true),
        "{said}"
    );
    let (code, said) = run_check(&store.store(), &["--nonsense"]);
    assert_eq!(code, 3, "{said}");
}

#[test]
fn a_real_store_is_checked_without_a_trace_and_repaired() {
    if !able(&[]) {
        return;
    }
    let mut store = TestStore::with(&["--size", "256MiB"]);
    for (name, seed) in [("a.img", 1), ("b.img", 2)] {
        std::fs::write(store.disk(name), noise(seed, 5 << 20)).unwrap();
    }
    store.snapshot("a.img", "one");
    std::fs::write(store.disk("c.img"), noise(3, 1 << 20)).unwrap();
    // So that there is a pack.
    store.snapshot("c.img", "one");
    write_at(&store.disk("c.img"), 0, &noise(4, 8192));
    store.flush();
    let (code, said) = run_check(&store.store(), &[]);
    assert_eq!(
        (code, said.contains("unmount it first")),
        (3, true),
        "{said}"
    );
    store.kill9();
    let before = trace(&store.store());
    let (code, said) = run_check(&store.store(), &["--data"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(trace(&store.store()), before);
    store.mount();
    store.unmount();
    let (code, said) = run_check(&store.store(), &["--data", "--json"]);
    assert_eq!(code, 0, "{said}");

    damage_counts(&store.store());
    let (code, said) = run_check(&store.store(), &["--data"]);
    assert_eq!((code, said.contains("a.img")), (1, true), "{said}");
    for words in [
        "counts 5 free segments",
        "counts 77 segments waiting",
        "it is given up too early",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let (code, said) = run_check(&store.store(), &["--repair"]);
    assert_eq!((code, said.contains("repaired")), (1, true), "{said}");
    let (code, said) = run_check(&store.store(), &["--data"]);
    assert_eq!(code, 0, "{said}");
    let copies = std::fs::read_dir(store.store()).unwrap();
    let copies = copies.filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().contains(".before-repair-")
    });
    assert_eq!(copies.count(), 2);
    store.mount();
    assert_eq!(
        std::fs::read(store.disk("a.img")).unwrap(),
        noise(1, 5 << 20)
    );
    assert_eq!(
        std::fs::read(store.disk("a.img@one")).unwrap(),
        noise(1, 5 << 20)
    );
    store.unmount();
    let (code, said) = run_check(&store.store(), &["--data"]);
    assert_eq!(code, 0, "{said}");

    let mut options = std::fs::OpenOptions::new();
    let pool = options.write(true).read(true);
    let pool = pool.open(store.store().join("pool.img")).unwrap();
    let mut byte = [0];
    let at = (4 << 20) + 12345;
    pool.read_exact_at(&mut byte, at).unwrap();
    pool.write_all_at(&[byte[0] ^ 1], at).unwrap();
    let (code, said) = run_check(&store.store(), &[]);
    assert_eq!(code, 0, "{said}");
    let (code, said) = run_check(&store.store(), &["--data"]);
    assert_eq!((code, said.contains(".img")), (2, true), "{said}");
    let json = run(
        "sh",
        [
            "-c",
            &format!(
                "{SNAPMARK} check {} --data --json 2>/dev/null || :",
                store.store().display()
            ),
        ],
    );
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["verdict"], "damaged");
    assert_eq!(json["problems"][0]["kind"], "block");
}

/// Miscounts a disk, a pack and all slots, leaks slots, and gives up a slot in use.
fn damage_counts(store: &Path) {
    use snapmark::device::{FileDevice, OpenMode};
    let open = |name: &str| -> Arc<dyn Device> {
        Arc::new(FileDevice::open(&store.join(name), OpenMode::READ_WRITE).unwrap())
    };
    let (pages, log) = (open("catalog.pages"), open("catalog.log"));
    let catalog = Catalog::open(pages, log, CatalogConfig::default()).unwrap();
    let view = catalog.view();
    let mut disk = view.disks().unwrap().remove(0);
    disk.allocated += 5;
    let device = view.devices().unwrap()[0].device;
    let place = live(&view, "b.img", 3).1.place.unwrap();
    let runs = view.free_runs(device, Slot(0), 1).unwrap();
    let first = runs[0].0;
    let (pack, blocks) = view
        .packs(
            Place {
                device,
                slot: Slot(0),
            },
            1,
        )
        .unwrap()[0];
    let mut space = view.space();
    drop(view);
    (space.free, space.pending) = (1, 77);
    let take = Change::Take {
        device,
        first,
        count: 3,
    };
    catalog
        .commit(&[Change::PutDisk(disk), take, Change::Retire(place)])
        .unwrap();
    let counts = [
        Change::CountFree(device, 5),
        Change::CountSpace(space),
        Change::CountPack(pack, blocks + 1),
    ];
    catalog.commit(&counts).unwrap();
}

#[test]
fn a_log_that_is_missing_is_damage_and_the_words_say_what_to_do() {
    let store = TestStore::unmounted(&["--size", "64MiB"]);
    let log = store.store().join("catalog.log");
    let aside = store.dir().join("aside");
    std::fs::rename(&log, &aside).unwrap();
    let before = trace(&store.store());
    for options in [&[][..], &["--data"], &["--repair"]] {
        let (code, said) = run_check(&store.store(), options);
        assert_eq!(code, 2, "{said}");
        assert!(
            said.contains("catalog.log, is missing") && said.contains("put it back"),
            "{said}"
        );
        assert!(!log.exists());
    }
    let mut after = trace(&store.store());
    after.remove("lock");
    assert_eq!(after, before);
    std::fs::rename(&aside, &log).unwrap();
    let (code, said) = run_check(&store.store(), &["--data"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("disks    0, with 0 snapshots"), "{said}");
}

/// Opens the catalog of a store that is not mounted.
fn catalog_of(store: &Path) -> Catalog {
    use snapmark::device::{FileDevice, OpenMode};
    let open = |name: &str| -> Arc<dyn Device> {
        Arc::new(FileDevice::open(&store.join(name), OpenMode::READ_WRITE).unwrap())
    };
    let (pages, log) = (open("catalog.pages"), open("catalog.log"));
    Catalog::open(pages, log, CatalogConfig::default()).unwrap()
}

/// A store that is not mounted, with two disks of 2 MiB.
fn two_disks() -> TestStore {
    let mut store = TestStore::with(&["--size", "64MiB"]);
    for (name, seed) in [("a.img", 1), ("b.img", 2)] {
        std::fs::write(store.disk(name), noise(seed, 2 << 20)).unwrap();
    }
    store.flush();
    store.unmount();
    store
}

#[test]
fn nothing_is_repaired_where_a_slot_has_two_users() {
    if !able(&[]) {
        return;
    }
    let store = two_disks();
    let catalog = catalog_of(&store.store());
    let view = catalog.view();
    let ((_, theirs), (key, ours)) = (live(&view, "b.img", 0), live(&view, "a.img", 1));
    let mut disk = view.disks().unwrap().remove(0);
    disk.allocated += 5;
    drop(view);
    let shared = snapmark::ondisk::Descriptor {
        place: theirs.place,
        ..ours
    };
    let changes = [Change::PutVersion(key, shared), Change::PutDisk(disk)];
    catalog.commit(&changes).unwrap();
    drop(catalog);
    let log = std::fs::read(store.store().join("catalog.log")).unwrap();
    let (code, said) = run_check(&store.store(), &["--repair"]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("more than one user"), "{said}");
    assert!(said.contains("nothing was repaired"), "{said}");
    let after = std::fs::read(store.store().join("catalog.log")).unwrap();
    assert!(log == after, "the log was written: {said}");
}

#[test]
fn no_mount_is_advised_where_it_would_punch_what_is_in_use() {
    if !able(&[]) {
        return;
    }
    let store = two_disks();
    let catalog = catalog_of(&store.store());
    let place = live(&catalog.view(), "b.img", 3).1.place.unwrap();
    catalog.commit(&[Change::Retire(place)]).unwrap();
    catalog.checkpoint().unwrap();
    drop(catalog);
    // As if a crash had come before the log began anew: nothing can be added to it.
    let log = std::fs::OpenOptions::new()
        .write(true)
        .open(store.store().join("catalog.log"))
        .unwrap();
    log.write_all_at(&[0; 4096], 0).unwrap();
    let (code, said) = run_check(&store.store(), &["--repair"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("nothing was repaired"), "{said}");
    assert!(said.contains("do not mount"), "{said}");
    assert!(!said.contains("mount and unmount"), "{said}");
}
