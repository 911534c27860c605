//! Rounding that vectorises on every CPU.

/// `1.5 * 2^23`. Adding it to a float of magnitude below `2^22` rounds that float to an integer, half to even, and leaves
/// the integer in the low bits of the sum; `f32::round_ties_even` would be a library call on baseline x86-64.
const MAGIC: f32 = 12_582_912.0;

/// Limits `t` to `lo..=hi`; NaN stays NaN.
#[inline(always)]
pub(crate) fn limit(t: f32, lo: f32, hi: f32) -> f32 {
    let t = if t < lo { lo } else { t };
    if t > hi { hi } else { t }
}

/// Returns `clamp(round_half_even(t), lo, hi)` for integers `lo`, `hi` of magnitude below `2^22`. The result is never -0,
/// and NaN stays NaN. Limiting before rounding gives the same integer and keeps the sum with [`MAGIC`] in range.
#[inline(always)]
pub(crate) fn round(t: f32, lo: f32, hi: f32) -> f32 {
    (limit(t, lo, hi) + MAGIC) - MAGIC
}

/// Returns [`round`] as an integer code, for `lo`, `hi` that an i8 holds and a `t` that is not NaN.
#[inline(always)]
pub(crate) fn round_to_i8(t: f32, lo: f32, hi: f32) -> i8 {
    (limit(t, lo, hi) + MAGIC).to_bits() as i8
}

/// Returns [`round_to_i8`] of an f64; its magic number is `1.5 * 2^52`.
#[inline(always)]
pub(crate) fn round_f64_to_i8(t: f64, lo: f64, hi: f64) -> i8 {
    (t.clamp(lo, hi) + 6_755_399_441_055_744.0).to_bits() as i8
}

/// Returns `w / alpha`, or 0 where `alpha` is 0. A NaN stays NaN.
#[inline(always)]
pub(crate) fn over(w: f32, alpha: f32) -> f32 {
    if alpha == 0.0 { w * 0.0 } else { w / alpha }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn halves_go_to_even() {
        for (t, rounded) in [(0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (-1.5, -2), (6.5, 6), (7.5, 7), (-8.5, -8)] {
            assert_eq!(round(t, -8.0, 7.0), rounded as f32, "{t}");
            assert_eq!(round_to_i8(t, -8.0, 7.0), rounded, "{t}");
            assert_eq!(round_f64_to_i8(t.into(), -8.0, 7.0), rounded, "{t}");
        }
    }

    #[test]
    fn nan_stays_nan_and_infinity_saturates() {
        assert!(round(f32::NAN, -8.0, 7.0).is_nan());
        assert_eq!(round(f32::INFINITY, -8.0, 7.0), 7.0);
        assert_eq!(round(f32::NEG_INFINITY, -8.0, 7.0), -8.0);
    }

    proptest! {
        #[test]
        fn is_the_library_rounding(t in prop_oneof![any::<f32>(), -300.0..300.0f32], bits in 2u32..=8) {
            prop_assume!(!t.is_nan());
            let (lo, hi) = (-(1 << (bits - 1)) as f32, ((1 << bits) - 1) as f32);
            prop_assert_eq!(round(t, lo, hi), t.round_ties_even().clamp(lo, hi));
            let hi = ((1 << (bits - 1)) - 1) as f32;
            prop_assert_eq!(f32::from(round_to_i8(t, lo, hi)), t.round_ties_even().clamp(lo, hi));
        }
    }
}
