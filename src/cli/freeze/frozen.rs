//! The parent's side of the guard: a value that stands for frozen file systems.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::guard::{Word, argument};
use super::ioctl;
use super::loops::FileSystem;
use crate::cli::exit::Failure;

/// How the freeze ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thawed {
    /// When it was told to: everything was frozen until then.
    InTime,
    /// Before that, since it had taken too long.
    Early,
}

/// File systems that are frozen. Dropped, or its process dead, they are thawed.
#[derive(Debug)]
#[must_use]
pub struct Frozen {
    guard: Child,
    /// `None` once the guard has been told to thaw.
    orders: Option<ChildStdin>,
    words: BufReader<ChildStdout>,
    /// For the case that the guard dies.
    directories: Vec<File>,
}

impl Frozen {
    /// Freezes them all, or none.
    ///
    /// # Errors
    /// Where one can't be frozen, saying why and what to do.
    pub fn freeze(systems: &[FileSystem]) -> Result<Self, Failure> {
        // Before anything is frozen: opening could wait behind it.
        let directories = systems
            .iter()
            .filter_map(|s| File::open(&s.mountpoint).ok());
        let directories = directories.collect();
        let start = |error| Failure::io("can't start the process that freezes", &error);
        let mut guard = Command::new(std::env::current_exe().map_err(start)?)
            .arg("freeze-guard")
            .args(systems.iter().map(argument))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(start)?;
        let (Some(orders), Some(words)) = (guard.stdin.take(), guard.stdout.take()) else {
            return Err(Failure::failed("the process that freezes has no pipes"));
        };
        let mut frozen = Self {
            guard,
            orders: Some(orders),
            words: BufReader::new(words),
            directories,
        };
        match frozen.hear() {
            Some(Word::Frozen) => Ok(frozen),
            Some(Word::Failed(why) | Word::Stuck(why)) => Err(Failure::failed(why)),
            Some(Word::Early | Word::Thawed) => Err(Failure::failed(
                "freezing took too long; nothing is frozen and no snapshot was taken",
            )),
            None => Err(Failure::failed("the process that freezes has died")),
        }
    }

    /// Thaws them.
    ///
    /// # Errors
    /// Where one can't be thawed, saying how to do it by hand.
    pub fn thaw(mut self) -> Result<Thawed, Failure> {
        self.order();
        match self.hear() {
            Some(Word::Thawed) => Ok(Thawed::InTime),
            Some(Word::Stuck(why)) => Err(Failure::failed(why)),
            // After the guard's death nobody knows since when they have been thawed.
            _ => Ok(Thawed::Early),
        }
    }

    fn order(&mut self) {
        if let Some(mut orders) = self.orders.take() {
            // A guard that has gone needs no orders.
            let _ = orders.write_all(b".");
        }
    }

    fn hear(&mut self) -> Option<Word> {
        let mut line = String::new();
        self.words.read_line(&mut line).ok()?;
        Word::parse(&line)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.order();
        let ended = self.guard.wait();
        if !ended.is_ok_and(|status| status.success()) {
            for directory in &self.directories {
                let _ = ioctl::thaw(directory);
            }
        }
    }
}
