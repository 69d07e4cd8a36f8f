//! The tools that people use on disk images, unchanged: qemu-img, qemu-io, dd, cp, rsync, tar,
//! fallocate, fio and fsx.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use common::{Loop, TestStore, able, allocated, checksum, noise, read_at, run, sh, text, write_at};

const MIB: u64 = 1 << 20;

/// A disk of 64 MiB with three islands of data.
fn islands(store: &TestStore, name: &str) -> std::path::PathBuf {
    let disk = store.make(name, 64 * MIB);
    for (at, seed) in [(0, 1), (20 * MIB, 2), (60 * MIB, 3)] {
        write_at(&disk, at, &noise(seed, 2 * MIB as usize));
    }
    disk
}

#[track_caller]
fn sparse(file: &Path) {
    let allocated = allocated(file);
    assert!(allocated <= 8 * MIB, "{}: {allocated}", file.display());
}

#[test]
fn qemu_img_creates_converts_compares_and_maps() {
    if !able(&[("qemu-img", "qemu-utils")]) {
        return;
    }
    let store = TestStore::new();
    let (mnt, dir) = (store.mnt(), store.dir());
    let (mnt, dir) = (mnt.display(), dir.display());
    sh(&format!("qemu-img create -f raw {mnt}/made.img 3G"));
    assert_eq!(store.disk("made.img").metadata().unwrap().len(), 3 << 30);
    // It writes the first block, for file systems that want that.
    assert!(allocated(&store.disk("made.img")) <= 4096);

    let disk = islands(&store, "vm1.img");
    let info = sh(&format!("qemu-img info --output=json {mnt}/vm1.img"));
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["virtual-size"], 64 * MIB);
    assert_eq!(info["format"], "raw");
    sh(&format!(
        "qemu-img convert -f raw -O qcow2 {mnt}/vm1.img {dir}/out.qcow2;
         qemu-img compare {mnt}/vm1.img {dir}/out.qcow2;
         qemu-img convert -t none -T none -f qcow2 -O raw {dir}/out.qcow2 {mnt}/back.img;
         qemu-img convert -n -W -m 8 -f qcow2 -O raw {dir}/out.qcow2 {mnt}/made.img;
         qemu-img compare -f raw -F raw {mnt}/vm1.img {mnt}/back.img;
         qemu-img compare -f raw -F raw {mnt}/vm1.img {mnt}/made.img"
    ));
    sparse(&store.disk("back.img"));
    assert_eq!(checksum(&disk), checksum(&store.disk("back.img")));

    let map = sh(&format!("qemu-img map -f raw --output=json {mnt}/vm1.img"));
    let map: Vec<serde_json::Value> = serde_json::from_str(&map).unwrap();
    let data = map.iter().filter(|part| part["data"] == true);
    let data: Vec<_> = data
        .map(|part| {
            (
                part["start"].as_u64().unwrap(),
                part["length"].as_u64().unwrap(),
            )
        })
        .collect();
    let wanted = [0, 20 * MIB, 60 * MIB].map(|at| (at, 2 * MIB));
    assert_eq!(data, wanted);
    // A snapshot is as good a source.
    store.snapshot("vm1.img", "a");
    sh(&format!(
        "qemu-img convert -f raw -O qcow2 {mnt}/vm1.img@a {dir}/snapshot.qcow2;
         qemu-img compare {dir}/snapshot.qcow2 {dir}/out.qcow2"
    ));
    // A format with metadata of its own, written at random, on a disk that grows.
    sh(&format!(
        "qemu-img create -q -f qcow2 {mnt}/guest.qcow2 1G;
         qemu-io -c 'write -P 7 500M 1M' -c 'read -P 7 500M 1M' {mnt}/guest.qcow2;
         qemu-img check {mnt}/guest.qcow2; qemu-img snapshot -c s {mnt}/guest.qcow2;
         qemu-io -c 'write -P 8 500M 1M' {mnt}/guest.qcow2; qemu-img check {mnt}/guest.qcow2"
    ));
}

