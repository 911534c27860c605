//! Tiles: the sums of some pixels by one or two panels, in registers, and what ends them.
use std::arch::x86_64::*;
use std::ops::Range;

use super::mask;
use crate::kernels::{ConvCall, Residual, STRIP};
use crate::layout::LANES;
use crate::pack::{Panel, Segment};

/// Where the pixels of a call lie: the first byte of their codes, and the first of their scales.
pub(super) struct Spots {
    codes: [usize; STRIP],
    scales: [usize; STRIP],
}

impl Spots {
    pub fn new(call: &ConvCall<'_>) -> Self {
        let mut spots = Self { codes: [0; STRIP], scales: [0; STRIP] };
        for (i, &pixel) in call.pixels.iter().enumerate() {
            spots.codes[i] = pixel as usize * call.layout.bytes;
            spots.scales[i] = pixel as usize * call.layout.scales;
        }
        spots
    }
}

/// Pixels from `first` and one or two panels from `panel` of a checked call.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Tile<'a> {
    pub call: &'a ConvCall<'a>,
    pub panel: usize,
    pub first: usize,
    /// The panel's weights, and the distance of the next one's; for [`Tile::nibbles`] not used.
    pub weights: *const u8,
    pub next: usize,
    pub out: *mut f32,
    pub stride: usize,
    /// What is read next, and asked for meanwhile.
    pub ahead: &'a [u8],
}

