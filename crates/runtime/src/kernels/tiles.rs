//! Winograd's algorithm in vectors: `V` of a strip of tiles, then for each panel, or two of them, the products at a tile's 16
//! positions, one after the other, and its outputs.
//!
//! What a group of tiles reads of a block, and the block's weights for a panel, stay in the first-level cache: a panel's blocks
//! run one after the other, each over all groups of a strip.
use std::marker::PhantomData;

use super::dots::Dots;
use super::lanes::{Lanes, Pair, Sums};
use super::winograd::{Run, WinogradCall};
use super::{Residual, Task};
use crate::layout::LANES;
use crate::pack::Panel;
use crate::winograd::{LINE, OUTPUTS, POSITIONS, Place, Places, TAPS, Tiling, UNIT, Winograd};

/// An instruction set that runs Winograd's algorithm. Its functions may be called only where the CPU has the instructions, and are
/// `#[inline(always)]`.
pub(super) trait Tiled: Dots<Sums: Bytes + Words> {
    /// How it multiplies.
    const TILING: Tiling;
    /// Some channels of `V`, a multiple of [`UNIT`].
    type Bytes: Bytes;
    /// [`UNIT`] channels of `V`.
    type Unit: Bytes;
    /// Some outputs of a panel.
    type Words: Words;

    /// Stores the sums of `R` tiles and `P` panels at all positions, with chains times their factors.
    unsafe fn multiply_tiles<const R: usize, const P: usize>(product: &Product<'_>, v: *const u8, products: *mut i32);
}

/// Some bytes in registers; they wrap around. Its functions may be called only where the CPU has the instructions.
pub(super) trait Bytes: Copy {
    /// How many bytes there are.
    const WIDTH: usize;
    unsafe fn load(at: *const u8) -> Self;
    unsafe fn store(self, at: *mut u8);
    unsafe fn splat(x: u8) -> Self;
    unsafe fn wrapping_add(self, y: Self) -> Self;
    unsafe fn wrapping_sub(self, y: Self) -> Self;
}

/// Some 32-bit integers in registers; they wrap around. Its functions may be called only where the CPU has the instructions.
pub(super) trait Words: Sums {
    unsafe fn store(self, at: *mut i32);
    unsafe fn minus(self, y: Self) -> Self;
    unsafe fn times(self, y: Self) -> Self;
    /// Divides multiples of four by four.
    unsafe fn quarter(self) -> Self;
}

impl<W: Words> Words for Pair<W> {
    #[inline(always)]
    unsafe fn store(self, at: *mut i32) {
        // SAFETY: of the caller.
        unsafe {
            self.0.store(at);
            self.1.store(at.add(W::Floats::WIDTH));
        }
    }
    #[inline(always)]
    unsafe fn minus(self, y: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { Self(self.0.minus(y.0), self.1.minus(y.1)) }
    }
    #[inline(always)]
    unsafe fn times(self, y: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { Self(self.0.times(y.0), self.1.times(y.1)) }
    }
    #[inline(always)]
    unsafe fn quarter(self) -> Self {
        // SAFETY: of the caller.
        unsafe { Self(self.0.quarter(), self.1.quarter()) }
    }
}

impl<B: Bytes> Bytes for Pair<B> {
    const WIDTH: usize = 2 * B::WIDTH;
    #[inline(always)]
    unsafe fn load(at: *const u8) -> Self {
        // SAFETY: of the caller.
        unsafe { Self(B::load(at), B::load(at.add(B::WIDTH))) }
    }
    #[inline(always)]
    unsafe fn store(self, at: *mut u8) {
        // SAFETY: of the caller.
        unsafe {
            self.0.store(at);
            self.1.store(at.add(B::WIDTH));
        }
    }
    #[inline(always)]
    unsafe fn splat(x: u8) -> Self {
        // SAFETY: of the caller.
        unsafe { Self(B::splat(x), B::splat(x)) }
    }
    #[inline(always)]
    unsafe fn wrapping_add(self, y: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { Self(self.0.wrapping_add(y.0), self.1.wrapping_add(y.1)) }
    }
    #[inline(always)]
    unsafe fn wrapping_sub(self, y: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { Self(self.0.wrapping_sub(y.0), self.1.wrapping_sub(y.1)) }
    }
}

/// What a group of tiles is multiplied by: the weights of a block, of a panel or more.
pub(super) struct Product<'a> {
    pub weights: &'a Winograd,
    /// The first panel.
    pub panel: usize,
    pub block: usize,
    /// `U` of the first panel, and the bytes to the next one's.
    pub first: *const i8,
    pub next: usize,
    /// The tiles of a group as `V` lies in memory.
    size: usize,
}

