use clap::ValueEnum;

use super::{ModelArgs, Target};

/// `dsconv export`.
#[derive(Debug, clap::Args)]
pub struct Export {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The file format
    #[arg(long, value_name = "FORMAT", default_value = "safetensors")]
    pub format: Format,
    /// Where to write and how.
    #[command(flatten)]
    pub target: Target,
}

/// File formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Packed codes, block scales and the graph, in one safetensors file
    Safetensors,
}
