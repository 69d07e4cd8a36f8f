//! What happens, in order.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::lab::{Lab, Result, why_not_ext4};
use crate::probe::{Probe, Waits};
use crate::tree::{Claim, Copy, Found, Place, Tree, prove};

const DISK: u64 = 2 << 30;
/// A write that began so shortly after a command still counts as being in its way.
const AFTERMATH: Duration = Duration::from_millis(20);

/// Space comes back in the background; how fast is up to the host, which may discard each piece.
const PATIENCE: Duration = Duration::from_secs(20);

/// A snapshot that was taken, and what it must hold.
struct Taken {
    claim: Claim,
    span: (Instant, Instant),
}

impl Taken {
    fn took(&self) -> String {
        time(self.span.1 - self.span.0)
    }
}

/// A mounted store, and a disk in it that is being used.
struct Stage {
    lab: Lab,
    tree: Arc<Tree>,
    store: PathBuf,
    mnt: PathBuf,
    disk: PathBuf,
    place: Place,
    ext4: bool,
}

pub fn run() -> Result<()> {
    let mut stage = set_up()?;
    let probe = Probe::start(&stage.mnt.join("probe.img"))?;
    let mut copy = Copy::start(&stage.tree, &stage.place, &stage.lab.stop)?;
    let first = stage.first(&copy)?;
    let second = stage.second(&copy)?;
    copy.wait()?;
    stage.lab.check()?;
    let copied = copy.progress.bytes.load(Relaxed);
    stage.say(format!("copied all {}", size(copied)));
    let third = stage.idle_snapshot()?;
    stage.delete()?;
    stage.prove_first(&copy, first.claim)?;
    if stage.ext4 {
        stage.prove_second(&copy, second.claim)?;
    }
    let waits = probe.end()?;
    stage.give_back()?;
    let freeze = stage.ext4;
    stage.lab.finish()?;
    report(&waits, &[first, second, third], freeze);
    Ok(())
}

fn set_up() -> Result<Stage> {
    let mut lab = Lab::new()?;
    let reason = why_not_ext4();
    match &reason {
        None => lab.say("ext4 on a loop device, as root"),
        Some(reason) => lab.say(format!(
            "{reason}: the tree goes onto the disk's file itself, without a file system"
        )),
    }
    let tree = Arc::new(Tree::find()?);
    let (store, mnt) = (lab.dir.join("store"), lab.directory("mnt")?);
    let init = ["--size", "8GiB", "--journal-size", "256MiB"].map(OsStr::new);
    lab.snapmark(&[&[OsStr::new("init"), store.as_os_str()][..], &init].concat())?;
    lab.mount_store(&store, &mnt)?;
    lab.say("snapmark init store --size 8GiB; snapmark mount store mnt");
    let disk = mnt.join("vm1.img");
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&disk)?;
    file.set_len(DISK)?;
    let ext4 = reason.is_none();
    let place = if ext4 {
        drop(file);
        make_file_system(&mut lab, &disk)?
    } else {
        lab.say("truncate -s 2G mnt/vm1.img");
        Place::Disk(Arc::new(file))
    };
    let roots: Vec<String> = tree.roots.iter().map(|r| r.display().to_string()).collect();
    lab.say(format!(
        "copying {} files, {}, of {} ...",
        tree.entries.len(),
        size(tree.bytes),
        roots.join(", ")
    ));
    Ok(Stage {
        lab,
        tree,
        store,
        mnt,
        disk,
        place,
        ext4,
    })
}

fn make_file_system(lab: &mut Lab, disk: &Path) -> Result<Place> {
    lab.tool("mkfs.ext4", &[OsStr::new("-q"), disk.as_os_str()])?;
    let device = lab.attach_loop(disk)?;
    let live = lab.directory("live")?;
    lab.mount(device.as_ref(), "noatime", &live)?;
    lab.say("truncate -s 2G mnt/vm1.img; mkfs.ext4, losetup --direct-io=on, mount");
    Ok(Place::FileSystem(live))
}

impl Stage {
    fn say(&self, what: impl std::fmt::Display) {
        self.lab.say(what);
    }