impl Product<'_> {
    /// Returns the number of steps of four channels.
    #[inline(always)]
    pub fn steps(&self) -> usize {
        self.weights.blocks[self.block].steps()
    }

    /// Returns the bytes from a tile's `V` to the next one's, and from a position's to the next one's.
    #[inline(always)]
    pub fn apart(&self) -> (usize, usize) {
        (4 * self.steps(), 4 * self.steps() * self.size)
    }
}

/// The numbers from a position's sums to the next one's.
pub(super) const fn next_position(tiling: Tiling) -> usize {
    tiling.tiles * LANES
}

/// The numbers from a panel's sums of a group to the next one's.
pub(super) const fn next_panel(tiling: Tiling) -> usize {
    POSITIONS * next_position(tiling)
}

/// The task of a checked call.
pub(super) struct Strip<'a, I>(pub Run<'a>, pub PhantomData<I>);

impl<I: Tiled> Task for Strip<'_, I> {
    type Output = bool;

    #[inline(always)]
    fn run(self) -> bool {
        let Run { call, places, room, out, stride } = self.0;
        let Tiling { codes_from, .. } = call.weights.tiling;
        assert!(call.weights.tiling == Tiling { codes_from, ..I::TILING }, "weights packed for another kernel");
        let [_, tiles] = call.tiles();
        let work = Work::<I> { call, tiles, places: &places, room: room.as_mut_ptr(), isa: PhantomData };
        // SAFETY: `WinogradCall::check` held, so there is room for what the places name; the caller runs this where the CPU has the
        // instructions.
        unsafe {
            work.transform();
            let mut noted = <I::Words as Sums>::Floats::splat(0.0);
            let (mut panel, panels) = (0, call.weights.panels.len());
            while panel < panels {
                if I::TILING.panels == 2 && panel + 2 <= panels {
                    noted = work.panels::<2>(panel, out.as_mut_ptr(), stride, noted);
                    panel += 2;
                } else {
                    noted = work.panels::<1>(panel, out.as_mut_ptr(), stride, noted);
                    panel += 1;
                }
            }
            noted.array()[..<I::Words as Sums>::Floats::WIDTH].iter().all(|&sum| sum == 0.0)
        }
    }
}

/// A strip of tiles.
struct Work<'a, I> {
    call: &'a WinogradCall<'a>,
    tiles: usize,
    places: &'a Places,
    room: *mut u8,
    isa: PhantomData<I>,
}

