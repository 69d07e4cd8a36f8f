//! A regular file or a raw block device of the host.

use std::fs::File;
use std::io;
use std::io::IoSlice;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use rustix::fs::{Advice, FallocateFlags, FileType, FlockOperation, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::aio::Queue;
use super::discard::discard;
use super::range::{total, within};
use super::transfer::{IOV_MAX, read_full, write_all};
use super::{Device, DeviceError, HostSpace, Operation, Read, Write};
use crate::base::BLOCK;
use crate::config::Layout;

/// The most that the host keeps in one piece. It drops none of which a part is to stay.
const KEPT: u64 = 2 << 20;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenMode {
    write: bool,
    follow: bool,
    in_order: bool,
}

impl OpenMode {
    /// Read and write; a block device that is mounted or otherwise in use is refused.
    pub const READ_WRITE: Self = Self {
        write: true,
        follow: false,
        in_order: false,
    };
    /// Only read.
    pub const READ_ONLY: Self = Self {
        write: false,
        follow: false,
        in_order: false,
    };

    /// Lets the path be a symbolic link, as those in `/dev/disk/by-id` are. Only for paths that
    /// the administrator gave: inside a store a link is a trick, and refused.
    #[must_use]
    pub fn following_links(self) -> Self {
        Self {
            follow: true,
            ..self
        }
    }

    /// For a file that settings or device table name by this path: a link is followed, unless the
    /// path leads into the store.
    #[must_use]
    pub fn named_by(self, path: &Path) -> Self {
        if Layout::is_inside(path) {
            self
        } else {
            self.following_links()
        }
    }

    /// Says that it will be read from its start to its end, so that the host reads far ahead.
    #[must_use]
    pub fn in_order(self) -> Self {
        Self {
            in_order: true,
            ..self
        }
    }
}

/// What a new file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// A hole; space is taken as it is written.
    Sparse,
    /// Written zeros: a later overwrite changes no metadata of the host's file system, so that
    /// syncing it costs no journal commit there. For the journal and the catalog's log.
    Zeros,
}

/// A regular file or a block device as a [`Device`].
///
/// It goes through the page cache, but for [`Device::read_uncached`], and for many reads or writes at
/// once where the host can do them past it. Its length is that at the time
/// of opening.
#[derive(Debug)]
pub struct FileDevice {
    file: File,
    name: String,
    len: u64,
    kind: Kind,
    writable: bool,
    /// The same file, opened past the page cache when that is first asked for; none where the
    /// host can't.
    direct: OnceLock<Option<File>>,
    /// For many writes at once; made when it is first needed. Held across I/O: there is one who
    /// writes so.
    queue: Mutex<Option<Queue>>,
    /// Whether holes can be punched; set to false by the first refusal and never back.
    can_punch: AtomicBool,
    syncs: Syncs,
}

/// The syncs of a file, one at a time: whether one failed, which is never back to false.
///
/// The host reports lost writes to a single call and then calls the file clean, so what it answers
/// later proves nothing, nor what it answers another thread at the same time. So this lock is held
/// across I/O, on purpose: whoever waits for it learns how the sync before its own ended.
#[derive(Debug, Default)]
struct Syncs(Mutex<bool>);

impl Syncs {
    fn run(&self, sync: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
        let mut failed = self.0.lock();
        if *failed {
            return Err(Errno::IO);
        }
        sync().inspect_err(|_| *failed = true)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Regular,
    Block,
}

impl FileDevice {
    /// Opens an existing file or block device.
    ///
    /// # Errors
    /// Where it isn't there, may not be opened, is neither regular file nor block device, is a
    /// symbolic link (`ELOOP`, unless links are followed) or, to be written, in use (`EBUSY`) or
    /// a file with more names than one (unless links are followed).
    pub fn open(path: &Path, mode: OpenMode) -> Result<Self, DeviceError> {
        open_file(path, mode)
            .and_then(|(file, kind)| Self::from_file(file, path, kind, mode.write))
            .map_err(|source| open_error(path, source))
    }

    /// Makes a file of `len` bytes, readable and writable by its owner alone; durable, with its
    /// directory entry, on return, and nobody else's to write while this is open. What fails
    /// half-way is removed again.
    ///
    /// # Errors
    /// Where something of that name is there already, or the host refuses.
    pub fn create(path: &Path, len: u64, fill: Fill) -> Result<Self, DeviceError> {
        let create = || {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let mode = Mode::RUSR | Mode::WUSR;
            let file = File::from(rustix::fs::open(path, flags, mode)?);
            let made = prepare(&file, path, len, fill)
                .and_then(|()| Self::from_file(file, path, Kind::Regular, true));
            if made.is_err() {
                // The first error is the one to report.
                let _ = std::fs::remove_file(path);
            }
            made
        };
        create().map_err(|source| open_error(path, source))
    }

