//! Many writes or reads at once, past the host's page cache: the kernel's asynchronous I/O.
//!
//! Of the ways to keep a disk busy from one thread this is the one that is there everywhere: io_uring
//! is as fast, and is forbidden in many containers; a thread for each write costs a switch of threads
//! for each. On file systems that must wait before they can begin a write (for a block to be
//! allocated, for one) the submission waits, and no harm is done.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use rustix::io::Errno;

use super::{Read, Write};

/// Writes that are under way at a time.
const DEPTH: usize = 64;
/// New ones are begun when so many are done: a system call for each would cost as much as the write.
const AT_ONCE: usize = 16;

const PREAD: u16 = 0;
const PWRITEV: u16 = 8;

/// One request, as `linux/aio_abi.h` has it.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Request {
    data: u64,
    /// Key and flags, in an order that depends on the machine; all zero.
    key_and_flags: u64,
    opcode: u16,
    priority: i16,
    file: u32,
    buf: u64,
    count: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    event_file: u32,
}

/// What became of one.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Event {
    data: u64,
    request: u64,
    result: i64,
    result2: i64,
}

const _: () = assert!(size_of::<Request>() == 64 && size_of::<Event>() == 32);

/// A queue of writes in the kernel.
#[derive(Debug)]
pub(super) struct Queue(libc::c_ulong);

