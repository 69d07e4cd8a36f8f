//! Each request of the kernel, dispatched: reads and writes are answered where they come in, what
//! may take long by a worker.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::AcqRel};
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags,
    Generation, INodeNo, IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr,
    ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyIoctl,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::attr::{TTL, timestamp};
use super::capabilities::negotiate;
use super::directory::Owner;
use super::file::{Allocation, NODE_FLAGS, disk, wants_sync};
use super::handles::{Handle, NODE};
use super::inode::Inode;
use super::parking::{Parking, When};
use super::{Answer, FuseOptions, Mount};
use crate::base::{BLOCK_SIZE, Workers};
use crate::volume::{Extent, SetAttributes};

/// Inode numbers are never given out twice, so one generation does.
const GENERATION: Generation = Generation(0);

/// The mount as the FUSE library calls it.
pub(super) struct Adapter {
    pub(super) mount: Arc<Mount>,
    pub(super) workers: Arc<Workers>,
    pub(super) parking: Arc<Parking>,
    pub(super) options: FuseOptions,
    /// Threads that took requests and are at a sync.
    pub(super) syncing: AtomicUsize,
}

/// What a number stands for; the kernel asks for none that it was not given.
fn inode(number: INodeNo) -> Answer<Inode> {
    Inode::from_number(number).ok_or(Errno::ENOENT)
}

impl Adapter {
    /// Has a worker answer.
    fn later(&self, job: impl FnOnce(&Mount) + Send + 'static) {
        let mount = Arc::clone(&self.mount);
        self.workers.run(move || job(&mount));
    }

    /// Has a worker do it and answer with success or failure.
    fn later_empty(
        &self,
        reply: ReplyEmpty,
        job: impl FnOnce(&Mount) -> Answer<()> + Send + 'static,
    ) {
        self.later(move |mount| empty(reply, job(mount)));
    }

    /// Makes all durable, and then has it answered: by this thread, which is a switch of threads less,
    /// as long as enough others are left to take requests.
    fn sync_and(&self, answer: impl FnOnce(Answer<()>) + Send + 'static) {
        let most = self.options.threads / 2;
        if self.syncing.fetch_add(1, AcqRel) < most {
            answer(self.mount.sync());
            self.syncing.fetch_sub(1, AcqRel);
        } else {
            self.syncing.fetch_sub(1, AcqRel);
            self.later(move |mount| answer(mount.sync()));
        }
    }

    fn write_control(&self, fh: FileHandle, data: &[u8], reply: ReplyWrite) {
        let handle = match self.mount.control(fh) {
            Ok(handle) => handle,
            Err(error) => return reply.error(error),
        };
        if let Err(error) = handle.admit(&*self.mount.commands, data) {
            return reply.error(error);
        }
        let data = data.to_vec();
        self.later(move |mount| {
            let result = handle.write(&*mount.commands, &data);
            written(reply, result.map(|()| data.len()));
        });
    }

    fn write_disk(&self, inode: Inode, offset: u64, data: &[u8], sync: bool, reply: ReplyWrite) {
        if self.mount.volumes.is_crowded(data.len()) {
            let mount = Arc::clone(&self.mount);
            let late = move |data: &[u8], when| {
                let result = match when {
                    When::Parked => write_now(&mount, inode, offset, data),
                    // This thread answers reads too.
                    When::NoRoom => disk(inode)
                        .and_then(|id| Ok(mount.volumes.write_in_a_hurry(id, offset, data)?)),
                };
                let synced = result.and_then(|()| if sync { mount.sync() } else { Ok(()) });
                written(reply, synced.map(|()| data.len()));
            };
            if let Err(late) = self.parking.park(data, late) {
                late(data, When::NoRoom);
            }
            return;
        }
        let len = data.len();
        match write_now(&self.mount, inode, offset, data) {
            Ok(()) if sync => self.sync_and(move |synced| written(reply, synced.map(|()| len))),
            result => written(reply, result.map(|()| len)),
        }
    }
}

fn write_now(mount: &Mount, inode: Inode, offset: u64, data: &[u8]) -> Answer<()> {
    Ok(mount.volumes.write(disk(inode)?, offset, data)?)
}

