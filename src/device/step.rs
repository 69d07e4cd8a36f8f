//! Named steps between the accesses to devices. A test can look at the moment when one is taken,
//! and have it fail as a device would. In a release build there is nothing of it.

use super::DeviceError;

macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A step of commit, destage, snapshot, delete or open.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Step {
            $($(#[$doc])* $name,)*
        }

        impl Step {
            /// All steps.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
        }
    };
}

steps! {
    /// A big write's data is in lent slots, and nothing refers to it.
    LentFilled,
    /// A record is in the queue, and is about to be written to the journal.
    RecordEntered,
    /// An op is in names and queue, and in no journal.
    OpEntered,
    /// A marker is written, and is about to be synced.
    MarkerWritten,
    /// Those who wait for a sync have one who does it; the journal's page is closed.
    JournalSealed,
    /// Data of writes by reference is durable, their records are not.
    LentSynced,
    /// The journal is durable, and nobody knows.
    JournalSynced,
    /// A batch is chosen, and durable in the journal.
    BatchSynced,
    /// A batch has its places.
    BatchPlanned,
    /// Its data is durable.
    DataStored,
    /// The catalog leads there.
    DataCommitted,
    /// Slots that it took count as in use.
    SlotsAdopted,
    /// The host has the blocks that nobody needs any more.
    BlocksPunched,
    /// Readers do not find it in the cache any more.
    IndexLeft,
    /// It is out of line and journal.
    BatchLeft,
    /// Ops that are due are durable in the journal.
    OpsSynced,
    /// Their changes of the catalog are known.
    OpsDrafted,
    /// They are committed, and still in the queue.
    OpsCommitted,
    /// A piece of a map is to be reaped.
    ReapPlanned,
    /// It is committed.
    ReapCommitted,
    /// A map has nothing left to be reaped.
    ReapFinished,
    /// The catalog has forgotten it.
    MapForgotten,
    /// Slots are to be lent out.
    Lending,
    /// The catalog calls them pending; nobody has them yet.
    LentOut,
    /// Slots that were given up are punched.
    SlotsPunched,
    /// They are free.
    SlotsFreed,
    /// A commit's changes are made in memory.
    CommitDrafted,
    /// Its frame is durable.
    CommitLogged,
    /// Readers see it.
    CommitPublished,
    /// A checkpoint has found pages.
    PagesReserved,
    /// They are written.
    PagesWritten,
    /// They are durable.
    PagesSynced,
    /// The root is written.
    RootWritten,
    /// It is durable.
    RootSynced,
    /// The log begins again.
    LogStarted,
    /// At opening, the catalog's log is read.
    CatalogReplayed,
    /// The journal's end is found.
    JournalRead,
    /// A new session has begun.
    SessionBegun,
    /// Names and queue are what they were.
    NamesReplayed,
    /// A new device has its superblock.
    DeviceFormatted,
    /// It is in the pool's table.
    DeviceAttached,
    /// It is in the catalog.
    DeviceCommitted,
}

#[cfg(debug_assertions)]
pub use watched::{Watch, watch};

#[cfg(debug_assertions)]
mod watched {
    use std::sync::Arc;

    use parking_lot::RwLock;

    use super::Step;

    /// Is told of each step, and whether that can fail; says whether it is to.
    pub type Watch = dyn Fn(Step, bool) -> bool + Send + Sync;

    static WATCH: RwLock<Option<Arc<Watch>>> = RwLock::new(None);

    /// Has someone told of all steps that are taken in this process, or nobody any more.
    pub fn watch(by: Option<Arc<Watch>>) {
        *WATCH.write() = by;
    }

    pub(super) fn tell(step: Step, can_fail: bool) -> bool {
        let watch = WATCH.read().clone();
        watch.is_some_and(|watch| watch(step, can_fail))
    }
}

impl Step {
    /// It is taken, and what follows can't fail.
    #[inline(always)]
    pub fn passes(self) {
        #[cfg(debug_assertions)]
        watched::tell(self, false);
    }

    /// It is taken, and what follows can fail.
    ///
    /// # Errors
    /// Where a test says so.
    #[inline(always)]
    pub fn fails(self) -> Result<(), DeviceError> {
        #[cfg(debug_assertions)]
        if watched::tell(self, true) {
            return Err(DeviceError::Host {
                operation: super::Operation::Sync,
                device: format!("step {self:?}"),
                offset: 0,
                len: 0,
                source: std::sync::Arc::new(std::io::Error::from_raw_os_error(libc::EIO)),
            });
        }
        Ok(())
    }
}
