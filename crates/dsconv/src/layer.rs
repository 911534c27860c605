use blockfloat::{ActivationFormat, ActivationScale, BlockSize, QuantizedWeights, ScaleRule, WeightFormat};
use burn::module::{Module, Param};
use burn::nn::{Linear, PaddingConfig2d, conv::Conv2d};
use burn::tensor::{Device, Tensor, TensorData, module::conv2d, ops::ConvOptions};

use crate::activation::{block_float, on_host, straight_through};

/// Where the block scales of a layer under training come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Alpha {
    /// Found once by the scale rule, then trained through a gain per block that starts at 1.
    #[default]
    Trained,
    /// Found once by the scale rule and kept.
    Fixed,
    /// Found anew by the scale rule from the shadow weight at each step (the paper's).
    Recomputed,
}

/// How a [`DsConv2d`] or [`DsLinear`] represents its weights and its input.
///
/// The default is W4A4: 4-bit codes with `mse` scales and 4-bit BFP activations with float scales, blocks of 32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DsConfig {
    /// Codes and block scales of the weights.
    pub weight: WeightFormat,
    /// BFP of the input; `None` leaves it in floats.
    pub activation: Option<ActivationFormat>,
    /// Whether the input can be negative. `false` after a ReLU wins one bit.
    pub signed: bool,
    /// Where the block scales come from during training.
    pub alpha: Alpha,
}

impl Default for DsConfig {
    fn default() -> Self {
        let bits = blockfloat::Bits::new(4).expect("4 is between 2 and 8");
        let block = BlockSize::new(32).expect("32 is at least 1");
        Self {
            weight: WeightFormat { bits, block, rule: ScaleRule::Mse },
            activation: Some(ActivationFormat { bits, block, scale: ActivationScale::Float }),
            signed: true,
            alpha: Alpha::Trained,
        }
    }
}

/// A convolution with integer weights, one scale per block of input channels, and block-floating-point input
/// (Nascimento et al., "DSConv: Efficient Convolution Operator", ICCV 2019).
///
/// ```text
/// y = bias + conv(bfp(x), alpha * q),   q = clamp(round(w / alpha), -2^(b-1), 2^(b-1) - 1)
/// ```
/// where
/// - `w [Co, Ci/G, kh, kw]` is the FP32 shadow weight that is trained; it is stored as `latent = w / alpha0`, in units of
///   its block's first scale, so that one learning rate means the same fraction of a code in every layer of any network;
/// - `alpha = alpha0 * gain [Co, blocks, kh, kw]` are the block scales (see [`Alpha`]);
/// - the backward pass takes rounding and BFP for the identity (straight-through estimator).
///
/// Drop-in for burn's `Conv2d`: `DsConv2d::from(conv)`, or [`DsConv2d::from_conv`] to choose the format.
#[derive(Module, Debug)]
pub struct DsConv2d {
    /// Shadow weight in units of `scales`, `[Co, Ci/G, kh, kw]`.
    pub latent: Param<Tensor<4>>,
    /// Block scales at the start, `[Co, blocks, kh, kw]`; not trained.
    pub scales: Param<Tensor<4>>,
    /// Trained factor of `scales`, same shape; with [`Alpha::Trained`] only.
    pub gain: Option<Param<Tensor<4>>>,
    /// `[Co]`.
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    options: ConvOptions<2>,
    #[module(skip)]
    config: DsConfig,
}

impl From<Conv2d> for DsConv2d {
    /// W4A4 with the default [`DsConfig`].
    ///
    /// # Panics
    /// As [`DsConv2d::from_conv`].
    fn from(conv: Conv2d) -> Self {
        Self::from_conv(conv, DsConfig::default())
    }
}

impl DsConv2d {
    /// Quantizes burn's convolution. The convolution's own weights are read, not changed.
    ///
    /// # Panics
    /// If a weight is NaN or infinite, or the padding is `Same`, whose amounts depend on the input.
    pub fn from_conv(conv: Conv2d, config: DsConfig) -> Self {
        let padding = match conv.padding {
            PaddingConfig2d::Valid => [(0, 0); 2],
            PaddingConfig2d::Explicit(top, left, bottom, right) => [(top, bottom), (left, right)],
            PaddingConfig2d::Same => panic!("DsConv2d needs explicit padding, got `Same`"),
        };
        let mut options = ConvOptions::new(conv.stride, [0, 0], conv.dilation, conv.groups);
        options.padding = padding;
        let weight = conv.weight.val();
        let device = weight.device();
        let shape = weight.dims();
        let weight = host(weight);
        let codes = QuantizedWeights::quantize(&weight, shape, config.weight).expect("finite weights");
        Self::new(Some(&weight), &codes, conv.bias.map(|b| b.val()), options, config, &device)
    }

