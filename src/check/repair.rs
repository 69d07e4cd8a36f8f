//! Mending what can be mended without guessing.
//!
//! A repair is one commit of the catalog: a frame at the end of its log, with a checksum, made
//! durable by a sync, exactly as the daemon writes one. So it counts whole or not at all, whatever
//! happens meanwhile, and pages, roots and data stay as they are. What needs the devices, as giving
//! space back does, is left to the next mount: slots that nobody has go to the pending list, and
//! maps with versions that nobody sees are marked to be reaped.

use std::io::IoSlice;
use std::path::{Path, PathBuf};

use super::catalog::Catalog;
use super::findings::Findings;
use super::pages::Readable;
use super::problem::{Kind, Problem};
use super::{CheckError, Report, Verdict};
use crate::base::Timestamp;
use crate::device::{Device, DeviceError, FileDevice, Fill, OpenMode};
use crate::ondisk::{Change, FormatError, PAGE, Root, encode_frame};

/// How much is copied at a time.
const COPY: usize = 1 << 20;

/// Where a commit would go.
#[derive(Clone, Debug)]
pub(super) struct Tail {
    root: Root,
    commit: u64,
    offset: u64,
    /// Whether a commit there would count: the log is whole and has begun.
    open: bool,
    /// Bytes of the pages that mean something; the file is sparse, and far longer.
    pages: u64,
}

impl Tail {
    pub fn of(catalog: &Catalog<'_>, readable: &Readable) -> Self {
        Self {
            root: catalog.root.clone(),
            commit: catalog.log.commit,
            offset: catalog.log.tail,
            open: catalog.log.started && catalog.log.whole && catalog.whole,
            pages: readable.end.max(2) * PAGE as u64,
        }
    }
}

/// What a repair did.
pub(super) enum Repaired {
    /// Nothing was to be done, or could be; the reason in words, where there is one.
    Nothing(Option<String>),
    /// All that can be mended; the copies are these.
    Done([PathBuf; 2]),
}

/// Mends what the report says can be mended.
pub(super) fn repair(
    report: &Report,
    pages: &Path,
    log: &Path,
    now: Timestamp,
) -> Result<Repaired, CheckError> {
    let mends = report.problems.iter().flat_map(|problem| &problem.mend);
    let mut changes: Vec<Change> = mends.cloned().collect();
    // Counts first: they are those of the lists as they are, and the other changes keep them.
    changes.sort_by_key(|change| !is_count(change));
    let Some(tail) = report.tail.as_ref().filter(|_| !changes.is_empty()) else {
        return Ok(Repaired::Nothing(None));
    };
    let nothing = |why: &str| Ok(Repaired::Nothing(Some(why.to_owned())));
    let once = match changes.iter().any(saves_a_slot) {
        false => "mount and unmount the store once, then try again",
        true => "do not mount the store: segments that are in use could be lost",
    };
    if report.in_doubt {
        return nothing("nothing was repaired: the catalog itself is damaged");
    }
    if !tail.open {
        return nothing(&format!(
            "nothing was repaired: the log has not begun; {once}"
        ));
    }
    let (pages, log) = (open(pages)?, open(log)?);
    let frame =
        frame(tail, &changes).map_err(|error| CheckError::NotACatalog(error.to_string()))?;
    if frame.len() as u64 > log.len().saturating_sub(tail.offset) {
        return nothing(&format!("nothing was repaired: the log is full; {once}"));
    }
    // A commit that the daemon would refuse must not come into the log: it could not open it.
    let mut catalog = Catalog::read(
        &pages,
        Ok(&log),
        tail.root.clone(),
        &mut Findings::default(),
    );
    if let Err(error) = catalog.apply(&changes) {
        return nothing(&format!("nothing was repaired: {error}"));
    }
    let beside = |file: &FileDevice| PathBuf::from(file.name());
    let copies = [
        copy(&pages, &beside(&pages), tail.pages, now)?,
        copy(&log, &beside(&log), log.len(), now)?,
    ];
    // A program that was killed may have left root and frames in the host's memory alone.
    pages.sync()?;
    log.sync()?;
    log.write_at(&[IoSlice::new(&frame)], tail.offset)?;
    log.sync()?;
    Ok(Repaired::Done(copies))
}

/// Whether it takes a slot that is in use off a list from which a mount punches slots, or hands
/// them out.
fn saves_a_slot(change: &Change) -> bool {
    matches!(change, Change::Free(_) | Change::Take { .. })
}

fn is_count(change: &Change) -> bool {
    matches!(
        change,
        Change::CountFree(..) | Change::CountSpace(_) | Change::CountPack(..)
    )
}

fn frame(tail: &Tail, changes: &[Change]) -> Result<Vec<u8>, FormatError> {
    let (root, commit) = (&tail.root, tail.commit + 1);
    encode_frame(root.uuid, root.generation, commit, changes, root.geometry)
}

fn open(path: &Path) -> Result<FileDevice, DeviceError> {
    FileDevice::open(path, OpenMode::READ_WRITE)
}

/// Copies the first `len` bytes of a file beside another, durably; holes stay holes.
pub(super) fn copy(
    from: &FileDevice,
    beside: &Path,
    len: u64,
    now: Timestamp,
) -> Result<PathBuf, DeviceError> {
    let path = PathBuf::from(format!("{}.before-repair-{}", beside.display(), now.0));
    let to = FileDevice::create(&path, from.len(), Fill::Sparse)?;
    let mut bytes = vec![0; COPY];
    let len = len.min(from.len());
    for start in (0..len).step_by(COPY) {
        let part = &mut bytes[..(len - start).min(COPY as u64) as usize];
        from.read_at(part, start)?;
        if part.iter().any(|byte| *byte != 0) {
            to.write_at(&[IoSlice::new(part)], start)?;
        }
    }
    to.sync()?;
    Ok(path)
}

/// The report of a repair: that of a check afterwards, with what was mended.
pub(super) fn joined(before: Report, mut after: Report, copies: &[PathBuf; 2]) -> Report {
    let mended = before.problems.into_iter();
    let mended = mended.filter(|problem| !problem.mend.is_empty());
    after.problems.extend(mended.map(|problem| Problem {
        repaired: true,
        ..problem
    }));
    let names: Vec<_> = copies
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let message = format!("copies of the catalog as it was: {}", names.join(", "));
    after.problems.push(Problem::note(Kind::File, message));
    if after.verdict == Verdict::Clean {
        after.verdict = Verdict::Repaired;
    }
    after
}
