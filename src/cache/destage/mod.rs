//! Moves the oldest records from the cache to segments, in order.
//!
//! One thread owns it, and with it every change of the catalog. A round goes: journal synced up
//! to the records taken (nothing reaches a device that power loss could still take out of the
//! journal, P6); data written; devices synced; catalog committed; then, and only then, index
//! entries, journal space and memory let go.

mod allocate;
mod apply;
mod background;
mod batch;
mod fetched;
mod holes;
mod in_place;
mod merge;
mod moving;
mod niceness;
mod ops;
mod pace;
mod reap;
mod reclaim;
mod round;
mod segment;
mod signals;
mod supply;
mod transfer;
mod work;

pub(super) use round::Destager;
pub(super) use signals::Signals;