/// A function that computes `tiles` tiles of some pixels by one or two panels (`PAIR`), and gives `noted` with their
/// outputs: integer sums of a segment and
/// float sums of all, both in registers. Registers are named one by one: arrays of them would live on the stack. What
/// stands between two tiles is kept short: the next one's multiplications wait behind it. `ONE`: each tap is one segment
/// of one step.
macro_rules! tile {
    ($name:ident: $($r:literal $codes:ident $d:ident $e:ident $s:ident $t:ident),+) => {
        #[inline(never)]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
        unsafe fn $name<const PAIR: bool, const TWO: bool, const START: bool, const ONE: bool>(
            self,
            tiles: usize,
            spots: &Spots,
            mut noted: __m512,
        ) -> __m512 {
            const ROWS: usize = [$($r),+].len();
            let Tile { call, panel, next, stride, .. } = self;
            let w = call.weights;
            let Panel { group, first: channel, lanes } = w.panels[panel];
            let (bytes, floats) = (call.layout.bytes, call.layout.scales);
            let (taps, segments): (&[u32], &[Segment]) = (call.taps, &w.segments);
            let next_scales = w.taps * segments.len() * LANES;
            // SAFETY: `ConvCall::check` held for every pixel, tap, panel, segment, output and residual row.
            unsafe {
                let codes = call.codes.as_ptr().add(group * w.group_bytes);
                let scales = call.scales.as_ptr().add(group * w.group_scales);
                let all_alpha = w.alpha.as_ptr().wrapping_add(panel * next_scales);
                let all_start = w.start.as_ptr().wrapping_add(panel * next_scales);
                let whole = lanes == LANES && (!PAIR || w.panels[panel + 1].lanes == LANES);
                let load = |values: &[f32], p: usize, none: f32| match values.is_empty() {
                    true => _mm512_set1_ps(none),
                    false => _mm512_loadu_ps(values.as_ptr().add((panel + p) * LANES)),
                };
                let second = usize::from(PAIR);
                // Adding -0 changes nothing, not even a zero's sign.
                let (bias0, bias1) = (load(&w.bias, 0, -0.0), load(&w.bias, second, -0.0));
                let (scale0, scale1) = (load(&w.channel, 0, 1.0), load(&w.channel, second, 1.0));
                let (mut residual, residual_stride) = self.residual(channel);
                let mut out = self.out.add(self.first * stride + channel);
                let Range { start: mut ahead, end: ahead_end } = self.ahead.as_ptr_range();
                let (lo, hi) = call.clamp.unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
                let (limited, capped) = (call.clamp.is_some(), hi < f32::INFINITY);
                let (lo, hi) = (_mm512_set1_ps(lo), _mm512_set1_ps(hi));
                for tile in 0..tiles {
                    let first = self.first + tile * ROWS;
                    let ahead_step = if ahead < ahead_end { 32 } else { 0 };
                    let scale_at = spots.scales.as_ptr().add(first);
                    $(
                        let $codes = codes.add(*spots.codes.as_ptr().add(first + $r));
                        let (mut $s, mut $t) = (_mm512_setzero_ps(), _mm512_setzero_ps());
                    )+
                    let (mut weights, mut alpha, mut start) = (self.weights, all_alpha, all_start);
                    for &tap in taps {
                        let mut at = tap as usize * bytes;
                        let scales = scales.add(tap as usize * floats);
                        for i in 0..if ONE { 1 } else { segments.len() } {
                            let Segment { steps, scale, .. } =
                                if ONE { Segment { steps: 1, scale: 0, last: true } } else { *segments.get_unchecked(i) };
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
                                if !ONE {
                                    _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
                                    ahead = ahead.wrapping_add(ahead_step);
                                }
                            }
                            let zero = _mm512_setzero_ps();
                            let a = if TWO { zero } else { _mm512_loadu_ps(alpha) };
                            let b = if TWO || !PAIR { zero } else { _mm512_loadu_ps(alpha.add(next_scales)) };
                            $(
                                let x = _mm512_set1_ps(*scales.add(*scale_at.add($r) + scale));
                                let factor = if TWO { x } else { _mm512_mul_ps(a, x) };
                                $s = _mm512_fmadd_ps(factor, _mm512_cvtepi32_ps($d), $s);
                                if PAIR {
                                    let factor = if TWO { x } else { _mm512_mul_ps(b, x) };
                                    $t = _mm512_fmadd_ps(factor, _mm512_cvtepi32_ps($e), $t);
                                }
                            )+
                            alpha = alpha.wrapping_add(LANES);
                            start = start.wrapping_add(LANES);
                        }
                    }
                    if !whole {
                        let here = Tile { first, ..self };
                        let end = here.end(0);
                        $( noted = end.store($r, $s, noted); )+
                        if PAIR {
                            let end = here.end(1);
                            $( noted = end.store($r, $t, noted); )+
                        }
                        continue;
                    }
                    // What `End` does, one thing after the other for all pixels.
                    let end = |sum, scale, bias| match TWO {
                        true => _mm512_fmadd_ps(sum, scale, bias),
                        false => _mm512_add_ps(sum, bias),
                    };
                    $( ($s, $t) = (end($s, scale0, bias0), end($t, scale1, bias1)); )+
                    if !residual.is_null() {
                        $(
                            let x = residual.add($r * residual_stride);
                            $s = _mm512_add_ps($s, _mm512_loadu_ps(x));
                            if PAIR {
                                $t = _mm512_add_ps($t, _mm512_loadu_ps(x.add(LANES)));
                            }
                        )+
                        residual = residual.add(ROWS * residual_stride);
                    }
                    // Two chains: one would take as long as a short tile.
                    let zero = _mm512_setzero_ps();
                    let (mut even, mut odd) = (zero, zero);
                    $(
                        even = _mm512_fmadd_ps($s, zero, even);
                        if PAIR {
                            odd = _mm512_fmadd_ps($t, zero, odd);
                        }
                    )+
                    noted = _mm512_add_ps(noted, _mm512_add_ps(even, odd));
                    if limited {
                        $( ($s, $t) = (_mm512_max_ps($s, lo), _mm512_max_ps($t, lo)); )+
                        if capped {
                            $( ($s, $t) = (_mm512_min_ps($s, hi), _mm512_min_ps($t, hi)); )+
                        }
                    }
                    $(
                        _mm512_storeu_ps(out.add($r * stride), $s);
                        if PAIR {
                            _mm512_storeu_ps(out.add($r * stride + LANES), $t);
                        }
                    )+
                    out = out.wrapping_add(ROWS * stride);
                }
            }
            noted
        }
    };
}

