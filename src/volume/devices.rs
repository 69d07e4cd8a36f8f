//! Adding a device while the store is open.

use std::fs::metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::VolumeError;
use super::volumes::{Result, Volumes};
use crate::base::{ByteSize, DeviceNo};
use crate::cache::CacheError;
use crate::config::Layout;
use crate::device::{Device, DeviceError, FileDevice, Fill, OpenMode, Step};
use crate::ondisk::{Change, DeviceRecord, Uuid, slots_for};
use crate::store::{CatalogError, Force, format};

impl Volumes {
    /// Says where the store is mounted, as the `st_dev` of what is in there: no device of its own
    /// pool may lie there.
    pub fn is_mounted_as(&self, number: u64) {
        let _first_counts = self.own_mount.set(number);
    }

    /// Gives the pool another device: a path, absolute or relative to the store. A file that does
    /// not exist is made with this size, sparse; of what exists the whole is used, or `size` of
    /// it. Its space is usable when this returns. Returns the device's number.
    ///
    /// # Errors
    /// Where it can't be opened or made, holds something, or is too small. Where the host is full
    /// ([`VolumeError::HostFull`]), the same can be asked for again.
    pub fn add_device(&self, path: &str, size: Option<u64>) -> Result<u16> {
        if Path::new(path).is_relative() && !Layout::is_inside(Path::new(path)) {
            return Err(VolumeError::Invalid(format!(
                "{path:?} leads out of the store, where a relative path begins; for a device \
                 elsewhere give its absolute path"
            )));
        }
        DeviceRecord::check_path(path).map_err(|error| VolumeError::Invalid(error.to_string()))?;
        let full = self.config.store_dir.join(path);
        if let Some(own) = self.own_mount.get()
            && lies_on(&full, *own)
        {
            return Err(VolumeError::Invalid(format!(
                "{path:?} is a disk of this store, or lies on one: the store would wait for itself"
            )));
        }
        let mode = OpenMode::READ_WRITE.named_by(Path::new(path));
        self.add(path, size, || open_or_create(&full, mode, size))
    }

    /// As [`add_device`](Self::add_device), of a device that is open already: for tests, over one
    /// of memory. All of it is used.
    ///
    /// # Errors
    /// As there.
    pub fn add_open_device(&self, path: &str, device: Arc<dyn Device>) -> Result<u16> {
        let opened = Opened {
            device,
            force: Force::IfEmpty,
            made: Made(None),
        };
        self.add(path, None, || Ok(opened))
    }

    fn add(
        &self,
        path: &str,
        size: Option<u64>,
        open: impl FnOnce() -> Result<Opened>,
    ) -> Result<u16> {
        let _one_at_a_time = self.adding_device.lock();
        let view = self.cache.catalog().view();
        let devices = view.devices()?;
        let full = self.config.store_dir.join(path);
        let taken = devices
            .iter()
            .find(|record| self.config.store_dir.join(&record.path) == full);
        if let Some(taken) = taken {
            return Err(VolumeError::Exists(taken.path.clone()));
        }
        let number = devices
            .iter()
            .map(|record| record.device.next())
            .max()
            .unwrap_or(DeviceNo(0));
        let big_enough = |len| match slots_for(len, self.geometry) {
            0 => Err(VolumeError::Invalid(format!(
                "{} has {}, too small for a single segment",
                full.display(),
                ByteSize(len)
            ))),
            slots => Ok(slots),
        };
        // Before a file of that size is made.
        size.map_or(Ok(0), big_enough)?;
        let Opened {
            device,
            force,
            mut made,
        } = open()?;
        let len = size.map_or(device.len(), |size| size.min(device.len()));
        let mut uuid = [0; 16];
        getrandom::fill(&mut uuid).map_err(|error| VolumeError::Io(error.to_string()))?;
        let slots = big_enough(len)?;
        let record = DeviceRecord {
            device: number,
            uuid,
            path: path.to_owned(),
            slots,
        };
        // Superblock durable, then attached, then in the catalog: nothing is placed on a device
        // before it can be found again.
        let store = Uuid(self.cache.catalog().uuid());
        format(device.as_ref(), store, &record, self.geometry, force).map_err(CacheError::from)?;
        let failed = |error: DeviceError| VolumeError::Io(error.to_string());
        Step::DeviceFormatted.fails().map_err(failed)?;
        self.cache
            .pool()
            .attach(&record, device)
            .map_err(CacheError::from)?;
        let entered = Step::DeviceAttached.fails().map_err(failed);
        let entered = entered.and_then(|()| {
            let change = Change::AddDevice(record);
            Ok(self.cache.catalog().commit(&[change])?)
        });
        if let Err(error) = entered {
            self.take_back(number, &mut made);
            return Err(error);
        }
        made.keep();
        Step::DeviceCommitted.passes();
        self.cache.space_added();
        Ok(number.0)
    }

