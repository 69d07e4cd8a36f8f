//! Finding one entry.

use std::sync::Arc;

use super::{Body, Child, Node, Tree};
use crate::store::CatalogError;
use crate::store::pages::Pages;

/// An entry of a leaf.
pub(crate) struct Entry {
    leaf: Arc<Node>,
    at: usize,
    value: usize,
}

impl Entry {
    pub(crate) fn key(&self) -> u128 {
        self.leaf.keys[self.at]
    }

    pub(crate) fn value(&self) -> &[u8] {
        match &self.leaf.body {
            Body::Leaf(values) => &values[self.at * self.value..][..self.value],
            Body::Branch(_) => &[],
        }
    }
}

impl Tree {
    /// The node that a reference leads to.
    pub(super) fn node(
        &self,
        pages: &Pages,
        child: Child,
        level: u8,
    ) -> Result<Arc<Node>, CatalogError> {
        match child {
            Child::Memory(node) => Ok(node),
            Child::Disk(at) => pages.load(at, &self.shape, level),
        }
    }

    /// The entry of a key.
    pub(crate) fn get(&self, pages: &Pages, key: u128) -> Result<Option<Entry>, CatalogError> {
        let mut next = self.top.clone();
        let mut level = self.level;
        while let Some(child) = next {
            let node = self.node(pages, child, level)?;
            match &node.body {
                Body::Leaf(_) => {
                    let found = node.keys.binary_search(&key).ok();
                    return Ok(found.map(|at| self.entry(node, at)));
                }
                Body::Branch(children) => next = Some(children[node.child_for(key)].clone()),
            }
            level = below(level)?;
        }
        Ok(None)
    }

    /// The first entry whose key is at least this one.
    pub(crate) fn at_or_after(
        &self,
        pages: &Pages,
        key: u128,
    ) -> Result<Option<Entry>, CatalogError> {
        let mut next = self.top.clone();
        let mut level = self.level;
        // The subtree right of the way down: it holds the entry where the leaf does not.
        let mut right = None;
        while let Some(child) = next {
            let node = self.node(pages, child, level)?;
            match &node.body {
                Body::Leaf(_) => {
                    let at = node.position(key);
                    if at < node.len() {
                        return Ok(Some(self.entry(node, at)));
                    }
                    let Some((child, level)) = right else {
                        return Ok(None);
                    };
                    return self.edge(pages, child, level, |_| 0).map(Some);
                }
                Body::Branch(children) => {
                    let at = node.child_for(key);
                    level = below(level)?;
                    if let Some(sibling) = children.get(at + 1) {
                        right = Some((sibling.clone(), level));
                    }
                    next = Some(children[at].clone());
                }
            }
        }
        Ok(None)
    }

    /// The last entry whose key is at most this one.
    pub(crate) fn at_or_before(
        &self,
        pages: &Pages,
        key: u128,
    ) -> Result<Option<Entry>, CatalogError> {
        let mut next = self.top.clone();
        let mut level = self.level;
        let mut left = None;
        while let Some(child) = next {
            let node = self.node(pages, child, level)?;
            match &node.body {
                Body::Leaf(_) => {
                    let after = node.keys.partition_point(|k| *k <= key);
                    if after > 0 {
                        return Ok(Some(self.entry(node, after - 1)));
                    }
                    let Some((child, level)) = left else {
                        return Ok(None);
                    };
                    return self.edge(pages, child, level, |len| len - 1).map(Some);
                }
                Body::Branch(children) => {
                    let at = node.child_for(key);
                    level = below(level)?;
                    if at > 0 {
                        left = Some((children[at - 1].clone(), level));
                    }
                    next = Some(children[at].clone());
                }
            }
        }
        Ok(None)
    }

    /// The outermost entry of a subtree, on the side that `pick` picks of so many.
    fn edge(
        &self,
        pages: &Pages,
        mut child: Child,
        mut level: u8,
        pick: fn(usize) -> usize,
    ) -> Result<Entry, CatalogError> {
        loop {
            let node = self.node(pages, child, level)?;
            let at = pick(node.len());
            match &node.body {
                Body::Leaf(_) => return Ok(self.entry(node, at)),
                Body::Branch(children) => child = children[at].clone(),
            }
            level = below(level)?;
        }
    }

    fn entry(&self, leaf: Arc<Node>, at: usize) -> Entry {
        let value = self.shape.value;
        Entry { leaf, at, value }
    }
}

/// The level of a branch's children.
pub(super) fn below(level: u8) -> Result<u8, CatalogError> {
    level.checked_sub(1).ok_or(CatalogError::Inconsistent(
        "a branch stands at a leaf's level",
    ))
}
