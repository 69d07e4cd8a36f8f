//! A store's directory as a check sees it: locked, and open for reading.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::repair::{self, Repaired};
use super::{Kind, Options, Parts, Problem, Report, Severity, Verdict};
use crate::base::now;
use crate::config::{
    DirectoryError, Layout, LockError, Settings, SettingsError, StoreLock, check_directory,
};
use crate::device::{Device, DeviceError, FileDevice, OpenMode};
use crate::ondisk::DeviceRecord;

/// Why a store could not be checked.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// No store is in the directory.
    #[error("{} is no snapmark store: it has no {}; give the directory that 'snapmark init' made", .0.display(), Layout::CATALOG_PAGES)]
    NotAStore(PathBuf),
    /// It is to be changed, and others could tamper with it.
    #[error(transparent)]
    Untrusted(#[from] DirectoryError),
    /// Someone has it open, or it can't be locked.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// `store.yaml` is wrong, and it says where the journal is.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A file of the store can't be opened.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// No catalog, or one of a later format.
    #[error("{0}")]
    NotACatalog(String),
    /// The host has no threads to give.
    #[error("no threads to read the data with: {0}")]
    Threads(std::io::Error),
}

/// A store that nobody else has open.
pub struct Files {
    layout: Layout,
    settings: Settings,
    /// Whether something may be built on what is found.
    to_repair: bool,
    _lock: Option<StoreLock>,
}

impl Files {
    /// Locks the store in this directory, without a trace, and reads its settings.
    ///
    /// # Errors
    /// Where there is none, it is in use, or its settings can't be read.
    pub fn open(dir: &Path) -> Result<Self, CheckError> {
        let layout = Layout::new(dir);
        if !layout.catalog_pages().exists() {
            return Err(CheckError::NotAStore(dir.to_owned()));
        }
        let lock = StoreLock::acquire_unwritten(dir)?;
        Ok(Self {
            settings: Settings::load(dir)?,
            layout,
            to_repair: false,
            _lock: lock,
        })
    }

    /// Locks the store in this directory as the daemon does, to change it.
    ///
    /// # Errors
    /// As [`Files::open`], and where others decide what is in it.
    pub fn open_to_repair(dir: &Path) -> Result<Self, CheckError> {
        // First as a check does: what is no store stays as it is.
        drop(Self::open(dir)?);
        check_directory(dir)?;
        let lock = Some(StoreLock::acquire(dir)?);
        Ok(Self {
            settings: Settings::load(dir)?,
            layout: Layout::new(dir),
            to_repair: true,
            _lock: lock,
        })
    }

