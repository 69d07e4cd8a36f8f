//! What happened on the devices of a power domain, in order.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::{Device, MemoryDevice};

/// Something that reached a device.
#[derive(Clone)]
pub(super) enum Event {
    /// Bytes were written.
    Write {
        device: usize,
        offset: u64,
        bytes: Arc<[u8]>,
    },
    /// A range was punched.
    Punch {
        device: usize,
        offset: u64,
        len: u64,
    },
    /// A sync returned.
    Sync {
        device: usize,
        /// It was called after this many events; those of its device are durable.
        covers: usize,
    },
}

/// Devices and events of a power domain.
#[derive(Default)]
pub(super) struct Recording {
    pub(super) devices: Vec<Recorded>,
    pub(super) events: Vec<Event>,
}

/// A device in the recording.
pub(super) struct Recorded {
    /// What it held before the first event.
    pub(super) base: MemoryDevice,
    /// What it holds now.
    live: Arc<MemoryDevice>,
}

impl Recording {
    /// Adds a device and returns its number.
    pub(super) fn add(&mut self, content: MemoryDevice) -> usize {
        self.devices.push(Recorded {
            live: Arc::new(content.clone()),
            base: content,
        });
        self.devices.len() - 1
    }

    /// The number and length of the device of this name.
    pub(super) fn find(&self, name: &str) -> Option<(usize, u64)> {
        let number = self.devices.iter().position(|d| d.base.name() == name)?;
        Some((number, self.devices[number].base.len()))
    }

    /// What a device holds now.
    pub(super) fn live(&self, device: usize) -> Arc<MemoryDevice> {
        self.devices[device].live.clone()
    }

    /// The first events alone, to go on from there another way.
    pub(super) fn until(&self, events: usize) -> Self {
        let mut until = Self::default();
        for device in &self.devices {
            until.add(device.base.clone());
        }
        let first = self.events.iter().take(events);
        first.cloned().for_each(|event| until.record(event));
        until
    }

    /// Adds an event; it shows in the device's content at once.
    pub(super) fn record(&mut self, event: Event) {
        event.apply(&self.devices[event.device()].live);
        self.events.push(event);
    }

    /// Writes, punches and syncs by device.
    pub(super) fn counts(&self) -> BTreeMap<String, (u64, u64, u64)> {
        let mut counts = vec![(0, 0, 0); self.devices.len()];
        for event in &self.events {
            let count = &mut counts[event.device()];
            match event {
                Event::Write { .. } => count.0 += 1,
                Event::Punch { .. } => count.1 += 1,
                Event::Sync { .. } => count.2 += 1,
            }
        }
        let names = self.devices.iter().map(|d| d.base.name().to_owned());
        names.zip(counts).collect()
    }
}

impl Event {
    /// The device that it reached.
    pub(super) fn device(&self) -> usize {
        match self {
            Self::Write { device, .. } | Self::Punch { device, .. } | Self::Sync { device, .. } => {
                *device
            }
        }
    }

    /// The range that it changed; of a sync an empty one.
    pub(super) fn range(&self) -> (u64, u64) {
        match self {
            Self::Write { offset, bytes, .. } => (*offset, bytes.len() as u64),
            Self::Punch { offset, len, .. } => (*offset, *len),
            Self::Sync { .. } => (0, 0),
        }
    }

    /// Does it to `content`.
    pub(super) fn apply(&self, content: &MemoryDevice) {
        let (offset, len) = self.range();
        self.apply_part(content, offset, len);
    }

    /// Does to `content` what it did to a part of its range.
    pub(super) fn apply_part(&self, content: &MemoryDevice, at: u64, len: u64) {
        match self {
            Self::Write { offset, bytes, .. } => {
                let from = (at - offset) as usize;
                content.put(at, &bytes[from..from + len as usize]);
            }
            Self::Punch { .. } => content.zero(at, len),
            Self::Sync { .. } => {}
        }
    }
}
