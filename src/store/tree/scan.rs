//! Going through entries in order.

use std::ops::ControlFlow;

use super::lookup::below;
use super::{Body, Child, Tree};
use crate::store::CatalogError;
use crate::store::pages::Pages;

/// What is done with each entry; says whether to go on.
pub(crate) type Visit<'a> = dyn FnMut(u128, &[u8]) -> Result<ControlFlow<()>, CatalogError> + 'a;

impl Tree {
    /// Visits the entries from a key on, in order, until told to stop.
    pub(crate) fn scan(
        &self,
        pages: &Pages,
        from: u128,
        visit: &mut Visit<'_>,
    ) -> Result<(), CatalogError> {
        if let Some(top) = &self.top {
            let _ = self.scan_below(pages, top, self.level, from, visit)?;
        }
        Ok(())
    }

    fn scan_below(
        &self,
        pages: &Pages,
        child: &Child,
        level: u8,
        from: u128,
        visit: &mut Visit<'_>,
    ) -> Result<ControlFlow<()>, CatalogError> {
        let node = self.node(pages, child.clone(), level)?;
        match &node.body {
            Body::Leaf(values) => {
                let len = self.shape.value;
                for at in node.position(from)..node.len() {
                    if visit(node.keys[at], &values[at * len..][..len])?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
            }
            Body::Branch(children) => {
                let level = below(level)?;
                for child in &children[node.child_for(from)..] {
                    if self
                        .scan_below(pages, child, level, from, visit)?
                        .is_break()
                    {
                        return Ok(ControlFlow::Break(()));
                    }
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}
