//! Rounds floats to codes and scales, for every instruction set.
use std::marker::PhantomData;

use super::lanes::{Lanes, Magnitudes};
use super::rule::Rule;
use super::tile::Isa;
use super::{PlanesCall, QuantizeCall, Task, depthwise, plain};
use crate::layout::{LANES, Layout, Piece};

/// The most blocks whose scales are found at a time.
const BLOCKS: usize = 512;
/// The number of codes that are made at a time.
const LINE: usize = 64;
/// The number of floats that are read twice and stay in the nearest cache meanwhile.
const NEAR: usize = 4096;

/// An instruction set that rounds. Its functions may be called only where the CPU has the instructions.
pub(super) trait Rounds: Isa<Floats: Magnitudes> {
    /// Whether it multiplies and adds in one instruction.
    const FUSED: bool = true;
    /// The limits and the offset of a [`Rule`].
    type Limits: Copy;
    unsafe fn limits(rule: &Rule) -> Self::Limits;
    /// Stores the codes of the first `n` of 64 floats, which were multiplied by the reciprocals of their scales: the nearest
    /// integers, half to even, in the limits. They are below `2^31`.
    unsafe fn codes(limits: &Self::Limits, x: [Self::Floats; 4], to: *mut u8, n: usize);
}

/// Rounds the rows of a checked call.
pub(super) struct Quantize<'a, I> {
    pub call: &'a QuantizeCall<'a>,
    pub codes: &'a mut [u8],
    pub scales: &'a mut [f32],
    pub isa: PhantomData<I>,
}

impl<I: Rounds> Task for Quantize<'_, I> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { call, codes, scales, .. } = self;
        let layout = call.layout;
        if layout.depthwise {
            return depthwise::quantize(I::FUSED, call, codes, scales);
        }
        if layout.blocks.len() > BLOCKS {
            return plain::quantize(call, codes, scales);
        }
        let rule = Rule::new(layout);
        // SAFETY: this is compiled for, and runs on, CPUs with the instructions; `QuantizeCall::check` held.
        unsafe {
            let rounding = Rounding::<I> { limits: I::limits(&rule), rule };
            match Blocks::fits(layout) {
                _ if call.largest.is_some() => rounding.whole(call, codes, scales),
                Some(4) => rounding.small::<4>(call, codes, scales),
                Some(8) => rounding.small::<8>(call, codes, scales),
                Some(length) => rounding.runs(call, length, codes, scales),
                None if layout.pieces.is_empty() => rounding.columns(call, codes, scales),
                None => rounding.rows(call, codes, scales),
            }
        }
        plain::fill_spare(call, codes);
    }
}

/// Rounds the pixels of a planar image.
pub(super) struct QuantizePlanes<'a> {
    pub call: &'a PlanesCall<'a>,
    pub codes: &'a mut [u8],
    pub scales: &'a mut [f32],
}

impl Task for QuantizePlanes<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        plain::quantize_planes(self.call, self.codes, self.scales);
    }
}

/// How a layer's inputs are rounded, with the limits in registers.
struct Rounding<I: Rounds> {
    rule: Rule,
    limits: I::Limits,
}

/// What is known of the same block of some pixels.
struct Room {
    quarters: [[f32; 4]; LINE],
    scale: [f32; LINE],
    inverse: [f32; LINE],
}

impl Default for Room {
    fn default() -> Self {
        Self { quarters: [[0.0; 4]; LINE], scale: [0.0; LINE], inverse: [0.0; LINE] }
    }
}

/// Consecutive blocks of the same length: where their floats are, and where their codes and scales go.
struct Blocks {
    count: usize,
    /// The number of channels of a block: a number of lines, or a half or a quarter of one.
    length: usize,
    x: *const f32,
    codes: *mut u8,
    scales: *mut f32,
}

impl Blocks {
    /// Returns the length of all blocks of a layout without gaps, if they are rounded many at a time.
    fn fits(layout: &Layout) -> Option<usize> {
        let length = layout.blocks[0].len();
        let lines = length.is_multiple_of(LINE) || [4, 8, LINE / 4, LINE / 2].contains(&length);
        (lines && layout.pieces.is_empty() && layout.blocks.iter().all(|b| b.len() == length)).then_some(length)
    }
}

/// Returns the largest of four magnitudes.
#[inline(always)]
fn largest_of(&[a, b, c, d]: &[f32; 4]) -> f32 {
    let larger = |a: f32, b: f32| if a > b { a } else { b };
    larger(larger(a, b), larger(c, d))
}

