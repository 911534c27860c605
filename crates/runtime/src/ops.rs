//! Operations in floats, plain loops over the channels of a pixel in a stated order: the compiler makes vectors of them,
//! and the bits are the same on every CPU.
use std::ops::Range;

use graph::{Activation, Pool2d, Shape};

use crate::buffer::Buffer;
use crate::kernels::{Rows, limit};
use crate::math;
use crate::plan::{FloatConv, PostOp, Source, Step, StepOp, View};

/// What a step can read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory<'a> {
    pub floats: &'a [Buffer<f32>],
    /// Rows that the body handed on.
    pub rows: &'a [f32],
    /// `[C, H, W]`.
    pub image: &'a [f32],
}

impl<'a> Memory<'a> {
    /// The pixels of a view.
    pub fn rows(&self, view: View) -> Rows<'a> {
        let data: &[f32] = match view.source {
            Source::Slot(slot) => &self.floats[slot],
            Source::Row => self.rows,
        };
        Rows { data: &data[view.offset..], stride: view.stride }
    }

    /// The pixels of one image of a view.
    fn image(&self, view: View, image: usize) -> Rows<'a> {
        let rows = self.rows(view);
        Rows { data: &rows.data[image * view.shape.height * view.shape.width * rows.stride..], ..rows }
    }
}

impl<'a> Rows<'a> {
    #[inline(always)]
    fn pixel(&self, i: usize, channels: usize) -> &'a [f32] {
        &self.data[i * self.stride..][..channels]
    }
}

/// Whether all elements of some rows are finite: 0 times one that is not is NaN, and stays in a sum.
#[inline(always)]
pub(crate) fn finite<'a>(rows: impl Iterator<Item = &'a [f32]>) -> bool {
    let mut sums = [0.0f32; 32];
    for row in rows {
        let (chunks, rest) = row.as_chunks::<32>();
        for x in chunks {
            sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += x * 0.0);
        }
        sums.iter_mut().zip(rest).for_each(|(sum, x)| *sum += x * 0.0);
    }
    sums.iter().all(|&sum| sum == 0.0)
}

