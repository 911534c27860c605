//! The products of Winograd's algorithm with AVX2: `V` and `U` are multiplied as `maddubs` does it, and the instruction that widens
//! sums multiplies them by the block's factor.
use std::arch::x86_64::*;

use super::tiles::{Product, next_position};
use crate::layout::LANES;
use crate::winograd::{LINE, POSITIONS, Tiling};

/// Stores the sums of `R` tiles of a panel at all positions, times their factor.
#[inline(always)]
pub(super) unsafe fn multiply<const R: usize>(product: &Product<'_>, tiling: Tiling, v: *const u8, to: *mut i32) {
    let (w, number) = (product.weights, product.panel * product.weights.blocks.len() + product.block);
    let (tile, position) = product.apart();
    // SAFETY: of the caller: the weights have the panel and the block.
    unsafe {
        let factor = w.factors.as_ptr().add(number * 2 * LANES);
        let chains = Chains {
            weights: product.first,
            starts: w.starts.as_ptr().add(w.starts(product.panel, product.block)),
            lengths: w.lengths.as_ptr().add(number * POSITIONS),
            factor: [load(factor), load(factor.add(LANES))],
            steps: product.steps(),
            tile,
            position,
            next: next_position(tiling),
        };
        chains.positions::<R>(v, to);
    }
}

/// A panel's weights of a block.
struct Chains {
    weights: *const i8,
    starts: *const i16,
    lengths: *const u8,
    factor: [__m256i; 2],
    steps: usize,
    /// The bytes from a tile to the next, and from a position to the next.
    tile: usize,
    position: usize,
    /// The sums from a position to the next.
    next: usize,
}

impl Chains {
    #[inline(always)]
    unsafe fn positions<const R: usize>(&self, mut v: *const u8, mut to: *mut i32) {
        // SAFETY: of the caller.
        unsafe {
            let (mut weights, mut starts) = (self.weights, self.starts);
            for position in 0..POSITIONS {
                let length = usize::from(*self.lengths.add(position));
                let mut sums = [[_mm256_setzero_si256(); 2]; R];
                if length >= self.steps {
                    let mut short = [[load(starts), load(starts.add(LANES))]; R];
                    self.add(&mut short, v, &mut weights, self.steps);
                    for r in 0..R {
                        for p in 0..2 {
                            sums[r][p] = _mm256_madd_epi16(short[r][p], self.factor[p]);
                        }
                    }
                    starts = starts.add(2 * LANES);
                } else {
                    let mut at = 0;
                    while at < self.steps {
                        let now = (self.steps - at).min(length.max(1));
                        let mut short = [[load(starts), load(starts.add(LANES))]; R];
                        if length == 0 {
                            self.split(&mut sums, v.add(4 * at), weights);
                            weights = weights.add(LINE);
                        } else {
                            self.add(&mut short, v.add(4 * at), &mut weights, now);
                        }
                        for r in 0..R {
                            for p in 0..2 {
                                let wide = _mm256_madd_epi16(short[r][p], self.factor[p]);
                                sums[r][p] = _mm256_add_epi32(sums[r][p], wide);
                            }
                        }
                        starts = starts.add(2 * LANES);
                        at += now;
                    }
                }
                for r in 0..R {
                    for p in 0..2 {
                        _mm256_store_si256(to.add(r * LANES + p * 8).cast(), sums[r][p]);
                    }
                }
                (v, to) = (v.add(self.position), to.add(self.next));
            }
        }
    }

    /// Adds the products of some steps in 16 bits, and moves on in the weights.
    #[inline(always)]
    unsafe fn add<const R: usize>(
        &self,
        short: &mut [[__m256i; 2]; R],
        mut v: *const u8,
        weights: &mut *const i8,
        steps: usize,
    ) {
        // SAFETY: of the caller.
        unsafe {
            for _ in 0..steps / 2 {
                self.step(short, v, *weights);
                self.step(short, v.add(4), weights.add(LINE));
                v = v.add(8);
                *weights = weights.add(2 * LINE);
            }
            if steps % 2 == 1 {
                self.step(short, v, *weights);
                *weights = weights.add(LINE);
            }
        }
    }

    /// Adds the products of four channels in 16 bits.
    #[inline(always)]
    unsafe fn step<const R: usize>(&self, short: &mut [[__m256i; 2]; R], v: *const u8, weights: *const i8) {
        // SAFETY: of the caller.
        unsafe {
            let u = [load(weights.cast()), load(weights.add(32).cast())];
            for r in 0..R {
                let a = _mm256_set1_epi32(v.add(r * self.tile).cast::<i32>().read_unaligned());
                for p in 0..2 {
                    short[r][p] = _mm256_add_epi16(short[r][p], _mm256_maddubs_epi16(a, u[p]));
                }
            }
        }
    }

    /// Adds the products of four channels whose sums of two may not fit 16 bits: those of the highest bits of `V`, then the others.
    #[inline(always)]
    unsafe fn split<const R: usize>(&self, sums: &mut [[__m256i; 2]; R], v: *const u8, weights: *const i8) {
        // SAFETY: of the caller.
        unsafe {
            let (u, top) = ([load(weights.cast()), load(weights.add(32).cast())], _mm256_set1_epi8(-128));
            for r in 0..R {
                let a = _mm256_set1_epi32(v.add(r * self.tile).cast::<i32>().read_unaligned());
                for p in 0..2 {
                    let high = _mm256_maddubs_epi16(_mm256_and_si256(a, top), u[p]);
                    sums[r][p] = _mm256_add_epi32(sums[r][p], _mm256_madd_epi16(high, self.factor[p]));
                    let low = _mm256_maddubs_epi16(_mm256_andnot_si256(top, a), u[p]);
                    sums[r][p] = _mm256_add_epi32(sums[r][p], _mm256_madd_epi16(low, self.factor[p]));
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn load(at: *const i16) -> __m256i {
    // SAFETY: of the caller.
    unsafe { _mm256_loadu_si256(at.cast()) }
}
