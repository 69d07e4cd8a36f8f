//! Whatever is written to `.control` is answered with an errno and words, changes nothing that it
//! does not name, and takes no memory to speak of.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use common::{Random, TestStore, able, noise, read_at, seeds, write_at};

const MIB: u64 = 1 << 20;

/// Whether an errno is one that the help names.
fn is_known(code: i32) -> bool {
    [
        libc::EINVAL,
        libc::ENOENT,
        libc::EEXIST,
        libc::EBUSY,
        libc::ENOSPC,
        libc::EROFS,
        libc::ENAMETOOLONG,
        libc::EFBIG,
        libc::EIO,
    ]
    .contains(&code)
}

/// Words of commands, and what does not belong in them. None names the disk that is to stay.
const WORDS: [&str; 34] = [
    "snapshot",
    "delete",
    "rename",
    "rollback",
    "clone",
    "resize",
    "flush",
    "priority",
    "list",
    "status",
    "stats",
    "help",
    "device-list",
    "device-add",
    "nosync",
    "force",
    "toy",
    "toy@a",
    "toy@b",
    "new",
    "a",
    "@",
    "toy@",
    "@a",
    "..",
    "../../etc/passwd",
    "/",
    ",",
    "toy,toy2",
    "-1",
    "18446744073709551616",
    "1e9",
    "\u{202e}",
    "é",
];

/// Lines that are nearly commands, and bytes that are nothing.
fn garbage(random: &mut Random) -> Vec<u8> {
    let mut line = Vec::new();
    match random.below(8) {
        0 => line = noise(random.next(), random.below(300) as usize),
        1 => line = noise(random.next(), random.below(9000) as usize),
        2 => line = vec![b"ax,@ /.\0\n"[random.below(9) as usize]; random.below(70_000) as usize],
        _ => {
            for _ in 0..=random.below(4) {
                for _ in 0..=random.below(5) {
                    let word = random.pick(&WORDS).unwrap();
                    line.extend_from_slice(word.as_bytes());
                    line.push(*random.pick(b"      \t,@\0\r").unwrap());
                }
                if !random.chance(4) {
                    line.push(b'\n');
                }
            }
            if random.chance(3) && !line.is_empty() {
                let at = random.below(line.len() as u64) as usize;
                line[at] = random.next() as u8;
            }
        }
    }
    // Adding devices of any path is the administrator's right, and not what is tried here.
    let line = String::from_utf8_lossy(&line).replace("device-add /", "device-add ../");
    line.into_bytes()
}

#[test]
fn garbage_in_the_control_file_is_refused_in_words() {
    if !able(&[]) {
        return;
    }
    let store = TestStore::new();
    let keep = store.make("keep.img", MIB);
    write_at(&keep, 0, &noise(1, MIB as usize));
    store.snapshot("keep.img", "s");
    let outside = std::fs::read_dir(store.dir()).unwrap().count();
    let (writes, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    for seed in seeds(1) {
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let (store, writes, refused) = (&store, &writes, &refused);
                scope.spawn(move || {
                    let mut random = Random(seed * 16 + writer);
                    let open = || {
                        OpenOptions::new()
                            .read(true)
                            .write(true)
                            .open(store.disk(".control"))
                    };
                    let mut control = open().unwrap();
                    for turn in 0..700 {
                        if turn % 50 == 0 {
                            let _ = std::fs::File::create_new(store.disk("toy"));
                            control = open().unwrap();
                        }
                        let line = garbage(&mut random);
                        writes.fetch_add(1, Relaxed);
                        if let Err(error) = control.write(&line) {
                            refused.fetch_add(1, Relaxed);
                            let code = error.raw_os_error().unwrap();
                            assert!(is_known(code), "seed {seed}: {error}: {line:?}");
                            let mut words = vec![0; 128 << 10];
                            let len = control.read_at(&mut words, 0).unwrap();
                            let words = std::str::from_utf8(&words[..len]).unwrap();
                            assert!(words.contains("error: "), "seed {seed}: {line:?}");
                            assert!(len <= 72 << 10, "seed {seed}: {len} bytes of answers");
                        }
                    }
                });
            }
        });
        let history = std::fs::read_to_string(store.disk(".control")).unwrap();
        assert!(history.len() < 80 << 10, "seed {seed}: {}", history.len());
        let clean = |c: char| !c.is_control() || c == '\n';
        assert!(
            history.chars().all(clean),
            "seed {seed}: control characters"
        );
        let status = store.status();
        assert_eq!(status["state"], "ok", "seed {seed}");
        assert_eq!(
            status["devices"].as_array().unwrap().len(),
            1,
            "seed {seed}"
        );
        for name in ["keep.img", "keep.img@s"] {
            let same = read_at(&store.disk(name), 0, MIB as usize) == noise(1, MIB as usize);
            assert!(same, "seed {seed}: {name}");
        }
    }
    let most = store.memory("VmHWM");
    eprintln!(
        "{} writes, {} refused; {} MiB at most",
        writes.load(Relaxed),
        refused.load(Relaxed),
        most / MIB
    );
    assert!(refused.load(Relaxed) > 1000);
    assert!(most < 72 * MIB, "{} MiB", most / MIB);
    assert_eq!(std::fs::read_dir(store.dir()).unwrap().count(), outside);
}

