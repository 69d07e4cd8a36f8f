//! What can go wrong between a write and its segment.

use crate::base::{Epoch, MapId, SegmentNo, Seq};
use crate::device::DeviceError;
use crate::ondisk::journal::JournalFormatError;
use crate::store::{BlockError, CatalogError, PoolError};

/// An error of the cache, the journal or destaging.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CacheError {
    /// The store has stopped writing, for this reason, until it is opened again.
    #[error("{0}")]
    Halted(String),
    /// The store is being closed.
    #[error("the store is closing")]
    Closed,
    /// The cache's memory is not to be had.
    #[error("the cache can't have {} MiB of memory: {error}; make cache.size smaller", bytes >> 20)]
    NoMemory {
        /// How much it is.
        bytes: u64,
        /// The host's word.
        error: std::sync::Arc<std::io::Error>,
    },
    /// A block can't be read that nothing can be written without moving.
    #[error(
        "segment {segment} of map {map} was written in more layers than a snapshot's time has \
         numbers for, and has a block that can't be read: mend the device, or bring back a copy"
    )]
    Stuck {
        /// The map.
        map: MapId,
        /// The segment.
        segment: SegmentNo,
    },
    /// The pool can't take it.
    #[error("the pool is full: {needed} segments needed, {available} available")]
    NoSpace {
        /// Segments needed.
        needed: u64,
        /// Segments that are neither in use nor promised.
        available: u64,
    },
    /// The host has had no space for a while, and this would have to wait for it.
    #[error(
        "no space on the host: {0}; free some there or add a device, it then goes on by itself"
    )]
    HostFull(String),
    /// As it looks, there will be space: this may be asked for again, by whoever does not wait for so long.
    #[error("no space for the moment: {0}")]
    NoSpaceYet(String),
    /// The journal is too small for a record that must go in whole.
    #[error(
        "a record of {len} bytes does not fit into a journal of {ring} bytes; make a bigger journal"
    )]
    RecordTooBig {
        /// Bytes of the record.
        len: u64,
        /// Bytes of the ring.
        ring: u64,
    },
    /// Something under a disk changed between a look and an append that relied on it.
    #[error("the content changed meanwhile")]
    Stale,
    /// A disk that the queue does not know.
    #[error("the disk is gone")]
    Gone,
    /// The journal is of another store.
    #[error("{journal} belongs to another store; give this store its own journal")]
    ForeignJournal {
        /// Its path.
        journal: String,
    },
    /// The journal is shorter than it was.
    #[error(
        "the ring of {journal} had {ring} bytes, and now it has room for {room}; bring back the rest of it"
    )]
    ShortJournal {
        /// Its path.
        journal: String,
        /// Bytes of its ring.
        ring: u64,
        /// Bytes that there is room for.
        room: u64,
    },
    /// The journal has not got what the catalog knows of.
    #[error(
        "{journal} is an old copy: its last session is {session}, and the catalog knows of session {known}; bring back the newest one, or give up what it had with 'snapmark check --repair --drop-journal-tail'"
    )]
    OldJournal {
        /// Its path.
        journal: String,
        /// Its last session.
        session: u32,
        /// The session that the catalog tells of.
        known: u32,
    },
    /// A record that was durable can't be read.
    #[error(
        "{journal} is damaged at byte {offset}: record {seq} can't be read, and all up to record \
         {durable} were durable, so acknowledged writes are lost; 'snapmark check' says more, and \
         'snapmark check --repair --drop-journal-tail' gives them up"
    )]
    DamagedJournal {
        /// Its path.
        journal: String,
        /// Where the record should be.
        offset: u64,
        /// Its number.
        seq: Seq,
        /// The newest record that is known to have been durable.
        durable: Seq,
    },
    /// The journal's header can't be read.
    #[error("{journal} is no journal or is damaged: {reason}")]
    BadJournal {
        /// Its path.
        journal: String,
        /// What is wrong.
        reason: JournalFormatError,
    },
    /// A block can't be read, or does not match its checksum.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// A record refers to something that is not there.
    #[error("record {seq} needs {what}, which is not there")]
    Missing {
        /// The record.
        seq: Seq,
        /// What.
        what: String,
    },
    /// An epoch that a map does not have.
    #[error("a record of epoch {record} reached a map in epoch {map}")]
    EpochOrder {
        /// The record's.
        record: Epoch,
        /// The map's.
        map: Epoch,
    },
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A device of the pool failed.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The journal's device failed.
    #[error("journal: {0}")]
    Journal(#[source] DeviceError),
}

impl CacheError {
    /// Whether the host had no space for a write, of which nothing counts: it may be tried again.
    #[must_use]
    pub fn is_no_room(&self) -> bool {
        match self {
            Self::Pool(PoolError::Device(error)) | Self::Journal(error) => error.is_no_space(),
            Self::Catalog(CatalogError::NoRoom(_)) => true,
            _ => false,
        }
    }
}
