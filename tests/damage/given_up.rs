//! What a damaged journal can't replay, given up when told to: by the program, on real files.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use snapmark::base::Seq;
use snapmark::daemon::store::OpenStore;
use snapmark::device::{Device, FileDevice, OpenMode};
use snapmark::ondisk::Change;
use snapmark::store::{Catalog, CatalogConfig};
use snapmark::volume::Extent;

use crate::common::engine::SEGMENT;
use crate::common::model::new_disk;
use crate::common::{SNAPMARK, TestStore, execute};
use crate::journal::content;

/// A store in a directory, whose daemon destages only when told to.
fn real_store() -> TestStore {
    let store = TestStore::unmounted(&["--size", "64MiB"]);
    let settings = "cache: {size: 8MiB}\njournal: {size: 16MiB}\ndestage: {interval: 1h}\n";
    std::fs::write(store.store().join("store.yaml"), settings).unwrap();
    store
}

fn run_check(store: &Path, options: &[&str]) -> (i32, String) {
    let mut arguments = vec!["check".into(), store.to_owned()];
    arguments.extend(options.iter().map(|option| (*option).into()));
    let (_, output) = execute(SNAPMARK, arguments);
    let words = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap_or(-1), words)
}

fn there(store: &OpenStore, count: u64) -> Vec<u64> {
    let node = store.volumes.lookup("d").unwrap();
    let mut bytes = vec![1; 4096];
    let is_there = |block: &u64| {
        store.volumes.read(node, block * 4096, &mut bytes).unwrap();
        bytes == content(*block)
    };
    (0..count).filter(is_there).collect()
}

#[test]
fn the_rest_of_a_damaged_journal_can_be_given_up() {
    let store = real_store();
    let open = || OpenStore::open(&store.store());
    let opened = open().unwrap();
    let disk = opened.volumes.create(new_disk("d", SEGMENT)).unwrap();
    for block in 0..8 {
        opened
            .volumes
            .write(disk, block * 4096, &content(block))
            .unwrap();
        opened.volumes.sync().unwrap();
    }
    opened.volumes.abandon();
    drop(opened);
    // As if another disk had been destaged: the catalog knows of later records than the damaged one.
    let file = |name: &str| -> Arc<dyn Device> {
        Arc::new(FileDevice::open(&store.store().join(name), OpenMode::READ_WRITE).unwrap())
    };
    let (pages, log) = (file("catalog.pages"), file("catalog.log"));
    let catalog = Catalog::open(pages, log, CatalogConfig::default()).unwrap();
    let mut marks = catalog.view().marks();
    marks.durable = Seq(9);
    catalog.commit(&[Change::SetMarks(marks)]).unwrap();
    drop(catalog);
    let path = store.store().join("journal");
    let journal = std::fs::read(&path).unwrap();
    let data = content(4);
    let at = journal
        .windows(4096)
        .position(|window| window == data)
        .unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[journal[at] ^ 1], at as u64).unwrap();

    let Err(error) = open() else {
        panic!("it was opened")
    };
    assert!(error.to_string().contains("--drop-journal-tail"), "{error}");
    let (code, said) = run_check(&store.store(), &["--data"]);
    assert_eq!(code, 2, "{said}");
    let (code, said) = run_check(&store.store(), &["--repair"]);
    assert_eq!(code, 2, "a repair does not guess: {said}");
    assert!(open().is_err());
    let damaged = std::fs::read(&path).unwrap();
    let (code, said) = run_check(&store.store(), &["--drop-journal-tail"]);
    assert_ne!(code, 0, "only with --repair: {said}");
    assert_eq!(std::fs::read(&path).unwrap(), damaged);

    let (code, said) = run_check(&store.store(), &["--repair", "--drop-journal-tail"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("3 whole records"), "{said}");
    let copies = std::fs::read_dir(store.store()).unwrap();
    let mut copies = copies.filter_map(|entry| {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with("journal.before-repair-").then_some(path)
    });
    assert_eq!(std::fs::read(copies.next().unwrap()).unwrap(), damaged);
    let (code, said) = run_check(&store.store(), &["--data"]);
    assert_eq!(code, 0, "{said}");

    // What came before is there, and what is new is not taken for what was given up; also not
    // when the daemon dies before anything is destaged.
    for round in 0..3 {
        let opened = open().unwrap();
        let expected: Vec<u64> = (0..4 + round).collect();
        assert_eq!(there(&opened, 16), expected, "round {round}");
        let block = 4 + round;
        opened
            .volumes
            .write(disk, block * 4096, &content(block))
            .unwrap();
        opened.volumes.abandon();
    }
    let opened = open().unwrap();
    assert_eq!(there(&opened, 16), (0..7).collect::<Vec<_>>());
    opened.volumes.close_store().unwrap();
    drop(opened);
    let (code, said) = run_check(&store.store(), &["--data"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(there(&open().unwrap(), 16), (0..7).collect::<Vec<_>>());
}

/// A change of several records, one of them damaged, is given up as a whole.
#[test]
fn half_a_change_is_given_up_with_the_other_half() {
    let store = real_store();
    let open = || OpenStore::open(&store.store());
    let opened = open().unwrap();
    let disk = opened.volumes.create(new_disk("d", SEGMENT)).unwrap();
    for block in 0..8 {
        let done = opened.volumes.write(disk, block * 4096, &content(block));
        done.unwrap();
    }
    let range = Extent {
        offset: 2 * 4096 + 512,
        len: 3 * 4096,
    };
    opened.volumes.discard(disk, range).unwrap();
    opened.volumes.sync().unwrap();
    // Its record says that those before it were durable.
    opened.volumes.write(disk, 9 * 4096, &content(9)).unwrap();
    opened.volumes.abandon();
    drop(opened);
    let path = store.store().join("journal");
    let journal = std::fs::read(&path).unwrap();
    let tail = [&[0; 512], &content(5)[512..]].concat();
    let at = journal.windows(4096).position(|window| window == tail);
    let at = at.unwrap() + 4000;
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[journal[at] ^ 1], at as u64).unwrap();
    assert!(open().is_err());
    let (code, said) = run_check(&store.store(), &["--repair", "--drop-journal-tail"]);
    assert_eq!(code, 1, "{said}");
    let opened = open().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(there(&opened, 16), (0..8).collect::<Vec<_>>());
}

#[test]
fn a_journal_without_headers_can_be_given_up() {
    let store = real_store();
    let open = || OpenStore::open(&store.store());
    let opened = open().unwrap();
    let disk = opened.volumes.create(new_disk("d", SEGMENT)).unwrap();
    opened.volumes.write(disk, 0, &content(0)).unwrap();
    opened.volumes.flush().unwrap();
    opened.volumes.write(disk, 4096, &content(1)).unwrap();
    opened.volumes.sync().unwrap();
    opened.volumes.abandon();
    drop(opened);
    let path = store.store().join("journal");
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&[0; 8192], 0).unwrap();
    assert!(open().is_err());
    let (code, said) = run_check(&store.store(), &["--repair", "--drop-journal-tail"]);
    assert_eq!(code, 1, "{said}");
    for _ in 0..2 {
        let opened = open().unwrap();
        assert_eq!(there(&opened, 2), [0]);
        opened.volumes.abandon();
    }
    let (code, said) = run_check(&store.store(), &["--data"]);
    assert_eq!(code, 0, "{said}");
}

