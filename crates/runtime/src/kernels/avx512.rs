//! AVX-512 VNNI: 16 outputs a vector, 6 pixels by 32 outputs in registers.
use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::dots::{self, Dots};
use super::instructions::instructions;
use super::lanes::{Lanes, Magnitudes, Sums};
use super::round::Rounds;
use super::rule::Rule;
use super::tile::{Form, Isa, Run};
use super::tiles::{Bytes, Product, Strip, Tiled, Words};
use super::{Task, Wants, winograd};
use crate::winograd::Tiling;

/// The kernel of CPUs with AVX-512 F, BW, DQ, VL and VNNI.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512Vnni(());

instructions!(
    is_x86_feature_detected,
    has_avx512,
    run_avx512: "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni", "fma"
);

impl Isa for Avx512Vnni {
    type Floats = __m512;
    type Sums = __m512i;
    const WANTS: Wants = Wants { winograd: Some(Self::TILING), ..Wants::USUAL };
    const ROWS: usize = 6;
    const MORE_ROWS: usize = 7;
    const PANELS: usize = 2;
    const UNPACKED_FROM: usize = 2 * Self::ROWS;
    const DEPTHWISE_ROWS: usize = 8;

    fn detect() -> Option<Self> {
        has_avx512().then_some(Self(()))
    }

    #[inline(always)]
    unsafe fn vectorize<T: Task>(task: T) -> T::Output {
        // SAFETY: of the caller.
        unsafe { run_avx512(task) }
    }

    #[inline(always)]
    unsafe fn ask(at: *const f32) {
        // SAFETY: nothing is read.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }

    #[inline(always)]
    unsafe fn winograd(run: winograd::Run<'_>) -> bool {
        // SAFETY: of the caller.
        unsafe { Self::vectorize(Strip::<Self>(run, PhantomData)) }
    }

    #[inline(always)]
    unsafe fn multiply<F: Form, const R: usize, const P: usize>(sums: &mut [[__m512i; P]; R], run: &Run<R>) {
        // SAFETY: of the caller.
        unsafe {
            if F::NIBBLES {
                dots::nibbles::<Self, R, P>(sums, run);
            } else {
                dots::bytes::<Self, F, false, R, P>(sums, run);
            }
        }
    }
}

impl Tiled for Avx512Vnni {
    const TILING: Tiling =
        Tiling { tiles: 8, panels: 2, chains: false, codes_from: 192 * 1024, strip: 512 * 1024, fewest: 20 };
    type Bytes = __m512i;
    type Unit = __m128i;
    type Words = __m512i;

    #[inline(always)]
    unsafe fn multiply_tiles<const R: usize, const P: usize>(product: &Product<'_>, v: *const u8, products: *mut i32) {
        // SAFETY: of the caller.
        unsafe { dots::tiles::<Self, R, P>(product, v, products) }
    }
}

impl Dots for Avx512Vnni {
    type Codes = __m512i;
    const CHAINS: bool = true;

    #[inline(always)]
    unsafe fn splat(at: *const u8) -> __m512i {
        // SAFETY: of the caller.
        unsafe { _mm512_set1_epi32(at.cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn dot<const WIDE: bool>(sums: __m512i, codes: __m512i, weights: __m512i) -> __m512i {
        // SAFETY: of the caller.
        unsafe { _mm512_dpbusd_epi32(sums, codes, weights) }
    }

    #[inline(always)]
    unsafe fn nibbles(line: *const u8) -> [__m512i; 2] {
        // SAFETY: of the caller.
        unsafe {
            let low = _mm512_set1_epi8(15);
            // Two's complement of each value of a nibble.
            let signed = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1));
            let packed = _mm512_loadu_si512(line.cast());
            let high = _mm512_and_si512(_mm512_srli_epi16::<4>(packed), low);
            [_mm512_shuffle_epi8(signed, _mm512_and_si512(packed, low)), _mm512_shuffle_epi8(signed, high)]
        }
    }

    #[inline(always)]
    unsafe fn prefetch<const SOON: bool>(at: *const u8) {
        // SAFETY: nothing is read.
        unsafe {
            if SOON {
                _mm_prefetch::<_MM_HINT_T0>(at.cast());
            } else {
                _mm_prefetch::<_MM_HINT_T1>(at.cast());
            }
        }
    }
}

/// The limits and the offset of 64 codes.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    signed: bool,
    lo: __m512i,
    hi: __m512i,
    offset: __m512i,
}

impl Rounds for Avx512Vnni {
    type Limits = Limits;

    #[inline(always)]
    unsafe fn limits(rule: &Rule) -> Limits {
        let (lo, hi, offset) = (rule.lo as i8, rule.hi as i8, rule.offset as i8);
        // SAFETY: of the caller.
        unsafe {
            let [lo, hi, offset] = [_mm512_set1_epi8(lo), _mm512_set1_epi8(hi), _mm512_set1_epi8(offset)];
            Limits { signed: rule.offset != 0, lo, hi, offset }
        }
    }

