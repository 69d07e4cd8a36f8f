//! `device-add`, `device-list`: the pool's devices.

use super::Answer;
use crate::base::ByteSize;
use crate::control::{Align, DeviceSpec, Table};
use crate::volume::{Status, Volumes};

/// Gives the pool another device.
pub fn add(volumes: &Volumes, device: &DeviceSpec) -> Answer {
    let number = volumes.add_device(&device.path, device.size.map(|size| size.0))?;
    let total = ByteSize(volumes.usage().total);
    Ok(format!(
        "device {number} is {}; the pool has {total} now\n",
        device.path
    ))
}

/// A line for each device.
pub fn list(status: &Status) -> String {
    let mut table = Table::new(&[
        ("DEVICE", Align::Right),
        ("SIZE", Align::Right),
        ("USED", Align::Right),
        ("ON HOST", Align::Right),
        ("PATH", Align::Left),
    ]);
    for device in &status.devices {
        table.row([
            device.device.to_string(),
            ByteSize(device.size).to_string(),
            ByteSize(device.used).to_string(),
            device
                .allocated
                .map_or_else(|| "?".to_owned(), |bytes| ByteSize(bytes).to_string()),
            device.path.clone(),
        ]);
    }
    table.to_string()
}
