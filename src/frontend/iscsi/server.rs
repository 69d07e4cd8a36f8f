//! The target as a whole: where it listens, and what its sessions share.

use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use super::budget::Budget;
use super::connection::Connection;
use super::login::{self, Failure, LoggedIn};
use super::logins::Logins;
use super::options::IscsiOptions;
use super::scsi::{Nexus, code};
use super::session::{Session, Used};
use super::sessions::Sessions;
use super::targets::{Target, Targets};
use super::wire::{Input, Output, Pairs};
use crate::base::Workers;
use crate::control::Commands;
use crate::volume::{IscsiStatus, Reports, Status, Volumes};

/// How often a thread that receives looks up while an initiator may be silent.
const TICKS: u32 = 6;
/// How long an initiator may take nothing of what is sent.
const SEND_PATIENCE: Duration = Duration::from_secs(30);
/// How long initiators have to log out when the target ends.
const FAREWELL: Duration = Duration::from_secs(3);
/// How long what is being done may take then.
const LAST_TASKS: Duration = Duration::from_secs(30);
/// Threads that read, that write, and that do everything else: where writes wait for space, that goes on.
const READERS: usize = 8;
const WRITERS: usize = 32;
const WORKERS: usize = 32;
/// Tasks that may wait for a thread; far more than sessions may have.
const QUEUED: usize = 1 << 20;

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum IscsiError {
    /// Without secrets anybody on the network could read and write all disks.
    #[error(
        "{0} can be reached from other machines, and no secrets are set: name a file of them in \
         'iscsi: secrets', or listen at 127.0.0.1, or say 'open: true' where the network is trusted"
    )]
    Open(SocketAddr),
    /// An address can't be had.
    #[error("can't listen at {address}: {error}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// The host's word.
        error: io::Error,
    },
    /// No thread.
    #[error("can't start a thread: {0}")]
    Thread(io::Error),
}

/// What all sessions share.
pub(super) struct Server {
    pub options: IscsiOptions,
    pub targets: Targets,
    pub sessions: Sessions,
    pub budget: Budget,
    pub readers: Workers,
    pub writers: Workers,
    pub workers: Workers,
    /// For requests to manage tasks, which have to be heard also where all others wait for something.
    pub managers: Workers,
    logins: Logins,
    /// Connections so far.
    connections: AtomicU64,
    /// Those that logged in, and those that did not.
    logins_done: AtomicU64,
    failed_logins: AtomicU64,
    portals: Vec<SocketAddr>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// A target that listens.
pub struct IscsiTarget {
    server: Arc<Server>,
    listeners: Vec<(TcpListener, SocketAddr)>,
    acceptors: Vec<JoinHandle<()>>,
}

impl IscsiTarget {
    /// Listens, and serves whoever comes.
    ///
    /// # Errors
    /// Where an address can't be had, or would be open to everybody.
    pub fn start(
        volumes: Arc<Volumes>,
        commands: Arc<dyn Commands>,
        options: IscsiOptions,
    ) -> Result<Self, IscsiError> {
        let is_open = options.secrets.is_none() && !options.open;
        if let Some(address) = options
            .listen
            .iter()
            .find(|at| is_open && !is_loopback(at.ip()))
        {
            return Err(IscsiError::Open(*address));
        }
        let mut listeners = Vec::new();
        for address in &options.listen {
            let listened = listen(*address);
            let (listener, at) = listened.map_err(|error| IscsiError::Listen {
                address: *address,
                error,
            })?;
            log::info!("iSCSI: serving at {at}");
            listeners.push((listener, at));
        }
        let server = Arc::new(Server {
            targets: Targets::new(
                Arc::clone(&volumes),
                commands,
                options.store.clone(),
                options.uuid,
            ),
            sessions: Sessions::new(options.sessions),
            budget: Budget::default(),
            readers: Workers::new("iscsi-reader", READERS, QUEUED),
            writers: Workers::new("iscsi-writer", WRITERS, QUEUED),
            workers: Workers::new("iscsi-worker", WORKERS, QUEUED),
            managers: Workers::new("iscsi-manager", READERS, QUEUED),
            logins: Logins::default(),
            connections: AtomicU64::new(0),
            logins_done: AtomicU64::new(0),
            failed_logins: AtomicU64::new(0),
            portals: listeners.iter().map(|(_, at)| *at).collect(),
            threads: Mutex::default(),
            options,
        });
        // What has no name for a target is warned of now, and not when somebody looks for it.
        drop(server.targets.list());
        let reports: Weak<Server> = Arc::downgrade(&server);
        volumes.add_report(reports);
        let mut target = Self {
            server,
            listeners: Vec::new(),
            acceptors: Vec::new(),
        };
        for (listener, at) in listeners {
            let accepting = listener.try_clone().map_err(IscsiError::Thread)?;
            let server = Arc::clone(&target.server);
            let thread = Builder::new().name("iscsi-accept".to_owned());
            let thread = thread.spawn(move || server.accept(&accepting));
            target.listeners.push((listener, at));
            target.acceptors.push(thread.map_err(IscsiError::Thread)?);
        }
        Ok(target)
    }

