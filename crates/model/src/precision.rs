use std::fmt;

use half::f16;
use serde::{Deserialize, Serialize};

/// A float type that values are stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Float {
    /// IEEE 754 binary32.
    #[default]
    F32,
    /// IEEE 754 binary16, rounded half to even.
    F16,
}

impl Float {
    /// Returns the bytes of a value.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }

    /// Returns the type that a tensor is stored in if this type is asked for.
    ///
    /// F16 is kept only if the tensor's largest magnitude is a normal F16, `2^-14 ..= 65504`, or if all values are 0; other
    /// tensors are stored in F32. So nothing overflows, and no value is off by more than `2^-11` of the largest. Rounding
    /// keeps the largest magnitude in that range, so a tensor that was read is stored the same way again.
    pub fn for_values(self, values: &[f32]) -> Self {
        let largest = values.iter().fold(0.0f32, |largest, v| largest.max(v.abs()));
        let normal = f16::MIN_POSITIVE.to_f32()..=f16::MAX.to_f32();
        if self == Self::F16 && (largest == 0.0 || normal.contains(&largest)) { Self::F16 } else { Self::F32 }
    }

    /// Tells whether this type is the one that stores these values ([`Float::for_values`]) and changes none of them.
    pub fn holds(self, values: &[f32]) -> bool {
        let mut rounded = values.to_vec();
        self.round(&mut rounded);
        self.for_values(values) == self && rounded == values
    }

    /// Rounds values as storing them in this type does.
    pub fn round(self, values: &mut [f32]) {
        if self.for_values(values) == Self::F16 {
            values.iter_mut().for_each(|v| *v = f16::from_f32(*v).to_f32());
        }
    }

    /// Returns the bytes of values of this type, little-endian.
    pub fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Self::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        }
    }

    /// Returns the values of little-endian bytes; the bytes of an incomplete value at the end are ignored.
    pub fn decode(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Self::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        }
    }
}

impl fmt::Display for Float {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        })
    }
}

/// The types that a file stores floats in. Where [`Float::F16`] is asked for, a tensor that it cannot hold is stored in F32:
/// see [`Float::for_values`].
///
/// The default rounds block scales to F16; [`SaveOptions::EXACT`] rounds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SaveOptions {
    /// The type of weights, biases and affine parameters that are not codes.
    pub floats: Float,
    /// The type of block scales. Two-level scales are F32 and 8-bit integers in any case.
    pub scale_precision: Float,
}

impl SaveOptions {
    /// The options that store every float as it is.
    pub const EXACT: Self = Self { floats: Float::F32, scale_precision: Float::F32 };
}

impl Default for SaveOptions {
    fn default() -> Self {
        Self { floats: Float::F32, scale_precision: Float::F16 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f16_only_where_it_holds_the_largest_value() {
        let cases: [(&[f32], Float); 8] = [
            (&[], Float::F16),
            (&[0.0, -0.0], Float::F16),
            (&[1.0, 1e-30], Float::F16),
            (&[65504.0], Float::F16),
            (&[-65505.0, 1.0], Float::F32),
            (&[6.103_515_6e-5], Float::F16),
            (&[6.1e-5, 0.0], Float::F32),
            (&[f32::MIN_POSITIVE], Float::F32),
        ];
        for (values, expected) in cases {
            assert_eq!(Float::F16.for_values(values), expected, "{values:?}");
            assert_eq!(Float::F32.for_values(values), Float::F32);
            // What was rounded is stored the same way again.
            let mut rounded = values.to_vec();
            Float::F16.round(&mut rounded);
            assert_eq!(Float::F16.for_values(&rounded), expected, "{values:?} rounded");
        }
    }

    #[test]
    fn no_value_is_off_by_more_than_2_pow_minus_11_of_the_largest() {
        // 2^-14 is the smallest normal, spacing 2^-24 below it: half a step is 2^-25 = 2^-11 * 2^-14.
        let largest = 2f32.powi(-14);
        let values: Vec<f32> = (0..1000).map(|i| largest * i as f32 / 1000.0).chain([largest]).collect();
        let mut rounded = values.clone();
        Float::F16.round(&mut rounded);
        assert_ne!(values, rounded);
        assert!(values.iter().zip(&rounded).all(|(v, r)| (v - r).abs() <= largest * 2f32.powi(-11)));
    }

    #[test]
    fn bytes_are_little_endian() {
        // 1.5 = 0x3fc00000, 0x3e00; -2 = 0xc0000000, 0xc000.
        assert_eq!(Float::F32.encode(&[1.5, -2.0]), [0, 0, 0xc0, 0x3f, 0, 0, 0, 0xc0]);
        assert_eq!(Float::F16.encode(&[1.5, -2.0]), [0, 0x3e, 0, 0xc0]);
        for float in [Float::F32, Float::F16] {
            assert_eq!(float.decode(&float.encode(&[1.5, -2.0, 0.0])), [1.5, -2.0, 0.0]);
        }
    }
}
