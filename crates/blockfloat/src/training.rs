//! What a training step needs: fake-quantized weights and scales that follow the shadow weights.
//!
//! Wrong lengths panic here: shapes come from a program, not from a file. NaN weights stay visible as NaN.
use rayon::prelude::*;

use crate::rules::{Quantizer, extreme, least_squares};
use crate::search::{pad, products};
use crate::weights::Layout;
use crate::{Bits, BlockSize, ScaleRule, round};

/// `alpha * clamp(round_half_even(w / alpha))` into `out`: the forward pass of the straight-through estimator.
///
/// `weights` and `out` are `[Co, Ci/G, Kh, Kw]`, `scales` `[Co, blocks, Kh, Kw]`. The fast twin of
/// [`QuantizedWeights::with_scales`](crate::QuantizedWeights::with_scales) followed by `dequantize`, the same bits.
/// A NaN weight gives NaN.
///
/// # Panics
/// If a slice does not have the length of its shape.
pub fn quantized_weight_values(
    weights: &[f32],
    shape: [usize; 4],
    block: BlockSize,
    bits: Bits,
    scales: &[f32],
    out: &mut [f32],
) {
    map_blocks(weights, shape, block, bits, scales, out, |q, alpha| q * alpha);
}

/// Like [`quantized_weight_values`], giving the codes `clamp(round_half_even(w / alpha))` themselves, as floats: the
/// derivative of a weight's value by its scale. A NaN weight gives NaN.
///
/// # Panics
/// If a slice does not have the length of its shape.
pub fn quantized_weight_codes(
    weights: &[f32],
    shape: [usize; 4],
    block: BlockSize,
    bits: Bits,
    scales: &[f32],
    out: &mut [f32],
) {
    map_blocks(weights, shape, block, bits, scales, out, |q, _| q);
}

fn map_blocks(
    weights: &[f32],
    shape: [usize; 4],
    block: BlockSize,
    bits: Bits,
    scales: &[f32],
    out: &mut [f32],
    f: impl Fn(f32, f32) -> f32 + Sync,
) {
    let layout = check(weights, shape, block, scales);
    assert_eq!(out.len(), weights.len(), "output of a weight of shape {shape:?}");
    if weights.is_empty() {
        return;
    }
    let (lo, hi) = (bits.signed_min() as f32, bits.signed_max() as f32);
    // A block's channels at all taps are contiguous: [len, Kh*Kw]. Its row of scales, repeated, lies beside them.
    let chunk = layout.block_len * layout.taps;
    let filters = weights.par_chunks(layout.filter).zip(out.par_chunks_mut(layout.filter));
    filters.zip(scales.par_chunks(layout.filter_scales)).for_each_init(
        || vec![0.0; chunk],
        |repeated, ((weights, out), scales)| {
            let blocks = weights.chunks(chunk).zip(out.chunks_mut(chunk));
            for ((weights, out), scales) in blocks.zip(scales.chunks(layout.taps)) {
                repeat(scales, repeated);
                for ((out, &w), &alpha) in out.iter_mut().zip(weights).zip(&*repeated) {
                    *out = f(round::round(round::over(w, alpha), lo, hi), alpha);
                }
            }
        },
    );
}

/// Fills `out` with copies of `row`, doubling what is there.
fn repeat(row: &[f32], out: &mut [f32]) {
    if let [value] = row {
        return out.fill(*value);
    }
    out[..row.len()].copy_from_slice(row);
    let mut done = row.len();
    while done < out.len() {
        let next = done.min(out.len() - done);
        out.copy_within(..next, done);
        done += next;
    }
}

/// The least-squares scale `sum(w q) / sum(q^2)` of every block, in f64 and rounded once; 0 where all codes are 0.
///
/// `weights` and `codes` are `[Co, Ci/G, Kh, Kw]`, the result `[Co, blocks, Kh, Kw]`.
///
/// # Panics
/// If a slice does not have the length of its shape.
pub fn least_squares_scales(weights: &[f32], shape: [usize; 4], block: BlockSize, codes: &[i8]) -> Vec<f32> {
    let layout = Layout::new(shape, block);
    let mut scales = vec![0.0; layout.scales()];
    check(weights, shape, block, &scales);
    assert_eq!(codes.len(), weights.len(), "codes of a weight of shape {shape:?}");
    if weights.is_empty() {
        return scales;
    }
    let filters = weights.par_chunks(layout.filter).zip(codes.par_chunks(layout.filter));
    filters.zip(scales.par_chunks_mut(layout.filter_scales)).for_each_init(
        || (Vec::new(), Vec::new()),
        |(w, q), ((weights, codes), scales)| {
            layout.for_each_block(|scale, block| {
                w.clear();
                w.extend(block.clone().map(|i| weights[i]));
                q.clear();
                q.extend(block.map(|i| codes[i]));
                scales[scale] = least_squares(w, q, Bits::MAX);
            });
        },
    );
    scales
}

