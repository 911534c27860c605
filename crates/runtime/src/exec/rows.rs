//! The rows of a step: shared out to threads, and computed a strip of pixels at a time.
use std::ops::Range;

use super::workspace::Codes;
use crate::float::{Compute, Finish, FloatOp, Memory, Pixels};
use crate::kernels::{AnyKernel, ConvCall, PlanesCall, QuantizeCall, Residual, Rows, STRIP};
use crate::plan::{Added, CodesView, EMITS, IntConv, Plan, Step, StepOp};

/// The codes and scales of each integer form.
pub(super) type Emitted<'a> = [Option<(&'a mut [u8], &'a mut [f32])>; EMITS];

/// What a step writes, of some rows.
pub(super) struct Out<'a> {
    /// The value as floats.
    pub rows: Option<&'a mut [f32]>,
    pub emits: Emitted<'a>,
    pub scratch: &'a mut [f32],
    pub unpacked: &'a mut [u8],
}

/// A step and what it reads.
pub(super) struct Work<'a> {
    pub plan: &'a Plan,
    pub step: &'a Step,
    pub kernel: &'a AnyKernel,
    pub memory: Memory<'a>,
    pub codes: &'a [Codes],
    pub emits: &'a [CodesView],
}

/// Consecutive output pixels, and where they go.
struct Strip<'a> {
    first: usize,
    /// Room for the number of an input pixel for each of them.
    pixels: &'a mut [u32],
    out: &'a mut [f32],
    stride: usize,
    unpacked: &'a mut [u8],
}

