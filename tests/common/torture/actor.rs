//! The thread that does things to a family, and what is compared after a crash.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::family::{Command, Family, Image, Limits};
use super::pattern::{Pattern, UNIT};
use super::served::{Served, is_full};
use super::stamps::{Buffer, Rng, punch};
use super::tally::{Tally, count};

const MIB: usize = 1 << 20;

/// A family and who acts on it.
pub struct Actor {
    /// Its files begin with this, and no others do.
    prefix: String,
    limits: Limits,
    pattern: Pattern,
    family: Family,
    /// Commands so far.
    number: u32,
    under_way: Option<Command>,
    /// The pool was full: give space back before anything else.
    relieve: bool,
    rng: Rng,
    buffer: Buffer,
    handle: Option<(String, File)>,
}

impl Actor {
    pub fn new(prefix: &str, limits: Limits, seed: u64) -> Self {
        Self {
            prefix: prefix.to_owned(),
            limits,
            pattern: Pattern(seed),
            family: Family::default(),
            number: 0,
            under_way: None,
            relieve: false,
            rng: Rng::new(seed),
            buffer: Buffer::new(MIB),
            handle: None,
        }
    }

    /// One command, a sync, or a look at something.
    ///
    /// # Errors
    /// Where the daemon is gone.
    pub fn step(&mut self, served: &Served, tally: &Tally) -> io::Result<()> {
        match self.rng.below(16) {
            0 | 1 => return self.look(served, tally),
            2 => return self.sync(tally),
            _ => {}
        }
        let relief = std::mem::take(&mut self.relieve).then(|| {
            let relief = self.family.choose_relief(&mut self.rng);
            relief.unwrap_or_else(|| Command::Create {
                disk: format!("{}{}.img", self.prefix, self.number + 1),
            })
        });
        let next = self.number + 1;
        let command = relief.unwrap_or_else(|| {
            self.family
                .choose(self.limits, &self.prefix, next, &mut self.rng)
        });
        self.act(command, served, tally)
    }

    /// One command, noted before it is given and when it is acknowledged.
    ///
    /// # Errors
    /// Where the daemon is gone.
    pub fn act(&mut self, command: Command, served: &Served, tally: &Tally) -> io::Result<()> {
        self.number += 1;
        self.under_way = Some(command.clone());
        let started = Instant::now();
        let done = self.perform(&command, served);
        match done {
            Ok(()) => {
                self.family.apply(&command, self.number);
                tally_one(&command, tally);
            }
            Err(error) if is_full(&error) => {
                count(&tally.no_space);
                self.relieve = true;
            }
            Err(error) => {
                assert!(served.is_death(&error), "{command:?}: {error}");
                return Err(error);
            }
        }
        tally.waited(started.elapsed());
        self.under_way = None;
        Ok(())
    }

    fn perform(&mut self, command: &Command, served: &Served) -> io::Result<()> {
        match command {
            Command::Write { disk, unit, count } => {
                let len = *count as usize * UNIT;
                let bytes = &mut self.buffer.bytes()[..len];
                self.pattern.fill(u64::from(*unit), self.number, bytes);
                let at = u64::from(*unit) * UNIT as u64;
                let file = open(&mut self.handle, served, disk)?;
                // At most 1 MiB, so one request: all of it or nothing.
                file.write_all_at(&self.buffer.bytes()[..len], at)
            }
            Command::Discard { disk, unit, count } => {
                let (at, len) = (u64::from(*unit), u64::from(*count));
                let file = open(&mut self.handle, served, disk)?;
                punch(file, at * UNIT as u64, len * UNIT as u64)
            }
            Command::Resize { disk, units } => {
                let size = u64::from(*units) * UNIT as u64;
                open(&mut self.handle, served, disk)?.set_len(size)
            }
            Command::Create { disk } => File::create_new(served.file(disk)).map(drop),
            Command::Rename { from, to } => {
                std::fs::rename(served.file(from), served.file(to))?;
                match self.handle.as_mut() {
                    Some((name, _)) if name == from => name.clone_from(to),
                    Some((name, _)) if name == to => self.handle = None,
                    _ => {}
                }
                Ok(())
            }
            Command::Delete { file } => {
                // Sometimes it is open meanwhile.
                let handle = self.handle.take_if(|(name, _)| name == file);
                let handle = handle.filter(|_| self.number.is_multiple_of(2));
                let deleted = std::fs::remove_file(served.file(file));
                drop(handle);
                deleted
            }
            Command::Snapshot { disk, name } => {
                served.control(&format!("snapshot {disk} {name}\n"))
            }
            Command::RollBack { snapshot } => {
                served.control(&format!("rollback {snapshot} force\n"))
            }
            Command::Clone { snapshot, to } => served.control(&format!("clone {snapshot} {to}\n")),
        }
    }

