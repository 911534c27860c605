use blockfloat::QuantizedWeights;
use burn::config::Config;
use burn::module::{Content, DisplaySettings, Module, ModuleDisplay};
use burn::nn::{Initializer, Linear, LinearConfig};
use burn::tensor::{Device, Tensor};

use crate::Error;
use crate::conv2d::{DsConv2d, DsConv2dConfig, Parts};
use crate::convolve::Geometry;
use crate::quantization::QuantizationConfig;
use crate::shadow::host;

/// A configuration makes a [`DsLinear`] with [`DsLinearConfig::init`]. Its fields are those of burn's [`LinearConfig`] but the
/// layout, and the formats.
#[derive(Config, Debug)]
pub struct DsLinearConfig {
    /// The number of input features.
    pub d_input: usize,
    /// The number of output features.
    pub d_output: usize,
    /// Whether a bias is added to each output feature.
    #[config(default = true)]
    pub bias: bool,
    /// How the first weights and biases are drawn.
    #[config(default = "Initializer::KaimingUniform{gain: 1.0 / 3f64.sqrt(), fan_out_only: false}")]
    pub initializer: Initializer,
    /// The formats of weights and input.
    #[config(default = "QuantizationConfig::new()")]
    pub quantization: QuantizationConfig,
}

/// A fully connected layer with integer weights and block-floating-point input: a [`DsConv2d`] with a 1x1 kernel on an image
/// of one pixel, whose channels are the features.
///
/// [`DsLinearConfig`] makes one with new weights or with given codes, [`DsLinear::from_linear`] one of a trained layer.
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct DsLinear {
    conv: DsConv2d,
}

impl DsLinearConfig {
    /// Makes a layer whose weights and biases are drawn as burn's [`LinearConfig`] draws them, and quantized.
    ///
    /// # Panics
    /// If the initializer gives a NaN or an infinity.
    pub fn init(&self, device: &Device) -> DsLinear {
        let linear = LinearConfig::new(self.d_input, self.d_output)
            .with_bias(self.bias)
            .with_initializer(self.initializer.clone())
            .init(device);
        DsLinear::from_linear(linear, self.quantization).expect("an initializer that gives finite weights")
    }

    /// Makes a layer of `codes` `[d_output, d_input, 1, 1]` and a `bias` `[d_output]`, those of a file for example. Its shadow
    /// weights are the values of the codes. [`DsLinear::codes`] gives the same codes and scales back.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Format`] and [`Error::Bias`] where codes or bias do not fit this configuration.
    pub fn init_with_codes(
        &self,
        codes: &QuantizedWeights,
        bias: Option<Vec<f32>>,
        device: &Device,
    ) -> Result<DsLinear, Error> {
        let config = DsConv2dConfig::new([self.d_input, self.d_output], [1, 1])
            .with_bias(self.bias)
            .with_quantization(self.quantization);
        Ok(DsLinear { conv: config.init_with_codes(codes, bias, device)? })
    }
}

impl DsLinear {
    /// Quantizes the weights of burn's linear layer.
    ///
    /// # Errors
    /// [`blockfloat::Error::NonFinite`] where a weight is NaN or infinite, [`blockfloat::Error::Shape`] where there is none.
    pub fn from_linear(linear: Linear, quantization: QuantizationConfig) -> Result<Self, blockfloat::Error> {
        let weight = linear.weight.val();
        let [input, output] = weight.dims();
        let device = weight.device();
        let weight = host(weight.transpose());
        let codes = QuantizedWeights::quantize(&weight, [output, input, 1, 1], quantization.weight)?;
        let bias = linear.bias.map(|b| b.val());
        let geometry = Geometry::default();
        let parts = Parts { codes: &codes, weight: Some(&weight), bias, geometry, quantization };
        Ok(Self { conv: DsConv2d::new(parts, &device) })
    }
}

impl ModuleDisplay for DsLinear {
    fn custom_settings(&self) -> Option<DisplaySettings> {
        DisplaySettings::new().with_new_line_after_attribute(false).optional()
    }

    fn custom_content(&self, content: Content) -> Option<Content> {
        let [output, input, _, _] = self.conv.latent.dims();
        let content = content.add("d_input", &input).add("d_output", &output).add("bias", &self.conv.bias.is_some());
        self.conv.quantization().display(content).optional()
    }
}

impl DsLinear {
    /// Applies the layer to what stands for the input.
    ///
    /// # Shapes
    /// - `x`: `[N, d_input]`
    /// - output: `[N, d_output]`
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let [n, features] = x.dims();
        self.conv.forward(x.reshape([n, features, 1, 1])).flatten(1, 3)
    }

    /// Computes the codes and scales that stand for the present weights, `[d_output, d_input, 1, 1]`.
    ///
    /// # Errors
    /// The same as those of [`DsConv2d::codes`].
    pub fn codes(&self) -> Result<QuantizedWeights, blockfloat::Error> {
        self.conv.codes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_one_line() {
        let linear = DsLinearConfig::new(40, 3).init(&Device::flex());
        // 120 weights, 2 * 3 scales and as many gains, 3 biases.
        assert_eq!(
            linear.to_string(),
            "DsLinear {d_input: 40, d_output: 3, bias: true, bits: 4, block: 32, input: 4 bits in blocks of 32, \
             params: 135}"
        );
    }

    #[test]
    fn codes_come_out_as_they_went_in() {
        let device = Device::flex();
        let config = DsLinearConfig::new(40, 3).with_bias(false);
        let codes = config.init(&device).codes().unwrap();
        assert_eq!(config.init_with_codes(&codes, None, &device).unwrap().codes().unwrap(), codes);
        assert!(matches!(DsLinearConfig::new(3, 40).init_with_codes(&codes, None, &device), Err(Error::Shape { .. })));
    }
}
