//! Winograd's algorithm F(2x2, 3x3) in integers: weights transformed, in the order in which kernels read them.
//!
//! | letter | meaning |
//! |---|---|
//! | `d`, `V = B^T d B` | a 4x4 patch of a channel's mantissas, and its transform |
//! | `g`, `U = 4 G g G^T` | the nine codes of a filter's channel, and 4 times their transform: whole numbers |
//! | `M` | the 16 sums of `U V` over channels, each block's times its factor |
//!
//! `A^T M A / 4` are the 2x2 outputs of the patch: the integers of the nine taps, for 16 products in place of 36 (Lavin and Gray,
//! "Fast Algorithms for Convolutional Neural Networks", 2016). All is exact: `U` lies in -72..72 for 4-bit codes. A value of `V` is
//! a sum of four mantissas, two of them negative but for position (1, 1), so with [`offset`] it is an unsigned byte for
//! mantissas of up to 6 bits.
use std::ops::Range;

use blockfloat::{QuantizedWeights, TapScales};
use graph::Conv2d;

use crate::buffer::Buffer;
use crate::layout::{LANES, Layout};
use crate::pack::Panel;

/// The positions of a transformed patch.
pub(crate) const POSITIONS: usize = 16;

/// How a kernel multiplies tiles, of 2x2 outputs, by panels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tiling {
    /// The most tiles that are multiplied at a time.
    pub tiles: usize,
    /// The panels that they are multiplied by at a time.
    pub panels: usize,
    /// Whether it adds products in 16 bits, in chains whose sums fit, and in 32 bits otherwise.
    pub chains: bool,
    /// The number of weights of a layer from which on they are kept as codes, two a byte, and transformed for each strip: `U` would take
    /// 3.5 times as long to come from far.
    pub codes_from: usize,
    /// The bytes of a strip's `V`, which stay in the second-level cache.
    pub strip: usize,
    /// The fewest tiles of an image with which it is faster than nine taps.
    pub fewest: usize,
}

/// The taps of a filter.
pub(crate) const TAPS: usize = 9;

/// The channels that are transformed at a time: blocks are a multiple of them.
pub(crate) const UNIT: usize = 16;

/// The bytes of a step of a panel's weights: four channels of each output.
pub(crate) const LINE: usize = 4 * LANES;

/// The most steps of a chunk.
const LONGEST: usize = 255;

/// The numbers of a panel's sums of a tile: 2x2 outputs of 16 lanes.
pub(crate) const OUTPUTS: usize = 4 * LANES;

/// What is added to `V` at a position to make it an unsigned byte, for mantissas of at most `most`.
fn offset(position: usize, most: i32, signed: bool) -> i32 {
    -limits(position, most, signed).0
}

/// Returns the limits of `V` at a position.
fn limits(position: usize, most: i32, signed: bool) -> (i32, i32) {
    match (signed, position) {
        (true, _) => (-4 * most, 4 * most),
        (false, 5) => (0, 4 * most),
        (false, _) => (-2 * most, 2 * most),
    }
}

/// The nine codes of a filter's channel, transformed.
fn transformed(g: &[i8]) -> [i32; POSITIONS] {
    const TWICE_G: [[i32; 3]; 4] = [[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]];
    std::array::from_fn(|at| {
        let (row, column) = (TWICE_G[at / 4], TWICE_G[at % 4]);
        (0..9).map(|tap| row[tap / 3] * column[tap % 3] * i32::from(g[tap])).sum()
    })
}

/// A block of channels that share a factor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    pub channels: Range<usize>,
    /// The first of its [`starts`](Fields::starts), for each panel, or nothing.
    starts: Vec<usize>,
}

impl Block {
    /// Returns the number of steps of four channels.
    pub fn steps(&self) -> usize {
        self.channels.len() / 4
    }
}

/// Transformed weights of a convolution. Only [`Winograd::new`] makes them, and nothing changes them: kernels rely on how long
/// each buffer is.
#[derive(Debug)]
pub(crate) struct Winograd(Fields);

