//! Weights in the order in which kernels read them.
use std::ops::RangeInclusive;

use blockfloat::{ActivationScale, BlockSize};

use crate::buffer::Buffer;
use crate::layout::{LANES, Layout, OFFSET};

/// A run of weights and activations that share their scales at one tap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Steps of four channels.
    pub steps: usize,
    /// The scale of its activations, among those of the group.
    pub scale: usize,
    /// Whether no other one with the same scale follows.
    pub last: bool,
}

/// Sixteen output channels of one group, or fewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Panel {
    pub group: usize,
    /// First output channel.
    pub first: usize,
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
    /// `[Co, blocks, Kh, Kw]`.
    Block(&'a [f32]),
    /// `[Co]`: the two-level form, whose block factors are in the integers.
    Channel(&'a [f32]),
    /// `[Co]`, and `[Co, blocks, Kh, Kw]`: the two-level form with its block factors apart.
    Levels(&'a [f32], &'a [i8]),
}

/// Weights of a convolution, `P` panels of 16 outputs: `weights [P, taps, steps, 16, 4]`, `alpha [P, taps, S, 16]`.
///
/// Each tap has the same `S` segments. Where `nibbles`, two steps share 64 bytes, the first one in the low halves, and
/// segments have an even number of steps in memory. Depthwise weights are `[P, taps, 16]`, all of them.
#[derive(Debug)]
pub(crate) struct Packed {
    pub panels: Vec<Panel>,
    pub taps: usize,
    pub segments: Vec<Segment>,
    pub nibbles: bool,
    pub weights: Buffer<u8>,
    /// Bytes of a panel's weights.
    pub panel_bytes: usize,
    /// Depthwise: what the kernel multiplies last, see `kernels/depthwise.rs`.
    pub values: Buffer<f32>,
    /// Depthwise: what it multiplies first, or empty.
    pub factors: Buffer<f32>,
    /// Depthwise: the panels without extreme scales, all of which are in [`ORDINARY_ALPHA`] or 0.
    pub ordinary: Vec<bool>,
    /// Block scales; empty where `channel` is not.
    pub alpha: Buffer<f32>,
    /// What each segment's sum is multiplied by, `[P, taps, S, 16]`, or empty.
    pub levels: Buffer<i32>,
    /// What the offset of signed inputs adds is taken off before the sum, `[P, taps, S, 16]`; empty for unsigned ones.
    pub start: Buffer<i32>,
    /// Two-level scales `[P, 16]`, applied last.
    pub channel: Buffer<f32>,
    /// `[P, 16]`, or empty.
    pub bias: Buffer<f32>,
    pub group_bytes: usize,
    pub group_scales: usize,
    pub depthwise: bool,
    /// Largest magnitude of a weight.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only AVX2 has two ways to multiply"))]
    pub largest: u8,
}

/// Magnitudes of a depthwise layer's scales whose products with those of ordinary inputs are normal floats.
const ORDINARY_ALPHA: RangeInclusive<f32> = 1.0 / (1u128 << 70) as f32..=(1u64 << 60) as f32;

impl Packed {
    pub fn new(w: Integers<'_>, bias: Option<&[f32]>, layout: &Layout, nibbles: bool) -> Self {
        if layout.depthwise { Self::depthwise(w, bias, layout) } else { Self::dense(w, bias, layout, nibbles) }
    }

    /// The most bytes that weights `[Co, Cg, Kh, Kw]` take: whole vectors of outputs and inputs.
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

    fn empty(w: &Integers<'_>, bias: Option<&[f32]>, layout: &Layout) -> Self {
        let [co, _, kh, kw] = w.shape;
        let each = co / layout.groups;
        let panels: Vec<Panel> = if layout.depthwise {
            (0..co).step_by(LANES).map(|first| Panel { group: 0, first, lanes: (co - first).min(LANES) }).collect()
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
            largest: w.values.iter().map(|q| q.unsigned_abs()).max().unwrap_or(0),
            panels,
        }
    }

    fn depthwise(w: Integers<'_>, bias: Option<&[f32]>, layout: &Layout) -> Self {
        let mut packed = Self::empty(&w, bias, layout);
        let taps = packed.taps;
        packed.panel_bytes = taps * LANES;
        packed.weights = Buffer::new(packed.panels.len() * taps * LANES);
        if let Scale::Block(_) = w.scale {
            packed.alpha = Buffer::new(packed.weights.len());
        }
        for o in 0..w.shape[0] {
            for tap in 0..taps {
                let at = (o / LANES * taps + tap) * LANES + o % LANES;
                packed.weights[at] = w.values[o * taps + tap] as u8;
                if let Scale::Block(scales) = w.scale {
                    packed.alpha[at] = scales[o * taps + tap];
                }
            }
        }
        packed.multiply_constants(layout);
        packed
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

    fn dense(w: Integers<'_>, bias: Option<&[f32]>, layout: &Layout, nibbles: bool) -> Self {
        let mut packed = Self::empty(&w, bias, layout);
        let ([_, cg, _, _], taps) = (w.shape, packed.taps);
        let x_len = layout.blocks[0].len();
        let blocks: Vec<_> = w.block.ranges(cg).collect();
        // The segment of each weight block, and the step in the segment at which it begins.
        let mut places = Vec::with_capacity(blocks.len());
        for range in &blocks {
            let (scale, steps, next) = (range.start / x_len, range.len().div_ceil(4), packed.segments.len());
            match (w.scale, packed.segments.last_mut()) {
                (Scale::Channel(_), Some(last)) if last.scale == scale => {
                    places.push((next - 1, last.steps));
                    last.steps += steps;
                }
                _ => {
                    places.push((next, 0));
                    if let Some(before) = packed.segments.last_mut() {
                        before.last = before.scale != scale;
                    }
                    packed.segments.push(Segment { steps, scale, last: true });
                }
            }
        }
        let segments = packed.segments.len();
        packed.nibbles = nibbles;
        // The first 64 bytes of each segment in a tap.
        let lines: Vec<usize> = packed
            .segments
            .iter()
            .scan(0, |next, s| {
                let at = *next;
                *next += if nibbles { s.steps.div_ceil(2) } else { s.steps };
                Some(at)
            })
            .collect();
        let tap_lines =
            packed.segments.iter().map(|s| if nibbles { s.steps.div_ceil(2) } else { s.steps }).sum::<usize>();
        packed.panel_bytes = taps * tap_lines * 64;
        packed.weights = Buffer::new(packed.panels.len() * packed.panel_bytes);
        let scales = packed.panels.len() * taps * segments * LANES;
        if let Scale::Block(_) = w.scale {
            packed.alpha = Buffer::new(scales);
        }
        if let Scale::Levels(..) = w.scale {
            packed.levels = Buffer::new(scales);
        }
        if layout.signed {
            packed.start = Buffer::new(scales);
        }
        for (p, panel) in packed.panels.iter().enumerate() {
            let bytes = &mut packed.weights[p * packed.panel_bytes..][..packed.panel_bytes];
            for lane in 0..panel.lanes {
                let filter = &w.values[(panel.first + lane) * cg * taps..][..cg * taps];
                for (block, range) in blocks.iter().enumerate() {
                    let (segment, first_step) = places[block];
                    for tap in 0..taps {
                        let base = (tap * tap_lines + lines[segment]) * 64 + lane * 4;
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
                            let (line, word) = match nibbles {
                                true => (step / 2, (word & 0x0f0f_0f0f) << (step % 2 * 4)),
                                false => (step, word),
                            };
                            let to = bytes[base + line * 64..].first_chunk_mut().expect("a line has 16 words");
                            *to = (u32::from_le_bytes(*to) | word).to_le_bytes();
                        }
                        let at = ((p * taps + tap) * segments + segment) * LANES + lane;
                        let of = ((panel.first + lane) * blocks.len() + block) * taps + tap;
                        match w.scale {
                            Scale::Block(scales) => packed.alpha[at] = scales[of],
                            Scale::Levels(_, levels) => packed.levels[at] = i32::from(levels[of]),
                            Scale::Channel(_) => {}
                        }
                        if layout.signed {
                            packed.start[at] -= OFFSET * sum;
                        }
                    }
                }
            }
        }
        packed
    }

    /// Bytes of a panel's weights, a byte each.
    pub fn unpacked_bytes(&self) -> usize {
        self.taps * self.segments.iter().map(|s| s.steps).sum::<usize>() * 64
    }

    /// Whether scales are two-level.
    pub fn two_level(&self) -> bool {
        !self.channel.is_empty()
    }

    /// Bytes it takes.
    pub fn bytes(&self) -> usize {
        let floats = [&self.values, &self.factors, &self.alpha, &self.channel, &self.bias];
        self.weights.bytes()
            + self.start.bytes()
            + self.levels.bytes()
            + floats.iter().map(|b| b.bytes()).sum::<usize>()
    }
}

fn collect(values: impl ExactSizeIterator<Item = f32>) -> Buffer<f32> {
    let mut out = Buffer::new(values.len());
    out.iter_mut().zip(values).for_each(|(out, value)| *out = value);
    out
}
