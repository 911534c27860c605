//! The kernel for AVX2. An AVX-512 VNNI one would read the same bytes: a step of [`Packed`] is one vector of 64 bytes, whose
//! dot products `vpdpbusd` adds in 32 bits, so that chunks and their starts fall away.
#![allow(clippy::needless_range_loop, reason = "loops over registers")]
use std::arch::x86_64::*;

use crate::format::{Adds, GROUP, Layer, PANEL, POSITIONS, Packed};

/// A layer's memory while it runs.
pub struct Run<'a> {
    layer: &'a Layer,
    packed: &'a Packed,
    /// Tiles of a strip: a multiple of [`GROUP`].
    strip: usize,
    /// `V` of a strip.
    v: Bytes,
    places: Places,
    /// `M` of a panel: `[position, tile, 16]` of a strip, or of a group of tiles.
    sums: Vec<i32>,
    /// Float sums of a strip of a panel: `[tile, 2x2, 16]`.
    floats: Vec<f32>,
    /// A block's whole factors of weights and inputs, as the widening instruction takes them: `[panel, chunk, 32]`.
    factors: Vec<i16>,
    /// A block's float scales of weights and inputs: `[panel, block, 16]`.
    scales: Vec<f32>,
    /// The scales of a strip's tiles, `[tile, block]`: 1 where inputs came as codes.
    tiles: Vec<f32>,
    /// A panel's final scales: `[panel, 16]`.
    ends: Vec<f32>,
    zero: Vec<f32>,
    /// `[side, side, Co]`
    pub outputs: Vec<f32>,
    /// The largest output of each panel.
    largest: Vec<f32>,
    /// The next layer's codes `[side, side, Co]`.
    pub codes: Vec<u8>,
    /// The next layer's scales, one a block of channels.
    pub next: Vec<f32>,
}

/// Bytes that begin at a multiple of 64.
struct Bytes(Vec<[u8; 64]>, usize);

impl Bytes {
    fn new(n: usize) -> Self {
        let lines = vec![[0u8; 64]; n / 64 + 1];
        let skip = lines.as_ptr().cast::<u8>().align_offset(64);
        Self(lines, skip)
    }
    fn start(&mut self) -> *mut u8 {
        // SAFETY: the vector has a line more than is used.
        unsafe { self.0.as_mut_ptr().cast::<u8>().add(self.1) }
    }
}

/// Where `V` lies: a tile's block at a position is consecutive bytes, and so are the tiles of a group.
#[derive(Clone, Copy)]
struct Places {
    block: usize,
    position: usize,
    group: usize,
}