impl Work<'_> {
    /// Runs rows in up to `parts` parts at the same time; returns whether all values are finite.
    pub fn split(&self, rows: Range<usize>, out: Out<'_>, parts: usize) -> bool {
        let half = rows.len() / 2;
        if parts < 2 || half == 0 {
            return self.rows(rows, out);
        }
        let [low, high] = self.halves(half, out, parts);
        let middle = rows.start + half;
        let (first, second) = rayon::join(
            || self.split(rows.start..middle, low, parts / 2),
            || self.split(middle..rows.end, high, parts - parts / 2),
        );
        first && second
    }

    /// Splits what is written into that of the first `half` rows and that of the others.
    fn halves<'o>(&self, half: usize, out: Out<'o>, parts: usize) -> [Out<'o>; 2] {
        let mut emits: [Emitted<'_>; 2] = Default::default();
        for (i, slices) in out.emits.into_iter().enumerate() {
            let Some((codes, scales)) = slices else { continue };
            let (layout, pixels) = (self.plan.layout(&self.emits[i]), half * self.emits[i].width);
            let (codes, scales) =
                (codes.split_at_mut(pixels * layout.bytes), scales.split_at_mut(pixels * layout.scales));
            emits[0][i] = Some((codes.0, scales.0));
            emits[1][i] = Some((codes.1, scales.1));
        }
        let stride = self.step.dest.map_or(0, |view| view.stride);
        let values = out.rows.map(|rows| rows.split_at_mut(half * self.step.shape.width * stride));
        let rows = values.map_or((None, None), |(low, high)| (Some(low), Some(high)));
        let scratch = out.scratch.split_at_mut(out.scratch.len() / parts * (parts / 2));
        let unpacked = out.unpacked.split_at_mut(out.unpacked.len() / parts * (parts / 2));
        let [low, high] = emits;
        [
            Out { rows: rows.0, emits: low, scratch: scratch.0, unpacked: unpacked.0 },
            Out { rows: rows.1, emits: high, scratch: scratch.1, unpacked: unpacked.1 },
        ]
    }

    /// Runs rows, a strip at a time; returns whether all values are finite.
    fn rows(&self, rows: Range<usize>, out: Out<'_>) -> bool {
        let Self { step, kernel, .. } = self;
        let shape = step.shape;
        let Out { rows: mut values, mut emits, scratch, unpacked } = out;
        let (start, end) = (rows.start * shape.width, rows.end * shape.width);
        let planes_only = values.is_none() && self.planes_only();
        let mut pixels = [0u32; STRIP];
        let mut finite = true;
        let mut first = start;
        while first < end {
            let pixels = &mut pixels[..(end - first).min(step.strip)];
            let (out, stride): (&mut [f32], usize) = match (&mut values, step.dest) {
                (Some(rows), Some(view)) => (&mut rows[(first - start) * view.stride + view.offset..], view.stride),
                _ => (&mut *scratch, shape.channels),
            };
            if !planes_only {
                finite &= self.compute(Strip { first, pixels, out, stride, unpacked });
            }
            for (emit, slices) in self.emits.iter().zip(&mut emits) {
                let Some((codes, scales)) = slices else { continue };
                let layout = self.plan.layout(emit);
                walk(first - start, shape.width, pixels, 1, |y| y * emit.width + emit.pad[1]);
                if planes_only {
                    let (image, area) = (self.memory.image, shape.height * shape.width);
                    kernel.quantize_planes(&PlanesCall { layout, image, area, first, pixels }, codes, scales);
                } else {
                    kernel.quantize(&QuantizeCall { layout, x: Rows { data: out, stride }, pixels }, codes, scales);
                }
            }
            first += pixels.len();
        }
        finite
    }

    /// Tells whether this is an image of few channels that is rounded straight from its planes: every form allows it, and nobody
    /// reads it as floats.
    fn planes_only(&self) -> bool {
        matches!(self.step.op, StepOp::Float(FloatOp::Image))
            && self.step.posts.is_empty()
            && self.emits.iter().all(|emit| PlanesCall::fits(self.plan.layout(emit)))
    }

    /// Computes a strip as floats; returns whether all values are finite.
    fn compute(&self, mut strip: Strip<'_>) -> bool {
        let Self { step, kernel, memory, .. } = self;
        let mut finite = true;
        match &step.op {
            StepOp::Conv(conv) => {
                if let Some(before) = &conv.before {
                    finite &= self.conv(before, &mut strip);
                }
                finite &= self.conv(conv, &mut strip);
            }
            StepOp::Float(op) => finite &= kernel.run(Compute { op, memory, pixels: self.pixels(&mut strip) }),
        }
        if !step.posts.is_empty() {
            finite &= kernel.run(Finish { posts: &step.posts, memory, pixels: self.pixels(&mut strip) });
        }
        finite
    }

    /// Returns a strip as the pixels of a float operation.
    fn pixels<'o>(&self, strip: &'o mut Strip<'_>) -> Pixels<'o> {
        let Strip { first, stride, .. } = *strip;
        Pixels { shape: self.step.shape, first, count: strip.pixels.len(), out: strip.out, stride }
    }

    /// Computes a strip of a convolution; returns whether all values are finite.
    fn conv(&self, conv: &IntConv, strip: &mut Strip<'_>) -> bool {
        let ([sy, sx], width) = (conv.stride, conv.input.width);
        let (shape, input_height) = (self.step.shape, conv.input.height);
        // Images lie below each other; only layers without a border run several at once.
        walk(strip.first, shape.width, strip.pixels, sx, |y| {
            let (image, y) = (y / shape.height, y % shape.height);
            conv.origin + (image * input_height + y * sy) * width
        });
        let slot = &self.codes[conv.input.slot];
        let call = ConvCall {
            weights: &conv.weights,
            layout: self.plan.layout(&conv.input),
            codes: &slot.codes,
            scales: &slot.scales,
            pixels: strip.pixels,
            taps: &conv.taps,
            panels: 0..conv.weights.panels.len(),
            residual: match conv.residual {
                None => Residual::None,
                Some(Added::Dest) => Residual::Output,
                Some(Added::View(view)) => {
                    let rows = self.memory.rows(view);
                    Residual::Rows(Rows { data: &rows.data[strip.first * rows.stride..], ..rows })
                }
            },
            clamp: conv.clamp,
        };
        self.kernel.conv(&call, strip.unpacked, strip.out, strip.stride)
    }
}

/// Fills `pixels` with consecutive pixels of rows of `width`, the first one of row `y` at `row(y)`, the others `step` on.
fn walk(first: usize, width: usize, mut pixels: &mut [u32], step: usize, row: impl Fn(usize) -> usize) {
    let (mut y, mut x) = (first / width, first % width);
    while !pixels.is_empty() {
        let (here, rest) = pixels.split_at_mut((width - x).min(pixels.len()));
        let start = row(y) + x * step;
        for (i, pixel) in here.iter_mut().enumerate() {
            *pixel = (start + i * step) as u32;
        }
        (y, x, pixels) = (y + 1, 0, rest);
    }
}
