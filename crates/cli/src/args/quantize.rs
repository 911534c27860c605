use blockfloat::{ActivationFormat, ActivationScale, Bits, BlockSize, ScaleFormat, ScaleRule};
use model::Policy;
use model::policy::Rule;

use crate::commands::quantize::QuantizeOptions;
use crate::output::Target;

use super::model::ModelArgs;
use super::target::TargetArgs;

/// The arguments of `dsconv quantize`.
#[derive(Debug, clap::Args)]
pub struct Quantize {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Bits of a weight
    #[arg(long, default_value_t = Policy::default().bits, value_name = "2..8", help_heading = "Numbers", value_parser = bits)]
    pub bits: Bits,
    /// Channels that share a scale, or `pixel` for all of them
    #[arg(long, default_value_t = Policy::default().block, value_name = "N", help_heading = "Numbers")]
    pub block: BlockSize,
    /// How codes and scales are found: mse, l2, kl or balanced
    #[arg(long, default_value_t = Policy::default().rule, value_name = "RULE", help_heading = "Numbers")]
    pub rule: ScaleRule,
    /// Bits of a layer's input
    #[arg(long, default_value = "4", value_name = "2..8", help_heading = "Numbers", value_parser = bits)]
    pub activation_bits: Bits,
    /// Input channels that share a scale, or `pixel`; a multiple of --block [default: --block]
    #[arg(long, value_name = "N", help_heading = "Numbers")]
    pub activation_block: Option<BlockSize>,
    /// Scale of a layer's input: float or pow2
    #[arg(long, default_value = "float", value_name = "KIND", help_heading = "Numbers")]
    pub activation_scale: ActivationScale,
    /// Keep the inputs of layers in floats
    #[arg(long, help_heading = "Numbers", conflicts_with_all = ["activation_bits", "activation_block", "activation_scale"])]
    pub weights_only: bool,
    /// Keep these layers in floats: a name, `*` and `?` stand for any letters
    #[arg(long, value_name = "LAYERS", help_heading = "Numbers")]
    pub skip: Vec<String>,
    /// Keep fully connected layers in floats
    #[arg(long, help_heading = "Numbers")]
    pub convolutions_only: bool,
    /// Where to write and how.
    #[command(flatten)]
    pub target: TargetArgs,
}

impl From<Quantize> for QuantizeOptions {
    fn from(args: Quantize) -> Self {
        let block = args.activation_block.unwrap_or(args.block);
        let activation = ActivationFormat { bits: args.activation_bits, block, scale: args.activation_scale };
        let target = Target::from(args.target);
        let policy = Policy {
            bits: args.bits,
            block: args.block,
            rule: args.rule,
            scales: if target.is_two_level() { ScaleFormat::TwoLevel } else { ScaleFormat::Float },
            linear: !args.convolutions_only,
            activation: (!args.weights_only).then_some(activation),
            rules: args.skip.into_iter().map(|layers| Rule { layers, skip: Some(true), ..Rule::default() }).collect(),
        };
        Self { model: args.model.into(), policy, target }
    }
}

fn bits(text: &str) -> Result<Bits, String> {
    text.parse::<u8>().ok().and_then(|bits| Bits::new(bits).ok()).ok_or_else(|| "from 2 to 8".to_owned())
}
