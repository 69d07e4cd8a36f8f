//! What the catalog holds at one commit.

use std::sync::Arc;

use super::pages::Pages;
use super::tree::Tree;
use crate::base::Geometry;
use crate::ondisk::{Marks, Root, Space, TreeKind, TreeRoot};

/// The content of the catalog. Cloning it is cheap, and changing the clone does not show in the
/// original.
#[derive(Clone)]
pub(crate) struct Content {
    pub(crate) disks: Tree,
    pub(crate) maps: Tree,
    pub(crate) snapshots: Tree,
    pub(crate) devices: Tree,
    pub(crate) versions: Tree,
    pub(crate) checksums: Tree,
    pub(crate) free: Tree,
    pub(crate) pending: Tree,
    pub(crate) packs: Tree,
    pub(crate) marks: Marks,
    pub(crate) space: Space,
}

impl Content {
    /// The content that a root leads to.
    pub(crate) fn new(root: &Root) -> Self {
        let tree = |kind| tree_of(root, kind);
        Self {
            disks: tree(TreeKind::Disks),
            maps: tree(TreeKind::Maps),
            snapshots: tree(TreeKind::Snapshots),
            devices: tree(TreeKind::Devices),
            versions: tree(TreeKind::Versions),
            checksums: tree(TreeKind::Checksums),
            free: tree(TreeKind::Free),
            pending: tree(TreeKind::Pending),
            packs: tree(TreeKind::Packs),
            marks: root.marks,
            space: root.space,
        }
    }

    /// All trees but the page map, in the order of [`TreeKind::ALL`].
    pub(crate) fn trees(&mut self) -> [&mut Tree; TreeKind::ALL.len() - 1] {
        [
            &mut self.disks,
            &mut self.maps,
            &mut self.snapshots,
            &mut self.devices,
            &mut self.versions,
            &mut self.checksums,
            &mut self.free,
            &mut self.pending,
            &mut self.packs,
        ]
    }
}

/// A tree of a root.
pub(crate) fn tree_of(root: &Root, kind: TreeKind) -> Tree {
    let at = TreeKind::ALL.iter().position(|k| *k == kind);
    let top = at.map_or(TreeRoot::default(), |at| root.trees[at]);
    Tree::new(kind, root.geometry, top)
}

/// What a view shows. Never changed once it is published.
pub(crate) struct State {
    pub(crate) content: Content,
    pub(crate) geometry: Geometry,
    /// The number of the last commit in it.
    pub(crate) commit: u64,
    /// Counts what is published: every commit, and every checkpoint, too, as that gives the same
    /// content other pages.
    pub(crate) publication: u64,
    pub(crate) pages: Arc<Pages>,
}
