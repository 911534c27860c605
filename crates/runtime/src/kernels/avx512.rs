//! AVX-512 VNNI: 16 outputs a vector, 6 pixels by 32 outputs in registers.
use std::arch::x86_64::*;

use blockfloat::ActivationScale;

use super::scalar::{Rule, quantize as quantize_plain, two_to};
use super::{ConvCall, Kernel, KernelName, QuantizeCall, scalar};
use crate::layout::LANES;
use crate::ops::{self, Memory};
use crate::plan::Step;

/// Pixels of a tile.
const MR: usize = 6;

/// The kernel of CPUs with AVX-512 F, BW, DQ, VL and VNNI.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512Vnni(());

impl Avx512Vnni {
    /// `None` where the CPU lacks an instruction.
    pub fn new() -> Option<Self> {
        let here = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("fma");
        here.then_some(Self(()))
    }
}

impl Kernel for Avx512Vnni {
    fn name(&self) -> KernelName {
        KernelName::Avx512Vnni
    }

    fn conv(&self, call: &ConvCall<'_>, out: &mut [f32], stride: usize) {
        call.check(out, stride);
        // SAFETY: the CPU has the instructions, or there would be no `self`; `check` bounds every access.
        unsafe { conv(call, out, stride) }
    }

    fn quantize(&self, call: &QuantizeCall<'_>, codes: &mut [u8], scales: &mut [f32]) {
        call.check(codes, scales);
        // SAFETY: the CPU has the instructions, or there would be no `self`; `check` bounds every access.
        unsafe { quantize(call, codes, scales) }
    }

    fn compute(&self, step: &Step, memory: &Memory<'_>, first: usize, count: usize, out: &mut [f32], stride: usize) {
        // SAFETY: the CPU has the instructions, or there would be no `self`.
        unsafe { compute(step, memory, first, count, out, stride) }
    }

