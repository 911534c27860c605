//! What a layer sees and what it is to give, for a sample of its output pixels.
use std::ops::Range;

use graph::Conv2d;

use super::codes::Columns;
use super::matrix::Matrix;
use crate::random::Random;

/// Values of some images, `[N, C, H, W]`.
pub(super) struct Plane {
    pub(super) shape: [usize; 4],
    pub(super) data: Vec<f32>,
}

/// What is taken from some images.
pub(super) struct Source<'a> {
    /// The input as the layer sees it, rounded.
    pub(super) input: Plane,
    /// The wanted output.
    pub(super) target: Plane,
    /// The part of an aim that is the wanted output; the rest is what the float layer itself gives.
    pub(super) part: f32,
    pub(super) conv: &'a Conv2d,
}

/// A row for each sampled output pixel, apart for each group of filters.
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
    /// Takes at most `each` output pixels of every image, spread evenly.
    pub(super) fn rows(&self, each: usize, mut random: Random) -> Rows {
        let [images, _, height, width] = self.target.shape;
        let all = height * width;
        let taken = each.min(all);
        let mut places = Vec::with_capacity(images * taken);
        for image in 0..images {
            // One of each stretch.
            for i in 0..taken {
                let (from, to) = (i * all / taken, (i + 1) * all / taken);
                let at = from + random.below(to - from);
                places.push([image, at / width, at % width]);
            }
        }
        let groups = (0..self.conv.groups).map(|group| self.group(group, &places)).collect();
        Rows { groups, parts: vec![self.part; places.len()] }
    }

    fn group(&self, group: usize, places: &[[usize; 3]]) -> Group {
        let ([_, ci, h, w], [kh, kw]) = (self.input.shape, self.conv.kernel);
        let (cg, filters) = (ci / self.conv.groups, self.conv.out_channels / self.conv.groups);
        let (stride, padding, dilation) = (self.conv.stride, self.conv.padding, self.conv.dilation);
        let k = cg * kh * kw;
        let mut input = vec![0.0; places.len() * k];
        for (row, &[n, oy, ox]) in input.chunks_exact_mut(k).zip(places) {
            // Outside lies the padding: zeros.
            for ky in 0..kh {
                let y = (oy * stride[0] + ky * dilation[0]).checked_sub(padding[0]).filter(|&y| y < h);
                for kx in 0..kw {
                    let x = (ox * stride[1] + kx * dilation[1]).checked_sub(padding[1]).filter(|&x| x < w);
                    let (Some(y), Some(x)) = (y, x) else { continue };
                    let first = ((n * ci + group * cg) * h + y) * w + x;
                    let into = &mut row[(ky * kw + kx) * cg..][..cg];
                    into.iter_mut().enumerate().for_each(|(c, into)| *into = self.input.data[first + c * h * w]);
                }
            }
        }
        let [_, co, oh, ow] = self.target.shape;
        let mut target = Vec::with_capacity(places.len() * filters);
        for &[n, oy, ox] in places {
            let first = ((n * co + group * filters) * oh + oy) * ow + ox;
            target.extend((0..filters).map(|o| self.target.data[first + o * oh * ow]));
        }
        Group { input, target }
    }
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
        let source = Source { input: Plane { shape: [3, 4, 7, 6], data: input }, target, part: 0.0, conv: &conv };
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
