//! What a layer sees and what it is to give, for a sample of its output pixels.
use std::ops::Range;

use graph::Conv2d;

use super::codes::Columns;
use super::matrix::Matrix;
use crate::random::Random;

/// The pixels that are rearranged at once.
const RUN: usize = 16;

/// Values of some images, `[N, C, H, W]`.
pub(super) struct Plane {
    pub(super) shape: [usize; 4],
    pub(super) data: Vec<f32>,
}

/// What a layer aims at on some images.
#[derive(Debug, Clone, Copy)]
pub(super) struct Aim {
    /// The part of an aim that is the wanted output; the rest is what the float layer itself gives.
    pub(super) part: f32,
    /// The part that a pixel's neighbours in its row and in its column have beside its own part of 1, over the sum of all.
    pub(super) beside: f32,
}

/// What is taken from some images.
pub(super) struct Source<'a> {
    /// The input as the layer sees it, rounded.
    pub(super) input: Plane,
    /// The wanted output.
    pub(super) target: Plane,
    pub(super) aim: Aim,
    pub(super) conv: &'a Conv2d,
}

/// A row for each sampled output pixel, smoothed over its neighbours, apart for each group of filters.
pub(super) struct Rows {
    pub(super) groups: Vec<Group>,
    /// The part of each row's aim that is the wanted output.
    pub(super) parts: Vec<f32>,
}

/// The rows of one group of filters.
#[derive(Default)]
pub(super) struct Group {
    /// The input patches, `[R, K]`, in the order row of the kernel, column of the kernel, channel.
    input: Vec<f32>,
    /// The wanted outputs, `[R, F]`.
    target: Vec<f32>,
}

impl Group {
    /// Returns the inputs as these columns, and the wanted outputs of some filters.
    pub(super) fn filters(&self, columns: &Columns, filters: Range<usize>) -> (Matrix, Matrix) {
        let k = columns.len();
        let rows = self.input.len() / k;
        let all = self.target.len() / rows.max(1);
        let target = self.target.chunks_exact(all.max(1)).flat_map(|row| row[filters.clone()].iter().copied());
        (Matrix::new(rows, k, columns.of_patches(&self.input)), Matrix::new(rows, filters.len(), target.collect()))
    }
}

impl Rows {
    /// Makes no rows yet.
    pub(super) fn new(groups: usize) -> Self {
        Self { groups: (0..groups).map(|_| Group::default()).collect(), parts: Vec::new() }
    }

    /// Takes the rows of one group, whose aims have these parts of the wanted outputs.
    #[cfg(test)]
    pub(super) fn of(input: Vec<f32>, target: Vec<f32>, parts: Vec<f32>) -> Self {
        Self { groups: vec![Group { input, target }], parts }
    }

    /// Returns the number of output pixels.
    pub(super) fn len(&self) -> usize {
        self.parts.len()
    }

    /// Appends the rows of other images.
    pub(super) fn append(&mut self, mut more: Self) {
        for (group, more) in self.groups.iter_mut().zip(&mut more.groups) {
            group.input.append(&mut more.input);
            group.target.append(&mut more.target);
        }
        self.parts.append(&mut more.parts);
    }
}

impl Source<'_> {
    /// Takes at most `each` output pixels of every image, spread evenly, each smoothed over its neighbours.
    pub(super) fn rows(&self, each: usize, mut random: Random) -> Rows {
        let ([images, ci, h, w], [_, co, oh, ow]) = (self.input.shape, self.target.shape);
        let Conv2d { groups, kernel: [kh, kw], .. } = *self.conv;
        let (taps, cg, filters) = (kh * kw, ci / groups, co / groups);
        let all = oh * ow;
        let taken = each.min(all);
        let mut rows = Rows::new(groups);
        rows.parts = vec![self.aim.part; images * taken];
        for group in &mut rows.groups {
            group.input.reserve_exact(images * taken * taps * cg);
            group.target.reserve_exact(images * taken * filters);
        }
        // What all groups see and are to give at one output pixel.
        let (mut seen, mut wanted) = (vec![0.0; taps * ci], vec![0.0; co]);
        for image in 0..images {
            let input = channels_last(&self.input.data[image * ci * h * w..][..ci * h * w], ci);
            let target = channels_last(&self.target.data[image * co * all..][..co * all], co);
            // One pixel of each stretch.
            for i in 0..taken {
                let (from, to) = (i * all / taken, (i + 1) * all / taken);
                let at = from + random.below(to - from);
                seen.fill(0.0);
                wanted.fill(0.0);
                for (y, of_row) in neighbours(at / ow, oh, self.aim.beside) {
                    for (x, of_column) in neighbours(at % ow, ow, self.aim.beside) {
                        self.add_patch([y, x], of_row * of_column, &input, &mut seen);
                        add(of_row * of_column, &target[(y * ow + x) * co..][..co], &mut wanted);
                    }
                }
                for (g, group) in rows.groups.iter_mut().enumerate() {
                    seen.chunks_exact(ci).for_each(|tap| group.input.extend_from_slice(&tap[g * cg..][..cg]));
                    group.target.extend_from_slice(&wanted[g * filters..][..filters]);
                }
            }
        }
        rows
    }

    /// Adds what an output pixel sees, times a factor, to `seen` `[taps, C]`; `input` is `[H * W, C]`.
    fn add_patch(&self, [oy, ox]: [usize; 2], factor: f32, input: &[f32], seen: &mut [f32]) {
        let [_, ci, h, w] = self.input.shape;
        let Conv2d { kernel: [kh, kw], stride, padding, dilation, .. } = *self.conv;
        // Outside lies the padding: zeros.
        for ky in 0..kh {
            let y = (oy * stride[0] + ky * dilation[0]).checked_sub(padding[0]).filter(|&y| y < h);
            for kx in 0..kw {
                let x = (ox * stride[1] + kx * dilation[1]).checked_sub(padding[1]).filter(|&x| x < w);
                let (Some(y), Some(x)) = (y, x) else { continue };
                add(factor, &input[(y * w + x) * ci..][..ci], &mut seen[(ky * kw + kx) * ci..][..ci]);
            }
        }
    }
}

