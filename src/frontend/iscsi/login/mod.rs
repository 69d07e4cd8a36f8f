//! The login phase (RFC 7143, section 6): who is there, what it may use, and how both work together.

mod chap;
mod parameters;

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use chap::Chap;
pub(super) use chap::{Algorithm, binary, hex};
pub(super) use parameters::Parameters;
use parameters::is_negotiated;
use rustc_hash::FxHashSet;

use super::options::IscsiOptions;
use super::targets::{Target, Targets};
use super::wire::{
    Digests, Header, Input, InputError, Login, MAX_TEXT, Output, Pairs, Reply, Request, Stage,
    TextError, padded, response,
};

/// How long the initiator may take to hear why it is refused.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How long a login may take in all.
const PATIENCE: Duration = Duration::from_secs(15);
/// Steps of a login: an endless one ends here.
const MOST_STEPS: usize = 64;
/// How long a failed authentication is left waiting, so that secrets can't be tried out fast.
const PENALTY: Duration = Duration::from_millis(500);

/// Who has logged in, and to what.
pub(super) struct LoggedIn {
    /// The initiator's name.
    pub initiator: String,
    /// Its part of the session's name.
    pub isid: [u8; 6],
    /// The connection's number.
    pub cid: u16,
    /// What it uses; nothing in a discovery session.
    pub target: Option<Target>,
    /// What was agreed.
    pub parameters: Parameters,
    /// The last request, which is to be answered once there is a session.
    last: Last,
}

/// The request that ends the login, and the answer to it.
struct Last {
    login: Login,
    answer: Pairs,
}

