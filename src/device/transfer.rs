//! Loops that turn the host's short, interrupted transfers into whole ones.
//!
//! The system call is a parameter, so that tests can be the host.

use std::io::{self, ErrorKind, IoSlice};

use rustix::io::{Errno, Result as HostResult};

use super::range::total;

/// The most buffers that the host takes in one call (`IOV_MAX`).
pub(super) const IOV_MAX: usize = 1024;

/// Calls `read` until `buf` is full.
pub(super) fn read_full(
    mut buf: &mut [u8],
    mut offset: u64,
    mut read: impl FnMut(&mut [u8], u64) -> HostResult<usize>,
) -> io::Result<()> {
    while !buf.is_empty() {
        match read(buf, offset) {
            Ok(0) => {
                return Err(io::Error::new(
                    ErrorKind::UnexpectedEof,
                    "it ends there; was it shortened while in use?",
                ));
            }
            Ok(count) => {
                buf = &mut buf[count..];
                offset += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Calls `write` until all of `bufs` is written.
pub(super) fn write_all(
    bufs: &[IoSlice<'_>],
    mut offset: u64,
    mut write: impl FnMut(&[IoSlice<'_>], u64) -> HostResult<usize>,
) -> io::Result<()> {
    let mut left = total(bufs);
    if left == 0 {
        return Ok(());
    }
    // Nearly always the first call takes everything, and no copy of the list is needed.
    let mut done = write_some(&bufs[..bufs.len().min(IOV_MAX)], offset, &mut write)?;
    left -= done as u64;
    if left == 0 {
        return Ok(());
    }
    let mut list = bufs.to_vec();
    let mut rest = list.as_mut_slice();
    loop {
        IoSlice::advance_slices(&mut rest, done);
        offset += done as u64;
        if left == 0 {
            return Ok(());
        }
        done = write_some(&rest[..rest.len().min(IOV_MAX)], offset, &mut write)?;
        left -= done as u64;
    }
}

/// One call that transfers something. Empty buffers alone count as done.
fn write_some(
    bufs: &[IoSlice<'_>],
    offset: u64,
    write: &mut impl FnMut(&[IoSlice<'_>], u64) -> HostResult<usize>,
) -> io::Result<usize> {
    loop {
        match write(bufs, offset) {
            Ok(0) if total(bufs) > 0 => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => return Ok(count),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host that takes at most `most` bytes a call and interrupts every second one.
    struct Stingy {
        bytes: Vec<u8>,
        most: usize,
        calls: usize,
    }

    impl Stingy {
        fn new(len: usize, most: usize) -> Self {
            Self {
                bytes: vec![0; len],
                most,
                calls: 0,
            }
        }

        fn interrupted(&mut self) -> HostResult<()> {
            self.calls += 1;
            if self.calls % 2 == 1 {
                return Err(Errno::INTR);
            }
            Ok(())
        }

        fn write(&mut self, bufs: &[IoSlice<'_>], offset: u64) -> HostResult<usize> {
            assert!(bufs.len() <= IOV_MAX);
            self.interrupted()?;
            let all: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
            let count = all.len().min(self.most);
            let at = offset as usize;
            self.bytes[at..at + count].copy_from_slice(&all[..count]);
            Ok(count)
        }

        fn read(&mut self, buf: &mut [u8], offset: u64) -> HostResult<usize> {
            self.interrupted()?;
            let rest = &self.bytes[offset as usize..];
            let count = buf.len().min(self.most).min(rest.len());
            buf[..count].copy_from_slice(&rest[..count]);
            Ok(count)
        }
    }

    #[test]
    fn short_counts_and_interrupts_do_not_show() {
        let bytes: Vec<u8> = (0..5000u32).map(|n| (n % 251) as u8).collect();
        for most in [1, 7, 512, 4999, 5000, 9000] {
            let mut host = Stingy::new(5003, most);
            let bufs: Vec<IoSlice<'_>> = bytes.chunks(333).map(IoSlice::new).collect();
            write_all(&bufs, 3, |bufs, at| host.write(bufs, at)).unwrap();
            assert_eq!(host.bytes[3..], bytes);
            let mut back = vec![0; 5000];
            read_full(&mut back, 3, |buf, at| host.read(buf, at)).unwrap();
            assert_eq!(back, bytes);
        }
    }

    #[test]
    fn more_buffers_than_the_host_takes_and_empty_ones_are_written() {
        let bytes: Vec<u8> = (0..3000u32).map(|n| (n % 251) as u8).collect();
        let mut bufs: Vec<IoSlice<'_>> = vec![IoSlice::new(&[]); 1500];
        bufs.extend(bytes.chunks(1).map(IoSlice::new));
        let mut host = Stingy::new(3000, usize::MAX);
        write_all(&bufs, 0, |bufs, at| host.write(bufs, at)).unwrap();
        assert_eq!(host.bytes, bytes);
        write_all(&[], 0, |_, _| panic!("nothing to write")).unwrap();
    }

    #[test]
    fn an_end_or_an_error_is_reported() {
        let mut buf = [0; 8];
        let end = read_full(&mut buf, 0, |_, _| Ok(0)).unwrap_err();
        assert_eq!(end.kind(), ErrorKind::UnexpectedEof);
        let bufs = [IoSlice::new(b"12345678")];
        let full = write_all(&bufs, 0, |_, _| Err(Errno::NOSPC)).unwrap_err();
        assert_eq!(full.raw_os_error(), Some(libc::ENOSPC));
        let stuck = write_all(&bufs, 0, |_, _| Ok(0)).unwrap_err();
        assert_eq!(stuck.kind(), ErrorKind::WriteZero);
    }
}
