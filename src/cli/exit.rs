//! What the program ends with: a code for scripts and words for people.

use std::io;
use std::process::ExitCode;

/// Exit codes. `snapmark help` documents them; scripts rely on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Something failed: see the message.
    Failed = 1,
    /// The command line makes no sense; also clap's code.
    Usage = 2,
    /// No such disk, snapshot, store or mount.
    NotFound = 3,
    /// The name is taken.
    Exists = 4,
    /// The disk, store or mount is in use.
    Busy = 5,
    /// The pool is full.
    NoSpace = 6,
    /// Not permitted, or the target is a snapshot, which does not change.
    Denied = 7,
}

/// The exit codes as `--help` shows them.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed: the message says why
  2  the command line makes no sense
  3  no such disk, snapshot, store or mount
  4  the name is taken
  5  the disk, store or mount is in use
  6  the pool is full
  7  not permitted, or the target is a snapshot (snapshots do not change)

'snapmark check' and 'snapmark scrub' have codes of its own, those of a file system's check:
  0  clean
  1  repaired, or can be repaired
  2  damaged
  3  could not check: the message says why";

impl Exit {
    /// `check`: something was repaired, or can be.
    pub const REPAIRABLE: Self = Self::Failed;
    /// `check`: something is damaged.
    pub const DAMAGED: Self = Self::Usage;
    /// `check`: nothing could be checked.
    pub const UNCHECKED: Self = Self::NotFound;

    /// The one with this code, from another process of this program.
    #[must_use]
    pub fn from_code(code: i32) -> Self {
        let all = [
            Self::Ok,
            Self::Usage,
            Self::NotFound,
            Self::Exists,
            Self::Busy,
            Self::NoSpace,
            Self::Denied,
        ];
        let found = all.into_iter().find(|exit| *exit as i32 == code);
        found.unwrap_or(Self::Failed)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A command that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What the program ends with.
    pub exit: Exit,
    /// What went wrong and what to do next.
    pub message: String,
}

impl Failure {
    /// A failure with this code and these words.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
        }
    }

    /// A command line that makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Something is not there.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Exit::NotFound, message)
    }

    /// Anything else.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// A failure of the operating system, and what it happened to.
    pub fn io(what: impl std::fmt::Display, error: &io::Error) -> Self {
        Self::new(code(error), format!("{what}: {error}"))
    }

    /// A command that the store refused, with the store's own words where it gave any.
    pub fn refused(words: &str, error: &io::Error) -> Self {
        let words = words.trim();
        if words.is_empty() {
            Self::io("the store refused the command", error)
        } else {
            Self::new(code(error), words)
        }
    }
}

fn code(error: &io::Error) -> Exit {
    use rustix::io::Errno;
    match Errno::from_io_error(error) {
        Some(Errno::INVAL) => Exit::Usage,
        Some(Errno::NOENT | Errno::NODEV | Errno::NOTCONN) => Exit::NotFound,
        Some(Errno::EXIST) => Exit::Exists,
        Some(Errno::BUSY | Errno::TXTBSY) => Exit::Busy,
        Some(Errno::NOSPC | Errno::DQUOT) => Exit::NoSpace,
        Some(Errno::PERM | Errno::ACCESS | Errno::ROFS) => Exit::Denied,
        _ => Exit::Failed,
    }
}
