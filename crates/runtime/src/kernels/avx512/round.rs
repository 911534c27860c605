//! From floats to codes and scales.
use std::arch::x86_64::*;

use blockfloat::ActivationScale;

use super::mask;
use crate::kernels::scalar::{Rule, quantize as quantize_plain, two_to};
use crate::kernels::{PLANES, PlanesCall, QuantizeCall, depthwise};
use crate::layout::{LANES, Layout};

/// Pixels whose scales are found at a time.
const SCALES: usize = 512;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
pub(super) unsafe fn quantize(call: &QuantizeCall<'_>, codes: &mut [u8], scales: &mut [f32]) {
    let layout = call.layout;
    let blocks = layout.blocks.len();
    if layout.depthwise {
        return depthwise::quantize::<true>(call, codes, scales);
    }
    if !layout.pieces.is_empty() || blocks > SCALES || layout.channels < LANES {
        return quantize_plain(call, codes, scales);
    }
    if let Some(length) = Run::fits(layout) {
        // SAFETY: of the caller.
        return unsafe { quantize_runs(call, length, codes, scales) };
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

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
pub(super) fn quantize_planes(call: &PlanesCall<'_>, codes: &mut [u8], scales: &mut [f32]) {
    let PlanesCall { layout, image, area, first, pixels } = *call;
    let rule = Vectors::new(layout);
    let last = pixels.iter().max().map_or(0, |&p| p as usize);
    assert!(codes.len() >= (last + 1) * PLANES && scales.len() > last && layout.channels <= PLANES);
    for (i, pixels) in pixels.chunks(LANES).enumerate() {
        let (at, some) = (first + i * LANES, mask(pixels.len()));
        let plane = |c: usize| {
            let x = &image[c * area + at..][..pixels.len()];
            // SAFETY: as many floats are loaded.
            unsafe { _mm512_maskz_loadu_ps(some, x.as_ptr()) }
        };
        let largest = |max, c| _mm512_max_ps(max, _mm512_abs_ps(plane(c)));
        let (scale, inverse) = rule.scale((0..layout.channels).fold(_mm512_setzero_ps(), largest));
        // A pixel's codes are the bytes of a word, the first channel's the lowest.
        let mut words = _mm512_setzero_si512();
        for c in 0..layout.channels {
            let shift = _mm512_set1_epi32(8 * c as i32);
            words = _mm512_or_si512(words, _mm512_sllv_epi32(rule.codes(plane(c), inverse), shift));
        }
        let (codes, scales) = (codes.as_mut_ptr().cast::<i32>(), scales.as_mut_ptr());
        // SAFETY: all pixels lie in both slices.
        unsafe {
            let pixel = pixels[0] as usize;
            // Pixels of a row lie side by side.
            if pixels[pixels.len() - 1] - pixels[0] == pixels.len() as u32 - 1 {
                _mm512_mask_storeu_epi32(codes.add(pixel), some, words);
                _mm512_mask_storeu_ps(scales.add(pixel), some, scale);
                continue;
            }
            let (mut each_words, mut each_scale) = ([0; LANES], [0.0; LANES]);
            _mm512_storeu_si512(each_words.as_mut_ptr().cast(), words);
            _mm512_storeu_ps(each_scale.as_mut_ptr(), scale);
            for (i, &pixel) in pixels.iter().enumerate() {
                codes.add(pixel as usize).write_unaligned(each_words[i]);
                *scales.add(pixel as usize) = each_scale[i];
            }
        }
    }
}

/// [`quantize`] where blocks have the same `length`. Pixels that follow each other, without a gap in their rows, are one
/// array of blocks.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
unsafe fn quantize_runs(call: &QuantizeCall<'_>, length: usize, codes: &mut [u8], scales: &mut [f32]) {
    let QuantizeCall { layout, x, pixels } = *call;
    let blocks = layout.blocks.len();
    let rule = Vectors::new(layout);
    let bytes = Bytes::new(&rule.rule);
    let gaps = x.stride != layout.channels;
    let mut first = 0;
    while first < pixels.len() {
        let next = |i: usize| !gaps && i < pixels.len() && pixels[i] == pixels[i - 1] + 1;
        let mut end = first + 1;
        while next(end) {
            end += 1;
        }
        let pixel = pixels[first] as usize;
        // SAFETY: `QuantizeCall::check` held: rows have all channels, and each pixel lies in `codes` and `scales`.
        unsafe {
            let run = Run {
                blocks: (end - first) * blocks,
                length,
                x: x.data.as_ptr().add(first * x.stride),
                codes: codes.as_mut_ptr().add(pixel * layout.bytes),
                scales: scales.as_mut_ptr().add(pixel * blocks),
            };
            run.quantize(&rule, &bytes);
        }
        first = end;
    }
}

/// Consecutive blocks: floats, and where their codes and scales go.
struct Run {
    blocks: usize,
    /// Channels of a block: a number of lines, or half of one, and then blocks come in pairs.
    length: usize,
    x: *const f32,
    codes: *mut u8,
    scales: *mut f32,
}

/// Channels of a vector of codes.
const LINE: usize = 64;

/// Blocks that are rounded at a time.
const BLOCKS: usize = 64;

impl Run {
    /// The length of all blocks of a layout without gaps, if runs are made for it.
    fn fits(layout: &Layout) -> Option<usize> {
        let length = layout.blocks[0].len();
        let lines = length.is_multiple_of(LINE) || length == LINE / 2 && layout.channels.is_multiple_of(LINE);
        (lines && layout.blocks.iter().all(|b| b.len() == length)).then_some(length)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
    unsafe fn quantize(&self, rule: &Vectors, bytes: &Bytes) {
        let Self { blocks, length, x, codes, scales } = *self;
        let halves = length < LINE;
        // Codes of two halves, or of a line.
        let (line, lines) = if halves { (2, 1) } else { (1, length / LINE) };
        let (mut quarters, mut inverses) = ([[0.0f32; 4]; BLOCKS], [0.0f32; BLOCKS]);
        let (quarters, inverses) = (quarters.as_mut_ptr().cast::<f32>(), inverses.as_mut_ptr());
        // What is read twice stays in first-level cache.
        let at_once = (4096 / length).clamp(LANES, BLOCKS);
        let mut first = 0;
        while first < blocks {
            let count = (blocks - first).min(at_once);
            // SAFETY: of the caller; a part of the last 16 magnitudes may be of no block, and gives no scale.
            unsafe {
                let (x, codes) = (x.add(first * length), codes.add(first * length));
                let mut at = x;
                for block in (0..count).step_by(line) {
                    let (mut low, mut high) = (_mm512_setzero_ps(), _mm512_setzero_ps());
                    for _ in 0..lines {
                        let a = |k: usize| _mm512_abs_ps(_mm512_loadu_ps(at.add(k * LANES)));
                        low = _mm512_max_ps(low, _mm512_max_ps(a(0), a(1)));
                        high = _mm512_max_ps(high, _mm512_max_ps(a(2), a(3)));
                        at = at.add(LINE);
                    }
                    let to = quarters.add(4 * block);
                    if halves {
                        _mm_storeu_ps(to, quarter(low));
                        _mm_storeu_ps(to.add(4), quarter(high));
                    } else {
                        _mm_storeu_ps(to, quarter(_mm512_max_ps(low, high)));
                    }
                }
                for block in (0..count).step_by(LANES) {
                    let (scale, inverse) = rule.scale(largest_of_four(quarters.add(4 * block)));
                    _mm512_mask_storeu_ps(scales.add(first + block), mask(count - block), scale);
                    _mm512_storeu_ps(inverses.add(block), inverse);
                }
                let mut at = 0;
                for block in (0..count).step_by(line) {
                    let low = _mm512_set1_ps(*inverses.add(block));
                    let high = if halves { _mm512_set1_ps(*inverses.add(block + 1)) } else { low };
                    for _ in 0..lines {
                        let a = |k: usize, inverse: __m512| {
                            _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x.add(at + k * LANES)), inverse))
                        };
                        let line = bytes.line([a(0, low), a(1, low), a(2, high), a(3, high)]);
                        _mm512_storeu_si512(codes.add(at).cast(), line);
                        at += LINE;
                    }
                }
            }
            first += count;
        }
    }
}