#[test]
fn nothing_is_given_up_where_the_catalog_is_damaged_too() {
    let store = real_store();
    let opened = OpenStore::open(&store.store()).unwrap();
    let disk = opened.volumes.create(new_disk("d", SEGMENT)).unwrap();
    opened.volumes.flush().unwrap();
    for block in 0..8 {
        let data = content(block);
        opened.volumes.write(disk, block * 4096, &data).unwrap();
        opened.volumes.sync().unwrap();
    }
    opened.volumes.abandon();
    drop(opened);
    let path = store.store().join("journal");
    let whole = std::fs::read(&path).unwrap();
    let data = content(4);
    let at = whole.windows(4096).position(|window| window == data);
    let at = at.unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[whole[at] ^ 1], at as u64).unwrap();
    let (code, said) = run_check(&store.store(), &[]);
    assert!(code == 2 && said.contains("--drop-journal-tail"), "{said}");

    let file = |name: &str| -> Arc<dyn Device> {
        Arc::new(FileDevice::open(&store.store().join(name), OpenMode::READ_WRITE).unwrap())
    };
    let (pages, log) = (file("catalog.pages"), file("catalog.log"));
    let catalog = Catalog::open(pages, log, CatalogConfig::default()).unwrap();
    let mut marks = catalog.view().marks();
    marks.next_map = snapmark::base::MapId(0);
    catalog.commit(&[Change::SetMarks(marks)]).unwrap();
    drop(catalog);
    let damaged = std::fs::read(&path).unwrap();
    let (code, said) = run_check(&store.store(), &[]);
    assert_eq!(code, 2, "{said}");
    assert!(!said.contains("--drop-journal-tail"), "{said}");
    let (code, said) = run_check(&store.store(), &["--repair", "--drop-journal-tail"]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("nothing was given up"), "{said}");
    assert!(std::fs::read(&path).unwrap() == damaged, "{said}");
}
