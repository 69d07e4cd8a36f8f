//! PDUs into a socket: numbered in the order in which they are sent, many of them by one system call.
//!
//! Whoever has answers puts them in line and sends what the socket takes at once. What it does not
//! take is left to a thread of the connection, so that a slow initiator holds up nobody else's.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use smallvec::SmallVec;
use socket2::SockRef;

use super::buffer::Buffer;
use super::header::{BHS, Header, padded};
use crate::base::checksum;

/// Bytes of a digest.
const DIGEST: usize = 4;
/// Bytes in line above which no more commands are taken.
const MUCH: usize = 2 << 20;
/// Buffers that one system call sends.
const AT_ONCE: usize = 64;

/// Which parts of PDUs have digests: CRC-32C, after each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digests {
    /// Headers.
    pub header: bool,
    /// Data.
    pub data: bool,
}

impl Digests {
    fn len_of(is_on: bool) -> usize {
        if is_on { DIGEST } else { 0 }
    }
}

/// The command numbers that each response tells: what is expected next, and up to where the
/// initiator may go.
#[derive(Debug, Default)]
pub struct Numbers {
    /// `ExpCmdSN`. Only the receiving thread sets it.
    pub expected: AtomicU32,
    /// `MaxCmdSN`; never goes back.
    pub max: AtomicU32,
}

/// What a response does with the status number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    /// It has one of its own.
    Takes,
    /// It shows the next.
    Shows,
    /// It has none.
    Without,
}

/// One or more PDUs that are sent together.
pub struct Reply {
    buffer: Buffer,
    /// How much of it is filled.
    len: usize,
    digests: Digests,
    pdus: SmallVec<[(usize, Status); 2]>,
}

impl Reply {
    /// Room for so many PDUs with so much data.
    #[must_use]
    pub fn with_room(digests: Digests, pdus: usize, data: usize) -> Self {
        let overhead = BHS + 2 * DIGEST + 3;
        Self {
            buffer: Buffer::new(pdus * overhead + data),
            len: 0,
            digests,
            pdus: SmallVec::new(),
        }
    }

    /// One PDU without data that takes a status number.
    #[must_use]
    pub fn single(digests: Digests, header: &Header) -> Self {
        let mut reply = Self::with_room(digests, 1, 0);
        reply.add(header, 0);
        reply
    }

    /// Adds a PDU that takes a status number, and returns the place of its data.
    pub fn add(&mut self, header: &Header, data: usize) -> &mut [u8] {
        self.put(header, data, Status::Takes)
    }

    /// Adds one that shows the next status number.
    pub fn add_request(&mut self, header: &Header, data: usize) -> &mut [u8] {
        self.put(header, data, Status::Shows)
    }

    /// Adds one that has no status.
    pub fn add_data(&mut self, header: &Header, data: usize) -> &mut [u8] {
        self.put(header, data, Status::Without)
    }

    fn put(&mut self, header: &Header, data: usize, status: Status) -> &mut [u8] {
        let at = self.len;
        self.pdus.push((at, status));
        let start = at + BHS + Digests::len_of(self.digests.header);
        let digest = Digests::len_of(self.digests.data && data > 0);
        self.len = start + padded(data) + digest;
        let mut header = *header;
        header.set_data_len(data);
        self.buffer[at..at + BHS].copy_from_slice(&header.0);
        self.buffer[start + data..start + padded(data)].fill(0);
        &mut self.buffer[start..start + data]
    }

    /// How many PDUs it has.
    #[must_use]
    pub fn pdus(&self) -> usize {
        self.pdus.len()
    }

    /// Where the data of the PDU that was added last begin.
    #[must_use]
    pub fn start_of_last(&self) -> usize {
        let at = self.pdus.last().map_or(0, |(at, _)| *at);
        at + BHS + Digests::len_of(self.digests.header)
    }

    /// Lends its memory, to whoever fills it: until it has that back there is nothing in it.
    pub fn lend(&mut self) -> Vec<u8> {
        self.buffer.lend()
    }

    /// Takes it back.
    pub fn take_back(&mut self, bytes: Vec<u8>) {
        self.buffer.take_back(bytes);
    }

    fn header(&self, at: usize) -> Header {
        let mut header = Header([0; BHS]);
        header.0.copy_from_slice(&self.buffer[at..at + BHS]);
        header
    }

