//! Activations in block floating point, made from each input without calibration.
//!
//! At every pixel, up to `B` consecutive channels of one group share a scale `s`, found from their largest magnitude; with
//! [`BlockSize::IMAGE`](crate::BlockSize::IMAGE), all channels of a group do at all pixels of an image:
//! - `pow2`: with `E = floor(log2(max |x|))`, read from the exponent bits, `s = 2^(E-m+2)` for signed input and
//!   `2^(E-m+1)` for input known to be non-negative;
//! - `float`: `s = max |x| / largest code`, one correctly rounded division (of `max |x|` limited to `2^127`).
//!
//! Then, on every engine, `inv = 1 / s` rounded once, and `a = clamp(round_half_even(x * inv))` with one rounded
//! multiplication. The value is `a * s`.
//!
//! The scale is limited to `2^-126 ..= 2^126`, so that it and its reciprocal are normal floats on CPUs that flush
//! denormals too, and so that no value overflows. What follows:
//! - a block whose scale would be smaller is rounded to multiples of `2^-126`: denormals become 0, or round up to `2^-126`;
//! - an all-zero block has mantissas 0 and the scale `2^-126`;
//! - where 2 signed bits, or a float scale, meet magnitudes above `2^126` or `2^127`, those saturate.
use rayon::prelude::*;

use crate::error::{check_finite, check_len, elements};
use crate::{ActivationFormat, ActivationScale, Error, round};

/// The shape of an activation and its block floating point format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActivationSpec {
    /// The shape, `[N, C, H, W]`.
    pub shape: [usize; 4],
    /// The number of equal groups of channels; blocks stay inside a group.
    pub groups: usize,
    /// The bits, block length and scale.
    pub format: ActivationFormat,
    /// Whether mantissas carry a sign. An input that is known to be non-negative, after a ReLU for example, needs none;
    /// its negative elements become 0.
    pub signed: bool,
}

/// An activation in block floating point: `x ~ a * s`, made by [`quantize_activations`].
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedActivations {
    pub(crate) spec: ActivationSpec,
    pub(crate) mantissas: Vec<i16>,
    pub(crate) scales: Vec<f32>,
}

impl QuantizedActivations {
    /// Returns the shape and the format.
    pub fn spec(&self) -> &ActivationSpec {
        &self.spec
    }

    /// Returns the mantissas `a`, `[N, C, H, W]`.
    pub fn mantissas(&self) -> &[i16] {
        &self.mantissas
    }

    /// Returns the scales `s`, `[N, groups * blocks, H, W]`. Block `i` of group `g` is plane `g * blocks + i`. That of a whole
    /// image is repeated at each pixel.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// Returns the number of blocks of one group, `ceil((C / groups) / B)`.
    pub fn blocks(&self) -> usize {
        self.spec.format.block.count(self.spec.shape[1] / self.spec.groups)
    }

    /// Returns `a * s` for every element, `[N, C, H, W]`.
    pub fn dequantize(&self) -> Vec<f32> {
        let ActivationSpec { shape: [batch, channels, height, width], groups, format, .. } = self.spec;
        let (area, group) = (height * width, channels / groups);
        let mut values = vec![0.0; self.mantissas.len()];
        for n in 0..batch {
            for c in 0..channels {
                let block = c / group * self.blocks() + c % group / format.block.len_in(group);
                let plane = (n * groups * self.blocks() + block) * area;
                for pixel in 0..area {
                    let i = (n * channels + c) * area + pixel;
                    values[i] = f32::from(self.mantissas[i]) * self.scales[plane + pixel];
                }
            }
        }
        values
    }
}