impl<'a> Run<'a> {
    /// Prepares for inputs with the scales `s`, one a block: whole numbers times `unit`.
    pub fn new(layer: &'a Layer, packed: &'a Packed, strip: usize, s: &[f32], unit: f32) -> Self {
        assert!(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"), "a CPU with AVX2");
        assert!(layer.ci.is_multiple_of(32) && layer.block.is_multiple_of(32) && layer.co.is_multiple_of(PANEL));
        let (blocks, panels) = (layer.blocks(), layer.co / PANEL);
        // A line between positions: rows of a power of two share too few sets of the cache.
        let places = match packed.adds {
            Adds::Integers => {
                let group = GROUP * layer.ci;
                let position = strip / GROUP * group + 64;
                Places { block: GROUP * layer.block, position, group }
            }
            Adds::Floats => {
                let position = GROUP * layer.block;
                let group = POSITIONS * position + 64;
                Places { block: strip / GROUP * group, position, group }
            }
        };
        let pixels = layer.side * layer.side;
        let mut run = Self {
            layer,
            packed,
            strip,
            v: Bytes::new(layer.ci * POSITIONS * (strip + 64)),
            places,
            sums: vec![0; POSITIONS * (strip * PANEL + 16)],
            floats: vec![0.0; strip * 4 * PANEL],
            factors: vec![],
            scales: vec![],
            tiles: vec![1.0; strip * blocks],
            ends: vec![],
            zero: vec![0.0; layer.ci],
            outputs: vec![0.0; pixels * layer.co],
            largest: vec![0.0; panels],
            codes: vec![0; pixels * layer.co],
            next: vec![],
        };
        run.scale(s, unit);
        run
    }

    /// Joins the scales of inputs with those of weights.
    fn scale(&mut self, s: &[f32], unit: f32) {
        let (layer, packed) = (self.layer, self.packed);
        let (blocks, panels) = (layer.blocks(), layer.co / PANEL);
        let alpha = |o: usize, block: usize| layer.alpha[o * blocks + block];
        self.factors.clear();
        self.scales.clear();
        for panel in 0..panels {
            for block in 0..blocks {
                for _ in 0..packed.chunks {
                    for lane in 0..32 {
                        let factor = match packed.adds {
                            Adds::Integers => alpha(panel * PANEL + lane / 2, block) * s[block],
                            Adds::Floats => 1.0,
                        };
                        assert!(factor.fract() == 0.0 && factor.abs() <= 32767.0);
                        self.factors.push(factor as i16);
                    }
                }
                // A quarter: `U` is 4 times the transform.
                self.scales.extend((0..PANEL).map(|o| alpha(panel * PANEL + o, block) * s[block] * 0.25));
            }
        }
        let quarter = if packed.adds == Adds::Integers { 0.25 } else { 1.0 };
        self.ends = layer.channel.iter().map(|c| c * unit * quarter).collect();
    }

    /// Runs the layer and rounds its outputs for one whose blocks have `block` channels, with a scale for each.
    pub fn run(&mut self, x: &[u8], block: usize) {
        assert_eq!(x.len(), self.layer.side * self.layer.side * self.layer.ci);
        // SAFETY: `new` found the instructions, and made room for all that the functions below read and write.
        unsafe {
            self.largest.fill(0.0);
            self.tiles.fill(1.0);
            let tiles = self.layer.across() * self.layer.across();
            for first in (0..tiles).step_by(self.strip) {
                let tiles = first..tiles.min(first + self.strip);
                self.transform(x, tiles.clone());
                match self.packed.adds {
                    Adds::Integers => self.integers(tiles),
                    Adds::Floats => self.floats(tiles),
                }
            }
            self.round(block);
        }
    }

    /// Runs the layer for floats, which it rounds with one scale for a block of a 4x4 patch; its outputs are the next layer's floats.
    pub fn run_floats(&mut self, x: &[f32]) {
        assert_eq!(x.len(), self.layer.side * self.layer.side * self.layer.ci);
        assert_eq!(self.packed.adds, Adds::Floats, "patches differ in their scales");
        // SAFETY: as in `run`.
        unsafe {
            let tiles = self.layer.across() * self.layer.across();
            for first in (0..tiles).step_by(self.strip) {
                let tiles = first..tiles.min(first + self.strip);
                self.round_and_transform(x, tiles.clone());
                self.floats(tiles);
            }
        }
    }

    /// Returns the pixels of a tile's patch, and zeros for those outside of the image.
    unsafe fn patch<T>(&self, x: &[T], tile: usize) -> [[*const T; 4]; 4] {
        let (side, across) = (self.layer.side as isize, self.layer.across());
        let (top, left) = ((tile / across) as isize * 2 - 1, (tile % across) as isize * 2 - 1);
        std::array::from_fn(|i| {
            std::array::from_fn(|j| {
                let (row, column) = (top + i as isize, left + j as isize);
                if row < 0 || column < 0 || row >= side || column >= side {
                    return self.zero.as_ptr().cast();
                }
                // SAFETY: the pixel is inside.
                unsafe { x.as_ptr().add((row * side + column) as usize * self.layer.ci) }
            })
        })
    }

    /// Returns where `V` of a strip's tile begins for a channel.
    unsafe fn place(&mut self, at: usize, c: usize) -> *mut u8 {
        let (places, block) = (self.places, self.layer.block);
        let n = c / block * places.block + at / GROUP * places.group + at % GROUP * block + c % block;
        // SAFETY: the strip has the tile.
        unsafe { self.v.start().add(n) }
    }

    /// Returns what is added to `V`.
    #[target_feature(enable = "avx2")]
    unsafe fn offsets(&self) -> [__m256i; POSITIONS] {
        std::array::from_fn(|at| _mm256_set1_epi8(-self.layer.codes.limits(at).0 as i8))
    }

    /// Transforms the inputs of some tiles.
    #[target_feature(enable = "avx2")]
    unsafe fn transform(&mut self, x: &[u8], tiles: std::ops::Range<usize>) {
        // SAFETY: of the caller.
        unsafe {
            let offsets = self.offsets();
            for (at, tile) in tiles.enumerate() {
                let patch = self.patch(x, tile);
                for c in (0..self.layer.ci).step_by(32) {
                    let to = self.place(at, c);
                    spread(|i, j| _mm256_loadu_si256(patch[i][j].add(c).cast()), &offsets, to, self.places.position);
                }
            }
        }
    }

    /// Rounds and transforms the inputs of some tiles.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn round_and_transform(&mut self, x: &[f32], tiles: std::ops::Range<usize>) {
        let Layer { block, codes, .. } = *self.layer;
        // SAFETY: of the caller.
        unsafe {
            let offsets = self.offsets();
            for (at, tile) in tiles.enumerate() {
                let patch = self.patch(x, tile);
                for first in (0..self.layer.ci).step_by(block) {
                    let mut largest = [_mm256_setzero_ps(); 4];
                    for pixel in patch.as_flattened() {
                        for c in (first..first + block).step_by(32) {
                            for (i, largest) in largest.iter_mut().enumerate() {
                                *largest = _mm256_max_ps(*largest, _mm256_loadu_ps(pixel.add(c + i * 8)));
                            }
                        }
                    }
                    let largest =
                        _mm256_max_ps(_mm256_max_ps(largest[0], largest[1]), _mm256_max_ps(largest[2], largest[3]));
                    let scale = most(largest) / codes.largest as f32;
                    self.tiles[at * self.packed.blocks + first / block] = scale;
                    let inverse = _mm256_set1_ps(if scale > 0.0 { 1.0 / scale } else { 0.0 });
                    for c in (first..first + block).step_by(32) {
                        let to = self.place(at, c);
                        let code = |i: usize, j: usize| codes_of(patch[i][j].add(c), inverse, codes.largest);
                        spread(code, &offsets, to, self.places.position);
                    }
                }
            }
        }
    }

