//! Random numbers that are the same on every machine: integers, and floats made of them exactly.

/// SplitMix64 (Steele, Lea and Flood 2014): one addition and a mixing function a number.
pub(crate) struct Random(u64);

impl Random {
    /// The stream that belongs to item `index` of `seed`; streams of neighbouring items are unrelated.
    pub(crate) fn new(seed: u64, index: u64) -> Self {
        Self(mix(seed ^ mix(index.wrapping_add(0x9E37_79B9_7F4A_7C15))))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// Uniform in `0..n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (((self.next() >> 32) * n as u64) >> 32) as usize
    }

    /// Uniform in `0..1`, a multiple of 2^-24: exact in `f32`.
    pub(crate) fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 * (1.0 / 16_777_216.0)
    }

    /// Uniform in `low..high`.
    pub(crate) fn within(&mut self, [low, high]: [f32; 2]) -> f32 {
        low + (high - low) * self.unit()
    }

    pub(crate) fn chance(&mut self, probability: f32) -> bool {
        self.unit() < probability
    }

    /// A direction uniform on the unit sphere of `N` dimensions, by rejection: no sine or cosine.
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

/// Shuffles in place (Fisher-Yates).
pub(crate) fn shuffle<T>(items: &mut [T], random: &mut Random) {
    for i in (1..items.len()).rev() {
        items.swap(i, random.below(i + 1));
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
