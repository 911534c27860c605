//! The reference convolution.
use rayon::prelude::*;

use crate::error::check_len;
use crate::{Error, QuantizedActivations, QuantizedWeights};

/// Geometry of a convolution; `[height, width]` each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConvParams {
    /// Distance of neighbouring outputs, in input pixels.
    pub stride: [usize; 2],
    /// Rows and columns of zeros on either side.
    pub padding: [usize; 2],
    /// Distance of neighbouring taps, in input pixels.
    pub dilation: [usize; 2],
    /// Groups of channels that are convolved apart.
    pub groups: usize,
}

impl Default for ConvParams {
    /// Stride and dilation 1, no padding, one group.
    fn default() -> Self {
        Self { stride: [1, 1], padding: [0, 0], dilation: [1, 1], groups: 1 }
    }
}

impl ConvParams {
    /// Height and width of the output: `floor((input + 2 padding - dilation (kernel - 1) - 1) / stride) + 1`.
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

/// The convolution every engine must reproduce bit for bit. Plain loops: this is the reference.
///
/// `x` is `[N, C, H, W]`, `w` `[Co, Ci/G, Kh, Kw]`, `bias` `[Co]`, the result `[N, Co, H', W']` with
/// [`ConvParams::output_size`]:
///
/// `y[n, o, p] = bias[o] + sum over kh, kw, block of alpha[o, block, kh, kw] * s[n, block, pixel] * dot(q, a)`
///
/// # Order of the sum
/// 1. One f32 accumulator starts at `+0`.
/// 2. Taps in the order `kh`, then `kw`; a tap outside the input is left out (zero padding has mantissas 0).
/// 3. At each tap the weight's blocks in channel order: `dot` is exact in i32, and
///    `acc = fma(alpha * s, dot as f32, acc)`, where `alpha * s` and `dot as f32` are each rounded once, half to even.
/// 4. Last, and only where there is a bias, `y = acc + bias[o]`.
///
/// A block whose mantissas are all 0 leaves the accumulator as it is, so an engine may skip it or may compute padding
/// (as long as `alpha * s` does not overflow).
///
/// # Blocks
/// The activation's block length must be a multiple of the weight's, or [`BlockSize::PIXEL`](crate::BlockSize::PIXEL):
/// every weight block lies in one activation block and uses its scale.
///
/// # Errors
/// [`Error::Groups`] where `Co` does not split into the groups, [`Error::Channels`] where `x` does not have the weight's
/// channels and groups, [`Error::BlockMismatch`], [`Error::BlockTooLong`] where a dot product could exceed an i32,
/// [`Error::Geometry`], and [`Error::Length`] for the bias or for fields of `x` of a wrong length.
pub fn conv2d(
    x: &QuantizedActivations,
    w: &QuantizedWeights,
    bias: Option<&[f32]>,
    params: &ConvParams,
) -> Result<Vec<f32>, Error> {
    let [batch, channels, height, width] = x.shape;
    let [filters, group, kh, kw] = w.shape();
    let groups = params.groups;
    if groups == 0 || !filters.is_multiple_of(groups) {
        return Err(Error::Groups { channels: filters, groups });
    }
    if x.groups != groups || channels != group * groups {
        let found_channels = channels.checked_div(x.groups).unwrap_or(channels);
        return Err(Error::Channels { channels: group, groups, found_channels, found_groups: x.groups });
    }
    let [out_height, out_width] = params.output_size([height, width], [kh, kw])?;
    let area = height * width;
    check_len("mantissas", batch * channels * area, x.mantissas.len())?;
    check_len("activation scales", batch * groups * x.blocks() * area, x.scales.len())?;
    if let Some(bias) = bias {
        check_len("bias", filters, bias.len())?;
    }

    // Each weight block: its channels, and the activation block they lie in.
    let x_len = x.format.block.len_in(group);
    let (lo, hi) = x.format.code_range(x.signed);
    let product = i64::from(-w.bits().signed_min()) * i64::from(hi.max(-lo));
    let mut blocks = Vec::new();
    for range in w.block().ranges(group) {
        if range.start / x_len != (range.end - 1) / x_len {
            return Err(Error::BlockMismatch { start: range.start, end: range.end });
        }
        if range.len() as i64 > i64::from(i32::MAX) / product {
            return Err(Error::BlockTooLong { len: range.len() });
        }
        blocks.push((range.start / x_len, range));
    }

    let mut y = vec![0.0; batch * filters * out_height * out_width];
    y.par_chunks_mut(out_height * out_width).enumerate().for_each(|(plane, y)| {
        let (n, o) = (plane / filters, plane % filters);
        let g = o / (filters / groups);
        for (i, y) in y.iter_mut().enumerate() {
            let (row, column) = (i / out_width * params.stride[0], i % out_width * params.stride[1]);
            let mut acc = 0.0f32;
            for tap in 0..kh * kw {
                // Row and column in the padded input; those before the padding wrap around and fail the test.
                let row = (row + tap / kw * params.dilation[0]).wrapping_sub(params.padding[0]);
                let column = (column + tap % kw * params.dilation[1]).wrapping_sub(params.padding[1]);
                if row >= height || column >= width {
                    continue;
                }
                let pixel = row * width + column;
                for (block, (x_block, range)) in blocks.iter().enumerate() {
                    let mut dot = 0i32;
                    for c in range.clone() {
                        let q = w.codes()[(o * group + c) * kh * kw + tap];
                        let a = x.mantissas[(n * channels + g * group + c) * area + pixel];
                        dot += i32::from(q) * i32::from(a);
                    }
                    let alpha = w.scales()[(o * blocks.len() + block) * kh * kw + tap];
                    let s = x.scales[((n * groups + g) * x.blocks() + x_block) * area + pixel];
                    acc = (alpha * s).mul_add(dot as f32, acc);
                }
            }
            *y = match bias {
                Some(bias) => acc + bias[o],
                None => acc,
            };
        }
    });
    Ok(y)
}
