use blockfloat::{ActivationFormat, ActivationScale, Bits, BlockSize, ScaleRule, WeightFormat};
use burn::config::Config;
use burn::module::Content;
use serde::{Deserialize, Serialize};

/// How the block scales of a layer change while it is trained. The scale rule finds the first ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ScaleUpdate {
    /// Gradients train a gain for each block, which starts at 1 and multiplies the first scale.
    #[default]
    Trained,
    /// The first scales are kept.
    Fixed,
    /// The scale rule finds new scales from the shadow weight at each step, as the paper does.
    Recomputed,
}

/// How a [`DsConv2d`](crate::DsConv2d) or a [`DsLinear`](crate::DsLinear) represents its weights and its input.
///
/// The default is W4A4: weights are 4-bit codes with a scale for every 32 input channels, found by the rule `mse`; the input
/// becomes 4-bit block floating point with float scales in the same blocks.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub struct QuantizationConfig {
    /// The bits, the block length and the scale rule of the weights.
    #[config(default = "w4()")]
    pub weight: WeightFormat,
    /// The block floating point that the input is rounded to; `None` leaves the input in floats.
    #[config(default = "Some(a4())")]
    pub activation: Option<ActivationFormat>,
    /// Whether the input can be negative. `false`, for an input behind a ReLU, gives its mantissas one bit more; negative
    /// values then become 0.
    #[config(default = true)]
    pub signed: bool,
    /// How the block scales of the weights change during training.
    #[config(default = "ScaleUpdate::Trained")]
    pub scale_update: ScaleUpdate,
}

impl Default for QuantizationConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl QuantizationConfig {
    /// Adds the formats to what is displayed of a layer.
    pub(crate) fn display(&self, content: Content) -> Content {
        let input = match self.activation {
            Some(ActivationFormat { bits, block, .. }) => format!("{bits} bits in blocks of {block}"),
            None => "floats".into(),
        };
        content
            .add("bits", &self.weight.bits.to_string())
            .add("block", &self.weight.block.to_string())
            .add("input", &input)
    }
}

fn w4() -> WeightFormat {
    let ActivationFormat { bits, block, .. } = a4();
    WeightFormat::new(bits, block, ScaleRule::Mse)
}

fn a4() -> ActivationFormat {
    let bits = Bits::new(4).expect("4 is between 2 and 8");
    let block = BlockSize::new(32).expect("32 is at least 1");
    ActivationFormat { bits, block, scale: ActivationScale::Float }
}