    /// Data digests: all that can be done before its turn.
    fn finish_data(&mut self) {
        if !self.digests.data {
            return;
        }
        for at in self.pdus.iter().map(|(at, _)| *at) {
            let len = padded(self.header(at).data_len());
            if len > 0 {
                let start = at + BHS + Digests::len_of(self.digests.header);
                let sum = checksum(&self.buffer[start..start + len]).0;
                let end = start + len;
                self.buffer[end..end + DIGEST].copy_from_slice(&sum.to_le_bytes());
            }
        }
    }

    fn number(&mut self, stat_sn: &mut u32, numbers: &Numbers) {
        for (at, status) in std::mem::take(&mut self.pdus) {
            let mut header = self.header(at);
            if status != Status::Without {
                header.set_u32(24, *stat_sn);
            }
            if status == Status::Takes {
                *stat_sn = stat_sn.wrapping_add(1);
            }
            header.set_u32(28, numbers.expected.load(Relaxed));
            header.set_u32(32, numbers.max.load(Relaxed));
            self.buffer[at..at + BHS].copy_from_slice(&header.0);
            if self.digests.header {
                let sum = checksum(&header.0).0.to_le_bytes();
                self.buffer[at + BHS..at + BHS + DIGEST].copy_from_slice(&sum);
            }
        }
    }
}

/// The sending half of a connection.
pub struct Output {
    socket: TcpStream,
    /// Shown in all that is sent.
    pub numbers: Numbers,
    line: Mutex<Line>,
    is_ending: AtomicBool,
    /// Signalled when there is something for the connection's thread to send.
    stuck: Condvar,
    /// Signalled when something was sent, and at the end.
    sent: Condvar,
}

struct Line {
    waiting: VecDeque<Buffer>,
    /// Bytes of the first that are sent.
    begun: usize,
    /// Bytes that wait, `begun` among them.
    bytes: usize,
    /// Bytes of answers that are being made.
    promised: usize,
    /// Someone is sending.
    is_sending: bool,
    /// The socket took no more: the connection's thread is to wait for it.
    is_stuck: bool,
    /// The connection is over.
    is_over: bool,
    stat_sn: u32,
}

/// Room in line for an answer that is being made, until it is dropped.
pub struct Room {
    output: Arc<Output>,
    bytes: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.output.line.lock().promised -= self.bytes;
    }
}

/// How far a system call came.
enum Sent {
    All,
    Some(usize),
}

impl Output {
    /// Over a socket; the first status number is `stat_sn`.
    pub fn new(socket: TcpStream, stat_sn: u32) -> Self {
        Self {
            socket,
            numbers: Numbers::default(),
            line: Mutex::new(Line {
                waiting: VecDeque::new(),
                begun: 0,
                bytes: 0,
                promised: 0,
                is_sending: false,
                is_stuck: false,
                is_over: false,
                stat_sn,
            }),
            is_ending: AtomicBool::new(false),
            stuck: Condvar::new(),
            sent: Condvar::new(),
        }
    }

    /// Puts a reply in line. It goes out with the next [`flush`](Self::flush).
    pub fn push(&self, mut reply: Reply) {
        reply.finish_data();
        let mut line = self.line.lock();
        if line.is_over {
            return;
        }
        reply.number(&mut line.stat_sn, &self.numbers);
        reply.buffer.truncate(reply.len);
        line.bytes += reply.len;
        line.waiting.push_back(reply.buffer);
    }

    /// Sends what the socket takes at once.
    pub fn flush(&self) {
        let mut line = self.line.lock();
        if line.is_sending || line.waiting.is_empty() {
            return;
        }
        line.is_sending = true;
        while !line.waiting.is_empty() && !line.is_over {
            let begun = line.begun;
            let batch = line.take();
            let sent = parking_lot::MutexGuard::unlocked(&mut line, || {
                self.send(&batch, begun, libc::MSG_DONTWAIT)
            });
            if let Ok(Sent::Some(_)) = sent {
                self.settle(&mut line, batch, sent);
                // Still sending, by another thread.
                line.is_stuck = true;
                self.stuck.notify_all();
                return;
            }
            self.settle(&mut line, batch, sent);
        }
        line.is_sending = false;
        self.sent.notify_all();
    }

