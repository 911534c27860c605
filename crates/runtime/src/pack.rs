//! Weights in the order in which kernels read them.
use blockfloat::BlockSize;

use crate::buffer::Buffer;
use crate::layout::{LANES, Layout, OFFSET};

/// A run of weights and activations that share their scales at one tap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Steps of four channels.
    pub steps: usize,
    /// The scale of its activations, among those of the group.
    pub scale: usize,
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
}

/// Weights of a convolution, `P` panels of 16 outputs: `weights [P, taps, steps, 16, 4]`, `alpha [P, taps, S, 16]`.
///
/// Each tap has the same `S` segments. Where `nibbles`, two steps share 64 bytes, the first one in the low halves, and
/// segments have an even number of steps in memory. Depthwise weights are `values [P, taps, 16]` in floats.
#[derive(Debug)]
pub(crate) struct Packed {
    pub panels: Vec<Panel>,
    pub taps: usize,
    pub segments: Vec<Segment>,
    pub nibbles: bool,
    pub weights: Buffer<u8>,
    /// Bytes of a panel's weights.
    pub panel_bytes: usize,
    /// Depthwise weights.
    pub values: Buffer<f32>,
    /// Block scales; empty where `channel` is not.
    pub alpha: Buffer<f32>,
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

impl Packed {
    pub fn new(w: Integers<'_>, bias: Option<&[f32]>, layout: &Layout, nibbles: bool) -> Self {
        if layout.depthwise { Self::depthwise(w, bias, layout) } else { Self::dense(w, bias, layout, nibbles) }
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
        let channel = if let Scale::Channel(s) = w.scale { spread(s) } else { Buffer::default() };
        Self {
            taps: kh * kw,
            segments: Vec::new(),
            nibbles: false,
            weights: Buffer::default(),
            panel_bytes: 0,
            values: Buffer::default(),
            alpha: Buffer::default(),
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
        packed.values = Buffer::new(packed.panels.len() * taps * LANES);
        if let Scale::Block(_) = w.scale {
            packed.alpha = Buffer::new(packed.values.len());
        }
        for o in 0..w.shape[0] {
            for tap in 0..taps {
                let at = (o / LANES * taps + tap) * LANES + o % LANES;
                packed.values[at] = f32::from(w.values[o * taps + tap]);
                if let Scale::Block(scales) = w.scale {
                    packed.alpha[at] = scales[o * taps + tap];
                }
            }
        }
        packed
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
                    packed.segments.push(Segment { steps, scale });
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
                        for (i, c) in range.clone().enumerate() {
                            let q = filter[c * taps + tap];
                            sum += i32::from(q);
                            let step = first_step + i / 4;
                            if nibbles {
                                bytes[base + step / 2 * 64 + i % 4] |= (q as u8 & 15) << (step % 2 * 4);
                            } else {
                                bytes[base + step * 64 + i % 4] = q as u8;
                            }
                        }
                        let at = ((p * taps + tap) * segments + segment) * LANES + lane;
                        if let Scale::Block(scales) = w.scale {
                            packed.alpha[at] = scales[((panel.first + lane) * blocks.len() + block) * taps + tap];
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
        let floats = [&self.values, &self.alpha, &self.channel, &self.bias];
        self.weights.bytes() + self.start.bytes() + floats.iter().map(|b| b.bytes()).sum::<usize>()
    }
}