#[test]
fn qemu_io_writes_reads_and_discards() {
    if !able(&[("qemu-io", "qemu-utils")]) {
        return;
    }
    let store = TestStore::new();
    let disk = store.make("vm1.img", 256 * MIB);
    for cache in ["none", "writeback", "directsync"] {
        let said = sh(&format!(
            "qemu-io -f raw -t {cache} -d unmap -c 'write -P 0xaa 1M 4M' -c 'aio_write -P 0xbb 8M 64k' \
             -c aio_flush -c 'write -z 3M 1M' -c 'discard 1M 1M' -c flush -c 'read -P 0 1M 1M' \
             -c 'read -P 0xaa 2M 1M' -c 'read -P 0 3M 1M' -c 'read -P 0xbb 8M 64k' {}",
            disk.display()
        ));
        assert!(!said.contains("failed"), "{cache}: {said}");
    }
    store.flush();
    assert!(allocated(&disk) <= 3 * MIB, "{}", allocated(&disk));
}

#[test]
fn copies_stay_sparse() {
    if !able(&[("rsync", "rsync"), ("tar", "tar")]) {
        return;
    }
    let store = TestStore::new();
    let disk = islands(&store, "vm1.img");
    let (mnt, dir) = (store.mnt(), store.dir().to_owned());
    let (m, d) = (mnt.display(), dir.display());
    // Within the mount, out of it and back in.
    sh(&format!(
        "cp --sparse=always {m}/vm1.img {m}/always.img; cp --reflink=auto {m}/vm1.img {m}/auto.img;
         cp {m}/vm1.img {d}/out.img; cp --sparse=always {d}/out.img {m}/in.img;
         rsync -S {m}/vm1.img {m}/rsync.img; rsync -S {m}/vm1.img {d}/rsynced.img;
         rsync --inplace --no-whole-file {m}/vm1.img {m}/auto.img;
         tar -S -C {m} -cf {d}/disks.tar vm1.img;
         mkdir {d}/untarred; tar -S -C {d}/untarred -xf {d}/disks.tar;
         mkdir {d}/t; tar -C {d}/t -S --transform=s/vm1/tar/ -xf {d}/disks.tar; tar -S -C {m} --transform=s/vm1/tar/ -xf {d}/disks.tar;
         dd if={m}/vm1.img of={m}/dd.img bs=1M conv=sparse status=none"
    ));
    let wanted = checksum(&disk);
    for name in [
        "always.img",
        "auto.img",
        "in.img",
        "rsync.img",
        "tar.img",
        "dd.img",
    ] {
        assert_eq!(checksum(&store.disk(name)), wanted, "{name}");
        sparse(&store.disk(name));
    }
    for name in ["out.img", "rsynced.img", "untarred/vm1.img"] {
        assert_eq!(checksum(&dir.join(name)), wanted, "{name}");
        sparse(&dir.join(name));
    }
    assert!(dir.join("disks.tar").metadata().unwrap().len() < 8 * MIB);
    store.snapshot("vm1.img", "a");
    sh(&format!("cp {m}/vm1.img@a {d}/snapshot.img"));
    assert_eq!(checksum(&dir.join("snapshot.img")), wanted);
    sparse(&dir.join("snapshot.img"));
}

#[test]
fn dd_with_every_flag() {
    if !able(&[]) {
        return;
    }
    let store = TestStore::new();
    let source = store.dir().join("source");
    std::fs::write(&source, noise(4, 5 * MIB as usize + 1234)).unwrap();
    let wanted = checksum(&source);
    let disk = store.disk("dd.img");
    let (from, to) = (source.display(), disk.display());
    for flags in [
        "bs=1M conv=fsync",
        "bs=64k oflag=sync conv=fsync",
        "bs=7777 oflag=dsync",
        "bs=1M iflag=fullblock oflag=nocache",
    ] {
        let count = if flags.contains("7777") {
            "count=200"
        } else {
            ""
        };
        sh(&format!(
            "rm -f {to}; dd if={from} of={to} status=none {flags} {count}"
        ));
        if count.is_empty() {
            assert_eq!(checksum(&disk), wanted, "{flags}");
        } else {
            assert_eq!(
                read_at(&disk, 0, 200 * 7777),
                read_at(&source, 0, 200 * 7777)
            );
        }
    }
    sh(&format!(
        "rm {to}; dd if={from} of={to} bs=1M count=5 oflag=direct status=none;
         dd if={from} of={to} bs=1M skip=5 oflag=append conv=notrunc status=none;
         dd if={to} of=/dev/null bs=1M count=5 iflag=direct status=none; cmp {from} {to};
         dd if={from} of={to} bs=4k skip=3 seek=1000 count=2 conv=notrunc status=none"
    ));
    assert_eq!(
        read_at(&disk, 4_096_000, 8192),
        read_at(&source, 12_288, 8192)
    );
    assert_eq!(disk.metadata().unwrap().len(), 5 * MIB + 1234);
}

