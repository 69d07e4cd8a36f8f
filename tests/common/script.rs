//! Short histories of an engine, step by step, with what each step should lead to.

use std::sync::Arc;

use snapmark::base::DiskId;
use snapmark::device::Images;
use snapmark::volume::{Extent, Node, SetAttributes, VolumeError, Volumes};

use super::Random;
use super::engine::{Engine, Shape};
use super::history::{Entry, History};
use super::model::{State, new_disk};

/// An engine, what was done to it, and what it should show.
pub struct Script {
    pub engine: Engine,
    pub state: State,
    name: String,
    entries: Vec<Entry>,
    written: u8,
    /// Whether steps may fail: one that did is tried again, unless the store has halted.
    tolerant: bool,
    /// A step failed for good; the rest is left out.
    pub failed: bool,
}

/// Whether a step makes all before it durable.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    Kill,
    PowerLoss,
}

use Holds::{Kill, PowerLoss};

impl Script {
    /// On a new store.
    pub fn new(name: &str, shape: Shape) -> Self {
        let made = Engine::make(&shape).kill_image();
        Self::after(name, &made, shape, State::default())
    }

    /// On what a crash left, where it should show this.
    pub fn after(name: &str, images: &Images, shape: Shape, state: State) -> Self {
        let start = Entry {
            begun: 0,
            acked: 0,
            durable: true,
            state: state.clone(),
            line: "begin".to_owned(),
        };
        Self {
            engine: Engine::open_images(images, shape),
            state,
            name: name.to_owned(),
            entries: vec![start],
            written: 0,
            tolerant: false,
            failed: false,
        }
    }

    /// Steps may fail from now on.
    pub fn tolerate(&mut self) {
        self.tolerant = true;
    }

    /// What there was before the last step.
    pub fn before(&self) -> &State {
        let count = self.entries.len();
        &self.entries[count.saturating_sub(2)].state
    }

    /// Ends it, as a crash does.
    pub fn end(self) -> History {
        self.engine.volumes.abandon();
        History {
            name: self.name,
            shape: self.engine.shape,
            disk: self.engine.disk,
            entries: self.entries,
        }
    }

    /// Goes on where the daemon of another died after so many events, with what it had not synced
    /// in the host's memory.
    pub fn revive(history: &History, events: usize) -> Self {
        let engine = Engine::open(history.disk.killed_at(events), history.shape);
        let found = State::of(&engine);
        let (least, most) = history.after_kill(events);
        let at = (least..=most).rev();
        let mut at = at.filter(|at| history.entries[*at].state == found);
        let at = at.next().expect("it holds what was acknowledged");
        let mut entries = history.entries[..=at].to_vec();
        for entry in entries.iter_mut().filter(|entry| entry.acked > events) {
            // Under way when the daemon died.
            (entry.acked, entry.durable) = (engine.disk.crash_points(), false);
        }
        entries.push(Entry {
            begun: events,
            acked: engine.disk.crash_points(),
            durable: false,
            state: found.clone(),
            line: format!("killed at {events}"),
        });
        Self {
            name: history.name.clone(),
            state: found,
            engine,
            entries,
            written: 100,
            tolerant: false,
            failed: false,
        }
    }

    fn step(
        &mut self,
        line: String,
        holds: Holds,
        does: impl Fn(&Engine) -> Result<(), VolumeError>,
        means: impl FnOnce(&mut State),
    ) {
        if self.failed {
            return;
        }
        let begun = self.engine.disk.crash_points();
        let mut done = does(&self.engine);
        if self.tolerant && done.is_err() && self.engine.cache_is_well() {
            // Nothing came of it, and nothing stands against doing it now.
            done = does(&self.engine);
        }
        means(&mut self.state);
        let acked = match done {
            Ok(()) => self.engine.disk.crash_points(),
            Err(_) if self.tolerant => {
                self.failed = true;
                usize::MAX
            }
            Err(error) => panic!("{line}: {error}"),
        };
        self.entries.push(Entry {
            begun,
            acked,
            durable: holds == PowerLoss,
            state: self.state.clone(),
            line,
        });
    }

    fn disk(volumes: &Volumes, name: &str) -> DiskId {
        match volumes.lookup(name) {
            Some(Node::Disk(id)) => id,
            other => panic!("{name} is {other:?}"),
        }
    }

    pub fn create(&mut self, name: &str, size: u64) {
        let does = |engine: &Engine| engine.create(new_disk(name, size)).map(drop);
        self.step(format!("create {name} {size}"), Kill, does, |state| {
            let zeros = Arc::new(vec![0; size as usize]);
            state.files.insert(name.to_owned(), zeros);
        });
    }

    /// Writes bytes that nothing has written before.
    pub fn write(&mut self, name: &str, at: u64, len: u64) {
        self.written += 1;
        let mut random = Random(u64::from(self.written));
        let data: Vec<u8> = (0..len).map(|_| random.next() as u8 | 1).collect();
        let does = |engine: &Engine| {
            let disk = Self::disk(engine, name);
            engine.write(disk, at, &data)
        };
        self.step(format!("write {name} {at}+{len}"), Kill, does, |state| {
            let content = Arc::make_mut(state.files.get_mut(name).unwrap());
            let end = (at + len) as usize;
            content.resize(content.len().max(end), 0);
            content[at as usize..end].copy_from_slice(&data);
        });
    }

    pub fn discard(&mut self, name: &str, at: u64, len: u64) {
        let does = |engine: &Engine| {
            let disk = Self::disk(engine, name);
            engine.discard(disk, Extent { offset: at, len })
        };
        self.step(format!("discard {name} {at}+{len}"), Kill, does, |state| {
            let content = Arc::make_mut(state.files.get_mut(name).unwrap());
            let end = (at + len).min(content.len() as u64);
            content[at as usize..end as usize].fill(0);
        });
    }

