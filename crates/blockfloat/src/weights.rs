//! Quantized weights: an integer kernel and its block scales.
use rayon::prelude::*;

use crate::error::{check_finite, check_len, elements};
use crate::rules::BlockQuantizer;
use crate::{Bits, BlockSize, Error, TapScales, TwoLevel, WeightFormat};

/// The weights of a convolution: codes `q` of `b` bits and a signed scale `alpha` for each block, `w ~ alpha * q`
/// (the paper's VQK and KDS, section 3). A block is up to `B` consecutive input channels of one filter at one tap.
///
/// Codes have the weight's shape `[Co, Ci/G, Kh, Kw]`, scales `[Co, blocks, Kh, Kw]` with
/// `blocks = ceil((Ci/G) / B)`, equal ones at all taps where these share them. Every code lies in `-2^(b-1) ..= 2^(b-1)-1` and every scale is finite. Scales may have
/// two levels: [`QuantizedWeights::two_level`].
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedWeights {
    pub(crate) shape: [usize; 4],
    pub(crate) bits: Bits,
    pub(crate) block: BlockSize,
    pub(crate) codes: Vec<i8>,
    pub(crate) scales: Vec<f32>,
    pub(crate) two_level: Option<TwoLevel>,
}

impl QuantizedWeights {
    /// Quantizes `weights` of `shape` `[Co, Ci/G, Kh, Kw]`, output channels in parallel. The result does not depend on
    /// the number of threads. An all-zero block has codes 0 and the scale 0.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Length`], [`Error::ImageBlock`], or [`Error::NonFinite`] with the position of the first NaN
    /// or infinity.
    pub fn quantize(weights: &[f32], shape: [usize; 4], format: WeightFormat) -> Result<Self, Error> {
        Ok(Self::quantize_unless(weights, shape, format, &|| false)?.expect("nothing stops it"))
    }

