//! Weights as an integer kernel and its block scales.
use rayon::prelude::*;

use crate::error::{check_finite, check_len, elements};
use crate::rules::{Quantizer, round_codes};
use crate::{Bits, BlockSize, Error, WeightFormat};

/// A convolution's weights: codes `q` of `b` bits and a signed scale `alpha` for each block, `w ~ alpha * q`
/// (the paper's VQK and KDS, section 3). A block is up to `B` consecutive input channels of one filter at one tap.
///
/// Codes have the weight's shape `[Co, Ci/G, Kh, Kw]`, scales `[Co, blocks, Kh, Kw]` with
/// `blocks = ceil((Ci/G) / B)`. Every code lies in `-2^(b-1) ..= 2^(b-1)-1` and every scale is finite.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedWeights {
    shape: [usize; 4],
    bits: Bits,
    block: BlockSize,
    codes: Vec<i8>,
    scales: Vec<f32>,
}

impl QuantizedWeights {
    /// Quantizes `weights` of `shape` `[Co, Ci/G, Kh, Kw]`, output channels in parallel. The result does not depend on
    /// the number of threads. An all-zero block has codes 0 and the scale 0.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Length`], or [`Error::NonFinite`] with the position of the first NaN or infinity.
    pub fn quantize(weights: &[f32], shape: [usize; 4], format: WeightFormat) -> Result<Self, Error> {
        let WeightFormat { bits, block, rule } = format;
        check_len("weights", elements(shape)?, weights.len())?;
        check_finite(weights)?;
        let layout = Layout::new(shape, block);
        let mut codes = vec![0; weights.len()];
        let mut scales = vec![0.0; layout.scales()];
        let filters = weights.par_chunks(layout.filter).zip(codes.par_chunks_mut(layout.filter));
        filters.zip(scales.par_chunks_mut(layout.filter_scales)).for_each_init(
            || (Quantizer::new(bits, rule), Vec::new()),
            |(quantizer, buffer), ((weights, codes), scales)| {
                layout.for_each_block(|scale, block| {
                    buffer.clear();
                    buffer.extend(block.clone().map(|i| weights[i]));
                    scales[scale] = quantizer.block(buffer);
                    block.zip(&quantizer.codes).for_each(|(i, &q)| codes[i] = q);
                });
            },
        );
        Ok(Self { shape, bits, block, codes, scales })
    }

    /// Codes and scales from elsewhere, a file for example.
    ///
    /// # Errors
    /// [`Error::Shape`]; [`Error::Length`] where codes or scales do not have the length of their shape;
    /// [`Error::CodeRange`]; [`Error::NonFiniteScale`].
    pub fn from_parts(
        shape: [usize; 4],
        bits: Bits,
        block: BlockSize,
        codes: Vec<i8>,
        scales: Vec<f32>,
    ) -> Result<Self, Error> {
        check_len("codes", elements(shape)?, codes.len())?;
        check_scales(&scales, Layout::new(shape, block).scales())?;
        let range = bits.signed_min()..=bits.signed_max();
        if let Some(index) = codes.iter().position(|&q| !range.contains(&q.into())) {
            return Err(Error::CodeRange { index, code: codes[index].into(), bits: bits.get() });
        }
        Ok(Self { shape, bits, block, codes, scales })
    }

    /// Rounds weights to scales that are already known, a trained student's for example:
    /// `q = clamp(round_half_even(w / alpha))`, and `q = 0` where `alpha` is 0.
    ///
    /// Together with [`QuantizedWeights::dequantize`] this is the reference of
    /// [`quantized_weight_values`](crate::quantized_weight_values).
    ///
    /// # Errors
    /// As [`QuantizedWeights::quantize`], and [`Error::NonFiniteScale`].
    pub fn with_scales(
        shape: [usize; 4],
        bits: Bits,
        block: BlockSize,
        weights: &[f32],
        scales: Vec<f32>,
    ) -> Result<Self, Error> {
        check_len("weights", elements(shape)?, weights.len())?;
        check_finite(weights)?;
        let layout = Layout::new(shape, block);
        check_scales(&scales, layout.scales())?;
        let mut codes = vec![0; weights.len()];
        let filters = weights.chunks(layout.filter).zip(codes.chunks_mut(layout.filter));
        for ((weights, codes), scales) in filters.zip(scales.chunks(layout.filter_scales)) {
            layout.for_each_block(|scale, block| {
                for i in block {
                    round_codes(&weights[i..=i], scales[scale], bits, &mut codes[i..=i]);
                }
            });
        }
        Ok(Self { shape, bits, block, codes, scales })
    }

