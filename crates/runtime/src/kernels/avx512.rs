//! AVX-512 VNNI: 16 outputs a vector, 6 pixels by 32 outputs in registers.
use std::arch::x86_64::*;

use blockfloat::ActivationScale;

use super::lanes::Lanes;
use super::scalar::{Rule, quantize as quantize_plain, two_to};
use super::{ConvCall, Kernel, KernelName, PlanesCall, QuantizeCall, Residual, depthwise, scalar};
use crate::layout::{LANES, Layout};
use crate::ops::{self, Memory};
use crate::pack::{Panel, Segment};
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

    fn conv(&self, call: &ConvCall<'_>, unpacked: &mut [u8], out: &mut [f32], stride: usize) {
        call.check(out, stride);
        // SAFETY: the CPU has the instructions, or there would be no `self`; `check` bounds every access.
        unsafe { conv(call, unpacked, out, stride) }
    }

    fn quantize(&self, call: &QuantizeCall<'_>, codes: &mut [u8], scales: &mut [f32]) {
        call.check(codes, scales);
        // SAFETY: the CPU has the instructions, or there would be no `self`; `check` bounds every access.
        unsafe { quantize(call, codes, scales) }
    }

    fn quantize_planes(&self, call: &PlanesCall<'_>, codes: &mut [u8], scales: &mut [f32]) {
        // SAFETY: the CPU has the instructions, or there would be no `self`.
        unsafe { quantize_planes(call, codes, scales) }
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
fn quantize_planes(call: &PlanesCall<'_>, codes: &mut [u8], scales: &mut [f32]) {
    scalar::quantize_planes(call, codes, scales);
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
pub(super) unsafe fn conv(call: &ConvCall<'_>, unpacked: &mut [u8], out: &mut [f32], stride: usize) {
    let w = call.weights;
    if w.depthwise {
        return depthwise::conv::<__m512, 8>(call, out, stride);
    }
    // Up to four channels of a colour image: one step a tap.
    let stem = w.segments.len() == 1 && w.segments[0].steps == 1;
    let mut panel = call.panels.start;
    while panel < call.panels.end {
        // Two panels at once where they read the same channels.
        let pair = panel + 1 < call.panels.end && w.panels[panel].group == w.panels[panel + 1].group;
        // Few pixels unpack weights in registers; many share what is unpacked once.
        let bytes = w.unpacked_bytes();
        let in_registers = w.nibbles && (call.pixels.len() < 2 * MR || unpacked.len() < 2 * bytes + 64);
        let (mut weights, mut next) = (w.weights[panel * w.panel_bytes..].as_ptr(), w.panel_bytes);
        if w.nibbles && !in_registers {
            for p in 0..if pair { 2 } else { 1 } {
                // SAFETY: a panel has whole lines; two unpacked ones and a line fit.
                unsafe { unpack(call, panel + p, unpacked[p * bytes..].as_mut_ptr()) };
            }
            (weights, next) = (unpacked.as_ptr(), bytes);
        }
        // A tile of one pixel takes about as long as one of six: 49 pixels are 7 tiles of 7.
        let count = call.pixels.len();
        let most = if pair && !stem && !in_registers && count % MR == 1 && count.is_multiple_of(7) { 7 } else { MR };
        let mut first = 0;
        while first < count {
            let rows = (count - first).min(most);
            let tile = Tile { call, panel, first, weights, next, out: out.as_mut_ptr(), stride };
            // SAFETY: `call` was checked; the tile lies in it.
            unsafe {
                match (w.two_level(), !w.start.is_empty()) {
                    _ if in_registers => tile.nibbles(rows, pair),
                    (false, true) if stem => tile.run::<false, true, true>(rows, pair),
                    (true, true) if stem => tile.run::<true, true, true>(rows, pair),
                    (false, false) => tile.run::<false, false, false>(rows, pair),
                    (false, true) => tile.run::<false, true, false>(rows, pair),
                    (true, false) => tile.run::<true, false, false>(rows, pair),
                    (true, true) => tile.run::<true, true, false>(rows, pair),
                }
            }
            first += rows;
        }
        panel += if pair { 2 } else { 1 };
    }
}

/// Writes a panel's nibbles as bytes; a line more than they take may be written.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
pub(super) unsafe fn unpack(call: &ConvCall<'_>, panel: usize, mut to: *mut u8) {
    let w = call.weights;
    let low = _mm512_set1_epi8(15);
    // Two's complement of each value of a nibble.
    let signed = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1));
    // SAFETY: `ConvCall::check` held for the panel, the caller for where it goes.
    unsafe {
        let mut from = w.weights.as_ptr().add(panel * w.panel_bytes);
        for _ in 0..w.taps {
            for segment in &w.segments {
                for line in 0..segment.steps.div_ceil(2) {
                    let packed = _mm512_loadu_si512(from.cast());
                    let high = _mm512_and_si512(_mm512_srli_epi16::<4>(packed), low);
                    let first = _mm512_shuffle_epi8(signed, _mm512_and_si512(packed, low));
                    let to = to.add(128 * line);
                    _mm512_storeu_si512(to.cast(), first);
                    _mm512_storeu_si512(to.add(64).cast(), _mm512_shuffle_epi8(signed, high));
                    from = from.add(64);
                }
                to = to.add(64 * segment.steps);
            }
        }
    }
}

