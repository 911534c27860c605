//! A convolution in floats.
use graph::{Conv2d, Shape};

use crate::kernels::Rows;

/// A convolution in floats: `weights [G, taps, Cg, Co / G]`.
#[derive(Debug)]
pub(crate) struct FloatConv {
    conv: Conv2d,
    weights: Vec<f32>,
    bias: Option<Vec<f32>>,
}

impl FloatConv {
    /// Makes a convolution with `weight [Co, Cg, Kh, Kw]` and `bias [Co]`.
    pub fn new(conv: Conv2d, weight: &[f32], bias: Option<Vec<f32>>) -> Self {
        let [co, cg, kh, kw] = conv.weight_shape();
        let (taps, each) = (kh * kw, co / conv.groups);
        let mut weights = vec![0.0; weight.len()];
        for o in 0..co {
            for c in 0..cg {
                for tap in 0..taps {
                    let to = ((o / each * taps + tap) * cg + c) * each + o % each;
                    weights[to] = weight[(o * cg + c) * taps + tap];
                }
            }
        }
        Self { conv, weights, bias }
    }

    /// Returns the number of weights, which is also that of an output pixel's multiply-accumulates.
    pub fn len(&self) -> usize {
        self.weights.len()
    }

    /// Computes one output pixel: the bias, then taps in the order (kh, kw) and channels in order, each step rounded twice.
    #[inline(always)]
    pub(super) fn pixel(&self, rows: Rows<'_>, input: Shape, [image, y, x]: [usize; 3], out: &mut [f32]) {
        let c = &self.conv;
        let (cg, each) = (c.in_channels / c.groups, c.out_channels / c.groups);
        let taps = c.kernel[0] * c.kernel[1];
        match &self.bias {
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
                let weights = self.weights.chunks_exact(taps);
                out.iter_mut().zip(pixel).zip(weights).for_each(|((out, x), w)| *out += w[tap] * x);
                continue;
            }
            for (g, (out, pixel)) in out.chunks_exact_mut(each).zip(pixel.chunks_exact(cg)).enumerate() {
                let weights = &self.weights[(g * taps + tap) * cg * each..][..cg * each];
                for (x, weights) in pixel.iter().zip(weights.chunks_exact(each)) {
                    out.iter_mut().zip(weights).for_each(|(out, w)| *out += w * x);
                }
            }
        }
    }
}