/// Why a login came to nothing. Each stands for a status class and detail (RFC 7143, section 11.13.5).
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The connection is no good.
    #[error(transparent)]
    Input(#[from] InputError),
    /// It took too long.
    #[error("the login took more than {} s", PATIENCE.as_secs())]
    Timeout,
    /// The initiator did something that no login has.
    #[error("{0}")]
    Initiator(&'static str),
    /// It is not who it says.
    #[error("not authenticated: {0}")]
    Authentication(&'static str),
    /// It may not use the target.
    #[error("the initiator may not use {0}; see 'access' in store.yaml")]
    Forbidden(String),
    /// There is no such target.
    #[error("there is no target {0}")]
    NotFound(String),
    /// It speaks other versions.
    #[error("it speaks no version of the protocol that we do")]
    Version,
    /// A key is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// No such kind of session.
    #[error("there are no sessions of that type")]
    SessionType,
    /// A session to add a connection to.
    #[error("a session has one connection here; use several sessions")]
    Connections,
    /// Too many sessions.
    #[error("there are too many sessions; see 'sessions' in store.yaml")]
    Full,
    /// An earlier session of the same name does not end.
    #[error("an earlier session of the initiator is still ending")]
    Busy,
    /// It is our fault.
    #[error("{0}")]
    Target(&'static str),
}

impl Failure {
    /// Status class and detail, where there is anyone to tell.
    fn status(&self) -> Option<[u8; 2]> {
        match self {
            Self::Input(_) => None,
            Self::Initiator(_) | Self::Timeout => Some([2, 0]),
            Self::Authentication(_) => Some([2, 1]),
            Self::Forbidden(_) => Some([2, 2]),
            Self::NotFound(_) => Some([2, 3]),
            Self::Version => Some([2, 5]),
            Self::Connections => Some([2, 6]),
            Self::Missing(_) => Some([2, 7]),
            Self::SessionType => Some([2, 9]),
            Self::Target(_) => Some([3, 0]),
            Self::Busy => Some([3, 1]),
            Self::Full => Some([3, 2]),
        }
    }
}

impl From<TextError> for Failure {
    fn from(_: TextError) -> Self {
        Self::Initiator("its text is none")
    }
}

/// Reads requests until the login is through or has failed; says so to the initiator where it failed.
pub(super) fn log_in(
    input: &mut Input,
    output: &Output,
    options: &IscsiOptions,
    targets: &Targets,
) -> Result<LoggedIn, Failure> {
    let deadline = Instant::now() + PATIENCE;
    input.set_deadline(Some(deadline));
    let mut talk = Talk::new(options, targets);
    let done = talk.run(input, output, deadline);
    input.set_deadline(None);
    if let Err(error) = &done {
        talk.refuse(output, error);
    }
    done
}

impl LoggedIn {
    /// Answers the last request: from here on both are in the full feature phase.
    pub(super) fn welcome(&self, output: &Output, tsih: u16) {
        let header = answer_to(&self.last.login, true, tsih);
        send(output, &header, &self.last.answer.encode());
    }

    /// Answers the last request with a failure.
    pub(super) fn refuse(&self, output: &Output, failure: &Failure) {
        refuse(output, Some(&self.last.login), failure);
    }
}

/// Where a login stands.
struct Talk<'a> {
    options: &'a IscsiOptions,
    targets: &'a Targets,
    stage: Option<Stage>,
    /// Text that goes on in the next request.
    text: Vec<u8>,
    who: Option<Who>,
    /// Whether the initiator chose CHAP; nothing before it chose.
    chap: Option<Chap>,
    is_authenticated: bool,
    parameters: Parameters,
    /// The keys that were negotiated; each may be but once (RFC 7143, section 6.3).
    agreed: FxHashSet<String>,
    last: Option<Login>,
}

/// What the first request says.
struct Who {
    initiator: String,
    /// The target's name; nothing for a discovery session.
    target: Option<String>,
}

impl<'a> Talk<'a> {
    fn new(options: &'a IscsiOptions, targets: &'a Targets) -> Self {
        Self {
            options,
            targets,
            stage: None,
            text: Vec::new(),
            who: None,
            chap: None,
            is_authenticated: options.secrets.is_none(),
            parameters: Parameters::default(),
            agreed: FxHashSet::default(),
            last: None,
        }
    }

    fn run(
        &mut self,
        input: &mut Input,
        output: &Output,
        deadline: Instant,
    ) -> Result<LoggedIn, Failure> {
        for _ in 0..MOST_STEPS {
            let header = loop {
                if Instant::now() > deadline {
                    return Err(Failure::Timeout);
                }
                if let Some(header) = input.header(&mut || output.flush())? {
                    break header;
                }
            };
            let Ok(Request::Login(login)) = Request::decode(&header) else {
                return Err(Failure::Initiator(
                    "it sent something else than a login request",
                ));
            };
            if self.last.is_none() {
                output.numbers.expected.store(header.u32(24), Relaxed);
                output.numbers.max.store(header.u32(24), Relaxed);
            }
            let data = input.data(&mut || output.flush())?;
            self.follow(&login)?;
            if self.text.len() + data.len() > MAX_TEXT {
                return Err(Failure::Initiator("its text is too long"));
            }
            self.text.extend_from_slice(data);
            if login.continues {
                send(output, &answer_to(&login, false, 0), &[]);
                continue;
            }
            let said = Pairs::parse(&std::mem::take(&mut self.text))?;
            let mut answer = Pairs::default();
            let goes_on = self.step(&login, &said, &mut answer)?;
            if goes_on && login.next == Stage::FullFeature {
                return self.finish(login, answer);
            }
            if goes_on {
                self.stage = Some(login.next);
            }
            send(output, &answer_to(&login, goes_on, 0), &answer.encode());
        }
        Err(Failure::Initiator("it never comes to an end"))
    }

    /// Checks what must not change from one request to the next.
    fn follow(&mut self, login: &Login) -> Result<(), Failure> {
        if let Some(last) = self.last
            && (last.isid, last.cid) != (login.isid, login.cid)
        {
            return Err(Failure::Initiator("it changed its name in the middle"));
        }
        self.last = Some(*login);
        if login.version_min > 0 {
            return Err(Failure::Version);
        }
        if login.tsih != 0 {
            return Err(Failure::Connections);
        }
        if *self.stage.get_or_insert(login.current) != login.current {
            return Err(Failure::Initiator("it went to another stage by itself"));
        }
        Ok(())
    }

    /// Takes a whole step; whether we are ready to go on to where the initiator wants to.
    fn step(&mut self, login: &Login, said: &Pairs, answer: &mut Pairs) -> Result<bool, Failure> {
        let is_first = self.who.is_none();
        if is_first {
            self.who = Some(self.identify(said)?);
        }
        let who = self.who.as_ref().ok_or(Failure::Missing("InitiatorName"))?;
        let (initiator, is_discovery) = (who.initiator.clone(), who.target.is_none());
        if is_first && !is_discovery {
            answer.push("TargetPortalGroupTag", "1");
        }
        match login.current {
            Stage::Security => {
                self.authenticate(&initiator, said, answer)?;
                // Some offer everything in their first request.
                if !self.is_authenticated {
                    return if login.transit && self.chap.is_none() {
                        Err(Failure::Authentication("it offers no CHAP"))
                    } else {
                        Ok(false)
                    };
                }
            }
            Stage::Operational | Stage::FullFeature => {
                if !self.is_authenticated {
                    return Err(Failure::Authentication("it skips the security stage"));
                }
                for (key, _) in said.iter().filter(|(key, _)| is_negotiated(key)) {
                    if !self.agreed.insert(key.to_owned()) {
                        return Err(Failure::Initiator("it negotiates a key twice"));
                    }
                }
                self.parameters.negotiate(said, is_discovery, answer);
                self.parameters.declare(answer);
            }
        }
        Ok(login.transit)
    }

    /// Reads who it is, and what it wants.
    fn identify(&self, said: &Pairs) -> Result<Who, Failure> {
        let initiator = said.get("InitiatorName").filter(|name| !name.is_empty());
        let initiator = initiator.ok_or(Failure::Missing("InitiatorName"))?;
        if !is_iscsi_name(initiator) {
            return Err(Failure::Initiator("InitiatorName is no iSCSI name"));
        }
        let is_discovery = match said.get("SessionType") {
            None | Some("Normal") => false,
            Some("Discovery") => true,
            Some(_) => return Err(Failure::SessionType),
        };
        let target = if is_discovery {
            None
        } else {
            let name = said
                .get("TargetName")
                .ok_or(Failure::Missing("TargetName"))?;
            if !is_iscsi_name(name) {
                return Err(Failure::Initiator("TargetName is no iSCSI name"));
            }
            Some(name.to_owned())
        };
        Ok(Who {
            initiator: initiator.to_owned(),
            target,
        })
    }

    fn authenticate(
        &mut self,
        initiator: &str,
        said: &Pairs,
        answer: &mut Pairs,
    ) -> Result<(), Failure> {
        if let Some(offered) = said.get("AuthMethod") {
            let has = |method: &str| offered.split(',').any(|word| word == method);
            match &self.options.secrets {
                Some(_) if has("CHAP") => {
                    answer.push("AuthMethod", "CHAP");
                    self.chap = Some(Chap::default());
                }
                Some(_) => return Err(Failure::Authentication("it offers no CHAP")),
                None if has("None") => answer.push("AuthMethod", "None"),
                None => {
                    return Err(Failure::Authentication(
                        "it wants CHAP, and the store has no secrets",
                    ));
                }
            }
        }
        if let (Some(chap), Some(secrets)) = (self.chap.take(), &self.options.secrets) {
            let next = chap.step(said, initiator, secrets, answer)?;
            self.is_authenticated = matches!(next, Chap::Done);
            self.chap = Some(next);
        }
        Ok(())
    }

    /// The target that it wants. Only who has proved who he is learns what there is.
    fn target(&self, initiator: &str, name: String) -> Result<Target, Failure> {
        let Some(target) = self.targets.find(&name) else {
            return Err(Failure::NotFound(name));
        };
        if !self.options.allows(initiator, &target.disk) {
            return Err(Failure::Forbidden(name));
        }
        Ok(target)
    }

    fn finish(&mut self, login: Login, answer: Pairs) -> Result<LoggedIn, Failure> {
        let who = self.who.take().ok_or(Failure::Missing("InitiatorName"))?;
        let target = who.target.map(|name| self.target(&who.initiator, name));
        let target = target.transpose()?;
        Ok(LoggedIn {
            initiator: who.initiator,
            isid: login.isid,
            cid: login.cid,
            target,
            parameters: self.parameters.clone(),
            last: Last { login, answer },
        })
    }

    fn refuse(&self, output: &Output, failure: &Failure) {
        if matches!(failure, Failure::Authentication(_)) {
            std::thread::sleep(PENALTY);
        }
        refuse(output, self.last.as_ref(), failure);
    }
}

fn refuse(output: &Output, last: Option<&Login>, failure: &Failure) {
    if let (Some(login), Some(status)) = (last, failure.status()) {
        let mut header = answer_to(login, false, 0);
        header.0[36..38].copy_from_slice(&status);
        send(output, &header, &[]);
        output.wait_until_sent(LAST_WORDS);
    }
}

/// Whether it has the form of an iSCSI name (RFC 7143, section 4.2.7), as far as that keeps what stands in
/// logs and registrations readable and short.
fn is_iscsi_name(name: &str) -> bool {
    let is_type = |kind: &&str| name.len() > kind.len() && name.starts_with(*kind);
    let is_plain = |c: char| !c.is_control() && !c.is_whitespace();
    name.len() <= 223 && ["iqn.", "eui.", "naa."].iter().any(is_type) && name.chars().all(is_plain)
}

fn answer_to(login: &Login, goes_on: bool, tsih: u16) -> Header {
    let mut header = Header::response(response::LOGIN).for_task(login.tag);
    header.clear_flag(0x80);
    header.set_flag(login.current.bits() << 2);
    if goes_on {
        header.set_flag(0x80 | login.next.bits());
    }
    header.0[8..14].copy_from_slice(&login.isid);
    header.0[14..16].copy_from_slice(&tsih.to_be_bytes());
    header
}

fn send(output: &Output, header: &Header, text: &[u8]) {
    let mut reply = Reply::with_room(Digests::default(), 1, padded(text.len()));
    reply.add(header, text.len()).copy_from_slice(text);
    output.push(reply);
    output.flush();
}