/// Some pixels and one or two panels of a checked call.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    pub call: &'a ConvCall<'a>,
    pub panel: usize,
    pub first: usize,
    /// The panel's weights, and the distance of the next one's; for [`Tile::nibbles`] not used.
    pub weights: *const u8,
    pub next: usize,
    pub out: *mut f32,
    pub stride: usize,
}

/// A function that computes some pixels by one or two panels (`PAIR`): integer sums of a segment and float sums of all,
/// both in registers. Registers are named one by one: arrays of them would live on the stack.
macro_rules! tile {
    ($name:ident: $($r:literal $codes:ident $scales:ident $d:ident $e:ident $s:ident $t:ident),+) => {
        #[inline(never)]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
        unsafe fn $name<const PAIR: bool, const TWO: bool, const START: bool, const ONE: bool>(self) {
            let Tile { call, panel, first, mut weights, next, .. } = self;
            let w = call.weights;
            let group = w.panels[panel].group;
            let (bytes, floats) = (call.layout.bytes, call.layout.scales);
            let segments = w.segments.len();
            let next_scales = w.taps * segments * LANES;
            // SAFETY: `ConvCall::check` held for every pixel, tap, panel and segment.
            unsafe {
                $(
                    let pixel = *call.pixels.get_unchecked(first + $r) as usize;
                    let $codes = call.codes.as_ptr().add(pixel * bytes + group * w.group_bytes);
                    let $scales = call.scales.as_ptr().add(pixel * floats + group * w.group_scales);
                    let (mut $s, mut $t) = (_mm512_setzero_ps(), _mm512_setzero_ps());
                )+
                let mut alpha = w.alpha.as_ptr().wrapping_add(panel * next_scales);
                let mut start = w.start.as_ptr().wrapping_add(panel * next_scales);
                for &tap in call.taps {
                    let mut at = tap as usize * bytes;
                    let scale_at = tap as usize * floats;
                    for i in 0..if ONE { 1 } else { segments } {
                        let Segment { steps, scale } =
                            if ONE { Segment { steps: 1, scale: 0 } } else { *w.segments.get_unchecked(i) };
                        let (mut d, mut e) = (_mm512_setzero_si512(), _mm512_setzero_si512());
                        if START {
                            d = _mm512_loadu_si512(start.cast());
                            if PAIR {
                                e = _mm512_loadu_si512(start.add(next_scales).cast());
                            }
                        }
                        $( let (mut $d, mut $e) = (d, e); )+
                        for _ in 0..steps {
                            let q = _mm512_loadu_si512(weights.cast());
                            let r = if PAIR { _mm512_loadu_si512(weights.add(next).cast()) } else { q };
                            $(
                                let a = _mm512_set1_epi32($codes.add(at).cast::<i32>().read_unaligned());
                                $d = _mm512_dpbusd_epi32($d, a, q);
                                if PAIR {
                                    $e = _mm512_dpbusd_epi32($e, a, r);
                                }
                            )+
                            at += 4;
                            weights = weights.add(64);
                        }
                        let zero = _mm512_setzero_ps();
                        let a = if TWO { zero } else { _mm512_loadu_ps(alpha) };
                        let b = if TWO || !PAIR { zero } else { _mm512_loadu_ps(alpha.add(next_scales)) };
                        $(
                            let s = _mm512_set1_ps(*$scales.add(scale_at + scale));
                            let factor = if TWO { s } else { _mm512_mul_ps(a, s) };
                            $s = _mm512_fmadd_ps(factor, _mm512_cvtepi32_ps($d), $s);
                            if PAIR {
                                let factor = if TWO { s } else { _mm512_mul_ps(b, s) };
                                $t = _mm512_fmadd_ps(factor, _mm512_cvtepi32_ps($e), $t);
                            }
                        )+
                        alpha = alpha.wrapping_add(LANES);
                        start = start.wrapping_add(LANES);
                    }
                }
                let end = self.end(0);
                $( end.store($r, $s); )+
                if PAIR {
                    let end = self.end(1);
                    $( end.store($r, $t); )+
                }
            }
        }
    };
}

