//! PDUs out of a socket. One system call brings as many as there are; big data goes past the buffer.

use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::net::RecvFlags;

use super::Digests;
use super::header::{BHS, Header, MAX_DATA_SEGMENT, padded};
use crate::base::checksum;

/// Bytes of a digest.
const DIGEST: usize = 4;
/// A PDU with the most data and additional headers that we take.
const LARGEST: usize = BHS + 255 * 4 + DIGEST + MAX_DATA_SEGMENT + DIGEST;
/// How long a PDU that has begun may pause.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why nothing more comes out of a socket.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The initiator closed the connection between two PDUs.
    #[error("the initiator closed the connection")]
    Closed,
    /// It did so within one.
    #[error("the connection ended within a PDU")]
    Cut,
    /// A PDU began and did not go on.
    #[error("a PDU stopped half-way")]
    Stalled,
    /// A header does not match its digest: nothing after it can be told apart.
    #[error("a header does not match its digest")]
    HeaderDigest,
    /// Data does not match its digest.
    #[error("data does not match its digest")]
    DataDigest,
    /// More data than we said we take.
    #[error("a PDU with {0} bytes of data; {MAX_DATA_SEGMENT} are allowed")]
    TooLong(usize),
    /// The host's word.
    #[error(transparent)]
    Io(io::Error),
}

/// What the thread that receives does besides.
pub trait Meanwhile {
    /// Nothing has come: it is about to wait for the socket alone.
    fn rest(&mut self);

    /// Whether there is something else that will end.
    fn is_busy(&self) -> bool {
        false
    }

    /// Waits until some of that has ended, or the socket has something; whether it may have.
    fn wait(&mut self, _socket: BorrowedFd<'_>) -> bool {
        true
    }
}

/// Nothing else to wait for.
impl<F: FnMut()> Meanwhile for F {
    fn rest(&mut self) {
        self();
    }
}

/// The receiving half of a connection.
#[derive(Debug)]
pub struct Input {
    socket: TcpStream,
    bytes: Vec<u8>,
    /// What has not been looked at: start <= end.
    start: usize,
    end: usize,
    /// Data of the last header that has not been taken.
    data: usize,
    digests: Digests,
    deadline: Option<Instant>,
    last: Option<Header>,
}

impl Input {
    /// Over a socket whose reads time out from time to time.
    pub fn new(socket: TcpStream) -> Self {
        Self {
            socket,
            bytes: vec![0; LARGEST.next_multiple_of(4096)],
            start: 0,
            end: 0,
            data: 0,
            digests: Digests::default(),
            deadline: None,
            last: None,
        }
    }

    /// The header that came last, good or bad.
    pub fn last_header(&self) -> Option<&Header> {
        self.last.as_ref()
    }

    /// Until when PDUs that have begun may take at all, if that matters.
    pub fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    /// From the next PDU on.
    pub fn set_digests(&mut self, digests: Digests) {
        self.digests = digests;
    }

    /// The next header, or nothing where none came for a while.
    ///
    /// # Errors
    /// Where none will come, or it can't be trusted.
    pub fn header(&mut self, meanwhile: &mut impl Meanwhile) -> Result<Option<Header>, InputError> {
        debug_assert_eq!(self.data, 0, "data was left");
        if self.end == self.start && !self.fill(meanwhile)? {
            return Ok(None);
        }
        self.have(BHS, meanwhile)?;
        let mut header = Header([0; BHS]);
        header
            .0
            .copy_from_slice(&self.bytes[self.start..self.start + BHS]);
        let len = BHS + header.ahs_len();
        if self.digests.header {
            self.have(len + DIGEST, meanwhile)?;
            let (covered, digest) = self.bytes[self.start..].split_at(len);
            if checksum(covered).0.to_le_bytes() != digest[..DIGEST] {
                return Err(InputError::HeaderDigest);
            }
            self.start += len + DIGEST;
        } else {
            self.have(len, meanwhile)?;
            self.start += len;
        }
        self.last = Some(header);
        self.data = header.data_len();
        if self.data > MAX_DATA_SEGMENT {
            return Err(InputError::TooLong(self.data));
        }
        Ok(Some(header))
    }

    /// The data of the PDU whose header came last.
    ///
    /// # Errors
    /// Where it does not come or match its digest.
    pub fn data(&mut self, meanwhile: &mut impl Meanwhile) -> Result<&[u8], InputError> {
        let len = std::mem::take(&mut self.data);
        if len == 0 {
            return Ok(&[]);
        }
        let digest = if self.digests.data { DIGEST } else { 0 };
        self.have(padded(len) + digest, meanwhile)?;
        let (data, rest) = self.bytes[self.start..].split_at(padded(len));
        if self.digests.data && checksum(data).0.to_le_bytes() != rest[..DIGEST] {
            return Err(InputError::DataDigest);
        }
        let start = self.start;
        self.start += padded(len) + digest;
        Ok(&self.bytes[start..start + len])
    }