/// The larger of each fourth lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
fn quarter(x: __m512) -> __m128 {
    let half = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x));
    _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps::<1>(half))
}

/// The largest of each four of 64 floats.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
unsafe fn largest_of_four(x: *const f32) -> __m512 {
    let pair = |a: __m512, b: __m512| _mm512_max_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    // SAFETY: of the caller.
    unsafe {
        let four = |k: usize| _mm512_loadu_ps(x.add(k * LANES));
        let (a, b) = (pair(four(0), four(1)), pair(four(2), four(3)));
        let max = _mm512_max_ps(_mm512_shuffle_ps::<0x44>(a, b), _mm512_shuffle_ps::<0xee>(a, b));
        _mm512_permutexvar_ps(transposed(), max)
    }
}

/// The order of 16 lanes in which rows and columns of four change places.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
fn transposed() -> __m512i {
    _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)
}

/// Limits and offset of 64 codes.
struct Bytes {
    signed: bool,
    lo: __m512i,
    hi: __m512i,
    offset: __m512i,
}

impl Bytes {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
    fn new(rule: &Rule) -> Self {
        let splat = |v: i32| _mm512_set1_epi8(v as i8);
        Self { signed: rule.offset != 0, lo: splat(rule.lo), hi: splat(rule.hi), offset: splat(rule.offset) }
    }

    /// Bytes of 64 integers, which are limited as bytes: packing keeps what lies outside at the end of its range.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
    fn line(&self, a: [__m512i; 4]) -> __m512i {
        let (low, high) = (_mm512_packs_epi32(a[0], a[1]), _mm512_packs_epi32(a[2], a[3]));
        let bytes = if self.signed {
            let a = _mm512_max_epi8(_mm512_packs_epi16(low, high), self.lo);
            _mm512_add_epi8(_mm512_min_epi8(a, self.hi), self.offset)
        } else {
            _mm512_min_epu8(_mm512_packus_epi16(low, high), self.hi)
        };
        // Packing works in each quarter of a vector.
        _mm512_permutexvar_epi32(transposed(), bytes)
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

    /// The codes of one block.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
    unsafe fn block(&self, x: *const f32, n: usize, inv: __m512, codes: *mut u8) {
        let mut c = 0;
        // SAFETY: of the caller; the last load and store are masked.
        unsafe {
            while c < n {
                let mask = mask(n - c);
                let a = self.codes(_mm512_maskz_loadu_ps(mask, x.add(c)), inv);
                _mm_mask_storeu_epi8(codes.add(c).cast(), mask, _mm512_cvtepi32_epi8(a));
                c += LANES;
            }
        }
    }
}