impl<I: Tiled> Work<'_, I> {
    /// Stores `V` of all tiles.
    #[inline(always)]
    unsafe fn transform(&self) {
        let (call, size) = (self.call, self.places.size);
        let (codes, channels) = (call.codes.as_ptr(), call.weights.channels);
        // SAFETY: of the caller; patches lie in the codes.
        unsafe {
            for tile in 0..self.tiles {
                let pixels = call.patch(tile);
                let mut patch = [[codes; 4]; 4];
                for i in 0..4 {
                    for j in 0..4 {
                        patch[i][j] = codes.add(pixels[i][j] * channels);
                    }
                }
                let mut c = 0;
                for &Place { at, group, len } in &self.places.blocks {
                    let to = self.room.add(at + tile / size * group + tile % size * len);
                    let (mut at, next) = (0, size * len);
                    while at + I::Bytes::WIDTH <= len {
                        spread::<I::Bytes>(&patch, c + at, &call.weights.offsets, to.add(at), next);
                        at += I::Bytes::WIDTH;
                    }
                    while at < len {
                        spread::<I::Unit>(&patch, c + at, &call.weights.offsets, to.add(at), next);
                        at += UNIT;
                    }
                    c += len;
                }
            }
        }
    }

    /// Computes and stores the outputs of `P` panels; returns `noted` with 0 times each.
    #[inline(always)]
    unsafe fn panels<const P: usize>(
        &self,
        panel: usize,
        out: *mut f32,
        stride: usize,
        mut noted: Noted<I>,
    ) -> Noted<I> {
        let (w, places, [across, _]) = (self.call.weights, self.places, self.call.tiles());
        // SAFETY: of the caller.
        unsafe {
            let (products, sums) =
                (self.room.add(places.products).cast::<i32>(), self.room.add(places.sums).cast::<i32>());
            for (block, place) in places.blocks.iter().enumerate() {
                let (first, next) = if w.packed {
                    let next = place.len * POSITIONS * LANES;
                    let to = self.room.add(places.weights);
                    for p in 0..P {
                        transform_codes::<I>(w, panel + p, block, to.add(p * next));
                    }
                    (to.cast_const().cast(), next)
                } else {
                    (w.weights.as_ptr().add(w.at(panel, block)), w.at(1, 0))
                };
                let product = Product { weights: w, panel, block, first, next, size: places.size };
                let last = block + 1 == places.blocks.len();
                for first in (0..self.tiles).step_by(places.size) {
                    let tiles = first..self.tiles.min(first + places.size);
                    let v = self.room.add(place.at + first / places.size * place.group).cast_const();
                    multiply::<I, P>(&product, tiles.len(), v, products);
                    for p in 0..P {
                        let number = (panel + p) * w.blocks.len() + block;
                        let (products, sums) =
                            (products.add(p * next_panel(I::TILING)), sums.add(p * self.tiles * OUTPUTS));
                        for half in 0..LANES / <I::Words as Sums>::Floats::WIDTH {
                            let lane = half * <I::Words as Sums>::Floats::WIDTH;
                            let end = End::<I>::new(self.call, panel + p, lane, out, stride);
                            let factor = I::Words::load(w.factors.as_ptr().cast::<i32>().add(number * LANES + lane));
                            let mut at = [first / across * 2, first % across * 2];
                            for tile in tiles.clone() {
                                let mut y = outputs::<I>(products.add((tile - first) * LANES + lane));
                                let sums = sums.add(tile * OUTPUTS + lane);
                                // What the first block's sums are added to.
                                let before = if block > 0 {
                                    sums.cast_const()
                                } else {
                                    w.corrections.as_ptr().wrapping_add((panel + p) * OUTPUTS + lane)
                                };
                                for i in 0..4 {
                                    if !I::TILING.chains {
                                        y[i] = y[i].times(factor);
                                    }
                                    if block > 0 || !I::TILING.chains {
                                        y[i] = y[i].plus(I::Words::load(before.wrapping_add(i * LANES)));
                                    }
                                    if !last {
                                        y[i].store(sums.add(i * LANES));
                                    }
                                }
                                if last {
                                    noted = end.store(at, y, noted);
                                }
                                at[1] += 2;
                                if at[1] >= self.call.size[1] {
                                    at = [at[0] + 2, 0];
                                }
                            }
                        }
                    }
                }
            }
        }
        noted
    }
}

type Noted<I> = <<I as Tiled>::Words as Sums>::Floats;

/// Stores the sums of some tiles at all positions.
#[inline(always)]
unsafe fn multiply<I: Tiled, const P: usize>(product: &Product<'_>, tiles: usize, v: *const u8, products: *mut i32) {
    // SAFETY: of the caller.
    unsafe {
        match tiles {
            1 => I::multiply_tiles::<1, P>(product, v, products),
            2 => I::multiply_tiles::<2, P>(product, v, products),
            3 => I::multiply_tiles::<3, P>(product, v, products),
            4 => I::multiply_tiles::<4, P>(product, v, products),
            5 if I::TILING.tiles >= 5 => I::multiply_tiles::<5, P>(product, v, products),
            6 if I::TILING.tiles >= 6 => I::multiply_tiles::<6, P>(product, v, products),
            7 if I::TILING.tiles >= 7 => I::multiply_tiles::<7, P>(product, v, products),
            8 if I::TILING.tiles >= 8 => I::multiply_tiles::<8, P>(product, v, products),
            _ => unreachable!("a group has at most as many tiles as the kernel says"),
        }
    }
}