impl<I: Rounds> Rounding<I> {
    /// Rounds rows with blocks of any length, some at a time: what is largest in each block, then the scales, then the codes.
    #[inline(always)]
    unsafe fn rows(&self, call: &QuantizeCall<'_>, codes: &mut [u8], scales: &mut [f32]) {
        let QuantizeCall { layout, x, pixels, .. } = *call;
        let blocks = layout.blocks.len();
        let mut quarters = [[0.0f32; 4]; BLOCKS];
        let (mut scale, mut inverse) = ([0.0f32; BLOCKS], [0.0f32; BLOCKS]);
        let at_once = (BLOCKS / blocks).min(NEAR.div_ceil(layout.channels));
        for (part, pixels) in pixels.chunks(at_once).enumerate() {
            let count = pixels.len() * blocks;
            // SAFETY: of the caller: rows have all channels, and each pixel lies in `codes` and `scales`.
            unsafe {
                let x = x.data.as_ptr().add(part * at_once * call.x.stride);
                for i in 0..pixels.len() {
                    for (b, block) in layout.blocks.iter().enumerate() {
                        let x = x.add(i * call.x.stride + block.start);
                        Self::largest(x, block.len()).quarter(quarters[i * blocks + b].as_mut_ptr());
                    }
                }
                self.rule.scale_all(quarters[..count].iter().map(largest_of), &mut scale, &mut inverse);
                for (i, &pixel) in pixels.iter().enumerate() {
                    let pixel = pixel as usize;
                    scales[pixel * blocks..][..blocks].copy_from_slice(&scale[i * blocks..][..blocks]);
                    let x = x.add(i * call.x.stride);
                    let codes = codes.as_mut_ptr().add(pixel * layout.bytes);
                    let mut pieces = layout.pieces.iter().peekable();
                    for (b, block) in layout.blocks.iter().enumerate() {
                        let inverse = I::Floats::splat(inverse[i * blocks + b]);
                        if layout.pieces.is_empty() {
                            self.round(x.add(block.start), inverse, codes.add(block.start), block.len());
                        }
                        while let Some(Piece { channels, at }) = pieces.next_if(|p| p.channels.end <= block.end) {
                            self.round(x.add(channels.start), inverse, codes.add(*at), channels.len());
                        }
                    }
                }
            }
        }
    }

    /// Rounds rows whose blocks have one scale, that of the call's largest magnitude.
    #[inline(always)]
    unsafe fn whole(&self, call: &QuantizeCall<'_>, codes: &mut [u8], scales: &mut [f32]) {
        let QuantizeCall { layout, x, pixels, largest, .. } = *call;
        let (scale, inverse) = self.rule.scale(largest.unwrap_or_default());
        // SAFETY: of the caller: rows have all channels, and each pixel lies in `codes` and `scales`.
        unsafe {
            let inverse = I::Floats::splat(inverse);
            for (i, &pixel) in pixels.iter().enumerate() {
                let pixel = pixel as usize;
                scales[pixel * layout.scales..][..layout.scales].fill(scale);
                let x = x.data.as_ptr().add(i * x.stride);
                let codes = codes.as_mut_ptr().add(pixel * layout.bytes);
                if layout.pieces.is_empty() {
                    self.round(x, inverse, codes, layout.channels);
                }
                for Piece { channels, at } in &layout.pieces {
                    self.round(x.add(channels.start), inverse, codes.add(*at), channels.len());
                }
            }
        }
    }

    /// Rounds rows of blocks of `N` channels without gaps: those of small groups.
    #[inline(always)]
    unsafe fn small<const N: usize>(&self, call: &QuantizeCall<'_>, codes: &mut [u8], scales: &mut [f32]) {
        let QuantizeCall { layout, x, pixels, .. } = *call;
        let blocks = layout.blocks.len();
        let (mut largest, mut scale, mut inverse) = ([0.0f32; BLOCKS], [0.0f32; BLOCKS], [0.0f32; BLOCKS]);
        let larger = |a: f32, b: f32| if b > a { b } else { a };
        let at_once = BLOCKS / blocks;
        for (part, pixels) in pixels.chunks(at_once).enumerate() {
            let rows = |i: usize| x.pixel(part * at_once + i, layout.channels);
            for (i, largest) in largest.chunks_exact_mut(blocks).take(pixels.len()).enumerate() {
                for (largest, x) in largest.iter_mut().zip(rows(i).as_chunks::<N>().0) {
                    *largest = x.iter().fold(0.0, |most, x| larger(most, x.abs()));
                }
            }
            let count = pixels.len() * blocks;
            self.rule.scale_all(largest[..count].iter().copied(), &mut scale, &mut inverse);
            for (i, &pixel) in pixels.iter().enumerate() {
                let pixel = pixel as usize;
                scales[pixel * blocks..][..blocks].copy_from_slice(&scale[i * blocks..][..blocks]);
                let codes = &mut codes[pixel * layout.bytes..][..layout.bytes];
                let inverse = inverse[i * blocks..][..blocks].chunks(LINE / N);
                for ((x, codes), inverse) in rows(i).chunks(LINE).zip(codes.chunks_mut(LINE)).zip(inverse) {
                    let mut products = [0.0; LINE];
                    for ((to, x), inverse) in
                        products.as_chunks_mut::<N>().0.iter_mut().zip(x.as_chunks::<N>().0).zip(inverse)
                    {
                        for k in 0..N {
                            to[k] = x[k] * inverse;
                        }
                    }
                    // SAFETY: the CPU has the instructions, by the caller; both have as many elements.
                    unsafe { I::codes(&self.limits, Self::line(products.as_ptr()), codes.as_mut_ptr(), codes.len()) };
                }
            }
        }
    }

