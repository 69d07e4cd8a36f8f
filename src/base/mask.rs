//! One bit for each block of a segment.

use super::Geometry;

const WORDS: usize = Geometry::MAX_BLOCKS / 64;

/// A set of a segment's blocks. Big enough for the largest segment; bits past the geometry's
/// block count are never set (kept by every method that takes a count or a geometry).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BlockMask([u64; WORDS]);

impl BlockMask {
    /// No block.
    pub const EMPTY: BlockMask = BlockMask([0; WORDS]);

    /// Every block of a segment.
    #[must_use]
    pub fn full(geometry: Geometry) -> Self {
        Self::range(0, geometry.blocks())
    }

    /// The blocks `from..to`.
    #[must_use]
    pub fn range(from: usize, to: usize) -> Self {
        let mut mask = Self::EMPTY;
        for word in from / 64..to.div_ceil(64) {
            let low = from.saturating_sub(word * 64).min(64);
            let high = (to - word * 64).min(64);
            let below = |n: usize| if n == 64 { u64::MAX } else { (1 << n) - 1 };
            mask.0[word] = below(high) & !below(low);
        }
        mask
    }

    /// Whether the block is in the set.
    #[must_use]
    pub fn has(&self, block: usize) -> bool {
        self.0[block / 64] >> (block % 64) & 1 == 1
    }

    /// Adds a block.
    pub fn insert(&mut self, block: usize) {
        self.0[block / 64] |= 1 << (block % 64);
    }

    /// Takes a block out.
    pub fn remove(&mut self, block: usize) {
        self.0[block / 64] &= !(1 << (block % 64));
    }

    /// Blocks in either.
    #[must_use]
    pub fn or(mut self, other: &Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(a, b)| *a |= b);
        self
    }

    /// Blocks in both.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(a, b)| *a &= b);
        self
    }

    /// Blocks in this one and not in the other.
    #[must_use]
    pub fn minus(mut self, other: &Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(a, b)| *a &= !b);
        self
    }

    /// How many blocks are in the set.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// How many blocks of the set come before this one.
    #[must_use]
    pub fn rank(&self, block: usize) -> usize {
        let whole = self.0[..block / 64].iter();
        let before: u32 = whole.map(|word| word.count_ones()).sum();
        let part = self
            .0
            .get(block / 64)
            .map_or(0, |word| (word & !(u64::MAX << (block % 64))).count_ones());
        (before + part) as usize
    }

    /// Whether no block is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// Whether every block of a segment is in the set.
    #[must_use]
    pub fn is_full(&self, geometry: Geometry) -> bool {
        self.count() == geometry.blocks()
    }

    /// The runs of neighbouring blocks, as half-open ranges in order.
    pub fn runs(&self) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            let start = self.next_where(at, true)?;
            let end = self
                .next_where(start, false)
                .unwrap_or(Geometry::MAX_BLOCKS);
            at = end;
            Some(start..end)
        })
    }

    /// The blocks in order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.runs().flatten()
    }

    /// The first block at or after `from` that is in the set (or is not).
    fn next_where(&self, from: usize, set: bool) -> Option<usize> {
        let mut at = from;
        while at < Geometry::MAX_BLOCKS {
            let word = if set {
                self.0[at / 64]
            } else {
                !self.0[at / 64]
            };
            let rest = word >> (at % 64);
            if rest != 0 {
                return Some(at + rest.trailing_zeros() as usize);
            }
            at = (at / 64 + 1) * 64;
        }
        None
    }

    /// The mask's 64-bit words that a segment of this geometry needs, lowest blocks first.
    #[must_use]
    pub fn words(&self, geometry: Geometry) -> &[u64] {
        &self.0[..geometry.blocks().div_ceil(64)]
    }

    /// The mask of these words; bits past the geometry's blocks are an error of the caller's
    /// source, so `None`.
    #[must_use]
    pub fn from_words(words: impl IntoIterator<Item = u64>, geometry: Geometry) -> Option<Self> {
        let mut mask = Self::EMPTY;
        for (at, word) in words.into_iter().enumerate() {
            *mask.0.get_mut(at)? = word;
        }
        mask.minus(&Self::full(geometry)).is_empty().then_some(mask)
    }
}

impl std::fmt::Debug for BlockMask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.runs()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_runs_and_counts_agree_with_single_bits() {
        for (from, to) in [
            (0, 0),
            (0, 1),
            (3, 64),
            (63, 65),
            (64, 128),
            (0, 1024),
            (1000, 1024),
        ] {
            let mask = BlockMask::range(from, to);
            let mut bits = BlockMask::EMPTY;
            (from..to).for_each(|block| bits.insert(block));
            assert_eq!(mask, bits, "{from}..{to}");
            assert_eq!(mask.count(), to - from);
            for block in [0, from, to, 1023, 1024] {
                let before = block.min(to).saturating_sub(from);
                assert_eq!(mask.rank(block), before, "{from}..{to} {block}");
            }
            let mut runs = mask.runs();
            assert_eq!(runs.next(), (from < to).then_some(from..to));
            assert_eq!(runs.next(), None);
        }
    }

    #[test]
    fn runs_split_at_gaps() {
        let mut mask = BlockMask::range(2, 5).or(&BlockMask::range(60, 70));
        mask.remove(3);
        assert_eq!(mask.runs().collect::<Vec<_>>(), vec![2..3, 4..5, 60..70]);
        assert_eq!(mask.iter().count(), mask.count());
    }

    #[test]
    fn words_with_bits_past_the_segment_are_refused() {
        let geometry = Geometry::from_segment_bytes(64 << 10).unwrap();
        assert!(BlockMask::from_words([0xffff], geometry).is_some());
        assert!(BlockMask::from_words([0x1_0000], geometry).is_none());
    }
}
