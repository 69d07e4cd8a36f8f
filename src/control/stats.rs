//! `.stats`: the counters and the state as Prometheus text.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::exposition::Exposition;
use crate::volume::{
    DeviceStatus, DiskStatus, IscsiSessionStatus, Metrics, OperationMetrics, ScheduleStatus,
    ScrubState, ScrubStatus, Status,
};

/// A family with a sample for each of several things: name, help, and the value.
type Family<T> = (&'static str, &'static str, fn(&T) -> u64);

/// All of it. Names, units and meanings are in the HELP lines.
#[must_use]
pub fn render(status: &Status, metrics: &Metrics) -> String {
    let mut out = Exposition::default();
    store(&mut out, status);
    cache(&mut out, status, metrics);
    scrub(&mut out, &status.scrub);
    iscsi(&mut out, status);
    schedules(&mut out, status);
    devices(&mut out, status);
    device_errors(&mut out, status);
    operations(&mut out, metrics);
    disks(&mut out, status);
    out.finish()
}

fn store(out: &mut Exposition, status: &Status) {
    out.family("info", "gauge", "The store that is served; always 1.");
    let labels = [("version", &*status.version), ("store", &*status.store)];
    out.sample("info", &labels, 1);
    let state = status.state.split(':').next().unwrap_or_default();
    let help = "1 for the state that the store is in: ok, paused (the host has no space), halted.";
    out.family("state", "gauge", help);
    for one in ["ok", "paused", "halted"] {
        out.sample("state", &[("state", one)], u8::from(state == one));
    }
    let help = "1 where the store has stopped writing after a failure.";
    out.single("halted", "gauge", help, u8::from(state == "halted"));
    let help = "Seconds in which something waited for space on the host.";
    let seconds = status.paused_seconds;
    out.single("paused_seconds_total", "counter", help, seconds);
    let help = "Pool and file systems of the host that are fuller than a mark of space.warn.";
    out.single("space_warnings", "gauge", help, status.warnings.len());
    let pool = &status.pool;
    for (name, help, value) in [
        ("total", "Bytes of all segments of the pool.", pool.total),
        ("used", "Bytes of segments in use.", pool.used),
        (
            "reserved",
            "Bytes promised to writes that are still cached.",
            pool.reserved,
        ),
        (
            "pending",
            "Bytes given up that wait for their hole punch.",
            pool.pending,
        ),
        (
            "available",
            "Bytes that new writes can still have.",
            pool.available,
        ),
    ] {
        out.single(&format!("pool_{name}_bytes"), "gauge", help, value);
    }
}

fn cache(out: &mut Exposition, status: &Status, metrics: &Metrics) {
    let cache = &status.cache;
    let load = |counter: &AtomicU64| counter.load(Relaxed);
    for (name, kind, help, value) in [
        (
            "cache_size_bytes",
            "gauge",
            "Configured size of the cache.",
            cache.size,
        ),
        (
            "cache_queue_bytes",
            "gauge",
            "Bytes that wait to be destaged.",
            cache.used,
        ),
        (
            "cache_queue_records",
            "gauge",
            "Records that wait to be destaged.",
            cache.records,
        ),
        (
            "cache_markers_waiting",
            "gauge",
            "Snapshot markers that wait to be destaged.",
            cache.markers,
        ),
        (
            "cache_hits_total",
            "counter",
            "Blocks read that were found in the cache.",
            load(&metrics.cache_hits),
        ),
        (
            "cache_misses_total",
            "counter",
            "Blocks read that were not found in the cache.",
            load(&metrics.cache_misses),
        ),
        (
            "destaged_bytes_total",
            "counter",
            "Bytes that destaging wrote to devices.",
            load(&metrics.destaged_bytes),
        ),
        (
            "checksum_errors_total",
            "counter",
            "Blocks whose checksum did not match.",
            load(&metrics.checksum_errors),
        ),
    ] {
        out.single(name, kind, help, value);
    }
    if let Some(journal) = &status.journal {
        let help = "Bytes that the journal can hold.";
        out.single("journal_size_bytes", "gauge", help, journal.size);
        let help = "Bytes of the journal in use.";
        out.single("journal_used_bytes", "gauge", help, journal.used);
    }
}

fn scrub(out: &mut Exposition, scrub: &ScrubStatus) {
    out.family("scrub_state", "gauge", "1 for what the scrub is doing.");
    for state in ScrubState::ALL {
        let value = u8::from(state == scrub.state);
        out.sample("scrub_state", &[("state", &state.to_string())], value);
    }
    for (name, help, value) in [
        (
            "scrub_rate_bytes_per_second",
            "Bytes that the scrub reads in a second at the most; 0 is no limit.",
            scrub.rate,
        ),
        (
            "scrub_checked_bytes",
            "Data that the scrub has compared with its checksums.",
            scrub.checked,
        ),
        (
            "scrub_all_bytes",
            "Data that the scrub is to compare.",
            scrub.total,
        ),
        (
            "scrub_damaged_blocks",
            "Damaged blocks that the scrub has found.",
            scrub.damaged,
        ),
        (
            "scrub_suspect_blocks",
            "Blocks that differ, too many to look up whether anyone reads them.",
            scrub.suspects,
        ),
    ] {
        out.single(name, "gauge", help, value);
    }
}