impl Tile<'_> {
    tile!(rows7: 0 c0 d0 e0 s0 t0, 1 c1 d1 e1 s1 t1, 2 c2 d2 e2 s2 t2, 3 c3 d3 e3 s3 t3, 4 c4 d4 e4 s4 t4, 5 c5 d5 e5 s5 t5, 6 c6 d6 e6 s6 t6);
    tile!(rows6: 0 c0 d0 e0 s0 t0, 1 c1 d1 e1 s1 t1, 2 c2 d2 e2 s2 t2, 3 c3 d3 e3 s3 t3, 4 c4 d4 e4 s4 t4, 5 c5 d5 e5 s5 t5);
    tile!(rows5: 0 c0 d0 e0 s0 t0, 1 c1 d1 e1 s1 t1, 2 c2 d2 e2 s2 t2, 3 c3 d3 e3 s3 t3, 4 c4 d4 e4 s4 t4);
    tile!(rows4: 0 c0 d0 e0 s0 t0, 1 c1 d1 e1 s1 t1, 2 c2 d2 e2 s2 t2, 3 c3 d3 e3 s3 t3);
    tile!(rows3: 0 c0 d0 e0 s0 t0, 1 c1 d1 e1 s1 t1, 2 c2 d2 e2 s2 t2);
    tile!(rows2: 0 c0 d0 e0 s0 t0, 1 c1 d1 e1 s1 t1);
    tile!(rows1: 0 c0 d0 e0 s0 t0);

    /// Computes `tiles` tiles of `rows` pixels by one or two panels.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
    pub(super) unsafe fn run<const TWO: bool, const START: bool, const ONE: bool>(
        self,
        rows: usize,
        tiles: usize,
        pair: bool,
        spots: &Spots,
        noted: __m512,
    ) -> __m512 {
        // SAFETY: of the caller.
        unsafe {
            match (rows, pair) {
                (7, _) => self.rows7::<true, TWO, START, false>(tiles, spots, noted),
                (6, true) => self.rows6::<true, TWO, START, ONE>(tiles, spots, noted),
                (6, false) => self.rows6::<false, TWO, START, ONE>(tiles, spots, noted),
                (5, true) => self.rows5::<true, TWO, START, ONE>(tiles, spots, noted),
                (5, false) => self.rows5::<false, TWO, START, ONE>(tiles, spots, noted),
                (4, true) => self.rows4::<true, TWO, START, ONE>(tiles, spots, noted),
                (4, false) => self.rows4::<false, TWO, START, ONE>(tiles, spots, noted),
                (3, true) => self.rows3::<true, TWO, START, ONE>(tiles, spots, noted),
                (3, false) => self.rows3::<false, TWO, START, ONE>(tiles, spots, noted),
                (2, true) => self.rows2::<true, TWO, START, ONE>(tiles, spots, noted),
                (2, false) => self.rows2::<false, TWO, START, ONE>(tiles, spots, noted),
                (_, true) => self.rows1::<true, TWO, START, ONE>(tiles, spots, noted),
                (_, false) => self.rows1::<false, TWO, START, ONE>(tiles, spots, noted),
            }
        }
    }

    /// Linear layers in 4 bits: weights are unpacked in registers on their way from memory.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
    pub(super) unsafe fn nibbles(self, rows: usize, pair: bool, noted: __m512) -> __m512 {
        // SAFETY: of the caller.
        unsafe {
            match (rows, pair) {
                (6, true) => self.nibble_tile::<6, 2>(noted),
                (5, true) => self.nibble_tile::<5, 2>(noted),
                (4, true) => self.nibble_tile::<4, 2>(noted),
                (3, true) => self.nibble_tile::<3, 2>(noted),
                (2, true) => self.nibble_tile::<2, 2>(noted),
                (_, true) => self.nibble_tile::<1, 2>(noted),
                (6, false) => self.nibble_tile::<6, 1>(noted),
                (5, false) => self.nibble_tile::<5, 1>(noted),
                (4, false) => self.nibble_tile::<4, 1>(noted),
                (3, false) => self.nibble_tile::<3, 1>(noted),
                (2, false) => self.nibble_tile::<2, 1>(noted),
                (_, false) => self.nibble_tile::<1, 1>(noted),
            }
        }
    }

    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
    unsafe fn nibble_tile<const R: usize, const P: usize>(self, mut noted: __m512) -> __m512 {
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
                    noted = end.store(r, sum[r][p], noted);
                }
            }
        }
        noted
    }

    /// The residual of the first pixel's output `channel`, or null; and the distance of the next pixel's.
    fn residual(&self, channel: usize) -> (*const f32, usize) {
        match self.call.residual {
            Residual::Rows(rows) => (rows.data.as_ptr().wrapping_add(self.first * rows.stride + channel), rows.stride),
            Residual::Output => (self.out.wrapping_add(self.first * self.stride + channel).cast_const(), self.stride),
            Residual::None => (std::ptr::null(), 0),
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
            let (residual, residual_stride) = self.residual(channel);
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
pub(in crate::kernels) struct End {
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
    /// Ends the sums of pixel `r` and stores them; gives `noted` with what they were before the limits.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
    pub unsafe fn store(&self, r: usize, sum: __m512, noted: __m512) -> __m512 {
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
            // Lanes without an output hold anything.
            let noted = _mm512_mask3_fmadd_ps(y, _mm512_setzero_ps(), noted, self.mask);
            if let Some((lo, hi)) = self.clamp {
                y = _mm512_min_ps(_mm512_max_ps(y, lo), hi);
            }
            // A masked store takes longer, even where the mask is full.
            match self.mask {
                0xffff => _mm512_storeu_ps(self.out.add(r * self.stride), y),
                mask => _mm512_mask_storeu_ps(self.out.add(r * self.stride), mask, y),
            }
            noted
        }
    }
}
