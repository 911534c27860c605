//! Bit widths, block lengths and formats. Their constructors check, so that a value that exists is valid.
use std::fmt;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};

use crate::{Error, round};

/// A number of bits from 2 to 8: `b` of a weight code, `m` of an activation mantissa.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Bits(u8);

impl Bits {
    /// The smallest bit width, 2.
    pub const MIN: Self = Self(2);
    /// The largest bit width, 8.
    pub const MAX: Self = Self(8);

    /// Makes a bit width of a number.
    ///
    /// # Errors
    /// [`Error::Bits`] outside 2 to 8.
    pub const fn new(bits: u8) -> Result<Self, Error> {
        if matches!(bits, 2..=8) { Ok(Self(bits)) } else { Err(Error::Bits(bits as u64)) }
    }

    /// Returns the number of bits.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Returns the smallest two's complement integer of this width, `-2^(bits-1)`.
    pub const fn signed_min(self) -> i32 {
        -(1 << (self.0 - 1))
    }

    /// Returns the largest two's complement integer of this width, `2^(bits-1) - 1`.
    pub const fn signed_max(self) -> i32 {
        (1 << (self.0 - 1)) - 1
    }

    /// Returns the code of a weight in a block of this scale, `clamp(round_half_even(weight / scale))`: 0 where the scale is 0.
    /// The code of a NaN has no meaning.
    #[inline]
    pub fn round(self, weight: f32, scale: f32) -> i8 {
        round::round_to_i8(round::over(weight, scale), self.signed_min() as f32, self.signed_max() as f32)
    }

    /// Returns the largest unsigned integer of this width, `2^bits - 1`.
    pub const fn unsigned_max(self) -> i32 {
        (1 << self.0) - 1
    }
}

impl fmt::Display for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<u64> for Bits {
    type Error = Error;
    fn try_from(bits: u64) -> Result<Self, Error> {
        u8::try_from(bits).map_err(|_| Error::Bits(bits)).and_then(Self::new)
    }
}

impl From<Bits> for u64 {
    fn from(bits: Bits) -> Self {
        bits.0.into()
    }
}

/// A block length `B`: how many consecutive channels of one group share a scale, or all of them
/// ([`BlockSize::PIXEL`], written `pixel`), for an activation also at all pixels of an image ([`BlockSize::IMAGE`], written
/// `image`). Blocks never cross a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockSize(Extent);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Extent {
    Channels(NonZeroUsize),
    Pixel,
    Image,
}

impl BlockSize {
    /// The block length at which one block holds all channels of a group.
    pub const PIXEL: Self = Self(Extent::Pixel);

    /// The block length at which one block holds all channels of a group at all pixels. Weights have no such blocks.
    pub const IMAGE: Self = Self(Extent::Image);

    /// Makes a block length of a number of channels.
    ///
    /// # Errors
    /// [`Error::BlockSize`] for zero.
    pub fn new(channels: usize) -> Result<Self, Error> {
        match NonZeroUsize::new(channels) {
            Some(n) => Ok(Self(Extent::Channels(n))),
            None => Err(Error::BlockSize("0".into())),
        }
    }

    /// Returns the number of channels, or `None` for [`BlockSize::PIXEL`] and [`BlockSize::IMAGE`].
    pub fn get(self) -> Option<usize> {
        match self.0 {
            Extent::Channels(n) => Some(n.get()),
            Extent::Pixel | Extent::Image => None,
        }
    }

    /// Tells whether a block holds all pixels of an image: [`BlockSize::IMAGE`].
    pub fn is_image(self) -> bool {
        self.0 == Extent::Image
    }

    /// Returns the length of a whole block in a group of `channels` channels: at most `channels` and at least 1.
    pub fn len_in(self, channels: usize) -> usize {
        self.get().unwrap_or(channels).min(channels).max(1)
    }

    /// Returns the number of blocks that `channels` channels make, a shorter last one included.
    pub fn count(self, channels: usize) -> usize {
        channels.div_ceil(self.len_in(channels))
    }

    /// Returns the channels of each block, in order. The last block is shorter where the length does not divide `channels`.
    pub fn ranges(self, channels: usize) -> impl Iterator<Item = Range<usize>> + Clone {
        let len = self.len_in(channels);
        (0..self.count(channels)).map(move |i| i * len..(i * len).saturating_add(len).min(channels))
    }
}

impl fmt::Display for BlockSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Extent::Channels(n) => n.fmt(f),
            Extent::Pixel => "pixel".fmt(f),
            Extent::Image => "image".fmt(f),
        }
    }
}

impl FromStr for BlockSize {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self, Error> {
        match s {
            "pixel" => Ok(Self::PIXEL),
            "image" => Ok(Self::IMAGE),
            _ => s.parse().ok().and_then(|n| Self::new(n).ok()).ok_or_else(|| Error::BlockSize(s.into())),
        }
    }
}

