//! A loop device on a disk, dirty pages above it, and little memory: the daemon is what all of
//! them wait for, so it must get on where nobody else does.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{Loop, Mounted, Running, TestStore, able, checksum, run, sh, text};

const MIB: u64 = 1 << 20;
/// What daemon and writers have together, the page cache of the store's files among it.
const LIMIT: u64 = 200 * MIB;
/// What the writers write: several times the limit.
const EACH: u64 = 300 * MIB;
/// How long the daemon may write nothing before it counts as a deadlock.
const WATCHDOG: Duration = Duration::from_secs(120);

/// A group of processes that share a limit of memory; removed when dropped.
struct Group {
    dir: PathBuf,
    /// Names of the files that say how much is used, at most, and how often too much was asked.
    usage: &'static str,
}

impl Group {
    /// With version 2 of the kernel's interface or version 1, whichever has the memory
    /// controller; nothing where this process may not make one.
    fn new(limit: u64, second: bool) -> Option<Self> {
        let name = format!("snapmark-test-{}-{}", std::process::id(), u8::from(second));
        let own = |controller: &str| {
            let text = fs::read_to_string("/proc/self/cgroup").ok()?;
            let mut lines = text.lines().map(|line| line.splitn(3, ':'));
            lines.find_map(|mut line| {
                let (_, names, path) = (line.next()?, line.next()?, line.next()?);
                (names == controller).then(|| path.trim_start_matches('/').to_owned())
            })
        };
        let v2 = || {
            let root = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
            let root = root.iter().map(Path::new).find(|root| {
                let has = fs::read_to_string(root.join("cgroup.controllers"));
                has.is_ok_and(|has| has.split_whitespace().any(|one| one == "memory"))
            })?;
            // Processes of a group may not have limited children beside them, except at the root.
            let dir = root.join(&name);
            let _ = fs::write(root.join("cgroup.subtree_control"), "+memory");
            fs::create_dir(&dir).ok()?;
            let group = Self {
                dir,
                usage: "memory.peak",
            };
            fs::write(group.dir.join("memory.max"), limit.to_string()).ok()?;
            let _ = fs::write(group.dir.join("memory.swap.max"), "0");
            Some(group)
        };
        let v1 = || {
            let dir = Path::new("/sys/fs/cgroup/memory")
                .join(own("memory")?)
                .join(&name);
            fs::create_dir(&dir).ok()?;
            let group = Self {
                dir,
                usage: "memory.max_usage_in_bytes",
            };
            fs::write(group.dir.join("memory.limit_in_bytes"), limit.to_string()).ok()?;
            let _ = fs::write(group.dir.join("memory.swappiness"), "0");
            Some(group)
        };
        v2().or_else(v1)
    }

    fn add(&self, process: u32) {
        fs::write(self.dir.join("cgroup.procs"), process.to_string()).unwrap();
    }

