//! A session: an initiator port that uses a target, over one connection (RFC 7143, section 4.4.3).
//! What the receiving thread and those who do its tasks share.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::budget::{Grant, Share};
use super::login::{LoggedIn, Parameters};
use super::order::{Job, Order, Turn};
use super::scsi::{self, Answer, Nexus, Prepared, Scene, Sense, Unit, code};
use super::server::Server;
use super::wire::{
    Buffer, Digests, Header, MAX_DATA_SEGMENT, NO_TAG, Output, Reply, Room, ScsiCommand, padded,
    response,
};
use crate::base::{Timestamp, now};
use crate::volume::{Extent, IscsiSessionStatus, Node, Volumes};

/// A read that takes longer than this, on the average, is left to another thread.
const QUICK_READ: Duration = Duration::from_micros(25);
/// Bytes above which a transfer is left to another thread, unless nothing else is to be done.
const LONG: u64 = 64 << 10;
/// Threads that reads which came together are shared out to.
const READ_SHARES: usize = 8;
/// SCSI status codes.
const CHECK_CONDITION: u8 = 0x02;
const BUSY: u8 = 0x08;
const RESERVATION_CONFLICT: u8 = 0x18;
pub(super) const TASK_SET_FULL: u8 = 0x28;

/// A command under way.
#[derive(Clone, Debug)]
pub(super) struct Task {
    /// Among the session's tasks.
    pub number: u64,
    /// What was sent.
    pub command: ScsiCommand,
    /// Whether it has a command number of its own.
    pub is_numbered: bool,
    /// What it is.
    pub prepared: Result<Prepared, Box<Sense>>,
    /// R2Ts that were sent for it.
    pub transfers: u32,
}

impl Task {
    /// Bytes that it takes from the initiator, were they all sent.
    pub fn data_out(&self) -> u64 {
        self.prepared
            .as_ref()
            .map_or(0, |prepared| prepared.data_out)
    }

    /// Bytes that it takes and the initiator sends.
    pub fn wanted(&self) -> usize {
        let sent = if self.command.writes {
            self.command.expected
        } else {
            0
        };
        self.data_out().min(u64::from(sent)) as usize
    }

    /// Whether it reads blocks.
    pub fn is_read(&self) -> bool {
        self.prepared.as_ref().is_ok_and(Prepared::is_read)
    }

    fn is_write(&self) -> bool {
        self.prepared.as_ref().is_ok_and(Prepared::is_write)
    }

    fn brings_data(&self) -> bool {
        let prepared = self.prepared.as_ref();
        prepared.is_ok_and(|prepared| prepared.brings_data(&self.command.cdb))
    }

    /// Whether it reads few blocks, and waits for nothing before that.
    pub fn is_short_read(&self) -> bool {
        let is_plain =
            |prepared: &Prepared| prepared.is_read() && !prepared.forces(&self.command.cdb);
        u64::from(self.command.expected) <= LONG && self.prepared.as_ref().is_ok_and(is_plain)
    }
}

/// Whether a logical unit number is 0, by peripheral or by flat space addressing: that of a target's only
/// unit.
pub(super) fn is_unit(lun: u64) -> bool {
    lun == 0 || lun == 0x4000 << 48
}

/// What a normal session uses.
pub(super) struct Used {
    /// The logical unit.
    pub unit: Arc<Unit>,
    /// What it knows of this initiator port.
    pub nexus: Arc<Nexus>,
}

/// A session.
pub(super) struct Session {
    /// Its number; never 0.
    pub tsih: u16,
    /// The initiator's name.
    pub initiator: String,
    /// Its part of the session's name.
    pub isid: [u8; 6],
    /// The target's name; nothing in a discovery session.
    pub target: Option<String>,
    /// What it uses; nothing in a discovery session.
    pub used: Option<Used>,
    /// What was agreed.
    pub parameters: Parameters,
    /// The most data that the initiator takes in a PDU. May change.
    pub their_segment: AtomicUsize,
    /// What is sent.
    pub output: Arc<Output>,
    /// Its tasks.
    pub order: Order,
    /// What it is of.
    pub server: Arc<Server>,
    /// How long reads take on the average, in nanoseconds.
    read_time: AtomicU64,
    /// Reads that wait for room in line.
    parked: Mutex<VecDeque<Task>>,
    /// Memory for data that it sends.
    pub share: Share,
    /// Requests to manage tasks that are under way.
    pub managing: AtomicUsize,
    peer: SocketAddr,
    since: Timestamp,
    counts: Counts,
}