fn iscsi(out: &mut Exposition, status: &Status) {
    let Some(target) = &status.iscsi else { return };
    let help = "Logins to the iSCSI target.";
    out.single("iscsi_logins_total", "counter", help, target.logins);
    let help = "Connections to the iSCSI target that ended without a login.";
    out.single(
        "iscsi_failed_logins_total",
        "counter",
        help,
        target.failed_logins,
    );
    let families: [Family<IscsiSessionStatus>; 3] = [
        (
            "iscsi_session_commands_total",
            "SCSI commands of the session that have ended.",
            |s| s.commands,
        ),
        (
            "iscsi_session_read_bytes_total",
            "Bytes that the session has read.",
            |s| s.read,
        ),
        (
            "iscsi_session_written_bytes_total",
            "Bytes that the session has written.",
            |s| s.written,
        ),
    ];
    for (name, help, value) in families {
        out.family(name, "counter", help);
        for session in &target.sessions {
            let labels = [
                ("initiator", &*session.initiator),
                ("address", &*session.address),
                ("target", session.target.as_deref().unwrap_or_default()),
            ];
            out.sample(name, &labels, value(session));
        }
    }
}

fn schedules(out: &mut Exposition, status: &Status) {
    let families: [Family<ScheduleStatus>; 2] = [
        (
            "schedule_failed",
            "1 where the schedule's snapshot, or a command of it, failed when it was last at work.",
            |schedule| schedule.error.is_some().into(),
        ),
        (
            "schedule_snapshots",
            "Snapshots that the schedule took and has not deleted.",
            |schedule| schedule.snapshots,
        ),
    ];
    if status.schedules.is_empty() {
        return;
    }
    for (name, help, value) in families {
        out.family(name, "gauge", help);
        for schedule in &status.schedules {
            let labels = [("schedule", &*schedule.name)];
            out.sample(name, &labels, value(schedule));
        }
    }
}

fn devices(out: &mut Exposition, status: &Status) {
    let families: [Family<DeviceStatus>; 2] = [
        (
            "device_size_bytes",
            "Bytes of the device's segments.",
            |d| d.size,
        ),
        (
            "device_used_bytes",
            "Bytes of the device's segments in use.",
            |d| d.used,
        ),
    ];
    for (name, help, value) in families {
        out.family(name, "gauge", help);
        for device in &status.devices {
            let number = device.device.to_string();
            let labels = [("device", &*number), ("path", &*device.path)];
            out.sample(name, &labels, value(device));
        }
    }
    device_host(
        out,
        status,
        "device_allocated_bytes",
        "Bytes that the host has allocated for the device.",
        |d| d.allocated,
    );
    device_host(
        out,
        status,
        "device_host_available_bytes",
        "Bytes left on the host's file system, where the device takes them as it is written.",
        |d| d.host_available,
    );
}

/// What the host says of devices, of those of which it says it.
fn device_host(
    out: &mut Exposition,
    status: &Status,
    name: &str,
    help: &str,
    value: fn(&DeviceStatus) -> Option<u64>,
) {
    out.family(name, "gauge", help);
    for device in &status.devices {
        if let Some(value) = value(device) {
            let number = device.device.to_string();
            let labels = [("device", &*number), ("path", &*device.path)];
            out.sample(name, &labels, value);
        }
    }
}

fn device_errors(out: &mut Exposition, status: &Status) {
    let name = "device_errors_total";
    out.family(name, "counter", "Calls on the device that failed.");
    for device in &status.devices {
        let (number, errors) = (device.device.to_string(), &device.errors);
        for (operation, count) in [
            ("read", errors.read),
            ("write", errors.write),
            ("sync", errors.sync),
            ("punch", errors.punch),
        ] {
            let labels = [
                ("device", &*number),
                ("path", &*device.path),
                ("operation", operation),
            ];
            out.sample(name, &labels, count);
        }
    }
}

fn operations(out: &mut Exposition, metrics: &Metrics) {
    let operations = [
        ("read", &metrics.read),
        ("write", &metrics.write),
        ("discard", &metrics.discard),
        ("sync", &metrics.sync),
        ("snapshot", &metrics.snapshot),
    ];
    let families: [Family<OperationMetrics>; 3] = [
        ("operations_total", "Operations that succeeded.", |m| {
            m.done.load(Relaxed)
        }),
        ("operation_errors_total", "Operations that failed.", |m| {
            m.failed.load(Relaxed)
        }),
        (
            "operation_bytes_total",
            "Bytes of operations that succeeded.",
            |m| m.bytes.load(Relaxed),
        ),
    ];
    for (name, help, counter) in families {
        out.family(name, "counter", help);
        for (operation, of) in operations {
            let value = counter(of);
            out.sample(name, &[("operation", operation)], value);
        }
    }
    let name = "operation_duration_seconds";
    out.family(name, "histogram", "How long operations took.");
    for (operation, of) in operations {
        out.histogram(name, &[("operation", operation)], &of.latency);
    }
}

