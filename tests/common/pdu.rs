//! An initiator whose PDUs a test makes itself, and what comes back.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::iscsi::{Lab, identity};
use snapmark::frontend::iscsi::{Initiator, snapshot_cdb};

/// How long nothing comes where nothing is to come.
pub const QUIET: Duration = Duration::from_millis(300);
/// Task attributes.
pub const SIMPLE: u8 = 1;
pub const ORDERED: u8 = 2;
pub const HEAD_OF_QUEUE: u8 = 3;
/// Task management functions.
pub const ABORT_TASK: u8 = 1;
pub const ABORT_TASK_SET: u8 = 2;
pub const RESET: u8 = 5;
pub const WARM_RESET: u8 = 6;
pub const COLD_RESET: u8 = 7;
/// What comes from a target.
pub const NOP_IN: u8 = 0x20;
pub const SCSI: u8 = 0x21;
pub const MANAGED: u8 = 0x22;
pub const LOGIN: u8 = 0x23;
pub const TEXT: u8 = 0x24;
pub const DATA_IN: u8 = 0x25;
pub const R2T: u8 = 0x31;

pub const NO_TAG: u32 = u32::MAX;

/// What came.
pub struct Pdu {
    pub header: [u8; 48],
    pub data: Vec<u8>,
}

impl Pdu {
    pub fn u32(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.header[at..at + 4].try_into().unwrap())
    }

    pub fn opcode(&self) -> u8 {
        self.header[0] & 0x3f
    }

    /// What it is, and what it answers.
    pub fn kind(&self) -> (u8, u32) {
        (self.opcode(), self.u32(16))
    }
}

/// A session whose PDUs a test makes itself.
pub struct Raw {
    pub socket: TcpStream,
    pub cmd_sn: u32,
    pub tag: u32,
}

impl Raw {
    pub fn over(socket: TcpStream) -> Self {
        let patience = Some(Duration::from_secs(30));
        socket.set_read_timeout(patience).unwrap();
        socket.set_nodelay(true).unwrap();
        Self {
            socket,
            cmd_sn: 1,
            tag: 1000,
        }
    }

    pub fn connect(portal: SocketAddr) -> Self {
        Self::over(TcpStream::connect(portal).unwrap())
    }

    /// From an address of this machine.
    pub fn connect_from(address: SocketAddr, portal: SocketAddr) -> Self {
        let domain = socket2::Domain::for_address(portal);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
        socket.bind(&address.into()).unwrap();
        socket.connect(&portal.into()).unwrap();
        Self::over(socket.into())
    }

    /// A session that has been told all there was to tell.
    pub fn session(lab: &Lab, initiator: &str, file: &str) -> Self {
        let who = identity(initiator, file);
        let session = Initiator::log_in(lab.portal, &who).unwrap();
        let mut raw = Self::over(session.socket().try_clone().unwrap());
        drop(session);
        raw.settle();
        raw
    }

    pub fn settle(&mut self) {
        loop {
            let tag = self.command(SIMPLE, 0, &[0; 6], 0, &[]);
            let answer = self.next();
            assert_eq!(answer.kind(), (SCSI, tag));
            if answer.header[3] == 0 {
                return;
            }
        }
    }

