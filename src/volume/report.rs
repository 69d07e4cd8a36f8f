//! The state of the store for those who look.

use std::sync::atomic::Ordering::Relaxed;

use super::volumes::{Result, Volumes};
use super::{
    CacheStatus, DeviceStatus, DiskStatus, JournalStatus, Node, PoolStatus, PoolUsage,
    SnapshotStatus, Status,
};
use crate::base::Timestamp;

/// RFC 3339 in UTC, to the second.
pub(crate) fn rfc3339(time: Timestamp) -> String {
    let second = time.0.div_euclid(1_000_000_000);
    jiff::Timestamp::from_second(second)
        .map_or_else(|_| time.0.to_string(), |time| time.to_string())
}

impl Volumes {
    /// Space of the pool.
    #[must_use]
    pub fn usage(&self) -> PoolUsage {
        let usage = self.cache.usage();
        let segment = self.geometry.segment_bytes();
        PoolUsage {
            total: usage.space.total * segment,
            available: usage.available * segment,
        }
    }

    /// The whole state.
    #[must_use]
    pub fn status(&self) -> Status {
        let usage = self.cache.usage();
        let segment = self.geometry.segment_bytes();
        let space = usage.space;
        Status {
            state: self.cache.halt().reason().unwrap_or("ok").to_owned(),
            store: crate::ondisk::Uuid(self.cache.catalog().uuid()).to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            segment,
            pool: PoolStatus {
                total: space.total * segment,
                used: (space.total - space.free - space.pending) * segment,
                reserved: usage.promised * segment,
                pending: space.pending * segment,
                available: usage.available * segment,
            },
            cache: CacheStatus {
                size: self.config.cache.size,
                used: usage.bytes,
                records: usage.records,
                markers: usage.markers,
                hits: self.metrics.cache_hits.load(Relaxed),
                misses: self.metrics.cache_misses.load(Relaxed),
            },
            journal: usage.journal.map(|(used, size)| JournalStatus {
                path: self.cache.journal_name().unwrap_or_default().to_owned(),
                size,
                used,
            }),
            scrub: self.scrub.status(),
            devices: self.device_status().unwrap_or_default(),
            disks: self.disk_status(),
            snapshots: self.snapshot_status(),
        }
    }

    fn device_status(&self) -> Result<Vec<DeviceStatus>> {
        let view = self.cache.catalog().view();
        let segment = self.geometry.segment_bytes();
        let devices = self
            .cache
            .pool()
            .devices()
            .map_err(crate::cache::CacheError::from)?;
        let mut list = Vec::with_capacity(devices.len());
        for device in devices {
            let free = view.free_slots_of(device.number)? + self.cache.lent_of(device.number);
            list.push(DeviceStatus {
                device: device.number.0,
                path: device.name,
                size: device.slots * segment,
                used: device.slots.saturating_sub(free) * segment,
                allocated: device.allocated,
            });
        }
        Ok(list)
    }

    fn disk_status(&self) -> Vec<DiskStatus> {
        let nodes: Vec<_> = self.list();
        let disk = |(name, node): (String, Node)| {
            let Node::Disk(id) = node else { return None };
            let attributes = self.attributes(node).ok()?;
            let disk = self.disk(id).ok()?;
            let origin = disk.meta.lock().origin;
            let origin = origin.and_then(|(map, epoch)| self.names.read().snapshot_at(map, epoch));
            Some(DiskStatus {
                name,
                size: attributes.size,
                allocated: attributes.allocated,
                created: rfc3339(attributes.created),
                origin: origin.map(|snapshot| snapshot.file_name()),
                opens: u64::from(disk.opens.load(Relaxed)),
                queued: self.cache.queued_bytes(id),
                priority: self.cache.priority(id),
            })
        };
        nodes.into_iter().filter_map(disk).collect()
    }

    fn snapshot_status(&self) -> Vec<SnapshotStatus> {
        let view = self.cache.catalog().view();
        let names = self.names.read();
        let snapshots = names.names().filter_map(|(_, node)| match node {
            Node::Snapshot(id) => names.snapshot(*id),
            Node::Disk(_) => None,
        });
        let snapshots: Vec<_> = snapshots.collect();
        drop(names);
        let mut list: Vec<_> = snapshots
            .into_iter()
            .map(|snapshot| {
                let record = view
                    .snapshot(snapshot.map.id, snapshot.epoch)
                    .ok()
                    .flatten();
                let allocated = self.snapshot_allocated(&snapshot).unwrap_or_default();
                let meta = snapshot.meta.lock();
                let status = SnapshotStatus {
                    disk: meta.disk_name.clone(),
                    name: meta.name.clone(),
                    size: snapshot.size,
                    allocated,
                    created: rfc3339(snapshot.created),
                    queued: record.is_none(),
                };
                (status.disk.clone(), snapshot.created, status)
            })
            .collect();
        list.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
        list.into_iter().map(|(_, _, status)| status).collect()
    }
}