/// A program that writes in blocks cuts lines in two. The first half of a name is another name.
#[test]
fn a_line_that_is_cut_is_never_carried_out() {
    if !able(&[]) {
        return;
    }
    let store = TestStore::new();
    store.make("vm1.img", 4096);
    for name in ["1", "10", "11"] {
        store.snapshot("vm1.img", name);
    }
    let mut lines = "flush\n".repeat(600);
    lines.push_str("delete vm1.img@10\ndelete vm1.img@11\n");
    let at = lines.find("@10").unwrap() + 2;
    let mut control = OpenOptions::new()
        .write(true)
        .open(store.disk(".control"))
        .unwrap();
    let error = control.write(&lines.as_bytes()[..at]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    assert!(store.disk("vm1.img@1").exists(), "the wrong one");
    // Longer than what the kernel hands over at once, with the same cut inside.
    let long = "\n".repeat((1 << 20) - 16) + "delete vm1.img@10\n";
    let error = control.write(long.as_bytes()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENAMETOOLONG));
    for name in ["1", "10", "11"] {
        assert!(store.disk(&format!("vm1.img@{name}")).exists(), "{name}");
    }
    // Whole lines, many at once, and the one that may lack its end.
    control
        .write_all(b"delete vm1.img@10\ndelete vm1.img@11\n")
        .unwrap();
    control.write_all(b"delete vm1.img@1").unwrap();
    for name in ["1", "10", "11"] {
        assert!(!store.disk(&format!("vm1.img@{name}")).exists(), "{name}");
    }
    // Of lines up to the first that fails, those before it are done.
    let some = store.control("snapshot vm1.img a\nnonsense\nsnapshot vm1.img b\n");
    assert_eq!(some.unwrap_err().raw_os_error(), Some(libc::EINVAL));
    assert!(store.disk("vm1.img@a").exists() && !store.disk("vm1.img@b").exists());
}

/// Huge writes, from many at once, are refused before they are kept.
#[test]
fn huge_writes_take_no_memory() {
    if !able(&[]) {
        return;
    }
    let store = TestStore::new();
    // All of them would be well, and do nothing.
    let data = vec![b'\n'; 8 << 20];
    std::thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| {
                let control = File::options()
                    .write(true)
                    .open(store.disk(".control"))
                    .unwrap();
                for _ in 0..3 {
                    let error = (&control).write(&data).unwrap_err();
                    assert_eq!(error.raw_os_error(), Some(libc::ENAMETOOLONG));
                }
            });
        }
    });
    let most = store.memory("VmHWM");
    eprintln!("{} MiB at most", most / MIB);
    assert!(most < 72 * MIB, "{} MiB", most / MIB);
}
