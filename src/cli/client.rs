//! The way to a mounted store: files alone. A command is one write to `.control`, and the answer
//! is read from the same handle, so that two callers never see each other's answers.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::exit::Failure;
use super::mountinfo::{self, snapmark_mounts};
use crate::volume::Status;

/// A mounted store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    path: PathBuf,
}

/// A disk or snapshot named by its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The mount that it is in.
    pub mount: Mount,
    /// Its file name, which commands know it by.
    pub name: String,
}

impl Mount {
    /// The mount at this directory.
    ///
    /// # Errors
    /// Where no store is mounted there.
    pub fn at(directory: &Path) -> Result<Self, Failure> {
        let path = directory
            .canonicalize()
            .map_err(|error| Failure::io(directory.display(), &error))?;
        if path.join(".control").exists() {
            return Ok(Self { path });
        }
        Err(Failure::not_found(format!(
            "{} is no mountpoint of a store; mount one there with: snapmark mount STORE {0}",
            directory.display()
        )))
    }

    /// The mount at this directory, or the only one on the machine where none is given.
    ///
    /// # Errors
    /// Where there is none, or more than one to choose from.
    pub fn at_or_only(directory: Option<&Path>) -> Result<Self, Failure> {
        if let Some(directory) = directory {
            return Self::at(directory);
        }
        let entries = mountinfo::mounts()?;
        match snapmark_mounts(&entries)[..] {
            [] => Err(Failure::not_found(
                "no store is mounted here; mount one with: snapmark mount STORE MOUNTPOINT",
            )),
            [only] => Self::at(only),
            ref several => {
                let list: Vec<String> = several.iter().map(|p| p.display().to_string()).collect();
                Err(Failure::usage(format!(
                    "several stores are mounted; name one of these mountpoints: {}",
                    list.join(", ")
                )))
            }
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives a command and returns the answer.
    ///
    /// # Errors
    /// Where the store refuses it, in the store's words.
    pub fn command(&self, line: &str) -> Result<String, Failure> {
        if line.contains('\n') {
            return Err(Failure::usage(format!(
                "{line:?} is more than one line, and a command has one"
            )));
        }
        let path = self.path.join(".control");
        let mut control =
            open_control(&path).map_err(|error| Failure::io(path.display(), &error))?;
        // One write(2) is one command: not write_all, which could split it.
        let written = control.write(format!("{line}\n").as_bytes());
        let answer = read_answer(&control);
        match (written, answer) {
            (Ok(_), Ok(answer)) => Ok(answer),
            (Ok(_), Err(error)) => Err(Failure::io(
                "the command was carried out, but its answer can't be read",
                &error,
            )),
            (Err(error), answer) => Err(Failure::refused(&answer.unwrap_or_default(), &error)),
        }
    }

    /// The state of the store.
    ///
    /// # Errors
    /// Where it can't be read.
    pub fn status(&self) -> Result<Status, Failure> {
        let text = self.read(".status")?;
        serde_yaml::from_str(&text).map_err(|error| {
            Failure::failed(format!(
                "{}: {error}; is the store served by another version of snapmark?",
                self.path.join(".status").display()
            ))
        })
    }

    /// The counters as Prometheus text.
    ///
    /// # Errors
    /// Where they can't be read.
    pub fn stats(&self) -> Result<String, Failure> {
        self.read(".stats")
    }

    fn read(&self, name: &str) -> Result<String, Failure> {
        let path = self.path.join(name);
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(&path);
        file.and_then(std::io::read_to_string)
            .map_err(|error| Failure::io(path.display(), &error))
    }
}

/// Opens what looks like a `.control`. The path may come from anyone: through a link, a FIFO or
/// another name of some file, a command would be written elsewhere.
fn open_control(path: &Path) -> std::io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let control = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    let found = control.metadata()?;
    let beside = std::fs::metadata(path.parent().unwrap_or(path))?;
    if found.is_file() && found.nlink() == 1 && found.dev() == beside.dev() {
        return Ok(control);
    }
    Err(std::io::Error::new(
        std::io::ErrorKind::InvalidInput,
        "it is not what a mounted store has there",
    ))
}

fn read_answer(control: &File) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    loop {
        match control.read_at(&mut chunk, bytes.len() as u64)? {
            0 => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
            n => bytes.extend_from_slice(&chunk[..n]),
        }
    }
}

