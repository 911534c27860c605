//! Depthwise convolutions, for every instruction set: one input channel an output, so that a block is one element.
//!
//! A code `a` with a scale `s` of its own is kept as one float, the *value* `v`, and
//! `sum = fma(fl(alpha * s), q * a, sum)`, the contract's step, is computed from it with the same bits:
//! - `pow2`: `v = a * s` is exact, and so is `fl(alpha * s) = alpha * s`. The step adds `alpha * q * a * s`, rounded once,
//!   which is `fma(alpha * q, v, sum)` where all `alpha * q` are floats (those of 16-bit scales are), and
//!   `fma(alpha, q * v, sum)` anyway;
//! - `float`: `a` is the largest code with the sign of `x`, or 0, and `v` is `s` with that sign, or 0. The step is
//!   `fma(fl(alpha * v), q * largest, sum)`, since rounding is symmetric;
//! - two-level scales have `alpha = 1` here.
//!
//! [`Packed::values`](crate::pack::Packed) and `factors` are these constants. All of it holds where nothing under- or
//! overflows: elements are 0 or [`ORDINARY`], which bounds `s` by `2^-66` and `2^62`, and alphas are 0 or
//! [`ORDINARY_ALPHA`]. Then every term is a multiple of `2^-149`, sums round only where they are large, none is a negative
//! zero, and so the sign of a term of 0 does not matter either. Anything else is computed as the contract writes it: a
//! pixel whose byte is [`RAW`] holds elements as they came, and a call that sees one is left to the plain loops.
use std::ops::{Range, RangeInclusive};

use blockfloat::ActivationScale;

use super::end::{End, Noted, Values};
use super::lanes::Lanes;
use super::rule::Rule;
use super::{ConvCall, QuantizeCall, Rows, STRIP, Target, plain};
use crate::layout::{LANES, Layout, RAW};
use crate::math;

/// The magnitudes of elements that are rounded to values.
const ORDINARY: RangeInclusive<f32> = 1.0 / (1u64 << 48) as f32..=(1u64 << 62) as f32;

/// Computes the outputs of a checked call, up to `most` pixels at a time; returns whether all were finite before their
/// limits.
#[inline(always)]
pub(super) fn conv<V: Lanes>(call: &ConvCall<'_>, most: usize, out: &mut [f32], stride: usize) -> bool {
    let w = call.weights;
    if sees_raw(call) {
        return plain(call, call.panels.clone(), out, stride);
    }
    let mut starts = [0; STRIP];
    lines(call.layout, call.width, call.pixels, &mut starts);
    let mut finite = true;
    // SAFETY: the CPU has the instructions, by the caller.
    let mut noted = unsafe { Noted::<V>::nothing() };
    for panel in call.panels.clone() {
        if !w.ordinary[panel] {
            finite &= plain(call, panel..panel + 1, out, stride);
            continue;
        }
        // SAFETY: as above; `call` was checked, and tiles lie in it.
        noted = unsafe {
            let (values, factors) = (w.values.as_ptr(), w.factors.as_ptr());
            let tile = Tile {
                call,
                panel,
                starts: &starts,
                values,
                factors,
                end: End::new(call, panel, out.as_mut_ptr(), stride, None),
            };
            if w.factors.is_empty() { tile.all::<false>(most, noted) } else { tile.all::<true>(most, noted) }
        };
    }
    // SAFETY: as above.
    finite && unsafe { noted.finite() }
}

/// Finds the first line of each pixel; they rise.
#[inline(always)]
fn lines(layout: &Layout, width: usize, pixels: &[u32], lines: &mut [usize; STRIP]) {
    let mut first = 0;
    while let Some(&pixel) = pixels.get(first) {
        // Pixels of one row, which follow each other: the same is added to each of them.
        let row = pixel as usize / width * width;
        let end = first + pixels[first..].partition_point(|&pixel| (pixel as usize) < row + width).max(1);
        for (line, &pixel) in lines[first..end].iter_mut().zip(&pixels[first..end]) {
            *line = pixel as usize + row * (layout.lines() - 1);
        }
        first = end;
    }
}

/// Tells whether a pixel that the call may read holds elements as they came.
#[inline(always)]
fn sees_raw(call: &ConvCall<'_>) -> bool {
    let (Some(&first), Some(&last)) = (call.pixels.iter().min(), call.pixels.iter().max()) else { return false };
    call.codes[first as usize..=last as usize + call.reach()].contains(&RAW)
}