    /// Rounds rows of blocks without gaps, one block of all pixels after the other.
    #[inline(always)]
    unsafe fn columns(&self, call: &QuantizeCall<'_>, codes: &mut [u8], scales: &mut [f32]) {
        let mut room = Room::default();
        for (b, block) in call.layout.blocks.iter().enumerate() {
            let (codes, scales) = (&mut *codes, &mut *scales);
            // SAFETY: of the caller.
            unsafe {
                // The usual lengths, known when this is compiled.
                match block.len() {
                    64 => self.column(call, b, block.start, 64, &mut room, codes, scales),
                    32 => self.column(call, b, block.start, 32, &mut room, codes, scales),
                    16 => self.column(call, b, block.start, 16, &mut room, codes, scales),
                    length => self.column(call, b, block.start, length, &mut room, codes, scales),
                }
            }
        }
    }

    /// Rounds block `b`, which is `length` channels from `start` on, of all pixels.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "inlined for each length")]
    unsafe fn column(
        &self,
        call: &QuantizeCall<'_>,
        b: usize,
        start: usize,
        length: usize,
        room: &mut Room,
        codes: &mut [u8],
        scales: &mut [f32],
    ) {
        let QuantizeCall { layout, x, pixels, .. } = *call;
        let Room { quarters, scale, inverse } = room;
        let at_once = (NEAR / length).clamp(1, quarters.len());
        for (part, pixels) in pixels.chunks(at_once).enumerate() {
            let count = pixels.len();
            // SAFETY: of the caller: rows have all channels, and each pixel lies in `codes` and `scales`.
            unsafe {
                let x = x.data.as_ptr().add(part * at_once * call.x.stride + start);
                for (i, quarter) in quarters[..count].iter_mut().enumerate() {
                    Self::largest(x.add(i * call.x.stride), length).quarter(quarter.as_mut_ptr());
                }
                self.rule.scale_all(quarters[..count].iter().map(largest_of), scale, inverse);
                for (i, &pixel) in pixels.iter().enumerate() {
                    let pixel = pixel as usize;
                    *scales.get_unchecked_mut(pixel * layout.scales + b) = scale[i];
                    let inverse = I::Floats::splat(inverse[i]);
                    let codes = codes.as_mut_ptr().add(pixel * layout.bytes + start);
                    self.round(x.add(i * call.x.stride), inverse, codes, length);
                }
            }
        }
    }

    /// Rounds rows with blocks of one `length`. Pixels that follow each other, without a gap in their rows, are one array of
    /// blocks.
    #[inline(always)]
    unsafe fn runs(&self, call: &QuantizeCall<'_>, length: usize, codes: &mut [u8], scales: &mut [f32]) {
        let QuantizeCall { layout, x, pixels, .. } = *call;
        let blocks = layout.blocks.len();
        let gaps = x.stride != layout.channels;
        let mut first = 0;
        while first < pixels.len() {
            let next = |i: usize| !gaps && i < pixels.len() && pixels[i] == pixels[i - 1] + 1;
            let mut end = first + 1;
            while next(end) {
                end += 1;
            }
            let pixel = pixels[first] as usize;
            // SAFETY: of the caller: rows have all channels, and each pixel lies in `codes` and `scales`.
            unsafe {
                let run = Blocks {
                    count: (end - first) * blocks,
                    length,
                    x: x.data.as_ptr().add(first * x.stride),
                    codes: codes.as_mut_ptr().add(pixel * layout.bytes),
                    scales: scales.as_mut_ptr().add(pixel * blocks),
                };
                match LINE / length {
                    4 => self.lines::<4>(&run),
                    2 => self.lines::<2>(&run),
                    _ => self.lines::<1>(&run),
                }
            }
            first = end;
        }
    }