    /// Sums over all blocks as integers: a position's weights stay in the first-level cache for a strip.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn integers(&mut self, tiles: std::ops::Range<usize>) {
        let Self { layer, packed, places, strip, .. } = *self;
        let n = tiles.len();
        let next = strip * PANEL + 16;
        let v = self.v.start().cast_const();
        for panel in 0..layer.co / PANEL {
            // SAFETY: of the caller.
            unsafe {
                for position in 0..POSITIONS {
                    let at = packed.chunk(panel, position, 0);
                    let product = Product {
                        weights: packed.data.as_ptr().add(at * packed.steps * 64),
                        start: packed.start.as_ptr().add(at * 32),
                        factors: self.factors.as_ptr().add(panel * packed.blocks * packed.chunks * 32),
                        blocks: packed.blocks,
                        chunks: packed.chunks,
                        steps: packed.steps,
                        tile: layer.block,
                        next: places.block,
                    };
                    for first in (0..n).step_by(GROUP) {
                        let v = v.add(position * places.position + first / GROUP * places.group);
                        let sums = self.sums.as_mut_ptr().add(position * next + first * PANEL);
                        product.group((n - first).min(GROUP), v, sums);
                    }
                }
                let end = self.end(panel);
                let mut largest = _mm256_setzero_ps();
                for tile in 0..n {
                    let row = (tiles.start + tile) / layer.across() * 2;
                    let column = (tiles.start + tile) % layer.across() * 2;
                    for half in 0..2 {
                        let y = outputs(self.sums.as_ptr().add(tile * PANEL + half * 8), next);
                        largest = end.store(y.map(|y| _mm256_cvtepi32_ps(y)), half, row, column, largest);
                    }
                }
                self.largest[panel] = self.largest[panel].max(most(largest));
            }
        }
    }

    /// Sums over a block as integers, over blocks as floats: all that a group of tiles reads stays in the first-level cache.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn floats(&mut self, tiles: std::ops::Range<usize>) {
        let Self { layer, packed, places, .. } = *self;
        let n = tiles.len();
        let next = GROUP * PANEL;
        let v = self.v.start().cast_const();
        for panel in 0..layer.co / PANEL {
            // SAFETY: of the caller.
            unsafe {
                let end = self.end(panel);
                let mut largest = _mm256_setzero_ps();
                for block in 0..packed.blocks {
                    let last = block + 1 == packed.blocks;
                    let scale: [__m256; 2] = std::array::from_fn(|half| {
                        _mm256_loadu_ps(self.scales.as_ptr().add((panel * packed.blocks + block) * PANEL + half * 8))
                    });
                    for first in (0..n).step_by(GROUP) {
                        let some = (n - first).min(GROUP);
                        let at = packed.chunk(panel, 0, block * packed.chunks);
                        let product = Product {
                            weights: packed.data.as_ptr().add(at * packed.steps * 64),
                            start: packed.start.as_ptr().add(at * 32),
                            factors: self.factors.as_ptr(),
                            blocks: 1,
                            chunks: packed.chunks,
                            steps: packed.steps,
                            tile: layer.block,
                            next: 0,
                        };
                        let v = v.add(block * places.block + first / GROUP * places.group);
                        product.positions(some, v, places.position, self.sums.as_mut_ptr(), next);
                        for tile in 0..some {
                            let own = _mm256_set1_ps(self.tiles[(first + tile) * packed.blocks + block]);
                            for half in 0..2 {
                                let both = _mm256_mul_ps(scale[half], own);
                                let y = outputs(self.sums.as_ptr().add(tile * PANEL + half * 8), next);
                                let at = self.floats.as_mut_ptr().add((first + tile) * 4 * PANEL + half * 8);
                                let mut y = y.map(|y| _mm256_cvtepi32_ps(y));
                                for i in 0..4 {
                                    let before = if block == 0 {
                                        _mm256_setzero_ps()
                                    } else {
                                        _mm256_loadu_ps(at.add(i * PANEL))
                                    };
                                    y[i] = _mm256_fmadd_ps(y[i], both, before);
                                }
                                if last {
                                    let tile = tiles.start + first + tile;
                                    let (row, column) = (tile / layer.across() * 2, tile % layer.across() * 2);
                                    largest = end.store(y, half, row, column, largest);
                                } else {
                                    for i in 0..4 {
                                        _mm256_storeu_ps(at.add(i * PANEL), y[i]);
                                    }
                                }
                            }
                        }
                    }
                }
                self.largest[panel] = self.largest[panel].max(most(largest));
            }
        }
    }

    /// Returns what ends the sums of a panel.
    #[target_feature(enable = "avx2")]
    unsafe fn end(&mut self, panel: usize) -> End {
        let layer = self.layer;
        // SAFETY: scales and biases have all outputs.
        unsafe {
            End {
                scale: std::array::from_fn(|half| _mm256_loadu_ps(self.ends.as_ptr().add(panel * PANEL + half * 8))),
                bias: std::array::from_fn(|half| _mm256_loadu_ps(layer.bias.as_ptr().add(panel * PANEL + half * 8))),
                out: self.outputs.as_mut_ptr().add(panel * PANEL),
                side: layer.side,
                pixel: layer.co,
            }
        }
    }

    /// Rounds outputs to codes, with one scale a block for the image: no two tiles could share a pixel otherwise.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn round(&mut self, block: usize) {
        let top = self.layer.codes.largest as f32;
        self.next.clear();
        self.next.extend(self.largest.chunks(block / PANEL).map(|of| of.iter().fold(0.0, |a: f32, &b| a.max(b)) / top));
        let inverse: Vec<__m256> =
            self.next.iter().map(|&s| _mm256_set1_ps(if s > 0.0 { 1.0 / s } else { 0.0 })).collect();
        for pixel in 0..self.layer.side * self.layer.side {
            for (at, &inverse) in inverse.iter().enumerate() {
                for c in (at * block..(at + 1) * block).step_by(32) {
                    // SAFETY: of the caller.
                    unsafe {
                        let from = self.outputs.as_ptr().add(pixel * self.layer.co + c);
                        let bytes = codes_of(from, inverse, self.layer.codes.largest);
                        _mm256_storeu_si256(self.codes.as_mut_ptr().add(pixel * self.layer.co + c).cast(), bytes);
                    }
                }
            }
        }
    }
}

