//! NEON with the dot product instructions of Armv8.2 (`FEAT_DotProd`): 16 outputs are four vectors, 4 pixels by 16 outputs
//! of integer sums in registers.
//!
//! `sdot` multiplies signed bytes, `udot` unsigned ones, and codes are unsigned while weights are signed. A code with its
//! top bit flipped is the signed byte `code - 128`, so `sdot` sums `q * (code - 128)`, and what each sum
//! starts from has `128 * sum(q)` in it. All factors are bytes for 2 to 8 bits of either, signed or not, so the
//! sums are exact; where inputs are signed the flipped code is the mantissa, and no start is left. `usdot` would save the
//! flip, one instruction for 16 codes, but only newer CPUs have it.
//!
//! [`NeonI8mm`] is for these: `usmmla` multiplies 2 pixels by 8 unsigned codes with 2 outputs by 8 signed weights, twice the
//! products of `sdot`. Its sums of 2 pixels by 2 outputs are put in order after a segment; a last step of four codes takes `usdot`.
use std::arch::aarch64::*;
use std::arch::asm;

use super::instructions::instructions;
use super::lanes::{Lanes, Magnitudes, Pair, Sums};
use super::round::Rounds;
use super::rule::Rule;
use super::tile::{Form, Isa, Run};
use super::{Task, Wants};
use crate::layout::LANES;

/// The kernel of CPUs with NEON's dot products, and with its products of matrices where `MATRICES`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Neon<const MATRICES: bool>(());

/// The kernel of CPUs with NEON's dot products.
pub(crate) type NeonDot = Neon<false>;

/// The kernel of CPUs with NEON's products of matrices (`FEAT_I8MM`).
pub(crate) type NeonI8mm = Neon<true>;

instructions!(is_aarch64_feature_detected, has_neon_dot, run_neon_dot: "neon", "dotprod");
instructions!(is_aarch64_feature_detected, has_neon_i8mm, run_neon_i8mm: "neon", "dotprod", "i8mm");

impl<const MATRICES: bool> Isa for Neon<MATRICES> {
    type Floats = Pair<Pair<float32x4_t>>;
    type Sums = Pair<Pair<int32x4_t>>;
    const WANTS: Wants = Wants { signed_codes: !MATRICES, paired_steps: MATRICES, ..Wants::USUAL };
    const ROWS: usize = if MATRICES { 6 } else { 4 };

    fn detect() -> Option<Self> {
        (if MATRICES { has_neon_i8mm() } else { has_neon_dot() }).then_some(Self(()))
    }

    #[inline(always)]
    unsafe fn vectorize<T: Task>(task: T) -> T::Output {
        // SAFETY: of the caller.
        unsafe { if MATRICES { run_neon_i8mm(task) } else { run_neon_dot(task) } }
    }

    #[inline(always)]
    unsafe fn multiply<F: Form, const R: usize, const P: usize>(sums: &mut [[Self::Sums; P]; R], run: &Run<R>) {
        if MATRICES {
            // SAFETY: of the caller.
            unsafe { multiply_matrices::<F, R, P>(sums, run) };
            return;
        }
        let (mut at, mut weights) = (run.at, run.weights.cast::<i8>());
        let mut left = if F::ONE { 1 } else { run.steps };
        // SAFETY: of the caller. A vector of codes may reach behind the last pixel, by less than `SLACK`: only the bytes of
        // this segment are multiplied, or weights of 0.
        unsafe {
            let mut a = [vdupq_n_s8(0); R];
            if F::NIBBLES {
                while left > 0 {
                    for r in 0..R {
                        a[r] = flip(vcombine_u8(vld1_u8(run.codes[r].add(at)), vdup_n_u8(0)));
                    }
                    for p in 0..P {
                        let packed = load(weights.add(p * run.next));
                        step::<0, R, P>(sums, p, packed.map(|q| vshrq_n_s8::<4>(vshlq_n_s8::<4>(q))), &a);
                        step::<1, R, P>(sums, p, packed.map(|q| vshrq_n_s8::<4>(q)), &a);
                    }
                    weights = weights.add(64);
                    at += 8;
                    left = left.saturating_sub(2);
                }
            }
            while left >= 4 {
                for r in 0..R {
                    a[r] = flip(vld1q_u8(run.codes[r].add(at)));
                }
                for p in 0..P {
                    let weights = weights.add(p * run.next);
                    step::<0, R, P>(sums, p, load(weights), &a);
                    step::<1, R, P>(sums, p, load(weights.add(64)), &a);
                    step::<2, R, P>(sums, p, load(weights.add(128)), &a);
                    step::<3, R, P>(sums, p, load(weights.add(192)), &a);
                }
                weights = weights.add(256);
                at += 16;
                left -= 4;
            }
            while left > 0 {
                for r in 0..R {
                    let word = run.codes[r].add(at).cast::<u32>().read_unaligned();
                    a[r] = flip(vreinterpretq_u8_u32(vdupq_n_u32(word)));
                }
                for p in 0..P {
                    step::<0, R, P>(sums, p, load(weights.add(p * run.next)), &a);
                }
                weights = weights.add(64);
                at += 4;
                left -= 1;
            }
        }
    }
}