    /// Quantizes as [`quantize`](Self::quantize) does, unless `stop`, which is asked before every filter, says yes: then the result
    /// is `None`.
    ///
    /// # Errors
    /// As [`quantize`](Self::quantize).
    pub fn quantize_unless(
        weights: &[f32],
        shape: [usize; 4],
        format: WeightFormat,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<Self>, Error> {
        let WeightFormat { bits, block, rule, taps } = format;
        check_len("weights", elements(shape)?, weights.len())?;
        check_finite(weights)?;
        check_block(block)?;
        if taps == TapScales::Shared && shape[2] * shape[3] > 1 {
            let (one, long) = as_one_tap(shape, block);
            let found = Self::quantize_unless(weights, one, WeightFormat::new(bits, long, rule), stop)?;
            return Ok(found.map(|found| found.at_all_taps(shape, block)));
        }
        let layout = BlockLayout::new(shape, block);
        let mut codes = vec![0; weights.len()];
        let mut scales = vec![0.0; layout.scales()];
        let filters = weights.par_chunks(layout.filter).zip(codes.par_chunks_mut(layout.filter));
        let done = filters.zip(scales.par_chunks_mut(layout.filter_scales)).try_for_each_init(
            || (BlockQuantizer::new(bits, rule), Vec::new()),
            |(quantizer, buffer), ((weights, codes), scales)| {
                if stop() {
                    return None;
                }
                layout.for_each_block(|scale, block| {
                    buffer.clear();
                    buffer.extend(block.clone().map(|i| weights[i]));
                    scales[scale] = quantizer.quantize(buffer);
                    block.zip(quantizer.codes()).for_each(|(i, &q)| codes[i] = q);
                });
                Some(())
            },
        );
        Ok(done.map(|()| Self { shape, bits, block, codes, scales, two_level: None }))
    }

    /// Makes quantized weights of codes `[Co, Ci/G, Kh, Kw]` and scales `[Co, blocks, Kh, Kw]` that are known already, from
    /// a file for example.
    ///
    /// # Errors
    /// [`Error::Shape`]; [`Error::Length`] where codes or scales do not have the length of their shape;
    /// [`Error::CodeRange`]; [`Error::NonFiniteScale`]; [`Error::ImageBlock`].
    pub fn from_parts(
        shape: [usize; 4],
        bits: Bits,
        block: BlockSize,
        codes: Vec<i8>,
        scales: Vec<f32>,
    ) -> Result<Self, Error> {
        check_len("codes", elements(shape)?, codes.len())?;
        check_block(block)?;
        check_scales(&scales, BlockLayout::new(shape, block).scales())?;
        check_codes(&codes, bits)?;
        Ok(Self { shape, bits, block, codes, scales, two_level: None })
    }

    /// Returns these weights of one tap, whose blocks hold all taps of a filter's blocks, as those of `shape`.
    pub(crate) fn at_all_taps(self, shape: [usize; 4], block: BlockSize) -> Self {
        let taps = shape[2] * shape[3];
        let Self { bits, codes, scales, two_level, .. } = self;
        let scales = repeated(&scales, taps);
        let two_level = two_level.map(|levels| TwoLevel::new(levels.channel, repeated(&levels.factors, taps)));
        Self { shape, bits, block, codes, scales, two_level }
    }

    /// Returns weights whose taps share scales as those of one tap, whose blocks hold all taps; without a second level.
    pub(crate) fn joined(&self) -> Self {
        let (shape, block) = as_one_tap(self.shape, self.block);
        let scales = self.scales.iter().step_by(self.shape[2] * self.shape[3]).copied().collect();
        Self { shape, bits: self.bits, block, codes: self.codes.clone(), scales, two_level: None }
    }

    /// Tells whether the taps of every filter share scales. Those of one tap have them for themselves.
    pub fn tap_scales(&self) -> TapScales {
        fn equal<T: PartialEq>(scales: &[T], taps: usize) -> bool {
            scales.chunks_exact(taps).all(|scales| scales.iter().all(|scale| *scale == scales[0]))
        }
        let taps = self.shape[2] * self.shape[3];
        let shared = match &self.two_level {
            Some(levels) => equal(&levels.factors, taps),
            None => equal(&self.scales, taps),
        };
        if taps > 1 && shared { TapScales::Shared } else { TapScales::Own }
    }

    /// Returns the shape of the weights, `[Co, Ci/G, Kh, Kw]`.
    pub fn shape(&self) -> [usize; 4] {
        self.shape
    }

    /// Returns the bits of a code.
    pub fn bits(&self) -> Bits {
        self.bits
    }

    /// Returns the number of channels that share a scale.
    pub fn block(&self) -> BlockSize {
        self.block
    }

    /// Returns the codes `q`, `[Co, Ci/G, Kh, Kw]`.
    pub fn codes(&self) -> &[i8] {
        &self.codes
    }

    /// Returns the scales `alpha`, in the shape [`QuantizedWeights::scale_shape`].
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// Returns the shape of the scales, `[Co, blocks, Kh, Kw]`.
    pub fn scale_shape(&self) -> [usize; 4] {
        let [co, cg, kh, kw] = self.shape;
        [co, self.block.count(cg), kh, kw]
    }

    /// Returns `alpha * q` for every weight, `[Co, Ci/G, Kh, Kw]`.
    pub fn dequantize(&self) -> Vec<f32> {
        let layout = BlockLayout::new(self.shape, self.block);
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

    /// Multiplies every scale of output channel `o` by `factors[o]`. A batch normalisation, or any other factor a channel,
    /// is folded into the weights in this way; the codes stay.
    ///
    /// # Errors
    /// [`Error::Length`] unless there are `Co` factors; [`Error::NonFiniteScale`] where a product is NaN or infinite. The
    /// weights are then as before.
    pub fn scale_channels(&mut self, factors: &[f32]) -> Result<(), Error> {
        check_len("channel factors", self.shape[0], factors.len())?;
        let (scales, two_level) = match &self.two_level {
            Some(levels) => {
                let channel = levels.channel.iter().zip(factors).map(|(s, factor)| s * factor).collect();
                let levels = TwoLevel::new(channel, levels.factors.clone());
                (levels.scales(), Some(levels))
            }
            None => {
                let filters = self.scales.chunks(BlockLayout::new(self.shape, self.block).filter_scales).zip(factors);
                (filters.flat_map(|(scales, factor)| scales.iter().map(move |alpha| alpha * factor)).collect(), None)
            }
        };
        check_scales(&scales, self.scales.len())?;
        (self.scales, self.two_level) = (scales, two_level);
        Ok(())
    }
}

/// Returns the shape of filters whose taps are channels, and the length of blocks that hold all taps: a filter's weights of a block
/// lie side by side.
fn as_one_tap([co, cg, kh, kw]: [usize; 4], block: BlockSize) -> ([usize; 4], BlockSize) {
    let block = match block.get() {
        Some(_) => BlockSize::new(block.len_in(cg) * kh * kw).expect("a block has weights"),
        None => block,
    };
    ([co, cg * kh * kw, 1, 1], block)
}

fn repeated<T: Copy>(values: &[T], times: usize) -> Vec<T> {
    values.iter().flat_map(|&value| std::iter::repeat_n(value, times)).collect()
}

/// Checks that weights can have blocks of this length.
pub(crate) fn check_block(block: BlockSize) -> Result<(), Error> {
    if block.is_image() { Err(Error::ImageBlock) } else { Ok(()) }
}

pub(crate) fn check_codes(codes: &[i8], bits: Bits) -> Result<(), Error> {
    let range = bits.signed_min()..=bits.signed_max();
    match codes.iter().position(|&q| !range.contains(&q.into())) {
        None => Ok(()),
        Some(index) => Err(Error::CodeRange { index, code: codes[index].into(), bits: bits.get() }),
    }
}

fn check_scales(scales: &[f32], expected: usize) -> Result<(), Error> {
    check_len("scales", expected, scales.len())?;
    match scales.iter().position(|s| !s.is_finite()) {
        None => Ok(()),
        Some(index) => Err(Error::NonFiniteScale { index }),
    }
}

/// The positions of blocks in a weight tensor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockLayout {
    filters: usize,
    channels: usize,
    block: BlockSize,
    /// `Kh * Kw`, the distance between neighbouring channels.
    taps: usize,
    /// The number of weights of a filter.
    pub filter: usize,
    /// The number of scales of a filter.
    pub filter_scales: usize,
}

impl BlockLayout {
    pub fn new([filters, channels, kh, kw]: [usize; 4], block: BlockSize) -> Self {
        let taps = kh * kw;
        let (filter, filter_scales) = (channels * taps, block.count(channels) * taps);
        Self { filters, channels, block, taps, filter, filter_scales }
    }

