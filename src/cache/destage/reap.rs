//! Frees the versions that nobody can see any more: after a snapshot, a disk or a clone went away.
//!
//! A version that no snapshot and no disk sees may still show through the gaps of a newer one;
//! then what shows is merged into the newer one first. That may take a slot; where none is to be
//! had, the segment is left as it is for later: nothing is lost by it but the space of what both
//! have.

use std::time::{Duration, Instant};

use super::super::CacheError;
use super::merge::{Merge, Tools};
use crate::base::{Epoch, MapId, SegmentNo};
use crate::ondisk::{Change, Descriptor, VersionKey};

/// Versions looked at in one commit.
const CHUNK: usize = 512;

/// Bytes copied in one commit, so that destaging need not wait long for it.
const MAX_BYTES: u64 = 8 << 20;

/// How long a pass that left some segments waits before it goes over them again.
const LATER: Duration = Duration::from_secs(1);

/// How long it waits at the most where it could not read: longer each time.
const UNREADABLE: Duration = Duration::from_secs(600);

/// A pass over a map.
pub(super) struct Reap {
    pub map: MapId,
    next: VersionKey,
    /// Segments were left for want of slots, or since what is to be moved can't be read.
    left: bool,
    unreadable: bool,
    /// Not before this.
    not_before: Option<Instant>,
    /// How long the next pass waits, where this one finds something unreadable.
    later: Duration,
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
            left: false,
            unreadable: false,
            not_before: None,
            later: LATER,
        }
    }

    /// Whether it may go on now.
    pub fn is_due(&self) -> bool {
        self.not_before.is_none_or(|time| Instant::now() >= time)
    }

    /// Begins again a little later: the host has no space just now for what a step writes.
    pub fn put_off(&mut self) {
        self.restart();
        self.not_before = Some(Instant::now() + LATER);
    }

    /// Begins again: something else went away.
    pub fn restart(&mut self) {
        *self = Self::new(self.map);
    }

    /// Plans the next chunk.
    pub fn step(&mut self, tools: &mut Tools<'_>) -> Result<Step, CacheError> {
        let view = tools.view;
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
            if tools.work.bytes() > MAX_BYTES {
                self.next = VersionKey {
                    segment: segment[0].0.segment,
                    ..self.next
                };
                return Ok(Step::More);
            }
            self.left |= !seen.sift(segment, tools)?;
            self.unreadable |= tools.unreadable;
        }
        if through && self.left {
            let (unreadable, later) = (self.unreadable, self.later);
            self.put_off();
            if unreadable {
                self.not_before = Some(Instant::now() + later);
                self.later = (later * 2).min(UNREADABLE);
            }
            return Ok(Step::More);
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

    /// Drops what is unseen of a segment's versions, oldest first in `versions`. Says whether all
    /// of it went.
    fn sift(
        &self,
        versions: &[(VersionKey, Descriptor)],
        tools: &mut Tools<'_>,
    ) -> Result<bool, CacheError> {
        let (mut above, mut all): (Option<Merge>, _) = (None, true);
        let mut above_is_seen = false;
        for (key, version) in versions.iter().rev() {
            // What an epoch made in several layers is seen as a whole.
            let is_lower = key.death != Epoch::LIVE && version.birth.is_same_epoch(key.death);
            above_is_seen = self.sees(key, version) || (is_lower && above_is_seen);
            if above_is_seen {
                if let Some(merge) = above.replace(Merge::into(*key, *version)) {
                    all &= merge.plan(tools)?;
                }
            } else if let Some(merge) = &mut above {
                merge.take(*key, *version, tools.view.geometry());
            } else {
                tools.work.changes.push(Change::RemoveVersion(*key));
                tools.work.release(version);
            }
        }
        if let Some(merge) = above {
            all &= merge.plan(tools)?;
        }
        Ok(all)
    }
}