/// What was done for a session.
#[derive(Default)]
struct Counts {
    commands: AtomicU64,
    read: AtomicU64,
    written: AtomicU64,
}

impl Session {
    /// Of an initiator that has logged in.
    pub fn new(
        tsih: u16,
        login: &LoggedIn,
        used: Option<Used>,
        output: Arc<Output>,
        server: Arc<Server>,
        peer: SocketAddr,
    ) -> Self {
        Self {
            tsih,
            initiator: login.initiator.clone(),
            isid: login.isid,
            target: login.target.as_ref().map(|target| target.name.clone()),
            used,
            their_segment: AtomicUsize::new(login.parameters.their_segment),
            parameters: login.parameters.clone(),
            output,
            order: Order::default(),
            server,
            read_time: AtomicU64::new(0),
            parked: Mutex::default(),
            share: Share::default(),
            managing: AtomicUsize::new(0),
            peer,
            since: now(),
            counts: Counts::default(),
        }
    }

    /// Which parts have digests.
    pub fn digests(&self) -> Digests {
        self.parameters.digests
    }

    /// What it reads and writes.
    pub fn node(&self) -> Option<Node> {
        self.used.as_ref().map(|used| used.unit.node)
    }

    /// Whether the receiving thread does a task itself, rather than leave it to another: where that
    /// takes no longer than telling the other, or there is nothing else to do.
    pub fn is_done_here(&self, task: &Task, is_more_there: bool) -> bool {
        let Ok(prepared) = &task.prepared else {
            return true;
        };
        if prepared.is_quick() {
            return true;
        }
        let Some(used) = &self.used else { return true };
        let is_alone = !is_more_there && self.order.unfinished() == 1;
        let len = u64::from(task.command.expected);
        let forces = prepared.forces(&task.command.cdb);
        let volumes = &used.unit.volumes;
        // Without a journal a sync moves all that is queued.
        if (forces || prepared.is_sync()) && volumes.is_paused() {
            return false;
        }
        if prepared.is_read() {
            return is_alone || (len <= LONG && self.read_time() < QUICK_READ);
        }
        if prepared.is_write() {
            let is_short = len <= LONG && !forces;
            return (is_alone || is_short) && !volumes.is_crowded(len as usize);
        }
        is_alone && prepared.is_sync()
    }

    fn read_time(&self) -> Duration {
        Duration::from_nanos(self.read_time.load(Relaxed))
    }

    fn note_read(&self, took: Duration) {
        let (old, new) = (self.read_time.load(Relaxed), took.as_nanos() as u64);
        self.read_time.store((old * 7 + new) / 8, Relaxed);
    }

    /// Does a task in the receiving thread, which waits for no space: others may be behind it.
    pub fn perform_here(&self, task: &Task, data: &[u8]) {
        Volumes::with_space_deadline(None, || self.perform(task, data));
    }

    /// Does a task, and puts its answer in line.
    fn perform(&self, task: &Task, data: &[u8]) {
        self.conclude(task, self.execute(task, data));
    }

    /// Does a task, but for the reading of its data.
    pub fn execute(&self, task: &Task, data: &[u8]) -> Answer {
        let Some(Used { unit, nexus }) = &self.used else {
            return Answer::Check(Sense::illegal(code::NO_UNIT));
        };
        let scene = Scene {
            unit,
            nexus,
            is_unit: is_unit(task.command.lun),
            sent: if task.command.writes {
                task.command.expected.into()
            } else {
                0
            },
            disks_of: &|initiator: &str| self.server.sessions.disks_of(initiator),
            abort: &|port: &str| {
                self.order.rest(task.number);
                self.server.sessions.abort_port(unit, port);
            },
        };
        let prepared = task.prepared.as_ref().map_err(AsRef::as_ref);
        scsi::execute(&scene, prepared, &task.command.cdb, data)
    }