    /// From codes, and the weights they stand for where training is to go on from these.
    pub(crate) fn new(
        weight: Option<&[f32]>,
        codes: &QuantizedWeights,
        bias: Option<Tensor<1>>,
        options: ConvOptions<2>,
        config: DsConfig,
        device: &Device,
    ) -> Self {
        let shape = codes.shape();
        let latent = match weight {
            Some(weight) => in_units_of(codes, weight, config.alpha),
            None => codes.codes().iter().map(|&q| f32::from(q)).collect(),
        };
        let tensor = |data: Vec<f32>, shape: [usize; 4]| Tensor::<4>::from_data(TensorData::new(data, shape), device);
        let scales = codes.scale_shape();
        let gain = (config.alpha == Alpha::Trained).then(|| Param::from_tensor(Tensor::ones(scales, device)));
        Self {
            latent: Param::from_tensor(tensor(latent, shape)),
            scales: Param::from_tensor(tensor(codes.scales().to_vec(), scales)).set_require_grad(false),
            gain,
            bias: bias.map(Param::from_tensor),
            options,
            config,
        }
    }

    /// Its format.
    pub fn config(&self) -> DsConfig {
        self.config
    }

    /// Its stride, padding, dilation and groups.
    pub fn options(&self) -> &ConvOptions<2> {
        &self.options
    }

    /// The values that stand for an input `[N, Ci, H, W]`: what its integers see.
    pub fn input(&self, x: Tensor<4>) -> Tensor<4> {
        match self.config.activation {
            Some(format) => block_float(x, format, self.config.signed, self.options.groups),
            None => x,
        }
    }

    /// `[N, Ci, H, W]` to `[N, Co, H', W']`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.input(x);
        convolve(x, self.weight(), self.bias.as_ref().map(|b| b.val()), &self.options)
    }

    /// The weights that [`DsConv2d::forward`] uses: exactly `alpha * q`, with the straight-through gradient.
    pub fn weight(&self) -> Tensor<4> {
        let latent = self.latent.val();
        let channels = latent.dims()[1];
        let scales = spread(self.scales.val(), self.config.weight.block, channels);
        if self.config.alpha == Alpha::Recomputed {
            let device = latent.device().inner();
            let value = self.codes().dequantize();
            let value = Tensor::from_data(TensorData::new(value, latent.dims()), &device);
            return straight_through(value, latent * scales);
        }
        let bits = self.config.weight.bits;
        let gain = self.gain.as_ref().map(|g| spread(g.val(), self.config.weight.block, channels));
        let steps = latent.clone().inner();
        let steps = match &gain {
            Some(gain) => steps / gain.clone().inner(),
            None => steps,
        };
        let codes = steps.round().clamp(bits.signed_min() as f32, bits.signed_max() as f32);
        let codes = if latent.is_autodiff() { Tensor::from_inner(codes) } else { codes };
        let alpha = match gain {
            Some(gain) => scales.clone() * gain,
            None => scales.clone(),
        };
        let value = alpha * codes;
        // `latent - latent` is exactly 0: the value stays exact, the shadow weight gets the whole gradient.
        if latent.is_tracked() { value + (latent.clone() - latent.detach()) * scales } else { value }
    }

    /// The codes and scales that stand for the present weights.
    pub fn codes(&self) -> QuantizedWeights {
        let latent = self.latent.val();
        let shape = latent.dims();
        let mut steps = host(latent);
        let mut scales = host(self.scales.val());
        let WeightFormat { bits, block, .. } = self.config.weight;
        if self.config.alpha == Alpha::Recomputed {
            for_blocks(shape, block, |weight, scale| steps[weight] *= scales[scale]);
            return QuantizedWeights::quantize(&steps, shape, self.config.weight).expect("finite weights");
        }
        if let Some(gain) = &self.gain {
            let gain = host(gain.val());
            for_blocks(shape, block, |weight, scale| steps[weight] /= gain[scale]);
            scales.iter_mut().zip(&gain).for_each(|(s, g)| *s *= g);
        }
        let (low, high) = (bits.signed_min() as f32, bits.signed_max() as f32);
        let codes = steps.iter().map(|s| s.round_ties_even().clamp(low, high) as i8).collect();
        QuantizedWeights::from_parts(shape, bits, block, codes, scales).expect("codes and scales of one layer")
    }
}

/// A fully connected layer with integer weights: a 1x1 [`DsConv2d`] on a 1x1 image.
#[derive(Module, Debug)]
pub struct DsLinear {
    conv: DsConv2d,
}

impl From<Linear> for DsLinear {
    /// W4A4 with the default [`DsConfig`].
    ///
    /// # Panics
    /// As [`DsLinear::from_linear`].
    fn from(linear: Linear) -> Self {
        Self::from_linear(linear, DsConfig::default())
    }
}