impl Tile<'_> {
    tile!(rows7: 0 c0 x0 d0 e0 s0 t0, 1 c1 x1 d1 e1 s1 t1, 2 c2 x2 d2 e2 s2 t2, 3 c3 x3 d3 e3 s3 t3, 4 c4 x4 d4 e4 s4 t4,
        5 c5 x5 d5 e5 s5 t5, 6 c6 x6 d6 e6 s6 t6);
    tile!(rows6: 0 c0 x0 d0 e0 s0 t0, 1 c1 x1 d1 e1 s1 t1, 2 c2 x2 d2 e2 s2 t2, 3 c3 x3 d3 e3 s3 t3, 4 c4 x4 d4 e4 s4 t4,
        5 c5 x5 d5 e5 s5 t5);
    tile!(rows5: 0 c0 x0 d0 e0 s0 t0, 1 c1 x1 d1 e1 s1 t1, 2 c2 x2 d2 e2 s2 t2, 3 c3 x3 d3 e3 s3 t3, 4 c4 x4 d4 e4 s4 t4);
    tile!(rows4: 0 c0 x0 d0 e0 s0 t0, 1 c1 x1 d1 e1 s1 t1, 2 c2 x2 d2 e2 s2 t2, 3 c3 x3 d3 e3 s3 t3);
    tile!(rows3: 0 c0 x0 d0 e0 s0 t0, 1 c1 x1 d1 e1 s1 t1, 2 c2 x2 d2 e2 s2 t2);
    tile!(rows2: 0 c0 x0 d0 e0 s0 t0, 1 c1 x1 d1 e1 s1 t1);
    tile!(rows1: 0 c0 x0 d0 e0 s0 t0);

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
    unsafe fn run<const TWO: bool, const START: bool, const ONE: bool>(self, rows: usize, pair: bool) {
        // SAFETY: of the caller.
        unsafe {
            match (rows, pair) {
                (7, _) => self.rows7::<true, TWO, START, false>(),
                (6, true) => self.rows6::<true, TWO, START, ONE>(),
                (5, true) => self.rows5::<true, TWO, START, ONE>(),
                (4, true) => self.rows4::<true, TWO, START, ONE>(),
                (3, true) => self.rows3::<true, TWO, START, ONE>(),
                (2, true) => self.rows2::<true, TWO, START, ONE>(),
                (_, true) => self.rows1::<true, TWO, START, ONE>(),
                (6, false) => self.rows6::<false, TWO, START, ONE>(),
                (5, false) => self.rows5::<false, TWO, START, ONE>(),
                (4, false) => self.rows4::<false, TWO, START, ONE>(),
                (3, false) => self.rows3::<false, TWO, START, ONE>(),
                (2, false) => self.rows2::<false, TWO, START, ONE>(),
                (_, false) => self.rows1::<false, TWO, START, ONE>(),
            }
        }
    }

    /// Linear layers in 4 bits: weights are unpacked in registers on their way from memory.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
    unsafe fn nibbles(self, rows: usize, pair: bool) {
        // SAFETY: of the caller.
        unsafe {
            match (rows, pair) {
                (6, true) => self.nibble_tile::<6, 2>(),
                (5, true) => self.nibble_tile::<5, 2>(),
                (4, true) => self.nibble_tile::<4, 2>(),
                (3, true) => self.nibble_tile::<3, 2>(),
                (2, true) => self.nibble_tile::<2, 2>(),
                (_, true) => self.nibble_tile::<1, 2>(),
                (6, false) => self.nibble_tile::<6, 1>(),
                (5, false) => self.nibble_tile::<5, 1>(),
                (4, false) => self.nibble_tile::<4, 1>(),
                (3, false) => self.nibble_tile::<3, 1>(),
                (2, false) => self.nibble_tile::<2, 1>(),
                (_, false) => self.nibble_tile::<1, 1>(),
            }
        }
    }

    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
    unsafe fn nibble_tile<const R: usize, const P: usize>(self) {
        let Tile { call, panel, first, .. } = self;
        let w = call.weights;
        let group = w.panels[panel].group;
        let (bytes, floats) = (call.layout.bytes, call.layout.scales);
        let scale_stride = w.taps * w.segments.len() * LANES;
        let low = _mm512_set1_epi8(15);
        // Two's complement of each value of a nibble.
        let signed = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1));
        // SAFETY: `ConvCall::check` held for every pixel, tap, panel and segment; after an odd number of steps a segment's
        // last codes are multiplied by weights of 0, and `SLACK` bytes follow the last pixel.
        unsafe {
            let mut codes = [std::ptr::null::<u8>(); R];
            let mut scales = [std::ptr::null::<f32>(); R];
            for r in 0..R {
                let pixel = *call.pixels.get_unchecked(first + r) as usize;
                codes[r] = call.codes.as_ptr().add(pixel * bytes + group * w.group_bytes);
                scales[r] = call.scales.as_ptr().add(pixel * floats + group * w.group_scales);
            }
            let mut weights = w.weights.as_ptr().add(panel * w.panel_bytes);
            let mut alpha = w.alpha.as_ptr().add(panel * scale_stride);
            let mut start = w.start.as_ptr().wrapping_add(panel * scale_stride);
            let signed_input = !w.start.is_empty();
            let mut sum = [[_mm512_setzero_ps(); P]; R];
            for &tap in call.taps {
                let mut at = tap as usize * bytes;
                let scale_at = tap as usize * floats;
                for segment in &w.segments {
                    // Even and odd steps apart: two chains of sums for each output.
                    let mut even = [[_mm512_setzero_si512(); P]; R];
                    let mut odd = [[_mm512_setzero_si512(); P]; R];
                    if signed_input {
                        for p in 0..P {
                            let s = _mm512_loadu_si512(start.add(p * scale_stride).cast());
                            for r in 0..R {
                                even[r][p] = s;
                            }
                        }
                    }
                    for _ in 0..segment.steps.div_ceil(2) {
                        let mut q = [[_mm512_setzero_si512(); P]; 2];
                        for p in 0..P {
                            let packed = _mm512_loadu_si512(weights.add(p * w.panel_bytes).cast());
                            _mm_prefetch::<_MM_HINT_T0>(weights.add(p * w.panel_bytes).wrapping_add(2048).cast());
                            let high = _mm512_and_si512(_mm512_srli_epi16::<4>(packed), low);
                            q[0][p] = _mm512_shuffle_epi8(signed, _mm512_and_si512(packed, low));
                            q[1][p] = _mm512_shuffle_epi8(signed, high);
                        }
                        for r in 0..R {
                            let a = codes[r].add(at).cast::<i32>();
                            let (first, second) = (a.read_unaligned(), a.add(1).read_unaligned());
                            for p in 0..P {
                                even[r][p] = _mm512_dpbusd_epi32(even[r][p], _mm512_set1_epi32(first), q[0][p]);
                                odd[r][p] = _mm512_dpbusd_epi32(odd[r][p], _mm512_set1_epi32(second), q[1][p]);
                            }
                        }
                        at += 8;
                        weights = weights.add(64);
                    }
                    at -= segment.steps % 2 * 4;
                    for p in 0..P {
                        let alpha = _mm512_loadu_ps(alpha.add(p * scale_stride));
                        for r in 0..R {
                            let factor = _mm512_mul_ps(alpha, _mm512_set1_ps(*scales[r].add(scale_at + segment.scale)));
                            let dot = _mm512_cvtepi32_ps(_mm512_add_epi32(even[r][p], odd[r][p]));
                            sum[r][p] = _mm512_fmadd_ps(factor, dot, sum[r][p]);
                        }
                    }
                    alpha = alpha.add(LANES);
                    start = start.wrapping_add(LANES);
                }
            }
            for p in 0..P {
                let end = self.end(p);
                for r in 0..R {
                    end.store(r, sum[r][p]);
                }
            }
        }
    }

    /// What ends the sums of a panel.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
    pub unsafe fn end(&self, next: usize) -> End {
        let Tile { call, first, .. } = *self;
        let (w, panel) = (call.weights, self.panel + next);
        // SAFETY: `ConvCall::check` held for every output, panel and residual row.
        unsafe {
            let Panel { first: channel, lanes, .. } = *w.panels.get_unchecked(panel);
            let load = |values: &[f32]| match values.is_empty() {
                true => None,
                false => Some(_mm512_loadu_ps(values.as_ptr().add(panel * LANES))),
            };
            let (residual, residual_stride) = match call.residual {
                Residual::Rows(rows) => (rows.data.as_ptr().add(first * rows.stride + channel), rows.stride),
                Residual::Output => (self.out.add(first * self.stride + channel).cast_const(), self.stride),
                Residual::None => (std::ptr::null(), 0),
            };
            let clamp = call.clamp.unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
            End {
                channel: load(&w.channel),
                bias: load(&w.bias),
                residual,
                residual_stride,
                clamp: call.clamp.map(|_| (_mm512_set1_ps(clamp.0), _mm512_set1_ps(clamp.1))),
                mask: mask(lanes),
                out: self.out.add(first * self.stride + channel),
                stride: self.stride,
            }
        }
    }
}