/// Rounds 32 floats that are not negative.
#[inline(always)]
unsafe fn codes_of(from: *const f32, inverse: __m256, largest: i32) -> __m256i {
    // SAFETY: of the caller.
    unsafe {
        let x: [__m256i; 4] =
            std::array::from_fn(|i| _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(from.add(i * 8)), inverse)));
        let (low, high) = (_mm256_packs_epi32(x[0], x[1]), _mm256_packs_epi32(x[2], x[3]));
        let bytes = _mm256_min_epu8(_mm256_packus_epi16(low, high), _mm256_set1_epi8(largest as i8));
        // Packing works in each half of a vector: this order of its 4-byte words puts them right.
        _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
    }
}

/// Stores `B^T d B` of 32 channels, `position` bytes apart.
#[inline(always)]
unsafe fn spread(d: impl Fn(usize, usize) -> __m256i, offsets: &[__m256i; POSITIONS], to: *mut u8, position: usize) {
    // SAFETY: of the caller.
    unsafe {
        let mut t = [[_mm256_setzero_si256(); 4]; 4];
        for j in 0..4 {
            let d: [__m256i; 4] = std::array::from_fn(|i| d(i, j));
            t[0][j] = _mm256_sub_epi8(d[0], d[2]);
            t[1][j] = _mm256_add_epi8(d[1], d[2]);
            t[2][j] = _mm256_sub_epi8(d[2], d[1]);
            t[3][j] = _mm256_sub_epi8(d[1], d[3]);
        }
        for i in 0..4 {
            let row = [
                _mm256_sub_epi8(t[i][0], t[i][2]),
                _mm256_add_epi8(t[i][1], t[i][2]),
                _mm256_sub_epi8(t[i][2], t[i][1]),
                _mm256_sub_epi8(t[i][1], t[i][3]),
            ];
            for j in 0..4 {
                let v = _mm256_add_epi8(row[j], offsets[i * 4 + j]);
                _mm256_store_si256(to.add((i * 4 + j) * position).cast(), v);
            }
        }
    }
}