/// Stores `4 G g G^T` of a panel's codes of a block.
#[inline(always)]
unsafe fn transform_codes<I: Tiled>(w: &Winograd, panel: usize, block: usize, to: *mut u8) {
    let steps = w.blocks[block].steps();
    // SAFETY: of the caller.
    unsafe {
        let mut from = w.weights.as_ptr().add(w.at(panel, block)).cast::<u8>();
        for step in (0..steps).step_by(2) {
            let mut columns = [[[I::Sums::zero(); 4]; 3]; 2];
            for j in 0..3 {
                let (a, b, c) = (from.add(j * LINE), from.add((3 + j) * LINE), from.add((6 + j) * LINE));
                let (a, b, c) = (I::nibbles(a), I::nibbles(b), I::nibbles(c));
                for odd in 0..2 {
                    columns[odd][j] = filters([a[odd], b[odd], c[odd]]);
                }
            }
            for odd in 0..2 {
                let to = to.add((step + odd) * LINE);
                for i in 0..4 {
                    let row = filters([columns[odd][0][i], columns[odd][1][i], columns[odd][2][i]]);
                    for j in 0..4 {
                        Bytes::store(row[j], to.add((i * 4 + j) * steps * LINE));
                    }
                }
            }
            from = from.add(TAPS * LINE);
        }
    }
}

/// `2 G g` of three rows.
#[inline(always)]
unsafe fn filters<B: Bytes>([a, b, c]: [B; 3]) -> [B; 4] {
    // SAFETY: of the caller.
    unsafe {
        let sum = a.wrapping_add(c);
        [a.wrapping_add(a), sum.wrapping_add(b), sum.wrapping_sub(b), c.wrapping_add(c)]
    }
}

/// Stores `B^T d B` and the offsets of some channels; positions are `next` bytes apart.
#[inline(always)]
unsafe fn spread<B: Bytes>(patch: &[[*const u8; 4]; 4], c: usize, offsets: &[u8; POSITIONS], to: *mut u8, next: usize) {
    // SAFETY: of the caller.
    unsafe {
        let mut t = [[B::splat(0); 4]; 4];
        for j in 0..4 {
            let mut d = [B::splat(0); 4];
            for i in 0..4 {
                d[i] = B::load(patch[i][j].add(c));
            }
            let column = half(d);
            for i in 0..4 {
                t[i][j] = column[i];
            }
        }
        for i in 0..4 {
            let row = half(t[i]);
            for j in 0..4 {
                let position = i * 4 + j;
                row[j].wrapping_add(B::splat(offsets[position])).store(to.add(position * next));
            }
        }
    }
}

/// `B^T d` of four rows.
#[inline(always)]
unsafe fn half<B: Bytes>([a, b, c, d]: [B; 4]) -> [B; 4] {
    // SAFETY: of the caller.
    unsafe { [a.wrapping_sub(c), b.wrapping_add(c), c.wrapping_sub(b), b.wrapping_sub(d)] }
}

/// The 2x2 outputs `A^T M A`, four times their sums.
#[inline(always)]
unsafe fn outputs<I: Tiled>(products: *const i32) -> [I::Words; 4] {
    // SAFETY: of the caller.
    unsafe {
        let mut columns = [[I::Words::zero(); 4]; 2];
        for j in 0..4 {
            let mut m = [I::Words::zero(); 4];
            for i in 0..4 {
                m[i] = I::Words::load(products.add((i * 4 + j) * next_position(I::TILING)));
            }
            [columns[0][j], columns[1][j]] = ends(m);
        }
        let ([a, b], [c, d]) = (ends(columns[0]), ends(columns[1]));
        [a, b, c, d]
    }
}

/// `A^T m` of four rows.
#[inline(always)]
unsafe fn ends<W: Words>([a, b, c, d]: [W; 4]) -> [W; 2] {
    // SAFETY: of the caller.
    unsafe { [a.plus(b.plus(c)), b.minus(c).minus(d)] }
}

