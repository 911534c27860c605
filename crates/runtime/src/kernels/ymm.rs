//! 256-bit kernels: a panel of 16 outputs is two vectors of 8.
//!
//! [`AvxVnni`] has integer dot products. [`Avx2`] multiplies bytes pairwise into 16 bits (`maddubs`), which saturates:
//! - While the sums of several pairs of products fit 16 bits ([`Fields::fitting`](crate::pack::Fields::fitting): 8 steps of 4-bit
//!   weights and 8-bit codes, 136 with 4-bit codes) they are added there, then widened.
//! - Where not even one pair fits (8-bit weights beyond 64, with codes beyond 127), codes are split into their highest
//!   bit and the rest: `2 * 128 * 128` and `2 * 127 * 128` fit. Exact for every code and weight.
//! - Two-level weights of 4 bits would be such products of a code and its block's factor. They come as codes, and the
//!   instruction that widens the sums of a block also multiplies them by its factor: the same integer.
use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::dots::{self, Dots};
use super::instructions::instructions;
use super::lanes::{Lanes, Magnitudes, Pair, Sums};
use super::round::Rounds;
use super::rule::Rule;
use super::tile::{Form, Isa, Run};
use super::tiles::{Bytes, Product, Strip, Tiled, Words};
use super::{Task, Wants, chains, winograd};
use crate::layout::LANES;
use crate::winograd::Tiling;

/// The kernel of CPUs with AVX2 and FMA, and with AVX-VNNI where `VNNI`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ymm<const VNNI: bool>(());

/// The kernel of CPUs with AVX2 and FMA.
pub(crate) type Avx2 = Ymm<false>;

/// The kernel of CPUs with AVX2, FMA and AVX-VNNI.
pub(crate) type AvxVnni = Ymm<true>;

instructions!(is_x86_feature_detected, has_avx2, run_avx2: "avx2", "fma");
instructions!(is_x86_feature_detected, has_avxvnni, run_avxvnni: "avx2", "fma", "avxvnni");

impl<const VNNI: bool> Isa for Ymm<VNNI> {
    type Floats = Pair<__m256>;
    type Sums = Pair<__m256i>;
    const WANTS: Wants =
        Wants { factors_apart: !VNNI, shared_panels: !VNNI, winograd: Some(Self::TILING), ..Wants::USUAL };
    const ROWS: usize = if VNNI { 6 } else { 4 };
    const LAST_ROWS: usize = if VNNI { 6 } else { 5 };
    const NIBBLE_ROWS: usize = 4;
    const SATURATES: bool = !VNNI;
    const UNPACKED_FROM: usize = 8;

    fn detect() -> Option<Self> {
        (if VNNI { has_avxvnni() } else { has_avx2() }).then_some(Self(()))
    }

    #[inline(always)]
    unsafe fn vectorize<T: Task>(task: T) -> T::Output {
        // SAFETY: of the caller.
        unsafe { if VNNI { run_avxvnni(task) } else { run_avx2(task) } }
    }

    #[inline(always)]
    unsafe fn winograd(run: winograd::Run<'_>) -> bool {
        // SAFETY: of the caller.
        unsafe { Self::vectorize(Strip::<Self>(run, PhantomData)) }
    }

    #[inline(always)]
    unsafe fn multiply<F: Form, const R: usize, const P: usize>(sums: &mut [[Self::Sums; P]; R], run: &Run<R>) {
        // SAFETY: of the caller.
        unsafe {
            if F::EACH {
                add_each_level(sums, run);
            } else if F::NIBBLES {
                dots::nibbles::<Self, R, P>(sums, run);
            } else if VNNI || !F::ONE && !F::LEVELS && run.fitting == 1 {
                dots::bytes::<Self, F, false, R, P>(sums, run);
            } else if F::WIDE || !F::ONE && !F::LEVELS && run.fitting == 0 {
                dots::bytes::<Self, F, true, R, P>(sums, run);
            } else if F::ONE || run.steps <= run.fitting {
                add_in_16_bits::<F, true, R, P>(sums, run);
            } else {
                add_in_16_bits::<F, false, R, P>(sums, run);
            }
        }
    }
}

