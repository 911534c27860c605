use blockfloat::QuantizedWeights;
use burn::config::Config;
use burn::module::{Content, DisplaySettings, Module, ModuleDisplay, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Initializer, PaddingConfig2d};
use burn::tensor::{Device, Tensor, TensorData, ops::ConvOptions};

use crate::Error;
use crate::activation::{block_float, straight_through};
use crate::convolve::{Geometry, convolve};
use crate::quantization::{QuantizationConfig, ScaleUpdate};
use crate::shadow::{Shadow, host};

/// A configuration makes a [`DsConv2d`] with [`DsConv2dConfig::init`]. Its fields are those of burn's [`Conv2dConfig`], and
/// the formats.
#[derive(Config, Debug)]
pub struct DsConv2dConfig {
    /// The numbers of input and of output channels, `[Ci, Co]`.
    pub channels: [usize; 2],
    /// The height and the width of the kernel, `[Kh, Kw]`.
    pub kernel_size: [usize; 2],
    /// The stride along height and width.
    #[config(default = "[1, 1]")]
    pub stride: [usize; 2],
    /// The distance of neighbouring kernel elements along height and width.
    #[config(default = "[1, 1]")]
    pub dilation: [usize; 2],
    /// The number of groups `G`; it divides both numbers of channels.
    #[config(default = "1")]
    pub groups: usize,
    /// The zeros around the input. `Same` depends on the size of the input, as in burn.
    #[config(default = "PaddingConfig2d::Valid")]
    pub padding: PaddingConfig2d,
    /// Whether a bias is added to each output channel.
    #[config(default = true)]
    pub bias: bool,
    /// How the first weights and biases are drawn.
    #[config(default = "Initializer::KaimingUniform{gain: 1.0 / 3f64.sqrt(), fan_out_only: false}")]
    pub initializer: Initializer,
    /// The formats of weights and input.
    #[config(default = "QuantizationConfig::new()")]
    pub quantization: QuantizationConfig,
}

/// A convolution with integer weights, one scale per block of input channels, and block-floating-point input
/// (Nascimento et al., "DSConv: Efficient Convolution Operator", ICCV 2019).
///
/// ```text
/// y = bias + conv(bfp(x), alpha * q),   q = clamp(round(w / alpha), -2^(b-1), 2^(b-1) - 1)
/// ```
/// where
/// - `w [Co, Ci/G, Kh, Kw]` is the FP32 shadow weight that is trained; it is stored as `latent = w / alpha0`, in steps of
///   its codes, so that one learning rate means the same fraction of a code in every layer of any network;
/// - `alpha = alpha0 * gain [Co, blocks, Kh, Kw]` are the block scales (see [`ScaleUpdate`]);
/// - the backward pass takes rounding and block floating point for the identity (straight-through estimator).
///
/// [`DsConv2dConfig`] makes one with new weights or with given codes, [`DsConv2d::from_conv`] one of a trained convolution.
/// The crate's documentation has an example of how to train it.
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct DsConv2d {
    /// The shadow weight in units of `scales`, `[Co, Ci/G, Kh, Kw]`.
    pub latent: Param<Tensor<4>>,
    /// The first block scales, `[Co, blocks, Kh, Kw]`, which are not trained.
    pub scales: Param<Tensor<4>>,
    /// The trained factor of each scale, `[Co, blocks, Kh, Kw]`, or `[Co, blocks, 1, 1]` where taps share scales; only with
    /// [`ScaleUpdate::Trained`].
    pub gain: Option<Param<Tensor<4>>>,
    /// The bias, `[Co]`.
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    geometry: Geometry,
    #[module(skip)]
    quantization: QuantizationConfig,
}

/// The parts that a [`DsConv2d`] is made of.
pub(crate) struct Parts<'a> {
    pub codes: &'a QuantizedWeights,
    /// The weights that `codes` stand for, where training is to go on from these.
    pub weight: Option<&'a [f32]>,
    /// The bias, `[Co]`.
    pub bias: Option<Tensor<1>>,
    pub geometry: Geometry,
    pub quantization: QuantizationConfig,
}

impl DsConv2dConfig {
    /// Makes a layer whose weights and biases are drawn as burn's [`Conv2dConfig`] draws them, and quantized.
    ///
    /// # Panics
    /// If the groups do not divide the channels, or the initializer gives a NaN or an infinity.
    pub fn init(&self, device: &Device) -> DsConv2d {
        let conv = Conv2dConfig::new(self.channels, self.kernel_size)
            .with_stride(self.stride)
            .with_dilation(self.dilation)
            .with_groups(self.groups)
            .with_padding(self.padding.clone())
            .with_bias(self.bias)
            .with_initializer(self.initializer.clone())
            .init(device);
        DsConv2d::from_conv(conv, self.quantization).expect("an initializer that gives finite weights")
    }