/// Channel scales, bias, residual and limits of a panel, and where its rows go.
pub(super) struct End {
    channel: Option<__m512>,
    bias: Option<__m512>,
    residual: *const f32,
    residual_stride: usize,
    clamp: Option<(__m512, __m512)>,
    mask: __mmask16,
    out: *mut f32,
    stride: usize,
}

impl End {
    /// Ends the sums of pixel `r` and stores them.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
    pub unsafe fn store(&self, r: usize, sum: __m512) {
        let mut y = match (self.channel, self.bias) {
            (Some(s), Some(bias)) => _mm512_fmadd_ps(sum, s, bias),
            (Some(s), None) => _mm512_mul_ps(sum, s),
            (None, Some(bias)) => _mm512_add_ps(sum, bias),
            (None, None) => sum,
        };
        // SAFETY: of the caller; loads and stores are limited to the panel's lanes.
        unsafe {
            if !self.residual.is_null() {
                y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(self.mask, self.residual.add(r * self.residual_stride)));
            }
            if let Some((lo, hi)) = self.clamp {
                y = _mm512_min_ps(_mm512_max_ps(y, lo), hi);
            }
            // A masked store takes longer, even where the mask is full.
            match self.mask {
                0xffff => _mm512_storeu_ps(self.out.add(r * self.stride), y),
                mask => _mm512_mask_storeu_ps(self.out.add(r * self.stride), mask, y),
            }
        }
    }
}