    /// Where it listens.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.listeners.iter().map(|(_, at)| *at)
    }

    fn end(&mut self) {
        self.server.sessions.close();
        for (listener, _) in self.listeners.drain(..) {
            // Wakes up its thread.
            let _ = SockRef::from(&listener).shutdown(Shutdown::Both);
        }
        for acceptor in self.acceptors.drain(..) {
            let _ = acceptor.join();
        }
        self.server.logins.close();
        for session in self.server.sessions.all() {
            session.ask_for_logout(FAREWELL);
        }
        if !self.server.sessions.wait_until_none(FAREWELL) {
            for session in self.server.sessions.all() {
                session.output.close();
            }
            if !self.server.sessions.wait_until_none(LAST_TASKS) {
                log::warn!("iSCSI: some commands do not come to an end");
                return;
            }
        }
        let threads = std::mem::take(&mut *self.server.threads.lock());
        threads.into_iter().for_each(|thread| drop(thread.join()));
    }
}

impl Drop for IscsiTarget {
    /// Takes no more sessions, and asks those that there are to end; after a while they are ended. When
    /// it returns nothing is being done any more.
    fn drop(&mut self) {
        self.end();
    }
}

fn is_loopback(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback(),
        IpAddr::V6(address) => {
            address.is_loopback() || address.to_ipv4_mapped().is_some_and(|v4| v4.is_loopback())
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // Each family where it was asked for, and not in secret.
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(128)?;
    let listener = TcpListener::from(socket);
    let at = listener.local_addr()?;
    Ok((listener, at))
}

impl Reports for Server {
    fn report(&self, status: &mut Status) {
        let sessions = self.sessions.all();
        status.iscsi = Some(IscsiStatus {
            portals: self.portals.iter().map(ToString::to_string).collect(),
            logins: self.logins_done.load(Relaxed),
            failed_logins: self.failed_logins.load(Relaxed),
            sessions: sessions.iter().map(|session| session.status_of()).collect(),
        });
    }
}

impl Server {
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        loop {
            match listener.accept() {
                Ok((socket, peer)) => self.welcome(socket, peer),
                // EINVAL: it was shut down.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => return,
                Err(error) => {
                    // Too many open files, mostly; or the connection is gone again.
                    log::debug!("iSCSI: accept: {error}");
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        }
    }

    /// Gives a connection a thread.
    fn welcome(self: &Arc<Self>, socket: TcpStream, peer: SocketAddr) {
        let number = self.connections.fetch_add(1, Relaxed);
        match socket.try_clone() {
            Ok(socket) => self.logins.begin(number, peer.ip(), socket),
            Err(error) => return log::warn!("iSCSI: {peer}: {error}"),
        }
        let server = Arc::clone(self);
        let thread = Builder::new().name("iscsi".to_owned());
        let thread = thread.spawn(move || {
            if let Err(error) = server.serve(number, socket, peer) {
                log::debug!("iSCSI: {peer}: {error}");
            }
            server.logins.end(number);
        });
        let mut threads = self.threads.lock();
        threads.retain(|thread| !thread.is_finished());
        match thread {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                self.logins.end(number);
                log::warn!("iSCSI: no thread for {peer}: {error}");
            }
        }
    }

    fn serve(self: &Arc<Self>, number: u64, socket: TcpStream, peer: SocketAddr) -> io::Result<()> {
        prepare(&socket, self.options.silence / TICKS)?;
        let input = Input::new(socket.try_clone()?);
        let output = Arc::new(Output::new(socket, 1));
        let session: Arc<OnceLock<Arc<Session>>> = Arc::default();
        let (sending, of) = (Arc::clone(&output), Arc::clone(&session));
        let sender = Builder::new().name("iscsi-send".to_owned());
        let sender = sender.spawn(move || {
            sending.send_what_is_stuck(|| {
                if let Some(session) = of.get() {
                    session.has_sent();
                }
            });
        })?;
        self.talk(number, input, &output, peer, &session);
        output.close();
        // Only now nothing more is sent, and nothing waits for it.
        let _ = sender.join();
        Ok(())
    }

    /// A login, and what comes after it.
    fn talk(
        self: &Arc<Self>,
        number: u64,
        mut input: Input,
        output: &Arc<Output>,
        peer: SocketAddr,
        begun: &OnceLock<Arc<Session>>,
    ) {
        let login = login::log_in(&mut input, output, &self.options, &self.targets);
        self.logins.end(number);
        let login = match login {
            Ok(login) => login,
            Err(failure) => {
                self.failed_logins.fetch_add(1, Relaxed);
                return log::info!("iSCSI: {peer} did not log in: {failure}");
            }
        };
        let session = match self.enter(&login, output, peer) {
            Ok(session) => session,
            Err(failure) => {
                self.failed_logins.fetch_add(1, Relaxed);
                let initiator = &login.initiator;
                log::info!("iSCSI: {initiator} at {peer} did not log in: {failure}");
                return login.refuse(output, &failure);
            }
        };
        let _ = begun.set(Arc::clone(&session));
        self.logins_done.fetch_add(1, Relaxed);
        let what = session.target.as_deref().unwrap_or("discovery").to_owned();
        log::info!("iSCSI: {} at {peer} logged in to {what}", session.initiator);
        let mut connection = Connection::new(Arc::clone(&session), login.cid, input);
        login.welcome(output, session.tsih);
        let end = connection.serve();
        log::info!("iSCSI: {} at {peer} left {what}: {end}", session.initiator);
        drop(connection);
        output.close();
        self.leave(session);
    }

    fn enter(
        self: &Arc<Self>,
        login: &LoggedIn,
        output: &Arc<Output>,
        peer: SocketAddr,
    ) -> Result<Arc<Session>, Failure> {
        let target = login.target.as_ref();
        let name = target.map(|target| target.name.as_str());
        let place = self.sessions.place(&login.initiator, login.isid, name)?;
        let used = target.map(|target| self.open(target, login)).transpose()?;
        let (output, server) = (Arc::clone(output), Arc::clone(self));
        let session = Session::new(place.tsih, login, used, output, server, peer);
        let session = Arc::new(session);
        place.fill(&session);
        Ok(session)
    }

    fn open(&self, target: &Target, login: &LoggedIn) -> Result<Used, Failure> {
        let gone = |_| Failure::NotFound(target.name.clone());
        let unit = self.targets.open(target).map_err(gone)?;
        let capacity = unit.capacity().unwrap_or(0);
        let nexus = Arc::new(Nexus::new(&login.initiator, login.isid, capacity));
        nexus.attend(code::POWER_ON);
        unit.join(&nexus);
        Ok(Used { unit, nexus })
    }

    /// The end of a session: nothing of it is done any more when it is out of the table.
    fn leave(&self, session: Arc<Session>) {
        session.order.close();
        // Those that wait for room to answer: none of them is done any more.
        session.has_sent();
        session.order.wait_for_given_up();
        if let Some(used) = &session.used {
            used.unit.leave(&used.nexus);
            self.targets.close(used.unit.node);
        }
        self.sessions.remove(&session);
    }

    /// Answers SendTargets: all that the initiator may use, or the one that it names.
    pub fn send_targets(&self, session: &Session, which: &str, answer: &mut Pairs) {
        let may = |target: &Target| self.options.allows(&session.initiator, &target.disk);
        let targets: Vec<Target> = match which {
            "All" => self.targets.list(),
            "" => session
                .target
                .iter()
                .filter_map(|name| self.targets.find(name))
                .collect(),
            name if name.starts_with("iqn.") => self.targets.find(name).into_iter().collect(),
            _ => {
                answer.push("SendTargets", "Reject");
                return;
            }
        };
        let addresses = self.addresses(session.output.local_address());
        for target in targets.into_iter().filter(may) {
            answer.push("TargetName", target.name);
            for address in &addresses {
                answer.push("TargetAddress", format!("{address},1"));
            }
        }
    }

    /// Where an initiator that has found us at `here` may find us: there first, and at the other portals of
    /// that family that it can be expected to reach.
    fn addresses(&self, here: Option<SocketAddr>) -> Vec<SocketAddr> {
        let Some(here) = here else { return Vec::new() };
        let is_of_use = |portal: &SocketAddr| {
            let is_link_local = match portal.ip() {
                IpAddr::V4(address) => address.is_link_local(),
                IpAddr::V6(address) => address.is_unicast_link_local(),
            };
            let is_special = portal.ip().is_unspecified() || is_link_local;
            let is_far = !is_loopback(here.ip()) && is_loopback(portal.ip());
            *portal != here && portal.is_ipv4() == here.is_ipv4() && !is_special && !is_far
        };
        let others = self.portals.iter().copied().filter(is_of_use);
        std::iter::once(here).chain(others).collect()
    }
}

fn prepare(socket: &TcpStream, tick: Duration) -> io::Result<()> {
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(tick))?;
    socket.set_write_timeout(Some(SEND_PATIENCE))?;
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(60));
    SockRef::from(socket).set_tcp_keepalive(&keepalive)
}
