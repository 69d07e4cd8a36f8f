//! The root directory: names, listing, and what makes, deletes and renames.

use std::ffi::OsStr;
use std::sync::atomic::Ordering::Relaxed;

use fuser::{Errno, FileAttr, FileType, RenameFlags, ReplyDirectory};
use parking_lot::Mutex;

use super::attr::file_attr;
use super::inode::{Inode, control_number};
use super::special::Special;
use super::{Answer, Mount};
use crate::volume::{NewDisk, Node, SetAttributes};

/// The longest file name.
const NAME_MAX: usize = 255;

/// One handle of the directory: the entries as they were when it was read from its start, so that
/// nothing is shown twice or left out while others come and go.
#[derive(Debug, Default)]
pub(super) struct Listing(Mutex<Vec<Entry>>);

type Entry = (String, Inode);

impl Listing {
    /// Answers one `readdir`; reading from the start takes a new look.
    pub(super) fn read(&self, mount: &Mount, offset: u64, mut reply: ReplyDirectory) {
        let mut entries = self.0.lock();
        if offset == 0 {
            *entries = entries_of(mount);
        }
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (at, (name, inode)) in entries.iter().enumerate().skip(skip) {
            let kind = match inode {
                Inode::Root => FileType::Directory,
                _ => FileType::RegularFile,
            };
            if reply.add(inode.number(), at as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}

fn entries_of(mount: &Mount) -> Vec<Entry> {
    let dots = [".", ".."].map(|name| (name.to_owned(), Inode::Root));
    let own = Special::ALL.map(|special| (special.name().to_owned(), Inode::Special(special)));
    let nodes = mount.volumes.list().into_iter();
    let nodes = nodes.map(|(name, node)| (name, Inode::Node(node)));
    dots.into_iter().chain(own).chain(nodes).collect()
}

impl Mount {
    /// The entry with this name.
    pub(super) fn lookup(&self, name: &OsStr) -> Answer<FileAttr> {
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let name = name.to_str().ok_or(Errno::ENOENT)?;
        match Special::named(name) {
            Some(special) => {
                let mut attr = self.attributes(Inode::Special(special))?;
                if special == Special::Control {
                    attr.ino = control_number(self.control_lookups.fetch_add(1, Relaxed));
                }
                Ok(attr)
            }
            None => {
                let node = self.volumes.lookup(name).ok_or(Errno::ENOENT)?;
                self.attributes(Inode::Node(node))
            }
        }
    }

    /// Makes an empty disk.
    pub(super) fn make(&self, name: &OsStr, owner: Owner) -> Answer<Node> {
        let disk = NewDisk {
            name: text(name)?.to_owned(),
            size: 0,
            mode: owner.mode,
            uid: owner.uid,
            gid: owner.gid,
        };
        Ok(Node::Disk(self.volumes.create(disk)?))
    }

    /// Makes an empty disk and shows it.
    pub(super) fn mknod(&self, name: &OsStr, owner: Owner) -> Answer<FileAttr> {
        let node = self.make(name, owner)?;
        Ok(file_attr(&self.volumes.attributes(node)?))
    }

    /// Makes a disk and opens it. One that came into being since the kernel looked is opened as
    /// it is, unless `flags` ask for a new one.
    pub(super) fn create(&self, name: &OsStr, owner: Owner, flags: i32) -> Answer<FileAttr> {
        let node = match self.make(name, owner) {
            Err(error) if error.code() == libc::EEXIST && flags & libc::O_EXCL == 0 => {
                self.volumes.lookup(text(name)?).ok_or(error)?
            }
            made => made?,
        };
        self.open_node(node, flags)?;
        let attributes = if flags & libc::O_TRUNC == 0 {
            self.volumes.attributes(node)
        } else {
            let empty = SetAttributes {
                size: Some(0),
                ..SetAttributes::default()
            };
            self.volumes.set_attributes(node, &empty)
        };
        match attributes {
            Ok(attributes) => Ok(file_attr(&attributes)),
            Err(error) => {
                self.close_node(node);
                Err(error.into())
            }
        }
    }

    /// Deletes a disk or a snapshot.
    pub(super) fn unlink(&self, name: &OsStr) -> Answer<()> {
        Ok(self.volumes.remove(text(name)?)?)
    }

    /// Renames a disk, or the part of a snapshot's name after the `@`.
    pub(super) fn rename(&self, from: &OsStr, to: &OsStr, flags: RenameFlags) -> Answer<()> {
        if !RenameFlags::RENAME_NOREPLACE.contains(flags) {
            return Err(Errno::EINVAL);
        }
        let replace = !flags.contains(RenameFlags::RENAME_NOREPLACE);
        let (from, to) = (text(from)?, text(to)?);
        Ok(self.volumes.rename(from, to, replace)?)
    }
}

/// Owner and mode of a new disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner {
    uid: u32,
    gid: u32,
    mode: u32,
}

impl Owner {
    /// Those of a disk that this request makes.
    pub(super) fn of(request: &fuser::Request, mode: u32, umask: u32) -> Self {
        Self {
            uid: request.uid(),
            gid: request.gid(),
            mode: mode & 0o7777 & !umask,
        }
    }
}

/// A name that something is to be done with. The mount's own files stay as they are.
fn text(name: &OsStr) -> Answer<&str> {
    let name = name.to_str().ok_or(Errno::EINVAL)?;
    match Special::named(name) {
        Some(_) => Err(Errno::EPERM),
        None => Ok(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn the_mounts_own_files_and_names_that_are_no_text_are_left_alone() {
        let code = |name: &OsStr| text(name).map(str::to_owned).map_err(Errno::code);
        assert_eq!(code(".control".as_ref()), Err(libc::EPERM));
        assert_eq!(code(OsStr::from_bytes(b"\xff")), Err(libc::EINVAL));
        assert_eq!(code("vm1.img@a".as_ref()), Ok("vm1.img@a".to_owned()));
    }
}