/// Returns `code - 128` as signed bytes.
#[inline(always)]
unsafe fn flip(codes: uint8x16_t) -> int8x16_t {
    // SAFETY: of the caller.
    unsafe { vreinterpretq_s8_u8(veorq_u8(codes, vdupq_n_u8(0x80))) }
}

/// Loads 64 bytes: the weights of four inputs and 16 outputs.
#[inline(always)]
unsafe fn load(weights: *const i8) -> [int8x16_t; 4] {
    // SAFETY: of the caller.
    unsafe { [vld1q_s8(weights), vld1q_s8(weights.add(16)), vld1q_s8(weights.add(32)), vld1q_s8(weights.add(48))] }
}

/// Adds the products of four inputs of the 16 outputs of panel `p` with the codes `4 * LANE ..` of `R` pixels.
#[inline(always)]
unsafe fn step<const LANE: usize, const R: usize, const P: usize>(
    sums: &mut [[Pair<Pair<int32x4_t>>; P]; R],
    p: usize,
    q: [int8x16_t; 4],
    a: &[int8x16_t; R],
) {
    for v in 0..4 {
        for r in 0..R {
            // The intrinsic `vdotq_laneq_s32` is not stable.
            // SAFETY: the instruction reads and writes these registers only, and the CPU has it, by the caller.
            unsafe {
                asm!(
                    "sdot {sum:v}.4s, {q:v}.16b, {a:v}.4b[{lane}]",
                    sum = inout(vreg) *sums[r][p].quarter_mut(v),
                    q = in(vreg) q[v],
                    a = in(vreg) a[r],
                    lane = const LANE,
                    options(pure, nomem, nostack, preserves_flags)
                );
            }
        }
    }
}

/// Adds the dot products of a segment, two steps of two pixels and two outputs at a time.
#[inline(always)]
unsafe fn multiply_matrices<F: Form, const R: usize, const P: usize>(
    sums: &mut [[Pair<Pair<int32x4_t>>; P]; R],
    run: &Run<R>,
) {
    let (mut at, mut weights) = (run.at, run.weights.cast::<i8>());
    let mut left = if F::ONE { 1 } else { run.steps };
    // SAFETY: of the caller. Weights of two steps lie together, but for the last one of an odd number.
    unsafe {
        // Pixels `2 i` and `2 i + 1` by the outputs `2 v` and `2 v + 1` of each panel; the last pixel of an odd number is its own pair.
        let mut squares = [[[vdupq_n_s32(0); 8]; P]; R];
        while left >= 2 {
            let mut a = [vdupq_n_u8(0); R];
            for i in 0..R.div_ceil(2) {
                let pixels = [2 * i, (2 * i + 1).min(R - 1)];
                let [first, second] = pixels.map(|r| vld1_u8(run.codes[r].add(at)));
                a[i] = vcombine_u8(first, second);
            }
            for p in 0..P {
                let from = weights.add(p * run.next);
                for v in 0..8 {
                    let q = match (F::NIBBLES, v / 4) {
                        (false, _) => vld1q_s8(from.add(16 * v)),
                        (true, 0) => vshrq_n_s8::<4>(vshlq_n_s8::<4>(vld1q_s8(from.add(16 * v)))),
                        (true, _) => vshrq_n_s8::<4>(vld1q_s8(from.add(16 * (v - 4)))),
                    };
                    for i in 0..R.div_ceil(2) {
                        multiply_square(&mut squares[i][p][v], a[i], q);
                    }
                }
            }
            weights = weights.add(if F::NIBBLES { 64 } else { 128 });
            at += 8;
            left -= 2;
        }
        if left > 0 {
            for r in 0..R {
                let word = run.codes[r].add(at).cast::<u32>().read_unaligned();
                let a = vreinterpretq_u8_u32(vdupq_n_u32(word));
                for p in 0..P {
                    let q = load(weights.add(p * run.next));
                    for v in 0..4 {
                        let q = if F::NIBBLES { vshrq_n_s8::<4>(vshlq_n_s8::<4>(q[v])) } else { q[v] };
                        add_products(sums[r][p].quarter_mut(v), q, a);
                    }
                }
            }
        }
        if !F::ONE {
            for r in 0..R {
                for p in 0..P {
                    for v in 0..4 {
                        let [low, high] = [squares[r / 2][p][2 * v], squares[r / 2][p][2 * v + 1]];
                        let [low, high] = [vreinterpretq_s64_s32(low), vreinterpretq_s64_s32(high)];
                        let four = if r % 2 == 0 { vzip1q_s64(low, high) } else { vzip2q_s64(low, high) };
                        let sum = sums[r][p].quarter_mut(v);
                        *sum = vaddq_s32(*sum, vreinterpretq_s32_s64(four));
                    }
                }
            }
        }
    }
}