    /// Makes a layer of `codes` `[Co, Ci/G, Kh, Kw]` and a `bias` `[Co]`, those of a file for example. Its shadow weights are
    /// the values of the codes. [`DsConv2d::codes`] gives the same codes and scales back.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Format`] and [`Error::Bias`] where codes or bias do not fit this configuration,
    /// [`Error::Groups`] where its groups do not divide its channels.
    pub fn init_with_codes(
        &self,
        codes: &QuantizedWeights,
        bias: Option<Vec<f32>>,
        device: &Device,
    ) -> Result<DsConv2d, Error> {
        let ([input, output], groups) = (self.channels, self.groups);
        if groups == 0 || input % groups != 0 || output % groups != 0 {
            return Err(Error::Groups { channels: self.channels, groups });
        }
        let [kh, kw] = self.kernel_size;
        let expected = [output, input / groups, kh, kw];
        if codes.shape() != expected {
            return Err(Error::Shape { expected, found: codes.shape() });
        }
        let (format, found) = (self.quantization.weight, (codes.bits(), codes.block()));
        if found != (format.bits, format.block) {
            return Err(Error::Format { expected: (format.bits, format.block), found });
        }
        let (expected, found) = (if self.bias { output } else { 0 }, bias.as_ref().map_or(0, Vec::len));
        if expected != found {
            return Err(Error::Bias { expected, found });
        }
        let bias = bias.map(|bias| Tensor::from_data(TensorData::new(bias, [output]), device));
        let geometry = Geometry {
            stride: self.stride,
            padding: self.padding.clone(),
            dilation: self.dilation,
            groups: self.groups,
        };
        let parts = Parts { codes, weight: None, bias, geometry, quantization: self.quantization };
        Ok(DsConv2d::new(parts, device))
    }
}

impl DsConv2d {
    /// Quantizes the weights of burn's convolution.
    ///
    /// # Errors
    /// [`blockfloat::Error::NonFinite`] where a weight is NaN or infinite, [`blockfloat::Error::Shape`] where there is none.
    pub fn from_conv(conv: Conv2d, quantization: QuantizationConfig) -> Result<Self, blockfloat::Error> {
        let Conv2d { weight, bias, stride, dilation, groups, padding, .. } = conv;
        let weight = weight.val();
        let (shape, device) = (weight.dims(), weight.device());
        let weight = host(weight);
        let codes = QuantizedWeights::quantize(&weight, shape, quantization.weight)?;
        let geometry = Geometry { stride, padding, dilation, groups };
        let bias = bias.map(|b| b.val());
        Ok(Self::new(Parts { codes: &codes, weight: Some(&weight), bias, geometry, quantization }, &device))
    }

    pub(crate) fn new(parts: Parts, device: &Device) -> Self {
        let Parts { codes, weight, bias, geometry, quantization } = parts;
        let Shadow { latent, scales, .. } = Shadow::new(codes, weight, quantization.scale_update, device);
        let is_trained = quantization.scale_update == ScaleUpdate::Trained;
        Self {
            latent: Param::from_tensor(latent),
            scales: Param::from_tensor(scales).set_require_grad(false),
            gain: is_trained.then(|| Param::from_tensor(Shadow::gains(codes, device))),
            bias: bias.map(Param::from_tensor),
            geometry,
            quantization,
        }
    }
}

impl ModuleDisplay for DsConv2d {
    fn custom_settings(&self) -> Option<DisplaySettings> {
        DisplaySettings::new().with_new_line_after_attribute(false).optional()
    }

    fn custom_content(&self, content: Content) -> Option<Content> {
        let content = self.geometry.display(content, self.latent.dims());
        self.quantization.display(content).optional()
    }
}

