//! An initiator port and a logical unit that it uses: what it has yet to be told (SAM-5, section 5.14).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

/// Conditions that wait to be told, at the most; older ones are more urgent.
const MOST: usize = 16;

/// What a logical unit knows of one initiator port.
#[derive(Debug)]
pub struct Nexus {
    /// The initiator's name.
    pub initiator: String,
    /// Its port's name: the initiator's, and its part of the session's.
    pub port: String,
    attentions: Mutex<VecDeque<(u8, u8)>>,
    /// Whether there are any; a cheap look.
    has_attention: AtomicBool,
    /// The capacity that it knows, in bytes.
    capacity: AtomicU64,
}

impl Nexus {
    /// A new one, of a logical unit of this capacity in bytes.
    #[must_use]
    pub fn new(initiator: &str, isid: [u8; 6], capacity: u64) -> Self {
        let isid = isid
            .iter()
            .fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        Self {
            initiator: initiator.to_owned(),
            port: format!("{initiator},i,0x{isid}"),
            attentions: Mutex::default(),
            has_attention: AtomicBool::new(false),
            capacity: AtomicU64::new(capacity),
        }
    }

    /// Something has happened that it should know of.
    pub fn attend(&self, code: (u8, u8)) {
        let mut attentions = self.attentions.lock();
        if attentions.len() < MOST && !attentions.contains(&code) {
            attentions.push_back(code);
        }
        self.has_attention.store(true, Relaxed);
    }

    /// What it should know first, if anything; then it has been told.
    pub fn next_attention(&self) -> Option<(u8, u8)> {
        if !self.has_attention.load(Relaxed) {
            return None;
        }
        let mut attentions = self.attentions.lock();
        let next = attentions.pop_front();
        self.has_attention.store(!attentions.is_empty(), Relaxed);
        next
    }

    /// Whether the capacity is another one than it knows; from now on it knows.
    pub fn has_new_capacity(&self, capacity: u64) -> bool {
        self.capacity.load(Relaxed) != capacity && self.capacity.swap(capacity, Relaxed) != capacity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_condition_is_told_once_and_in_order() {
        let nexus = Nexus::new("iqn.x", [0, 1, 2, 3, 4, 0xff], 100);
        assert_eq!(nexus.port, "iqn.x,i,0x0001020304ff");
        assert_eq!(nexus.next_attention(), None);
        nexus.attend((0x29, 0));
        nexus.attend((0x2a, 9));
        nexus.attend((0x29, 0));
        assert_eq!(nexus.next_attention(), Some((0x29, 0)));
        assert_eq!(nexus.next_attention(), Some((0x2a, 9)));
        assert_eq!(nexus.next_attention(), None);
        assert!(!nexus.has_new_capacity(100) && nexus.has_new_capacity(200));
        assert!(!nexus.has_new_capacity(200));
    }
}