/// Computes pixels `first ..` of a step into `out`, rows of `stride` floats; whether they are finite.
#[inline(always)]
pub(crate) fn compute(
    step: &Step,
    memory: &Memory<'_>,
    first: usize,
    count: usize,
    out: &mut [f32],
    stride: usize,
) -> bool {
    let shape = step.shape;
    let mut sums_fit = true;
    let area = shape.height * shape.width;
    for i in first..first + count {
        let out = &mut out[(i - first) * stride..][..shape.channels];
        let (image, y, x) = (i / area, i % area / shape.width, i % shape.width);
        match &step.op {
            StepOp::Conv(_) => unreachable!("integer kernels compute it"),
            StepOp::Image => {
                for (c, out) in out.iter_mut().enumerate() {
                    *out = memory.image[c * area + i];
                }
            }
            StepOp::FloatConv(conv, view) => convolve(conv, memory.rows(*view), view.shape, [image, y, x], out),
            StepOp::Copy(view) => out.copy_from_slice(memory.rows(*view).pixel(i, shape.channels)),
            StepOp::MaxPool(pool, view) => {
                let rows = memory.image(*view, image);
                let (ys, xs) = window(pool, view.shape, y, x);
                let larger = |max: f32, x: f32| if x > max { x } else { max };
                fold(rows, view.shape.width, &ys.inside, &xs.inside, f32::NEG_INFINITY, larger, out);
            }
            StepOp::AvgPool(pool, view) => {
                let rows = memory.image(*view, image);
                let (ys, xs) = window(pool, view.shape, y, x);
                fold(rows, view.shape.width, &ys.inside, &xs.inside, 0.0, |sum, x| sum + x, out);
                let count = match pool.count_include_pad {
                    true => ys.padded * xs.padded,
                    false => ys.inside.len() * xs.inside.len(),
                };
                out.iter_mut().for_each(|out| *out /= count as f32);
            }
            StepOp::Adaptive(view) => {
                let range = |i: usize, n: usize, size: usize| i * size / n..((i + 1) * size).div_ceil(n);
                let ys = range(y, shape.height, view.shape.height);
                let xs = range(x, shape.width, view.shape.width);
                fold(memory.image(*view, image), view.shape.width, &ys, &xs, 0.0, |sum, x| sum + x, out);
                out.iter_mut().for_each(|out| *out /= (ys.len() * xs.len()) as f32);
            }
            StepOp::Add(a, b) => {
                let (a, b) = (memory.rows(*a).pixel(i, out.len()), memory.rows(*b).pixel(i, out.len()));
                out.iter_mut().zip(a.iter().zip(b)).for_each(|(out, (a, b))| *out = a + b);
            }
            StepOp::Max(a, b) => {
                let (a, b) = (memory.rows(*a).pixel(i, out.len()), memory.rows(*b).pixel(i, out.len()));
                // A NaN of either stays, whichever it is.
                let larger = |a: f32, b: f32| if a > b || a.is_nan() { a } else { b };
                out.iter_mut().zip(a.iter().zip(b)).for_each(|(out, (a, b))| *out = larger(*a, *b));
            }
            StepOp::Mul(a, b) => {
                let gate = if a.shape == b.shape { i } else { image };
                let (a, b) = (memory.rows(*a).pixel(i, out.len()), memory.rows(*b).pixel(gate, out.len()));
                out.iter_mut().zip(a.iter().zip(b)).for_each(|(out, (a, b))| *out = a * b);
            }
            StepOp::Concat(parts) => {
                let mut at = 0;
                for part in parts {
                    let channels = part.shape.channels;
                    out[at..at + channels].copy_from_slice(memory.rows(*part).pixel(i, channels));
                    at += channels;
                }
            }
            StepOp::Shuffle(groups, view) => {
                let row = memory.rows(*view).pixel(i, out.len());
                let each = out.len() / groups;
                for (c, out) in out.iter_mut().enumerate() {
                    *out = row[c % groups * each + c / groups];
                }
            }
            StepOp::Pad2d([top, left, _, _], value, view) => match (y.checked_sub(*top), x.checked_sub(*left)) {
                (Some(y), Some(x)) if y < view.shape.height && x < view.shape.width => {
                    let pixel = (image * view.shape.height + y) * view.shape.width + x;
                    out.copy_from_slice(memory.rows(*view).pixel(pixel, out.len()));
                }
                _ => out.fill(*value),
            },
            StepOp::Lrn { size, alpha, beta, k, x } => {
                let row = memory.rows(*x).pixel(i, out.len());
                let channels = out.len();
                out.fill(0.0);
                // Channels c - (size-1)/2 ..= c + size/2, lowest first; most are not there where the window is long.
                let (below, above) = (((size - 1) / 2).min(channels - 1), (size / 2).min(channels - 1));
                for d in (1..=below).rev() {
                    for (out, x) in out[d..].iter_mut().zip(row) {
                        *out += x * x;
                    }
                }
                for d in 0..=above {
                    for (out, x) in out.iter_mut().zip(&row[d..]) {
                        *out += x * x;
                    }
                }
                out.iter_mut().for_each(|out| *out = *out * alpha + k);
                // An infinite sum would give 0.
                sums_fit &= finite([&*out].into_iter());
                out.iter_mut().zip(row).for_each(|(out, x)| *out = x / math::pow(*out, *beta));
            }
            StepOp::Softmax(view) => {
                let row = memory.rows(*view).pixel(i, out.len());
                let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let mut sum = 0.0;
                for (out, x) in out.iter_mut().zip(row) {
                    *out = math::exp(x - max);
                    sum += *out;
                }
                out.iter_mut().for_each(|out| *out /= sum);
            }
            StepOp::Flatten(view) => {
                // [H, W, C] to C*H*W features, the channel's pixels together.
                let area = view.shape.height * view.shape.width;
                for pixel in 0..area {
                    let row = memory.rows(*view).pixel(image * area + pixel, view.shape.channels);
                    for (c, x) in row.iter().enumerate() {
                        out[c * area + pixel] = *x;
                    }
                }
            }
            StepOp::PadShortcut { stride, before, x: view } => {
                out.fill(0.0);
                let pixel = (image * view.shape.height + y * stride) * view.shape.width + x * stride;
                let channels = view.shape.channels;
                out[*before..before + channels].copy_from_slice(memory.rows(*view).pixel(pixel, channels));
            }
        }
    }
    let moves = matches!(
        step.op,
        StepOp::Image
            | StepOp::Copy(_)
            | StepOp::MaxPool(..)
            | StepOp::Concat(_)
            | StepOp::Shuffle(..)
            | StepOp::Pad2d(..)
            | StepOp::Flatten(_)
            | StepOp::PadShortcut { .. }
    );
    // What only moves is finite already.
    moves || sums_fit && finite(out.chunks(stride).take(count).map(|row| &row[..shape.channels]))
}

