//! Frees the versions that nobody can see any more: after a snapshot, a disk or a clone went away.
//!
//! A version that no snapshot and no disk sees may still show through the gaps of a newer one;
//! then what shows is merged into the newer one first.

use super::super::CacheError;
use super::work::Work;
use crate::base::{BlockMask, Epoch, MapId, Place, SegmentNo};
use crate::ondisk::{Change, Descriptor, VersionKey};
use crate::store::{Pool, View};

/// Versions looked at in one commit.
const CHUNK: usize = 512;

/// Bytes copied in one commit, so that destaging need not wait long for it.
const MAX_BYTES: u64 = 8 << 20;

/// A pass over a map.
pub(super) struct Reap {
    pub map: MapId,
    next: VersionKey,
}

/// What a step found.
pub(super) enum Step {
    /// There is more.
    More,
    /// The pass is through; whether the map has versions left is for the caller to see.
    Done,
}

impl Reap {
    pub fn new(map: MapId) -> Self {
        Self {
            map,
            next: VersionKey {
                map,
                segment: SegmentNo(0),
                death: Epoch(0),
            },
        }
    }

    /// Begins again: something else went away.
    pub fn restart(&mut self) {
        *self = Self::new(self.map);
    }

    /// Plans the next chunk.
    pub fn step(&mut self, view: &View, pool: &Pool, work: &mut Work) -> Result<Step, CacheError> {
        let live = view.map(self.map)?.is_some_and(|map| map.live);
        let seen = Seen {
            live,
            epochs: view
                .snapshots_of(self.map)?
                .iter()
                .map(|s| s.epoch)
                .collect(),
        };
        let mut versions = view.versions_from(self.next, CHUNK)?;
        let through = versions.len() < CHUNK;
        let last = versions.last().map(|(key, _)| key.segment);
        if let Some(last) = last.filter(|_| !through) {
            // The last segment may be cut short: finish it before going on.
            while let Some((key, _)) = versions
                .last()
                .copied()
                .filter(|(key, _)| key.death < Epoch::LIVE)
            {
                let from = VersionKey {
                    death: key.death.next(),
                    ..key
                };
                let more = view.versions_from(from, CHUNK)?;
                let same: Vec<_> = more
                    .into_iter()
                    .take_while(|(key, _)| key.segment == last)
                    .collect();
                if same.is_empty() {
                    break;
                }
                versions.extend(same);
            }
            self.next = VersionKey {
                segment: last.next(),
                ..self.next
            };
        }
        for segment in versions.chunk_by(|a, b| a.0.segment == b.0.segment) {
            if work.bytes() > MAX_BYTES {
                self.next = VersionKey {
                    segment: segment[0].0.segment,
                    ..self.next
                };
                return Ok(Step::More);
            }
            seen.sift(segment, view, pool, work)?;
        }
        Ok(if through { Step::Done } else { Step::More })
    }
}

/// Who looks at a map.
struct Seen {
    live: bool,
    /// Epochs of snapshots, rising.
    epochs: Vec<Epoch>,
}

impl Seen {
    fn sees(&self, key: &VersionKey, descriptor: &Descriptor) -> bool {
        if key.death == Epoch::LIVE && self.live {
            return true;
        }
        let first = self
            .epochs
            .partition_point(|epoch| *epoch < descriptor.birth);
        self.epochs
            .get(first)
            .is_some_and(|epoch| *epoch < key.death)
    }

    /// Drops what is unseen of a segment's versions, oldest first in `versions`.
    fn sift(
        &self,
        versions: &[(VersionKey, Descriptor)],
        view: &View,
        pool: &Pool,
        work: &mut Work,
    ) -> Result<(), CacheError> {
        let mut above: Option<Merge> = None;
        for (key, descriptor) in versions.iter().rev() {
            if self.sees(key, descriptor) {
                if let Some(merge) = above.replace(Merge::into(*key, *descriptor)) {
                    merge.plan(view, pool, work)?;
                }
                continue;
            }
            work.changes.push(Change::RemoveVersion(*key));
            match &mut above {
                Some(merge) => merge.take(descriptor, view),
                None => descriptor.place.into_iter().for_each(|at| work.retire(at)),
            }
        }
        match above {
            Some(merge) => merge.plan(view, pool, work),
            None => Ok(()),
        }
    }
}

/// A version that stays, and what shows through its gaps of those below it that go.
///
/// All of them are gathered before anything is copied: a copy reads what lies on the devices, and
/// what another copy of the same commit is about to write is not there yet.
struct Merge {
    key: VersionKey,
    descriptor: Descriptor,
    /// The slots, each with the blocks that it had and those of them that count; that of the
    /// version itself is the first, if it has one.
    sources: Vec<MergeSource>,
    merged: bool,
}

struct MergeSource {
    place: Place,
    had: BlockMask,
    shows: BlockMask,
}

impl Merge {
    fn into(key: VersionKey, descriptor: Descriptor) -> Self {
        let own = descriptor.place.map(|place| MergeSource {
            place,
            had: descriptor.data,
            shows: descriptor.data,
        });
        Self {
            key,
            descriptor,
            sources: own.into_iter().collect(),
            merged: false,
        }
    }

    /// Takes in what shows of `lower`, the next one below.
    fn take(&mut self, lower: &Descriptor, view: &View) {
        let gaps = BlockMask::full(view.geometry()).minus(&self.descriptor.covered());
        let shows = lower.data.and(&gaps);
        self.descriptor.data = self.descriptor.data.or(&shows);
        self.descriptor.zero = self.descriptor.zero.or(&lower.zero.and(&gaps));
        self.merged = true;
        self.sources.extend(lower.place.map(|place| MergeSource {
            place,
            had: lower.data,
            shows,
        }));
    }

    /// Moves all that counts into the slot that has the most of it, so that the fewest blocks
    /// move. What is written there nobody reads before the commit: in the version's own slot it
    /// was a gap, in that of a lower one it was hidden; so a crash before the commit does no harm.
    fn plan(self, view: &View, pool: &Pool, work: &mut Work) -> Result<(), CacheError> {
        let Self {
            key,
            mut descriptor,
            sources,
            merged,
        } = self;
        if !merged {
            return Ok(());
        }
        let most = sources
            .iter()
            .rev()
            .filter(|source| !source.shows.is_empty())
            .max_by_key(|source| source.shows.count());
        descriptor.place = most.map(|source| source.place);
        for source in &sources {
            match descriptor.place {
                Some(to) if to == source.place => {
                    work.punch(to, source.had.minus(&descriptor.data));
                }
                Some(to) => {
                    work.copy(pool, view, source.place, to, &source.shows)?;
                    work.retire(source.place);
                }
                None => work.retire(source.place),
            }
        }
        work.changes.push(Change::PutVersion(key, descriptor));
        Ok(())
    }
}