impl<const VNNI: bool> Tiled for Ymm<VNNI> {
    const TILING: Tiling = Tiling {
        tiles: if VNNI { 6 } else { 4 },
        panels: 1,
        chains: !VNNI,
        codes_from: 192 * 1024,
        strip: 256 * 1024,
        fewest: 0,
    };
    type Bytes = __m256i;
    type Unit = __m128i;
    type Words = __m256i;

    #[inline(always)]
    unsafe fn multiply_tiles<const R: usize, const P: usize>(product: &Product<'_>, v: *const u8, products: *mut i32) {
        // SAFETY: of the caller.
        unsafe {
            if VNNI {
                dots::tiles::<Self, R, P>(product, v, products);
            } else {
                chains::multiply::<R>(product, Self::TILING, v, products);
            }
        }
    }
}

/// The float to whose bits integers of up to 22 bits are added, `1.5 * 2^23`.
const MAGIC: f32 = 12_582_912.0;

/// Adds the dot products of a segment, as many steps of them in 16 bits as fit: all where `ONCE`. They are multiplied by their
/// levels as they are widened.
#[inline(always)]
unsafe fn add_in_16_bits<F: Form, const ONCE: bool, const R: usize, const P: usize>(
    sums: &mut [[Pair<__m256i>; P]; R],
    run: &Run<R>,
) {
    let (mut at, mut weights, mut ahead, mut left) = (run.at, run.weights, run.ahead, run.steps);
    // SAFETY: of the caller.
    unsafe {
        let one = _mm256_set1_epi16(1);
        let mut factors = [Pair(one, one); P];
        if F::LEVELS {
            for p in 0..P {
                factors[p] = Sums::load(run.levels.add(p * run.next_levels));
            }
        }
        while left > 0 {
            let now = if ONCE { left } else { left.min(run.fitting) };
            let mut short = [[Pair::<__m256i>::zero(); P]; R];
            // Two at a time: the loop's own instructions take the place of others. Where sums are widened often they also need
            // registers.
            let pairs = if ONCE { now / 2 } else { 0 };
            for _ in 0..pairs {
                add_step::<F, R, P>(&mut short, run, at, weights);
                add_step::<F, R, P>(&mut short, run, at + 4, weights.add(64));
                Avx2::prefetch::<false>(ahead);
                ahead = ahead.wrapping_add(2 * run.ahead_step);
                at += 8;
                weights = weights.add(128);
            }
            for _ in 2 * pairs..now {
                add_step::<F, R, P>(&mut short, run, at, weights);
                at += 4;
                weights = weights.add(64);
            }
            if !ONCE && run.ahead_step > 0 {
                for _ in 0..now / 2 {
                    Avx2::prefetch::<false>(ahead);
                    ahead = ahead.wrapping_add(2 * run.ahead_step);
                }
            }
            for r in 0..R {
                for p in 0..P {
                    let (Pair(low, high), factor) = (short[r][p], factors[p]);
                    let wide = Pair(_mm256_madd_epi16(low, factor.0), _mm256_madd_epi16(high, factor.1));
                    sums[r][p] = sums[r][p].plus(wide);
                }
            }
            left -= now;
            if ONCE {
                break;
            }
        }
    }
}

/// Adds the products of steps, each of which has levels of its own.
#[inline(always)]
unsafe fn add_each_level<const R: usize, const P: usize>(sums: &mut [[Pair<__m256i>; P]; R], run: &Run<R>) {
    let (mut at, mut weights, mut levels) = (run.at, run.weights, run.levels);
    // SAFETY: of the caller.
    unsafe {
        for _ in 0..run.steps {
            let mut q = [Pair::<__m256i>::zero(); P];
            let mut factors = [Pair::<__m256i>::zero(); P];
            for p in 0..P {
                q[p] = Sums::load(weights.add(p * run.next).cast());
                factors[p] = Sums::load(levels.add(p * run.next_levels));
            }
            for r in 0..R {
                let a = Avx2::splat(run.codes[r].add(at));
                for p in 0..P {
                    let low = _mm256_madd_epi16(_mm256_maddubs_epi16(a, q[p].0), factors[p].0);
                    let high = _mm256_madd_epi16(_mm256_maddubs_epi16(a, q[p].1), factors[p].1);
                    sums[r][p] = sums[r][p].plus(Pair(low, high));
                }
            }
            at += 4;
            weights = weights.add(64);
            levels = levels.add(LANES);
        }
    }
}