/// What kernels read of [`Winograd`] weights.
#[derive(Debug)]
pub(crate) struct Fields {
    /// How the kernel that reads them multiplies.
    pub tiling: Tiling,
    pub channels: usize,
    pub panels: Vec<Panel>,
    pub blocks: Vec<Block>,
    /// Whether [`Fields::weights`] are codes.
    pub packed: bool,
    /// `U`, for each panel, block and position: `[steps, 16 outputs, 4 channels]`. Or codes, for each panel and two steps: `[tap, 16
    /// outputs, 4 channels]`, those of the first step in the low half of a byte.
    pub weights: Buffer<i8>,
    /// With chains, for each panel, block and position, how many steps of sums fit 16 bits: their products are added there, then widened. 0: not
    /// even the products of one, whose `V` are then multiplied in two parts, the highest bit and the rest.
    pub lengths: Vec<u8>,
    /// What the sums of each chain begin at, `[16 outputs, 2]`: minus what the offsets of `V` add. Sums wrap around, so
    /// that only the true ones must fit.
    pub starts: Buffer<i16>,
    /// Without chains, what is added to 4 times the sums of a tile of each panel, `[P, 2x2, 16]`: minus what the offsets of `V` add.
    pub corrections: Buffer<i32>,
    /// The factor of each panel and block, `[16 outputs, 2]`: twice with chains, otherwise in the halves of 32 bits.
    pub factors: Buffer<i16>,
    /// The scales of filters `[P, 16]`.
    pub scale: Buffer<f32>,
    /// The biases `[P, 16]`, or nothing.
    pub bias: Buffer<f32>,
    /// What is added to `V`, position by position.
    pub offsets: [u8; POSITIONS],
}

impl std::ops::Deref for Winograd {
    type Target = Fields;
    fn deref(&self) -> &Fields {
        &self.0
    }
}

impl Winograd {
    /// Tells whether a convolution may be computed in this way: whether its inputs lie as `layout` says and the taps of its codes
    /// share their blocks' factors.
    pub fn suits(conv: &Conv2d, codes: &QuantizedWeights, layout: &Layout) -> bool {
        let grid = conv.kernel == [3, 3] && conv.stride == [1, 1] && conv.dilation == [1, 1] && conv.groups == 1;
        let plain = layout.whole && layout.pieces.is_empty() && layout.bytes == layout.channels;
        let blocks = codes.block().len_in(layout.channels);
        let whole = layout.channels.is_multiple_of(UNIT) && (blocks.is_multiple_of(UNIT) || blocks == layout.channels);
        let (low, high) = limits(5, layout.range.1, layout.signed);
        let bytes = codes.bits().get() <= 4 && high - low <= 255;
        let shared = codes.two_level().is_some() && codes.tap_scales() == TapScales::Shared;
        // Four times a sum must fit 32 bits.
        let sum = i64::from(4 * 127 * layout.range.1) * (9 * layout.channels) as i64;
        grid && plain && whole && bytes && shared && sum <= i32::MAX.into()
    }

    /// Returns the bytes that the weights of a convolution take, at most.
    pub fn most_bytes([co, cg, _, _]: [usize; 4]) -> u64 {
        // A byte for each output, channel and position, and two 16-bit numbers for four of them at most.
        let weights = (co.next_multiple_of(LANES) as u64).saturating_mul((cg * POSITIONS) as u64);
        weights.saturating_mul(2).saturating_add(co as u64 * 1024)
    }