    /// What the connection's thread for sending does, until the connection is over. It calls `after` whenever
    /// it has sent something.
    pub fn send_what_is_stuck(&self, after: impl Fn()) {
        let mut line = self.line.lock();
        while !line.is_over {
            if !line.is_stuck {
                self.stuck.wait(&mut line);
                continue;
            }
            while !line.waiting.is_empty() && !line.is_over {
                let begun = line.begun;
                let batch = line.take();
                let sent =
                    parking_lot::MutexGuard::unlocked(&mut line, || self.send(&batch, begun, 0));
                self.settle(&mut line, batch, sent);
                parking_lot::MutexGuard::unlocked(&mut line, &after);
            }
            (line.is_stuck, line.is_sending) = (false, false);
            self.sent.notify_all();
        }
    }

    /// Whether there is much in line.
    pub fn is_much_waiting(&self) -> bool {
        self.line.lock().bytes > MUCH
    }

    /// Room in line for an answer of so many bytes; any answer finds room where there is nothing else. An
    /// initiator that takes nothing can't have us make more than that.
    pub fn room(self: &Arc<Self>, bytes: usize) -> Option<Room> {
        let mut line = self.line.lock();
        if !line.has_room(bytes) {
            return None;
        }
        line.promised += bytes;
        let output = Arc::clone(self);
        Some(Room { output, bytes })
    }

    /// Waits while there is much in line; what was not [sent](Self::flush) yet, others have to send.
    pub fn wait_while_much_waits(&self) {
        let mut line = self.line.lock();
        while line.bytes > MUCH && !line.is_over {
            self.sent.wait(&mut line);
        }
    }

    /// Waits until all in line is sent, or can't be, for so long at the most.
    pub fn wait_until_sent(&self, within: Duration) {
        self.flush();
        let deadline = Instant::now() + within;
        let mut line = self.line.lock();
        while !line.is_over && (line.is_sending || !line.waiting.is_empty()) {
            if self.sent.wait_until(&mut line, deadline).timed_out() {
                return;
            }
        }
    }

    /// Has the thread that receives end the connection: it sends what is in line, and receives nothing more.
    pub fn end_soon(&self) {
        self.is_ending.store(true, Relaxed);
        // Wakes it up.
        let _ = self.socket.shutdown(Shutdown::Read);
    }

    /// Whether it is to [end](Self::end_soon).
    pub fn is_ending(&self) -> bool {
        self.is_ending.load(Relaxed)
    }

    /// Whether there is anything in line.
    pub fn is_anything_waiting(&self) -> bool {
        self.line.lock().bytes > 0
    }

    /// Ends the connection: nothing is sent or received any more.
    pub fn close(&self) {
        let mut line = self.line.lock();
        self.end(&mut line);
    }

