//! 256-bit kernels: a panel of 16 outputs is two vectors of 8.
//!
//! [`avxvnni`] has integer dot products. [`avx2`] multiplies bytes pairwise into 16 bits (`maddubs`), which saturates:
//! - A pair's sum is at most `2 * A * Q`, `A` the largest unsigned code and `Q` the largest weight. While several of them
//!   fit 16 bits (8 steps for 4-bit weights and 8-bit codes) they are added there, then widened.
//! - Where not even one pair fits (8-bit weights beyond 64, with codes beyond 127), codes are split into their highest
//!   bit and the rest: `2 * 128 * 128` and `2 * 127 * 128` fit. Exact for every code and weight.
//! - Two-level weights of 4 bits would be such products of a code and its block's factor. They come as codes, and the
//!   sum of a block is multiplied by its factor: the same integer.
use std::arch::x86_64::*;

use blockfloat::ActivationScale;

use super::lanes::{Lanes, end};
use super::scalar::{Rule, two_to};
use super::{ConvCall, Kernel, PlanesCall, QuantizeCall, Task, Wants, depthwise, scalar};
use crate::layout::{LANES, Layout};
use crate::pack::Segment;

/// Lanes of a vector.
const V: usize = 8;
/// Pixels whose scales are found at a time.
const SCALES: usize = 256;

/// Sixteen floats.
#[derive(Clone, Copy)]
struct Halves(__m256, __m256);

impl Lanes for Halves {
    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        // SAFETY: of the caller.
        unsafe { Self(_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(V))) }
    }
    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: of the caller.
        unsafe {
            _mm256_storeu_ps(at, self.0);
            _mm256_storeu_ps(at.add(V), self.1);
        }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: of the caller.
        unsafe { Self(_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }
    #[inline(always)]
    unsafe fn add(self, y: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { Self(_mm256_add_ps(self.0, y.0), _mm256_add_ps(self.1, y.1)) }
    }
    #[inline(always)]
    unsafe fn mul(self, y: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { Self(_mm256_mul_ps(self.0, y.0), _mm256_mul_ps(self.1, y.1)) }
    }
    #[inline(always)]
    unsafe fn mul_add<const ANY: bool>(self, y: Self, z: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { Self(_mm256_fmadd_ps(self.0, y.0, z.0), _mm256_fmadd_ps(self.1, y.1, z.1)) }
    }
    #[inline(always)]
    unsafe fn limit(self, lo: Self, hi: Self) -> Self {
        // SAFETY: of the caller.
        unsafe {
            Self(_mm256_min_ps(_mm256_max_ps(self.0, lo.0), hi.0), _mm256_min_ps(_mm256_max_ps(self.1, lo.1), hi.1))
        }
    }
    #[inline(always)]
    unsafe fn note(self, y: Self) -> Self {
        // SAFETY: of the caller.
        unsafe {
            let zero = _mm256_setzero_ps();
            Self(_mm256_fmadd_ps(y.0, zero, self.0), _mm256_fmadd_ps(y.1, zero, self.1))
        }
    }
}

