//! All sessions of a server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::login::Failure;
use super::scsi::Unit;
use super::session::Session;
use crate::volume::Node;

/// How long a new session waits for the old one that it takes the place of.
const PATIENCE: Duration = Duration::from_secs(20);

/// All sessions.
pub(super) struct Sessions {
    table: Mutex<Table>,
    /// Signalled when one has ended.
    ended: Condvar,
    most: usize,
}

#[derive(Default)]
struct Table {
    all: Vec<Arc<Session>>,
    /// Those that are about to be entered.
    promised: Vec<Port>,
    last: u16,
    /// No more are taken.
    is_closed: bool,
}

/// What two sessions at the same time must not have in common: the initiator's name, its part of the
/// session's, and the target's.
type Port = (String, [u8; 6], Option<String>);

/// A place for a session that is about to be entered.
pub(super) struct Place<'a> {
    sessions: &'a Sessions,
    port: Port,
    /// The session's number.
    pub tsih: u16,
}

impl Sessions {
    /// For so many sessions at the most.
    pub fn new(most: usize) -> Self {
        Self {
            table: Mutex::default(),
            ended: Condvar::new(),
            most,
        }
    }

    /// A place for a new session of an initiator port. A session that the port has with the same target
    /// ends first (RFC 7143, section 6.3.5): the initiator has lost it, and nothing of it must come
    /// after what the new one does.
    pub fn place(
        &self,
        initiator: &str,
        isid: [u8; 6],
        target: Option<&str>,
    ) -> Result<Place<'_>, Failure> {
        let deadline = Instant::now() + PATIENCE;
        let port = (initiator.to_owned(), isid, target.map(str::to_owned));
        let mut table = self.table.lock();
        loop {
            let same = |session: &&Arc<Session>| {
                session.initiator == initiator
                    && session.isid == isid
                    && session.target.as_deref() == target
            };
            match table.all.iter().find(same) {
                Some(old) => old.output.close(),
                // Of two at once, one is entered first, and then ended.
                None if table.promised.contains(&port) => {}
                None => break,
            }
            if self.ended.wait_until(&mut table, deadline).timed_out() {
                return Err(Failure::Busy);
            }
        }
        if table.is_closed || table.all.len() + table.promised.len() >= self.most {
            return Err(Failure::Full);
        }
        table.promised.push(port.clone());
        let tsih = table.free_number();
        table.last = tsih;
        Ok(Place {
            sessions: self,
            port,
            tsih,
        })
    }

    /// A session is over.
    pub fn remove(&self, session: &Arc<Session>) {
        let mut table = self.table.lock();
        table.all.retain(|other| !Arc::ptr_eq(other, session));
        self.ended.notify_all();
    }

    /// The disks, not the snapshots, that an initiator has sessions with; nothing where a reservation keeps
    /// it from one of them in all of its sessions with that.
    pub fn disks_of(&self, initiator: &str) -> Option<Vec<Node>> {
        let table = self.table.lock();
        let of_it = table
            .all
            .iter()
            .filter(|session| session.initiator == initiator);
        let mut nodes: BTreeMap<Node, bool> = BTreeMap::new();
        for used in of_it.filter_map(|session| session.used.as_ref()) {
            if matches!(used.unit.node, Node::Disk(_)) {
                let may = nodes.entry(used.unit.node).or_default();
                *may |= used.unit.lets_manage(&used.nexus);
            }
        }
        let is_let_in = nodes.values().all(|may| *may);
        is_let_in.then(|| nodes.into_keys().collect())
    }

    /// Those that use a logical unit.
    pub fn of_unit(&self, unit: &Unit) -> Vec<Arc<Session>> {
        let table = self.table.lock();
        let uses = |session: &&Arc<Session>| session.node() == Some(unit.node);
        table.all.iter().filter(uses).cloned().collect()
    }

    /// Gives up what an initiator port has under way with a logical unit, and waits until nothing of it
    /// is being done.
    pub fn abort_port(&self, unit: &Unit, port: &str) {
        for session in self.of_unit(unit) {
            if session
                .used
                .as_ref()
                .is_some_and(|used| used.nexus.port == port)
            {
                session.give_up(|_| true);
                session.order.wait_for_given_up();
            }
        }
    }

    /// All there are.
    pub fn all(&self) -> Vec<Arc<Session>> {
        self.table.lock().all.clone()
    }

    /// Takes no more.
    pub fn close(&self) {
        self.table.lock().is_closed = true;
    }

    /// Waits until there are none, for so long at the most; whether there are none.
    pub fn wait_until_none(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        let mut table = self.table.lock();
        while !table.all.is_empty() || !table.promised.is_empty() {
            if self.ended.wait_until(&mut table, deadline).timed_out() {
                return table.all.is_empty() && table.promised.is_empty();
            }
        }
        true
    }
}

impl Place<'_> {
    /// Enters the session.
    pub fn fill(self, session: &Arc<Session>) {
        self.sessions.table.lock().all.push(Arc::clone(session));
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut table = self.sessions.table.lock();
        table.promised.retain(|port| *port != self.port);
        drop(table);
        self.sessions.ended.notify_all();
    }
}

impl Table {
    fn free_number(&self) -> u16 {
        let mut number = self.last;
        loop {
            number = number.wrapping_add(1);
            if number != 0 && self.all.iter().all(|session| session.tsih != number) {
                return number;
            }
        }
    }
}
