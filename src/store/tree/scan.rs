//! Going through entries in order.

use std::ops::{ControlFlow, Range};

use super::lookup::below;
use super::{Body, Child, Tree};
use crate::store::CatalogError;
use crate::store::pages::Pages;

/// What is done with each entry; says whether to go on.
pub(crate) type Visit<'a> = dyn FnMut(u128, &[u8]) -> Result<ControlFlow<()>, CatalogError> + 'a;

/// Which way entries are gone through.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Up,
    Down,
}

impl Order {
    /// The places of a node that are to be visited, given the first beyond them on either side.
    fn of(self, places: Range<usize>) -> impl Iterator<Item = usize> {
        (0..places.len()).map(move |nth| match self {
            Self::Up => places.start + nth,
            Self::Down => places.end - 1 - nth,
        })
    }
}

impl Tree {
    /// Visits the entries from a key on, in order, until told to stop.
    pub(crate) fn scan(
        &self,
        pages: &Pages,
        from: u128,
        visit: &mut Visit<'_>,
    ) -> Result<(), CatalogError> {
        self.scan_in(Order::Up, pages, from, visit)
    }

    /// Visits the entries from a key on down, the highest first, until told to stop.
    pub(crate) fn scan_down(
        &self,
        pages: &Pages,
        from: u128,
        visit: &mut Visit<'_>,
    ) -> Result<(), CatalogError> {
        self.scan_in(Order::Down, pages, from, visit)
    }

    fn scan_in(
        &self,
        order: Order,
        pages: &Pages,
        from: u128,
        visit: &mut Visit<'_>,
    ) -> Result<(), CatalogError> {
        if let Some(top) = &self.top {
            let _ = self.scan_below(order, pages, (top, self.level), from, visit)?;
        }
        Ok(())
    }

    fn scan_below(
        &self,
        order: Order,
        pages: &Pages,
        (child, level): (&Child, u8),
        from: u128,
        visit: &mut Visit<'_>,
    ) -> Result<ControlFlow<()>, CatalogError> {
        let node = self.node(pages, child.clone(), level)?;
        match &node.body {
            Body::Leaf(values) => {
                let len = self.shape.value;
                let places = match order {
                    Order::Up => node.position(from)..node.len(),
                    Order::Down => 0..node.keys.partition_point(|key| *key <= from),
                };
                for at in order.of(places) {
                    if visit(node.keys[at], &values[at * len..][..len])?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
            }
            Body::Branch(children) => {
                let level = below(level)?;
                let places = match order {
                    Order::Up => node.child_for(from)..children.len(),
                    Order::Down => 0..node.child_for(from) + 1,
                };
                for at in order.of(places) {
                    let child = (&children[at], level);
                    if self
                        .scan_below(order, pages, child, from, visit)?
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

#[cfg(test)]
impl Tree {
    /// How many nodes it has, each checked against the rules of its place.
    pub(crate) fn all_nodes(&self, pages: &Pages) -> u64 {
        let top = self.top.as_ref();
        top.map_or(0, |top| {
            self.nodes_below(pages, top, self.level, 0, u128::MAX)
        })
    }

    fn nodes_below(&self, pages: &Pages, child: &Child, level: u8, from: u128, to: u128) -> u64 {
        let node = self.node(pages, child.clone(), level).unwrap();
        assert!((1..=self.shape.capacity(level)).contains(&node.len()));
        assert!(node.keys.windows(2).all(|pair| pair[0] < pair[1]));
        match &node.body {
            Body::Leaf(values) => {
                assert_eq!((level, values.len()), (0, node.len() * self.shape.value));
                assert!(node.keys[0] >= from && node.keys[node.len() - 1] <= to);
                1
            }
            Body::Branch(children) => {
                assert_eq!(children.len(), node.len());
                let mut nodes = 1;
                for (at, child) in children.iter().enumerate() {
                    let from = if at == 0 {
                        from
                    } else {
                        node.keys[at].max(from)
                    };
                    let to = node.keys.get(at + 1).map_or(to, |next| (next - 1).min(to));
                    nodes += self.nodes_below(pages, child, level - 1, from, to);
                }
                nodes
            }
        }
    }
}
