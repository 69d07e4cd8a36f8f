//! Going through a tree of the catalog, page by page, with every rule of a page looked at.
//!
//! It reads what the root leads to and nothing else; what the log changes lies over it, in
//! [`super::overlay`]. Branches are taken one at a time on the way down, so memory is that of a
//! path.

use crate::base::Geometry;
use crate::device::Device;
use crate::ondisk::{PAGE, Page, PageBody, PageRef, TreeKind, TreeRoot};

/// A tree as the root has it.
#[derive(Clone, Copy)]
pub(super) struct Tree<'a> {
    pub pages: &'a dyn Device,
    pub kind: TreeKind,
    pub geometry: Geometry,
    pub root: TreeRoot,
}

/// What is met on the way.
pub(super) enum Met<'m> {
    /// A page, before anything on it. To answer `false` passes over it and all below.
    Page(u64),
    /// A page that can't be used, with the keys that lie below it.
    Damaged {
        page: u64,
        from: u128,
        to: u128,
        why: String,
    },
    /// An entry, in order. To answer `false` ends the walk.
    Entry(u128, &'m [u8]),
}

impl Tree<'_> {
    /// Meets all pages and entries whose keys may lie in `from..=to`. Returns how many entries
    /// were met.
    pub fn walk(&self, (from, to): (u128, u128), meet: &mut dyn FnMut(Met<'_>) -> bool) -> u64 {
        let mut walk = Walk {
            tree: self,
            from,
            to,
            met: 0,
            ended: false,
            meet,
        };
        if let Some(top) = self.root.top {
            walk.below(top, self.root.level, (0, u128::MAX));
        }
        walk.met
    }
}

struct Walk<'a> {
    tree: &'a Tree<'a>,
    from: u128,
    to: u128,
    met: u64,
    ended: bool,
    meet: &'a mut dyn FnMut(Met<'_>) -> bool,
}

impl Walk<'_> {
    /// `bounds`: the lowest and the highest key that may stand there.
    fn below(&mut self, at: PageRef, level: u8, bounds: (u128, u128)) {
        if !(self.meet)(Met::Page(at.page)) {
            return;
        }
        let page = match self.read(at, level, bounds) {
            Ok(page) => page,
            Err(why) => {
                let (page, (from, to)) = (at.page, bounds);
                (self.meet)(Met::Damaged {
                    page,
                    from,
                    to,
                    why,
                });
                return;
            }
        };
        match (page.body, level.checked_sub(1)) {
            (PageBody::Leaf(values), _) => self.leaf(&page.keys, &values),
            (PageBody::Branch(children), Some(level)) => {
                for (at, child) in children.into_iter().enumerate() {
                    let low = if at == 0 { bounds.0 } else { page.keys[at] };
                    // The keys of a branch ascend, so the next one is not 0.
                    let high = page.keys.get(at + 1).map_or(bounds.1, |next| next - 1);
                    if high < self.from || low > self.to {
                        continue;
                    }
                    self.below(child, level, (low, high));
                    if self.ended {
                        return;
                    }
                }
            }
            // A page of level 0 decodes to a leaf.
            (PageBody::Branch(_), None) => {}
        }
    }

    fn leaf(&mut self, keys: &[u128], values: &[u8]) {
        let len = self.tree.kind.value_len(self.tree.geometry);
        for (at, key) in keys.iter().enumerate() {
            if !(self.from..=self.to).contains(key) {
                continue;
            }
            self.met += 1;
            if !(self.meet)(Met::Entry(*key, &values[at * len..][..len])) {
                self.ended = true;
                return;
            }
        }
    }

    fn read(&self, at: PageRef, level: u8, (low, high): (u128, u128)) -> Result<Page, String> {
        let tree = self.tree;
        let mut bytes = [0; PAGE];
        let offset = at.page.checked_mul(PAGE as u64);
        let offset = offset.filter(|_| at.page > 1);
        let offset = offset.ok_or("a page of that number holds no node")?;
        let read = tree.pages.read_at(&mut bytes, offset);
        read.map_err(|error| error.to_string())?;
        let page = Page::decode(&bytes, at, tree.kind, level, tree.geometry);
        let page = page.map_err(|error| error.to_string())?;
        // A branch's first key is not looked at by anyone.
        let looked_at = &page.keys[usize::from(level > 0)..];
        if looked_at.iter().any(|key| !(low..=high).contains(key)) {
            return Err("it has keys that its parent does not lead to".to_owned());
        }
        Ok(page)
    }
}
