//! Winograd's algorithm with AVX2: `V` and `U` are multiplied as `maddubs` does it, a tile's 16 positions one after the other.
//!
//! What a group of four tiles reads of a block, and the block's weights for a panel, stay in the first-level cache: a panel's blocks
//! run one after the other, each over all groups of a strip. The instruction that widens sums multiplies them by the block's factor.
use std::arch::x86_64::*;

use super::winograd::{Run, WinogradCall};
use super::{Residual, Task};
use crate::layout::LANES;
use crate::pack::Panel;
use crate::winograd::{GROUP, LINE, POSITIONS, Place, UNIT, Winograd};

/// The task of a checked call.
pub(super) struct Tiles<'a>(pub Run<'a>);

impl Task for Tiles<'_> {
    type Output = bool;

    #[inline(always)]
    fn run(self) -> bool {
        let Run { call, room, out, stride } = self.0;
        let [_, tiles] = call.tiles();
        let places = call.weights.places(tiles);
        let room = room.as_mut_ptr();
        // SAFETY: `WinogradCall::check` held, so there is room for what the places name; the caller runs this where the CPU has AVX2.
        unsafe {
            transform(call, tiles, &places.blocks, room);
            let (products, sums) = (room.add(places.products).cast::<i32>(), room.add(places.sums).cast::<i32>());
            let mut noted = [_mm256_setzero_ps(); 2];
            for panel in 0..call.weights.panels.len() {
                let end = End::new(call, panel, out.as_mut_ptr(), stride);
                for (block, place) in places.blocks.iter().enumerate() {
                    let product = Product::new(call.weights, panel, block);
                    let (first, last) = (block == 0, block + 1 == places.blocks.len());
                    for tile in (0..tiles).step_by(GROUP) {
                        let some = GROUP.min(tiles - tile);
                        product.multiply(some, room.add(place.at + tile / GROUP * place.group), products);
                        for t in 0..some {
                            let sums = sums.add((tile + t) * 4 * LANES);
                            for half in 0..2 {
                                let mut y = outputs(products.add(t * LANES + half * 8));
                                for i in 0..4 {
                                    let at = sums.add(i * LANES + half * 8).cast::<__m256i>();
                                    if !first {
                                        y[i] = _mm256_add_epi32(y[i], _mm256_load_si256(at));
                                    }
                                    if !last {
                                        _mm256_store_si256(at, y[i]);
                                    }
                                }
                                if last {
                                    noted[half] = end.store(tile + t, half, y, noted[half]);
                                }
                            }
                        }
                    }
                }
            }
            let mut all = [0.0f32; 8];
            _mm256_storeu_ps(all.as_mut_ptr(), _mm256_add_ps(noted[0], noted[1]));
            all.iter().all(|&sum| sum == 0.0)
        }
    }
}

/// Stores `V` of all tiles.
#[inline(always)]
unsafe fn transform(call: &WinogradCall<'_>, tiles: usize, blocks: &[Place], room: *mut u8) {
    let (codes, channels) = (call.codes.as_ptr(), call.weights.channels);
    // SAFETY: of the caller; patches lie in the codes.
    unsafe {
        for tile in 0..tiles {
            let pixels = call.patch(tile);
            let mut patch = [[codes; 4]; 4];
            for i in 0..4 {
                for j in 0..4 {
                    patch[i][j] = codes.add(pixels[i][j] * channels);
                }
            }
            let mut c = 0;
            for place in blocks {
                let to = room.add(place.at + tile / GROUP * place.group + tile % GROUP * place.len);
                let next = GROUP * place.len;
                let mut at = 0;
                while at + 2 * UNIT <= place.len {
                    spread::<true>(&patch, c + at, &call.weights.offsets, to.add(at), next);
                    at += 2 * UNIT;
                }
                if at < place.len {
                    spread::<false>(&patch, c + at, &call.weights.offsets, to.add(at), next);
                }
                c += place.len;
            }
        }
    }
}

