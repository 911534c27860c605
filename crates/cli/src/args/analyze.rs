use std::path::PathBuf;

use blockfloat::{ActivationScale, Bits, BlockSize, ScaleRule};
use model::Policy;

use crate::commands::analyze::{AnalyzeOptions, Budget, Formats};
use crate::html::Html;
use crate::pictures::GivenImages;

use super::device::DeviceArg;
use super::model::ModelArgs;
use super::parse::{above_0, bits};

/// The arguments of `dsconv analyze`.
#[derive(Debug, clap::Args)]
pub struct Analyze {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Images without labels: `embedded`, a name of `dsconv data list`, a folder, or CIFAR .bin files [default: pictures that
    /// dsconv draws]
    #[arg(long, value_name = "DATA")]
    pub images: Option<String>,
    /// Use at most this many images, spread over the set
    #[arg(long, visible_alias = "image-count", value_name = "N", default_value_t = 8, value_parser = above_0)]
    pub count: usize,
    /// Estimate to first order, several times as fast
    #[arg(long)]
    pub proxy: bool,
    /// Draw the result as bars into this file, .svg
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Also write a report to look at and to pass on: one page that holds all it shows, .html
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Choose a format of --bits for every layer so that all take no more: mean bits of a weight, as 4.2bits (codes alone: scales and
    /// what stays in floats come on top), the size of the file that `dsconv quantize` writes, .dsc or .safetensors, as 6MB (with all of
    /// it), or the time of an image in the integer engine on one thread of this machine, as 12ms; writes rules
    /// for `dsconv quantize --rule-file` and `dsconv distill`
    #[arg(long, value_name = "Nbits|NMB|Nms")]
    pub budget: Option<Budget>,
    /// The file of rules to write; `-` prints them in place of the table [default: named after the model and the budget, .toml]
    #[arg(short, long, value_name = "FILE", requires = "budget")]
    pub output: Option<PathBuf>,
    /// Replace files that are there
    #[arg(long)]
    pub force: bool,
    /// Bits of a weight to try [default: 4,8; with --budget 2,3,4,5,6,8]
    #[arg(long, value_name = "2..8,...", help_heading = "Numbers", value_delimiter = ',', value_parser = bits)]
    pub bits: Vec<Bits>,
    /// Channels that share a scale, or `pixel` for all of them
    #[arg(long, default_value_t = Policy::default().block, value_name = "N", help_heading = "Numbers")]
    pub block: BlockSize,
    /// How codes and scales are found: mse, l2, kl or balanced
    #[arg(long, default_value_t = Policy::default().rule, value_name = "RULE", help_heading = "Numbers")]
    pub rule: ScaleRule,
    /// Least bits of a layer's input, which has as many as the weight otherwise
    #[arg(long, default_value = "4", value_name = "2..8", help_heading = "Numbers", value_parser = bits)]
    pub activation_bits: Bits,
    /// Input channels that share a scale, or `pixel`; a multiple of --block [default: --block]
    #[arg(long, value_name = "N", help_heading = "Numbers")]
    pub activation_block: Option<BlockSize>,
    /// Scale of a layer's input: float or pow2
    #[arg(long, default_value = "float", value_name = "KIND", help_heading = "Numbers")]
    pub activation_scale: ActivationScale,
    /// The device to compute on.
    #[command(flatten)]
    pub device: DeviceArg,
}

impl From<Analyze> for AnalyzeOptions {
    fn from(args: Analyze) -> Self {
        let formats = Formats {
            bits: args.bits,
            block: args.block,
            rule: args.rule,
            least_activation_bits: args.activation_bits,
            activation_block: args.activation_block.unwrap_or(args.block),
            activation_scale: args.activation_scale,
        };
        Self {
            model: args.model.into(),
            images: args.images.map(GivenImages::Named),
            count: args.count,
            proxy: args.proxy,
            svg: args.svg,
            html: Html { path: args.html, force: args.force },
            budget: args.budget,
            output: args.output,
            force: args.force,
            formats,
            device: args.device.device,
        }
    }
}