impl DsConv2d {
    /// Applies the convolution to what stands for the input.
    ///
    /// # Shapes
    /// - `x`: `[N, Ci, H, W]`
    /// - output: `[N, Co, H', W']`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        convolve(self.input(x), self.weight(), self.bias.as_ref().map(|b| b.val()), &self.geometry)
    }

    /// Rounds an input `[N, Ci, H, W]` to the values that its integers stand for.
    pub fn input(&self, x: Tensor<4>) -> Tensor<4> {
        match self.quantization.activation {
            Some(format) => block_float(x, format, self.quantization.signed, self.geometry.groups),
            None => x,
        }
    }

    /// Computes the weights `[Co, Ci/G, Kh, Kw]` that [`DsConv2d::forward`] uses: exactly `alpha * q`, with the
    /// straight-through gradient. With [`ScaleUpdate::Recomputed`], weights of which one is NaN or infinite become NaN, so that a loss shows it.
    pub fn weight(&self) -> Tensor<4> {
        if self.quantization.scale_update != ScaleUpdate::Recomputed {
            return self.shadow().value();
        }
        let (shape, device) = (self.latent.dims(), self.latent.device().inner());
        let value = match self.codes() {
            Ok(codes) => Tensor::from_data(TensorData::new(codes.dequantize(), shape), &device),
            Err(_) => Tensor::full(shape, f32::NAN, &device),
        };
        straight_through(value, self.shadow().float_value())
    }

    /// Computes the codes and scales that stand for the present weights.
    ///
    /// # Errors
    /// [`blockfloat::Error::NonFinite`] and [`blockfloat::Error::NonFiniteScale`] where training made a weight or a scale NaN
    /// or infinite.
    pub fn codes(&self) -> Result<QuantizedWeights, blockfloat::Error> {
        match self.quantization.scale_update {
            ScaleUpdate::Trained | ScaleUpdate::Fixed => self.shadow().codes(),
            ScaleUpdate::Recomputed => {
                let weight = host(self.shadow().float_value());
                QuantizedWeights::quantize(&weight, self.latent.dims(), self.quantization.weight)
            }
        }
    }

    /// Returns the formats of its weights and its input.
    pub fn quantization(&self) -> QuantizationConfig {
        self.quantization
    }

    /// Returns the number of its groups, `G`.
    pub fn groups(&self) -> usize {
        self.geometry.groups
    }

    /// Returns its stride, padding, dilation and groups for an input of `[height, width]`.
    pub fn options(&self, size: [usize; 2]) -> ConvOptions<2> {
        let [_, _, kh, kw] = self.latent.dims();
        self.geometry.options(size, [kh, kw])
    }

    fn shadow(&self) -> Shadow {
        Shadow {
            latent: self.latent.val(),
            scales: self.scales.val(),
            gain: self.gain.as_ref().map(|gain| gain.val()),
            bits: self.quantization.weight.bits,
            block: self.quantization.weight.block,
        }
    }

    pub(crate) fn geometry(&self) -> &Geometry {
        &self.geometry
    }
}

#[cfg(test)]
mod tests {
    use blockfloat::{Bits, BlockSize};

    use super::*;

    #[test]
    fn a_layer_is_one_line() {
        let conv = DsConv2dConfig::new([64, 16], [3, 3]).with_padding(PaddingConfig2d::Same).init(&Device::flex());
        // 9216 weights, 2 * 16 * 9 scales and as many gains, 16 biases.
        assert_eq!(
            conv.to_string(),
            "DsConv2d {ch_in: 64, ch_out: 16, kernel_size: [3, 3], stride: [1, 1], dilation: [1, 1], groups: 1, \
             padding: Same, bits: 4, block: 32, input: 4 bits in blocks of 32, params: 9808}"
        );
    }

    #[test]
    fn a_config_is_read_from_the_text_it_is_written_to() {
        let mut config = DsConv2dConfig::new([8, 4], [1, 3]).with_groups(2).with_padding(PaddingConfig2d::Same);
        config.quantization.activation = None;
        config.quantization.weight.block = BlockSize::PIXEL;
        let read: DsConv2dConfig = serde_json::from_str(&config.to_string()).unwrap();
        assert_eq!(read.to_string(), config.to_string());
        assert_eq!(read.quantization, config.quantization);
    }

    #[test]
    fn codes_that_do_not_fit_are_refused() {
        let device = Device::flex();
        let config = DsConv2dConfig::new([4, 2], [1, 1]);
        let codes = config.init(&device).codes().unwrap();
        let refused = |config: &DsConv2dConfig, bias: Option<Vec<f32>>| {
            config.init_with_codes(&codes, bias, &device).unwrap_err().to_string()
        };
        assert_eq!(
            refused(&DsConv2dConfig::new([4, 2], [3, 1]), None),
            "codes of shape [2, 4, 1, 1] for a layer with a weight of shape [2, 4, 3, 1]"
        );
        let mut other = config.clone();
        other.quantization.weight.bits = Bits::MAX;
        assert_eq!(refused(&other, None), "4-bit codes in blocks of 32 for a layer of 8-bit codes in blocks of 32");
        assert_eq!(refused(&config, None), "a bias of 0 values for a layer whose bias has 2");
        assert_eq!(
            refused(&config.clone().with_bias(false), Some(vec![0.0; 2])),
            "a bias of 2 values for a layer whose bias has 0"
        );
        assert_eq!(
            refused(&config.clone().with_groups(3), None),
            "3 groups do not divide 4 input and 2 output channels"
        );
        assert!(config.init_with_codes(&codes, Some(vec![0.0; 2]), &device).is_ok());
    }

    #[test]
    fn weights_that_training_made_nan_are_an_error_of_codes_and_nan_in_the_output() {
        let device = Device::flex();
        for scale_update in [ScaleUpdate::Trained, ScaleUpdate::Fixed, ScaleUpdate::Recomputed] {
            let quantization = QuantizationConfig::new().with_scale_update(scale_update);
            let mut conv = DsConv2dConfig::new([2, 1], [1, 1]).with_quantization(quantization).init(&device);
            conv.latent = conv.latent.map(|x| x * f32::NAN);
            assert_eq!(conv.codes(), Err(blockfloat::Error::NonFinite { index: 0 }), "{scale_update:?}");
            let y = conv.forward(Tensor::ones([1, 2, 1, 1], &device));
            assert!(y.into_scalar::<f32>().is_nan(), "{scale_update:?}");
        }
    }
}