    /// Puts the answer of a task in line, with what is read for it.
    pub fn conclude(&self, task: &Task, answer: Answer) {
        let reply = match (answer, &self.used) {
            (Answer::Good, _) => {
                if task.is_write() {
                    self.counts.written.fetch_add(task.data_out(), Relaxed);
                }
                self.good(task, task.data_out())
            }
            (Answer::Data(data), _) => self.data(task, &data),
            (Answer::Read(extent), Some(used)) => match self.read(task, &used.unit, extent) {
                Ok(reply) => {
                    self.count_read(extent.len);
                    reply
                }
                Err(sense) => self.check(task, &sense),
            },
            (Answer::Check(sense), _) => self.check(task, &sense),
            (Answer::Read(_), None) => self.check(task, &Sense::illegal(code::NO_UNIT)),
            (Answer::Conflict, _) => self.status(task, RESERVATION_CONFLICT, None),
            (Answer::Busy, _) => self.status(task, BUSY, None),
        };
        self.finish(task, reply);
    }

    /// The answer to a read of which the data are still to come to one place in it, if there is but one.
    pub fn answer_to_fill(&self, task: &Task, len: u64) -> Option<(Reply, Range<usize>)> {
        let reply = self.data_in(task, len, |_, _| Ok(())).ok()?;
        let wanted = u64::from(task.command.expected);
        let is_single = task.command.reads && len > 0 && len <= wanted && reply.pdus() == 1;
        let start = reply.start_of_last();
        is_single.then(|| (reply, start..start + len as usize))
    }

    /// Has reads that came together, and whose turn it is, done by as many threads as there are for that:
    /// each does several, so that there are fewer to wake up, and their answers go out together.
    pub fn perform_reads(self: &Arc<Self>, mut reads: Vec<Task>) {
        let share = reads.len().div_ceil(READ_SHARES);
        while !reads.is_empty() {
            let rest = reads.split_off(share.min(reads.len()));
            let (session, share) = (Arc::clone(self), std::mem::replace(&mut reads, rest));
            self.server.readers.run(move || {
                share
                    .into_iter()
                    .for_each(|task| session.perform_read(task));
                session.flush();
            });
        }
    }

    /// Does a read that was left to this thread. Where there is much to be sent before it, it waits, and the
    /// thread does not.
    fn perform_read(self: &Arc<Self>, task: Task) {
        match self.output.room(task.command.expected as usize) {
            Some(room) => self.perform_in(&room, &task),
            None => {
                self.parked.lock().push_back(task);
                // There may be room since.
                self.resume_reads();
            }
        }
    }

    fn perform_in(&self, _room: &Room, task: &Task) {
        if self.order.run(task.number) {
            let deadline = self.space_deadline();
            Volumes::with_space_deadline(deadline, || self.perform(task, &[]));
        }
    }

    /// Goes on with those reads that waited for room in line, and have it now.
    fn resume_reads(self: &Arc<Self>) {
        while let Some((task, room)) = self.next_parked() {
            let session = Arc::clone(self);
            self.server.readers.run(move || {
                session.perform_in(&room, &task);
                drop(room);
                session.flush();
            });
        }
    }

    fn next_parked(&self) -> Option<(Task, Room)> {
        let mut parked = self.parked.lock();
        let room = self
            .output
            .room(parked.front()?.command.expected as usize)?;
        Some((parked.pop_front()?, room))
    }

    /// Sends what the socket takes at once.
    pub fn flush(self: &Arc<Self>) {
        self.output.flush();
        self.has_sent();
    }

    /// Something was sent, or never will be.
    pub fn has_sent(self: &Arc<Self>) {
        self.resume_reads();
    }

