//! Making a store.

use std::fs;
use std::io::{IoSlice, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::store::StoreError;
use crate::base::{ByteSize, DeviceNo, Geometry};
use crate::cache::create_journal;
use crate::config::{Layout, Settings, claim_directory};
use crate::device::{Device, FileDevice, Fill, OpenMode};
use crate::ondisk::{Change, DeviceRecord, Uuid, slots_for};
use crate::store::{Catalog, CatalogConfig, Force, format, formattable};

/// Bytes of the pool's backing file unless chosen.
const DEFAULT_SIZE: u64 = 100 << 30;
/// How long the catalog's page file may become; it is sparse.
const CATALOG_PAGES: u64 = 1 << 40;
/// Bytes of the catalog's log: what an opening has to replay at the most.
const CATALOG_LOG: u64 = 16 << 20;

/// A store to be made.
#[derive(Clone, Debug, Default)]
pub struct NewStore {
    /// The directory.
    pub dir: PathBuf,
    /// Bytes of the default backing file, or of devices to be made that have no size.
    pub size: Option<u64>,
    /// Bytes in a segment.
    pub segment: Option<u64>,
    /// Devices instead of the default backing file: path and size.
    pub devices: Vec<(String, Option<u64>)>,
    /// Settings that differ from the defaults: section, key, value as YAML.
    pub settings: Vec<(&'static str, &'static str, String)>,
}

/// A device of the store to be made, open.
struct NewDevice {
    device: Arc<dyn Device>,
    record: DeviceRecord,
    force: Force,
}

/// Files made so far; removed again unless the store is finished.
struct Made(Vec<PathBuf>);

impl Drop for Made {
    fn drop(&mut self) {
        for path in self.0.drain(..).rev() {
            let removed = if path.is_dir() {
                fs::remove_dir(&path)
            } else {
                fs::remove_file(&path)
            };
            if let Err(error) = removed {
                log::warn!("can't remove {} again: {error}", path.display());
            }
        }
    }
}

/// Makes a store. `progress` hears how many bytes of the journal are written, of how many.
///
/// # Errors
/// Where the directory holds something, a device is in use or too small, a size can't be, or the
/// host fails. What was made is removed again; a device that was there is written to when all else
/// is done.
pub fn init(new: &NewStore, progress: &mut dyn FnMut(u64, u64)) -> Result<(), StoreError> {
    let geometry = Geometry::from_segment_bytes(new.segment.unwrap_or(Geometry::DEFAULT_SEGMENT))
        .map_err(|error| StoreError::Invalid(error.to_string()))?;
    let text = Settings::file_with(&new.settings);
    let layout =
        Layout::new(std::path::absolute(&new.dir).map_err(|error| directory(&new.dir, error))?);
    let settings = Settings::parse(&layout.settings().display().to_string(), text.as_bytes())?;
    let mut made = Made(Vec::new());
    make_directory(layout.dir(), &mut made)?;
    claim_directory(layout.dir())?;
    let mut uuid = [0; 16];
    getrandom::fill(&mut uuid).map_err(|error| StoreError::Invalid(error.to_string()))?;

    let devices = make_devices(new, &layout, Uuid(uuid), geometry, &mut made)?;
    let (path, len) = (settings.journal_path(layout.dir()), settings.journal.size.0);
    let journal = create(&path, len, Fill::Sparse, &mut made)?;
    write_zeros(journal.as_ref(), progress)?;
    create_journal(journal.as_ref(), uuid)?;
    let log = create(&layout.catalog_log(), CATALOG_LOG, Fill::Zeros, &mut made)?;
    write_settings(&layout.settings(), &text, &mut made)?;
    // The pages get their name last: a directory that has them is a store, and whole.
    let unfinished = layout.catalog_pages().with_extension("unfinished");
    let pages = create(&unfinished, CATALOG_PAGES, Fill::Sparse, &mut made)?;
    Catalog::create(pages.as_ref(), log.as_ref(), uuid, geometry)?;
    let catalog = Catalog::open(pages, log, CatalogConfig::default())?;
    let add = |new: &NewDevice| Change::AddDevice(new.record.clone());
    catalog.commit(&devices.iter().map(add).collect::<Vec<_>>())?;
    catalog.checkpoint()?;
    // Devices that were there can't be removed again, so they are marked when all else is made.
    for new in &devices {
        let device = new.device.as_ref();
        format(device, Uuid(uuid), &new.record, geometry, new.force)?;
    }
    made.0.push(layout.catalog_pages());
    finish(&layout, &unfinished)?;
    made.0.clear();
    Ok(())
}

/// Fills the journal, so that a write to it later changes no metadata of the host's file system
/// and a sync of it costs no journal commit there.
fn write_zeros(device: &dyn Device, progress: &mut dyn FnMut(u64, u64)) -> Result<(), StoreError> {
    const CHUNK: u64 = 4 << 20;
    let zeros = vec![0; CHUNK as usize];
    let mut done = 0;
    while done < device.len() {
        let len = CHUNK.min(device.len() - done);
        device.write_at(&[IoSlice::new(&zeros[..len as usize])], done)?;
        done += len;
        progress(done, device.len());
    }
    Ok(device.sync()?)
}

/// Names the store's last file, durably, and the store's directory in its own.
fn finish(layout: &Layout, unfinished: &Path) -> Result<(), StoreError> {
    let pages = layout.catalog_pages();
    fs::rename(unfinished, &pages).map_err(|error| directory(&pages, error))?;
    for dir in [Some(layout.dir()), layout.dir().parent()]
        .into_iter()
        .flatten()
    {
        let synced = fs::File::open(dir).and_then(|dir| dir.sync_all());
        synced.map_err(|error| directory(dir, error))?;
    }
    Ok(())
}

fn directory(path: &Path, error: std::io::Error) -> StoreError {
    StoreError::Directory {
        path: path.to_owned(),
        error,
    }
}

fn make_directory(dir: &Path, made: &mut Made) -> Result<(), StoreError> {
    if fs::symlink_metadata(dir).is_ok() {
        let mut entries = fs::read_dir(dir).map_err(|error| directory(dir, error))?;
        return match entries
            .find_map(Result::ok)
            .filter(|entry| entry.file_name() != "lost+found")
        {
            None => Ok(()),
            Some(_) if dir.join(Layout::CATALOG_PAGES).exists() => Err(StoreError::Invalid(
                format!("{} is a store already", dir.display()),
            )),
            Some(entry) => Err(StoreError::Invalid(format!(
                "{} is not empty: it has {:?}; give an empty or a new directory",
                dir.display(),
                entry.file_name()
            ))),
        };
    }
    fs::DirBuilder::new()
        .mode(0o700)
        .create(dir)
        .map_err(|error| directory(dir, error))?;
    made.0.push(dir.to_owned());
    Ok(())
}

/// Opens or makes the devices. None that is in use, but nothing is written to them.
fn make_devices(
    new: &NewStore,
    layout: &Layout,
    store: Uuid,
    geometry: Geometry,
    made: &mut Made,
) -> Result<Vec<NewDevice>, StoreError> {
    let default = vec![(
        Layout::POOL.to_owned(),
        Some(new.size.unwrap_or(DEFAULT_SIZE)),
    )];
    let devices = if new.devices.is_empty() {
        &default
    } else {
        &new.devices
    };
    let mut found: Vec<NewDevice> = Vec::new();
    for ((path, size), number) in devices.iter().zip(0u16..) {
        DeviceRecord::check_path(path).map_err(|error| StoreError::Invalid(error.to_string()))?;
        let full = layout.device(path);
        if found
            .iter()
            .any(|other| layout.device(&other.record.path) == full)
        {
            return Err(StoreError::Invalid(format!("{path} is given twice")));
        }
        let size = size.or(new.size);
        let mut force = Force::No;
        let device: Arc<dyn Device> = if fs::symlink_metadata(&full).is_ok() {
            let device = FileDevice::open(&full, OpenMode::READ_WRITE.named_by(Path::new(path)))?;
            if !device.is_block_device() {
                force = Force::IfEmpty;
            }
            Arc::new(device)
        } else {
            let size = size.ok_or_else(|| {
                StoreError::Invalid(format!(
                    "{path} does not exist; to have it made, say how big: {path}:SIZE"
                ))
            })?;
            create(&full, size, Fill::Sparse, made)?
        };
        let len = size.map_or(device.len(), |size| size.min(device.len()));
        let slots = slots_for(len, geometry);
        if slots == 0 {
            let size = ByteSize(len);
            return Err(StoreError::Invalid(format!(
                "{path} has {size}, too small for a single segment"
            )));
        }
        let mut uuid = [0; 16];
        getrandom::fill(&mut uuid).map_err(|error| StoreError::Invalid(error.to_string()))?;
        let record = DeviceRecord {
            device: DeviceNo(number),
            uuid,
            path: path.clone(),
            slots,
        };
        formattable(device.as_ref(), store, &record, geometry, force)?;
        found.push(NewDevice {
            device,
            record,
            force,
        });
    }
    Ok(found)
}

fn create(
    path: &Path,
    len: u64,
    fill: Fill,
    made: &mut Made,
) -> Result<Arc<dyn Device>, StoreError> {
    let device = FileDevice::create(path, len, fill)?;
    made.0.push(path.to_owned());
    Ok(Arc::new(device))
}

fn write_settings(path: &Path, text: &str, made: &mut Made) -> Result<(), StoreError> {
    let write = || {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error| directory(path, error))?;
    made.0.push(path.to_owned());
    Ok(())
}
