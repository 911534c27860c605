//! Weights in the order in which kernels read them.
use std::ops::{Range, RangeInclusive};

use blockfloat::{ActivationScale, BlockSize};

use crate::buffer::Buffer;
use crate::layout::{LANES, Layout, OFFSET};

/// The number of bytes of a step of a panel's weights.
const LINE: usize = 4 * LANES;

/// A run of weights and activations that share their scales at one tap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    /// The number of steps of four channels.
    pub steps: usize,
    /// The scale of its activations, among those of the group.
    pub scale: usize,
    /// Whether no other one with the same scale follows.
    pub last: bool,
}

impl Segment {
    /// Returns the number of vectors of 64 bytes that its weights take.
    pub fn lines(&self, nibbles: bool) -> usize {
        if nibbles { self.steps.div_ceil(2) } else { self.steps }
    }
}

/// Sixteen output channels of one group, or fewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Panel {
    pub group: usize,
    /// The first output channel.
    pub first: usize,
    /// The number of output channels.
    pub lanes: usize,
}

/// A layer's integers, `[Co, Cg, Kh, Kw]`, and what they are multiplied by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Integers<'a> {
    pub shape: [usize; 4],
    pub block: BlockSize,
    pub values: &'a [i8],
    pub scale: Scale<'a>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Scale<'a> {
    /// A scale a block, `[Co, blocks, Kh, Kw]`.
    Block(&'a [f32]),
    /// A scale a filter, `[Co]`: the two-level form, whose block factors are in the integers.
    Channel(&'a [f32]),
    /// A scale a filter, `[Co]`, and a factor a block, `[Co, blocks, Kh, Kw]`: the two-level form with its factors apart.
    Levels(&'a [f32], &'a [i8]),
}

/// What a kernel asks of packed weights.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Packing {
    /// Whether two weights share a byte. They have at most four bits.
    pub nibbles: bool,
    /// Whether the kernel multiplies `code - OFFSET`, which fits a signed byte.
    pub signed_codes: bool,
    /// Whether groups of 4 or 8 outputs may share a panel.
    pub shared_panels: bool,
    /// Whether weights of two steps lie together: eight of each output.
    pub paired_steps: bool,
}

/// Weights of a convolution, `P` panels of 16 outputs: `weights [P, taps, steps, 16, 4]`, `alpha [P, taps, S, 16]`.
///
/// Each tap has the same `S` segments. Where `paired_steps`, two steps are `[16, 8]`, but for the last one of an odd number. Where
/// `nibbles`, 128 bytes share 64, the first ones in the low halves, and segments have an even number of steps in memory. Depthwise weights are `[P, taps, 16]`, all of them.
///
/// Only [`Packed::new`] makes them, and nothing changes them: kernels rely on how long each buffer is.
#[derive(Debug)]
pub(crate) struct Packed(Fields);

/// What kernels read of [`Packed`] weights.
#[derive(Debug)]
pub(crate) struct Fields {
    pub panels: Vec<Panel>,
    pub taps: usize,
    pub segments: Vec<Segment>,
    pub nibbles: bool,
    /// Whether sums are of signed codes, see [`Packing::signed_codes`].
    pub signed_codes: bool,
    /// Whether weights of two steps lie together, see [`Packing::paired_steps`].
    pub paired_steps: bool,
    pub weights: Buffer<u8>,
    /// The number of bytes of a panel's weights.
    pub panel_bytes: usize,
    /// Depthwise: the numbers that the kernel multiplies last, see `kernels/depthwise.rs`.
    pub values: Buffer<f32>,
    /// Depthwise: the numbers that the kernel multiplies first, or nothing.
    pub factors: Buffer<f32>,
    /// Depthwise: the panels without extreme scales, all of which are in [`ORDINARY_ALPHA`] or 0.
    pub ordinary: Vec<bool>,
    /// The block scales; empty where `channel` is not.
    pub alpha: Buffer<f32>,
    /// The factors of each segment's sum, `[P, taps, S, 16]`, in both 16-bit halves; or nothing.
    pub levels: Buffer<i32>,
    /// What each sum starts from, `[P, taps, S, 16]`: it takes off what the offsets of codes add, times the level where there
    /// are levels. Segments with a level each that share their scale, and so their sum, have it at the first of them. Empty where that is 0, or a weight does so, see [`Layout::spare`].
    pub start: Buffer<i32>,
    /// The filters' scales `[P, 16]` of the two-level form, applied last.
    pub channel: Buffer<f32>,
    /// The bias `[P, 16]`, or nothing.
    pub bias: Buffer<f32>,
    pub group_bytes: usize,
    pub group_scales: usize,
    /// The number of groups that share a panel, as many lanes each: 1, 2 or 4. Their scales are those of blocks, and more than one step
    /// fits sums of 16 bits.
    pub panel_groups: usize,
    pub depthwise: bool,
    /// The number of steps whose sums of two products each fit 16 bits.
    ///
    /// A code is at most `A`, the largest mantissa and the offset of signed ones, and never negative. A weight is at most `Q` in
    /// magnitude. A step adds the products of two codes and two weights to a lane, at most `2 A Q`, so neither `n` steps nor
    /// fewer of them leave 16 bits while `n 2 A Q <= 32767`. Of unsigned inputs and weights from -8 on, 8 steps of 8-bit inputs
    /// fit, 16 of 7 bits, 32 of 6, 66 of 5, 136 of 4.
    pub fitting: usize,
}

/// The magnitudes of a depthwise layer's scales whose products with those of ordinary inputs are normal floats.
const ORDINARY_ALPHA: RangeInclusive<f32> = 1.0 / (1u128 << 70) as f32..=(1u64 << 60) as f32;

impl std::ops::Deref for Packed {
    type Target = Fields;
    fn deref(&self) -> &Fields {
        &self.0
    }
}

impl Packed {
    /// Packs weights in the order in which kernels read them, for an input that lies as `layout` says. Where the layout is
    /// depthwise, no weights are in nibbles.
    pub fn new(w: Integers<'_>, bias: Option<&[f32]>, layout: &Layout, packing: Packing) -> Self {
        let mut packed = Fields::empty(&w, bias, layout, packing);
        if layout.depthwise {
            packed.fill_depthwise(&w, layout);
        } else {
            packed.fill_dense(&w, layout, packing);
        }
        Self(packed)
    }

    /// Returns the most bytes that weights `[Co, Cg, Kh, Kw]` take: whole vectors of outputs and inputs.
    pub fn most_bytes([co, cg, kh, kw]: [usize; 4], block: BlockSize, layout: &Layout) -> u64 {
        let many = |sizes: [usize; 3]| sizes.iter().fold(1, |n: u64, &size| n.saturating_mul(size as u64));
        // A byte of weights, a scale, a level and a start.
        let (lane, scales) = (LANES as u64, 3 * LANES as u64 * 4);
        if layout.depthwise {
            return many([co.div_ceil(LANES), kh, kw]).saturating_mul(lane + scales);
        }
        let steps: usize = block.ranges(cg).map(|range| range.len().div_ceil(4)).sum();
        let tap =
            (steps as u64).saturating_mul(4 * lane).saturating_add((block.count(cg) as u64).saturating_mul(scales));
        let panels = layout.groups.saturating_mul((co / layout.groups).div_ceil(LANES));
        many([panels, kh, kw]).saturating_mul(tap)
    }

    /// Returns the number of bytes of a panel's weights, a byte each.
    pub fn unpacked_bytes(&self) -> usize {
        self.taps * self.segments.iter().map(|s| s.steps).sum::<usize>() * LINE
    }

    /// Returns the number of bytes that the weights take.
    pub fn bytes(&self) -> usize {
        let floats = [&self.values, &self.factors, &self.alpha, &self.channel, &self.bias];
        self.weights.bytes()
            + self.start.bytes()
            + self.levels.bytes()
            + floats.iter().map(|b| b.bytes()).sum::<usize>()
    }
}

impl Fields {
    /// Returns the group of each fourth of a panel's lanes, of `groups`; lanes without an output have any.
    #[inline(always)]
    pub fn quarters(&self, panel: usize, groups: usize) -> [usize; 4] {
        std::array::from_fn(|quarter| (self.panels[panel].group + quarter * self.panel_groups / 4).min(groups - 1))
    }

    /// Tells whether scales are two-level.
    pub fn two_level(&self) -> bool {
        !self.channel.is_empty()
    }

    fn empty(w: &Integers<'_>, bias: Option<&[f32]>, layout: &Layout, packing: Packing) -> Self {
        let [co, _, kh, kw] = w.shape;
        let each = co / layout.groups;
        let fitting = fitting(w.values, layout);
        let blocks = matches!(w.scale, Scale::Block(_)) && fitting > 1;
        let shared = packing.shared_panels && blocks && !packing.nibbles && layout.groups > 1 && !layout.depthwise;
        let panel_groups = if shared && [4, 8].contains(&each) { LANES / each } else { 1 };
        let panels: Vec<Panel> = if layout.depthwise || panel_groups > 1 {
            let group = |first: usize| if layout.depthwise { 0 } else { first / each };
            let panel = |first: usize| Panel { group: group(first), first, lanes: (co - first).min(LANES) };
            (0..co).step_by(LANES).map(panel).collect()
        } else {
            let panel = |group: usize, i: usize| Panel { group, first: group * each + i, lanes: (each - i).min(LANES) };
            (0..layout.groups).flat_map(|g| (0..each).step_by(LANES).map(move |i| panel(g, i))).collect()
        };
        let spread = |values: &[f32]| {
            let mut out = Buffer::new(panels.len() * LANES);
            for (panel, out) in panels.iter().zip(out.chunks_mut(LANES)) {
                out[..panel.lanes].copy_from_slice(&values[panel.first..][..panel.lanes]);
            }
            out
        };
        let bias = bias.map(spread).unwrap_or_default();
        let channel = match w.scale {
            Scale::Channel(s) | Scale::Levels(s, _) => spread(s),
            Scale::Block(_) => Buffer::default(),
        };
        Self {
            taps: kh * kw,
            segments: Vec::new(),
            nibbles: false,
            signed_codes: false,
            paired_steps: packing.paired_steps,
            weights: Buffer::default(),
            panel_bytes: 0,
            values: Buffer::default(),
            factors: Buffer::default(),
            ordinary: Vec::new(),
            alpha: Buffer::default(),
            levels: Buffer::default(),
            start: Buffer::default(),
            channel,
            bias,
            group_bytes: layout.group_bytes(),
            group_scales: layout.group_scales(),
            depthwise: layout.depthwise,
            fitting,
            panel_groups,
            panels,
        }
    }

    fn fill_depthwise(&mut self, w: &Integers<'_>, layout: &Layout) {
        let taps = self.taps;
        self.panel_bytes = taps * LANES;
        self.weights = Buffer::new(self.panels.len() * taps * LANES);
        if let Scale::Block(_) = w.scale {
            self.alpha = Buffer::new(self.weights.len());
        }
        for o in 0..w.shape[0] {
            for tap in 0..taps {
                let at = (o / LANES * taps + tap) * LANES + o % LANES;
                self.weights[at] = w.values[o * taps + tap] as u8;
                if let Scale::Block(scales) = w.scale {
                    self.alpha[at] = scales[o * taps + tap];
                }
            }
        }
        self.multiply_constants(layout);
    }

    /// Fills what a depthwise kernel multiplies values by.
    fn multiply_constants(&mut self, layout: &Layout) {
        let ordinary = |alpha: &f32| *alpha == 0.0 || ORDINARY_ALPHA.contains(&alpha.abs());
        let panel = |p: usize| self.alpha.get(p * self.panel_bytes..).unwrap_or(&[]);
        self.ordinary = (0..self.panels.len()).map(|p| panel(p).iter().take(self.panel_bytes).all(ordinary)).collect();
        let integers = |factor: i32| collect(self.weights.iter().map(|&q| (i32::from(q as i8) * factor) as f32));
        let products = || self.weights.iter().zip(self.alpha.iter()).map(|(&q, &alpha)| (f32::from(q as i8), alpha));
        let exact = |(q, alpha): (f32, f32)| f64::from(q * alpha) == f64::from(q) * f64::from(alpha);
        (self.values, self.factors) = match (layout.scale, self.two_level()) {
            (ActivationScale::Pow2, true) => (integers(1), Buffer::default()),
            (ActivationScale::Pow2, false) if products().all(exact) => {
                (collect(products().map(|(q, alpha)| q * alpha)), Buffer::default())
            }
            (ActivationScale::Pow2, false) => (collect(self.alpha.iter().copied()), integers(1)),
            (ActivationScale::Float, true) => (integers(layout.range.1), Buffer::default()),
            (ActivationScale::Float, false) => (integers(layout.range.1), collect(self.alpha.iter().copied())),
        };
    }

    fn fill_dense(&mut self, w: &Integers<'_>, layout: &Layout, Packing { nibbles, signed_codes, .. }: Packing) {
        let places = Places::new(w, layout, nibbles);
        self.nibbles = nibbles;
        self.signed_codes = signed_codes;
        self.panel_bytes = self.taps * places.tap_lines * LINE;
        self.weights = Buffer::new(self.panels.len() * self.panel_bytes);
        let scales = self.panels.len() * self.taps * places.segments.len() * LANES;
        if let Scale::Block(_) = w.scale {
            self.alpha = Buffer::new(scales);
        }
        if let Scale::Levels(..) = w.scale {
            self.levels = Buffer::new(scales);
        }
        // A code is its mantissa and an offset, or is read with one taken off.
        let offset = OFFSET * (i32::from(signed_codes) - i32::from(layout.signed));
        let spare = offset != 0 && !layout.spare().is_empty() && !nibbles && spare_fits(w);
        if spare {
            // The only step of its segment.
            self.fitting = 1;
        } else if offset != 0 {
            self.start = Buffer::new(scales);
        }
        for p in 0..self.panels.len() {
            for lane in 0..self.panels[p].lanes {
                for block in 0..places.blocks.len() {
                    for tap in 0..self.taps {
                        self.fill_block(w, &places, [p, lane, block, tap], offset, spare);
                    }
                }
            }
        }
        self.segments = places.segments;
    }

    /// Packs a block of one output's weights at one tap. What offsets of codes add is taken off by the weight of a `spare` byte, which
    /// holds an offset, or by what the sum starts from.
    fn fill_block(
        &mut self,
        w: &Integers<'_>,
        places: &Places,
        [p, lane, block, tap]: [usize; 4],
        offset: i32,
        spare: bool,
    ) {
        let ([_, cg, _, _], taps, output) = (w.shape, self.taps, self.panels[p].first + lane);
        let filter = &w.values[output * cg * taps..][..cg * taps];
        let (segment, first_step) = places.at[block];
        let range = &places.blocks[block];
        let base = p * self.panel_bytes + (tap * places.tap_lines + places.lines[segment]) * LINE;
        let (bytes, nibbles) = (&mut self.weights[base..], self.nibbles);
        let paired = if self.paired_steps { places.segments[segment].steps / 2 * 2 } else { 0 };
        let mut sum = 0;
        for (i, c) in range.clone().step_by(4).enumerate() {
            let q = |k: usize| filter[(c + k) * taps + tap];
            let q: [i8; 4] = match range.end - c {
                4.. => std::array::from_fn(q),
                left => std::array::from_fn(|k| if k < left { q(k) } else { 0 }),
            };
            sum += q.iter().map(|&q| i32::from(q)).sum::<i32>();
            let step = first_step + i;
            let word = u32::from_le_bytes(q.map(|q| q as u8));
            // Where it lies, a byte a weight.
            let at = match step < paired {
                true => step / 2 * 2 * LINE + lane * 8 + step % 2 * 4,
                false => step * LINE + lane * 4,
            };
            let (at, word) = match nibbles {
                true => (at / (2 * LINE) * LINE + at % LINE, (word & 0x0f0f_0f0f) << (at / LINE % 2 * 4)),
                false => (at, word),
            };
            let to = bytes[at..].first_chunk_mut().expect("a line has 16 words");
            *to = (u32::from_le_bytes(*to) | word).to_le_bytes();
        }
        if spare {
            bytes[lane * 4 + cg] = (-sum) as u8;
        }
        let at = ((p * taps + tap) * places.segments.len() + segment) * LANES + lane;
        let of = (output * places.blocks.len() + block) * taps + tap;
        let level = if let Scale::Levels(_, levels) = w.scale { i32::from(levels[of]) } else { 1 };
        match w.scale {
            Scale::Block(scales) => self.alpha[at] = scales[of],
            Scale::Levels(..) => self.levels[at] = level << 16 | level & 0xffff,
            Scale::Channel(_) => {}
        }
        if offset != 0 && !spare {
            // The first segment of the sum.
            let levels = matches!(w.scale, Scale::Levels(..));
            let same = |s: &usize| levels && places.segments[*s].scale == places.segments[segment].scale;
            let first = (0..segment).rev().take_while(same).last().unwrap_or(segment);
            self.start[at - (segment - first) * LANES] += offset * sum * level;
        }
    }
}

/// Tells whether the negated sums of up to three weights of a tap are bytes, and products of any codes with them and the weights fit 16
/// bits, two at a time.
fn spare_fits(w: &Integers<'_>) -> bool {
    let ([_, cg, kh, kw], code) = (w.shape, 2 * OFFSET - 1);
    let magnitude = |q: i8| i32::from(q.unsigned_abs());
    let most = w.values.iter().map(|&q| magnitude(q)).max().unwrap_or(0);
    let tap = |filter: &[i8], tap: usize| filter.iter().skip(tap).step_by(kh * kw).map(|&q| i32::from(q)).sum::<i32>();
    let filters = w.values.chunks_exact(cg * kh * kw);
    let sums = filters.flat_map(|filter| (0..kh * kw).map(move |at| tap(filter, at).abs()));
    let largest = sums.max().unwrap_or(0);
    largest <= i32::from(i8::MAX) && code * most + OFFSET * largest <= i32::from(i16::MAX)
}

/// Returns [`Fields::fitting`] of weights.
fn fitting(weights: &[i8], layout: &Layout) -> usize {
    let offset = if layout.signed { OFFSET } else { 0 };
    let (code, weight) = (layout.range.1 + offset, weights.iter().map(|q| q.unsigned_abs()).max().unwrap_or(0));
    i32::from(i16::MAX) as usize / (2 * code as usize * usize::from(weight.max(1)))
}

/// Where the weight blocks of a layer lie in a tap of a panel.
struct Places {
    /// The channels of each block.
    blocks: Vec<Range<usize>>,
    /// The segment of each block, and the step in the segment at which it begins.
    at: Vec<(usize, usize)>,
    segments: Vec<Segment>,
    /// The first line of each segment.
    lines: Vec<usize>,
    /// The number of lines of a tap.
    tap_lines: usize,
}

impl Places {
    fn new(w: &Integers<'_>, layout: &Layout, nibbles: bool) -> Self {
        let x_len = layout.blocks[0].len();
        let blocks: Vec<Range<usize>> = w.block.ranges(w.shape[1]).collect();
        let mut segments: Vec<Segment> = vec![];
        let mut at = Vec::with_capacity(blocks.len());
        for range in &blocks {
            let (scale, steps, next) = (range.start / x_len, range.len().div_ceil(4), segments.len());
            match (w.scale, segments.last_mut()) {
                (Scale::Channel(_), Some(last)) if last.scale == scale => {
                    at.push((next - 1, last.steps));
                    last.steps += steps;
                }
                (_, before) => {
                    if let Some(before) = before {
                        before.last = before.scale != scale;
                    }
                    at.push((next, 0));
                    segments.push(Segment { steps, scale, last: true });
                }
            }
        }
        let mut tap_lines = 0;
        let mut lines = Vec::with_capacity(segments.len());
        for segment in &segments {
            lines.push(tap_lines);
            tap_lines += segment.lines(nibbles);
        }
        Self { blocks, at, segments, lines, tap_lines }
    }
}

fn collect(values: impl ExactSizeIterator<Item = f32>) -> Buffer<f32> {
    let mut out = Buffer::new(values.len());
    out.iter_mut().zip(values).for_each(|(out, value)| *out = value);
    out
}
