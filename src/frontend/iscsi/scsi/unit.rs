//! A logical unit: a disk or a snapshot with what its initiators share.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::nexus::Nexus;
use super::opcodes::Access;
use super::reservations::Reservations;
use crate::control::Commands;
use crate::volume::{Node, VolumeError, Volumes};

/// A logical unit.
pub struct Unit {
    /// The store.
    pub volumes: Arc<Volumes>,
    /// Its commands.
    pub commands: Arc<dyn Commands>,
    /// What it reads and writes.
    pub node: Node,
    /// The target's name; another one after the node was renamed, and nobody used it.
    target: Mutex<String>,
    /// A name that no other logical unit of any store has.
    pub serial: [u8; 16],
    /// Who may do what. Locked for a moment, and before `nexuses`.
    pub(super) reservations: Mutex<Reservations>,
    nexuses: Mutex<Vec<Weak<Nexus>>>,
    /// Whether sense data has the descriptor format (D_SENSE).
    pub(super) descriptor_sense: AtomicBool,
    /// Whether an initiator has asked for no more writes (SWP).
    pub(super) software_protected: AtomicBool,
}

impl Unit {
    /// Over an open node.
    #[must_use]
    pub fn new(
        volumes: Arc<Volumes>,
        commands: Arc<dyn Commands>,
        node: Node,
        target: String,
        serial: [u8; 16],
    ) -> Self {
        Self {
            volumes,
            commands,
            node,
            target: Mutex::new(target),
            serial,
            reservations: Mutex::default(),
            nexuses: Mutex::default(),
            descriptor_sense: AtomicBool::new(false),
            software_protected: AtomicBool::new(false),
        }
    }

    /// The target's name.
    #[must_use]
    pub fn target(&self) -> String {
        self.target.lock().clone()
    }

    /// The target has another name now.
    pub fn rename(&self, target: &str) {
        target.clone_into(&mut self.target.lock());
    }

    /// Its capacity in bytes.
    ///
    /// # Errors
    /// Where the node is gone.
    pub fn capacity(&self) -> Result<u64, VolumeError> {
        self.volumes.size(self.node)
    }

    /// Whether it never changes.
    #[must_use]
    pub fn is_snapshot(&self) -> bool {
        matches!(self.node, Node::Snapshot(_))
    }

    /// Whether sense data has the descriptor format.
    #[must_use]
    pub fn wants_descriptors(&self) -> bool {
        self.descriptor_sense.load(Relaxed)
    }

    /// Whether nothing is lost with it: no registration, and no setting.
    #[must_use]
    pub fn is_forgettable(&self) -> bool {
        let is_set = self.wants_descriptors() || self.software_protected.load(Relaxed);
        !is_set && self.reservations.lock().is_empty()
    }

    /// Whether no reservation keeps an initiator port from what only manages it, as taking a snapshot does.
    #[must_use]
    pub fn lets_manage(&self, nexus: &Nexus) -> bool {
        let reservations = self.reservations.lock();
        !reservations.conflict(&nexus.port, Access::Manages)
    }

    /// Another initiator port uses it.
    pub fn join(&self, nexus: &Arc<Nexus>) {
        let mut nexuses = self.nexuses.lock();
        nexuses.retain(|other| other.strong_count() > 0);
        nexuses.push(Arc::downgrade(nexus));
    }

    /// An initiator port is gone.
    pub fn leave(&self, nexus: &Nexus) {
        self.reservations.lock().nexus_lost(&nexus.port);
    }

    /// All others that use it are to know of something.
    pub(super) fn tell_others(&self, port: &str, code: (u8, u8)) {
        self.tell(|other| other != port, code);
    }

    /// Those for whose port it holds are to know of something.
    pub(super) fn tell(&self, who: impl Fn(&str) -> bool, code: (u8, u8)) {
        let nexuses = self.nexuses.lock();
        for nexus in nexuses.iter().filter_map(Weak::upgrade) {
            if who(&nexus.port) {
                nexus.attend(code);
            }
        }
    }

    /// Takes it back to how it began; persistent reservations stay (SAM-5, section 6.3.3).
    pub fn reset(&self, by: &Nexus) {
        self.reservations.lock().release_all();
        self.descriptor_sense.store(false, Relaxed);
        self.software_protected.store(false, Relaxed);
        self.tell_others(&by.port, super::sense::code::RESET);
        by.attend(super::sense::code::RESET);
    }
}
