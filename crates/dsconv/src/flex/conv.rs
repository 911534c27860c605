//! A convolution and its gradients as matrix products: the inputs that an output pixel sees are a column of a matrix
//! ("im2col"), which is made tile by tile, so that it stays in cache.
//!
//! Every sum runs in an order that does not depend on the number of threads.

use std::ops::Range;

use macerator::Simd;
use rayon::prelude::*;

use super::geometry::Sizes;
use crate::matrix::{View, ViewMut, multiply};

/// The output pixels whose columns are made at a time. Smaller images share a tile.
const PIXELS: usize = 512;
/// The rows of columns that are made at a time.
const ROWS: usize = 576;

/// What is worked on at a time: some whole images, or some rows of the output of one.
struct Tile {
    images: Range<usize>,
    rows: Range<usize>,
}

impl Sizes {
    /// The images that share a tile.
    fn images_at_once(&self) -> usize {
        if 2 * self.pixels() > PIXELS { 1 } else { PIXELS / self.pixels() }
    }

    /// The tiles of these images.
    fn tiles(&self, images: Range<usize>) -> impl Iterator<Item = Tile> {
        let (step, [height, width]) = (self.images_at_once(), self.output);
        let rows = if step > 1 || self.is_pointwise() { height } else { (PIXELS / width).clamp(1, height) };
        images.clone().step_by(step).flat_map(move |first| {
            let images = first..images.end.min(first + step);
            (0..height).step_by(rows).map(move |row| Tile { images: images.clone(), rows: row..height.min(row + rows) })
        })
    }

    /// The pixels of a tile.
    fn pixels_of(&self, tile: &Tile) -> usize {
        tile.images.len() * tile.rows.len() * self.output[1]
    }

    /// Parts of a group's input channels whose columns are made at a time.
    fn channels_at_once(&self) -> usize {
        (ROWS / self.taps()).clamp(1, self.inputs)
    }

    fn channel_parts(&self) -> impl Iterator<Item = Range<usize>> {
        let step = self.channels_at_once();
        (0..self.inputs).step_by(step).map(move |first| first..self.inputs.min(first + step))
    }

