//! Tests of the catalog as a whole.

mod crash;
mod damage;
mod disk;
mod memory;
mod model;
mod random;
mod rules;
mod speed;

use std::sync::Arc;

use super::{Catalog, CatalogConfig, CatalogError};
use crate::base::Geometry;
use crate::device::Device;
use disk::Disk;

const UUID: [u8; 16] = *b"catalog-in-tests";

const SMALL: CatalogConfig = CatalogConfig {
    page_cache: 256 << 10,
    dirty_limit: 128 << 10,
};

/// The two devices of a catalog.
#[derive(Clone)]
struct Files {
    pages: Arc<Disk>,
    log: Arc<Disk>,
}

impl Files {
    fn create(log_len: u64, segment: u64) -> Self {
        let files = Self {
            pages: Arc::new(Disk::new("pages", 1 << 40)),
            log: Arc::new(Disk::new("log", log_len)),
        };
        let geometry = Geometry::from_segment_bytes(segment).unwrap();
        Catalog::create(&*files.pages, &*files.log, UUID, geometry).unwrap();
        files
    }

    fn open(&self, config: CatalogConfig) -> Result<Catalog, CatalogError> {
        let pages: Arc<dyn Device> = Arc::clone(&self.pages) as _;
        Catalog::open(pages, Arc::clone(&self.log) as _, config)
    }
}

/// Numbers that follow from a seed (splitmix64, Steele et al. 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `limit`.
    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// Says the seed when a test fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the seed was {}", self.0);
        }
    }
}
