//! The reference convolution.
use std::ops::Range;

use rayon::prelude::*;

use crate::error::{check_len, elements};
use crate::{Error, QuantizedActivations, QuantizedWeights};

/// The geometry of a convolution. Pairs are `[height, width]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConvParams {
    /// The distance between neighbouring outputs, in input pixels.
    pub stride: [usize; 2],
    /// The rows and columns of zeros on either side.
    pub padding: [usize; 2],
    /// The distance between neighbouring taps, in input pixels.
    pub dilation: [usize; 2],
    /// The number of groups of channels that are convolved separately.
    pub groups: usize,
}

impl Default for ConvParams {
    /// Returns stride and dilation 1, no padding and one group.
    fn default() -> Self {
        Self { stride: [1, 1], padding: [0, 0], dilation: [1, 1], groups: 1 }
    }
}

impl ConvParams {
    /// Returns the height and width of the output, `floor((input + 2 padding - dilation (kernel - 1) - 1) / stride) + 1`.
    ///
    /// # Errors
    /// [`Error::Geometry`] where the kernel does not fit, or a stride or dilation is zero.
    pub fn output_size(&self, input: [usize; 2], kernel: [usize; 2]) -> Result<[usize; 2], Error> {
        let side = |i: usize| {
            let reach = kernel[i].checked_sub(1)?.checked_mul(self.dilation[i])?.checked_add(1)?;
            let padded = self.padding[i].checked_mul(2)?.checked_add(input[i])?;
            let steps = padded.checked_sub(reach)?.checked_div(self.stride[i])?;
            (self.dilation[i] > 0).then_some(steps + 1)
        };
        match (side(0), side(1)) {
            (Some(height), Some(width)) => Ok([height, width]),
            _ => Err(Error::Geometry { kernel, input }),
        }
    }
}

/// A weight block; every filter has the same ones.
struct Block {
    /// The position among the blocks of a filter's tap.
    index: usize,
    /// The activation block that contains the channels.
    x_block: usize,
    /// The channels, counted in the group.
    channels: Range<usize>,
}