    /// Returns the number of scales of all filters.
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

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ScaleRule;
    use crate::rules::{least_squares, round_codes};

    fn format(bits: u8, block: usize, rule: ScaleRule) -> WeightFormat {
        WeightFormat::new(Bits::new(bits).unwrap(), BlockSize::new(block).unwrap(), rule)
    }

    /// Makes tensors small enough for plain loops, with blocks that divide their channels and blocks that do not.
    pub(crate) fn tensors() -> impl Strategy<Value = (Vec<f32>, [usize; 4], BlockSize)> {
        let shape = (1..4usize, 1..12usize, 1..4usize, 1..3usize);
        let block =
            prop_oneof![4 => (1..16usize).prop_map(|n| BlockSize::new(n).unwrap()), 1 => Just(BlockSize::PIXEL)];
        (shape, block).prop_flat_map(|((a, b, c, d), block)| {
            let weight = prop_oneof![8 => -1.0..1.0f32, 1 => Just(0.0f32)];
            (prop::collection::vec(weight, a * b * c * d), Just([a, b, c, d]), Just(block))
        })
    }

    /// Calls `f(weights, codes, alpha)` for every block of all filters.
    fn for_each_block(weights: &[f32], q: &QuantizedWeights, mut f: impl FnMut(&[f32], &[i8], f32)) {
        let layout = BlockLayout::new(q.shape, q.block);
        let filters = weights.chunks(layout.filter).zip(q.codes.chunks(layout.filter));
        for ((weights, codes), scales) in filters.zip(q.scales.chunks(layout.filter_scales)) {
            layout.for_each_block(|scale, block| {
                let (w, q): (Vec<f32>, Vec<i8>) = block.map(|i| (weights[i], codes[i])).unzip();
                f(&w, &q, scales[scale]);
            });
        }
    }

