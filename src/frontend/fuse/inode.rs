//! Inode numbers: which node of the mount each one stands for, without a table.

use fuser::INodeNo;

use super::special::Special;
use crate::base::DiskId;
use crate::volume::{Node, SnapshotId};

/// First inode number of disks; [`DiskId`] has 32 bits, so they end below [`SNAPSHOTS`].
const DISKS: u64 = 1 << 32;
/// First inode number of snapshots.
const SNAPSHOTS: u64 = 1 << 48;

/// First of the numbers that `.control` has, a new one for each look-up, and how many there are.
///
/// While a write is under way the kernel holds a lock of the inode, which the truncation in a
/// shell's `>` waits for. With one inode for all, a snapshot would wait behind another client's
/// long command.
const CONTROLS: u64 = 1 << 40;
const CONTROL_COUNT: u64 = 1 << 40;

/// The number of `.control` for the look-up that was counted as this one.
pub(super) fn control_number(lookup: u64) -> INodeNo {
    INodeNo(CONTROLS + lookup % CONTROL_COUNT)
}

/// What an inode number stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inode {
    /// The root directory, the only one.
    Root,
    /// One of the mount's own files.
    Special(Special),
    /// A disk or a snapshot.
    Node(Node),
}

impl Inode {
    /// What this number stands for; `None` where the mount never gave it out.
    pub(super) fn from_number(number: INodeNo) -> Option<Self> {
        let number = number.0;
        match number {
            1 => Some(Self::Root),
            SNAPSHOTS.. => Some(Self::Node(Node::Snapshot(SnapshotId(number - SNAPSHOTS)))),
            CONTROLS.. if number - CONTROLS < CONTROL_COUNT => {
                Some(Self::Special(Special::Control))
            }
            DISKS.. => {
                let id = u32::try_from(number - DISKS).ok()?;
                Some(Self::Node(Node::Disk(DiskId(id))))
            }
            _ => Special::ALL
                .into_iter()
                .find(|special| special.number() == number)
                .map(Self::Special),
        }
    }

    /// Its number, the one that `stat` and a listing show.
    pub(super) fn number(self) -> INodeNo {
        INodeNo(match self {
            Self::Root => 1,
            Self::Special(special) => special.number(),
            Self::Node(Node::Disk(id)) => DISKS + u64::from(id.0),
            Self::Node(Node::Snapshot(id)) => SNAPSHOTS + id.0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_there_and_back() {
        let disk = |id| Inode::Node(Node::Disk(DiskId(id)));
        let snapshot = |id| Inode::Node(Node::Snapshot(SnapshotId(id)));
        let mut all = vec![
            Inode::Root,
            disk(0),
            disk(u32::MAX),
            snapshot(0),
            snapshot(1 << 40),
        ];
        all.extend(Special::ALL.map(Inode::Special));
        for inode in all {
            assert_eq!(Inode::from_number(inode.number()), Some(inode));
        }
    }

    #[test]
    fn every_look_up_of_the_control_file_has_a_number_of_its_own() {
        for lookup in [0, 1, CONTROL_COUNT - 1, CONTROL_COUNT, u64::MAX] {
            let number = control_number(lookup);
            let control = Inode::Special(Special::Control);
            assert_eq!(Inode::from_number(number), Some(control));
        }
        assert_ne!(control_number(1), control_number(2));
    }

    #[test]
    fn numbers_never_given_out_stand_for_nothing() {
        for number in [0, 99, DISKS - 1, DISKS + (1 << 32), SNAPSHOTS - 1] {
            assert_eq!(Inode::from_number(INodeNo(number)), None, "{number}");
        }
    }
}