    /// Makes durable what was written by others before this was opened, and has the host drop what
    /// it keeps of the first `len` bytes in memory: so they are read from the medium. To be called
    /// before the first read of anything that is to be built on.
    ///
    /// Where the host loses a write it says so once, and keeps what was written, as if it were on
    /// the medium (Rebello et al., "Can Applications Recover from fsync Failures?", ATC 2020). Who
    /// opens the file after that hears nothing of it and reads what the next power loss takes.
    ///
    /// # Errors
    /// Where the sync fails. That the host drops all of it is not certain: it may keep what others
    /// are using.
    pub fn sync_and_forget(&self, len: u64) -> Result<(), DeviceError> {
        self.sync()?;
        let len = NonZeroU64::new(len.next_multiple_of(KEPT));
        // A host that has no such advice keeps it, and nothing better can be done.
        let _ = rustix::fs::fadvise(&self.file, 0, len, Advice::DontNeed);
        Ok(())
    }

    fn from_file(file: File, path: &Path, kind: Kind, writable: bool) -> io::Result<Self> {
        // A block device has no st_size; where its end is tells its length.
        let len = rustix::fs::seek(&file, SeekFrom::End(0))?;
        Ok(Self {
            file,
            name: path.display().to_string(),
            len,
            kind,
            writable,
            direct: OnceLock::new(),
            queue: Mutex::new(None),
            can_punch: AtomicBool::new(true),
            syncs: Syncs::default(),
        })
    }

    /// Whether it is a block device.
    #[must_use]
    pub fn is_block_device(&self) -> bool {
        self.kind == Kind::Block
    }

    fn check(&self, operation: Operation, offset: u64, len: u64) -> Result<(), DeviceError> {
        within(&self.name, self.len, operation, offset, len)
    }

    fn host_error(
        &self,
        operation: Operation,
        offset: u64,
        len: u64,
        source: impl Into<io::Error>,
    ) -> DeviceError {
        DeviceError::Host {
            operation,
            device: self.name.clone(),
            offset,
            len,
            source: Arc::new(source.into()),
        }
    }

    /// The file past the page cache; none where the host can't.
    fn direct(&self) -> Option<&File> {
        let open = || open_direct(&self.file, self.writable);
        self.direct.get_or_init(open).as_ref()
    }

    /// Whether there is a queue for many writes at once, now or from now on.
    ///
    /// Not for a block device: there the kernel forgets what it has in memory of the range before
    /// such a write, but not after it, as it does for files; what somebody read in meanwhile would
    /// stay, and be taken for the medium's.
    fn has_queue(&self, queue: &mut Option<Queue>) -> bool {
        if queue.is_none() && self.kind == Kind::Regular && self.direct().is_some() {
            *queue = Queue::new().ok();
        }
        queue.is_some()
    }

    fn punch_host(&self, offset: u64, len: u64) -> Result<(), Errno> {
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        retry(|| rustix::fs::fallocate(&self.file, mode, offset, len))
    }
}

impl Device for FileDevice {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn file(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        let len = buf.len() as u64;
        self.check(Operation::Read, offset, len)?;
        read_full(buf, offset, |buf, at| {
            rustix::io::pread(&self.file, buf, at)
        })
        .map_err(|source| self.host_error(Operation::Read, offset, len, source))
    }

