//! WebAssembly's SIMD of 128 bits: 2 pixels by 16 outputs.
//!
//! `i32x4.dot_i16x8_s` multiplies pairs of 16-bit integers and adds them in 32 bits: exact for every byte. Weights lie as
//! four inputs of an output after each other; shifts of 16 bits make of 16 bytes the inputs 0 and 2 of four outputs, and
//! 1 and 3, so that no sum crosses outputs.
//!
//! There is no fused multiply-add, and that of relaxed SIMD may round once or twice. Here the product is exact in f64, and
//! the sum is rounded to odd where rounding it again to f32 could go wrong (see [`math::mul_add`](crate::math)).
//!
//! The whole engine is compiled with or without these instructions: there is nothing to detect at run time.
use std::arch::wasm32::*;

use super::lanes::{Lanes, end};
use super::{ConvCall, Kernel, PlanesCall, QuantizeCall, Task, depthwise, scalar};
use crate::layout::LANES;

/// Pixels of a tile.
const MR: usize = 2;
/// Floats of a vector.
const WIDTH: usize = 4;
/// Vectors of a panel.
const VECTORS: usize = LANES / WIDTH;

/// The kernel of WebAssembly with SIMD.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Simd128;

impl Kernel for Simd128 {
    fn new() -> Option<Self> {
        Some(Self)
    }

    fn conv(&self, call: &ConvCall<'_>, _: &mut [u8], out: &mut [f32], stride: usize) -> bool {
        call.check(out, stride);
        let w = call.weights;
        if w.depthwise {
            return depthwise::conv::<Panel16, MR>(call, out, stride);
        }
        let mut noted = [f32x4_splat(0.0); VECTORS];
        for panel in call.panels.clone() {
            let mut first = 0;
            while first < call.pixels.len() {
                let pair = call.pixels.len() - first >= MR;
                let tile = Tile { call, panel, first, out: out.as_mut_ptr(), stride };
                // SAFETY: `check` bounds every access; the tile lies in the call.
                noted = unsafe {
                    match (w.two_level(), w.nibbles, pair) {
                        (false, false, true) => tile.dense::<2, false, false>(noted),
                        (false, false, false) => tile.dense::<1, false, false>(noted),
                        (false, true, true) => tile.dense::<2, false, true>(noted),
                        (false, true, false) => tile.dense::<1, false, true>(noted),
                        (true, false, true) => tile.dense::<2, true, false>(noted),
                        (true, false, false) => tile.dense::<1, true, false>(noted),
                        (true, true, true) => tile.dense::<2, true, true>(noted),
                        (true, true, false) => tile.dense::<1, true, true>(noted),
                    }
                };
                first += if pair { MR } else { 1 };
            }
        }
        // SAFETY: the engine was compiled for these instructions.
        unsafe { noted.finite() }
    }

    fn quantize(&self, call: &QuantizeCall<'_>, codes: &mut [u8], scales: &mut [f32]) {
        call.check(codes, scales);
        if call.layout.depthwise {
            return depthwise::quantize::<false>(call, codes, scales);
        }
        scalar::quantize_with(call, codes, scales, largest, round);
    }

    fn quantize_planes(&self, call: &PlanesCall<'_>, codes: &mut [u8], scales: &mut [f32]) {
        scalar::quantize_planes(call, codes, scales);
    }

    fn run<T: Task>(&self, task: T) -> T::Output {
        task.run()
    }
}

/// Some pixels and a panel of a checked call.
#[derive(Clone, Copy)]
struct Tile<'a> {
    call: &'a ConvCall<'a>,
    panel: usize,
    first: usize,
    out: *mut f32,
    stride: usize,
}

/// Vectors of 16 outputs.
type Panel16 = [v128; VECTORS];

impl Lanes for Panel16 {
    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        // SAFETY: of the caller.
        unsafe { std::array::from_fn(|v| v128_load(at.add(v * WIDTH).cast())) }
    }
    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        for v in 0..VECTORS {
            // SAFETY: of the caller.
            unsafe { v128_store(at.add(v * WIDTH).cast(), self[v]) };
        }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        [f32x4_splat(x); VECTORS]
    }
    #[inline(always)]
    unsafe fn add(self, y: Self) -> Self {
        std::array::from_fn(|v| f32x4_add(self[v], y[v]))
    }
    #[inline(always)]
    unsafe fn mul(self, y: Self) -> Self {
        std::array::from_fn(|v| f32x4_mul(self[v], y[v]))
    }
    #[inline(always)]
    unsafe fn mul_add<const ANY: bool>(self, y: Self, z: Self) -> Self {
        std::array::from_fn(|v| mul_add::<ANY>(self[v], y[v], z[v]))
    }
    #[inline(always)]
    unsafe fn limit(self, lo: Self, hi: Self) -> Self {
        // As `limit` chooses for NaNs and zeros: `pmax(a, b)` is `a < b ? b : a`.
        std::array::from_fn(|v| f32x4_pmin(hi[v], f32x4_pmax(lo[v], self[v])))
    }
    #[inline(always)]
    unsafe fn note(self, y: Self) -> Self {
        std::array::from_fn(|v| f32x4_add(self[v], f32x4_mul(y[v], f32x4_splat(0.0))))
    }
}