impl Serialize for BlockSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.get() {
            Some(n) => serializer.serialize_u64(n as u64),
            None => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for BlockSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BlockVisitor;
        impl Visitor<'_> for BlockVisitor {
            type Value = BlockSize;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a positive integer, \"pixel\" or \"image\"")
            }
            fn visit_u64<E: de::Error>(self, n: u64) -> Result<BlockSize, E> {
                let size = usize::try_from(n).ok().and_then(|n| BlockSize::new(n).ok());
                size.ok_or_else(|| E::custom(Error::BlockSize(n.to_string())))
            }
            fn visit_i64<E: de::Error>(self, n: i64) -> Result<BlockSize, E> {
                match u64::try_from(n) {
                    Ok(n) => self.visit_u64(n),
                    Err(_) => Err(E::custom(Error::BlockSize(n.to_string()))),
                }
            }
            fn visit_str<E: de::Error>(self, s: &str) -> Result<BlockSize, E> {
                s.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(BlockVisitor)
    }
}

/// The rule by which the codes and the scale of a weight block are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ScaleRule {
    /// The paper's rule puts the weight `p` of largest magnitude on the code `-2^(b-1)`:
    /// `q = clamp(round(-2^(b-1) / p * w))`, and `alpha = sum(w q) / sum(q^2)`.
    L2,
    /// The paper's other rule takes the codes of `l2` and the `alpha` that minimises `KL(softmax(w) || softmax(alpha q))`.
    Kl,
    /// This project's rule searches both signs and many clipping ratios for the codes and the scale of least squared
    /// error. It is never worse than `l2`.
    #[default]
    Mse,
    /// This project's rule for inputs that share a positive mean, as after a ReLU: it takes the codes of `l2` and moves some
    /// to their other neighbour, so that the errors `e = w - alpha q` of a block nearly cancel. It minimises
    /// `sum(e^2) + 0.3 sum(e)^2`, the expected squared error of `sum(w x)` for independent inputs whose squared mean is 0.3
    /// times their variance (0.47 for a rectified normal one). Balancing sums is the idea of SQuant (Guo et al., ICLR 2022).
    Balanced,
}

impl fmt::Display for ScaleRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::L2 => "l2",
            Self::Kl => "kl",
            Self::Mse => "mse",
            Self::Balanced => "balanced",
        })
    }
}

impl FromStr for ScaleRule {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self, Error> {
        match s {
            "l2" => Ok(Self::L2),
            "kl" => Ok(Self::Kl),
            "mse" => Ok(Self::Mse),
            "balanced" => Ok(Self::Balanced),
            _ => {
                Err(Error::UnknownName { what: "scale rule", name: s.into(), allowed: "`l2`, `kl`, `mse`, `balanced`" })
            }
        }
    }
}

/// The form in which the scales of a weight are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScaleFormat {
    /// Each block has a float.
    #[default]
    Float,
    /// Each output channel has a float and each block a small integer: see [`TwoLevel`](crate::TwoLevel).
    TwoLevel,
}

impl fmt::Display for ScaleFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Float => "float",
            Self::TwoLevel => "two_level",
        })
    }
}

/// The function from the largest magnitude of an activation block to its scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActivationScale {
    /// The scale is a power of two, from the exponent of `max |x|`, as in the paper.
    Pow2,
    /// The scale is `max |x|` divided by the largest code. It costs the same at run time and errs about half a bit less.
    #[default]
    Float,
}

impl fmt::Display for ActivationScale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pow2 => "pow2",
            Self::Float => "float",
        })
    }
}

impl FromStr for ActivationScale {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self, Error> {
        match s {
            "pow2" => Ok(Self::Pow2),
            "float" => Ok(Self::Float),
            _ => Err(Error::UnknownName { what: "activation scale", name: s.into(), allowed: "`pow2`, `float`" }),
        }
    }
}

/// Whether the taps of a filter share the scales of their blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TapScales {
    /// Each tap has scales of its own, as in the paper.
    #[default]
    Own,
    /// A block's channels have one scale at all taps, which is found for all of them together: `alpha` is the same at every tap. An
    /// engine may then add products of codes over taps as integers.
    Shared,
}

/// The format of a convolution's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct WeightFormat {
    /// The bits of a code, its sign included.
    pub bits: Bits,
    /// The number of channels that share a scale.
    pub block: BlockSize,
    /// The rule by which codes and scales are found.
    pub rule: ScaleRule,
    /// Whether the taps of a filter share scales.
    pub taps: TapScales,
}

impl WeightFormat {
    /// Makes a format whose taps have scales of their own.
    pub const fn new(bits: Bits, block: BlockSize, rule: ScaleRule) -> Self {
        Self { bits, block, rule, taps: TapScales::Own }
    }
}