impl Lanes for __m512 {
    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm512_loadu_ps(at) }
    }
    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: of the caller.
        unsafe { _mm512_storeu_ps(at, self) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn add(self, y: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm512_add_ps(self, y) }
    }
    #[inline(always)]
    unsafe fn mul(self, y: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm512_mul_ps(self, y) }
    }
    #[inline(always)]
    unsafe fn mul_add<const ANY: bool>(self, y: Self, z: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm512_fmadd_ps(self, y, z) }
    }
    #[inline(always)]
    unsafe fn limit(self, lo: Self, hi: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm512_min_ps(_mm512_max_ps(self, lo), hi) }
    }
}

/// The lowest `lanes` of 16.
#[inline(always)]
fn mask(lanes: usize) -> __mmask16 {
    if lanes >= 16 { 0xffff } else { (1 << lanes) - 1 }
}

/// Pixels whose scales are found at a time.
const SCALES: usize = 512;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
unsafe fn quantize(call: &QuantizeCall<'_>, codes: &mut [u8], scales: &mut [f32]) {
    let layout = call.layout;
    let blocks = layout.blocks.len();
    if layout.depthwise {
        return depthwise::quantize::<true>(call, codes, scales);
    }
    if !layout.pieces.is_empty() || blocks > SCALES || layout.channels < LANES {
        return quantize_plain(call, codes, scales);
    }
    let rule = Vectors::new(layout);
    let mut max = [0f32; SCALES];
    let mut inv = [0f32; SCALES];
    let at_once = SCALES / blocks;
    let mut first = 0;
    while first < call.pixels.len() {
        let count = (call.pixels.len() - first).min(at_once);
        let pixels = &call.pixels[first..first + count];
        // SAFETY: `QuantizeCall::check` held: rows have all channels, and each pixel lies in `codes` and `scales`.
        unsafe {
            let x = call.x.data.as_ptr().add(first * call.x.stride);
            for i in 0..count {
                for (b, block) in layout.blocks.iter().enumerate() {
                    max[i * blocks + b] = largest(x.add(i * call.x.stride + block.start), block.len());
                }
            }
            // Whole vectors: what lies behind the last one is not read again.
            let mut at = 0;
            while at < count * blocks {
                let (s, i) = rule.scale(_mm512_loadu_ps(max.as_ptr().add(at)));
                _mm512_storeu_ps(max.as_mut_ptr().add(at), s);
                _mm512_storeu_ps(inv.as_mut_ptr().add(at), i);
                at += LANES;
            }
            for (i, &pixel) in pixels.iter().enumerate() {
                let codes = codes.as_mut_ptr().add(pixel as usize * layout.bytes);
                for (b, block) in layout.blocks.iter().enumerate() {
                    *scales.get_unchecked_mut(pixel as usize * blocks + b) = max[i * blocks + b];
                    let inv = _mm512_set1_ps(inv[i * blocks + b]);
                    rule.block(x.add(i * call.x.stride + block.start), block.len(), inv, codes.add(block.start));
                }
            }
        }
        first += count;
    }
}