    fn read_uncached(&self, buf: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        let len = buf.len() as u64;
        self.check(Operation::Read, offset, len)?;
        let aligned = offset.is_multiple_of(BLOCK as u64) && is_aligned(buf);
        if aligned && let Some(direct) = self.direct() {
            let read = read_full(buf, offset, |buf, at| rustix::io::pread(direct, buf, at));
            let refused = |source: &io::Error| Errno::from_io_error(source) == Some(Errno::INVAL);
            match read {
                Err(source) if refused(&source) => {}
                read => {
                    return read
                        .map_err(|source| self.host_error(Operation::Read, offset, len, source));
                }
            }
        }
        self.read_at(buf, offset)
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<(), DeviceError> {
        let len = total(bufs);
        self.check(Operation::Write, offset, len)?;
        write_all(bufs, offset, |bufs, at| {
            rustix::io::pwritev(&self.file, bufs, at)
        })
        .map_err(|source| self.host_error(Operation::Write, offset, len, source))
    }

    /// Past the page cache, many at a time, where that can be done: taking fresh pages for what nobody
    /// is about to read costs more than the disk does.
    fn write_each(&self, writes: &[Write<'_>]) -> Result<(), DeviceError> {
        for write in writes {
            self.check(Operation::Write, write.offset, total(write.bufs))?;
        }
        let aligned = |write: &Write<'_>| {
            let mut bufs = write.bufs.iter();
            // More than the host takes in one call are written as usual.
            write.bufs.len() <= IOV_MAX
                && write.offset.is_multiple_of(BLOCK as u64)
                && bufs.all(|buf| is_aligned(buf))
        };
        let mut queue = self.queue.lock();
        if !writes.iter().all(aligned) || !self.has_queue(&mut queue) {
            drop(queue);
            let mut writes = writes.iter();
            return writes.try_for_each(|write| self.write_at(write.bufs, write.offset));
        }
        let mut left = vec![true; writes.len()];
        let mut failed = None;
        let answer = |number: usize, done: Result<u64, Errno>| match done {
            Ok(written) => left[number] = written != total(writes[number].bufs),
            Err(Errno::INTR | Errno::INVAL | Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS) => {}
            // That there was no space for one is not to hide why another one failed.
            Err(Errno::NOSPC | Errno::DQUOT) if failed.is_some() => {}
            Err(errno) => failed = Some((writes[number], errno)),
        };
        if let (Some(direct), Some(queue)) = (self.direct(), &mut *queue) {
            // What the kernel does not take this way it gets the usual way.
            let _ = queue.write(direct.as_fd(), writes, answer);
        }
        drop(queue);
        if let Some((Write { offset, bufs }, errno)) = failed {
            return Err(self.host_error(Operation::Write, offset, total(bufs), errno));
        }
        let mut left = writes.iter().zip(left).filter(|(_, left)| *left);
        left.try_for_each(|(write, _)| self.write_at(write.bufs, write.offset))
    }

    fn read_each(&self, reads: &mut [Read<'_>]) -> Vec<bool> {
        let mut made = vec![false; reads.len()];
        let inside = |read: &Read<'_>| {
            let len = read.buf.len() as u64;
            self.check(Operation::Read, read.offset, len).is_ok()
                && read.offset.is_multiple_of(BLOCK as u64)
                && is_aligned(read.buf)
        };
        let mut queue = self.queue.lock();
        if reads.iter().all(inside)
            && self.has_queue(&mut queue)
            && let (Some(direct), Some(queue)) = (self.direct(), &mut *queue)
        {
            let lens: Vec<u64> = reads.iter().map(|read| read.buf.len() as u64).collect();
            let answer = |number: usize, done| made[number] = done == Ok(lens[number]);
            // What was not made says that all was not.
            let _ = queue.read(direct.as_fd(), reads, answer);
        }
        drop(queue);
        for (read, made) in reads.iter_mut().zip(&mut made) {
            *made = *made || self.read_at(read.buf, read.offset).is_ok();
        }
        made
    }

    fn prefetch(&self, offset: u64, len: u64) -> bool {
        // The host reads no more than this for one call.
        const MOST: u64 = 128 << 10;
        let end = offset.saturating_add(len).min(self.len);
        let advise = |at: u64| {
            let len = NonZeroU64::new(MOST.min(end - at));
            rustix::fs::fadvise(&self.file, at, len, Advice::WillNeed).is_ok()
        };
        (offset..end).step_by(MOST as usize).all(advise)
    }

    #[expect(unsafe_code, reason = "libc has no wrapper")]
    fn begin_sync(&self, offset: u64, len: u64) {
        let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else {
            return;
        };
        let fd = self.file.as_raw_fd();
        // That it can't be begun costs time alone. A write that fails because of it is reported by the
        // sync: only the flags that wait for writes take a report away (fs/sync.c in Linux).
        // SAFETY: it touches no memory, and the descriptor is open.
        let _ = unsafe { libc::sync_file_range(fd, offset, len, libc::SYNC_FILE_RANGE_WRITE) };
    }

    fn sync(&self) -> Result<(), DeviceError> {
        self.syncs
            .run(|| rustix::fs::fdatasync(&self.file))
            .map_err(|errno| self.host_error(Operation::Sync, 0, self.len, errno))
    }

    /// A file gets a hole. A block device is asked to unmap and zero the range; where it can only
    /// discard, it does that, and the answer is `Ok(false)`, because nobody then promises zeros.
    fn punch(&self, offset: u64, len: u64) -> Result<bool, DeviceError> {
        self.check(Operation::Punch, offset, len)?;
        if len == 0 {
            return Ok(true);
        }
        let failed = |errno| self.host_error(Operation::Punch, offset, len, errno);
        if self.can_punch.load(Ordering::Relaxed) {
            match self.punch_host(offset, len) {
                Ok(()) => return Ok(true),
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                    self.can_punch.store(false, Ordering::Relaxed);
                }
                Err(errno) => return Err(failed(errno)),
            }
        }
        if self.kind == Kind::Block {
            match retry(|| discard(&self.file, offset, len)) {
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOTTY) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        Ok(false)
    }

    fn allocated(&self) -> Result<u64, DeviceError> {
        if self.kind == Kind::Block {
            return Ok(self.len);
        }
        let stat = rustix::fs::fstat(&self.file)
            .map_err(|errno| self.host_error(Operation::Stat, 0, self.len, errno))?;
        // st_blocks counts 512 bytes whatever the file system's block is.
        Ok(u64::try_from(stat.st_blocks).unwrap_or(0) * 512)
    }

    fn host_space(&self) -> Option<HostSpace> {
        if self.kind == Kind::Block {
            return None;
        }
        let at = rustix::fs::fstatvfs(&self.file).ok()?;
        let used = at.f_blocks.saturating_sub(at.f_bfree);
        Some(HostSpace {
            total: (used + at.f_bavail).saturating_mul(at.f_frsize),
            available: at.f_bavail.saturating_mul(at.f_frsize),
        })
    }
}

/// Calls until it isn't interrupted. Not for a sync, which is never asked twice.
fn retry(mut call: impl FnMut() -> Result<(), Errno>) -> Result<(), Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

fn open_error(path: &Path, source: io::Error) -> DeviceError {
    DeviceError::Host {
        operation: Operation::Open,
        device: path.display().to_string(),
        offset: 0,
        len: 0,
        source: Arc::new(source),
    }
}

fn open_file(path: &Path, mode: OpenMode) -> io::Result<(File, Kind)> {
    // NONBLOCK: opening a FIFO must not wait for its other end; files and disks ignore it.
    let mut flags = OFlags::CLOEXEC | OFlags::NONBLOCK;
    flags |= if mode.write {
        OFlags::RDWR
    } else {
        OFlags::RDONLY
    };
    if !mode.follow {
        flags |= OFlags::NOFOLLOW;
    }
    // EXCL without CREATE is defined for block devices alone: the host refuses one in use.
    let found = if mode.follow {
        rustix::fs::stat(path)?
    } else {
        rustix::fs::lstat(path)?
    };
    if FileType::from_raw_mode(found.st_mode) == FileType::Symlink {
        return Err(Errno::LOOP.into());
    }
    let expected = kind_of(found);
    // Some devices act when they are merely opened.
    let odd = || invalid("it is neither a regular file nor a block device");
    let kind = expected.ok_or_else(odd)?;
    if mode.write && kind == Kind::Block {
        flags |= OFlags::EXCL;
    }
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if mode.in_order {
        // Where the host does not care, it is slower and no more.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::Sequential);
    }
    let found = rustix::fs::fstat(&file)?;
    if kind_of(found) != Some(kind) {
        return Err(odd());
    }
    if kind == Kind::Regular && mode.write {
        if !mode.follow && found.st_nlink > 1 {
            return Err(invalid(
                "it has another name (a hard link), under which its content would change too; \
                 copy it, or remove the other name",
            ));
        }
        claim(&file)?;
    }
    Ok((file, kind))
}

/// Takes a file that is to be written for this opener alone, as `EXCL` does a block device: two
/// stores that name one file, as a copied store does, would destroy each other.
fn claim(file: &File) -> io::Result<()> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "it is in use, by this store or another one",
        )),
        // Some network file systems have no locks.
        Err(Errno::NOTSUP | Errno::NOSYS | Errno::NOLCK) | Ok(()) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

