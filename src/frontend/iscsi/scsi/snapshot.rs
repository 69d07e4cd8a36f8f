//! The snapshot command: vendor-specific, in three forms. `contrib/iscsi/snapshot-command.md` describes
//! it for those who write drivers.

use super::Answer;
use super::nexus::Nexus;
use super::opcodes::Op;
use super::sense::{Key, Sense, code};
use super::unit::Unit;
use crate::base::check_snapshot_name;
use crate::control::{CommandError, ErrorKind};
use crate::volume::Node;

/// Of byte 1: all disks that the initiator has sessions with, at one point.
const ALL: u8 = 0x01;
/// Of byte 1: GOOD is returned before the snapshot would survive power loss.
const NO_SYNC: u8 = 0x02;
/// The longest name, in bytes.
const LONGEST: usize = 255;
/// Times that a disk that is renamed at the same moment is looked up again.
const TRIES: usize = 4;

/// The snapshot command in its form of ten bytes, for a name that is then sent as data; the form of six
/// bytes where there is nothing to say. Nothing where the name is too long.
#[must_use]
pub fn snapshot_cdb(name: &str, all: bool, no_sync: bool) -> Option<Vec<u8>> {
    if name.is_empty() && !all && !no_sync {
        return Some(vec![0xc0, 0, 0, 0, 0, 0]);
    }
    if name.len() > LONGEST {
        return None;
    }
    let flags = if all { ALL } else { 0 } | if no_sync { NO_SYNC } else { 0 };
    let [high, low] = (name.len() as u16).to_be_bytes();
    Some(vec![0xc1, flags, 0, 0, 0, 0, 0, high, low, 0])
}

/// Takes a snapshot. `disks_of` says which disks an initiator has sessions with, unless it is kept out.
pub(super) fn snapshot(
    unit: &Unit,
    nexus: &Nexus,
    op: Op,
    cdb: &[u8; 16],
    name: &[u8],
    disks_of: &dyn Fn(&str) -> Option<Vec<Node>>,
) -> Result<Answer, Sense> {
    if unit.is_snapshot() {
        let sense = Sense::new(Key::DataProtect, code::SNAPSHOT_READ_ONLY);
        return Err(sense.saying(&"this logical unit is a snapshot itself"));
    }
    let flags = if op == Op::Snapshot6 { 0 } else { cdb[1] };
    let name = match op {
        Op::Snapshot6 => None,
        _ => name_of(name)?,
    };
    for _ in 0..TRIES {
        let nodes = match flags & ALL {
            0 => Some(vec![unit.node]),
            _ => disks_of(&nexus.initiator),
        };
        let Some(nodes) = nodes else {
            return Ok(Answer::Conflict);
        };
        let disks: Vec<String> = nodes
            .iter()
            .filter_map(|node| unit.volumes.name(*node))
            .collect();
        if disks.len() < nodes.len() || disks.is_empty() {
            let gone = CommandError::new(ErrorKind::NotFound, "a disk of this session was deleted");
            return Err(Sense::of_snapshot(&gone));
        }
        if let (Some(name), Some(disk)) = (name, disks.iter().max_by_key(|disk| disk.len())) {
            check_snapshot_name(disk, name).map_err(|error| bad_name(&error))?;
        }
        match unit.commands.snapshot(&disks, name, flags & NO_SYNC == 0) {
            Ok(_) => return Ok(Answer::Good),
            // Renamed between the two looks.
            Err(error) if error.kind == ErrorKind::NotFound => {}
            Err(error) => return Err(Sense::of_snapshot(&error)),
        }
    }
    let gone = CommandError::new(ErrorKind::NotFound, "a disk of this session is gone");
    Err(Sense::of_snapshot(&gone))
}

/// The name in the data: text, whose end may be padded with zeros or spaces; nothing where it is empty.
fn name_of(data: &[u8]) -> Result<Option<&str>, Sense> {
    let text = std::str::from_utf8(data).map_err(|_| bad_name(&"the name is no UTF-8"))?;
    let name = text.trim_end_matches(['\0', ' ']);
    if name.len() > LONGEST {
        return Err(bad_name(&format!(
            "the name has {} bytes; {LONGEST} are allowed",
            name.len()
        )));
    }
    Ok(Some(name).filter(|name| !name.is_empty()))
}

fn bad_name(why: &dyn std::fmt::Display) -> Sense {
    Sense::illegal(code::SNAPSHOT_NAME).saying(why)
}
