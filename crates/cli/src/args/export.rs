use clap::ValueEnum;
use zoo::Stem;

use super::{ModelArgs, Target};

/// `dsconv export`.
#[derive(Debug, clap::Args)]
pub struct Export {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// How the network differs from the zoo's.
    #[command(flatten)]
    pub network: Network,
    /// The file format
    #[arg(long, value_name = "FORMAT", default_value = "safetensors")]
    pub format: Format,
    /// Where to write and how.
    #[command(flatten)]
    pub target: Target,
}

/// How a network with `--weights` differs from the zoo's: written once, the file is a MODEL like any other.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "A network that is not quite the zoo's, with --weights")]
pub struct Network {
    /// Side of the square input image
    #[arg(long, value_name = "N", requires = "weights")]
    pub input: Option<usize>,
    /// Multiplier of all channel counts
    #[arg(long, value_name = "X", requires = "weights")]
    pub width: Option<f64>,
    /// First layers: imagenet or small (a 3x3 kernel and less subsampling, for small images)
    #[arg(long, value_name = "STEM", requires = "weights", value_parser = stem)]
    pub stem: Option<Stem>,
}

fn stem(text: &str) -> Result<Stem, String> {
    match text {
        "imagenet" => Ok(Stem::ImageNet),
        "small" => Ok(Stem::Small),
        _ => Err("`imagenet` or `small`".to_owned()),
    }
}

/// File formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Packed codes, block scales and the graph, in one safetensors file
    Safetensors,
}
