//! What people have for iSCSI works unchanged, and what it writes is what the mount shows.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use std::net::SocketAddr;
use std::path::Path;

use common::iscsi::{STORE, good, identity, read, served, session_at, write};
use common::{TestStore, able, noise, run, sh, text};
use snapmark::frontend::iscsi::{Initiator, target_name};

const MIB: usize = 1 << 20;
const PACKAGES: [(&str, &str); 8] = [
    ("qemu-img", "qemu-utils"),
    ("qemu-io", "qemu-utils"),
    ("iscsi-inq", "libiscsi-bin"),
    ("iscsi-ls", "libiscsi-bin"),
    ("iscsi-perf", "libiscsi-bin"),
    ("iscsi-readcapacity16", "libiscsi-bin"),
    ("iscsi-swp", "libiscsi-bin"),
    ("cmp", "diffutils"),
];

fn url(portal: SocketAddr, file: &str) -> String {
    format!("iscsi://{portal}/{}/0", target_name(STORE, file).unwrap())
}

/// Holes, data, zeros.
fn image(at: &Path) -> String {
    let mut bytes = vec![0; 64 * MIB];
    bytes[MIB..4 * MIB].copy_from_slice(&noise(1, 3 * MIB));
    bytes[20 * MIB + 512..21 * MIB].copy_from_slice(&noise(2, MIB - 512));
    bytes[64 * MIB - 512..].copy_from_slice(&noise(3, 512));
    let path = at.join("image.raw");
    std::fs::write(&path, bytes).unwrap();
    text(&path)
}

fn set_up() -> Option<(TestStore, SocketAddr)> {
    if !able(&PACKAGES) {
        return None;
    }
    // A driver is no program: that of libiscsi is in a package of its own.
    let (_, probed) = common::execute(
        "qemu-img",
        ["info", "iscsi://127.0.0.1:1/iqn.2026-11.none/0"],
    );
    if String::from_utf8_lossy(&probed.stderr).contains("Unknown protocol")
        && !common::missing("needs qemu's iSCSI driver: apt-get install qemu-block-extra")
    {
        return None;
    }
    Some(served(&["--size", "1GiB"]))
}

#[test]
fn qemu_writes_over_iscsi_what_the_mount_and_snapshots_show() {
    let Some((store, portal)) = set_up() else {
        return;
    };
    let image = image(store.dir());
    store.make("vm1.img", 64 << 20);
    let (disk, at) = (text(&store.disk("vm1.img")), url(portal, "vm1.img"));
    sh(&format!("qemu-img convert -n -f raw -O raw {image} {at}"));
    sh(&format!("cmp {image} {disk}"));
    sh(&format!("qemu-img compare -f raw -F raw {image} {at}"));
    store.snapshot("vm1.img", "s");
    let commands = "-c 'write -P 0xa5 4k 1M' -c 'read -P 0xa5 4k 1M' -c 'discard 20M 1M' \
                    -c 'read -P 0 20M 1M' -c 'write -z 8M 1M' -c 'aio_write -P 7 30M 64k' \
                    -c aio_flush -c 'write -f -P 8 40M 512' -c flush";
    let said = sh(&format!("qemu-io -f raw {commands} {at}"));
    assert!(!said.contains("failed"), "{said}");
    sh(&format!("qemu-img compare -f raw -F raw {disk} {at}"));
    // As it was, over either way.
    sh(&format!("cmp {image} {disk}@s"));
    let snapshot = url(portal, "vm1.img@s");
    sh(&format!(
        "qemu-img compare -f raw -F raw {image} {snapshot}"
    ));
    // And the other way round: what came through the mount.
    let other = text(&store.disk("vm2.img"));
    sh(&format!("qemu-img convert -f raw -O raw {image} {other}"));
    let at = url(portal, "vm2.img");
    sh(&format!("qemu-img compare -f raw -F raw {image} {at}"));
    let back = store.dir().join("back.raw");
    sh(&format!(
        "qemu-img convert -f raw -O raw {at} {back}; cmp {image} {back}",
        back = text(&back)
    ));
    // A hole is known as such.
    let map = sh(&format!("qemu-img map -f raw --output=json {at}"));
    assert!(map.contains("\"zero\": true"), "{map}");
}

#[test]
fn libiscsis_tools_work() {
    let Some((store, portal)) = set_up() else {
        return;
    };
    store.make("vm1.img", 64 << 20);
    store.snapshot("vm1.img", "s");
    let (at, snapshot) = (url(portal, "vm1.img"), url(portal, "vm1.img@s"));
    let said = sh(&format!("iscsi-ls -s iscsi://{portal}"));
    for name in ["vm1.img", "vm1.img@s"] {
        let target = target_name(STORE, name).unwrap();
        assert!(said.contains(&format!("Target:{target} ")), "{said}");
    }
    let said = sh(&format!("iscsi-inq {at}"));
    assert!(said.contains("Vendor:SNAPMARK"), "{said}");
    for page in [0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2] {
        sh(&format!("iscsi-inq -e 1 -c {page} {at}"));
    }
    let said = sh(&format!("iscsi-readcapacity16 {at}"));
    assert!(said.contains("Total size:67108864"), "{said}");
    assert!(said.contains("LBPME:1 LBPRZ:1"), "{said}");
    // Software write protection, and away with it.
    run("iscsi-swp", ["--swp", "on", &at]);
    run("iscsi-swp", ["--swp", "off", &at]);
    for url in [&at, &snapshot] {
        for flags in ["-m 16 -b 8 -r", "-m 4 -b 2048"] {
            sh(&format!("iscsi-perf {flags} -t 1 {url}"));
        }
    }
}

#[test]
fn the_status_shows_who_uses_what() {
    if !able(&[]) {
        return;
    }
    let (store, portal) = served(&["--size", "64MiB"]);
    store.make("vm1.img", 1 << 20);
    let session = || store.status()["iscsi"]["sessions"].clone();
    assert_eq!(session().as_array().unwrap().len(), 0);
    let mut initiator = session_at(portal, "reader", "vm1.img");
    good(&write(&mut initiator, 0, &[7; 8192]));
    read(&mut initiator, 0, 8);
    drop(Initiator::log_in(portal, &identity("nobody", "none.img")).unwrap_err());
    let target = target_name(STORE, "vm1.img").unwrap();
    let seen = session()[0].clone();
    assert_eq!(seen["initiator"], "iqn.2026-11.test:reader");
    assert_eq!(seen["target"], target);
    assert_eq!(
        (&seen["read"], &seen["written"]),
        (&4096.into(), &8192.into())
    );
    let all = store.status()["iscsi"].clone();
    assert_eq!(all["portals"][0], portal.to_string());
    assert_eq!(
        (&all["logins"], &all["failed_logins"]),
        (&1.into(), &1.into())
    );
    let stats = std::fs::read_to_string(store.disk(".stats")).unwrap();
    let sample = format!("target=\"{target}\"}} 8192");
    assert!(stats.contains(&sample), "{stats}");
    let words = run(
        env!("CARGO_BIN_EXE_snapmark"),
        ["status".as_ref(), store.mnt().as_os_str()],
    );
    assert!(
        words.contains("iqn.2026-11.test:reader at 127.0.0.1:"),
        "{words}"
    );
    initiator.log_out().unwrap();
    common::wait_until("it has left", || session().as_array().unwrap().is_empty());
}