    fn number(&self, file: &str, field: &str) -> Option<u64> {
        let text = fs::read_to_string(self.dir.join(file)).ok()?;
        let mut lines = text.lines();
        lines.find_map(|line| line.strip_prefix(field)?.trim().parse().ok())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for _ in 0..100 {
            if fs::remove_dir(&self.dir).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Ends a connection by force: what waits for the daemon gets errors, and so can the daemon itself
/// be ended where it waits for them.
fn break_connection(mnt: &Path) {
    let info = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let at = |line: &&str| line.split(' ').nth(4) == mnt.to_str();
    let line = info.lines().find(at).unwrap();
    let device = line.split(' ').nth(2).unwrap();
    let minor = device.split(':').nth(1).unwrap();
    let control = tempfile::tempdir().unwrap();
    sh(&format!(
        "mount -t fusectl fusectl {0}; echo 1 > {0}/{minor}/abort; umount {0}",
        control.path().display()
    ));
}

/// Bytes that a process has written so far.
fn written(process: u32) -> u64 {
    let io = fs::read_to_string(format!("/proc/{process}/io")).unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("wchar: "));
    line.and_then(|line| line.parse().ok()).unwrap_or_default()
}

fn resident(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or_default() << 10
}

/// Whether processes started here may say that they write disks, `CAP_SYS_RESOURCE`.
fn may_be_marked() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let rights = u64::from_str_radix(line.unwrap().trim(), 16).unwrap();
    rights & (1 << 24) != 0
}

/// What waits for the daemon has little memory; the daemon itself has what it needs.
#[test]
fn buffered_writers_above_a_loop_device_finish_with_little_memory() {
    under_pressure("writers", false);
}

/// The daemon has its part of what is too little.
#[test]
fn a_daemon_with_little_memory_of_its_own_gets_on() {
    if !may_be_marked() {
        // The kernel then makes it wait for its own writers, and a container can't help that.
        eprintln!("skipped: needs CAP_SYS_RESOURCE");
        return;
    }
    under_pressure("daemon and writers", true);
}

fn under_pressure(name: &str, daemon_too: bool) {
    if !able(&[("mkfs.ext4", "e2fsprogs"), ("e2fsck", "e2fsprogs")]) {
        return;
    }
    let Some(group) = Group::new(LIMIT, daemon_too) else {
        // Containers often have none to give away, and that is no fault of theirs.
        eprintln!("skipped: no control group for memory can be made here");
        return;
    };
    eprintln!("{name} with {} MiB", LIMIT / MIB);
    let mut store = TestStore::with(&[
        "--size",
        "4GiB",
        "--cache-size",
        "32MiB",
        "--journal-size",
        "64MiB",
    ]);
    if daemon_too {
        group.add(store.pid());
    }
    let disk = store.make("vm1.img", 3 << 30);
    run("mkfs.ext4", ["-q", "-F", &text(&disk)]);
    // Buffered, so that the loop device's own pages are in the way as well.
    for (turn, options) in [("buffered", &[][..]), ("direct", &["--direct-io=on"])] {
        let looped = Loop::with(&disk, options);
        let fs = Mounted::new(looped.device(), store.dir().join("fs"), "noatime");
        let (at, mib) = (text(fs.path()), EACH / MIB);
        let started = Instant::now();
        let procs = group.dir.join("cgroup.procs");
        let line = format!(
            "echo $$ > {procs}
             for n in 1 2; do dd if=/dev/zero bs=1M count={mib} of={at}/$n status=none & done
             for n in 1 2 3; do {snapmark} snapshot {disk} {turn}$n; sleep 1; done
             wait; sync -f {at}
             cat {at}/1 > /dev/null; dd if=/dev/urandom bs=4k count=20000 of={at}/1 conv=notrunc,fsync status=none",
            procs = procs.display(),
            snapmark = common::SNAPMARK,
            disk = disk.display(),
        );
        let mut writers = Running::sh(&line);
        let (mut most, mut last, mut moved) = (0, 0, Instant::now());
        while writers.runs() {
            most = most.max(resident(store.pid()));
            let now = written(store.pid());
            if now != last {
                (last, moved) = (now, Instant::now());
            }
            if moved.elapsed() > WATCHDOG {
                let stacks = sh(&format!(
                    "for p in $(cat {}); do cat /proc/$p/comm /proc/$p/stack; done 2>&1 || true",
                    procs.display()
                ));
                break_connection(&store.mnt());
                store.kill9_only();
                panic!("{turn}: nothing was written for {WATCHDOG:?}\n{stacks}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        assert!(writers.0.wait().unwrap().success(), "{turn}");
        let used = group.number(group.usage, "").unwrap_or(0);
        eprintln!(
            "{turn}: {} MiB in {:?}; the daemon had {} MiB at most, the group {} of {} MiB",
            2 * mib,
            started.elapsed(),
            most / MIB,
            used / MIB,
            LIMIT / MIB
        );
        for (file, field) in [
            ("memory.stat", "cache "),
            ("memory.stat", "file "),
            ("memory.failcnt", ""),
        ] {
            if let Some(value) = group.number(file, field) {
                eprintln!("  {file} {field}{value}");
            }
        }
        assert!(
            most < 32 * MIB + 64 * MIB,
            "{turn}: the daemon had {} MiB",
            most / MIB
        );
        let sum = checksum(&fs.path().join("2"));
        fs.unmount();
        looped.detach();
        run("e2fsck", ["-fn", &text(&disk)]);
        let fs = Mounted::new(&disk, store.dir().join("fs"), "loop,noatime");
        assert_eq!(checksum(&fs.path().join("2")), sum, "{turn}");
        fs.unmount();
    }
    assert_eq!(store.status()["state"], "ok");
    store.unmount();
}

/// With the daemon all its users go, so it goes last; and what it writes must not wait for what
/// waits for it. Where it may not say so, it says that.
#[test]
fn the_daemon_is_killed_last_and_marked_as_a_writer_of_disks() {
    if !able(&[]) {
        return;
    }
    let of = |file: &str| fs::read_to_string(file).unwrap();
    let own = of("/proc/self/oom_score_adj");
    let mut store = TestStore::new();
    let daemon = of(&format!("/proc/{}/oom_score_adj", store.pid()));
    let marked = may_be_marked();
    assert_ne!(marked, store.logged().contains("CAP_SYS_RESOURCE"));
    let wanted = match own.trim() {
        "0" if marked => "-900",
        as_it_was => as_it_was,
    };
    assert_eq!(daemon.trim(), wanted);
    // PF_MEMALLOC_NOIO and PF_LOCAL_THROTTLE, which PR_SET_IO_FLUSHER sets.
    const FLUSHER: u64 = 0x0008_0000 | 0x0010_0000;
    for entry in fs::read_dir(format!("/proc/{}/task", store.pid())).unwrap() {
        let stat = of(&format!("{}/stat", entry.unwrap().path().display()));
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        let flags: u64 = fields[6].parse().unwrap();
        assert_eq!(flags & FLUSHER == FLUSHER, marked, "{stat}");
    }
    store.unmount();
}