    /// The same, into `to`, which has the data's length; what has not come yet goes straight there.
    ///
    /// # Errors
    /// As [`data`](Self::data).
    pub fn data_into(
        &mut self,
        to: &mut [u8],
        meanwhile: &mut impl Meanwhile,
    ) -> Result<(), InputError> {
        // The padding and a digest behind it are small: those come through the buffer.
        debug_assert_eq!(to.len(), self.data);
        if self.digests.data || self.end - self.start >= padded(to.len()) {
            to.copy_from_slice(self.data(meanwhile)?);
            return Ok(());
        }
        let len = std::mem::take(&mut self.data);
        let here = (self.end - self.start).min(len);
        to[..here].copy_from_slice(&self.bytes[self.start..self.start + here]);
        self.start += here;
        let (mut at, mut since) = (here, Instant::now());
        while at < len {
            match receive(&self.socket, &mut to[at..], meanwhile) {
                Ok(Some(got)) => (at, since) = (at + got, Instant::now()),
                Ok(None) if self.is_late(since) => return Err(InputError::Stalled),
                Ok(None) => {}
                Err(InputError::Closed) => return Err(InputError::Cut),
                Err(error) => return Err(error),
            }
        }
        self.have(padded(len) - len, meanwhile)?;
        self.start += padded(len) - len;
        Ok(())
    }

    /// Bytes of data that the PDU has whose header came last.
    #[must_use]
    pub fn data_len(&self) -> usize {
        self.data
    }

    /// Whether more has come than was taken, beside so many bytes of data.
    #[must_use]
    pub fn is_more_there_than(&self, data: usize) -> bool {
        self.end > self.start + padded(data)
    }

    /// Passes over the data of the PDU whose header came last.
    ///
    /// # Errors
    /// As [`data`](Self::data).
    pub fn skip_data(&mut self, meanwhile: &mut impl Meanwhile) -> Result<(), InputError> {
        self.data(meanwhile).map(|_| ())
    }

