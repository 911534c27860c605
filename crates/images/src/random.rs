//! Draws that are the same on every machine: integers, and floats made of them exactly.
use blockfloat::SplitMix64;

/// A stream of random draws.
pub(crate) struct Random(SplitMix64);

impl Random {
    /// Starts the stream of item `index` under `seed`; the streams of neighbouring items are unrelated.
    pub(crate) fn new(seed: u64, index: u64) -> Self {
        Self(SplitMix64::new(SplitMix64::mix(seed ^ SplitMix64::new(index).next_u64())))
    }

    /// Draws a 64-bit integer uniformly.
    pub(crate) fn next(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Draws an integer uniformly from `0..n`, for `n` below `2^32`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (((self.0.next_u64() >> 32) * n as u64) >> 32) as usize
    }

    /// Draws a float uniformly from `[0, 1)`, a multiple of `2^-24`.
    pub(crate) fn unit(&mut self) -> f32 {
        self.0.next_f32()
    }

    /// Draws a float uniformly from `low..high`.
    pub(crate) fn within(&mut self, [low, high]: [f32; 2]) -> f32 {
        low + (high - low) * self.unit()
    }

    /// Returns true with the given probability.
    pub(crate) fn chance(&mut self, probability: f32) -> bool {
        self.unit() < probability
    }

    /// Draws a direction uniformly from the unit sphere in `N` dimensions, by rejection: sines and cosines differ between
    /// machines.
    pub(crate) fn direction<const N: usize>(&mut self) -> [f32; N] {
        loop {
            let v: [f32; N] = std::array::from_fn(|_| self.within([-1.0, 1.0]));
            let square = v.iter().fold(0.0, |sum, x| sum + x * x);
            if (0.01..=1.0).contains(&square) {
                return v.map(|x| x / square.sqrt());
            }
        }
    }
}

/// Shuffles `items` in place (Fisher-Yates).
pub(crate) fn shuffle<T>(items: &mut [T], random: &mut Random) {
    for i in (1..items.len()).rev() {
        items.swap(i, random.below(i + 1));
    }
}
