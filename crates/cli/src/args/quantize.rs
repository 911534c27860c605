use std::path::PathBuf;

use blockfloat::{ActivationFormat, ActivationScale, Bits, BlockSize, ScaleFormat, ScaleRule};
use model::Policy;
use model::policy::{ActivationChange, ActivationRule, Rule};

use crate::commands::fitted::FitImages;
use crate::commands::quantize::QuantizeOptions;
use crate::error::{Error, Result};
use crate::html::Html;
use crate::output::Target;
use crate::pictures::GivenImages;

use super::model::ModelArgs;
use super::parse::{above_0, bits, winograd_bits};
use super::target::TargetArgs;

/// The arguments of `dsconv quantize`.
#[derive(Debug, clap::Args)]
#[command(after_help = FORMATS)]
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
    /// Least bits of the input of a layer that reads the image, whose pixels have 8; --layer decides of layers that it names
    #[arg(long, default_value_t = Policy::default().image_bits, value_name = "2..8", help_heading = "Numbers", value_parser = bits)]
    pub image_bits: Bits,
    /// One scale for all pixels in a convolution that reads the image, and one integer sum for each output: it is two to four
    /// times as fast, and its inputs are a little coarser
    #[arg(long, help_heading = "Numbers")]
    pub image_sum: bool,
    /// Give 3x3 convolutions the form for Winograd's algorithm, with inputs of so many bits [6 if none are named]: faster on
    /// x86 CPUs without AMX; all taps share scales, and so do all pixels of an input
    #[arg(long, value_name = "2..6", num_args = 0..=1, require_equals = true, default_missing_value = "6", help_heading = "Numbers", value_parser = winograd_bits)]
    pub winograd: Option<Bits>,
    /// Keep the inputs of layers in floats
    #[arg(long, help_heading = "Numbers", conflicts_with_all = ["activation_bits", "image_bits", "image_sum", "winograd", "activation_block", "activation_scale"])]
    pub weights_only: bool,
    /// Bits of these layers' weights and inputs, or `float`: a name, `*` and `?` stand for any letters; the last of several
    /// counts
    #[arg(long, value_name = "LAYERS=BITS", help_heading = "Numbers", value_parser = layer)]
    pub layer: Vec<Rule>,
    /// Rules for layers, as `dsconv analyze --budget` writes them: they decide before options for all layers; --layer and --skip
    /// come after them
    #[arg(long, value_name = "FILE", help_heading = "Numbers", conflicts_with = "weights_only")]
    pub rule_file: Option<PathBuf>,
    /// Keep the layers that matter most at 8 bits, for at most 3 % of the size; --layer decides of layers that it names
    #[arg(long, help_heading = "Numbers", conflicts_with = "rule_file")]
    pub keep_worst: bool,
    /// Keep these layers in floats: a name, `*` and `?` stand for any letters
    #[arg(long, value_name = "LAYERS", help_heading = "Numbers")]
    pub skip: Vec<String>,
    /// Keep fully connected layers in floats
    #[arg(long, help_heading = "Numbers")]
    pub convolutions_only: bool,
    /// Unlabelled images on which every layer is fitted to the float network's: a name of `dsconv data list`, a folder, a CIFAR
    /// .bin file; `synthetic`: pictures that are drawn, and then changed by the network towards its classes; `drawn`: pictures that
    /// are drawn, which takes less time; `none`: --rule alone decides. A camera's note how to turn a picture (EXIF) is not followed,
    /// as in torchvision
    #[arg(long, value_name = "DATA", default_value = "synthetic")]
    pub images: String,
    /// Use at most this many images, spread over the set [default: 128, and 32 synthetic or drawn ones]
    #[arg(long, value_name = "N", value_parser = above_0)]
    pub image_count: Option<usize>,
    /// Only say what would be done: the format and the size of every layer
    #[arg(long, conflicts_with = "html")]
    pub dry_run: bool,
    /// Also write a report to look at and to pass on: one page that holds all it shows, .html
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Where to write and how.
    #[command(flatten)]
    pub target: TargetArgs,
}

