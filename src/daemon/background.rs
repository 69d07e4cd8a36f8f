//! Starting in the background.
//!
//! A process with threads can't fork, so the parent runs its own program again with a hidden
//! argument. The child's standard output is a pipe on which it says `ready`, or what went wrong;
//! the parent waits for that and ends with it. The child's standard error is the log.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::fs::OFlags;

use crate::config::open_own;

/// The hidden argument that makes a process the background one; the command line adds it.
pub const CHILD_FLAG: &str = "--background-child";
/// The name of the log inside the store.
pub const LOG_NAME: &str = "snapmark.log";

const READY: &[u8] = b"ready\n";

/// Why nothing serves in the background.
#[derive(Debug, thiserror::Error)]
pub enum BackgroundError {
    /// The child started and said why it can't serve.
    #[error("{why}")]
    Refused {
        /// Its words.
        why: String,
        /// The exit code that it ended with.
        code: Option<i32>,
    },
    /// The child ended without a word.
    #[error("the background process ended early ({status}); its log is {}", log.display())]
    Died {
        /// How it ended.
        status: String,
        /// Where it logs.
        log: PathBuf,
    },
    /// The log can't be written.
    #[error("can't open the log {}: {error}", log.display())]
    Log {
        /// Where it would be.
        log: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// No process could be started.
    #[error("can't start a background process: {0}")]
    Start(io::Error),
}

/// Starts this program again with these arguments and [`CHILD_FLAG`], and returns its process id
/// once it serves.
///
/// # Errors
/// Where it can't be started, or says that it can't serve.
pub fn start(arguments: &[OsString], log: &Path) -> Result<u32, BackgroundError> {
    let to_log = open_log(log)?;
    let program = std::env::current_exe().map_err(BackgroundError::Start)?;
    let mut child = Command::new(program)
        .args(arguments)
        .arg(CHILD_FLAG)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(to_log)
        .spawn()
        .map_err(BackgroundError::Start)?;
    let said = hear(&mut child).map_err(BackgroundError::Start)?;
    if said == READY {
        return Ok(child.id());
    }
    let status = child.wait().map_err(BackgroundError::Start)?;
    match String::from_utf8_lossy(&said).trim() {
        "" => Err(BackgroundError::Died {
            status: status.to_string(),
            log: log.to_owned(),
        }),
        why => Err(BackgroundError::Refused {
            why: why.to_owned(),
            code: status.code(),
        }),
    }
}

fn open_log(log: &Path) -> Result<File, BackgroundError> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE;
    open_own(log, flags).map_err(|error| BackgroundError::Log {
        log: log.to_owned(),
        error,
    })
}

/// All that the child says until it closes its end.
fn hear(child: &mut Child) -> io::Result<Vec<u8>> {
    let mut said = Vec::new();
    if let Some(pipe) = &mut child.stdout {
        pipe.read_to_end(&mut said)?;
    }
    Ok(said)
}

/// What waits to hear that the mount is there: a parent, or nobody.
#[derive(Debug)]
#[must_use = "a parent waits until it is told"]
pub struct Readiness {
    /// Whether standard output leads to a parent that has not been told yet.
    parent_waits: bool,
}

impl Readiness {
    /// In the foreground nobody waits.
    pub fn foreground() -> Self {
        Self {
            parent_waits: false,
        }
    }

    /// In the background child: leaves the terminal's session and working directory, so paths
    /// have to be absolute from here on.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn background() -> io::Result<Self> {
        rustix::process::setsid()?;
        std::env::set_current_dir("/")?;
        Ok(Self { parent_waits: true })
    }

    /// Says that the mount is there.
    pub fn ready(&mut self) {
        self.tell(READY);
    }

    /// Says why it is not.
    pub fn failed(&mut self, why: &str) {
        self.tell(format!("{why}\n").as_bytes());
    }

    fn tell(&mut self, what: &[u8]) {
        if !std::mem::take(&mut self.parent_waits) {
            return;
        }
        // A parent that has gone needs no answer.
        let mut out = io::stdout();
        let _ = out.write_all(what).and_then(|()| out.flush());
        match File::options().write(true).open("/dev/null") {
            Ok(null) => drop(rustix::stdio::dup2_stdout(&null)),
            Err(error) => log::warn!("standard output stays a pipe: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_log_that_cannot_be_opened_is_named() {
        let log = Path::new("/nowhere/at/all.log");
        let error = open_log(log).unwrap_err().to_string();
        assert!(error.contains("/nowhere/at/all.log"), "{error}");
    }

    #[test]
    fn a_log_is_never_written_through_another_name() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("victim"), "precious").unwrap();
        std::os::unix::fs::symlink(at("victim"), at("link")).unwrap();
        std::os::unix::fs::symlink(at("nothing"), at("dangling")).unwrap();
        std::fs::hard_link(at("victim"), at("hard")).unwrap();
        let fifo = rustix::fs::FileType::Fifo;
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), fifo, mode, 0).unwrap();
        for trick in ["link", "dangling", "hard", "fifo"] {
            assert!(open_log(&at(trick)).is_err(), "{trick}");
        }
        assert!(!at("nothing").exists());
        drop(open_log(&at("log")).unwrap());
        let mode = std::fs::metadata(at("log")).unwrap().mode();
        assert_eq!(mode & 0o077, 0);
    }

    #[test]
    fn in_the_foreground_nobody_is_told() {
        let mut readiness = Readiness::foreground();
        readiness.ready();
        readiness.failed("nothing");
        assert!(!readiness.parent_waits);
    }
}
