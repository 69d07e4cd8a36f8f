//! The thread of a scrub: walks over the pool in the order of places.
//!
//! Everything is looked at in slices, each with a view of its own that is let go before the next
//! one: a scrub takes days, and no slot that was given up may wait for it (P9). What a slice finds
//! wrong may only have been under way, so it is a suspect, which [`super::judge`] looks at again.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::mapped::{Counts, Mapped, Run, Stretch};
use super::read;
use super::state::{Ended, Shared};
use super::suspects::Suspects;
use crate::base::{BLOCK, BLOCK_SIZE, Block, Epoch, MapId, SegmentNo, Seq};
use crate::device::AlignedBuf;
use crate::ondisk::{Descriptor, VersionKey};
use crate::store::CatalogError;
use crate::volume::Volumes;

/// Versions looked at under one view.
const VERSIONS: usize = 512;
/// Blocks read in one go: 1 MiB.
const RUN: u64 = 256;
/// Gaps of so many blocks are read over.
const GAP: u64 = 16;
/// Stretches after which suspects are judged, so that the place to go on from is not far behind.
const PATIENCE: u32 = 16;
/// While others use the store, so many times as long as a slice took the scrub leaves the devices
/// to them,
const COURTESY: u32 = 4;
/// and this long at the most.
const LONGEST_REST: Duration = Duration::from_millis(250);

/// A scrub under way.
pub(super) struct Walk {
    volumes: Weak<Volumes>,
    pub shared: Arc<Shared>,
    pub buf: AlignedBuf,
    pub suspects: Suspects,
    /// How many operations others had made when last looked.
    operations: u64,
    /// Called now and then, to save how far it has come.
    save: Box<dyn Fn() + Send>,
    saved: Instant,
}

/// How often is saved how far it has come.
const SAVE: Duration = Duration::from_secs(60);

impl Walk {
    pub fn new(volumes: Weak<Volumes>, shared: Arc<Shared>, save: Box<dyn Fn() + Send>) -> Self {
        Self {
            volumes,
            shared,
            buf: AlignedBuf::new((RUN as usize).max(crate::base::Geometry::MAX_BLOCKS) * BLOCK),
            suspects: Suspects::default(),
            operations: 0,
            save,
            saved: Instant::now(),
        }
    }

    /// The whole scrub, or what is left of it.
    pub fn run(&mut self) -> Result<(), Ended> {
        let reached = self.shared.with(|state| state.reached.clone());
        let geometry = self.volumes()?.geometry;
        if reached.next.is_none() {
            self.queued()?;
        }
        let mut counts = Counts::default();
        self.each_version(&mut |_, version| counts.add(version, geometry))?;
        if let Some(next) = reached.next {
            counts.start_at(next);
        }
        let before = self.shared.with(|state| state.status().checked);
        self.shared.total(before + counts.blocks() * BLOCK_SIZE);
        let mut waiting = 0;
        for window in counts.windows() {
            let mut mapped = Mapped::new(&window, geometry);
            self.each_version(&mut |_, version| mapped.add(version))?;
            for stretch in window {
                self.stretch(&mapped, stretch)?;
                waiting += u32::from(!self.suspects.is_empty());
                if waiting >= PATIENCE {
                    self.judge()?;
                }
                if self.suspects.is_empty() {
                    waiting = 0;
                    self.shared.reached((stretch.0, stretch.1 + 1));
                    self.save_if_due();
                }
            }
        }
        self.judge()
    }

    /// The store, while it is open.
    pub fn volumes(&self) -> Result<Arc<Volumes>, Ended> {
        self.volumes.upgrade().ok_or(Ended::Closed)
    }

    /// Goes through the versions of all maps, in the order of their keys. A version that moves
    /// meanwhile goes to a later key, so none is missed but those that are new.
    pub fn each_version(&self, see: &mut dyn FnMut(&VersionKey, &Descriptor)) -> Result<(), Ended> {
        let mut next = VersionKey {
            map: MapId(0),
            segment: SegmentNo(0),
            death: Epoch(0),
        };
        loop {
            self.shared.admit(0)?;
            let volumes = self.volumes()?;
            let view = volumes.cache.catalog().view();
            let versions = view.all_versions_from(next, VERSIONS).map_err(failed)?;
            drop(view);
            versions.iter().for_each(|(key, version)| see(key, version));
            match versions.last() {
                Some((last, _)) if versions.len() == VERSIONS => next = after(*last),
                _ => return Ok(()),
            }
        }
    }

