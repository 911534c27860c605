//! This module computes the operations of a graph that have no parameters.

use blockfloat::SplitMix64;
use burn::tensor::module::{adaptive_avg_pool2d, avg_pool2d, max_pool2d};
use burn::tensor::ops::{AvgPoolOptions, MaxPoolOptions, PadMode};
use burn::tensor::{Tensor, TensorData, activation};
use graph::{Activation, Op, Pool2d};

use crate::flex;

/// Computes the output of an operation from its inputs, each `[N, C, H, W]`.
///
/// # Panics
/// If the operation has parameters, which [`Layer`](super::layer::Layer) computes with, or takes another number of inputs.
pub fn forward(op: &Op, inputs: Vec<Tensor<4>>) -> Tensor<4> {
    let mut inputs = inputs.into_iter();
    let mut x = || inputs.next().expect("arity was checked");
    match op {
        Op::Relu => relu(x()),
        Op::MaxPool2d(p) => {
            let x = x();
            if flex::takes(&x) {
                return flex::max_pool(x, p);
            }
            let mut options = MaxPoolOptions::new(p.kernel);
            options.stride = p.stride;
            options.padding = sides(p);
            options.ceil_mode = p.ceil_mode;
            max_pool2d(x, options)
        }
        Op::AvgPool2d(p) => {
            let mut options = AvgPoolOptions::new(p.kernel);
            options.stride = p.stride;
            options.padding = sides(p);
            options.ceil_mode = p.ceil_mode;
            options.count_include_pad = p.count_include_pad;
            avg_pool2d(x(), options)
        }
        Op::AdaptiveAvgPool2d { output } => adaptive_avg_pool2d(x(), *output),
        Op::Activation(function) => apply(*function, x()),
        Op::Add => x() + x(),
        Op::Max => x().max_pair(x()),
        Op::Mul => x() * x(),
        Op::Softmax => activation::softmax(x(), 1),
        Op::Lrn { size, alpha, beta, k } => {
            let x = x();
            let channels = x.dims()[1];
            let squares = pad_channels(x.clone().powi_scalar(2), (size - 1) / 2, size / 2);
            let windows = (0..*size).map(|i| squares.clone().narrow(1, i, channels));
            let sum = windows.reduce(|sum, window| sum + window).expect("size is at least 1");
            x / (sum * (alpha / *size as f64) + *k).powf_scalar(*beta)
        }
        Op::Slice { start, channels } => x().narrow(1, *start, *channels),
        Op::Shuffle { groups } => {
            let x = x();
            let [n, c, h, w] = x.dims();
            x.reshape([n, *groups, c / groups, h * w]).swap_dims(1, 2).reshape([n, c, h, w])
        }
        Op::Pad2d { sides: [top, left, bottom, right], value } => {
            x().pad([(*top, *bottom), (*left, *right)], PadMode::Constant(*value as f32))
        }
        Op::Concat => Tensor::cat(inputs.collect(), 1),
        Op::Flatten => {
            let x = x();
            let [n, c, h, w] = x.dims();
            x.reshape([n, c * h * w, 1, 1])
        }
        Op::PadShortcut { stride, before, after } => {
            let x = x();
            let [_, _, h, w] = x.dims();
            let every = burn::tensor::s![.., .., 0..h;*stride, 0..w;*stride];
            let kept = if *stride == 1 { x } else { x.slice(every) };
            pad_channels(kept, *before, *after)
        }
        Op::Input
        | Op::Conv2d(_)
        | Op::Linear { .. }
        | Op::BatchNorm2d { .. }
        | Op::Affine { .. }
        | Op::PRelu { .. } => unreachable!("a layer computes it"),
        // Only in training is it another function: `dropout`.
        Op::Dropout { .. } => x(),
    }
}

/// Zeroes each value with probability `p` and multiplies the others by `1 / (1 - p)` (Srivastava et al., "Dropout", JMLR 2014).
///
/// Which ones is a pure function of the shape, `seed` and the `node`'s number: burn's own dropout draws from one generator for
/// all threads of a process, where trainings beside each other take numbers from each other.
pub fn dropout(x: Tensor<4>, p: f64, seed: u64, node: usize) -> Tensor<4> {
    if p == 0.0 {
        return x;
    }
    let mut random = SplitMix64::new(SplitMix64::mix(seed) ^ SplitMix64::mix(node as u64));
    let (keep, factor) = ((1.0 - p) as f32, (1.0 / (1.0 - p)) as f32);
    let factors: Vec<f32> =
        (0..x.shape().num_elements()).map(|_| if random.next_f32() < keep { factor } else { 0.0 }).collect();
    let factors = Tensor::from_data(TensorData::new(factors, x.shape()), &x.device());
    x * factors
}

/// The zeros before and after the input of a pooling, along height and width.
fn sides(pool: &Pool2d) -> [(usize, usize); 2] {
    let ([top, left], [bottom, right]) = (pool.padding, pool.padding_after());
    [(top, bottom), (left, right)]
}

fn relu(x: Tensor<4>) -> Tensor<4> {
    if flex::takes(&x) { flex::clip(x, 0.0, f32::INFINITY) } else { activation::relu(x) }
}

/// Applies an activation function to every element.
fn apply(function: Activation, x: Tensor<4>) -> Tensor<4> {
    match function {
        Activation::Clip { min, max } if flex::takes(&x) => {
            let limit = |limit: Option<f64>, none: f32| limit.map_or(none, |limit| limit as f32);
            flex::clip(x, limit(min, f32::NEG_INFINITY), limit(max, f32::INFINITY))
        }
        Activation::Clip { min, max } => {
            let x = if let Some(min) = min { x.clamp_min(min) } else { x };
            if let Some(max) = max { x.clamp_max(max) } else { x }
        }
        Activation::LeakyRelu { slope } => activation::leaky_relu(x, slope),
        Activation::Sigmoid => activation::sigmoid(x),
        Activation::HardSigmoid { alpha, beta } => activation::hard_sigmoid(x, alpha, beta),
        Activation::HardSwish => x.clone() * activation::hard_sigmoid(x, 1.0 / 6.0, 0.5),
        Activation::Silu => activation::silu(x),
        Activation::Tanh => x.tanh(),
        Activation::Elu { alpha } => {
            activation::relu(x.clone()) + x.clamp_max(0.0).exp().sub_scalar(1.0).mul_scalar(alpha)
        }
        // max(x, 0) + ln(1 + exp(-|x|)), which does not overflow.
        Activation::Softplus => activation::relu(x.clone()) + x.abs().neg().exp().log1p(),
    }
}

/// Puts channels of zeros before and after those of `x`.
fn pad_channels(x: Tensor<4>, before: usize, after: usize) -> Tensor<4> {
    let ([n, _, h, w], device) = (x.dims(), x.device());
    let zeros = |channels: usize| (channels > 0).then(|| Tensor::zeros([n, channels, h, w], &device));
    match (zeros(before), zeros(after)) {
        (None, None) => x,
        (first, last) => Tensor::cat([first, Some(x), last].into_iter().flatten().collect(), 1),
    }
}
