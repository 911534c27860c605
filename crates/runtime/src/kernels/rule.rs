//! How activations are rounded.
use blockfloat::ActivationScale;

use crate::layout::{Layout, OFFSET};
use crate::math;

/// How a block's scale follows from its largest magnitude: [`blockfloat::quantize_activations`]'s rule.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rule {
    pub kind: ActivationScale,
    pub lo: i32,
    pub hi: i32,
    /// The difference of the exponent of the maximum and that of a `pow2` scale.
    pub shift: i32,
    /// What is added to a mantissa to make a code.
    pub offset: i32,
}

/// Returns `2^e` for a normal exponent.
pub(super) const fn two_to(e: i32) -> f32 {
    f32::from_bits(((e + 127) as u32) << 23)
}

impl Rule {
    pub fn new(layout: &Layout) -> Self {
        let (lo, hi) = layout.range;
        let shift = i32::from(layout.bits) - if layout.signed { 2 } else { 1 };
        Self { kind: layout.scale, lo, hi, shift, offset: if layout.signed { OFFSET } else { 0 } }
    }

    /// Returns the scale and its reciprocal.
    #[inline(always)]
    pub fn scale(&self, max: f32) -> (f32, f32) {
        match self.kind {
            ActivationScale::Pow2 => {
                let exponent = ((max.to_bits() >> 23) as i32 - self.shift).clamp(1, 253) as u32;
                (f32::from_bits(exponent << 23), f32::from_bits((254 - exponent) << 23))
            }
            ActivationScale::Float => {
                let scale = math::limit(max, 0.0, two_to(127)) / self.hi as f32;
                let scale = math::limit(scale, two_to(-126), two_to(126));
                (scale, 1.0 / scale)
            }
        }
    }

    /// Writes [`Rule::scale`] of each of some magnitudes.
    #[inline(always)]
    pub fn scale_all(&self, max: impl Iterator<Item = f32>, scales: &mut [f32], inverses: &mut [f32]) {
        let each = max.zip(scales).zip(inverses);
        // Two loops without a condition in them.
        match self.kind {
            ActivationScale::Pow2 => {
                let rule = Self { kind: ActivationScale::Pow2, ..*self };
                for ((max, scale), inverse) in each {
                    (*scale, *inverse) = rule.scale(max);
                }
            }
            ActivationScale::Float => {
                let rule = Self { kind: ActivationScale::Float, ..*self };
                for ((max, scale), inverse) in each {
                    (*scale, *inverse) = rule.scale(max);
                }
            }
        }
    }

    /// Returns the byte of one element. It is limited first: the integer is the same, and it stays where adding `1.5 * 2^23`
    /// rounds.
    #[inline(always)]
    pub fn code(&self, x: f32, inv: f32) -> u8 {
        let t = math::limit(x * inv, self.lo as f32, self.hi as f32) + 12_582_912.0;
        (t.to_bits() as i32 + self.offset) as u8
    }
}