/// A function that computes some pixels by one panel. Registers are named one by one: arrays of them would live on the
/// stack. `m` and `n` of a row are sums in 16 bits, `u` and `v` those of segments times their levels.
macro_rules! tile {
    ($features:literal $function:ident: $($r:literal $codes:ident $scales:ident $a:ident $b:ident $m:ident $n:ident $s:ident $t:ident $u:ident $v:ident),+) => {
        #[inline(never)]
        #[target_feature(enable = $features)]
        unsafe fn $function<const LEVELS: bool>(self, mut noted: Halves) -> Halves {
            let Tile { call, panel, first, mut weights, fitting, .. } = self;
            let w = call.weights;
            let group = w.panels[panel].group;
            let (bytes, floats) = (call.layout.bytes, call.layout.scales);
            let two = w.two_level();
            // SAFETY: `ConvCall::check` held for every pixel, tap, panel and segment.
            unsafe {
                $(
                    let pixel = *call.pixels.get_unchecked(first + $r) as usize;
                    let $codes = call.codes.as_ptr().add(pixel * bytes + group * w.group_bytes);
                    let $scales = call.scales.as_ptr().add(pixel * floats + group * w.group_scales);
                    let (mut $s, mut $t) = (_mm256_setzero_ps(), _mm256_setzero_ps());
                )+
                let mut alpha = w.alpha.as_ptr().wrapping_add(panel * w.taps * w.segments.len() * LANES);
                let mut start = w.start.as_ptr().wrapping_add(panel * w.taps * w.segments.len() * LANES);
                let mut level = w.levels.as_ptr().wrapping_add(panel * w.taps * w.segments.len() * LANES);
                // Integer sums of the segments before that share a scale.
                $( let (mut $u, mut $v) = (_mm256_setzero_si256(), _mm256_setzero_si256()); )+
                for &tap in call.taps {
                    let mut at = tap as usize * bytes;
                    let scale_at = tap as usize * floats;
                    for &Segment { steps, scale, last } in &w.segments {
                        let (mut low, mut high) = (_mm256_setzero_si256(), _mm256_setzero_si256());
                        if !w.start.is_empty() {
                            low = _mm256_loadu_si256(start.cast());
                            high = _mm256_loadu_si256(start.add(V).cast());
                        }
                        $( let (mut $a, mut $b) = (low, high); )+
                        if VNNI || fitting < 2 || steps == 1 {
                            for _ in 0..steps {
                                let q = _mm256_loadu_si256(weights.cast());
                                let r = _mm256_loadu_si256(weights.add(32).cast());
                                $(
                                    let a = _mm256_set1_epi32($codes.add(at).cast::<i32>().read_unaligned());
                                    if VNNI || fitting > 0 {
                                        $a = dot($a, a, q);
                                        $b = dot($b, a, r);
                                    } else {
                                        $a = wide_dot($a, a, q);
                                        $b = wide_dot($b, a, r);
                                    }
                                )+
                                at += 4;
                                weights = weights.add(64);
                            }
                        } else {
                            let one = _mm256_set1_epi16(1);
                            let mut left = steps;
                            while left > 0 {
                                let now = left.min(fitting);
                                $( let (mut $m, mut $n) = (_mm256_setzero_si256(), _mm256_setzero_si256()); )+
                                for _ in 0..now {
                                    let q = _mm256_loadu_si256(weights.cast());
                                    let r = _mm256_loadu_si256(weights.add(32).cast());
                                    $(
                                        let a = $codes.add(at).cast::<i32>().read_unaligned();
                                        let a = _mm256_set1_epi32(a);
                                        $m = _mm256_add_epi16($m, _mm256_maddubs_epi16(a, q));
                                        $n = _mm256_add_epi16($n, _mm256_maddubs_epi16(a, r));
                                    )+
                                    at += 4;
                                    weights = weights.add(64);
                                }
                                $(
                                    $a = _mm256_add_epi32($a, _mm256_madd_epi16($m, one));
                                    $b = _mm256_add_epi32($b, _mm256_madd_epi16($n, one));
                                )+
                                left -= now;
                            }
                        }
                        start = start.wrapping_add(LANES);
                        if LEVELS {
                            let low = _mm256_loadu_si256(level.cast());
                            let high = _mm256_loadu_si256(level.add(V).cast());
                            level = level.wrapping_add(LANES);
                            $(
                                $u = _mm256_add_epi32($u, _mm256_mullo_epi32($a, low));
                                $v = _mm256_add_epi32($v, _mm256_mullo_epi32($b, high));
                            )+
                            if !last {
                                continue;
                            }
                            $(
                                ($a, $b) = ($u, $v);
                                ($u, $v) = (_mm256_setzero_si256(), _mm256_setzero_si256());
                            )+
                        }
                        let zero = _mm256_setzero_ps();
                        let low = if two { zero } else { _mm256_loadu_ps(alpha) };
                        let high = if two { zero } else { _mm256_loadu_ps(alpha.add(V)) };
                        $(
                            let s = _mm256_set1_ps(*$scales.add(scale_at + scale));
                            let (f, g) =
                                if two { (s, s) } else { (_mm256_mul_ps(low, s), _mm256_mul_ps(high, s)) };
                            $s = _mm256_fmadd_ps(f, _mm256_cvtepi32_ps($a), $s);
                            $t = _mm256_fmadd_ps(g, _mm256_cvtepi32_ps($b), $t);
                        )+
                        alpha = alpha.wrapping_add(LANES);
                    }
                }
                $( noted = end(call, panel, first + $r, self.out, self.stride, [Halves($s, $t)], noted); )+
                noted
            }
        }
    };
}

