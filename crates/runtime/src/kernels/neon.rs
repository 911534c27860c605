//! NEON with the dot product instructions of Armv8.2 (`FEAT_DotProd`): 16 outputs are four vectors, 4 pixels by 16 outputs
//! of integer sums in registers.
//!
//! `sdot` multiplies signed bytes, `udot` unsigned ones, and codes are unsigned while weights are signed. A code with its
//! top bit flipped is the signed byte `code - 128`, so `sdot` sums `q * (code - 128)`, and what each sum
//! starts from has `128 * sum(q)` in it. All factors are bytes for 2 to 8 bits of either, signed or not, so the
//! sums are exact; where inputs are signed the flipped code is the mantissa, and no start is left. `usdot` would save the
//! flip, one instruction for 16 codes, but only newer CPUs have it.
use std::arch::aarch64::*;
use std::arch::asm;

use super::lanes::{Lanes, end};
use super::{ConvCall, Kernel, PlanesCall, QuantizeCall, Task, Wants, depthwise, scalar};
use crate::layout::LANES;

/// Pixels of a tile.
const MR: usize = 4;
/// Floats of a vector.
const WIDTH: usize = 4;
/// Vectors of a panel.
const VECTORS: usize = LANES / WIDTH;

/// The kernel of CPUs with NEON's dot products.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NeonDot(());

impl Kernel for NeonDot {
    const WANTS: Wants = Wants { signed_codes: true, ..Wants::USUAL };

