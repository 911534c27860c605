//! The operations, pixel by pixel.
use super::window::Window;
use super::{FloatOp, Lrn, Memory, Pixels, View, finite};
use crate::kernels::Task;
use crate::math;

/// The task of computing some pixels of an operation. It returns whether they are finite.
#[derive(Debug)]
pub(crate) struct Compute<'a> {
    pub op: &'a FloatOp,
    pub memory: &'a Memory<'a>,
    pub pixels: Pixels<'a>,
}

/// An output pixel: its number among those of all images, its image, row and column.
#[derive(Clone, Copy)]
struct At {
    i: usize,
    image: usize,
    y: usize,
    x: usize,
}

impl Task for Compute<'_> {
    type Output = bool;

    #[inline(always)]
    fn run(self) -> bool {
        let Self { op, memory, pixels } = self;
        let shape = pixels.shape;
        let area = shape.height * shape.width;
        let mut sums_fit = true;
        for i in pixels.first..pixels.first + pixels.count {
            let out = &mut pixels.out[(i - pixels.first) * pixels.stride..][..shape.channels];
            let at = At { i, image: i / area, y: i % area / shape.width, x: i % shape.width };
            match op {
                FloatOp::Image => {
                    for (c, out) in out.iter_mut().enumerate() {
                        *out = memory.image[c * area + i];
                    }
                }
                FloatOp::Conv(conv, view) => {
                    conv.pixel(memory.rows(*view), view.shape, [at.image, at.y, at.x], out);
                }
                FloatOp::Copy(view) => out.copy_from_slice(memory.rows(*view).pixel(i, shape.channels)),
                FloatOp::MaxPool(pool, view) => {
                    let (window, _) = Window::of(pool, memory.image(*view, at.image), view.shape, at.y, at.x);
                    window.fold(f32::NEG_INFINITY, |max, x| if x > max { x } else { max }, out);
                }
                FloatOp::AvgPool(pool, view) => {
                    let (window, padded) = Window::of(pool, memory.image(*view, at.image), view.shape, at.y, at.x);
                    window.mean(if pool.count_include_pad { padded } else { window.area() }, out);
                }
                FloatOp::Adaptive(view) => {
                    let range = |i: usize, n: usize, size: usize| i * size / n..((i + 1) * size).div_ceil(n);
                    let (rows, input) = (memory.image(*view, at.image), view.shape);
                    let (ys, xs) = (range(at.y, shape.height, input.height), range(at.x, shape.width, input.width));
                    let window = Window { rows, width: input.width, ys, xs };
                    window.mean(window.area(), out);
                }
                FloatOp::Add(a, b) => {
                    let (a, b) = (memory.rows(*a).pixel(i, out.len()), memory.rows(*b).pixel(i, out.len()));
                    out.iter_mut().zip(a.iter().zip(b)).for_each(|(out, (a, b))| *out = a + b);
                }
                FloatOp::Max(a, b) => {
                    let (a, b) = (memory.rows(*a).pixel(i, out.len()), memory.rows(*b).pixel(i, out.len()));
                    // A NaN of either stays, whichever it is.
                    let larger = |a: f32, b: f32| if a > b || a.is_nan() { a } else { b };
                    out.iter_mut().zip(a.iter().zip(b)).for_each(|(out, (a, b))| *out = larger(*a, *b));
                }
                FloatOp::Mul(a, b) => {
                    let gate = if a.shape == b.shape { i } else { at.image };
                    let (a, b) = (memory.rows(*a).pixel(i, out.len()), memory.rows(*b).pixel(gate, out.len()));
                    out.iter_mut().zip(a.iter().zip(b)).for_each(|(out, (a, b))| *out = a * b);
                }
                FloatOp::Concat(parts) => concat(parts, memory, at, out),
                FloatOp::Shuffle(groups, view) => {
                    let row = memory.rows(*view).pixel(i, out.len());
                    shuffle(*groups, row, out);
                }
                FloatOp::Pad2d([top, left, _, _], value, view) => pad(*top, *left, *value, *view, memory, at, out),
                FloatOp::Lrn(lrn, view) => sums_fit &= lrn.pixel(memory.rows(*view).pixel(i, out.len()), out),
                FloatOp::Softmax(view) => softmax(memory.rows(*view).pixel(i, out.len()), out),
                FloatOp::Flatten(view) => flatten(*view, memory, at, out),
                FloatOp::PadShortcut { stride, before, x: view } => {
                    out.fill(0.0);
                    let pixel = (at.image * view.shape.height + at.y * stride) * view.shape.width + at.x * stride;
                    let channels = view.shape.channels;
                    out[*before..before + channels].copy_from_slice(memory.rows(*view).pixel(pixel, channels));
                }
            }
        }
        // What only moves is finite already.
        op.moves() || sums_fit && pixels.finite()
    }
}

#[inline(always)]
fn shuffle(groups: usize, row: &[f32], out: &mut [f32]) {
    let each = out.len() / groups;
    if groups == 2 {
        // Known when it is compiled, so that vectors are interleaved.
        let (low, high) = row.split_at(each);
        for (out, (low, high)) in out.as_chunks_mut::<2>().0.iter_mut().zip(low.iter().zip(high)) {
            *out = [*low, *high];
        }
        return;
    }
    for (group, row) in row.chunks_exact(each).enumerate() {
        for (out, x) in out[group..].iter_mut().step_by(groups).zip(row) {
            *out = *x;
        }
    }
}

#[inline(always)]
fn concat(parts: &[View], memory: &Memory<'_>, at: At, out: &mut [f32]) {
    let mut from = 0;
    for part in parts {
        let channels = part.shape.channels;
        out[from..from + channels].copy_from_slice(memory.rows(*part).pixel(at.i, channels));
        from += channels;
    }
}

#[inline(always)]
fn pad(top: usize, left: usize, value: f32, view: View, memory: &Memory<'_>, at: At, out: &mut [f32]) {
    match (at.y.checked_sub(top), at.x.checked_sub(left)) {
        (Some(y), Some(x)) if y < view.shape.height && x < view.shape.width => {
            let pixel = (at.image * view.shape.height + y) * view.shape.width + x;
            out.copy_from_slice(memory.rows(view).pixel(pixel, out.len()));
        }
        _ => out.fill(value),
    }
}

impl Lrn {
    /// Computes one pixel; returns whether the sums of squares are finite, which the quotients would not show.
    #[inline(always)]
    fn pixel(&self, row: &[f32], out: &mut [f32]) -> bool {
        let &Self { size, alpha, beta, k } = self;
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
        let fits = finite([&*out].into_iter());
        out.iter_mut().zip(row).for_each(|(out, x)| *out = x / math::pow(*out, beta));
        fits
    }
}

#[inline(always)]
fn softmax(row: &[f32], out: &mut [f32]) {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for (out, x) in out.iter_mut().zip(row) {
        *out = math::exp(x - max);
        sum += *out;
    }
    out.iter_mut().for_each(|out| *out /= sum);
}

/// Writes `[H, W, C]` as `C*H*W` features, a channel's pixels together.
#[inline(always)]
fn flatten(view: View, memory: &Memory<'_>, at: At, out: &mut [f32]) {
    let area = view.shape.height * view.shape.width;
    for pixel in 0..area {
        let row = memory.rows(view).pixel(at.image * area + pixel, view.shape.channels);
        for (c, x) in row.iter().enumerate() {
            out[c * area + pixel] = *x;
        }
    }
}