#[cold]
#[inline(never)]
fn plain(call: &ConvCall<'_>, panels: Range<usize>, out: &mut [f32], stride: usize) -> bool {
    plain::conv(&ConvCall { panels, ..*call }, out, stride)
}

/// A panel of a checked call.
struct Tile<'a, V> {
    call: &'a ConvCall<'a>,
    panel: usize,
    /// The first line of each pixel.
    starts: &'a [usize; STRIP],
    /// [`Fields::values`](crate::pack::Fields::values) and `factors`.
    values: *const f32,
    factors: *const f32,
    end: End<V, 1>,
}

impl<V: Lanes> Tile<'_, V> {
    /// Computes all pixels; returns `noted` with their outputs.
    #[inline(always)]
    unsafe fn all<const TWO: bool>(self, most: usize, mut noted: Noted<V>) -> Noted<V> {
        let count = self.call.pixels.len();
        let mut first = 0;
        while first < count {
            // SAFETY: of the caller.
            (first, noted) = unsafe {
                match most.min(count - first) {
                    8.. => self.run::<8, TWO>(first, noted),
                    4.. => self.run::<4, TWO>(first, noted),
                    2.. => self.run::<2, TWO>(first, noted),
                    _ => self.run::<1, TWO>(first, noted),
                }
            };
        }
        noted
    }

    /// Computes `R` pixels; returns the next one, and `noted` with their outputs.
    #[inline(always)]
    unsafe fn run<const R: usize, const TWO: bool>(&self, first: usize, noted: Noted<V>) -> (usize, Noted<V>) {
        let Self { call, panel, starts, values, factors, .. } = *self;
        let constants = panel * call.taps.len() * LANES;
        // SAFETY: `ConvCall::check` held for every pixel and tap; rows of values have whole panels.
        unsafe {
            let mut sum = [[V::splat(0.0)]; R];
            let mut rows = [std::ptr::null::<f32>(); R];
            for r in 0..R {
                let line = *starts.get_unchecked(first + r) + panel * call.width;
                rows[r] = call.scales.as_ptr().add(line * LANES);
            }
            let mut last = values.add(constants);
            let mut factor = factors.wrapping_add(constants);
            for &tap in call.taps {
                let at = tap as usize * LANES;
                let q = V::load(last);
                let f = if TWO { V::load(factor) } else { q };
                for r in 0..R {
                    let value = V::load(rows[r].add(at));
                    sum[r][0] = q.mul_add::<false>(if TWO { f.mul(value) } else { value }, sum[r][0]);
                }
                last = last.add(LANES);
                factor = factor.wrapping_add(LANES);
            }
            (first + R, self.end.store(first, sum, noted))
        }
    }
}

/// Rounds the rows of a checked call to values; `fused` where the CPU multiplies and adds in one instruction.
#[inline(always)]
pub(super) fn quantize(fused: bool, call: &QuantizeCall<'_>, bytes: &mut [u8], values: &mut [f32]) {
    let layout = call.layout;
    let rule = Rule::new(layout);
    let ordinary = match (rule.kind, layout.signed) {
        (ActivationScale::Pow2, false) => rows(call, values, |x| pow2::<false>(&rule, x)),
        (ActivationScale::Pow2, true) => rows(call, values, |x| pow2::<true>(&rule, x)),
        (ActivationScale::Float, _) => {
            let (hi, inv) = (rule.hi as f32, 1.0 / rule.hi as f32);
            rows(call, values, |x| divide(fused, x, hi, inv))
        }
    };
    if !ordinary {
        rows(call, values, |x| x);
    }
    for &pixel in call.pixels {
        bytes[pixel as usize] = if ordinary { 0 } else { RAW };
    }
}

/// Returns where a call's outputs can be rounded to as they are made: they are not negative, and scales are floats.
pub(super) fn values(call: &ConvCall<'_>, to: &mut Target<'_>) -> Option<Values> {
    let &mut Target { layout, width, pixels, .. } = to;
    // A finite upper limit bounds them, an infinite one does not.
    let limited = |(lo, hi): (f32, f32)| lo.is_sign_positive() && (hi <= *ORDINARY.end() || hi == f32::INFINITY);
    let not_negative = call.clamp.is_some_and(limited);
    let one_group = call.weights.panels.iter().all(|panel| panel.group == 0);
    let all = call.panels == (0..layout.lines()) && !call.weights.depthwise;
    if layout.scale != ActivationScale::Float || layout.signed || !not_negative || !one_group || !all {
        return None;
    }
    assert_eq!(call.pixels.len(), pixels.len(), "a place for each output");
    let x = Rows { data: &*to.scratch, stride: layout.channels };
    QuantizeCall { layout, x, width, pixels, largest: None }.check(to.codes, to.values);
    let mut starts = [0; STRIP];
    lines(layout, width, pixels, &mut starts);
    Some(Values { values: to.values.as_mut_ptr(), lines: starts, width, hi: layout.range.1 as f32 })
}

