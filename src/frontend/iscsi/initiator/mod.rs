//! The other side: a small initiator. For `snapmark scsi-snapshot`, and to try the target out; who wants
//! a disk has the kernel's, or libiscsi.

mod login;

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::wire::{BHS, Digests, Header, Input, InputError, NO_TAG, padded, response};
use crate::base::checksum;
use crate::config::Account;

/// How long an answer may take, unless told otherwise.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a thread that waits looks up.
const TICK: Duration = Duration::from_millis(500);
/// Bytes that are kept back at the most.
const MUCH: usize = 256 << 10;

/// Who logs in, and to what.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// The initiator's name, `iqn.…`.
    pub initiator: String,
    /// Its part of the session's name: two sessions with one target need two.
    pub isid: [u8; 6],
    /// The target's name; nothing for a discovery session.
    pub target: Option<String>,
    /// What it proves to know.
    pub account: Option<Account>,
    /// What the target is to prove in return.
    pub proof: Option<Account>,
    /// Whether headers and data have digests.
    pub digests: bool,
    /// The logical unit: of a Snapmark target always 0.
    pub lun: u8,
}

/// Why something did not work.
#[derive(Debug, thiserror::Error)]
pub enum InitiatorError {
    /// No connection.
    #[error("can't connect to {portal}: {error}")]
    Connect {
        /// Where.
        portal: SocketAddr,
        /// The host's word.
        error: io::Error,
    },
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Connection(String),
    /// The target did not let us in.
    #[error("the target refused the login: {}", meaning(*.class, *.detail))]
    Login {
        /// Status class.
        class: u8,
        /// Status detail.
        detail: u8,
    },
    /// It did something that no target does.
    #[error("the target broke the protocol: {0}")]
    Protocol(&'static str),
    /// It did not prove that it is the right one.
    #[error("the target does not know the secret that it should")]
    Proof,
    /// It does not answer.
    #[error("the target does not answer")]
    Timeout,
}

fn meaning(class: u8, detail: u8) -> String {
    let words = match (class, detail) {
        (2, 1) => "wrong user or secret, or it wants CHAP",
        (2, 2) => "this initiator may not use it",
        (2, 3) => "there is no such target",
        (2, 7) => "a key is missing",
        (3, 1) => "an earlier session is still ending; try again",
        (3, 2) => "it has too many sessions",
        _ => "see RFC 7143, section 11.13.5",
    };
    format!("status {class:02x}{detail:02x}h, {words}")
}

impl From<InputError> for InitiatorError {
    fn from(error: InputError) -> Self {
        Self::Connection(error.to_string())
    }
}

impl From<io::Error> for InitiatorError {
    fn from(error: io::Error) -> Self {
        Self::Connection(error.to_string())
    }
}

type Result<T> = std::result::Result<T, InitiatorError>;

/// Data of a command.
#[derive(Clone, Copy, Debug)]
pub enum Transfer<'a> {
    /// There are none.
    None,
    /// So many bytes at the most come back.
    In(usize),
    /// These are sent.
    Out(&'a [u8]),
}

/// How a command ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The SCSI status: 0 is GOOD, 2 CHECK CONDITION.
    pub status: u8,
    /// Sense data, in either format.
    pub sense: Vec<u8>,
    /// Data that came back.
    pub data: Vec<u8>,
}

impl Outcome {
    /// Sense key, additional sense code and its qualifier; nothing where there are no sense data.
    #[must_use]
    pub fn sense_code(&self) -> Option<(u8, u8, u8)> {
        let byte = |at: usize| self.sense.get(at).copied();
        match byte(0)? & 0x7f {
            0x70 | 0x71 => Some((byte(2)? & 0x0f, byte(12)?, byte(13)?)),
            0x72 | 0x73 => Some((byte(1)? & 0x0f, byte(2)?, byte(3)?)),
            _ => None,
        }
    }

