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

/// One workload.
#[derive(Debug)]
pub struct Row {
    /// What it is called in the report and in the file of the last run.
    pub name: &'static str,
    /// What its figure counts.
    pub unit: Unit,
    /// What makes up the job, as options of fio without their dashes.
    pub options: &'static [&'static str],
    /// Whether it reads; then the page cache is emptied before.
    pub reads: bool,
    /// Whether it syncs, which an empty filesystem has nothing to do for.
    pub syncs: bool,
}

const fn row(name: &'static str, unit: Unit, options: &'static [&'static str]) -> Row {
    Row {
        name,
        unit,
        options,
        reads: false,
        syncs: false,
    }
}

const fn reading(row: Row) -> Row {
    Row { reads: true, ..row }
}

const fn syncing(row: Row) -> Row {
    Row { syncs: true, ..row }
}

use Unit::{Megabytes, Operations};

/// All of them, in the order of the table.
pub const ROWS: [Row; 8] = [
    row(
        "4 KiB random write, buffered, depth 1",
        Operations,
        &["rw=randwrite", "bs=4k", "ioengine=psync"],
    ),
    reading(row(
        "4 KiB random read, buffered, depth 1",
        Operations,
        &["rw=randread", "bs=4k", "ioengine=psync"],
    )),
    row(
        "4 KiB random write, O_DIRECT, depth 16",
        Operations,
        &[
            "rw=randwrite",
            "bs=4k",
            "ioengine=libaio",
            "iodepth=16",
            "direct=1",
        ],
    ),
    reading(row(
        "4 KiB random read, O_DIRECT, depth 16",
        Operations,
        &[
            "rw=randread",
            "bs=4k",
            "ioengine=libaio",
            "iodepth=16",
            "direct=1",
        ],
    )),
    syncing(row(
        "4 KiB random write, fsync after each",
        Operations,
        &["rw=randwrite", "bs=4k", "ioengine=psync", "fsync=1"],
    )),
    syncing(row(
        "16 KiB random write, fsync after every 8",
        Operations,
        &["rw=randwrite", "bs=16k", "ioengine=psync", "fsync=8"],
    )),
    row(
        "1 MiB sequential write, O_DIRECT, depth 1",
        Megabytes,
        &["rw=write", "bs=1m", "ioengine=psync", "direct=1"],
    ),
    reading(row(
        "1 MiB sequential read, O_DIRECT, depth 1",
        Megabytes,
        &["rw=read", "bs=1m", "ioengine=psync", "direct=1"],
    )),
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
    /// Whether peers are set up at the same time and share our run of each round, which saves time;
    /// else each peer has the machine and our runs to itself.
    pub together: bool,
}

impl Plan {
    /// What BENCHMARKS.md is made of; most of an hour.
    pub fn full() -> Self {
        Self {
            form: "full",
            size: 1 << 30,
            seconds: 3,
            pairs: 5,
            snapshot_seconds: 10,
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
            together: true,
        }
    }
}
