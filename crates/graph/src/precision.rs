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
    /// Bytes of a value.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }

    /// What a tensor is stored in where this type is asked for.
    ///
    /// F16 is kept only where the tensor's largest magnitude is a normal F16, `2^-14 ..= 65504`, or every value is zero.
    /// So nothing overflows, and no value is off by more than `2^-11` of the largest; others are stored in F32. Rounding
    /// keeps the largest magnitude in that range, so a tensor that was read is stored the same way again.
    pub(crate) fn for_values(self, values: &[f32]) -> Self {
        let largest = values.iter().fold(0.0f32, |largest, v| largest.max(v.abs()));
        let normal = f16::MIN_POSITIVE.to_f32()..=f16::MAX.to_f32();
        if self == Self::F16 && (largest == 0.0 || normal.contains(&largest)) { Self::F16 } else { Self::F32 }
    }

    /// The values after being stored in this type and read again.
    pub(crate) fn round(self, values: &mut [f32]) {
        if self.for_values(values) == Self::F16 {
            values.iter_mut().for_each(|v| *v = f16::from_f32(*v).to_f32());
        }
    }

    /// Little-endian.
    pub(crate) fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Self::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        }
    }

    /// The inverse of [`Float::encode`], whole values only.
    pub(crate) fn decode(self, bytes: &[u8]) -> Vec<f32> {
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

/// How [`crate::Model::save`] stores floats. Where [`Float::F16`] is asked for, a tensor that it cannot hold (its largest
/// magnitude is above 65504 or below `2^-14`, and not zero) is stored in F32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SaveOptions {
    /// Weights, biases and affine parameters that are not codes.
    pub floats: Float,
    /// Block scales.
    pub scales: Float,
}
