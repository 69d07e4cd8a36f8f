//! Many reads under way at a time by one thread, which can wait for a socket as well: the kernel's
//! io_uring.
//!
//! For threads that serve a connection: a read costs such a thread no switch to another one, those that
//! end together are answered together, and what the host has in its page cache is there at once. Where
//! the kernel has no io_uring, or forbids it, as in many containers, [`ReadRing::new`] fails, and its user
//! leaves reads to other threads.

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use super::Device;
use io_uring::{IoUring, opcode, squeue, types};

/// The number of what tells that the socket has something.
const SOCKET: u64 = u64::MAX;

/// Reads that are under way, each with what its user wants back at its end.
pub struct ReadRing<T> {
    ring: IoUring,
    /// By their numbers in the ring.
    slots: Vec<Option<UnderWay<T>>>,
    free: Vec<usize>,
    ended: VecDeque<Ended<T>>,
    /// Whether the kernel will tell when the socket has something.
    is_watching: bool,
    /// The kernel wants all calls for a ring to come from one thread.
    of_one_thread: PhantomData<*const ()>,
}

/// A read that the kernel may write the bytes of at any time.
struct UnderWay<T> {
    device: Arc<dyn Device>,
    /// Where the first byte of the place is on the device.
    offset: u64,
    bytes: Vec<u8>,
    /// Where in `bytes` the rest goes.
    place: Range<usize>,
    token: T,
}

/// A read that is over.
#[derive(Debug)]
pub struct Ended<T> {
    /// What the user gave.
    pub token: T,
    /// The memory that was lent.
    pub bytes: Vec<u8>,
    /// Whether all of it was read. Why not, [`Device::read_at`] can tell.
    pub is_read: bool,
}

impl<T> ReadRing<T> {
    /// For so many reads at a time.
    ///
    /// # Errors
    /// Where the kernel has none to give.
    pub fn new(depth: u32) -> io::Result<Self> {
        let entries = (depth + 1).next_power_of_two();
        // Whatever has ended is looked at when the thread waits, and interrupts nobody (Linux 6.1).
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(entries)
            .or_else(|_| IoUring::new(entries))?;
        Ok(Self {
            ring,
            slots: (0..depth).map(|_| None).collect(),
            free: (0..depth as usize).collect(),
            ended: VecDeque::new(),
            is_watching: false,
            of_one_thread: PhantomData,
        })
    }

