//! A layer as a least squares problem: what its filters see, what they are to give, and the sums over both.
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor, TensorData};

use crate::evaluate::host;
use crate::random::Random;

/// How strongly weights are held to their first values where inputs determine them little, as a part of an input's mean
/// square. It is more where there are fewer rows than weights.
const RIDGE: f64 = 0.03;
/// The rows of one matrix product.
const SLAB: usize = 4096;

/// The sums over the rows `[x, 1]` of one group of filters: what an output pixel sees, and a one.
pub(crate) struct Sums {
    /// The sums of products of inputs, `[K + 1, K + 1]`; the last row holds the sums of inputs and the number of rows.
    gram: Vec<f32>,
    /// The sums of products of inputs with wanted outputs, `[K + 1, Co / G]`.
    cross: Vec<f32>,
}

impl Sums {
    /// Adds the sums over other rows.
    pub(crate) fn add(&mut self, other: &Self) {
        self.gram.iter_mut().zip(&other.gram).for_each(|(a, b)| *a += b);
        self.cross.iter_mut().zip(&other.cross).for_each(|(a, b)| *a += b);
    }
}

/// The problem of one group of filters, as [`blockfloat::reconstruct`] takes it.
pub(crate) struct Problem {
    /// The mean products of inputs, `[K, K]`.
    pub(crate) gram: Vec<f32>,
    /// The mean products of inputs with wanted outputs, `[Co / G, K]`.
    pub(crate) cross: Vec<f32>,
    mean_x: Vec<f64>,
    mean_y: Vec<f64>,
}

impl Problem {
    /// The problem of filters whose values are `weight` `[Co / G, K]`. With a bias, which makes up for any mean, products are
    /// of differences from the means.
    pub(crate) fn new(sums: &Sums, weight: &[f32], k: usize, with_bias: bool) -> Self {
        let (side, filters) = (k + 1, weight.len() / k);
        let rows = f64::from(sums.gram[side * side - 1]);
        let centre = if with_bias { 1.0 } else { 0.0 };
        let mean_x: Vec<f64> = (0..k).map(|i| f64::from(sums.gram[k * side + i]) / rows).collect();
        let mean_y: Vec<f64> = (0..filters).map(|o| f64::from(sums.cross[k * filters + o]) / rows).collect();
        let product = |i: usize, j: usize| f64::from(sums.gram[i * side + j]) / rows - centre * mean_x[i] * mean_x[j];
        let square = (0..k).map(|i| product(i, i)).sum::<f64>() / k as f64;
        let ridge = RIDGE * (1.0 + k as f64 / rows) * square + 1e-12;
        let mut gram: Vec<f32> = (0..k * k).map(|at| product(at / k, at % k) as f32).collect();
        (0..k).for_each(|i| gram[i * k + i] += ridge as f32);
        let cross = |(at, &weight): (usize, &f32)| {
            let (o, i) = (at / k, at % k);
            let sum = f64::from(sums.cross[i * filters + o]) / rows - centre * mean_x[i] * mean_y[o];
            (sum + ridge * f64::from(weight)) as f32
        };
        let cross = weight.iter().enumerate().map(cross).collect();
        Self { gram, cross, mean_x, mean_y }
    }

    /// The biases with which filters of these values, `[Co / G, K]`, have the wanted means.
    pub(crate) fn bias(&self, values: &[f32]) -> impl Iterator<Item = f32> {
        let said = |v: &[f32]| v.iter().zip(&self.mean_x).map(|(&v, mean)| f64::from(v) * mean).sum::<f64>();
        values.chunks_exact(self.mean_x.len()).zip(&self.mean_y).map(move |(v, mean)| (mean - said(v)) as f32)
    }
}

/// Some output pixels of a layer: what they see, and what is wanted there.
pub(crate) struct Pixels<'a> {
    x: Vec<f32>,
    input: [usize; 4],
    y: Vec<f32>,
    output: [usize; 4],
    options: &'a ConvOptions<2>,
    kernel: [usize; 2],
    /// The image, row and column of each output pixel.
    places: Vec<[usize; 3]>,
    device: Device,
}

impl<'a> Pixels<'a> {
    /// Takes at most `each` output pixels of every image, spread evenly, of inputs `[N, Ci, H, W]` and wanted outputs
    /// `[N, Co, H', W']`.
    pub(crate) fn new(
        x: Tensor<4>,
        y: Tensor<4>,
        options: &'a ConvOptions<2>,
        kernel: [usize; 2],
        each: usize,
        mut random: Random,
    ) -> Self {
        let (input, output, device) = (x.dims(), y.dims(), x.device());
        let [n, _, height, width] = output;
        let all = height * width;
        let taken = each.min(all);
        let mut places = Vec::with_capacity(n * taken);
        for image in 0..n {
            // One of each stretch.
            for i in 0..taken {
                let (from, to) = (i * all / taken, (i + 1) * all / taken);
                let at = from + random.below(to - from);
                places.push([image, at / width, at % width]);
            }
        }
        Self { x: host(x), input, y: host(y), output, options, kernel, places, device }
    }

    /// The sums of one group.
    pub(crate) fn sums(&self, group: usize) -> Sums {
        let mut all: Option<[Tensor<2>; 2]> = None;
        for places in self.places.chunks(SLAB) {
            let (x, y) = self.rows(places, group);
            let found = [x.clone().transpose().matmul(x.clone()), x.transpose().matmul(y)];
            all = Some(match all {
                Some([gram, cross]) => {
                    let [more_gram, more_cross] = found;
                    [gram + more_gram, cross + more_cross]
                }
                None => found,
            });
        }
        let [gram, cross] = all.expect("a part has images").map(host);
        Sums { gram, cross }
    }

