//! `snapmark scsi-snapshot`.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::base::NameError;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::print;
use crate::config::{Account, Portal, Secret};
use crate::frontend::iscsi::{
    Identity, Initiator, InitiatorError, Outcome, Transfer, snapshot_cdb,
};

/// Bytes of the line that has a secret, at the most.
const MAX_SECRET: u64 = 4096;

const EXAMPLES: &str = "\
Examples:
  snapmark scsi-snapshot --portal 192.0.2.1 \\
      --target iqn.2026-11.io.snapmark:store:db.img before-migration
  snapmark scsi-snapshot --portal 192.0.2.1 --list
  snapmark scsi-snapshot --portal 192.0.2.1 --target iqn.2026-11.io.snapmark:store:db.img \\
      --all --initiator iqn.2020-01.com.example:host1 nightly

It logs in, sends the snapshot command, and logs out. It needs no store on this machine and no
privileges. An initiator that has the disk attached sends the same command by itself, as with
sg_raw /dev/sdX c0 00 00 00 00 00: the snapshot then stands between its own writes.";

/// Take a snapshot of a disk by the SCSI command, over the network
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct ScsiSnapshot {
    /// Where the target is; port 3260 unless given
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    portal: Portal,
    /// The disk's target
    #[arg(long, required_unless_present = "list", value_name = "IQN")]
    target: Option<String>,
    /// Of all disks that the initiator has sessions with, at one point
    #[arg(long)]
    all: bool,
    /// Return before the snapshot would survive power loss
    #[arg(long)]
    nosync: bool,
    /// The name to log in with
    #[arg(
        long,
        value_name = "IQN",
        default_value = "iqn.2026-11.io.snapmark:scsi-snapshot"
    )]
    initiator: String,
    /// The user, where the target wants CHAP
    #[arg(long, requires = "secret_file")]
    user: Option<String>,
    /// A file whose first line is the user's secret, and that nobody else may read
    #[arg(long, requires = "user", value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    secret_file: Option<PathBuf>,
    /// List the targets there, and take no snapshot
    #[arg(long, conflicts_with_all = ["target", "all", "nosync", "name"])]
    list: bool,
    /// The snapshot's name; the UTC time where there is none
    name: Option<String>,
}

impl ScsiSnapshot {
    /// Takes it.
    pub fn run(self) -> Result<(), Failure> {
        let account = match (&self.user, &self.secret_file) {
            (Some(user), Some(file)) => Some(account(user, file)?),
            _ => None,
        };
        // Not the name of a session that the initiator has already: that would end.
        let mut isid = [0x80, 0, 0, 0, 0, 0];
        getrandom::fill(&mut isid[1..]).map_err(|error| Failure::failed(error.to_string()))?;
        let identity = Identity {
            initiator: self.initiator.clone(),
            isid,
            target: self.target.clone(),
            account,
            ..Identity::default()
        };
        let mut session = Initiator::log_in(self.portal.0, &identity).map_err(|e| failure(&e))?;
        let done = if self.list {
            list(&mut session)
        } else {
            self.take(&mut session)
        };
        let left = session.log_out().map_err(|error| failure(&error));
        done.and(left)
    }

    fn take(&self, session: &mut Initiator) -> Result<(), Failure> {
        let name = self.name.as_deref().unwrap_or_default();
        let cdb = snapshot_cdb(name, self.all, self.nosync)
            .ok_or_else(|| Failure::usage(NameError::TooLong(name.len()).to_string()))?;
        let transfer = match name {
            "" => Transfer::None,
            name => Transfer::Out(name.as_bytes()),
        };
        for _ in 0..4 {
            let outcome = session
                .command(&cdb, transfer)
                .map_err(|error| failure(&error))?;
            // Something that a new session is told first, such as a reset.
            let is_attention = outcome.sense_code().is_some_and(|(key, ..)| key == 6);
            if !is_attention {
                return done(&outcome);
            }
        }
        Err(Failure::failed(
            "the target has ever more to tell than to do",
        ))
    }
}

fn list(session: &mut Initiator) -> Result<(), Failure> {
    let targets = session.targets().map_err(|error| failure(&error))?;
    let lines = targets
        .iter()
        .map(|(name, address)| format!("{name} {address}\n"));
    print(&lines.collect::<String>())
}

fn done(outcome: &Outcome) -> Result<(), Failure> {
    if outcome.status == 0 {
        return Ok(());
    }
    let sense = outcome.sense_code();
    let exit = match sense {
        Some((5, 0x80, 1)) => Exit::NotFound,
        Some((5, 0x80, 2)) => Exit::Exists,
        Some((5, 0x80, _)) => Exit::Usage,
        Some((7, 0x27, 7)) => Exit::NoSpace,
        Some((7, ..)) => Exit::Denied,
        None if outcome.status == 0x18 => Exit::Busy,
        _ => Exit::Failed,
    };
    let words = match (outcome.words(), sense) {
        (Some(words), _) => words,
        (None, Some((5, 0x20, 0))) => {
            "the target knows no snapshot command: is it Snapmark's?".to_owned()
        }
        (None, Some((key, asc, ascq))) => {
            format!("the target refused: sense key {key:x}h, code {asc:02x}h/{ascq:02x}h")
        }
        (None, None) if outcome.status == 0x18 => {
            "another initiator has reserved the disk".to_owned()
        }
        (None, None) => format!("the target refused: status {:02x}h", outcome.status),
    };
    Err(Failure::new(exit, words))
}

fn account(user: &str, file: &Path) -> Result<Account, Failure> {
    let (name, failed) = (file.display(), |error| Failure::io(file.display(), &error));
    let opened = File::open(file).map_err(failed)?;
    let found = opened.metadata().map_err(failed)?;
    // A pipe, as a shell makes one of another program's output, is nobody else's.
    let is_ours = [0, rustix::process::geteuid().as_raw()].contains(&found.uid());
    if found.is_file() && (found.mode() & 0o077 != 0 || !is_ours) {
        let words = format!("{name} can be read by others: chmod 600 it, and own it");
        return Err(Failure::new(Exit::Denied, words));
    }
    let mut line = String::new();
    let mut text = BufReader::new(opened.take(MAX_SECRET));
    text.read_line(&mut line).map_err(failed)?;
    if line.len() as u64 == MAX_SECRET {
        let words = format!("{name}: its first line is longer than {MAX_SECRET} bytes");
        return Err(Failure::usage(words));
    }
    let secret = line.trim_end_matches(['\r', '\n']);
    if secret.is_empty() {
        let words = format!("{name}: there is no secret on its first line");
        return Err(Failure::usage(words));
    }
    Ok(Account {
        user: user.to_owned(),
        secret: Secret::new(secret),
        initiator: None,
    })
}

fn failure(error: &InitiatorError) -> Failure {
    let exit = match error {
        InitiatorError::Login {
            class: 2,
            detail: 3,
        }
        | InitiatorError::Connect { .. } => Exit::NotFound,
        InitiatorError::Login {
            class: 2,
            detail: 1 | 2,
        }
        | InitiatorError::Proof => Exit::Denied,
        InitiatorError::Login { class: 3, .. } => Exit::Busy,
        _ => Exit::Failed,
    };
    Failure::new(exit, error.to_string())
}