    /// Has a task done by another thread, when it is its turn.
    pub fn dispatch(self: &Arc<Self>, task: Task, data: Buffer, grant: Option<Grant>) {
        let (session, number, is_numbered) = (Arc::clone(self), task.number, task.is_numbered);
        let (is_read, brings_data) = (task.is_read(), task.brings_data());
        // Its initiator's patience begins now, wherever it is in line.
        let deadline = self.space_deadline();
        let work = move || {
            if is_read {
                session.perform_read(task);
            } else if session.order.run(number) {
                Volumes::with_space_deadline(deadline, || session.perform(&task, &data));
            }
            drop((data, grant));
            session.flush();
        };
        let server = Arc::clone(&self.server);
        let job = Box::new(move || match (is_read, brings_data) {
            (true, _) => server.readers.run(work),
            (_, true) => server.writers.run(work),
            _ => server.workers.run(work),
        });
        match self.order.start_or_wait(number, job) {
            Turn::Now(job) => job(),
            Turn::Later => {}
            Turn::GivenUp => self.settle(is_numbered),
        }
    }

    /// Until when a command that comes now may wait for space.
    fn space_deadline(&self) -> Option<Instant> {
        Some(Instant::now() + self.server.options.space_patience)
    }

    /// A read came to its end.
    pub fn count_read(&self, bytes: u64) {
        self.counts.read.fetch_add(bytes, Relaxed);
    }

    /// For the status of the store.
    pub fn status_of(&self) -> IscsiSessionStatus {
        IscsiSessionStatus {
            initiator: self.initiator.clone(),
            address: self.peer.to_string(),
            target: self.target.clone(),
            since: self.since.rfc3339(),
            commands: self.counts.commands.load(Relaxed),
            read: self.counts.read.load(Relaxed),
            written: self.counts.written.load(Relaxed),
        }
    }

    /// Answers a task that is over, unless it was given up.
    pub fn finish(&self, task: &Task, reply: Reply) {
        self.counts.commands.fetch_add(1, Relaxed);
        // First, so that the answer shows it.
        self.settle(task.is_numbered);
        if !self.order.is_given_up(task.number) {
            self.output.push(reply);
        }
        hand_on(self.order.end(task.number));
    }

    /// A task is over that was not answered: another may come.
    pub fn drop_task(&self, task: &Task) {
        self.settle(task.is_numbered);
        hand_on(self.order.end(task.number));
    }

    /// A command number is done with.
    pub fn settle(&self, is_numbered: bool) {
        if is_numbered {
            self.output.numbers.max.fetch_add(1, Relaxed);
        }
    }

    /// Gives tasks up; those that wait for them may go on.
    pub fn give_up(&self, which: impl Fn(u64) -> bool) {
        let (jobs, over) = self.order.give_up(which);
        self.output.numbers.max.fetch_add(over as u32, Relaxed);
        hand_on(jobs);
    }

    /// CHECK CONDITION.
    pub fn check(&self, task: &Task, sense: &Sense) -> Reply {
        self.status(task, CHECK_CONDITION, Some(sense))
    }

    /// A SCSI response.
    pub fn status(&self, task: &Task, status: u8, sense: Option<&Sense>) -> Reply {
        let moved = if task.command.writes {
            task.data_out()
        } else {
            0
        };
        let mut header = self.response(task, status, moved);
        header.set_u32(36, task.transfers);
        let Some(sense) = sense else {
            return Reply::single(self.digests(), &header);
        };
        let unit = self.used.as_ref().map(|used| &used.unit);
        let sense = if unit.is_some_and(|unit| unit.wants_descriptors()) {
            sense.descriptors()
        } else {
            sense.fixed()
        };
        let mut reply = Reply::with_room(self.digests(), 1, sense.len() + 2);
        let place = reply.add(&header, sense.len() + 2);
        place[..2].copy_from_slice(&(sense.len() as u16).to_be_bytes());
        place[2..].copy_from_slice(&sense);
        reply
    }

    fn good(&self, task: &Task, moved: u64) -> Reply {
        let mut header = self.response(task, 0, moved);
        header.set_u32(36, task.transfers);
        Reply::single(self.digests(), &header)
    }