    /// The words that a Snapmark target puts into sense data.
    #[must_use]
    pub fn words(&self) -> Option<String> {
        let bytes = match self.sense.first()? & 0x7f {
            0x70 | 0x71 => self.sense.get(18..)?,
            _ => {
                let mut rest = self.sense.get(8..)?;
                loop {
                    let (kind, len) = (*rest.first()?, usize::from(*rest.get(1)?));
                    let content = rest.get(2..2 + len)?;
                    if kind == 0x80 {
                        break content;
                    }
                    rest = &rest[2 + len..];
                }
            }
        };
        let words = String::from_utf8_lossy(bytes).into_owned();
        Some(words).filter(|words| !words.is_empty())
    }
}

/// A session with a target.
#[derive(Debug)]
pub struct Initiator {
    socket: TcpStream,
    input: Input,
    digests: Digests,
    tag: u32,
    cmd_sn: u32,
    stat_sn: u32,
    /// The most data that the target takes in one PDU, and unsolicited, in bytes.
    segment: usize,
    first_burst: usize,
    patience: Duration,
    lun: u8,
    /// What is to be sent before something is waited for.
    unsent: Vec<u8>,
    /// Data of commands under way.
    coming: FxHashMap<u32, Vec<u8>>,
}

impl Initiator {
    /// Logs in.
    ///
    /// # Errors
    /// Where there is no target, or it does not let us in.
    pub fn log_in(portal: SocketAddr, identity: &Identity) -> Result<Self> {
        let connect = |error| InitiatorError::Connect { portal, error };
        let socket = TcpStream::connect_timeout(&portal, PATIENCE).map_err(connect)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(TICK))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let mut initiator = Self {
            input: Input::new(socket.try_clone()?),
            socket,
            digests: Digests::default(),
            tag: 1,
            cmd_sn: 1,
            stat_sn: 0,
            segment: 8192,
            first_burst: 64 << 10,
            patience: PATIENCE,
            lun: identity.lun,
            unsent: Vec::new(),
            coming: FxHashMap::default(),
        };
        initiator.introduce(identity)?;
        Ok(initiator)
    }

    /// How long an answer may take from now on.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// The connection itself, for those who want to send it something else.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// All targets that we may use: each once for every address that it has.
    ///
    /// # Errors
    /// Where the connection breaks.
    pub fn targets(&mut self) -> Result<Vec<(String, String)>> {
        let mut text = Vec::new();
        let (mut transfer_tag, mut said) = (NO_TAG, b"SendTargets=All\0".as_slice());
        loop {
            let tag = self.next_tag();
            let mut header = Header([0; BHS]);
            header.0[0] = 0x44;
            header.set_flag(0x80);
            header.set_u32(16, tag);
            header.set_u32(20, transfer_tag);
            header.set_u32(24, self.cmd_sn);
            header.set_u32(28, self.stat_sn);
            self.send(&header, said)?;
            let (answer, piece) = self.receive()?;
            if answer.opcode() != response::TEXT {
                return Err(InitiatorError::Protocol(
                    "it answered text with something else",
                ));
            }
            self.stat_sn = answer.u32(24).wrapping_add(1);
            text.extend(piece);
            if answer.is_final() {
                break;
            }
            (transfer_tag, said) = (answer.u32(20), b"");
        }
        let mut targets: Vec<(String, String)> = Vec::new();
        for pair in String::from_utf8_lossy(&text).split('\0') {
            match pair.split_once('=') {
                Some(("TargetName", name)) => targets.push((name.to_owned(), String::new())),
                Some(("TargetAddress", address)) => match targets.last_mut() {
                    Some((_, first)) if first.is_empty() => address.clone_into(first),
                    Some((name, _)) => {
                        let name = name.clone();
                        targets.push((name, address.to_owned()));
                    }
                    None => {}
                },
                _ => {}
            }
        }
        Ok(targets)
    }

    /// Does a command, as a simple task.
    ///
    /// # Errors
    /// Where the connection breaks. What the target says of the command is in the outcome.
    pub fn command(&mut self, cdb: &[u8], transfer: Transfer<'_>) -> Result<Outcome> {
        let tag = self.start(cdb, transfer)?;
        self.finish(tag, transfer)
    }

    /// Sends a command, and does not wait for its end.
    ///
    /// # Errors
    /// Where the connection breaks.
    pub fn start(&mut self, cdb: &[u8], transfer: Transfer<'_>) -> Result<u32> {
        let tag = self.next_tag();
        let mut header = Header([0; BHS]);
        header.0[0] = 0x01;
        // A simple task, without unsolicited data but what comes with it.
        header.set_flag(0x81);
        let (expected, immediate): (usize, &[u8]) = match transfer {
            Transfer::None => (0, &[]),
            Transfer::In(len) => {
                header.set_flag(0x40);
                (len, &[])
            }
            Transfer::Out(data) => {
                header.set_flag(0x20);
                (
                    data.len(),
                    &data[..data.len().min(self.first_burst).min(self.segment)],
                )
            }
        };
        header.0[9] = self.lun;
        header.set_u32(16, tag);
        header.set_u32(20, expected as u32);
        header.set_u32(24, self.cmd_sn);
        header.set_u32(28, self.stat_sn);
        header.0[32..32 + cdb.len()].copy_from_slice(cdb);
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        self.send(&header, immediate)?;
        Ok(tag)
    }

    /// Waits for the end of a command, the only one under way.
    ///
    /// # Errors
    /// As [`command`](Self::command).
    pub fn finish(&mut self, tag: u32, transfer: Transfer<'_>) -> Result<Outcome> {
        let (ended, outcome) = self.next_end(|_| transfer)?;
        if ended == tag {
            Ok(outcome)
        } else {
            Err(InitiatorError::Protocol("an answer to something else"))
        }
    }

    /// Waits until one of the commands under way ends; which, and how. `transfer_of` says what is moved by
    /// a command, by its tag.
    ///
    /// # Errors
    /// As [`command`](Self::command).
    pub fn next_end<'a>(
        &mut self,
        transfer_of: impl Fn(u32) -> Transfer<'a>,
    ) -> Result<(u32, Outcome)> {
        loop {
            let (header, data) = self.receive()?;
            let tag = header.task_tag();
            match header.opcode() {
                response::R2T => {
                    let Transfer::Out(all) = transfer_of(tag) else {
                        return Err(InitiatorError::Protocol(
                            "it asks for data that there are not",
                        ));
                    };
                    self.send_data(&header, all)?;
                }
                response::DATA_IN => {
                    self.coming.entry(tag).or_default().extend(data);
                    if header.0[1] & 0x01 != 0 {
                        return Ok((tag, self.end(&header, Vec::new())));
                    }
                }
                response::SCSI => {
                    let sense = data.get(2..).unwrap_or_default().to_vec();
                    return Ok((tag, self.end(&header, sense)));
                }
                response::REJECT => return Err(InitiatorError::Protocol("it rejected a PDU")),
                _ => return Err(InitiatorError::Protocol("an answer to something else")),
            }
        }
    }

    fn end(&mut self, header: &Header, sense: Vec<u8>) -> Outcome {
        self.stat_sn = header.u32(24).wrapping_add(1);
        Outcome {
            status: header.0[3],
            sense,
            data: self.coming.remove(&header.task_tag()).unwrap_or_default(),
        }
    }

    fn send_data(&mut self, ready: &Header, all: &[u8]) -> Result<()> {
        let (from, len) = (ready.u32(40) as usize, ready.u32(44) as usize);
        let wanted = all.get(from..from.saturating_add(len));
        let wanted = wanted.ok_or(InitiatorError::Protocol(
            "it asks for data that there are not",
        ))?;
        let count = wanted.len().div_ceil(self.segment);
        for (n, piece) in wanted.chunks(self.segment).enumerate() {
            let mut header = Header([0; BHS]);
            header.0[0] = 0x05;
            if n + 1 == count {
                header.set_flag(0x80);
            }
            header.0[8..16].copy_from_slice(&ready.0[8..16]);
            header.set_u32(16, ready.task_tag());
            header.set_u32(20, ready.u32(20));
            header.set_u32(28, self.stat_sn);
            header.set_u32(36, n as u32);
            header.set_u32(40, (from + n * self.segment) as u32);
            self.send(&header, piece)?;
        }
        Ok(())
    }

    /// LOGICAL UNIT RESET.
    ///
    /// # Errors
    /// Where the target does not answer, or does not do it.
    pub fn reset(&mut self) -> Result<()> {
        let tag = self.next_tag();
        let mut header = Header([0; BHS]);
        header.0[0] = 0x42;
        header.set_flag(0x80 | 5);
        header.set_u32(16, tag);
        header.set_u32(20, NO_TAG);
        header.set_u32(24, self.cmd_sn);
        header.set_u32(28, self.stat_sn);
        self.send(&header, &[])?;
        let (answer, _) = self.receive()?;
        self.stat_sn = answer.u32(24).wrapping_add(1);
        match (answer.opcode(), answer.0[2]) {
            (response::TASK_MANAGEMENT, 0) => Ok(()),
            _ => Err(InitiatorError::Protocol("it does not reset")),
        }
    }

    /// Ends the session in order.
    ///
    /// # Errors
    /// Where the target does not answer.
    pub fn log_out(mut self) -> Result<()> {
        let tag = self.next_tag();
        let mut header = Header([0; BHS]);
        header.0[0] = 0x46;
        header.set_flag(0x80);
        header.set_u32(16, tag);
        header.set_u32(24, self.cmd_sn);
        header.set_u32(28, self.stat_sn);
        self.send(&header, &[])?;
        let (answer, _) = self.receive()?;
        match (answer.opcode(), answer.0[2]) {
            (response::LOGOUT, 0) => Ok(()),
            _ => Err(InitiatorError::Protocol("it does not let us log out")),
        }
    }

    fn next_tag(&mut self) -> u32 {
        self.tag = self.tag.wrapping_add(1);
        if self.tag == NO_TAG {
            self.tag = 1;
        }
        self.tag
    }

    fn send(&mut self, header: &Header, data: &[u8]) -> Result<()> {
        let mut header = *header;
        header.set_data_len(data.len());
        let bytes = &mut self.unsent;
        bytes.extend_from_slice(&header.0);
        if self.digests.header {
            bytes.extend(checksum(&header.0).0.to_le_bytes());
        }
        let start = bytes.len();
        bytes.extend_from_slice(data);
        bytes.resize(start + padded(data.len()), 0);
        if self.digests.data && !data.is_empty() {
            let sum = checksum(&bytes[start..]).0;
            bytes.extend(sum.to_le_bytes());
        }
        if self.unsent.len() > MUCH {
            self.flush()?;
        }
        Ok(())
    }

    /// Sends what was not sent yet. Whoever waits for an answer need not.
    ///
    /// # Errors
    /// Where the connection breaks.
    pub fn flush(&mut self) -> Result<()> {
        self.socket.write_all(&self.unsent)?;
        self.unsent.clear();
        Ok(())
    }

    /// The next PDU that is not a ping, or a message to whoever listens.
    fn receive(&mut self) -> Result<(Header, Vec<u8>)> {
        self.flush()?;
        let deadline = Instant::now() + self.patience;
        loop {
            if Instant::now() > deadline {
                return Err(InitiatorError::Timeout);
            }
            let Some(header) = self.input.header(&mut || {})? else {
                continue;
            };
            let data = self.input.data(&mut || {})?.to_vec();
            match header.opcode() {
                response::NOP_IN if header.u32(20) != NO_TAG => {
                    self.answer_ping(&header)?;
                    self.flush()?;
                }
                response::ASYNC_MESSAGE => self.stat_sn = header.u32(24).wrapping_add(1),
                _ => return Ok((header, data)),
            }
        }
    }

    fn answer_ping(&mut self, ping: &Header) -> Result<()> {
        let mut header = Header([0; BHS]);
        header.0[0] = 0x40;
        header.set_flag(0x80);
        header.set_u32(16, NO_TAG);
        header.set_u32(20, ping.u32(20));
        header.set_u32(24, self.cmd_sn);
        header.set_u32(28, self.stat_sn);
        self.send(&header, &[])
    }
}
