//! The scale rules on one block, whose weights are a contiguous slice `[len]`.
use std::ops::RangeInclusive;

use crate::search::Search;
use crate::{Bits, ScaleRule, round};

/// A scale rule on single blocks, with the scratch space of one thread, for methods that choose codes themselves.
/// [`QuantizedWeights::quantize`](crate::QuantizedWeights::quantize) does this to every block of a weight.
pub struct BlockQuantizer {
    bits: Bits,
    rule: ScaleRule,
    search: Search,
    codes: Vec<i8>,
}

impl BlockQuantizer {
    /// Makes a quantizer for codes of these bits.
    pub fn new(bits: Bits, rule: ScaleRule) -> Self {
        Self { bits, rule, search: Search::new(bits), codes: Vec::new() }
    }

    /// Returns the codes of the block that was quantized last.
    pub fn codes(&self) -> &[i8] {
        &self.codes
    }

    /// Quantizes a block of finite weights and returns its scale, which is 0 for a block of zeros. Where a weight is NaN or
    /// infinite, scale and codes have no meaning.
    pub fn quantize(&mut self, w: &[f32]) -> f32 {
        self.codes.clear();
        self.codes.resize(w.len(), 0);
        let p = extreme(w);
        if p == 0.0 {
            return 0.0;
        }
        extreme_codes(w, p, self.bits, &mut self.codes);
        let alpha = least_squares(w, &self.codes, self.bits);
        match self.rule {
            ScaleRule::L2 => alpha,
            ScaleRule::Kl => kl_scale(w, &self.codes, alpha, self.bits),
            ScaleRule::Mse => {
                let error = squared_error(w, &self.codes, alpha);
                if error == 0.0 {
                    return alpha;
                }
                let best = self.search.block(w, p.abs());
                if squared_error(w, &self.search.codes, best) < error {
                    std::mem::swap(&mut self.codes, &mut self.search.codes);
                    best
                } else {
                    alpha
                }
            }
            ScaleRule::Balanced => {
                balance(w, alpha, self.bits.signed_min()..=self.bits.signed_max(), &mut self.codes);
                alpha
            }
        }
    }
}

/// The weight of `sum(e)^2` beside `sum(e^2)` in [`ScaleRule::Balanced`].
const BALANCE: f64 = 0.3;

/// Moves codes by one within `range`, each time the one that lowers `sum(e^2) + BALANCE * sum(e)^2` most, until none does.
///
/// A move by `d` changes `e` by `-alpha d`, so the objective by `2 e de + de^2 + BALANCE (2 sum(e) de + de^2)`.
pub(crate) fn balance(w: &[f32], alpha: f32, range: RangeInclusive<i32>, codes: &mut [i8]) {
    let alpha = f64::from(alpha);
    let error = |w: f32, q: i8| f64::from(w) - alpha * f64::from(q);
    let mut sum: f64 = w.iter().zip(&*codes).map(|(&w, &q)| error(w, q)).sum();
    // Every move brings the sum a step nearer to 0 or lowers one error: a block never needs more moves than elements.
    for _ in 0..w.len() {
        let (mut best, mut at) = (0.0, None);
        for (i, (&w, &q)) in w.iter().zip(&*codes).enumerate() {
            for d in [-1i8, 1] {
                let de = -alpha * f64::from(d);
                let change = 2.0 * error(w, q) * de + de * de + BALANCE * (2.0 * sum * de + de * de);
                let moved = i32::from(q) + i32::from(d);
                if change < best && range.contains(&moved) {
                    (best, at) = (change, Some((i, d)));
                }
            }
        }
        let Some((i, d)) = at else { break };
        codes[i] += d;
        sum -= alpha * f64::from(d);
    }
}

/// Returns the signed element of largest magnitude, the first one of equals; 0 for an all-zero block.
fn extreme(w: &[f32]) -> f32 {
    w.iter().fold(0.0, |p: f32, &v| if v.abs() > p.abs() { v } else { p })
}