/// Tells whether all elements are 0 or in [`ORDINARY`], of the least of their bits less 1 and the largest.
pub(super) fn ordinary((least, most): (u32, u32)) -> bool {
    most <= ORDINARY.end().to_bits() && least >= ORDINARY.start().to_bits() - 1
}

/// Writes `round` of each element; returns whether all elements are 0 or in [`ORDINARY`].
#[inline(always)]
fn rows(call: &QuantizeCall<'_>, values: &mut [f32], round: impl Fn(f32) -> f32) -> bool {
    let (layout, count) = (call.layout, call.pixels.len());
    if count == 0 {
        return true;
    }
    let mut starts = [0; STRIP];
    lines(layout, call.width, call.pixels, &mut starts);
    // Bits of the largest and the smallest magnitudes, the latter less 1 so that 0 comes last. A negative element where
    // none is expected has the largest bits of all.
    let keep = if layout.signed { i32::MAX as u32 } else { u32::MAX };
    let (mut largest, mut smallest) = ([0u32; LANES], [u32::MAX; LANES]);
    for panel in 0..layout.lines() {
        let lanes = (layout.channels - panel * LANES).min(LANES);
        let x = &call.x.data[panel * LANES..];
        let mut first = 0;
        while first < count {
            // Pixels side by side.
            let start = starts[first];
            let run = starts[first..count].iter().zip(start..).take_while(|&(&line, next)| line == next).count();
            let values = &mut values[(start + panel * call.width) * LANES..][..run * LANES];
            for (i, values) in (first..).zip(values.as_chunks_mut::<LANES>().0) {
                let x = &x[i * call.x.stride..];
                // After the last element lines have zeros, which are noted as nothing.
                let x = x.first_chunk().filter(|_| lanes == LANES).copied().unwrap_or_else(|| ragged(&x[..lanes]));
                for lane in 0..LANES {
                    let bits = x[lane].to_bits() & keep;
                    largest[lane] = largest[lane].max(bits);
                    smallest[lane] = smallest[lane].min(bits.wrapping_sub(1));
                    values[lane] = round(x[lane]);
                }
            }
            first += run;
        }
    }
    let largest = largest.into_iter().fold(0, u32::max);
    let smallest = smallest.into_iter().fold(u32::MAX, u32::min);
    self::ordinary((smallest, largest))
}

/// Returns the elements with zeros after them.
#[inline(always)]
fn ragged(x: &[f32]) -> [f32; LANES] {
    let mut all = [0.0; LANES];
    all[..x.len()].copy_from_slice(x);
    all
}

/// Returns `a * s` of an element in [`ORDINARY`], or of 0.
#[inline(always)]
fn pow2<const SIGNED: bool>(rule: &Rule, x: f32) -> f32 {
    let exponent = x.to_bits() & 0x7f80_0000;
    // Adding and taking off `1.5 * 2^23 * s` rounds to a multiple of `s`, half to even. Of 0, a normal number does too.
    let shift = (23 - rule.shift) << 23;
    let magic = f32::from_bits((exponent.wrapping_add_signed(shift)) | 0x0040_0000);
    let value = (x + magic) - magic;
    // `hi * s`: as many ones as `hi` has.
    let most = f32::from_bits(exponent | (0x7f_ffff & !(0x7f_ffff >> rule.shift)));
    let value = if value < most { value } else { most };
    if SIGNED && value < -most { -most } else { value }
}

/// Returns `x / hi`, correctly rounded, of an element in [`ORDINARY`], or of 0; `inv` is `1 / hi`.
#[inline(always)]
fn divide(fused: bool, x: f32, hi: f32, inv: f32) -> f32 {
    if !fused {
        return x / hi;
    }
    // Markstein's: the quotient is at most an ulp wrong, its remainder is exact, and one more step rounds it correctly.
    let quotient = x * inv;
    math::mul_add(math::mul_add(-quotient, hi, x), inv, quotient)
}