/// Convolves a quantized activation with quantized weights. These plain loops are the reference, which every engine
/// reproduces bit for bit.
///
/// `x` is `[N, C, H, W]`, `w` `[Co, Ci/G, Kh, Kw]`, `bias` `[Co]`, the result `[N, Co, H', W']` with
/// [`ConvParams::output_size`]:
///
/// `y[n, o, p] = bias[o] + sum over kh, kw, block of alpha[o, block, kh, kw] * sx[n, block, pixel] * dot(q, a)`
///
/// # Order of the sum
/// 1. One f32 accumulator starts at `+0`.
/// 2. Taps in the order `kh`, then `kw`; a tap outside the input is left out (zero padding has mantissas 0).
/// 3. At each tap the weight's blocks in channel order: `dot` is exact in i32, and
///    `acc = fma(alpha * sx, dot as f32, acc)`, where `alpha * sx` and `dot as f32` are each rounded once, half to even.
/// 4. Last, and only where there is a bias, `y = acc + bias[o]`.
///
/// # Order of the sum with two-level scales
/// `y[n, o, p] = bias[o] + s[o] * sum over kh, kw, x_block of sx[n, x_block, pixel] * t`
/// 1. One f32 accumulator starts at `+0`.
/// 2. Taps in the order `kh`, then `kw`; a tap outside the input is left out.
/// 3. At each tap the *activation's* blocks in channel order: `t = sum of k * dot(q, a)` over the weight blocks in it is
///    exact in i32, and `acc = fma(sx, t as f32, acc)`, where `t as f32` is rounded once, half to even.
/// 4. Last, `y = fma(acc, s[o], bias[o])` where there is a bias, else `y = acc * s[o]`.
///
/// Where all pixels of the activation share a scale ([`BlockSize::IMAGE`](crate::BlockSize::IMAGE)), `t` is the sum over all
/// taps, exact in i32, and there is one step `acc = fma(sx, t as f32, 0)`.
///
/// # Both
/// A block whose mantissas are all 0 leaves the accumulator as it is, so an engine may skip it or may compute padding
/// (as long as `alpha * sx` does not overflow).
///
/// # Blocks
/// The activation's block length must be a multiple of the weight's, or [`BlockSize::PIXEL`](crate::BlockSize::PIXEL) or
/// [`BlockSize::IMAGE`](crate::BlockSize::IMAGE): every weight block lies in one activation block and uses its scale.
///
/// # Errors
/// [`Error::Groups`] where `Co` does not split into the groups, [`Error::Channels`] where `x` does not have the weight's
/// channels and groups, [`Error::BlockMismatch`], [`Error::BlockTooLong`] where a dot product, or with two-level scales
/// the sum over an activation block, or over all taps, could exceed an i32, [`Error::Geometry`], [`Error::Shape`] where the output would not
/// fit memory, and [`Error::Length`] for a bias of another length than `Co`.
pub fn conv2d(
    x: &QuantizedActivations,
    w: &QuantizedWeights,
    bias: Option<&[f32]>,
    params: &ConvParams,
) -> Result<Vec<f32>, Error> {
    let [batch, channels, height, width] = x.spec.shape;
    let [filters, group, kh, kw] = w.shape();
    let groups = params.groups;
    if groups == 0 || !filters.is_multiple_of(groups) {
        return Err(Error::Groups { channels: filters, groups });
    }
    if x.spec.groups != groups || channels != group * groups {
        let (found_channels, found_groups) = (channels / x.spec.groups, x.spec.groups);
        return Err(Error::Channels { channels: group, groups, found_channels, found_groups });
    }
    let [out_height, out_width] = params.output_size([height, width], [kh, kw])?;
    let area = height * width;

    if let Some(bias) = bias {
        check_len("bias", filters, bias.len())?;
    }

    let x_len = x.spec.format.block.len_in(group);
    let (lo, hi) = x.spec.format.code_range(x.spec.signed);
    let product = i64::from(-w.bits().signed_min()) * i64::from(hi.max(-lo));
    let mut blocks = Vec::new();
    for (index, range) in w.block().ranges(group).enumerate() {
        if range.start / x_len != (range.end - 1) / x_len {
            return Err(Error::BlockMismatch { start: range.start, end: range.end });
        }
        if range.len() as i64 > i64::from(i32::MAX) / product {
            return Err(Error::BlockTooLong { len: range.len() });
        }
        blocks.push(Block { index, x_block: range.start / x_len, channels: range });
    }
    let two_level = w.two_level();
    // With two-level scales, one sum is over an activation block, at all taps where these share its scale.
    let whole = x.spec.format.block.is_image();
    let summed = x_len * if whole { kh * kw } else { 1 };
    if two_level.is_some() && summed as i64 > i64::from(i32::MAX) / (127 * i64::from(hi.max(-lo))) {
        return Err(Error::BlockTooLong { len: summed });
    }

    let mut y = vec![0.0; elements([batch, filters, out_height, out_width])?];
    y.par_chunks_mut(out_height * out_width).enumerate().for_each(|(plane, y)| {
        let (n, o) = (plane / filters, plane % filters);
        let g = o / (filters / groups);
        for (i, y) in y.iter_mut().enumerate() {
            let (row, column) = (i / out_width * params.stride[0], i % out_width * params.stride[1]);
            let (mut acc, mut sum) = (0.0f32, 0i32);
            for tap in 0..kh * kw {
                // Row and column in the padded input; those before the padding wrap around and fail the test.
                let row = (row + tap / kw * params.dilation[0]).wrapping_sub(params.padding[0]);
                let column = (column + tap % kw * params.dilation[1]).wrapping_sub(params.padding[1]);
                if row >= height || column >= width {
                    continue;
                }
                let pixel = row * width + column;
                let dot = |block: &Block| {
                    let mut dot = 0i32;
                    for c in block.channels.clone() {
                        let q = w.codes()[(o * group + c) * kh * kw + tap];
                        let a = x.mantissas[(n * channels + g * group + c) * area + pixel];
                        dot += i32::from(q) * i32::from(a);
                    }
                    dot
                };
                let scale = |block: &Block| (o * blocks.len() + block.index) * kh * kw + tap;
                let sx = |x_block: usize| x.scales[((n * groups + g) * x.blocks() + x_block) * area + pixel];
                match two_level {
                    None => {
                        for block in &blocks {
                            let alpha = w.scales()[scale(block)];
                            acc = (alpha * sx(block.x_block)).mul_add(dot(block) as f32, acc);
                        }
                    }
                    Some(levels) => {
                        for blocks in blocks.chunk_by(|a, b| a.x_block == b.x_block) {
                            let t: i32 = blocks.iter().map(|b| i32::from(levels.factors()[scale(b)]) * dot(b)).sum();
                            if whole {
                                sum += t;
                            } else {
                                acc = sx(blocks[0].x_block).mul_add(t as f32, acc);
                            }
                        }
                    }
                }
            }
            if whole && two_level.is_some() {
                // Every pixel has the same scale.
                acc = x.scales[(n * groups + g) * area].mul_add(sum as f32, acc);
            }
            *y = match (two_level, bias) {
                (None, None) => acc,
                (None, Some(bias)) => acc + bias[o],
                (Some(levels), None) => acc * levels.channel()[o],
                (Some(levels), Some(bias)) => acc.mul_add(levels.channel()[o], bias[o]),
            };
        }
    });
    Ok(y)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        ActivationFormat, ActivationScale, ActivationSpec, Bits, BlockSize, ScaleRule, TwoLevel, WeightFormat,
        dequantized_activations, quantize_activations,
    };

    fn block(n: usize) -> BlockSize {
        BlockSize::new(n).unwrap()
    }

    fn activation(x: &[f32], shape: [usize; 4], groups: usize, block: BlockSize) -> QuantizedActivations {
        let format = ActivationFormat { bits: Bits::MAX, block, scale: ActivationScale::Pow2 };
        quantize_activations(x, &ActivationSpec { shape, groups, format, signed: true }).unwrap()
    }

    fn weights(w: &[f32], shape: [usize; 4], block: BlockSize) -> QuantizedWeights {
        let format = WeightFormat::new(Bits::new(4).unwrap(), block, ScaleRule::L2);
        QuantizedWeights::quantize(w, shape, format).unwrap()
    }

    #[test]
    fn integers_and_powers_of_two_convolve_exactly() {
        // [1, 1, 3, 3] of 1..9 with the 2x2 kernel [8, 4; -2, 1]: every block is one weight, and exact.
        let x: Vec<f32> = (1..10).map(|i| i as f32).collect();
        let x = activation(&x, [1, 1, 3, 3], 1, block(1));
        let w = weights(&[8.0, 4.0, -2.0, 1.0], [1, 1, 2, 2], block(1));
        // 8*1 + 4*2 - 2*4 + 5 = 13, then 11 more a column (8 + 4 - 2 + 1) and 33 a row.
        let y = conv2d(&x, &w, None, &ConvParams::default()).unwrap();
        assert_eq!(y, [13.0, 24.0, 46.0, 57.0]);
        // Padding 1, stride 2: the corners 1*1, -2*2 + 3... each output sees a different part of the kernel.
        let params = ConvParams { stride: [2, 2], padding: [1, 1], ..ConvParams::default() };
        let y = conv2d(&x, &w, Some(&[100.0]), &params).unwrap();
        // Top left sees x11 under tap (1, 1); top right x12, x13 under row 1; bottom left x21, x31 under column 1.
        let expected = [1.0, -2.0 * 2.0 + 3.0, 4.0 * 4.0 + 7.0, 8.0 * 5.0 + 4.0 * 6.0 - 2.0 * 8.0 + 9.0];
        assert_eq!(y, expected.map(|y| y + 100.0));
    }

    #[test]
    fn one_activation_block_may_hold_several_weight_blocks_but_not_the_reverse() {
        let w = weights(&[1.0; 6], [1, 6, 1, 1], block(2));
        let run = |b| conv2d(&activation(&[1.0; 6], [1, 6, 1, 1], 1, b), &w, None, &ConvParams::default());
        for b in [block(2), block(4), BlockSize::PIXEL, block(100)] {
            assert_eq!(run(b), Ok(vec![6.0]), "{b}");
        }
        assert_eq!(run(block(3)), Err(Error::BlockMismatch { start: 2, end: 4 }));
        assert_eq!(run(block(1)), Err(Error::BlockMismatch { start: 0, end: 2 }));
    }

    #[test]
    fn two_level_scales_multiply_once_an_activation_block_and_once_an_output() {
        // One 1x1 filter over 4 channels in blocks of 2: s = 0.5, k = 3 and -2, codes 1, 2 | 4, -7; bias 0.25.
        let codes = vec![1, 2, 4, -7];
        let w = QuantizedWeights::from_parts_two_level(
            [1, 4, 1, 1],
            Bits::new(4).unwrap(),
            block(2),
            codes,
            TwoLevel::new(vec![0.5], vec![3, -2]),
        )
        .unwrap();
        // Powers of two scales: mantissas of 8 signed bits are exact integers here.
        let x = [64.0, 65.0, 32.0, 33.0];
        let t = 3.0 * (64.0 + 2.0 * 65.0) - 2.0 * (4.0 * 32.0 - 7.0 * 33.0);
        for b in [block(2), block(4), BlockSize::PIXEL] {
            let x = activation(&x, [1, 4, 1, 1], 1, b);
            assert_eq!(conv2d(&x, &w, Some(&[0.25]), &ConvParams::default()), Ok(vec![0.5 * t + 0.25]), "{b}");
            assert_eq!(conv2d(&x, &w, None, &ConvParams::default()), Ok(vec![0.5 * t]), "{b}");
        }
    }

    #[test]
    fn pixels_that_share_a_scale_share_a_two_level_sum() {
        // One 2x2 filter of one channel, s = 0.5, k = 1, 2, 3, -1, codes 1, -2, 3, 4, over 3x3 with a border: the largest
        // magnitude is 127, so that mantissas are the elements.
        let two_level = TwoLevel::new(vec![0.5], vec![1, 2, 3, -1]);
        let bits = Bits::new(4).unwrap();
        let w = QuantizedWeights::from_parts_two_level([1, 1, 2, 2], bits, block(1), vec![1, -2, 3, 4], two_level);
        let format = ActivationFormat { bits: Bits::MAX, block: BlockSize::IMAGE, scale: ActivationScale::Float };
        let spec = ActivationSpec { shape: [1, 1, 2, 2], groups: 1, format, signed: true };
        let x = quantize_activations(&[127.0, 2.0, -3.0, 5.0], &spec).unwrap();
        let params = ConvParams { padding: [1, 1], ..ConvParams::default() };
        let y = conv2d(&x, &w.unwrap(), Some(&[1.0]), &params).unwrap();
        // Weights 1, -4, 9, -4; at the top left only the last one lies on the image.
        let sums = [-4 * 127, 9 * 127 - 4 * 2, 9 * 2, -4 * 127 + 4 * 3, 127 - 8 - 27 - 20, 2 + 45, 12, -3 - 20, 5];
        assert_eq!(y, sums.map(|t| 0.5 * t as f32 + 1.0));
    }

    #[test]
    fn an_activation_block_that_could_overflow_two_level_sums_is_refused() {
        // 66,312 channels of 127 * 255 exceed an i32; each weight block alone does not.
        let run = |channels: usize| {
            let shape = [1, channels, 1, 1];
            let two_level = TwoLevel::new(vec![1.0], vec![15; channels.div_ceil(64)]);
            let codes = vec![7; channels];
            let bits = Bits::new(4).unwrap();
            let w = QuantizedWeights::from_parts_two_level(shape, bits, block(64), codes, two_level).unwrap();
            let format = ActivationFormat { bits: Bits::MAX, block: BlockSize::PIXEL, scale: ActivationScale::Float };
            let spec = ActivationSpec { shape, groups: 1, format, signed: false };
            let x = quantize_activations(&vec![1.0; channels], &spec).unwrap();
            conv2d(&x, &w, None, &ConvParams::default())
        };
        assert_eq!(run(66_312), Err(Error::BlockTooLong { len: 66_312 }));
        assert!(run(66_311).is_ok());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let x = activation(&[1.0; 16], [1, 4, 2, 2], 1, block(4));
        let w = weights(&[1.0; 4], [1, 4, 1, 1], block(4));
        let params = ConvParams::default();
        let grouped = ConvParams { groups: 2, ..params };
        assert_eq!(conv2d(&x, &w, None, &grouped), Err(Error::Groups { channels: 1, groups: 2 }));
        let narrow = weights(&[1.0; 2], [1, 2, 1, 1], block(4));
        assert!(matches!(conv2d(&x, &narrow, None, &params), Err(Error::Channels { .. })));
        assert!(matches!(conv2d(&x, &w, Some(&[0.0; 2]), &params), Err(Error::Length { what: "bias", .. })));
        let large = weights(&[1.0; 36], [1, 4, 3, 3], block(4));
        assert_eq!(conv2d(&x, &large, None, &params), Err(Error::Geometry { kernel: [3, 3], input: [2, 2] }));
        for broken in [ConvParams { stride: [0, 1], ..params }, ConvParams { dilation: [1, 0], ..params }] {
            assert!(matches!(conv2d(&x, &w, None, &broken), Err(Error::Geometry { .. })));
        }
    }

    #[test]
    fn a_block_that_can_overflow_32_bits_is_refused() {
        // 2^31 / (128 * 255) = 65793.
        let n = 65_794;
        let format = ActivationFormat { bits: Bits::MAX, block: BlockSize::PIXEL, scale: ActivationScale::Float };
        let spec = ActivationSpec { shape: [1, n, 1, 1], groups: 1, format, signed: false };
        let x = quantize_activations(&vec![1.0; n], &spec).unwrap();
        let w = QuantizedWeights::from_parts([1, n, 1, 1], Bits::MAX, BlockSize::PIXEL, vec![-128; n], vec![1.0]);
        let error = conv2d(&x, &w.unwrap(), None, &ConvParams::default()).unwrap_err();
        assert_eq!(error, Error::BlockTooLong { len: n });
    }

    #[derive(Debug, Clone)]
    struct Problem {
        x: Vec<f32>,
        x_shape: [usize; 4],
        x_block: BlockSize,
        w: Vec<f32>,
        w_shape: [usize; 4],
        w_block: BlockSize,
        bias: Option<Vec<f32>>,
        params: ConvParams,
    }

    /// Makes convolutions of every kind: dense, grouped, depthwise, strided, padded, dilated, with ragged blocks.
    fn problems() -> impl Strategy<Value = Problem> {
        let sides = (1..4usize, 1..4usize, 0..6usize, 0..6usize);
        let params = ((1..3usize, 1..3usize), (0..3usize, 0..3usize), (1..3usize, 1..3usize));
        let channels = (1..3usize, 1..4usize, prop_oneof![Just(1usize), 1..10usize], 1..3usize);
        let blocks = (1..6usize, prop_oneof![Just(None), (1..4usize).prop_map(Some)]);
        (sides, params, channels, blocks, any::<bool>()).prop_flat_map(
            |((kh, kw, more_h, more_w), (stride, padding, dilation), (n, groups, group, per_group), (b, m), biased)| {
                let (h, w) = ((kh - 1) * dilation.0 + 1 + more_h, (kw - 1) * dilation.1 + 1 + more_w);
                let (x_shape, w_shape) = ([n, groups * group, h, w], [groups * per_group, group, kh, kw]);
                let values = |shape: &[usize]| prop::collection::vec(-1.0..1.0f32, shape.iter().product::<usize>());
                (values(&x_shape), values(&w_shape), values(&[w_shape[0]])).prop_map(move |(x, w, bias)| Problem {
                    x,
                    x_shape,
                    x_block: m.map_or(BlockSize::PIXEL, |m| block(b * m)),
                    w,
                    w_shape,
                    w_block: block(b),
                    bias: biased.then_some(bias),
                    params: ConvParams {
                        stride: stride.into(),
                        padding: padding.into(),
                        dilation: dilation.into(),
                        groups,
                    },
                })
            },
        )
    }

    /// Returns the textbook convolution in f64, and the sum of the magnitudes of its terms.
    fn plain(problem: &Problem, x: &[f32], w: &[f32]) -> Vec<(f64, f64)> {
        let ([n, c, h, wd], [co, cg, kh, kw]) = (problem.x_shape, problem.w_shape);
        let ConvParams { stride, padding, dilation, groups } = problem.params;
        let out_h = (h + 2 * padding[0] - dilation[0] * (kh - 1) - 1) / stride[0] + 1;
        let out_w = (wd + 2 * padding[1] - dilation[1] * (kw - 1) - 1) / stride[1] + 1;
        let mut y = Vec::new();
        for (n, o) in (0..n).flat_map(|n| (0..co).map(move |o| (n, o))) {
            for (oy, ox) in (0..out_h).flat_map(|y| (0..out_w).map(move |x| (y, x))) {
                let mut terms = vec![problem.bias.as_ref().map_or(0.0, |b| f64::from(b[o]))];
                for ci in 0..cg {
                    for (ky, kx) in (0..kh).flat_map(|y| (0..kw).map(move |x| (y, x))) {
                        let iy = (oy * stride[0] + ky * dilation[0]) as isize - padding[0] as isize;
                        let ix = (ox * stride[1] + kx * dilation[1]) as isize - padding[1] as isize;
                        if (0..h as isize).contains(&iy) && (0..wd as isize).contains(&ix) {
                            let channel = o / (co / groups) * cg + ci;
                            let x = x[((n * c + channel) * h + iy as usize) * wd + ix as usize];
                            terms.push(f64::from(x) * f64::from(w[((o * cg + ci) * kh + ky) * kw + kx]));
                        }
                    }
                }
                y.push((terms.iter().sum(), terms.iter().map(|t| t.abs()).sum()));
            }
        }
        y
    }

    proptest! {
        #[test]
        fn equals_the_plain_convolution_of_the_dequantized_tensors(
            problem in problems(), b in 2u8..=8, m in 2u8..=8, signed: bool, pow2: bool, two_level: bool,
        ) {
            let scale = if pow2 { ActivationScale::Pow2 } else { ActivationScale::Float };
            let x_format = ActivationFormat { bits: Bits::new(m).unwrap(), block: problem.x_block, scale };
            let w_format =
                WeightFormat::new(Bits::new(b).unwrap(), problem.w_block, ScaleRule::Mse);
            let groups = problem.params.groups;
            let spec = ActivationSpec { shape: problem.x_shape, groups, format: x_format, signed };
            let x = quantize_activations(&problem.x, &spec).unwrap();
            let w = QuantizedWeights::quantize(&problem.w, problem.w_shape, w_format).unwrap();
            let w = if two_level { w.to_two_level() } else { w };
            let y = conv2d(&x, &w, problem.bias.as_deref(), &problem.params).unwrap();

            let mut values = vec![0.0; problem.x.len()];
            dequantized_activations(&problem.x, &spec, &mut values);
            let expected = plain(&problem, &values, &w.dequantize());
            prop_assert_eq!(y.len(), expected.len());
            // Each step rounds alpha * sx and the sum, and dequantizing rounds every value: a few units of the terms' size.
            let steps = 4.0 + (problem.w_shape[1] * problem.w_shape[2] * problem.w_shape[3]) as f64;
            for (y, (expected, size)) in y.iter().zip(expected) {
                prop_assert!((f64::from(*y) - expected).abs() <= steps * f64::from(f32::EPSILON) * size);
            }
        }
    }
}
