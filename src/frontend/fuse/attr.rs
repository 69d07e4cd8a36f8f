//! Attributes as the kernel wants them.

use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use fuser::{FileAttr, FileType, TimeOrNow};

use super::inode::Inode;
use super::special::Special;
use super::{Answer, Mount};
use crate::base::{BLOCK_SIZE, Timestamp, now};
use crate::volume::{Attributes, Node};

/// How long the kernel may believe what it was told: not at all. Commands and other frontends
/// change sizes, names and allocation behind its back.
pub(super) const TTL: Duration = Duration::ZERO;

/// The root directory: it looks as the directory that it is mounted on looked, so that its owner
/// and mode say who may make and delete disks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Root {
    uid: u32,
    gid: u32,
    mode: u16,
    since: SystemTime,
    /// Who serves: the mount's own files are his, whoever owns the directory. A command of
    /// `.control` is done with his rights.
    server: (u32, u32),
}

impl Root {
    /// The root over a directory with this metadata.
    pub(super) fn over(directory: &std::fs::Metadata) -> Self {
        Self {
            uid: directory.uid(),
            gid: directory.gid(),
            mode: (directory.mode() & 0o7777) as u16,
            since: SystemTime::now(),
            server: (
                rustix::process::geteuid().as_raw(),
                rustix::process::getegid().as_raw(),
            ),
        }
    }

    fn directory(self) -> FileAttr {
        FileAttr {
            kind: FileType::Directory,
            perm: self.mode,
            nlink: 2,
            ..self.owned(Inode::Root)
        }
    }

    fn special(self, special: Special) -> FileAttr {
        FileAttr {
            perm: special.mode(),
            uid: self.server.0,
            gid: self.server.1,
            ..self.owned(Inode::Special(special))
        }
    }

    fn owned(self, inode: Inode) -> FileAttr {
        FileAttr {
            ino: inode.number(),
            size: 0,
            blocks: 0,
            atime: self.since,
            mtime: self.since,
            ctime: self.since,
            crtime: self.since,
            kind: FileType::RegularFile,
            perm: 0,
            nlink: 1,
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            blksize: BLOCK_SIZE as u32,
            flags: 0,
        }
    }
}

impl Mount {
    /// What `stat` shows.
    pub(super) fn attributes(&self, inode: Inode) -> Answer<FileAttr> {
        Ok(match inode {
            Inode::Root => self.root.directory(),
            Inode::Special(special) => self.root.special(special),
            Inode::Node(node) => file_attr(&self.volumes.attributes(node)?),
        })
    }
}

/// A disk's or a snapshot's attributes. Write bits are cut off a snapshot, whatever it says.
pub(super) fn file_attr(from: &Attributes) -> FileAttr {
    let writable = match from.node {
        Node::Disk(_) => 0o7777,
        Node::Snapshot(_) => 0o7555,
    };
    FileAttr {
        ino: Inode::Node(from.node).number(),
        size: from.size,
        blocks: from.allocated / 512,
        atime: from.accessed.into(),
        mtime: from.modified.into(),
        ctime: from.changed.into(),
        crtime: from.created.into(),
        kind: FileType::RegularFile,
        perm: (from.mode & writable) as u16,
        nlink: u32::from(from.linked),
        uid: from.uid,
        gid: from.gid,
        rdev: 0,
        blksize: BLOCK_SIZE as u32,
        flags: 0,
    }
}

/// A time that `utimensat` set.
pub(super) fn timestamp(time: TimeOrNow) -> Timestamp {
    match time {
        TimeOrNow::SpecificTime(time) => time.into(),
        TimeOrNow::Now => now(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::DiskId;
    use crate::volume::SnapshotId;

    fn attributes(node: Node) -> Attributes {
        Attributes {
            node,
            size: 1 << 40,
            allocated: 8192,
            mode: 0o640,
            uid: 7,
            gid: 8,
            accessed: Timestamp(1),
            modified: Timestamp(2),
            changed: Timestamp(3),
            created: Timestamp(4),
            linked: true,
        }
    }

    #[test]
    fn allocation_counts_in_sectors() {
        let attr = file_attr(&attributes(Node::Disk(DiskId(3))));
        assert_eq!((attr.size, attr.blocks), (1 << 40, 16));
        assert_eq!((attr.perm, attr.nlink), (0o640, 1));
        assert_eq!((attr.uid, attr.gid), (7, 8));
    }

    #[test]
    fn snapshots_never_look_writable_and_deleted_files_have_no_link() {
        let mut from = attributes(Node::Snapshot(SnapshotId(3)));
        from.linked = false;
        let attr = file_attr(&from);
        assert_eq!((attr.perm, attr.nlink), (0o440, 0));
    }
}
