//! What is measured: the rows of the table, and how long and how often each is run.

/// What a row's figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Requests a second.
    Operations,
    /// 10^6 bytes a second.
    Megabytes,
}

impl Unit {
    /// As headings show it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Operations => "operations/s",
            Self::Megabytes => "MB/s",
        }
    }
}

/// What a row's job runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// The image itself.
    File,
    /// A loop device over it, which passes on direct I/O.
    Loop,
}

/// One workload.
#[derive(Debug)]
pub struct Row {
    /// What it is called in the report and in the file of the last run.
    pub name: &'static str,
    /// What its figure counts.
    pub unit: Unit,
    /// How requests are made, as options of fio without their dashes.
    pub requests: &'static [&'static str],
    /// What else makes up the job.
    pub options: &'static [&'static str],
    /// On what.
    pub on: On,
    /// Whether it reads from the disk; then the page cache is emptied before.
    pub cold: bool,
    /// Whether it syncs, which an empty filesystem has nothing to do for.
    pub syncs: bool,
    /// A job that is run first and does not count, if any.
    pub before: &'static [&'static str],
    /// Whether it runs for the plan's time; else until it has done what its options say.
    pub timed: bool,
    /// The only peer that it is run beside, if it says nothing beside the others.
    pub beside: Option<&'static str>,
    /// Whether the short form has it.
    pub short: bool,
}

/// How requests are made: one after the other through the page cache, one after the other past it, or
/// sixteen at a time past it.
const BUFFERED: &[&str] = &["ioengine=psync"];
const DIRECT: &[&str] = &["ioengine=psync", "direct=1"];
const DEPTH_16: &[&str] = &["ioengine=libaio", "iodepth=16", "direct=1"];

const fn row(
    name: &'static str,
    unit: Unit,
    requests: &'static [&'static str],
    options: &'static [&'static str],
) -> Row {
    Row {
        name,
        unit,
        requests,
        options,
        on: On::File,
        cold: false,
        syncs: false,
        before: &[],
        timed: true,
        beside: None,
        short: true,
    }
}

const fn cold(row: Row) -> Row {
    Row { cold: true, ..row }
}

const fn syncing(row: Row) -> Row {
    Row { syncs: true, ..row }
}

const fn long(row: Row) -> Row {
    Row {
        short: false,
        ..row
    }
}

const fn looped(name: &'static str, row: Row) -> Row {
    Row {
        name,
        on: On::Loop,
        short: false,
        ..row
    }
}

use Unit::{Megabytes, Operations};

const WRITE_16: Row = row(
    "4 KiB random write, O_DIRECT, depth 16",
    Operations,
    DEPTH_16,
    &["rw=randwrite", "bs=4k"],
);
/// Reads of 4 KiB at random, from the disk.
pub const READ_16: Row = cold(row(
    "4 KiB random read, O_DIRECT, depth 16",
    Operations,
    DEPTH_16,
    &["rw=randread", "bs=4k"],
));
const SYNC_EACH: Row = syncing(row(
    "4 KiB random write, fsync after each",
    Operations,
    BUFFERED,
    &["rw=randwrite", "bs=4k", "fsync=1"],
));
const WRITE_ALL: Row = row(
    "1 MiB sequential write, O_DIRECT, depth 1",
    Megabytes,
    DIRECT,
    &["rw=write", "bs=1m"],
);
const READ_ALL: Row = cold(row(
    "1 MiB sequential read, O_DIRECT, depth 1",
    Megabytes,
    DIRECT,
    &["rw=read", "bs=1m"],
));

/// All jobs of fio, in the order of the table.
pub static ROWS: [Row; 16] = [
    row(
        "4 KiB random write, buffered, depth 1",
        Operations,
        BUFFERED,
        &["rw=randwrite", "bs=4k"],
    ),
    cold(row(
        "4 KiB random read, buffered, depth 1",
        Operations,
        BUFFERED,
        &["rw=randread", "bs=4k"],
    )),
    WRITE_16,
    READ_16,
    SYNC_EACH,
    syncing(row(
        "16 KiB random write, fsync after every 8",
        Operations,
        BUFFERED,
        &["rw=randwrite", "bs=16k", "fsync=8"],
    )),
    WRITE_ALL,
    READ_ALL,
    long(cold(row(
        "4 KiB random, 70 % reads, O_DIRECT, depth 16",
        Operations,
        DEPTH_16,
        &["rw=randrw", "rwmixread=70", "bs=4k"],
    ))),
    long(Row {
        timed: false,
        ..row(
            "64 MiB of 4 KiB random writes at once, O_DIRECT, depth 16",
            Operations,
            DEPTH_16,
            &["rw=randwrite", "bs=4k", "io_size=64m"],
        )
    }),
    // Past the page cache a file reads the disk all the same.
    long(Row {
        beside: Some("empty"),
        before: &["rw=read", "bs=256k", "ioengine=psync", "size=64m"],
        ..row(
            "4 KiB random read of 64 MiB that were just read, O_DIRECT, depth 16",
            Operations,
            DEPTH_16,
            &["rw=randread", "bs=4k", "size=64m"],
        )
    }),
    looped("loop device: 4 KiB random write, depth 16", WRITE_16),
    looped("loop device: 4 KiB random read, depth 16", READ_16),
    looped(
        "loop device: 4 KiB random write, fsync after each",
        SYNC_EACH,
    ),
    looped("loop device: 1 MiB sequential write", WRITE_ALL),
    looped("loop device: 1 MiB sequential read", READ_ALL),
];