/// The block floating point format of a convolution's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct ActivationFormat {
    /// The bits of a mantissa, its sign included where the input is signed.
    pub bits: Bits,
    /// The number of channels that share a scale at one pixel, or [`BlockSize::IMAGE`] for all channels at all pixels.
    pub block: BlockSize,
    /// The function from a block's largest magnitude to its scale.
    pub scale: ActivationScale,
}

impl ActivationFormat {
    /// Returns the smallest and the largest mantissa: `-(2^(m-1)-1)` and `2^(m-1)-1` for a signed input, 0 and `2^m - 1` for
    /// one that is known to be non-negative.
    pub const fn code_range(&self, signed: bool) -> (i32, i32) {
        if signed { (-self.bits.signed_max(), self.bits.signed_max()) } else { (0, self.bits.unsigned_max()) }
    }
}

#[cfg(test)]
mod tests {
    use serde::de::IntoDeserializer;
    use serde::de::value::Error as ValueError;

    use super::*;

    #[test]
    fn bits_from_2_to_8_are_accepted_with_their_integer_ranges() {
        let table = [(2, -2, 1, 3), (3, -4, 3, 7), (4, -8, 7, 15), (8, -128, 127, 255)];
        for (bits, min, max, unsigned) in table {
            let bits = Bits::new(bits).unwrap();
            assert_eq!((bits.signed_min(), bits.signed_max(), bits.unsigned_max()), (min, max, unsigned));
        }
        for bits in [0, 1, 9, 255] {
            assert_eq!(Bits::new(bits), Err(Error::Bits(bits.into())));
        }
    }

    #[test]
    fn bits_out_of_range_are_refused_when_parsed() {
        let parse = |n: u64| Bits::deserialize(IntoDeserializer::<ValueError>::into_deserializer(n));
        assert_eq!(parse(4).unwrap().get(), 4);
        assert_eq!(parse(300).unwrap_err().to_string(), "300 bits: expected 2 to 8");
    }

    #[test]
    fn blocks_cover_the_channels_and_only_the_last_is_ragged() {
        let ranges = |block: BlockSize, channels| block.ranges(channels).collect::<Vec<_>>();
        let four = BlockSize::new(4).unwrap();
        assert_eq!(ranges(four, 10), [0..4, 4..8, 8..10]);
        assert_eq!(ranges(four, 8), [0..4, 4..8]);
        assert_eq!(ranges(four, 3), vec![0..3]);
        assert_eq!(ranges(BlockSize::PIXEL, 10), vec![0..10]);
        assert_eq!(ranges(BlockSize::new(usize::MAX).unwrap(), 10), vec![0..10]);
        assert_eq!(four.count(0) + BlockSize::PIXEL.count(0), 0);
    }

    #[test]
    fn a_block_size_is_an_integer_or_pixel() {
        fn parse<'de>(value: impl IntoDeserializer<'de, ValueError>) -> Result<BlockSize, String> {
            BlockSize::deserialize(value.into_deserializer()).map_err(|e| e.to_string())
        }
        assert_eq!(parse(64i64).unwrap().get(), Some(64));
        assert_eq!(parse("pixel"), Ok(BlockSize::PIXEL));
        assert_eq!(
            parse(0u64).unwrap_err(),
            "block size `0`: expected a positive integer or `pixel`, or for an activation `image`"
        );
        assert_eq!(
            parse(-1i64).unwrap_err(),
            "block size `-1`: expected a positive integer or `pixel`, or for an activation `image`"
        );
        assert_eq!(
            parse("all").unwrap_err(),
            "block size `all`: expected a positive integer or `pixel`, or for an activation `image`"
        );
        for block in [BlockSize::PIXEL, BlockSize::new(32).unwrap()] {
            assert_eq!(block.to_string().parse(), Ok(block));
        }
    }

    #[test]
    fn names_parse_as_they_print() {
        for rule in [ScaleRule::L2, ScaleRule::Kl, ScaleRule::Mse, ScaleRule::Balanced] {
            assert_eq!(rule.to_string().parse(), Ok(rule));
            let name = rule.to_string();
            let parsed = ScaleRule::deserialize(IntoDeserializer::<ValueError>::into_deserializer(name.as_str()));
            assert_eq!(parsed.unwrap(), rule);
        }
        for scale in [ActivationScale::Pow2, ActivationScale::Float] {
            assert_eq!(scale.to_string().parse(), Ok(scale));
        }
        let error = "l1".parse::<ScaleRule>().unwrap_err();
        assert_eq!(error.to_string(), "unknown scale rule `l1`: expected one of `l2`, `kl`, `mse`, `balanced`");
    }
}