    #[test]
    fn quantization_that_is_stopped_has_no_result() {
        let asked = std::sync::atomic::AtomicUsize::new(0);
        let stop = || asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 5;
        let format = format(4, 2, ScaleRule::Mse);
        assert_eq!(QuantizedWeights::quantize_unless(&[1.0; 64], [32, 2, 1, 1], format, &stop), Ok(None));
    }

    #[test]
    fn a_block_is_consecutive_channels_of_one_filter_at_one_tap() {
        // [Co=1, Cg=3, Kh=1, Kw=2] in blocks of 2: channels {0, 1} and {2} at each of the two taps.
        // Tap 0 holds 8, -4, 2; tap 1 holds 80, -40, 20.
        let w = [8.0, 80.0, -4.0, -40.0, 2.0, 20.0];
        let w = QuantizedWeights::quantize(&w, [1, 3, 1, 2], format(4, 2, ScaleRule::L2)).unwrap();
        assert_eq!(w.scale_shape(), [1, 2, 1, 2]);
        assert_eq!(w.scales(), [-1.0, -10.0, -0.25, -2.5]);
        assert_eq!(w.codes(), [-8, -8, 4, 4, -8, -8]);
        assert_eq!(w.dequantize(), [8.0, 80.0, -4.0, -40.0, 2.0, 20.0]);
    }

    #[test]
    fn a_block_longer_than_the_channels_is_one_block() {
        let w = QuantizedWeights::quantize(&[1.0; 6], [2, 3, 1, 1], format(4, 64, ScaleRule::Mse)).unwrap();
        assert_eq!(w.scale_shape(), [2, 1, 1, 1]);
    }

    #[test]
    fn taps_that_share_a_scale_are_one_block() {
        // [Co=1, Cg=3, Kh=1, Kw=2] in blocks of 2: channels {0, 1} at both taps, and {2}.
        let w = [8.0, 4.0, -4.0, -2.0, 2.5, 20.0];
        let format = WeightFormat { taps: TapScales::Shared, ..format(4, 2, ScaleRule::L2) };
        let w = QuantizedWeights::quantize(&w, [1, 3, 1, 2], format).unwrap();
        assert_eq!(w.shape(), [1, 3, 1, 2]);
        assert_eq!(w.scales(), [-1.0, -1.0, -2.5, -2.5]);
        assert_eq!(w.codes(), [-8, -4, 4, 2, -1, -8]);
        assert_eq!(w.tap_scales(), TapScales::Shared);
        let two = w.refit_two_level(&w.dequantize(), ScaleRule::Mse).unwrap();
        assert_eq!((two.shape(), two.block(), two.tap_scales()), (w.shape(), w.block(), TapScales::Shared));
        let levels = two.two_level().unwrap();
        let again = QuantizedWeights::from_parts_two_level(
            w.shape(),
            w.bits(),
            w.block(),
            two.codes().to_vec(),
            levels.clone(),
        );
        assert_eq!(again, Ok(two));
    }

