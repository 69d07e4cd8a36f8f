//! Promises of space: a write is acknowledged only when a slot is sure to be there for it (P7).
//!
//! Each `(map, epoch, segment)` with queued writes holds at most one promise, since destaging
//! gives such a segment at most one new slot. A promise ends when the slot is taken, when the
//! segment turns out to have one, or with the last queued write.

use rustc_hash::FxHashMap;

use crate::base::{Epoch, MapId, SegmentNo};
use crate::ondisk::Space;

/// Slots that a batch does not hold, so that a writer seldom has to wait for those that it does.
pub(super) const PLENTY: u64 = 64;

/// A segment of a map in one epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ClaimKey {
    pub map: MapId,
    pub epoch: Epoch,
    pub segment: SegmentNo,
}

struct Claim {
    /// Queued writes to the segment.
    queued: u32,
    /// Whether a slot is promised to it.
    promised: bool,
}

/// What the pool has and what of it is promised.
#[derive(Default)]
pub(super) struct Promises {
    space: Space,
    /// Slots promised; `promised + borrowed + held <= space.free + space.pending`, kept by
    /// `claim`, `borrow` and `hold`.
    promised: u64,
    /// Slots that the destager may take for the commit that it is at, beside promised ones.
    held: u64,
    /// Slots that writers took themselves, lent ones among `space.pending`. They are theirs until
    /// they are adopted or given back.
    borrowed: u64,
    claims: FxHashMap<ClaimKey, Claim>,
}

impl Promises {
    pub fn new(space: Space) -> Self {
        Self {
            space,
            ..Self::default()
        }
    }

    /// What the catalog says after a commit.
    pub fn set_space(&mut self, space: Space) {
        self.space = space;
    }

    pub fn promised(&self) -> u64 {
        self.promised
    }

    /// Slots that are neither in use nor promised. Those that wait for their punch count: they
    /// come back for sure, and whoever needs one waits for it.
    pub fn available(&self) -> u64 {
        let spoken_for = self.promised + self.borrowed + self.held;
        (self.space.free + self.space.pending).saturating_sub(spoken_for)
    }

    /// Holds up to `wanted` slots for the next commit, as far as it leaves so many available.
    /// Returns how many.
    pub fn hold(&mut self, wanted: u64, leave: u64) -> u64 {
        self.held = wanted.min(self.available().saturating_sub(leave));
        self.held
    }

    /// After the commit: those held that were taken are no longer free, the others nobody's again.
    pub fn let_go(&mut self) {
        self.held = 0;
    }

    /// Whether slots are held for a commit that is under way.
    pub fn holds(&self) -> bool {
        self.held > 0
    }

    /// Whether a destage can't make more slots available than there are.
    pub fn is_idle(&self) -> bool {
        self.promised + self.borrowed + self.held == 0
    }

    /// Slots that writers took.
    pub fn borrowed(&self) -> u64 {
        self.borrowed
    }

    /// A writer takes so many lent slots.
    pub fn borrow(&mut self, count: u64) {
        self.borrowed += count;
    }

    /// So many of them were adopted or given back, as the space says that goes with it.
    pub fn end_borrowing(&mut self, count: u64) {
        debug_assert!(count <= self.borrowed, "{count} of {}", self.borrowed);
        self.borrowed = self.borrowed.saturating_sub(count);
    }

    /// How many new promises these segments need.
    pub fn needed(&self, keys: impl Iterator<Item = ClaimKey>) -> u64 {
        keys.filter(|key| !self.claims.contains_key(key)).count() as u64
    }

    /// Counts a queued write. With `promise`, a segment without a claim is promised a slot;
    /// without, the caller knows that it has one.
    pub fn claim(&mut self, key: ClaimKey, promise: bool) {
        let claim = self.claims.entry(key).or_insert_with(|| {
            self.promised += u64::from(promise);
            Claim {
                queued: 0,
                promised: promise,
            }
        });
        claim.queued += 1;
    }

    /// `writes` of the segment's queued writes were destaged; afterwards the segment has a slot
    /// of this epoch to write to, or (`has_slot` false) has none.
    pub fn settle(&mut self, key: ClaimKey, writes: u32, has_slot: bool) {
        let Some(claim) = self.claims.get_mut(&key) else {
            return;
        };
        claim.queued = claim.queued.saturating_sub(writes);
        let wanted = claim.queued > 0 && !has_slot;
        match (claim.promised, wanted) {
            (true, false) => self.promised -= 1,
            (false, true) => self.promised += 1,
            _ => {}
        }
        claim.promised = wanted;
        if claim.queued == 0 {
            self.claims.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_holds_one_promise_until_it_has_a_slot() {
        let mut promises = Promises::new(Space {
            total: 10,
            free: 2,
            pending: 0,
        });
        let key = ClaimKey {
            map: MapId(1),
            epoch: Epoch(1),
            segment: SegmentNo(5),
        };
        assert_eq!(promises.needed([key].into_iter()), 1);
        promises.claim(key, true);
        promises.claim(key, true);
        assert_eq!(
            (promises.available(), promises.needed([key].into_iter())),
            (1, 0)
        );
        promises.settle(key, 1, true);
        assert_eq!(
            promises.available(),
            2,
            "the slot is taken from free by the commit"
        );
        promises.settle(key, 0, false);
        assert_eq!(
            promises.available(),
            1,
            "its slot went away while a write is queued"
        );
        promises.settle(key, 1, true);
        assert_eq!((promises.available(), promises.claims.len()), (2, 0));
    }
}