/// The places beside `at`, and itself, that lie in `0..size`, each with its part of their mean.
fn neighbours(at: usize, size: usize, beside: f32) -> impl Iterator<Item = (usize, f32)> + Clone {
    let places = [(at.checked_sub(1), beside), (Some(at), 1.0), (Some(at + 1), beside)];
    let inside = places.into_iter().filter_map(move |(place, part)| Some((place.filter(|&p| p < size)?, part)));
    let inside = inside.filter(|&(_, part)| part > 0.0);
    let sum: f32 = inside.clone().map(|(_, part)| part).sum();
    inside.map(move |(place, part)| (place, part / sum))
}

fn add(factor: f32, from: &[f32], into: &mut [f32]) {
    into.iter_mut().zip(from).for_each(|(into, from)| *into += factor * from);
}

/// Arranges an image `[C, H, W]` as `[H, W, C]`.
fn channels_last(image: &[f32], channels: usize) -> Vec<f32> {
    let size = image.len() / channels;
    let mut out = vec![0.0; image.len()];
    // By runs of pixels, so that both stay in cache.
    for start in (0..size).step_by(RUN) {
        let run = start..size.min(start + RUN);
        for (c, plane) in image.chunks_exact(size).enumerate() {
            let pixels = out[run.start * channels..].iter_mut().skip(c).step_by(channels);
            pixels.zip(&plane[run.clone()]).for_each(|(out, v)| *out = *v);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use blockfloat::{BlockSize, TapScales};
    use burn::tensor::module::conv2d;
    use burn::tensor::ops::ConvOptions;
    use burn::tensor::{Device, Tensor, TensorData};

    use super::*;
    use crate::evaluate::host;

    fn values(count: usize, key: u64) -> Vec<f32> {
        let mut random = Random::new(key, &[]);
        (0..count).map(|_| random.below(2001) as f32 / 1000.0 - 1.0).collect()
    }

    #[test]
    fn a_pixel_is_averaged_with_its_neighbours_inside() {
        let parts = |at, size, beside| neighbours(at, size, beside).collect::<Vec<_>>();
        assert_eq!(parts(1, 3, 0.5), [(0, 0.25), (1, 0.5), (2, 0.25)]);
        assert_eq!(parts(0, 2, 0.25), [(0, 0.8), (1, 0.2)]);
        assert_eq!(parts(0, 1, 0.25), [(0, 1.0)]);
        assert_eq!(parts(1, 3, 0.0), [(1, 1.0)]);
    }

    #[test]
    fn rows_say_what_burns_convolution_says() {
        // Stride 2, padding, dilation, two groups: all at once.
        let conv = Conv2d {
            kernel: [3, 2],
            stride: [2, 1],
            padding: [1, 2],
            dilation: [1, 2],
            groups: 2,
            ..Conv2d::new(4, 6, 1)
        };
        let device = Device::flex();
        let (input, weight) = (values(3 * 4 * 7 * 6, 1), values(6 * 2 * 3 * 2, 2));
        let x = Tensor::<4>::from_data(TensorData::new(input.clone(), [3, 4, 7, 6]), &device);
        let w = Tensor::<4>::from_data(TensorData::new(weight.clone(), [6, 2, 3, 2]), &device);
        let y = conv2d(x, w, None, ConvOptions::new(conv.stride, conv.padding, conv.dilation, conv.groups));
        let target = Plane { shape: y.dims(), data: host(y) };
        let (k, filters) = (12, 3);
        let aim = Aim { part: 0.0, beside: 0.25 };
        let source = Source { input: Plane { shape: [3, 4, 7, 6], data: input }, target, aim, conv: &conv };
        for each in [5, usize::MAX] {
            let rows = source.rows(each, Random::new(0, &[]));
            assert_eq!(rows.len(), 3 * each.min(4 * 8));
            for (group, rows) in rows.groups.into_iter().enumerate() {
                for share in [TapScales::Own, TapScales::Shared] {
                    let columns = Columns::new(2, 6, BlockSize::new(1).unwrap(), share);
                    let (x, target) = rows.filters(&columns, 0..filters);
                    for r in 0..x.rows() {
                        for o in 0..filters {
                            let filter = &weight[(group * filters + o) * k..][..k];
                            let weights = columns.arrange(filter);
                            let said: f32 = x.row(r).iter().zip(weights.row(0)).map(|(x, w)| x * w).sum();
                            assert!((said - target.row(r)[o]).abs() < 1e-5);
                        }
                    }
                }
            }
        }
    }
}