/// Writes the paper's codes, `clamp(round(-2^(b-1) / p * w))`; they are computed in f64 so that a denormal `p` does not
/// overflow.
fn extreme_codes(w: &[f32], p: f32, bits: Bits, codes: &mut [i8]) {
    let factor = f64::from(bits.signed_min()) / f64::from(p);
    let (lo, hi) = (f64::from(bits.signed_min()), f64::from(bits.signed_max()));
    for (code, &w) in codes.iter_mut().zip(w) {
        *code = round::round_f64_to_i8(factor * f64::from(w), lo, hi);
    }
}

/// Returns `sum(w q) / sum(q^2)`, computed in f64 and rounded once; 0 where every code is 0.
pub(crate) fn least_squares(w: &[f32], codes: &[i8], bits: Bits) -> f32 {
    let (mut wq, mut qq) = (0.0, 0i64);
    for (&w, &q) in w.iter().zip(codes) {
        wq += f64::from(w) * f64::from(q);
        qq += i64::from(q) * i64::from(q);
    }
    if qq == 0 { 0.0 } else { representable(wq / qq as f64, bits) }
}

/// Rounds a scale to f32, limited so that `alpha * -2^(b-1)` is finite too.
fn representable(alpha: f64, bits: Bits) -> f32 {
    let largest = f64::from(f32::MAX) / -f64::from(bits.signed_min());
    alpha.clamp(-largest, largest) as f32
}

/// Returns `sum((w - alpha q)^2)` in f64, where `alpha q` is rounded to f32 as `dequantize` does.
fn squared_error(w: &[f32], codes: &[i8], alpha: f32) -> f64 {
    w.iter()
        .zip(codes)
        .map(|(&w, &q)| {
            let d = f64::from(w) - f64::from(alpha * f32::from(q));
            d * d
        })
        .sum()
}

/// Writes `clamp(round_half_even(w / alpha))`, or 0 where `alpha` is 0, and returns whether any code changed.
pub(crate) fn round_codes(w: &[f32], alpha: f32, bits: Bits, codes: &mut [i8]) -> bool {
    let (lo, hi) = (bits.signed_min() as f32, bits.signed_max() as f32);
    let mut changed = 0;
    for (code, &w) in codes.iter_mut().zip(w) {
        let q = round::round_to_i8(round::over(w, alpha), lo, hi);
        changed |= q ^ *code;
        *code = q;
    }
    changed != 0
}

/// Returns the `alpha` that minimises `KL(softmax(w) || softmax(alpha q))`.
///
/// Up to a constant the divergence is `log sum exp(alpha q) - alpha sum(p q)` with `p = softmax(w)`: convex, with the
/// gradient `E[q] - sum(p q)` and the curvature `Var[q]` under `softmax(alpha q)`. Newton's method runs inside a bracket
/// that every gradient shrinks, and bisects where a step leaves it. Codes take at most `2^b` values, so sums run over
/// counts.
///
/// The bracket is `|alpha| <= 2 (max w - min w)`: neighbouring codes need not lie further apart than all weights. It
/// matters only for weights so far apart that `softmax(w)` is one-hot in f64 and the minimum lies at infinity.
fn kl_scale(w: &[f32], codes: &[i8], start: f32, bits: Bits) -> f32 {
    let max = w.iter().fold(f64::NEG_INFINITY, |m, &w| m.max(w.into()));
    let min = w.iter().fold(f64::INFINITY, |m, &w| m.min(w.into()));
    let (mut total, mut target) = (0.0, 0.0);
    let mut counts = [0u32; 256];
    for (&w, &q) in w.iter().zip(codes) {
        let p = (f64::from(w) - max).exp();
        total += p;
        target += p * f64::from(q);
        counts[(i32::from(q) - bits.signed_min()) as usize] += 1;
    }
    target /= total;

    let levels: Vec<(f64, f64)> = (bits.signed_min()..=bits.signed_max())
        .zip(counts)
        .filter(|&(_, n)| n > 0)
        .map(|(q, n)| (f64::from(q), f64::from(n)))
        .collect();
    if levels.len() < 2 {
        return start; // softmax(alpha q) is uniform whatever alpha is.
    }
    let (mut lo, mut hi) = (-2.0 * (max - min), 2.0 * (max - min));
    let mut alpha = f64::from(start).clamp(lo, hi);
    for _ in 0..200 {
        let (mean, variance) = moments(&levels, alpha);
        let gradient = mean - target;
        if gradient > 0.0 {
            hi = alpha;
        } else if gradient < 0.0 {
            lo = alpha;
        } else {
            break;
        }
        let newton = alpha - gradient / variance;
        let next = if newton > lo && newton < hi { newton } else { 0.5 * (lo + hi) };
        // f32 keeps 24 bits of alpha.
        let done = (next - alpha).abs() <= alpha.abs() * 1e-13;
        alpha = next;
        if done {
            break;
        }
    }
    representable(alpha, bits)
}

