//! A convolution of one channel by one kernel, and its gradients, in plain loops that become vectors.
//!
//! A plane of the input is laid out anew: with its padding, and the columns that one element of the kernel meets, a stride
//! apart, beside each other. Then every element of the kernel meets a run of neighbours. At stride 1, the runs of all rows are
//! one.

use macerator::Simd;
use rayon::prelude::*;

use super::conv::{gather, sum};
use super::geometry::Sizes;

/// The layout of a plane with padding: rows of `stride` phases of `pitch` columns, of which phase `p` holds columns `p`,
/// `p + stride` and so on.
pub(super) struct Layout {
    /// The columns of a phase.
    pitch: usize,
    /// The elements of a row.
    row: usize,
    /// The elements of a plane.
    pub len: usize,
    /// The number of runs of an output.
    runs: usize,
    /// The length of a run.
    pub run: usize,
    /// How far on in the plane the next run is.
    pub step: usize,
    /// Where the run that an element of the kernel meets begins.
    pub offsets: Vec<usize>,
}

impl Layout {
    pub fn new(sizes: &Sizes) -> Self {
        let ([kh, kw], [oh, ow], [sh, sw], [dh, dw]) = (sizes.kernel, sizes.output, sizes.stride, sizes.dilation);
        let rows = (oh - 1) * sh + (kh - 1) * dh + 1;
        let pitch = ow + (kw - 1) * dw / sw;
        let row = sw * pitch;
        let (runs, run) = if [sh, sw] == [1, 1] { (1, (oh - 1) * pitch + ow) } else { (oh, ow) };
        let offset = |i: usize, j: usize| i * dh * row + j * dw % sw * pitch + j * dw / sw;
        let offsets = (0..kh).flat_map(|i| (0..kw).map(move |j| offset(i, j))).collect();
        Self { pitch, row, len: rows * row, runs, run, step: sh * row, offsets }
    }

    /// The elements of an output whose rows are `pitch` apart where they are one run.
    pub fn output_len(&self) -> usize {
        self.runs * self.run
    }

    /// The distance of rows of an output.
    pub fn output_pitch(&self, sizes: &Sizes) -> usize {
        if self.runs == 1 { self.pitch } else { sizes.output[1] }
    }

    /// Calls `f(place in a plane of x, place in the layout)` for every element of the input that is in the layout.
    fn visit(&self, sizes: &Sizes, mut f: impl FnMut(usize, usize, usize)) {
        let ([h, w], [top, left], sw) = (sizes.input, sizes.padding, sizes.stride[1]);
        for y in 0..h.min((self.len / self.row).saturating_sub(top)) {
            for phase in 0..sw {
                // The first column of the input in this phase.
                let x = (phase + sw - left % sw) % sw;
                let at = (x + left) / sw;
                if x < w && at < self.pitch {
                    let count = (w - x).div_ceil(sw).min(self.pitch - at);
                    f(y * w + x, (y + top) * self.row + phase * self.pitch + at, count);
                }
            }
        }
    }

    /// Lays out a plane of the input. What is padding is left as it is.
    pub fn lay_out(&self, sizes: &Sizes, plane: &[f32], to: &mut [f32]) {
        let stride = sizes.stride[1];
        self.visit(sizes, |from, at, count| {
            gather(&mut to[at..at + count], &plane[from..], stride);
        });
    }

    /// Takes a plane of the input out of its layout; what is not in the layout is left as it is.
    pub fn take_back(&self, sizes: &Sizes, from: &[f32], plane: &mut [f32]) {
        let stride = sizes.stride[1];
        self.visit(sizes, |to, at, count| {
            let from = &from[at..at + count];
            if stride == 1 {
                plane[to..to + count].copy_from_slice(from);
            } else {
                plane[to..].iter_mut().step_by(stride).zip(from).for_each(|(to, &from)| *to = from);
            }
        });
    }

    /// Lays out a plane of the output as runs; what lies between rows is left as it is.
    pub fn lay_out_output(&self, sizes: &Sizes, plane: &[f32], to: &mut [f32]) {
        let width = sizes.output[1];
        let rows = to.chunks_mut(self.output_pitch(sizes)).zip(plane.chunks_exact(width));
        rows.for_each(|(to, from)| to[..width].copy_from_slice(from));
    }
}

/// `y += sum over elements of the kernel of weight * run of x`.
#[macerator::with_simd]
fn correlate<S: Simd>(layout: &Layout, x: &[f32], weight: &[f32], y: &mut [f32]) {
    for (i, y) in y.chunks_exact_mut(layout.run).enumerate() {
        for (&offset, &weight) in layout.offsets.iter().zip(weight) {
            let x = &x[offset + i * layout.step..][..y.len()];
            y.iter_mut().zip(x).for_each(|(y, &x)| *y += weight * x);
        }
    }
}