impl Queue {
    /// # Errors
    /// Where the kernel has none to give.
    #[expect(unsafe_code, reason = "libc has no wrapper")]
    pub fn new() -> io::Result<Self> {
        let mut context: libc::c_ulong = 0;
        // SAFETY: the kernel writes the context to this place, which outlives the call.
        let done = unsafe { libc::syscall(libc::SYS_io_setup, DEPTH, &raw mut context) };
        match done {
            0 => Ok(Self(context)),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Makes all the writes, in any order, and hands what became of each to `done`, by its number: the
    /// bytes that were written, which may be fewer than asked for. When this returns, none is
    /// under way any more.
    ///
    /// # Errors
    /// Where the kernel takes no more of them; some may have been made then.
    pub fn write(
        &mut self,
        file: BorrowedFd<'_>,
        writes: &[Write<'_>],
        done: impl FnMut(usize, Result<u64, Errno>),
    ) -> io::Result<()> {
        let request = |(number, write): (usize, &Write<'_>)| Request {
            data: number as u64,
            opcode: PWRITEV,
            file: file.as_raw_fd() as u32,
            buf: write.bufs.as_ptr().addr() as u64,
            count: write.bufs.len() as u64,
            offset: write.offset as i64,
            ..Request::default()
        };
        self.run(writes.iter().enumerate().map(request).collect(), done)
    }

    /// Makes all the reads, as [`write`](Self::write) does writes.
    ///
    /// # Errors
    /// Where the kernel takes no more of them; some may have been made then.
    pub fn read(
        &mut self,
        file: BorrowedFd<'_>,
        reads: &mut [Read<'_>],
        done: impl FnMut(usize, Result<u64, Errno>),
    ) -> io::Result<()> {
        let request = |(number, read): (usize, &mut Read<'_>)| Request {
            data: number as u64,
            opcode: PREAD,
            file: file.as_raw_fd() as u32,
            buf: read.buf.as_mut_ptr().expose_provenance() as u64,
            count: read.buf.len() as u64,
            offset: read.offset as i64,
            ..Request::default()
        };
        self.run(reads.iter_mut().enumerate().map(request).collect(), done)
    }

    /// Makes the requests. The memory that they lead to is the caller's, borrowed until this returns.
    fn run(
        &mut self,
        mut requests: Vec<Request>,
        mut done: impl FnMut(usize, Result<u64, Errno>),
    ) -> io::Result<()> {
        let (mut next, mut under_way) = (0, 0);
        let mut refused = None;
        while under_way > 0 || (next < requests.len() && refused.is_none()) {
            let room = match refused {
                Some(_) => 0,
                None => DEPTH - under_way,
            };
            let end = requests.len().min(next + room);
            match self.submit(&mut requests[next..end]) {
                Ok(begun) => (next, under_way) = (next + begun, under_way + begun),
                Err(Errno::INTR) => {}
                // The kernel is out of something; what is under way will free some.
                Err(Errno::AGAIN) if under_way > 0 => {}
                Err(error) => refused = Some(error),
            }
            let least = if next < requests.len() && refused.is_none() {
                under_way.min(AT_ONCE)
            } else {
                under_way
            };
            let mut events = [Event::default(); DEPTH];
            for event in self.wait(least, &mut events) {
                under_way -= 1;
                let errno = || Errno::from_raw_os_error(-event.result as i32);
                let result = u64::try_from(event.result).map_err(|_| errno());
                done(event.data as usize, result);
            }
        }
        refused.map_or(Ok(()), |errno| Err(errno.into()))
    }

    /// Begins some of these requests, and says how many.
    #[expect(unsafe_code, reason = "libc has no wrapper")]
    fn submit(&self, requests: &mut [Request]) -> Result<usize, Errno> {
        if requests.is_empty() {
            return Ok(0);
        }
        let mut list = [ptr::null_mut::<Request>(); DEPTH];
        for (entry, request) in list.iter_mut().zip(requests.iter_mut()) {
            *entry = request;
        }
        let count = requests.len();
        // SAFETY: the requests and the lists of buffers that they lead to outlive the call, which
        // copies both. The buffers themselves are borrowed by `write` or `read`, which do not return
        // before no request is under way any more.
        let begun = unsafe { libc::syscall(libc::SYS_io_submit, self.0, count, list.as_mut_ptr()) };
        usize::try_from(begun).map_err(|_| last_errno())
    }

    /// Waits until at least so many are done. With none, looks which are.
    #[expect(unsafe_code, reason = "libc has no wrapper")]
    fn wait<'a>(&self, least: usize, events: &'a mut [Event; DEPTH]) -> &'a [Event] {
        let forever = ptr::null_mut::<libc::timespec>();
        loop {
            // SAFETY: the kernel writes at most `DEPTH` events to the array, which outlives the
            // call, and takes the absent time for no limit.
            let count = unsafe {
                libc::syscall(
                    libc::SYS_io_getevents,
                    self.0,
                    least,
                    DEPTH,
                    events.as_mut_ptr(),
                    forever,
                )
            };
            match usize::try_from(count) {
                Ok(count) => return &events[..count],
                Err(_) if last_errno() == Errno::INTR => {}
                // The kernel says no to arguments alone, and these are right; to go on without
                // knowing would let go of memory that it still reads.
                Err(_) => panic!("io_getevents: {}", io::Error::last_os_error()),
            }
        }
    }
}

impl Drop for Queue {
    #[expect(unsafe_code, reason = "libc has no wrapper")]
    fn drop(&mut self) {
        // SAFETY: the context is this one's own. Nothing is under way: `write` waits for all.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.0) };
    }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::IoSlice;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn all_are_written_and_each_is_answered_once() {
        let file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..=255).collect();
        let bufs: Vec<[IoSlice<'_>; 2]> = (0..500)
            .map(|at| {
                [
                    IoSlice::new(&bytes[at % 200..][..7]),
                    IoSlice::new(&bytes[..3]),
                ]
            })
            .collect();
        let writes: Vec<Write<'_>> = (0..500)
            .map(|at| Write {
                offset: (499 - at) * 10,
                bufs: &bufs[at as usize],
            })
            .collect();
        let mut queue = Queue::new().unwrap();
        let mut answers = vec![0; 500];
        let answer = |at: usize, done: Result<u64, Errno>| {
            assert_eq!(done, Ok(10));
            answers[at] += 1;
        };
        queue.write(file.as_fd(), &writes, answer).unwrap();
        assert_eq!(answers, vec![1; 500]);
        let mut read = vec![0; 5000];
        let mut reads: Vec<Read<'_>> = (0..)
            .zip(read.chunks_mut(10))
            .map(|(at, buf)| Read {
                offset: at * 10,
                buf,
            })
            .collect();
        let answer = |_, done: Result<u64, Errno>| assert_eq!(done, Ok(10));
        queue.read(file.as_fd(), &mut reads, answer).unwrap();
        for (at, read) in read.rchunks(10).enumerate() {
            assert_eq!(read[..7], bytes[at % 200..][..7], "{at}");
            assert_eq!(read[7..], bytes[..3]);
        }
    }

    #[test]
    fn each_has_its_own_error() {
        let file = File::open("/dev/null").unwrap();
        let bufs = [IoSlice::new(b"12345678")];
        let writes = [0, 8].map(|offset| Write {
            offset,
            bufs: &bufs,
        });
        let mut queue = Queue::new().unwrap();
        // It was opened to be read: the kernel refuses to begin.
        let answer = |_, done: Result<u64, Errno>| assert!(done.is_err());
        let error = queue.write(file.as_fd(), &writes, answer).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
        // Farther out than any file reaches.
        let file = tempfile::tempfile().unwrap();
        let writes = [0, 1 << 62].map(|offset| Write {
            offset,
            bufs: &bufs,
        });
        let mut answers = Vec::new();
        let answer = |at, done| answers.push((at, done));
        queue.write(file.as_fd(), &writes, answer).unwrap();
        answers.sort_by_key(|(at, _)| *at);
        assert_eq!(answers, [(0, Ok(8)), (1, Err(Errno::FBIG))]);
    }
}
