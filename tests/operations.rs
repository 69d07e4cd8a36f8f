//! Random operations on files of a mount against an oracle that keeps all bytes in memory: content,
//! sizes, names and errno are what it says, now, in snapshots of then, and after a crash.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use common::{Random, TestStore, able, noise, seeds};
use rustix::fs::{CWD, FallocateFlags, RenameFlags, SeekFrom};
use rustix::io::Errno;

/// The largest disk: some segments, and a tail that fills none.
const MOST: u64 = (1 << 20) + 300_000;
/// Names of disks that come and go.
const NAMES: [&str; 5] = ["a", "b.img", "c", "d-1", "é"];
const SNAPSHOTS: [&str; 4] = ["1", "2", "x", "y"];
const OPERATIONS: u64 = 700;

/// An open file, the disk that it is open on, and whether it appends.
struct Open {
    file: File,
    disk: usize,
    append: bool,
}

/// What is to be there.
#[derive(Default)]
struct Oracle {
    /// The content of every disk that ever was.
    disks: Vec<Vec<u8>>,
    names: BTreeMap<String, usize>,
    snapshots: BTreeMap<String, Vec<u8>>,
    open: Vec<Open>,
}

struct Run<'a> {
    store: &'a TestStore,
    /// What its names begin with.
    prefix: String,
    random: Random,
    oracle: Oracle,
    done: u64,
    /// What was done last, for whoever looks into a failure.
    notes: Vec<String>,
}

/// The errno of a result, or that it is well.
fn outcome<T>(result: io::Result<T>) -> Result<T, Errno> {
    result.map_err(|error| Errno::from_io_error(&error).unwrap())
}

