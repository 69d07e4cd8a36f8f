//! A store over devices in memory, in one power domain.

use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use snapmark::base::sync::thread;
use snapmark::base::{BLOCK_SIZE, BlockMask, DeviceNo, Geometry, Place, SegmentNo};
use snapmark::cache::{CacheConfig, CacheParts, create_journal};
use snapmark::device::{CrashDisk, Device, FaultDevice, Images};
use snapmark::ondisk::{Change, DeviceRecord, Uuid, slots_for};
use snapmark::store::{At, Catalog, CatalogConfig, Force, Pool, Source, format};
use snapmark::volume::{ScrubConfig, VolumeConfig, VolumeError, Volumes};

pub const SEGMENT: u64 = 64 << 10;
const STORE: [u8; 16] = [7; 16];

/// How a store is made and opened.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Bytes of a segment.
    pub segment: u64,
    pub log: u64,
    pub journal: u64,
    /// Bytes of each of the two pool devices.
    pub pool: u64,
    pub cache: u64,
    pub batch: u64,
    pub interval: Duration,
    pub volatile: bool,
    /// How long writers wait for a full host.
    pub patience: Duration,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            segment: SEGMENT,
            log: 1 << 20,
            journal: 4 << 20,
            pool: 256 << 20,
            cache: 2 << 20,
            batch: 256 << 10,
            interval: Duration::from_millis(3),
            volatile: false,
            patience: Duration::from_secs(60),
        }
    }
}

/// An open store.
pub struct Engine {
    pub disk: CrashDisk,
    pub catalog: Arc<Catalog>,
    pub pool: Arc<Pool>,
    pub volumes: Arc<Volumes>,
    pub shape: Shape,
    /// The pool's devices, which can be told to fail.
    pub faults: Vec<Arc<FaultDevice>>,
}

impl std::ops::Deref for Engine {
    type Target = Volumes;

    fn deref(&self) -> &Volumes {
        &self.volumes
    }
}

/// What stands between a store and one of its devices, by the device's name.
pub type Wrap<'a> = &'a dyn Fn(Arc<dyn Device>) -> Arc<dyn Device>;

fn parts(disk: &CrashDisk, shape: &Shape, wrap: Wrap<'_>) -> [Arc<dyn Device>; 3] {
    [
        wrap(disk.device("pages", 1 << 30)),
        wrap(disk.device("log", shape.log)),
        wrap(disk.device("journal", shape.journal)),
    ]
}

impl Engine {
    /// A new store, open.
    pub fn new(shape: Shape) -> Self {
        Self::open(Self::make(&shape), shape)
    }

    /// The devices of a new store.
    pub fn make(shape: &Shape) -> CrashDisk {
        let disk = CrashDisk::new();
        let geometry = Geometry::from_segment_bytes(shape.segment).unwrap();
        let [pages, log, journal] = parts(&disk, shape, &|device| device);
        let mut changes = Vec::new();
        for number in 0..2u16 {
            let path = format!("pool{number}");
            let device = disk.device(&path, shape.pool);
            let record = DeviceRecord {
                device: DeviceNo(number),
                uuid: [number as u8; 16],
                path,
                slots: slots_for(shape.pool, geometry),
            };
            format(device.as_ref(), Uuid(STORE), &record, geometry, Force::No).unwrap();
            changes.push(Change::AddDevice(record));
        }
        create_journal(journal.as_ref(), STORE).unwrap();
        Catalog::create(pages.as_ref(), log.as_ref(), STORE, geometry).unwrap();
        let catalog = Catalog::open(pages, log, CatalogConfig::default()).unwrap();
        catalog.commit(&changes).unwrap();
        catalog.checkpoint().unwrap();
        drop(catalog);
        disk
    }

    /// Opens the store that is on these devices.
    pub fn open(disk: CrashDisk, shape: Shape) -> Self {
        Self::open_over(disk, shape, &|device| device)
    }

    /// Opens the store that is on these devices, each with something put before it.
    pub fn open_over(disk: CrashDisk, shape: Shape, wrap: Wrap<'_>) -> Self {
        Self::try_open(disk, shape, wrap).unwrap()
    }