    /// Rounds blocks of which `PARTS` are in a line, or of a number of lines.
    #[inline(always)]
    unsafe fn lines<const PARTS: usize>(&self, run: &Blocks) {
        let Blocks { length, x, codes, scales, .. } = *run;
        let lines = (length / LINE).max(1);
        let mut quarters = [[0.0f32; 4]; LINE];
        let mut inverses = [0.0f32; LINE];
        let at_once = (NEAR / length).clamp(LANES, LINE);
        let mut first = 0;
        while first < run.count {
            let count = (run.count - first).min(at_once);
            let whole = count / PARTS * PARTS;
            // SAFETY: of the caller.
            unsafe {
                let (x, codes) = (x.add(first * length), codes.add(first * length));
                let mut at = x;
                for block in (0..whole).step_by(PARTS) {
                    let mut max = [I::Floats::splat(0.0); 4];
                    for _ in 0..lines {
                        let a = Self::line(at);
                        for k in 0..4 {
                            max[k] = max[k].abs_max(a[k]);
                        }
                        at = at.add(LINE);
                    }
                    if PARTS <= 2 {
                        (max[0], max[2]) = (max[0].at_least(max[1]), max[2].at_least(max[3]));
                    }
                    if PARTS == 1 {
                        max[0] = max[0].at_least(max[2]);
                    }
                    for part in 0..PARTS {
                        max[part * 4 / PARTS].quarter(quarters[block + part].as_mut_ptr());
                    }
                }
                for block in whole..count {
                    Self::largest(x.add(block * length), length).quarter(quarters[block].as_mut_ptr());
                }
                let scales = std::slice::from_raw_parts_mut(scales.add(first), count);
                self.rule.scale_all(quarters[..count].iter().map(largest_of), scales, &mut inverses);
                let mut at = 0;
                for block in (0..whole).step_by(PARTS) {
                    let mut inverse = [I::Floats::splat(inverses[block]); 4];
                    for k in 4 / PARTS..4 {
                        inverse[k] = I::Floats::splat(inverses[block + k * PARTS / 4]);
                    }
                    for _ in 0..lines {
                        let mut a = Self::line(x.add(at));
                        for k in 0..4 {
                            a[k] = a[k].mul(inverse[k]);
                        }
                        I::codes(&self.limits, a, codes.add(at), LINE);
                        at += LINE;
                    }
                }
                for block in whole..count {
                    let at = block * length;
                    self.round(x.add(at), I::Floats::splat(inverses[block]), codes.add(at), length);
                }
            }
            first += count;
        }
    }

    /// Loads 64 floats.
    #[inline(always)]
    unsafe fn line(x: *const f32) -> [I::Floats; 4] {
        // SAFETY: of the caller.
        unsafe {
            [
                I::Floats::load(x),
                I::Floats::load(x.add(LANES)),
                I::Floats::load(x.add(2 * LANES)),
                I::Floats::load(x.add(3 * LANES)),
            ]
        }
    }

    /// Finds the largest magnitude of each sixteenth of `n` floats.
    #[inline(always)]
    unsafe fn largest(x: *const f32, n: usize) -> I::Floats {
        // SAFETY: of the caller.
        unsafe {
            let (mut max, mut second) = (I::Floats::splat(0.0), I::Floats::splat(0.0));
            let mut c = 0;
            while c + 2 * LANES <= n {
                max = max.abs_max(I::Floats::load(x.add(c)));
                second = second.abs_max(I::Floats::load(x.add(c + LANES)));
                c += 2 * LANES;
            }
            if c + LANES <= n {
                max = max.abs_max(I::Floats::load(x.add(c)));
                c += LANES;
            }
            if c < n {
                second = second.abs_max(I::Floats::load_lanes(x.add(c), n - c));
            }
            max.at_least(second)
        }
    }

    /// Makes the codes of `n` floats.
    #[inline(always)]
    unsafe fn round(&self, x: *const f32, inverse: I::Floats, codes: *mut u8, n: usize) {
        let mut c = 0;
        // SAFETY: of the caller.
        unsafe {
            while c + LINE <= n {
                let a = Self::line(x.add(c));
                let a = [a[0].mul(inverse), a[1].mul(inverse), a[2].mul(inverse), a[3].mul(inverse)];
                I::codes(&self.limits, a, codes.add(c), LINE);
                c += LINE;
            }
            let zero = I::Floats::splat(0.0);
            while c + 2 * LANES <= n {
                let (a, b) = (I::Floats::load(x.add(c)).mul(inverse), I::Floats::load(x.add(c + LANES)).mul(inverse));
                I::codes(&self.limits, [a, b, zero, zero], codes.add(c), 2 * LANES);
                c += 2 * LANES;
            }
            if c + LANES <= n {
                let a = I::Floats::load(x.add(c)).mul(inverse);
                I::codes(&self.limits, [a, zero, zero, zero], codes.add(c), LANES);
                c += LANES;
            }
            if c < n {
                let a = I::Floats::load_lanes(x.add(c), n - c).mul(inverse);
                I::codes(&self.limits, [a, zero, zero, zero], codes.add(c), n - c);
            }
        }
    }
}
