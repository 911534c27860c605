use blockfloat::SplitMix64;
use graph::Shape;

/// A seed, from which every language makes the same input, and the network's logits for that input. Engines are checked with
/// it.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// The seed of the input.
    pub seed: u64,
    /// The logits that the network has for it.
    pub logits: Vec<f32>,
}

impl Pair {
    /// Makes the input `[C, H, W]` of a seed: `x[i] = (byte[i] - 128) / 64`, where `byte[8 j ..= 8 j + 7]` are the
    /// little-endian bytes of the `j`-th number (from 0) of splitmix64 with this seed. Every value is an f32 of at most 8
    /// significant bits, so that all languages and machines make the same.
    ///
    /// splitmix64: `state = seed + (j + 1) * 0x9e3779b97f4a7c15`; `z = (state ^ state >> 30) * 0xbf58476d1ce4e5b9`;
    /// `z = (z ^ z >> 27) * 0x94d049bb133111eb`; the number is `z ^ z >> 31`; all modulo `2^64`.
    ///
    /// # Panics
    /// If the input does not fit memory.
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