/// Adds the products of a step in 16 bits.
#[inline(always)]
unsafe fn add_step<F: Form, const R: usize, const P: usize>(
    short: &mut [[Pair<__m256i>; P]; R],
    run: &Run<R>,
    at: usize,
    weights: *const u8,
) {
    // SAFETY: of the caller.
    unsafe {
        let mut q = [Pair::<__m256i>::zero(); P];
        for p in 0..P {
            q[p] = Sums::load(weights.add(p * run.next).cast());
        }
        for r in 0..R {
            let codes = run.codes[r].add(at);
            let a = match F::GROUPS {
                1 => Pair(Avx2::splat(codes), Avx2::splat(codes)),
                2 => Pair(Avx2::splat(codes.add(run.shares[0])), Avx2::splat(codes.add(run.shares[2]))),
                _ => {
                    let of = |quarter: usize| Avx2::splat(codes.add(run.shares[quarter]));
                    Pair(_mm256_blend_epi32::<0xf0>(of(0), of(1)), _mm256_blend_epi32::<0xf0>(of(2), of(3)))
                }
            };
            for p in 0..P {
                let Pair(low, high) = short[r][p];
                short[r][p] = Pair(
                    _mm256_add_epi16(low, _mm256_maddubs_epi16(a.0, q[p].0)),
                    _mm256_add_epi16(high, _mm256_maddubs_epi16(a.1, q[p].1)),
                );
            }
        }
    }
}

impl<const VNNI: bool> Dots for Ymm<VNNI> {
    type Codes = __m256i;
    const CHAINS: bool = false;

