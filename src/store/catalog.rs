//! The catalog as its users see it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::changes::apply_all;
use super::checkpoint::Writer;
use super::pages::{NODE_BYTES, Pages};
use super::published::Published;
use super::state::{Content, State};
use super::tree::Edit;
use super::{CatalogError, View, open};
use crate::base::Geometry;
use crate::base::sync::Mutex;
use crate::device::{Device, Step};
use crate::ondisk::Change;

/// How much memory a catalog may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatalogConfig {
    /// Bytes of pages to cache.
    pub page_cache: usize,
    /// Bytes of changed nodes that bring about a checkpoint.
    pub dirty_limit: usize,
}

impl Default for CatalogConfig {
    fn default() -> Self {
        Self {
            page_cache: 16 << 20,
            dirty_limit: 8 << 20,
        }
    }
}

/// The catalog. Views see it as of a commit; commits are serialised.
///
/// Lock order: `writer`, then the list of past states inside `published`, then a shard of the page
/// cache. Only `writer` is held across I/O, and only commits and checkpoints take it.
pub struct Catalog {
    uuid: [u8; 16],
    geometry: Geometry,
    dirty_limit: usize,
    pages: Arc<Pages>,
    published: Published,
    writer: Mutex<Writer>,
    /// Copies of the writer's numbers, for asking without its lock.
    dirty: AtomicUsize,
    log_used: AtomicU64,
}

impl Catalog {
    /// Makes an empty catalog over whatever the two devices held. It is durable on return.
    ///
    /// # Errors
    /// Where a device is too small, or fails.
    pub fn create(
        pages: &dyn Device,
        log: &dyn Device,
        uuid: [u8; 16],
        geometry: Geometry,
    ) -> Result<(), CatalogError> {
        open::create(pages, log, uuid, geometry)
    }

    /// Opens a catalog: its newest root, and the commits of its log. Takes time for those alone.
    ///
    /// # Errors
    /// Where there is none, it is damaged or of a newer format, or a device fails.
    pub fn open(
        pages: Arc<dyn Device>,
        log: Arc<dyn Device>,
        config: CatalogConfig,
    ) -> Result<Self, CatalogError> {
        let opened = open::open(pages, log, config)?;
        let catalog = Self {
            uuid: opened.writer.uuid,
            geometry: opened.writer.geometry,
            dirty_limit: config.dirty_limit,
            pages: Arc::clone(&opened.state.pages),
            published: Published::new(opened.state),
            dirty: AtomicUsize::new(0),
            log_used: AtomicU64::new(0),
            writer: Mutex::new(opened.writer),
        };
        catalog.tell(&catalog.writer.lock());
        Ok(catalog)
    }

    /// The store's identity.
    #[must_use]
    pub fn uuid(&self) -> [u8; 16] {
        self.uuid
    }

    /// The store's segment size.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The catalog as of the last commit. Takes no lock; keeps what it shows for as long as it
    /// lives.
    #[must_use]
    pub fn view(&self) -> View {
        View::new(self.published.load())
    }

    /// Makes changes, all or none, in order; durable when it returns. Views taken afterwards show
    /// them. No changes are no commit.
    ///
    /// # Errors
    /// [`CatalogError::Refused`] where a change can't be made: one that takes slots that are not
    /// free, frees one that is not pending, removes what there is not, names a device that there
    /// is not, or breaks a rule of its fields. [`CatalogError::NoRoom`] where the host has no
    /// space, and nothing was changed. Otherwise where a device failed, now or in an earlier commit.
    pub fn commit(&self, changes: &[Change]) -> Result<(), CatalogError> {
        let mut writer = self.writer.lock();
        if let Some(error) = &writer.poison {
            return Err(error.clone());
        }
        if changes.is_empty() {
            return Ok(());
        }
        let base = self.published.load();
        let mut content = base.content.clone();
        let mut edit = Edit::new(&self.pages);
        apply_all(&mut content, &mut edit, self.geometry, changes)?;
        Step::CommitDrafted.fails()?;
        let commit = base.commit + 1;
        let frame = writer.log.frame(commit, changes)?;
        let (freed, dirty) = (writer.freed.len(), writer.dirty);
        writer.freed.append(&mut edit.freed);
        writer.dirty += edit.dirty;
        let (publication, has_room) = (base.publication + 1, writer.log.has_room(frame.len()));
        drop(base);
        let done = if has_room {
            let appended = writer
                .log
                .append(&frame)
                .map_err(|error| writer.fail(error));
            appended.map(|()| {
                Step::CommitLogged.passes();
                self.publish(content, commit, publication);
                Step::CommitPublished.passes();
            })
        } else {
            // The root takes the commit in: as whole as a frame, whatever its size.
            self.checkpoint_as(&mut writer, content, commit, publication)
        };
        if let Err(error) = done {
            // Where it may be tried again, nothing of it is left.
            writer.freed.truncate(freed);
            writer.dirty = dirty;
            return Err(error);
        }
        if dirty_bytes(&writer) > self.dirty_limit {
            // The commit is durable already; should this fail, it is the next one's error.
            let _ = self.checkpoint_now(&mut writer);
        }
        self.tell(&writer);
        Ok(())
    }