#[test]
fn fallocate_in_all_its_modes() {
    if !able(&[("fallocate", "util-linux")]) {
        return;
    }
    let store = TestStore::new();
    let disk = store.disk("vm1.img");
    let path = text(&disk);
    let fallocate = |options: &str| sh(&format!("fallocate {options} {path}"));
    let len = || disk.metadata().unwrap().len();
    sh(&format!("touch {path}"));
    fallocate("-l 8MiB");
    assert_eq!(len(), 8 * MIB);
    assert!(read_at(&disk, 0, 8 << 20).iter().all(|byte| *byte == 0));
    fallocate("-n -o 8MiB -l 8MiB");
    assert_eq!(len(), 8 * MIB, "-n keeps the size");
    write_at(&disk, 0, &noise(5, 8 << 20));
    // Both ends inside blocks.
    fallocate("-p -o 1000000 -l 2000000");
    let mut wanted = noise(5, 8 << 20);
    wanted[1_000_000..3_000_000].fill(0);
    assert!(read_at(&disk, 0, 8 << 20) == wanted);
    assert_eq!(len(), 8 * MIB);
    store.flush();
    assert!(allocated(&disk) < 7 * MIB, "{}", allocated(&disk));
    fallocate("-z -o 5000001 -l 333");
    wanted[5_000_001..5_000_334].fill(0);
    assert!(read_at(&disk, 0, 8 << 20) == wanted);
    fallocate("-z -o 8000000 -l 2000000");
    wanted[8_000_000..].fill(0);
    assert_eq!(len(), 10_000_000, "-z grows");
    assert!(read_at(&disk, 0, 8 << 20) == wanted);
    fallocate("-z -n -o 9000000 -l 9000000");
    assert_eq!(len(), 10_000_000, "-z -n keeps the size");
    // Zeros that are data become holes.
    write_at(&disk, 0, &vec![0; MIB as usize]);
    fallocate("-d");
    wanted[..MIB as usize].fill(0);
    assert!(read_at(&disk, 0, 8 << 20) == wanted);
    store.flush();
    assert!(allocated(&disk) < 6 * MIB, "{}", allocated(&disk));
    for refused in ["-c -o 0 -l 4096", "-i -o 0 -l 4096"] {
        let line = format!("fallocate {refused} {path}");
        let (_, said) = common::run_failing("sh", ["-c", &line]);
        assert!(said.contains("not supported"), "{said}");
    }
}

/// Space stays thin, but what the pool could not take is refused.
#[test]
fn fallocate_of_more_than_the_pool_has_is_refused() {
    if !able(&[("fallocate", "util-linux")]) {
        return;
    }
    let store = TestStore::with(&["--size", "64MiB"]);
    let path = text(&store.disk("a.img"));
    sh(&format!("fallocate -l 40MiB {path}"));
    sh(&format!(
        "dd if=/dev/urandom of={path} bs=1M count=40 conv=notrunc status=none"
    ));
    sh(&format!(
        "fallocate -l 40MiB {path}; fallocate -o 20MiB -l 30MiB {path}"
    ));
    let (_, said) = common::run_failing("fallocate", ["-l", "1GiB", &path]);
    assert!(said.contains("No space left"), "{said}");
    assert_eq!(store.disk("a.img").metadata().unwrap().len(), 50 * MIB);
}