/// Whether the host takes this memory for transfers past the page cache.
fn is_aligned(buf: &[u8]) -> bool {
    buf.len().is_multiple_of(BLOCK) && buf.as_ptr().align_offset(BLOCK) == 0
}

/// Opens what is open already once more, for transfers past the page cache.
fn open_direct(file: &File, writable: bool) -> Option<File> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let access = if writable {
        OFlags::RDWR
    } else {
        OFlags::RDONLY
    };
    let flags = access | OFlags::DIRECT | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::empty());
    opened.ok().map(File::from)
}

fn kind_of(stat: rustix::fs::Stat) -> Option<Kind> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Some(Kind::Regular),
        FileType::BlockDevice => Some(Kind::Block),
        _ => None,
    }
}

/// Takes a new file for its maker, gives it its length and content, and makes it and its name
/// durable.
fn prepare(file: &File, path: &Path, len: u64, fill: Fill) -> io::Result<()> {
    claim(file)?;
    rustix::fs::ftruncate(file, len)?;
    if fill == Fill::Zeros {
        write_zeros(file, len)?;
    }
    file.sync_all()?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)?.sync_all()
}

fn write_zeros(file: &File, len: u64) -> io::Result<()> {
    const CHUNK: usize = 1 << 20;
    let zeros = vec![0; CHUNK];
    for offset in (0..len).step_by(CHUNK) {
        let count = usize::try_from(len - offset).map_or(CHUNK, |left| left.min(CHUNK));
        write_all(&[IoSlice::new(&zeros[..count])], offset, |bufs, at| {
            rustix::io::pwritev(file, bufs, at)
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