    /// Whether anything is under way, or has ended and was not taken.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.free.len() < self.slots.len() || !self.ended.is_empty()
    }

    /// Reads into a part of `bytes` from `offset` of a device on. It begins with the next
    /// [`wait`](Self::wait). Where the ring is full, or the device is no file of the host, all is given back.
    ///
    /// # Errors
    /// The memory and the token, where it can't be read so.
    pub fn start(
        &mut self,
        device: &Arc<dyn Device>,
        offset: u64,
        bytes: Vec<u8>,
        place: Range<usize>,
        token: T,
    ) -> Result<(), (Vec<u8>, T)> {
        let is_within = offset
            .checked_add(place.len() as u64)
            .is_some_and(|end| end <= device.len() && place.end <= bytes.len());
        let number = match self.free.last() {
            Some(number) if is_within && device.file().is_some() => *number,
            _ => return Err((bytes, token)),
        };
        self.slots[number] = Some(UnderWay {
            device: Arc::clone(device),
            offset,
            bytes,
            place,
            token,
        });
        if self.push_read(number) {
            self.free.pop();
            return Ok(());
        }
        match self.slots[number].take() {
            Some(read) => Err((read.bytes, read.token)),
            None => unreachable!("it was put there"),
        }
    }

    /// Begins what was started, and waits until something has ended, or until `socket` has something to
    /// be received or is at its end. It may return without either. Whether the socket has something.
    ///
    /// # Errors
    /// Where the kernel takes no more: then no new reads should be started.
    pub fn wait(&mut self, socket: BorrowedFd<'_>) -> io::Result<bool> {
        if !self.is_watching {
            let events = (libc::POLLIN | libc::POLLRDHUP) as u32;
            let poll = opcode::PollAdd::new(types::Fd(socket.as_raw_fd()), events);
            self.is_watching = self.push(&poll.build().user_data(SOCKET));
        }
        self.enter()?;
        // What can't be watched has to be looked at.
        Ok(!self.is_watching)
    }

    /// Waits until nothing is under way.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_for_all(&mut self) -> io::Result<()> {
        while self.free.len() < self.slots.len() {
            self.enter()?;
        }
        Ok(())
    }

    /// After a failure: what is under way is given up, and its memory is never used again, since the kernel
    /// may still write there. Returns the tokens.
    pub fn abandon(&mut self) -> Vec<T> {
        let mut tokens = Vec::new();
        for (number, slot) in self.slots.iter_mut().enumerate() {
            if let Some(read) = slot.take() {
                std::mem::forget(read.bytes);
                tokens.push(read.token);
                self.free.push(number);
            }
        }
        tokens
    }

    /// One that has ended.
    pub fn next_ended(&mut self) -> Option<Ended<T>> {
        self.ended.pop_front()
    }

    fn enter(&mut self) -> io::Result<()> {
        match self.ring.submit_and_wait(1) {
            Ok(_) => {}
            // Interrupted, or short of memory for now, or of room for what has ended.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)
                ) => {}
            Err(error) => return Err(error),
        }
        loop {
            let event = self.ring.completion().next();
            match event.map(|event| (event.user_data(), event.result())) {
                Some((SOCKET, _)) => self.is_watching = false,
                Some((number, result)) => self.end(number as usize, result),
                None => return Ok(()),
            }
        }
    }

    /// The kernel is done with a read, or with a part of it.
    fn end(&mut self, number: usize, result: i32) {
        let Some(read) = self.slots.get_mut(number).and_then(Option::as_mut) else {
            return;
        };
        let got = usize::try_from(result).unwrap_or(0).min(read.place.len());
        read.place.start += got;
        read.offset += got as u64;
        // 0 is the end of a file that has become shorter.
        let goes_on = got > 0 || result == -libc::EINTR;
        if !read.place.is_empty() && goes_on && self.push_read(number) {
            return;
        }
        if let Some(read) = self.slots[number].take() {
            self.free.push(number);
            self.ended.push_back(Ended {
                token: read.token,
                is_read: read.place.is_empty(),
                bytes: read.bytes,
            });
        }
    }

    /// Puts what is left of a read in line for the kernel; whether there was room.
    fn push_read(&mut self, number: usize) -> bool {
        let Some(read) = self.slots[number].as_mut() else {
            return false;
        };
        let place = &mut read.bytes[read.place.clone()];
        let (start, len) = (place.as_mut_ptr(), place.len());
        let (Some(file), Ok(len)) = (read.device.file(), u32::try_from(len)) else {
            return false;
        };
        let entry = opcode::Read::new(types::Fd(file.as_raw_fd()), start, len)
            .offset(read.offset)
            .build();
        self.push(&entry.user_data(number as u64))
    }

    #[expect(unsafe_code, reason = "the kernel is lent memory")]
    fn push(&mut self, entry: &squeue::Entry) -> bool {
        for _ in 0..2 {
            // SAFETY: a read leads to memory of a vector in `slots`, whose bytes stay where they are
            // until the kernel has said that it is done: `end` takes it out then, `abandon` never gives the
            // bytes back, and `drop` waits. The file is open until the kernel has taken the request, by the
            // device beside it, and the kernel holds it from then on, as it does a socket's. A poll leads to
            // no memory.
            if unsafe { self.ring.submission().push(entry).is_ok() } {
                return true;
            }
            // There are more entries than reads, but some may not have been handed over yet.
            if self.ring.submit().is_err() {
                break;
            }
        }
        false
    }
}

