//! Rounding that vectorises on every CPU.

/// `1.5 * 2^23`: adding it to a float of magnitude below `2^22` rounds that float to an integer, half to even, and
/// leaves the integer in the low bits of the sum. `f32::round_ties_even` is a library call on baseline x86-64.
const MAGIC: f32 = 12_582_912.0;

/// `t` limited to `lo..=hi`; NaN stays NaN.
#[inline(always)]
pub(crate) fn limit(t: f32, lo: f32, hi: f32) -> f32 {
    let t = if t < lo { lo } else { t };
    if t > hi { hi } else { t }
}

/// `clamp(round_half_even(t), lo, hi)` for integers `lo`, `hi` below `2^22`; never -0; NaN stays NaN.
/// Limiting first gives the same integer and keeps the sum below in range.
#[inline(always)]
pub(crate) fn round(t: f32, lo: f32, hi: f32) -> f32 {
    (limit(t, lo, hi) + MAGIC) - MAGIC
}

/// [`round`] as an integer code, for `lo`, `hi` that an i8 holds and a `t` that is not NaN.
#[inline(always)]
pub(crate) fn round_to_i8(t: f32, lo: f32, hi: f32) -> i8 {
    (limit(t, lo, hi) + MAGIC).to_bits() as i8
}

/// `w / alpha`, or 0 where `alpha` is 0. A NaN stays NaN.
#[inline(always)]
pub(crate) fn over(w: f32, alpha: f32) -> f32 {
    if alpha == 0.0 { w * 0.0 } else { w / alpha }
}