    /// Writes all changes to pages and starts the log again.
    ///
    /// # Errors
    /// Where a device failed, now or in an earlier commit.
    pub fn checkpoint(&self) -> Result<(), CatalogError> {
        let mut writer = self.writer.lock();
        if let Some(error) = &writer.poison {
            return Err(error.clone());
        }
        if writer.log.is_fresh() && writer.dirty == 0 {
            return Ok(());
        }
        self.checkpoint_now(&mut writer)
    }

    /// To be called before anything is done that relies on a commit not having been made that
    /// found no room: a crash might bring it back else. Costs nothing where there was none.
    ///
    /// # Errors
    /// Where the host still has no space, or a device failed, now or in an earlier commit.
    pub fn withdraw(&self) -> Result<(), CatalogError> {
        let mut writer = self.writer.lock();
        if let Some(error) = &writer.poison {
            return Err(error.clone());
        }
        writer.log.withdraw().map_err(|error| writer.fail(error))
    }

    /// Whether no view is left that shows less than commit number `generation`, and none can be
    /// taken any more. See [`View::generation`].
    #[must_use]
    pub fn quiesced(&self, generation: u64) -> bool {
        self.published.quiesced(generation)
    }

    /// Bytes of nodes that the next checkpoint will write.
    #[must_use]
    pub fn dirty_bytes(&self) -> usize {
        self.dirty.load(Ordering::Relaxed)
    }

    /// Bytes of the log in use.
    #[must_use]
    pub fn log_used(&self) -> u64 {
        self.log_used.load(Ordering::Relaxed)
    }

    fn checkpoint_now(&self, writer: &mut Writer) -> Result<(), CatalogError> {
        let base = self.published.load();
        let content = base.content.clone();
        let (commit, publication) = (base.commit, base.publication + 1);
        drop(base);
        self.checkpoint_as(writer, content, commit, publication)
    }

    fn checkpoint_as(
        &self,
        writer: &mut Writer,
        mut content: Content,
        commit: u64,
        publication: u64,
    ) -> Result<(), CatalogError> {
        writer.alloc.release(self.published.oldest());
        match writer.checkpoint(&self.pages, &mut content, commit) {
            Ok(freed) => {
                self.publish(content, commit, publication);
                writer.alloc.hold_until(publication, freed);
                self.tell(writer);
                Ok(())
            }
            Err(error) => Err(writer.fail(error)),
        }
    }

    fn publish(&self, content: Content, commit: u64, publication: u64) {
        self.published.publish(State {
            content,
            geometry: self.geometry,
            commit,
            publication,
            pages: Arc::clone(&self.pages),
        });
    }

    fn tell(&self, writer: &Writer) {
        self.dirty.store(dirty_bytes(writer), Ordering::Relaxed);
        self.log_used.store(writer.log.used(), Ordering::Relaxed);
    }
}

fn dirty_bytes(writer: &Writer) -> usize {
    usize::try_from(writer.dirty).unwrap_or(0) * NODE_BYTES
}

#[cfg(test)]
impl Catalog {
    /// Pages that the allocator calls in use, and those that the roots and the trees' nodes take.
    pub(super) fn pages_in_use(&self) -> (u64, u64) {
        let writer = self.writer.lock();
        let mut content = self.published.load().content.clone();
        let mut nodes = writer.page_map.all_nodes(&self.pages);
        for tree in content.trees() {
            nodes += tree.all_nodes(&self.pages);
        }
        (writer.alloc.in_use(), nodes + 2)
    }

    /// Nodes in the page cache, and changed ones.
    pub(super) fn resident_nodes(&self) -> usize {
        let mut content = self.published.load().content.clone();
        let dirty: usize = content.trees().iter().map(|tree| tree.dirty_nodes()).sum();
        assert_eq!(dirty as i64, self.writer.lock().dirty);
        self.pages.cached() + dirty
    }
}