/// Turns `x` `[N, C, H, W]` into block floating point. These plain loops are the reference.
///
/// # Errors
/// [`Error::Shape`], [`Error::Length`], [`Error::Groups`], or [`Error::NonFinite`] with the position of the first NaN
/// or infinity.
pub fn quantize_activations(x: &[f32], spec: &ActivationSpec) -> Result<QuantizedActivations, Error> {
    let ActivationSpec { shape, groups, format, signed } = *spec;
    check_len("activation", elements(shape)?, x.len())?;
    let [batch, channels, height, width] = shape;
    if groups == 0 || !channels.is_multiple_of(groups) {
        return Err(Error::Groups { channels, groups });
    }
    check_finite(x)?;
    let (area, group) = (height * width, channels / groups);
    let (lo, hi) = format.code_range(signed);
    let rounding = Rounding::new(format, signed);
    let mut mantissas = vec![0; x.len()];
    let mut scales = Vec::with_capacity(batch * groups * format.block.count(group) * area);
    for first in (0..batch * channels).step_by(group) {
        let largest = |elements: &mut dyn Iterator<Item = usize>| elements.map(|i| x[i].abs()).fold(0.0, f32::max);
        let whole = format.block.is_image().then(|| largest(&mut (first * area..(first + group) * area)));
        for block in format.block.ranges(group) {
            for pixel in 0..area {
                let elements = block.clone().map(|c| (first + c) * area + pixel);
                let max = whole.unwrap_or_else(|| largest(&mut elements.clone()));
                let (scale, inv) = rounding.scale(max);
                for i in elements {
                    mantissas[i] = (x[i] * inv).round_ties_even().clamp(lo as f32, hi as f32) as i16;
                }
                scales.push(scale);
            }
        }
    }
    Ok(QuantizedActivations { spec: *spec, mantissas, scales })
}

/// Writes the block floating point values of `x` to `out`, both `[N, C, H, W]`. This is the fast twin of
/// [`quantize_activations`] followed by [`QuantizedActivations::dequantize`] and gives the same bits; it reads and writes
/// memory once, in parallel.
///
/// A block that holds a NaN or an infinity becomes all NaN, so that a loss shows it.
///
/// # Panics
/// Panics if a slice does not have the length of the shape, or if the groups do not divide the channels.
pub fn dequantized_activations(x: &[f32], spec: &ActivationSpec, out: &mut [f32]) {
    let ActivationSpec { shape, groups, format, signed } = *spec;
    let [_, channels, height, width] = shape;
    assert_eq!(x.len(), shape.iter().product::<usize>(), "activation of shape {shape:?}");
    assert_eq!(out.len(), x.len(), "output of an activation of shape {shape:?}");
    assert!(groups > 0 && channels.is_multiple_of(groups), "{channels} channels in {groups} groups");
    if x.is_empty() {
        return;
    }
    let (mut area, mut group) = (height * width, channels / groups);
    if format.block.is_image() {
        // All elements of a group are a block at one pixel.
        (area, group) = (1, group * area);
    }
    let block = format.block.len_in(group) * area;
    let rounding = Rounding::new(format, signed);
    // Chunks of whole groups, so that the last block of each may be shorter.
    x.par_chunks(group * area)
        .zip(out.par_chunks_mut(group * area))
        .flat_map(|(x, out)| x.par_chunks(block).zip(out.par_chunks_mut(block)))
        .for_each(|(x, out)| if area == 1 { rounding.vector(x, out) } else { rounding.planes(x, area, out) });
}

/// The bits of `f32::INFINITY`. Magnitudes compare as their bits do, and NaNs lie above.
const INFINITY_BITS: i32 = 0x7f80_0000;
/// The number of pixels whose scales are kept at a time.
const STRIP: usize = 256;
/// The number of elements that stay in cache between finding a block's largest magnitude and rounding the block.
const STRIP_ELEMENTS: usize = 16 * 1024;

/// The rounding of blocks to one format.
struct Rounding {
    scale: ActivationScale,
    lo: f32,
    hi: f32,
    /// The difference between the exponent of the largest magnitude and that of a `pow2` scale: `m - 2` for signed input,
    /// `m - 1` for unsigned.
    shift: i32,
}

impl Rounding {
    fn new(format: ActivationFormat, signed: bool) -> Self {
        let (lo, hi) = format.code_range(signed);
        let shift = i32::from(format.bits.get()) - if signed { 2 } else { 1 };
        Self { scale: format.scale, lo: lo as f32, hi: hi as f32, shift }
    }

    /// Returns the scale of a block of finite elements and its reciprocal, rounded once.
    #[inline(always)]
    fn scale(&self, max: f32) -> (f32, f32) {
        match self.scale {
            ActivationScale::Pow2 => {
                // Biased exponents 1 and 253 are 2^-126 and 2^126. That of a zero or denormal is 0 and always limited.
                let exponent = ((max.to_bits() >> 23) as i32 - self.shift).clamp(1, 253) as u32;
                (f32::from_bits(exponent << 23), f32::from_bits((254 - exponent) << 23))
            }
            ActivationScale::Float => {
                let scale = round::limit(max, 0.0, two_to(127)) / self.hi;
                let scale = round::limit(scale, two_to(-126), two_to(126));
                (scale, 1.0 / scale)
            }
        }
    }