impl DsLinear {
    /// Quantizes burn's linear layer (weight `[in, out]`).
    ///
    /// # Panics
    /// If a weight is NaN or infinite.
    pub fn from_linear(linear: Linear, config: DsConfig) -> Self {
        let weight = linear.weight.val();
        let [input, output] = weight.dims();
        let device = weight.device();
        let weight = host(weight.transpose());
        let codes = QuantizedWeights::quantize(&weight, [output, input, 1, 1], config.weight).expect("finite weights");
        let options = ConvOptions::new([1, 1], [0, 0], [1, 1], 1);
        let bias = linear.bias.map(|b| b.val());
        Self { conv: DsConv2d::new(Some(&weight), &codes, bias, options, config, &device) }
    }

    /// `[N, in]` to `[N, out]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let [n, features] = x.dims();
        self.conv.forward(x.reshape([n, features, 1, 1])).flatten(1, 3)
    }

    /// The codes and scales that stand for the present weights, `[out, in, 1, 1]`.
    pub fn codes(&self) -> QuantizedWeights {
        self.conv.codes()
    }
}

/// `conv2d`; in training, a pointwise convolution goes through matrix products, whose gradients burn's CPU backend computes
/// 1.3 to 2 times as fast as a convolution's (measured on the layers of ResNet-50 at 32x32; the forward pass is slower).
pub(crate) fn convolve(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    options: &ConvOptions<2>,
) -> Tensor<4> {
    let [co, ci, kh, kw] = weight.dims();
    let plain = *options == ConvOptions::new([1, 1], [0, 0], [1, 1], 1);
    if !plain || [kh, kw] != [1, 1] || !weight.is_tracked() || !on_host(&x.device()) {
        return conv2d(x, weight, bias, options.clone());
    }
    let [n, _, h, w] = x.dims();
    let x = x.reshape([n, ci, h * w]);
    let y = if h * w <= 64 {
        // One product for the whole batch, [Co, Ci] by [Ci, N*H*W]: an image alone is too narrow.
        let x = x.swap_dims(0, 1).reshape([ci, n * h * w]);
        weight.reshape([co, ci]).matmul(x).reshape([co, n, h * w]).swap_dims(0, 1)
    } else {
        weight.reshape([1, co, ci]).matmul(x)
    };
    let y = y.reshape([n, co, h, w]);
    match bias {
        Some(bias) => y + bias.reshape([1, co, 1, 1]),
        None => y,
    }
}

/// One value per block, repeated over the block's channels: `[Co, blocks, kh, kw]` to `[Co, channels, kh, kw]`.
fn spread(x: Tensor<4>, block: BlockSize, channels: usize) -> Tensor<4> {
    let [co, blocks, kh, kw] = x.dims();
    if blocks == 1 {
        return x.expand([co, channels, kh, kw]);
    }
    let length = block.ranges(channels).next().map_or(1, |r| r.len());
    let all = x.unsqueeze_dim::<5>(2).expand([co, blocks, length, kh, kw]).reshape([co, blocks * length, kh, kw]);
    if blocks * length == channels { all } else { all.narrow(1, 0, channels) }
}

/// Calls `f(index of a weight, index of its block's scale)` for every weight of `[Co, Ci/G, kh, kw]`.
fn for_blocks([co, ci, kh, kw]: [usize; 4], block: BlockSize, mut f: impl FnMut(usize, usize)) {
    let taps = kh * kw;
    let blocks = block.count(ci);
    for o in 0..co {
        for (b, range) in block.ranges(ci).enumerate() {
            for c in range {
                for tap in 0..taps {
                    f((o * ci + c) * taps + tap, (o * blocks + b) * taps + tap);
                }
            }
        }
    }
}

/// Weights in units of their block's scale, brought to where they round to their code: the rules but `mse` may choose
/// another than the nearest. With [`Alpha::Recomputed`] the rule sees the weights again, so they stay as they are. 0 where
/// the scale is 0 (the block is all zeros).
fn in_units_of(codes: &QuantizedWeights, weight: &[f32], alpha: Alpha) -> Vec<f32> {
    let mut latent = weight.to_vec();
    let (scales, bits) = (codes.scales(), codes.bits());
    let (lowest, highest) = (bits.signed_min() as f32, bits.signed_max() as f32);
    for_blocks(codes.shape(), codes.block(), |w, s| {
        let code = f32::from(codes.codes()[w]);
        let nearest = if scales[s] == 0.0 { 0.0 } else { latent[w] / scales[s] };
        let low = if code == lowest { f32::NEG_INFINITY } else { code - 0.49 };
        let high = if code == highest { f32::INFINITY } else { code + 0.49 };
        latent[w] = if alpha == Alpha::Recomputed { nearest } else { nearest.clamp(low, high) };
    });
    latent
}

/// A tensor's elements in this process's memory.
pub(crate) fn host<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.inner().into_data().convert::<f32>().try_into_vec().expect("f32 data")
}
