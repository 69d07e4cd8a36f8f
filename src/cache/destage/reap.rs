//! Frees the versions that nobody can see any more: after a snapshot, a disk or a clone went away.
//!
//! A version that no snapshot and no disk sees may still show through the gaps of a newer one;
//! then what shows is merged into the newer one first.

use super::super::CacheError;
use super::work::Work;
use crate::base::{BlockMask, Epoch, MapId, SegmentNo};
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
        let full = BlockMask::full(view.geometry());
        let mut above: Option<(VersionKey, Descriptor)> = None;
        let mut merged = false;
        for (key, descriptor) in versions.iter().rev() {
            if self.sees(key, descriptor) {
                put_if(merged, above, work);
                (above, merged) = (Some((*key, *descriptor)), false);
                continue;
            }
            work.changes.push(Change::RemoveVersion(*key));
            match &mut above {
                Some((_, upper)) if upper.covered() != full => {
                    merge(upper, descriptor, view, pool, work)?;
                    merged = true;
                }
                _ => {
                    if let Some(place) = descriptor.place {
                        work.retire(place);
                    }
                }
            }
        }
        put_if(merged, above, work);
        Ok(())
    }
}

fn put_if(merged: bool, version: Option<(VersionKey, Descriptor)>, work: &mut Work) {
    if let Some((key, descriptor)) = version.filter(|_| merged) {
        work.changes.push(Change::PutVersion(key, descriptor));
    }
}

/// Takes into `upper` what shows of `lower` through its gaps. Whichever way moves fewer blocks:
/// into the upper's slot, whose gaps nobody reads, or into the lower's, whose hidden blocks nobody
/// reads; so a crash before the commit does no harm.
fn merge(
    upper: &mut Descriptor,
    lower: &Descriptor,
    view: &View,
    pool: &Pool,
    work: &mut Work,
) -> Result<(), CacheError> {
    let gaps = BlockMask::full(view.geometry()).minus(&upper.covered());
    let showing = lower.data.and(&gaps);
    upper.zero = upper.zero.or(&lower.zero.and(&gaps));
    let Some(below) = lower.place else {
        return Ok(());
    };
    if showing.is_empty() {
        work.retire(below);
        return Ok(());
    }
    match upper.place {
        Some(place) if showing.count() <= upper.data.count() => {
            work.copy(pool, view, below, place, &showing)?;
            work.retire(below);
        }
        Some(place) => {
            work.copy(pool, view, place, below, &upper.data)?;
            work.retire(place);
            work.punch(below, lower.data.minus(&showing).minus(&upper.data));
            upper.place = Some(below);
        }
        None => upper.place = Some(below),
    }
    upper.data = upper.data.or(&showing);
    Ok(())
}
