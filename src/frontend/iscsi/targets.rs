//! Disks and snapshots as targets. Each has a target of its own, with one logical unit, 0.
//!
//! Snapshots too: an initiator that logs in to a target attaches all its logical units, which would be
//! hundreds of disks; and a number would have to be remembered for as long as there are others, where
//! a name says which snapshot it is.

use std::cmp::Reverse;
use std::sync::Arc;

use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};
use sha2::{Digest, Sha256};

use super::names::{LONGEST, file_name, target_name};
use super::scsi::Unit;
use crate::base::split_snapshot_file_name;
use crate::control::Commands;
use crate::volume::{Node, VolumeError, Volumes};

/// Snapshots that initiators are told of. Most log in to all that they hear of, and libiscsi takes an answer of
/// 256 KiB.
const MOST_SNAPSHOTS: usize = 512;
/// Names that are too long are warned of; so many at the most.
const MOST_WARNINGS: usize = 1000;

/// A disk or snapshot that can be logged in to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// The target's name.
    pub name: String,
    /// The disk's name; of a snapshot, that of its disk.
    pub disk: String,
    /// What it is.
    pub node: Node,
}

/// All targets of a store.
pub(super) struct Targets {
    volumes: Arc<Volumes>,
    commands: Arc<dyn Commands>,
    store: String,
    uuid: [u8; 16],
    /// Those that are used, and those that have something to remember.
    units: Mutex<FxHashMap<Node, Open>>,
    /// Those that have no name, and of which was warned.
    nameless: Mutex<FxHashSet<Node>>,
}

/// A logical unit, and how many sessions use it.
struct Open {
    unit: Arc<Unit>,
    sessions: usize,
}

impl Targets {
    /// Over an open store.
    pub fn new(
        volumes: Arc<Volumes>,
        commands: Arc<dyn Commands>,
        store: String,
        uuid: [u8; 16],
    ) -> Self {
        Self {
            volumes,
            commands,
            store,
            uuid,
            units: Mutex::default(),
            nameless: Mutex::default(),
        }
    }

    /// The target of this name.
    pub fn find(&self, name: &str) -> Option<Target> {
        let file = file_name(&self.store, name)?;
        let node = self.volumes.lookup(&file)?;
        Some(Self::target(name.to_owned(), &file, node))
    }

    /// The targets that initiators are told of, in the order of their files' names: all disks, and the newest
    /// snapshots. Others can be logged in to all the same.
    pub fn list(&self) -> Vec<Target> {
        let all = self.volumes.list();
        let is_snapshot = |node: &Node| matches!(node, Node::Snapshot(_));
        let mut snapshots: Vec<Node> = all.iter().map(|(_, node)| *node).collect();
        snapshots.retain(is_snapshot);
        // Their numbers rise.
        snapshots.sort_unstable_by_key(|node| Reverse(*node));
        let oldest = snapshots.get(MOST_SNAPSHOTS - 1);
        let is_told =
            |node: &Node| oldest.is_none_or(|oldest| !is_snapshot(node) || node >= oldest);
        let files = all.into_iter().filter(|(_, node)| is_told(node));
        let targets = files.filter_map(|(file, node)| {
            let Some(name) = target_name(&self.store, &file) else {
                self.warn_of(node, &file);
                return None;
            };
            Some(Self::target(name, &file, node))
        });
        targets.collect()
    }

    /// A name that is too long for a target; said once.
    fn warn_of(&self, node: Node, file: &str) {
        let mut nameless = self.nameless.lock();
        if nameless.len() < MOST_WARNINGS && nameless.insert(node) {
            log::warn!(
                "iSCSI: {file} is no target: its name would have more than {LONGEST} bytes; give it, or the \
                 store in 'iscsi: name', a shorter one"
            );
        }
    }

    fn target(name: String, file: &str, node: Node) -> Target {
        let disk = split_snapshot_file_name(file).map_or(file, |(disk, _)| disk);
        Target {
            name,
            disk: disk.to_owned(),
            node,
        }
    }

    /// Opens the logical unit of a target, for one session.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn open(&self, target: &Target) -> Result<Arc<Unit>, VolumeError> {
        self.volumes.open(target.node)?;
        let serial = match self.serial(target.node) {
            Ok(serial) => serial,
            Err(error) => {
                self.volumes.close(target.node);
                return Err(error);
            }
        };
        let mut units = self.units.lock();
        // What was deleted meanwhile, and nobody uses, has nothing to remember.
        units.retain(|node, open| open.sessions > 0 || self.volumes.size(*node).is_ok());
        let make = || {
            let (volumes, commands) = (Arc::clone(&self.volumes), Arc::clone(&self.commands));
            let unit = Unit::new(volumes, commands, target.node, target.name.clone(), serial);
            Open {
                unit: Arc::new(unit),
                sessions: 0,
            }
        };
        let open = units.entry(target.node).or_insert_with(make);
        if open.sessions == 0 {
            open.unit.rename(&target.name);
        }
        open.sessions += 1;
        Ok(Arc::clone(&open.unit))
    }

    /// A session that has opened the logical unit of a node ends.
    pub fn close(&self, node: Node) {
        let mut units = self.units.lock();
        if let Some(open) = units.get_mut(&node) {
            open.sessions -= 1;
            if open.sessions == 0 && open.unit.is_forgettable() {
                units.remove(&node);
            }
        }
        drop(units);
        self.volumes.close(node);
    }

    /// A number that is the same whenever the store is opened, and no other disk's.
    fn serial(&self, node: Node) -> Result<[u8; 16], VolumeError> {
        let (one, other) = self.volumes.identity(node)?;
        let kind = [u8::from(matches!(node, Node::Snapshot(_)))];
        let digest = Sha256::new()
            .chain_update(self.uuid)
            .chain_update(kind)
            .chain_update(one.to_be_bytes())
            .chain_update(other.to_be_bytes())
            .finalize();
        let mut serial = [0; 16];
        serial.copy_from_slice(&digest[..16]);
        Ok(serial)
    }
}