    /// The planes of a group's channels in an image of `x` `[.., G * Ci, H, W]`.
    fn input_of<'a>(&self, x: &'a [f32], image: usize, group: usize, channels: &Range<usize>) -> &'a [f32] {
        let first = (image * self.groups + group) * self.inputs;
        &x[(first + channels.start) * self.area()..(first + channels.end) * self.area()]
    }

    /// The planes of a group in an image of `y` `[.., G * Co, Oh, Ow]`.
    fn output_of(&self, image: usize, group: usize) -> Range<usize> {
        let len = self.outputs * self.pixels();
        (image * self.groups + group) * len..(image * self.groups + group + 1) * len
    }

    /// A tile of a group of `y` as a matrix `[Co, pixels]`; pixels of several images are copied to `space` first.
    fn output_view<'a>(&self, y: &'a [f32], tile: &Tile, group: usize, space: &'a mut Vec<f32>) -> View<'a> {
        let (pixels, all) = (self.pixels(), self.pixels_of(tile));
        if tile.images.len() == 1 {
            let y = &y[self.output_of(tile.images.start, group)];
            return View::new(self.outputs, all, pixels, &y[tile.rows.start * self.output[1]..]);
        }
        space.resize(self.outputs * all, 0.0);
        for (place, image) in tile.images.clone().enumerate() {
            let y = &y[self.output_of(image, group)];
            for (to, from) in space.chunks_exact_mut(all).zip(y.chunks_exact(pixels)) {
                to[place * pixels..][..pixels].copy_from_slice(from);
            }
        }
        View::new(self.outputs, all, all, space)
    }

    /// The columns of a tile for some channels of a group, `[channels * Kh * Kw, pixels]`; where they are not the input itself,
    /// they are copied to `space`.
    fn columns<'a>(
        &self,
        x: &'a [f32],
        tile: &Tile,
        group: usize,
        channels: &Range<usize>,
        space: &'a mut Vec<f32>,
    ) -> View<'a> {
        let (rows, all) = (channels.len() * self.taps(), self.pixels_of(tile));
        if tile.images.len() == 1 && self.is_pointwise() {
            return View::new(rows, all, all, self.input_of(x, tile.images.start, group, channels));
        }
        space.resize(rows * all, 0.0);
        let pixels = all / tile.images.len();
        for (place, image) in tile.images.clone().enumerate() {
            let x = self.input_of(x, image, group, channels);
            self.visit(x.len(), &tile.rows, |row, plane, runs| {
                let to = &mut space[row * all + place * pixels..][..pixels];
                for (outputs, input) in &runs.inside {
                    gather(&mut to[outputs.clone()], &x[plane + input..], self.stride[1]);
                }
                runs.outside.iter().for_each(|outputs| to[outputs.clone()].fill(0.0));
            });
        }
        View::new(rows, all, all, space)
    }

    /// Calls `f(row of columns, place of its plane, runs)` for each row of the columns of planes of `len` elements together.
    fn visit(&self, len: usize, rows: &Range<usize>, mut f: impl FnMut(usize, usize, &Runs)) {
        let [kh, kw] = self.kernel;
        let taps: Vec<Runs> = (0..kh * kw).map(|tap| self.runs(rows, tap / kw, tap % kw)).collect();
        for (channel, plane) in (0..len).step_by(self.area()).enumerate() {
            taps.iter().enumerate().for_each(|(tap, runs)| f(channel * taps.len() + tap, plane, runs));
        }
    }

    /// Finds where an element of the kernel meets a plane of the input, for some rows of the output.
    fn runs(&self, rows: &Range<usize>, i: usize, j: usize) -> Runs {
        let (lines, columns, width) = (self.meeting(0, i), self.meeting(1, j), self.output[1]);
        let lines = lines.start.max(rows.start)..lines.end.min(rows.end);
        let at = |line: usize, column: usize| (line - rows.start) * width + column;
        let (Some(line), Some(column)) = (self.met(0, lines.start, i), self.met(1, columns.start, j)) else {
            return Runs::none(rows.len() * width);
        };
        if lines.is_empty() || columns.is_empty() {
            return Runs::none(rows.len() * width);
        }
        let input = line * self.input[1] + column;
        let inside = if self.stride == [1, 1] && width == self.input[1] {
            // Rows are equally far apart in input and output.
            vec![(at(lines.start, columns.start)..at(lines.end - 1, columns.end), input)]
        } else {
            let step = self.stride[0] * self.input[1];
            let run = |(n, line)| (at(line, columns.start)..at(line, columns.end), input + n * step);
            lines.clone().enumerate().map(run).collect()
        };
        let edges = lines
            .clone()
            .flat_map(|line| [at(line, 0)..at(line, columns.start), at(line, columns.end)..at(line, width)]);
        let ends = [0..at(lines.start, 0), at(lines.end, 0)..at(rows.end, 0)];
        let outside = ends.into_iter().chain(edges).filter(|outputs| !outputs.is_empty()).collect();
        Runs { inside, outside }
    }
}

/// Where an element of the kernel meets a plane of the input, for the pixels of a tile.
struct Runs {
    /// Pixels, and the place in the plane that the first one meets. Between rows, a run may hold pixels that are outside.
    inside: Vec<(Range<usize>, usize)>,
    /// Pixels at which it meets the padding.
    outside: Vec<Range<usize>>,
}

impl Runs {
    /// All pixels meet the padding.
    fn none(pixels: usize) -> Self {
        let outside = std::iter::once(0..pixels).collect();
        Self { inside: Vec::new(), outside }
    }
}

