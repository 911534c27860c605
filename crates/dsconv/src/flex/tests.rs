use blockfloat::{Bits, BlockSize, SplitMix64};
use burn::tensor::activation::relu;
use burn::tensor::module::conv2d;
use burn::tensor::{Device, Tensor, TensorData};
use proptest::prelude::*;

use super::*;
use crate::shadow::Shadow;

/// Values in `-2..2`.
fn noise<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    let mut random = SplitMix64::new(seed);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| 4.0 * random.next_f32() - 2.0).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.inner().into_data().try_into_vec().unwrap()
}

fn assert_near(ours: &[f32], expected: &[f32], what: &str) {
    assert_eq!(ours.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(1e-3f32, |largest, x| largest.max(x.abs()));
    for (i, (ours, expected)) in ours.iter().zip(expected).enumerate() {
        assert!((ours - expected).abs() <= 2e-5 * largest, "{what}, element {i}: {ours}, expected {expected}");
    }
}

/// A convolution: shapes of input and weight, and options.
#[derive(Debug, Clone)]
struct Problem {
    x: [usize; 4],
    weight: [usize; 4],
    options: ConvOptions<2>,
}

/// `y`, and the gradients of `x`, `weight` and `bias` for a loss of `sum(y * dy)`.
type Found = [Vec<f32>; 4];

impl Problem {
    fn solve(&self, convolve: impl Fn(Tensor<4>, Tensor<4>, Tensor<1>, &ConvOptions<2>) -> Tensor<4>) -> Found {
        let device = Device::flex().autodiff();
        let x = noise(self.x, 1, &device).require_grad();
        let weight = noise(self.weight, 2, &device).require_grad();
        let bias = noise([self.weight[0]], 3, &device).require_grad();
        let y = convolve(x.clone(), weight.clone(), bias.clone(), &self.options);
        let grads = (y.clone() * noise(y.dims(), 4, &device)).sum().backward();
        let [of_x, of_weight] = [&x, &weight].map(|x| values(x.grad(&grads).unwrap()));
        [values(y), of_x, of_weight, values(bias.grad(&grads).unwrap())]
    }

    /// The same in plain loops: the reference.
    fn reference(&self) -> Found {
        let sizes = Sizes::new(self.x, self.weight, &self.options);
        let device = Device::flex();
        let (x, weight) = (values(noise(self.x, 1, &device)), values(noise(self.weight, 2, &device)));
        let bias = values(noise([self.weight[0]], 3, &device));
        let dy = values(noise(sizes.output_shape(), 4, &device));
        let ([_, outputs, oh, ow], [_, inputs, kh, kw], [_, channels, h, w]) =
            (sizes.output_shape(), self.weight, self.x);
        let mut found = [vec![0.0; dy.len()], vec![0.0; x.len()], vec![0.0; weight.len()], vec![0.0f64; outputs]];
        for (at, &dy) in dy.iter().enumerate() {
            let (image, o, row, column) = (at / (outputs * oh * ow), at / (oh * ow) % outputs, at / ow % oh, at % ow);
            found[0][at] += f64::from(bias[o]);
            found[3][o] += f64::from(dy);
            for c in 0..inputs {
                for (i, j) in (0..kh).flat_map(|i| (0..kw).map(move |j| (i, j))) {
                    let place = |axis: usize, output: usize, element: usize| {
                        let padded = output * self.options.stride[axis] + element * self.options.dilation[axis];
                        padded.checked_sub(self.options.padding[axis].0)
                    };
                    let (Some(y), Some(z)) = (place(0, row, i), place(1, column, j)) else { continue };
                    if y >= h || z >= w {
                        continue;
                    }
                    let channel = o / (outputs / self.options.groups) * inputs + c;
                    let (from, with) =
                        (((image * channels + channel) * h + y) * w + z, ((o * inputs + c) * kh + i) * kw + j);
                    found[0][at] += f64::from(x[from]) * f64::from(weight[with]);
                    found[1][from] += f64::from(dy) * f64::from(weight[with]);
                    found[2][with] += f64::from(dy) * f64::from(x[from]);
                }
            }
        }
        found.map(|values| values.into_iter().map(|value| value as f32).collect())
    }

    fn check(&self) {
        let ours = self.solve(convolve);
        let names = ["output", "gradient of the input", "gradient of the weight", "gradient of the bias"];
        for ((ours, expected), name) in ours.iter().zip(&self.reference()).zip(names) {
            assert_near(ours, expected, &format!("{name} of {self:?}"));
        }
    }
}

fn problem(x: [usize; 4], weight: [usize; 4], stride: usize, padding: usize, groups: usize) -> Problem {
    Problem { x, weight, options: ConvOptions::new([stride; 2], [padding; 2], [1, 1], groups) }
}

/// Sizes at which tiles, parts of channels and lanes end, as in real networks.
#[test]
fn convolutions_of_real_sizes_have_the_values_and_gradients_of_plain_loops() {
    for problem in [
        // ResNet's first one; 112 columns by 4 rows a tile.
        problem([1, 3, 41, 224], [9, 3, 7, 7], 2, 3, 1),
        // More channels than a part has, some images a tile and one that is left.
        problem([3, 70, 14, 14], [5, 70, 3, 3], 1, 1, 1),
        problem([11, 67, 7, 7], [6, 67, 3, 3], 1, 1, 1),
        problem([2, 580, 24, 23], [3, 580, 1, 1], 1, 0, 1),
        problem([3, 600, 7, 7], [4, 600, 1, 1], 1, 0, 1),
        problem([2, 8, 15, 15], [6, 8, 1, 1], 2, 0, 1),
        problem([2, 12, 9, 9], [6, 4, 3, 3], 1, 1, 3),
        problem([2, 7, 33, 31], [7, 1, 3, 3], 1, 1, 7),
        problem([2, 7, 33, 31], [7, 1, 3, 3], 2, 1, 7),
        problem([2, 3, 12, 40], [3, 1, 5, 5], 2, 2, 3),
    ] {
        problem.check();
    }
}

fn problems() -> impl Strategy<Value = Problem> {
    let groups = prop_oneof![2 => Just((1, 1..6usize, 1..6usize)), 1 => Just((3, 1..4usize, 1..3usize)), 2 => Just((4, 1..2usize, 1..2usize))];
    let axis = || (1..4usize, 1..4usize, 1..3usize, (0..3usize, 0..3usize), 0..9usize);
    let channels = groups.prop_flat_map(|(groups, inputs, outputs)| (Just(groups), inputs, outputs));
    (1..4usize, channels, axis(), axis()).prop_map(|(images, (groups, inputs, outputs), rows, columns)| {
        let [rows, columns] = [rows, columns].map(|(kernel, stride, dilation, padding, more)| {
            let reach = dilation * (kernel - 1) + 1;
            let size = (reach + more).saturating_sub(padding.0 + padding.1).max(1);
            // The padded input holds the kernel at least once.
            let short = reach.saturating_sub(size + padding.0 + padding.1);
            (kernel, stride, dilation, padding, size + short)
        });
        Problem {
            x: [images, groups * inputs, rows.4, columns.4],
            weight: [groups * outputs, inputs, rows.0, columns.0],
            options: ConvOptions::new_with_padding(
                [rows.1, columns.1],
                [rows.3, columns.3],
                [rows.2, columns.2],
                groups,
            ),
        }
    })
}

proptest! {
    #[test]
    fn convolutions_have_the_values_and_gradients_of_plain_loops(problem in problems()) {
        problem.check();
    }

    #[test]
    fn convolutions_have_the_values_and_gradients_of_burns(mut problem in problems()) {
        // burn's own gradients are for padding that is the same on both sides.
        for axis in 0..2 {
            problem.options.padding[axis].1 = problem.options.padding[axis].0;
            let reach = problem.options.dilation[axis] * (problem.weight[axis + 2] - 1) + 1;
            problem.x[axis + 2] = problem.x[axis + 2].max(reach);
        }
        let burns = problem.solve(|x, weight, bias, options| conv2d(x, weight, Some(bias), options.clone()));
        for (ours, burns) in problem.solve(convolve).iter().zip(&burns) {
            assert_near(ours, burns, &format!("{problem:?}"));
        }
    }

    #[test]
    fn weights_have_the_values_and_gradients_of_their_steps(
        shape in [1..4usize, 1..70usize, 1..4usize, 1..3usize],
        block in prop_oneof![(1..40usize).prop_map(|n| BlockSize::new(n).unwrap()), Just(BlockSize::PIXEL)],
        bits in 2u8..=8,
        trained: bool,
    ) {
        let device = Device::flex().autodiff();
        let scale_shape = [shape[0], block.count(shape[1]), shape[2], shape[3]];
        let latent = noise(shape, 1, &device).mul_scalar(5.0).require_grad();
        let gain = noise(scale_shape, 2, &device).abs().add_scalar(0.5).require_grad();
        let find = |value: fn(Shadow) -> Tensor<4>| {
            let shadow = Shadow {
                latent: latent.clone(),
                scales: noise(scale_shape, 3, &device),
                gain: trained.then(|| gain.clone()),
                bits: Bits::new(bits).unwrap(),
                block,
            };
            let value = value(shadow);
            let grads = (value.clone() * noise(shape, 4, &device)).sum().backward();
            let of_gain = trained.then(|| values(gain.grad(&grads).unwrap()));
            (values(value), values(latent.grad(&grads).unwrap()), of_gain.unwrap_or_default())
        };
        let (ours, steps) = (find(Shadow::value), find(Shadow::value_step_by_step));
        prop_assert_eq!(ours.0, steps.0);
        prop_assert_eq!(ours.1, steps.1);
        assert_near(&ours.2, &steps.2, "gradients of gains");
    }
}

#[test]
fn the_largest_of_windows_and_its_gradient_are_burns() {
    let device = Device::flex().autodiff();
    let pools = [
        (Pool2d::new(3, 2).padding(1), [2, 3, 13, 20]),
        (Pool2d::new(2, 2), [1, 2, 9, 8]),
        (Pool2d::new(3, 1).padding(1), [2, 2, 7, 40]),
        (Pool2d::new(3, 2).ceil_mode(), [1, 2, 8, 10]),
        (Pool2d { kernel: [1, 4], stride: [3, 1], padding: [0, 2], ..Pool2d::new(1, 1) }, [2, 1, 10, 9]),
    ];
    for (pool, shape) in pools {
        let find = |largest: &dyn Fn(Tensor<4>) -> Tensor<4>| {
            let x = noise(shape, 1, &device).require_grad();
            let y = largest(x.clone());
            let grads = (y.clone() * noise(y.dims(), 2, &device)).sum().backward();
            (y.dims(), values(y), values(x.grad(&grads).unwrap()))
        };
        let burns = |x| {
            let mut options = burn::tensor::ops::MaxPoolOptions::new(pool.kernel);
            options.stride = pool.stride;
            options.padding = pool.padding.map(|padding| (padding, padding));
            options.ceil_mode = pool.ceil_mode;
            burn::tensor::module::max_pool2d(x, options)
        };
        let (ours, burns) = (find(&|x| max_pool(x, &pool)), find(&burns));
        assert_eq!((ours.0, &ours.1), (burns.0, &burns.1), "{pool:?}");
        assert_near(&ours.2, &burns.2, &format!("{pool:?}"));
    }
    // Of equal values the first one gets the gradient, and only it, as in PyTorch.
    let x = Tensor::<4>::zeros([1, 1, 2, 2], &device).require_grad();
    let grads = max_pool(x.clone(), &Pool2d::new(2, 2)).sum().backward();
    assert_eq!(values(x.grad(&grads).unwrap()), [1.0, 0.0, 0.0, 0.0]);
}

#[test]
fn clipped_values_and_their_gradients_are_those_of_burns() {
    type Clip = fn(Tensor<4>) -> Tensor<4>;
    let pairs: [(Clip, Clip); 3] = [
        (|x| clip(x, 0.0, f32::INFINITY), relu),
        (|x| clip(x, 0.0, 1.5), |x| x.clamp_min(0.0).clamp_max(1.5)),
        (|x| clip(x, f32::NEG_INFINITY, 0.25), |x| x.clamp_max(0.25)),
    ];
    let device = Device::flex().autodiff();
    for (ours, burns) in pairs {
        let [ours, burns] = [ours, burns].map(|clip| {
            let x = noise([2, 3, 150, 151], 1, &device).require_grad();
            // A view of some channels, so that what is clipped is not all of a buffer; `x` is used again.
            let y = clip(x.clone().narrow(1, 1, 2)) + x.clone().narrow(1, 1, 2);
            let grads = (y.clone() * noise(y.dims(), 2, &device)).sum().backward();
            (values(y), values(x.grad(&grads).unwrap()))
        });
        assert_eq!(ours, burns);
    }
    let nan = clip(Tensor::full([1, 1, 1, 2], f32::NAN, &Device::flex()), 0.0, 6.0);
    assert!(values(nan).iter().all(|value| value.is_nan()));
}

#[test]
fn clipping_leaves_a_value_alone_that_others_hold() {
    let x = noise([1, 2, 3, 4], 1, &Device::flex());
    let before = values(x.clone());
    let y = clip(x.clone(), 0.0, 1.0);
    assert_eq!(values(x), before);
    assert!(values(y).iter().all(|value| (0.0..=1.0).contains(value)));
}
