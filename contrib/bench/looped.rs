//! Loop devices over what peers serve.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::process::{run, say, take_down};

const LIMIT: Duration = Duration::from_secs(60);

/// A loop device; detached when dropped.
pub struct Loop(PathBuf);

impl Loop {
    /// Attaches one that passes on direct I/O, or one as `mount -o loop` does.
    pub fn over(path: &Path, direct: bool) -> Result<Self> {
        let mut losetup = Command::new("losetup");
        let direct = if direct { "on" } else { "off" };
        losetup.args(["--find", "--show"]);
        losetup.arg(format!("--direct-io={direct}"));
        let printed = run(losetup.arg(path), LIMIT)?;
        Ok(Self(PathBuf::from(printed.trim())))
    }

    /// The device.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let mut losetup = Command::new("losetup");
        if let Err(error) = take_down(losetup.arg("--detach").arg(&self.0), LIMIT) {
            say(&format!("{}: {error:#}", self.0.display()));
        }
    }
}
