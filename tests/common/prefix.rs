//! The proof that an image holds exactly the first so many operations of a writer, over rollbacks
//! that came somewhere among them.

use std::sync::Arc;

use super::{History, Kind, Op, Plan, Progress, Writer};

/// A disk as it may be: one content, or several while it is not known after which operation it
/// was rolled back.
#[derive(Clone)]
struct Candidate {
    blocks: Vec<u32>,
    /// Whether a rollback that is looked for has happened in this one.
    rolled_back: bool,
}

/// A rollback whose place among the operations is not known yet.
#[derive(Clone)]
struct Rollback {
    image: Arc<Vec<u32>>,
    bounds: Progress,
}

/// A writer's history, replayed as far as the image at hand goes.
#[derive(Clone)]
pub struct Checker {
    plan: Plan,
    writer: u32,
    history: History,
    /// How each disk may be after `done` operations.
    disks: Vec<Vec<Candidate>>,
    done: u32,
    rollbacks: Vec<Option<Rollback>>,
    /// Whether any disk was ever rolled back: then images come in the order of their making.
    in_order: bool,
}

impl Checker {
    /// The histories of all writers as they are now.
    pub fn all(writers: &[Writer]) -> Vec<Self> {
        let of = |writer: &Writer| {
            let mut checker = Self {
                plan: writer.plan,
                writer: writer.number,
                history: writer.lock().clone(),
                disks: Vec::new(),
                done: 0,
                rollbacks: vec![None; writer.plan.disks as usize],
                in_order: false,
            };
            checker.rewind();
            checker
        };
        writers.iter().map(of).collect()
    }

    fn rewind(&mut self) {
        let of_disk = |blocks: &[u32]| {
            vec![Candidate {
                blocks: blocks.to_vec(),
                rolled_back: false,
            }]
        };
        let disks = self.history.start.chunks(self.plan.blocks as usize);
        self.disks = disks.map(of_disk).collect();
        self.done = self.history.base;
    }

    /// Notes that a disk was rolled back to `image`, when the writer was as far as `bounds` say:
    /// `acked` before the command was given, `begun` after it returned. The next image of the disk
    /// has to show after which operation. Before that it can't be rolled back again.
    pub fn roll_back(&mut self, disk: u32, image: &Arc<Vec<u32>>, bounds: Progress) {
        self.in_order = true;
        for candidate in &mut self.disks[disk as usize] {
            candidate.rolled_back = false;
        }
        self.rollbacks[disk as usize] = Some(Rollback {
            image: Arc::clone(image),
            bounds,
        });
        self.branch();
    }

    /// Where a rollback may have come after the operations so far, the disk may be that image.
    fn branch(&mut self) {
        for (rollback, candidates) in self.rollbacks.iter().zip(&mut self.disks) {
            let Some(rollback) = rollback else { continue };
            if (rollback.bounds.acked..=rollback.bounds.begun).contains(&self.done) {
                candidates.push(Candidate {
                    blocks: rollback.image.to_vec(),
                    rolled_back: true,
                });
            }
        }
    }

    /// Operations that the last image held.
    pub fn held(&self) -> u32 {
        self.done
    }

    fn last(&self) -> u32 {
        self.history.base + self.history.log.len() as u32
    }

    fn apply_next(&mut self) {
        let op = self.history.log[(self.done - self.history.base) as usize];
        self.done += 1;
        let seq = match op.kind {
            Kind::Write => Some(self.done),
            Kind::Discard => Some(0),
            Kind::Refused => None,
        };
        let (disk, within) = (op.block / self.plan.blocks, op.block % self.plan.blocks);
        for candidate in &mut self.disks[disk as usize] {
            if let Some(seq) = seq {
                candidate.blocks[within as usize..][..op.count as usize].fill(seq);
            }
        }
        self.branch();
    }

