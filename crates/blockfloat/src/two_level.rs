//! Two-level scales: each output channel has a float and each block a small integer.
//!
//! `alpha[o, block, tap] = s[o] * k[o, block, tap]` with `|k q| <= 127` for every code of the block. So a weight is
//! `s[o]` times an 8-bit integer, which other engines call an INT8 weight with per-channel scales.
//!
//! # The fit
//! Codes, `k` and `s` are found together, filter by filter. For a given `s` a block tries the `k` around `alpha / s` of
//! either sign, rounds its weights to each and keeps the best; for given integers the best `s` is least squares. The two
//! alternate from the best of a grid of starts. A step `s k` a little longer than the block's own scale costs little,
//! since the codes are rounded to it; therefore fitting all three is much better than rounding `alpha`. Taps that share a scale share
//! the factor.
use rayon::prelude::*;

use crate::error::{check_finite, check_len, elements};
use crate::rules::balance;
use crate::search::{LANES, pad};
use crate::weights::{BlockLayout, check_block, check_codes};
use crate::{Bits, BlockSize, Error, QuantizedWeights, ScaleRule, TapScales, round};

/// The largest magnitude of `k q`.
const LARGEST: i32 = 127;
/// The starts of `s` are `GRID_FIRST * GRID_RATIO^i`, in units of the scale that gives the filter's largest `alpha` the
/// largest `k` that leaves all codes usable.
const GRID_FIRST: f64 = 0.8;
const GRID_RATIO: f64 = 1.08;
const GRID_LEN: usize = 14;
/// The number of best starts that are alternated to a fixed point.
const KEPT: usize = 3;
/// The limit of alternations from one start.
const ALTERNATIONS: usize = 12;

/// The two levels of the scales of a weight `[Co, Ci/G, Kh, Kw]`:
/// `alpha[o, block, tap] = channel[o] * factors[o, block, tap]`.
#[derive(Debug, Clone, PartialEq)]
pub struct TwoLevel {
    pub(crate) channel: Vec<f32>,
    pub(crate) factors: Vec<i8>,
}

impl TwoLevel {
    /// Joins the floats `s`, `[Co]`, and the integers `k`, `[Co, blocks, Kh, Kw]`.
    /// [`QuantizedWeights::from_parts_two_level`] checks them.
    pub fn new(channel: Vec<f32>, factors: Vec<i8>) -> Self {
        Self { channel, factors }
    }

    /// Returns the floats `s`, `[Co]`.
    pub fn channel(&self) -> &[f32] {
        &self.channel
    }

    /// Returns the integers `k`, `[Co, blocks, Kh, Kw]`.
    pub fn factors(&self) -> &[i8] {
        &self.factors
    }

    /// Returns `fl32(s k)` for every block, `[Co, blocks, Kh, Kw]`.
    pub(crate) fn scales(&self) -> Vec<f32> {
        let each = self.factors.len() / self.channel.len();
        let rows = self.factors.chunks(each).zip(&self.channel);
        rows.flat_map(|(factors, &s)| factors.iter().map(move |&k| s * f32::from(k))).collect()
    }
}

impl QuantizedWeights {
    /// Makes quantized weights of codes `[Co, Ci/G, Kh, Kw]` and two-level scales that are known already, from a file for
    /// example. [`QuantizedWeights::scales`] are then `fl32(channel * factor)`.
    ///
    /// # Errors
    /// The errors of [`QuantizedWeights::from_parts`]; [`Error::ProductRange`] where `|factor * code|` exceeds 127.
    pub fn from_parts_two_level(
        shape: [usize; 4],
        bits: Bits,
        block: BlockSize,
        codes: Vec<i8>,
        two_level: TwoLevel,
    ) -> Result<Self, Error> {
        check_len("codes", elements(shape)?, codes.len())?;
        check_block(block)?;
        check_len("channel scales", shape[0], two_level.channel.len())?;
        let layout = BlockLayout::new(shape, block);
        check_len("factors", layout.scales(), two_level.factors.len())?;
        check_codes(&codes, bits)?;
        let scales = two_level.scales();
        let finite = |(i, s): (usize, &f32)| if s.is_finite() { None } else { Some(i) };
        let channels = two_level.channel.iter().enumerate().find_map(finite);
        if let Some(index) = channels.or_else(|| scales.iter().enumerate().find_map(finite)) {
            return Err(Error::NonFiniteScale { index });
        }
        let weights = Self { shape, bits, block, codes, scales, two_level: Some(two_level) };
        match weights.products().iter().position(|p| p.abs() > LARGEST) {
            None => Ok(weights),
            Some(index) => Err(Error::ProductRange { index, product: weights.products()[index] }),
        }
    }

