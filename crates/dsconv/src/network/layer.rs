//! Layers are the operations of a graph that have parameters or state.

use burn::module::{Content, DisplaySettings, Module, ModuleDisplay, Param, RunningState};
use burn::nn::BatchNorm;
use burn::tensor::{Tensor, activation};

use crate::conv2d::DsConv2d;
use crate::convolve::{Geometry, convolve};

/// A convolution or a fully connected layer (as a 1x1 convolution) in floats.
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct FloatConv {
    /// The weight, `[Co, Ci/G, Kh, Kw]`.
    pub weight: Param<Tensor<4>>,
    /// The bias, `[Co]`.
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    pub geometry: Geometry,
}

/// An affine function of each channel: `y = x * weight[c] + bias[c]`.
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct Affine {
    /// The factors, `[C]`.
    pub weight: Param<Tensor<1>>,
    /// The offsets, `[C]`.
    pub bias: Param<Tensor<1>>,
}

/// A ReLU with a slope for negative values of each channel: `y = max(x, 0) + weight[c] * min(x, 0)`.
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct PRelu {
    /// The slopes, `[C]`.
    pub weight: Param<Tensor<1>>,
}

/// A layer of a network.
#[derive(Module, Debug)]
#[module(custom_display)]
#[allow(clippy::large_enum_variant)]
pub enum Layer {
    Float(FloatConv),
    Ds(DsConv2d),
    BatchNorm(BatchNorm),
    Affine(Affine),
    PRelu(PRelu),
}

fn one_line() -> Option<DisplaySettings> {
    DisplaySettings::new().with_new_line_after_attribute(false).optional()
}

impl ModuleDisplay for FloatConv {
    fn custom_settings(&self) -> Option<DisplaySettings> {
        one_line()
    }

    fn custom_content(&self, content: Content) -> Option<Content> {
        self.geometry.display(content, self.weight.dims()).optional()
    }
}

impl ModuleDisplay for Affine {
    fn custom_settings(&self) -> Option<DisplaySettings> {
        one_line()
    }

    fn custom_content(&self, content: Content) -> Option<Content> {
        content.add("channels", &self.weight.dims()[0]).optional()
    }
}

impl ModuleDisplay for PRelu {
    fn custom_settings(&self) -> Option<DisplaySettings> {
        one_line()
    }

    fn custom_content(&self, content: Content) -> Option<Content> {
        content.add("channels", &self.weight.dims()[0]).optional()
    }
}

impl ModuleDisplay for Layer {
    fn custom_content(&self, content: Content) -> Option<Content> {
        let content = match self {
            Self::Float(layer) => content.add_single(layer),
            Self::Ds(layer) => content.add_single(layer),
            Self::BatchNorm(layer) => content.add_single(layer),
            Self::Affine(layer) => content.add_single(layer),
            Self::PRelu(layer) => content.add_single(layer),
        };
        content.optional()
    }
}

impl Layer {
    /// The running mean and variance `[C]` of a batch normalisation; other layers have none.
    pub fn statistics(&self) -> Vec<&RunningState<Tensor<1>>> {
        match self {
            Self::BatchNorm(norm) => vec![&norm.running_mean, &norm.running_var],
            _ => Vec::new(),
        }
    }

    /// Computes the output `[N, C', H', W']` for an input `[N, C, H, W]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let by_channel = |values: &Param<Tensor<1>>| {
            let values = values.val();
            let channels = values.dims()[0];
            values.reshape([1, channels, 1, 1])
        };
        match self {
            Self::Float(conv) => convolve(x, conv.weight.val(), conv.bias.as_ref().map(|b| b.val()), &conv.geometry),
            Self::Ds(conv) => conv.forward(x),
            Self::BatchNorm(norm) => norm.forward(x),
            Self::Affine(affine) => x * by_channel(&affine.weight) + by_channel(&affine.bias),
            Self::PRelu(layer) => {
                let negative = x.clone().clamp_max(0.0) * by_channel(&layer.weight);
                activation::relu(x) + negative
            }
        }
    }
}
