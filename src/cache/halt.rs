//! The state that a failed write or sync leaves: no more writes, for good.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::CacheError;

/// Whether the store still takes writes. Once halted it stays so until it is opened again: what
/// a failed sync left on a device can't be known (P8).
#[derive(Debug, Default)]
pub struct Halt {
    /// Set after `reason`; a cheap look for the write path.
    halted: AtomicBool,
    reason: OnceLock<String>,
}

impl Halt {
    /// Halts; the first reason stays.
    pub fn set(&self, reason: &dyn std::fmt::Display) {
        if self.reason.set(reason.to_string()).is_ok() {
            log::error!("the store stops writing: {reason}");
        }
        self.halted.store(true, Ordering::Release);
    }

    /// Why it halted, if it did.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.reason.get().map(String::as_str)
    }

    /// Fails where the store has halted.
    ///
    /// # Errors
    /// [`CacheError::Halted`] with the reason.
    pub fn check(&self) -> Result<(), CacheError> {
        if !self.halted.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(CacheError::Halted(
            self.reason().unwrap_or("it has halted").to_owned(),
        ))
    }
}
