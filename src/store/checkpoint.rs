//! Checkpoints: the trees' changes go to pages, and the log starts again.

use std::sync::Arc;

use super::CatalogError;
use super::log::Log;
use super::page_alloc::PageAlloc;
use super::pages::Pages;
use super::state::Content;
use super::tree::{Body, Child, Edit, Node, NodeSink, Shape, Tree};
use crate::base::Geometry;
use crate::device::Step;
use crate::ondisk::{
    PAGE, PageHeader, PageRef, Root, TreeKind, TreeRoot, encode_branch, encode_leaf,
};

/// The most bytes that are written at once.
const RUN: usize = 1 << 20;

/// What a root says of its trees.
type Trees = [TreeRoot; TreeKind::ALL.len()];

/// What only commits and checkpoints touch, one at a time.
///
/// # The order of a checkpoint, and what each step is safe from
///
/// 1. Changed nodes are written to pages that the newer of the two roots does not use and no view can
///    read. A crash leaves that root, which knows nothing of them, and the log that goes with it.
///    The older one may have used them: it is of no use any more, since its log has been written over.
/// 2. The pages are synced, so that a root never leads to a page that is not there.
/// 3. The root is written over the older one. A crash may tear it; its checksum then fails, and
///    the root before it counts, whose pages and log are untouched.
/// 4. The pages are synced again. From here on the new root is what an opening finds.
/// 5. The log starts again: a frame without changes, under the new generation. Frames of older
///    generations do not count any more. Only now, as the older root with its log is now no longer
///    needed, may a commit write over it. A root that is lost later is noticed by that frame.
/// 6. Pages that the new root does not need are held for the views that may read them, and used
///    anew after that: by the next checkpoint at the earliest.
///
/// A failure leaves open what is on the devices, so none of this is tried again: the catalog is
/// *poisoned*, every later commit fails with the same error, and views go on as they are. With one
/// exception: where the host has no space for the pages of step 1, nothing has happened yet that
/// counts; all is as before, and a later checkpoint may go to the same pages.
pub(crate) struct Writer {
    pub(crate) uuid: [u8; 16],
    pub(crate) geometry: Geometry,
    pub(crate) log: Log,
    pub(crate) alloc: PageAlloc,
    /// The tree of the allocator's bits. No view has it.
    pub(crate) page_map: Tree,
    /// Pages that the last root needs and the current state does not.
    pub(crate) freed: Vec<u64>,
    /// Nodes of the current state that are in memory only.
    pub(crate) dirty: i64,
    /// The failure that ended all writing.
    pub(crate) poison: Option<CatalogError>,
}

impl Writer {
    /// Takes note of a failure: after most there is no more writing.
    pub(crate) fn fail(&mut self, error: CatalogError) -> CatalogError {
        if !matches!(error, CatalogError::NoRoom(_)) {
            self.poison = Some(error.clone());
        }
        error
    }

    /// Makes `content`, as of a commit, durable as a root. Returns the pages that the root no
    /// longer needs. All nodes of `content` are in pages afterwards.
    pub(crate) fn checkpoint(
        &mut self,
        pages: &Pages,
        content: &mut Content,
        commit: u64,
    ) -> Result<Vec<u64>, CatalogError> {
        let generation = self.log.generation() + 1;
        let before = (
            self.alloc.clone(),
            self.page_map.clone(),
            self.freed.clone(),
        );
        let (trees, freed) = match self.write_pages(pages, content, generation) {
            Err(CatalogError::Device(error)) if error.is_no_space() => {
                (self.alloc, self.page_map, self.freed) = before;
                return Err(CatalogError::NoRoom(error));
            }
            written => written?,
        };
        pages.device().sync()?;
        Step::PagesSynced.fails()?;
        let root = Root {
            uuid: self.uuid,
            geometry: self.geometry,
            generation,
            commit,
            marks: content.marks,
            space: content.space,
            trees,
        };
        pages.write(generation % 2, &root.encode()?)?;
        Step::RootWritten.fails()?;
        pages.device().sync()?;
        Step::RootSynced.fails()?;
        self.log.start(generation, commit)?;
        Step::LogStarted.passes();
        self.dirty = 0;
        Ok(freed)
    }

