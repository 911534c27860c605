//! Codes and scales of least error in a layer's *outputs*, for inputs that are known, instead of in its weights.
use rayon::prelude::*;

use crate::error::check_len;
use crate::weights::BlockLayout;
use crate::{Error, QuantizedWeights, WeightFormat, round};

/// The limit of rounds of the descent; most filters reach a fixed point earlier.
const SWEEPS: usize = 10;

/// Quantizes the filters of one group for least squared error of their outputs: finds the codes and scales that minimise,
/// for every filter,
///
/// ```text
/// v^T gram v - 2 cross^T v,   v = alpha * q
/// ```
/// where `gram = sum x x^T` and `cross = sum x y` over samples of the input patch `x` (one element a weight of the filter)
/// and of the wanted output `y`. This is `sum (x^T v - y)^2` but for a constant. A multiple of the identity added to
/// `gram`, and the same multiple of the weights added to `cross`, keeps `v` near the weights where the inputs do not
/// determine it.
///
/// - `weights`, `cross`: `[Co, Cg, Kh, Kw]`;
/// - `gram`: `[K, K]`, symmetric, `K = Cg * Kh * Kw`.
///
/// The method is coordinate descent (as in Behdin et al., "QuantEase", 2023): each code, then each block's scale, is set to
/// its best while all others stay. It starts twice, from the unrounded weights (so that codes set later make up for the
/// errors of those set first) and from the result of [`QuantizedWeights::quantize`], and keeps the better end: no filter
/// ends worse than by that rule. Filters run in parallel; the result does not depend on the number of threads.
///
/// # Errors
/// The errors of [`QuantizedWeights::quantize`]; [`Error::Length`] where `gram` or `cross` have another length.
pub fn reconstruct(
    weights: &[f32],
    shape: [usize; 4],
    format: WeightFormat,
    gram: &[f32],
    cross: &[f32],
) -> Result<QuantizedWeights, Error> {
    let start = QuantizedWeights::quantize(weights, shape, format)?;
    let layout = BlockLayout::new(shape, format.block);
    let k = layout.filter;
    check_len("gram", k * k, gram.len())?;
    check_len("cross", weights.len(), cross.len())?;
    let (mut codes, mut scales) = (start.codes().to_vec(), start.scales().to_vec());
    let (lo, hi) = (format.bits.signed_min() as f32, format.bits.signed_max() as f32);
    let filters = weights.par_chunks(k.max(1)).zip(cross.par_chunks(k.max(1)));
    let found = codes.par_chunks_mut(k.max(1)).zip(scales.par_chunks_mut(layout.filter_scales.max(1)));
    filters.zip(found).for_each(|((weights, cross), (codes, scales))| {
        let filter = Filter { layout: &layout, gram, cross, lo, hi };
        let rounded = filter.descend(FilterState::of(codes, scales, None, &layout));
        let compensated = filter.descend(FilterState::of(codes, scales, Some(weights), &layout));
        let mut best = filter.error(&FilterState::of(codes, scales, None, &layout).values);
        // A candidate that is not finite compares as not better.
        for state in [rounded, compensated] {
            let error = filter.error(&state.values);
            if error < best && state.scales.iter().all(|s| s.is_finite()) {
                best = error;
                codes.copy_from_slice(&state.codes);
                scales.copy_from_slice(&state.scales);
            }
        }
    });
    QuantizedWeights::from_parts(shape, format.bits, format.block, codes, scales)
}

/// The codes and scales of one filter, and the values that the descent has reached.
struct FilterState {
    codes: Vec<i8>,
    scales: Vec<f32>,
    values: Vec<f32>,
}

impl FilterState {
    /// Starts from `values`, or from `alpha * q` where there are none.
    fn of(codes: &[i8], scales: &[f32], values: Option<&[f32]>, layout: &BlockLayout) -> Self {
        let mut state = Self { codes: codes.to_vec(), scales: scales.to_vec(), values: vec![0.0; codes.len()] };
        match values {
            Some(values) => state.values.copy_from_slice(values),
            None => {
                layout.for_each_block(|s, block| block.for_each(|i| state.values[i] = scales[s] * f32::from(codes[i])))
            }
        }
        state
    }
}

