//! What an initiator asks for beside commands: task management, text, and the end.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::super::session::{Session, is_unit};
use super::super::wire::{
    Function, Header, Logout, LogoutReason, MAX_TEXT, NO_TAG, Pairs, TaskManagement, Text,
    TextError, response,
};
use super::{Connection, End, MORE_TEXT};

/// Answers to requests to manage tasks (RFC 7143, section 11.6.1).
const NO_SUCH_TASK: u8 = 1;
const NO_SUCH_UNIT: u8 = 2;
const NO_REASSIGNMENT: u8 = 4;
const NOT_SUPPORTED: u8 = 5;

impl Connection {
    pub(super) fn manage(&mut self, request: TaskManagement) {
        let session = Arc::clone(&self.session);
        let answer = match request.function {
            Function::AbortTask => match session.order.find(request.referenced) {
                Some(number) => {
                    self.give_up(|of| of == number);
                    0
                }
                None => NO_SUCH_TASK,
            },
            Function::TargetWarmReset | Function::TargetColdReset => return self.reset(&request),
            Function::TaskReassign => NO_REASSIGNMENT,
            Function::ClearAca | Function::Unknown(_) => NOT_SUPPORTED,
            _ if !is_unit(request.lun) => NO_SUCH_UNIT,
            Function::LogicalUnitReset => return self.reset(&request),
            Function::AbortTaskSet | Function::ClearTaskSet => {
                self.give_up(|_| true);
                0
            }
        };
        let tag = request.tag;
        // What is given up but being done is waited for, and not here.
        self.session.managing.fetch_add(1, Relaxed);
        self.session.server.managers.run(move || {
            session.order.wait_for_given_up();
            answer_managing(&session, tag, answer);
        });
    }

    /// A reset of the logical unit, which is the target's only one. A cold one ends all sessions with the
    /// target besides (RFC 7143, section 11.5.1).
    fn reset(&mut self, request: &TaskManagement) {
        self.give_up(|_| true);
        let (session, tag) = (Arc::clone(&self.session), request.tag);
        let is_cold = matches!(request.function, Function::TargetColdReset);
        self.session.managing.fetch_add(1, Relaxed);
        self.session.server.managers.run(move || {
            let Some(used) = &session.used else {
                return answer_managing(&session, tag, NOT_SUPPORTED);
            };
            let all = session.server.sessions.of_unit(&used.unit);
            all.iter().for_each(|other| other.give_up(|_| true));
            all.iter().for_each(|other| other.order.wait_for_given_up());
            used.unit.reset(&used.nexus);
            answer_managing(&session, tag, 0);
            if is_cold {
                all.iter().for_each(|ended| ended.output.end_soon());
            }
        });
    }

    /// Gives up tasks of this session, those among them whose data are coming in.
    fn give_up(&mut self, which: impl Fn(u64) -> bool) {
        self.session.give_up(&which);
        let session = &self.session;
        self.collecting.retain(|_, collecting| {
            let goes = which(collecting.task.number);
            if goes {
                session.drop_task(&collecting.task);
            }
            !goes
        });
    }

    pub(super) fn text(&mut self, text: Text) -> Result<(), End> {
        if text.continues && text.is_final {
            return Err(End::Protocol("text that ends and goes on"));
        }
        if text.transfer_tag == NO_TAG {
            // Another negotiation; an old one that was left half-way is over.
            self.text.clear();
            self.text_left.clear();
        }
        let data = self.input.data(&mut self.reads)?;
        if self.text.len() + data.len() > MAX_TEXT {
            return Err(End::Text(TextError::TooLong));
        }
        self.text.extend_from_slice(data);
        if text.continues {
            self.send_text(&text, true);
            return Ok(());
        }
        let said = Pairs::parse(&std::mem::take(&mut self.text))?;
        let asks_for_more = text.transfer_tag == MORE_TEXT && said.is_empty();
        if !asks_for_more {
            self.text_left = self.answer(&said).encode();
        }
        self.send_text(&text, false);
        Ok(())
    }

    fn answer(&mut self, said: &Pairs) -> Pairs {
        let mut answer = Pairs::default();
        for (key, value) in said.iter() {
            match key {
                "SendTargets" => {
                    self.session
                        .server
                        .send_targets(&self.session, value, &mut answer)
                }
                "MaxRecvDataSegmentLength" => {
                    let mut parameters = self.session.parameters.clone();
                    match parameters.renegotiate(key, value) {
                        Some(text) => answer.push(key, text),
                        None => self
                            .session
                            .their_segment
                            .store(parameters.their_segment, Relaxed),
                    }
                }
                _ => {
                    let mut parameters = self.session.parameters.clone();
                    if let Some(text) = parameters.renegotiate(key, value) {
                        answer.push(key, text);
                    }
                }
            }
        }
        answer
    }

    /// Sends as much text as one PDU takes; `waits` where the initiator has not said all yet.
    fn send_text(&mut self, text: &Text, waits: bool) {
        let most = self.session.their_segment.load(Relaxed);
        let len = if waits {
            0
        } else {
            self.text_left.len().min(most)
        };
        let piece: Vec<u8> = self.text_left.drain(..len).collect();
        let mut header = Header::response(response::TEXT).for_task(text.tag);
        header.set_lun(text.lun);
        let goes_on = !waits && !self.text_left.is_empty();
        // Where the initiator has more to ask, we are not done either (RFC 7143, section 11.11.1).
        if goes_on || waits || !text.is_final {
            header.clear_flag(0x80);
            header.set_flag(if goes_on { 0x40 } else { 0 });
            header.set_u32(20, MORE_TEXT);
        } else {
            header.set_u32(20, NO_TAG);
        }
        self.session.send(&header, &piece);
    }

    pub(super) fn log_out(&mut self, logout: Logout) -> Result<(), End> {
        let mut header = Header::response(response::LOGOUT).for_task(logout.tag);
        header.set_u32(16, logout.tag);
        let (answer, ends) = match logout.reason {
            LogoutReason::CloseSession => (0, true),
            LogoutReason::CloseConnection(cid) if cid == self.cid => (0, true),
            LogoutReason::CloseConnection(_) => (1, false),
            LogoutReason::Recovery => (2, false),
        };
        header.0[2] = answer;
        if ends {
            // What is being done comes to its end first.
            self.leave_reads();
            self.reads.end_all();
            self.session.order.close();
            self.session.order.wait_for_given_up();
            // Whoever hears that it has gone finds what it had reserved.
            if let Some(used) = &self.session.used {
                used.unit.leave(&used.nexus);
            }
        }
        self.session.send(&header, &[]);
        if ends { Err(End::Logout) } else { Ok(()) }
    }
}

fn answer_managing(session: &Arc<Session>, tag: u32, answer: u8) {
    let mut header = Header::response(response::TASK_MANAGEMENT).for_task(tag);
    header.0[2] = answer;
    session.managing.fetch_sub(1, Relaxed);
    session.send(&header, &[]);
    session.flush();
}
