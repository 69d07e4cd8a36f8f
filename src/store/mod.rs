//! The store: what is durable. The catalog holds what is known of disks, snapshots, segments and
//! space, in copy-on-write trees that readers see without locks and commits change all or
//! nothing; the pool holds the devices that the segments lie on.

mod blocks;
mod catalog;
mod changes;
mod checkpoint;
mod complaints;
mod error;
mod log;
mod open;
mod page_alloc;
mod pages;
mod pool;
mod published;
mod resolve;
mod state;
#[cfg(test)]
mod tests;
mod tree;
mod view;

pub use blocks::{BlockError, read_blocks};
pub use catalog::{Catalog, CatalogConfig};
pub use error::{CatalogError, Refusal};
pub use pool::{Force, Pool, PoolDevice, PoolError, format, formattable};
pub use resolve::{At, Source};
pub use view::View;