/// A database's transactions; see `database`.
pub static PGBENCH: Row = long(row(
    "pgbench, TPC-B-like, 4 clients, on ext4 on a loop device",
    Operations,
    &[],
    &[],
));

/// A tree of files; see `fresh`.
pub static COPY: Row = long(row(
    "cp -a of 5,000 files, 200 MB, and sync, on ext4 on a loop device",
    Megabytes,
    &[],
    &[],
));
/// Two images of the same server, where it has several.
pub static TWO_DISKS: Row = long(Row {
    name: "4 KiB random write, O_DIRECT, depth 16, on two disks at once",
    ..WRITE_16
});
/// The image is given back.
pub static DISCARD: Row = long(row(
    "discard of 10 GiB of data, and fsync",
    Megabytes,
    &[],
    &[],
));
/// Writes to a clone that was just made.
pub static CLONE: Row = long(Row {
    name: "4 KiB random write, O_DIRECT, depth 16, first of a clone",
    ..WRITE_16
});

/// What is done to the writers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// A snapshot is taken.
    Snapshot,
    /// One is taken every second from then on.
    EverySecond,
    /// One that was taken before the writers began is deleted.
    Delete,
}

/// Writers, and what is done to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Threads that write.
    pub writers: usize,
    /// In the middle of it.
    pub deed: Deed,
}

const fn load(writers: usize, deed: Deed) -> Load {
    Load { writers, deed }
}

const LOADS: [Load; 5] = [
    load(1, Deed::Snapshot),
    load(16, Deed::Snapshot),
    load(1, Deed::EverySecond),
    load(16, Deed::EverySecond),
    load(16, Deed::Delete),
];

/// How much is run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// `full` or `short`: runs are compared with the last one of the same form.
    pub form: &'static str,
    /// Bytes of the image.
    pub size: u64,
    /// Seconds of each run of fio.
    pub seconds: u64,
    /// Runs of each row, for the peer and for us.
    pub pairs: usize,
    /// Seconds of writing before a snapshot, and after it.
    pub snapshot_seconds: u64,
    /// How many snapshots there are to be when it is measured what many do to Snapmark.
    pub many: &'static [u32],
    /// What is done to writers: each with a snapshot of its own.
    pub loads: &'static [Load],
    /// Whether peers are set up at the same time and share our run of each round, which saves time;
    /// else each peer has the machine and our runs to itself.
    pub together: bool,
}

impl Plan {
    /// What BENCHMARKS.md is made of; some two hours with all peers.
    pub fn full() -> Self {
        Self {
            form: "full",
            size: 1 << 30,
            seconds: 2,
            pairs: 3,
            snapshot_seconds: 10,
            many: &[1, 10, 100, 1000],
            loads: &LOADS,
            together: false,
        }
    }

    /// For development: under three minutes.
    pub fn short() -> Self {
        Self {
            form: "short",
            size: 1 << 30,
            seconds: 1,
            pairs: 3,
            snapshot_seconds: 3,
            many: &[],
            loads: &LOADS[..1],
            together: true,
        }
    }

    /// The jobs of fio of this form, in order; beside some peers only those of the short one.
    pub fn jobs(&self) -> impl Iterator<Item = &'static Row> + use<> {
        let all = self.is_full();
        ROWS.iter().filter(move |row| all || row.short)
    }

    /// All rows of this form.
    pub fn rows(&self) -> impl Iterator<Item = &'static Row> + use<> {
        let fresh = [&PGBENCH, &COPY, &TWO_DISKS, &DISCARD, &CLONE];
        let all = self.is_full();
        self.jobs().chain(fresh.into_iter().filter(move |_| all))
    }

    /// Whether nothing is left out.
    pub fn is_full(&self) -> bool {
        self.form == "full"
    }
}