    /// Returns when so many parts of ten are copied.
    fn wait_for(&self, copy: &Copy, tenths: u64) -> Result<()> {
        while copy.progress.bytes.load(Relaxed) < self.tree.bytes / 10 * tenths && !copy.is_over() {
            self.lab.check()?;
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn snapshot(&self, copy: Option<&Copy>, words: &[&str]) -> Result<Taken> {
        let disk = self.disk.as_os_str();
        let words: Vec<&OsStr> = words.iter().map(OsStr::new).collect();
        let complete = copy.map_or(0, |copy| copy.progress.done());
        let from = Instant::now();
        self.lab
            .snapmark(&[&[OsStr::new("snapshot"), disk][..], &words].concat())?;
        let to = Instant::now();
        let begun = copy.map_or(0, |copy| copy.progress.begun());
        Ok(Taken {
            claim: Claim { complete, begun },
            span: (from, to),
        })
    }

    /// In the midst of the copy; with the file system frozen, so that all it has is in it.
    fn first(&self, copy: &Copy) -> Result<Taken> {
        self.wait_for(copy, 2)?;
        let words: &[&str] = if self.ext4 {
            &["--freeze", "--name", "first"]
        } else {
            &["--name", "first"]
        };
        let taken = self.snapshot(Some(copy), words)?;
        let freeze = if self.ext4 { " --freeze" } else { "" };
        self.say(format!(
            "snapmark snapshot{freeze} mnt/vm1.img first: {}, with {} files complete",
            taken.took(),
            taken.claim.complete
        ));
        Ok(taken)
    }

    /// Later in the copy; without a freeze. Only what was synced before is promised.
    fn second(&self, copy: &Copy) -> Result<Taken> {
        self.wait_for(copy, 6)?;
        let complete = copy.progress.done();
        if let Place::FileSystem(root) = &self.place {
            rustix::fs::syncfs(File::open(root)?)?;
        }
        let mut taken = self.snapshot(Some(copy), &["--name", "second"])?;
        if self.ext4 {
            taken.claim.complete = complete;
        }
        self.say(format!(
            "snapmark snapshot mnt/vm1.img second: {}, crash-consistent",
            taken.took()
        ));
        Ok(taken)
    }

    /// With all quiet, so that its space can be told from that of other writes.
    fn idle_snapshot(&self) -> Result<Taken> {
        if let Place::FileSystem(root) = &self.place {
            rustix::fs::syncfs(File::open(root)?)?;
        }
        let before = self.used()?;
        let taken = self.snapshot(None, &["--name", "third"])?;
        let after = self.used()?;
        self.say(format!(
            "snapmark snapshot mnt/vm1.img third: {}; pool in use before {}, after {}",
            taken.took(),
            size(before),
            size(after)
        ));
        Ok(taken)
    }

    fn delete(&self) -> Result<()> {
        let entries = self.tree.entries.iter().step_by(2);
        let mut deleted = 0;
        for entry in entries {
            self.lab.check()?;
            deleted += usize::from(self.place.delete(entry).is_ok());
        }
        if let Place::FileSystem(root) = &self.place {
            rustix::fs::syncfs(File::open(root)?)?;
            self.lab.tool("fstrim", &[root])?;
        }
        self.say(format!(
            "deleted {deleted} files; the snapshots keep them: pool in use {}",
            size(self.used()?)
        ));
        Ok(())
    }

    fn prove_first(&mut self, copy: &Copy, claim: Claim) -> Result<()> {
        let snapshot = self.mnt.join("vm1.img@first");
        let place = if self.ext4 {
            let old = self.lab.directory("first")?;
            self.lab.mount(&snapshot, "ro,loop", &old)?;
            self.say("mount -o ro,loop mnt/vm1.img@first first");
            Place::FileSystem(old)
        } else {
            Place::Disk(Arc::new(File::open(&snapshot)?))
        };
        let found = prove(&self.tree, &copy.progress, &place, claim, true)?;
        self.proved("first", &found, claim);
        Ok(())
    }

    /// Its journal is replayed in a writable clone, as after a power cut; then it has to be sound.
    fn prove_second(&mut self, copy: &Copy, claim: Claim) -> Result<()> {
        let snapshot = self.mnt.join("vm1.img@second");
        let words = ["clone".as_ref(), snapshot.as_os_str(), "check.img".as_ref()];
        self.lab.snapmark(&words)?;
        let clone = self.mnt.join("check.img");
        let place = self.lab.directory("second")?;
        self.lab.mount(&clone, "noatime,loop", &place)?;
        let place = Place::FileSystem(place);
        let found = prove(&self.tree, &copy.progress, &place, claim, false)?;
        self.lab.release_disks()?;
        self.lab
            .tool("e2fsck", &[OsStr::new("-fn"), clone.as_os_str()])?;
        self.say("snapmark clone mnt/vm1.img@second check.img; mount; umount; e2fsck: clean");
        self.proved("second", &found, claim);
        Ok(())
    }

    fn proved(&self, name: &str, found: &Found, claim: Claim) {
        self.say(format!(
            "{name} is exact: {} files, {}, match their checksums ({} were complete before the \
             command), {} there in part, {} not there, none from after it",
            found.exact,
            size(found.bytes),
            claim.complete,
            found.partial,
            found.absent
        ));
    }

    /// Deletes the snapshots and the disks, and waits for the space.
    fn give_back(&mut self) -> Result<()> {
        self.lab.release_disks()?;
        self.place = Place::FileSystem(PathBuf::new());
        let before = self.used()?;
        let names: Vec<PathBuf> = ["vm1.img@first", "vm1.img@second", "vm1.img@third"]
            .map(|name| self.mnt.join(name))
            .into();
        let mut words = vec![OsStr::new("delete")];
        words.extend(names.iter().map(|name| name.as_os_str()));
        self.lab.snapmark(&words)?;
        for entry in std::fs::read_dir(&self.mnt)?.flatten() {
            let is_disk = entry.file_name().to_string_lossy().ends_with(".img");
            if is_disk {
                std::fs::remove_file(entry.path())?;
            }
        }
        let patience = Instant::now() + PATIENCE;
        let (mut after, mut pending) = self.space()?;
        // What is pending is out of use, but the host has it back only after the punch.
        while after + pending > 0 && Instant::now() < patience {
            self.lab.check()?;
            std::thread::sleep(Duration::from_millis(50));
            (after, pending) = self.space()?;
        }
        let backing = std::fs::metadata(self.store.join("pool.img"))?.blocks() * 512;
        let waiting = match pending {
            0 => String::new(),
            _ => format!(" and {} still on its way to the host", size(pending)),
        };
        self.say(format!(
            "deleted snapshots and disks: pool in use {}{waiting}, before {}; the host's file holds {}",
            size(after),
            size(before),
            size(backing)
        ));
        Ok(())
    }

    /// Bytes of the pool's segments in use once the cache is drained.
    fn used(&self) -> Result<u64> {
        Ok(self.space()?.0)
    }

    /// Bytes of the pool's segments in use once the cache is drained, and of those that are given
    /// up and still wait for their punch.
    fn space(&self) -> Result<(u64, u64)> {
        self.lab
            .snapmark(&[OsStr::new("flush"), self.mnt.as_os_str()])?;
        let words = ["status".as_ref(), self.mnt.as_os_str(), "--json".as_ref()];
        let status: serde_json::Value = serde_json::from_str(&self.lab.snapmark(&words)?)?;
        let bytes = |name: &str| {
            let value = status["pool"][name].as_u64();
            value.ok_or_else(|| format!("the status has no pool.{name}"))
        };
        Ok((bytes("used")?, bytes("pending")?))
    }
}

fn report(waits: &Waits, taken: &[Taken; 3], freeze: bool) {
    let spans = taken
        .each_ref()
        .map(|taken| (taken.span.0, taken.span.1 + AFTERMATH));
    let note = |name| match (name, freeze) {
        ("first", true) => "  (ext4 writes all it holds, and waits)",
        ("second", _) => "  (the copy goes on)",
        ("third", _) => "  (nothing else goes on)",
        _ => "",
    };
    println!();
    println!("                      command   longest wait of a write to another disk meanwhile");
    for ((name, taken), span) in ["first", "second", "third"]
        .into_iter()
        .zip(taken)
        .zip(spans)
    {
        let waited = time(waits.longest_in(span));
        println!(
            "snapshot {name:8} {:>12}   {waited:>10}{}",
            taken.took(),
            note(name)
        );
    }
    println!(
        "at any other time                {:>10}",
        time(waits.longest_outside(&spans))
    );
    println!(
        "{} writes of 4 KiB were measured; 99.9 % took less than {}",
        waits.count(),
        time(waits.percentile(0.999))
    );
    println!("left behind nothing: unmounted, detached, directory removed");
}

fn size(bytes: u64) -> String {
    snapmark::base::ByteSize(bytes >> 10 << 10).to_string()
}

fn time(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}
