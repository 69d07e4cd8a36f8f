//! `store.yaml`: the settings of a store.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::value::{self, section};
use super::{Glob, Interval, Layout, Portal, ScheduleRule};
use crate::base::ByteSize;

/// The longest settings file that is read, in bytes. Reading YAML that is nested as deep as this is
/// long takes the square of it, so it is not much more than settings need.
const MAX_FILE: u64 = 64 << 10;

/// All settings. What a file does not name has its default, so an empty file is a valid one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The write cache.
    #[serde(deserialize_with = "section")]
    pub cache: CacheSettings,
    /// The journal.
    #[serde(deserialize_with = "section")]
    pub journal: JournalSettings,
    /// How the cache drains.
    #[serde(deserialize_with = "section")]
    pub destage: DestageSettings,
    /// Rules for disks by name; the first that matches counts.
    #[serde(deserialize_with = "section")]
    pub disks: Vec<DiskRule>,
    /// The pool's space.
    #[serde(deserialize_with = "section")]
    pub space: SpaceSettings,
    /// The online data check.
    #[serde(deserialize_with = "section")]
    pub scrub: ScrubSettings,
    /// The mount.
    #[serde(deserialize_with = "section")]
    pub fuse: FuseSettings,
    /// The iSCSI target.
    #[serde(deserialize_with = "section")]
    pub iscsi: IscsiSettings,
    /// Snapshots that are taken by themselves.
    #[serde(deserialize_with = "value::schedules")]
    pub snapshots: Vec<ScheduleRule>,
    /// The log.
    #[serde(deserialize_with = "section")]
    pub log: LogSettings,
}

/// The write cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CacheSettings {
    /// Memory for it, 4 MiB to 1 TiB.
    #[serde(deserialize_with = "value::cache_size")]
    pub size: ByteSize,
    /// Whether it survives the daemon.
    pub mode: CacheMode,
}

/// Whether the cache survives the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheMode {
    /// Every write goes to the journal before it is acknowledged.
    Journal,
    /// There is no journal; what was not destaged is lost with the daemon.
    Volatile,
}

/// The journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JournalSettings {
    /// Its size, 8 MiB to 1 TiB. Need not be that of the cache: whichever fills up first makes
    /// writers wait.
    #[serde(deserialize_with = "value::journal_size")]
    pub size: ByteSize,
    /// Its file, from the store's directory on; see [`Settings::journal_path`].
    #[serde(deserialize_with = "value::text")]
    pub path: PathBuf,
}

/// How the cache drains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DestageSettings {
    /// How long a write rests before it is moved, 10 ms to an hour.
    #[serde(deserialize_with = "value::interval")]
    pub interval: Interval,
    /// How much is moved and synced at a time, 1 MiB to 1 GiB.
    #[serde(deserialize_with = "value::batch")]
    pub batch: ByteSize,
}

/// What holds for disks whose name matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskRule {
    /// The pattern.
    #[serde(rename = "match", deserialize_with = "value::text")]
    pub pattern: Glob,
    /// Destage order, higher first.
    pub priority: u8,
}

/// The pool's space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpaceSettings {
    /// Percentages in use at which to warn, rising.
    #[serde(deserialize_with = "value::marks")]
    pub warn: Vec<u8>,
    /// How long a write waits, at the most, for the host's file system to have space again.
    #[serde(deserialize_with = "value::interval")]
    pub patience: Interval,
}

/// The online data check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScrubSettings {
    /// Bytes a second that it reads at the most; 0 is no limit.
    #[serde(deserialize_with = "value::rate")]
    pub rate: ByteSize,
}

/// The mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FuseSettings {
    /// Threads that answer requests, 1 to 64.
    #[serde(deserialize_with = "value::threads")]
    pub threads: u16,
    /// Background requests that the kernel may have under way, 1 to 4,096.
    #[serde(deserialize_with = "value::max_background")]
    pub max_background: u16,
    /// Whether other users may use the mount.
    pub allow_other: bool,
}

/// The iSCSI target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IscsiSettings {
    /// Where it listens; nowhere by default.
    #[serde(deserialize_with = "section")]
    pub listen: Vec<Portal>,
    /// The store's part of target names; that of its directory by default.
    #[serde(deserialize_with = "section")]
    pub name: Option<String>,
    /// The file with the secrets of CHAP, from the store's directory on.
    #[serde(deserialize_with = "section")]
    pub secrets: Option<PathBuf>,
    /// Whether it may listen beyond this machine without secrets.
    pub open: bool,
    /// Sessions at the most, 1 to 4,096.
    #[serde(deserialize_with = "value::sessions")]
    pub sessions: u16,
    /// Which initiators may use which disks; the first rule that matches a disk counts.
    #[serde(deserialize_with = "section")]
    pub access: Vec<AccessRule>,
}

/// Who may use disks whose name matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessRule {
    /// The pattern.
    #[serde(rename = "match", deserialize_with = "value::text")]
    pub pattern: Glob,
    /// Patterns for the names of initiators.
    #[serde(deserialize_with = "value::globs")]
    pub initiators: Vec<Glob>,
}

/// The log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSettings {
    /// What is logged.
    pub level: LogLevel,
}

/// What is logged: this and everything graver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What failed.
    Error,
    /// What will fail soon.
    Warn,
    /// What an administrator did.
    Info,
    /// What a developer wants to know.
    Debug,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self {
            size: ByteSize(256 << 20),
            mode: CacheMode::Journal,
        }
    }
}