    /// Transforms codes that [suit](Winograd::suits).
    pub fn new(codes: &QuantizedWeights, bias: Option<&[f32]>, layout: &Layout, tiling: Tiling) -> Self {
        let ([outputs, channels, _, _], levels) = (codes.shape(), codes.two_level().expect("two-level scales"));
        let panels: Vec<Panel> = (0..outputs)
            .step_by(LANES)
            .map(|first| Panel { group: 0, first, lanes: LANES.min(outputs - first) })
            .collect();
        let (most, signed) = (layout.range.1, layout.signed);
        let spread = |values: &[f32]| {
            let mut out = Buffer::new(panels.len() * LANES);
            out[..outputs].copy_from_slice(values);
            out
        };
        let ranges: Vec<Range<usize>> = codes.block().ranges(channels).collect();
        let packed = codes.codes().len() >= tiling.codes_from;
        let mut fields = Fields {
            tiling,
            channels,
            blocks: ranges.iter().map(|channels| Block { channels: channels.clone(), starts: vec![] }).collect(),
            packed,
            weights: Buffer::new(panels.len() * channels * bytes_of_channel(packed)),
            lengths: vec![],
            starts: Buffer::default(),
            corrections: Buffer::new(if tiling.chains { 0 } else { panels.len() * OUTPUTS }),
            factors: Buffer::new(panels.len() * ranges.len() * 2 * LANES),
            scale: spread(levels.channel()),
            bias: bias.map(spread).unwrap_or_default(),
            offsets: std::array::from_fn(|position| offset(position, most, signed) as u8),
            panels,
        };
        let (mut at, mut starts) = (0, Vec::<i16>::new());
        for p in 0..fields.panels.len() {
            let Panel { first, lanes, .. } = fields.panels[p];
            // `[lane][channel][tap]`, and transformed.
            let own = &codes.codes()[first * channels * 9..(first + lanes) * channels * 9];
            let u: Vec<[i32; POSITIONS]> = own.chunks_exact(9).map(transformed).collect();
            if packed {
                let bytes = &mut fields.weights[p * channels * bytes_of_channel(true)..];
                for (lane, filter) in own.chunks_exact(channels * 9).enumerate() {
                    for (at, &q) in filter.iter().enumerate() {
                        let (c, tap) = (at / 9, at % 9);
                        let byte = &mut bytes[(c / 8 * 9 + tap) * LINE + lane * 4 + c % 4];
                        *byte |= if c % 8 < 4 { q & 15 } else { q << 4 };
                    }
                }
            }
            for (b, range) in ranges.iter().enumerate() {
                for lane in 0..lanes {
                    let factor = levels.factors()[((first + lane) * ranges.len() + b) * 9];
                    // Little-endian halves, where there are no chains.
                    let halves = [factor.into(), if tiling.chains { factor } else { factor >> 7 }.into()];
                    fields.factors[((p * ranges.len() + b) * LANES + lane) * 2..][..2].copy_from_slice(&halves);
                }
                let steps = fields.blocks[b].steps();
                if tiling.chains {
                    fields.blocks[b].starts.push(starts.len());
                }
                // A position's weights of a lane and a channel of the block; lanes without an output have none.
                let of = |position: usize, lane: usize, c: usize| match lane < lanes {
                    true => u[lane * channels + range.start + c][position],
                    false => 0,
                };
                for (position, limits) in (0..POSITIONS).map(|position| (position, limits(position, most, signed))) {
                    let u = |lane: usize, c: usize| of(position, lane, c);
                    if !packed {
                        let bytes = &mut fields.weights[at..at + steps * LINE];
                        for (c, lane) in (0..range.len()).flat_map(|c| (0..LANES).map(move |lane| (c, lane))) {
                            bytes[c / 4 * LINE + lane * 4 + c % 4] = u(lane, c) as i8;
                        }
                        at += steps * LINE;
                    }
                    if tiling.chains {
                        let length = longest(&u, lanes, steps, limits);
                        fields.lengths.push(length as u8);
                        for first in (0..steps).step_by(length.max(1)) {
                            let some = first * 4..(first + length.max(1)).min(steps) * 4;
                            starts.extend((0..2 * LANES).map(|i| {
                                let half = some.clone().filter(|c| c % 4 / 2 == i % 2);
                                half.fold(0i16, |sum, c| sum.wrapping_add((limits.0 * u(i / 2, c)) as i16))
                            }));
                        }
                        continue;
                    }
                    for lane in 0..lanes {
                        let factor = i32::from(fields.factors[((p * ranges.len() + b) * LANES + lane) * 2]);
                        let sum = (0..range.len()).fold(0i32, |sum, c| sum.wrapping_add(u(lane, c)));
                        let added = sum.wrapping_mul(limits.0).wrapping_mul(factor);
                        for output in 0..4 {
                            let to = &mut fields.corrections[p * OUTPUTS + output * LANES + lane];
                            *to = to.wrapping_add(added.wrapping_mul(end(output, position)));
                        }
                    }
                }
            }
        }
        fields.starts = Buffer::new(starts.len());
        fields.starts.copy_from_slice(&starts);
        Self(fields)
    }

    /// Returns the first byte of a panel's weights of a block.
    pub fn at(&self, panel: usize, block: usize) -> usize {
        (panel * self.channels + self.blocks[block].channels.start) * bytes_of_channel(self.packed)
    }

    /// Returns `U` of a channel at a position of a panel's lane.
    pub fn u(&self, panel: usize, block: usize, position: usize, lane: usize, channel: usize) -> i32 {
        let c = channel - self.blocks[block].channels.start;
        let bytes = &self.weights[self.at(panel, block)..];
        if !self.packed {
            return bytes[(position * self.blocks[block].steps() + c / 4) * LINE + lane * 4 + c % 4].into();
        }
        let code = |tap: usize| {
            let byte = bytes[(c / 8 * TAPS + tap) * LINE + lane * 4 + c % 4];
            if c % 8 < 4 { byte << 4 >> 4 } else { byte >> 4 }
        };
        transformed(&std::array::from_fn::<i8, TAPS, _>(code))[position]
    }

    /// Returns the first number of a panel's starts of a block.
    ///
    /// # Panics
    /// Panics without chains.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only AVX2 has chains"))]
    pub fn starts(&self, panel: usize, block: usize) -> usize {
        self.blocks[block].starts[panel]
    }

    /// Returns the number of bytes that the weights take.
    pub fn bytes(&self) -> usize {
        self.weights.bytes()
            + self.lengths.len()
            + self.starts.bytes()
            + self.corrections.bytes()
            + self.factors.bytes()
            + self.scale.bytes()
            + self.bias.bytes()
    }

