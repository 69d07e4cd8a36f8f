//! Changing a tree: insertion with splits, removal with merges.

use std::sync::Arc;

use super::lookup::below;
use super::{Body, Child, Node, Shape, Tree};
use crate::store::CatalogError;
use crate::store::pages::Pages;

/// What a run of changes does besides: which pages it leaves behind, and how many nodes it adds to
/// those that the next checkpoint must write.
pub(crate) struct Edit<'a> {
    pub(crate) pages: &'a Pages,
    /// Pages that the changed trees no longer need.
    pub(crate) freed: Vec<u64>,
    /// Nodes in memory: those made less those dropped.
    pub(crate) dirty: i64,
}

/// What an insertion leaves to its caller: whether the key is new, and the right half of the node
/// where it was split.
struct Inserted {
    new: bool,
    split: Option<(u128, Child)>,
}

impl<'a> Edit<'a> {
    pub(crate) fn new(pages: &'a Pages) -> Self {
        Self {
            pages,
            freed: Vec::new(),
            dirty: 0,
        }
    }

    /// The node behind a reference, for changing: a copy where anyone else can see it.
    fn own<'c>(
        &mut self,
        child: &'c mut Child,
        shape: &Shape,
        level: u8,
    ) -> Result<&'c mut Node, CatalogError> {
        if let Child::Disk(at) = child {
            let node = self.pages.load(*at, shape, level)?;
            self.freed.push(at.page);
            self.dirty += 1;
            *child = Child::Memory(node);
        }
        match child {
            Child::Memory(node) => Ok(Arc::make_mut(node)),
            Child::Disk(_) => unreachable!("it was put in memory above"),
        }
    }

    /// Forgets a node that no longer belongs to the tree.
    fn drop_child(&mut self, child: &Child) {
        match child {
            Child::Disk(at) => self.freed.push(at.page),
            Child::Memory(_) => self.dirty -= 1,
        }
    }

    /// Makes a node part of a tree.
    fn adopt(&mut self, node: Node) -> Child {
        self.dirty += 1;
        Child::Memory(Arc::new(node))
    }
}

impl Tree {
    /// Sets the value of a key; says whether the key is new.
    pub(crate) fn put(
        &mut self,
        edit: &mut Edit<'_>,
        key: u128,
        value: &[u8],
    ) -> Result<bool, CatalogError> {
        self.change(edit, key, &mut |to| to.copy_from_slice(value))
    }

    /// Changes the value of a key, which is all zeros where the key is new; says whether it is.
    pub(crate) fn change(
        &mut self,
        edit: &mut Edit<'_>,
        key: u128,
        change: &mut dyn FnMut(&mut [u8]),
    ) -> Result<bool, CatalogError> {
        let Some(top) = &mut self.top else {
            let mut value = vec![0; self.shape.value];
            change(&mut value);
            let keys = vec![key];
            self.top = Some(edit.adopt(Node {
                keys,
                body: Body::Leaf(value),
            }));
            (self.level, self.entries) = (0, 1);
            return Ok(true);
        };
        let inserted = insert(&self.shape, edit, top, self.level, key, change)?;
        if let Some((bound, right)) = inserted.split {
            let keys = vec![0, bound];
            let body = Body::Branch(vec![top.clone(), right]);
            *top = edit.adopt(Node { keys, body });
            self.level += 1;
        }
        self.entries += u64::from(inserted.new);
        Ok(inserted.new)
    }

    /// Removes a key; says whether there was such a key.
    pub(crate) fn remove(&mut self, edit: &mut Edit<'_>, key: u128) -> Result<bool, CatalogError> {
        // Look first: the way down makes every node on it dirty.
        if self.get(edit.pages, key)?.is_none() {
            return Ok(false);
        }
        let Some(top) = &mut self.top else {
            return Ok(false);
        };
        remove(&self.shape, edit, top, self.level, key)?;
        self.entries -= 1;
        self.lower_top(edit)?;
        Ok(true)
    }

    /// Drops top nodes that are empty or have a single child.
    fn lower_top(&mut self, edit: &mut Edit<'_>) -> Result<(), CatalogError> {
        while let Some(Child::Memory(node)) = &self.top {
            let next = match &node.body {
                _ if node.len() == 0 => None,
                Body::Branch(children) if node.len() == 1 => Some(children[0].clone()),
                _ => break,
            };
            edit.dirty -= 1;
            self.level = if next.is_some() {
                below(self.level)?
            } else {
                0
            };
            self.top = next;
        }
        Ok(())
    }
}