/// One warm-started round of the `mse` alternation, in place: codes from the scales at hand, then least-squares scales
/// of those codes. Cheap enough for every training step, and never worse than keeping the scales, up to f32 rounding.
///
/// A block whose codes are all 0 though its weights are not has lost its scale: it starts again from the `l2` rule.
/// `weights` are `[Co, Ci/G, Kh, Kw]`, `scales` `[Co, blocks, Kh, Kw]`. A NaN weight gives a NaN scale.
///
/// # Panics
/// If a slice does not have the length of its shape.
pub fn refit(weights: &[f32], shape: [usize; 4], block: BlockSize, bits: Bits, scales: &mut [f32]) {
    let layout = check(weights, shape, block, scales);
    if weights.is_empty() {
        return;
    }
    let (lo, hi) = (bits.signed_min() as f32, bits.signed_max() as f32);
    weights.par_chunks(layout.filter).zip(scales.par_chunks_mut(layout.filter_scales)).for_each_init(
        || (Vec::new(), Quantizer::new(bits, ScaleRule::L2)),
        |(buffer, quantizer), (weights, scales)| {
            layout.for_each_block(|scale, block| {
                buffer.clear();
                buffer.extend(block.map(|i| weights[i]));
                let len = buffer.len();
                pad(buffer);
                let (wq, qq) = products(buffer, |w| round::over(w, scales[scale]), lo, hi);
                let alpha = wq / qq;
                scales[scale] = if qq != 0.0 {
                    alpha
                } else if extreme(buffer) == 0.0 {
                    0.0
                } else {
                    quantizer.block(&buffer[..len])
                };
            });
        },
    );
}

fn check(weights: &[f32], shape: [usize; 4], block: BlockSize, scales: &[f32]) -> Layout {
    let layout = Layout::new(shape, block);
    assert_eq!(weights.len(), shape.iter().product::<usize>(), "weights of shape {shape:?}");
    assert_eq!(scales.len(), layout.scales(), "scales of a weight of shape {shape:?} in blocks of {block}");
    layout
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::weights::tests::tensors;
    use crate::{QuantizedWeights, WeightFormat};

    fn bits_of(values: &[f32]) -> Vec<u32> {
        values.iter().map(|v| v.to_bits()).collect()
    }

    #[test]
    fn nan_weights_and_lost_scales_are_visible_or_zero() {
        let (block, bits) = (BlockSize::new(2).unwrap(), Bits::new(4).unwrap());
        let mut out = [9.0; 4];
        quantized_weight_values(&[f32::NAN, 1.0, f32::NAN, 1.0], [1, 4, 1, 1], block, bits, &[0.5, 0.0], &mut out);
        assert!(out[0].is_nan() && out[2].is_nan());
        assert_eq!((out[1], out[3]), (1.0, 0.0));
    }

    #[test]
    fn refit_improves_a_scale_and_restarts_a_lost_one() {
        let (block, bits, shape) = (BlockSize::new(2).unwrap(), Bits::new(4).unwrap(), [1, 6, 1, 1]);
        // Block 0: alpha 0.9 rounds 4, -2 to 4, -2, whose least squares is 1. Block 1 is lost; l2 gives 8 / -8.
        // Block 2 is zero.
        let mut scales = [0.9, 0.0, 3.0];
        refit(&[4.0, -2.0, 8.0, -4.0, 0.0, 0.0], shape, block, bits, &mut scales);
        assert_eq!(scales, [1.0, -1.0, 0.0]);
        refit(&[f32::NAN, 1.0, 8.0, -4.0, 0.0, 0.0], shape, block, bits, &mut scales);
        assert!(scales[0].is_nan());
        assert_eq!(scales[1..], [-1.0, 0.0]);
    }

    #[test]
    #[should_panic(expected = "scales of a weight of shape [1, 4, 1, 1] in blocks of 2")]
    fn a_wrong_number_of_scales_panics() {
        let block = BlockSize::new(2).unwrap();
        quantized_weight_values(&[0.0; 4], [1, 4, 1, 1], block, Bits::MAX, &[1.0], &mut [0.0; 4]);
    }

    proptest! {
        #[test]
        fn fast_values_and_codes_are_those_of_the_reference(
            (w, shape, block) in tensors(), bits in 2u8..=8, seed in prop::collection::vec(-0.5..0.5f32, 1..20),
        ) {
            let bits = Bits::new(bits).unwrap();
            let scales: Vec<f32> = seed.iter().copied().cycle().take(Layout::new(shape, block).scales()).collect();
            let reference = QuantizedWeights::with_scales(shape, bits, block, &w, scales.clone()).unwrap();
            let mut out = vec![0.0; w.len()];
            quantized_weight_values(&w, shape, block, bits, &scales, &mut out);
            prop_assert_eq!(bits_of(&out), bits_of(&reference.dequantize()));
            quantized_weight_codes(&w, shape, block, bits, &scales, &mut out);
            let codes: Vec<f32> = reference.codes().iter().map(|&q| q.into()).collect();
            prop_assert_eq!(out, codes);
        }

        #[test]
        fn refit_never_makes_the_error_larger((w, shape, block) in tensors(), bits in 2u8..=8) {
            let bits = Bits::new(bits).unwrap();
            let format = WeightFormat { bits, block, rule: ScaleRule::L2 };
            let mut scales = QuantizedWeights::quantize(&w, shape, format).unwrap().scales().to_vec();
            let error = |scales: &[f32]| -> f64 {
                let q = QuantizedWeights::with_scales(shape, bits, block, &w, scales.to_vec()).unwrap();
                q.dequantize().iter().zip(&w).map(|(a, b)| f64::from(a - b).powi(2)).sum()
            };
            let before = error(&scales);
            refit(&w, shape, block, bits, &mut scales);
            // Values are rounded to f32 on both sides.
            let norm = w.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>().sqrt();
            prop_assert!(error(&scales).sqrt() <= before.sqrt() + 2.0 * f64::from(f32::EPSILON) * norm);
        }
    }
}
