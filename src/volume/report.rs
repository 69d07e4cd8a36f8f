//! The state of the store for those who look.

use std::sync::Weak;
use std::sync::atomic::Ordering::Relaxed;

use super::volumes::Volumes;
use super::{
    CacheStatus, DeviceErrors, DeviceStatus, DiskStatus, JournalStatus, Node, PoolStatus,
    PoolUsage, SnapshotStatus, Status,
};

/// What to do about a state.
fn advice(state: &str) -> Option<&'static str> {
    match state.split_once(':')?.0 {
        "paused" => Some(
            "free space on the host's file system, delete disks or snapshots, or add a device \
             ('snapmark device add'): it goes on by itself; nothing acknowledged is lost",
        ),
        _ => Some(
            "reads go on, and nothing acknowledged is lost; find the cause, then unmount and \
             mount again",
        ),
    }
}

/// Something beside the engine that has a part of the status to say.
pub trait Reports: Send + Sync {
    /// Says it.
    fn report(&self, status: &mut Status);
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

    /// Whether something waits for space on the host.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.cache.is_paused()
    }

    /// How long something has waited for space on the host, in all.
    #[must_use]
    pub fn paused_for(&self) -> std::time::Duration {
        self.cache.paused_for()
    }

    /// Has this asked for its part of the status, as long as it is there.
    pub fn add_report(&self, reports: Weak<dyn Reports>) {
        let mut all = self.reports.lock();
        all.retain(|other| other.strong_count() > 0);
        all.push(reports);
    }

    /// The whole state.
    #[must_use]
    pub fn status(&self) -> Status {
        let mut status = self.own_status();
        let reports = self.reports.lock().clone();
        for part in reports.iter().filter_map(Weak::upgrade) {
            part.report(&mut status);
        }
        status
    }

    fn own_status(&self) -> Status {
        let usage = self.cache.usage();
        let segment = self.geometry.segment_bytes();
        let (space, state) = (usage.space, self.state());
        Status {
            advice: advice(&state).map(str::to_owned),
            paused_seconds: self.cache.paused_for().as_secs(),
            warnings: self.space_warnings(),
            state,
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
            iscsi: None,
            schedules: Vec::new(),
            devices: self.device_status(),
            disks: self.disk_status(),
            snapshots: self.snapshot_status(),
        }
    }

    fn state(&self) -> String {
        if let Some(reason) = self.cache.halt().reason() {
            return format!("halted: {reason}");
        }
        match self.cache.paused() {
            Some(reason) => format!("paused: no space on the host: {reason}"),
            None => "ok".to_owned(),
        }
    }

    fn device_status(&self) -> Vec<DeviceStatus> {
        let view = self.cache.catalog().view();
        let segment = self.geometry.segment_bytes();
        let devices = self.cache.pool().devices();
        let mut list = Vec::with_capacity(devices.len());
        for device in devices {
            // What the catalog can't say is free counts as used.
            let free = view.free_slots_of(device.number).unwrap_or(0);
            let free = free + self.cache.lent_of(device.number);
            list.push(DeviceStatus {
                device: device.number.0,
                path: device.name,
                size: device.slots * segment,
                used: device.slots.saturating_sub(free) * segment,
                allocated: device.allocated,
                host_available: device.host.map(|host| host.available),
                errors: DeviceErrors {
                    read: device.failures.reads,
                    write: device.failures.writes,
                    sync: device.failures.syncs,
                    punch: device.failures.punches,
                    last: device.failures.last,
                },
            });
        }
        list
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
                created: attributes.created.rfc3339(),
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
                    created: snapshot.created.rfc3339(),
                    queued: record.is_none(),
                };
                (status.disk.clone(), snapshot.created, status)
            })
            .collect();
        list.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
        list.into_iter().map(|(_, _, status)| status).collect()
    }
}
