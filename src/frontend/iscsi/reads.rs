//! Short reads that the receiving thread has under way itself: it begins them together, waits for them and
//! for the socket at once, and sends the answers of those that end together by one call. Where the kernel
//! has no ring for that, or a read takes more than one read of a device, other threads do it.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::scsi::Answer;
use super::session::{Session, Task};
use super::wire::{Meanwhile, Reply, Room};
use crate::volume::{EndedRead, Extent, Plan, PlannedRead, ReadQueue};

/// Reads that are under way at a time; the window has twice as many commands.
const DEPTH: u32 = 64;

/// A read that is under way.
struct Begun {
    task: Task,
    extent: Extent,
    /// In line, for the answer.
    room: Room,
    /// The answer, but for the data.
    reply: Reply,
}

/// The reads of a receiving thread.
pub(super) struct Reads {
    session: Arc<Session>,
    queue: Queue,
}

enum Queue {
    /// Nobody has asked for it yet.
    Unused,
    /// It is there.
    Open(Box<ReadQueue<Begun>>),
    /// The kernel has none, or takes no more.
    Missing,
}

impl Queue {
    fn open(&mut self) -> Option<&mut ReadQueue<Begun>> {
        if matches!(self, Self::Unused) {
            *self = match ReadQueue::new(DEPTH) {
                Ok(queue) => Self::Open(Box::new(queue)),
                Err(error) => {
                    log::debug!("iSCSI: reads are left to other threads: no io_uring: {error}");
                    Self::Missing
                }
            };
        }
        match self {
            Self::Open(queue) => Some(queue),
            Self::Unused | Self::Missing => None,
        }
    }
}

impl Reads {
    pub fn new(session: Arc<Session>) -> Self {
        Self {
            session,
            queue: Queue::Unused,
        }
    }

    /// Room for the answer to a read, where it can be begun here.
    pub fn room_for(&mut self, task: &Task) -> Option<Room> {
        self.queue.open()?;
        self.session.output.room(task.command.expected as usize)
    }

    /// Does a read whose turn it is, or begins it.
    pub fn begin(&mut self, task: Task, room: Room) {
        let session = &self.session;
        let extent = match session.execute(&task, &[]) {
            Answer::Read(extent) => extent,
            answer => return session.conclude(&task, answer),
        };
        let plan = session.used.as_ref().map_or(Plan::Other, |used| {
            used.unit.volumes.plan_read(used.unit.node, extent)
        });
        match plan {
            Plan::Memory => session.conclude(&task, Answer::Read(extent)),
            Plan::Other => self.leave(task, extent, room),
            Plan::Device(planned) => self.start(task, extent, room, planned),
        }
    }

    fn start(&mut self, task: Task, extent: Extent, room: Room, planned: PlannedRead) {
        let answer = self.session.answer_to_fill(&task, extent.len);
        let (Some((mut reply, place)), Some(queue)) = (answer, self.queue.open()) else {
            return self.leave(task, extent, room);
        };
        let bytes = reply.lend();
        let begun = Begun {
            task,
            extent,
            room,
            reply,
        };
        if let Err(begun) = queue.start(planned, bytes, place, begun) {
            self.leave(begun.task, begun.extent, begun.room);
        }
    }

    /// Has another thread read.
    fn leave(&self, task: Task, extent: Extent, room: Room) {
        let session = Arc::clone(&self.session);
        self.session.server.readers.run(move || {
            session.conclude(&task, Answer::Read(extent));
            drop(room);
            session.flush();
        });
    }

    /// Waits until all that was begun has ended.
    pub fn end_all(&mut self) {
        if let Queue::Open(queue) = &mut self.queue {
            let waited = queue.wait_for_all();
            self.take_ended(waited);
        }
    }

    /// Answers what has ended. After a failure, nothing more ends.
    fn take_ended(&mut self, waited: io::Result<()>) {
        let session = Arc::clone(&self.session);
        let (Queue::Open(queue), Some(used)) = (&mut self.queue, &session.used) else {
            return;
        };
        let mut again = Vec::new();
        while let Some(ended) = queue.next_ended(&used.unit.volumes) {
            let EndedRead {
                token: mut begun,
                bytes,
                is_right,
            } = ended;
            begun.reply.take_back(bytes);
            if is_right {
                session.count_read(begun.extent.len);
                session.finish(&begun.task, begun.reply);
            } else {
                again.push(begun);
            }
        }
        if let Err(error) = waited {
            log::warn!("iSCSI: reads are left to other threads from now on: io_uring: {error}");
            again.extend(queue.abandon());
            self.queue = Queue::Missing;
        }
        for begun in again {
            self.leave(begun.task, begun.extent, begun.room);
        }
    }
}

impl Meanwhile for Reads {
    fn rest(&mut self) {
        self.session.flush();
    }

    fn is_busy(&self) -> bool {
        matches!(&self.queue, Queue::Open(queue) if queue.is_busy())
    }

    fn wait(&mut self, socket: BorrowedFd<'_>) -> bool {
        self.session.flush();
        let Queue::Open(queue) = &mut self.queue else {
            return true;
        };
        let waited = queue.wait(socket);
        let has_something = !matches!(waited, Ok(false));
        self.take_ended(waited.map(drop));
        has_something
    }
}