    /// Returns [`Rounding::scale`] of a magnitude that is given as bits; the scale is NaN where that is not finite.
    #[inline(always)]
    fn scale_of_bits(&self, max: i32) -> (f32, f32) {
        let (scale, inv) = self.scale(f32::from_bits(max as u32));
        (if max >= INFINITY_BITS { f32::NAN } else { scale }, inv)
    }

    #[inline(always)]
    fn value(&self, x: f32, scale: f32, inv: f32) -> f32 {
        round::round(x * inv, self.lo, self.hi) * scale
    }

    /// Rounds one block at one pixel, `[len]`.
    fn vector(&self, x: &[f32], out: &mut [f32]) {
        let (scale, inv) = self.scale_of_bits(x.iter().fold(0, |max, &x| max.max(magnitude(x))));
        for (out, &x) in out.iter_mut().zip(x) {
            *out = self.value(x, scale, inv);
        }
    }

    /// Rounds one block at all pixels, `[len, area]`, in strips of pixels, so that the second pass finds its input in cache.
    fn planes(&self, x: &[f32], area: usize, out: &mut [f32]) {
        let len = x.len() / area;
        let strip = (STRIP_ELEMENTS / len).clamp(16, STRIP);
        let (mut max, mut scale, mut inv) = ([0; STRIP], [0.0; STRIP], [0.0; STRIP]);
        for start in (0..area).step_by(strip) {
            let pixels = start..(start + strip).min(area);
            let max = &mut max[..pixels.len()];
            max.fill(0);
            for x in x.chunks_exact(area) {
                for (max, &x) in max.iter_mut().zip(&x[pixels.clone()]) {
                    *max = (*max).max(magnitude(x));
                }
            }
            for ((scale, inv), &max) in scale.iter_mut().zip(&mut inv).zip(&*max) {
                (*scale, *inv) = self.scale_of_bits(max);
            }
            for (x, out) in x.chunks_exact(area).zip(out.chunks_exact_mut(area)) {
                let elements = out[pixels.clone()].iter_mut().zip(&x[pixels.clone()]);
                for ((out, &x), (&scale, &inv)) in elements.zip(scale.iter().zip(&inv)) {
                    *out = self.value(x, scale, inv);
                }
            }
        }
    }
}

/// Returns the bits of `|x|`, a non-negative i32.
#[inline(always)]
fn magnitude(x: f32) -> i32 {
    (x.to_bits() & 0x7fff_ffff) as i32
}