    fn sync(&mut self, tally: &Tally) -> io::Result<()> {
        let Some((_, file)) = &self.handle else {
            return Ok(());
        };
        let started = Instant::now();
        file.sync_data()?;
        tally.waited(started.elapsed());
        count(&tally.syncs);
        Ok(())
    }

    /// Reads a part of a disk or snapshot, and compares it with what it has to be.
    fn look(&mut self, served: &Served, tally: &Tally) -> io::Result<()> {
        let files = self.family.files().count().max(1) as u64;
        let picked = self.rng.below(files) as usize;
        let Some((name, image)) = self.family.files().nth(picked) else {
            return Ok(());
        };
        let from = self.rng.below(u64::from(image.len()) + 1);
        let most = (MIB / UNIT).min((u64::from(image.len()) - from) as usize);
        let count = self.rng.below(most as u64 + 1) as usize;
        let bytes = &mut self.buffer.bytes()[..count * UNIT];
        let started = Instant::now();
        let file = served.open(name, false)?;
        file.read_exact_at(bytes, from * UNIT as u64)?;
        tally.waited(started.elapsed());
        let mut found = Vec::with_capacity(count);
        let read = self.pattern.read(from, bytes, &mut found);
        read.unwrap_or_else(|error| panic!("{name}: {error}"));
        let expected = &image.units[from as usize..][..count];
        assert!(
            found == expected,
            "{name} is not what it has to be, from unit {from} on: {}",
            first_differences(&found, expected)
        );
        tally.read.fetch_add((count * UNIT) as u64, Relaxed);
        Ok(())
    }

    /// Ends all handles: the mount is about to go.
    pub fn let_go(&mut self) {
        self.handle = None;
    }

    /// Settles whether what was under way has happened, and proves that the family is there as it
    /// was or as it would be then, and nothing else. `listed` are the names in the mount.
    pub fn prove(&mut self, served: &Served, listed: &BTreeSet<String>, tally: &Tally) {
        self.handle = None;
        let mut found: Vec<(&String, Image)> = Vec::new();
        for name in listed {
            if name.starts_with(&self.prefix) {
                found.push((name, self.read(served, name, tally)));
            }
        }
        let Err(before) = same(&self.family, &found) else {
            if self.under_way.take().is_some() {
                count(&tally.cut);
            }
            return;
        };
        let Some(command) = self.under_way.take() else {
            panic!("{}: {before}", self.prefix);
        };
        count(&tally.cut);
        count(&tally.cut_done);
        self.family.apply(&command, self.number);
        if let Err(after) = same(&self.family, &found) {
            panic!(
                "{}: before {command:?}: {before}; after it: {after}",
                self.prefix
            );
        }
    }

