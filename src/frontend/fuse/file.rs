//! Content: opening, reading, writing, allocating, seeking and copying.

use std::sync::Arc;

use fuser::{Errno, FileAttr, FileHandle, FopenFlags, OpenAccMode, OpenFlags};

use super::attr::file_attr;
use super::buffer::with_buffer;
use super::control_file::ControlHandle;
use super::handles::{Handle, NODE};
use super::inode::Inode;
use super::special::{Special, slice};
use super::{Answer, Mount};
use crate::base::DiskId;
use crate::volume::{Extent, Node, SetAttributes, Whence};

/// The most that one `copy_file_range` request copies; the kernel asks again for the rest.
const COPY_MAX: u64 = 8 << 20;
/// The piece that a copy goes in.
const COPY_PIECE: u64 = 1 << 20;

/// How disks and snapshots are open: nothing stays in the page cache, where a snapshot would miss
/// it, and writers of one disk run side by side.
pub(super) const NODE_FLAGS: FopenFlags =
    FopenFlags::FOPEN_DIRECT_IO.union(FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES);

/// A change that `fallocate` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Allocation {
    /// Space is to be there.
    Allocate {
        /// Whether the disk may grow.
        grow: bool,
    },
    /// The range is to read as zeros, and gives its space back.
    Zero {
        /// Whether the disk may grow.
        grow: bool,
    },
}

impl Allocation {
    /// What these mode bits ask for.
    pub(super) fn from_mode(mode: i32) -> Answer<Self> {
        const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
        const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
        const ZERO_KEEP: i32 = ZERO | KEEP;
        match mode {
            0 => Ok(Self::Allocate { grow: true }),
            KEEP => Ok(Self::Allocate { grow: false }),
            PUNCH | ZERO_KEEP => Ok(Self::Zero { grow: false }),
            ZERO => Ok(Self::Zero { grow: true }),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }
}

/// Whether a write with these flags is acknowledged only once it survives power loss. `O_SYNC`
/// contains `O_DSYNC`, and the kernel adds them for `RWF_SYNC` and for mounts with `-o sync`; it
/// sends no `FSYNC` of its own after direct writes.
pub(super) fn wants_sync(flags: OpenFlags) -> bool {
    flags.0 & libc::O_DSYNC != 0
}

impl Mount {
    /// Opens whatever this is, for this user.
    pub(super) fn open(
        &self,
        inode: Inode,
        flags: OpenFlags,
        user: u32,
    ) -> Answer<(FileHandle, FopenFlags)> {
        match inode {
            Inode::Root => Err(Errno::EISDIR),
            Inode::Special(special) => self.open_special(special, flags.acc_mode(), user),
            Inode::Node(node) => {
                self.open_node(node, flags.0)?;
                Ok((NODE, NODE_FLAGS))
            }
        }
    }

    fn open_special(
        &self,
        special: Special,
        mode: OpenAccMode,
        user: u32,
    ) -> Answer<(FileHandle, FopenFlags)> {
        let handle = match (special, mode) {
            (_, OpenAccMode::O_RDONLY) => {
                let text = special.text(&*self.commands).into_bytes().into();
                // Nobody else's handles are to keep these two from seeing the state.
                if user == 0 || user == rustix::process::geteuid().as_raw() {
                    self.handles.insert(Handle::Text(text))
                } else {
                    self.handles.insert_bounded(text)?
                }
            }
            (Special::Control, _) => self.handles.insert(Handle::Control(Arc::default())),
            (Special::Stats | Special::Status, _) => return Err(Errno::EACCES),
        };
        Ok((handle, FopenFlags::FOPEN_DIRECT_IO))
    }

    /// Counts a handle of a node.
    pub(super) fn open_node(&self, node: Node, flags: i32) -> Answer<()> {
        let writes = OpenFlags(flags).acc_mode() != OpenAccMode::O_RDONLY;
        if writes {
            writable(node)?;
        }
        self.volumes.open(node)?;
        self.handles.opened(node);
        Ok(())
    }

    /// Ends a handle of a node.
    pub(super) fn close_node(&self, node: Node) {
        if self.handles.closed(node) {
            self.volumes.close(node);
        }
    }

    /// Reads, and hands what was read to `done`.
    pub(super) fn read(
        &self,
        inode: Inode,
        fh: FileHandle,
        offset: u64,
        size: u32,
        done: impl FnOnce(Answer<&[u8]>),
    ) {
        match inode {
            Inode::Node(node) => with_buffer(size as usize, |buffer| {
                match self.volumes.read(node, offset, buffer) {
                    Ok(len) => done(Ok(&buffer[..len])),
                    Err(error) => done(Err(error.into())),
                }
            }),
            Inode::Special(_) => match self.handles.get(fh) {
                Some(Handle::Text(text)) => done(Ok(slice(&text, offset, size))),
                Some(Handle::Control(handle)) => {
                    done(Ok(slice(handle.answers().as_bytes(), offset, size)));
                }
                Some(Handle::Directory(_)) | None => done(Err(Errno::EBADF)),
            },
            Inode::Root => done(Err(Errno::EISDIR)),
        }
    }

    /// The handle of `.control` with this number.
    pub(super) fn control(&self, fh: FileHandle) -> Answer<Arc<ControlHandle>> {
        match self.handles.get(fh) {
            Some(Handle::Control(handle)) => Ok(handle),
            _ => Err(Errno::EBADF),
        }
    }