/// A kernel type and its functions for one set of features; `$dot(sum, unsigned, signed)` is an integer dot product.
macro_rules! ymm {
    ($module:ident, $kernel:ident, $features:literal, $vnni:literal, $dot:expr, [$($feature:tt),+]) => {
        pub(super) mod $module {
            use super::*;

            const VNNI: bool = $vnni;

            /// The kernel of CPUs with these instructions.
            #[derive(Debug, Clone, Copy)]
            pub(crate) struct $kernel(());

            impl Kernel for $kernel {
                const WANTS: Wants = Wants { factors_apart: !VNNI, ..Wants::USUAL };

                fn new() -> Option<Self> {
                    ($(is_x86_feature_detected!($feature))&&+).then_some(Self(()))
                }

                fn conv(&self, call: &ConvCall<'_>, unpacked: &mut [u8], out: &mut [f32], stride: usize) -> bool {
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

                fn run<T: Task>(&self, task: T) -> T::Output {
                    // SAFETY: the CPU has the instructions, or there would be no `self`.
                    unsafe { run(task) }
                }
            }

            #[target_feature(enable = $features)]
            fn run<T: Task>(task: T) -> T::Output {
                task.run()
            }

            #[target_feature(enable = $features)]
            fn quantize_planes(call: &PlanesCall<'_>, codes: &mut [u8], scales: &mut [f32]) {
                scalar::quantize_planes(call, codes, scales);
            }

            #[target_feature(enable = $features)]
            unsafe fn conv(call: &ConvCall<'_>, unpacked: &mut [u8], out: &mut [f32], stride: usize) -> bool {
                let w = call.weights;
                if w.depthwise {
                    return depthwise::conv::<Halves, 4>(call, out, stride);
                }
                // How many steps' pairs fit 16 bits.
                let largest = call.layout.range.1 + i32::from(call.layout.zero());
                let fitting = usize::try_from(32767 / (2 * largest * i32::from(w.largest).max(1))).unwrap_or(0);
                let rows_at_once = if !VNNI { 4 } else { 6 };
                // Few pixels unpack weights in registers; many share what is unpacked once.
                let few = call.pixels.len() < 8 || unpacked.len() < w.unpacked_bytes() + 64;
                let in_registers = w.nibbles && w.levels.is_empty() && few;
                // SAFETY: this function's features have the instructions.
                let mut noted = unsafe { Halves::splat(0.0) };
                for panel in call.panels.clone() {
                    let mut weights = w.weights.as_ptr().wrapping_add(panel * w.panel_bytes);
                    if w.nibbles && !in_registers {
                        // SAFETY: a panel has whole lines; an unpacked one and a line fit.
                        unsafe { unpack(call, panel, unpacked.as_mut_ptr()) };
                        weights = unpacked.as_ptr();
                    }
                    let mut first = 0;
                    while first < call.pixels.len() {
                        let rows = (call.pixels.len() - first).min(rows_at_once);
                        let tile = Tile { call, panel, first, weights, fitting, out: out.as_mut_ptr(), stride };
                        // SAFETY: `call` was checked; the tile lies in it.
                        noted = unsafe {
                            match (rows, w.levels.is_empty()) {
                                (1, _) if in_registers => tile.nibbles::<1>(noted),
                                (2, _) if in_registers => tile.nibbles::<2>(noted),
                                (3, _) if in_registers => tile.nibbles::<3>(noted),
                                _ if in_registers => tile.nibbles::<4>(noted),
                                (6, _) => tile.rows6::<false>(noted),
                                (5, _) => tile.rows5::<false>(noted),
                                (4, true) => tile.rows4::<false>(noted),
                                (3, true) => tile.rows3::<false>(noted),
                                (2, true) => tile.rows2::<false>(noted),
                                (_, true) => tile.rows1::<false>(noted),
                                (4, false) => tile.rows4::<true>(noted),
                                (3, false) => tile.rows3::<true>(noted),
                                (2, false) => tile.rows2::<true>(noted),
                                (_, false) => tile.rows1::<true>(noted),
                            }
                        };
                        first += if in_registers { rows.min(4) } else { rows };
                    }
                }
                // SAFETY: as above.
                unsafe { noted.finite() }
            }

            /// Writes a panel's nibbles as bytes; a line more than they take may be written.
            #[target_feature(enable = $features)]
            unsafe fn unpack(call: &ConvCall<'_>, panel: usize, mut to: *mut u8) {
                let w = call.weights;
                let low = _mm256_set1_epi8(15);
                // Two's complement of each value of a nibble.
                let signed = _mm256_broadcastsi128_si256(_mm_setr_epi8(
                    0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1,
                ));
                // SAFETY: `ConvCall::check` held for the panel, the caller for where it goes.
                unsafe {
                    let mut from = w.weights.as_ptr().add(panel * w.panel_bytes);
                    for _ in 0..w.taps {
                        for segment in &w.segments {
                            for line in 0..segment.steps.div_ceil(2) {
                                for h in [0, 32] {
                                    let packed = _mm256_loadu_si256(from.add(h).cast());
                                    let high = _mm256_and_si256(_mm256_srli_epi16::<4>(packed), low);
                                    let first = _mm256_shuffle_epi8(signed, _mm256_and_si256(packed, low));
                                    let to = to.add(128 * line + h);
                                    _mm256_storeu_si256(to.cast(), first);
                                    _mm256_storeu_si256(to.add(64).cast(), _mm256_shuffle_epi8(signed, high));
                                }
                                from = from.add(64);
                            }
                            to = to.add(64 * segment.steps);
                        }
                    }
                }
            }

            /// Some pixels and one panel of a checked call.
            #[derive(Clone, Copy)]
            struct Tile<'a> {
                call: &'a ConvCall<'a>,
                panel: usize,
                first: usize,
                /// The panel's weights; for [`Tile::nibbles`] not used.
                weights: *const u8,
                fitting: usize,
                out: *mut f32,
                stride: usize,
            }

            /// `sum + dot(a, q)` in each lane, exact if a pair fits 16 bits, or if the CPU has the instruction.
            #[inline]
            #[target_feature(enable = $features)]
            fn dot(sum: __m256i, a: __m256i, q: __m256i) -> __m256i {
                if VNNI {
                    return $dot(sum, a, q);
                }
                _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, q), _mm256_set1_epi16(1)))
            }

            /// [`dot`] for every code and weight.
            #[inline]
            #[target_feature(enable = $features)]
            fn wide_dot(sum: __m256i, a: __m256i, q: __m256i) -> __m256i {
                let top = _mm256_set1_epi8(-128);
                dot(dot(sum, _mm256_andnot_si256(top, a), q), _mm256_and_si256(top, a), q)
            }

            impl Tile<'_> {
                tile!($features rows6: 0 c0 x0 a0 b0 m0 n0 s0 t0 u0 v0, 1 c1 x1 a1 b1 m1 n1 s1 t1 u1 v1, 2 c2 x2 a2 b2 m2 n2 s2 t2 u2 v2, 3 c3 x3 a3 b3 m3 n3 s3 t3 u3 v3,
                    4 c4 x4 a4 b4 m4 n4 s4 t4 u4 v4, 5 c5 x5 a5 b5 m5 n5 s5 t5 u5 v5);
                tile!($features rows5: 0 c0 x0 a0 b0 m0 n0 s0 t0 u0 v0, 1 c1 x1 a1 b1 m1 n1 s1 t1 u1 v1, 2 c2 x2 a2 b2 m2 n2 s2 t2 u2 v2, 3 c3 x3 a3 b3 m3 n3 s3 t3 u3 v3,
                    4 c4 x4 a4 b4 m4 n4 s4 t4 u4 v4);
                tile!($features rows4: 0 c0 x0 a0 b0 m0 n0 s0 t0 u0 v0, 1 c1 x1 a1 b1 m1 n1 s1 t1 u1 v1, 2 c2 x2 a2 b2 m2 n2 s2 t2 u2 v2, 3 c3 x3 a3 b3 m3 n3 s3 t3 u3 v3);
                tile!($features rows3: 0 c0 x0 a0 b0 m0 n0 s0 t0 u0 v0, 1 c1 x1 a1 b1 m1 n1 s1 t1 u1 v1, 2 c2 x2 a2 b2 m2 n2 s2 t2 u2 v2);
                tile!($features rows2: 0 c0 x0 a0 b0 m0 n0 s0 t0 u0 v0, 1 c1 x1 a1 b1 m1 n1 s1 t1 u1 v1);
                tile!($features rows1: 0 c0 x0 a0 b0 m0 n0 s0 t0 u0 v0);

                /// Linear layers in 4 bits: weights are unpacked in registers on their way from memory.
                #[inline(never)]
                #[target_feature(enable = $features)]
                unsafe fn nibbles<const R: usize>(self, noted: Halves) -> Halves {
                    let Tile { call, panel, first, .. } = self;
                    let w = call.weights;
                    let group = w.panels[panel].group;
                    let (bytes, floats) = (call.layout.bytes, call.layout.scales);
                    let low = _mm256_set1_epi8(15);
                    // Two's complement of each value of a nibble. Pairs of 4-bit weights always fit 16 bits.
                    let signed = _mm256_broadcastsi128_si256(_mm_setr_epi8(
                        0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1,
                    ));
                    // SAFETY: `ConvCall::check` held for every pixel, tap, panel and segment; after an odd number of steps a
                    // segment's last codes are multiplied by weights of 0, and `SLACK` bytes follow the last pixel.
                    unsafe {
                        let mut codes = [std::ptr::null::<u8>(); R];
                        let mut scales = [std::ptr::null::<f32>(); R];
                        for r in 0..R {
                            let pixel = *call.pixels.get_unchecked(first + r) as usize;
                            codes[r] = call.codes.as_ptr().add(pixel * bytes + group * w.group_bytes);
                            scales[r] = call.scales.as_ptr().add(pixel * floats + group * w.group_scales);
                        }
                        let mut weights = w.weights.as_ptr().add(panel * w.panel_bytes);
                        let mut alpha = w.alpha.as_ptr().add(panel * w.taps * w.segments.len() * LANES);
                        let mut start = w.start.as_ptr().wrapping_add(panel * w.taps * w.segments.len() * LANES);
                        let mut sum = [[_mm256_setzero_ps(); 2]; R];
                        for &tap in call.taps {
                            let mut at = tap as usize * bytes;
                            let scale_at = tap as usize * floats;
                            for segment in &w.segments {
                                let mut dots = [[_mm256_setzero_si256(); 2]; R];
                                if !w.start.is_empty() {
                                    for r in 0..R {
                                        dots[r][0] = _mm256_loadu_si256(start.cast());
                                        dots[r][1] = _mm256_loadu_si256(start.add(V).cast());
                                    }
                                }
                                for _ in 0..segment.steps.div_ceil(2) {
                                    for h in 0..2 {
                                        let packed = _mm256_loadu_si256(weights.add(32 * h).cast());
                                        let high = _mm256_and_si256(_mm256_srli_epi16::<4>(packed), low);
                                        let q = _mm256_shuffle_epi8(signed, _mm256_and_si256(packed, low));
                                        let p = _mm256_shuffle_epi8(signed, high);
                                        for r in 0..R {
                                            let a = codes[r].add(at).cast::<i32>();
                                            let (first, second) = (a.read_unaligned(), a.add(1).read_unaligned());
                                            dots[r][h] = dot(dots[r][h], _mm256_set1_epi32(first), q);
                                            dots[r][h] = dot(dots[r][h], _mm256_set1_epi32(second), p);
                                        }
                                    }
                                    at += 8;
                                    weights = weights.add(64);
                                }
                                at -= segment.steps % 2 * 4;
                                for h in 0..2 {
                                    let alpha = _mm256_loadu_ps(alpha.add(V * h));
                                    for r in 0..R {
                                        let s = _mm256_set1_ps(*scales[r].add(scale_at + segment.scale));
                                        let dot = _mm256_cvtepi32_ps(dots[r][h]);
                                        sum[r][h] = _mm256_fmadd_ps(_mm256_mul_ps(alpha, s), dot, sum[r][h]);
                                    }
                                }
                                alpha = alpha.add(LANES);
                                start = start.wrapping_add(LANES);
                            }
                        }
                        let sum = sum.map(|[low, high]| Halves(low, high));
                        end(call, panel, first, self.out, self.stride, sum, noted)
                    }
                }
            }

            /// The lowest `lanes` of 8.
            #[inline]
            #[target_feature(enable = $features)]
            fn mask(lanes: i32) -> __m256i {
                _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
            }

            #[target_feature(enable = $features)]
            unsafe fn quantize(call: &QuantizeCall<'_>, codes: &mut [u8], scales: &mut [f32]) {
                let layout = call.layout;
                let blocks = layout.blocks.len();
                if layout.depthwise {
                    return depthwise::quantize::<true>(call, codes, scales);
                }
                if !layout.pieces.is_empty() || blocks > SCALES || layout.channels < V {
                    return scalar::quantize(call, codes, scales);
                }
                let rule = Vectors::new(layout);
                let mut max = [0f32; SCALES];
                let mut inv = [0f32; SCALES];
                let at_once = SCALES / blocks;
                let mut first = 0;
                while first < call.pixels.len() {
                    let count = (call.pixels.len() - first).min(at_once);
                    // SAFETY: `QuantizeCall::check` held: rows have all channels, and each pixel lies in `codes` and
                    // `scales`.
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
                            let (s, i) = rule.scale(_mm256_loadu_ps(max.as_ptr().add(at)));
                            _mm256_storeu_ps(max.as_mut_ptr().add(at), s);
                            _mm256_storeu_ps(inv.as_mut_ptr().add(at), i);
                            at += V;
                        }
                        for i in 0..count {
                            let pixel = *call.pixels.get_unchecked(first + i) as usize;
                            let codes = codes.as_mut_ptr().add(pixel * layout.bytes);
                            for (b, block) in layout.blocks.iter().enumerate() {
                                *scales.get_unchecked_mut(pixel * blocks + b) = max[i * blocks + b];
                                let x = x.add(i * call.x.stride + block.start);
                                rule.block(x, block.len(), inv[i * blocks + b], codes.add(block.start));
                            }
                        }
                    }
                    first += count;
                }
            }

            /// Largest magnitude of `n` floats.
            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn largest(x: *const f32, n: usize) -> f32 {
                let sign = _mm256_set1_ps(-0.0);
                let mut max = _mm256_setzero_ps();
                let mut c = 0;
                // SAFETY: of the caller.
                unsafe {
                    while c + V <= n {
                        max = _mm256_max_ps(max, _mm256_andnot_ps(sign, _mm256_loadu_ps(x.add(c))));
                        c += V;
                    }
                    if c < n {
                        let part = _mm256_maskload_ps(x.add(c), mask((n - c) as i32));
                        max = _mm256_max_ps(max, _mm256_andnot_ps(sign, part));
                    }
                }
                let max = _mm_max_ps(_mm256_castps256_ps128(max), _mm256_extractf128_ps::<1>(max));
                let max = _mm_max_ps(max, _mm_movehl_ps(max, max));
                _mm_cvtss_f32(_mm_max_ss(max, _mm_movehdup_ps(max)))
            }

            /// [`Rule`] in vectors.
            struct Vectors {
                rule: Rule,
                lo: __m256i,
                hi: __m256i,
                offset: __m256i,
            }

            impl Vectors {
                #[inline]
                #[target_feature(enable = $features)]
                fn new(layout: &Layout) -> Self {
                    let rule = Rule::new(layout);
                    let splat = |v: i32| _mm256_set1_epi32(v);
                    Self { lo: splat(rule.lo), hi: splat(rule.hi), offset: splat(rule.offset), rule }
                }

                /// Scales and their reciprocals.
                #[inline]
                #[target_feature(enable = $features)]
                fn scale(&self, max: __m256) -> (__m256, __m256) {
                    let splat = |v: f32| _mm256_set1_ps(v);
                    match self.rule.kind {
                        ActivationScale::Pow2 => {
                            let e = _mm256_srli_epi32::<23>(_mm256_castps_si256(max));
                            let e = _mm256_sub_epi32(e, _mm256_set1_epi32(self.rule.shift));
                            let e = _mm256_min_epi32(_mm256_max_epi32(e, _mm256_set1_epi32(1)), _mm256_set1_epi32(253));
                            let float = |e: __m256i| _mm256_castsi256_ps(_mm256_slli_epi32::<23>(e));
                            (float(e), float(_mm256_sub_epi32(_mm256_set1_epi32(254), e)))
                        }
                        ActivationScale::Float => {
                            let scale = _mm256_div_ps(_mm256_min_ps(max, splat(two_to(127))), splat(self.rule.hi as f32));
                            let scale = _mm256_min_ps(_mm256_max_ps(scale, splat(two_to(-126))), splat(two_to(126)));
                            (scale, _mm256_div_ps(splat(1.0), scale))
                        }
                    }
                }

                /// Codes of 8 floats. Their products with `inv` are below `2^31`.
                #[inline]
                #[target_feature(enable = $features)]
                fn codes(&self, x: __m256, inv: __m256) -> __m256i {
                    let a = _mm256_cvtps_epi32(_mm256_mul_ps(x, inv));
                    _mm256_add_epi32(_mm256_min_epi32(_mm256_max_epi32(a, self.lo), self.hi), self.offset)
                }

                /// The codes of one block.
                #[inline]
                #[target_feature(enable = $features)]
                unsafe fn block(&self, x: *const f32, n: usize, inv: f32, codes: *mut u8) {
                    let splat = _mm256_set1_ps(inv);
                    // Packing works in each half of a vector: this order of its 4-byte words puts them right.
                    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
                    let mut c = 0;
                    // SAFETY: of the caller.
                    unsafe {
                        while c + 4 * V <= n {
                            let a = |k: usize| self.codes(_mm256_loadu_ps(x.add(c + k * V)), splat);
                            let words = _mm256_packus_epi16(_mm256_packus_epi32(a(0), a(1)), _mm256_packus_epi32(a(2), a(3)));
                            _mm256_storeu_si256(codes.add(c).cast(), _mm256_permutevar8x32_epi32(words, order));
                            c += 4 * V;
                        }
                        while c < n {
                            *codes.add(c) = self.rule.code(*x.add(c), inv);
                            c += 1;
                        }
                    }
                }
            }
        }
    };
}

ymm!(avx2, Avx2, "avx2,fma", false, |sum, _, _| sum, ["avx2", "fma"]);
ymm!(avxvnni, AvxVnni, "avx2,fma,avxvnni", true, _mm256_dpbusd_avx_epi32, ["avx2", "fma", "avxvnni"]);