impl<T> Drop for ReadRing<T> {
    fn drop(&mut self) {
        if self.wait_for_all().is_err() {
            drop(self.abandon());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::super::{FileDevice, Fill, MemoryDevice};
    use super::*;

    fn ring(depth: u32) -> Option<ReadRing<u32>> {
        match ReadRing::new(depth) {
            Ok(ring) => Some(ring),
            Err(error) => {
                eprintln!("no io_uring here: {error}");
                None
            }
        }
    }

    fn file(blocks: u8) -> (tempfile::TempDir, Arc<dyn Device>) {
        let dir = tempfile::tempdir().unwrap();
        let len = u64::from(blocks) * 4096;
        let device = FileDevice::create(&dir.path().join("f"), len, Fill::Sparse).unwrap();
        for block in 0..blocks {
            let bytes = [block; 4096];
            let bufs = [io::IoSlice::new(&bytes)];
            device.write_at(&bufs, u64::from(block) * 4096).unwrap();
        }
        (dir, Arc::new(device))
    }

    #[test]
    fn reads_end_with_their_bytes_and_tokens() {
        let Some(mut ring) = ring(4) else { return };
        let (_dir, device) = file(64);
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let (mut next, mut seen) = (0u32, 0);
        while seen < 64 {
            while next < 64 {
                let bytes = vec![0xee; 5000];
                let offset = u64::from(next) * 4096;
                match ring.start(&device, offset, bytes, 100..4196, next) {
                    Ok(()) => next += 1,
                    Err((bytes, token)) => {
                        assert_eq!((bytes.len(), token), (5000, next), "given back");
                        break;
                    }
                }
            }
            assert!(ring.is_busy());
            let has_something = ring.wait(theirs.as_fd()).unwrap();
            assert!(!has_something, "the socket has nothing");
            while let Some(ended) = ring.next_ended() {
                assert!(ended.is_read);
                let block = ended.token as u8;
                assert!(ended.bytes[100..4196].iter().all(|byte| *byte == block));
                assert!(ended.bytes[..100].iter().all(|byte| *byte == 0xee));
                seen += 1;
            }
        }
        assert!(!ring.is_busy());
        // A socket that has something ends a wait.
        ours.write_all(b"x").unwrap();
        assert!(ring.wait(theirs.as_fd()).unwrap());
    }

    #[test]
    fn what_is_no_file_or_past_its_end_is_given_back() {
        let Some(mut ring) = ring(4) else { return };
        let (_dir, device) = file(2);
        let memory: Arc<dyn Device> = Arc::new(MemoryDevice::new("m", 8192));
        for (device, offset) in [(&device, 4097), (&device, u64::MAX), (&memory, 0)] {
            assert!(
                ring.start(device, offset, vec![0; 4096], 0..4096, 1)
                    .is_err()
            );
        }
        assert!(ring.start(&device, 0, vec![0; 4000], 0..4096, 1).is_err());
        assert!(!ring.is_busy());
    }

    #[test]
    fn a_file_that_became_shorter_is_not_read() {
        let Some(mut ring) = ring(4) else { return };
        let (dir, device) = file(8);
        let path = dir.path().join("f");
        let shorter = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        shorter.set_len(2 * 4096 + 100).unwrap();
        for block in [1, 2, 5] {
            let bytes = vec![0; 4096];
            let started = ring.start(&device, u64::from(block) * 4096, bytes, 0..4096, block);
            assert!(started.is_ok());
        }
        ring.wait_for_all().unwrap();
        let mut ended: Vec<_> = std::iter::from_fn(|| ring.next_ended()).collect();
        ended.sort_by_key(|ended| ended.token);
        let read: Vec<_> = ended.iter().map(|ended| ended.is_read).collect();
        assert_eq!(read, [true, false, false]);
    }

    #[test]
    fn a_ring_is_dropped_only_when_the_kernel_is_done() {
        let Some(mut ring) = ring(64) else { return };
        let (_dir, device) = file(64);
        for number in 0..64 {
            let bytes = vec![0; 4096];
            let started = ring.start(&device, u64::from(number) * 4096, bytes, 0..4096, number);
            assert!(started.is_ok());
        }
        drop(ring);
        assert_eq!(Arc::strong_count(&device), 1);
    }
}