    #[inline(always)]
    unsafe fn codes(limits: &Limits, x: [__m512; 4], to: *mut u8, n: usize) {
        // SAFETY: of the caller.
        unsafe {
            // Limited as bytes: packing keeps what lies outside at the end of its range.
            let low = _mm512_packs_epi32(_mm512_cvtps_epi32(x[0]), _mm512_cvtps_epi32(x[1]));
            let high = _mm512_packs_epi32(_mm512_cvtps_epi32(x[2]), _mm512_cvtps_epi32(x[3]));
            let bytes = if limits.signed {
                let a = _mm512_max_epi8(_mm512_packs_epi16(low, high), limits.lo);
                _mm512_add_epi8(_mm512_min_epi8(a, limits.hi), limits.offset)
            } else {
                _mm512_min_epu8(_mm512_packus_epi16(low, high), limits.hi)
            };
            // Packing works in each quarter of a vector: this order of its 4-byte words puts them right.
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            let bytes = _mm512_permutexvar_epi32(order, bytes);
            if n == 64 {
                _mm512_storeu_si512(to.cast(), bytes);
            } else {
                _mm512_mask_storeu_epi8(to.cast(), (1 << n) - 1, bytes);
            }
        }
    }
}

/// Returns the mask of the lowest `lanes` of 16.
#[inline(always)]
fn mask(lanes: usize) -> __mmask16 {
    if lanes >= 16 { 0xffff } else { (1 << lanes) - 1 }
}

impl Lanes for __m512 {
    const WIDTH: usize = 16;
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
    unsafe fn at_least(self, lo: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm512_max_ps(self, lo) }
    }
    #[inline(always)]
    unsafe fn at_most(self, hi: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm512_min_ps(self, hi) }
    }
    #[inline(always)]
    unsafe fn note(self, y: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm512_fmadd_ps(y, _mm512_setzero_ps(), self) }
    }
    #[inline(always)]
    unsafe fn least_bits(self, x: Self) -> Self {
        // SAFETY: of the caller.
        unsafe {
            let less = _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(-1));
            _mm512_castsi512_ps(_mm512_min_epu32(_mm512_castps_si512(self), less))
        }
    }
    #[inline(always)]
    unsafe fn most_bits(self, x: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm512_castsi512_ps(_mm512_max_epu32(_mm512_castps_si512(self), _mm512_castps_si512(x))) }
    }
    #[inline(always)]
    unsafe fn load_lanes(at: *const f32, lanes: usize) -> Self {
        // SAFETY: of the caller; only these lanes are read.
        unsafe { _mm512_maskz_loadu_ps(mask(lanes), at) }
    }
    #[inline(always)]
    unsafe fn store_lanes(self, at: *mut f32, lanes: usize) {
        // SAFETY: of the caller; only these lanes are written.
        unsafe { _mm512_mask_storeu_ps(at, mask(lanes), self) }
    }
    #[inline(always)]
    unsafe fn first_lanes(self, lanes: usize) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm512_maskz_mov_ps(mask(lanes), self) }
    }
}

impl Magnitudes for __m512 {
    #[inline(always)]
    unsafe fn abs_max(self, x: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm512_max_ps(self, _mm512_abs_ps(x)) }
    }
    #[inline(always)]
    unsafe fn quarter(self, to: *mut f32) {
        // SAFETY: of the caller.
        unsafe {
            let half = _mm256_max_ps(_mm512_castps512_ps256(self), _mm512_extractf32x8_ps::<1>(self));
            half.quarter(to);
        }
    }
}

impl Sums for __m512i {
    type Floats = __m512;
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: of the caller.
        unsafe { _mm512_setzero_si512() }
    }
    #[inline(always)]
    unsafe fn load(at: *const i32) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm512_loadu_si512(at.cast()) }
    }
    #[inline(always)]
    unsafe fn plus(self, y: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm512_add_epi32(self, y) }
    }
    #[inline(always)]
    unsafe fn floats(self) -> __m512 {
        // SAFETY: of the caller.
        unsafe { _mm512_cvtepi32_ps(self) }
    }
}

impl Words for __m512i {
    #[inline(always)]
    unsafe fn store(self, at: *mut i32) {
        // SAFETY: of the caller.
        unsafe { _mm512_storeu_si512(at.cast(), self) }
    }
    #[inline(always)]
    unsafe fn minus(self, y: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm512_sub_epi32(self, y) }
    }
    #[inline(always)]
    unsafe fn times(self, y: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm512_mullo_epi32(self, y) }
    }
    #[inline(always)]
    unsafe fn quarter(self) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm512_srai_epi32::<2>(self) }
    }
}

impl Bytes for __m512i {
    const WIDTH: usize = 64;
    #[inline(always)]
    unsafe fn load(at: *const u8) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm512_loadu_si512(at.cast()) }
    }
    #[inline(always)]
    unsafe fn store(self, at: *mut u8) {
        // SAFETY: of the caller.
        unsafe { _mm512_storeu_si512(at.cast(), self) }
    }
    #[inline(always)]
    unsafe fn splat(x: u8) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm512_set1_epi8(x.cast_signed()) }
    }
    #[inline(always)]
    unsafe fn wrapping_add(self, y: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm512_add_epi8(self, y) }
    }
    #[inline(always)]
    unsafe fn wrapping_sub(self, y: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm512_sub_epi8(self, y) }
    }
}