/// `run of dx += weight * dy` for every element of the kernel.
#[macerator::with_simd]
fn spread<S: Simd>(layout: &Layout, dy: &[f32], weight: &[f32], dx: &mut [f32]) {
    for (i, dy) in dy.chunks_exact(layout.run).enumerate() {
        for (&offset, &weight) in layout.offsets.iter().zip(weight) {
            let dx = &mut dx[offset + i * layout.step..][..dy.len()];
            dx.iter_mut().zip(dy).for_each(|(dx, &dy)| *dx += weight * dy);
        }
    }
}

/// `dw += dy * run of x`, summed, for every element of the kernel.
#[macerator::with_simd]
fn products<S: Simd>(layout: &Layout, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    const LANES: usize = 16;
    for (&offset, dw) in layout.offsets.iter().zip(dw) {
        let (mut lanes, mut rest) = ([0.0; LANES], 0.0);
        for (i, dy) in dy.chunks_exact(layout.run).enumerate() {
            let x = &x[offset + i * layout.step..][..dy.len()];
            let (x, dy) = (x.chunks_exact(LANES), dy.chunks_exact(LANES));
            rest += x.remainder().iter().zip(dy.remainder()).map(|(x, dy)| x * dy).sum::<f32>();
            for (x, dy) in x.zip(dy) {
                lanes.iter_mut().zip(x.iter().zip(dy)).for_each(|(lane, (x, dy))| *lane += x * dy);
            }
        }
        *dw += sum(&lanes) + rest;
    }
}

/// Computes `y` `[N, G, Oh, Ow]` of `x` `[N, G, H, W]`, `weight` `[G, 1, Kh, Kw]` and `bias` `[G]`.
pub(super) fn forward(sizes: &Sizes, x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let (layout, taps, width) = (Layout::new(sizes), sizes.taps(), sizes.output[1]);
    let mut y = vec![0.0; sizes.images * sizes.groups * sizes.pixels()];
    let planes = y.par_chunks_exact_mut(sizes.pixels()).zip(x.par_chunks_exact(sizes.area())).enumerate();
    planes.for_each_init(
        || (vec![0.0; layout.len], vec![0.0; layout.output_len()]),
        |(input, output), (plane, (y, x))| {
            let channel = plane % sizes.groups;
            layout.lay_out(sizes, x, input);
            output.fill(bias[channel]);
            correlate(&layout, input, &weight[channel * taps..][..taps], output);
            let rows = y.chunks_exact_mut(width).zip(output.chunks(layout.output_pitch(sizes)));
            rows.for_each(|(y, from)| y.copy_from_slice(&from[..width]));
        },
    );
    y
}

/// Computes the gradient of the input, `[N, G, H, W]`, from that of the output, `dy` `[N, G, Oh, Ow]`.
pub(super) fn input_gradient(sizes: &Sizes, weight: &[f32], dy: &[f32]) -> Vec<f32> {
    let (layout, taps) = (Layout::new(sizes), sizes.taps());
    let mut dx = vec![0.0; sizes.images * sizes.groups * sizes.area()];
    let planes = dx.par_chunks_exact_mut(sizes.area()).zip(dy.par_chunks_exact(sizes.pixels())).enumerate();
    planes.for_each_init(
        || (vec![0.0; layout.len], vec![0.0; layout.output_len()]),
        |(input, output), (plane, (dx, dy))| {
            let channel = plane % sizes.groups;
            layout.lay_out_output(sizes, dy, output);
            input.fill(0.0);
            spread(&layout, output, &weight[channel * taps..][..taps], input);
            layout.take_back(sizes, input, dx);
        },
    );
    dx
}

/// Computes the gradient of the weight, `[G, 1, Kh, Kw]`, from that of the output, `dy` `[N, G, Oh, Ow]`.
pub(super) fn weight_gradient(sizes: &Sizes, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let (layout, groups) = (Layout::new(sizes), sizes.groups);
    let mut dw = vec![0.0; groups * sizes.taps()];
    dw.par_chunks_exact_mut(sizes.taps()).enumerate().for_each_init(
        || (vec![0.0; layout.len], vec![0.0; layout.output_len()]),
        |(input, output), (channel, dw)| {
            for image in 0..sizes.images {
                let plane = image * groups + channel;
                layout.lay_out(sizes, &x[plane * sizes.area()..][..sizes.area()], input);
                layout.lay_out_output(sizes, &dy[plane * sizes.pixels()..][..sizes.pixels()], output);
                products(&layout, input, output, dw);
            }
        },
    );
    dw
}