/// Computes `y` `[N, G * Co, Oh, Ow]` of `x` `[N, G * Ci, H, W]`, `weight` `[G * Co, Ci, Kh, Kw]` and `bias` `[G * Co]`.
pub(super) fn forward(sizes: &Sizes, x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let (pixels, k) = (sizes.pixels(), sizes.inputs * sizes.taps());
    let image = sizes.groups * sizes.outputs * pixels;
    let mut y = Vec::with_capacity(sizes.images * image);
    for _ in 0..sizes.images {
        bias.iter().for_each(|&bias| y.resize(y.len() + pixels, bias));
    }
    let step = sizes.images_at_once();
    let space = || (Vec::new(), Vec::new());
    y.par_chunks_mut(step * image).enumerate().for_each_init(space, |(columns, product), (i, y)| {
        let first = i * step;
        for group in 0..sizes.groups {
            let weight = View::new(sizes.outputs, k, k, &weight[group * sizes.outputs * k..]);
            let bias = &bias[group * sizes.outputs..][..sizes.outputs];
            for tile in sizes.tiles(first..first + y.len() / image) {
                let (all, alone) = (sizes.pixels_of(&tile), tile.images.len() == 1);
                let (to, pitch) = if alone {
                    (
                        &mut y[sizes.output_of(tile.images.start - first, group)][tile.rows.start * sizes.output[1]..],
                        pixels,
                    )
                } else {
                    product.resize(sizes.outputs * all, 0.0);
                    product.chunks_exact_mut(all).zip(bias).for_each(|(to, &bias)| to.fill(bias));
                    (&mut product[..], all)
                };
                for channels in sizes.channel_parts() {
                    let weight = weight.columns(channels.start * sizes.taps()..channels.end * sizes.taps());
                    let columns = sizes.columns(x, &tile, group, &channels, columns);
                    multiply(ViewMut::new(sizes.outputs, all, pitch, to), 1.0, 1.0, weight, columns);
                }
                if !alone {
                    for (place, image) in tile.images.enumerate() {
                        let y = &mut y[sizes.output_of(image - first, group)];
                        for (y, from) in y.chunks_exact_mut(pixels).zip(product.chunks_exact(all)) {
                            y.copy_from_slice(&from[place * pixels..][..pixels]);
                        }
                    }
                }
            }
        }
    });
    y
}

/// Computes the gradient of the input, `[N, G * Ci, H, W]`, from that of the output, `dy` `[N, G * Co, Oh, Ow]`.
pub(super) fn input_gradient(sizes: &Sizes, weight: &[f32], dy: &[f32]) -> Vec<f32> {
    let (area, taps, k) = (sizes.area(), sizes.taps(), sizes.inputs * sizes.taps());
    let image = sizes.groups * sizes.inputs * area;
    let mut dx = vec![0.0; sizes.images * image];
    let step = sizes.images_at_once();
    let space = || (Vec::new(), Vec::new());
    dx.par_chunks_mut(step * image).enumerate().for_each_init(space, |(columns, space), (i, dx)| {
        let first = i * step;
        for group in 0..sizes.groups {
            let weight = View::new(sizes.outputs, k, k, &weight[group * sizes.outputs * k..]);
            for tile in sizes.tiles(first..first + dx.len() / image) {
                let all = sizes.pixels_of(&tile);
                let dy = sizes.output_view(dy, &tile, group, space);
                for channels in sizes.channel_parts() {
                    let weight = weight.columns(channels.start * taps..channels.end * taps).transposed();
                    let planes = |image: usize| {
                        let plane = ((image - first) * sizes.groups + group) * sizes.inputs + channels.start;
                        plane * area..(plane + channels.len()) * area
                    };
                    if tile.images.len() == 1 && sizes.is_pointwise() {
                        let dx = &mut dx[planes(tile.images.start)];
                        multiply(ViewMut::new(channels.len(), all, all, dx), 0.0, 1.0, weight, dy);
                        continue;
                    }
                    let rows = channels.len() * taps;
                    columns.resize(rows * all, 0.0);
                    multiply(ViewMut::new(rows, all, all, columns), 0.0, 1.0, weight, dy);
                    let pixels = all / tile.images.len();
                    for (place, image) in tile.images.clone().enumerate() {
                        let dx = &mut dx[planes(image)];
                        sizes.visit(dx.len(), &tile.rows, |row, plane, runs| {
                            let from = &mut columns[row * all + place * pixels..][..pixels];
                            runs.outside.iter().for_each(|outputs| from[outputs.clone()].fill(0.0));
                            for (outputs, input) in &runs.inside {
                                add(&mut dx[plane + input..], sizes.stride[1], &from[outputs.clone()]);
                            }
                        });
                    }
                }
            }
        }
    });
    dx
}