/// Stores `B^T d B` and the offsets of 32 channels where `WHOLE`, of 16 otherwise; positions are `next` bytes apart.
#[inline(always)]
unsafe fn spread<const WHOLE: bool>(
    patch: &[[*const u8; 4]; 4],
    c: usize,
    offsets: &[u8; POSITIONS],
    to: *mut u8,
    next: usize,
) {
    // SAFETY: of the caller.
    unsafe {
        let mut t = [[_mm256_setzero_si256(); 4]; 4];
        for j in 0..4 {
            let mut d = [_mm256_setzero_si256(); 4];
            for i in 0..4 {
                let at = patch[i][j].add(c);
                d[i] = if WHOLE {
                    _mm256_loadu_si256(at.cast())
                } else {
                    _mm256_castsi128_si256(_mm_loadu_si128(at.cast()))
                };
            }
            let column = half(d);
            for i in 0..4 {
                t[i][j] = column[i];
            }
        }
        for i in 0..4 {
            let row = half(t[i]);
            for j in 0..4 {
                let (position, at) = (i * 4 + j, to.add((i * 4 + j) * next));
                let v = _mm256_add_epi8(row[j], _mm256_set1_epi8(offsets[position].cast_signed()));
                if WHOLE {
                    _mm256_storeu_si256(at.cast(), v);
                } else {
                    _mm_storeu_si128(at.cast(), _mm256_castsi256_si128(v));
                }
            }
        }
    }
}

/// `B^T d` of four rows.
#[inline(always)]
unsafe fn half([a, b, c, d]: [__m256i; 4]) -> [__m256i; 4] {
    // SAFETY: of the caller.
    unsafe { [_mm256_sub_epi8(a, c), _mm256_add_epi8(b, c), _mm256_sub_epi8(c, b), _mm256_sub_epi8(b, d)] }
}

/// What a group of tiles is multiplied by: a panel's weights of a block.
struct Product {
    weights: *const i8,
    starts: *const i16,
    lengths: *const u8,
    factor: [__m256i; 2],
    steps: usize,
    /// The bytes from a tile to the next.
    tile: usize,
}

impl Product {
    #[inline(always)]
    unsafe fn new(w: &Winograd, panel: usize, block: usize) -> Self {
        let (weights, starts) = w.at(panel, block);
        let (number, steps) = (panel * w.blocks.len() + block, w.blocks[block].steps());
        // SAFETY: of the caller: the weights have the panel and the block.
        unsafe {
            let factor = w.factors.as_ptr().add(number * 2 * LANES);
            Self {
                weights: w.weights.as_ptr().add(weights),
                starts: w.starts.as_ptr().add(starts),
                lengths: w.lengths.as_ptr().add(number * POSITIONS),
                factor: [load(factor), load(factor.add(LANES))],
                steps,
                tile: 4 * steps,
            }
        }
    }