    /// Writes all changed nodes to pages that nobody uses. Returns the trees, and the pages that
    /// they no longer need.
    fn write_pages(
        &mut self,
        pages: &Pages,
        content: &mut Content,
        generation: u64,
    ) -> Result<(Trees, Vec<u64>), CatalogError> {
        let (reserved, freed) = self.reserve(pages, content)?;
        Step::PagesReserved.fails()?;
        let mut sink = PageSink::new(pages, generation, reserved);
        let mut trees = Trees::default();
        let content_trees = content.trees().into_iter();
        for (tree, root) in content_trees.chain([&mut self.page_map]).zip(&mut trees) {
            *root = tree.flush(&mut sink)?;
        }
        sink.finish()?;
        Step::PagesWritten.fails()?;
        Ok((trees, freed))
    }

    /// Finds pages for all changed nodes, those of the page map included, which changes with every
    /// page that is found: so it goes round until nothing changes any more. It ends, as the nodes
    /// of the page map change once at most, and soon, as the pages found are neighbours.
    fn reserve(
        &mut self,
        pages: &Pages,
        content: &mut Content,
    ) -> Result<(Vec<u64>, Vec<u64>), CatalogError> {
        let nodes: usize = content.trees().iter().map(|tree| tree.dirty_nodes()).sum();
        let mut freed = std::mem::take(&mut self.freed);
        freed.iter().for_each(|page| self.alloc.give_up(*page));
        let mut reserved = Vec::with_capacity(nodes + 8);
        loop {
            let wanted = nodes + self.page_map.dirty_nodes();
            while reserved.len() < wanted {
                let page = self.alloc.take().ok_or_else(|| CatalogError::PagesFull {
                    device: pages.device().name().to_owned(),
                    pages: pages.device().len() / PAGE as u64,
                })?;
                reserved.push(page);
            }
            let changed = self.alloc.drain_changed();
            if changed.is_empty() {
                break;
            }
            let mut edit = Edit::new(pages);
            for (stretch, bits) in changed {
                self.page_map.put(&mut edit, u128::from(stretch), &bits)?;
            }
            edit.freed.iter().for_each(|page| self.alloc.give_up(*page));
            freed.append(&mut edit.freed);
        }
        reserved.sort_unstable();
        Ok((reserved, freed))
    }
}

/// Writes nodes to reserved pages, neighbours together.
struct PageSink<'a> {
    pages: &'a Pages,
    generation: u64,
    reserved: std::vec::IntoIter<u64>,
    /// The page of the run's first byte.
    first: u64,
    run: Vec<u8>,
}

impl<'a> PageSink<'a> {
    fn new(pages: &'a Pages, generation: u64, reserved: Vec<u64>) -> Self {
        Self {
            pages,
            generation,
            reserved: reserved.into_iter(),
            first: 0,
            run: Vec::new(),
        }
    }

    fn write_run(&mut self) -> Result<(), CatalogError> {
        if !self.run.is_empty() {
            self.pages.write(self.first, &self.run)?;
            self.run.clear();
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(), CatalogError> {
        self.write_run()?;
        match self.reserved.next() {
            None => Ok(()),
            Some(_) => Err(CatalogError::Inconsistent(
                "a checkpoint found too many pages",
            )),
        }
    }
}

impl NodeSink for PageSink<'_> {
    fn write(
        &mut self,
        node: Arc<Node>,
        shape: &Shape,
        level: u8,
    ) -> Result<PageRef, CatalogError> {
        let number = self.reserved.next().ok_or(CatalogError::Inconsistent(
            "a checkpoint found too few pages",
        ))?;
        let follows = number == self.first + (self.run.len() / PAGE) as u64;
        if !follows || self.run.len() >= RUN {
            self.write_run()?;
        }
        if self.run.is_empty() {
            self.first = number;
        }
        let start = self.run.len();
        self.run.resize(start + PAGE, 0);
        let page = &mut self.run[start..];
        let header = PageHeader {
            number,
            generation: self.generation,
            kind: shape.kind,
            level,
        };
        let crc = match &node.body {
            Body::Leaf(values) => encode_leaf(&header, &node.keys, values, page),
            Body::Branch(children) => {
                let children = children.iter().filter_map(|child| match child {
                    Child::Disk(at) => Some(*at),
                    Child::Memory(_) => None,
                });
                encode_branch(&header, &node.keys, children, page)
            }
        };
        let at = PageRef { page: number, crc };
        self.pages.keep(at, node);
        Ok(at)
    }
}
