//! Writing a tree's changed nodes.

use std::sync::Arc;

use super::lookup::below;
use super::{Body, Child, Node, Shape, Tree};
use crate::ondisk::{PageRef, TreeRoot};
use crate::store::CatalogError;

/// Where nodes are written to.
pub(crate) trait NodeSink {
    /// Gives the node a page. Children have theirs already.
    fn write(&mut self, node: Arc<Node>, shape: &Shape, level: u8)
    -> Result<PageRef, CatalogError>;
}

impl Tree {
    /// How many nodes a checkpoint must write.
    pub(crate) fn dirty_nodes(&self) -> usize {
        self.top.as_ref().map_or(0, dirty_below)
    }

    /// Writes the changed nodes, children first. The tree then has none.
    pub(crate) fn flush(&mut self, sink: &mut impl NodeSink) -> Result<TreeRoot, CatalogError> {
        let top = match &self.top {
            None => None,
            Some(top) => Some(flush(&self.shape, top, self.level, sink)?),
        };
        self.top = top.map(Child::Disk);
        Ok(TreeRoot {
            top,
            level: self.level,
            entries: self.entries,
        })
    }
}

fn dirty_below(child: &Child) -> usize {
    match child {
        Child::Disk(_) => 0,
        Child::Memory(node) => match &node.body {
            Body::Leaf(_) => 1,
            Body::Branch(children) => 1 + children.iter().map(dirty_below).sum::<usize>(),
        },
    }
}

fn flush(
    shape: &Shape,
    child: &Child,
    level: u8,
    sink: &mut impl NodeSink,
) -> Result<PageRef, CatalogError> {
    let node = match child {
        Child::Disk(at) => return Ok(*at),
        Child::Memory(node) => node,
    };
    let clean = match &node.body {
        Body::Leaf(_) => Arc::clone(node),
        Body::Branch(children) => {
            let level = below(level)?;
            let children = children
                .iter()
                .map(|child| flush(shape, child, level, sink).map(Child::Disk))
                .collect::<Result<_, _>>()?;
            let keys = node.keys.clone();
            let body = Body::Branch(children);
            Arc::new(Node { keys, body })
        }
    };
    sink.write(clean, shape, level)
}