/// Largest magnitude of `n` floats.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
unsafe fn largest(x: *const f32, n: usize) -> f32 {
    let mut max = _mm512_setzero_ps();
    let mut second = _mm512_setzero_ps();
    let mut c = 0;
    // SAFETY: of the caller; the last load is masked.
    unsafe {
        while c + 2 * LANES <= n {
            max = _mm512_max_ps(max, _mm512_abs_ps(_mm512_loadu_ps(x.add(c))));
            second = _mm512_max_ps(second, _mm512_abs_ps(_mm512_loadu_ps(x.add(c + LANES))));
            c += 2 * LANES;
        }
        while c < n {
            let part = _mm512_maskz_loadu_ps(mask(n - c), x.add(c));
            max = _mm512_max_ps(max, _mm512_abs_ps(part));
            c += LANES;
        }
    }
    _mm512_reduce_max_ps(_mm512_max_ps(max, second))
}

/// [`Rule`] in vectors.
struct Vectors {
    rule: Rule,
    lo: __m512i,
    hi: __m512i,
    offset: __m512i,
}

impl Vectors {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
    fn new(layout: &Layout) -> Self {
        let rule = Rule::new(layout);
        let splat = |v: i32| _mm512_set1_epi32(v);
        Self { lo: splat(rule.lo), hi: splat(rule.hi), offset: splat(rule.offset), rule }
    }

