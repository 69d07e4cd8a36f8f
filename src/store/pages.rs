//! The pages of the catalog, read through a bounded cache that all views share.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::io::IoSlice;
use std::sync::Arc;

use parking_lot::Mutex;

use super::CatalogError;
use super::tree::{Body, Child, Node, Shape};
use crate::base::Checksum;
use crate::device::Device;
use crate::ondisk::{PAGE, Page, PageBody, PageRef};

/// What a cached node takes, more or less: its arrays, and what it takes to find it.
pub(super) const NODE_BYTES: usize = PAGE + 192;

const SHARDS: usize = 16;

/// The pages' device and their cache.
///
/// A cached node is found by page and checksum together, so that a page that is used anew never
/// answers for what it held before. Each shard is a clock (Corbató 1969): a hit marks the node,
/// the hand passes marked ones once. Locks are held for look-ups only, never across I/O; two
/// readers that miss the same page at once both read it.
pub(crate) struct Pages {
    device: Arc<dyn Device>,
    shards: Vec<Mutex<Shard>>,
}

#[derive(Default)]
struct Shard {
    index: HashMap<u64, usize, BuildHasherDefault<PageHasher>>,
    slots: Vec<Cached>,
    /// At least 1; `slots` never has more.
    capacity: usize,
    hand: usize,
}

struct Cached {
    page: u64,
    crc: Checksum,
    hit: bool,
    node: Arc<Node>,
}

/// Page numbers are no one's choice, so one multiplication spreads them well enough.
#[derive(Default)]
struct PageHasher(u64);

impl Hasher for PageHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(self.0 << 8 | u64::from(*byte));
        }
    }
    fn write_u64(&mut self, page: u64) {
        self.0 = spread(page);
    }
}

fn spread(page: u64) -> u64 {
    let product = page.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ product >> 32
}

impl Pages {
    /// The pages of a device, of which at most so many bytes are kept.
    pub(crate) fn new(device: Arc<dyn Device>, cache_bytes: usize) -> Self {
        let capacity = (cache_bytes / NODE_BYTES / SHARDS).max(1);
        let shard = || {
            Mutex::new(Shard {
                capacity,
                ..Shard::default()
            })
        };
        Self {
            device,
            shards: std::iter::repeat_with(shard).take(SHARDS).collect(),
        }
    }

    pub(crate) fn device(&self) -> &dyn Device {
        &*self.device
    }

    /// The node that lies there.
    pub(crate) fn load(
        &self,
        at: PageRef,
        shape: &Shape,
        level: u8,
    ) -> Result<Arc<Node>, CatalogError> {
        if let Some(node) = self.shard(at.page).lock().get(at) {
            return Ok(node);
        }
        let mut bytes = [0; PAGE];
        self.device
            .read_at(&mut bytes, at.page.saturating_mul(PAGE as u64))?;
        let page = Page::decode(&bytes, at, shape.kind, level, shape.geometry);
        let page = page.map_err(|source| CatalogError::Page {
            device: self.device.name().to_owned(),
            page: at.page,
            source,
        })?;
        let node = Arc::new(Node {
            keys: page.keys,
            body: match page.body {
                PageBody::Leaf(values) => Body::Leaf(values),
                PageBody::Branch(children) => {
                    Body::Branch(children.into_iter().map(Child::Disk).collect())
                }
            },
        });
        self.keep(at, Arc::clone(&node));
        Ok(node)
    }

    /// Caches a node that has just been read or written.
    pub(crate) fn keep(&self, at: PageRef, node: Arc<Node>) {
        self.shard(at.page).lock().insert(at, node);
    }

    /// Writes neighbouring pages.
    pub(crate) fn write(&self, first: u64, bytes: &[u8]) -> Result<(), CatalogError> {
        let offset = first.saturating_mul(PAGE as u64);
        Ok(self.device.write_at(&[IoSlice::new(bytes)], offset)?)
    }

    /// How many nodes are cached.
    #[cfg(test)]
    pub(crate) fn cached(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.lock().slots.len())
            .sum()
    }

    fn shard(&self, page: u64) -> &Mutex<Shard> {
        &self.shards[(spread(page) >> 24) as usize % SHARDS]
    }
}

impl Shard {
    fn get(&mut self, at: PageRef) -> Option<Arc<Node>> {
        let cached = &mut self.slots[*self.index.get(&at.page)?];
        if cached.crc != at.crc {
            return None;
        }
        cached.hit = true;
        Some(Arc::clone(&cached.node))
    }

    fn insert(&mut self, at: PageRef, node: Arc<Node>) {
        let cached = Cached {
            page: at.page,
            crc: at.crc,
            hit: false,
            node,
        };
        if let Some(slot) = self.index.get(&at.page) {
            self.slots[*slot] = cached;
        } else if self.slots.len() < self.capacity {
            self.index.insert(at.page, self.slots.len());
            self.slots.push(cached);
        } else {
            let slot = self.victim();
            self.index.remove(&self.slots[slot].page);
            self.index.insert(at.page, slot);
            self.slots[slot] = cached;
        }
    }

    fn victim(&mut self) -> usize {
        loop {
            let at = self.hand;
            self.hand = (at + 1) % self.slots.len();
            if !std::mem::take(&mut self.slots[at].hit) {
                return at;
            }
        }
    }
}
