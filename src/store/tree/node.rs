//! Nodes: sorted arrays of a page's size, and references to them.

use std::sync::Arc;

use crate::base::Geometry;
use crate::ondisk::{PageRef, TreeKind, page_capacity};

/// What all nodes of a tree have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) kind: TreeKind,
    pub(crate) geometry: Geometry,
    /// Bytes of a value.
    pub(crate) value: usize,
    /// Entries that fit in a leaf.
    leaf: usize,
    /// Children that fit in a branch.
    branch: usize,
}

impl Shape {
    pub(crate) fn new(kind: TreeKind, geometry: Geometry) -> Self {
        Self {
            kind,
            geometry,
            value: kind.value_len(geometry),
            leaf: page_capacity(kind, 0, geometry),
            branch: page_capacity(kind, 1, geometry),
        }
    }

    /// How many keys fit in a node of this level.
    pub(crate) fn capacity(&self, level: u8) -> usize {
        if level == 0 { self.leaf } else { self.branch }
    }
}

/// A node of a tree. Immutable once another thread can see it.
#[derive(Debug)]
pub(crate) struct Node {
    /// Ascending; never empty, save in the midst of a removal. A branch's first key is not looked
    /// at; each other is a lower bound of the keys below its child and exceeds all keys before.
    pub(crate) keys: Vec<u128>,
    pub(crate) body: Body,
}

/// What a node has for its keys.
#[derive(Debug)]
pub(crate) enum Body {
    /// Values of the tree's length, one after the other.
    Leaf(Vec<u8>),
    /// One child a key.
    Branch(Vec<Child>),
}

/// A reference to a node.
#[derive(Clone, Debug)]
pub(crate) enum Child {
    /// In its page since a checkpoint.
    Disk(PageRef),
    /// Changed since the last checkpoint.
    Memory(Arc<Node>),
}

impl Clone for Node {
    /// A copy is made to be changed, so it gets room for one entry more than it has.
    fn clone(&self) -> Self {
        let mut keys = Vec::with_capacity(self.keys.len() + 1);
        keys.extend_from_slice(&self.keys);
        let body = match &self.body {
            Body::Leaf(values) => {
                let value = values.len() / self.keys.len().max(1);
                let mut copy = Vec::with_capacity(values.len() + value);
                copy.extend_from_slice(values);
                Body::Leaf(copy)
            }
            Body::Branch(children) => {
                let mut copy = Vec::with_capacity(children.len() + 1);
                copy.extend_from_slice(children);
                Body::Branch(copy)
            }
        };
        Self { keys, body }
    }
}

impl Node {
    /// How many entries or children it has.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Which child of a branch holds a key, if any does.
    pub(crate) fn child_for(&self, key: u128) -> usize {
        self.keys.partition_point(|k| *k <= key).saturating_sub(1)
    }

    /// The first entry of a leaf at or after a key, or its end.
    pub(crate) fn position(&self, key: u128) -> usize {
        self.keys.partition_point(|k| *k < key)
    }

    /// Moves everything from `at` on into a new node.
    pub(crate) fn split_off(&mut self, at: usize, shape: &Shape) -> Self {
        let body = match &mut self.body {
            Body::Leaf(values) => Body::Leaf(values.split_off(at * shape.value)),
            Body::Branch(children) => Body::Branch(children.split_off(at)),
        };
        let keys = self.keys.split_off(at);
        Self { keys, body }
    }

    /// Appends a copy of the right neighbour, whose lower bound is `bound`.
    pub(crate) fn append(&mut self, right: &Node, bound: u128) {
        let seam = self.keys.len();
        self.keys.extend_from_slice(&right.keys);
        match (&mut self.body, &right.body) {
            (Body::Leaf(values), Body::Leaf(more)) => values.extend_from_slice(more),
            (Body::Branch(children), Body::Branch(more)) => {
                children.extend_from_slice(more);
                // The right one's first key was not looked at; here it is.
                self.keys[seam] = bound;
            }
            _ => unreachable!("siblings have the same level"),
        }
    }
}
