//! Names and attributes: what makes, shows, renames and deletes disks and snapshots in a mount.

mod common;

use common::{TestStore, able};

#[test]
fn a_disk_and_its_attributes_outlive_the_daemon() {
    if !able(&[]) {
        return;
    }
    let mut store = TestStore::new();
    let disk = store.make("vm1.img", 1 << 30);
    common::write_at(&disk, 4096, &common::noise(1, 10_000));
    store.remount();
    assert_eq!(
        common::read_at(&disk, 4096, 10_000),
        common::noise(1, 10_000)
    );
    store.kill9();
    store.mount();
    assert_eq!(
        common::read_at(&disk, 4096, 10_000),
        common::noise(1, 10_000)
    );
}
