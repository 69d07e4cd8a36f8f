//! The journal's format: a header in one of two slots, then a ring of records.
//!
//! ```text
//! 0      header slot A    (written in even sessions)
//! 4096   header slot B    (written in odd sessions)
//! 8192   the ring, to the end of the file
//! ```
//!
//! A record lies at the ring offset where the one before it ended, or at the next multiple of
//! 4 KiB (a sync starts a new page, so that a page that holds synced records is never written
//! again), or at offset 0 (it did not fit before the ring's end). Which of the three is found by
//! trying them in this order: a record counts only if its checksum, its sequence number, its
//! session and the journal's key are the expected ones. What is torn and what is damaged, and what
//! proves it, stands at [`Past`].

#[cfg(test)]
mod golden;
mod header;
mod op;
mod past;
mod record;

pub use header::JournalHeader;
pub use op::{NewDiskOp, Op, Replaced, Target};
pub use past::Past;
pub use record::{Body, MAX_HEAD, RECORD_ALIGN, RECORD_HEADER, RecordHeader, Reference, Stamp};

use super::wire::WireError;

/// Where the ring starts in the file.
pub const RING_START: u64 = 8192;

/// Why bytes are no journal record or header.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalFormatError {
    /// The first bytes are not a record's or header's.
    #[error("no journal magic")]
    Magic,
    /// The checksum does not match.
    #[error("checksum {stored:08x} is stored, {computed:08x} computed")]
    Checksum {
        /// What stands there.
        stored: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// A header of the other slot.
    #[error("the journal header of byte {slot} lies at byte {offset}")]
    Slot {
        /// Where it belongs.
        slot: u64,
        /// Where it is.
        offset: u64,
    },
    /// Written by a newer program.
    #[error("journal format {0} is newer than this program knows ({known}); use a newer snapmark", known = header::VERSION)]
    Version(u32),
    /// A field is wrong.
    #[error(transparent)]
    Wire(#[from] WireError),
}