    /// Stores the sums of some tiles at all positions.
    #[inline(always)]
    unsafe fn multiply(&self, tiles: usize, v: *const u8, products: *mut i32) {
        // SAFETY: of the caller.
        unsafe {
            match tiles {
                1 => self.positions::<1>(v, products),
                2 => self.positions::<2>(v, products),
                3 => self.positions::<3>(v, products),
                _ => self.positions::<4>(v, products),
            }
        }
    }

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
                (v, to) = (v.add(GROUP * self.tile), to.add(GROUP * LANES));
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

/// The 2x2 outputs `A^T M A` of 8 lanes.
#[inline(always)]
unsafe fn outputs(products: *const i32) -> [__m256i; 4] {
    // SAFETY: of the caller.
    unsafe {
        let mut columns = [[_mm256_setzero_si256(); 4]; 2];
        for j in 0..4 {
            let mut m = [_mm256_setzero_si256(); 4];
            for i in 0..4 {
                m[i] = _mm256_load_si256(products.add((i * 4 + j) * GROUP * LANES).cast());
            }
            [columns[0][j], columns[1][j]] = ends(m);
        }
        let ([a, b], [c, d]) = (ends(columns[0]), ends(columns[1]));
        [a, b, c, d]
    }
}

/// `A^T m` of four rows.
#[inline(always)]
unsafe fn ends([a, b, c, d]: [__m256i; 4]) -> [__m256i; 2] {
    // SAFETY: of the caller.
    unsafe {
        let (sum, difference) = (_mm256_add_epi32(b, c), _mm256_sub_epi32(b, c));
        [_mm256_add_epi32(a, sum), _mm256_sub_epi32(difference, d)]
    }
}

/// What ends the sums of a panel, and where its outputs go.
struct End {
    factor: __m256,
    scale: [__m256; 2],
    bias: [__m256; 2],
    limits: Option<(__m256, __m256)>,
    residual: *const f32,
    residual_stride: usize,
    out: *mut f32,
    stride: usize,
    lanes: usize,
    size: [usize; 2],
    across: usize,
}

impl End {
    #[inline(always)]
    unsafe fn new(call: &WinogradCall<'_>, panel: usize, out: *mut f32, stride: usize) -> Self {
        let (w, [across, _]) = (call.weights, call.tiles());
        let Panel { first, lanes, .. } = w.panels[panel];
        // SAFETY: of the caller.
        unsafe {
            let scale = w.scale.as_ptr().add(panel * LANES);
            // Adding -0 changes nothing, not even a zero's sign.
            let mut bias = [_mm256_set1_ps(-0.0); 2];
            if !w.bias.is_empty() {
                let at = w.bias.as_ptr().add(panel * LANES);
                bias = [_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8))];
            }
            let mut limits = None;
            if let Some((lo, hi)) = call.clamp {
                limits = Some((_mm256_set1_ps(lo), _mm256_set1_ps(hi)));
            }
            let (residual, residual_stride) = match call.residual {
                Residual::Rows(rows) => (rows.data.as_ptr().add(first), rows.stride),
                Residual::Output => (out.add(first).cast_const(), stride),
                Residual::None => (std::ptr::null(), 0),
            };
            Self {
                factor: _mm256_set1_ps(call.scale),
                scale: [_mm256_loadu_ps(scale), _mm256_loadu_ps(scale.add(8))],
                bias,
                limits,
                residual,
                residual_stride,
                out: out.add(first),
                stride,
                lanes,
                size: call.size,
                across,
            }
        }
    }

    /// Ends and stores the half of a tile's outputs, 4 times their sums, that lie in the image; returns `noted` with 0 times each.
    #[inline(always)]
    unsafe fn store(&self, tile: usize, half: usize, sums: [__m256i; 4], mut noted: __m256) -> __m256 {
        let (top, left) = (tile / self.across * 2, tile % self.across * 2);
        let lanes = self.lanes.saturating_sub(half * 8).min(8);
        // SAFETY: of the caller: `WinogradCall::check` held for every output and residual row, of which only a panel's lanes are
        // read and written.
        unsafe {
            for i in 0..4 {
                let sum = sums[i];
                let (row, column) = (top + i / 2, left + i % 2);
                if row >= self.size[0] || column >= self.size[1] || lanes == 0 {
                    continue;
                }
                let pixel = row * self.size[1] + column;
                let sum = _mm256_cvtepi32_ps(_mm256_srai_epi32::<2>(sum));
                let acc = _mm256_fmadd_ps(self.factor, sum, _mm256_setzero_ps());
                let mut y = _mm256_fmadd_ps(acc, self.scale[half], self.bias[half]);
                if !self.residual.is_null() {
                    let at = self.residual.add(pixel * self.residual_stride + half * 8);
                    let x = if lanes == 8 { _mm256_loadu_ps(at) } else { some(at, lanes) };
                    y = _mm256_add_ps(y, x);
                }
                // Lanes without an output are 0: so are their weights and scales.
                noted = _mm256_fmadd_ps(y, _mm256_setzero_ps(), noted);
                if let Some((lo, hi)) = self.limits {
                    y = _mm256_min_ps(_mm256_max_ps(y, lo), hi);
                }
                let to = self.out.add(pixel * self.stride + half * 8);
                if lanes == 8 {
                    _mm256_storeu_ps(to, y);
                } else {
                    let mut all = [0.0f32; 8];
                    _mm256_storeu_ps(all.as_mut_ptr(), y);
                    to.copy_from_nonoverlapping(all.as_ptr(), lanes);
                }
            }
        }
        noted
    }
}

/// Loads the first of eight floats; zeros follow.
#[inline(always)]
unsafe fn some(at: *const f32, lanes: usize) -> __m256 {
    let mut all = [0.0f32; 8];
    // SAFETY: of the caller; there is room for all floats.
    unsafe {
        at.copy_to_nonoverlapping(all.as_mut_ptr(), lanes);
        _mm256_loadu_ps(all.as_ptr())
    }
}