    /// Returns the two levels of the scales, or `None` where each block has a float of its own.
    pub fn two_level(&self) -> Option<&TwoLevel> {
        self.two_level.as_ref()
    }

    /// Returns `k q` for every weight, `[Co, Ci/G, Kh, Kw]`, or `None` without two-level scales. Its magnitude is at most
    /// 127, and the weight is `s[o]` times it.
    pub fn int8_weights(&self) -> Option<Vec<i8>> {
        self.two_level.as_ref()?;
        Some(self.products().into_iter().map(|p| p as i8).collect())
    }

    /// Returns `k q` for every weight, or nothing without two-level scales.
    fn products(&self) -> Vec<i32> {
        let Some(TwoLevel { factors, .. }) = &self.two_level else { return Vec::new() };
        let layout = BlockLayout::new(self.shape, self.block);
        let mut products = vec![0; self.codes.len()];
        let filters = self.codes.chunks(layout.filter).zip(products.chunks_mut(layout.filter));
        for ((codes, products), factors) in filters.zip(factors.chunks(layout.filter_scales)) {
            layout.for_each_block(|scale, block| {
                for i in block {
                    products[i] = i32::from(factors[scale]) * i32::from(codes[i]);
                }
            });
        }
        products
    }

    /// Returns these weights with two-level scales, fitted to the values `alpha * q`. Weights whose scales have two levels
    /// already are copied.
    pub fn to_two_level(&self) -> Self {
        if self.two_level.is_some() {
            return self.clone();
        }
        // A scale and a code can be finite where their product is not.
        let weights: Vec<f32> = self.dequantize().into_iter().map(|w| w.clamp(f32::MIN, f32::MAX)).collect();
        self.fit(&weights, ScaleRule::Mse)
    }

    /// Fits two-level scales and codes to `weights`, the floats `[Co, Ci/G, Kh, Kw]` that these were quantized from by
    /// `rule`. Codes, factors and channel scales are found together, for least squared error. With
    /// [`ScaleRule::Balanced`] the codes are balanced at the end, as that rule does.
    ///
    /// # Errors
    /// [`Error::Length`]; [`Error::NonFinite`].
    pub fn refit_two_level(&self, weights: &[f32], rule: ScaleRule) -> Result<Self, Error> {
        check_len("weights", self.codes.len(), weights.len())?;
        check_finite(weights)?;
        Ok(self.fit(weights, rule))
    }

