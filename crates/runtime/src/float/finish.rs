//! What follows an operation, element by element.
use graph::Activation;

use super::{Memory, Pixels, PostOp};
use crate::kernels::Task;
use crate::math::{self, limit};

/// The task of doing what follows an operation to some of its pixels. It returns whether all values on the way are finite.
#[derive(Debug)]
pub(crate) struct Finish<'a> {
    pub posts: &'a [PostOp],
    pub memory: &'a Memory<'a>,
    pub pixels: Pixels<'a>,
}

impl Task for Finish<'_> {
    type Output = bool;

    #[inline(always)]
    fn run(self) -> bool {
        let Self { posts, memory, pixels } = self;
        let channels = pixels.shape.channels;
        let mut all = true;
        for post in posts {
            for i in 0..pixels.count {
                let out = &mut pixels.out[i * pixels.stride..][..channels];
                match post {
                    PostOp::Add(view) => {
                        let row = memory.rows(*view).pixel(pixels.first + i, channels);
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
            all &= matches!(post, PostOp::Clamp(..)) || pixels.finite();
        }
        all
    }
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
