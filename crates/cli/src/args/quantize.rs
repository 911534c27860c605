use std::path::PathBuf;

use blockfloat::{ActivationScale, Bits, BlockSize, ScaleRule};
use clap::ValueEnum;
use model::{Float, Policy, SaveOptions};

use super::ModelArgs;

/// `dsconv quantize`.
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
    pub target: Target,
}

/// A file to write.
#[derive(Debug, clap::Args)]
pub struct Target {
    /// The file to write; its ending names the format [default: named after the model and its bits]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Replace a file that is there
    #[arg(long)]
    pub force: bool,
    /// How weight scales are stored: a float a block (f16, f32), or two-level, a float a filter and a small integer a block
    /// [default: f16; exported as they are]
    #[arg(long, value_name = "f16|f32|two-level", hide_possible_values = true)]
    pub scales: Option<Scales>,
    /// How the other floats are stored: biases, layers that are not quantized [default: f32]
    #[arg(long, value_name = "f16|f32", value_parser = float)]
    pub floats: Option<Float>,
}

/// How weight scales are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scales {
    /// A half a block
    F16,
    /// A float a block
    F32,
    /// A float a filter, an 8-bit integer a block
    TwoLevel,
}

impl Target {
    /// The options of the file; block scales are `scales` where no option names their type.
    pub fn options(&self, scales: Float) -> SaveOptions {
        let scale_precision = match self.scales {
            Some(Scales::F32) => Float::F32,
            Some(Scales::F16) => Float::F16,
            Some(Scales::TwoLevel) | None => scales,
        };
        SaveOptions { floats: self.floats.unwrap_or(Float::F32), scale_precision }
    }

    /// Whether scales are to be stored in two levels.
    pub fn is_two_level(&self) -> bool {
        self.scales == Some(Scales::TwoLevel)
    }
}

fn bits(text: &str) -> Result<Bits, String> {
    text.parse::<u8>().ok().and_then(|bits| Bits::new(bits).ok()).ok_or_else(|| "from 2 to 8".to_owned())
}

fn float(text: &str) -> Result<Float, String> {
    match text {
        "f16" => Ok(Float::F16),
        "f32" => Ok(Float::F32),
        _ => Err("`f16` or `f32`".to_owned()),
    }
}