    /// Grows or shrinks. A disk that shrinks loses its end before it gets shorter: that is two
    /// records, and a crash may fall between them.
    pub fn resize(&mut self, name: &str, size: u64) {
        if self.failed {
            return;
        }
        let begun = self.engine.disk.crash_points();
        let does = |engine: &Engine| {
            let set = SetAttributes {
                size: Some(size),
                ..SetAttributes::default()
            };
            let node = engine.lookup(name).unwrap();
            engine.set_attributes(node, &set).map(drop)
        };
        let old = self.state.files[name].len();
        if old as u64 > size {
            let mut between = self.state.clone();
            let content = Arc::make_mut(between.files.get_mut(name).unwrap());
            content[size as usize..].fill(0);
            self.entries.push(Entry {
                begun,
                // It is not acknowledged by itself.
                acked: usize::MAX,
                durable: false,
                state: between,
                line: format!("cut {name} {size}"),
            });
        }
        self.step(format!("resize {name} {size}"), Kill, does, |state| {
            Arc::make_mut(state.files.get_mut(name).unwrap()).resize(size as usize, 0);
        });
        let acked = self.entries.last().unwrap().acked;
        for entry in self.entries.iter_mut().filter(|of| of.acked == usize::MAX) {
            entry.acked = acked;
        }
    }

    pub fn snapshot(&mut self, disks: &[&str], name: &str, holds: Holds) {
        let does = |engine: &Engine| {
            let durable = holds == PowerLoss;
            engine.snapshot(disks, Some(name), durable).map(drop)
        };
        self.step(format!("snapshot {disks:?} {name}"), holds, does, |state| {
            for disk in disks {
                let content = state.files[*disk].clone();
                state.files.insert(format!("{disk}@{name}"), content);
            }
        });
    }

    pub fn remove(&mut self, name: &str) {
        let does = |engine: &Engine| engine.remove(name);
        self.step(format!("remove {name}"), Kill, does, |state| {
            state.files.remove(name);
        });
    }

    pub fn rename(&mut self, from: &str, to: &str) {
        let does = |engine: &Engine| engine.rename(from, to, false);
        self.step(format!("rename {from} {to}"), Kill, does, |state| {
            let moved = std::mem::take(&mut state.files).into_iter();
            let named = moved.map(|(name, content)| match name.strip_prefix(from) {
                Some(rest) if rest.is_empty() || rest.starts_with('@') => {
                    (format!("{to}{rest}"), content)
                }
                _ => (name, content),
            });
            state.files = named.collect();
        });
    }

    pub fn clone_of(&mut self, snapshot: &str, name: &str) {
        let does = |engine: &Engine| engine.clone_snapshot(snapshot, new_disk(name, 0)).map(drop);
        self.step(
            format!("clone {snapshot} {name}"),
            PowerLoss,
            does,
            |state| {
                let content = state.files[snapshot].clone();
                state.files.insert(name.to_owned(), content);
            },
        );
    }

    pub fn roll_back(&mut self, disk: &str, snapshot: &str) {
        let does = |engine: &Engine| engine.rollback(disk, snapshot, false).map(drop);
        self.step(
            format!("rollback {disk} {snapshot}"),
            PowerLoss,
            does,
            |state| {
                let content = state.files[snapshot].clone();
                state.files.insert(disk.to_owned(), content);
            },
        );
    }

    pub fn sync(&mut self) {
        let does = |engine: &Engine| engine.sync();
        self.step("sync".to_owned(), PowerLoss, does, |_| {});
    }

    pub fn flush(&mut self) {
        let does = |engine: &Engine| engine.flush();
        self.step("flush".to_owned(), PowerLoss, does, |_| {});
    }

    pub fn settle(&mut self) {
        self.step("settle".to_owned(), PowerLoss, Engine::try_settle, |_| {});
    }

    /// Lets the destager do what it was asked for.
    pub fn rest(&mut self) {
        self.step("rest".to_owned(), Kill, Engine::rest, |_| {});
    }

    pub fn checkpoint(&mut self) {
        let does = |engine: &Engine| Ok(engine.catalog.checkpoint()?);
        self.step("checkpoint".to_owned(), Kill, does, |_| {});
    }

    /// Adds a device of so many bytes.
    pub fn add_device(&mut self, path: &str, len: u64) {
        let does = |engine: &Engine| {
            let device = engine.disk.device(path, len);
            engine.add_open_device(path, device).map(drop)
        };
        self.step(format!("add device {path} {len}"), Kill, does, |_| {});
    }

    /// The daemon dies and comes again; the host's memory still has what was not synced.
    pub fn kill(&mut self) {
        if !self.failed {
            self.engine.volumes.abandon();
            self.open("kill", false);
        }
    }

    /// Closes the store in order, and opens it again.
    pub fn reopen(&mut self) {
        if self.failed {
            return;
        }
        match self.engine.volumes.close_store() {
            Ok(()) => self.open("reopen", true),
            Err(error) => {
                assert!(self.tolerant, "{error}");
                self.engine.volumes.abandon();
                self.open("reopen", false);
            }
        }
    }

    fn open(&mut self, line: &str, durable: bool) {
        let begun = self.engine.disk.crash_points();
        let open = |disk| Engine::try_open(disk, self.engine.shape, &|device| device);
        let mut opened = open(self.engine.disk.clone());
        if self.tolerant && opened.is_err() {
            opened = open(self.engine.disk.clone());
        }
        self.engine = opened.unwrap();
        self.entries.push(Entry {
            begun,
            acked: self.engine.disk.crash_points(),
            durable,
            state: self.state.clone(),
            line: line.to_owned(),
        });
    }
}