    /// The address at which the initiator found us.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.socket.local_addr().ok()
    }

    fn end(&self, line: &mut Line) {
        if !std::mem::replace(&mut line.is_over, true) {
            // Wakes up whoever receives or sends.
            let _ = self.socket.shutdown(Shutdown::Both);
        }
        line.waiting.clear();
        line.bytes = 0;
        self.stuck.notify_all();
        self.sent.notify_all();
    }

    fn send(&self, batch: &[Buffer], begun: usize, flags: i32) -> io::Result<Sent> {
        let mut slices: SmallVec<[IoSlice<'_>; AT_ONCE]> =
            batch.iter().map(|buffer| IoSlice::new(buffer)).collect();
        let total: usize = batch.iter().map(|buffer| buffer.len()).sum::<usize>() - begun;
        let mut rest = &mut slices[..];
        IoSlice::advance_slices(&mut rest, begun);
        let socket = SockRef::from(&self.socket);
        loop {
            match socket.send_vectored_with_flags(rest, flags | libc::MSG_NOSIGNAL) {
                Ok(sent) if sent == total => return Ok(Sent::All),
                Ok(sent) => return Ok(Sent::Some(begun + sent)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && flags != 0 => {
                    return Ok(Sent::Some(begun));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Puts back what was not sent.
    fn settle(
        &self,
        line: &mut Line,
        mut batch: SmallVec<[Buffer; AT_ONCE]>,
        sent: io::Result<Sent>,
    ) {
        match sent {
            Ok(Sent::All) => {
                line.bytes = line
                    .bytes
                    .saturating_sub(batch.iter().map(|buffer| buffer.len()).sum());
                line.begun = 0;
            }
            Ok(Sent::Some(mut sent)) => {
                while batch.first().is_some_and(|first| first.len() <= sent) {
                    sent -= batch[0].len();
                    line.bytes = line.bytes.saturating_sub(batch[0].len());
                    batch.remove(0);
                }
                line.begun = sent;
                for buffer in batch.into_iter().rev() {
                    line.waiting.push_front(buffer);
                }
            }
            // With a timeout, or for good: what an initiator got in part it can't use.
            Err(_) => self.end(line),
        }
        if line.bytes <= MUCH {
            self.sent.notify_all();
        }
    }
}

impl Line {
    fn has_room(&self, bytes: usize) -> bool {
        let all = self.bytes + self.promised;
        self.is_over || all == 0 || all + bytes <= MUCH
    }

    fn take(&mut self) -> SmallVec<[Buffer; AT_ONCE]> {
        let count = self.waiting.len().min(AT_ONCE);
        self.waiting.drain(..count).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::super::header::response;
    use super::*;

    fn pair() -> (TcpStream, Arc<Output>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        (client, Arc::new(Output::new(server, 100)))
    }

    #[test]
    fn responses_are_numbered_in_the_order_in_which_they_are_sent() {
        let (mut client, output) = pair();
        output.numbers.expected.store(5, Relaxed);
        output.numbers.max.store(9, Relaxed);
        let digests = Digests {
            header: true,
            data: true,
        };
        let mut reply = Reply::with_room(digests, 2, 5);
        reply
            .add_data(&Header::response(response::DATA_IN), 5)
            .copy_from_slice(b"abcde");
        reply.add(&Header::response(response::SCSI), 0);
        output.push(reply);
        let mut reply = Reply::with_room(digests, 1, 0);
        reply.add_request(&Header::response(response::R2T), 0);
        output.push(reply);
        output.push(Reply::single(digests, &Header::response(response::TEXT)));
        output.flush();
        let mut bytes = vec![0; 4 * 52 + 8 + 4];
        client.read_exact(&mut bytes).unwrap();
        let stat = |at: usize| u32::from_be_bytes(bytes[at + 24..at + 28].try_into().unwrap());
        assert_eq!(&bytes[52..60], b"abcde\0\0\0");
        assert_eq!(bytes[60..64], checksum(b"abcde\0\0\0").0.to_le_bytes());
        assert_eq!([0, 64, 116, 168].map(stat), [0, 100, 101, 101]);
        assert_eq!(bytes[64 + 28..64 + 36], [0, 0, 0, 5, 0, 0, 0, 9]);
        assert_eq!(
            bytes[64 + 48..64 + 52],
            checksum(&bytes[64..64 + 48]).0.to_le_bytes()
        );
    }

    #[test]
    fn what_a_slow_initiator_does_not_take_is_sent_later() {
        let (mut client, output) = pair();
        let sender = Arc::clone(&output);
        let sender = std::thread::spawn(move || sender.send_what_is_stuck(|| {}));
        let mut expected = Vec::new();
        for n in 0..40u8 {
            let mut reply = Reply::with_room(Digests::default(), 1, 1 << 18);
            let data = reply.add_data(&Header::response(response::DATA_IN), 1 << 18);
            data.fill(n);
            expected.push(n);
            output.push(reply);
            output.flush();
        }
        for n in expected {
            let mut pdu = vec![0; BHS + (1 << 18)];
            client.read_exact(&mut pdu).unwrap();
            assert!(pdu[BHS..].iter().all(|byte| *byte == n), "{n}");
        }
        output.wait_while_much_waits();
        output.wait_until_sent(Duration::from_secs(10));
        output.close();
        sender.join().unwrap();
    }

    #[test]
    fn nothing_waits_for_an_initiator_that_is_gone() {
        let (client, output) = pair();
        drop(client);
        for _ in 0..100 {
            let mut reply = Reply::with_room(Digests::default(), 1, 1 << 18);
            reply
                .add_data(&Header::response(response::DATA_IN), 1 << 18)
                .fill(0);
            output.push(reply);
            output.flush();
        }
        output.close();
        output.wait_while_much_waits();
        output.wait_until_sent(Duration::from_secs(10));
    }
}
