//! The first-in-first-out queue of writes, discards and markers, the index that finds the newest
//! data in it, and its non-volatile half, the journal.
//!
//! A write passes `append` (one sequence number, one journal record, one index entry), waits in
//! the `queue`, and leaves through `destage`.

mod ahead;
mod append;
mod borrow;
mod content;
mod destage;
mod enter_op;
mod error;
mod frames;
mod halt;
mod index;
mod journal;
mod lent;
mod lines;
mod map;
mod open;
mod part;
mod pause;
mod queue;
mod queued;
mod recover;
mod ring;
mod room;
mod scan;
mod slab;
mod space;
mod state;
mod stock;
mod throttle;
mod ticket;
mod window;

pub use content::Content;
pub use error::CacheError;
pub use frames::{Frame, FramePool};
pub use halt::Halt;
pub use index::Found;
pub use journal::Journal;
pub use lent::Lent;
pub use lines::Lines;
pub use map::{MapState, OriginState};
pub use open::CacheParts;
pub use part::{Append, Part, ReliesOn};
pub use pause::{Pause, in_a_hurry, with_space_deadline};
pub use queued::QueuedLent;
pub use recover::Recovery;
pub use scan::create_journal;
pub use state::{Cache, CacheConfig, CacheUse};
pub use ticket::Ticket;
