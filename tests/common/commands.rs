//! Commands of a store, around which a test does something.

use std::sync::Arc;

use snapmark::control::{CommandError, Commands, Control};
use snapmark::volume::Volumes;

/// Told of each snapshot that is to be taken: of which disks, and by which name.
type Before = dyn Fn(&[String], Option<&str>) + Send + Sync;

/// The commands of a store, that call something before each snapshot.
pub struct Around {
    inner: Control,
    before: Box<Before>,
}

impl Around {
    pub fn new(
        volumes: &Arc<Volumes>,
        before: impl Fn(&[String], Option<&str>) + Send + Sync + 'static,
    ) -> Self {
        Self {
            inner: Control::new(Arc::clone(volumes)),
            before: Box::new(before),
        }
    }
}

impl Commands for Around {
    fn execute(&self, line: &str) -> Result<String, CommandError> {
        self.inner.execute(line)
    }

    fn snapshot(
        &self,
        disks: &[String],
        name: Option<&str>,
        durable: bool,
    ) -> Result<String, CommandError> {
        (self.before)(disks, name);
        self.inner.snapshot(disks, name, durable)
    }

    fn refused(&self, line: &str, why: &CommandError) {
        self.inner.refused(line, why);
    }

    fn history(&self) -> String {
        self.inner.history()
    }

    fn stats(&self) -> String {
        self.inner.stats()
    }

    fn status(&self) -> String {
        self.inner.status()
    }
}