impl Target {
    /// What this path names. The file itself need not be there; its mount must.
    ///
    /// # Errors
    /// Where it does not lie in a mounted store, or no disk can have the name.
    pub fn of(path: &Path) -> Result<Self, Failure> {
        // In a line of command words it would be taken for several.
        let splits = |c: char| c == ',' || c.is_whitespace() || c.is_control();
        if let Some(name) = path.file_name().and_then(|name| name.to_str())
            && name.contains(splits)
        {
            return Err(Failure::usage(format!(
                "{name:?} names no disk: a name has no ',', spaces or control characters"
            )));
        }
        if let Some(target) = Self::beside_control(path) {
            return Ok(target);
        }
        // A symbolic link elsewhere may lead to a disk.
        let resolved = path.canonicalize().ok();
        resolved
            .and_then(|path| Self::beside_control(&path))
            .ok_or_else(|| {
                Failure::not_found(format!(
                    "{} is not in a mounted store; a disk is a file in its mountpoint, as in mnt/vm1.img",
                    path.display()
                ))
            })
    }

    /// The targets of several paths, which must be in one mount.
    ///
    /// # Errors
    /// As [`Target::of`]; also where they are in different mounts.
    pub fn all_of(paths: &[PathBuf]) -> Result<(Mount, Vec<String>), Failure> {
        let mut mount: Option<Mount> = None;
        let mut names = Vec::new();
        for path in paths {
            let target = Self::of(path)?;
            match &mount {
                Some(first) if *first != target.mount => {
                    return Err(Failure::usage(format!(
                        "{} and {} are different stores; one command works on one",
                        first.path.display(),
                        target.mount.path.display()
                    )));
                }
                _ => mount = Some(target.mount),
            }
            names.push(target.name);
        }
        let mount = mount.ok_or_else(|| Failure::usage("no path was given"))?;
        Ok((mount, names))
    }

    /// The path of it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.mount.path.join(&self.name)
    }

    fn beside_control(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_owned();
        let parent = match path.parent()? {
            parent if parent.as_os_str().is_empty() => Path::new("."),
            parent => parent,
        };
        let mount = Mount::at(parent).ok()?;
        Some(Self { mount, name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that looks enough like a mount: the client needs files alone.
    fn pretend() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(".control"), "").unwrap();
        dir
    }

    #[test]
    fn paths_lead_to_their_mount_also_through_links() {
        let (mount, outside) = (pretend(), tempfile::tempdir().unwrap());
        let real = mount.path().canonicalize().unwrap();
        let missing = Target::of(&mount.path().join("vm1.img@a")).unwrap();
        assert_eq!(missing.name, "vm1.img@a");
        assert_eq!(missing.mount.path, real);
        assert_eq!(missing.path(), real.join("vm1.img@a"));

        std::fs::write(mount.path().join("vm1.img"), "").unwrap();
        let link = outside.path().join("disk");
        std::os::unix::fs::symlink(mount.path().join("vm1.img"), &link).unwrap();
        assert_eq!(Target::of(&link).unwrap().name, "vm1.img");
        assert!(Target::of(&outside.path().join("x")).is_err());
        assert!(Target::of(Path::new("/")).is_err());

        let other = pretend();
        let both = [mount.path().join("a"), other.path().join("b")];
        assert!(Target::all_of(&both).is_err());
        assert_eq!(Target::all_of(&both[..1]).unwrap().1, ["a"]);
    }

    #[test]
    fn a_command_goes_to_no_file_but_a_control() {
        let (evil, victim) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (control, victim) = (evil.path().join(".control"), victim.path().join("victim"));
        std::fs::write(&victim, "precious").unwrap();
        let mount = Mount {
            path: evil.path().to_owned(),
        };
        std::os::unix::fs::symlink(&victim, &control).unwrap();
        assert!(mount.command("flush").is_err(), "a link");
        std::fs::remove_file(&control).unwrap();
        std::fs::hard_link(&victim, &control).unwrap();
        assert!(mount.command("flush").is_err(), "another name");
        std::fs::remove_file(&control).unwrap();
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &control, fifo, mode, 0).unwrap();
        assert!(mount.command("flush").is_err(), "a FIFO");
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
    }

    #[test]
    fn a_command_is_one_write_and_the_answer_comes_from_the_same_handle() {
        let mount = Mount::at(pretend().keep().as_path()).unwrap();
        assert_eq!(mount.command("list").unwrap(), "list\n");
        std::fs::remove_dir_all(mount.path()).unwrap();
    }
}