impl Run<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.store.disk(name)
    }

    fn name(&mut self) -> String {
        format!("{}{}", self.prefix, self.random.pick(&NAMES).unwrap())
    }

    fn existing(&mut self) -> Option<String> {
        let names: Vec<String> = self.oracle.names.keys().cloned().collect();
        self.random.pick(&names).cloned()
    }

    fn note(&mut self, words: String) {
        self.notes.push(format!("{}: {words}", self.done));
    }

    /// A range that often has odd ends, often whole blocks, and now and then lies at the end.
    fn range(&mut self) -> (u64, usize) {
        let grain = *self
            .random
            .pick(&[1, 1, 512, 4096, 65_536, 262_144])
            .unwrap();
        let most = *self.random.pick(&[100, 5000, 70_000, 700_000]).unwrap();
        let at = self.random.below(MOST) / grain * grain;
        let len = (1 + self.random.below(most)).next_multiple_of(grain);
        (at, len.min(MOST.saturating_sub(at).max(1)) as usize)
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        if self.random.chance(6) {
            vec![0; len]
        } else {
            noise(self.random.next(), len)
        }
    }

    fn content(&mut self, handle: usize) -> &mut Vec<u8> {
        let disk = self.oracle.open[handle].disk;
        &mut self.oracle.disks[disk]
    }

    fn put(&mut self, handle: usize, at: u64, bytes: &[u8]) {
        let content = self.content(handle);
        let (start, end) = (at as usize, at as usize + bytes.len());
        if content.len() < end {
            content.resize(end, 0);
        }
        content[start..end].copy_from_slice(bytes);
    }

    fn step(&mut self) {
        self.done += 1;
        let handle = self.random.below(self.oracle.open.len() as u64) as usize;
        let some = !self.oracle.open.is_empty();
        match self.random.below(40) {
            0..=1 => self.create(),
            2..=4 => self.open(),
            5 if some => drop(self.oracle.open.swap_remove(handle)),
            6..=13 if some => self.write(handle),
            14..=18 if some => self.read(handle),
            19 if some => self.truncate(handle),
            20..=22 if some => self.allocate(handle),
            23 if some => self.seek(handle),
            24 if some => self.map(handle),
            25..=26 if some => self.copy(handle),
            27 if some => self.sync(handle),
            28..=29 => self.rename(),
            30 => self.remove(),
            31..=32 => self.snapshot(),
            33..=34 => self.look_back(),
            35 => self.refused(),
            36 => self.attributes(),
            37 => self.list(),
            38 => self.command(),
            _ => self.create(),
        }
    }

    fn create(&mut self) {
        let name = self.name();
        let made = outcome(
            File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(self.path(&name)),
        );
        if self.oracle.names.contains_key(&name) {
            return assert_eq!(made.err(), Some(Errno::EXIST), "{name}");
        }
        let disk = self.oracle.disks.len();
        self.oracle.disks.push(Vec::new());
        self.oracle.names.insert(name, disk);
        let file = made.unwrap();
        self.oracle.open.push(Open {
            file,
            disk,
            append: false,
        });
    }

    fn open(&mut self) {
        let name = self.name();
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let (direct, append) = (self.random.chance(3), self.random.chance(8));
        let truncate = !append && self.random.chance(8);
        if direct {
            options.custom_flags(libc::O_DIRECT);
        }
        options.append(append).truncate(truncate);
        let opened = outcome(options.open(self.path(&name)));
        let Some(disk) = self.oracle.names.get(&name).copied() else {
            return assert_eq!(opened.err(), Some(Errno::NOENT), "{name}");
        };
        if truncate {
            self.oracle.disks[disk].clear();
        }
        let file = opened.unwrap();
        self.note(format!(
            "open {disk}: direct {direct}, append {append}, truncate {truncate}"
        ));
        self.oracle.open.push(Open { file, disk, append });
        if self.oracle.open.len() > 12 {
            self.oracle.open.swap_remove(0);
        }
    }

    fn write(&mut self, handle: usize) {
        let (mut at, len) = self.range();
        let bytes = self.bytes(len);
        if self.oracle.open[handle].append {
            at = self.content(handle).len() as u64;
            if at + len as u64 > 2 * MOST {
                return;
            }
        }
        let file = &self.oracle.open[handle].file;
        let written = if self.random.chance(4) {
            let parts: Vec<IoSlice<'_>> = bytes.chunks(1 + len / 3).map(IoSlice::new).collect();
            rustix::io::pwritev(file, &parts, at).unwrap()
        } else {
            file.write_at(&bytes, at).unwrap()
        };
        assert_eq!(written, len);
        let disk = self.oracle.open[handle].disk;
        let zero = bytes.iter().all(|byte| *byte == 0);
        let append = self.oracle.open[handle].append;
        self.note(format!(
            "write {disk}: {len} at {at}, zeros {zero}, append {append}, handle {handle}"
        ));
        self.put(handle, at, &bytes);
        let mut back = vec![0xaa; len];
        let got = self.oracle.open[handle].file.read_at(&mut back, at);
        assert_eq!(got.unwrap(), len, "what was just written, {len} at {at}");
        assert!(back == bytes, "what was just written, {len} at {at}");
    }

    fn read(&mut self, handle: usize) {
        let (at, len) = self.range();
        let mut bytes = vec![0xaa; len];
        let file = &self.oracle.open[handle].file;
        let got = if self.random.chance(4) {
            let mut parts: Vec<_> = bytes.chunks_mut(1 + len / 3).map(IoSliceMut::new).collect();
            rustix::io::preadv(file, &mut parts, at).unwrap()
        } else {
            file.read_at(&mut bytes, at).unwrap()
        };
        let content = self.content(handle);
        let start = content.len().min(at as usize);
        let wanted = &content[start..content.len().min(at as usize + len)];
        assert_eq!(got, wanted.len(), "read of {len} at {at}");
        assert!(bytes[..got] == *wanted, "read of {len} at {at}");
    }

    fn truncate(&mut self, handle: usize) {
        let (at, _) = self.range();
        self.oracle.open[handle].file.set_len(at).unwrap();
        self.content(handle).resize(at as usize, 0);
        let disk = self.oracle.open[handle].disk;
        self.note(format!("truncate {disk} to {at}"));
    }

    fn allocate(&mut self, handle: usize) {
        let (at, len) = self.range();
        let keep = FallocateFlags::KEEP_SIZE;
        let modes = [
            FallocateFlags::empty(),
            keep,
            FallocateFlags::PUNCH_HOLE | keep,
            FallocateFlags::PUNCH_HOLE | keep,
            FallocateFlags::ZERO_RANGE,
            FallocateFlags::ZERO_RANGE | keep,
            FallocateFlags::COLLAPSE_RANGE,
            FallocateFlags::INSERT_RANGE,
        ];
        let mode = *self.random.pick(&modes).unwrap();
        let file = &self.oracle.open[handle].file;
        let done = rustix::fs::fallocate(file, mode, at, len as u64);
        if mode.intersects(FallocateFlags::COLLAPSE_RANGE | FallocateFlags::INSERT_RANGE) {
            return assert_eq!(done, Err(Errno::OPNOTSUPP), "{mode:?}");
        }
        assert_eq!(done, Ok(()), "{mode:?} {at} {len}");
        let disk = self.oracle.open[handle].disk;
        self.note(format!("fallocate {disk}: {mode:?} {len} at {at}"));
        let content = self.content(handle);
        let (start, end) = (at as usize, at as usize + len);
        if !mode.contains(keep) && content.len() < end {
            content.resize(end, 0);
        }
        let zeros = FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE;
        if mode.intersects(zeros) && start < content.len() {
            let end = end.min(content.len());
            content[start..end].fill(0);
        }
    }

    /// All that is not zero lies in data.
    fn seek(&mut self, handle: usize) {
        let content = self.content(handle).clone();
        let file = &self.oracle.open[handle].file;
        let len = content.len() as u64;
        let is_hole = |from: u64, to: u64| {
            let hole = &content[from as usize..to as usize];
            if let Some(at) = hole.iter().position(|byte| *byte != 0) {
                let mut there = [0];
                file.read_at(&mut there, from + at as u64).unwrap();
                let (at, wanted) = (from + at as u64, hole[at]);
                panic!("{at} is in a hole ({from} to {to}) and has {wanted}; read: {there:?}");
            }
        };
        let mut at = 0;
        while at < len {
            let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
                Ok(data) => data,
                Err(errno) => {
                    assert_eq!(errno, Errno::NXIO);
                    break;
                }
            };
            is_hole(at, data);
            at = rustix::fs::seek(file, SeekFrom::Hole(data)).unwrap();
            assert!(at > data && at <= len, "{data} {at} {len}");
        }
        is_hole(at, len);
        for past in [SeekFrom::Data(len), SeekFrom::Hole(len + 1)] {
            assert_eq!(rustix::fs::seek(file, past), Err(Errno::NXIO), "{past:?}");
        }
        rustix::fs::seek(file, SeekFrom::Start(0)).unwrap();
    }

    /// Through a shared mapping and a private one.
    #[allow(
        unsafe_code,
        reason = "mmap has no safe form: others may change the file"
    )]
    fn map(&mut self, handle: usize) {
        let len = self.content(handle).len();
        if len == 0 {
            return;
        }
        let private = self.random.chance(3);
        let flags = if private {
            libc::MAP_PRIVATE
        } else {
            libc::MAP_SHARED
        };
        let (null, both) = (std::ptr::null_mut(), libc::PROT_READ | libc::PROT_WRITE);
        let fd = self.oracle.open[handle].file.as_raw_fd();
        // SAFETY: a new mapping at a place of the kernel's choice touches nothing that is there.
        let at = unsafe { libc::mmap(null, len, both, flags, fd, 0) };
        assert!(at != libc::MAP_FAILED, "{}", io::Error::last_os_error());
        // SAFETY: the mapping is this long, and no other thread touches this disk meanwhile.
        let mapped = unsafe { std::slice::from_raw_parts_mut(at.cast::<u8>(), len) };
        assert!(*mapped == **self.content(handle), "a mapping");
        let start = self.random.below(len as u64) as usize;
        let end = len.min(start + 1 + self.random.below(20_000) as usize);
        let bytes = noise(self.random.next(), end - start);
        mapped[start..end].copy_from_slice(&bytes);
        // SAFETY: the range is a mapping of ours; nothing borrows from it after this.
        let done = unsafe { libc::msync(at, len, libc::MS_SYNC) | libc::munmap(at, len) };
        assert_eq!(done, 0, "{}", io::Error::last_os_error());
        if !private {
            let disk = self.oracle.open[handle].disk;
            self.note(format!("map {disk}: {} at {start}", bytes.len()));
            self.put(handle, start as u64, &bytes);
        }
    }

    /// From one open disk to another, by copy_file_range or sendfile.
    fn copy(&mut self, from: usize) {
        let to = self.random.below(self.oracle.open.len() as u64) as usize;
        let (source, target) = (self.oracle.open[from].disk, self.oracle.open[to].disk);
        if source == target || self.oracle.open[to].append {
            return;
        }
        let ((at, len), (goal, _)) = (self.range(), self.range());
        let len = len.min((2 * MOST - goal) as usize);
        let by_range = self.random.chance(2);
        let (source, target) = (&self.oracle.open[from].file, &self.oracle.open[to].file);
        let mut done = 0;
        if !by_range {
            rustix::fs::seek(target, SeekFrom::Start(goal)).unwrap();
        }
        while done < len {
            let (mut read, mut write) = (at + done as u64, goal + done as u64);
            let copied = if by_range {
                rustix::fs::copy_file_range(
                    source,
                    Some(&mut read),
                    target,
                    Some(&mut write),
                    len - done,
                )
            } else {
                rustix::fs::sendfile(target, source, Some(&mut read), len - done)
            };
            match copied.unwrap() {
                0 => break,
                more => done += more,
            }
        }
        let content = self.content(from);
        let start = content.len().min(at as usize);
        let bytes = content[start..content.len().min(at as usize + len)].to_vec();
        assert_eq!(done, bytes.len(), "copy of {len} from {at}");
        let (of, onto) = (self.oracle.open[from].disk, self.oracle.open[to].disk);
        self.note(format!(
            "copy {of} to {onto}: {done} of {len} from {at} to {goal}, by range {by_range}"
        ));
        if done > 0 {
            self.put(to, goal, &bytes);
        }
        rustix::fs::seek(&self.oracle.open[to].file, SeekFrom::Start(0)).unwrap();
    }

    fn sync(&mut self, handle: usize) {
        let file = &self.oracle.open[handle].file;
        file.sync_data().and_then(|()| file.sync_all()).unwrap();
    }

    fn snapshots_of(&self, disk: &str) -> Vec<String> {
        let prefix = format!("{disk}@");
        let names = self.oracle.snapshots.keys();
        names
            .filter_map(|name| name.strip_prefix(&prefix).map(str::to_owned))
            .collect()
    }

    fn rename(&mut self) {
        let (from, to) = (self.name(), self.name());
        let replace = self.random.chance(2);
        let flags = if replace {
            RenameFlags::empty()
        } else {
            RenameFlags::NOREPLACE
        };
        let done = rustix::fs::renameat_with(CWD, self.path(&from), CWD, self.path(&to), flags);
        let oracle = &self.oracle;
        let taken = self.snapshots_of(&to);
        let wanted = if !oracle.names.contains_key(&from) {
            Err(Errno::NOENT)
        } else if !replace && oracle.names.contains_key(&to) {
            Err(Errno::EXIST)
        } else if from == to {
            Ok(())
        } else if self
            .snapshots_of(&from)
            .iter()
            .any(|name| taken.contains(name))
        {
            Err(Errno::EXIST)
        } else {
            Ok(())
        };
        assert_eq!(done, wanted, "{from} to {to}, replace {replace}");
        if wanted.is_ok() && from != to {
            for name in self.snapshots_of(&from) {
                let content = self.oracle.snapshots.remove(&format!("{from}@{name}"));
                self.oracle
                    .snapshots
                    .insert(format!("{to}@{name}"), content.unwrap());
            }
            let disk = self.oracle.names.remove(&from).unwrap();
            self.oracle.names.insert(to, disk);
        }
    }

    fn remove(&mut self) {
        let snapshots: Vec<String> = self.oracle.snapshots.keys().cloned().collect();
        if self.random.chance(2)
            && let Some(name) = self.random.pick(&snapshots)
        {
            fs::remove_file(self.path(name)).unwrap();
            self.oracle.snapshots.remove(name);
            return;
        }
        let name = self.name();
        let removed = outcome(fs::remove_file(self.path(&name)));
        match self.oracle.names.remove(&name) {
            Some(_) => assert_eq!(removed, Ok(())),
            None => assert_eq!(removed, Err(Errno::NOENT)),
        }
    }

    fn snapshot(&mut self) {
        let (disk, name) = (self.name(), *self.random.pick(&SNAPSHOTS).unwrap());
        let file = format!("{disk}@{name}");
        let taken = outcome(self.store.control(&format!("snapshot {disk} {name}\n")));
        match self.oracle.names.get(&disk) {
            None => assert_eq!(taken, Err(Errno::NOENT), "{file}"),
            Some(_) if self.oracle.snapshots.contains_key(&file) => {
                assert_eq!(taken, Err(Errno::EXIST), "{file}");
            }
            Some(at) => {
                assert_eq!(taken, Ok(()), "{file}");
                self.notes
                    .push(format!("{}: snapshot {at} {file}", self.done));
                self.oracle
                    .snapshots
                    .insert(file, self.oracle.disks[*at].clone());
            }
        }
    }

    /// A snapshot has what its disk had, and takes no change.
    fn look_back(&mut self) {
        let names: Vec<String> = self.oracle.snapshots.keys().cloned().collect();
        let Some(name) = self.random.pick(&names) else {
            return;
        };
        let path = self.path(name);
        assert!(
            fs::read(&path).unwrap() == self.oracle.snapshots[name],
            "{name}"
        );
        let refused = outcome(OpenOptions::new().write(true).open(&path));
        assert_eq!(refused.err(), Some(Errno::ROFS));
        assert_eq!(
            outcome(fs::set_permissions(&path, Permissions::from_mode(0o777))),
            Err(Errno::ROFS)
        );
    }

    /// What a mount has no use for, and names that can't be.
    fn refused(&mut self) {
        let name = self.name();
        let (path, free) = (self.path(&name), self.path(&format!("{}free", self.prefix)));
        let exists = self.oracle.names.contains_key(&name);
        assert_eq!(outcome(fs::create_dir(&free)), Err(Errno::PERM));
        let linked = outcome(std::os::unix::fs::symlink("x", &free));
        assert_eq!(linked, Err(Errno::PERM));
        let fifo = rustix::fs::FileType::Fifo;
        let made = rustix::fs::mknodat(CWD, &free, fifo, rustix::fs::Mode::RWXU, 0);
        assert_eq!(made, Err(Errno::PERM));
        let linked = outcome(fs::hard_link(&path, &free));
        assert!(linked.is_err());
        for bad in ["x@y", ".x", "a b", "a,b", "-x", "x\n"] {
            let made = outcome(File::create_new(self.path(bad)));
            assert_eq!(made.err(), Some(Errno::INVAL), "{bad:?}");
        }
        let long = self.path(&"n".repeat(256));
        assert_eq!(
            outcome(File::create_new(long)).err(),
            Some(Errno::NAMETOOLONG)
        );
        let not_text = std::ffi::OsStr::from_bytes(b"\xff\xfe");
        let made = outcome(File::create_new(self.store.mnt().join(not_text)));
        assert_eq!(made.err(), Some(Errno::INVAL));
        if exists {
            assert_eq!(outcome(fs::remove_dir(&path)), Err(Errno::NOTDIR));
            assert_eq!(outcome(fs::read_dir(&path)).err(), Some(Errno::NOTDIR));
            let value =
                rustix::fs::setxattr(&path, "user.x", b"y", rustix::fs::XattrFlags::empty());
            assert_eq!(value, Err(Errno::OPNOTSUPP));
        }
        assert!(!free.exists());
    }

    fn attributes(&mut self) {
        let Some(name) = self.existing() else {
            return;
        };
        let path = self.path(&name);
        let mode = self.random.below(0o1000) as u32 | 0o600;
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let nanos = Duration::from_nanos(self.random.below(1 << 60));
        let time = SystemTime::UNIX_EPOCH + nanos;
        let times = fs::FileTimes::new().set_accessed(time).set_modified(time);
        File::open(&path).unwrap().set_times(times).unwrap();
        let found = fs::metadata(&path).unwrap();
        assert_eq!(found.mode() & 0o7777, mode, "{name}");
        assert_eq!(found.modified().unwrap(), time, "{name}");
        let content = &self.oracle.disks[self.oracle.names[&name]];
        assert_eq!(found.len(), content.len() as u64, "{name}");
        for open in &self.oracle.open {
            let linked = self.oracle.names.values().any(|disk| *disk == open.disk);
            assert_eq!(open.file.metadata().unwrap().nlink(), u64::from(linked));
        }
    }

    fn list(&mut self) {
        let entries = fs::read_dir(self.store.mnt()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut found: Vec<String> = names
            .filter(|name| name.starts_with(&self.prefix) && !name.starts_with('.'))
            .collect();
        found.sort();
        let oracle = &self.oracle;
        let mut wanted: Vec<String> = oracle
            .names
            .keys()
            .chain(oracle.snapshots.keys())
            .cloned()
            .collect();
        wanted.sort();
        assert_eq!(found, wanted);
    }

    /// The verbs that change content: resize, clone, rollback, flush.
    fn command(&mut self) {
        match self.random.below(4) {
            0 => {
                let (name, (size, _)) = (self.name(), self.range());
                let done = outcome(self.store.control(&format!("resize {name} {size}\n")));
                match self.oracle.names.get(&name) {
                    Some(disk) => {
                        let disk = *disk;
                        self.oracle.disks[disk].resize(size as usize, 0);
                        self.note(format!("resize {disk} to {size}"));
                        // Who appends goes by the size that the kernel knows, and this was a
                        // change behind its back; any look at the file tells it.
                        let seen = fs::metadata(self.path(&name)).unwrap().len();
                        assert_eq!(seen, size, "{name}");
                    }
                    None => return assert_eq!(done, Err(Errno::NOENT)),
                }
                assert_eq!(done, Ok(()));
            }
            1 => {
                let names: Vec<String> = self.oracle.snapshots.keys().cloned().collect();
                let (Some(from), to) = (self.random.pick(&names).cloned(), self.name()) else {
                    return;
                };
                let done = outcome(self.store.control(&format!("clone {from} {to}\n")));
                if self.oracle.names.contains_key(&to) {
                    return assert_eq!(done, Err(Errno::EXIST));
                }
                assert_eq!(done, Ok(()), "{from} {to}");
                self.oracle.names.insert(to, self.oracle.disks.len());
                self.oracle.disks.push(self.oracle.snapshots[&from].clone());
            }
            2 => {
                let names: Vec<String> = self.oracle.snapshots.keys().cloned().collect();
                let Some(from) = self.random.pick(&names).cloned() else {
                    return;
                };
                let (disk, _) = from.split_once('@').unwrap();
                let done = outcome(self.store.control(&format!("rollback {from}\n")));
                match self.oracle.names.get(disk).copied() {
                    None => assert_eq!(done, Err(Errno::NOENT), "{from}"),
                    Some(id) if self.oracle.open.iter().any(|open| open.disk == id) => {
                        assert_eq!(done, Err(Errno::BUSY), "{from}");
                    }
                    Some(id) => {
                        // A disk of that name that is not the one it was taken of may refuse.
                        assert!(
                            matches!(done, Ok(()) | Err(Errno::INVAL)),
                            "{from}: {done:?}"
                        );
                        if done.is_ok() {
                            self.note(format!("rollback {id} to {from}"));
                            self.oracle.disks[id] = self.oracle.snapshots[&from].clone();
                        }
                    }
                }
            }
            _ => {
                self.note("flush".to_owned());
                self.store.flush();
            }
        }
    }

    /// All that is there, byte by byte.
    fn check_all(&mut self) {
        self.list();
        for (name, disk) in &self.oracle.names {
            let found = fs::read(self.path(name)).unwrap();
            assert!(found == self.oracle.disks[*disk], "{name}");
        }
        for (name, content) in &self.oracle.snapshots {
            assert!(fs::read(self.path(name)).unwrap() == *content, "{name}");
        }
        for open in &self.oracle.open {
            let content = &self.oracle.disks[open.disk];
            let mut bytes = vec![0; content.len() + 1];
            assert_eq!(open.file.read_at(&mut bytes, 0).unwrap(), content.len());
            let wrong = (0..content.len()).find(|at| bytes[*at] != content[*at]);
            assert_eq!(
                wrong, None,
                "the first byte that is wrong of disk {}",
                open.disk
            );
        }
    }
}

