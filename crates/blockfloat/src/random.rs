//! Pseudorandom numbers that are the same on every machine.

/// The SplitMix64 generator of Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
///
/// Its state is a counter that grows by the golden ratio in 64 bits; a number is [`SplitMix64::mix`] of the state. It
/// passes the usual statistical tests and is not for cryptography.
///
/// ```
/// let mut random = blockfloat::SplitMix64::new(0);
/// assert_eq!(random.next_u64(), 0xe220_a839_7b1d_cdaf);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// Starts a stream. Any seed is as good as any other.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the next number, uniform over all 64-bit integers.
    pub const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        Self::mix(self.0)
    }

    /// Returns the next number as a float: its upper 24 bits times `2^-24`, uniform in `[0, 1)` and exact.
    pub const fn next_f32(&mut self) -> f32 {
        (self.next_u64() >> 40) as f32 / (1u32 << 24) as f32
    }

    /// Maps an integer to one that looks unrelated, one to one: the generator's output function, and a hash by itself.
    pub const fn mix(z: u64) -> u64 {
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_authors_program() {
        // splitmix64.c (Vigna, 2015) with `x = 1234567` prints these first.
        let mut random = SplitMix64::new(1_234_567);
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!(expected.map(|_| random.next_u64()), expected);
    }

    #[test]
    fn floats_are_the_upper_24_bits() {
        // The first number of seed 0 is 0xe220a8397b1dcdaf.
        assert_eq!(SplitMix64::new(0).next_f32(), 0xe2_20a8 as f32 / 16_777_216.0);
    }
}
