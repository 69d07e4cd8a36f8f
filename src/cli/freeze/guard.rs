//! The process that freezes and thaws. It says what happened on its standard output, one word
//! line each, and touches no other file while something is frozen.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use clap::Args;
use rustix::io::Errno;

use super::loops::{FileSystem, mount_id};
use super::{LIMIT, ioctl};
use crate::cli::exit::Failure;

/// Freeze file systems until told otherwise (used by 'snapshot --freeze')
#[derive(Debug, Args)]
pub struct FreezeGuard {
    /// Mounts as ID=MOUNTPOINT
    #[arg(required = true)]
    mounts: Vec<OsString>,
}

/// All that the guard waits for.
enum Event {
    /// One more is frozen, in the order given.
    Frozen,
    /// All are.
    AllFrozen,
    /// One could not be; no more will be.
    Failed(String),
    /// The parent says that it is done.
    Done,
    /// The parent has gone without a word.
    Orphaned,
}

/// A word that the guard says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// All file systems are frozen.
    Frozen,
    /// None is; why.
    Failed(String),
    /// They were thawed when told to.
    Thawed,
    /// They were thawed because [`LIMIT`] was over.
    Early,
    /// One could not be thawed; why.
    Stuck(String),
}

impl Word {
    /// The word in this line.
    pub fn parse(line: &str) -> Option<Self> {
        let (word, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        match word {
            "frozen" => Some(Self::Frozen),
            "failed" => Some(Self::Failed(rest.to_owned())),
            "thawed" => Some(Self::Thawed),
            "early" => Some(Self::Early),
            "stuck" => Some(Self::Stuck(rest.to_owned())),
            _ => None,
        }
    }

    fn say(&self) {
        let line = match self {
            Self::Frozen => "frozen\n".to_owned(),
            Self::Failed(why) => format!("failed {why}\n"),
            Self::Thawed => "thawed\n".to_owned(),
            Self::Early => "early\n".to_owned(),
            Self::Stuck(why) => format!("stuck {why}\n"),
        };
        // The parent may have died; the thaw goes on all the same.
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
    }
}

/// What names this file system on the guard's command line.
pub fn argument(system: &FileSystem) -> OsString {
    let mut bytes = format!("{}=", system.mount_id).into_bytes();
    bytes.extend_from_slice(system.mountpoint.as_os_str().as_bytes());
    OsString::from_vec(bytes)
}

/// The file systems, in the order in which they are frozen.
struct Systems {
    opened: Vec<Opened>,
    /// How many of them, from the first, this process has frozen; only [`freeze_all`] raises it.
    /// What someone else has frozen is not ours to thaw.
    frozen: AtomicUsize,
    /// Set by the owner: freeze no more.
    stop: AtomicBool,
}

struct Opened {
    mountpoint: PathBuf,
    directory: File,
}

impl FreezeGuard {
    /// Freezes, waits, thaws.
    pub fn run(self) -> Result<(), Failure> {
        ignore_signals()?;
        let opened: Vec<Opened> = match self.mounts.into_iter().map(open).collect() {
            Ok(opened) => opened,
            Err(why) => {
                Word::Failed(why).say();
                return Ok(());
            }
        };
        // What is dirty goes out now, so that the time in which writers wait is short.
        for one in &opened {
            let _ = rustix::fs::syncfs(&one.directory);
        }
        hold(&Systems {
            opened,
            frozen: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        })
        .say();
        Ok(())
    }
}

/// Freezes, waits for the reason to thaw, thaws; returns the last word.
fn hold(systems: &Systems) -> Word {
    let (events, inbox) = channel();
    let no_thread = |error: std::io::Error| Word::Failed(format!("can't start a thread: {error}"));
    if let Err(error) = listen(events.clone()) {
        return no_thread(error);
    }
    std::thread::scope(|scope| {
        let freezer = match std::thread::Builder::new()
            .spawn_scoped(scope, || freeze_all(systems, &events))
        {
            Ok(freezer) => freezer,
            Err(error) => return no_thread(error),
        };
        let word = wait(&inbox);
        systems.stop.store(true, SeqCst);
        // In two steps: now, so that nobody waits for a freeze that takes long, and then what
        // that freeze may still have frozen.
        let before = systems.frozen.load(SeqCst);
        let first = thaw(&systems.opened[..before]);
        let _ = freezer.join();
        let rest = thaw(&systems.opened[before..systems.frozen.load(SeqCst)]);
        first.and(rest).map_or_else(Word::Stuck, |()| word)
    })
}

/// Ctrl-C and a service manager's SIGTERM are for the parent; its death is what counts here.
fn ignore_signals() -> Result<(), Failure> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))
            .map_err(|error| Failure::io("can't ignore signals", &error))?;
    }
    Ok(())
}