/// Goes on from what the oracle knows. Says which seed and operation it was when something fails.
fn run(store: &TestStore, seed: u64, prefix: &str, oracle: Oracle) -> Oracle {
    let mut run = Run {
        store,
        prefix: prefix.to_owned(),
        random: Random(seed.wrapping_mul(1000).wrapping_add(prefix.len() as u64)),
        oracle,
        done: 0,
        notes: Vec::new(),
    };
    let each = std::env::var_os("SNAPMARK_CHECK_EACH").is_some();
    for _ in 0..OPERATIONS {
        let step = std::panic::AssertUnwindSafe(|| {
            run.step();
            if each {
                run.check_all();
            }
        });
        if let Err(panic) = std::panic::catch_unwind(step) {
            eprintln!("seed {seed}, names {prefix}*, operation {}", run.done);
            eprintln!("{}", run.notes.join("\n"));
            std::panic::resume_unwind(panic);
        }
    }
    run.check_all();
    run.oracle
}

/// One user, with ends of the daemon in between, in order and not.
#[test]
fn files_are_what_the_oracle_says() {
    if !able(&[]) {
        return;
    }
    for seed in seeds(2) {
        eprintln!("seed {seed}");
        let mut store = TestStore::new();
        let mut oracle = Oracle::default();
        for round in 0..3 {
            oracle = run(&store, seed * 10 + round, "", oracle);
            // What was deleted while it was open goes with its handles.
            oracle.open.clear();
            match round {
                0 => store.kill9(),
                _ => store.unmount(),
            }
            store.mount();
        }
        let mut last = Run {
            store: &store,
            prefix: String::new(),
            random: Random(seed),
            oracle,
            done: 0,
            notes: Vec::new(),
        };
        last.check_all();
        drop(last);
        store.unmount();
        common::run(
            common::SNAPMARK,
            ["check".into(), "--data".into(), store.store()],
        );
    }
}

/// Several users, each with disks of his own, at once.
#[test]
fn files_are_what_the_oracle_says_with_many_at_work() {
    if !able(&[]) {
        return;
    }
    for seed in seeds(1) {
        eprintln!("seed {seed}");
        let mut store = TestStore::new();
        std::thread::scope(|scope| {
            for prefix in ["p", "qq", "rrr", "ssss"] {
                let store = &store;
                scope.spawn(move || run(store, seed, prefix, Oracle::default()));
            }
        });
        store.unmount();
        common::run(
            common::SNAPMARK,
            ["check".into(), "--data".into(), store.store()],
        );
    }
}
