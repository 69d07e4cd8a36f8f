//! The catalog's log: which frames add to the root, and whether any is missing.

use super::findings::Findings;
use super::problem::{Kind, Problem};
use crate::device::Device;
use crate::ondisk::{Change, FrameHeader, PAGE, Root};

const PAGE_BYTES: u64 = PAGE as u64;
/// How much is read at a time.
const READ: usize = 1 << 20;

/// The frames of the root's generation, and where the log goes on.
pub(super) struct Log {
    /// Offset and header, those that add to the root, in order.
    pub frames: Vec<(u64, FrameHeader)>,
    /// Where the next frame goes.
    pub tail: u64,
    /// The number of the last commit.
    pub commit: u64,
    /// Whether the frame that opens the generation is there.
    pub started: bool,
    /// Whether all that was committed is there.
    pub whole: bool,
}

/// There is no log.
pub(super) fn missing(why: &str, root: &Root, findings: &mut Findings) -> Log {
    let message = format!(
        "{why}: it has all commits after the catalog's last checkpoint, number {}; put it back, or \
         restore both catalog files from a copy. All of them are lost without it, and none there \
         were only if the store was unmounted in order and not mounted again since",
        root.commit
    );
    findings.add(Problem::damage(Kind::Log, message));
    Log {
        frames: Vec::new(),
        tail: 0,
        commit: root.commit,
        started: false,
        whole: false,
    }
}

/// Looks at the whole log.
pub(super) fn read(device: &dyn Device, root: &Root, findings: &mut Findings) -> Log {
    let mut log = Log {
        frames: Vec::new(),
        tail: 0,
        commit: root.commit,
        started: false,
        whole: true,
    };
    let found = match search(device, root) {
        Ok(found) => found,
        Err(error) => {
            findings.add(Problem::damage(Kind::Log, error).in_file(device.name(), 0));
            log.whole = false;
            return log;
        }
    };
    let newest = found.iter().map(|(_, header)| header.generation).max();
    if let Some(newest) = newest.filter(|newest| *newest > root.generation) {
        let message = format!(
            "the newest root is lost: the log continues generation {newest}, and the best root \
             left is {}; restore the catalog from a copy",
            root.generation
        );
        findings.add(Problem::damage(Kind::Root, message).in_file(device.name(), 0));
        log.whole = false;
    }
    let ours = found.into_iter();
    let ours: Vec<_> = ours
        .filter(|(_, header)| header.generation == root.generation)
        .collect();
    let capacity = device.len() / PAGE_BYTES * PAGE_BYTES;
    let mut expected = root.commit;
    for (offset, header) in &ours {
        if *offset < log.tail {
            continue; // Inside a frame.
        }
        let fits = header.frame_len() <= capacity - offset;
        if *offset != log.tail || header.commit != expected || !fits {
            break;
        }
        if !is_whole(device, *offset, header) {
            break;
        }
        log.frames.push((*offset, *header));
        log.tail += header.frame_len();
        log.commit = expected;
        log.started = true;
        expected += 1;
    }
    // One frame at most is not known to be durable: a whole one behind a broken one is damage.
    let stray = ours.iter().find(|(offset, header)| {
        *offset > log.tail || (*offset == log.tail && header.commit != expected)
    });
    if let Some((offset, header)) = stray {
        let message = format!(
            "commit {expected} should be here and is damaged, and commit {} follows at byte \
             {offset}: what was committed is lost; restore the catalog from a copy",
            header.commit
        );
        findings.add(Problem::damage(Kind::Log, message).in_file(device.name(), log.tail));
        log.whole = false;
    }
    log
}

/// The changes of a frame.
pub(super) fn changes(
    device: &dyn Device,
    (offset, header): &(u64, FrameHeader),
    root: &Root,
) -> Result<Vec<Change>, String> {
    let mut frame = vec![0; header.frame_len() as usize];
    let read = device.read_at(&mut frame, *offset);
    read.map_err(|error| error.to_string())?;
    let changes = header.changes(&frame, root.geometry);
    changes.map_err(|error| error.to_string())
}

fn is_whole(device: &dyn Device, offset: u64, header: &FrameHeader) -> bool {
    let mut frame = vec![0; header.frame_len() as usize];
    device.read_at(&mut frame, offset).is_ok() && header.verify(&frame).is_ok()
}

/// All headers of the store's frames, by offset.
fn search(device: &dyn Device, root: &Root) -> Result<Vec<(u64, FrameHeader)>, String> {
    let capacity = device.len() / PAGE_BYTES * PAGE_BYTES;
    let mut found = Vec::new();
    let mut bytes = vec![0; READ];
    for start in (0..capacity).step_by(READ) {
        let len = (capacity - start).min(READ as u64) as usize;
        let read = device.read_at(&mut bytes[..len], start);
        read.map_err(|error| error.to_string())?;
        let headers = bytes[..len].chunks_exact(PAGE).map(FrameHeader::decode);
        let numbered = (start..).step_by(PAGE).zip(headers);
        found.extend(numbered.filter_map(|(offset, header)| {
            let header = header.ok().filter(|header| header.uuid == root.uuid)?;
            Some((offset, header))
        }));
    }
    Ok(found)
}