    fn fit(&self, weights: &[f32], rule: ScaleRule) -> Self {
        let Self { shape, bits, block, .. } = *self;
        if self.tap_scales() == TapScales::Shared {
            return self.joined().fit(weights, rule).at_all_taps(shape, block);
        }
        let layout = BlockLayout::new(shape, block);
        let mut codes = vec![0; weights.len()];
        let mut factors = vec![0; self.scales.len()];
        let mut channel = vec![0.0; shape[0]];
        let inputs = weights.par_chunks(layout.filter).zip(self.scales.par_chunks(layout.filter_scales));
        let outputs = codes.par_chunks_mut(layout.filter).zip(factors.par_chunks_mut(layout.filter_scales));
        inputs.zip(outputs).zip(&mut channel).for_each_init(
            || TwoLevelFit::new(bits),
            |fit, (((weights, alphas), (codes, factors)), s)| {
                *s = fit.filter(&layout, weights, alphas, factors);
                let mut buffer = Vec::new();
                layout.for_each_block(|scale, block| {
                    let (alpha, range) = (*s * f32::from(factors[scale]), range(bits, factors[scale].into()));
                    buffer.clear();
                    for i in block.clone() {
                        let (lo, hi) = (range.0 as f32, range.1 as f32);
                        codes[i] = round::round_to_i8(round::over(weights[i], alpha), lo, hi);
                        buffer.push((weights[i], codes[i]));
                    }
                    if rule == ScaleRule::Balanced {
                        let (w, mut q): (Vec<f32>, Vec<i8>) = buffer.iter().copied().unzip();
                        balance(&w, alpha, range.0..=range.1, &mut q);
                        block.zip(q).for_each(|(i, q)| codes[i] = q);
                    }
                });
            },
        );
        let two_level = TwoLevel::new(channel, factors);
        Self::from_parts_two_level(shape, bits, block, codes, two_level).expect("a fit keeps its limits")
    }
}

/// Returns the smallest and the largest code that a block with the factor `k` may have.
fn range(bits: Bits, k: i32) -> (i32, i32) {
    let most = if k == 0 { LARGEST } else { LARGEST / k.abs() };
    (bits.signed_min().max(-most), bits.signed_max().min(most))
}

/// The fit of one filter, with the scratch space of one thread.
struct TwoLevelFit {
    bits: Bits,
    /// The filter's weights block by block, times a power of two, each block padded with zeros to whole lanes.
    unit: Vec<f32>,
    /// The end of each block in `unit`.
    ends: Vec<usize>,
    /// The scale of each block before the fit, in the units of `unit`.
    alphas: Vec<f32>,
    factors: Vec<i8>,
}

/// The outcome of one `s` for a filter.
#[derive(Clone, Copy)]
struct Trial {
    s: f64,
    /// The squared error that is left.
    error: f64,
    /// The least-squares `s` of the codes and factors that were found.
    next: f64,
}

impl TwoLevelFit {
    fn new(bits: Bits) -> Self {
        Self { bits, unit: vec![], ends: vec![], alphas: vec![], factors: vec![] }
    }

    /// Fits one filter: fills `factors` and returns `s`.
    fn filter(&mut self, layout: &BlockLayout, weights: &[f32], alphas: &[f32], factors: &mut [i8]) -> f32 {
        let max = weights.iter().fold(0.0f32, |m, w| m.max(w.abs()));
        if max == 0.0 {
            factors.fill(0);
            return 0.0;
        }
        // A power of two that brings the largest weight into [1, 2), so that sums neither overflow nor vanish.
        let unit = f64::from_bits((2046 - (f64::from(max).to_bits() >> 52)) << 52);
        self.unit.clear();
        self.ends.clear();
        self.alphas.clear();
        layout.for_each_block(|scale, block| {
            let mut padded: Vec<f32> = block.map(|i| (f64::from(weights[i]) * unit) as f32).collect();
            pad(&mut padded);
            // A scale whose codes are all 0 may be of any size.
            let alpha = if padded.iter().all(|&u| u == 0.0) { 0.0 } else { f64::from(alphas[scale]) * unit };
            self.alphas.push(alpha.clamp(-2.0, 2.0) as f32);
            self.unit.extend(padded);
            self.ends.push(self.unit.len());
        });
        let largest = f64::from(self.alphas.iter().fold(0.0f32, |m, a| m.max(a.abs())));
        let full = (LARGEST / -self.bits.signed_min()).max(1);
        let mut trials: Vec<Trial> = (0..GRID_LEN)
            .map(|i| self.trial(GRID_FIRST * GRID_RATIO.powi(i as i32) * largest / f64::from(full)))
            .collect();
        trials.sort_by(|a, b| a.error.total_cmp(&b.error));
        trials.truncate(KEPT);
        for trial in &mut trials {
            for _ in 0..ALTERNATIONS {
                let next = self.trial(trial.next);
                if next.error >= trial.error {
                    break;
                }
                *trial = next;
            }
        }
        let best = trials.into_iter().reduce(|a, b| if b.error < a.error { b } else { a }).expect("a start");
        // `s`, rounded to f32, stays finite times every factor.
        let limit = f64::from(f32::MAX) / f64::from(LARGEST + 1);
        let s = (best.s / unit).clamp(-limit, limit) as f32;
        // The factors are those of `s` as it is stored.
        self.trial(f64::from(s) * unit);
        factors.copy_from_slice(&self.factors);
        s
    }

