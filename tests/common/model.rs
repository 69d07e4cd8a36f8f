//! A naive oracle beside the engine: disks as vectors, snapshots as copies.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use snapmark::volume::{Extent, NewDisk, Node, SetAttributes, VolumeError, Volumes, Whence};

use super::Random;
use super::engine::{Engine, SEGMENT};

pub const BLOCK: u64 = 4096;

/// All that people can see of a store.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Disks and snapshots by file name.
    pub files: BTreeMap<String, Arc<Vec<u8>>>,
}

impl State {
    pub fn disks(&self) -> Vec<String> {
        self.files
            .keys()
            .filter(|name| !name.contains('@'))
            .cloned()
            .collect()
    }

    pub fn snapshots(&self) -> Vec<String> {
        self.files
            .keys()
            .filter(|name| name.contains('@'))
            .cloned()
            .collect()
    }

    /// What an engine shows.
    pub fn of(volumes: &Volumes) -> Self {
        let file = |(name, node): (String, Node)| {
            let size = volumes.attributes(node).unwrap().size as usize;
            let mut content = vec![0xee; size];
            assert_eq!(volumes.read(node, 0, &mut content).unwrap(), size);
            (name, Arc::new(content))
        };
        Self {
            files: volumes.list().into_iter().map(file).collect(),
        }
    }

    /// Where another differs, in words.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let names = |state: &Self| state.files.keys().cloned().collect::<Vec<_>>();
        if names(self) != names(other) {
            return Some(format!("names {:?} != {:?}", names(self), names(other)));
        }
        for (name, ours) in &self.files {
            let theirs = &other.files[name];
            if ours.len() != theirs.len() {
                return Some(format!("{name}: size {} != {}", ours.len(), theirs.len()));
            }
            if let Some(at) = ours.iter().zip(theirs.iter()).position(|(a, b)| a != b) {
                return Some(format!(
                    "{name}: byte {at} (block {}) is {} != {}",
                    at as u64 / BLOCK,
                    ours[at],
                    theirs[at]
                ));
            }
        }
        None
    }
}

/// What the ops do.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// The largest disk, in bytes.
    pub largest: u64,
    pub disks: usize,
    pub snapshots: usize,
    /// Whole blocks only, and one journal record an op.
    pub simple: bool,
    /// Clones and rollbacks too.
    pub clones: bool,
}

/// The engine's disks as they should be.
pub struct Model {
    pub state: State,
    pub random: Random,
    pub mix: Mix,
    pub log: VecDeque<String>,
    named: u64,
}

impl Model {
    pub fn new(seed: u64, mix: Mix) -> Self {
        Self {
            state: State::default(),
            random: Random(seed),
            mix,
            log: VecDeque::new(),
            named: 0,
        }
    }

    pub fn note(&mut self, what: String) {
        if std::env::var_os("SNAPMARK_TRACE").is_some() {
            eprintln!("{what}");
        }
        self.log.push_back(what);
        if self.log.len() > 40 {
            self.log.pop_front();
        }
    }

    fn size(&mut self) -> u64 {
        let size = 1 + self.random.below(self.mix.largest);
        if self.mix.simple || self.random.chance(2) {
            size.next_multiple_of(BLOCK)
        } else {
            size
        }
    }

    fn range(&mut self, size: u64, most: u64) -> (u64, u64) {
        let most = if self.random.chance(8) {
            most
        } else {
            most.min(4 * BLOCK)
        };
        let (mut at, mut len) = (self.random.below(size), 1 + self.random.below(most));
        if self.mix.simple || self.random.chance(2) {
            (at, len) = (at / BLOCK * BLOCK, len.next_multiple_of(BLOCK));
        }
        (at, len)
    }

    fn new_name(&mut self) -> String {
        self.named += 1;
        format!("disk{}", self.named)
    }

    fn data(&mut self, len: u64) -> Vec<u8> {
        let (mut byte, step) = (self.random.next() as u8, self.random.next() as u8 | 1);
        let mut fill = |_| {
            byte = byte.wrapping_add(step);
            byte | 1
        };
        (0..len).map(&mut fill).collect()
    }

