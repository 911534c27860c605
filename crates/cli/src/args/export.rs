use clap::ValueEnum;
use distill::Calibration;
use zoo::Stem;

use crate::commands::export::{ExportFormat, ExportOptions, OnnxOptions, OnnxProfile};
use crate::models::Changes;

use super::model::ModelArgs;
use super::parse::above_0;
use super::target::TargetArgs;

const NETWORK: &str = "A checkpoint's network that is not quite the zoo's";
const ONNX: &str = "ONNX files";

/// The arguments of `dsconv export`.
#[derive(Debug, clap::Args)]
pub struct Export {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// How the network differs from the zoo's.
    #[command(flatten)]
    pub network: NetworkArgs,
    /// The file format [default: as the ending of --output says, else safetensors]
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<ExportFormat>,
    /// What an ONNX file holds.
    #[command(flatten)]
    pub onnx: OnnxArgs,
    /// Only say what would be written: the format and the size of every layer, and of the file
    #[arg(long)]
    pub dry_run: bool,
    /// Where to write and how.
    #[command(flatten)]
    pub target: TargetArgs,
}

/// How the network of a checkpoint differs from the zoo's: written once, the file is a MODEL like any other.
#[derive(Debug, clap::Args)]
pub struct NetworkArgs {
    /// Multiplier of all channel counts
    #[arg(long, value_name = "X", help_heading = NETWORK)]
    pub width: Option<f64>,
    /// First layers: imagenet, small (a 3x3 kernel and less subsampling, for small images) or cifar (ResNet: 3x3, stride 1)
    #[arg(long, value_name = "STEM", help_heading = NETWORK, value_parser = stem)]
    pub stem: Option<Stem>,
}

fn stem(text: &str) -> Result<Stem, String> {
    match text {
        "imagenet" => Ok(Stem::ImageNet),
        "small" => Ok(Stem::Small),
        "cifar" => Ok(Stem::Cifar),
        _ => Err("`imagenet`, `small` or `cifar`".to_owned()),
    }
}

/// What an ONNX file holds.
#[derive(Debug, clap::Args)]
pub struct OnnxArgs {
    /// int4: codes with block scales; int8: 8-bit weights and activations; fp32: floats [default: int4, fp32 for a float model]
    #[arg(long, value_name = "int4|int8|fp32", hide_possible_values = true, help_heading = ONNX)]
    pub profile: Option<OnnxProfile>,
    /// Inputs of layers with the profile int4: on rounds them as the model does, off leaves them in floats [default: on]
    #[arg(long, value_name = "on|off", hide_possible_values = true, help_heading = ONNX)]
    pub activations: Option<Switch>,
    /// Unlabelled images that the ranges of the profile int8 are found on: as for `dsconv eval --data`
    #[arg(long, value_name = "DATA", help_heading = ONNX)]
    pub calibrate: Option<String>,
    /// How the ranges of the profile int8 are found: mse or percentile [default: mse]
    #[arg(long, value_name = "RULE", value_parser = calibration, help_heading = ONNX)]
    pub calibration: Option<Calibration>,
    /// Calibrate on at most this many images, spread over the set [default: 256]
    #[arg(long, value_name = "N", value_parser = above_0, help_heading = ONNX)]
    pub calibration_images: Option<usize>,
    /// With the profile int8, INT8 activations with zero point 0, as TensorRT wants them, in place of UINT8
    #[arg(long, help_heading = ONNX)]
    pub symmetric: bool,
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// On
    On,
    /// Off
    Off,
}

impl From<Export> for ExportOptions {
    fn from(Export { model, network, format, onnx, dry_run, target }: Export) -> Self {
        let NetworkArgs { width, stem } = network;
        let changes = Changes { width, stem };
        Self { model: model.into(), changes, format, onnx: onnx.into(), dry_run, target: target.into() }
    }
}

impl From<OnnxArgs> for OnnxOptions {
    fn from(args: OnnxArgs) -> Self {
        let OnnxArgs { profile, activations, calibrate, calibration, calibration_images, symmetric } = args;
        let activations = activations.map(|switch| switch == Switch::On);
        Self { profile, activations, calibrate, calibration, calibration_images, symmetric }
    }
}

fn calibration(text: &str) -> Result<Calibration, String> {
    text.parse()
}