/// Folds each channel over some pixels, row by row, a few channels at a time, which stay in registers.
#[inline(always)]
fn fold(
    rows: Rows<'_>,
    width: usize,
    ys: &Range<usize>,
    xs: &Range<usize>,
    start: f32,
    join: impl Fn(f32, f32) -> f32 + Copy,
    out: &mut [f32],
) {
    let mut c = 0;
    while c + 64 <= out.len() {
        out[c..c + 64].copy_from_slice(&fold_some::<64>(rows, width, ys, xs, c, start, join));
        c += 64;
    }
    while c + 16 <= out.len() {
        out[c..c + 16].copy_from_slice(&fold_some::<16>(rows, width, ys, xs, c, start, join));
        c += 16;
    }
    for (c, out) in out.iter_mut().enumerate().skip(c) {
        [*out] = fold_some::<1>(rows, width, ys, xs, c, start, join);
    }
}

/// [`fold`] of channels `c .. c + N`.
#[inline(always)]
fn fold_some<const N: usize>(
    rows: Rows<'_>,
    width: usize,
    ys: &Range<usize>,
    xs: &Range<usize>,
    c: usize,
    start: f32,
    join: impl Fn(f32, f32) -> f32,
) -> [f32; N] {
    let mut all = [start; N];
    for y in ys.clone() {
        for x in xs.clone() {
            let at = (y * width + x) * rows.stride + c;
            let row: &[f32; N] = rows.data[at..at + N].try_into().expect("N channels");
            for k in 0..N {
                all[k] = join(all[k], row[k]);
            }
        }
    }
    all
}

/// An output's window along an axis.
struct Window {
    /// What of it lies in the input.
    inside: Range<usize>,
    /// How long it is in the padded input.
    padded: usize,
}

/// An output's window along both axes.
#[inline(always)]
fn window(pool: &Pool2d, input: Shape, y: usize, x: usize) -> (Window, Window) {
    let along = |at: usize, axis: usize, size: usize| {
        let (start, pad) = (at * pool.stride[axis], pool.padding[axis]);
        let end = (start + pool.kernel[axis]).min(size + pad + pool.padding_after()[axis]);
        let inside = start.saturating_sub(pad)..end.saturating_sub(pad).min(size);
        Window { inside, padded: end.saturating_sub(start) }
    };
    (along(y, 0, input.height), along(x, 1, input.width))
}