/// Fills `to` with every `stride`-th element of `from`.
#[macerator::with_simd]
pub(super) fn gather<S: Simd>(to: &mut [f32], from: &[f32], stride: usize) {
    match stride {
        1 => to.copy_from_slice(&from[..to.len()]),
        2 => {
            let (pairs, rest) = from.as_chunks::<2>();
            to.iter_mut().zip(pairs).for_each(|(to, &[from, _])| *to = from);
            if let (Some(to), [from]) = (to.get_mut(pairs.len()), rest) {
                *to = *from;
            }
        }
        _ => to.iter_mut().zip(from.iter().step_by(stride)).for_each(|(to, &from)| *to = from),
    }
}

/// Adds `from` to every `stride`-th element of `to`.
#[macerator::with_simd]
fn add<S: Simd>(to: &mut [f32], stride: usize, from: &[f32]) {
    match stride {
        1 => to.iter_mut().zip(from).for_each(|(to, &from)| *to += from),
        2 => {
            let (pairs, rest) = to.as_chunks_mut::<2>();
            if let (Some(from), [to]) = (from.get(pairs.len()), rest) {
                *to += from;
            }
            pairs.iter_mut().zip(from).for_each(|([to, _], &from)| *to += from);
        }
        _ => to.iter_mut().step_by(stride).zip(from).for_each(|(to, &from)| *to += from),
    }
}

/// Computes the gradient of the weight, `[G * Co, Ci, Kh, Kw]`, from that of the output, `dy` `[N, G * Co, Oh, Ow]`.
pub(super) fn weight_gradient(sizes: &Sizes, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let (outputs, k) = (sizes.outputs, sizes.inputs * sizes.taps());
    // The transpose, [G, K, Co], is what products give fastest, and channels are parts of it.
    let mut transposed = vec![0.0; sizes.groups * k * outputs];
    let step = sizes.channels_at_once();
    transposed.par_chunks_mut(k * outputs).enumerate().for_each(|(group, transposed)| {
        let space = || (Vec::new(), Vec::new());
        let parts = transposed.par_chunks_mut(step * sizes.taps() * outputs).enumerate();
        parts.for_each_init(space, |(columns, space), (i, to)| {
            let channels = i * step..sizes.inputs.min((i + 1) * step);
            for tile in sizes.tiles(0..sizes.images) {
                let columns = sizes.columns(x, &tile, group, &channels, columns);
                let dy = sizes.output_view(dy, &tile, group, space).transposed();
                let is_first = tile.images.start == 0 && tile.rows.start == 0;
                let beta = if is_first { 0.0 } else { 1.0 };
                multiply(ViewMut::new(to.len() / outputs, outputs, outputs, to), beta, 1.0, columns, dy);
            }
        });
    });
    let mut gradient = vec![0.0; transposed.len()];
    for (to, from) in gradient.chunks_exact_mut(outputs * k).zip(transposed.chunks_exact(k * outputs)) {
        transpose(from, outputs, to);
    }
    gradient
}

/// Writes the transpose of the row-major matrix `from`, whose rows have `columns` elements.
fn transpose(from: &[f32], columns: usize, to: &mut [f32]) {
    /// A square of this side stays in cache while it is read by rows and written by columns.
    const SIDE: usize = 16;
    let rows = from.len() / columns;
    for row in (0..rows).step_by(SIDE) {
        let row_end = rows.min(row + SIDE);
        for column in (0..columns).step_by(SIDE) {
            for j in column..columns.min(column + SIDE) {
                let to = &mut to[j * rows..][row..row_end];
                for (to, i) in to.iter_mut().zip(row..row_end) {
                    *to = from[i * columns + j];
                }
            }
        }
    }
}

/// Computes the gradient of the bias, `[G * Co]`: the sum of `dy` `[N, G * Co, Oh, Ow]` over images and pixels.
pub(super) fn bias_gradient(sizes: &Sizes, dy: &[f32]) -> Vec<f32> {
    let (channels, pixels) = (sizes.groups * sizes.outputs, sizes.pixels());
    let sum = |channel: usize| {
        let planes = (0..sizes.images).map(|image| &dy[(image * channels + channel) * pixels..][..pixels]);
        planes.map(sum).sum::<f32>()
    };
    (0..channels).into_par_iter().map(sum).collect()
}

/// Adds up in as many lanes as the widest vector has, so that the order is the same everywhere.
pub(super) fn sum(values: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut lanes = [0.0; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().sum();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, &value)| *lane += value);
    }
    lanes.iter().sum::<f32>() + rest
}