    /// As [`open_over`](Self::open_over), where it may be refused: the reason in words.
    pub fn try_open(disk: CrashDisk, shape: Shape, wrap: Wrap<'_>) -> Result<Self, String> {
        let [pages, log, journal] = parts(&disk, &shape, wrap);
        let words = |error: &dyn std::fmt::Display| error.to_string();
        let catalog = Catalog::open(pages, log, CatalogConfig::default());
        let catalog = Arc::new(catalog.map_err(|error| words(&error))?);
        let pool = Pool::new(catalog.geometry(), Uuid(catalog.uuid()));
        let mut faults = Vec::new();
        let records = catalog.view().devices().map_err(|error| words(&error))?;
        for record in records {
            let device = Arc::new(FaultDevice::new(disk.device(&record.path, shape.pool)));
            let attached = pool.attach(&record, wrap(device.clone()));
            attached.map_err(|error| words(&error))?;
            faults.push(device);
        }
        let pool = Arc::new(pool);
        let cache = CacheConfig {
            size: shape.cache,
            volatile: shape.volatile,
            interval: shape.interval,
            batch: shape.batch,
            patience: shape.patience,
        };
        let config = VolumeConfig {
            cache,
            priority: Box::new(|name| u8::from(name.ends_with('3'))),
            warn: vec![80, 95],
            store_dir: "/nowhere".into(),
            scrub: ScrubConfig::default(),
        };
        let parts = CacheParts {
            catalog: catalog.clone(),
            pool: pool.clone(),
            journal,
        };
        let volumes = Volumes::start(parts, config).map_err(|error| words(&error))?;
        Ok(Self {
            disk,
            catalog,
            pool,
            volumes,
            shape,
            faults,
        })
    }

    /// Opens what a crash left.
    pub fn open_images(images: &Images, shape: Shape) -> Self {
        Self::open(CrashDisk::from_images(images), shape)
    }

    /// Closes it in order, and opens it again, on a fresh recording.
    pub fn reopen(self) -> Self {
        let shape = self.shape;
        self.volumes.close_store().unwrap();
        Self::open_images(&self.disk.kill_image(), shape)
    }

    /// Stops it where it stands, and opens what the daemon's death leaves.
    pub fn kill(self) -> Self {
        let images = self.disk.kill_image();
        self.volumes.abandon();
        Self::open_images(&images, self.shape)
    }

    /// Destages all, and waits until nothing is left to be reaped or reclaimed.
    pub fn settle(&self) {
        self.try_settle().unwrap();
    }

    /// As [`settle`](Self::settle), where the store may halt.
    pub fn try_settle(&self) -> Result<(), VolumeError> {
        // Turns are counted, not time: the machine may stand still meanwhile.
        let mut quiet = 0;
        for turn in 0.. {
            self.volumes.flush()?;
            let view = self.catalog.view();
            let pending = self.volumes.status().pool.pending;
            let busy = pending > 0 || view.maps()?.iter().any(|m| m.reap);
            drop(view);
            // Twice: what a finished batch held may come back a moment later.
            quiet = if busy { 0 } else { quiet + 1 };
            if quiet == 2 {
                break;
            }
            assert!(
                turn < 5000,
                "space does not return: {:?}",
                self.volumes.status()
            );
            thread::sleep(Duration::from_millis(2));
        }
        self.rest()
    }

    /// Waits until the destager has done what it was asked for, so that no round that comes late
    /// moves what is written next.
    pub fn rest(&self) -> Result<(), VolumeError> {
        for _ in 0..5000 {
            if self.volumes.is_idle() {
                return Ok(());
            }
            if self.volumes.status().state.starts_with("halted") {
                return self.volumes.flush();
            }
            thread::sleep(Duration::from_millis(2));
        }
        panic!("the destager does not come to rest");
    }

    /// Where a block of a disk or snapshot lies.
    pub fn place(&self, disk: &str, snapshot: Option<&str>, block: u64) -> (Place, usize) {
        let view = self.catalog.view();
        let (map, at) = match snapshot {
            None => {
                let disks = view.disks().unwrap();
                let disk = disks.iter().find(|it| it.name == disk).unwrap();
                (disk.map, At::Live)
            }
            Some(name) => {
                let snapshots = view.snapshots().unwrap();
                let it = snapshots.iter();
                let it = it.filter(|it| (&*it.disk_name, &*it.name) == (disk, name));
                let it = it.max_by_key(|it| it.epoch).unwrap();
                (it.map, At::Epoch(it.epoch))
            }
        };
        let blocks = self.shape.segment / BLOCK_SIZE;
        let (segment, index) = (SegmentNo(block / blocks), (block % blocks) as usize);
        let mut mask = BlockMask::EMPTY;
        mask.insert(index);
        match view.resolve(map, segment, at, mask).unwrap()[0].1 {
            Source::Data(extent) => (extent.place, extent.index(index)),
            other => panic!("{disk} {block}: {other:?}"),
        }
    }

    /// Flips a bit of a block in the pool, or flips it back.
    pub fn damage(&self, (place, at): (Place, usize)) {
        let mut block = [0; 4096];
        self.pool.read(place, at, &mut block).unwrap();
        block[1234] ^= 4;
        let block = [IoSlice::new(&block)];
        self.pool.write(place, at, &block).unwrap();
    }

    /// Whether it still takes writes.
    pub fn cache_is_well(&self) -> bool {
        self.volumes.status().state == "ok"
    }

    /// Bytes that the pool's devices take up on the host.
    pub fn allocated(&self) -> u64 {
        let devices = self.pool.devices();
        devices.iter().filter_map(|device| device.allocated).sum()
    }
}