    /// Has the pool forget a device that did not get into the catalog, so that it can be added
    /// again: nothing is on it yet.
    fn take_back(&self, number: DeviceNo, made: &mut Made) {
        match self.cache.catalog().withdraw() {
            Ok(()) => self.cache.pool().detach(number),
            Err(CatalogError::NoRoom(_)) => {
                // A crash may bring the commit back, which then wants to find it.
                made.keep();
                self.cache.pool().detach(number);
            }
            // The store has stopped writing, and the commit may be there.
            Err(_) => made.keep(),
        }
    }
}

/// A device that is to be added.
struct Opened {
    device: Arc<dyn Device>,
    /// What at its start is to be respected: data in a file is known by no mark.
    force: Force,
    made: Made,
}

/// A file that was made for a device; removed again unless it is kept.
struct Made(Option<PathBuf>);

impl Made {
    fn keep(&mut self) {
        self.0 = None;
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        let Some(path) = &self.0 else { return };
        if let Err(error) = std::fs::remove_file(path) {
            log::warn!("can't remove {} again: {error}", path.display());
        }
    }
}

/// Whether a file, or what a loop device has for one, lies in the mount with this `st_dev`.
fn lies_on(path: &Path, mount: u64) -> bool {
    // What is to be made will be where its directory is.
    let found = metadata(path).or_else(|error| path.parent().map_or(Err(error), metadata));
    let Ok(found) = found else { return false };
    let looped = || {
        let (major, minor) = (
            rustix::fs::major(found.rdev()),
            rustix::fs::minor(found.rdev()),
        );
        let file = format!("/sys/dev/block/{major}:{minor}/loop/backing_file");
        let file = std::fs::read_to_string(file).ok()?;
        metadata(Path::new(file.trim_end())).ok()
    };
    found.dev() == mount || looped().is_some_and(|file| file.dev() == mount)
}

fn open_or_create(path: &Path, mode: OpenMode, size: Option<u64>) -> Result<Opened> {
    let io = |error: crate::device::DeviceError| VolumeError::Io(error.to_string());
    // A dangling link is something too: nothing is made at its other end.
    if std::fs::symlink_metadata(path).is_err() {
        let size = size.ok_or_else(|| {
            VolumeError::Invalid(format!(
                "{} does not exist; to have it made, say how big: {0}:SIZE",
                path.display()
            ))
        })?;
        let device = FileDevice::create(path, size, Fill::Sparse).map_err(io)?;
        return Ok(Opened {
            device: Arc::new(device),
            force: Force::IfEmpty,
            made: Made(Some(path.to_owned())),
        });
    }
    let device = FileDevice::open(path, mode).map_err(io)?;
    let force = if device.is_block_device() {
        Force::No
    } else {
        Force::IfEmpty
    };
    Ok(Opened {
        device: Arc::new(device),
        force,
        made: Made(None),
    })
}