/// Returns `2^exponent` for the exponent of a normal float.
const fn two_to(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Bits, BlockSize};

    fn format(bits: u8, block: usize, scale: ActivationScale) -> ActivationFormat {
        ActivationFormat { bits: Bits::new(bits).unwrap(), block: BlockSize::new(block).unwrap(), scale }
    }

    fn one_pixel(x: &[f32], format: ActivationFormat, signed: bool) -> QuantizedActivations {
        quantize_activations(x, &ActivationSpec { shape: [1, x.len(), 1, 1], groups: 1, format, signed }).unwrap()
    }

    #[test]
    fn pow2_follows_the_exponent_of_the_largest_magnitude() {
        // m = 4, max 5: E = 2, s = 2^(2-4+2) = 1. -2.5 -> -2 (half to even), 0.75 -> 1.
        let x = one_pixel(&[5.0, -2.5, 0.75], format(4, 3, ActivationScale::Pow2), true);
        assert_eq!((x.scales[0], x.mantissas), (1.0, vec![5, -2, 1]));
        // Unsigned: s = 2^(2-4+1) = 0.5, one bit more.
        let x = one_pixel(&[5.0, 2.5, 0.75], format(4, 3, ActivationScale::Pow2), false);
        assert_eq!((x.scales[0], x.mantissas), (0.5, vec![10, 5, 2]));
    }

    #[test]
    fn pow2_saturates_just_below_the_next_power() {
        // m = 4, max 7.9: s = 1, 7.9 -> 8, clamped to 7. Unsigned: s = 0.5, 15.8 -> 16, clamped to 15.
        assert_eq!(one_pixel(&[7.9, -7.9], format(4, 2, ActivationScale::Pow2), true).mantissas, [7, -7]);
        assert_eq!(one_pixel(&[7.9], format(4, 2, ActivationScale::Pow2), false).mantissas, [15]);
    }

    #[test]
    fn float_puts_the_largest_magnitude_on_the_largest_code() {
        // Signed m = 8: s = 2.54 / 127 = 0.02, 1.0 -> 50. Unsigned: s = 2.55 / 255 = 0.01.
        assert_eq!(one_pixel(&[-2.54, 1.0], format(8, 2, ActivationScale::Float), true).mantissas, [-127, 50]);
        assert_eq!(one_pixel(&[2.55, 1.0], format(8, 2, ActivationScale::Float), false).mantissas, [255, 100]);
    }

    #[test]
    fn negative_elements_of_an_unsigned_input_become_zero() {
        for scale in [ActivationScale::Pow2, ActivationScale::Float] {
            assert_eq!(one_pixel(&[-1.0, 0.5], format(8, 2, scale), false).mantissas[0], 0);
        }
    }

    #[test]
    fn zero_and_denormal_blocks_have_the_smallest_normal_scale() {
        for scale in [ActivationScale::Pow2, ActivationScale::Float] {
            for signed in [true, false] {
                let x = one_pixel(&[0.0, -0.0], format(8, 2, scale), signed);
                assert_eq!((x.scales[0], &*x.mantissas), (f32::MIN_POSITIVE, &[0, 0][..]));
                // 2^-149 is 2^-23 of a step; 0.9 * 2^-126 rounds up to one.
                let x = one_pixel(&[1e-45, 0.9 * f32::MIN_POSITIVE], format(8, 2, scale), signed);
                assert_eq!((x.scales[0], &*x.mantissas), (f32::MIN_POSITIVE, &[0, 1][..]));
            }
        }
    }

    #[test]
    fn huge_values_stay_finite_at_every_width() {
        for bits in 2..=8 {
            for scale in [ActivationScale::Pow2, ActivationScale::Float] {
                for signed in [true, false] {
                    let x = one_pixel(&[f32::MAX, 1e38], format(bits, 2, scale), signed);
                    let value = x.dequantize()[0];
                    // In the worst case, a signed 2-bit mantissa, the value saturates at 2^126.
                    assert!(value.is_finite() && value >= two_to(126), "{bits} {scale} {signed}: {value}");
                }
            }
        }
    }

    #[test]
    fn nan_and_infinity_are_errors_here_and_all_nan_in_the_fast_twin() {
        let format = format(8, 2, ActivationScale::Float);
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let x = [1.0, 1.0, bad, 1.0];
            for shape in [[1, 4, 1, 1], [1, 2, 1, 2]] {
                let spec = ActivationSpec { shape, groups: 1, format, signed: true };
                let error = quantize_activations(&x, &spec).unwrap_err();
                assert_eq!(error, Error::NonFinite { index: 2 });
                let mut out = [0.0; 4];
                dequantized_activations(&x, &spec, &mut out);
                // [1, 4, 1, 1]: blocks {0, 1}, {2, 3}. [1, 2, 1, 2]: pixels {0, 2}, {1, 3}.
                let nan = if shape[1] == 4 { [false, false, true, true] } else { [true, false, true, false] };
                assert_eq!(out.map(f32::is_nan), nan);
            }
        }
    }

    #[test]
    fn blocks_stay_inside_their_group() {
        // Six channels in two groups of three, blocks of two: {0, 1}, {2}, {3, 4}, {5}.
        let x = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0];
        let format = format(2, 2, ActivationScale::Pow2);
        let spec = ActivationSpec { shape: [1, 6, 1, 1], groups: 2, format, signed: true };
        let x = quantize_activations(&x, &spec).unwrap();
        assert_eq!(x.scales, [2.0, 4.0, 16.0, 32.0]);
        assert_eq!(x.blocks(), 2);
    }

    #[test]
    fn all_pixels_of_an_image_share_the_scale_of_the_largest() {
        // Two images of two channels and two pixels: the largest magnitudes are 7 and 14.
        let x = [1.0, -7.0, 2.0, 0.5, 14.0, 1.0, 3.0, -6.0];
        let format = ActivationFormat { block: BlockSize::IMAGE, ..format(4, 1, ActivationScale::Float) };
        let x =
            quantize_activations(&x, &ActivationSpec { shape: [2, 2, 1, 2], groups: 1, format, signed: true }).unwrap();
        assert_eq!(x.scales, [1.0, 1.0, 2.0, 2.0]);
        assert_eq!(x.mantissas, [1, -7, 2, 0, 7, 0, 2, -3]);
    }

    #[test]
    fn groups_that_do_not_divide_the_channels_are_refused() {
        let format = format(8, 2, ActivationScale::Float);
        for groups in [0, 2] {
            let spec = ActivationSpec { shape: [1, 3, 1, 1], groups, format, signed: true };
            let error = quantize_activations(&[0.0; 3], &spec).unwrap_err();
            assert_eq!(error, Error::Groups { channels: 3, groups });
        }
    }

    fn formats() -> impl Strategy<Value = ActivationFormat> {
        let whole = prop_oneof![Just(BlockSize::PIXEL), Just(BlockSize::IMAGE)];
        let block = prop_oneof![4 => (1..9usize).prop_map(|n| BlockSize::new(n).unwrap()), 2 => whole];
        let scale = prop_oneof![Just(ActivationScale::Pow2), Just(ActivationScale::Float)];
        (2u8..=8, block, scale).prop_map(|(b, block, scale)| ActivationFormat {
            bits: Bits::new(b).unwrap(),
            block,
            scale,
        })
    }

    fn tensors() -> impl Strategy<Value = (Vec<f32>, [usize; 4], usize)> {
        // Pixels beyond one strip, and one pixel, take other paths.
        let area = prop_oneof![4 => (1..6usize, 1..6usize), 2 => Just((1, 1)), 1 => (1..3usize, 250..300usize)];
        let element = prop_oneof![
            8 => -2.0..2.0f32, 1 => Just(0.0f32), 1 => any::<f32>().prop_filter("finite", |x| x.is_finite())
        ];
        (1..3usize, 1..4usize, 1..12usize, area).prop_flat_map(move |(n, groups, group, (h, w))| {
            let shape = [n, groups * group, h, w];
            (prop::collection::vec(element.clone(), shape.iter().product::<usize>()), Just(shape), Just(groups))
        })
    }

    proptest! {
        #[test]
        fn the_fast_twin_gives_the_same_bits((x, shape, groups) in tensors(), format in formats(), signed: bool) {
            let x: Vec<f32> = if signed { x } else { x.iter().map(|x| x.max(0.0)).collect() };
            let spec = ActivationSpec { shape, groups, format, signed };
            let reference = quantize_activations(&x, &spec).unwrap().dequantize();
            let mut out = vec![f32::NAN; x.len()];
            dequantized_activations(&x, &spec, &mut out);
            let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&out), bits(&reference));
        }

        #[test]
        fn mantissas_fit_and_scales_and_their_reciprocals_are_normal(
            (x, shape, groups) in tensors(), format in formats(), signed: bool,
        ) {
            let q = quantize_activations(&x, &ActivationSpec { shape, groups, format, signed }).unwrap();
            let (lo, hi) = format.code_range(signed);
            prop_assert!(q.mantissas.iter().all(|&a| (lo..=hi).contains(&a.into())));
            prop_assert!(q.scales.iter().all(|s| s.is_normal() && (1.0 / s).is_normal() && *s > 0.0));
            prop_assert!(q.dequantize().iter().all(|v| v.is_finite()));
        }

        #[test]
        fn the_error_is_half_a_step_and_at_the_clamp_of_pow2_less_than_one(
            x in prop::collection::vec(-100.0..100.0f32, 1..20), bits in 2u8..=8, signed: bool, e in -80..80i32,
        ) {
            let x: Vec<f32> =
                x.iter().map(|x| if signed { *x } else { x.abs() } * (e as f32).exp2()).collect();
            for scale in [ActivationScale::Pow2, ActivationScale::Float] {
                let format = format(bits, x.len(), scale);
                let q = one_pixel(&x, format, signed);
                let step = f64::from(q.scales[0]);
                let hi = format.code_range(signed).1;
                for (&x, (&a, value)) in x.iter().zip(q.mantissas.iter().zip(q.dequantize())) {
                    // pow2: |x| < 2^(E+1) = (hi + 1) steps (signed and unsigned), so the clamp loses less than one; the
                    // scaling is exact. float: |x| <= hi steps, up to the roundings of s, 1/s and x/s.
                    let bound = match scale {
                        ActivationScale::Pow2 if i32::from(a).abs() == hi => 1.0,
                        ActivationScale::Pow2 => 0.5,
                        ActivationScale::Float => 0.5 + 3.0 * f64::from(f32::EPSILON) * f64::from(hi),
                    };
                    prop_assert!((f64::from(x) - f64::from(value)).abs() <= bound * step);
                }
            }
        }
    }
}
