//! AVX-512 VNNI: 16 outputs a vector, 6 pixels by 32 outputs in registers.
mod round;
mod tile;

use std::arch::x86_64::*;

use self::round::{quantize, quantize_planes};
use self::tile::Spots;
pub(super) use self::tile::Tile;
use super::lanes::Lanes;
use super::{ConvCall, Kernel, PlanesCall, QuantizeCall, Task, depthwise};

/// Pixels of a tile.
const MR: usize = 6;

/// Bytes of weights that stay in a near cache.
const NEAR: usize = 32 * 1024;

/// The kernel of CPUs with AVX-512 F, BW, DQ, VL and VNNI.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512Vnni(());

impl Kernel for Avx512Vnni {
    fn new() -> Option<Self> {
        let here = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("fma");
        here.then_some(Self(()))
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

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
fn run<T: Task>(task: T) -> T::Output {
    task.run()
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
pub(super) unsafe fn conv(call: &ConvCall<'_>, unpacked: &mut [u8], out: &mut [f32], stride: usize) -> bool {
    let w = call.weights;
    if w.depthwise {
        return depthwise::conv::<__m512, 8>(call, out, stride);
    }
    // Up to four channels of a colour image: one step a tap.
    let stem = w.segments.len() == 1 && w.segments[0].steps == 1;
    let spots = Spots::new(call);
    let mut noted = _mm512_setzero_ps();
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
        // The next panels' weights, if there are any, and they come from far.
        let (next_panel, last) = (panel + 2, (panel + 4).min(call.panels.end));
        let ahead = match next_panel < last && w.weights.len() > NEAR {
            true => &w.weights[next_panel * w.panel_bytes..last * w.panel_bytes],
            false => &w.weights[..0],
        };
        let mut first = 0;
        while first < count {
            let rows = (count - first).min(most);
            let tiles = if in_registers { 1 } else { (count - first) / rows };
            let tile = Tile { call, panel, first, weights, next, out: out.as_mut_ptr(), stride, ahead };
            // SAFETY: `call` was checked; the tile lies in it.
            noted = unsafe {
                match (w.two_level(), !w.start.is_empty()) {
                    _ if in_registers => tile.nibbles(rows, pair, noted),
                    (false, true) if stem => tile.run::<false, true, true>(rows, tiles, pair, &spots, noted),
                    (true, true) if stem => tile.run::<true, true, true>(rows, tiles, pair, &spots, noted),
                    (false, false) => tile.run::<false, false, false>(rows, tiles, pair, &spots, noted),
                    (false, true) => tile.run::<false, true, false>(rows, tiles, pair, &spots, noted),
                    (true, false) => tile.run::<true, false, false>(rows, tiles, pair, &spots, noted),
                    (true, true) => tile.run::<true, true, false>(rows, tiles, pair, &spots, noted),
                }
            };
            first += rows * tiles;
        }
        panel += if pair { 2 } else { 1 };
    }
    // SAFETY: this function's features have the instructions.
    unsafe { noted.finite() }
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
    #[inline(always)]
    unsafe fn note(self, y: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm512_fmadd_ps(y, _mm512_setzero_ps(), self) }
    }
}

/// The lowest `lanes` of 16.
#[inline(always)]
fn mask(lanes: usize) -> __mmask16 {
    if lanes >= 16 { 0xffff } else { (1 << lanes) - 1 }
}
