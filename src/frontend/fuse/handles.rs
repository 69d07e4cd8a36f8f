//! Open handles. Disks and snapshots need none to be read and written, their inode says it all;
//! they are only counted.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use fuser::{Errno, FileHandle};
use parking_lot::Mutex;

use super::Answer;
use super::control_file::ControlHandle;
use super::directory::Listing;
use crate::volume::Node;

/// Bytes of texts that are held for those who may be anyone. One text may have more.
const MAX_TEXTS: usize = 16 << 20;

/// The handle of every open disk and snapshot.
pub(super) const NODE: FileHandle = FileHandle(0);

/// What an open handle of a directory or of one of the mount's own files holds.
#[derive(Clone)]
pub(super) enum Handle {
    /// A text made at open.
    Text(Arc<[u8]>),
    /// `.control`, open for writing.
    Control(Arc<ControlHandle>),
    /// The root directory.
    Directory(Arc<Listing>),
}

impl Handle {
    fn text_len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Control(_) | Self::Directory(_) => 0,
        }
    }
}

/// All open handles. Its locks are leaves: nothing is called while one is held.
#[derive(Default)]
pub(super) struct Handles {
    last: AtomicU64,
    open: Mutex<Open>,
    /// How often each node is open; no zeros.
    nodes: Mutex<HashMap<Node, u64>>,
}

#[derive(Default)]
struct Open {
    handles: HashMap<u64, Handle>,
    /// Bytes of all texts in there.
    texts: usize,
}

impl Handles {
    /// Keeps a handle and gives it a number.
    pub(super) fn insert(&self, handle: Handle) -> FileHandle {
        let number = self.last.fetch_add(1, Relaxed) + 1;
        let mut open = self.open.lock();
        open.texts += handle.text_len();
        open.handles.insert(number, handle);
        FileHandle(number)
    }

    /// Keeps a text for somebody who is not trusted, unless too much is kept already.
    pub(super) fn insert_bounded(&self, text: Arc<[u8]>) -> Answer<FileHandle> {
        let texts = self.open.lock().texts;
        if texts > 0 && texts + text.len() > MAX_TEXTS {
            return Err(Errno::ENFILE);
        }
        Ok(self.insert(Handle::Text(text)))
    }

    /// The handle with this number.
    pub(super) fn get(&self, number: FileHandle) -> Option<Handle> {
        self.open.lock().handles.get(&number.0).cloned()
    }

    /// Forgets a handle.
    pub(super) fn remove(&self, number: FileHandle) {
        let mut open = self.open.lock();
        if let Some(handle) = open.handles.remove(&number.0) {
            open.texts -= handle.text_len();
        }
    }

    /// Counts a node that was opened.
    pub(super) fn opened(&self, node: Node) {
        *self.nodes.lock().entry(node).or_insert(0) += 1;
    }

    /// Counts a node that was closed; whether it was open.
    pub(super) fn closed(&self, node: Node) -> bool {
        let mut nodes = self.nodes.lock();
        let Some(count) = nodes.get_mut(&node) else {
            return false;
        };
        *count -= 1;
        if *count == 0 {
            nodes.remove(&node);
        }
        true
    }

    /// Forgets all nodes that are still open, and says how often each was: an unmount drops
    /// releases that are on their way.
    pub(super) fn take_open(&self) -> Vec<(Node, u64)> {
        self.nodes.lock().drain().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::DiskId;

    #[test]
    fn handles_live_until_removed_and_never_share_a_number() {
        let handles = Handles::default();
        let text = || Handle::Text(b"x".as_slice().into());
        let (a, b) = (handles.insert(text()), handles.insert(text()));
        assert_ne!(a, b);
        assert_ne!(a, NODE);
        handles.remove(a);
        assert!(handles.get(a).is_none());
        assert!(matches!(handles.get(b), Some(Handle::Text(_))));
    }

    #[test]
    fn texts_are_held_up_to_a_limit_and_one_always() {
        let handles = Handles::default();
        let text = |len: usize| vec![b'x'; len].into();
        let refused = |len| handles.insert_bounded(text(len)).map_err(Errno::code);
        let big = handles.insert_bounded(text(2 * MAX_TEXTS)).unwrap_or(NODE);
        assert_eq!(refused(1), Err(libc::ENFILE));
        // Who is trusted is not turned away.
        let own = handles.insert(Handle::Text(text(10)));
        for handle in [big, own, own, NODE] {
            handles.remove(handle);
        }
        for _ in 0..16 {
            assert!(refused(MAX_TEXTS / 16).is_ok());
        }
        assert_eq!(refused(1), Err(libc::ENFILE));
        assert!(handles.get(big).is_none());
    }

    #[test]
    fn nodes_left_open_are_known() {
        let handles = Handles::default();
        let node = |id| Node::Disk(DiskId(id));
        for id in [1, 2, 2] {
            handles.opened(node(id));
        }
        assert!(handles.closed(node(1)));
        assert!(!handles.closed(node(1)));
        assert_eq!(handles.take_open(), [(node(2), 2)]);
        assert!(handles.take_open().is_empty());
    }
}