/// Returns the mean and the variance of the code under `softmax(alpha q)`; `levels` are `(code, count)`.
fn moments(levels: &[(f64, f64)], alpha: f64) -> (f64, f64) {
    let top = levels.iter().fold(f64::NEG_INFINITY, |m, &(q, _)| m.max(alpha * q));
    let (mut z, mut mean) = (0.0, 0.0);
    for &(q, n) in levels {
        let p = n * (alpha * q - top).exp();
        z += p;
        mean += p * q;
    }
    mean /= z;
    let variance: f64 = levels.iter().map(|&(q, n)| n * (alpha * q - top).exp() * (q - mean) * (q - mean)).sum();
    (mean, variance / z)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quantize(w: &[f32], bits: u8, rule: ScaleRule) -> (Vec<i8>, f32) {
        let mut quantizer = BlockQuantizer::new(Bits::new(bits).unwrap(), rule);
        let alpha = quantizer.quantize(w);
        (quantizer.codes, alpha)
    }

    /// Makes weights of every magnitude of f32, most of them ordinary.
    fn blocks() -> impl Strategy<Value = Vec<f32>> {
        let ordinary = prop::collection::vec(-1.0..1.0f32, 1..80);
        let any_finite = prop::collection::vec(any::<f32>().prop_filter("finite", |w| w.is_finite()), 1..20);
        let scaled = (prop::collection::vec(-1.0..1.0f32, 1..40), -148..128i32)
            .prop_map(|(w, e)| w.iter().map(|&w| (f64::from(w) * f64::from(e).exp2()) as f32).collect());
        prop_oneof![3 => ordinary, 1 => any_finite, 1 => scaled]
    }

    #[test]
    fn balanced_lets_the_errors_of_a_block_cancel() {
        // p = 1 lands on -8, alpha = -1/8 (all weights but 1 are a third of a step above a code): l2 leaves 9 errors of one
        // sign, 3 steps in sum; three of them moved up would cost 3 * ((2/3)^2 - (1/3)^2) = 1 step^2 and win 0.3 * 3^2.
        let mut w = [-1.0 / 24.0; 10];
        w[0] = 1.0;
        let sum = |(q, alpha): (Vec<i8>, f32)| w.iter().zip(&q).map(|(&w, &q)| w - alpha * f32::from(q)).sum::<f32>();
        let (l2, balanced) = (sum(quantize(&w, 4, ScaleRule::L2)), sum(quantize(&w, 4, ScaleRule::Balanced)));
        assert!(balanced.abs() < l2.abs() / 2.0, "{balanced} and {l2}");
    }

    #[test]
    fn l2_puts_the_extreme_weight_on_the_lowest_code() {
        // p = 0.8: factor -8 / 0.8 = -10. -0.34 -> 3.4 -> 3; 0.1 -> -1.
        // alpha = (0.8 * -8 - 0.34 * 3 + 0.1 * -1) / (64 + 9 + 1) = -7.52 / 74.
        let (q, alpha) = quantize(&[0.8, -0.34, 0.1], 4, ScaleRule::L2);
        assert_eq!(q, [-8, 3, -1]);
        assert!((alpha - -7.52 / 74.0).abs() < 1e-7, "{alpha}");
    }

    #[test]
    fn l2_clamps_the_opposite_extreme_and_takes_the_first_of_equals() {
        // p = 1 comes first: -1 would be +8, which 4 bits cannot hold.
        assert_eq!(quantize(&[1.0, -1.0], 4, ScaleRule::L2).0, [-8, 7]);
        assert_eq!(quantize(&[-1.0, 1.0], 4, ScaleRule::L2).0, [-8, 7]);
        assert!(quantize(&[1.0, -1.0], 4, ScaleRule::L2).1 < 0.0);
        assert!(quantize(&[-1.0, 1.0], 4, ScaleRule::L2).1 > 0.0);
    }

    #[test]
    fn l2_rounds_halves_to_even() {
        // factor -2 / -1 = 2: 0.25 -> 0.5 -> 0, and 0.75 -> 1.5 -> 2, clamped to 1.
        assert_eq!(quantize(&[-1.0, 0.25, 0.75], 2, ScaleRule::L2).0, [-2, 0, 1]);
    }

    #[test]
    fn rounding_to_a_scale_is_half_to_even_clamped_and_zero_at_scale_zero() {
        // 0.25 / 0.5 = 0.5 -> 0, 0.75 / 0.5 = 1.5 -> 2, 9 / 0.5 = 18 -> 7.
        let (bits, mut codes) = (Bits::new(4).unwrap(), [0, 0, 7]);
        assert!(round_codes(&[0.25, 0.75, 9.0], 0.5, bits, &mut codes));
        assert_eq!(codes, [0, 2, 7]);
        assert!(!round_codes(&[0.25, 0.75, 9.0], 0.5, bits, &mut codes));
        round_codes(&[0.25, 0.75, 9.0], 0.0, bits, &mut codes);
        assert_eq!(codes, [0, 0, 0]);
    }

    #[test]
    fn zero_blocks_are_zero_and_single_weights_exact() {
        for rule in [ScaleRule::L2, ScaleRule::Kl, ScaleRule::Mse, ScaleRule::Balanced] {
            assert_eq!(quantize(&[0.0, -0.0], 4, rule), (vec![0, 0], 0.0));
            let (q, alpha) = quantize(&[0.3], 4, rule);
            assert_eq!(alpha * f32::from(q[0]), 0.3, "{rule}");
        }
    }

    #[test]
    fn kl_recovers_the_scale_of_weights_that_codes_can_hold() {
        // w = -0.125 q exactly, so KL is 0 at alpha = -0.125.
        let (q, alpha) = quantize(&[1.0, -0.5, 0.25, 0.0, -0.875], 4, ScaleRule::Kl);
        assert_eq!(q, [-8, 4, -2, 0, 7]);
        assert!((alpha - -0.125).abs() < 1e-8, "{alpha}");
    }

    #[test]
    fn kl_of_one_hot_softmax_stays_finite() {
        for scale in [1e3, 1e30, f32::MAX] {
            let (_, alpha) = quantize(&[scale, -0.4 * scale, 0.2 * scale], 4, ScaleRule::Kl);
            assert!(alpha.is_finite() && (alpha * -8.0).is_finite(), "{alpha}");
        }
    }

    #[test]
    fn mse_uses_the_end_of_the_codes_that_l2_cannot() {
        // 2 bits, codes -2..=1. l2 clips one 1.0 of each sign: p = 1 gives codes -2 for 1 and 1 (clamped) for -1.
        // With q = -+1 for +-1 the block is exact.
        let w = [1.0, -1.0, 1.0, -1.0];
        let (q, alpha) = quantize(&w, 2, ScaleRule::Mse);
        assert_eq!(squared_error(&w, &q, alpha), 0.0);
        let (q, alpha) = quantize(&w, 2, ScaleRule::L2);
        assert!(squared_error(&w, &q, alpha) > 0.1);
    }

    /// Returns `KL(softmax(w) || softmax(alpha q))`.
    fn divergence(w: &[f32], q: &[i8], alpha: f32) -> f64 {
        let log_softmax = |v: Vec<f64>| {
            let max = v.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let log = v.iter().map(|v| (v - max).exp()).sum::<f64>().ln() + max;
            v.into_iter().map(move |v| v - log).collect::<Vec<_>>()
        };
        let p = log_softmax(w.iter().map(|&w| w.into()).collect());
        let r = log_softmax(q.iter().map(|&q| f64::from(alpha) * f64::from(q)).collect());
        p.iter().zip(r).map(|(p, r)| p.exp() * (p - r)).sum()
    }

    /// Returns the derivative of the divergence: `E[q]` under `softmax(alpha q)` minus that under `softmax(w)`.
    fn gradient(w: &[f32], q: &[i8], alpha: f64) -> f64 {
        let mean = |v: &dyn Fn(usize) -> f64| {
            let weights: Vec<f64> = (0..w.len()).map(|i| v(i).exp()).collect();
            let sum: f64 = weights.iter().sum();
            weights.iter().zip(q).map(|(p, &q)| p * f64::from(q)).sum::<f64>() / sum
        };
        mean(&|i| alpha * f64::from(q[i])) - mean(&|i| f64::from(w[i]))
    }

    proptest! {
        #[test]
        fn codes_fit_their_bits_and_values_are_finite(w in blocks(), bits in 2u8..=8) {
            let width = Bits::new(bits).unwrap();
            for rule in [ScaleRule::L2, ScaleRule::Kl, ScaleRule::Mse, ScaleRule::Balanced] {
                let (q, alpha) = quantize(&w, bits, rule);
                prop_assert!(q.iter().all(|&q| (width.signed_min()..=width.signed_max()).contains(&q.into())));
                prop_assert!(q.iter().all(|&q| (alpha * f32::from(q)).is_finite()), "{rule}: {alpha}");
            }
        }

        #[test]
        fn mse_is_never_worse_than_l2(w in blocks(), bits in 2u8..=8) {
            let (q, alpha) = quantize(&w, bits, ScaleRule::L2);
            let (best, scale) = quantize(&w, bits, ScaleRule::Mse);
            prop_assert!(squared_error(&w, &best, scale) <= squared_error(&w, &q, alpha));
        }

        #[test]
        fn mse_is_the_optimum_at_2_bits(w in prop::collection::vec(-1.0..1.0f32, 1..6)) {
            // All 4^n codes, each with its least-squares scale.
            let bits = Bits::MIN;
            let mut optimum = f64::INFINITY;
            for word in 0..4usize.pow(w.len() as u32) {
                let q: Vec<i8> = (0..w.len()).map(|i| (word >> (2 * i) & 3) as i8 - 2).collect();
                optimum = optimum.min(squared_error(&w, &q, least_squares(&w, &q, bits)));
            }
            let (q, alpha) = quantize(&w, 2, ScaleRule::Mse);
            let error = squared_error(&w, &q, alpha);
            prop_assert!(error <= optimum * (1.0 + 1e-6) + 1e-14, "{error} > {optimum}");
        }

        #[test]
        fn kl_gradient_is_zero_and_the_divergence_no_larger_than_that_of_l2(
            w in prop::collection::vec(-4.0..4.0f32, 2..60), bits in 2u8..=8,
        ) {
            let (q, l2) = quantize(&w, bits, ScaleRule::L2);
            let (same, alpha) = quantize(&w, bits, ScaleRule::Kl);
            prop_assert_eq!(&q, &same);
            if q.iter().any(|&code| code != q[0]) {
                // The curvature is at most ((2^b - 1) / 2)^2, and alpha is rounded to f32.
                let slack = 127.5f64.powi(2) * f64::from(alpha.abs()) * f64::from(f32::EPSILON) + 1e-9;
                prop_assert!(gradient(&w, &q, alpha.into()).abs() <= slack);
            }
            prop_assert!(divergence(&w, &q, alpha) <= divergence(&w, &q, l2) + 1e-9);
        }

        #[test]
        fn a_power_of_two_scales_the_scale_only(
            w in prop::collection::vec(-1.0..1.0f32, 1..40), bits in 2u8..=8, e in -40..40i32,
        ) {
            let factor = (e as f32).exp2();
            let scaled: Vec<f32> = w.iter().map(|w| w * factor).collect();
            for rule in [ScaleRule::L2, ScaleRule::Mse] {
                let (q, alpha) = quantize(&w, bits, rule);
                prop_assert_eq!(quantize(&scaled, bits, rule), (q, alpha * factor));
            }
        }
    }
}