    fn finish(&self, step: &Step, memory: &Memory<'_>, first: usize, count: usize, out: &mut [f32], stride: usize) {
        // SAFETY: the CPU has the instructions, or there would be no `self`.
        unsafe { finish(step, memory, first, count, out, stride) }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
fn compute(step: &Step, memory: &Memory<'_>, first: usize, count: usize, out: &mut [f32], stride: usize) {
    ops::compute(step, memory, first, count, out, stride);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
fn finish(step: &Step, memory: &Memory<'_>, first: usize, count: usize, out: &mut [f32], stride: usize) {
    ops::finish(step, memory, first, count, out, stride);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
unsafe fn conv(call: &ConvCall<'_>, out: &mut [f32], stride: usize) {
    let w = call.weights;
    if w.depthwise || w.nibbles {
        // TODO
        return scalar::conv(call, out, stride);
    }
    let mut panel = call.panels.start;
    while panel < call.panels.end {
        // Two panels at once where they read the same channels.
        let pair = panel + 1 < call.panels.end && w.panels[panel].group == w.panels[panel + 1].group;
        let mut first = 0;
        while first < call.pixels.len() {
            let rows = (call.pixels.len() - first).min(MR);
            let tile = Tile { call, panel, first, out: out.as_mut_ptr(), stride };
            // SAFETY: `call` was checked; the tile lies in it.
            unsafe {
                match (w.two_level(), !w.start.is_empty()) {
                    (false, false) => tile.run::<false, false>(rows, pair),
                    (false, true) => tile.run::<false, true>(rows, pair),
                    (true, false) => tile.run::<true, false>(rows, pair),
                    (true, true) => tile.run::<true, true>(rows, pair),
                }
            }
            first += rows;
        }
        panel += if pair { 2 } else { 1 };
    }
}

/// Some pixels and one or two panels of a checked call.
#[derive(Clone, Copy)]
struct Tile<'a> {
    call: &'a ConvCall<'a>,
    panel: usize,
    first: usize,
    out: *mut f32,
    stride: usize,
}

impl Tile<'_> {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
    unsafe fn run<const TWO: bool, const START: bool>(self, rows: usize, pair: bool) {
        // SAFETY: of the caller.
        unsafe {
            match (rows, pair) {
                (6, true) => self.tile::<6, 2, TWO, START>(),
                (5, true) => self.tile::<5, 2, TWO, START>(),
                (4, true) => self.tile::<4, 2, TWO, START>(),
                (3, true) => self.tile::<3, 2, TWO, START>(),
                (2, true) => self.tile::<2, 2, TWO, START>(),
                (_, true) => self.tile::<1, 2, TWO, START>(),
                (6, false) => self.tile::<6, 1, TWO, START>(),
                (5, false) => self.tile::<5, 1, TWO, START>(),
                (4, false) => self.tile::<4, 1, TWO, START>(),
                (3, false) => self.tile::<3, 1, TWO, START>(),
                (2, false) => self.tile::<2, 1, TWO, START>(),
                (_, false) => self.tile::<1, 1, TWO, START>(),
            }
        }
    }

    /// `R` pixels by `P` panels: integer sums of a segment and float sums of all, both in registers.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
    unsafe fn tile<const R: usize, const P: usize, const TWO: bool, const START: bool>(self) {
        let Tile { call, panel, first, .. } = self;
        let w = call.weights;
        let group = w.panels[panel].group;
        let (bytes, floats) = (call.layout.bytes, call.layout.scales);
        let segments = w.segments.len();
        let scale_stride = w.taps * segments * LANES;
        // SAFETY: `ConvCall::check` held for every pixel, tap, panel and segment.
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
            let mut sum = [[_mm512_setzero_ps(); P]; R];
            for &tap in call.taps {
                let mut at = tap as usize * bytes;
                let scale_at = tap as usize * floats;
                for segment in &w.segments {
                    let mut dot = [[_mm512_setzero_si512(); P]; R];
                    if START {
                        for p in 0..P {
                            let s = _mm512_loadu_si512(start.add(p * scale_stride).cast());
                            for r in 0..R {
                                dot[r][p] = s;
                            }
                        }
                    }
                    for _ in 0..segment.steps {
                        let mut q = [_mm512_setzero_si512(); P];
                        for p in 0..P {
                            q[p] = _mm512_loadu_si512(weights.add(p * w.panel_bytes).cast());
                        }
                        for r in 0..R {
                            let a = _mm512_set1_epi32(codes[r].add(at).cast::<i32>().read_unaligned());
                            for p in 0..P {
                                dot[r][p] = _mm512_dpbusd_epi32(dot[r][p], a, q[p]);
                            }
                        }
                        at += 4;
                        weights = weights.add(64);
                    }
                    for p in 0..P {
                        let alpha = if TWO { _mm512_setzero_ps() } else { _mm512_loadu_ps(alpha.add(p * scale_stride)) };
                        for r in 0..R {
                            let s = _mm512_set1_ps(*scales[r].add(scale_at + segment.scale));
                            let factor = if TWO { s } else { _mm512_mul_ps(alpha, s) };
                            sum[r][p] = _mm512_fmadd_ps(factor, _mm512_cvtepi32_ps(dot[r][p]), sum[r][p]);
                        }
                    }
                    alpha = alpha.wrapping_add(LANES);
                    start = start.wrapping_add(LANES);
                }
            }
            for p in 0..P {
                let panel_of = w.panels.get_unchecked(panel + p);
                let mask = mask(panel_of.lanes);
                let lane = (panel + p) * LANES;
                let channel = TWO.then(|| _mm512_loadu_ps(w.channel.as_ptr().add(lane)));
                let bias = (!w.bias.is_empty()).then(|| _mm512_loadu_ps(w.bias.as_ptr().add(lane)));
                for r in 0..R {
                    let mut y = match (channel, bias) {
                        (Some(s), Some(bias)) => _mm512_fmadd_ps(sum[r][p], s, bias),
                        (Some(s), None) => _mm512_mul_ps(sum[r][p], s),
                        (None, Some(bias)) => _mm512_add_ps(sum[r][p], bias),
                        (None, None) => sum[r][p],
                    };
                    if let Some(residual) = call.residual {
                        let at = residual.data.as_ptr().add((first + r) * residual.stride + panel_of.first);
                        y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(mask, at));
                    }
                    if let Some((lo, hi)) = call.clamp {
                        y = _mm512_min_ps(_mm512_max_ps(y, _mm512_set1_ps(lo)), _mm512_set1_ps(hi));
                    }
                    _mm512_mask_storeu_ps(self.out.add((first + r) * self.stride + panel_of.first), mask, y);
                }
            }
        }
    }
}

/// The lowest `lanes` of 16.
#[inline(always)]
fn mask(lanes: usize) -> __mmask16 {
    if lanes >= 16 { 0xffff } else { (1 << lanes) - 1 }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
unsafe fn quantize(call: &QuantizeCall<'_>, codes: &mut [u8], scales: &mut [f32]) {
    let layout = call.layout;
    let _ = (two_to(0), ActivationScale::Float, Rule::new(layout));
    quantize_plain(call, codes, scales);
}