/// What a group of tiles is multiplied by.
#[derive(Clone, Copy)]
struct Product {
    weights: *const i8,
    start: *const i16,
    factors: *const i16,
    blocks: usize,
    chunks: usize,
    steps: usize,
    /// Bytes from a tile to the next, and from a block to the next.
    tile: usize,
    next: usize,
}

impl Product {
    /// Stores the sums of some tiles, one a line of 16.
    #[inline(always)]
    unsafe fn group(&self, tiles: usize, v: *const u8, sums: *mut i32) {
        // SAFETY: of the caller.
        unsafe {
            match tiles {
                1 => self.tiles::<1>(v, sums),
                2 => self.tiles::<2>(v, sums),
                3 => self.tiles::<3>(v, sums),
                _ => self.tiles::<4>(v, sums),
            }
        }
    }

    /// Stores the sums of some tiles at all positions, whose weights follow each other; `place` bytes of `V` and `next` sums apart.
    #[inline(always)]
    unsafe fn positions(&self, tiles: usize, v: *const u8, place: usize, sums: *mut i32, next: usize) {
        // SAFETY: of the caller.
        unsafe {
            if tiles == GROUP && self.chunks == 1 && self.steps.is_multiple_of(2) {
                return self.whole(v, place, sums, next);
            }
            for position in 0..POSITIONS {
                let product = Self {
                    weights: self.weights.add(position * self.chunks * self.steps * 64),
                    start: self.start.add(position * self.chunks * 32),
                    ..*self
                };
                product.group(tiles, v.add(position * place), sums.add(position * next));
            }
        }
    }

    /// [`Product::positions`] for a whole group, and a block whose sums fit 16 bits.
    #[target_feature(enable = "avx2")]
    unsafe fn whole(&self, mut v: *const u8, place: usize, mut to: *mut i32, next: usize) {
        // SAFETY: of the caller.
        unsafe {
            let (mut weights, mut start) = (self.weights, self.start);
            let one = _mm256_set1_epi16(1);
            for _ in 0..POSITIONS {
                let mut short = [[load(start), load(start.add(16))]; GROUP];
                let mut at = v;
                for _ in 0..self.steps / 2 {
                    step(&mut short, at, self.tile, weights);
                    step(&mut short, at.add(4), self.tile, weights.add(64));
                    at = at.add(8);
                    weights = weights.add(128);
                }
                for r in 0..GROUP {
                    for p in 0..2 {
                        _mm256_storeu_si256(to.add(r * PANEL + p * 8).cast(), _mm256_madd_epi16(short[r][p], one));
                    }
                }
                (v, to, start) = (v.add(place), to.add(next), start.add(32));
            }
        }
    }