    /// Finds the best factor and codes of every block for the scale `s`, and leaves the factors in `self.factors`.
    fn trial(&mut self, s: f64) -> Trial {
        let (mut error, mut up, mut pp) = (0.0, 0.0, 0.0);
        self.factors.clear();
        let mut start = 0;
        for (&end, &alpha) in self.ends.iter().zip(&self.alphas) {
            let block = &self.unit[start..end];
            start = end;
            let (k, sums) = best_factor(block, self.bits, s, f64::from(alpha));
            error += f64::from(sums.error);
            up += f64::from(k) * f64::from(sums.uq);
            pp += f64::from(k).powi(2) * f64::from(sums.qq);
            self.factors.push(k as i8);
        }
        Trial { s, error, next: if pp > 0.0 { up / pp } else { s } }
    }
}

/// Returns the factor of least error among those around `alpha / s` of both signs and the largest that leaves all codes
/// usable.
fn best_factor(block: &[f32], bits: Bits, s: f64, alpha: f64) -> (i32, Sums) {
    let near = if s == 0.0 { 0.0 } else { (alpha / s).round_ties_even().clamp(-127.0, 127.0) } as i32;
    let full = (LARGEST / -bits.signed_min()).max(1);
    let near = near.abs();
    let mut best = (0, sums(block, bits, 0, 0.0));
    if alpha == 0.0 {
        return best;
    }
    for (i, k) in [near, near + 1, near - 1, near.min(full)].into_iter().enumerate() {
        if !(1..=LARGEST).contains(&k) || (i == 3 && k >= near - 1) {
            continue;
        }
        for k in [k, -k] {
            let found = sums(block, bits, k, (s * f64::from(k)) as f32);
            if found.error < best.1.error {
                best = (k, found);
            }
        }
    }
    best
}

/// Sums over the weights `u` and the codes `q` of a block.
#[derive(Clone, Copy)]
struct Sums {
    /// `sum((u - step q)^2)`.
    error: f32,
    /// `sum(u q)`.
    uq: f32,
    /// `sum(q^2)`.
    qq: f32,
}

