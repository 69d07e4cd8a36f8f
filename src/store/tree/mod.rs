//! Copy-on-write B+trees with 128-bit keys and values of a fixed length.
//!
//! A tree is a value: cloning it is cheap, and changing the clone copies the path from the root
//! to the entry, so that whoever holds the original sees nothing of it. Nodes that a change made
//! lie in memory until a checkpoint writes them; all others are read through the page cache.

mod flush;
mod lookup;
mod node;
mod scan;
mod update;

pub(crate) use flush::NodeSink;
pub(crate) use lookup::Entry;
pub(crate) use node::{Body, Child, Node, Shape};
pub(crate) use update::Edit;

use crate::base::Geometry;
use crate::ondisk::{TreeKind, TreeRoot};

/// A tree of the catalog.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    shape: Shape,
    /// The top node; none where the tree is empty.
    top: Option<Child>,
    /// The top node's height over the leaves.
    level: u8,
    /// How many entries it has.
    entries: u64,
}

impl Tree {
    /// The tree that starts here.
    pub(crate) fn new(kind: TreeKind, geometry: Geometry, root: TreeRoot) -> Self {
        Self {
            shape: Shape::new(kind, geometry),
            top: root.top.map(Child::Disk),
            level: root.level,
            entries: root.entries,
        }
    }

    /// How many entries it has.
    #[cfg(test)]
    pub(crate) fn entries(&self) -> u64 {
        self.entries
    }
}