    #[inline(always)]
    unsafe fn splat(at: *const u8) -> __m256i {
        // SAFETY: of the caller.
        unsafe { _mm256_set1_epi32(at.cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn dot<const WIDE: bool>(sums: Self::Sums, a: __m256i, q: Self::Sums) -> Self::Sums {
        // SAFETY: of the caller.
        unsafe {
            if VNNI {
                return Pair(_mm256_dpbusd_avx_epi32(sums.0, a, q.0), _mm256_dpbusd_avx_epi32(sums.1, a, q.1));
            }
            if WIDE {
                let top = _mm256_set1_epi8(-128);
                let sums = Self::dot::<false>(sums, _mm256_andnot_si256(top, a), q);
                return Self::dot::<false>(sums, _mm256_and_si256(top, a), q);
            }
            let one = _mm256_set1_epi16(1);
            Pair(
                _mm256_add_epi32(sums.0, _mm256_madd_epi16(_mm256_maddubs_epi16(a, q.0), one)),
                _mm256_add_epi32(sums.1, _mm256_madd_epi16(_mm256_maddubs_epi16(a, q.1), one)),
            )
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

    #[inline(always)]
    unsafe fn nibbles(line: *const u8) -> [Self::Sums; 2] {
        // SAFETY: of the caller.
        unsafe {
            let ([a, b], [c, d]) = (halves(line), halves(line.add(32)));
            [Pair(a, c), Pair(b, d)]
        }
    }
}

/// The low halves of 32 bytes, and their high halves, with their signs.
#[inline(always)]
unsafe fn halves(packed: *const u8) -> [__m256i; 2] {
    // SAFETY: of the caller.
    unsafe {
        let low = _mm256_set1_epi8(15);
        // Two's complement of each value of a nibble.
        let signed = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1));
        let packed = _mm256_loadu_si256(packed.cast());
        let high = _mm256_and_si256(_mm256_srli_epi16::<4>(packed), low);
        [_mm256_shuffle_epi8(signed, _mm256_and_si256(packed, low)), _mm256_shuffle_epi8(signed, high)]
    }
}

/// Limits and offset of 32 codes.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    signed: bool,
    lo: __m256i,
    hi: __m256i,
    offset: __m256i,
}

impl<const VNNI: bool> Rounds for Ymm<VNNI> {
    type Limits = Limits;

    #[inline(always)]
    unsafe fn limits(rule: &Rule) -> Limits {
        let (lo, hi, offset) = (rule.lo as i8, rule.hi as i8, rule.offset as i8);
        // SAFETY: of the caller.
        unsafe {
            let [lo, hi, offset] = [_mm256_set1_epi8(lo), _mm256_set1_epi8(hi), _mm256_set1_epi8(offset)];
            Limits { signed: rule.offset != 0, lo, hi, offset }
        }
    }

    #[inline(always)]
    unsafe fn codes(limits: &Limits, x: [Self::Floats; 4], to: *mut u8, n: usize) {
        // SAFETY: of the caller.
        unsafe {
            let (first, second) = (limits.bytes(x[0], x[1]), limits.bytes(x[2], x[3]));
            if n == 64 {
                _mm256_storeu_si256(to.cast(), first);
                _mm256_storeu_si256(to.add(32).cast(), second);
            } else {
                let mut bytes = [0u8; 64];
                _mm256_storeu_si256(bytes.as_mut_ptr().cast(), first);
                _mm256_storeu_si256(bytes.as_mut_ptr().add(32).cast(), second);
                to.copy_from_nonoverlapping(bytes.as_ptr(), n);
            }
        }
    }
}

impl Limits {
    /// Codes of 32 floats, which are limited as bytes: packing keeps what lies outside at the end of its range.
    #[inline(always)]
    unsafe fn bytes(&self, low: Pair<__m256>, high: Pair<__m256>) -> __m256i {
        // SAFETY: of the caller.
        unsafe {
            let low = _mm256_packs_epi32(_mm256_cvtps_epi32(low.0), _mm256_cvtps_epi32(low.1));
            let high = _mm256_packs_epi32(_mm256_cvtps_epi32(high.0), _mm256_cvtps_epi32(high.1));
            let bytes = if self.signed {
                let a = _mm256_max_epi8(_mm256_packs_epi16(low, high), self.lo);
                _mm256_add_epi8(_mm256_min_epi8(a, self.hi), self.offset)
            } else {
                _mm256_min_epu8(_mm256_packus_epi16(low, high), self.hi)
            };
            // Packing works in each half of a vector: this order of its 4-byte words puts them right.
            _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
        }
    }
}

impl Lanes for __m256 {
    const WIDTH: usize = 8;
    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm256_loadu_ps(at) }
    }
    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: of the caller.
        unsafe { _mm256_storeu_ps(at, self) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn add(self, y: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm256_add_ps(self, y) }
    }
    #[inline(always)]
    unsafe fn mul(self, y: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm256_mul_ps(self, y) }
    }
    #[inline(always)]
    unsafe fn mul_add<const ANY: bool>(self, y: Self, z: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm256_fmadd_ps(self, y, z) }
    }
    #[inline(always)]
    unsafe fn at_least(self, lo: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm256_max_ps(self, lo) }
    }
    #[inline(always)]
    unsafe fn at_most(self, hi: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm256_min_ps(self, hi) }
    }
    #[inline(always)]
    unsafe fn note(self, y: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm256_fmadd_ps(y, _mm256_setzero_ps(), self) }
    }
    #[inline(always)]
    unsafe fn least_bits(self, x: Self) -> Self {
        // SAFETY: of the caller.
        unsafe {
            let less = _mm256_add_epi32(_mm256_castps_si256(x), _mm256_set1_epi32(-1));
            _mm256_castsi256_ps(_mm256_min_epu32(_mm256_castps_si256(self), less))
        }
    }
    #[inline(always)]
    unsafe fn most_bits(self, x: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm256_castsi256_ps(_mm256_max_epu32(_mm256_castps_si256(self), _mm256_castps_si256(x))) }
    }
}