    /// Does one op to both.
    pub fn step(&mut self, volumes: &Volumes) {
        let (disks, snapshots) = (self.state.disks(), self.state.snapshots());
        let disk = self.random.pick(&disks).cloned();
        let snapshot = self.random.pick(&snapshots).cloned();
        let Some(disk) = disk else {
            return self.create(volumes);
        };
        match self.random.below(100) {
            0..=54 => self.write(volumes, &disk),
            55..=64 => self.discard(volumes, &disk),
            65..=69 => self.resize(volumes, &disk),
            70..=80 if snapshots.len() < self.mix.snapshots => {
                self.snapshot(volumes, &disks, &disk)
            }
            81..=88 => match snapshot {
                Some(snapshot) => self.remove(volumes, &snapshot),
                None => self.write(volumes, &disk),
            },
            89..=90 if disks.len() < self.mix.disks => self.create(volumes),
            91..=92 if disks.len() > 1 => self.remove(volumes, &disk),
            93..=95 if self.mix.clones && disks.len() < self.mix.disks => match snapshot {
                Some(snapshot) => self.clone(volumes, &snapshot),
                None => self.create(volumes),
            },
            96..=97 if self.mix.clones => self.rollback(volumes, &disk),
            98 => self.rename(volumes, &disk),
            99 => self.rename_snapshot(volumes, snapshot),
            _ => self.write(volumes, &disk),
        }
    }

    fn node(volumes: &Volumes, name: &str) -> Node {
        volumes
            .lookup(name)
            .unwrap_or_else(|| panic!("{name} is gone"))
    }

    fn id(volumes: &Volumes, name: &str) -> snapmark::base::DiskId {
        match Self::node(volumes, name) {
            Node::Disk(id) => id,
            Node::Snapshot(_) => panic!("{name} is a snapshot"),
        }
    }

    fn create(&mut self, volumes: &Volumes) {
        let (name, size) = (self.new_name(), self.size());
        self.note(format!("create {name} {size}"));
        volumes.create(new_disk(&name, size)).unwrap();
        self.state
            .files
            .insert(name, Arc::new(vec![0; size as usize]));
    }

    fn write(&mut self, volumes: &Volumes, disk: &str) {
        let size = self.state.files[disk].len() as u64;
        let most = if self.mix.simple {
            2 * SEGMENT
        } else {
            3 * SEGMENT
        };
        let (mut at, mut len) = self.range(size.max(1), most);
        if self.random.chance(5) {
            // Whole segments, and in one case of two something before and after them.
            at = at / SEGMENT * SEGMENT;
            len = (1 + self.random.below(2)) * SEGMENT;
            if self.random.chance(2) {
                at = at.saturating_sub(BLOCK);
                len += 2 * BLOCK;
            }
        }
        if at + len > self.mix.largest || !self.random.chance(10) {
            len = len.min(size.max(BLOCK).saturating_sub(at));
        }
        if len == 0 {
            return;
        }
        let data = self.data(len);
        self.note(format!("write {disk} {at}+{len} (size {size})"));
        volumes.write(Self::id(volumes, disk), at, &data).unwrap();
        let content = Arc::make_mut(self.state.files.get_mut(disk).unwrap());
        let end = (at + len) as usize;
        content.resize(content.len().max(end), 0);
        content[at as usize..end].copy_from_slice(&data);
    }

    fn discard(&mut self, volumes: &Volumes, disk: &str) {
        let size = self.state.files[disk].len() as u64;
        let (mut at, mut len) = self.range(size.max(1), 3 * SEGMENT);
        if self.random.chance(8) {
            (at, len) = (self.random.below(3) * SEGMENT, self.mix.largest);
        }
        self.note(format!("discard {disk} {at}+{len} (size {size})"));
        volumes
            .discard(Self::id(volumes, disk), Extent { offset: at, len })
            .unwrap();
        let content = Arc::make_mut(self.state.files.get_mut(disk).unwrap());
        let (from, to) = (at.min(size) as usize, (at + len).min(size) as usize);
        content[from..to].fill(0);
    }

    fn resize(&mut self, volumes: &Volumes, disk: &str) {
        let mut size = self.size();
        if self.mix.simple {
            // Shrinking takes two records.
            size = size.max(self.state.files[disk].len() as u64);
        }
        self.note(format!("resize {disk} {size}"));
        let set = SetAttributes {
            size: Some(size),
            ..SetAttributes::default()
        };
        volumes
            .set_attributes(Self::node(volumes, disk), &set)
            .unwrap();
        Arc::make_mut(self.state.files.get_mut(disk).unwrap()).resize(size as usize, 0);
    }

    fn snapshot(&mut self, volumes: &Volumes, disks: &[String], disk: &str) {
        let mut names = vec![disk.to_owned()];
        for other in disks {
            if other != disk && self.random.chance(3) {
                names.push(other.clone());
            }
        }
        self.named += 1;
        let name = format!("s{}", self.named);
        let list: Vec<&str> = names.iter().map(String::as_str).collect();
        let durable = !self.random.chance(4);
        let how = if durable { "durable" } else { "" };
        self.note(format!("snapshot {names:?} {name} {how}"));
        volumes.snapshot(&list, Some(&name), durable).unwrap();
        for disk in names {
            let content = self.state.files[&disk].clone();
            self.state.files.insert(format!("{disk}@{name}"), content);
        }
    }

