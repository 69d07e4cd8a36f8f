//! The online data check as `.status` shows it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::base::ByteSize;

/// How far the online data check is, and what it found. Sizes are bytes, times RFC 3339 UTC.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ScrubStatus {
    /// What it is doing.
    pub state: ScrubState,
    /// Bytes a second at the most; 0 is no limit.
    pub rate: u64,
    /// Data that was read and compared.
    pub checked: u64,
    /// Data that there is; 0 until it is counted.
    pub total: u64,
    /// Blocks of 4 KiB that are damaged.
    pub damaged: u64,
    /// Blocks of 4 KiB that differ too, but nobody looked whether anyone reads them: so much was
    /// damaged before.
    #[serde(default)]
    pub suspects: u64,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<String>,
    /// Why it could not go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The damage that was found last; the log has all.
    #[serde(default)]
    pub problems: Vec<ScrubProblem>,
}

/// What a scrub is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScrubState {
    /// There was none yet.
    #[default]
    Idle,
    /// It reads.
    Running,
    /// It waits to be resumed.
    Paused,
    /// It has looked at everything.
    Done,
    /// It was stopped.
    Stopped,
    /// It could not go on.
    Failed,
}

/// Damaged blocks that lie together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubProblem {
    /// The device's number.
    pub device: u16,
    /// The device.
    pub path: String,
    /// The segment of the device.
    pub segment: u64,
    /// The first block in the segment.
    pub block: u64,
    /// How many blocks.
    pub count: u64,
    /// What is wrong with each.
    pub what: String,
    /// The byte at which they begin in those whose they are.
    pub offset: u64,
    /// Disks and snapshots that read them, by file name; the first few.
    pub touches: Vec<String>,
    /// How many more read them.
    #[serde(default)]
    pub more: u64,
}

impl ScrubState {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Idle,
        Self::Running,
        Self::Paused,
        Self::Done,
        Self::Stopped,
        Self::Failed,
    ];
}

impl fmt::Display for ScrubState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Idle => "idle",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Done => "done",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        })
    }
}

impl fmt::Display for ScrubStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {} of {} checked, {} damaged {}",
            self.state,
            ByteSize(self.checked),
            ByteSize(self.total),
            self.damaged,
            if self.damaged == 1 { "block" } else { "blocks" }
        )?;
        if self.suspects > 0 {
            write!(f, " and {} suspect", self.suspects)?;
        }
        match &self.error {
            Some(error) => write!(f, ": {error}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for ScrubProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            1 => write!(f, "block {}", self.block)?,
            count => write!(
                f,
                "each of blocks {} to {}",
                self.block,
                self.block + count - 1
            )?,
        }
        write!(
            f,
            " of segment {} of device {} ({}) {}; at byte {} of {}",
            self.segment,
            self.device,
            self.path,
            self.what,
            self.offset,
            self.touches.join(", ")
        )?;
        match self.more {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}