fn disks(out: &mut Exposition, status: &Status) {
    out.single("disks", "gauge", "Disks.", status.disks.len());
    let families: [Family<DiskStatus>; 4] = [
        ("disk_size_bytes", "Virtual size.", |d| d.size),
        ("disk_allocated_bytes", "Allocated bytes.", |d| d.allocated),
        ("disk_queued_bytes", "Bytes that wait in the cache.", |d| {
            d.queued
        }),
        ("disk_opens", "Open handles.", |d| d.opens),
    ];
    for (name, help, value) in families {
        out.family(name, "gauge", help);
        for disk in &status.disks {
            out.sample(name, &[("disk", &disk.name)], value(disk));
        }
    }
    // A disk without snapshots counts 0; one that was deleted still counts its snapshots.
    let mut counts: BTreeMap<&str, u64> = status.disks.iter().map(|d| (&*d.name, 0)).collect();
    for snapshot in &status.snapshots {
        *counts.entry(&snapshot.disk).or_default() += 1;
    }
    out.family("snapshots", "gauge", "Snapshots of the disk.");
    for (disk, count) in counts {
        out.sample("snapshots", &[("disk", disk)], count);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use super::*;
    use crate::control::{Sample, parse_exposition};
    use crate::volume::{DeviceErrors, JournalStatus, SnapshotStatus};

    fn sample() -> String {
        let snapshot = |disk: &str, name: &str| SnapshotStatus {
            disk: disk.to_owned(),
            name: name.to_owned(),
            ..SnapshotStatus::default()
        };
        let status = Status {
            state: "paused: no space on the host".to_owned(),
            journal: Some(JournalStatus::default()),
            devices: vec![DeviceStatus {
                path: "/srv/a \"b\"".to_owned(),
                used: 7,
                errors: DeviceErrors {
                    write: 3,
                    ..DeviceErrors::default()
                },
                ..DeviceStatus::default()
            }],
            disks: vec![DiskStatus {
                name: "vm\\1".to_owned(),
                ..DiskStatus::default()
            }],
            snapshots: vec![snapshot("gone", "a"), snapshot("gone", "b")],
            ..Status::default()
        };
        let metrics = Metrics::default();
        metrics.write.record(true, 4096, Duration::from_micros(3));
        metrics.write.record(false, 0, Duration::from_secs(1000));
        render(&status, &metrics)
    }

    fn value(samples: &[Sample], name: &str, label: (&str, &str)) -> Option<f64> {
        let hit = |s: &&Sample| s.name == name && s.label(label.0) == Some(label.1);
        samples.iter().find(hit).map(|s| s.value)
    }

    #[test]
    fn the_numbers_are_there() {
        let samples = parse_exposition(&sample()).unwrap();
        for (name, label, expected) in [
            ("snapmark_scrub_state", ("state", "idle"), 1.0),
            ("snapmark_scrub_state", ("state", "running"), 0.0),
            ("snapmark_operations_total", ("operation", "write"), 1.0),
            (
                "snapmark_operation_errors_total",
                ("operation", "write"),
                1.0,
            ),
            (
                "snapmark_operation_bytes_total",
                ("operation", "write"),
                4096.0,
            ),
            ("snapmark_device_used_bytes", ("path", "/srv/a \"b\""), 7.0),
            ("snapmark_device_errors_total", ("operation", "write"), 3.0),
            ("snapmark_state", ("state", "paused"), 1.0),
            ("snapmark_state", ("state", "ok"), 0.0),
            ("snapmark_snapshots", ("disk", "gone"), 2.0),
            ("snapmark_snapshots", ("disk", "vm\\1"), 0.0),
        ] {
            assert_eq!(value(&samples, name, label), Some(expected), "{name}");
        }
    }

    /// What the format asks for: every sample belongs to the family announced just before it, no
    /// family comes twice, no series comes twice, buckets rise up to the count.
    #[test]
    fn the_text_is_well_formed() {
        let text = sample();
        let (mut family, mut families, mut seen) = (String::new(), HashSet::new(), HashSet::new());
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(["gauge", "counter", "histogram"].contains(&kind), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                assert!(families.insert(name.to_owned()), "{line} comes twice");
                family = name.to_owned();
            } else if !line.starts_with("# HELP ") {
                let (series, _) = line.rsplit_once(' ').unwrap();
                assert!(series.starts_with(&family), "{line} is not of {family}");
                assert!(seen.insert(series.to_owned()), "{line} comes twice");
            }
        }
        let buckets: Vec<Sample> = parse_exposition(&text)
            .unwrap()
            .into_iter()
            .filter(|s| s.name.ends_with("_bucket") && s.label("operation") == Some("write"))
            .collect();
        assert!(buckets.is_sorted_by(|a, b| a.value <= b.value));
        assert_eq!(buckets.last().unwrap().label("le"), Some("+Inf"));
        assert_eq!(buckets.last().unwrap().value, 2.0);
        assert_eq!(
            value(
                &buckets,
                "snapmark_operation_duration_seconds_bucket",
                ("le", "0.000004")
            ),
            Some(1.0)
        );
    }
}
