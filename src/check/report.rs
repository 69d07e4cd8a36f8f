//! What a check says in the end.

use serde::Serialize;

use super::catalog::Catalog;
use super::cut::Cut;
use super::findings::Findings;
use super::journal::Journal;
use super::pages::Readable;
use super::problem::{Problem, Severity};
use super::repair::Tail;
use super::slots::Use;
use super::versions::Versions;
use crate::ondisk::Uuid;

/// The result in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing is wrong.
    Clean,
    /// What is wrong can be mended.
    Repairable,
    /// What was wrong has been mended.
    Repaired,
    /// Something is lost or in doubt.
    Damaged,
}

/// How many slots are what, over all devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Space {
    /// All of them.
    pub total: u64,
    /// On the free list.
    pub free: u64,
    /// Given up, not yet punched.
    pub pending: u64,
    /// Used by versions.
    pub used: u64,
}

/// What was looked at, and what was found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The result in a word.
    pub verdict: Verdict,
    /// The store's identity.
    pub store: Option<String>,
    /// Bytes in a segment.
    pub segment: u64,
    /// The last commit of the catalog.
    pub commit: u64,
    /// Disks, as of that commit.
    pub disks: usize,
    /// Snapshots, as of that commit; hidden ones are among them.
    pub snapshots: usize,
    /// Versions of segments.
    pub versions: u64,
    /// Blocks of data.
    pub blocks: u64,
    /// Slots.
    pub space: Space,
    /// The journal, where its header can be read.
    pub journal: Option<Journal>,
    /// Bytes of data that were read and compared with their checksums.
    pub data_read: u64,
    /// What is wrong, gravest first.
    pub problems: Vec<Problem>,
    /// How many more problems there are.
    pub left_out: u64,
    /// Whether it is in doubt what the catalog says: then nothing is mended.
    #[serde(skip)]
    pub(super) in_doubt: bool,
    /// Where a repair would go.
    #[serde(skip)]
    pub(super) tail: Option<Tail>,
    /// What giving up the rest of the journal takes, where that is damaged.
    #[serde(skip)]
    pub(super) cut: Option<Cut>,
}

impl Report {
    /// The report on a store without a root.
    pub(super) fn lost(findings: Findings) -> Self {
        let mut report = Self {
            verdict: Verdict::Clean,
            store: None,
            segment: 0,
            commit: 0,
            disks: 0,
            snapshots: 0,
            versions: 0,
            blocks: 0,
            space: Space::default(),
            journal: None,
            data_read: 0,
            problems: Vec::new(),
            left_out: 0,
            in_doubt: false,
            tail: None,
            cut: None,
        };
        report.take(findings);
        report
    }

    pub(super) fn new(
        catalog: &Catalog<'_>,
        readable: &Readable,
        found: &Versions,
        journal: Option<Journal>,
        data_read: u64,
        findings: Findings,
    ) -> Self {
        let devices = catalog.devices.values();
        let count = |wanted| {
            let of = catalog.slots.devices();
            of.map(|(_, slots)| slots.count(wanted)).sum()
        };
        let mut report = Self {
            store: Some(Uuid(catalog.root.uuid).to_string()),
            segment: catalog.root.geometry.segment_bytes(),
            commit: catalog.log.commit,
            disks: catalog.disks.len(),
            snapshots: catalog.snapshots.len(),
            versions: found.count,
            blocks: found.blocks,
            space: Space {
                total: devices.map(|entry| entry.record.slots).sum(),
                free: count(Use::Free),
                pending: count(Use::Pending),
                used: count(Use::Version) + count(Use::Pack),
            },
            journal,
            data_read,
            tail: Some(Tail::of(catalog, readable)),
            ..Self::lost(Findings::default())
        };
        report.take(findings);
        report
    }

    fn take(&mut self, findings: Findings) {
        let has = |severity| findings.count(severity) > 0;
        self.verdict = match (has(Severity::Damage), has(Severity::Repairable)) {
            (true, _) => Verdict::Damaged,
            (false, true) => Verdict::Repairable,
            (false, false) => Verdict::Clean,
        };
        self.in_doubt = findings.in_doubt();
        (self.problems, self.left_out) = findings.finish();
    }
}