fn insert(
    shape: &Shape,
    edit: &mut Edit<'_>,
    child: &mut Child,
    level: u8,
    key: u128,
    change: &mut dyn FnMut(&mut [u8]),
) -> Result<Inserted, CatalogError> {
    let node = edit.own(child, shape, level)?;
    let at = match &mut node.body {
        Body::Leaf(values) => match node.keys.binary_search(&key) {
            Ok(at) => {
                change(&mut values[at * shape.value..][..shape.value]);
                return Ok(Inserted {
                    new: false,
                    split: None,
                });
            }
            Err(at) => at,
        },
        Body::Branch(children) => {
            let at = node.keys.partition_point(|k| *k <= key).saturating_sub(1);
            // Where the first children went away, the first key that is left is above what may
            // come again. It is lowered, else a split of that child would put a bound below it.
            if let Some(first) = node.keys.first_mut() {
                *first = key.min(*first);
            }
            let below = below(level)?;
            let inserted = insert(shape, edit, &mut children[at], below, key, change)?;
            let Some((bound, right)) = inserted.split else {
                return Ok(inserted);
            };
            let split = make_room(shape, edit, node, level, at + 1, |node, at| {
                node.keys.insert(at, bound);
                if let Body::Branch(children) = &mut node.body {
                    children.insert(at, right);
                }
            });
            return Ok(Inserted { split, ..inserted });
        }
    };
    let split = make_room(shape, edit, node, level, at, |node, at| {
        node.keys.insert(at, key);
        if let Body::Leaf(values) = &mut node.body {
            let start = at * shape.value;
            values.splice(start..start, std::iter::repeat_n(0, shape.value));
            change(&mut values[start..][..shape.value]);
        }
    });
    Ok(Inserted { new: true, split })
}

/// Inserts into a node, which is split first where it is full; returns the right half.
fn make_room(
    shape: &Shape,
    edit: &mut Edit<'_>,
    node: &mut Node,
    level: u8,
    at: usize,
    insert: impl FnOnce(&mut Node, usize),
) -> Option<(u128, Child)> {
    let len = node.len();
    if len < shape.capacity(level) {
        insert(node, at);
        return None;
    }
    // Keys that come in ascending order leave full nodes behind, not half-empty ones.
    let middle = if at == len { len } else { len / 2 };
    let mut right = node.split_off(middle, shape);
    if at > middle || middle == len {
        insert(&mut right, at - middle);
    } else {
        insert(node, at);
    }
    Some((right.keys[0], edit.adopt(right)))
}

fn remove(
    shape: &Shape,
    edit: &mut Edit<'_>,
    child: &mut Child,
    level: u8,
    key: u128,
) -> Result<(), CatalogError> {
    let node = edit.own(child, shape, level)?;
    match &mut node.body {
        Body::Leaf(values) => {
            if let Ok(at) = node.keys.binary_search(&key) {
                node.keys.remove(at);
                values.drain(at * shape.value..(at + 1) * shape.value);
            }
            Ok(())
        }
        Body::Branch(children) => {
            let at = node.keys.partition_point(|k| *k <= key).saturating_sub(1);
            remove(shape, edit, &mut children[at], below(level)?, key)?;
            mend(shape, edit, node, below(level)?, at)
        }
    }
}

/// After a removal below a branch's child: drops the child where it is empty, and merges it with a
/// neighbour where it is sparse and both fit in one page.
fn mend(
    shape: &Shape,
    edit: &mut Edit<'_>,
    branch: &mut Node,
    level: u8,
    at: usize,
) -> Result<(), CatalogError> {
    let Body::Branch(children) = &mut branch.body else {
        return Ok(());
    };
    let len = child_len(shape, edit, &children[at], level)?;
    let capacity = shape.capacity(level);
    if len == 0 {
        edit.drop_child(&children.remove(at));
        branch.keys.remove(at);
        return Ok(());
    }
    if len > capacity / 3 {
        return Ok(());
    }
    // The left one of the pair that is merged.
    for left in [at.checked_sub(1), Some(at)].into_iter().flatten() {
        if left + 1 >= children.len() {
            continue;
        }
        let both = child_len(shape, edit, &children[left], level)?
            + child_len(shape, edit, &children[left + 1], level)?;
        if both > capacity {
            continue;
        }
        let right = children.remove(left + 1);
        let bound = branch.keys.remove(left + 1);
        let right_node = match &right {
            Child::Memory(node) => Arc::clone(node),
            Child::Disk(page) => edit.pages.load(*page, shape, level)?,
        };
        edit.own(&mut children[left], shape, level)?
            .append(&right_node, bound);
        edit.drop_child(&right);
        return Ok(());
    }
    Ok(())
}

fn child_len(
    shape: &Shape,
    edit: &Edit<'_>,
    child: &Child,
    level: u8,
) -> Result<usize, CatalogError> {
    Ok(match child {
        Child::Memory(node) => node.len(),
        Child::Disk(at) => edit.pages.load(*at, shape, level)?.len(),
    })
}
