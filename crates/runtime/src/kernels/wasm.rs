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

use super::Task;
use super::lanes::{Lanes, Magnitudes, Pair, Sums};
use super::round::Rounds;
use super::rule::Rule;
use super::tile::{Form, Isa, Run};
use crate::layout::LANES;

/// The kernel of WebAssembly with SIMD.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Simd128;

impl Isa for Simd128 {
    type Floats = Pair<Pair<v128>>;
    type Sums = Pair<Pair<v128>>;
    const ROWS: usize = 2;
    const DEPTHWISE_ROWS: usize = 2;

    fn detect() -> Option<Self> {
        Some(Self)
    }

    #[inline(never)]
    unsafe fn vectorize<T: Task>(task: T) -> T::Output {
        task.run()
    }

    #[inline(always)]
    unsafe fn multiply<F: Form, const R: usize, const P: usize>(sums: &mut [[Self::Sums; P]; R], run: &Run<R>) {
        let (mut at, mut weights) = (run.at, run.weights);
        let steps = if F::ONE { 1 } else { run.steps };
        // SAFETY: of the caller.
        unsafe {
            for _ in 0..if F::NIBBLES { steps.div_ceil(2) } else { steps } {
                // Codes of a step, and of the next one in the high halves of nibbles.
                let zero = i32x4_splat(0);
                let (mut a, mut b) = ([[zero; 2]; R], [[zero; 2]; R]);
                for r in 0..R {
                    a[r] = pairs(run.codes[r].add(at));
                    if F::NIBBLES {
                        b[r] = pairs(run.codes[r].add(at + 4));
                    }
                }
                for p in 0..P {
                    for v in 0..4 {
                        let q = v128_load(weights.add(p * run.next + v * 16).cast());
                        if F::NIBBLES {
                            let low = [i16x8_shr(i16x8_shl(q, 12), 12), i16x8_shr(i16x8_shl(q, 4), 12)];
                            let high = [i16x8_shr(i16x8_shl(q, 8), 12), i16x8_shr(q, 12)];
                            for r in 0..R {
                                let sum = sums[r][p].quarter_mut(v);
                                *sum = multiply(multiply(*sum, low, a[r]), high, b[r]);
                            }
                        } else {
                            let q = [i16x8_shr(i16x8_shl(q, 8), 8), i16x8_shr(q, 8)];
                            for r in 0..R {
                                let sum = sums[r][p].quarter_mut(v);
                                *sum = multiply(*sum, q, a[r]);
                            }
                        }
                    }
                }
                weights = weights.add(64);
                at += if F::NIBBLES { 8 } else { 4 };
            }
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

/// `x * y + z` of four floats, rounded once. Unless `ANY`, no result may be a rounded denormal: of an integer `y`, such as
/// a dot product, it is exact, since all three are multiples of the smallest denormal.
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

/// Limits and offset of four codes.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    lo: v128,
    hi: v128,
    offset: v128,
}

impl Rounds for Simd128 {
    const FUSED: bool = false;
    type Limits = Limits;

    #[inline(always)]
    unsafe fn limits(rule: &Rule) -> Limits {
        let [lo, hi] = [f32x4_splat(rule.lo as f32), f32x4_splat(rule.hi as f32)];
        Limits { lo, hi, offset: i32x4_splat(rule.offset) }
    }

    #[inline(always)]
    unsafe fn codes(limits: &Limits, x: [Self::Floats; 4], to: *mut u8, n: usize) {
        for i in 0..n.div_ceil(LANES) {
            let Pair(Pair(a, b), Pair(c, d)) = x[i];
            let low = i16x8_narrow_i32x4(limits.four(a), limits.four(b));
            let high = i16x8_narrow_i32x4(limits.four(c), limits.four(d));
            let codes = u8x16_narrow_i16x8(low, high);
            // SAFETY: of the caller.
            unsafe {
                let to = to.add(i * LANES);
                if n >= (i + 1) * LANES {
                    v128_store(to.cast(), codes);
                } else {
                    let mut bytes = [0u8; LANES];
                    v128_store(bytes.as_mut_ptr().cast(), codes);
                    to.copy_from_nonoverlapping(bytes.as_ptr(), n - i * LANES);
                }
            }
        }
    }
}

impl Limits {
    /// The codes of four floats.
    #[inline(always)]
    fn four(&self, x: v128) -> v128 {
        let x = f32x4_pmin(self.hi, f32x4_pmax(self.lo, x));
        i32x4_add(i32x4_trunc_sat_f32x4(f32x4_nearest(x)), self.offset)
    }
}

// `pmax(a, b)` is `a < b ? b : a`, as `limit` chooses for NaNs and zeros.
impl Lanes for v128 {
    const WIDTH: usize = 4;
    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        // SAFETY: of the caller.
        unsafe { v128_load(at.cast()) }
    }
    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: of the caller.
        unsafe { v128_store(at.cast(), self) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        f32x4_splat(x)
    }
    #[inline(always)]
    unsafe fn add(self, y: Self) -> Self {
        f32x4_add(self, y)
    }
    #[inline(always)]
    unsafe fn mul(self, y: Self) -> Self {
        f32x4_mul(self, y)
    }
    #[inline(always)]
    unsafe fn mul_add<const ANY: bool>(self, y: Self, z: Self) -> Self {
        mul_add::<ANY>(self, y, z)
    }
    #[inline(always)]
    unsafe fn at_least(self, lo: Self) -> Self {
        f32x4_pmax(lo, self)
    }
    #[inline(always)]
    unsafe fn at_most(self, hi: Self) -> Self {
        f32x4_pmin(hi, self)
    }
    #[inline(always)]
    unsafe fn note(self, y: Self) -> Self {
        f32x4_add(self, f32x4_mul(y, f32x4_splat(0.0)))
    }
}

impl Magnitudes for v128 {
    #[inline(always)]
    unsafe fn abs_max(self, x: Self) -> Self {
        f32x4_pmax(self, f32x4_abs(x))
    }
    #[inline(always)]
    unsafe fn quarter(self, to: *mut f32) {
        // SAFETY: of the caller.
        unsafe { v128_store(to.cast(), self) }
    }
}

impl Sums for v128 {
    type Floats = v128;
    #[inline(always)]
    unsafe fn zero() -> Self {
        i32x4_splat(0)
    }
    #[inline(always)]
    unsafe fn load(at: *const i32) -> Self {
        // SAFETY: of the caller.
        unsafe { v128_load(at.cast()) }
    }
    #[inline(always)]
    unsafe fn plus(self, y: Self) -> Self {
        i32x4_add(self, y)
    }
    #[inline(always)]
    unsafe fn floats(self) -> v128 {
        f32x4_convert_i32x4(self)
    }
}