    /// `[Co, Ci/G, Kh, Kw]`.
    pub fn shape(&self) -> [usize; 4] {
        self.shape
    }

    /// Bits of a code.
    pub fn bits(&self) -> Bits {
        self.bits
    }

    /// Channels that share a scale.
    pub fn block(&self) -> BlockSize {
        self.block
    }

    /// The codes, `[Co, Ci/G, Kh, Kw]`.
    pub fn codes(&self) -> &[i8] {
        &self.codes
    }

    /// The scales, [`QuantizedWeights::scale_shape`].
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// `[Co, blocks, Kh, Kw]`.
    pub fn scale_shape(&self) -> [usize; 4] {
        let [co, cg, kh, kw] = self.shape;
        [co, self.block.count(cg), kh, kw]
    }

    /// `alpha * q` for every weight, `[Co, Ci/G, Kh, Kw]`.
    pub fn dequantize(&self) -> Vec<f32> {
        let layout = Layout::new(self.shape, self.block);
        let mut values = vec![0.0; self.codes.len()];
        let filters = self.codes.chunks(layout.filter).zip(values.chunks_mut(layout.filter));
        for ((codes, values), scales) in filters.zip(self.scales.chunks(layout.filter_scales)) {
            layout.for_each_block(|scale, block| {
                for i in block {
                    values[i] = scales[scale] * f32::from(codes[i]);
                }
            });
        }
        values
    }

    /// Multiplies every scale of output channel `o` by `factors[o]`: how a batch normalisation, or any factor a channel,
    /// is folded into the weights at no cost. Factors must be finite and must not overflow a scale;
    /// [`QuantizedWeights::from_parts`] refuses what they would leave.
    ///
    /// # Panics
    /// Unless there are `Co` factors.
    pub fn scale_channels(&mut self, factors: &[f32]) {
        assert_eq!(factors.len(), self.shape[0], "one factor an output channel");
        let each = Layout::new(self.shape, self.block).filter_scales;
        for (scales, &factor) in self.scales.chunks_mut(each).zip(factors) {
            scales.iter_mut().for_each(|alpha| *alpha *= factor);
        }
    }

    /// Bits of all codes, and of all scales where each takes `scale_bits` (32, or 16).
    pub fn storage_bits(&self, scale_bits: usize) -> usize {
        self.codes.len() * usize::from(self.bits.get()) + self.scales.len() * scale_bits
    }
}

fn check_scales(scales: &[f32], expected: usize) -> Result<(), Error> {
    check_len("scales", expected, scales.len())?;
    match scales.iter().position(|s| !s.is_finite()) {
        None => Ok(()),
        Some(index) => Err(Error::NonFiniteScale { index }),
    }
}

/// Where blocks lie in a weight tensor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    filters: usize,
    channels: usize,
    block: BlockSize,
    /// `Kh * Kw`: the distance of two neighbouring channels.
    pub taps: usize,
    /// Weights of a filter.
    pub filter: usize,
    /// Scales of a filter.
    pub filter_scales: usize,
    /// Channels of a whole block.
    pub block_len: usize,
}

impl Layout {
    pub fn new([filters, channels, kh, kw]: [usize; 4], block: BlockSize) -> Self {
        let taps = kh * kw;
        let (filter, filter_scales) = (channels * taps, block.count(channels) * taps);
        Self { filters, channels, block, taps, filter, filter_scales, block_len: block.len_in(channels) }
    }

    /// The number of scales of all filters.
    pub fn scales(&self) -> usize {
        self.filters * self.filter_scales
    }

    /// Calls `f(scale, weights)` for every block of one filter: the position of its scale among the filter's scales, and
    /// those of its weights among the filter's weights.
    pub fn for_each_block(&self, mut f: impl FnMut(usize, std::iter::StepBy<std::ops::Range<usize>>)) {
        for (i, channels) in self.block.ranges(self.channels).enumerate() {
            for tap in 0..self.taps {
                // The end is one past the last element, not a whole step further.
                let weights = channels.start * self.taps + tap..(channels.end - 1) * self.taps + tap + 1;
                f(i * self.taps + tap, weights.step_by(self.taps));
            }
        }
    }
}