    fn new() -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("dotprod").then_some(Self(()))
    }

    fn conv(&self, call: &ConvCall<'_>, _: &mut [u8], out: &mut [f32], stride: usize) -> bool {
        call.check(out, stride);
        // SAFETY: the CPU has the instructions, or there would be no `self`; `check` bounds every access.
        unsafe { conv(call, out, stride) }
    }

    fn quantize(&self, call: &QuantizeCall<'_>, codes: &mut [u8], scales: &mut [f32]) {
        call.check(codes, scales);
        if call.layout.depthwise {
            return depthwise::quantize::<true>(call, codes, scales);
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

#[target_feature(enable = "neon,dotprod")]
unsafe fn conv(call: &ConvCall<'_>, out: &mut [f32], stride: usize) -> bool {
    let w = call.weights;
    if w.depthwise {
        return depthwise::conv::<Floats, 4>(call, out, stride);
    }
    // SAFETY: this function's features have the instructions.
    let mut noted = unsafe { Floats::splat(0.0) };
    for panel in call.panels.clone() {
        let mut first = 0;
        while first < call.pixels.len() {
            let rows = (call.pixels.len() - first).min(MR);
            let tile = Tile { call, panel, first, out: out.as_mut_ptr(), stride };
            // SAFETY: `call` was checked; the tile lies in it.
            noted = unsafe {
                match (w.two_level(), w.nibbles) {
                    (false, false) => tile.run::<false, false>(rows, noted),
                    (false, true) => tile.run::<false, true>(rows, noted),
                    (true, false) => tile.run::<true, false>(rows, noted),
                    (true, true) => tile.run::<true, true>(rows, noted),
                }
            };
            first += rows;
        }
    }
    // SAFETY: as above.
    unsafe { noted.finite() }
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

/// Sums of 16 outputs.
type Floats = [float32x4_t; VECTORS];

impl Lanes for Floats {
    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        // SAFETY: of the caller.
        unsafe { std::array::from_fn(|v| vld1q_f32(at.add(v * WIDTH))) }
    }
    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        for v in 0..VECTORS {
            // SAFETY: of the caller.
            unsafe { vst1q_f32(at.add(v * WIDTH), self[v]) };
        }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: of the caller.
        unsafe { [vdupq_n_f32(x); VECTORS] }
    }
    #[inline(always)]
    unsafe fn add(self, y: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { std::array::from_fn(|v| vaddq_f32(self[v], y[v])) }
    }
    #[inline(always)]
    unsafe fn mul(self, y: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { std::array::from_fn(|v| vmulq_f32(self[v], y[v])) }
    }
    #[inline(always)]
    unsafe fn mul_add<const ANY: bool>(self, y: Self, z: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { std::array::from_fn(|v| vfmaq_f32(z[v], self[v], y[v])) }
    }
    #[inline(always)]
    unsafe fn limit(self, lo: Self, hi: Self) -> Self {
        // SAFETY: of the caller.
        unsafe {
            std::array::from_fn(|v| {
                let y = vbslq_f32(vcgtq_f32(self[v], lo[v]), self[v], lo[v]);
                vbslq_f32(vcltq_f32(y, hi[v]), y, hi[v])
            })
        }
    }
    #[inline(always)]
    unsafe fn note(self, y: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { std::array::from_fn(|v| vfmaq_f32(self[v], y[v], vdupq_n_f32(0.0))) }
    }
}

impl Tile<'_> {
    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn run<const TWO: bool, const NIBBLES: bool>(self, rows: usize, noted: Floats) -> Floats {
        // SAFETY: of the caller.
        unsafe {
            match rows {
                4 => self.dense::<4, TWO, NIBBLES>(noted),
                3 => self.dense::<3, TWO, NIBBLES>(noted),
                2 => self.dense::<2, TWO, NIBBLES>(noted),
                _ => self.dense::<1, TWO, NIBBLES>(noted),
            }
        }
    }

    /// Integer sums of each segment, then one multiply-add in floats for each output.
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn dense<const R: usize, const TWO: bool, const NIBBLES: bool>(self, noted: Floats) -> Floats {
        let Tile { call, panel, first, .. } = self;
        let w = call.weights;
        let group = w.panels[panel].group;
        let (bytes, floats) = (call.layout.bytes, call.layout.scales);
        let scale_stride = w.taps * w.segments.len() * LANES;
        let zero = vdupq_n_s32(0);
        // SAFETY: `ConvCall::check` held for every pixel, tap, panel and segment. A vector of codes may reach behind the
        // last pixel, by less than `SLACK`: only the bytes of this segment are multiplied, or weights of 0.
        unsafe {
            let mut codes = [std::ptr::null::<u8>(); R];
            let mut scales = [std::ptr::null::<f32>(); R];
            for r in 0..R {
                let pixel = *call.pixels.get_unchecked(first + r) as usize;
                codes[r] = call.codes.as_ptr().add(pixel * bytes + group * w.group_bytes);
                scales[r] = call.scales.as_ptr().add(pixel * floats + group * w.group_scales);
            }
            let mut weights = w.weights.as_ptr().cast::<i8>().add(panel * w.panel_bytes);
            let mut alpha = w.alpha.as_ptr().wrapping_add(panel * scale_stride);
            let mut start = w.start.as_ptr().wrapping_add(panel * scale_stride);
            let mut sum: [Floats; R] = [[vdupq_n_f32(0.0); VECTORS]; R];
            for &tap in call.taps {
                let mut at = tap as usize * bytes;
                let scale_at = tap as usize * floats;
                for segment in &w.segments {
                    let mut dot = [[zero; VECTORS]; R];
                    if !w.start.is_empty() {
                        for v in 0..VECTORS {
                            let s = vld1q_s32(start.add(v * WIDTH));
                            for r in 0..R {
                                dot[r][v] = s;
                            }
                        }
                    }
                    let mut steps = segment.steps;
                    if NIBBLES {
                        while steps > 0 {
                            let mut a = [vdupq_n_s8(0); R];
                            for r in 0..R {
                                a[r] = flip(vcombine_u8(vld1_u8(codes[r].add(at)), vdup_n_u8(0)));
                            }
                            let packed = load(weights);
                            step::<0, R>(&mut dot, packed.map(|q| vshrq_n_s8::<4>(vshlq_n_s8::<4>(q))), &a);
                            step::<1, R>(&mut dot, packed.map(|q| vshrq_n_s8::<4>(q)), &a);
                            weights = weights.add(64);
                            at += 4 * steps.min(2);
                            steps -= steps.min(2);
                        }
                    }
                    while steps >= 4 {
                        let mut a = [vdupq_n_s8(0); R];
                        for r in 0..R {
                            a[r] = flip(vld1q_u8(codes[r].add(at)));
                        }
                        step::<0, R>(&mut dot, load(weights), &a);
                        step::<1, R>(&mut dot, load(weights.add(64)), &a);
                        step::<2, R>(&mut dot, load(weights.add(128)), &a);
                        step::<3, R>(&mut dot, load(weights.add(192)), &a);
                        weights = weights.add(256);
                        at += 16;
                        steps -= 4;
                    }
                    while steps > 0 {
                        let mut a = [vdupq_n_s8(0); R];
                        for r in 0..R {
                            let word = codes[r].add(at).cast::<u32>().read_unaligned();
                            a[r] = flip(vreinterpretq_u8_u32(vdupq_n_u32(word)));
                        }
                        step::<0, R>(&mut dot, load(weights), &a);
                        weights = weights.add(64);
                        at += 4;
                        steps -= 1;
                    }
                    for r in 0..R {
                        let s = vdupq_n_f32(*scales[r].add(scale_at + segment.scale));
                        for v in 0..VECTORS {
                            let factor = if TWO { s } else { vmulq_f32(vld1q_f32(alpha.add(v * WIDTH)), s) };
                            sum[r][v] = vfmaq_f32(sum[r][v], factor, vcvtq_f32_s32(dot[r][v]));
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

/// `code - 128` as signed bytes.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn flip(codes: uint8x16_t) -> int8x16_t {
    vreinterpretq_s8_u8(veorq_u8(codes, vdupq_n_u8(0x80)))
}

/// 64 bytes: four inputs of 16 outputs.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn load(weights: *const i8) -> [int8x16_t; VECTORS] {
    // SAFETY: of the caller.
    unsafe { [vld1q_s8(weights), vld1q_s8(weights.add(16)), vld1q_s8(weights.add(32)), vld1q_s8(weights.add(48))] }
}

/// Adds the products of four inputs of 16 outputs with the codes `4 * LANE ..` of `R` pixels.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn step<const LANE: usize, const R: usize>(
    dot: &mut [[int32x4_t; VECTORS]; R],
    q: [int8x16_t; VECTORS],
    a: &[int8x16_t; R],
) {
    for v in 0..VECTORS {
        for r in 0..R {
            // The intrinsic `vdotq_laneq_s32` is not stable.
            // SAFETY: the instruction reads and writes these registers only, and this function's features have it.
            unsafe {
                asm!(
                    "sdot {sum:v}.4s, {q:v}.16b, {a:v}.4b[{lane}]",
                    sum = inout(vreg) dot[r][v],
                    q = in(vreg) q[v],
                    a = in(vreg) a[r],
                    lane = const LANE,
                    options(pure, nomem, nostack, preserves_flags)
                );
            }
        }
    }
}

/// Largest magnitude.
fn largest(x: &[f32]) -> f32 {
    let (vectors, rest) = x.as_chunks::<WIDTH>();
    // SAFETY: every aarch64 CPU with an operating system has NEON; each load reads a whole chunk.
    let max = unsafe {
        let mut max = vdupq_n_f32(0.0);
        for x in vectors {
            max = vmaxnmq_f32(max, vabsq_f32(vld1q_f32(x.as_ptr())));
        }
        vmaxnmvq_f32(max)
    };
    rest.iter().fold(max, |max, x| max.max(x.abs()))
}

/// The codes of a block: [`scalar::Rule::code`] of each element.
fn round(rule: &scalar::Rule, x: &[f32], inv: f32, codes: &mut [u8]) {
    let (vectors, rest) = x.as_chunks::<LANES>();
    let (bytes, last) = codes.split_at_mut(vectors.len() * LANES);
    // SAFETY: every aarch64 CPU with an operating system has NEON; loads and stores are of whole chunks.
    unsafe {
        let (lo, hi) = (vdupq_n_f32(rule.lo as f32), vdupq_n_f32(rule.hi as f32));
        let (inv, offset) = (vdupq_n_f32(inv), vdupq_n_s32(rule.offset));
        let part = |x: *const f32| {
            let t = vminnmq_f32(vmaxnmq_f32(vmulq_f32(vld1q_f32(x), inv), lo), hi);
            // To the nearest integer, half to even.
            vmovn_u32(vreinterpretq_u32_s32(vaddq_s32(vcvtnq_s32_f32(t), offset)))
        };
        for (x, bytes) in vectors.iter().zip(bytes.as_chunks_mut::<LANES>().0) {
            let x = x.as_ptr();
            let low = vcombine_u16(part(x), part(x.add(WIDTH)));
            let high = vcombine_u16(part(x.add(2 * WIDTH)), part(x.add(3 * WIDTH)));
            vst1q_u8(bytes.as_mut_ptr(), vcombine_u8(vmovn_u16(low), vmovn_u16(high)));
        }
    }
    for (code, &x) in last.iter_mut().zip(rest) {
        *code = rule.code(x, inv);
    }
}