/// Rounds a block to codes of the length `step`, within the range that the factor `k` allows, and sums over them.
fn sums(block: &[f32], bits: Bits, k: i32, step: f32) -> Sums {
    let (lo, hi) = range(bits, k);
    let (lo, hi, inverse) = (lo as f32, hi as f32, if step == 0.0 { 0.0 } else { 1.0 / step });
    let (mut error, mut uq, mut qq) = ([0.0f32; LANES], [0.0f32; LANES], [0.0f32; LANES]);
    for u in block.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            let q = round::round(u[lane] * inverse, lo, hi);
            let e = u[lane] - step * q;
            error[lane] += e * e;
            uq[lane] += u[lane] * q;
            qq[lane] += q * q;
        }
    }
    Sums { error: error.iter().sum(), uq: uq.iter().sum(), qq: qq.iter().sum() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::WeightFormat;
    use crate::search::tests::normal;
    use crate::weights::tests::tensors;

    fn bits(n: u8) -> Bits {
        Bits::new(n).unwrap()
    }

    fn error(w: &[f32], q: &QuantizedWeights) -> f64 {
        q.dequantize().iter().zip(w).map(|(a, b)| f64::from(a - b).powi(2)).sum()
    }

    #[test]
    fn parts_make_an_int8_weight_with_a_scale_a_channel() {
        // Blocks of 2 of 3 channels, two filters: k q = 3*5, 3*-8, -15*7, then 0*7, 0*1, 1*-1.
        let w = QuantizedWeights::from_parts_two_level(
            [2, 3, 1, 1],
            bits(4),
            BlockSize::new(2).unwrap(),
            vec![5, -8, 7, 7, 1, -1],
            TwoLevel::new(vec![0.5, 4.0], vec![3, -15, 0, 1]),
        )
        .unwrap();
        assert_eq!(w.int8_weights().unwrap(), [15, -24, -105, 0, 0, -1]);
        assert_eq!(w.scales(), [1.5, -7.5, 0.0, 4.0]);
        assert_eq!(w.dequantize(), [7.5, -12.0, -52.5, 0.0, 0.0, -4.0]);
        assert_eq!(w.to_two_level(), w);
    }

    #[test]
    fn weights_at_the_end_of_floats_get_finite_scales() {
        for scale in [1e37, 2e38, f32::MAX] {
            let block = BlockSize::new(2).unwrap();
            let codes = vec![7, -8, 3, -8, 1, 7];
            let w = QuantizedWeights::from_parts([2, 3, 1, 1], bits(4), block, codes, vec![scale, -scale, 1.0, scale]);
            let fitted = w.unwrap().to_two_level();
            assert!(fitted.scales().iter().all(|s| s.is_finite()) && fitted.dequantize().iter().any(|w| *w != 0.0));
        }
    }

    #[test]
    fn parts_are_checked() {
        let parts = |codes: &[i8], channel: &[f32], factors: &[i8]| {
            let block = BlockSize::new(2).unwrap();
            QuantizedWeights::from_parts_two_level(
                [1, 3, 1, 1],
                bits(4),
                block,
                codes.to_vec(),
                TwoLevel::new(channel.to_vec(), factors.to_vec()),
            )
            .map(drop)
        };
        assert_eq!(parts(&[1, -8, 0], &[1.0], &[15, 127]), Ok(()));
        assert_eq!(parts(&[1, -8, 0], &[1.0], &[16, 1]), Err(Error::ProductRange { index: 1, product: -128 }));
        assert_eq!(parts(&[1, 0, 1], &[1.0], &[1, -128]), Err(Error::ProductRange { index: 2, product: -128 }));
        assert_eq!(parts(&[1, 9, 1], &[1.0], &[1, 1]), Err(Error::CodeRange { index: 1, code: 9, bits: 4 }));
        assert_eq!(parts(&[1, 0, 1], &[f32::NAN], &[1, 1]), Err(Error::NonFiniteScale { index: 0 }));
        // 127 times the largest float.
        assert_eq!(parts(&[0, 0, 0], &[f32::MAX], &[1, 127]), Err(Error::NonFiniteScale { index: 1 }));
        let length = |what, expected, found| Err(Error::Length { what, expected, found });
        assert_eq!(parts(&[0; 2], &[1.0], &[1, 1]), length("codes", 3, 2));
        assert_eq!(parts(&[0; 3], &[1.0; 2], &[1, 1]), length("channel scales", 1, 2));
        assert_eq!(parts(&[0; 3], &[1.0], &[1]), length("factors", 2, 1));
    }

    #[test]
    fn a_weight_that_two_levels_can_hold_is_found_exactly() {
        // s = 0.25: k q = 8 * -15 = -120 and 7 * 15 = 105; 12 * -8 and 12 * 7; 9 * -8 ...: all int8 multiples of 0.25.
        let integers = [-120.0, 105.0, 45.0, -96.0, 84.0, 12.0, -72.0, 63.0, 9.0];
        let w: Vec<f32> = integers.iter().map(|i| i * 0.25).collect();
        let format = WeightFormat::new(bits(4), BlockSize::new(3).unwrap(), ScaleRule::Mse);
        let q = QuantizedWeights::quantize(&w, [1, 9, 1, 1], format).unwrap();
        let two = q.refit_two_level(&w, ScaleRule::Mse).unwrap();
        assert!(error(&w, &two) < 1e-9, "{:?} for {w:?}", two.dequantize());
    }

    #[test]
    fn the_loss_against_float_scales_is_small_on_normal_weights() {
        // [16, 128, 3, 3] in blocks of 32. Most dB lost by bits of a code: 8-bit codes leave k = 1, an ordinary INT8
        // weight whose step is the same for blocks of any size.
        let shape = [16, 128, 3, 3];
        let w = normal(3, shape.iter().product());
        for (b, most) in [(2, 0.1), (3, 0.2), (4, 0.35), (5, 1.0), (6, 2.0), (8, 6.0)] {
            let format = WeightFormat::new(bits(b), BlockSize::new(32).unwrap(), ScaleRule::Mse);
            let q = QuantizedWeights::quantize(&w, shape, format).unwrap();
            let two = q.refit_two_level(&w, ScaleRule::Mse).unwrap();
            let loss = 10.0 * (error(&w, &two) / error(&w, &q)).log10();
            assert!(loss < most, "{b} bits: {loss} dB");
        }
    }

    #[test]
    fn extreme_weights_fit() {
        let format = WeightFormat::new(bits(4), BlockSize::new(2).unwrap(), ScaleRule::Mse);
        for w in [[f32::MAX, -0.9 * f32::MAX, 0.0, 1.0], [1e-45, -1e-40, 0.0, 0.0], [0.0; 4]] {
            let q = QuantizedWeights::quantize(&w, [1, 4, 1, 1], format).unwrap();
            let two = q.refit_two_level(&w, ScaleRule::Mse).unwrap();
            assert!(two.dequantize().iter().all(|v| v.is_finite()), "{w:?}");
        }
    }

    #[test]
    fn balanced_codes_stay_balanced() {
        let shape = [8, 64, 1, 1];
        let w: Vec<f32> = normal(5, 512).iter().map(|w| w + 0.05).collect();
        let block = BlockSize::new(32).unwrap();
        let sums = |rule| {
            let q = QuantizedWeights::quantize(&w, shape, WeightFormat::new(bits(3), block, rule)).unwrap();
            let values = q.refit_two_level(&w, rule).unwrap().dequantize();
            let error = |block: usize| (32 * block..32 * block + 32).map(|i| w[i] - values[i]).sum::<f32>();
            (0..16).map(|block| error(block).powi(2)).sum::<f32>()
        };
        assert!(sums(ScaleRule::Balanced) * 4.0 < sums(ScaleRule::Mse));
    }

    proptest! {
        #[test]
        fn a_fit_keeps_its_limits_and_does_not_depend_on_a_power_of_two(
            (w, shape, block) in tensors(), b in 2u8..=8, e in -30..30i32,
        ) {
            let format = WeightFormat::new(bits(b), block, ScaleRule::Mse);
            let fit = |w: &[f32]| {
                QuantizedWeights::quantize(w, shape, format).unwrap().refit_two_level(w, ScaleRule::Mse).unwrap()
            };
            let two = fit(&w);
            let levels = two.two_level().unwrap();
            prop_assert!(two.int8_weights().unwrap().iter().all(|&p| p != -128));
            let codes = two.codes().to_vec();
            let again = QuantizedWeights::from_parts_two_level(shape, bits(b), block, codes, levels.clone());
            prop_assert_eq!(again.unwrap(), two.clone());
            let factor = (e as f32).exp2();
            let scaled = fit(&w.iter().map(|w| w * factor).collect::<Vec<_>>());
            prop_assert_eq!(scaled.int8_weights(), two.int8_weights());
            let energy: f64 = w.iter().map(|&w| f64::from(w).powi(2)).sum();
            prop_assert!(error(&w, &two) <= energy);
        }
    }
}