    #[test]
    fn nan_and_infinity_are_errors_that_say_where() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let w = [0.0, 1.0, bad, 2.0];
            let error = QuantizedWeights::quantize(&w, [2, 2, 1, 1], format(4, 2, ScaleRule::Mse)).unwrap_err();
            assert_eq!(error, Error::NonFinite { index: 2 });
        }
    }

    #[test]
    fn denormal_and_huge_weights_quantize() {
        let rules = [ScaleRule::L2, ScaleRule::Kl, ScaleRule::Mse];
        for rule in rules {
            let huge =
                QuantizedWeights::quantize(&[f32::MAX, 0.9 * f32::MAX], [1, 2, 1, 1], format(4, 2, rule)).unwrap();
            assert!(huge.dequantize().iter().all(|v| v.is_finite()), "{rule}");
            let tiny = QuantizedWeights::quantize(&[1e-45, -1e-40], [1, 2, 1, 1], format(4, 2, rule)).unwrap();
            assert!(tiny.dequantize().iter().all(|v| v.abs() <= 1.1e-40), "{rule}");
        }
    }

    #[test]
    fn parts_are_checked() {
        let f = format(3, 2, ScaleRule::L2);
        let parts = |shape, codes: &[i8], scales: &[f32]| {
            QuantizedWeights::from_parts(shape, f.bits, f.block, codes.to_vec(), scales.to_vec()).map(drop)
        };
        assert_eq!(parts([1, 3, 1, 1], &[3, -4, 0], &[1.0, 1.0]), Ok(()));
        assert_eq!(
            parts([1, 3, 1, 1], &[3, -4], &[1.0, 1.0]),
            Err(Error::Length { what: "codes", expected: 3, found: 2 })
        );
        assert_eq!(
            parts([1, 3, 1, 1], &[3, -4, 0], &[1.0]),
            Err(Error::Length { what: "scales", expected: 2, found: 1 })
        );
        assert_eq!(parts([1, 3, 1, 1], &[3, 4, 0], &[1.0, 1.0]), Err(Error::CodeRange { index: 1, code: 4, bits: 3 }));
        assert_eq!(parts([1, 3, 1, 1], &[3, 0, 0], &[1.0, f32::NAN]), Err(Error::NonFiniteScale { index: 1 }));
        assert_eq!(parts([1, 0, 1, 1], &[], &[]), Err(Error::Shape { shape: [1, 0, 1, 1] }));
        let hostile = [usize::MAX, 2, 3, 3];
        assert_eq!(parts(hostile, &[], &[]), Err(Error::Shape { shape: hostile }));
    }

    #[test]
    fn channel_factors_scale_the_channel() {
        let w = QuantizedWeights::quantize(&[8.0, -8.0], [2, 1, 1, 1], format(4, 1, ScaleRule::L2)).unwrap();
        for mut w in [w.clone(), w.to_two_level()] {
            w.scale_channels(&[2.0, -0.5]).unwrap();
            assert_eq!(w.dequantize(), [16.0, 4.0]);
            let error = w.scale_channels(&[2.0]).unwrap_err();
            assert_eq!(error, Error::Length { what: "channel factors", expected: 2, found: 1 });
            assert_eq!(w.scale_channels(&[0.0, f32::INFINITY]), Err(Error::NonFiniteScale { index: 1 }));
            assert_eq!(w.dequantize(), [16.0, 4.0]);
        }
    }

    proptest! {
        #[test]
        fn l2_scales_are_least_squares_and_mse_is_no_worse((w, shape, block) in tensors(), bits in 2u8..=8) {
            let bits = Bits::new(bits).unwrap();
            let quantize = |rule| QuantizedWeights::quantize(&w, shape, WeightFormat::new(bits, block, rule)).unwrap();
            let (l2, mse) = (quantize(ScaleRule::L2), quantize(ScaleRule::Mse));
            for_each_block(&w, &l2, |w, codes, alpha| assert_eq!(least_squares(w, codes, bits), alpha));
            let error = |q: &QuantizedWeights| -> f64 {
                q.dequantize().iter().zip(&w).map(|(a, b)| f64::from(a - b).powi(2)).sum()
            };
            // Slack for summing in another order.
            prop_assert!(error(&mse) <= error(&l2) * (1.0 + 1e-12));
            let parts = (mse.codes().to_vec(), mse.scales().to_vec());
            prop_assert_eq!(QuantizedWeights::from_parts(shape, bits, block, parts.0, parts.1).unwrap(), mse);
        }

        #[test]
        fn quantized_values_are_a_fixed_point((w, shape, block) in tensors(), bits in 2u8..=8) {
            let bits = Bits::new(bits).unwrap();
            let format = WeightFormat::new(bits, block, ScaleRule::Mse);
            let q = QuantizedWeights::quantize(&w, shape, format).unwrap();
            for_each_block(&q.dequantize(), &q, |values, codes, alpha| {
                let mut again = codes.to_vec();
                round_codes(values, alpha, bits, &mut again);
                assert_eq!(again, codes);
            });
        }
    }
}