#[test]
fn truncate_grows_and_shrinks() {
    if !able(&[]) {
        return;
    }
    let mut store = TestStore::new();
    let disk = islands(&store, "vm1.img");
    let path = text(&disk);
    sh(&format!("truncate -s 61M {path}"));
    sh(&format!("truncate -s 64M {path}"));
    assert!(read_at(&disk, 60 * MIB, 1 << 20) == noise(3, 2 << 20)[..1 << 20]);
    assert!(
        read_at(&disk, 61 * MIB, 3 << 20)
            .iter()
            .all(|byte| *byte == 0)
    );
    sh(&format!("truncate -s 12345 {path}; truncate -s 1M {path}"));
    let mut wanted = noise(1, 1 << 20);
    wanted[12345..].fill(0);
    assert!(read_at(&disk, 0, 1 << 20) == wanted);
    sh(&format!("truncate -s 64T {path}"));
    write_at(&disk, (64 << 40) - 5000, &noise(9, 5000));
    store.remount();
    assert_eq!(disk.metadata().unwrap().size(), 64 << 40);
    assert!(read_at(&disk, (64 << 40) - 5000, 5000) == noise(9, 5000));
    assert!(read_at(&disk, 0, 1 << 20) == wanted);
    assert!(allocated(&disk) < MIB);
}

/// fio writes blocks with checksums and a header that says where they belong, and reads them.
fn fio(file: &str, jobs: &str) {
    run(
        "fio",
        format!(
            "--name=verify --filename={file} --verify=crc32c --do_verify=1 --verify_fatal=1 \
             --verify_backlog=2048 --randrepeat=1 --verify_state_save=0 --group_reporting --output-format=terse {jobs}"
        )
        .split(' '),
    );
}

#[test]
fn fio_verifies_what_it_wrote() {
    if !able(&[("fio", "fio")]) {
        return;
    }
    let store = TestStore::new();
    let disk = store.make("vm1.img", 128 * MIB);
    let path = text(&disk);
    let deep = "--ioengine=libaio --direct=1 --iodepth=16 --numjobs=2 --offset_increment=64m";
    fio(&path, &format!("{deep} --rw=randwrite --bs=4k --size=24m"));
    fio(
        &path,
        &format!("{deep} --rw=randwrite --bsrange=512-64k --blockalign=512 --size=24m --fsync=64"),
    );
    fio(&path, &format!("{deep} --rw=write --bs=1m --size=64m"));
    fio(
        &path,
        "--ioengine=psync --rw=randwrite --bssplit=3k/30:16k/40:100k/30 --size=32m",
    );
    fio(&path, "--ioengine=mmap --rw=randwrite --bs=4k --size=16m");
    fio(
        &path,
        "--ioengine=sync --sync=dsync --rw=randwrite --bs=16k --size=4m",
    );
}

#[test]
fn fio_verifies_through_a_loop_device() {
    if !able(&[("fio", "fio")]) {
        return;
    }
    let store = TestStore::new();
    let disk = store.make("vm1.img", 128 * MIB);
    let device = Loop::over(&disk);
    let deep = "--ioengine=libaio --direct=1 --iodepth=16 --numjobs=2 --offset_increment=64m";
    fio(
        device.device(),
        &format!("{deep} --rw=randwrite --bs=4k --size=24m"),
    );
    fio(
        device.device(),
        "--ioengine=psync --rw=randrw --bs=8k --size=32m --end_fsync=1",
    );
    device.detach();
}

#[test]
fn fsx_finds_nothing_wrong() {
    if !able(&[("fsx", "cargo install fsx")]) {
        return;
    }
    let store = TestStore::new();
    let config = store.dir().join("fsx.toml");
    let weights = "close_open = 1\nread = 10\nwrite = 10\nmapread = 5\nmapwrite = 5\ninvalidate = 1\n\
                   truncate = 3\nfsync = 0.2\nfdatasync = 0.2\nposix_fallocate = 2\npunch_hole = 5\n\
                   sendfile = 2\nposix_fadvise = 1\ncopy_file_range = 5\n";
    let options = [
        format!("flen = 1048576\n[opsize]\nmax = 65536\nmin = 1\n[weights]\n{weights}"),
        format!(
            "flen = 8388608\n[opsize]\nmax = 524288\nmin = 1\nalign = 512\n[weights]\n{weights}"
        ),
    ];
    for (at, text_of) in options.iter().enumerate() {
        std::fs::write(&config, text_of).unwrap();
        let disk = text(&store.disk(&format!("fsx{at}.img")));
        for seed in ["1", "2"] {
            let artifacts = text(store.dir());
            let arguments = [
                "-S",
                seed,
                "-N",
                "3000",
                "-f",
                &text(&config),
                "-P",
                &artifacts,
                &disk,
            ];
            run("fsx", arguments);
        }
    }
}