/// One output pixel: the bias, then taps in the order (kh, kw) and channels in order, each step rounded twice.
#[inline(always)]
fn convolve(f: &FloatConv, rows: Rows<'_>, input: Shape, [image, y, x]: [usize; 3], out: &mut [f32]) {
    let c = &f.conv;
    let (cg, each) = (c.in_channels / c.groups, c.out_channels / c.groups);
    let taps = c.kernel[0] * c.kernel[1];
    match &f.bias {
        Some(bias) => out.copy_from_slice(bias),
        None => out.fill(0.0),
    }
    for tap in 0..taps {
        let iy = (y * c.stride[0] + tap / c.kernel[1] * c.dilation[0]).wrapping_sub(c.padding[0]);
        let ix = (x * c.stride[1] + tap % c.kernel[1] * c.dilation[1]).wrapping_sub(c.padding[1]);
        if iy >= input.height || ix >= input.width {
            continue;
        }
        let pixel = rows.pixel((image * input.height + iy) * input.width + ix, c.in_channels);
        if cg == 1 && each == 1 {
            let weights = f.weights.chunks_exact(taps);
            out.iter_mut().zip(pixel).zip(weights).for_each(|((out, x), w)| *out += w[tap] * x);
            continue;
        }
        for (g, (out, pixel)) in out.chunks_exact_mut(each).zip(pixel.chunks_exact(cg)).enumerate() {
            let weights = &f.weights[(g * taps + tap) * cg * each..][..cg * each];
            for (x, weights) in pixel.iter().zip(weights.chunks_exact(each)) {
                out.iter_mut().zip(weights).for_each(|(out, w)| *out += w * x);
            }
        }
    }
}

/// What follows on a step's rows, pixels `first ..`; whether all values on the way are finite.
#[inline(always)]
pub(crate) fn finish(
    step: &Step,
    memory: &Memory<'_>,
    first: usize,
    count: usize,
    out: &mut [f32],
    stride: usize,
) -> bool {
    let channels = step.shape.channels;
    let mut all = true;
    for post in &step.posts {
        for i in 0..count {
            let out = &mut out[i * stride..][..channels];
            match post {
                PostOp::Add(view) => {
                    let row = memory.rows(*view).pixel(first + i, channels);
                    out.iter_mut().zip(row).for_each(|(out, x)| *out += x);
                }
                PostOp::Clamp(lo, hi) => out.iter_mut().for_each(|x| *x = limit(*x, *lo, *hi)),
                PostOp::Affine(weight, bias) => {
                    out.iter_mut().zip(weight.iter().zip(bias)).for_each(|(x, (w, b))| *x = *x * w + b);
                }
                PostOp::PRelu(slopes) => {
                    out.iter_mut().zip(slopes).for_each(|(x, slope)| *x = if *x > 0.0 { *x } else { *x * slope });
                }
                PostOp::Function(function) => out.iter_mut().for_each(|x| *x = apply(*function, *x)),
            }
        }
        let rows = out.chunks(stride).take(count).map(|row| &row[..channels]);
        all &= matches!(post, PostOp::Clamp(..)) || finite(rows);
    }
    all
}

#[inline(always)]
fn apply(function: Activation, x: f32) -> f32 {
    match function {
        Activation::Clip { min, max } => {
            limit(x, min.map_or(f32::NEG_INFINITY, |v| v as f32), max.map_or(f32::INFINITY, |v| v as f32))
        }
        Activation::LeakyRelu { slope } => {
            if x > 0.0 {
                x
            } else {
                x * slope as f32
            }
        }
        Activation::Sigmoid => 1.0 / (1.0 + math::exp(-x)),
        Activation::HardSigmoid { alpha, beta } => limit(alpha as f32 * x + beta as f32, 0.0, 1.0),
        Activation::HardSwish => x * limit(x * (1.0 / 6.0) + 0.5, 0.0, 1.0),
        Activation::Silu => x / (1.0 + math::exp(-x)),
        Activation::Tanh => math::tanh(x),
        Activation::Elu { alpha } => {
            if x > 0.0 {
                x
            } else {
                alpha as f32 * math::exp_m1(x)
            }
        }
        Activation::Softplus => math::softplus(x),
    }
}