/// Adds the products of two pixels' eight codes with two outputs' eight weights: `[pixel, output]`.
#[inline(always)]
unsafe fn multiply_square(sum: &mut int32x4_t, a: uint8x16_t, q: int8x16_t) {
    // The intrinsic `vusmmlaq_s32` is not stable.
    // SAFETY: the instruction reads and writes these registers only, and the CPU has it, by the caller.
    unsafe {
        asm!("usmmla {sum:v}.4s, {a:v}.16b, {q:v}.16b", sum = inout(vreg) *sum, a = in(vreg) a, q = in(vreg) q,
            options(pure, nomem, nostack, preserves_flags));
    }
}

/// Adds the products of four codes, the same ones for all lanes, with four weights a lane.
#[inline(always)]
unsafe fn add_products(sum: &mut int32x4_t, q: int8x16_t, a: uint8x16_t) {
    // The intrinsic `vusdotq_s32` is not stable.
    // SAFETY: the instruction reads and writes these registers only, and the CPU has it, by the caller.
    unsafe {
        asm!("usdot {sum:v}.4s, {a:v}.16b, {q:v}.16b", sum = inout(vreg) *sum, a = in(vreg) a, q = in(vreg) q,
            options(pure, nomem, nostack, preserves_flags));
    }
}

/// The limits and the offset of four codes.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    lo: float32x4_t,
    hi: float32x4_t,
    offset: int32x4_t,
}

impl<const MATRICES: bool> Rounds for Neon<MATRICES> {
    type Limits = Limits;

    #[inline(always)]
    unsafe fn limits(rule: &Rule) -> Limits {
        // SAFETY: of the caller.
        unsafe {
            let [lo, hi] = [vdupq_n_f32(rule.lo as f32), vdupq_n_f32(rule.hi as f32)];
            Limits { lo, hi, offset: vdupq_n_s32(rule.offset) }
        }
    }

    #[inline(always)]
    unsafe fn codes(limits: &Limits, x: [Self::Floats; 4], to: *mut u8, n: usize) {
        for i in 0..n.div_ceil(LANES) {
            let Pair(Pair(a, b), Pair(c, d)) = x[i];
            // SAFETY: of the caller.
            unsafe {
                let low = vcombine_u16(limits.four(a), limits.four(b));
                let high = vcombine_u16(limits.four(c), limits.four(d));
                let codes = vcombine_u8(vmovn_u16(low), vmovn_u16(high));
                let to = to.add(i * LANES);
                if n >= (i + 1) * LANES {
                    vst1q_u8(to, codes);
                } else {
                    let mut bytes = [0; LANES];
                    vst1q_u8(bytes.as_mut_ptr(), codes);
                    to.copy_from_nonoverlapping(bytes.as_ptr(), n - i * LANES);
                }
            }
        }
    }
}

impl Limits {
    /// Returns the codes of four floats.
    #[inline(always)]
    unsafe fn four(&self, x: float32x4_t) -> uint16x4_t {
        // SAFETY: of the caller.
        unsafe {
            let x = vminnmq_f32(vmaxnmq_f32(x, self.lo), self.hi);
            // To the nearest integer, half to even.
            vmovn_u32(vreinterpretq_u32_s32(vaddq_s32(vcvtnq_s32_f32(x), self.offset)))
        }
    }
}

impl Lanes for float32x4_t {
    const WIDTH: usize = 4;
    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        // SAFETY: of the caller.
        unsafe { vld1q_f32(at) }
    }
    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: of the caller.
        unsafe { vst1q_f32(at, self) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: of the caller.
        unsafe { vdupq_n_f32(x) }
    }
    #[inline(always)]
    unsafe fn add(self, y: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { vaddq_f32(self, y) }
    }
    #[inline(always)]
    unsafe fn mul(self, y: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { vmulq_f32(self, y) }
    }
    #[inline(always)]
    unsafe fn mul_add<const ANY: bool>(self, y: Self, z: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { vfmaq_f32(z, self, y) }
    }
    #[inline(always)]
    unsafe fn at_least(self, lo: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { vbslq_f32(vcgtq_f32(self, lo), self, lo) }
    }
    #[inline(always)]
    unsafe fn at_most(self, hi: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { vbslq_f32(vcltq_f32(self, hi), self, hi) }
    }
    #[inline(always)]
    unsafe fn note(self, y: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { vfmaq_f32(self, y, vdupq_n_f32(0.0)) }
    }
}

impl Magnitudes for float32x4_t {
    #[inline(always)]
    unsafe fn abs_max(self, x: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { vmaxnmq_f32(self, vabsq_f32(x)) }
    }
    #[inline(always)]
    unsafe fn quarter(self, to: *mut f32) {
        // SAFETY: of the caller.
        unsafe { self.store(to) }
    }
}

impl Sums for int32x4_t {
    type Floats = float32x4_t;
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: of the caller.
        unsafe { vdupq_n_s32(0) }
    }
    #[inline(always)]
    unsafe fn load(at: *const i32) -> Self {
        // SAFETY: of the caller.
        unsafe { vld1q_s32(at) }
    }
    #[inline(always)]
    unsafe fn plus(self, y: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { vaddq_s32(self, y) }
    }
    #[inline(always)]
    unsafe fn floats(self) -> float32x4_t {
        // SAFETY: of the caller.
        unsafe { vcvtq_f32_s32(self) }
    }
}