    #[target_feature(enable = "avx2")]
    unsafe fn tiles<const R: usize>(&self, v: *const u8, to: *mut i32) {
        // SAFETY: of the caller.
        unsafe {
            let mut sums = [[_mm256_setzero_si256(); 2]; R];
            let (mut weights, mut start, mut factors) = (self.weights, self.start, self.factors);
            for block in 0..self.blocks {
                let mut v = v.add(block * self.next);
                for _ in 0..self.chunks {
                    let begin = [load(start), load(start.add(16))];
                    let mut short = [begin; R];
                    for _ in 0..self.steps / 2 {
                        step(&mut short, v, self.tile, weights);
                        step(&mut short, v.add(4), self.tile, weights.add(64));
                        v = v.add(8);
                        weights = weights.add(128);
                    }
                    if self.steps % 2 == 1 {
                        step(&mut short, v, self.tile, weights);
                        v = v.add(4);
                        weights = weights.add(64);
                    }
                    let factor = [load(factors), load(factors.add(16))];
                    for r in 0..R {
                        for p in 0..2 {
                            sums[r][p] = _mm256_add_epi32(sums[r][p], _mm256_madd_epi16(short[r][p], factor[p]));
                        }
                    }
                    start = start.add(32);
                    factors = factors.add(32);
                }
            }
            for r in 0..R {
                for p in 0..2 {
                    _mm256_storeu_si256(to.add(r * PANEL + p * 8).cast(), sums[r][p]);
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

/// Adds the products of four channels in 16 bits.
#[inline(always)]
unsafe fn step<const R: usize>(short: &mut [[__m256i; 2]; R], v: *const u8, tile: usize, weights: *const i8) {
    // SAFETY: of the caller.
    unsafe {
        let q = [load(weights.cast()), load(weights.add(32).cast())];
        for r in 0..R {
            let a = _mm256_set1_epi32(v.add(r * tile).cast::<i32>().read_unaligned());
            for p in 0..2 {
                short[r][p] = _mm256_add_epi16(short[r][p], _mm256_maddubs_epi16(a, q[p]));
            }
        }
    }
}

/// The 2x2 outputs `A^T M A` of 8 lanes; positions are `next` sums apart.
#[inline(always)]
unsafe fn outputs(sums: *const i32, next: usize) -> [__m256i; 4] {
    // SAFETY: of the caller.
    unsafe {
        let m = |i: usize, j: usize| _mm256_loadu_si256(sums.add((i * 4 + j) * next).cast());
        let mut t = [[_mm256_setzero_si256(); 4]; 2];
        for j in 0..4 {
            let (a, b, c, d) = (m(0, j), m(1, j), m(2, j), m(3, j));
            t[0][j] = _mm256_add_epi32(_mm256_add_epi32(a, b), c);
            t[1][j] = _mm256_sub_epi32(_mm256_sub_epi32(b, c), d);
        }
        let mut y = [_mm256_setzero_si256(); 4];
        for i in 0..2 {
            let [a, b, c, d] = t[i];
            y[i * 2] = _mm256_add_epi32(_mm256_add_epi32(a, b), c);
            y[i * 2 + 1] = _mm256_sub_epi32(_mm256_sub_epi32(b, c), d);
        }
        y
    }
}

/// Scales, biases and place of a panel's outputs.
struct End {
    scale: [__m256; 2],
    bias: [__m256; 2],
    out: *mut f32,
    side: usize,
    pixel: usize,
}

impl End {
    /// Ends and stores the outputs of a tile that lie in the image; returns the largest.
    #[inline(always)]
    unsafe fn store(&self, y: [__m256; 4], half: usize, row: usize, column: usize, mut largest: __m256) -> __m256 {
        // SAFETY: of the caller.
        unsafe {
            for i in 0..4 {
                let (row, column) = (row + i / 2, column + i % 2);
                if row < self.side && column < self.side {
                    let y = _mm256_fmadd_ps(y[i], self.scale[half], self.bias[half]);
                    let y = _mm256_max_ps(y, _mm256_setzero_ps());
                    largest = _mm256_max_ps(largest, y);
                    _mm256_storeu_ps(self.out.add((row * self.side + column) * self.pixel + half * 8), y);
                }
            }
        }
        largest
    }
}

#[inline(always)]
unsafe fn most(x: __m256) -> f32 {
    let mut lanes = [0.0; 8];
    // SAFETY: eight lanes.
    unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), x) };
    lanes.into_iter().fold(0.0, f32::max)
}
