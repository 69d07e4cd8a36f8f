//! The first-in-first-out queue of writes, discards and markers, the index that finds the newest
//! data in it, and its non-volatile half, the journal.
//!
//! A write passes `append` (one sequence number, one journal record, one index entry), waits in
//! the `queue`, and leaves through `destage`.

mod append;
mod destage;
mod error;
mod frames;
mod halt;
mod index;
mod journal;
mod map;
mod open;
mod queue;
mod recover;
mod ring;
mod space;
mod window;

pub use append::{Append, Lines, Part, ReliesOn, Ticket};
pub use error::CacheError;
pub use frames::{Frame, FramePool};
pub use halt::Halt;
pub use index::Found;
pub use journal::Journal;
pub use map::{MapState, OriginState};
pub use open::{Cache, CacheConfig, CacheParts, CacheUse};
pub use recover::{Recovery, create_journal};
