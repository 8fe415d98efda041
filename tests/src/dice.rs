//! Numbers that look random and are the same in every run.

use std::env;

/// `xorshift64`, from `IPVLAN_TEST_SEED` where it is set. A test that fails prints the seed.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Says from which seed, for who wants to repeat a failure.
    pub fn new() -> Self {
        let seed = env::var("IPVLAN_TEST_SEED").ok();
        let seed = seed.and_then(|seed| seed.parse().ok()).unwrap_or(0x1b7_1a5);
        eprintln!("IPVLAN_TEST_SEED={seed}");
        Self(seed)
    }

    /// From a seed that somebody else has chosen and says.
    pub fn of(seed: u64) -> Self {
        // Seeds are small and alike; and from 0 nothing would ever come. (splitmix64)
        let mut state = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self((state ^ (state >> 31)).max(1))
    }

    /// From 0 to `sides` - 1.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    /// One of them.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let count = u64::try_from(of.len()).expect("few");
        &of[usize::try_from(self.roll(count)).expect("fewer")]
    }

    /// That many bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.byte()).collect()
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        self.roll(256).to_le_bytes()[0]
    }
}

impl Default for Dice {
    fn default() -> Self {
        Self::new()
    }
}
