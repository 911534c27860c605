use blockfloat::SplitMix64;
use graph::Shape;

/// An input that can be made anywhere, and the logits that the network gives for it: what an engine is checked with.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// Of the input.
    pub seed: u64,
    /// The network's output.
    pub logits: Vec<f32>,
}

impl Pair {
    /// The input `[C, H, W]` of a seed: `x[i] = (byte[i] - 128) / 64`, with `byte[8 j ..= 8 j + 7]` the little-endian
    /// bytes of the `j`-th number (from 0) that splitmix64 gives for the seed. Every value is an exact f32 of at most 8
    /// bits, so that no language or machine makes another one.
    ///
    /// splitmix64: `state = seed + (j + 1) * 0x9e3779b97f4a7c15`; `z = (state ^ state >> 30) * 0xbf58476d1ce4e5b9`;
    /// `z = (z ^ z >> 27) * 0x94d049bb133111eb`; the number is `z ^ z >> 31`; all modulo `2^64`.
    pub fn input(seed: u64, shape: Shape) -> Vec<f32> {
        let mut input = Vec::with_capacity(shape.elements().next_multiple_of(8));
        let mut random = SplitMix64::new(seed);
        while input.len() < shape.elements() {
            input.extend(random.next_u64().to_le_bytes().map(|byte| (f32::from(byte) - 128.0) / 64.0));
        }
        input.truncate(shape.elements());
        input
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_input_is_splitmix64_byte_by_byte() {
        // The first number of seed 0 is 0xe220a8397b1dcdaf, the second 0x6e789e6aa1b965f4.
        let bytes = [0xaf, 0xcd, 0x1d, 0x7b, 0x39, 0xa8, 0x20, 0xe2, 0xf4];
        let expected: Vec<f32> = bytes.iter().map(|&b| (b as f32 - 128.0) / 64.0).collect();
        assert_eq!(Pair::input(0, Shape::new(1, 3, 3)), expected);
    }
}