    /// The inputs of some pixels, `[P, K + 1]` with a one at the end of each row, and their outputs, `[P, Co / G]`.
    fn rows(&self, places: &[[usize; 3]], group: usize) -> (Tensor<2>, Tensor<2>) {
        let ([_, ci, h, w], [_, co, oh, ow], [kh, kw]) = (self.input, self.output, self.kernel);
        let groups = self.options.groups;
        let (cg, filters) = (ci / groups, co / groups);
        let k = cg * kh * kw;
        let ([stride_y, stride_x], [dilation_y, dilation_x]) = (self.options.stride, self.options.dilation);
        let [(top, _), (left, _)] = self.options.padding;
        let mut x = vec![0.0; places.len() * (k + 1)];
        let mut y = Vec::with_capacity(places.len() * filters);
        for (row, &[n, oy, ox]) in x.chunks_exact_mut(k + 1).zip(places) {
            for c in 0..cg {
                let plane = &self.x[(n * ci + group * cg + c) * h * w..][..h * w];
                // Outside lies the padding: zeros.
                for ky in 0..kh {
                    let Some(iy) = (oy * stride_y + ky * dilation_y).checked_sub(top).filter(|&y| y < h) else {
                        continue;
                    };
                    for kx in 0..kw {
                        if let Some(ix) = (ox * stride_x + kx * dilation_x).checked_sub(left).filter(|&x| x < w) {
                            row[(c * kh + ky) * kw + kx] = plane[iy * w + ix];
                        }
                    }
                }
            }
            row[k] = 1.0;
            y.extend((0..filters).map(|o| self.y[((n * co + group * filters + o) * oh + oy) * ow + ox]));
        }
        let tensor = |data: Vec<f32>, columns: usize| {
            Tensor::from_data(TensorData::new(data, [places.len(), columns]), &self.device)
        };
        (tensor(x, k + 1), tensor(y, filters))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::module::conv2d;

    use super::*;

    fn values(count: usize, key: u64) -> Vec<f32> {
        let mut random = Random::new(key, &[]);
        (0..count).map(|_| random.below(2001) as f32 / 1000.0 - 1.0).collect()
    }

    /// Stride 2, padding, dilation, two groups: all at once.
    fn layer() -> (Tensor<4>, Vec<f32>, Tensor<4>, ConvOptions<2>) {
        let device = Device::flex();
        let mut options = ConvOptions::new([2, 1], [0, 0], [1, 2], 2);
        options.padding = [(1, 1), (2, 2)];
        let x = Tensor::from_data(TensorData::new(values(3 * 4 * 7 * 6, 1), [3, 4, 7, 6]), &device);
        let weight = values(6 * 2 * 3 * 2, 2);
        let w = Tensor::from_data(TensorData::new(weight.clone(), [6, 2, 3, 2]), &device);
        let bias = Tensor::from_data(TensorData::new(values(6, 3), [6]), &device);
        let y = conv2d(x.clone(), w, Some(bias), options.clone());
        (x, weight, y, options)
    }

    #[test]
    fn rows_say_what_the_convolution_says() {
        let (x, weight, y, options) = layer();
        let (k, filters, bias) = (12, 3, values(6, 3));
        for each in [5, usize::MAX] {
            let pixels = Pixels::new(x.clone(), y.clone(), &options, [3, 2], each, Random::new(0, &[]));
            assert_eq!(pixels.places.len(), 3 * each.min(4 * 8));
            for group in 0..2 {
                let (seen, wanted) = pixels.rows(&pixels.places, group);
                let (seen, wanted) = (host(seen), host(wanted));
                for (row, wanted) in seen.chunks_exact(k + 1).zip(wanted.chunks_exact(filters)) {
                    for (o, wanted) in wanted.iter().enumerate() {
                        let filter = &weight[(group * filters + o) * k..][..k];
                        let said: f32 = row.iter().zip(filter).map(|(x, w)| x * w).sum();
                        assert!((said + bias[group * filters + o] - wanted).abs() < 1e-5);
                    }
                }
            }
        }
    }

    #[test]
    fn the_weights_themselves_solve_an_undisturbed_problem() {
        let (x, weight, y, options) = layer();
        let (k, filters, bias) = (12, 3, values(6, 3));
        let sums = |x: &Tensor<4>, y: &Tensor<4>| {
            Pixels::new(x.clone(), y.clone(), &options, [3, 2], usize::MAX, Random::new(0, &[])).sums(1)
        };
        // In two parts, as two workers have it.
        let part = |range: std::ops::Range<usize>| {
            let cut = |t: &Tensor<4>| t.clone().narrow(0, range.start, range.len());
            sums(&cut(&x), &cut(&y))
        };
        let mut all = part(0..1);
        all.add(&part(1..3));
        let weight = &weight[filters * k..];
        let problem = Problem::new(&all, weight, k, true);
        for (filter, cross) in weight.chunks_exact(k).zip(problem.cross.chunks_exact(k)) {
            for (row, cross) in problem.gram.chunks_exact(k).zip(cross) {
                let product: f32 = row.iter().zip(filter).map(|(g, w)| g * w).sum();
                assert!((product - cross).abs() < 1e-5, "{product} {cross}");
            }
        }
        for (found, bias) in problem.bias(weight).zip(&bias[filters..]) {
            assert!((found - bias).abs() < 1e-5, "{found} {bias}");
        }
    }
}