impl Tile<'_> {
    /// Integer sums of each segment, then one multiply-add in floats for each output.
    unsafe fn dense<const R: usize, const TWO: bool, const NIBBLES: bool>(self, noted: Panel16) -> Panel16 {
        let Tile { call, panel, first, .. } = self;
        let w = call.weights;
        let group = w.panels[panel].group;
        let (bytes, floats) = (call.layout.bytes, call.layout.scales);
        let scale_stride = w.taps * w.segments.len() * LANES;
        let zero = i32x4_splat(0);
        // SAFETY: `ConvCall::check` held for every pixel, tap, panel and segment; after an odd number of steps of 4-bit
        // weights, codes behind the segment are multiplied by weights of 0, and `SLACK` bytes follow the last pixel.
        unsafe {
            let mut codes = [std::ptr::null::<u8>(); R];
            let mut scales = [std::ptr::null::<f32>(); R];
            for r in 0..R {
                let pixel = *call.pixels.get_unchecked(first + r) as usize;
                codes[r] = call.codes.as_ptr().add(pixel * bytes + group * w.group_bytes);
                scales[r] = call.scales.as_ptr().add(pixel * floats + group * w.group_scales);
            }
            let mut weights = w.weights.as_ptr().add(panel * w.panel_bytes);
            let mut alpha = w.alpha.as_ptr().wrapping_add(panel * scale_stride);
            let mut start = w.start.as_ptr().wrapping_add(panel * scale_stride);
            let mut sum: [Panel16; R] = [[f32x4_splat(0.0); VECTORS]; R];
            for &tap in call.taps {
                let mut at = tap as usize * bytes;
                let scale_at = tap as usize * floats;
                for segment in &w.segments {
                    let mut dot: [Panel16; R] = [[zero; VECTORS]; R];
                    if !w.start.is_empty() {
                        for v in 0..VECTORS {
                            let s = v128_load(start.add(v * WIDTH).cast());
                            for r in 0..R {
                                dot[r][v] = s;
                            }
                        }
                    }
                    if NIBBLES {
                        for line in 0..segment.steps.div_ceil(2) {
                            // Codes of the low halves, and of the high ones.
                            let mut a = [[zero; 2]; R];
                            let mut b = [[zero; 2]; R];
                            for r in 0..R {
                                a[r] = pairs(codes[r].add(at + line * 8));
                                b[r] = pairs(codes[r].add(at + line * 8 + 4));
                            }
                            for v in 0..VECTORS {
                                let q = v128_load(weights.add(v * 16).cast());
                                let low = [i16x8_shr(i16x8_shl(q, 12), 12), i16x8_shr(i16x8_shl(q, 4), 12)];
                                let high = [i16x8_shr(i16x8_shl(q, 8), 12), i16x8_shr(q, 12)];
                                for r in 0..R {
                                    dot[r][v] = multiply(multiply(dot[r][v], low, a[r]), high, b[r]);
                                }
                            }
                            weights = weights.add(64);
                        }
                        at += segment.steps * 4;
                    } else {
                        for _ in 0..segment.steps {
                            let mut a = [[zero; 2]; R];
                            for r in 0..R {
                                a[r] = pairs(codes[r].add(at));
                            }
                            for v in 0..VECTORS {
                                let q = v128_load(weights.add(v * 16).cast());
                                let q = [i16x8_shr(i16x8_shl(q, 8), 8), i16x8_shr(q, 8)];
                                for r in 0..R {
                                    dot[r][v] = multiply(dot[r][v], q, a[r]);
                                }
                            }
                            weights = weights.add(64);
                            at += 4;
                        }
                    }
                    for r in 0..R {
                        let s = f32x4_splat(*scales[r].add(scale_at + segment.scale));
                        for v in 0..VECTORS {
                            let factor = if TWO { s } else { f32x4_mul(v128_load(alpha.add(v * WIDTH).cast()), s) };
                            sum[r][v] = accumulate(sum[r][v], factor, f32x4_convert_i32x4(dot[r][v]));
                        }
                    }
                    alpha = alpha.wrapping_add(LANES);
                    start = start.wrapping_add(LANES);
                }
            }
            end(call, panel, first, self.out, self.stride, sum, noted)
        }
    }
}

/// Four codes as pairs of 16 bits, four times each: 0 and 2, 1 and 3.
#[inline(always)]
unsafe fn pairs(codes: *const u8) -> [v128; 2] {
    // SAFETY: of the caller.
    let a = unsafe { v128_load32_splat(codes.cast()) };
    [v128_and(a, i16x8_splat(0xff)), u16x8_shr(a, 8)]
}

