//! The receiving half of a session: takes PDUs out of its connection, does what is quickly done, and
//! leaves the rest to others.

mod requests;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::budget::Grant;
use super::order::Refused;
use super::reads::Reads;
use super::scsi::{self, Sense};
use super::session::{Session, TASK_SET_FULL, Task};
use super::wire::{
    BHS, Buffer, DataOut, Header, Input, InputError, Malformed, NO_TAG, NopOut, Reply, Request,
    ScsiCommand, TextError, response,
};

/// Commands that a session may have under way.
const WINDOW: u32 = 128;
/// Reads that are kept back at the most until they are left to others.
const MANY_READS: usize = 32;
/// How often that is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long the initiator may take to hear why its session ends.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// Why a PDU is rejected: too many immediate commands (RFC 7143, section 11.17.1).
const TOO_MANY: u8 = 0x06;
/// Requests to manage tasks that may be under way in a session.
const MOST_MANAGING: usize = 8;
/// The tag of our question.
const PING: u32 = 1;
/// Text that is sent in pieces is sent for this tag.
const MORE_TEXT: u32 = 2;

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    /// It logged out.
    #[error("it logged out")]
    Logout,
    /// Nothing more can be received.
    #[error(transparent)]
    Input(#[from] InputError),
    /// A header that is none.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Text that is none.
    #[error(transparent)]
    Text(#[from] TextError),
    /// Something that the protocol does not allow.
    #[error("{0}")]
    Protocol(&'static str),
    /// It does not answer.
    #[error("it does not answer")]
    Silent,
    /// A cold reset of its target.
    #[error("its target was reset")]
    Reset,
}

impl End {
    /// Why a PDU is rejected before the connection is closed (RFC 7143, section 11.17.1).
    fn reject_reason(&self) -> Option<u8> {
        match self {
            Self::Logout | Self::Silent | Self::Reset => None,
            Self::Input(InputError::DataDigest) => Some(0x02),
            Self::Input(InputError::TooLong(_)) => Some(0x04),
            Self::Input(_) => None,
            Self::Malformed(Malformed::Opcode(_) | Malformed::Unsupported(_)) => Some(0x05),
            Self::Malformed(Malformed::Field { .. }) | Self::Text(_) => Some(0x09),
            Self::Protocol(_) => Some(0x04),
        }
    }
}

/// A command whose data are coming in.
struct Collecting {
    task: Task,
    data: Buffer,
    grant: Option<Grant>,
    /// Bytes that came, in order.
    got: usize,
    /// Bytes up to which the sequence that is coming in may go.
    until: usize,
    /// The tag that the sequence has.
    transfer_tag: u32,
    data_sn: u32,
}

/// The receiving half of a session.
pub(super) struct Connection {
    session: Arc<Session>,
    cid: u16,
    input: Input,
    collecting: FxHashMap<u32, Collecting>,
    /// Reads that this thread has under way.
    reads: Reads,
    /// Reads that are left to others, until all that has come is looked at.
    left: Vec<Task>,
    next_transfer: u32,
    /// Text that has come in part.
    text: Vec<u8>,
    /// Text that is to be sent.
    text_left: Vec<u8>,
    last_heard: Instant,
    /// When data came that had been asked for, or began to be waited for.
    last_data: Instant,
    last_look: Instant,
    is_asked: bool,
}

impl Connection {
    /// Of a session that has logged in, from where the login ended.
    pub fn new(session: Arc<Session>, cid: u16, mut input: Input) -> Self {
        input.set_digests(session.digests());
        let numbers = &session.output.numbers;
        numbers.max.store(
            numbers.expected.load(Relaxed).wrapping_add(WINDOW - 1),
            Relaxed,
        );
        Self {
            reads: Reads::new(Arc::clone(&session)),
            session,
            cid,
            input,
            collecting: FxHashMap::default(),
            left: Vec::new(),
            next_transfer: MORE_TEXT + 1,
            text: Vec::new(),
            text_left: Vec::new(),
            last_heard: Instant::now(),
            last_data: Instant::now(),
            last_look: Instant::now(),
            is_asked: false,
        }
    }

    /// Serves until the connection is over; says why.
    pub fn serve(&mut self) -> End {
        let end = loop {
            if let Err(end) = self.next() {
                break end;
            }
        };
        // Its socket was closed to what comes, or it has seen that it is to end.
        let end = if self.session.output.is_ending() {
            End::Reset
        } else {
            end
        };
        self.leave_reads();
        self.reads.end_all();
        if let (Some(reason), Some(header)) = (end.reject_reason(), self.input.last_header()) {
            self.reject(reason, header);
        }
        self.session.output.wait_until_sent(LAST_WORDS);
        self.session.output.close();
        end
    }

    fn next(&mut self) -> Result<(), End> {
        if !self.input.is_more_there_than(0) || self.left.len() >= MANY_READS {
            self.leave_reads();
        }
        if self.session.output.is_much_waiting() {
            self.session.flush();
            // What is under way does not wait for an initiator that takes nothing: others may wait for it.
            self.reads.end_all();
            self.session.output.wait_while_much_waits();
            // What asks for data was behind that.
            self.last_data = Instant::now();
        }
        let Some(header) = self.input.header(&mut self.reads)? else {
            return self.listen();
        };
        let now = Instant::now();
        self.last_heard = now;
        self.is_asked = false;
        let request = Request::decode(&header)?;
        if self.session.output.is_ending() {
            return Err(End::Reset);
        }
        self.look_at_data(now)?;
        match request {
            // Most of what comes.
            Request::Scsi(command) => self.command(&header, command),
            Request::DataOut(data) => self.data_out(data),
            request => {
                if !self.takes(&header)? {
                    return Ok(self.skip_data()?);
                }
                self.session.settle(!header.is_immediate());
                self.other(&header, request)
            }
        }
    }

    /// Whether data that were asked for are coming: what waits for them keeps memory.
    fn look_at_data(&mut self, now: Instant) -> Result<(), End> {
        if now.duration_since(self.last_look) < LOOK {
            return Ok(());
        }
        self.last_look = now;
        // Those that others gave up: their data need not come.
        let session = &self.session;
        self.collecting.retain(|_, collecting| {
            let is_over = session.order.is_given_up(collecting.task.number);
            if is_over {
                session.drop_task(&collecting.task);
            }
            !is_over
        });
        if self.session.output.is_anything_waiting() {
            // It may not have been asked yet.
            self.last_data = now;
        }
        // Whichever they are for: on a slow link the last of many may take long.
        let is_late = now.duration_since(self.last_data) > session.server.options.data_patience;
        if is_late && !self.collecting.is_empty() {
            return Err(End::Protocol("data that were asked for do not come"));
        }
        Ok(())
    }

    /// Nothing came for a while.
    fn listen(&mut self) -> Result<(), End> {
        let now = Instant::now();
        self.look_at_data(now)?;
        let (silence, patience) = (
            now.duration_since(self.last_heard),
            self.session.server.options.silence,
        );
        if silence > 2 * patience {
            return Err(End::Silent);
        }
        if silence > patience && !self.is_asked {
            self.is_asked = true;
            let mut header = Header::response(response::NOP_IN);
            header.set_u32(20, PING);
            let mut reply = Reply::with_room(self.session.digests(), 1, 0);
            reply.add_request(&header, 0);
            self.session.output.push(reply);
            self.session.flush();
        }
        Ok(())
    }

    /// Whether a request is the one whose turn it is. What is outside of the window is passed over
    /// (RFC 7143, section 4.2.2.1).
    fn takes(&mut self, header: &Header) -> Result<bool, End> {
        if header.is_immediate() {
            return Ok(true);
        }
        let numbers = &self.session.output.numbers;
        let expected = numbers.expected.load(Relaxed);
        let room = numbers.max.load(Relaxed).wrapping_sub(expected) as i32;
        let ahead = header.u32(24).wrapping_sub(expected) as i32;
        if ahead == 0 && room >= 0 {
            numbers.expected.store(expected.wrapping_add(1), Relaxed);
            return Ok(true);
        }
        if ahead > 0 && ahead <= room {
            // On the only connection of a session nothing can come in between any more.
            return Err(End::Protocol("a command number was left out"));
        }
        Ok(false)
    }

    fn skip_data(&mut self) -> Result<(), InputError> {
        self.input.skip_data(&mut self.reads)
    }

    fn leave_reads(&mut self) {
        self.session.perform_reads(std::mem::take(&mut self.left));
    }

    fn other(&mut self, header: &Header, request: Request) -> Result<(), End> {
        match request {
            Request::Nop(nop) => self.nop(nop),
            Request::TaskManagement(request) => {
                self.skip_data()?;
                if self.session.managing.load(Relaxed) >= MOST_MANAGING {
                    self.reject(TOO_MANY, header);
                } else {
                    self.manage(request);
                }
                Ok(())
            }
            Request::Text(text) => self.text(text),
            Request::Logout(logout) => {
                self.skip_data()?;
                self.log_out(logout)
            }
            Request::Login(_) => Err(End::Protocol("a login request after the login")),
            Request::Scsi(_) | Request::DataOut(_) => Ok(self.skip_data()?),
        }
    }

    fn nop(&mut self, nop: NopOut) -> Result<(), End> {
        let session = Arc::clone(&self.session);
        let data = self.input.data(&mut self.reads)?;
        if nop.tag == NO_TAG {
            return Ok(());
        }
        let most = session.their_segment.load(Relaxed);
        let mut header = Header::response(response::NOP_IN).for_task(nop.tag);
        header.set_u32(20, NO_TAG);
        header.set_lun(nop.lun);
        session.send(&header, &data[..data.len().min(most)]);
        Ok(())
    }

    fn reject(&self, reason: u8, header: &Header) {
        let mut answer = Header::response(response::REJECT);
        answer.0[2] = reason;
        self.session.send(&answer, &header.0[..BHS]);
    }
}

/// Commands and their data.
impl Connection {
    fn command(&mut self, header: &Header, command: ScsiCommand) -> Result<(), End> {
        if !self.takes(header)? {
            return Ok(self.skip_data()?);
        }
        let session = Arc::clone(&self.session);
        if session.used.is_none() {
            return Err(End::Protocol("a SCSI command in a discovery session"));
        }
        let immediate = header.data_len();
        self.check_immediate(&command, immediate)?;
        let is_numbered = !header.is_immediate();
        let begun = session
            .order
            .begin(command.tag, command.attribute, is_numbered);
        let number = match begun {
            Ok(number) => number,
            Err(Refused::TagInUse) => return Err(End::Protocol("a task's tag is in use")),
            Err(Refused::Closed) => return Err(End::Logout),
            Err(Refused::TooMany) => {
                self.skip_data()?;
                self.reject(TOO_MANY, header);
                return Ok(());
            }
        };
        let task = Task {
            number,
            command,
            is_numbered,
            prepared: scsi::prepare(&command.cdb).map_err(Box::new),
            transfers: 0,
        };
        let wanted = task.wanted();
        let is_all_there = immediate >= wanted && (command.is_final || !command.writes);
        if !is_all_there {
            return self.collect(task, wanted, immediate);
        }
        let is_last = !self.input.is_more_there_than(immediate);
        let data = self.input.data(&mut self.reads)?;
        let data = &data[..wanted];
        if session.is_done_here(&task, !is_last) && session.order.start(number) {
            session.perform_here(&task, data);
            return Ok(());
        }
        if task.is_short_read()
            && let Some(room) = self.reads.room_for(&task)
            && session.order.start(number)
        {
            self.reads.begin(task, room);
            return Ok(());
        }
        if task.is_read() && session.order.queue(number) {
            self.left.push(task);
            return Ok(());
        }
        let Some(grant) = session.server.budget.take(&session.share, wanted) else {
            session.finish(&task, session.status(&task, TASK_SET_FULL, None));
            return Ok(());
        };
        session.dispatch(task, Buffer::of(data), Some(grant));
        Ok(())
    }

    fn check_immediate(&self, command: &ScsiCommand, immediate: usize) -> Result<(), End> {
        let parameters = &self.session.parameters;
        if immediate == 0 {
            return Ok(());
        }
        if !command.writes || !parameters.immediate_data {
            return Err(End::Protocol("data with a command that may have none"));
        }
        let most = parameters.first_burst.min(command.expected) as usize;
        if immediate > most {
            return Err(End::Protocol("more data with a command than was agreed"));
        }
        Ok(())
    }

    /// Takes the data that came with a command, and goes for the rest.
    fn collect(&mut self, task: Task, wanted: usize, immediate: usize) -> Result<(), End> {
        let session = Arc::clone(&self.session);
        let Some(grant) = session.server.budget.take(&session.share, wanted) else {
            self.skip_data()?;
            session.finish(&task, session.status(&task, TASK_SET_FULL, None));
            return Ok(());
        };
        let first_burst = session.parameters.first_burst.min(task.command.expected) as usize;
        let mut collecting = Collecting {
            data: Buffer::new(wanted),
            grant: Some(grant),
            got: 0,
            until: first_burst,
            transfer_tag: NO_TAG,
            data_sn: 0,
            task,
        };
        if self.collecting.is_empty() {
            self.last_data = Instant::now();
        }
        self.receive(&mut collecting, immediate)?;
        let is_final = collecting.task.command.is_final;
        if !is_final && session.parameters.initial_r2t {
            return Err(End::Protocol("unsolicited data where none were agreed"));
        }
        if is_final {
            self.go_on(collecting);
        } else {
            self.collecting
                .insert(collecting.task.command.tag, collecting);
        }
        Ok(())
    }

    /// Takes the data of a PDU to where they belong. What nobody wants is dropped.
    fn receive(&mut self, collecting: &mut Collecting, len: usize) -> Result<(), End> {
        let (at, wanted) = (collecting.got, collecting.data.len());
        if at + len <= wanted {
            self.input
                .data_into(&mut collecting.data[at..at + len], &mut self.reads)?;
        } else {
            let data = self.input.data(&mut self.reads)?;
            let here = wanted.saturating_sub(at);
            collecting.data[wanted - here..].copy_from_slice(&data[..here]);
        }
        collecting.got += len;
        if len > 0 {
            self.last_data = Instant::now();
        }
        Ok(())
    }

    fn data_out(&mut self, data: DataOut) -> Result<(), End> {
        // Of a task that was given up, or not taken, more may be under way.
        let Some(mut collecting) = self.collecting.remove(&data.tag) else {
            return Ok(self.skip_data()?);
        };
        if self.session.order.is_given_up(collecting.task.number) {
            self.session.drop_task(&collecting.task);
            return Ok(self.skip_data()?);
        }
        let len = self.input.data_len();
        if data.transfer_tag != collecting.transfer_tag {
            return Err(End::Protocol("data for another R2T"));
        }
        if data.data_sn != collecting.data_sn {
            // As if a PDU before it had been lost (RFC 7143, section 7.9): the task ends, and what else
            // comes for it is passed over.
            self.skip_data()?;
            let session = &self.session;
            let sense = Sense::data_lost();
            session.finish(&collecting.task, session.check(&collecting.task, &sense));
            return Ok(());
        }
        if data.offset as usize != collecting.got || collecting.got + len > collecting.until {
            return Err(End::Protocol("data that were not asked for"));
        }
        self.receive(&mut collecting, len)?;
        collecting.data_sn = collecting.data_sn.wrapping_add(1);
        let is_solicited = collecting.transfer_tag != NO_TAG;
        let is_complete = collecting.got == collecting.until;
        match data.is_final {
            true if is_solicited && !is_complete => {
                Err(End::Protocol("a sequence of data ends early"))
            }
            false if is_complete => Err(End::Protocol("a sequence of data does not end")),
            true => {
                self.go_on(collecting);
                Ok(())
            }
            false => {
                self.collecting.insert(data.tag, collecting);
                Ok(())
            }
        }
    }

    /// A sequence of data is complete: asks for the next one, or does the task.
    fn go_on(&mut self, mut collecting: Collecting) {
        let wanted = collecting.data.len();
        if collecting.got >= wanted {
            return self.complete(collecting);
        }
        let burst = self.session.parameters.max_burst as usize;
        let len = (wanted - collecting.got).min(burst);
        collecting.until = collecting.got + len;
        collecting.transfer_tag = self.free_transfer_tag();
        collecting.data_sn = 0;
        let mut header = Header::response(response::R2T).for_task(collecting.task.command.tag);
        header.set_lun(collecting.task.command.lun);
        header.set_u32(20, collecting.transfer_tag);
        header.set_u32(36, collecting.task.transfers);
        header.set_u32(40, collecting.got as u32);
        header.set_u32(44, len as u32);
        collecting.task.transfers += 1;
        let mut reply = Reply::with_room(self.session.digests(), 1, 0);
        reply.add_request(&header, 0);
        self.session.output.push(reply);
        self.collecting
            .insert(collecting.task.command.tag, collecting);
    }

    fn free_transfer_tag(&mut self) -> u32 {
        let tag = self.next_transfer;
        let next = tag.wrapping_add(1);
        self.next_transfer = if next == NO_TAG { MORE_TEXT + 1 } else { next };
        tag
    }

    fn complete(&mut self, collecting: Collecting) {
        let Collecting {
            task, data, grant, ..
        } = collecting;
        let is_more_there = self.input.is_more_there_than(0);
        let session = &self.session;
        if session.is_done_here(&task, is_more_there) && session.order.start(task.number) {
            session.perform_here(&task, &data);
        } else {
            session.dispatch(task, data, grant);
        }
    }
}