/// The objective of one filter.
struct Filter<'a> {
    layout: &'a BlockLayout,
    gram: &'a [f32],
    cross: &'a [f32],
    lo: f32,
    hi: f32,
}

impl Filter<'_> {
    /// Returns row `i` of `gram`.
    fn row(&self, i: usize) -> &[f32] {
        &self.gram[i * self.cross.len()..][..self.cross.len()]
    }

    /// Returns `cross - gram v`, half the objective's negative gradient.
    fn gradient(&self, values: &[f32]) -> Vec<f32> {
        let mut gradient = self.cross.to_vec();
        for (i, &value) in values.iter().enumerate().filter(|(_, v)| **v != 0.0) {
            subtract(&mut gradient, self.row(i), value);
        }
        gradient
    }

    /// Returns the objective `v^T gram v - 2 cross^T v`.
    fn error(&self, values: &[f32]) -> f64 {
        let terms = self.gradient(values).into_iter().zip(self.cross).zip(values);
        terms.map(|((g, &c), &v)| -f64::from(v) * (f64::from(g) + f64::from(c))).sum()
    }

    /// Descends until no code changes, at most [`SWEEPS`] rounds.
    fn descend(&self, mut state: FilterState) -> FilterState {
        let mut seen = vec![0.0f32; self.cross.len()];
        for _ in 0..SWEEPS {
            // The gradient is computed anew in every round, so that rounding errors of its updates do not add up.
            let mut gradient = self.gradient(&state.values);
            let mut changed = false;
            let FilterState { codes, scales, values } = &mut state;
            self.layout.for_each_block(|s, block| {
                for i in block.clone() {
                    let curvature = self.row(i)[i];
                    // A code that the objective does not depend on, or whose curvature is NaN, stays.
                    if curvature <= 0.0 || curvature.is_nan() {
                        continue;
                    }
                    let wanted = values[i] + gradient[i] / curvature;
                    let code = round::round_to_i8(round::over(wanted, scales[s]), self.lo, self.hi);
                    let value = scales[s] * f32::from(code);
                    changed |= code != codes[i];
                    if value != values[i] {
                        subtract(&mut gradient, self.row(i), value - values[i]);
                    }
                    (codes[i], values[i]) = (code, value);
                }
                // The scale moves all values of its block by `codes * step`.
                seen.fill(0.0);
                block
                    .clone()
                    .filter(|&i| codes[i] != 0)
                    .for_each(|i| subtract(&mut seen, self.row(i), -f32::from(codes[i])));
                let (mut slope, mut curvature) = (0.0f64, 0.0f64);
                for i in block.clone() {
                    slope += f64::from(codes[i]) * f64::from(gradient[i]);
                    curvature += f64::from(codes[i]) * f64::from(seen[i]);
                }
                if curvature > 0.0 {
                    let step = (slope / curvature) as f32;
                    scales[s] += step;
                    subtract(&mut gradient, &seen, step);
                    block.for_each(|i| values[i] = scales[s] * f32::from(codes[i]));
                }
            });
            if !changed {
                break;
            }
        }
        state
    }
}