    /// Changes attributes. Those of the mount's own files and of the root are not kept, so only
    /// what a shell's `>` does to them passes.
    pub(super) fn set_attributes(&self, inode: Inode, set: &SetAttributes) -> Answer<FileAttr> {
        let owner_or_mode = set.mode.is_some() || set.uid.is_some() || set.gid.is_some();
        match inode {
            _ if *set == SetAttributes::default() => self.attributes(inode),
            Inode::Special(_) if !owner_or_mode => self.attributes(inode),
            Inode::Special(_) | Inode::Root => Err(Errno::EPERM),
            Inode::Node(node) => {
                writable(node)?;
                Ok(file_attr(&self.volumes.set_attributes(node, set)?))
            }
        }
    }

    /// Returns when all that was acknowledged before survives power loss.
    pub(super) fn sync(&self) -> Answer<()> {
        Ok(self.volumes.sync()?)
    }

    /// `fallocate`.
    pub(super) fn allocate(&self, inode: Inode, what: Allocation, range: Extent) -> Answer<()> {
        let disk = disk(inode)?;
        match what {
            Allocation::Allocate { grow } => self.volumes.allocate(disk, range, grow)?,
            Allocation::Zero { grow } => {
                let end = range.offset.checked_add(range.len).ok_or(Errno::EFBIG)?;
                let size = self.volumes.attributes(Node::Disk(disk))?.size;
                self.volumes.discard(disk, range)?;
                if grow && end > size {
                    let tail = Extent {
                        offset: end - 1,
                        len: 1,
                    };
                    self.volumes.allocate(disk, tail, true)?;
                }
            }
        }
        Ok(())
    }

    /// `lseek` for data and holes; the kernel does the other kinds itself.
    pub(super) fn seek(&self, inode: Inode, offset: i64, whence: i32) -> Answer<i64> {
        let Inode::Node(node) = inode else {
            return Err(Errno::EINVAL);
        };
        let whence = match whence {
            libc::SEEK_DATA => Whence::Data,
            libc::SEEK_HOLE => Whence::Hole,
            _ => return Err(Errno::EINVAL),
        };
        let offset = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
        let found = self.volumes.seek(node, offset, whence)?;
        let found = found.ok_or(Errno::ENXIO)?;
        i64::try_from(found).map_err(|_| Errno::EOVERFLOW)
    }

    /// Copies from one node to another; returns how much, which may be less than asked for.
    pub(super) fn copy(&self, from: (Inode, u64), to: (Inode, u64), len: u64) -> Answer<u32> {
        let Inode::Node(source) = from.0 else {
            return Err(Errno::EINVAL);
        };
        let target = disk(to.0)?;
        let len = len.min(COPY_MAX);
        let mut done = 0;
        while done < len {
            let piece = (len - done).min(COPY_PIECE);
            match self.copy_piece((source, from.1 + done), (target, to.1 + done), piece) {
                Ok(0) => break,
                Ok(copied) => done += copied,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        u32::try_from(done).map_err(|_| Errno::EOVERFLOW)
    }

    fn copy_piece(&self, from: (Node, u64), to: (DiskId, u64), len: u64) -> Answer<u64> {
        with_buffer(len as usize, |buffer| {
            let got = self.volumes.read(from.0, from.1, buffer)?;
            if got > 0 {
                self.volumes.write(to.0, to.1, &buffer[..got])?;
            }
            Ok(got as u64)
        })
    }
}

/// The disk that a request wants to change.
pub(super) fn disk(inode: Inode) -> Answer<DiskId> {
    match inode {
        Inode::Node(Node::Disk(id)) => Ok(id),
        Inode::Node(Node::Snapshot(_)) => Err(Errno::EROFS),
        Inode::Special(_) => Err(Errno::EOPNOTSUPP),
        Inode::Root => Err(Errno::EISDIR),
    }
}

fn writable(node: Node) -> Answer<()> {
    match node {
        Node::Disk(_) => Ok(()),
        Node::Snapshot(_) => Err(Errno::EROFS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::SnapshotId;

    #[test]
    fn fallocate_modes_are_understood_or_refused() {
        let of = |mode| Allocation::from_mode(mode).map_err(Errno::code);
        let keep = libc::FALLOC_FL_KEEP_SIZE;
        assert_eq!(of(0), Ok(Allocation::Allocate { grow: true }));
        assert_eq!(of(keep), Ok(Allocation::Allocate { grow: false }));
        let zero = |grow| Ok(Allocation::Zero { grow });
        assert_eq!(of(libc::FALLOC_FL_PUNCH_HOLE | keep), zero(false));
        assert_eq!(of(libc::FALLOC_FL_ZERO_RANGE | keep), zero(false));
        assert_eq!(of(libc::FALLOC_FL_ZERO_RANGE), zero(true));
        for mode in [
            libc::FALLOC_FL_PUNCH_HOLE,
            libc::FALLOC_FL_COLLAPSE_RANGE,
            libc::FALLOC_FL_INSERT_RANGE,
            libc::FALLOC_FL_UNSHARE_RANGE,
        ] {
            assert_eq!(of(mode), Err(libc::EOPNOTSUPP), "{mode:#x}");
        }
    }

    #[test]
    fn synchronous_writes_are_known_by_their_flags() {
        assert!(wants_sync(OpenFlags(libc::O_RDWR | libc::O_SYNC)));
        assert!(wants_sync(OpenFlags(libc::O_WRONLY | libc::O_DSYNC)));
        assert!(!wants_sync(OpenFlags(libc::O_RDWR | libc::O_DIRECT)));
    }

    #[test]
    fn only_disks_can_be_written() {
        let of = |inode| disk(inode).map_err(Errno::code);
        assert_eq!(of(Inode::Node(Node::Disk(DiskId(3)))), Ok(DiskId(3)));
        let snapshot = Inode::Node(Node::Snapshot(SnapshotId(3)));
        assert_eq!(of(snapshot), Err(libc::EROFS));
        assert_eq!(of(Inode::Root), Err(libc::EISDIR));
    }
}