impl Default for JournalSettings {
    fn default() -> Self {
        Self {
            size: ByteSize(512 << 20),
            path: Layout::JOURNAL.into(),
        }
    }
}

impl Default for DestageSettings {
    fn default() -> Self {
        Self {
            interval: Interval(std::time::Duration::from_secs(1)),
            batch: ByteSize(64 << 20),
        }
    }
}

impl Default for SpaceSettings {
    fn default() -> Self {
        Self {
            warn: vec![80, 95],
            patience: Interval(std::time::Duration::from_secs(60)),
        }
    }
}

impl Default for ScrubSettings {
    fn default() -> Self {
        Self {
            rate: ByteSize(200 << 20),
        }
    }
}

impl Default for FuseSettings {
    fn default() -> Self {
        Self {
            threads: 8,
            max_background: 256,
            allow_other: false,
        }
    }
}

impl Default for IscsiSettings {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            name: None,
            secrets: None,
            open: false,
            sessions: 256,
            access: Vec::new(),
        }
    }
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            level: LogLevel::Info,
        }
    }
}

impl From<LogLevel> for log::LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::Error,
            LogLevel::Warn => Self::Warn,
            LogLevel::Info => Self::Info,
            LogLevel::Debug => Self::Debug,
        }
    }
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// There is no file.
    #[error(
        "there is no {0}: is this a store? `snapmark init` makes one; if only the settings were \
         lost, an empty file gives the defaults"
    )]
    Missing(String),
    /// The file can't be read.
    #[error("can't read {file}: {source}")]
    Read {
        /// The file.
        file: String,
        /// The host's word.
        source: io::Error,
    },
    /// The file is too long to be settings.
    #[error("{0} is longer than 64 KiB, which no settings are: is it the right file?")]
    TooLong(String),
    /// The file says something that can't be.
    #[error("{file}:{line}:{column}: {message}; correct it, or remove it to have the default")]
    Wrong {
        /// The file.
        file: String,
        /// The line, from 1; 0 where it concerns the file as a whole.
        line: usize,
        /// The column, from 1; 0 likewise.
        column: usize,
        /// What is wrong.
        message: String,
    },
}

impl Settings {
    /// Reads the settings of the store in this directory.
    ///
    /// # Errors
    /// Where the file is missing, can't be read, is a symbolic link, or says what can't be.
    pub fn load(store_dir: &Path) -> Result<Self, SettingsError> {
        let path = Layout::new(store_dir).settings();
        let file = path.display().to_string();
        match read(&path) {
            Ok(bytes) if bytes.len() as u64 > MAX_FILE => Err(SettingsError::TooLong(file)),
            Ok(bytes) => Self::parse(&file, &bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(SettingsError::Missing(file))
            }
            Err(source) => Err(SettingsError::Read { file, source }),
        }
    }

    /// Reads settings from text; `file` is what errors call it.
    ///
    /// # Errors
    /// Where it says what can't be.
    pub fn parse(file: &str, text: &[u8]) -> Result<Self, SettingsError> {
        // An empty document is a null, which an Option can be and a struct can't.
        match serde_yaml::from_slice::<Option<Self>>(text) {
            Ok(settings) => Ok(settings.unwrap_or_default()),
            Err(error) => Err(wrong(file, &error)),
        }
    }

    /// What `init` writes: every setting as a comment, with its default and what it does.
    #[must_use]
    pub fn default_file() -> String {
        include_str!("template.yaml").to_owned()
    }

    /// What `init` writes where it was told some settings: the same file with these lines no
    /// comments any more. Each is a section, a key in it, and a value as YAML writes it.
    #[must_use]
    pub fn file_with(chosen: &[(&str, &str, String)]) -> String {
        let (mut text, mut section) = (String::new(), "");
        for line in include_str!("template.yaml").lines() {
            if let Some(name) = line
                .strip_suffix(':')
                .filter(|name| !name.contains([' ', '#']))
            {
                section = name;
            }
            let set = |key: &str| line.trim_start().strip_prefix('#')?.strip_prefix(key);
            let value = chosen.iter().find(|(of, key, _)| {
                *of == section && set(key).is_some_and(|rest| rest.starts_with(':'))
            });
            match value {
                Some((_, key, value)) => text.push_str(&format!("  {key}: {value}\n")),
                None => text.extend([line, "\n"]),
            }
        }
        text
    }

    /// Where the journal is.
    #[must_use]
    pub fn journal_path(&self, store_dir: &Path) -> PathBuf {
        store_dir.join(&self.journal.path)
    }

    /// The destage priority of a disk of this name.
    #[must_use]
    pub fn priority(&self, disk: &str) -> u8 {
        let rule = self.disks.iter().find(|rule| rule.pattern.matches(disk));
        rule.map_or(0, |rule| rule.priority)
    }
}

/// The file's bytes, at most one more than settings may have.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    // NONBLOCK: a FIFO of that name must not make us wait.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no regular file",
        ));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn wrong(file: &str, error: &serde_yaml::Error) -> SettingsError {
    let (line, column) = error
        .location()
        .map_or((0, 0), |at| (at.line(), at.column()));
    let message = error.to_string();
    let suffix = format!(" at line {line} column {column}");
    SettingsError::Wrong {
        file: file.to_owned(),
        line,
        column,
        message: message.replacen(&suffix, "", 1),
    }
}

#[cfg(test)]
mod tests;