/// Adds the products of four inputs of four outputs.
#[inline(always)]
fn multiply(sum: v128, q: [v128; 2], a: [v128; 2]) -> v128 {
    i32x4_add(sum, i32x4_add(i32x4_dot_i16x8(q[0], a[0]), i32x4_dot_i16x8(q[1], a[1])))
}

/// `factor * dot + sum`, rounded once, of integers `dot`: a denormal result is exact, since all three are multiples of
/// the smallest denormal.
#[inline(always)]
fn accumulate(sum: v128, factor: v128, dot: v128) -> v128 {
    mul_add::<false>(factor, dot, sum)
}

/// `x * y + z` of four floats, rounded once. Unless `ANY`, no result may be a rounded denormal.
#[inline(always)]
fn mul_add<const ANY: bool>(x: v128, y: v128, z: v128) -> v128 {
    let high = |v: v128| f64x2_promote_low_f32x4(i64x2_shuffle::<1, 1>(v, v));
    let low = |v: v128| f64x2_promote_low_f32x4(v);
    let first = f32x4_demote_f64x2_zero(sum_to_odd::<ANY>(f64x2_mul(low(x), low(y)), low(z)));
    let second = f32x4_demote_f64x2_zero(sum_to_odd::<ANY>(f64x2_mul(high(x), high(y)), high(z)));
    i64x2_shuffle::<0, 2>(first, second)
}

/// `p + z`, rounded to odd; unless `ANY`, only where it lies half way between two normal f32: nowhere else does rounding
/// again give another result.
#[inline(always)]
fn sum_to_odd<const ANY: bool>(p: v128, z: v128) -> v128 {
    let sum = f64x2_add(p, z);
    let half = i64x2_eq(v128_and(sum, i64x2_splat(0x1fff_ffff)), i64x2_splat(0x1000_0000));
    if ANY || v128_any_true(half) { to_odd(p, z, sum) } else { sum }
}

#[cold]
#[inline(never)]
fn to_odd(p: v128, z: v128, sum: v128) -> v128 {
    // Knuth's two-sum: what rounding took off, exactly. Of an infinite sum it is NaN, which is not greater than 0.
    let part = f64x2_sub(sum, p);
    let error = f64x2_add(f64x2_sub(p, f64x2_sub(sum, part)), f64x2_sub(z, part));
    let inexact = f64x2_gt(f64x2_abs(error), f64x2_splat(0.0));
    let even = i64x2_eq(v128_and(sum, i64x2_splat(1)), i64x2_splat(0));
    // 1 away from 0 where the signs are equal, else -1.
    let one = v128_or(i64x2_shr(v128_xor(error, sum), 63), i64x2_splat(1));
    i64x2_add(sum, v128_and(one, v128_and(inexact, even)))
}

/// Largest magnitude.
fn largest(x: &[f32]) -> f32 {
    let (vectors, rest) = x.as_chunks::<WIDTH>();
    let mut max = f32x4_splat(0.0);
    for x in vectors {
        // `pmax(a, b)` is `a < b ? b : a`: NaNs are left out.
        max = f32x4_pmax(max, f32x4_abs(f32x4(x[0], x[1], x[2], x[3])));
    }
    let max = f32x4_pmax(max, i64x2_shuffle::<1, 0>(max, max));
    let max = f32x4_extract_lane::<0>(max).max(f32x4_extract_lane::<1>(max));
    rest.iter().fold(max, |max, x| max.max(x.abs()))
}

/// The codes of a block: [`scalar::Rule::code`] of each element.
fn round(rule: &scalar::Rule, x: &[f32], inv: f32, codes: &mut [u8]) {
    let (vectors, rest) = x.as_chunks::<LANES>();
    let (bytes, last) = codes.split_at_mut(vectors.len() * LANES);
    let (lo, hi) = (f32x4_splat(rule.lo as f32), f32x4_splat(rule.hi as f32));
    let (splat, offset) = (f32x4_splat(inv), i32x4_splat(rule.offset));
    for (x, bytes) in vectors.iter().zip(bytes.as_chunks_mut::<LANES>().0) {
        let part = |i: usize| {
            let x = f32x4(x[i], x[i + 1], x[i + 2], x[i + 3]);
            let t = f32x4_pmin(hi, f32x4_pmax(lo, f32x4_mul(x, splat)));
            i32x4_add(i32x4_trunc_sat_f32x4(f32x4_nearest(t)), offset)
        };
        let low = i16x8_narrow_i32x4(part(0), part(4));
        let high = i16x8_narrow_i32x4(part(8), part(12));
        let all = u8x16_narrow_i16x8(low, high);
        // SAFETY: 16 bytes are written to 16.
        unsafe { v128_store(bytes.as_mut_ptr().cast(), all) };
    }
    for (code, &x) in last.iter_mut().zip(rest) {
        *code = rule.code(x, inv);
    }
}
