//! A shell command that is run before or after a snapshot.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use rustix::process::{Pid, Signal, kill_process_group};

/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one may take that is to be run in any case, once the daemon stops.
pub(super) const GRACE: Duration = Duration::from_secs(10);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// What a command finds in its environment.
#[derive(Clone, Debug)]
pub(super) struct Environment {
    pub schedule: String,
    pub name: String,
    pub disks: String,
    pub result: Option<bool>,
}

/// See [`Hook::run`].
pub(super) struct Hook;

impl Hook {
    /// Runs a command, if there is one, and waits for its end. It is ended when its time is over; where
    /// the daemon stops, it has `grace` from then on.
    pub fn run(
        command: Option<&str>,
        environment: &Environment,
        ended: &Receiver<()>,
        grace: Duration,
    ) -> Result<(), String> {
        let Some(command) = command else {
            return Ok(());
        };
        let result = match environment.result {
            None => "",
            Some(true) => "ok",
            Some(false) => "failed",
        };
        // A group of its own, so that what it starts ends with it.
        let child = Command::new("sh")
            .args(["-c", command])
            .env("SNAPMARK_SCHEDULE", &environment.schedule)
            .env("SNAPMARK_NAME", &environment.name)
            .env("SNAPMARK_DISKS", &environment.disks)
            .env("SNAPMARK_RESULT", result)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn();
        let mut child = child.map_err(|error| error.to_string())?;
        match wait(&mut child, ended, grace) {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(status.to_string()),
            Err(why) => {
                if let Some(group) = Pid::from_raw(child.id() as i32) {
                    let _ = kill_process_group(group, Signal::KILL);
                }
                let _ = child.wait();
                Err(why)
            }
        }
    }
}

fn wait(child: &mut Child, ended: &Receiver<()>, grace: Duration) -> Result<ExitStatus, String> {
    let mut deadline = Instant::now() + PATIENCE;
    let mut stops = false;
    loop {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            return Err(match stops {
                true => "the daemon stops".to_owned(),
                false => format!("it took more than {} s and was ended", PATIENCE.as_secs()),
            });
        }
        if stops {
            std::thread::sleep(LOOK);
        } else if ended.recv_timeout(LOOK) != Err(RecvTimeoutError::Timeout) {
            stops = true;
            deadline = deadline.min(Instant::now() + grace);
        }
    }
}