    fn read(&mut self, served: &Served, name: &str, tally: &Tally) -> Image {
        let fail = |what: String| -> ! { panic!("{name}: {what}") };
        let file = served.open(name, false);
        let file = file.unwrap_or_else(|error| fail(error.to_string()));
        let size = file.metadata().map_or(0, |meta| meta.len()) as usize;
        assert!(size.is_multiple_of(UNIT), "{name} has {size} bytes");
        let mut units = Vec::with_capacity(size / UNIT);
        while units.len() * UNIT < size {
            let at = units.len() * UNIT;
            let bytes = &mut self.buffer.bytes()[..MIB.min(size - at)];
            let read = file.read_exact_at(bytes, at as u64);
            read.unwrap_or_else(|error| fail(format!("{error} at {at}")));
            let read = self.pattern.read(units.len() as u64, bytes, &mut units);
            read.unwrap_or_else(|error| fail(error));
        }
        tally.proved.fetch_add(size as u64, Relaxed);
        Image {
            units: units.into(),
        }
    }

    /// How the pool is kept full: one large disk that is written where it has a hole, and gives
    /// space back where there is too little.
    ///
    /// # Errors
    /// Where the daemon is gone.
    pub fn fill_up(&mut self, target: f64, served: &Served, tally: &Tally) -> io::Result<()> {
        const PIECE: u32 = (MIB / UNIT) as u32;
        let disk = format!("{}.img", self.prefix);
        let Some(state) = self.family.disks.get(&disk) else {
            return self.act(Command::Create { disk }, served, tally);
        };
        let fill = served.fill()?;
        let pieces = u64::from(self.limits.units / PIECE);
        let at = self.rng.below(pieces) as u32 * PIECE;
        let empty = state
            .image
            .units
            .get(at as usize)
            .is_none_or(|unit| *unit == 0);
        let (unit, count) = (at, PIECE);
        let command = match fill < target {
            true if empty => Command::Write { disk, unit, count },
            false if !empty && (fill > target + 4.0 || self.rng.chance(4)) => {
                Command::Discard { disk, unit, count }
            }
            _ => return Ok(()),
        };
        self.act(command, served, tally)
    }
}

fn open<'a>(
    handle: &'a mut Option<(String, File)>,
    served: &Served,
    disk: &str,
) -> io::Result<&'a File> {
    match handle {
        Some((name, _)) if name == disk => {}
        _ => *handle = Some((disk.to_owned(), served.open(disk, true)?)),
    }
    Ok(&handle.as_ref().expect("it was just opened").1)
}

/// Whether what was found is the family.
fn same(family: &Family, found: &[(&String, Image)]) -> Result<(), String> {
    let names: BTreeSet<&String> = found.iter().map(|(name, _)| *name).collect();
    let expected: BTreeSet<&String> = family.files().map(|(name, _)| name).collect();
    if names != expected {
        let missing: Vec<_> = expected.difference(&names).collect();
        let extra: Vec<_> = names.difference(&expected).collect();
        return Err(format!("{missing:?} missing, {extra:?} there"));
    }
    for (name, image) in family.files() {
        let (_, found) = found
            .iter()
            .find(|(it, _)| *it == name)
            .expect("it is there");
        if found.len() != image.len() {
            return Err(format!(
                "{name} has {} units, not {}",
                found.len(),
                image.len()
            ));
        }
        if found != image {
            let differences = first_differences(&found.units, &image.units);
            return Err(format!("{name} differs: {differences}"));
        }
    }
    Ok(())
}

fn first_differences(found: &[u32], expected: &[u32]) -> String {
    let differ = || {
        (0..)
            .zip(found.iter().zip(expected))
            .filter(|(_, (a, b))| a != b)
    };
    let shown: Vec<_> = differ()
        .map(|(unit, (found, expected))| format!("unit {unit} is from {found}, not {expected}"))
        .take(6)
        .collect();
    format!("{} units, {}", differ().count(), shown.join(", "))
}

fn tally_one(command: &Command, tally: &Tally) {
    count(match command {
        Command::Write { .. } | Command::Discard { .. } => &tally.writes,
        Command::Resize { .. } | Command::Create { .. } => &tally.resizes,
        Command::Rename { .. } => &tally.renames,
        Command::Delete { .. } => &tally.deletes,
        Command::Snapshot { .. } => &tally.snapshots,
        Command::RollBack { .. } => &tally.rollbacks,
        Command::Clone { .. } => &tally.clones,
    });
}