impl Magnitudes for __m256 {
    #[inline(always)]
    unsafe fn abs_max(self, x: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm256_max_ps(self, _mm256_andnot_ps(_mm256_set1_ps(-0.0), x)) }
    }
    #[inline(always)]
    unsafe fn quarter(self, to: *mut f32) {
        // SAFETY: of the caller.
        unsafe { _mm_storeu_ps(to, _mm_max_ps(_mm256_castps256_ps128(self), _mm256_extractf128_ps::<1>(self))) }
    }
}

impl Sums for __m256i {
    type Floats = __m256;
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: of the caller.
        unsafe { _mm256_setzero_si256() }
    }
    #[inline(always)]
    unsafe fn load(at: *const i32) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm256_loadu_si256(at.cast()) }
    }
    #[inline(always)]
    unsafe fn plus(self, y: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm256_add_epi32(self, y) }
    }
    #[inline(always)]
    unsafe fn floats(self) -> __m256 {
        // SAFETY: of the caller.
        unsafe { _mm256_cvtepi32_ps(self) }
    }
    // The bits of the float `MAGIC + x` are those of `MAGIC` and the integer `x`. Converting takes a port that multiplies,
    // subtracting may take another.
    #[inline(always)]
    unsafe fn biased(self) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm256_add_epi32(self, _mm256_set1_epi32(MAGIC.to_bits().cast_signed())) }
    }
    #[inline(always)]
    unsafe fn biased_floats(self) -> __m256 {
        // SAFETY: of the caller.
        unsafe { _mm256_sub_ps(_mm256_castsi256_ps(self), _mm256_set1_ps(MAGIC)) }
    }
}

impl Words for __m256i {
    #[inline(always)]
    unsafe fn store(self, at: *mut i32) {
        // SAFETY: of the caller.
        unsafe { _mm256_storeu_si256(at.cast(), self) }
    }
    #[inline(always)]
    unsafe fn minus(self, y: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm256_sub_epi32(self, y) }
    }
    #[inline(always)]
    unsafe fn times(self, y: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm256_mullo_epi32(self, y) }
    }
    #[inline(always)]
    unsafe fn quarter(self) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm256_srai_epi32::<2>(self) }
    }
}

impl Bytes for __m256i {
    const WIDTH: usize = 32;
    #[inline(always)]
    unsafe fn load(at: *const u8) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm256_loadu_si256(at.cast()) }
    }
    #[inline(always)]
    unsafe fn store(self, at: *mut u8) {
        // SAFETY: of the caller.
        unsafe { _mm256_storeu_si256(at.cast(), self) }
    }
    #[inline(always)]
    unsafe fn splat(x: u8) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm256_set1_epi8(x.cast_signed()) }
    }
    #[inline(always)]
    unsafe fn wrapping_add(self, y: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm256_add_epi8(self, y) }
    }
    #[inline(always)]
    unsafe fn wrapping_sub(self, y: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm256_sub_epi8(self, y) }
    }
}

impl Bytes for __m128i {
    const WIDTH: usize = 16;
    #[inline(always)]
    unsafe fn load(at: *const u8) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm_loadu_si128(at.cast()) }
    }
    #[inline(always)]
    unsafe fn store(self, at: *mut u8) {
        // SAFETY: of the caller.
        unsafe { _mm_storeu_si128(at.cast(), self) }
    }
    #[inline(always)]
    unsafe fn splat(x: u8) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm_set1_epi8(x.cast_signed()) }
    }
    #[inline(always)]
    unsafe fn wrapping_add(self, y: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm_add_epi8(self, y) }
    }
    #[inline(always)]
    unsafe fn wrapping_sub(self, y: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { _mm_sub_epi8(self, y) }
    }
}