    /// Reads what versions have in a stretch.
    fn stretch(&mut self, mapped: &Mapped, stretch: Stretch) -> Result<(), Ended> {
        for run in mapped.runs(stretch, RUN, GAP) {
            self.look(&run)?;
            self.shared.checked(run.count() * BLOCK_SIZE);
            if self.suspects.is_full() {
                self.judge()?;
            }
        }
        Ok(())
    }

    /// Reads a run when it may; what may be bad becomes suspect.
    pub fn look(&mut self, run: &Run) -> Result<(), Ended> {
        self.reads(run.wanted.len() as u64 * BLOCK_SIZE, |walk, volumes| {
            let blocks = volumes.geometry.blocks() as u64;
            let mut suspect = |block| walk.suspects.add(run.device, block, blocks);
            read::run(&volumes.cache, run, &mut walk.buf, &mut suspect).map_err(failed)
        })
    }

    /// Calls what reads so many bytes as soon as that may be, and then leaves the devices to others
    /// for a while. Nothing of the store is held while it waits.
    pub fn reads<T>(
        &mut self,
        bytes: u64,
        read: impl FnOnce(&mut Self, &Volumes) -> Result<T, Ended>,
    ) -> Result<T, Ended> {
        self.shared.admit(bytes)?;
        let volumes = self.volumes()?;
        let started = Instant::now();
        let done = read(self, &volumes)?;
        self.give_way(&volumes, started.elapsed());
        Ok(done)
    }

    /// The slots of queued writes by reference: no version has them yet.
    fn queued(&mut self) -> Result<(), Ended> {
        let disks = self.volumes()?.names.read().disk_ids();
        for disk in disks {
            let mut after = Seq(0);
            loop {
                let volumes = self.volumes()?;
                let Some(queued) = volumes.cache.queued_lent(disk, after) else {
                    break;
                };
                drop(volumes);
                after = queued.last;
                for (map, segment, lent) in queued.slots {
                    let bytes = self.volumes()?.geometry.segment_bytes();
                    let there = self.reads(bytes, |walk, volumes| {
                        // Where it is gone, a newer write or a version has taken its place.
                        let Some(lent) = lent.upgrade() else {
                            return Ok(false);
                        };
                        let first = volumes.geometry.first_block(segment).0;
                        for at in read::lent(&volumes.cache, &lent, &mut walk.buf) {
                            let image = read::live(map.clone());
                            let block = Block(first + at as u64);
                            walk.suspects.own(image, block, lent.place(), at);
                        }
                        Ok(true)
                    })?;
                    if !there {
                        continue;
                    }
                    self.shared.checked(bytes);
                }
            }
        }
        self.judge()
    }

    /// Leaves the devices to others for a while, where there are any.
    fn give_way(&mut self, volumes: &Volumes, took: Duration) {
        let metrics = &volumes.metrics;
        let of = [
            &metrics.read,
            &metrics.write,
            &metrics.discard,
            &metrics.sync,
        ];
        let operations = of.iter().map(|of| of.done.load(Relaxed)).sum();
        if std::mem::replace(&mut self.operations, operations) != operations {
            self.shared.rest((took * COURTESY).min(LONGEST_REST));
        }
    }

    fn save_if_due(&mut self) {
        if self.saved.elapsed() >= SAVE {
            (self.save)();
            self.saved = Instant::now();
        }
    }
}

/// The key after this one.
fn after(key: VersionKey) -> VersionKey {
    let death = key.death.next();
    if death <= Epoch::LIVE {
        return VersionKey { death, ..key };
    }
    VersionKey {
        map: key.map,
        segment: key.segment.next(),
        death: Epoch(0),
    }
}

/// The catalog can't be read: what it leads to can't be checked.
pub(super) fn failed(error: CatalogError) -> Ended {
    Ended::Failed(format!(
        "the catalog can't be read: {error}; unmount the store and run 'snapmark check'"
    ))
}