/// Computes `y -= x * factor`.
fn subtract(y: &mut [f32], x: &[f32], factor: f32) {
    y.iter_mut().zip(x).for_each(|(y, &x)| *y -= x * factor);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Bits, BlockSize, ScaleRule};

    fn format(bits: u8, block: usize) -> WeightFormat {
        WeightFormat { bits: Bits::new(bits).unwrap(), block: BlockSize::new(block).unwrap(), rule: ScaleRule::Mse }
    }

    /// Returns the Gram matrix of inputs of `k` elements each, and `gram w` for weights `[filters, k]`.
    fn problem(inputs: &[f32], k: usize, weights: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let mut gram = vec![0.0f32; k * k];
        for x in inputs.chunks_exact(k) {
            for i in 0..k {
                (0..k).for_each(|j| gram[i * k + j] += x[i] * x[j]);
            }
        }
        (0..k).for_each(|i| gram[i * k + i] += 1e-3);
        let say = |w: &[f32], i: usize| gram[i * k..][..k].iter().zip(w).map(|(g, w)| g * w).sum();
        let cross = weights.chunks_exact(k).flat_map(|w| (0..k).map(|i| say(w, i)).collect::<Vec<f32>>()).collect();
        (gram, cross)
    }

    /// Returns the sum over filters of `(v - w)^T gram (v - w)`, in f64.
    fn output_error(gram: &[f32], k: usize, weights: &[f32], values: &[f32]) -> f64 {
        let difference: Vec<f64> = values.iter().zip(weights).map(|(v, w)| f64::from(v - w)).collect();
        let filters = difference.chunks_exact(k);
        let term = |d: &[f64], i: usize| (0..k).map(|j| d[i] * f64::from(gram[i * k + j]) * d[j]).sum::<f64>();
        filters.map(|d| (0..k).map(|i| term(d, i)).sum::<f64>()).sum()
    }

    #[test]
    fn inputs_that_move_together_let_errors_cancel() {
        // Both inputs are always equal: only the sum of the two weights counts, and 0.5 + 0.5 needs no fractions.
        let weights = [3.0, -4.0, 0.5, 0.5];
        let gram = [1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.999, 0.0, 0.0, 0.999, 1.0];
        let cross = [3.0, -4.0, 0.9995, 0.9995];
        let plain = QuantizedWeights::quantize(&weights, [1, 4, 1, 1], format(3, 4)).unwrap();
        let found = reconstruct(&weights, [1, 4, 1, 1], format(3, 4), &gram, &cross).unwrap();
        let errors = [&plain, &found].map(|q| output_error(&gram, 4, &weights, &q.dequantize()));
        assert!(errors[1] < 0.01 && errors[0] > 0.1, "{errors:?} {:?}", found.codes());
    }

    #[test]
    fn wrong_lengths_and_weights_that_are_no_numbers_are_errors() {
        let format = format(4, 2);
        let run = |w: &[f32], gram: &[f32], cross: &[f32]| reconstruct(w, [1, 2, 1, 1], format, gram, cross);
        assert!(run(&[1.0, 2.0], &[1.0, 0.0, 0.0, 1.0], &[1.0, 2.0]).is_ok());
        assert!(run(&[1.0, 2.0], &[1.0, 0.0, 1.0], &[1.0, 2.0]).is_err());
        assert!(run(&[1.0, 2.0], &[1.0, 0.0, 0.0, 1.0], &[1.0]).is_err());
        assert!(run(&[1.0, f32::NAN], &[1.0, 0.0, 0.0, 1.0], &[1.0, 2.0]).is_err());
        // Where sums of inputs are NaN, the result of the rule stays.
        let plain = QuantizedWeights::quantize(&[1.0, 2.0], [1, 2, 1, 1], format).unwrap();
        assert_eq!(run(&[1.0, 2.0], &[f32::NAN; 4], &[f32::NAN; 2]).unwrap(), plain);
    }

    proptest! {
        #[test]
        fn outputs_are_never_further_off_than_with_the_rule(
            (channels, taps, block) in (1usize..7, 1usize..4, 1usize..5), bits in 2u8..=8,
            seed in prop::collection::vec(-1.0f32..1.0, 200),
        ) {
            let (k, filters) = (channels * taps, 2);
            let shape = [filters, channels, taps, 1];
            let weights = &seed[..filters * k];
            let (gram, cross) = problem(&seed[filters * k..][..(200 - filters * k) / k * k], k, weights);
            let plain = QuantizedWeights::quantize(weights, shape, format(bits, block)).unwrap();
            let found = reconstruct(weights, shape, format(bits, block), &gram, &cross).unwrap();
            let [before, after] = [&plain, &found].map(|q| output_error(&gram, k, weights, &q.dequantize()));
            // Both are made of f32 sums of about a hundred terms of order 1.
            prop_assert!(after <= before * 1.0001 + 1e-3, "{after} {before}");
        }
    }
}
