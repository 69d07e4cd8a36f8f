//! The devices of the pool: they can be opened, and their superblocks say that they are the ones
//! that the catalog means.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::catalog::Catalog;
use super::findings::Findings;
use super::problem::{Kind, Problem};
use crate::base::{BLOCK, BLOCK_SIZE, DeviceNo};
use crate::device::Device;
use crate::ondisk::{DeviceRecord, RawSuper, SuperError, Uuid};

/// How a device of the pool is opened; an error is in words.
pub type OpenDevice<'a> = dyn Fn(&DeviceRecord) -> Result<Arc<dyn Device>, String> + 'a;

/// Opens all devices. Those that can be used are returned by number.
pub(super) fn open(
    catalog: &Catalog<'_>,
    open: &OpenDevice<'_>,
    findings: &mut Findings,
) -> BTreeMap<DeviceNo, Arc<dyn Device>> {
    let mut devices = BTreeMap::new();
    for (number, entry) in &catalog.devices {
        let opened = open(&entry.record)
            .and_then(|device| superblock(catalog, &entry.record, &*device).map(|()| device));
        match opened {
            Ok(device) => {
                devices.insert(*number, device);
            }
            Err(error) => {
                let message = format!("device {number}, {}: {error}", entry.record.path);
                let mut problem = Problem::damage(Kind::Device, message);
                problem.at.device = Some(number.0);
                problem.at.file = Some(entry.record.path.clone());
                findings.add(problem);
            }
        }
    }
    devices
}

fn superblock(
    catalog: &Catalog<'_>,
    record: &DeviceRecord,
    device: &dyn Device,
) -> Result<(), String> {
    let words = |error: SuperError| error.to_string();
    if device.len() < BLOCK_SIZE {
        return Err(words(SuperError::NotSnapmark));
    }
    let mut block = [0; BLOCK];
    let read = device.read_at(&mut block, 0);
    read.map_err(|error| error.to_string())?;
    RawSuper::decode(&block)
        .and_then(|raw| raw.validate(device.len()))
        .and_then(|found| found.expect(Uuid(catalog.root.uuid), record, catalog.root.geometry))
        .map_err(words)
}