    /// Returns the number of rows of outputs of a strip, `width` pixels each: its transformed inputs and its sums stay in the second-level
    /// cache.
    pub fn strip(&self, width: usize) -> usize {
        let tiles = (self.tiling.strip / POSITIONS / self.channels).clamp(16, 64);
        2 * (tiles / width.div_ceil(2)).max(1)
    }

    /// Returns where `V` and the sums of `tiles` tiles lie in memory.
    pub fn places(&self, tiles: usize) -> Places {
        let Tiling { tiles: most, panels, .. } = self.tiling;
        // Groups of about the same size: one of few tiles takes nearly as long as a whole one.
        let size = tiles.div_ceil(tiles.div_ceil(most));
        let groups = tiles.div_ceil(size);
        // A line between groups: rows of a power of two share too few sets of a cache.
        let blocks = self.blocks.iter().scan(0, |at, block| {
            let place =
                Place { at: *at, group: POSITIONS * size * block.channels.len() + LINE, len: block.channels.len() };
            *at += groups * place.group;
            Some(place)
        });
        let blocks: Vec<Place> = blocks.collect();
        let weights = blocks.last().map_or(0, |last| last.at + groups * last.group);
        let most_channels = self.blocks.iter().map(|block| block.channels.len()).max().unwrap_or(0);
        let products = weights + if self.packed { panels * most_channels * bytes_of_channel(false) } else { 0 };
        let sums = products + panels * POSITIONS * most * LANES * 4;
        Places { size, blocks, weights, products, sums, bytes: sums + panels * tiles * OUTPUTS * 4 }
    }
}

/// Where things lie in the memory that a kernel works in.
#[derive(Debug, Clone)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86 works there"))]
pub(crate) struct Places {
    /// The tiles of a group, but the last one, which may have fewer.
    pub size: usize,
    /// Where each block's `V` lies.
    pub blocks: Vec<Place>,
    /// `U` of a block, `[panel, position, step, 16, 4]`, where weights are codes.
    pub weights: usize,
    /// The sums of a group of tiles at all positions, `[panel, position, tile, 16]`, 32 bits each.
    pub products: usize,
    /// The sums of all tiles, `[panel, tile, 2x2, 16]`, 32 bits each.
    pub sums: usize,
    /// The number of bytes.
    pub bytes: usize,
}

/// `V` of a block: `[group, position, tile, channel]`, a group `group` bytes from the next.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86 works there"))]
pub(crate) struct Place {
    pub at: usize,
    pub group: usize,
    /// The number of channels.
    pub len: usize,
}

/// Returns the bytes of a panel's weights of a channel.
const fn bytes_of_channel(packed: bool) -> usize {
    if packed { TAPS * LANES / 2 } else { POSITIONS * LANES }
}

/// Returns how often a position's sum counts in an output of a tile: an element of `A^T`, times one.
pub(crate) fn end(output: usize, position: usize) -> i32 {
    const ENDS: [[i32; 4]; 2] = [[1, 1, 1, 0], [0, 1, -1, -1]];
    ENDS[output / 2][position / 4] * ENDS[output % 2][position % 4]
}

/// Returns the most steps whose sums fit 16 bits, or 0.
fn longest(u: &impl Fn(usize, usize) -> i32, lanes: usize, steps: usize, limits: (i32, i32)) -> usize {
    let mut halves = std::iter::successors(Some(steps.min(LONGEST)), |&n| (n > 1).then(|| n.div_ceil(2)));
    halves.find(|&length| fits(u, lanes, steps, length, limits)).unwrap_or(0)
}

/// Tells whether the sums of chunks of so many steps fit 16 bits with any `V`: of each half of a step, over a chunk's steps the
/// sum of `U V`, and of one step the sum of `U (V + offset)`, which must not saturate.
fn fits(u: &impl Fn(usize, usize) -> i32, lanes: usize, steps: usize, length: usize, (low, high): (i32, i32)) -> bool {
    let within = |low: i32, high: i32| low >= i16::MIN.into() && high <= i16::MAX.into();
    (0..lanes).all(|lane| {
        (0..steps).step_by(length).all(|first| {
            (0..2).all(|half| {
                let (mut least, mut most) = (0, 0);
                (first..(first + length).min(steps)).all(|step| {
                    let [a, b] = [0, 1].map(|i| u(lane, step * 4 + half * 2 + i));
                    for u in [a, b] {
                        least += (u * low).min(u * high);
                        most += (u * low).max(u * high);
                    }
                    let width = high - low;
                    within((a.min(0) + b.min(0)) * width, (a.max(0) + b.max(0)) * width)
                }) && within(least, most)
            })
        })
    })
}