fn empty(reply: ReplyEmpty, result: Answer<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn entry(reply: ReplyEntry, result: Answer<fuser::FileAttr>) {
    match result {
        Ok(attr) => reply.entry(&TTL, &attr, GENERATION),
        Err(error) => reply.error(error),
    }
}

fn attributes(reply: ReplyAttr, result: Answer<fuser::FileAttr>) {
    match result {
        Ok(attr) => reply.attr(&TTL, &attr),
        Err(error) => reply.error(error),
    }
}

fn written(reply: ReplyWrite, result: Answer<usize>) {
    match result.and_then(|len| u32::try_from(len).map_err(|_| Errno::EOVERFLOW)) {
        Ok(len) => reply.written(len),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        negotiate(config, &self.options);
        Ok(())
    }

    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(reply, self.mount.lookup(name));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let result = inode(ino).and_then(|inode| self.mount.attributes(inode));
        attributes(reply, result);
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttributes {
            size,
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            accessed: atime.map(timestamp),
            modified: mtime.map(timestamp),
        };
        match inode(ino) {
            Ok(inode @ Inode::Node(_)) => {
                self.later(move |mount| attributes(reply, mount.set_attributes(inode, &set)));
            }
            // The truncation before a command; it must not wait for workers.
            Ok(inode) => attributes(reply, self.mount.set_attributes(inode, &set)),
            Err(error) => reply.error(error),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        _: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        if mode & libc::S_IFMT != libc::S_IFREG {
            return reply.error(Errno::EPERM);
        }
        let (name, owner) = (name.to_owned(), Owner::of(request, mode, umask));
        self.later(move |mount| entry(reply, mount.mknod(&name, owner)));
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
    }

    fn unlink(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.later_empty(reply, move |mount| mount.unlink(&name));
    }

    fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::ENOTDIR);
    }

    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        name: &OsStr,
        _: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (from, to) = (name.to_owned(), newname.to_owned());
        self.later_empty(reply, move |mount| mount.rename(&from, &to, flags));
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match inode(ino).and_then(|inode| self.mount.open(inode, flags, request.uid())) {
            Ok((fh, how)) => reply.opened(fh, how),
            Err(error) => reply.error(error),
        }
    }

    fn create(
        &self,
        request: &Request,
        _: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (name, owner) = (name.to_owned(), Owner::of(request, mode, umask));
        self.later(move |mount| match mount.create(&name, owner, flags) {
            Ok(attr) => reply.created(&TTL, &attr, GENERATION, NODE, NODE_FLAGS),
            Err(error) => reply.error(error),
        });
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let done = |result: Answer<&[u8]>| match result {
            Ok(data) => reply.data(data),
            Err(error) => reply.error(error),
        };
        match inode(ino) {
            Ok(inode) => self.mount.read(inode, fh, offset, size, done),
            Err(error) => done(Err(error)),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match inode(ino) {
            Ok(Inode::Special(_)) => self.write_control(fh, data, reply),
            Ok(inode) => self.write_disk(inode, offset, data, wants_sync(flags), reply),
            Err(error) => reply.error(error),
        }
    }

    /// Nothing is held back until close, so the kernel is told not to ask again.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        match Inode::from_number(ino) {
            Some(Inode::Node(node)) => self.mount.close_node(node),
            _ => self.mount.handles.remove(fh),
        }
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.sync_and(move |synced| empty(reply, synced));
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if Inode::from_number(ino) != Some(Inode::Root) {
            return reply.error(Errno::ENOTDIR);
        }
        let fh = self.mount.handles.insert(Handle::Directory(Arc::default()));
        reply.opened(fh, FopenFlags::empty());
    }

    fn readdir(&self, _: &Request, _: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        match self.mount.handles.get(fh) {
            Some(Handle::Directory(listing)) => listing.read(&self.mount, offset, reply),
            _ => reply.error(Errno::EBADF),
        }
    }

    fn releasedir(&self, _: &Request, _: INodeNo, fh: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.mount.handles.remove(fh);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.later_empty(reply, Mount::sync);
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let usage = self.mount.volumes.usage();
        let (total, free) = (usage.total / BLOCK_SIZE, usage.available / BLOCK_SIZE);
        let block = BLOCK_SIZE as u32;
        // Disks are not counted out: there is room for as many as have identifiers.
        reply.statfs(
            total,
            free,
            free,
            u64::from(u32::MAX),
            u64::from(u32::MAX),
            block,
            255,
            block,
        );
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let range = Extent {
            offset,
            len: length,
        };
        self.later_empty(reply, move |mount| {
            mount.allocate(inode(ino)?, Allocation::from_mode(mode)?, range)
        });
    }

    fn lseek(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        self.later(move |mount| {
            match inode(ino).and_then(|inode| mount.seek(inode, offset, whence)) {
                Ok(offset) => reply.offset(offset),
                Err(error) => reply.error(error),
            }
        });
    }

    fn copy_file_range(
        &self,
        _: &Request,
        ino_in: INodeNo,
        _: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        _: FileHandle,
        offset_out: u64,
        len: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        self.later(move |mount| {
            let copy = || {
                let (from, to) = (inode(ino_in)?, inode(ino_out)?);
                mount.copy((from, offset_in), (to, offset_out), len)
            };
            written(reply, copy().map(|len| len as usize));
        });
    }

    // What follows is told once that it does not exist; the kernel remembers and stops asking.

    fn setxattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: &[u8],
        _: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn bmap(&self, _: &Request, _: INodeNo, _: u32, _: u64, reply: ReplyBmap) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }
}
