//! Randomness that repeats with its seed.

/// Numbers that look random and repeat with their seed (splitmix64; Steele, Lea, Flood 2014).
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    pub fn chance(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }

    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        (!list.is_empty()).then(|| &list[self.below(list.len() as u64) as usize])
    }
}

/// The seeds to try: `SNAPMARK_SEED` alone if set, else `0..count`, `SNAPMARK_ROUNDS` times as many.
pub fn seeds(count: u64) -> Vec<u64> {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().expect("a number"))
    };
    match number("SNAPMARK_SEED") {
        Some(seed) => vec![seed],
        None => (0..count * number("SNAPMARK_ROUNDS").unwrap_or(1)).collect(),
    }
}