impl TryFrom<Quantize> for QuantizeOptions {
    type Error = Error;
    fn try_from(args: Quantize) -> Result<Self> {
        let block = args.activation_block.unwrap_or(args.block);
        let activation = ActivationFormat { bits: args.activation_bits, block, scale: args.activation_scale };
        let target = Target::from(args.target);
        // Where all inputs stay in floats, those of a layer do.
        let layers = args.layer.into_iter().map(|rule| match args.weights_only {
            true => Rule { activation: None, ..rule },
            false => rule,
        });
        let skipped = args.skip.into_iter().map(|layers| Rule { layers, skip: Some(true), ..Rule::default() });
        let policy = Policy {
            bits: args.bits,
            block: args.block,
            rule: args.rule,
            scales: if target.is_two_level() { ScaleFormat::TwoLevel } else { ScaleFormat::Float },
            linear: !args.convolutions_only,
            activation: (!args.weights_only).then_some(activation),
            image_bits: args.image_bits,
            image_sum: args.image_sum,
            winograd: args.winograd,
            rules: layers.chain(skipped).collect(),
        };
        let images = fit_images(args.images, args.image_count)?;
        let (rule_file, keep_worst) = (args.rule_file, args.keep_worst);
        let html = Html { path: args.html, force: target.force };
        Ok(Self {
            model: args.model.into(),
            policy,
            rule_file,
            keep_worst,
            images,
            dry_run: args.dry_run,
            html,
            target,
        })
    }
}

/// Returns what `--images` and `--image-count` mean.
///
/// # Errors
/// There is a count of no images.
pub fn fit_images(images: String, count: Option<usize>) -> Result<FitImages> {
    let or = |default| count.unwrap_or(default);
    match images.as_str() {
        "none" if count.is_some() => Err(Error::usage("--image-count has no effect with `--images none`")),
        "none" => Ok(FitImages::None),
        "drawn" => Ok(FitImages::Drawn(or(FitImages::MADE))),
        "synthetic" => Ok(FitImages::Synthetic(or(FitImages::MADE))),
        _ => Ok(FitImages::Given(GivenImages::Named(images), or(FitImages::GIVEN))),
    }
}

/// What formats cost on a network: see experiments/fit.
const FORMATS: &str = "\
Formats on ResNet-56 for CIFAR-10 (82.9 % in FP32), fitted on 32 drawn pictures, and on 128 images:
  --bits 8 --activation-bits 8    3.6 times smaller    82.8 %    82.7 %
  --bits 4 --activation-bits 8    6.5 times smaller    82.7 %    82.7 %
  --bits 4 --activation-bits 4    6.5 times smaller    82.7 %    82.6 %   (the default)
  --winograd                      6.7 times smaller    83.3 %    82.9 %   (faster on x86)
  --bits 3 --activation-bits 3    8.1 times smaller    82.4 %    83.0 %
  --bits 2 --activation-bits 4   10.9 times smaller    80.2 %    82.1 %
On your own network: `dsconv benchmark`";

/// Reads `LAYERS=BITS`, for weights and inputs, or `LAYERS=float`.
fn layer(text: &str) -> std::result::Result<Rule, String> {
    let wanted = || "a pattern of layers and their bits, as conv1=8, or conv1=float".to_owned();
    // A name may hold `=`, bits do not.
    let (layers, said) = text.rsplit_once('=').filter(|(layers, _)| !layers.is_empty()).ok_or_else(wanted)?;
    let rule = Rule { layers: layers.to_owned(), ..Rule::default() };
    if said == "float" {
        return Ok(Rule { skip: Some(true), ..rule });
    }
    let bits = bits(said).map_err(|why| format!("`{said}`: bits are {why}, or `float`"))?;
    let activation = ActivationRule::Change(ActivationChange { bits: Some(bits), ..ActivationChange::default() });
    Ok(Rule { bits: Some(bits), activation: Some(activation), skip: Some(false), ..rule })
}