    /// Proves that these images of disks hold exactly the first `n` operations of the writer for
    /// an `n` of at least what was acknowledged and at most what was begun; returns the `n`,
    /// the smallest where the images can't tell.
    ///
    /// # Errors
    /// What is missing, or there too early.
    pub fn check(&mut self, images: &[(u32, &[u32])], bounds: Progress) -> Result<u32, String> {
        let (plan, writer, known) = (self.plan, self.writer, self.last());
        let mine = |disk: u32| {
            (0..plan.blocks).filter(move |block| plan.owner(disk * plan.blocks + block) == writer)
        };
        let newest = images
            .iter()
            .flat_map(|(disk, found)| mine(*disk).map(|block| found[block as usize]))
            .max()
            .unwrap_or(0);
        let last = bounds.begun.min(known);
        if newest > last {
            return Err(format!(
                "operation {newest} of writer {writer} is there, {bounds:?}, {known} known"
            ));
        }
        // What was written and then discarded leaves no stamp: the newest that can be seen need
        // not be the last that is there.
        let first = newest.max(bounds.acked);
        if first < self.done && !self.in_order {
            self.rewind();
        }
        while self.done < first {
            self.apply_next();
        }
        let mut wrong = Vec::new();
        loop {
            let mut found = Vec::new();
            let mut differs = None;
            for (disk, image) in images {
                match self.candidate(*disk, image, mine(*disk)) {
                    Ok(at) => found.push((*disk as usize, at)),
                    Err((block, expected)) => {
                        let got = image[block as usize];
                        differs = Some((disk * plan.blocks + block, expected, got));
                        break;
                    }
                }
            }
            let Some((block, expected, got)) = differs else {
                self.settle(&found, images, last);
                return Ok(self.done);
            };
            wrong.push((self.done, block, expected, got));
            if self.done >= last {
                let shown = wrong.iter().rev().take(8).map(|(held, block, expected, got)| {
                    format!(
                        "\n  it does not hold the first {held}: block {block} is from {got}, not \
                         {expected}; operations there: {:?}",
                        self.operations_on(*block)
                    )
                });
                return Err(format!(
                    "writer {writer}, whose newest operation in it is {newest}, is to be there \
                     with {bounds:?}:{}",
                    shown.collect::<String>()
                ));
            }
            self.apply_next();
        }
    }

    /// Which candidate the image is, or the first block in which it is not the first one.
    fn candidate(
        &self,
        disk: u32,
        image: &[u32],
        mine: impl Iterator<Item = u32> + Clone,
    ) -> Result<usize, (u32, u32)> {
        let must_be_back = self.rollbacks[disk as usize].is_some();
        let mut differs = None;
        for (at, candidate) in self.disks[disk as usize].iter().enumerate() {
            if must_be_back && !candidate.rolled_back {
                continue;
            }
            let other = |block: &u32| candidate.blocks[*block as usize] != image[*block as usize];
            match mine.clone().find(other) {
                None => return Ok(at),
                Some(block) => {
                    differs.get_or_insert((block, candidate.blocks[block as usize]));
                }
            }
        }
        // None is rolled back yet: no operation can be at fault.
        Err(differs.unwrap_or((0, u32::MAX)))
    }

    /// Takes the candidates that were found as what the disks are. Where a disk was rolled back,
    /// the image may be as well of a later moment: then what came till then was undone by the
    /// rollback, and is not to be done again. So the image itself counts as what the disk was
    /// rolled back to, at some moment up to the last possible one.
    fn settle(&mut self, found: &[(usize, usize)], images: &[(u32, &[u32])], last: u32) {
        let latest = match found
            .iter()
            .any(|(disk, _)| self.rollbacks[*disk].is_some())
        {
            true => self.clone().latest(images, last),
            false => self.done,
        };
        for ((disk, at), (_, image)) in found.iter().zip(images) {
            let candidate = self.disks[*disk].swap_remove(*at);
            self.disks[*disk] = vec![candidate];
            let again = self.rollbacks[*disk].is_some() && latest > self.done;
            self.rollbacks[*disk] = again.then(|| Rollback {
                image: Arc::new(image.to_vec()),
                bounds: Progress {
                    acked: self.done,
                    begun: latest,
                },
            });
        }
    }

    /// The most operations that these images may hold, up to `last`.
    fn latest(mut self, images: &[(u32, &[u32])], last: u32) -> u32 {
        let mut latest = self.done;
        while self.done < last {
            self.apply_next();
            let (plan, writer) = (self.plan, self.writer);
            let same = images.iter().all(|(disk, image)| {
                let mine = (0..plan.blocks)
                    .filter(|block| plan.owner(disk * plan.blocks + block) == writer);
                self.candidate(*disk, image, mine).is_ok()
            });
            if same {
                latest = self.done;
            }
        }
        latest
    }

    /// What is on all disks, of the writer's own blocks.
    pub(super) fn blocks(&self) -> Vec<u32> {
        let disks = self.disks.iter();
        disks.flat_map(|of| of[0].blocks.iter().copied()).collect()
    }

    /// The last operations on a block, with their numbers.
    fn operations_on(&self, block: u32) -> Vec<(u32, Kind, u32, u32)> {
        let on = |op: &&(u32, &Op)| (op.1.block..op.1.block + op.1.count).contains(&block);
        let numbered: Vec<(u32, &Op)> = (self.history.base + 1..).zip(&self.history.log).collect();
        let there = numbered.iter().rev().filter(on);
        let shown = there.map(|(number, op)| (*number, op.kind, op.block, op.count));
        shown.take(5).collect()
    }
}