    /// Checks the store, mends what can be mended without guessing, and checks again. A
    /// repair is one commit at the end of the catalog's log; copies of both files are made before.
    ///
    /// # Errors
    /// Where there is nothing that can be checked, or the repair can't be written.
    pub fn repair(
        &self,
        options: Options,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Report, CheckError> {
        let mut before = self.check(options, progress)?;
        let (pages, log) = (self.layout.catalog_pages(), self.layout.catalog_log());
        match repair::repair(&before, &pages, &log, now())? {
            Repaired::Nothing(why) => {
                let why = why.map(|why| Problem::note(Kind::Log, why));
                before.problems.extend(why);
                Ok(before)
            }
            Repaired::Done(copies) => {
                let after = self.check(options, progress)?;
                Ok(repair::joined(before, after, &copies))
            }
        }
    }

    /// Gives up what a damaged journal has from the damage on, so that the store can be mounted
    /// with all that came before. A copy of the journal is made first. Then as
    /// [`repair`](Self::repair). Where the catalog is damaged, too, which says where the journal
    /// begins and what of it counts, the journal stays as it is.
    ///
    /// # Errors
    /// Where there is nothing that can be checked, or the journal can't be copied or written.
    pub fn drop_journal_tail(
        &self,
        options: Options,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Report, CheckError> {
        let mut before = self.check(options, progress)?;
        if before.in_doubt {
            let why = "nothing was given up: the catalog itself is damaged";
            before.problems.push(Problem::note(Kind::Journal, why));
            return Ok(before);
        }
        let Some(cut) = &before.cut else {
            return self.repair(options, progress);
        };
        let mode = OpenMode::READ_WRITE.named_by(&self.settings.journal.path);
        let journal = FileDevice::open(&self.settings.journal_path(self.layout.dir()), mode)?;
        let beside = self.layout.dir().join("journal");
        let copy = repair::copy(&journal, &beside, journal.len(), now())?;
        cut.make(&journal)?;
        let mut after = self.repair(options, progress)?;
        if after.verdict == Verdict::Clean {
            after.verdict = Verdict::Repaired;
        }
        let mended = given_up(before.problems, &after.problems);
        after.problems.extend(mended);
        let message = format!("a copy of the journal as it was: {}", copy.display());
        after.problems.push(Problem::note(Kind::File, message));
        Ok(after)
    }

    /// Checks the store; see [`super::check`].
    ///
    /// # Errors
    /// Where there is nothing that can be checked.
    pub fn check(
        &self,
        options: Options,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Report, CheckError> {
        let device = |record: &DeviceRecord| {
            let path = self.layout.device(&record.path);
            let mode = OpenMode::READ_ONLY.named_by(Path::new(&record.path));
            open(&path, mode.in_order()).map_err(|error| error.to_string())
        };
        let journal = self.settings.journal_path(self.layout.dir());
        let mode = OpenMode::READ_ONLY.named_by(&self.settings.journal.path);
        let journal = self.open_part(&journal, mode);
        let parts = Parts {
            pages: self.open_part(&self.layout.catalog_pages(), OpenMode::READ_ONLY)?,
            log: self.log()?,
            journal: journal.map_err(|error| error.to_string()),
            open: &device,
        };
        super::check(&parts, options, progress)
    }
}

impl Files {
    /// The catalog's log. That it is missing is a finding; where it may not be opened, nothing can
    /// be said of the store.
    fn log(&self) -> Result<Result<Arc<dyn Device>, String>, CheckError> {
        let path = self.layout.catalog_log();
        match self.open_part(&path, OpenMode::READ_ONLY) {
            Ok(log) => Ok(Ok(log)),
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(Err(format!(
                "the catalog's log, {}, is missing",
                path.display()
            ))),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens what says what counts: as it is on the disk, not in the host's memory, where a commit
    /// may be added to it.
    fn open_part(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn Device>, DeviceError> {
        let part = FileDevice::open(path, mode)?;
        if self.to_repair {
            part.sync_and_forget(part.len())?;
        }
        Ok(Arc::new(part))
    }
}

/// What was wrong with the journal before it was cut, and is not any more.
fn given_up(before: Vec<Problem>, after: &[Problem]) -> Vec<Problem> {
    let same = |a: &Problem, b: &Problem| (&a.message, &a.at) == (&b.message, &b.at);
    let gone = before.into_iter().filter(|problem| {
        problem.kind == Kind::Journal && !after.iter().any(|found| same(found, problem))
    });
    gone.map(|problem| Problem {
        repaired: true,
        severity: Severity::Repairable,
        ..problem
    })
    .collect()
}

fn open(path: &Path, mode: OpenMode) -> Result<Arc<dyn Device>, DeviceError> {
    Ok(Arc::new(FileDevice::open(path, mode)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_second_check_finds_again_was_not_repaired() {
        let damage = |message: &str| Problem::damage(Kind::Journal, message);
        let lost = || damage("record 4 is lost").in_file("journal", 8192);
        let header = || damage("one header can't be read").in_file("journal", 0);
        let other = Problem::damage(Kind::Block, "block 3 is not what its checksum says");
        let elsewhere = header().in_file("journal", 4096);
        let mended = given_up(vec![lost(), header(), other], &[header()]);
        assert_eq!(mended.len(), 1, "{mended:?}");
        assert_eq!(mended[0].message, lost().message);
        assert!(mended[0].repaired && mended[0].severity == Severity::Repairable);
        assert_eq!(given_up(vec![header()], &[elsewhere]).len(), 1);
    }
}
