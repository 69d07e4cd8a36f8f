//! What a family of disks is to hold: each content as the number of the command that wrote each
//! unit. One thread gives all commands of a family, so its history is one line, and after a crash
//! it is what it was before the command under way or what it is after it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::stamps::Rng;

/// The content of a disk or snapshot.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// The number of the command that wrote a unit, 0 where it is zeros.
    pub units: Arc<Vec<u32>>,
}

impl Image {
    pub fn len(&self) -> u32 {
        self.units.len() as u32
    }

    fn write(&mut self, unit: u32, count: u32, number: u32) {
        let units = Arc::make_mut(&mut self.units);
        let (from, to) = (unit as usize, (unit + count) as usize);
        if units.len() < to {
            units.resize(to, 0);
        }
        units[from..to].fill(number);
    }

    fn discard(&mut self, unit: u32, count: u32) {
        let end = self.len().min(unit + count);
        if unit < end {
            self.write(unit, end - unit, 0);
        }
    }
}

/// A snapshot, and the disk that it is of, whatever its name was then.
#[derive(Clone)]
pub struct Snapshot {
    pub image: Image,
    of: u32,
}

/// A disk.
#[derive(Clone)]
pub struct Disk {
    pub image: Image,
    id: u32,
}

/// One thing done to a family. Names are file names; numbers are units.
#[derive(Clone, Debug)]
pub enum Command {
    Write { disk: String, unit: u32, count: u32 },
    Discard { disk: String, unit: u32, count: u32 },
    Resize { disk: String, units: u32 },
    Create { disk: String },
    Rename { from: String, to: String },
    Delete { file: String },
    Snapshot { disk: String, name: String },
    RollBack { snapshot: String },
    Clone { snapshot: String, to: String },
}

/// How much a family does.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub disks: usize,
    pub snapshots: usize,
    /// Units of the largest disk.
    pub units: u32,
}

/// Disks and snapshots by file name.
#[derive(Clone, Default)]
pub struct Family {
    pub disks: BTreeMap<String, Disk>,
    pub snapshots: BTreeMap<String, Snapshot>,
}

fn disk_of(snapshot: &str) -> &str {
    snapshot.split('@').next().unwrap_or(snapshot)
}

fn any<'a, T>(of: &'a BTreeMap<String, T>, rng: &mut Rng) -> Option<(&'a String, &'a T)> {
    let at = rng.below(of.len().max(1) as u64) as usize;
    of.iter().nth(at)
}

impl Family {
    /// All files, with what they hold.
    pub fn files(&self) -> impl Iterator<Item = (&String, &Image)> {
        let disks = self.disks.iter().map(|(name, disk)| (name, &disk.image));
        let snapshots = self.snapshots.iter();
        disks.chain(snapshots.map(|(name, snapshot)| (name, &snapshot.image)))
    }

    /// What the command, which is the `number`th, makes of it.
    pub fn apply(&mut self, command: &Command, number: u32) {
        match command {
            Command::Write { disk, unit, count } => {
                self.image(disk).write(*unit, *count, number);
            }
            Command::Discard { disk, unit, count } => self.image(disk).discard(*unit, *count),
            Command::Resize { disk, units } => {
                Arc::make_mut(&mut self.image(disk).units).resize(*units as usize, 0);
            }
            Command::Create { disk } => {
                let image = Image::default();
                self.disks.insert(disk.clone(), Disk { image, id: number });
            }
            Command::Rename { from, to } => self.rename(from, to),
            Command::Delete { file } => {
                let known = self.disks.remove(file).is_some();
                assert!(known | self.snapshots.remove(file).is_some());
            }
            Command::Snapshot { disk, name } => {
                let Disk { image, id } = self.disks[disk].clone();
                let snapshot = Snapshot { image, of: id };
                self.snapshots.insert(format!("{disk}@{name}"), snapshot);
            }
            Command::RollBack { snapshot } => {
                let image = self.snapshots[snapshot].image.clone();
                *self.image(disk_of(snapshot)) = image;
            }
            Command::Clone { snapshot, to } => {
                let image = self.snapshots[snapshot].image.clone();
                self.disks.insert(to.clone(), Disk { image, id: number });
            }
        }
    }

    fn image(&mut self, disk: &str) -> &mut Image {
        &mut self
            .disks
            .get_mut(disk)
            .expect("a disk of the family")
            .image
    }