    /// Waits until so many bytes are in the buffer.
    fn have(&mut self, len: usize, meanwhile: &mut impl Meanwhile) -> Result<(), InputError> {
        if self.end - self.start >= len {
            return Ok(());
        }
        let mut since = Instant::now();
        while self.end - self.start < len {
            match self.fill(meanwhile) {
                Ok(true) => since = Instant::now(),
                Ok(false) if self.is_late(since) => return Err(InputError::Stalled),
                Ok(false) => {}
                Err(InputError::Closed) => return Err(InputError::Cut),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn is_late(&self, since: Instant) -> bool {
        let over = self
            .deadline
            .is_some_and(|deadline| Instant::now() > deadline);
        over || since.elapsed() > PATIENCE
    }

    /// Receives what there is; nothing where none comes for a while.
    fn fill(&mut self, meanwhile: &mut impl Meanwhile) -> Result<bool, InputError> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.bytes.len() - self.start < LARGEST {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        match receive(&self.socket, &mut self.bytes[self.end..], meanwhile)? {
            Some(got) => {
                self.end += got;
                Ok(true)
            }
            None => Ok(false),
        }
    }
}

/// Some bytes, or nothing where none come for a while.
fn receive(
    socket: &TcpStream,
    to: &mut [u8],
    meanwhile: &mut impl Meanwhile,
) -> Result<Option<usize>, InputError> {
    loop {
        // What was taken out of the socket before was mostly all that it had. So nothing is lost by waiting
        // for both at once, which begins what is to be begun, before it is asked again.
        let is_busy = meanwhile.is_busy();
        let flags = if !is_busy {
            meanwhile.rest();
            RecvFlags::empty()
        } else if meanwhile.wait(socket.as_fd()) {
            RecvFlags::DONTWAIT
        } else {
            continue;
        };
        let received = rustix::net::recv(socket, &mut *to, flags).map_err(io::Error::from);
        return match received {
            Ok((_, 0)) => Err(InputError::Closed),
            Ok((_, got)) => Ok(Some(got)),
            Err(error) => match error.kind() {
                ErrorKind::Interrupted => continue,
                ErrorKind::WouldBlock | ErrorKind::TimedOut if is_busy => continue,
                ErrorKind::WouldBlock | ErrorKind::TimedOut => Ok(None),
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Err(InputError::Closed),
                _ => Err(InputError::Io(error)),
            },
        };
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use super::*;

    fn pair() -> (TcpStream, Input) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        server
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        (client, Input::new(server))
    }

    fn pdu(data: &[u8], digests: Digests) -> Vec<u8> {
        let mut header = Header::response(0x05);
        header.set_data_len(data.len());
        let mut bytes = header.0.to_vec();
        if digests.header {
            bytes.extend(checksum(&header.0).0.to_le_bytes());
        }
        let mut data = data.to_vec();
        data.resize(padded(data.len()), 0);
        bytes.extend(&data);
        if digests.data && !data.is_empty() {
            bytes.extend(checksum(&data).0.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn pdus_come_out_however_they_are_cut() {
        for digests in [
            Digests::default(),
            Digests {
                header: true,
                data: true,
            },
        ] {
            let (mut client, mut input) = pair();
            input.set_digests(digests);
            let big: Vec<u8> = (0..100_001u32).map(|n| n as u8).collect();
            let wire = [pdu(b"abc", digests), pdu(b"", digests), pdu(&big, digests)].concat();
            let sender = std::thread::spawn(move || {
                for piece in wire.chunks(37) {
                    client.write_all(piece).unwrap();
                }
                client
            });
            let mut next = || loop {
                if let Some(header) = input.header(&mut || {}).unwrap() {
                    break header;
                }
            };
            assert_eq!(next().data_len(), 3);
            assert_eq!(input.data(&mut || {}).unwrap(), b"abc");
            let mut next = || loop {
                if let Some(header) = input.header(&mut || {}).unwrap() {
                    break header;
                }
            };
            assert_eq!(next().data_len(), 0);
            let len = next().data_len();
            let mut data = vec![0; len];
            input.data_into(&mut data, &mut || {}).unwrap();
            assert!(data == big);
            drop(sender.join().unwrap());
            assert!(matches!(input.header(&mut || {}), Err(InputError::Closed)));
        }
    }

    /// Something else to wait for, that ends so often before the socket is looked at.
    struct Else {
        ends: u32,
        rests: u32,
    }

    impl Meanwhile for Else {
        fn rest(&mut self) {
            self.rests += 1;
        }

        fn is_busy(&self) -> bool {
            self.ends > 0
        }

        fn wait(&mut self, _socket: BorrowedFd<'_>) -> bool {
            self.ends -= 1;
            // The last time but one it says that there may be something.
            self.ends == 1
        }
    }

    #[test]
    fn the_socket_is_looked_at_between_what_else_ends() {
        let wire = pdu(b"abc", Digests::default());
        for is_there in [false, true] {
            let (mut client, mut input) = pair();
            let mut meanwhile = Else { ends: 5, rests: 0 };
            if is_there {
                client.write_all(&wire).unwrap();
            }
            let header = input.header(&mut meanwhile).unwrap();
            assert_eq!(
                header.map(|header| header.data_len()),
                is_there.then_some(3)
            );
            let left = if is_there { (1, 0) } else { (0, 1) };
            assert_eq!((meanwhile.ends, meanwhile.rests), left);
            drop(client);
            if is_there {
                assert_eq!(input.data(&mut meanwhile).unwrap(), b"abc");
            }
            let ended = input.header(&mut meanwhile);
            assert!(matches!(ended, Err(InputError::Closed)), "{ended:?}");
        }
    }

    #[test]
    fn what_does_not_match_its_digest_is_refused() {
        let both = Digests {
            header: true,
            data: true,
        };
        for (at, is_header) in [(20, true), (54, false)] {
            let (mut client, mut input) = pair();
            input.set_digests(both);
            let mut bytes = pdu(b"abcd", both);
            bytes[at] ^= 1;
            client.write_all(&bytes).unwrap();
            match input.header(&mut || {}) {
                Err(InputError::HeaderDigest) => assert!(is_header),
                Ok(Some(_)) => assert!(matches!(
                    input.data(&mut || {}),
                    Err(InputError::DataDigest)
                )),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_cut_or_overlong_pdu_ends_it() {
        let (mut client, mut input) = pair();
        client.write_all(&[0; 20]).unwrap();
        drop(client);
        assert!(matches!(input.header(&mut || {}), Err(InputError::Cut)));
        let (mut client, mut input) = pair();
        let mut header = Header::response(0x05);
        header.set_data_len(MAX_DATA_SEGMENT + 1);
        client.write_all(&header.0).unwrap();
        assert!(matches!(
            input.header(&mut || {}),
            Err(InputError::TooLong(_))
        ));
    }
}