    fn remove(&mut self, volumes: &Volumes, name: &str) {
        self.note(format!("remove {name}"));
        volumes.remove(name).unwrap();
        self.state.files.remove(name);
    }

    fn clone(&mut self, volumes: &Volumes, snapshot: &str) {
        let name = self.new_name();
        self.note(format!("clone {snapshot} {name}"));
        volumes
            .clone_snapshot(snapshot, new_disk(&name, 0))
            .unwrap();
        let content = self.state.files[snapshot].clone();
        self.state.files.insert(name, content);
    }

    fn rollback(&mut self, volumes: &Volumes, disk: &str) {
        let prefix = format!("{disk}@");
        let mut snapshots = self.state.snapshots();
        snapshots.retain(|name| name.starts_with(&prefix));
        let Some(snapshot) = self.random.pick(&snapshots).cloned() else {
            return;
        };
        self.note(format!("rollback {disk} {snapshot}"));
        volumes.rollback(disk, &snapshot, false).unwrap();
        let content = self.state.files[&snapshot].clone();
        self.state.files.insert(disk.to_owned(), content);
    }

    fn rename(&mut self, volumes: &Volumes, disk: &str) {
        let to = self.new_name();
        self.note(format!("rename {disk} {to}"));
        volumes.rename(disk, &to, false).unwrap();
        let moved: Vec<String> = self
            .state
            .files
            .keys()
            .filter(|name| *name == disk || name.starts_with(&format!("{disk}@")))
            .cloned()
            .collect();
        for name in moved {
            let content = self.state.files.remove(&name).unwrap();
            self.state
                .files
                .insert(name.replacen(disk, &to, 1), content);
        }
    }

    fn rename_snapshot(&mut self, volumes: &Volumes, snapshot: Option<String>) {
        let Some(snapshot) = snapshot else { return };
        self.named += 1;
        let (disk, _) = snapshot.split_once('@').unwrap();
        let to = format!("{disk}@r{}", self.named);
        self.note(format!("rename {snapshot} {to}"));
        volumes.rename(&snapshot, &to, false).unwrap();
        let content = self.state.files.remove(&snapshot).unwrap();
        self.state.files.insert(to, content);
    }

    /// Compares all that people can see.
    pub fn compare(&mut self, engine: &Engine) {
        let volumes = &*engine.volumes;
        let names: Vec<String> = volumes.list().into_iter().map(|(name, _)| name).collect();
        assert!(names.iter().eq(self.state.files.keys()), "names {names:?}");
        let files: Vec<_> = self.state.files.clone().into_iter().collect();
        for (name, content) in files {
            let node = Self::node(volumes, &name);
            let size = content.len() as u64;
            assert_eq!(volumes.attributes(node).unwrap().size, size, "{name}");
            let mut at = 0;
            while at < size {
                let len = 1 + self.random.below(5 * SEGMENT);
                let mut buf = vec![0xee; len as usize];
                let got = volumes.read(node, at, &mut buf).unwrap();
                assert_eq!(got as u64, len.min(size - at), "{name}");
                let want = &content[at as usize..at as usize + got];
                if let Some(wrong) = buf[..got].iter().zip(want).position(|(a, b)| a != b) {
                    let byte = at + wrong as u64;
                    panic!(
                        "{name}: byte {byte} (segment {} block {}) is {} and should be {}",
                        byte / SEGMENT,
                        byte / BLOCK % (SEGMENT / BLOCK),
                        buf[wrong],
                        want[wrong]
                    );
                }
                at += got as u64;
            }
            check_seek(volumes, node, &name, &content);
        }
    }
}

/// Every byte that is not zero lies in what `SEEK_DATA` and `SEEK_HOLE` call data.
fn check_seek(volumes: &Volumes, node: Node, name: &str, content: &[u8]) {
    let size = content.len() as u64;
    let mut at = 0;
    while at < size {
        let data = volumes
            .seek(node, at, Whence::Data)
            .unwrap()
            .unwrap_or(size);
        let hole = &content[at as usize..data as usize];
        let zero = hole.iter().all(|byte| *byte == 0);
        assert!(zero, "{name}: data in the hole {at}..{data}");
        if data == size {
            return;
        }
        at = volumes.seek(node, data, Whence::Hole).unwrap().unwrap();
        assert!(at > data, "{name}: no data at {data}");
    }
}

pub fn new_disk(name: &str, size: u64) -> NewDisk {
    NewDisk {
        name: name.to_owned(),
        size,
        mode: 0o600,
        uid: 0,
        gid: 0,
    }
}

pub fn is_no_space(error: &VolumeError) -> bool {
    matches!(error, VolumeError::NoSpace { .. })
}