    /// A snapshot gets another name; a disk takes all that are called by its name along, and
    /// replaces the disk that has the new one.
    fn rename(&mut self, from: &str, to: &str) {
        if let Some(snapshot) = self.snapshots.remove(from) {
            self.snapshots.insert(to.to_owned(), snapshot);
            return;
        }
        let disk = self.disks.remove(from).expect("a disk of the family");
        self.disks.insert(to.to_owned(), disk);
        let renamed = |(name, snapshot): (String, Snapshot)| {
            let (disk, own) = name.split_once('@').expect("a snapshot's name");
            let name = match disk == from {
                true => format!("{to}@{own}"),
                false => name.clone(),
            };
            (name, snapshot)
        };
        let snapshots = std::mem::take(&mut self.snapshots);
        self.snapshots = snapshots.into_iter().map(renamed).collect();
    }

    /// A command that can be done now, mostly a write. New names begin with `prefix` and contain
    /// `number`.
    pub fn choose(&self, limits: Limits, prefix: &str, number: u32, rng: &mut Rng) -> Command {
        let fresh = || format!("{prefix}{number}.img");
        let Some((name, disk)) = any(&self.disks, rng) else {
            return Command::Create { disk: fresh() };
        };
        let name = name.clone();
        let full = self.snapshots.len() >= limits.snapshots;
        let snapshot = any(&self.snapshots, rng);
        let command = match rng.below(100) {
            0..8 if !full => Some(Command::Snapshot {
                disk: name.clone(),
                name: format!("s{number}"),
            }),
            0..13 => snapshot.map(|(file, _)| Command::Delete { file: file.clone() }),
            13..16 => snapshot
                .filter(|(file, at)| {
                    self.disks
                        .get(disk_of(file))
                        .is_some_and(|on| on.id == at.of)
                })
                .map(|(file, _)| Command::RollBack {
                    snapshot: file.clone(),
                }),
            16..19 if self.disks.len() < limits.disks => snapshot.map(|(file, _)| Command::Clone {
                snapshot: file.clone(),
                to: fresh(),
            }),
            16..19 => Some(Command::Delete { file: name.clone() }),
            19..21 => Some(Command::Rename {
                from: name.clone(),
                to: fresh(),
            }),
            21 if self.disks.len() > 1 => any(&self.disks, rng)
                .filter(|(over, _)| **over != name)
                .map(|(over, _)| Command::Rename {
                    from: name.clone(),
                    to: over.clone(),
                }),
            22 => snapshot.map(|(file, _)| Command::Rename {
                from: file.clone(),
                to: format!("{}@r{number}", disk_of(file)),
            }),
            23..27 => Some(Command::Resize {
                disk: name.clone(),
                units: 1 + rng.below(u64::from(limits.units)) as u32,
            }),
            27 if self.disks.len() < limits.disks => Some(Command::Create { disk: fresh() }),
            28..36 => Some(discard(&name, disk.image.len(), rng)),
            _ => None,
        };
        command.unwrap_or_else(|| write(&name, limits.units, rng))
    }

    /// A command that gives space back, if there is one.
    pub fn choose_relief(&self, rng: &mut Rng) -> Option<Command> {
        if let Some((file, _)) = any(&self.snapshots, rng) {
            return Some(Command::Delete { file: file.clone() });
        }
        let (name, disk) = any(&self.disks, rng)?;
        Some(discard(name, disk.image.len(), rng))
    }
}

/// Mostly small, at any place; sometimes whole blocks, sometimes whole segments.
fn write(disk: &str, units: u32, rng: &mut Rng) -> Command {
    let (count, align) = match rng.below(20) {
        0..8 => (1 + rng.below(16) as u32, 1),
        8..16 => (8 << rng.below(5), 8),
        16..18 => (8 * (1 + rng.below(256) as u32), 8),
        _ => (512 * (1 + rng.below(4) as u32), 512),
    };
    let count = count.min(units);
    let unit = rng.below(u64::from(units - count + 1)) as u32 / align * align;
    let disk = disk.to_owned();
    Command::Write { disk, unit, count }
}

fn discard(disk: &str, units: u32, rng: &mut Rng) -> Command {
    let unit = rng.below(u64::from(units.max(1))) as u32;
    let (unit, most) = match rng.below(3) {
        0 => (unit, 64),
        1 => (unit / 8 * 8, 2048),
        _ => (unit / 512 * 512, units.max(1)),
    };
    let count = 1 + rng.below(u64::from(most)) as u32;
    let disk = disk.to_owned();
    Command::Discard { disk, unit, count }
}