/// What ends some sums of a panel, and where its outputs go.
struct End<I: Tiled> {
    factor: Noted<I>,
    scale: Noted<I>,
    bias: Noted<I>,
    limits: Option<(Noted<I>, Noted<I>)>,
    residual: *const f32,
    residual_stride: usize,
    out: *mut f32,
    stride: usize,
    lanes: usize,
    size: [usize; 2],
}

impl<I: Tiled> End<I> {
    /// The end of the lanes of a panel from `lane` on.
    #[inline(always)]
    unsafe fn new(call: &WinogradCall<'_>, panel: usize, lane: usize, out: *mut f32, stride: usize) -> Self {
        let w = call.weights;
        let Panel { first, lanes, .. } = w.panels[panel];
        let (at, first) = (panel * LANES + lane, first + lane);
        // SAFETY: of the caller.
        unsafe {
            // Adding -0 changes nothing, not even a zero's sign.
            let mut bias = Lanes::splat(-0.0);
            if !w.bias.is_empty() {
                bias = Lanes::load(w.bias.as_ptr().add(at));
            }
            let mut limits = None;
            if let Some((lo, hi)) = call.clamp {
                limits = Some((Lanes::splat(lo), Lanes::splat(hi)));
            }
            let (residual, residual_stride) = match call.residual {
                Residual::Rows(rows) => (rows.data.as_ptr().wrapping_add(first), rows.stride),
                Residual::Output => (out.wrapping_add(first).cast_const(), stride),
                Residual::None => (std::ptr::null(), 0),
            };
            Self {
                factor: Lanes::splat(call.scale),
                scale: Lanes::load(w.scale.as_ptr().add(at)),
                bias,
                limits,
                residual,
                residual_stride,
                out: out.wrapping_add(first),
                stride,
                lanes: lanes.saturating_sub(lane).min(Noted::<I>::WIDTH),
                size: call.size,
            }
        }
    }

    /// Ends and stores the outputs of the tile at row and column `at`, 4 times their sums, as far as they lie in the image; returns
    /// `noted` with 0 times each.
    #[inline(always)]
    unsafe fn store(&self, [row, column]: [usize; 2], sums: [I::Words; 4], mut noted: Noted<I>) -> Noted<I> {
        let [rows, width] = self.size;
        let first = row * width + column;
        // SAFETY: of the caller: `WinogradCall::check` held for every output and residual row, of which only a panel's lanes are
        // read and written.
        unsafe {
            if row + 1 < rows && column + 1 < width && self.lanes == Noted::<I>::WIDTH {
                for i in 0..4 {
                    noted = self.output::<true>(first + i / 2 * width + i % 2, sums[i], noted);
                }
            } else if self.lanes > 0 {
                for i in 0..4 {
                    if row + i / 2 < rows && column + i % 2 < width {
                        noted = self.output::<false>(first + i / 2 * width + i % 2, sums[i], noted);
                    }
                }
            }
        }
        noted
    }

    /// Ends and stores an output, of `WHOLE` lanes or some of them; returns as [`End::store`].
    #[inline(always)]
    unsafe fn output<const WHOLE: bool>(&self, pixel: usize, sum: I::Words, noted: Noted<I>) -> Noted<I> {
        // SAFETY: of the caller.
        unsafe {
            let acc = self.factor.mul_add::<true>(sum.quarter().floats(), Lanes::splat(0.0));
            let mut y = acc.mul_add::<true>(self.scale, self.bias);
            if !self.residual.is_null() {
                let at = self.residual.add(pixel * self.residual_stride);
                y = y.add(if WHOLE { Lanes::load(at) } else { Lanes::load_lanes(at, self.lanes) });
            }
            // Lanes without an output are 0: so are their weights and scales.
            let noted = noted.note(y);
            if let Some((lo, hi)) = self.limits {
                y = y.at_least(lo).at_most(hi);
            }
            let to = self.out.add(pixel * self.stride);
            if WHOLE {
                y.store(to);
            } else {
                y.store_lanes(to, self.lanes);
            }
            noted
        }
    }
}