    /// Scales and their reciprocals.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
    fn scale(&self, max: __m512) -> (__m512, __m512) {
        let splat = |v: f32| _mm512_set1_ps(v);
        match self.rule.kind {
            ActivationScale::Pow2 => {
                let e = _mm512_srli_epi32::<23>(_mm512_castps_si512(max));
                let e = _mm512_sub_epi32(e, _mm512_set1_epi32(self.rule.shift));
                let e = _mm512_min_epi32(_mm512_max_epi32(e, _mm512_set1_epi32(1)), _mm512_set1_epi32(253));
                let float = |e: __m512i| _mm512_castsi512_ps(_mm512_slli_epi32::<23>(e));
                (float(e), float(_mm512_sub_epi32(_mm512_set1_epi32(254), e)))
            }
            ActivationScale::Float => {
                let scale = _mm512_div_ps(_mm512_min_ps(max, splat(two_to(127))), splat(self.rule.hi as f32));
                let scale = _mm512_min_ps(_mm512_max_ps(scale, splat(two_to(-126))), splat(two_to(126)));
                (scale, _mm512_div_ps(splat(1.0), scale))
            }
        }
    }

    /// Bytes of 16 floats. Their products with `inv` are below `2^31`, or saturate.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
    fn codes(&self, x: __m512, inv: __m512) -> __m512i {
        let a = _mm512_cvtps_epi32(_mm512_mul_ps(x, inv));
        _mm512_add_epi32(_mm512_min_epi32(_mm512_max_epi32(a, self.lo), self.hi), self.offset)
    }

    /// Bytes of 64 integers, which are limited as bytes: packing keeps what lies outside at the end of its range.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
    fn bytes(&self, a: [__m512i; 4]) -> __m512i {
        // Packing works in each quarter of a vector: this order of its 4-byte words puts them right.
        let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        let (low, high) = (_mm512_packs_epi32(a[0], a[1]), _mm512_packs_epi32(a[2], a[3]));
        let splat = |v: i32| _mm512_set1_epi8(v as i8);
        let bytes = if self.rule.offset == 0 {
            _mm512_min_epu8(_mm512_packus_epi16(low, high), splat(self.rule.hi))
        } else {
            let a = _mm512_max_epi8(_mm512_packs_epi16(low, high), splat(self.rule.lo));
            _mm512_add_epi8(_mm512_min_epi8(a, splat(self.rule.hi)), splat(self.rule.offset))
        };
        _mm512_permutexvar_epi32(order, bytes)
    }

    /// The codes of one block.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
    unsafe fn block(&self, x: *const f32, n: usize, inv: __m512, codes: *mut u8) {
        let mut c = 0;
        // SAFETY: of the caller; the last load and store are masked.
        unsafe {
            while c + 64 <= n {
                let a = |k: usize| _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x.add(c + k * LANES)), inv));
                _mm512_storeu_si512(codes.add(c).cast(), self.bytes([a(0), a(1), a(2), a(3)]));
                c += 64;
            }
            while c < n {
                let mask = mask(n - c);
                let a = self.codes(_mm512_maskz_loadu_ps(mask, x.add(c)), inv);
                _mm_mask_storeu_epi8(codes.add(c).cast(), mask, _mm512_cvtepi32_epi8(a));
                c += LANES;
            }
        }
    }
}