    pub fn send(&mut self, fields: &[(usize, &[u8])], data: &[u8]) {
        let mut pdu = vec![0; 48];
        for (at, bytes) in fields {
            pdu[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        pdu[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
        pdu.extend_from_slice(data);
        pdu.resize(pdu.len().next_multiple_of(4), 0);
        self.socket.write_all(&pdu).unwrap();
    }

    /// A command of this number. `direction` is 40h for what comes back, 20h for what is sent.
    pub fn numbered(
        &mut self,
        cmd_sn: u32,
        flags: u8,
        cdb: &[u8],
        expected: usize,
        data: &[u8],
    ) -> u32 {
        self.tag += 1;
        let tag = self.tag;
        let fields: [(usize, &[u8]); 6] = [
            (0, &[0x01]),
            (1, &[0x80 | flags]),
            (16, &tag.to_be_bytes()),
            (20, &(expected as u32).to_be_bytes()),
            (24, &cmd_sn.to_be_bytes()),
            (32, cdb),
        ];
        self.send(&fields, data);
        tag
    }

    pub fn command(
        &mut self,
        attribute: u8,
        direction: u8,
        cdb: &[u8],
        expected: usize,
        data: &[u8],
    ) -> u32 {
        let cmd_sn = self.cmd_sn;
        self.cmd_sn += 1;
        self.numbered(cmd_sn, attribute | direction, cdb, expected, data)
    }

    pub fn snapshot(&mut self, attribute: u8, name: &str) -> u32 {
        let cdb = snapshot_cdb(name, false, false).unwrap();
        self.command(attribute, 0x20, &cdb, name.len(), name.as_bytes())
    }

    /// A task management function, at once.
    pub fn manage(&mut self, function: u8, task: u32) -> u32 {
        self.tag += 1;
        let (tag, cmd_sn) = (self.tag, self.cmd_sn);
        let fields: [(usize, &[u8]); 5] = [
            (0, &[0x42]),
            (1, &[0x80 | function]),
            (16, &tag.to_be_bytes()),
            (20, &task.to_be_bytes()),
            (24, &cmd_sn.to_be_bytes()),
        ];
        self.send(&fields, &[]);
        tag
    }

    /// Asks for a sign of life, at once, and sees that it is what comes next.
    #[track_caller]
    pub fn ping(&mut self) -> Pdu {
        self.tag += 1;
        let (tag, cmd_sn) = (self.tag, self.cmd_sn);
        let fields: [(usize, &[u8]); 5] = [
            (0, &[0x40]),
            (1, &[0x80]),
            (16, &tag.to_be_bytes()),
            (20, &NO_TAG.to_be_bytes()),
            (24, &cmd_sn.to_be_bytes()),
        ];
        self.send(&fields, &[]);
        let answer = self.next();
        assert_eq!(answer.kind(), (NOP_IN, tag));
        answer
    }

    /// A text request, at once; `flags` say whether it ends or goes on.
    pub fn text(&mut self, flags: u8, transfer_tag: u32, text: &[u8]) -> Pdu {
        self.tag += 1;
        let (tag, cmd_sn) = (self.tag, self.cmd_sn);
        let fields: [(usize, &[u8]); 5] = [
            (0, &[0x44]),
            (1, &[flags]),
            (16, &tag.to_be_bytes()),
            (20, &transfer_tag.to_be_bytes()),
            (24, &cmd_sn.to_be_bytes()),
        ];
        self.send(&fields, text);
        self.next()
    }

    /// All that an R2T asks for.
    pub fn answer(&mut self, asked: &Pdu, all: &[u8]) {
        let (from, len) = (asked.u32(40) as usize, asked.u32(44) as usize);
        let mut at = from;
        for (n, piece) in (0u32..).zip(all[from..from + len].chunks(128 << 10)) {
            let is_last = at + piece.len() == from + len;
            let fields: [(usize, &[u8]); 6] = [
                (0, &[0x05]),
                (1, &[if is_last { 0x80 } else { 0 }]),
                (16, &asked.header[16..20]),
                (20, &asked.header[20..24]),
                (36, &n.to_be_bytes()),
                (40, &(at as u32).to_be_bytes()),
            ];
            self.send(&fields, piece);
            at += piece.len();
        }
    }

    #[track_caller]
    pub fn next(&mut self) -> Pdu {
        let mut header = [0; 48];
        self.socket.read_exact(&mut header).unwrap();
        let len = u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize;
        let mut data = vec![0; len.next_multiple_of(4)];
        self.socket.read_exact(&mut data).unwrap();
        data.truncate(len);
        Pdu { header, data }
    }

    /// Whether nothing comes for a while.
    pub fn is_quiet(&self) -> bool {
        self.socket.set_read_timeout(Some(QUIET)).unwrap();
        let came = self.socket.peek(&mut [0]);
        let patience = Some(Duration::from_secs(30));
        self.socket.set_read_timeout(patience).unwrap();
        came.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    /// A step of a login; `flags` are its stages. The answer, or the status where it failed.
    pub fn log_in(&mut self, flags: u8, said: &[(&str, &str)]) -> Result<Pdu, (u8, u8)> {
        let text: String = said
            .iter()
            .map(|(key, value)| format!("{key}={value}\0"))
            .collect();
        let fields: [(usize, &[u8]); 3] = [(0, &[0x43]), (1, &[flags]), (24, &[0, 0, 0, 1])];
        self.send(&fields, text.as_bytes());
        let answer = self.next();
        assert_eq!(answer.opcode(), LOGIN);
        match (answer.header[36], answer.header[37]) {
            (0, 0) => Ok(answer),
            status => Err(status),
        }
    }
}