    fn response(&self, task: &Task, status: u8, moved: u64) -> Header {
        let mut header = Header::response(response::SCSI).for_task(task.command.tag);
        header.0[3] = status;
        set_residual(&mut header, task, moved);
        header
    }

    /// A response with data that are at hand.
    fn data(&self, task: &Task, data: &[u8]) -> Reply {
        let copy = |offset: u64, to: &mut [u8]| {
            let at = offset as usize;
            to.copy_from_slice(&data[at..at + to.len()]);
            Ok(())
        };
        match self.data_in(task, data.len() as u64, copy) {
            Ok(reply) => reply,
            Err(sense) => self.status(task, CHECK_CONDITION, Some(&sense)),
        }
    }

    /// A response with data from a disk, which go straight to where they are sent from.
    fn read(&self, task: &Task, unit: &Unit, from: Extent) -> Result<Reply, Sense> {
        let started = Instant::now();
        let reply = self.data_in(task, from.len, |offset, to| {
            scsi::get(unit, from.offset + offset, to)
        });
        if from.len <= LONG {
            self.note_read(started.elapsed());
        }
        reply
    }

    /// Data-In PDUs, the last of which has the status.
    fn data_in(
        &self,
        task: &Task,
        len: u64,
        fill: impl Fn(u64, &mut [u8]) -> Result<(), Sense>,
    ) -> Result<Reply, Sense> {
        let wanted = if task.command.reads {
            task.command.expected
        } else {
            0
        };
        let sent = len.min(u64::from(wanted));
        if sent == 0 {
            return Ok(self.good(task, len));
        }
        let segment = self.their_segment.load(Relaxed).min(MAX_DATA_SEGMENT) as u64;
        let burst = u64::from(self.parameters.max_burst);
        let pieces = sent.div_ceil(segment) + sent.div_ceil(burst);
        let mut reply = Reply::with_room(self.digests(), pieces as usize, sent as usize);
        let (mut at, mut data_sn) = (0, 0);
        while at < sent {
            // No piece goes on over the end of a sequence.
            let piece = segment.min(sent - at).min(burst - at % burst);
            let mut header = Header::response(response::DATA_IN).for_task(task.command.tag);
            header.set_u32(20, NO_TAG);
            header.set_u32(36, data_sn);
            header.set_u32(40, at as u32);
            let is_last = at + piece == sent;
            let place = if is_last {
                header.set_flag(0x01);
                set_residual(&mut header, task, len);
                reply.add(&header, piece as usize)
            } else {
                if !(at + piece).is_multiple_of(burst) {
                    header.clear_flag(0x80);
                }
                reply.add_data(&header, piece as usize)
            };
            fill(at, place)?;
            at += piece;
            data_sn += 1;
        }
        Ok(reply)
    }

    /// A response that is no task's.
    pub fn send(&self, header: &Header, data: &[u8]) {
        let mut reply = Reply::with_room(self.digests(), 1, padded(data.len()));
        reply.add(header, data.len()).copy_from_slice(data);
        self.output.push(reply);
    }

    /// Asks the initiator to log out: the target ends (asynchronous event 1).
    pub fn ask_for_logout(self: &Arc<Self>, within: Duration) {
        let mut header = Header::response(response::ASYNC_MESSAGE);
        header.0[36] = 1;
        header.0[42..44].copy_from_slice(&(within.as_secs() as u16).to_be_bytes());
        self.send(&header, &[]);
        self.flush();
    }
}

/// Whose turn it is now.
fn hand_on(jobs: Vec<Job>) {
    jobs.into_iter().for_each(|job| job());
}

/// By how much less or more was moved than the initiator expected.
fn set_residual(header: &mut Header, task: &Task, moved: u64) {
    let expected = u64::from(task.command.expected);
    if moved > expected {
        header.set_flag(0x04);
        header.set_u32(44, u32::try_from(moved - expected).unwrap_or(u32::MAX));
    } else if moved < expected {
        header.set_flag(0x02);
        header.set_u32(44, (expected - moved) as u32);
    }
}