fn open(argument: OsString) -> Result<Opened, String> {
    let bytes = argument.into_vec();
    let at = bytes.iter().position(|&byte| byte == b'=');
    let (id, path) = at.map_or((&bytes[..], &[][..]), |at| (&bytes[..at], &bytes[at + 1..]));
    let id: Option<u64> = std::str::from_utf8(id).ok().and_then(|id| id.parse().ok());
    let mountpoint = PathBuf::from(OsString::from_vec(path.to_vec()));
    let directory =
        File::open(&mountpoint).map_err(|error| format!("{}: {error}", mountpoint.display()))?;
    if id.is_none() || mount_id(&directory) != id {
        return Err(format!(
            "{}: something else was mounted there meanwhile; try again",
            mountpoint.display()
        ));
    }
    Ok(Opened {
        mountpoint,
        directory,
    })
}

fn listen(events: Sender<Event>) -> std::io::Result<()> {
    let listener = std::thread::Builder::new().spawn(move || {
        let told = matches!(std::io::stdin().lock().read(&mut [0]), Ok(1));
        let _ = events.send(if told { Event::Done } else { Event::Orphaned });
    });
    listener.map(drop)
}

fn freeze_all(systems: &Systems, events: &Sender<Event>) {
    for one in &systems.opened {
        if systems.stop.load(SeqCst) {
            return;
        }
        if let Err(errno) = ioctl::freeze(&one.directory) {
            let _ = events.send(Event::Failed(explain(one, errno)));
            return;
        }
        systems.frozen.fetch_add(1, SeqCst);
        let _ = events.send(Event::Frozen);
    }
    let _ = events.send(Event::AllFrozen);
}

fn explain(one: &Opened, errno: Errno) -> String {
    let why = match errno {
        Errno::BUSY => "it is frozen already by someone else; 'fsfreeze -u' thaws it".to_owned(),
        Errno::OPNOTSUPP => "its file system can't be frozen; leave out --freeze".to_owned(),
        Errno::PERM | Errno::ACCESS => "freezing needs root; run it with sudo".to_owned(),
        other => other.to_string(),
    };
    format!("can't freeze {}: {why}", one.mountpoint.display())
}

/// Waits for the reason to thaw, at most [`LIMIT`] from the first freeze on.
fn wait(inbox: &Receiver<Event>) -> Word {
    let mut deadline: Option<Instant> = None;
    loop {
        // Before the first freeze nobody waits for us but the parent.
        let left = deadline.map_or(Duration::MAX, |at| {
            at.saturating_duration_since(Instant::now())
        });
        match inbox.recv_timeout(left) {
            Ok(Event::Frozen) => {
                deadline.get_or_insert_with(|| Instant::now() + LIMIT);
            }
            Ok(Event::AllFrozen) => Word::Frozen.say(),
            Ok(Event::Failed(why)) => return Word::Failed(why),
            Ok(Event::Done | Event::Orphaned) => return Word::Thawed,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Word::Early,
        }
    }
}

fn thaw(opened: &[Opened]) -> Result<(), String> {
    let mut result = Ok(());
    for one in opened.iter().rev() {
        if let Err(errno) = ioctl::thaw(&one.directory) {
            result = Err(format!(
                "can't thaw {0}: {errno}; run: fsfreeze -u {0}",
                one.mountpoint.display()
            ));
        }
    }
    result
}
